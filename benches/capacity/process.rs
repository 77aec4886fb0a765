//! What processes have spent, from what Linux says of them.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The CPU time of some processes.
pub(crate) struct Cpu(Vec<u64>);

impl Cpu {
    /// So far, in nanoseconds each.
    pub(crate) fn of(pids: &[u32]) -> Self {
        Self(pids.iter().map(|pid| cpu_ns(*pid)).collect())
    }

    /// What they have spent since.
    pub(crate) fn since(&self, pids: &[u32]) -> Self {
        Self(Self::of(pids).0.iter().zip(&self.0).map(|(now, before)| now - before).collect())
    }

    pub(crate) fn all_us(&self) -> f64 {
        self.0.iter().sum::<u64>() as f64 / 1000.0
    }

    /// Of the one that has spent most.
    pub(crate) fn most_us(&self) -> f64 {
        self.0.iter().max().copied().unwrap_or_default() as f64 / 1000.0
    }
}

/// Of all its threads; to the nanosecond, where `stat` counts in hundredths of a second.
fn cpu_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    let spent = tasks.flatten().filter_map(|task| {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    spent.sum()
}

/// Memory that a process has in RAM, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.expect("a number") * 1024
}

/// What the kernel keeps for a TCP socket that nothing waits in: its objects' sizes, in bytes. Nothing where it does not
/// say (it says so to root only).
pub(crate) fn socket_bytes() -> Option<u64> {
    let slabs = fs::read_to_string("/proc/slabinfo").ok()?;
    let size = |name: &str| {
        let line = slabs.lines().find(|line| line.split_whitespace().next() == Some(name))?;
        line.split_whitespace().nth(3)?.parse::<u64>().ok()
    };
    // The socket, its inode, its name and its open file.
    Some(size("TCP")? + size("sock_inode_cache")? + size("dentry")? + size("filp").unwrap_or(256))
}

/// As many open files as may be; the servers inherit it.
pub(crate) fn raise_file_limit() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("the soft limit goes up to the hard one");
}
