//! The disk store's throughput on this machine, and how it shares the syncs of a slow disk. Prints figures, asserts nothing.
//!
//! ```text
//! cargo bench --bench disk [DIRECTORY]     throughput; the directory decides which file system's sync is measured
//! cargo bench --bench disk -- --slow       publishers on slow disks, two minutes
//! ```

mod slow;
#[path = "../../tests/support/mod.rs"]
#[allow(dead_code, unreachable_pub, unused_imports, unused_macros)] // Shared with tests, each of which uses a part.
mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchback::cursor::Position;
use switchback::event::Draft;
use switchback::log::ReadRequest;
use switchback::store::Store;
use switchback::{Data, DiskStore, NewEvent, PatternSet, StoreOptions};

/// How long each number of publishers is measured.
const TIME: Duration = Duration::from_secs(3);

/// Events in the log that is written in batches, read back and opened again.
const EVENTS: u64 = 1_000_000;

const BATCH: usize = 1000;

fn main() {
    if std::env::args().any(|argument| argument == "--slow") {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        return runtime.expect("a runtime").block_on(slow::run());
    }
    let directory = std::env::args().skip(1).find(|argument| !argument.starts_with('-')).map(PathBuf::from);
    let home = tempfile::tempdir_in(directory.as_deref().unwrap_or(Path::new("."))).expect("a directory to measure in");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    for publishers in [1, 2, 3, 4, 16, 64, 256] {
        runtime.block_on(publish(&home.path().join(publishers.to_string()), publishers));
    }
    runtime.block_on(batches(&home.path().join("long")));
}

fn open(directory: &Path) -> DiskStore {
    DiskStore::open(directory, StoreOptions::default()).expect("the store opens")
}

fn draft(topic: &str) -> Draft {
    let topic = topic.parse().expect("a topic");
    NewEvent::new(topic, Data::text(&"x".repeat(200))).draft(0)
}

/// Publishers that each await an acknowledgement before they publish again.
async fn publish(directory: &Path, publishers: usize) {
    let store = Arc::new(open(directory));
    let start = Instant::now();
    let tasks: Vec<_> = (0..publishers)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut slowest = Duration::ZERO;
                while start.elapsed() < TIME {
                    let started = Instant::now();
                    store.append(vec![draft(&format!("figures.{n}"))]).await.expect("it is stored");
                    slowest = slowest.max(started.elapsed());
                }
                slowest
            })
        })
        .collect();
    let mut slowest = Duration::ZERO;
    for task in tasks {
        slowest = slowest.max(task.await.expect("a publisher ends"));
    }
    let rate = store.bounds().last.0 as f64 / start.elapsed().as_secs_f64();
    println!("{publishers:4} publishers: {rate:9.0} appends/s, the slowest took {slowest:?}");
}

async fn batches(directory: &Path) {
    let store = open(directory);
    let start = Instant::now();
    for _ in 0..EVENTS / BATCH as u64 {
        store.append(vec![draft("figures"); BATCH]).await.expect("it is stored");
    }
    println!("in batches of {BATCH}: {:9.0} events/s", EVENTS as f64 / start.elapsed().as_secs_f64());

    let start = Instant::now();
    let mut after = Position::ZERO;
    while after.0 < EVENTS {
        let patterns = PatternSet::everything();
        let request = ReadRequest {
            patterns,
            after,
            events_max: BATCH,
            bytes_max: usize::MAX,
            rows_max: u64::MAX,
            latest_upto: None,
        };
        after = store.read(request).await.expect("it is read").through;
    }
    println!("read back by {BATCH}: {:9.0} events/s", EVENTS as f64 / start.elapsed().as_secs_f64());

    drop(store);
    let start = Instant::now();
    drop(open(directory));
    println!("{EVENTS} events are opened and closed in {:?}", start.elapsed());
}
