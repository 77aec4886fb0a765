//! Fault injection on the real binary: kill, full disk, stalled peers, stopped processes, failing syncs, clock jumps.
//!
//! Each test keeps a ledger of what the server has promised, and checks the server against the ledger. The random seed is
//! printed; `FAULTS_SEED=n` runs the same again, as far as the timing of the processes allows.

mod clocks;
mod commands;
mod data_commands;
mod directory;
mod drain;
mod endless;
mod files;
mod fsync;
mod full_disk;
mod keeping;
mod kill;
mod ledger;
mod old_directory;
mod process_limits;
mod sick_disk;
mod slow;
mod sparse;
mod stalled;
mod unread_log;
mod waiters;

use crate::support::{Server, until, within};

/// Waits for the exit of a server that was signalled to end.
async fn end_of(server: &mut Server) -> std::process::ExitStatus {
    let mut ended = None;
    until("the server ends", async || {
        ended = server.ended();
        ended.is_some()
    })
    .await;
    ended.expect("the server has ended")
}

/// A random generator, and the seed that repeats it.
fn seeded(test: &str) -> rand::rngs::StdRng {
    let given = std::env::var("FAULTS_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = given.unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    println!("{test}: FAULTS_SEED={seed}");
    rand::SeedableRng::seed_from_u64(seed)
}

/// A number from `/proc/PID/status` of a running process, in KiB.
fn memory_kib(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    number.unwrap_or_else(|| panic!("no {field} in {status}"))
}

/// The number of open files of a running process.
fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs").count()
}
