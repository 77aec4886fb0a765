//! The cost of a delivery to subscribers that are caught up.

use std::time::{Duration, Instant};

use super::{Claim, Growth};
use crate::support::load::{Load, Role};
use crate::support::publish::{Pace, Publishing, Request};
use crate::support::seen::Seen;
use crate::support::servers::{Build, Running};
use crate::support::{Fault, http, machine, servers};

const DELIVERIES_A_SECOND: u64 = 20_000;
const SUBSCRIBERS: u64 = 100;

/// Patterns of one subscription; the maximum is 64.
const PATTERNS_A_SOCKET: u64 = 50;

/// Events in a request that fills a log or creates topics.
pub(crate) const FILL_EVENTS: u64 = 1000;

const ARRIVE_MAX: Duration = Duration::from_secs(30);

/// All sizes, or only the first few for a quick run.
pub(crate) fn some(sizes: &'static [u64], quick: bool) -> &'static [u64] {
    &sizes[..if quick { sizes.len().min(3) } else { sizes.len() }]
}

fn time(quick: bool) -> Duration {
    Duration::from_millis(if quick { 1000 } else { 4000 })
}

pub(crate) fn subscribers(quick: bool) -> Result<Vec<Growth>, Fault> {
    let mut growth = Growth::new("CPU µs a delivery, by subscribers", "subscribers", Claim::Flat);
    for &count in some(&[100, 300, 1000, 3000, 10_000, 15_000], quick) {
        let server = servers::memory(Build::This, &[])?;
        let mut load = Load::new()?;
        listen(&mut load, &server, &["bench"], count)?;
        growth.add(count, delivery(&server, &mut load, count, Box::new(|data| publish("bench", data)), time(quick))?);
    }
    Ok(vec![growth])
}

pub(crate) fn topics(quick: bool) -> Result<Vec<Growth>, Fault> {
    let mut growth = Growth::new("CPU µs a delivery, by topics that are published to", "topics", Claim::Flat);
    for &count in some(&[1, 10, 100, 1000, 10_000, 100_000], quick) {
        let server = servers::memory(Build::This, &[])?;
        fill(&server, count, |n| format!("bench.{}", n % count))?;
        let mut load = Load::new()?;
        listen(&mut load, &server, &["bench.*"], SUBSCRIBERS)?;
        let number = std::cell::Cell::new(0_u64);
        let request = |data: &str| {
            // Topics in a stride, so that a repeated topic is not in the caches.
            number.set(number.get() + 7919);
            publish(&format!("bench.{}", number.get() % count), data)
        };
        growth.add(count, delivery(&server, &mut load, SUBSCRIBERS, Box::new(request), time(quick))?);
    }
    Ok(vec![growth])
}

pub(crate) fn patterns(quick: bool) -> Result<Vec<Growth>, Fault> {
    let title = "CPU µs a delivery, by wildcard patterns of others";
    let mut growth = Growth::new(title, "patterns with wildcards", Claim::Flat);
    for &count in some(&[1, 10, 100, 1000, 10_000], quick) {
        let server = servers::memory(Build::This, &[])?;
        let mut load = Load::new()?;
        // The patterns share the topic's first level and its number of levels: they differ in the middle.
        let all: Vec<String> = (0..count).map(|n| format!("bench.{n}.*.%3E")).collect();
        for some in all.chunks(PATTERNS_A_SOCKET as usize) {
            let some: Vec<&str> = some.iter().map(String::as_str).collect();
            listen(&mut load, &server, &some, 1)?;
        }
        listen(&mut load, &server, &["bench.*.mine.*"], SUBSCRIBERS)?;
        let request = |data: &str| publish("bench.yours.mine.too", data);
        growth.add(count, delivery(&server, &mut load, SUBSCRIBERS, Box::new(request), time(quick))?);
    }
    Ok(vec![growth])
}

pub(crate) fn sparse(quick: bool) -> Result<Vec<Growth>, Fault> {
    let title = "CPU µs a publish on a busy topic, by subscribers of quiet ones";
    let mut growth = Growth::new(title, "subscribers of other topics", Claim::Flat);
    for &count in some(&[1, 10, 100, 1000, 10_000], quick) {
        let server = servers::memory(Build::This, &[])?;
        let mut load = Load::new()?;
        for n in 0..count {
            listen(&mut load, &server, &[&format!("quiet.{n}"), &format!("still.{n}.*")], 1)?;
        }
        listen(&mut load, &server, &["busy"], 1)?;
        let request = |data: &str| publish("busy", data);
        growth.add(count, delivery(&server, &mut load, 4, Box::new(request), time(quick))?);
    }
    Ok(vec![growth])
}

pub(crate) fn publish(topic: &str, data: &str) -> Vec<u8> {
    http::post(&format!("/v1/topics/{topic}"), "application/json", data)
}

/// Opens so many sockets, each with all of the patterns.
pub(crate) fn listen(load: &mut Load, server: &Running, patterns: &[&str], count: u64) -> Result<(), Fault> {
    let request = http::get(&format!("/v1/ws?topic={}", patterns.join("&topic=")), http::UPGRADE);
    let before = load.greeted;
    for _ in 0..count {
        let role = Role::Stream { seen: Seen::default(), greeting: b"$hello", greeted: false };
        let at = load.connect(server.address, role)?;
        load.send(at, &request);
        load.turn()?;
    }
    match load.until(ARRIVE_MAX, |load| (load.greeted - before) as u64 == count)? {
        true => Ok(()),
        false => Err(format!("{} of {count} sockets opened", load.greeted - before).into()),
    }
}

/// The server's processor time for one of all deliveries, in microseconds; each event goes to `subscribers`.
pub(crate) fn delivery(
    server: &Running,
    load: &mut Load,
    subscribers: u64,
    request: Request<'_>,
    time: Duration,
) -> Result<f64, Fault> {
    let pids = server.pids();
    let requester = load.requester(server.address)?;
    let pace = Pace::Every(Duration::from_nanos(1_000_000_000 * subscribers / DELIVERIES_A_SECOND));
    let mut publishing = Publishing::new(vec![requester], pace, request);
    let mut go = |load: &mut Load, time: Duration| -> Result<(), Fault> {
        let begun = Instant::now();
        while begun.elapsed() < time {
            publishing.turn(load);
            load.turn()?;
        }
        Ok(())
    };
    go(load, Duration::from_millis(1000))?;
    load.figures.on = true;
    let cpu = machine::cpu_time(&pids);
    go(load, time)?;
    let cpu = machine::cpu_time(&pids).saturating_sub(cpu);
    load.figures.on = false;
    if load.figures.deliveries == 0 || load.refusals() > 0 || load.closed > 0 {
        return Err(format!("{} deliveries, {} refusals", load.figures.deliveries, load.refusals()).into());
    }
    Ok(cpu.as_secs_f64() * 1e6 / load.figures.deliveries as f64)
}

/// Publishes so many events in batches, and awaits the responses.
pub(crate) fn fill(server: &Running, count: u64, topic: impl Fn(u64) -> String) -> Result<(), Fault> {
    for from in (0..count).step_by(FILL_EVENTS as usize) {
        let events: Vec<String> = (from..count.min(from + FILL_EVENTS))
            .map(|n| format!("{{\"topic\":\"{}\",\"data\":{n}}}", topic(n)))
            .collect();
        server.request(&http::post("/v1/events", "application/json", &format!("[{}]", events.join(","))))?;
    }
    Ok(())
}
