//! A load over all transports on all nodes, checked by the ledger.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::task::JoinHandle;

use super::follower::{Done, RoamingSubscriber};
use super::ledger::{Account, END, Part, Promised, judge};
use super::nodes::{Addresses, end_of_log};
use super::publisher::{Publisher, Style};
use crate::support::client::{Kind, Link, Query};

/// The pause of a slow subscriber between two requests: longer than a node's tail covers.
const AWAY: Duration = Duration::from_secs(2);

pub(crate) struct Load {
    nodes: Addresses,
    start: String,
    seed: u64,
    promised: Arc<Mutex<Promised>>,
    stop: Arc<AtomicBool>,
    publishers: Vec<JoinHandle<()>>,
    followers: Vec<JoinHandle<Done>>,
    failures: Arc<AtomicUsize>,
}

/// The result of a load.
pub(crate) struct Report {
    /// The number of events that all subscribers received.
    pub(crate) events: usize,
    /// The longest time without an acknowledgement.
    pub(crate) publish_pause: Duration,
    /// The longest time without an event for a subscriber that is not slow.
    pub(crate) delivery_pause: Duration,
    /// The number of broken or refused connections of subscribers.
    pub(crate) failures: usize,
    /// The number of publishes without an acknowledgement.
    pub(crate) uncertain: usize,
    /// The smallest number of requests of a subscriber, except slow ones.
    pub(crate) fewest_requests: usize,
}

impl Load {
    /// Begins to publish, and to subscribe over every transport, from the current end of the log.
    pub(crate) async fn start(nodes: &Addresses, seed: u64) -> Self {
        let mut load = Self::publishing(nodes, seed).await;
        load.listen(nodes);
        load
    }

    /// Begins to publish.
    pub(crate) async fn publishing(nodes: &Addresses, seed: u64) -> Self {
        let start = end_of_log(&nodes.all()[0]).await;
        let (promised, stop) = (Arc::new(Mutex::new(Promised::default())), Arc::new(AtomicBool::new(false)));
        let styles = [("one", Style::Single), ("two", Style::Keyed), ("three", Style::Batch), ("four", Style::Single)];
        let publishers = styles.iter().enumerate().map(|(number, &(name, style))| {
            let (nodes, promised) = (nodes.clone(), promised.clone());
            let rng = StdRng::seed_from_u64(seed.wrapping_add(number as u64));
            let publisher = Publisher { name, style, nodes, promised, rng, last: String::new() };
            tokio::spawn(publisher.run(stop.clone()))
        });
        let publishers = publishers.collect();
        Self {
            nodes: nodes.clone(),
            start,
            seed,
            promised,
            stop,
            publishers,
            followers: Vec::new(),
            failures: Arc::default(),
        }
    }

    /// Subscribes over every transport, from the beginning of the load, through these addresses.
    pub(crate) fn listen(&mut self, at: &Addresses) {
        let whole = Kind::ALL.map(|kind| (kind, Part::All, Duration::ZERO));
        let parts = [
            (Kind::Ws, Part::Publisher("three"), Duration::ZERO),
            (Kind::Sse, Part::Third(1), Duration::ZERO),
            (Kind::Longpoll, Part::Publisher("one"), Duration::ZERO),
            (Kind::Poll, Part::Third(2), Duration::ZERO),
            (Kind::Stream, Part::All, AWAY),
            (Kind::Jsonp, Part::Third(0), AWAY),
        ];
        let all = whole.into_iter().chain(parts).zip(100..);
        let followers = all.map(|((kind, part, away), number)| {
            let rng = StdRng::seed_from_u64(self.seed.wrapping_add(number));
            tokio::spawn(RoamingSubscriber::new(kind, part, at, &self.start, rng, &self.failures).away(away).run())
        });
        self.followers.extend(followers);
    }

    /// The number of events acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.promised.lock().expect("no publisher panicked").count()
    }

    /// Waits until this number of further events is acknowledged.
    pub(crate) async fn more(&self, count: usize) {
        let goal = self.acknowledged() + count;
        super::until("publishing continues", async || self.acknowledged() >= goal).await;
    }

    /// Waits until a subscriber's connection breaks or is refused.
    pub(crate) async fn failure(&self) {
        let before = self.failures.load(Ordering::Relaxed);
        super::until("a subscriber fails to connect", async || self.failures.load(Ordering::Relaxed) > before).await;
    }

    /// Stops publishing, lets all subscribers reach the end, and checks the ledger.
    pub(crate) async fn judge(self, what: &str) -> Report {
        let (promised, accounts, mut report) = self.finish().await;
        if let Err(wrong) = judge(&promised, &accounts) {
            panic!("{what}: {wrong}");
        }
        assert!(report.fewest_requests > 2, "a subscriber never changed nodes");
        report.events = accounts[0].received.len();
        println!(
            "{what}: {} events, {} of {} publishes without an answer were stored; nothing acknowledged for at most \
             {:.1} s, nothing received for at most {:.1} s; {} connections lost or refused",
            report.events,
            report.events - promised.count(),
            report.uncertain,
            report.publish_pause.as_secs_f64(),
            report.delivery_pause.as_secs_f64(),
            report.failures,
        );
        report
    }

    /// All acknowledgements and received events, once every subscriber is at the end; also each node's view of the log.
    pub(crate) async fn finish(self) -> (Promised, Vec<Account>, Report) {
        self.stop.store(true, Ordering::Relaxed);
        for publisher in self.publishers {
            joined("a publisher", publisher).await;
        }
        let mut last = Publisher {
            name: "end",
            style: Style::Keyed,
            nodes: self.nodes.clone(),
            promised: self.promised.clone(),
            rng: StdRng::seed_from_u64(!self.seed),
            last: String::new(),
        };
        last.publish(&[END.to_owned()]).await;
        let mut accounts = Vec::new();
        let (mut delivery_pause, mut fewest_requests) = (Duration::ZERO, usize::MAX);
        for follower in self.followers {
            let done = joined("a follower", follower).await;
            if done.account.part == Part::All && !done.account.name.contains("slow") {
                fewest_requests = fewest_requests.min(done.requests);
                delivery_pause = delivery_pause.max(done.longest_pause);
            }
            accounts.push(done.account);
        }
        for node in self.nodes.all() {
            accounts.push(history(&node, &self.start).await);
        }
        let promised = self.promised.lock().expect("no publisher panicked").clone();
        let report = Report {
            events: 0,
            publish_pause: promised.longest_pause(),
            delivery_pause,
            failures: self.failures.load(Ordering::Relaxed),
            uncertain: promised.uncertain_count(),
            fewest_requests,
        };
        (promised, accounts, report)
    }
}

async fn joined<T>(name: &str, task: JoinHandle<T>) -> T {
    let ended = tokio::time::timeout(super::DEADLINE, task).await;
    ended.unwrap_or_else(|_| panic!("{name} does not reach the end")).unwrap_or_else(|error| panic!("{name}: {error}"))
}

/// One node's view of the log, read at the end.
async fn history(node: &str, start: &str) -> Account {
    let mut account = Account { name: format!("the history of {node}"), part: Part::All, received: Vec::new() };
    let mut cursor = start.to_owned();
    loop {
        let query = Query::topics(Part::All.patterns()).with("cursor", &cursor).with("limit", 1000);
        let batch = Link::to(node, Kind::Poll, &query).await.batch().await;
        for item in &batch.events {
            assert!(!item.is_control(), "{node}: {item:?}");
            let marker = item.value()["marker"].as_str().expect("a marker").to_owned();
            account.received.push((item.at(), marker));
        }
        let next = batch.cursor.expect("a batch has a cursor");
        if batch.events.is_empty() && next == cursor {
            return account;
        }
        cursor = next;
    }
}
