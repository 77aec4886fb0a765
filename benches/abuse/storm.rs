//! Reconnect storm: 10,000 subscribers over all transports connect at once; the server is killed, and all reconnect at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use crate::common::{Memory, Row, connect, end_of_log, reached};
use crate::support::Server;
use crate::support::follower::{Follower, KINDS};
use crate::support::raw;

const CROWD: usize = 10_000;

/// Events before the kill, and as many after it.
const HALF: u64 = 10;

async fn publish(server: &Server, numbers: std::ops::Range<u64>) {
    let events: Vec<Value> = numbers.map(|n| json!({ "topic": "storm", "data": { "n": n } })).collect();
    server.publish(&Value::from(events)).await;
}

pub(crate) async fn run() -> Row {
    let mut server = Server::start(&[]);
    let mut memory = Memory::of(&server).await;
    let (start, address) = (end_of_log(&server).await, server.address().to_owned());
    let (begun, seen) = (counter(), counter());
    let zero = Instant::now();
    let mut crowd = tokio::task::JoinSet::new();
    for number in 0..CROWD {
        let mut follower = Follower::new(KINDS[number % KINDS.len()], "storm", &start, seen.clone());
        let (address, begun) = (address.clone(), begun.clone());
        crowd.spawn(async move {
            let mut first = true;
            while follower.next < 2 * HALF {
                let connection = connect(number, &address).await;
                let greeted = || {
                    if std::mem::take(&mut first) {
                        begun.fetch_add(1, Ordering::Relaxed);
                    }
                };
                // Any end is fine: the subscriber resumes at its cursor.
                let _ = follower.follow(connection, 2 * HALF, greeted).await;
            }
            follower.faults
        });
    }
    reached("readers that have begun", &begun, CROWD as u64).await;
    let connected = zero.elapsed();
    publish(&server, 0..HALF).await;
    reached("events of the first half", &seen, CROWD as u64 * HALF).await;
    let first = memory.now_kib();
    let killed = Instant::now();
    server = server.kill_and_restart();
    let back = killed.elapsed();
    memory.is_now(&server);
    publish(&server, HALF..2 * HALF).await;
    reached("events of the second half", &seen, CROWD as u64 * 2 * HALF).await;
    let resumed = killed.elapsed();
    let faults: Vec<String> = crowd.join_all().await.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{} faults: {:?}", faults.len(), &faults[..faults.len().min(5)]);
    assert_eq!(raw::history(&address, "storm").await.len() as u64, 2 * HALF, "what was acknowledged is there");
    Row {
        what: "10,000 readers of six transports come at once; the server is killed; all come back at once".into(),
        how: format!(
            "all connected in {:.1} s; up again {:.1} s after the kill, and {:.1} s after that all have every event once, \
             in order ({} MiB before the kill)",
            connected.as_secs_f64(),
            back.as_secs_f64(),
            (resumed - back).as_secs_f64(),
            first / 1024,
        ),
        memory: memory.settled().await,
    }
}

fn counter() -> Arc<AtomicU64> {
    Arc::new(AtomicU64::new(0))
}
