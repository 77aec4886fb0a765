//! Gaps in a cluster: events lost by a deleted stream or by retention are reported on every node.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;

use super::MACHINE;
use super::nodes::{LONG_HEARTBEATS, Nodes, end_of_log, stream_of};
use crate::support::client::{Failure, Kind, Query, Subscriber};
use crate::support::http::Request;
use crate::support::nats::Nats;
use crate::support::wire::{Item, epoch, moved, position};
use crate::support::within;

/// The next item, skipping errors of a node that is unavailable at the moment.
pub(crate) async fn next_item(subscriber: &mut Subscriber) -> Item {
    let kind = subscriber.kind;
    let item = tokio::time::timeout(super::DEADLINE, async {
        loop {
            match subscriber.try_item().await {
                Ok(item) if item.event == "$error" => {}
                Ok(item) if item.event == "$bye" && item.value()["reason"] == "recycle" => {}
                Ok(item) => return item,
                Err(Failure::Broken(_)) => {}
                Err(Failure::Refused(response)) => assert_eq!(response.status, 503, "{kind}: {response:?}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    item.await.unwrap_or_else(|_| panic!("{kind} receives no item"))
}

/// Publishes until the event is acknowledged; the id makes retries safe.
async fn published(address: &str, topic: &str, data: impl Into<Value>) -> String {
    let body = json!({ "topic": topic, "data": data.into(), "id": uuid::Uuid::new_v4() }).to_string();
    let mut cursor = None;
    super::until("the event is published", async || {
        let answer = Request::post("/v1/events", "application/json", body.clone()).try_send(address).await;
        let Ok(mut answer) = answer else { return false };
        let answered = answer.json().await;
        assert!(matches!(answer.status, 201 | 503), "{answered}");
        cursor = answered["cursor"].as_str().map(str::to_owned);
        cursor.is_some()
    })
    .await;
    cursor.expect("a cursor")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_deleted_is_another_log() {
    let _alone = MACHINE.lock().await;
    let (nats, nodes) = tokio::task::block_in_place(|| {
        let nats = Nats::cluster();
        let nodes = Nodes::over(&nats, 3, &LONG_HEARTBEATS);
        (nats, nodes)
    });
    let all = nodes.addresses().all();
    let mut subscribers = Vec::new();
    for (turn, kind) in Kind::ALL.into_iter().enumerate() {
        // A subscriber that stays connected, if its transport streams, and one that reconnects later.
        subscribers.push(Subscriber::start(&all[turn % 3], kind, Query::topic("log.>")).await);
        subscribers.push(Subscriber::start(&all[(turn + 1) % 3], kind, Query::topic("log.>")).await);
    }
    let mut before = String::new();
    for n in 0..5 {
        before = published(&all[n % 3], "log.a", n).await;
    }
    for (turn, subscriber) in subscribers.iter_mut().enumerate() {
        assert_eq!(subscriber.values(5).await, (0..5).map(Value::from).collect::<Vec<_>>());
        if turn % 2 == 1 {
            subscriber.cut();
        }
    }
    let client = async_nats::connect(nats.addresses()).await.expect("NATS is there");
    let deleted = async_nats::jetstream::new(client).delete_stream(stream_of(&nats)).await;
    assert!(deleted.expect("the stream is deleted").success);
    for n in 5..8 {
        published(&all[n % 3], "log.b", n).await;
    }
    for node in &all {
        super::until("all nodes are on the new log", async || epoch(&end_of_log(node).await) != epoch(&before)).await;
    }
    let began = moved(&end_of_log(&all[0]).await, 0);
    for subscriber in &mut subscribers {
        let gap = next_item(subscriber).await;
        let data = gap.value();
        assert_eq!((gap.event.as_str(), &data["reason"]), ("$gap", &json!("epoch")), "{}: {gap:?}", subscriber.kind);
        assert_eq!(epoch(data["from"].as_str().expect("the gap has `from`")), epoch(&before), "{}", subscriber.kind);
        assert_eq!((data["to"].as_str(), gap.cursor.as_deref()), (Some(&*began), Some(&*began)), "{}", subscriber.kind);
        for n in 5..8 {
            let event = next_item(subscriber).await;
            assert_eq!((event.topic.as_deref(), event.value()), (Some("log.b"), json!(n)), "{}", subscriber.kind);
        }
    }
}

/// Reads numbers that are published in order; numbers may be missing only where a `$gap` reports it.
struct Careful {
    subscriber: Subscriber,
    received: u64,
    gap: Option<(u64, u64)>,
    gaps: usize,
}

impl Careful {
    async fn read(&mut self) {
        let kind = self.subscriber.kind;
        let before = self.subscriber.cursor.clone().expect("a cursor");
        let item = next_item(&mut self.subscriber).await;
        if item.event == "$gap" {
            let data = item.value();
            let (from, to) = (data["from"].as_str().expect("from"), data["to"].as_str().expect("to"));
            assert_eq!((&data["reason"], item.cursor.as_deref()), (&json!("expired"), Some(to)), "{kind}: {item:?}");
            assert!(self.gap.is_none_or(|(_, end)| end == position(from)), "{kind}: {item:?} after {:?}", self.gap);
            assert!(position(from) >= position(&before), "{kind}: {item:?} at {before}");
            assert!(position(from) < position(to), "{kind}: no event is lost in this gap: {item:?}");
            self.gap = Some((position(from), position(to)));
            self.gaps += 1;
            return;
        }
        let number = item.value().as_u64().unwrap_or_else(|| panic!("{kind}: {item:?}"));
        match self.gap.take() {
            None => assert_eq!(number, self.received + 1, "{kind}: events are missing without a gap"),
            Some((_, to)) => {
                assert!(number > self.received + 1, "{kind}: no event is missing before {number}");
                assert_eq!(item.at(), to + 1, "{kind}: the stream continues at the end of the gap");
            }
        }
        self.received = number;
    }
}

/// The numbers of retained and of published events.
const KEPT: u64 = 60;
const PUBLISHED: u64 = 900;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_that_overtakes_a_reader_is_a_gap() {
    let (_nats, nodes) = tokio::task::block_in_place(|| {
        let nats = Nats::single();
        let kept = KEPT.to_string();
        let nodes = Nodes::over(&nats, 2, &["--max-events", &kept]);
        (nats, nodes)
    });
    let all = nodes.addresses().all();
    let start = end_of_log(&all[0]).await;
    let (newest, _) = watch::channel(0);
    let readers: Vec<_> = Kind::ALL
        .into_iter()
        .enumerate()
        .map(|(turn, kind)| {
            let query = Query::topic("log").with("limit", 7);
            let subscriber = Subscriber::at(&all[turn % 2], kind, query, &start);
            let mut reader = Careful { subscriber, received: 0, gap: None, gaps: 0 };
            let mut newest = newest.subscribe();
            tokio::spawn(async move {
                while reader.received < PUBLISHED {
                    reader.read().await;
                    if reader.received % 20 == 3 && reader.received < PUBLISHED {
                        // Disconnected until retention overtakes the cursor.
                        reader.subscriber.cut();
                        let overtaken = (reader.received + KEPT + 1).min(PUBLISHED);
                        let published =
                            within("so much to be published", newest.wait_for(|newest| *newest >= overtaken));
                        drop(published.await.expect("publishing goes on"));
                    }
                }
                (kind, reader.gaps)
            })
        })
        .collect();
    for n in 1..=PUBLISHED {
        published(&all[n as usize % 2], "log", n).await;
        newest.send_replace(n);
    }
    for reader in readers {
        let ended = tokio::time::timeout(super::DEADLINE, reader).await.expect("a reader comes to the end");
        let (kind, gaps) = ended.expect("a reader does not panic");
        assert!(gaps > 0, "retention never overtook {kind}, so nothing was tested");
    }
}
