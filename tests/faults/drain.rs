//! Graceful shutdown: open connections are notified, new requests are refused, and for clients a restart is a mere pause.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::ledger::Load;
use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{self, Items, STREAMS};

const HELD: [&str; 3] = ["longpoll?wait=60&", "jsonp?callback=f&wait=60&", "iframe?once=1&wait=60&"];

fn check_bye(item: &Value) {
    assert_eq!((&item["event"], &item["data"]["reason"]), (&json!("$bye"), &json!("shutdown")), "{item}");
    let retry = item["data"]["retry"].as_u64();
    assert!(retry.is_some_and(|retry| retry < 60_000), "{item}");
}

/// Waits for the end of a stream; returns its time.
async fn stream_end(transport: &'static str, mut items: Items) -> Instant {
    check_bye(&items.news().await);
    let end = Instant::now();
    let rest = super::within("the end of the stream", items.next()).await;
    assert!(matches!(rest, Ok(None)), "{transport} ends properly: {rest:?}");
    assert_eq!(items.close_code, (transport == "ws").then_some(1001));
    super::within("the connection's end", items.connection.closed()).await;
    end
}

async fn held_end(kind: &str, mut connection: Connection) -> Instant {
    let answer = super::within(kind, connection.answer()).await.expect("an answer");
    let end = Instant::now();
    assert_eq!(answer.status(), 200, "{answer:?}");
    let text = answer.text();
    let start = text.find("{\"cursor\"").unwrap_or_else(|| panic!("no batch in {text}"));
    let mut values = serde_json::Deserializer::from_str(&text[start..]).into_iter::<Value>();
    let batch = values.next().expect("a batch").expect("JSON");
    assert_eq!(batch["events"].as_array().map(Vec::len), Some(1), "{batch}");
    check_bye(&batch["events"][0]);
    end
}

/// New requests are refused, in a form that their sender can read.
async fn check_refusals(address: &str, kept: &mut Connection) {
    for path in ["/v1/poll?topic=a", "/v1/longpoll?topic=a", "/v1/sse?topic=a", "/v1/stream?topic=a", "/v1/info"] {
        let answer = raw::get(address, path).await.expect("an answer");
        assert_eq!((answer.status(), answer.code().as_str()), (503, "shutting_down"), "{path}");
        let after = answer.head.header("retry-after").and_then(|after| after.parse::<u64>().ok());
        assert!(after.is_some(), "{path}: {:?}", answer.head);
    }
    let answer = raw::post(address, &json!({ "topic": "a", "data": 1 })).await.expect("an answer");
    assert_eq!(answer.status(), 503, "publishing");
    kept.get("/v1/poll?topic=a").await.expect("sent");
    assert_eq!(kept.answer().await.expect("an answer").status(), 503, "on a keep-alive connection");
    let mut socket = Connection::open(address).await.expect("connected");
    socket.upgrade("/v1/ws?topic=a").await.expect("sent");
    assert_eq!(socket.answer().await.expect("an answer").status(), 503, "WebSocket");
    for (path, status) in [("/healthz", 200), ("/readyz", 503)] {
        assert_eq!(raw::get(address, path).await.expect("an answer").status(), status, "{path}");
    }
}

async fn every_stream_ends_with_bye(signal: Signal) {
    let mut server = Server::start(&["--drain", "4s"]);
    let address = server.address().to_owned();
    let mut kept = Connection::open(&address).await.expect("connected");
    kept.get("/v1/info").await.expect("sent");
    kept.answer().await.expect("an answer");
    let mut ends = Vec::new();
    for _ in 0..4 {
        for transport in STREAMS {
            let mut items = Items::open(&address, transport, "topic=a").await.expect("open");
            items.named("$hello").await;
            ends.push(tokio::spawn(stream_end(transport, items)));
        }
        for kind in HELD {
            let client = uuid::Uuid::new_v4();
            let mut connection = Connection::open(&address).await.expect("connected");
            connection.get(&format!("/v1/{kind}topic=a&client={client}")).await.expect("sent");
            super::until("the poll is held", async || {
                raw::get(&address, &format!("/v1/clients/{client}")).await.expect("an answer").status() == 200
            })
            .await;
            ends.push(tokio::spawn(held_end(kind, connection)));
        }
    }
    server.signal(signal);
    super::until("new work is refused", async || {
        raw::get(&address, "/v1/poll?topic=a").await.expect("an answer").status() == 503
    })
    .await;
    check_refusals(&address, &mut kept).await;
    let mut times = Vec::new();
    for end in ends {
        times.push(end.await.expect("a proper end"));
    }
    times.sort();
    let spread = times[times.len() - 1] - times[0];
    assert!(spread > Duration::from_millis(500), "all {} ended within {spread:?}", times.len());
    assert_eq!(super::end_of(&mut server).await.code(), Some(0));
}

#[tokio::test]
async fn sigterm_notifies_every_client() {
    every_stream_ends_with_bye(Signal::SIGTERM).await;
}

#[tokio::test]
async fn ctrl_c_notifies_every_client() {
    every_stream_ends_with_bye(Signal::SIGINT).await;
}

/// A publisher whose body is still coming is answered before its connection ends: how much of a stream of lines was stored, and
/// that nothing of any other body was.
#[tokio::test]
async fn a_publisher_in_the_middle_of_its_body_is_answered() {
    for through_app in [false, true] {
        let mut server = Server::start(if through_app { &["--through-app"] } else { &[] });
        let address = server.address().to_owned();
        let begin = async |kind: &str, body: &str| {
            let mut connection = Connection::open(&address).await.expect("connected");
            let head = format!("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n");
            let body = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n", body.len());
            connection.send(head + &body).await.expect("sent");
            connection
        };
        let event = json!({ "topic": "lines", "data": 1 }).to_string();
        let mut lines = begin("application/x-ndjson", &format!("{event}\n{event}\n{}", &event[..9])).await;
        let mut silent = begin("application/x-ndjson", "\n").await;
        let mut whole = begin("application/json", &event[..9]).await;
        super::until("the lines are stored", async || raw::history(&address, "lines").await.len() == 2).await;
        let cursor = raw::history(&address, "lines").await[1]["cursor"].clone();
        server.signal(Signal::SIGTERM);
        for (connection, accepted, cursor) in [
            (&mut lines, json!(2), cursor),
            (&mut silent, json!(0), Value::Null),
            (&mut whole, Value::Null, Value::Null),
        ] {
            let answer = super::within("an answer", connection.answer()).await.expect("an answer");
            assert_eq!((answer.status(), answer.code().as_str()), (503, "shutting_down"), "{answer:?}");
            assert!(answer.head.header("retry-after").is_some(), "{answer:?}");
            assert_eq!((&answer.json()["accepted"], &answer.json()["cursor"]), (&accepted, &cursor));
        }
        assert_eq!(super::end_of(&mut server).await.code(), Some(0));
    }
}

/// A stream of lines that is slowed down is answered, too, without what it still waits to store.
#[tokio::test]
async fn a_publisher_that_is_slowed_down_is_answered() {
    let mut server = Server::start(&["--publish-rate-per-address", "1", "--publish-burst", "2", "--log", "warn"]);
    let address = server.address().to_owned();
    let lines = (json!({ "topic": "lines", "data": 1 }).to_string() + "\n").repeat(100);
    let mut connection = Connection::open(&address).await.expect("connected");
    connection.post("/v1/events", "application/x-ndjson", lines.as_bytes()).await.expect("sent");
    super::until("it is slowed down", async || server.log().contains("too_fast")).await;
    server.signal(Signal::SIGTERM);
    let answer = super::within("an answer", connection.answer()).await.expect("an answer");
    assert_eq!((answer.status(), answer.code().as_str()), (503, "shutting_down"));
    let accepted = answer.json()["accepted"].as_u64().expect("a number");
    assert!((2..100).contains(&accepted), "{accepted}");
    assert_eq!(super::end_of(&mut server).await.code(), Some(0));
    let server = server.start_again();
    assert_eq!(raw::history(server.address(), "lines").await.len() as u64, accepted);
}

#[tokio::test]
async fn without_connections_it_is_prompt() {
    let mut server = Server::start(&["--drain", "1h"]);
    // An idle connection does not delay the shutdown.
    let mut idle = Connection::open(server.address()).await.expect("connected");
    idle.get("/v1/info").await.expect("sent");
    idle.answer().await.expect("an answer");
    server.signal(Signal::SIGTERM);
    assert_eq!(super::end_of(&mut server).await.code(), Some(0));
}

/// Once the greeting is printed, signals are handled.
#[tokio::test]
async fn it_can_be_stopped_as_soon_as_it_has_greeted() {
    for _ in 0..10 {
        let mut server = Server::start(&[]);
        server.signal(Signal::SIGTERM);
        assert_eq!(super::end_of(&mut server).await.code(), Some(0));
    }
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    for (first, second) in [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGINT)] {
        let mut server = Server::start(&["--drain", "1h"]);
        let address = server.address().to_owned();
        let mut streams = Vec::new();
        for _ in 0..5 {
            streams.push(Items::open(&address, "sse", "topic=a").await.expect("open"));
        }
        server.signal(first);
        super::until("the server drains", async || {
            raw::get(&address, "/v1/poll?topic=a").await.expect("an answer").status() == 503
        })
        .await;
        assert_eq!(server.ended(), None, "the server waits for its streams");
        server.signal(second);
        assert_eq!(super::end_of(&mut server).await.code(), Some(1));
    }
}

/// A stalled reader cannot receive its `$bye`, and delays the shutdown no longer than the drain time.
#[tokio::test]
async fn a_stalled_reader_does_not_hold_the_end_up() {
    let mut server = Server::start(&["--drain", "1s"]);
    let mut stalled = Vec::new();
    for transport in ["sse", "ws", "stream"] {
        let mut connection = Connection::narrow(server.address(), Some(4096)).await.expect("connected");
        Items::request(&mut connection, transport, "topic=a&cursor=earliest").await.expect("sent");
        stalled.push(connection);
    }
    for _ in 0..40 {
        server.publish(&json!({ "topic": "a", "data": "x".repeat(200_000) })).await;
    }
    server.signal(Signal::SIGTERM);
    assert_eq!(super::end_of(&mut server).await.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_is_a_pause() {
    let mut server = Server::start(&["--drain", "300ms"]);
    let load = Load::start(&server, &["sse", "ws", "longpoll", "stream", "iframe"]).await;
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGTERM] {
        let goal = load.acknowledged() + 150;
        super::until("publishing continues", async || load.acknowledged() >= goal).await;
        server.signal(signal);
        assert_eq!(super::end_of(&mut server).await.code(), Some(0));
        server = server.start_again();
    }
    let goal = load.acknowledged() + 150;
    super::until("publishing continues", async || load.acknowledged() >= goal).await;
    println!("restart: {} events", load.judge().await);
}
