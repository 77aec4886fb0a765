//! The nodes of a test, and the list of their addresses for clients.

use std::sync::{Arc, RwLock};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::support::Server;
use crate::support::http::Request;
use crate::support::nats::Nats;

/// The flags of every node: a tail so short that lagging subscribers have to read the store.
const FLAGS: [&str; 6] = ["--workers", "1", "--drain", "300ms", "--tail-events", "200"];

/// Short heartbeats: for subscribers that always read, and notice by them that a node is silent.
pub(crate) const SHORT_HEARTBEATS: [&str; 2] = ["--heartbeat", "1s"];

/// Heartbeats for subscribers that are read in turn: the server closes a socket that is not read for two of them.
pub(crate) const LONG_HEARTBEATS: [&str; 2] = ["--heartbeat", "2m"];

/// The current addresses of the nodes, shared: every holder sees changes.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<RwLock<Vec<String>>>);

impl Addresses {
    pub(crate) fn of(all: Vec<String>) -> Self {
        Self(Arc::new(RwLock::new(all)))
    }

    /// A node other than the last one, where there is one.
    pub(crate) fn another(&self, last: &str, rng: &mut StdRng) -> String {
        let all = self.all();
        let others: Vec<&String> = all.iter().filter(|address| *address != last).collect();
        match others.len() {
            0 => last.to_owned(),
            count => others[rng.random_range(0..count)].clone(),
        }
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.read().expect("the lock is not poisoned").clone()
    }

    fn set(&self, all: Vec<String>) {
        *self.0.write().expect("the lock is not poisoned") = all;
    }
}

/// Nodes that share a log. All nodes end on drop.
pub(crate) struct Nodes {
    servers: Vec<Server>,
    flags: Vec<String>,
    addresses: Addresses,
}

impl Nodes {
    /// A single node with a log on disk.
    pub(crate) fn on_disk() -> Self {
        Self::start(1, FLAGS.iter().chain(&SHORT_HEARTBEATS).map(|flag| (*flag).to_owned()).collect())
    }

    /// This number of nodes over NATS, with additional flags. Heartbeats are short unless a flag says otherwise.
    pub(crate) fn over(nats: &Nats, count: usize, more: &[&str]) -> Self {
        let replicas = nats.len().to_string();
        let url = nats.url();
        let store = ["--store", &url, "--replicas", &replicas];
        let heartbeats: &[&str] = if more.contains(&LONG_HEARTBEATS[0]) { &[] } else { &SHORT_HEARTBEATS };
        let flags = FLAGS.iter().chain(heartbeats).chain(&store).chain(more).map(|flag| (*flag).to_owned()).collect();
        Self::start(count, flags)
    }

    /// Starts all nodes at once, so that they also race to create the log.
    fn start(count: usize, flags: Vec<String>) -> Self {
        let servers = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..count).map(|_| scope.spawn(|| start_one(&flags))).collect();
            starting.into_iter().map(|one| one.join().expect("a node starts")).collect()
        });
        let nodes = Self { servers, flags, addresses: Addresses::default() };
        nodes.tell();
        nodes
    }

    /// Adds a node.
    pub(crate) fn add(&mut self) {
        self.servers.push(start_one(&self.flags));
        self.tell();
    }

    /// Ends a node with SIGKILL, for good. At first clients get no response from its address; once this has been `noticed`, the
    /// node is removed from the list.
    pub(crate) fn kill(&mut self, index: usize, noticed: impl FnOnce()) {
        self.servers[index].signal(nix::sys::signal::Signal::SIGKILL);
        drop(self.servers.remove(index));
        noticed();
        self.tell();
    }

    /// Stops a node with SIGTERM and starts it again, on the same port.
    pub(crate) fn restart(&mut self, index: usize) {
        let server = self.servers.remove(index).stop_and_restart();
        self.servers.insert(index, server);
    }

    /// Ends a node with SIGKILL and starts it again, on the same port.
    pub(crate) fn kill_and_restart(&mut self, index: usize) {
        let server = self.servers.remove(index).kill_and_restart();
        self.servers.insert(index, server);
    }

    pub(crate) fn len(&self) -> usize {
        self.servers.len()
    }

    pub(crate) fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    pub(crate) fn address(&self, index: usize) -> &str {
        self.servers[index].address()
    }

    fn tell(&self) {
        self.addresses.set(self.servers.iter().map(|server| server.address().to_owned()).collect());
    }
}

fn start_one(flags: &[String]) -> Server {
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    Server::start(&flags)
}

/// The cursor at the end of the log, as seen by a node.
pub(crate) async fn end_of_log(address: &str) -> String {
    let info: Value = Request::get("/v1/info").send(address).await.json().await;
    info["cursor"].as_str().unwrap_or_else(|| panic!("no cursor in {info}")).to_owned()
}

/// The name of the log's stream: the only stream that is not of a key-value bucket.
pub(crate) fn stream_of(nats: &Nats) -> String {
    let mut logs: Vec<String> = nats.streams().into_iter().filter(|name| !name.starts_with("KV_")).collect();
    assert_eq!(logs.len(), 1, "one log: {logs:?}");
    logs.remove(0)
}
