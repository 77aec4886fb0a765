//! Events that rules of retention or an administrator have removed from the middle of the log: told at their place.

use serde_json::{Value, json};

use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{end_of_log, over, publish};
use crate::support::http::Request;
use crate::support::until;
use crate::support::wire::{Item, moved};
use crate::support::{Server, on_nats};

over!(every:
    removed_events_are_told_at_their_place,
    an_erased_topic_is_told_and_never_sent,
);

fn flags(kind: Kind) -> [&'static str; 8] {
    // A log in NATS refuses rules and erasing.
    let store = if on_nats() || matches!(kind, Kind::Poll | Kind::Ws | Kind::Sse) { "disk" } else { "memory" };
    // Readers in the middle of the log turn to the store.
    ["--keep", "few.*=2 events", "--tail-events", "1", "--workers", "1", "--store", store]
}

async fn expect_gap(subscriber: &mut Subscriber, reason: &str, from: &str, to: &str) {
    let item: Item = subscriber.item().await;
    assert_eq!(item.event, "$gap", "{item:?}");
    let data = item.value();
    assert_eq!((&data["reason"], &data["from"], &data["to"]), (&json!(reason), &json!(from), &json!(to)), "{item:?}");
    assert_eq!(item.cursor.as_deref(), Some(to), "the gap's cursor is its end");
    assert!(data.get("missed").is_none(), "what lies between is not all that is missed");
}

/// One step of what a subscriber receives.
enum Next {
    Event(u64),
    Gap(&'static str, u64, u64),
}
use Next::{Event, Gap};

async fn expect(server: &Server, kind: Kind, start: &str, (patterns, cursor): (&[&str], u64), expected: &[Next]) {
    let mut subscriber = Subscriber::at(server.address(), kind, Query::topics(patterns), &moved(start, cursor));
    for next in expected {
        match next {
            Event(value) => assert_eq!(subscriber.event().await.value(), *value, "{patterns:?} from {cursor}"),
            Gap(reason, from, to) => {
                expect_gap(&mut subscriber, reason, &moved(start, *from), &moved(start, *to)).await
            }
        }
    }
}

/// Of the events 1 to 7 the first two on `few.a`, 1 and 3, are removed.
async fn with_holes(kind: Kind) -> (Server, String) {
    let server = Server::start(&flags(kind));
    let start = end_of_log(&server).await;
    for (number, topic) in (1..).zip(["few.a", "other", "few.a", "few.b", "few.a", "few.a", "other"]) {
        publish(&server, topic, number).await;
    }
    until("the rule is applied", || async {
        let query = Query::topic("few.a").with("cursor", &start);
        let batch = Link::to(server.address(), Kind::Poll, &query).await.batch().await;
        batch.events[0].event == "$gap" && batch.events[0].value()["to"] == json!(moved(&start, 3))
    })
    .await;
    (server, start)
}

/// Patterns with the event after which they are read, and what comes.
type Case<'c> = ((&'c [&'c str], u64), &'c [Next]);

async fn removed_events_are_told_at_their_place(kind: Kind) {
    let (server, start) = with_holes(kind).await;
    let cases: [Case<'_>; 5] = [
        ((&[">"], 0), &[Event(2), Gap("expired", 2, 3), Event(4), Event(5), Event(6), Event(7)]),
        ((&["few.*"], 0), &[Gap("expired", 0, 3), Event(4), Event(5), Event(6)]),
        ((&["few.a"], 1), &[Gap("expired", 1, 3), Event(5), Event(6)]),
        ((&["few.a"], 3), &[Event(5), Event(6)]),
        ((&["few.b", "other"], 0), &[Event(2), Event(4), Event(7)]),
    ];
    for (subscription, expected) in cases {
        expect(&server, kind, &start, subscription, expected).await;
    }
    if kind.streams() {
        // A beginning is told of nothing that was removed before.
        let mut earliest = Subscriber::at(server.address(), kind, Query::topic(">"), "earliest");
        assert_eq!(earliest.values(5).await, [2, 4, 5, 6, 7].map(Value::from));
    }
}

async fn an_erased_topic_is_told_and_never_sent(kind: Kind) {
    let (server, start) = with_holes(kind).await;
    let mut answer = Request::new("DELETE", "/v1/topics/few.a").send(server.address()).await;
    assert_eq!(answer.status, 200);
    let expected = json!({ "topic": "few.a", "erased": 2, "cursor": moved(&start, 7) });
    assert_eq!(answer.json().await, expected);
    publish(&server, "few.a", 8).await;
    let cases: [Case<'_>; 4] = [
        ((&["few.a"], 0), &[Gap("erased", 0, 6), Event(8)]),
        ((&[">"], 3), &[Event(4), Gap("erased", 5, 6), Event(7), Event(8)]),
        ((&["few.a"], 6), &[Event(8)]),
        ((&["few.b", "other"], 0), &[Event(2), Event(4), Event(7)]),
    ];
    for (subscription, expected) in cases {
        expect(&server, kind, &start, subscription, expected).await;
    }
}

#[tokio::test]
async fn erasing_needs_a_plain_topic() {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    for (path, code) in [("/v1/topics/a.*", "bad_topic"), ("/v1/topics/a..b", "bad_topic"), ("/v1/topics", "not_found")]
    {
        let mut answer = Request::new("DELETE", path).send(server.address()).await;
        assert_eq!(answer.json().await["error"]["code"], code, "{path}");
    }
    let mut answer = Request::new("DELETE", "/v1/topics/never").send(server.address()).await;
    match on_nats() {
        true => {
            assert_eq!(answer.status, 501);
            assert_eq!(answer.json().await["error"]["code"], "cannot_erase");
        }
        false => assert_eq!(answer.json().await["erased"], 0),
    }
}
