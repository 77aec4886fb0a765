//! Slow disks: how long publishes wait for their answers, in syncs. The server runs over a library that delays each sync.
//!
//! One publish at a time waits for one sync. Those at random times wait for the end of the commit that is running, and for their
//! own: for a sync and a half if the disk is busy. Publishers in a loop would wait for two syncs if their groups alternated (see
//! `src/store/disk/gather.rs`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::Mutex;

use crate::support::Server;
use crate::support::http::Connection;
use crate::support::preload::{Fault, Faults};

/// How long a load is measured, after as much of it that is not.
const LOOP_TIME: Duration = Duration::from_secs(2);

/// The same for publishes at random times, which vary more.
const RANDOM_TIME: Duration = Duration::from_secs(6);

/// Not measured, at the beginning of a load.
const WARM_UP: Duration = Duration::from_secs(1);

const SYNCS_MS: [i32; 3] = [1, 10, 100];

#[derive(Clone, Copy)]
enum Load {
    /// Publishers that each await an answer before they publish again.
    Loops(usize),
    /// Publishes a second, at random times (a Poisson process).
    Random(u32),
}

const LOADS: [Load; 9] = {
    use Load::{Loops, Random};
    [Loops(1), Loops(2), Loops(3), Loops(4), Loops(8), Loops(16), Random(10), Random(60), Random(200)]
};

/// The times from publish to answer.
type Waits = Arc<Mutex<Vec<Duration>>>;

pub(crate) async fn run() {
    println!("| a sync takes | load | publishes a second | mean wait, syncs | p99 |\n|---|---|---:|---:|---:|");
    for sync_ms in SYNCS_MS {
        let (faults, server) = Faults::start(&["--log", "error"]);
        let server = Arc::new(server);
        faults.set(Fault::SyncMs, sync_ms);
        // A commit is a sync and the disk's own time.
        let mut commit = Duration::ZERO;
        for load in LOADS {
            let (mut waits, time) = load.waits(&server).await;
            waits.sort_unstable();
            let mean = waits.iter().sum::<Duration>() / u32::try_from(waits.len()).expect("few publishes");
            let p99 = waits[waits.len() * 99 / 100];
            if let Load::Loops(1) = load {
                commit = mean;
            }
            let in_syncs = |wait: Duration| wait.as_secs_f64() / commit.as_secs_f64();
            println!(
                "| {sync_ms} ms | {} | {:.1} | {:.2} | {:.2} |",
                load.name(),
                waits.len() as f64 / time.as_secs_f64(),
                in_syncs(mean),
                in_syncs(p99),
            );
        }
    }
}

impl Load {
    fn name(self) -> String {
        match self {
            Self::Loops(publishers) => format!("{publishers} in a loop"),
            Self::Random(a_second) => format!("{a_second}/s at random times"),
        }
    }

    /// The waits of the publishes that were answered in the measured time.
    async fn waits(self, server: &Arc<Server>) -> (Vec<Duration>, Duration) {
        let time = match self {
            Self::Loops(_) => LOOP_TIME,
            Self::Random(_) => RANDOM_TIME,
        };
        let (waits, from) = (Waits::default(), Instant::now() + WARM_UP);
        let until = from + time;
        match self {
            Self::Loops(publishers) => {
                let publish = |_| {
                    let (server, waits) = (server.clone(), waits.clone());
                    tokio::spawn(async move {
                        let mut connection = Connection::open(server.address()).await.expect("connected");
                        while Instant::now() < until {
                            publish(&mut connection, &waits, from).await;
                        }
                    })
                };
                for publisher in (0..publishers).map(publish).collect::<Vec<_>>() {
                    publisher.await.expect("a publisher ends");
                }
            }
            Self::Random(a_second) => {
                let idle: Arc<Mutex<Vec<Connection>>> = Arc::default();
                let (mut next, mut publishes) = (Instant::now(), Vec::new());
                while next < until {
                    tokio::time::sleep_until(next.into()).await;
                    let (server, waits, idle) = (server.clone(), waits.clone(), idle.clone());
                    publishes.push(tokio::spawn(async move {
                        let known = idle.lock().await.pop();
                        let mut connection = match known {
                            Some(connection) => connection,
                            None => Connection::open(server.address()).await.expect("connected"),
                        };
                        publish(&mut connection, &waits, from).await;
                        idle.lock().await.push(connection);
                    }));
                    let pause = -(1.0 - rand::random::<f64>()).ln() / f64::from(a_second);
                    next += Duration::from_secs_f64(pause);
                }
                for publish in publishes {
                    publish.await.expect("a publish ends");
                }
            }
        }
        let waits = std::mem::take(&mut *waits.lock().await);
        (waits, time)
    }
}

/// Publishes one event; its wait counts if it began late enough.
async fn publish(connection: &mut Connection, waits: &Waits, from: Instant) {
    let (begun, body) = (Instant::now(), json!({ "topic": "slow", "data": 1 }).to_string());
    connection.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
    assert_eq!(connection.answer().await.expect("an answer").status(), 201);
    if begun >= from {
        waits.lock().await.push(begun.elapsed());
    }
}
