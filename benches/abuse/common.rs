//! Helpers of all abuse scenarios: the machine, connections, figures, table rows.

use std::fmt;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw;

/// Connections from one source address, which has about 28,000 ports.
const PORTS: usize = 2_000;

/// How long a server has to close abandoned connections and return memory.
const SETTLE: Duration = Duration::from_secs(10);

/// A row of the table.
pub(crate) struct Row {
    pub(crate) what: String,
    pub(crate) how: String,
    pub(crate) memory: [u64; 3],
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [before, most, after] = self.memory.map(|kib| kib.div_ceil(1024));
        write!(f, "| {} | {} | {before}, {most}, {after} |", self.what, self.how)
    }
}

/// Raises the limit of open files to the maximum, for this process and the servers.
pub(crate) fn raise_open_files() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit it may be raised");
    hard
}

/// One line that describes the machine.
pub(crate) fn machine() -> String {
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{}, {cores} cores for server and load together, Linux {}", model.unwrap_or("?"), kernel.trim())
}

/// The source address of the n-th connection.
pub(crate) fn source(number: usize) -> Ipv4Addr {
    Ipv4Addr::new(127, 0, 1, 1 + (number / PORTS) as u8)
}

/// Connects, and retries while the server is not up, or refuses connections.
pub(crate) async fn connect(number: usize, address: &str) -> Connection {
    loop {
        match Connection::from(source(number), address).await {
            Ok(connection) => return connection,
            Err(_) => tokio::time::sleep(Duration::from_millis(rand::random_range(20..500))).await,
        }
    }
}

/// Watches a server's memory.
pub(crate) struct Memory {
    pid: u32,
    address: String,
    files: usize,
    before_kib: u64,
    most_kib: Arc<AtomicU64>,
    watch: tokio::task::JoinHandle<()>,
}

impl Memory {
    /// The baseline is measured after warm-up requests, so that the server's threads, page cache and code are loaded.
    pub(crate) async fn of(server: &Server) -> Self {
        let pid = server.pid();
        for number in 0..200 {
            server.publish(&json!({ "topic": "warm", "data": number })).await;
        }
        assert_eq!(raw::history(server.address(), "warm").await.len(), 200);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let most_kib = Arc::new(AtomicU64::new(0));
        let watched = most_kib.clone();
        let watch = tokio::spawn(async move {
            loop {
                watched.fetch_max(resident_kib(pid), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
        let address = server.address().to_owned();
        Self { pid, address, files: open_files(pid), before_kib: resident_kib(pid), most_kib, watch }
    }

    /// After a restart of the server.
    pub(crate) fn is_now(&mut self, server: &Server) {
        self.watch.abort();
        let (pid, watched) = (server.pid(), self.most_kib.clone());
        (self.pid, self.address) = (pid, server.address().to_owned());
        self.watch = tokio::spawn(async move {
            loop {
                watched.fetch_max(resident_kib(pid), Ordering::Relaxed);
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }

    pub(crate) fn before_kib(&self) -> u64 {
        self.before_kib
    }

    pub(crate) fn now_kib(&self) -> u64 {
        resident_kib(self.pid)
    }

    /// Waits until the server has closed all connections, and has had time to return memory.
    pub(crate) async fn wait(&mut self) {
        let gone = Instant::now();
        while open_files(self.pid) > self.files + 20 {
            assert!(gone.elapsed() < 4 * SETTLE, "{} files are open yet", open_files(self.pid));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let noticed = Instant::now();
        while noticed.elapsed() < SETTLE {
            // As a monitor does: an allocator returns memory only while it is used.
            let healthy = raw::get(&self.address, "/healthz").await.expect("an answer");
            assert_eq!(healthy.status(), 200);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// As [`Self::wait`]; returns memory before, at most, after.
    pub(crate) async fn settled(mut self) -> [u64; 3] {
        self.wait().await;
        let after = self.now_kib();
        self.watch.abort();
        [self.before_kib, self.most_kib.load(Ordering::Relaxed).max(after), after]
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn open_files(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// A distribution of durations.
#[derive(Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn push(&mut self, time: Duration) {
        self.0.push(time);
    }

    pub(crate) fn extend(&mut self, others: Self) {
        self.0.extend(others.0);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The percentile, in milliseconds.
    pub(crate) fn percentile(&mut self, share: f64) -> f64 {
        self.0.sort_unstable();
        let rank = (share * self.0.len() as f64).ceil() as usize;
        let time = self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or_default();
        time.as_secs_f64() * 1000.0
    }

    /// The median and the 99th percentile.
    pub(crate) fn short(&mut self) -> String {
        format!("p50 {:.1} ms, p99 {:.1} ms", self.percentile(0.5), self.percentile(0.99))
    }
}

/// Waits until a count is reached.
pub(crate) async fn reached(what: &str, count: &AtomicU64, goal: u64) {
    let begun = Instant::now();
    while count.load(Ordering::Relaxed) < goal {
        let counted = count.load(Ordering::Relaxed);
        assert!(begun.elapsed() < crate::DEADLINE, "{what}: {counted} of {goal}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Publishes on an open connection; returns the response's status and body.
pub(crate) async fn publish(connection: &mut Connection, events: &Value) -> (u16, Value) {
    let body = events.to_string();
    connection.post("/v1/events", "application/json", body.as_bytes()).await.expect("the server takes it");
    let answer = connection.answer().await.expect("the server answers");
    (answer.status(), answer.json())
}

/// The log's end.
pub(crate) async fn end_of_log(server: &Server) -> String {
    let info = raw::get(server.address(), "/v1/info").await.expect("an answer").json();
    info["cursor"].as_str().expect("a cursor").to_owned()
}
