//! The works: each is done by every server, fresh.

use std::fmt;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::support::load::Load;
use crate::support::publish::{Pace, Publishing};
use crate::support::servers::Running;
use crate::support::targets::{Target, Transport};
use crate::support::{Fault, machine, seen, stats};

const SUBSCRIBERS: u64 = 1000;

/// Subscribers of which each costs memory; so many that the server's own weight does not show.
const IDLE_CONNECTIONS: u64 = 5000;

/// Events that have been published and not reached everybody, where publishing is as fast as that allows.
const WINDOW_EVENTS: u64 = 64;

/// Publishers, where one after the other would hold up a store that syncs.
const PUBLISHERS: usize = 16;

/// Requests under way on a connection, where they are pipelined.
const PIPELINED: usize = 64;

/// Events in a batch.
const BATCH_EVENTS: usize = 100;

/// Before anything is measured: code that has run, buffers that have grown.
const WARM_UP: Duration = Duration::from_millis(700);

/// For what is under way to come to rest.
const SETTLE: Duration = Duration::from_millis(700);

/// For what was published to arrive.
const ARRIVE_MAX: Duration = Duration::from_secs(20);

pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) what: What,
}

pub(crate) enum What {
    /// Deliveries at a rate a second; `None`: as many as go.
    Deliver(Transport, Option<u32>),
    /// Connections that hear nothing.
    Idle(Transport),
    /// Publishes with nobody there: connections, requests under way on each, events a request.
    Publish { connections: usize, depth: usize, batch: usize },
    /// Short polls that find nothing new, on so many connections.
    Polls { connections: usize },
}

pub(crate) const ALL: &[Work] = {
    use Transport::{Iframe, Jsonp, Longpoll, Sse, Ws};
    use What::{Deliver, Idle, Polls, Publish};
    const fn work(name: &'static str, what: What) -> Work {
        Work { name, what }
    }
    &[
        work("ws-20k", Deliver(Ws, Some(20_000))),
        work("ws-100k", Deliver(Ws, Some(100_000))),
        work("ws-saturated", Deliver(Ws, None)),
        work("sse-20k", Deliver(Sse, Some(20_000))),
        work("sse-saturated", Deliver(Sse, None)),
        work("iframe-20k", Deliver(Iframe, Some(20_000))),
        work("iframe-saturated", Deliver(Iframe, None)),
        work("longpoll-20k", Deliver(Longpoll, Some(20_000))),
        work("longpoll-saturated", Deliver(Longpoll, None)),
        work("jsonp-20k", Deliver(Jsonp, Some(20_000))),
        work("jsonp-saturated", Deliver(Jsonp, None)),
        work("idle-ws", Idle(Ws)),
        work("idle-sse", Idle(Sse)),
        work("idle-iframe", Idle(Iframe)),
        work("idle-longpoll", Idle(Longpoll)),
        work("idle-jsonp", Idle(Jsonp)),
        work("publish-1", Publish { connections: 1, depth: 1, batch: 1 }),
        work("publish-16", Publish { connections: 16, depth: 1, batch: 1 }),
        work("publish-pipelined", Publish { connections: 1, depth: PIPELINED, batch: 1 }),
        work("publish-batches", Publish { connections: 1, depth: 1, batch: BATCH_EVENTS }),
        work("publish-64", Publish { connections: 64, depth: 1, batch: 1 }),
        work("polls", Polls { connections: 32 }),
    ]
};

/// What one run measured. What a work does not have is not a number.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) target: String,
    /// Processor time of the server for each delivery or answer, in microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// Deliveries or answers a second; events, where they come in batches.
    pub(crate) rate: Option<f64>,
    pub p50_ms: Option<f64>,
    pub p99_ms: Option<f64>,
    pub p999_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
    pub(crate) bytes_a_connection: Option<f64>,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) disordered: u64,
    pub(crate) refused: u64,
}

impl Run {
    fn of(target: Target) -> Self {
        Self {
            target: target.name().into(),
            cpu_us: None,
            rate: None,
            p50_ms: None,
            p99_ms: None,
            p999_ms: None,
            max_ms: None,
            bytes_a_connection: None,
            lost: 0,
            repeated: 0,
            disordered: 0,
            refused: 0,
        }
    }

    fn times(&mut self, micros: &mut [u32]) {
        micros.sort_unstable();
        let share = |share| Some(stats::percentile(micros, share) / 1000.0);
        (self.p50_ms, self.p99_ms, self.p999_ms, self.max_ms) = (share(0.5), share(0.99), share(0.999), share(1.0));
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut figure = |name, value: Option<f64>| match value {
            Some(value) => write!(f, "{name} {:>8}  ", stats::short(value)),
            None => Ok(()),
        };
        figure("CPU us", self.cpu_us)?;
        figure("a second", self.rate)?;
        figure("p50 ms", self.p50_ms)?;
        figure("p99", self.p99_ms)?;
        figure("p99.9", self.p999_ms)?;
        figure("max", self.max_ms)?;
        figure("bytes/connection", self.bytes_a_connection)?;
        write!(f, "lost {} repeated {} out of order {}", self.lost, self.repeated, self.disordered)?;
        if self.refused > 0 { write!(f, " REFUSED {}", self.refused) } else { Ok(()) }
    }
}

impl Work {
    /// Whether a server does this work.
    pub(crate) fn concerns(&self, target: Target) -> bool {
        match self.what {
            What::Publish { batch, .. } if batch > 1 => matches!(target, Target::Memory | Target::Disk),
            _ => true,
        }
    }

    pub(crate) fn run(&self, target: Target, server: &Running, seconds: f64) -> Result<Run, Fault> {
        let time = Duration::from_secs_f64(seconds);
        let run = match self.what {
            What::Deliver(transport, rate) => deliver(target, server, transport, rate, time),
            What::Idle(transport) => idle(target, server, transport),
            What::Publish { connections, depth, batch } => {
                let number = std::cell::Cell::new(0);
                let one = || {
                    number.set(number.get() + 1);
                    seen::data(0, number.get(), 0)
                };
                let many = || (0..batch).map(|_| one()).collect::<Vec<_>>();
                let question = || match batch {
                    1 => target.publish(&one()),
                    _ => target.publish_batch(&many()).unwrap_or_default(),
                };
                ask(target, server, connections, depth, batch, time, &question)
            }
            What::Polls { connections } => {
                let question = target.empty_poll(server)?;
                ask(target, server, connections, 1, 1, time, &|| question.clone())
            }
        };
        run.map_err(|error| format!("{} by {}: {error}", self.name, target.name()).into())
    }
}

fn subscribe(load: &mut Load, target: Target, server: &Running, transport: Transport, count: u64) -> Result<(), Fault> {
    let streams = !matches!(transport, Transport::Longpoll | Transport::Jsonp);
    let (request, role) = target.subscribe(transport, server)?;
    for _ in 0..count {
        let at = load.connect(server.address, role())?;
        load.send(at, &request);
        load.turn()?;
    }
    if streams && !load.until(ARRIVE_MAX, |load| load.greeted as u64 == count)? {
        return Err(format!("only {} of {count} streams began", load.greeted).into());
    }
    // A held request shows no sign that it is held.
    load.until(SETTLE, |_| false)?;
    Ok(())
}

fn deliver(
    target: Target,
    server: &Running,
    transport: Transport,
    rate: Option<u32>,
    time: Duration,
) -> Result<Run, Fault> {
    let mut load = Load::new()?;
    let pids = server.pids();
    subscribe(&mut load, target, server, transport, SUBSCRIBERS)?;
    let (pace, publishers) = match rate {
        Some(rate) => (Pace::Every(Duration::from_secs(1) * SUBSCRIBERS as u32 / rate), 1),
        None => (Pace::Window { events: WINDOW_EVENTS, subscribers: SUBSCRIBERS }, PUBLISHERS),
    };
    let askers = (0..publishers).map(|_| load.asker(server.address)).collect::<Result<Vec<_>, _>>()?;
    let request = |data: &str| target.publish(data);
    let mut publishing = Publishing::new(askers, pace, &request);
    let mut go = |load: &mut Load, time: Duration| -> Result<(), Fault> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            publishing.turn(load);
            load.turn()?;
        }
        Ok(())
    };
    go(&mut load, WARM_UP)?;
    load.figures.on = true;
    let (cpu, begun) = (machine::cpu_time(&pids), Instant::now());
    go(&mut load, time)?;
    let (cpu, took) = (machine::cpu_time(&pids).saturating_sub(cpu), begun.elapsed());
    load.figures.on = false;
    let published = publishing.published;
    let everything = publishing.total() * SUBSCRIBERS;
    load.until(ARRIVE_MAX, |load| load.seen >= everything)?;
    // Whatever came twice would come now.
    load.until(Duration::from_millis(50), |_| false)?;

    let mut run = Run::of(target);
    let deliveries = load.figures.deliveries as f64;
    run.cpu_us = Some(cpu.as_secs_f64() * 1e6 / deliveries);
    run.rate = Some(deliveries / took.as_secs_f64());
    run.times(&mut load.figures.latencies_us);
    [run.lost, run.repeated, run.disordered] = load.faults(&published);
    run.refused = load.refusals() + load.closed as u64;
    Ok(run)
}

fn idle(target: Target, server: &Running, transport: Transport) -> Result<Run, Fault> {
    let mut load = Load::new()?;
    let pids = server.pids();
    // The first of a kind costs what is there for all of them.
    subscribe(&mut load, target, server, transport, 1)?;
    let before = machine::memory_bytes(&pids);
    load.greeted = 0;
    subscribe(&mut load, target, server, transport, IDLE_CONNECTIONS)?;
    let mut run = Run::of(target);
    run.bytes_a_connection = Some(machine::memory_bytes(&pids).saturating_sub(before) as f64 / IDLE_CONNECTIONS as f64);
    run.refused = load.closed as u64;
    Ok(run)
}

/// Questions that are asked again as soon as they are answered.
fn ask(
    target: Target,
    server: &Running,
    connections: usize,
    depth: usize,
    batch: usize,
    time: Duration,
    question: &dyn Fn() -> Vec<u8>,
) -> Result<Run, Fault> {
    let mut load = Load::new()?;
    let pids = server.pids();
    for _ in 0..connections {
        let asker = load.asker(server.address)?;
        let questions: Vec<Vec<u8>> = (0..depth).map(|_| question()).collect();
        questions.iter().for_each(|question| load.send(asker, question));
    }
    let go = |load: &mut Load, time: Duration| -> Result<(), Fault> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            load.turn()?;
            for asker in std::mem::take(&mut load.answered) {
                load.send(asker, &question());
            }
        }
        Ok(())
    };
    go(&mut load, WARM_UP)?;
    load.figures.on = true;
    let (cpu, begun) = (machine::cpu_time(&pids), Instant::now());
    go(&mut load, time)?;
    let (cpu, took) = (machine::cpu_time(&pids).saturating_sub(cpu), begun.elapsed());
    let mut run = Run::of(target);
    let answers = (load.figures.answers * batch as u64) as f64;
    run.cpu_us = Some(cpu.as_secs_f64() * 1e6 / answers);
    run.rate = Some(answers / took.as_secs_f64());
    run.times(&mut load.figures.waits_us);
    run.refused = load.refusals() + load.closed as u64;
    Ok(run)
}
