//! The servers of a test, and where clients find them.

use std::sync::{Arc, RwLock};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::Value;

use crate::support::Server;
use crate::support::http::Request;
use crate::support::nats::Nats;

/// What every node is started with: quick heartbeats, and a tail so short that those who lag have to read the store.
const FLAGS: [&str; 8] = ["--workers", "1", "--heartbeat", "1s", "--drain", "300ms", "--tail-events", "200"];

/// Where the nodes are at present; whoever holds it sees them come and go.
#[derive(Clone, Default)]
pub(crate) struct Addresses(Arc<RwLock<Vec<String>>>);

impl Addresses {
    pub(crate) fn of(all: Vec<String>) -> Self {
        Self(Arc::new(RwLock::new(all)))
    }

    /// Another than the last, where there is another.
    pub(crate) fn another(&self, last: &str, rng: &mut StdRng) -> String {
        let all = self.all();
        let others: Vec<&String> = all.iter().filter(|address| *address != last).collect();
        match others.len() {
            0 => last.to_owned(),
            count => others[rng.random_range(0..count)].clone(),
        }
    }

    pub(crate) fn all(&self) -> Vec<String> {
        self.0.read().expect("nobody panicked").clone()
    }

    fn set(&self, all: Vec<String>) {
        *self.0.write().expect("nobody panicked") = all;
    }
}

/// Nodes that share a log. All of them end when it is dropped.
pub(crate) struct Nodes {
    servers: Vec<Server>,
    flags: Vec<String>,
    addresses: Addresses,
}

impl Nodes {
    /// One node with a log on disk.
    pub(crate) fn on_disk() -> Self {
        Self::start(1, FLAGS.map(str::to_owned).into())
    }

    /// So many nodes over NATS, with these flags besides the usual.
    pub(crate) fn over(nats: &Nats, count: usize, more: &[&str]) -> Self {
        let replicas = nats.len().to_string();
        let url = nats.url();
        let store = ["--store", &url, "--replicas", &replicas];
        let flags = FLAGS.iter().chain(&store).chain(more).map(|flag| (*flag).to_owned()).collect();
        Self::start(count, flags)
    }

    /// All at once, so that they also race for making the log.
    fn start(count: usize, flags: Vec<String>) -> Self {
        let servers = std::thread::scope(|scope| {
            let starting: Vec<_> = (0..count).map(|_| scope.spawn(|| start_one(&flags))).collect();
            starting.into_iter().map(|one| one.join().expect("a node starts")).collect()
        });
        let nodes = Self { servers, flags, addresses: Addresses::default() };
        nodes.tell();
        nodes
    }

    /// One more.
    pub(crate) fn add(&mut self) {
        self.servers.push(start_one(&self.flags));
        self.tell();
    }

    /// Ends one with SIGKILL, for good. Clients learn of it as one learns of such things: nobody answers, then, once
    /// that has been `noticed`, it is off the list.
    pub(crate) fn kill(&mut self, index: usize, noticed: impl FnOnce()) {
        self.servers[index].signal(nix::sys::signal::Signal::SIGKILL);
        drop(self.servers.remove(index));
        noticed();
        self.tell();
    }

    /// Stops one with SIGTERM and starts it again, on the same port.
    pub(crate) fn restart(&mut self, index: usize) {
        let server = self.servers.remove(index).stop_and_restart();
        self.servers.insert(index, server);
    }

    /// Ends one with SIGKILL and starts it again, on the same port.
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

/// The log's end, as a node sees it.
pub(crate) async fn end_of_log(address: &str) -> String {
    let info: Value = Request::get("/v1/info").send(address).await.json().await;
    info["cursor"].as_str().unwrap_or_else(|| panic!("no cursor in {info}")).to_owned()
}

/// The name of the stream that is the log: the only one that no key-value bucket stands on.
pub(crate) fn stream_of(nats: &Nats) -> String {
    let mut logs: Vec<String> = nats.streams().into_iter().filter(|name| !name.starts_with("KV_")).collect();
    assert_eq!(logs.len(), 1, "one log: {logs:?}");
    logs.remove(0)
}
