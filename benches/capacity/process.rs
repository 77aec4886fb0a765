//! CPU time and memory of processes, from Linux's `/proc`.

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// The CPU time of some processes.
pub(crate) struct Cpu(Vec<u64>);

impl Cpu {
    /// At the start of the measurement, in nanoseconds.
    pub(crate) fn of(pids: &[u32]) -> Self {
        Self(pids.iter().map(|pid| cpu_ns(*pid)).collect())
    }

    /// The CPU time since the start, of all processes.
    pub(crate) fn since(&self, pids: &[u32]) -> Self {
        Self(Self::of(pids).0.iter().zip(&self.0).map(|(now, before)| now - before).collect())
    }

    pub(crate) fn all_us(&self) -> f64 {
        self.0.iter().sum::<u64>() as f64 / 1000.0
    }

    /// The CPU time since the start, of the busiest process.
    pub(crate) fn most_us(&self) -> f64 {
        self.0.iter().max().copied().unwrap_or_default() as f64 / 1000.0
    }
}

/// The CPU time of all threads of a process, in nanoseconds; `stat` would count in hundredths of a second.
fn cpu_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process is there");
    let spent = tasks.flatten().filter_map(|task| {
        let schedstat = fs::read_to_string(task.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    spent.sum()
}

/// Resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: Option<u64> = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
    kib.expect("a number") * 1024
}

/// Kernel memory of a TCP socket with empty buffers: the sizes of its objects, in bytes. `None` if the kernel does not report
/// them (only root can read them).
pub(crate) fn socket_bytes() -> Option<u64> {
    let slabs = fs::read_to_string("/proc/slabinfo").ok()?;
    let size = |name: &str| {
        let line = slabs.lines().find(|line| line.split_whitespace().next() == Some(name))?;
        line.split_whitespace().nth(3)?.parse::<u64>().ok()
    };
    // The socket, its inode, its name and its open file.
    Some(size("TCP")? + size("sock_inode_cache")? + size("dentry")? + size("filp").unwrap_or(256))
}

/// Raises the limit of open files to the maximum; the servers inherit it.
pub(crate) fn raise_file_limit() {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, most, most).expect("the soft limit goes up to the hard one");
}
