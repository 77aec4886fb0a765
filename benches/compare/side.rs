//! One server under load at one work, in turns with the other servers.

use std::cell::Cell;
use std::time::{Duration, Instant};

use crate::run::Run;
use crate::support::load::Load;
use crate::support::publish::{Pace, Publishing};
use crate::support::servers::Running;
use crate::support::targets::{Target, Transport};
use crate::support::{Fault, machine, seen};

const SUBSCRIBERS: u64 = 1000;

/// Connections whose memory is measured: enough that the server's constant part is negligible.
const IDLE_CONNECTIONS: u64 = 5000;

/// Maximum of events in flight (published, not received by all subscribers) when publishing at full speed.
const WINDOW_EVENTS: u64 = 64;

/// Concurrent publishers, since a single one would be limited by a store's sync.
const PUBLISHERS: usize = 16;

/// Time for requests and events in flight to settle.
const SETTLE: Duration = Duration::from_millis(700);

/// Deadline for streams to begin.
const BEGIN_MAX: Duration = Duration::from_secs(20);

/// The kind of a work.
pub(crate) enum What {
    /// Deliveries at a rate a second; `None`: as many as possible.
    Deliver(Transport, Option<u32>),
    /// Idle connections.
    Idle(Transport),
    /// Publishes without subscribers: connections, requests in flight on each, events a request.
    Publish { connections: usize, depth: usize, batch: usize },
    /// Short polls that find nothing new, on so many connections.
    Polls { connections: usize },
}

/// Events that have not arrived after so long a silence are lost.
const LOST_AFTER: Duration = Duration::from_secs(1);

/// Pause after a turn, for work that a server does after its response.
const REST: Duration = Duration::from_millis(10);

/// A server and its load.
pub(crate) struct Side {
    pub(crate) target: Target,
    server: Running,
    load: Load,
    job: Job,
    /// CPU time of the server's processes, and wall-clock time of its turns, since the measurement began.
    cpu: Duration,
    time: Duration,
}

enum Job {
    Deliver(Publishing<'static>),
    /// Requests that are repeated as soon as they are answered.
    Request {
        connections: usize,
        depth: usize,
        batch: usize,
        request: Box<dyn Fn() -> Vec<u8>>,
    },
}

impl Side {
    pub(crate) fn begin(target: Target, connections_max: u64, what: &What) -> Result<Self, Fault> {
        let server = target.start(connections_max)?;
        let mut load = Load::new()?;
        let job = match *what {
            What::Deliver(transport, rate) => deliver(target, &server, &mut load, transport, rate)?,
            What::Publish { connections, depth, batch } => {
                let number = Cell::new(0);
                let one = move || {
                    number.set(number.get() + 1);
                    seen::data(0, number.get(), 0)
                };
                let request = move || match batch {
                    1 => target.publish(&one()),
                    _ => target.publish_batch(&(0..batch).map(|_| one()).collect::<Vec<_>>()).unwrap_or_default(),
                };
                Job::Request { connections, depth, batch, request: Box::new(request) }
            }
            What::Polls { connections } => {
                let request = target.empty_poll(&server)?;
                Job::Request { connections, depth: 1, batch: 1, request: Box::new(move || request.clone()) }
            }
            What::Idle(_) => return Err("an idle work has no turns".into()),
        };
        if let Job::Request { connections, .. } = job {
            for _ in 0..connections {
                load.requester(server.address)?;
            }
        }
        Ok(Self { target, server, load, job, cpu: Duration::ZERO, time: Duration::ZERO })
    }

    /// Starts the measurement.
    pub(crate) fn measure(&mut self) {
        self.load.figures.on = true;
        (self.cpu, self.time) = Default::default();
    }

    /// Runs for so long, and until nothing is in flight.
    pub(crate) fn turn(&mut self, time: Duration) -> Result<(), Fault> {
        let pids = self.server.pids();
        let (cpu, begun) = (machine::cpu_time(&pids), Instant::now());
        let ended = match &mut self.job {
            Job::Deliver(publishing) => deliveries(&mut self.load, publishing, time)?,
            Job::Request { connections, depth, request, .. } => {
                answers(&mut self.load, *connections, *depth, request, time)?
            }
        };
        self.time += ended - begun;
        self.load.until(REST, |_| false)?;
        self.cpu += machine::cpu_time(&pids).saturating_sub(cpu);
        Ok(())
    }

    /// Ends the measurement; returns its figures.
    pub(crate) fn end(mut self) -> Result<Run, Fault> {
        // Duplicates would arrive now.
        self.load.until(Duration::from_millis(50), |_| false)?;
        let mut run = Run::of(self.target);
        let figures = &mut self.load.figures;
        let count = match &self.job {
            Job::Deliver(_) => {
                run.times(&mut figures.latencies_us);
                figures.deliveries
            }
            Job::Request { batch, .. } => {
                run.times(&mut figures.response_times_us);
                figures.answers * *batch as u64
            }
        };
        run.cpu_us = Some(self.cpu.as_secs_f64() * 1e6 / count as f64);
        run.rate = Some(count as f64 / self.time.as_secs_f64());
        if let Job::Deliver(publishing) = &self.job {
            [run.lost, run.repeated, run.disordered] = self.load.faults(&publishing.published);
        }
        run.refused = self.load.refusals() + self.load.closed as u64;
        Ok(run)
    }
}

/// Measures the memory of idle connections, one server at a time.
pub(crate) fn idle(target: Target, connections_max: u64, transport: Transport) -> Result<Run, Fault> {
    let server = target.start(connections_max)?;
    let mut load = Load::new()?;
    let pids = server.pids();
    // The first connection of a kind includes constant costs.
    subscribe(&mut load, target, &server, transport, 1)?;
    let before = machine::memory_bytes(&pids);
    load.greeted = 0;
    subscribe(&mut load, target, &server, transport, IDLE_CONNECTIONS)?;
    let mut run = Run::of(target);
    run.bytes_a_connection = Some(machine::memory_bytes(&pids).saturating_sub(before) as f64 / IDLE_CONNECTIONS as f64);
    run.refused = load.closed as u64;
    Ok(run)
}

fn subscribe(load: &mut Load, target: Target, server: &Running, transport: Transport, count: u64) -> Result<(), Fault> {
    let streams = !matches!(transport, Transport::Longpoll | Transport::Jsonp);
    let (request, role) = target.subscribe(transport, server)?;
    for _ in 0..count {
        let at = load.connect(server.address, role())?;
        load.send(at, &request);
        load.turn()?;
    }
    if streams && !load.until(BEGIN_MAX, |load| load.greeted as u64 == count)? {
        return Err(format!("only {} of {count} streams began", load.greeted).into());
    }
    // A client cannot see that its request is held.
    load.until(SETTLE, |_| false)?;
    Ok(())
}

fn deliver(
    target: Target,
    server: &Running,
    load: &mut Load,
    transport: Transport,
    rate: Option<u32>,
) -> Result<Job, Fault> {
    subscribe(load, target, server, transport, SUBSCRIBERS)?;
    let (pace, publishers) = match rate {
        Some(rate) => (Pace::Every(Duration::from_secs(1) * SUBSCRIBERS as u32 / rate), 1),
        None => (Pace::Window { events: WINDOW_EVENTS, subscribers: SUBSCRIBERS }, PUBLISHERS),
    };
    let requesters = (0..publishers).map(|_| load.requester(server.address)).collect::<Result<Vec<_>, _>>()?;
    Ok(Job::Deliver(Publishing::new(requesters, pace, Box::new(move |data| target.publish(data)))))
}

/// Publishes for so long; returns the time of the last delivery.
fn deliveries(load: &mut Load, publishing: &mut Publishing<'_>, time: Duration) -> Result<Instant, Fault> {
    let (begun, published, seen) = (Instant::now(), publishing.total(), load.seen);
    publishing.resume();
    while begun.elapsed() < time {
        publishing.turn(load);
        load.turn()?;
    }
    let everything = seen + (publishing.total() - published) * SUBSCRIBERS;
    arrive(load, |load| everything.saturating_sub(load.seen))
}

/// Sends requests for so long; returns the time of the last response.
fn answers(
    load: &mut Load,
    connections: usize,
    depth: usize,
    request: &dyn Fn() -> Vec<u8>,
    time: Duration,
) -> Result<Instant, Fault> {
    let begun = Instant::now();
    for requester in 0..connections {
        (0..depth).for_each(|_| load.send(requester, &request()));
    }
    while begun.elapsed() < time {
        load.turn()?;
        for requester in std::mem::take(&mut load.answered) {
            load.send(requester, &request());
        }
    }
    let ended = arrive(load, |load| (0..connections).map(|requester| load.unanswered(requester) as u64).sum())?;
    load.answered.clear();
    Ok(ended)
}

/// Waits until nothing is in flight, or the rest seems to be lost; returns the time of the last arrival.
fn arrive(load: &mut Load, under_way: impl Fn(&Load) -> u64) -> Result<Instant, Fault> {
    let (mut left, mut last) = (under_way(load), Instant::now());
    while left > 0 && last.elapsed() < LOST_AFTER {
        load.turn()?;
        let now = under_way(load);
        if now < left {
            (left, last) = (now, Instant::now());
        }
    }
    Ok(last)
}
