//! Gap detection: trimmed events are always reported as a `$gap`, and no `$gap` is sent where no subscribed event was lost.

use serde_json::{Value, json};

use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{end_of_log, numbers, over, publish, publish_all};
use crate::support::http::Request;
use crate::support::until;
use crate::support::wire::{Item, epoch, moved, position};
use crate::support::{Server, on_nats};

over!(every:
    expired_events_are_a_gap,
    another_log_is_a_gap,
    ahead_of_the_log_is_a_gap,
    a_lost_log_is_a_gap,
);
over!(in a_running_stream_gets_a_gap: iframe Iframe, sse Sse, stream Stream, ws Ws);

/// Retention is ten events: of five on `old.a` (1 to 5), one on `both.a` (6), and ten on `new.a` (7 to 16), the last ten.
async fn trimmed(store: &str) -> (Server, String) {
    let server = Server::start(&["--max-events", "10", "--workers", "1", "--store", store]);
    let start = end_of_log(&server).await;
    publish_all(&server, "old.a", numbers(1..6)).await;
    publish(&server, "both.a", 6).await;
    publish_all(&server, "new.a", numbers(7..17)).await;
    until("the six oldest are trimmed", || async {
        let query = Query::topic(">").with("cursor", "earliest");
        let batch = Link::to(server.address(), Kind::Poll, &query).await.batch().await;
        batch.events[0].at() == 7
    })
    .await;
    (server, start)
}

fn check_gap(item: &Item, reason: &str, from: &str, to: &str) {
    assert_eq!(item.event, "$gap", "{item:?}");
    let data = item.value();
    assert_eq!((&data["reason"], &data["from"], &data["to"]), (&json!(reason), &json!(from), &json!(to)), "{item:?}");
    assert_eq!(item.cursor.as_deref(), Some(to), "the gap's cursor is its end");
}

async fn expired_events_are_a_gap(kind: Kind) {
    let store = if !on_nats() && matches!(kind, Kind::Poll | Kind::Ws | Kind::Sse) { "disk" } else { "memory" };
    let (server, start) = trimmed(store).await;
    let at = |position: u64| moved(&start, position);
    /// Patterns, a cursor, the patterns that lost something, the first event.
    type Case = (&'static [&'static str], u64, Option<&'static [&'static str]>, u64);
    let cases: [Case; 14] = [
        (&["old.a"], 0, Some(&["old.a"]), 17),
        (&["old.*"], 4, Some(&["old.*"]), 17),
        (&["old.>"], 5, None, 17),
        (&["both.a"], 5, Some(&["both.a"]), 17),
        (&["both.a"], 6, None, 17),
        (&["new.a"], 0, None, 7),
        (&["new.>"], 3, None, 7),
        (&["never.a"], 0, None, 17),
        (&["old.a", "new.a"], 1, Some(&["old.a"]), 7),
        (&["old.a", "both.a"], 5, Some(&["both.a"]), 17),
        (&["*.a"], 6, None, 7),
        (&[">"], 0, Some(&[">"]), 7),
        (&[">"], 5, Some(&[">"]), 7),
        (&[">"], 10, None, 11),
    ];
    let mut subscribers = Vec::new();
    for (patterns, cursor, lost, first) in cases {
        let mut subscriber = Subscriber::at(server.address(), kind, Query::topics(patterns), &at(cursor));
        // JetStream knows that events were trimmed, not on which topics.
        let lost = if on_nats() { (cursor < 6).then_some(patterns) } else { lost };
        if let Some(lost) = lost {
            let gap = subscriber.item().await;
            check_gap(&gap, "expired", &at(cursor), &at(6));
            if let Some(named) = gap.value().get("patterns") {
                let mut lost = lost.to_vec();
                lost.sort_unstable();
                assert_eq!(named, &json!(lost), "{patterns:?} from {cursor}");
            }
            if let Some(missed) = gap.value().get("missed") {
                assert!(patterns == [">"] && missed == &json!(6 - cursor), "{patterns:?} from {cursor}: {gap:?}");
            }
        }
        if first <= 16 {
            assert_eq!(subscriber.event().await.value(), first, "{patterns:?} from {cursor}");
        } else {
            subscribers.push((subscriber, patterns, cursor));
        }
    }
    // `earliest` starts at the oldest retained event: there is no gap.
    let mut earliest = Subscriber::at(server.address(), kind, Query::topic(">"), "earliest");
    assert_eq!(earliest.event().await.value(), 7);
    // Where no matching event is left, the next one is delivered.
    publish_all(&server, "never.a", [json!(17)]).await;
    publish_all(&server, "old.a", [json!(17)]).await;
    publish_all(&server, "both.a", [json!(17)]).await;
    for (mut subscriber, patterns, cursor) in subscribers {
        let mut item = subscriber.item().await;
        // Those three have trimmed three more, and JetStream reports a gap to clients that were not connected meanwhile.
        if on_nats() && item.event == "$gap" {
            check_gap(&item, "expired", &at(6), &at(9));
            item = subscriber.item().await;
        }
        assert_eq!(item.value(), 17, "{patterns:?} from {cursor}");
    }
}

async fn another_log_is_a_gap(kind: Kind) {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    publish_all(&server, "log", numbers(0..3)).await;
    let end = end_of_log(&server).await;
    for presented in ["another-0", "another-2", "0-18446744073709551615", "zzzzzzzzzzzzzzzzzzzzzzzzzzzzzzzz-1"] {
        let mut subscriber = Subscriber::at(server.address(), kind, Query::topic("log"), presented);
        check_gap(&subscriber.item().await, "epoch", presented, &moved(&end, 0));
        assert_eq!(subscriber.values(3).await, numbers(0..3), "all events from the beginning of this epoch");
    }
    // A gap completes a held request, even without an event.
    if !kind.streams() {
        let query = Query::topic("other").with("cursor", "another-7");
        let batch = Link::to(server.address(), kind, &query).await.batch().await;
        assert_eq!(batch.events.len(), 1);
        check_gap(&batch.events[0], "epoch", "another-7", &moved(&end, 0));
    }
}

async fn ahead_of_the_log_is_a_gap(kind: Kind) {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    publish_all(&server, "log", numbers(0..3)).await;
    let end = end_of_log(&server).await;
    for ahead in [4, u64::MAX] {
        let presented = moved(&end, ahead);
        let mut subscriber = Subscriber::at(server.address(), kind, Query::topic("log"), &presented);
        check_gap(&subscriber.item().await, "ahead", &presented, &end);
        assert_eq!(subscriber.cursor.as_ref(), Some(&end));
        if !kind.streams() {
            let query = Query::topic("log").with("cursor", &presented);
            let batch = Link::to(server.address(), kind, &query).await.batch().await;
            assert_eq!((batch.events.len(), batch.cursor.as_ref()), (1, Some(&end)));
        }
    }
    // A cursor at the end is not ahead of the log.
    let mut at_end = Subscriber::at(server.address(), kind, Query::topic("log"), &end);
    publish(&server, "log", 3).await;
    assert_eq!(at_end.event().await.value(), 3);
}

/// A memory store loses its events on restart; a reconnecting client gets a gap, and all events of the new log.
async fn a_lost_log_is_a_gap(kind: Kind) {
    let mut server = Server::start_at("127.0.0.2:0", &["--workers", "1", "--store", "memory", "--drain", "0s"]);
    let mut subscriber = Subscriber::start(server.address(), kind, Query::topic("log")).await;
    publish(&server, "log", "lost").await;
    assert_eq!(subscriber.values(1).await, ["lost"]);
    let before = subscriber.cursor.clone().expect("a cursor");
    subscriber.cut();
    server = server.kill_and_lose_log();
    publish(&server, "log", "new").await;
    let gap = subscriber.item().await;
    let began = moved(&end_of_log(&server).await, 0);
    assert_ne!(epoch(&before), epoch(&began));
    check_gap(&gap, "epoch", &before, &began);
    assert_eq!(subscriber.values(1).await, ["new"]);
}

/// A connected subscriber receives each event before it is trimmed, however small the retention.
async fn a_running_stream_gets_a_gap(kind: Kind) {
    let server = Server::start(&["--max-events", "5", "--workers", "1"]);
    let mut subscriber = Subscriber::start(server.address(), kind, Query::topic("log")).await;
    for n in 0..30 {
        publish(&server, "log", n).await;
        if n % 10 == 9 {
            assert_eq!(subscriber.values(10).await, numbers(n - 9..n + 1), "events that were sent are not lost");
        }
    }
}

/// `If-None-Match` does not hide a gap.
#[tokio::test]
async fn a_gap_is_never_304() {
    let (server, start) = trimmed("memory").await;
    for (cursor, is_gap) in
        [(moved(&start, 0), true), (moved(&start, 99), true), ("other-6".into(), true), (moved(&start, 6), false)]
    {
        let query = Query::topic("old.a").with("cursor", &cursor);
        let request = query.request(Kind::Poll).header("If-None-Match", format!("\"{cursor}\""));
        let mut answer = request.send(server.address()).await;
        if is_gap {
            let body = answer.json().await;
            assert_eq!((answer.status, &body["events"][0]["event"]), (200, &json!("$gap")), "{cursor}");
        } else {
            assert_eq!(answer.status, 304, "{cursor}");
        }
    }
}

/// A restored backup is another log, which continues at the position of the copy: the gap has this position.
#[tokio::test]
async fn a_restored_log_goes_on_where_it_was_copied() {
    let mut server = Server::start_at("127.0.0.2:0", &["--workers", "1", "--store", "disk"]);
    publish_all(&server, "log", numbers(0..3)).await;
    let copied = end_of_log(&server).await;
    let copy = server.directory().join("copy.db");
    let backup = |server: &Server| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_switchback"));
        command.arg("backup").arg(&copy).arg("--data").arg(server.data()).output().expect("the backup command runs")
    };
    let output = backup(&server);
    assert!(output.status.success(), "{output:?}");
    publish(&server, "log", "not in the copy").await;
    server.signal(nix::sys::signal::Signal::SIGTERM);
    assert!(server.wait().success());
    // The copy is put into an empty directory.
    std::fs::remove_dir_all(server.data()).expect("the old log is removed");
    std::fs::create_dir(server.data()).expect("an empty directory");
    std::fs::copy(&copy, server.data().join("events.db")).expect("the copy is put in place");
    let restored = server.stopped_and_restarted();
    let now = end_of_log(&restored).await;
    assert_ne!(epoch(&now), epoch(&copied), "a restored log has another epoch");
    assert_eq!(position(&now), position(&copied));
    let mut subscriber = Subscriber::at(restored.address(), Kind::Stream, Query::topic("log"), &moved(&copied, 4));
    check_gap(&subscriber.item().await, "epoch", &moved(&copied, 4), &moved(&now, 3));
    publish(&restored, "log", "after").await;
    assert_eq!(subscriber.values(1).await, ["after"]);
    let info: Value = Request::get("/v1/info").send(restored.address()).await.json().await;
    assert_eq!(info["epoch"], epoch(&now));
}
