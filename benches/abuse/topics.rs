//! 10,000 topics, and as many subscriptions of 64 patterns each: 640,000 patterns to index, match and remove.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::common::{Memory, Row, connect, reached};
use crate::support::Server;
use crate::support::raw::Items;

const TOPICS: usize = 10_000;
const SUBSCRIPTIONS: usize = 10_000;
const PATTERNS: usize = 64;
const KINDS: [&str; 3] = ["ws", "sse", "stream"];

/// Maximum of connections that are being opened at a time.
const OPENING: usize = 200;

/// Every other pattern has a wildcard; each pattern matches one topic.
fn pattern(number: usize) -> String {
    let number = number % TOPICS;
    if number.is_multiple_of(2) { format!("t.{number}.news") } else { format!("t.{number}.*") }
}

/// Later rounds must reuse the memory of the first: growth would be a leak.
const CROWDS: usize = 3;

pub(crate) async fn run() -> Row {
    let server = Server::start(&[]);
    let mut memory = Memory::of(&server).await;
    let (mut how, mut after) = (String::new(), Vec::new());
    for crowd in 0..CROWDS {
        let outcome = subscribe(&server, &memory).await;
        if crowd == 0 {
            how = outcome;
        }
        memory.wait().await;
        after.push(memory.now_kib().div_ceil(1024).to_string());
    }
    Row {
        what: "10,000 subscriptions of 64 patterns each over 10,000 topics; an event on each topic; three times over"
            .into(),
        how: format!("{how}; memory after each time: {} MiB", after.join(", ")),
        memory: memory.settled().await,
    }
}

async fn subscribe(server: &Server, memory: &Memory) -> String {
    let (opened, delivered) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let (opening, zero) = (Arc::new(Semaphore::new(OPENING)), Instant::now());
    let mut readers = tokio::task::JoinSet::new();
    for number in 0..SUBSCRIPTIONS {
        let (address, opening) = (server.address().to_owned(), opening.clone());
        let (opened, delivered) = (opened.clone(), delivered.clone());
        readers.spawn(async move {
            let turn = opening.acquire().await.expect("it is not closed");
            let connection = connect(number, &address).await;
            let query: Vec<String> = (number..number + PATTERNS).map(|at| format!("topic={}", pattern(at))).collect();
            let query = format!("{}&cursor=now", query.join("&"));
            let mut items = Items::over(connection, KINDS[number % KINDS.len()], &query).await.expect("a stream");
            items.named("$hello").await;
            drop(turn);
            opened.fetch_add(1, Ordering::Relaxed);
            let mut last = None;
            let mut left = PATTERNS;
            while left > 0 {
                let item = items.next().await.expect("the stream continues").expect("the stream has not ended");
                if item["topic"].is_null() {
                    continue;
                }
                let topic = item["data"].as_u64().expect("a number") as usize;
                let matches = (topic + TOPICS - number) % TOPICS < PATTERNS;
                assert!(matches && last.is_none_or(|last| last < topic), "{topic} after {last:?} for {number}");
                last = Some(topic);
                left -= 1;
                delivered.fetch_add(1, Ordering::Relaxed);
            }
            items
        });
    }
    reached("streams that are opened", &opened, SUBSCRIPTIONS as u64).await;
    let connected = zero.elapsed();
    let each_kib = memory.now_kib().saturating_sub(memory.before_kib()) as f64 / SUBSCRIPTIONS as f64;
    let begun = Instant::now();
    for first in (0..TOPICS).step_by(100) {
        let batch = (first..first + 100).map(|n| json!({ "topic": format!("t.{n}.news"), "data": n }));
        server.publish(&Value::from(batch.collect::<Vec<_>>())).await;
    }
    reached("deliveries", &delivered, (SUBSCRIPTIONS * PATTERNS) as u64).await;
    let took = begun.elapsed();
    drop(readers.join_all().await);
    format!(
        "connected in {:.1} s; {each_kib:.1} KiB each; 640,000 deliveries in {:.1} s, none missing, in order",
        connected.as_secs_f64(),
        took.as_secs_f64(),
    )
}
