//! The real binary under faults: killed, out of room, stalled, stopped, lied to.
//!
//! Each test keeps a ledger of its own of what it was promised, and holds the server to it. Randomness comes from a seed
//! that is printed; `FAULTS_SEED=n` runs the same again, as far as other processes' timing allows.

mod clocks;
mod commands;
mod directory;
mod drain;
mod endless;
mod files;
mod fsync;
mod full_disk;
mod kill;
mod ledger;
mod process_limits;
mod sick_disk;
mod slow;
mod sparse;
mod stalled;
mod unread_log;
mod waiters;

use crate::support::{Server, until, within};

/// The end of a server that was told to end.
async fn end_of(server: &mut Server) -> std::process::ExitStatus {
    let mut ended = None;
    until("the server ends", async || {
        ended = server.ended();
        ended.is_some()
    })
    .await;
    ended.expect("it has ended")
}

/// A random generator, and how to have it again.
fn seeded(test: &str) -> rand::rngs::StdRng {
    let given = std::env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    println!("{test}: FAULTS_SEED={seed}");
    rand::SeedableRng::seed_from_u64(seed)
}

/// A number of a running process, in KiB, from what Linux says of it.
fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {field} in {status}"))
}

/// Open files of a running process.
fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process is there").count()
}
