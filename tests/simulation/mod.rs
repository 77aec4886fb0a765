//! The delivery core under a deterministic simulation: simulated time, random faults, one seed a run.
//!
//! A run is a world of one memory store, one worker's tail and subscription index, and a few clients, each on some transport. At every
//! step the world does one thing at random: it publishes (to few topics, so that patterns overlap), lets time pass, lets a
//! client's socket accept bytes or stall, loses a connection (with bytes written but not received), trims, loses a batch of the
//! feed, or drains. In some worlds topics have rules of retention, by which events are removed from the middle of the log, values are
//! deleted, and topics are erased. A connection may be paced, and may be of `latest`: then an event may be missing whose topic has a later one in
//! the log, and in the first round exactly those are missing that have one at or before the round's end. Every item is checked for: an event missing, repeated or out of order without a `$gap`; a gap where no
//! subscribed event was removed that was owed; a long poll that outlives its deadline; a stream that is silent for longer than a heartbeat;
//! a connection that spins; `$live` that is early, late or repeated.
//!
//! Stream drivers, with their direct writes, have a simulation of their own: `src/http/driver/simulation.rs`.
//!
//! `SIMULATION_SEED=n` runs one seed again; `SIMULATION_RUNS=n` sets the number of runs.

mod silence;

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use switchback::clock::Moment;
use switchback::cursor::{Cursor, Position};
use switchback::delivery::{Completion, Delivery, Plan, StartPoint, Step, gap_at};
use switchback::event::Event;
use switchback::store::{
    Feed, FeedBatch, KeepRules, MemoryStore, ReadMode, ReadRequest, Retention, Store, StoreOptions,
};
use switchback::subscription_index::{SubscriptionIndex, SubscriptionKey};
use switchback::tail::{Tail, TailLimits};
use switchback::topic::PatternSet;
use switchback::transport::Transport;
use switchback::wire::{ByeReason, Framing};
use switchback::{Data, NewEvent};

const HEARTBEAT: Duration = Duration::from_secs(20);
const DRAIN: Duration = Duration::from_secs(10);
const WAIT: Duration = Duration::from_secs(25);
const TOPICS: [&str; 6] = ["a.1", "a.2", "b.1", "b.2.x", "c", "busy"];
const SUBSCRIPTIONS: [&[&str]; 7] =
    [&["a.1"], &["a.*"], &[">"], &["b.>", "a.1"], &["c", "b.1", "b.1"], &["*.1"], &["never"]];

#[derive(Default)]
struct Inbox(Mutex<Vec<FeedBatch>>);

impl Feed for Inbox {
    fn push(&self, batch: FeedBatch) {
        self.0.lock().unwrap().push(batch);
    }
}

struct World {
    rng: SmallRng,
    now: Instant,
    store: MemoryStore,
    inbox: Arc<Inbox>,
    tail: Tail,
    subscription_index: SubscriptionIndex,
    /// The external ledger: every position with its topic.
    ledger: BTreeMap<u64, &'static str>,
    floor: u64,
    draining: bool,
    /// When the world began.
    began: Instant,
    /// Whether topics have rules.
    has_rules: bool,
    /// What the store has, as of the last change.
    retained: BTreeSet<u64>,
    /// The newest event that was compared with that.
    noted: u64,
    /// Events that were removed and are owed, and whether they were erased.
    lost: BTreeMap<u64, bool>,
}

/// The rules of those worlds that have any.
const RULES: [&str; 4] = ["b.1=latest", "b.>=latest,40s", "busy=20 events", "a.1=30s"];

/// How long deletions are kept there.
const DELETIONS: Duration = Duration::from_secs(100);

/// Whether a topic is a value there.
fn is_value(topic: &str) -> bool {
    topic.starts_with("b.")
}

struct Client {
    patterns: PatternSet,
    /// The cursor that the client has received for sure, and presents.
    cursor: Option<Cursor>,
    /// The position up to which the client's events have been checked.
    checked: u64,
    /// How the present connection reads.
    mode: ReadMode,
    /// The end of the round that the last response was in.
    upto: Option<u64>,
    /// The end of the present connection's first round; of a batch, that of its own round.
    round_end: u64,
    /// The log's end at the present connection's beginning.
    begun: u64,
    /// Whether the present connection's past is over, as the client knows.
    live: bool,
    connection: Option<Connection>,
    stalled: bool,
    received: u64,
}

struct Connection {
    delivery: Delivery,
    key: SubscriptionKey,
    completion: Completion,
    opened: Instant,
    last_bytes: Instant,
    /// The deadline that the delivery has returned.
    wait_until: Option<Instant>,
    begun: bool,
    finished: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let retention = Retention {
            events_max: [None, Some(5), Some(40), Some(300)][rng.random_range(0..4)],
            ..Retention::default()
        };
        let has_rules = rng.random_bool(0.4);
        let rules = RULES.iter().filter(|_| has_rules).map(|text| text.parse().unwrap());
        let keep = Arc::new(KeepRules::new(rules.collect(), DELETIONS).unwrap());
        let store = MemoryStore::new(StoreOptions { retention, keep, ..StoreOptions::default() });
        let inbox = Arc::new(Inbox::default());
        store.follow(Position::ZERO, inbox.clone());
        let limits = TailLimits { events_max: [1, 10, 100, 10_000][rng.random_range(0..4)], bytes_max: 1 << 20 };
        let tail = Tail::new(store.bounds(), Position::ZERO, limits);
        let now = Instant::now();
        Self {
            rng,
            now,
            store,
            inbox,
            tail,
            subscription_index: SubscriptionIndex::default(),
            ledger: BTreeMap::new(),
            floor: 0,
            draining: false,
            began: now,
            has_rules,
            retained: BTreeSet::new(),
            noted: 0,
            lost: BTreeMap::new(),
        }
    }

    fn now_ms(&self) -> u64 {
        (self.now - self.began).as_millis() as u64
    }

    fn publish(&mut self) {
        let count = if self.rng.random_bool(0.1) { self.rng.random_range(1..200) } else { self.rng.random_range(1..4) };
        let drafts = (0..count).map(|_| {
            let topic = if self.rng.random_bool(0.7) { "busy" } else { TOPICS[self.rng.random_range(0..TOPICS.len())] };
            let position = self.ledger.keys().next_back().copied().unwrap_or(0) + 1;
            self.ledger.insert(position, topic);
            let now_ms = (self.now - self.began).as_millis() as u64;
            if self.has_rules && self.rng.random_bool(0.1) {
                return NewEvent::deletion(topic.parse().unwrap()).draft(now_ms);
            }
            NewEvent::new(topic.parse().unwrap(), Data::text("x")).draft(now_ms)
        });
        let appended = self.store.append(drafts.collect()).now_or_never().unwrap().unwrap();
        assert_eq!(appended.last().unwrap().position.0, *self.ledger.keys().next_back().unwrap());
        self.note_removed(false);
    }

    /// Applies the rules, or erases a topic.
    fn remove(&mut self) {
        if !self.has_rules {
            return;
        }
        if self.rng.random_bool(0.2) {
            let topic = TOPICS[self.rng.random_range(0..TOPICS.len())];
            self.store.erase(topic.parse().unwrap()).now_or_never().unwrap().unwrap();
            return self.note_removed(true);
        }
        self.store.maintain(Moment::at(self.now_ms()));
        // The store itself may have deleted values.
        let last = self.ledger.keys().next_back().copied().unwrap_or(0);
        for event in self.read_all(last) {
            let topic = TOPICS.into_iter().find(|topic| *topic == event.topic().as_str()).unwrap();
            assert!(event.is_deletion() && event.name() == Some("expired") && is_value(topic));
            self.ledger.insert(event.position().0, topic);
        }
        self.note_removed(false);
    }

    /// What the store has after a position.
    fn read_all(&self, mut after: u64) -> Vec<Arc<Event>> {
        let mut events = Vec::new();
        while Position(after) < self.store.bounds().last {
            let request = ReadRequest {
                patterns: PatternSet::everything(),
                after: Position(after),
                events_max: usize::MAX,
                bytes_max: usize::MAX,
                rows_max: u64::MAX,
                latest_upto: None,
            };
            let page = self.store.read(request).now_or_never().unwrap().unwrap();
            assert!(page.through.0 > after);
            after = page.through.0;
            events.extend(page.events);
        }
        events
    }

    /// Compares with what the store had before.
    fn note_removed(&mut self, is_erased: bool) {
        self.floor = self.store.bounds().floor.0;
        if !self.has_rules {
            return;
        }
        let retained: BTreeSet<u64> = self.read_all(0).iter().map(|event| event.position().0).collect();
        let known = std::mem::replace(&mut self.noted, self.ledger.keys().next_back().copied().unwrap_or(0));
        let had = self.retained.iter().copied().chain(self.ledger.range(known + 1..).map(|(at, _)| *at));
        let gone: Vec<u64> = had.filter(|at| !retained.contains(at)).collect();
        for at in gone {
            // A superseded event of a value is owed to nobody, unless it is erased with its value.
            if is_erased || !is_value(self.ledger[&at]) || self.next_of_topic(at).is_none() {
                self.lost.insert(at, is_erased);
            }
        }
        self.retained = retained;
    }

    /// Whether an event is still to be received by a reader before it: it is in the store, or it is the newest one that its topic
    /// lost, which is told.
    fn is_due(&self, at: u64) -> bool {
        if !self.has_rules || self.retained.contains(&at) {
            return true;
        }
        let Some(is_erased) = self.lost.get(&at) else { return false };
        let topic = self.ledger[&at];
        !self.lost.range(at + 1..).any(|(later, erased)| self.ledger[later] == topic && erased == is_erased)
    }

    /// The feed arrives; now and then a batch is lost, as from a full channel.
    fn pump(&mut self) {
        let batches = std::mem::take(&mut *self.inbox.0.lock().unwrap());
        for batch in batches {
            if self.rng.random_bool(0.02) {
                continue;
            }
            if self.tail.push(&batch) {
                self.subscription_index.invalidate();
            }
            for event in &batch.events {
                self.subscription_index.record_match(event.topic(), event.position());
            }
        }
        // The loss of the last batch is noticed by its count, as in the hub's inbox.
        let last = self.store.bounds().last;
        if self.tail.end() < last {
            self.tail.reset(last);
            self.subscription_index.invalidate();
        }
    }

    fn connect(&mut self, client: &mut Client) {
        let transport = Transport::ALL[self.rng.random_range(0..7)];
        let completion = match transport {
            Transport::Poll => Completion::ShortPoll,
            Transport::Longpoll | Transport::Jsonp => Completion::LongPoll { until: self.now + WAIT },
            Transport::Iframe => Completion::Stream { bytes_max: Some(3000), until: None, pings: false },
            Transport::Sse | Transport::Stream => Completion::Stream {
                bytes_max: None,
                until: self.rng.random_bool(0.5).then(|| self.now + Duration::from_secs(90)),
                pings: false,
            },
            Transport::Ws | Transport::Echo => Completion::Stream { bytes_max: None, until: None, pings: false },
        };
        let framing = match completion {
            Completion::Stream { .. } => Framing::Lines,
            _ => Framing::Json,
        };
        let bounds = self.store.bounds();
        let cursor = client.cursor.unwrap_or_else(|| {
            client.checked = bounds.last.0;
            Cursor::new(bounds.epoch, bounds.last)
        });
        client.cursor = Some(cursor);
        let start = StartPoint::after(cursor, gap_at(cursor, &bounds));
        assert_eq!(start.gap, None, "the cursor is of this log");
        let plan = Plan {
            framing,
            completion,
            client: uuid::Uuid::nil(),
            known: true,
            transport,
            heartbeat: HEARTBEAT,
            events_max: self.rng.random_range(1..50),
            jitter: self.rng.random(),
        };
        let key = self.subscription_index.register(&client.patterns);
        let mut delivery = Delivery::new(self.now, plan, client.patterns.clone(), start);
        client.mode = ReadMode { latest: self.rng.random_bool(0.5), pace_ms: [0, 0, 900][self.rng.random_range(0..3)] };
        let upto = client.upto.filter(|_| client.mode.latest && self.rng.random_bool(0.7));
        delivery.read_in_rounds(client.mode, upto.map(Position));
        client.upto = upto.filter(|upto| *upto > cursor.position.0);
        client.connection = Some(Connection {
            delivery,
            key,
            completion,
            opened: self.now,
            last_bytes: self.now,
            wait_until: None,
            begun: false,
            finished: false,
        });
    }

    /// Drives a connection as the HTTP layer does: until it waits or its socket is full.
    fn drive(&mut self, client: &mut Client) {
        let Some(mut connection) = client.connection.take() else { return };
        if self.draining {
            connection.delivery.drain(self.now, DRAIN);
        }
        let room = if client.stalled { 0 } else { self.rng.random_range(1..5) };
        let mut steps = 0;
        let mut lost = false;
        for _ in 0..room {
            let mut out = BytesMut::new();
            if !std::mem::replace(&mut connection.begun, true) {
                (client.begun, client.live) = (self.tail.end().0, false);
                client.round_end = client.upto.unwrap_or(client.begun);
            }
            loop {
                steps += 1;
                assert!(steps < 10_000, "a connection spins");
                let pending = self.subscription_index.pending(connection.key);
                let step = connection.delivery.step(self.now, &self.tail, pending, &mut out);
                if connection.delivery.is_caught_up(&self.tail) {
                    self.subscription_index.mark_caught_up(connection.key);
                }
                match step {
                    Step::Fetch(request) => {
                        assert!(request.after < self.tail.end());
                        let page = self.store.read(request).now_or_never().unwrap().unwrap();
                        connection.delivery.fetched(self.now, page);
                    }
                    Step::Yield => {}
                    Step::Write => break,
                    Step::Wait(until) => {
                        connection.wait_until = until;
                        assert!(until.is_some_and(|until| until > self.now), "the deadline is in the future");
                        break;
                    }
                    Step::Finish => {
                        connection.finished = true;
                        break;
                    }
                }
            }
            if !out.is_empty() {
                connection.last_bytes = self.now;
                // A batch is written whole, and ends its connection.
                connection.finished |= !matches!(connection.completion, Completion::Stream { .. });
                // Written bytes are not received yet: they may be lost with the connection.
                if self.rng.random_bool(0.1) {
                    lost = true;
                    break;
                }
                self.receive(client, &connection, &out);
            }
        }
        let age = self.now - connection.opened;
        match connection.completion {
            Completion::LongPoll { .. } if !client.stalled && !lost => {
                assert!(connection.finished || age < WAIT, "a long poll outlives its deadline");
            }
            Completion::Stream { .. } if !client.stalled && !lost && !connection.finished && room > 3 => {
                assert!(
                    self.now - connection.last_bytes <= HEARTBEAT,
                    "a stream is silent for longer than a heartbeat"
                );
            }
            _ => {}
        }
        if lost || connection.finished {
            self.subscription_index.remove(connection.key);
        } else {
            client.connection = Some(connection);
        }
    }

    fn receive(&mut self, client: &mut Client, connection: &Connection, bytes: &[u8]) {
        let text = std::str::from_utf8(bytes).unwrap();
        let batch = !matches!(connection.completion, Completion::Stream { .. });
        for line in text.lines() {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            let items = if batch { value["events"].as_array().unwrap().clone() } else { vec![value.clone()] };
            let cursor: Cursor = value["cursor"].as_str().unwrap().parse().unwrap();
            let upto = value["upto"].as_str().map(|upto| upto.parse::<Cursor>().unwrap().position.0);
            if batch {
                assert_eq!(value["live"] == true, cursor.position.0 >= client.begun);
                assert!(client.mode.latest || upto.is_none());
                // A round without events may have ended before.
                client.round_end = upto.unwrap_or(cursor.position.0);
            }
            for item in &items {
                self.check(client, item, !batch);
            }
            self.advance(client, cursor.position.0);
            client.cursor = Some(cursor);
            client.upto = upto.or(client.upto);
        }
    }

    fn check(&mut self, client: &mut Client, item: &serde_json::Value, is_stream: bool) {
        let cursor: Cursor = item["cursor"].as_str().unwrap().parse().unwrap();
        let position = cursor.position.0;
        match item["event"].as_str().unwrap() {
            "$hello" => {
                client.live = item["data"]["live"] == true;
                assert_eq!(client.live, position >= client.begun);
                self.advance(client, position);
            }
            "$live" => {
                assert!(!std::mem::replace(&mut client.live, true), "`$live` comes once");
                assert!(position >= client.begun, "`$live` comes too early");
                self.advance(client, position);
            }
            "$beat" | "$bye" => self.advance(client, position),
            "$gap" => {
                assert_eq!(item["data"]["to"], item["cursor"]);
                let in_gap: Vec<u64> = self.wanted(client, client.checked, position).collect();
                if self.has_rules {
                    let lost: Vec<bool> = in_gap.iter().filter_map(|at| self.lost.get(at).copied()).collect();
                    assert!(!lost.is_empty(), "a gap where no subscribed event was removed that is owed");
                    let is_there = |at: &&u64| self.retained.contains(at) && !self.is_passed_over(client, **at);
                    assert_eq!(in_gap.iter().find(is_there), None, "a gap over an event that is there");
                    let is_erased = item["data"]["reason"] == "erased";
                    assert!(is_erased || item["data"]["reason"] == "expired");
                    assert!(lost.contains(&is_erased), "a gap for another reason");
                } else {
                    assert_eq!(item["data"]["reason"], "expired");
                    assert!(!in_gap.is_empty(), "a gap where no subscribed event was trimmed");
                    assert!(position <= self.floor, "a gap over events that are not trimmed");
                }
                client.checked = position;
            }
            _ => {
                assert_eq!(item["topic"], self.ledger[&position]);
                let expected = self.wanted(client, client.checked, u64::MAX).find(|next| *next == position);
                assert_eq!(expected, Some(position), "a subscribed event that is next");
                assert!(!self.is_superseded(client, position), "an event of a round has a later one in the round");
                assert!(client.live || !is_stream || position <= client.begun, "`$live` comes too late");
                self.advance(client, position - 1);
                client.checked = position;
                client.received += 1;
            }
        }
    }

    /// A cursor was delivered: no subscribed event may lie between the last checked position and this cursor, except superseded
    /// ones.
    fn advance(&self, client: &mut Client, position: u64) {
        assert!(position >= client.checked, "a cursor goes back");
        let skipped = self
            .wanted(client, client.checked, position)
            .find(|at| self.is_due(*at) && !self.is_passed_over(client, *at));
        assert_eq!(skipped, None, "an event was skipped without a gap");
        client.checked = position;
    }

    /// Whether an event has a later one of its topic in its round.
    fn is_passed_over(&self, client: &Client, at: u64) -> bool {
        let is_later_round = at > client.round_end && client.mode.latest;
        self.is_superseded(client, at) || is_later_round && self.next_of_topic(at).is_some()
    }

    /// Whether an event has a later one of its topic in the first round.
    fn is_superseded(&self, client: &Client, position: u64) -> bool {
        client.mode.latest && self.next_of_topic(position).is_some_and(|next| next <= client.round_end)
    }

    /// The topic's next event.
    fn next_of_topic(&self, position: u64) -> Option<u64> {
        let topic = self.ledger[&position];
        self.ledger.range(position + 1..).find(|(_, other)| **other == topic).map(|(next, _)| *next)
    }

    fn wanted<'a>(&'a self, client: &'a Client, after: u64, through: u64) -> impl Iterator<Item = u64> + 'a {
        let range = self.ledger.range(after + 1..).take_while(move |(position, _)| **position <= through);
        range.filter(|(_, topic)| client.patterns.matches(topic)).map(|(position, _)| *position)
    }
}

fn run(seed: u64) -> u64 {
    let mut world = World::new(seed);
    let clients = RefCell::new(Vec::new());
    for _ in 0..world.rng.random_range(1..5) {
        let texts = SUBSCRIPTIONS[world.rng.random_range(0..SUBSCRIPTIONS.len())];
        let patterns = PatternSet::new(texts.iter().map(|text| text.parse().unwrap())).unwrap();
        clients.borrow_mut().push(Client {
            patterns,
            cursor: None,
            checked: 0,
            mode: ReadMode::default(),
            upto: None,
            round_end: 0,
            begun: 0,
            live: false,
            connection: None,
            stalled: false,
            received: 0,
        });
    }
    let steps = world.rng.random_range(20..150);
    for _ in 0..steps {
        match world.rng.random_range(0..100) {
            0..45 => world.publish(),
            62..75 => world.remove(),
            45..60 => world.now += Duration::from_millis(world.rng.random_range(0..15_000)),
            60..62 => {
                world.draining = !world.draining;
                world.subscription_index.wake_all();
            }
            _ => {}
        }
        if world.rng.random_bool(0.8) {
            world.pump();
        }
        for client in clients.borrow_mut().iter_mut() {
            if world.rng.random_bool(0.1) {
                client.stalled = !client.stalled;
            }
            match &mut client.connection {
                None => {
                    // A worker whose tail ends before the cursor waits for its feed before the delivery starts.
                    world.pump();
                    world.connect(client);
                }
                Some(connection) if world.rng.random_bool(0.02) => {
                    connection.delivery.end(world.now, ByeReason::Kicked);
                }
                Some(_) => {}
            }
            world.drive(client);
        }
    }
    // No more faults: every connected client receives every event.
    world.pump();
    world.draining = false;
    let mut clients = clients.into_inner();
    clients.iter_mut().for_each(|client| client.stalled = false);
    for client in &mut clients {
        let last = world.ledger.keys().next_back().copied().unwrap_or(0);
        for _ in 0..20_000 {
            let is_due = |at: u64| world.is_due(at);
            if !world.wanted(client, client.checked, last).any(is_due) && client.cursor.is_some() {
                break;
            }
            if client.connection.is_none() {
                world.connect(client);
            }
            if client.mode.pace_ms > 0 {
                world.now += Duration::from_millis(100);
            }
            world.drive(client);
        }
        assert_eq!(
            world.wanted(client, client.checked, last).find(|at| world.is_due(*at)),
            None,
            "an event never arrived"
        );
    }
    clients.iter().map(|client| client.received).sum()
}

#[test]
fn every_client_gets_each_event_once_in_order_or_a_gap() {
    let started = Instant::now();
    let Some(outcomes) = crate::support::seeds::run(3000, run) else { return };
    let (runs, received) = (outcomes.len() as u64, outcomes.iter().sum::<u64>());
    assert!(received > runs, "the simulation delivers events: {received}");
    println!("{received} events received, in {:?}", started.elapsed());
}
