//! 15,000 idle streams, then a fan-out to all of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::{Mutex, Semaphore};

use crate::common::{Memory, Row, Times, connect, reached};
use crate::support::Server;
use crate::support::raw::Items;

const CONNECTIONS: usize = 15_000;
const EVENTS: u64 = 5;
const KINDS: [&str; 3] = ["ws", "sse", "stream"];

/// Maximum of connections that are being opened at a time.
const OPENING: usize = 200;

pub(crate) async fn run() -> Row {
    let server = Server::start(&[]);
    let memory = Memory::of(&server).await;
    let (opened, delivered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (opening, zero) = (Arc::new(Semaphore::new(OPENING)), Instant::now());
    let times = Arc::new(Mutex::new(Times::default()));
    let mut readers = tokio::task::JoinSet::new();
    for number in 0..CONNECTIONS {
        let (address, opening, times) = (server.address().to_owned(), opening.clone(), times.clone());
        let (opened, delivered) = (opened.clone(), delivered.clone());
        readers.spawn(async move {
            let turn = opening.acquire().await.expect("it is not closed");
            let connection = connect(number, &address).await;
            let kind = KINDS[number % KINDS.len()];
            let mut items = Items::over(connection, kind, "topic=idle&cursor=now").await.expect("a stream");
            items.named("$hello").await;
            drop(turn);
            opened.fetch_add(1, Ordering::Relaxed);
            for event in 0..EVENTS {
                let item = loop {
                    let item = items.next().await.expect("the stream continues").expect("the stream has not ended");
                    if item["topic"].is_string() {
                        break item;
                    }
                };
                assert_eq!(item["data"]["n"], event);
                let published = Duration::from_micros(item["data"]["t"].as_u64().expect("a time"));
                times.lock().await.push(zero.elapsed().saturating_sub(published));
                delivered.fetch_add(1, Ordering::Relaxed);
            }
            items
        });
    }
    reached("streams that are opened", &opened, CONNECTIONS as u64).await;
    let connected = zero.elapsed();
    // For two heartbeat intervals the streams receive only heartbeats.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let each_kib = (memory.now_kib() - memory.before_kib()) as f64 / CONNECTIONS as f64;
    for number in 0..EVENTS {
        let t = zero.elapsed().as_micros() as u64;
        server.publish(&json!({ "topic": "idle", "data": { "n": number, "t": t } })).await;
        reached("deliveries", &delivered, (number + 1) * CONNECTIONS as u64).await;
    }
    let open = readers.join_all().await;
    assert_eq!(open.len(), CONNECTIONS, "none was cut");
    drop(open);
    let delivered = times.lock().await.short();
    Row {
        what: "15,000 idle streams (WebSocket, SSE, NDJSON), quiet for 40 s, then 5 events to each".into(),
        how: format!(
            "connected in {:.1} s; {each_kib:.1} KiB each; an event reaches all: {delivered}",
            connected.as_secs_f64()
        ),
        memory: memory.settled().await,
    }
}
