//! Deterministic simulation of streams: the real hub, worker, drivers and direct writes, with simulated sockets, simulated
//! time and random faults, from one seed a run.
//!
//! Sockets take a random number of bytes, also up to the middle of an item, or none for a while; connections are lost with
//! bytes that were written and not received; the store responds late, with an empty page, or not at all; a worker's inbox
//! overflows; clients are kicked and the server drains. The simulation fails on an event that is missing, repeated or out
//! of order without a `$gap`; a gap where no event was trimmed; a stream that is silent for longer than a heartbeat, or
//! outlives its end; a task that spins. A missed wake-up is detected, since nothing else runs the task.
//!
//! `SIMULATION_SEED=n` repeats one seed; `SIMULATION_RUNS=n` sets the number of runs.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Buf as _;
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::task::JoinHandle;
use uuid::Uuid;

use super::*;
use crate::auth::Rights;
use crate::clients::Connecting;
use crate::cursor::Cursor;
use crate::delivery::{Completion, Plan};
use crate::event::{Data, NewEvent};
use crate::hub::{Hub, HubOptions, StartFrom};
use crate::limits::{Limits, RateKey};
use crate::log::ReadMode;
use crate::net::SimulatedSocket;
use crate::store::scripted::{Reading, ScriptedStore};
use crate::store::{Retention, StoreOptions};
use crate::tail::TailLimits;
use crate::transport::Transport;
use crate::wire::Framing;

#[allow(dead_code, unreachable_pub)] // Shared with the tests from outside.
#[path = "../../../tests/support/seeds.rs"]
mod seeds;

const HEARTBEAT: Duration = Duration::from_secs(20);
const DRAIN: Duration = Duration::from_secs(10);
const TOPICS: [&str; 6] = ["a.1", "a.2", "b.1", "b.2.x", "c", "busy"];
const SUBSCRIPTIONS: [&[&str]; 6] = [&["a.1"], &["a.*"], &[">"], &["b.>", "a.1"], &["c", "b.1"], &["never"]];

/// Write buffer: the body is polled for more while fewer bytes are queued.
const BUFFER_BYTES: usize = 2000;

/// Maximum latency of a read from the store.
const LATE_MAX: Duration = Duration::from_secs(3);

/// Longest step of simulated time.
const TIME_STEP: Duration = Duration::from_secs(1);

/// More batches than a worker's inbox holds.
const OVERFLOW_BATCHES: usize = 1100;

/// An item that a client received.
#[derive(Debug)]
enum Heard {
    Event(u64),
    /// A gap's end, and the log's floor at that time.
    Gap(u64, u64),
    /// A control item: every matching event up to here was delivered.
    Through(u64),
}

struct Client {
    id: Uuid,
    patterns: PatternSet,
    /// Where it is of `latest`, an event may be missing that has a later one of its topic.
    mode: ReadMode,
    /// The position of the first start.
    start: u64,
    /// The last cursor that was received, to reconnect with.
    cursor: Option<Cursor>,
    heard: Vec<Heard>,
    stalled: bool,
    connection: Option<Connection>,
}

struct Connection {
    stream: Rc<StreamDriver>,
    sink: DirectSink,
    socket: Rc<SimulatedSocket>,
    task: JoinHandle<()>,
    /// How often the task has polled the body since the last check.
    polls: Rc<Cell<u32>>,
    opened: Instant,
    /// When it was last seen with a peer that took no bytes.
    last_blocked: Instant,
    last_bytes: Instant,
    /// The last item received.
    last: String,
}

struct World {
    rng: SmallRng,
    store: Arc<ScriptedStore>,
    hub: Hub,
    worker: Rc<Worker>,
    limits: Arc<Limits>,
    /// The reference: every position with its topic.
    ledger: BTreeMap<u64, &'static str>,
    drained: Option<Instant>,
    /// Bytes of direct writes.
    direct_bytes: u64,
}

impl World {
    async fn new(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let events_max = [None, Some(5), Some(40), Some(300)][rng.random_range(0..4)];
        let retention = Retention { events_max, ..Retention::default() };
        let store = Arc::new(ScriptedStore::new(StoreOptions { retention, ..StoreOptions::default() }));
        let tail = TailLimits { events_max: [1, 10, 100, 10_000][rng.random_range(0..4)], bytes_max: 1 << 20 };
        let options = HubOptions { tail, ..HubOptions::default() };
        let hub = Hub::open(store.clone(), options).await.unwrap();
        let worker = Worker::start(&hub);
        let (limits, ledger) = (Arc::default(), BTreeMap::new());
        Self { rng, store, hub, worker, limits, ledger, drained: None, direct_bytes: 0 }
    }

    fn event(&mut self) -> NewEvent {
        let topic = if self.rng.random_bool(0.7) { "busy" } else { TOPICS[self.rng.random_range(0..TOPICS.len())] };
        self.ledger.insert(self.ledger.len() as u64 + 1, topic);
        NewEvent::new(topic.parse().unwrap(), Data::text("x"))
    }

    async fn publish(&mut self) {
        if self.rng.random_bool(0.01) {
            // Before the worker runs.
            for _ in 0..OVERFLOW_BATCHES {
                let event = self.event();
                self.hub.publish(event).await.unwrap();
            }
        }
        let count = if self.rng.random_bool(0.1) { self.rng.random_range(1..200) } else { self.rng.random_range(1..4) };
        let events = (0..count).map(|_| self.event()).collect();
        let published = self.hub.publish_all(events).await.unwrap();
        assert_eq!(published.last().unwrap().cursor.position.0, self.ledger.len() as u64);
    }

    /// Sets how the store responds from now on.
    fn change_store(&mut self) {
        let late = LATE_MAX.mul_f64(self.rng.random());
        let readings = [Reading::Answered, Reading::Answered, Reading::Late(late), Reading::Empty, Reading::Failing];
        self.store.set_reading(readings[self.rng.random_range(0..readings.len())]);
    }

    async fn connect(&mut self, client: &mut Client) {
        let from = client.cursor.map_or(StartFrom::Now, StartFrom::Cursor);
        let start = self.hub.start(from, &client.patterns, async |_| Ok(())).await.unwrap();
        assert_eq!(start.gap, None, "the cursor belongs to this log");
        let cursor = start.cursor;
        assert!(self.worker.reach(cursor).await, "the feed reaches the end of the store");
        if client.cursor.replace(cursor).is_none() {
            client.start = cursor.position.0;
        }
        let age = self.rng.random_bool(0.3).then(|| runtime_now() + Duration::from_secs(90));
        let bytes_max = self.rng.random_bool(0.2).then_some(3000);
        let plan = Plan {
            framing: Framing::Lines,
            completion: Completion::Stream { bytes_max, until: age, pings: false },
            client: client.id,
            known: true,
            transport: Transport::Stream,
            heartbeat: HEARTBEAT,
            events_max: 50,
            jitter: self.rng.random(),
        };
        let key = RateKey::at([10, 0, 0, 1].into());
        let registration = self.hub.clients().connect(Connecting {
            client: client.id,
            transport: Transport::Stream,
            patterns: &client.patterns,
            mode: ReadMode::default(),
            cursor,
            rights: &Rights::Open,
            address: key.address(),
            user_agent: None,
            attempt: None,
            now_ms: 1000,
        });
        let mut delivery = Delivery::new(runtime_now(), plan, client.patterns.clone(), start);
        delivery.read_in_rounds(client.mode, None);
        let (seat, scanner) = (self.worker.seat(&client.patterns, Transport::Stream), self.limits.scanner(&key));
        let costs = Costs { held: None, scanner, memory: self.limits.outbound(key) };
        let driver = Box::new(Driver::new(delivery, seat, Some(registration), costs, None));
        let (socket, polls) = (Rc::<SimulatedSocket>::default(), Rc::<Cell<u32>>::default());
        let sink = DirectSink::simulated(socket.clone());
        let stream = StreamDriver::new(driver, Some(sink.clone()));
        let task = tokio::task::spawn_local(serve(StreamBody(stream.clone()), sink.clone(), polls.clone()));
        let (opened, last) = (runtime_now(), String::new());
        client.connection = Some(Connection {
            stream,
            sink,
            socket,
            task,
            polls,
            opened,
            last_blocked: opened,
            last_bytes: opened,
            last,
        });
    }

    /// Lets the client read the bytes that have arrived.
    fn receive(&mut self, client: &mut Client) {
        let Some(mut connection) = client.connection.take() else { return };
        assert!(connection.polls.take() < 10_000, "a connection spins");
        let floor = self.hub.bounds().floor.0;
        for line in std::str::from_utf8(&connection.socket.lines()).unwrap().lines() {
            let item: serde_json::Value = serde_json::from_str(line).unwrap();
            let cursor: Cursor = item["cursor"].as_str().unwrap().parse().unwrap();
            let position = cursor.position.0;
            client.heard.push(match item["event"].as_str().unwrap() {
                "$hello" | "$live" | "$beat" | "$bye" => Heard::Through(position),
                "$gap" => Heard::Gap(position, floor),
                _ => Heard::Event(position),
            });
            client.cursor = Some(cursor);
            connection.last_bytes = runtime_now();
            line.clone_into(&mut connection.last);
        }
        if connection.task.is_finished() {
            assert!(connection.last.contains(r#""$bye""#), "a stream ended without `$bye`: {}", connection.last);
            self.direct_bytes += connection.sink.sent_bytes();
        } else {
            self.check_alive(client, &mut connection);
            client.connection = Some(connection);
        }
    }

    /// Checks that a stream which could write has done so in time.
    fn check_alive(&self, client: &Client, connection: &mut Connection) {
        let now = runtime_now();
        if client.stalled || !connection.socket.has_room() {
            connection.last_blocked = now;
            return;
        }
        if connection.stream.driver.borrow().fetch.is_some() {
            return;
        }
        assert!(now - connection.last_bytes <= HEARTBEAT, "a stream was silent for longer than a heartbeat");
        if let Some(drained) = self.drained {
            // A stream whose peer takes no bytes schedules its end once the peer takes some again. A fetch in flight is awaited:
            // once before the end is scheduled, once more when it is due.
            let latest = drained.max(connection.opened).max(connection.last_blocked) + DRAIN + 2 * LATE_MAX + TIME_STEP;
            assert!(now <= latest, "a stream outlived the shutdown");
        }
    }

    fn lose(&mut self, client: &mut Client) {
        if let Some(connection) = client.connection.take() {
            connection.task.abort();
            self.direct_bytes += connection.sink.sent_bytes();
        }
    }

    /// Whether a client has received every matching event; fails where it received anything else.
    fn verify(&self, client: &Client) -> bool {
        let is_superseded = |position: u64| {
            let topic = self.ledger[&position];
            client.mode.latest && self.ledger.range(position + 1..).any(|(_, other)| *other == topic)
        };
        // The next one that must be received, or of a range of positions.
        let wanted_in = |range: std::ops::RangeInclusive<u64>| {
            let mut matching = self.ledger.range(range).filter(|(_, topic)| client.patterns.matches(topic));
            matching.find(|(position, _)| !is_superseded(**position)).map(|(position, _)| *position)
        };
        let wanted = |after: u64| wanted_in(after + 1..=u64::MAX);
        let lies_before = |through: u64| move |position: &u64| *position <= through;
        let mut at = client.start;
        for heard in &client.heard {
            let next = wanted(at);
            at = match *heard {
                Heard::Event(position) => {
                    assert!(position > at && client.patterns.matches(self.ledger[&position]), "another event");
                    assert_eq!(next.filter(lies_before(position - 1)), None, "an event is missing");
                    position
                }
                Heard::Gap(to, floor) => {
                    let mut lost = self.ledger.range(at + 1..=to);
                    let is_gap = lost.any(|(_, topic)| client.patterns.matches(topic));
                    assert!(is_gap, "a gap without a missing event that matches");
                    assert!(to <= floor, "a gap beyond the trimmed events");
                    to
                }
                Heard::Through(position) => {
                    assert!(position >= at, "a cursor went back");
                    assert_eq!(next.filter(lies_before(position)), None, "an event was skipped without a gap");
                    position
                }
            };
        }
        wanted(at).is_none()
    }
}

/// A connection's task: like that of `net::http1`, it polls the body while there is room in the buffer, then writes.
async fn serve(mut body: StreamBody, sink: DirectSink, polls: Rc<Cell<u32>>) {
    let (mut out, mut ended) = (BytesMut::new(), false);
    poll_fn(|cx| {
        loop {
            polls.set(polls.get() + 1);
            while out.len() < BUFFER_BYTES && !ended {
                match Pin::new(&mut body).poll_next(cx) {
                    Poll::Ready(Some(bytes)) => out.extend_from_slice(&bytes),
                    Poll::Ready(None) => ended = true,
                    Poll::Pending => break,
                }
            }
            let full = out.len() >= BUFFER_BYTES;
            if !out.is_empty() {
                while !out.is_empty() {
                    let written = ready!(sink.poll_write(cx, &out)).unwrap();
                    out.advance(written);
                }
                ready!(sink.poll_flush(cx)).unwrap();
            }
            if ended {
                return sink.poll_shutdown(cx).map(Result::unwrap);
            }
            if !full {
                return Poll::Pending;
            }
        }
    })
    .await;
}

/// Advances the time, in steps after which tasks run.
async fn pass(mut time: Duration) {
    while !time.is_zero() {
        let step = time.min(TIME_STEP);
        time -= step;
        tokio::time::advance(step).await;
        settle(3).await;
    }
}

async fn settle(turns: u32) {
    for _ in 0..turns {
        tokio::task::yield_now().await;
    }
}

/// One run; returns the number of received events and of bytes written directly.
async fn run(seed: u64) -> (usize, u64) {
    let mut world = World::new(seed).await;
    let mut clients: Vec<Client> = (0..world.rng.random_range(1..5))
        .map(|_| {
            let texts = SUBSCRIPTIONS[world.rng.random_range(0..SUBSCRIPTIONS.len())];
            let patterns = PatternSet::new(texts.iter().map(|text| text.parse().unwrap())).unwrap();
            let (heard, id) = (Vec::new(), Uuid::new_v4());
            let (latest, pace_ms) = (world.rng.random_bool(0.3), [0, 0, 900][world.rng.random_range(0..3)]);
            let mode = ReadMode { latest, pace_ms };
            Client { id, patterns, mode, start: 0, cursor: None, heard, stalled: false, connection: None }
        })
        .collect();
    for _ in 0..world.rng.random_range(20..150) {
        match world.rng.random_range(0..100) {
            0..45 => world.publish().await,
            45..60 => pass(Duration::from_millis(world.rng.random_range(0..15_000))).await,
            60..65 => world.change_store(),
            65 if world.rng.random_bool(0.2) && world.drained.is_none() => {
                world.hub.drain(DRAIN);
                world.drained = Some(runtime_now());
            }
            _ => {}
        }
        for client in &mut clients {
            if world.rng.random_bool(0.1) {
                client.stalled = !client.stalled;
            }
            if client.connection.is_none() {
                world.connect(client).await;
            }
            if let Some(connection) = &client.connection {
                let room = [0, 1, 100, 3000, 1 << 20][world.rng.random_range(0..5)];
                connection.socket.set_room(if client.stalled { 0 } else { room });
            }
            if world.rng.random_bool(0.02) {
                world.hub.clients().end_where(ByeReason::Kicked, |connection| connection.client == client.id);
            }
        }
        let short = world.rng.random_bool(0.5);
        settle(if short { 3 } else { 100 }).await;
        for client in &mut clients {
            if world.rng.random_bool(0.03) {
                world.lose(client);
            } else if !short {
                world.receive(client);
            }
        }
    }
    // No more faults: every event has to arrive.
    world.store.set_reading(Reading::Answered);
    for _ in 0..2000 {
        if clients.iter().all(|client| client.cursor.is_some() && world.verify(client)) {
            break;
        }
        for client in &mut clients {
            client.stalled = false;
            if client.connection.is_none() {
                world.connect(client).await;
            }
            if let Some(connection) = &client.connection {
                connection.socket.set_room(1 << 20);
            }
        }
        pass(Duration::from_millis(100)).await;
        settle(100).await;
        clients.iter_mut().for_each(|client| world.receive(client));
    }
    for client in &mut clients {
        assert!(world.verify(client), "an event never arrived");
        world.lose(client);
    }
    let events = clients.iter().flat_map(|client| &client.heard).filter(|heard| matches!(heard, Heard::Event(_)));
    (events.count(), world.direct_bytes)
}

fn simulate(seed: u64) -> (usize, u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
    tokio::task::LocalSet::new().block_on(&runtime, run(seed))
}

#[test]
fn every_stream_delivers_all_events_once_in_order_or_reports_the_gap() {
    let Some(outcomes) = seeds::run(300, simulate) else { return };
    let runs = outcomes.len() as u64;
    let received = outcomes.iter().map(|(events, _)| *events as u64).sum::<u64>();
    let direct_bytes = outcomes.iter().map(|(_, bytes)| bytes).sum::<u64>();
    assert!(received > runs && direct_bytes > 100 * runs, "{received} events, {direct_bytes} bytes written directly");
    println!("{received} events received, {direct_bytes} bytes written directly");
}
