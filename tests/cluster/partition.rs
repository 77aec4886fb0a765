//! Network partition: a NATS server is cut off from its peers while it still acts as leader. Nodes must not trust its stale
//! state, and a node that knows another server switches to that one.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::MACHINE;
use super::gaps::next_item;
use super::nodes::{end_of_log, stream_of};
use crate::support::Server;
use crate::support::client::{Failure, Kind, Link, Query, Subscriber};
use crate::support::http::Request;
use crate::support::nats::Nats;
use crate::support::wire::moved;

/// A cluster, a node whose only NATS server is the leader of the log, and a node at the other servers.
struct Split {
    nats: Nats,
    leader: usize,
    /// The node at the leader.
    near: Server,
    /// The node at the other servers.
    far: Server,
}

impl Split {
    /// Whether the node at the leader learns of the other servers.
    fn prepare(advertised: bool) -> Self {
        let nats = Nats::linked(advertised);
        let addresses = nats.addresses();
        let start = |addresses: &[String]| {
            let url = format!("nats://{}", addresses.join(","));
            Server::start(&["--store", &url, "--replicas", "3", "--workers", "1", "--heartbeat", "1s"])
        };
        // This node creates the log, so that there is a leader.
        drop(start(&addresses));
        let leader = nats.leader_of(&stream_of(&nats)).expect("a log has a leader");
        let mut others = addresses.clone();
        let near = start(&[others.remove(leader)]);
        let far = start(&others);
        Self { nats, leader, near, far }
    }
}

/// Publishes by a node until the event is acknowledged; the id makes retries safe.
async fn published(node: &Server, number: u64) -> String {
    let body = json!({ "topic": "log", "data": number, "id": number.to_string() }).to_string();
    let mut cursor = None;
    super::until("the event is published", async || {
        let answer = Request::post("/v1/events", "application/json", body.clone()).try_send(node.address()).await;
        let Ok(mut answer) = answer else { return false };
        cursor = answer.json().await["cursor"].as_str().map(str::to_owned);
        cursor.is_some()
    })
    .await;
    cursor.expect("a cursor")
}

async fn status_of(node: &Server, path: &str) -> u16 {
    Request::get(path).send(node.address()).await.status
}

/// A node's response to a poll from a cursor: the status and the items.
async fn polled(node: &Server, kind: Kind, cursor: &str) -> (u16, Vec<Value>) {
    let query = Query::topic("log").with("cursor", cursor).with("wait", 1);
    let mut answer = query.request(kind).send(node.address()).await;
    let status = answer.status;
    (status, answer.json().await["events"].as_array().cloned().unwrap_or_default())
}

/// Asserts that a stream from a cursor is refused, or ends, without any event or gap.
async fn refused(node: &Server, kind: Kind, cursor: &str) {
    let opened = Link::open(node.address(), kind, &Query::topic("log").with("cursor", cursor)).await;
    match opened {
        Ok(mut link) => {
            let item = link.item().await;
            assert!(matches!(&*item.event, "$error" | "$bye" | "$beat"), "{kind} at {cursor}: {item:?}");
        }
        Err(Failure::Refused(answer)) => assert_eq!(answer.status, 503, "{kind} at {cursor}"),
        Err(Failure::Broken(error)) => panic!("{kind} at {cursor}: {error}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_cut_from_its_peers_is_not_believed() {
    let _alone = MACHINE.lock().await;
    let Split { nats, leader, near, far } = tokio::task::block_in_place(|| Split::prepare(false));
    let client = uuid::Uuid::new_v4().to_string();
    let named = Query::topic("log").with("client", &client);
    let start = end_of_log(far.address()).await;
    drop(Subscriber::start(far.address(), Kind::Sse, named).await);
    let base = published(&far, 0).await;
    super::until("the node at the leader has the event", async || polled(&near, Kind::Poll, &start).await.1.len() == 1)
        .await;

    nats.cut(leader);
    // From here on the server acts as the leader of a log of one event.
    super::until("the node at the cut server is not ready", async || status_of(&near, "/readyz").await == 503).await;
    assert_eq!(status_of(&near, "/healthz").await, 200, "the node is alive: a restart would not help");
    let mut cursor = base.clone();
    for number in 1..30 {
        cursor = published(&far, number).await;
        if number % 10 == 9 {
            // A client from the other side of the partition, with a cursor that it got there.
            let polls = [Kind::Poll, Kind::Longpoll].map(|kind| polled(&near, kind, &cursor));
            for (status, items) in join_all(polls).await {
                assert!(matches!(status, 200 | 503) && items.is_empty(), "at {cursor}: {status} {items:?}");
            }
        }
    }
    super::until("the node at the others is ready", async || status_of(&far, "/readyz").await == 200).await;
    // A cursor ahead of the log, and a cursor of an unknown log, cannot be judged either.
    let ahead = moved(&cursor, 1_000_000);
    for strange in [&*ahead, "another-5"] {
        let (status, items) = polled(&near, Kind::Poll, strange).await;
        assert_eq!((status, items), (503, Vec::new()), "{strange}");
        let streams = Kind::ALL.into_iter().filter(|kind| kind.streams());
        join_all(streams.map(|kind| refused(&near, kind, strange))).await;
    }
    // The state of a remembered client is not available there either.
    let by_name = Query::default().with("client", &client).request(Kind::Poll);
    assert_eq!(by_name.send(near.address()).await.status, 503);

    nats.heal(leader);
    super::until("the node is ready again", async || status_of(&near, "/readyz").await == 200).await;
    for kind in Kind::ALL {
        let mut subscriber = Subscriber::at(near.address(), kind, Query::topic("log"), &base);
        assert_eq!(subscriber.values(29).await, (1..30).map(Value::from).collect::<Vec<_>>(), "{kind}");
    }
    // Once the state is known again, the gaps are reported.
    let (_, items) = polled(&near, Kind::Poll, &ahead).await;
    assert_eq!(items.first().map(|item| &item["data"]["reason"]), Some(&json!("ahead")), "{items:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_cut_from_its_peers_is_left() {
    let _alone = MACHINE.lock().await;
    let Split { nats, leader, near, far } = tokio::task::block_in_place(|| Split::prepare(true));
    let mut readers = Vec::new();
    for kind in Kind::ALL {
        let mut subscriber = Subscriber::start(near.address(), kind, Query::topic("log")).await;
        readers.push(tokio::spawn(async move {
            for number in 0..30 {
                let item = next_item(&mut subscriber).await;
                assert!(!item.is_control() && item.value() == number, "{kind} at {number}: {item:?}");
            }
        }));
    }
    published(&far, 0).await;
    nats.cut(leader);
    super::until("the node at the cut server is not ready", async || status_of(&near, "/readyz").await == 503).await;
    for number in 1..30 {
        published(&far, number).await;
    }
    for reader in readers {
        reader.await.expect("a reader hears all of it");
    }
    // The server is still cut off; the node is not.
    super::until("the node is ready", async || status_of(&near, "/readyz").await == 200).await;
    published(&near, 30).await;
}
