//! A node that has lost its connection to NATS: publishers get an error, `/readyz` reports not ready, subscribers stay connected,
//! and catch up without a gap.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::gaps::next_item;
use super::nodes::end_of_log;
use crate::support::Server;
use crate::support::client::{Kind, Query, Subscriber};
use crate::support::http::Request;
use crate::support::nats::Nats;
use crate::support::nats::way::{State, Way};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_cut() {
    lost(State::Cut).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_is_mute() {
    lost(State::Mute).await;
}

async fn lost(how: State) {
    let nats = tokio::task::block_in_place(Nats::single);
    let way = Way::to(nats.addresses().remove(0)).await;
    let start = |address: &str| {
        let store = format!("nats://{address}");
        tokio::task::block_in_place(|| Server::start(&["--store", &store, "--heartbeat", "500ms", "--workers", "1"]))
    };
    let (lonely, other) = (start(way.address()), start(&nats.addresses()[0]));
    assert_eq!(publish(&lonely, 0).await.0, 201);

    let mut listeners = Vec::new();
    for kind in Kind::ALL {
        let subscriber = Subscriber::start(lonely.address(), kind, Query::topic("log")).await;
        let beats = Arc::new(AtomicUsize::new(0));
        listeners.push((kind, beats.clone(), tokio::spawn(listen(subscriber, beats))));
    }
    let start = end_of_log(lonely.address()).await;
    way.set(how);

    // Publishers get a retry delay that is short enough for a page.
    super::until("the node reports that it has lost NATS", async || publish(&lonely, 1000).await.0 == 503).await;
    let (status, retry, error) = publish(&lonely, 1001).await;
    assert_eq!((status, retry), (503, true), "{error}");
    assert!(!error.to_string().contains(way.address()), "the error exposes the address of NATS: {error}");
    super::until("the node is not ready", async || status_of(&lonely, "/readyz").await == 503).await;
    assert_eq!(status_of(&lonely, "/healthz").await, 200, "the node is alive: a restart would not help");
    assert_eq!(status_of(&other, "/readyz").await, 200);
    // Streams stay open, and get heartbeats.
    for (kind, beats, _) in listeners.iter().filter(|(kind, ..)| kind.streams()) {
        let before = beats.load(Ordering::Relaxed);
        super::until(&format!("{kind} beats"), async || beats.load(Ordering::Relaxed) > before + 3).await;
    }
    // A poll at the end of the log completes, or gets a retry delay.
    for kind in [Kind::Poll, Kind::Longpoll] {
        let poll = Query::topic("log").with("cursor", &start).with("wait", 1).request(kind);
        let answer = poll.send(lonely.address()).await;
        assert!(answer.status == 200 || answer.header("retry-after").is_some(), "{kind}: {answer:?}");
    }
    // The other nodes continue.
    for n in 1..50 {
        assert_eq!(publish(&other, n).await.0, 201);
    }

    way.set(State::Whole);
    super::until("the node is ready again", async || status_of(&lonely, "/readyz").await == 200).await;
    super::until("the node publishes again", async || publish(&lonely, 2000).await.0 == 201).await;
    for (kind, _, listener) in listeners {
        let received = tokio::time::timeout(super::DEADLINE, listener).await;
        let mut received =
            received.unwrap_or_else(|_| panic!("{kind} does not catch up")).expect("the subscriber does not panic");
        // Refused events may be stored or not, at most once; acknowledged events are stored, in order.
        let mut refused: Vec<u64> = received.iter().copied().filter(|number| (1000..2000).contains(number)).collect();
        refused.sort_unstable();
        assert!(refused.windows(2).all(|two| two[0] < two[1]), "{kind}: twice: {refused:?}");
        received.retain(|number| !(1000..2000).contains(number));
        assert_eq!(received, (1..50).chain([2000]).collect::<Vec<_>>(), "{kind}");
    }
}

/// Reads all events up to the last, and counts heartbeats. A stream must not be reconnected.
async fn listen(mut subscriber: Subscriber, beats: Arc<AtomicUsize>) -> Vec<u64> {
    let kind = subscriber.kind;
    let mut received = Vec::new();
    while received.last() != Some(&2000) {
        let item = match subscriber.link.as_mut().filter(|_| kind.streams()) {
            Some(link) => link.item().await,
            None => next_item(&mut subscriber).await,
        };
        if item.event == "$beat" {
            beats.fetch_add(1, Ordering::Relaxed);
            continue;
        }
        assert!(!item.is_control(), "{kind}: {item:?}");
        received.push(item.value().as_u64().expect("a number"));
    }
    received
}

/// The status, whether there is a retry delay, and the body.
async fn publish(server: &Server, number: u64) -> (u16, bool, Value) {
    // Each is retried many times, and stored once.
    let event = json!({ "topic": "log", "data": number, "id": number.to_string() });
    let request = Request::post("/v1/events", "application/json", event.to_string());
    let mut answer = request.send(server.address()).await;
    (answer.status, answer.header("retry-after").is_some(), answer.json().await)
}

async fn status_of(server: &Server, path: &str) -> u16 {
    Request::get(path).send(server.address()).await.status
}
