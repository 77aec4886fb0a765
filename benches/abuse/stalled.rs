//! Backpressure: 1,000 subscribers stop reading, and some do not, at 1,000 events a second for a minute.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Memory, Row, Times, connect, end_of_log, publish, reached};
use crate::support::Server;
use crate::support::follower::Follower;
use crate::support::http::Connection;
use crate::support::raw::{self, Items};

const STALLED: usize = 1000;
const HEALTHY: usize = 20;
const SECONDS: u64 = 60;
const BATCHES_PER_SECOND: u64 = 100;
const BATCH: u64 = 10;
const EVENTS: u64 = SECONDS * BATCHES_PER_SECOND * BATCH;
/// Events before the measurement: they fill the socket buffers of the subscribers that will stall.
const FILL: u64 = 2000;
const ALL: u64 = FILL + EVENTS;
const KINDS: [&str; 3] = ["ws", "sse", "stream"];

/// How many of the stalled subscribers resume and read all events in the end.
const RESUMED: usize = 12;

/// The receive buffer of a stalled subscriber.
const RECEIVE_BYTES: u32 = 4096;

struct Outcome {
    times: Times,
    memory: [u64; 3],
    grown_kib: u64,
    caught_up: Duration,
}

pub(crate) async fn run() -> Row {
    let mut alone = with(0).await;
    let mut beside = with(STALLED).await;
    let (before, after) = (alone.times.percentile(0.99), beside.times.percentile(0.99));
    Row {
        what: format!("{STALLED} readers stall for a minute, {HEALTHY} do not, at 1,000 events/s"),
        how: format!(
            "the others without them: {}; beside them: {} ({:.2} times); {:.0} KiB more for each that stalls; \
             {RESUMED} of them then read all {ALL} events by their cursor, in {:.1} s; without them {} MiB were left, of the events",
            alone.times.short(),
            beside.times.short(),
            after / before,
            beside.grown_kib.saturating_sub(alone.grown_kib) as f64 / STALLED as f64,
            beside.caught_up.as_secs_f64(),
            alone.memory[2].div_ceil(1024),
        ),
        memory: beside.memory,
    }
}

async fn with(stalled: usize) -> Outcome {
    let server = Server::start(&[]);
    let memory = Memory::of(&server).await;
    let address = server.address().to_owned();
    let start = end_of_log(&server).await;
    let mut silent = Vec::new();
    for number in 0..stalled {
        let mut connection = Connection::narrow(&address, Some(RECEIVE_BYTES)).await.expect("connected");
        let query = format!("topic=load&cursor={start}");
        Items::request(&mut connection, KINDS[number % KINDS.len()], &query).await.expect("sent");
        silent.push(connection);
    }
    let zero = Instant::now();
    let (mut readers, filled) = (tokio::task::JoinSet::new(), Arc::new(AtomicU64::new(0)));
    for number in 0..HEALTHY {
        let query = format!("topic=load&cursor={start}");
        let connection = connect(number, &address).await;
        let mut items = Items::over(connection, KINDS[number % KINDS.len()], &query).await.expect("a stream");
        let filled = filled.clone();
        readers.spawn(async move {
            let mut times = Times::default();
            for expected in 0..ALL {
                let item = items.news().await;
                assert_eq!(item["data"]["n"], expected, "{item}");
                if expected < FILL {
                    filled.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let due = Duration::from_micros(item["data"]["t"].as_u64().expect("a time"));
                times.push(zero.elapsed().saturating_sub(due));
            }
            times
        });
    }
    let mut publisher = connect(0, &address).await;
    let text = "x".repeat(200);
    let event = |n: u64, due: u64| json!({ "topic": "load", "data": { "n": n, "t": due, "p": text } });
    for first in (0..FILL).step_by(100) {
        let events: Vec<Value> = (first..first + 100).map(|n| event(n, 0)).collect();
        assert_eq!(publish(&mut publisher, &Value::from(events)).await.0, 201);
    }
    reached("what fills them", &filled, HEALTHY as u64 * FILL).await;
    let mut ticks = tokio::time::interval(Duration::from_micros(1_000_000 / BATCHES_PER_SECOND));
    for batch in 0..EVENTS / BATCH {
        // Latency counts from the time at which the event was due, so that a delay of the publisher is included.
        let due = ticks.tick().await.into_std().saturating_duration_since(zero).as_micros() as u64;
        let first = FILL + batch * BATCH;
        let events: Vec<Value> = (first..first + BATCH).map(|n| event(n, due)).collect();
        assert_eq!(publish(&mut publisher, &Value::from(events)).await.0, 201);
    }
    let mut times = Times::default();
    for reader in crate::within("the healthy readers", readers.join_all()).await {
        times.extend(reader);
    }
    assert_eq!(times.len() as u64, HEALTHY as u64 * EVENTS);
    let grown_kib = memory.now_kib().saturating_sub(memory.before_kib());
    drop(silent);
    let begun = Instant::now();
    let mut resumed = tokio::task::JoinSet::new();
    for number in 0..if stalled > 0 { RESUMED } else { 0 } {
        let (start, address) = (start.clone(), address.clone());
        resumed.spawn(async move {
            let mut follower = Follower::new(KINDS[number % KINDS.len()], "load", &start, Arc::default());
            let connection = connect(number, &address).await;
            follower.follow(connection, ALL, || {}).await.expect("it reads");
            (follower.next, follower.faults)
        });
    }
    for (next, faults) in crate::within("those that stalled", resumed.join_all()).await {
        assert!(next == ALL && faults.is_empty(), "{next}: {faults:?}");
    }
    let caught_up = begun.elapsed();
    assert_eq!(raw::history(&address, "load").await.len() as u64, ALL, "what was acknowledged is there");
    drop(publisher);
    Outcome { times, memory: memory.settled().await, grown_kib, caught_up }
}
