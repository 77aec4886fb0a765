//! Power loss: the file operations of the real server under load are traced, and disk images are built from the trace, of what a
//! disk may hold at any moment: none, all, some, or torn pieces of the unsynced writes. The store opens each image, and must keep
//! its promises.
//!
//! Killing the process does not test this, since the kernel keeps what was written; cutting a real disk off tests one moment an
//! hour.
//!
//! `CRASH_IMAGES` is the number of images (`tests/run long` makes thousands); `CRASH_SEED` repeats the choices of a run.

mod check;
mod disk;
mod ledger;
mod trace;

use std::path::PathBuf;
use std::sync::Arc;

use nix::sys::signal::Signal;
use rand::RngExt as _;
use rand::rngs::StdRng;

use crate::support::{Server, preload};
use disk::{Disk, Unsynced};
use ledger::Ledger;
use trace::Record;

/// The number of images built of one recorded run, unless `CRASH_IMAGES` is set.
const IMAGES: usize = 300;

/// The number of images that the control builds.
const CONTROL_IMAGES: usize = 40;

/// A recorded run.
struct Run {
    records: Vec<Record>,
    ledger: Ledger,
    /// The data directory, as it is named in the trace.
    root: PathBuf,
    now_ms: u64,
}

async fn record(rng: &mut StdRng) -> Run {
    let library = preload::build("record", include_str!("record.c"));
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let (root, trace) = (directory.path().join("data"), directory.path().join("trace"));
    let variables = [
        format!("LD_PRELOAD={}", library.display()),
        format!("CRASH_ROOT={}", root.display()),
        format!("CRASH_TRACE={}", trace.display()),
    ];
    let wrapper: Vec<&str> = ["env"].into_iter().chain(variables.iter().map(String::as_str)).collect();
    let events_max = check::EVENTS_MAX.to_string();
    let flags = ["--store", "disk", "--max-events", &events_max, "--dedupe-window", "1h"];
    let mut server = Server::start_under(&wrapper, directory, &flags);
    let ledger = ledger::run(&server, trace.clone(), rng).await;
    server.signal(Signal::SIGTERM);
    assert!(server.wait().success());
    let records = trace::parse(&std::fs::read(&trace).expect("the trace"));
    let now_ms = switchback::clock::wall_ms();
    Run { records, ledger, root, now_ms }
}

/// Builds images of random moments and returns the failures.
async fn judge(run: &Run, images: usize, ignores_syncs: bool, rng: &mut StdRng) -> Vec<String> {
    // A power loss may come between any two operations, from the first promise on.
    let first = run.ledger.promises.iter().map(|promise| promise.from).min().expect("the ledger has a promise");
    let begin = run.records.iter().position(|record| record.at >= first).expect("the first promise is in the trace");
    let mut moments: Vec<usize> = (0..images).map(|_| rng.random_range(begin..run.records.len())).collect();
    moments.sort_unstable();
    let mut disk = Disk::new(ignores_syncs);
    let mut done = 0;
    let mut failed = Vec::new();
    for (number, moment) in moments.into_iter().enumerate() {
        for record in &run.records[done..=moment] {
            disk.apply(&record.action);
        }
        done = moment + 1;
        let (at, unsynced) = (run.records[moment].at, Unsynced::ALL[number % Unsynced::ALL.len()]);
        let image = tempfile::tempdir().expect("a temporary directory");
        disk.leave(&run.root, image.path(), unsynced, rng);
        if let Err(reason) = check::check(image.path(), &run.ledger, at, run.now_ms).await {
            failed.push(format!("record {moment} ({at} bytes), {unsynced:?}: {reason}"));
        }
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_power_loss_at_any_moment_breaks_no_promise() {
    let number = |name: &str| std::env::var(name).ok().and_then(|value| value.parse().ok());
    let seed = number("CRASH_SEED").unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    let images = number("CRASH_IMAGES").map_or(IMAGES, |images| images as usize);
    println!("CRASH_SEED={seed} CRASH_IMAGES={images}");
    let mut rng: StdRng = rand::SeedableRng::seed_from_u64(seed);
    let run = record(&mut rng).await;
    println!("{} records, {} promises", run.records.len(), run.ledger.promises.len());

    let failed = judge(&run, images, false, &mut rng).await;
    assert!(failed.is_empty(), "{} of {images} images:\n{}", failed.len(), failed.join("\n"));

    // The control: on a disk that acknowledges syncs without doing them, the same images have to fail. Only images with the
    // unsynced writes dropped are sure to fail: where all writes are kept, no event is missing.
    let failed = judge(&run, CONTROL_IMAGES, true, &mut rng).await;
    let dropped = failed.iter().filter(|reason| reason.contains("Dropped")).count();
    println!(
        "control: {} of {CONTROL_IMAGES} images fail, {dropped} of them with the unsynced writes dropped",
        failed.len()
    );
    assert_eq!(
        dropped,
        CONTROL_IMAGES / Unsynced::ALL.len(),
        "a store that does not sync would pass:\n{}",
        failed.join("\n")
    );
}
