//! Cores, CPU time and memory, from Linux.

use std::fs;
use std::time::Duration;

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::unistd::Pid;

use super::Fault;

/// The server's core.
pub(crate) const SERVER_CORE: usize = 0;
/// The load's core.
pub(crate) const LOAD_CORE: usize = 1;

/// Pins this thread, and the processes that it starts from now on, to one core.
pub(crate) fn pin(core: usize) -> Result<(), Fault> {
    let mut cores = CpuSet::new();
    cores.set(core)?;
    sched_setaffinity(Pid::from_raw(0), &cores)
        .map_err(|error| format!("core {core} cannot be had ({error}): this takes two cores").into())
}

/// Raises the limit of open files to the maximum: a connection takes one file here and one in the server.
pub(crate) fn raise_files() -> Result<u64, Fault> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}

/// A process and its descendants.
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while let Some(parent) = all.get(at).copied() {
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap_or_default();
        all.extend(children.split_whitespace().filter_map(|child| child.parse::<u32>().ok()));
        at += 1;
    }
    all
}

/// Time that all threads of these processes were on a core. `schedstat` counts nanoseconds, where `stat` counts ticks.
pub(crate) fn cpu_time(pids: &[u32]) -> Duration {
    let threads = pids.iter().filter_map(|pid| fs::read_dir(format!("/proc/{pid}/task")).ok()).flatten().flatten();
    let nanos = threads.filter_map(|thread| {
        let text = fs::read_to_string(thread.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// Memory of these processes in bytes; shared pages count proportionally (PSS).
pub(crate) fn memory_bytes(pids: &[u32]) -> u64 {
    let kilobytes = pids.iter().filter_map(|pid| {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let line = text.lines().find(|line| line.starts_with("Pss:"))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok()
    });
    kilobytes.sum::<u64>() * 1024
}

/// One line that describes the machine.
pub(crate) fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let field = |name: &str| {
        let line = cpu.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split(": ").nth(1)).unwrap_or("?").to_owned()
    };
    let siblings = fs::read_to_string("/sys/devices/system/cpu/cpu0/topology/thread_siblings_list").unwrap_or_default();
    let shared = if siblings.trim() == "0" { "two cores" } else { "two hyper-threads of one core" };
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, {shared}, Linux {}", field("model name"), kernel.trim())
}
