//! The external ledger: publishers record every acknowledgement, followers record every event, and the two are compared.

use std::collections::{BTreeMap, HashSet};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http::{Answer, Connection};
use crate::support::raw::{self, Items, STREAMS, position};

/// The pause before a retry.
const RETRY: Duration = Duration::from_millis(15);

/// The style of a publisher.
#[derive(Clone, Copy, Debug)]
enum Style {
    /// One event a request, without an id: a request without a response is not retried.
    Single,
    /// One event a request, with an id, retried until it is acknowledged.
    Keyed,
    /// Several events a request with ids, retried until they are acknowledged.
    Batch,
}

#[derive(Default)]
struct Promised {
    /// The acknowledged position of each event.
    positions: BTreeMap<String, u64>,
    /// Events without a response: each may be stored, at most once.
    unanswered: HashSet<String>,
}

/// Events in the order of delivery: position and marker.
type Log = Vec<(u64, String)>;

/// A load on a server, and its ledger.
pub(crate) struct Load {
    address: String,
    epoch: String,
    promised: Arc<Mutex<Promised>>,
    stop: Arc<AtomicBool>,
    /// The end of the log, once publishing has stopped.
    end: Arc<AtomicU64>,
    publishers: Vec<tokio::task::JoinHandle<()>>,
    followers: Vec<(&'static str, tokio::task::JoinHandle<Log>)>,
}

impl Load {
    /// Begins to publish and to follow, from the current end of the log.
    pub(crate) async fn start(server: &Server, transports: &[&'static str]) -> Self {
        let address = server.address().to_owned();
        let info = raw::get(&address, "/v1/info").await.expect("an answer").json();
        let epoch = info["epoch"].as_str().expect("an epoch").to_owned();
        let cursor = info["cursor"].as_str().expect("a cursor").to_owned();
        let promised = Arc::new(Mutex::new(Promised::default()));
        let (stop, end) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(u64::MAX)));
        let styles = [("one", Style::Single), ("two", Style::Keyed), ("three", Style::Batch), ("four", Style::Single)];
        let publishers = styles.map(|(name, style)| {
            let publisher = Publisher {
                address: address.clone(),
                name,
                style,
                promised: promised.clone(),
                connection: None,
                answered: None,
                lost: false,
            };
            tokio::spawn(publisher.run(stop.clone()))
        });
        let followers = transports.iter().map(|transport| {
            let follower = Follower { cursor: cursor.clone(), seen: Vec::new(), end: end.clone() };
            (*transport, tokio::spawn(follower.run(address.clone(), transport)))
        });
        let followers = followers.collect();
        Self { address, epoch, promised, stop, end, publishers: publishers.into(), followers }
    }

    /// The number of events acknowledged so far.
    pub(crate) fn acknowledged(&self) -> usize {
        self.promised.lock().expect("no publisher panicked").positions.len()
    }

    /// Stops publishing, lets the followers catch up, and checks the ledger. Returns the number of events.
    pub(crate) async fn judge(self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        for publisher in self.publishers {
            super::within("the publishers", publisher).await.expect("a publisher does not panic");
        }
        let info = raw::get(&self.address, "/v1/info").await.expect("an answer").json();
        assert_eq!(info["epoch"], self.epoch.as_str(), "the log is another one");
        self.end.store(position(&info["cursor"]), Ordering::Relaxed);
        let log: Log = raw::history(&self.address, "load.%3E").await.iter().map(noted).collect();
        check_promises(&log, &self.promised.lock().expect("no publisher panicked"));
        for (transport, follower) in self.followers {
            let seen = super::within("a follower", follower).await.expect("a follower does not panic");
            for (seen, there) in seen.iter().zip(&log) {
                assert_eq!(seen, there, "over {transport}");
            }
            assert_eq!(seen.len(), log.len(), "over {transport}");
        }
        log.len()
    }
}

/// Asserts that every acknowledged event is at its position, no event is stored twice, and no other events are stored.
fn check_promises(log: &Log, promised: &Promised) {
    let mut found = BTreeMap::new();
    let mut before: BTreeMap<&str, u64> = BTreeMap::new();
    let mut last = 0;
    for (position, marker) in log {
        assert!(*position > last, "{marker} is out of order: {position} after {last}");
        last = *position;
        assert!(found.insert(marker.clone(), *position).is_none(), "{marker} is stored twice");
        let known = promised.positions.contains_key(marker) || promised.unanswered.contains(marker);
        assert!(known, "{marker} was never published");
        // Each publisher sends one request after the other.
        let (name, number) = marker.split_once('-').expect("a marker has two parts");
        let number: u64 = number.parse().expect("a number");
        assert!(before.insert(name, number).is_none_or(|before| before < number), "{marker} comes too late");
    }
    for (marker, position) in &promised.positions {
        assert_eq!(found.get(marker), Some(position), "{marker} was acknowledged");
    }
}

fn noted(item: &Value) -> (u64, String) {
    let marker = item["data"]["marker"].as_str().unwrap_or_else(|| panic!("not one of ours: {item}"));
    (position(&item["cursor"]), marker.to_owned())
}

struct Publisher {
    address: String,
    name: &'static str,
    style: Style,
    promised: Arc<Mutex<Promised>>,
    connection: Option<Connection>,
    /// The last acknowledged request with ids.
    answered: Option<(Vec<String>, String)>,
    /// Whether the connection was lost since.
    lost: bool,
}

impl Publisher {
    async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let count = if matches!(self.style, Style::Batch) { 1 + number % 7 } else { 1 };
            let markers: Vec<String> =
                (number..number + count).map(|number| format!("{}-{number}", self.name)).collect();
            number += count;
            self.publish(&markers).await;
        }
    }

    async fn publish(&mut self, markers: &[String]) {
        let events: Vec<Value> = markers
            .iter()
            .map(|marker| {
                let mut event = json!({ "topic": format!("load.{}", self.name), "data": { "marker": marker } });
                if !matches!(self.style, Style::Single) {
                    event["id"] = marker.as_str().into();
                }
                event
            })
            .collect();
        let body = if matches!(self.style, Style::Batch) { Value::from(events) } else { events[0].clone() }.to_string();
        if self.lost
            && let Some((markers, body)) = self.answered.take()
        {
            // The ids of acknowledged events are still remembered.
            self.settle(&markers, &body, true).await;
        }
        self.settle(markers, &body, false).await;
        if !matches!(self.style, Style::Single) {
            self.answered = Some((markers.to_vec(), body));
        }
    }

    /// Retries until there is a response, or no retry is allowed.
    async fn settle(&mut self, markers: &[String], body: &str, repeated: bool) {
        loop {
            match self.send(body).await {
                Ok(answer) if answer.status() == 201 => {
                    self.lost &= !repeated;
                    return self.note(markers, &answer.json(), repeated);
                }
                // A refused event is not stored, so a retry cannot store it twice.
                Ok(answer) if answer.status() == 503 => {
                    assert!(answer.head.header("retry-after").is_some(), "{answer:?}")
                }
                Ok(answer) => panic!("{answer:?}"),
                Err(_) => {
                    self.connection = None;
                    self.lost = true;
                    if matches!(self.style, Style::Single) {
                        let mut promised = self.promised.lock().expect("the lock is not poisoned");
                        promised.unanswered.extend(markers.iter().cloned());
                        return;
                    }
                }
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn send(&mut self, body: &str) -> io::Result<Answer> {
        let connection = loop {
            match &mut self.connection {
                Some(connection) => break connection,
                None => match Connection::open(&self.address).await {
                    Ok(connection) => self.connection = Some(connection),
                    Err(_) => tokio::time::sleep(RETRY).await,
                },
            }
        };
        connection.post("/v1/events", "application/json", body.as_bytes()).await?;
        let answer = connection.answer().await?;
        if answer.head.header("connection").is_some_and(|connection| connection.eq_ignore_ascii_case("close")) {
            self.connection = None;
        }
        Ok(answer)
    }

    fn note(&self, markers: &[String], answer: &Value, known: bool) {
        let outcomes = match &answer["events"] {
            Value::Array(outcomes) => outcomes.clone(),
            _ => vec![answer.clone()],
        };
        assert_eq!(outcomes.len(), markers.len(), "{answer}");
        let positions: Vec<u64> = outcomes.iter().map(|outcome| position(&outcome["cursor"])).collect();
        assert!(
            positions.windows(2).all(|two| two[0] + 1 == two[1]),
            "the positions of a batch are consecutive: {answer}"
        );
        assert_eq!(position(&answer["cursor"]), positions[positions.len() - 1]);
        let repeated = outcomes.iter().filter(|outcome| outcome["duplicate"] == true).count();
        assert!(repeated == 0 || repeated == outcomes.len(), "a batch is stored whole or not at all: {answer}");
        assert!(repeated == 0 || !matches!(self.style, Style::Single), "{answer}");
        assert!(!known || repeated > 0, "{markers:?} were acknowledged, and their ids are forgotten: {answer}");
        let mut promised = self.promised.lock().expect("the lock is not poisoned");
        for (marker, position) in markers.iter().zip(positions) {
            let before = promised.positions.insert(marker.clone(), position);
            assert!(before.is_none_or(|before| before == position), "{marker} was at {before:?}: {answer}");
        }
    }
}

struct Follower {
    cursor: String,
    seen: Log,
    end: Arc<AtomicU64>,
}

impl Follower {
    async fn run(mut self, address: String, transport: &'static str) -> Log {
        let stream = STREAMS.contains(&transport);
        while !self.is_done() {
            let query = format!("topic=load.%3E&cursor={}", self.cursor);
            let ended =
                if stream { self.stream(&address, transport, &query).await } else { self.hold(&address, &query).await };
            if ended.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        }
        self.seen
    }

    fn is_done(&self) -> bool {
        let end = self.end.load(Ordering::Relaxed);
        end != u64::MAX && position(&Value::from(self.cursor.as_str())) >= end
    }

    async fn stream(&mut self, address: &str, transport: &'static str, query: &str) -> io::Result<()> {
        let mut items = Items::open(address, transport, query).await?;
        while !self.is_done() {
            match tokio::time::timeout(RETRY, items.next()).await {
                Err(_) => {}
                Ok(item) => match item? {
                    Some(item) => self.take(&item),
                    None => return Ok(()),
                },
            }
        }
        Ok(())
    }

    async fn hold(&mut self, address: &str, query: &str) -> io::Result<()> {
        let (cursor, events) = raw::poll(address, &format!("/v1/longpoll?{query}&wait=1")).await?;
        for item in &events {
            self.take(item);
        }
        self.cursor = cursor;
        Ok(())
    }

    fn take(&mut self, item: &Value) {
        match item["event"].as_str() {
            Some("$hello" | "$live" | "$beat" | "$bye") => {}
            Some(name) if name.starts_with('$') => panic!("{item}"),
            _ => self.seen.push(noted(item)),
        }
        self.cursor = item["cursor"].as_str().expect("every item has a cursor").to_owned();
    }
}
