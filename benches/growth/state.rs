//! The costs of state: a snapshot of a thousand topics by the log behind it, and deliveries with `latest`.

use std::path::Path;
use std::time::{Duration, Instant};

use super::live::{delivery, listen, publish, some};
use super::log::fill;
use super::{Claim, Growth};
use crate::support::load::Load;
use crate::support::servers::{Build, Running, disk_in, scratch};
use crate::support::{Fault, http, machine, servers, stats};

const TOPICS: u64 = 1000;
const SUBSCRIBERS: u64 = 100;

/// Snapshots of the same topics in a log that grows: the newest events are adjacent, or far apart. Beside them, a resume of as many
/// events, which are in memory or are read from the disk.
pub(crate) fn snapshot(quick: bool) -> Result<Vec<Growth>, Fault> {
    let axis = "events in the log, on disk";
    let growth = |title: &str, claim| Growth::new(title, axis, claim);
    let mut adjacent = growth("CPU µs a topic of a snapshot of 1,000, adjacent in the log", Claim::Flat);
    let mut apart = growth("CPU µs a topic of a snapshot of 1,000, far apart in the log", Claim::Flat);
    let mut first = growth("the first snapshot after a start, ms", Claim::AtMost(1000));
    let mut recent = growth("CPU µs an event of a resume of 1,000, from memory", Claim::Shown);
    let mut stored = growth("CPU µs an event of a resume of 1,000, from the disk", Claim::Shown);
    let home = scratch()?;
    let near = home.path().join("near");
    for &count in some(&[10_000, 100_000, 1_000_000, 10_000_000], quick) {
        let other_home = scratch()?;
        let far = other_home.path().join("far");
        fill(&near, count, |n| format!("bench.{}", n % TOPICS))?;
        let server = begin(&near)?;
        let begun = Instant::now();
        let end = snapshot_of(&server)?;
        first.add(count, begun.elapsed().as_secs_f64() * 1e3);
        adjacent.add(count, cost(&server, || snapshot_of(&server))?);
        let epoch = end.split('-').next().unwrap_or_default();
        let resume = |after: u64| page(&server, &format!("cursor={epoch}-{after}"));
        recent.add(count, cost(&server, || resume(count - TOPICS))?);
        stored.add(count, cost(&server, || resume(count / 2))?);
        drop(server);
        fill(&far, count, |n| format!("bench.{}", n / count.div_ceil(TOPICS)))?;
        let server = begin(&far)?;
        apart.add(count, cost(&server, || snapshot_of(&server))?);
    }
    Ok(vec![adjacent, apart, recent, stored, first])
}

/// A server whose reads are limited by nothing: the measurement is one client.
fn begin(data: &Path) -> Result<Running, Fault> {
    disk_in(data, &["--scan-rate-per-address", "0"])
}

/// The median cost of one of the thousand events of a read, in microseconds of the server's processor time.
fn cost<T>(server: &Running, mut read: impl FnMut() -> Result<T, Fault>) -> Result<f64, Fault> {
    let pids = server.pids();
    let mut costs = Vec::new();
    read()?;
    for _ in 0..30 {
        let cpu = machine::cpu_time(&pids);
        // A processor's time is counted in steps: ten reads a measurement.
        for _ in 0..10 {
            read()?;
        }
        costs.push(machine::cpu_time(&pids).saturating_sub(cpu).as_secs_f64() * 1e6 / (10 * TOPICS) as f64);
    }
    Ok(stats::median(&costs))
}

/// Reads the newest event of every topic, in as many pages as that takes; returns the cursor at its end.
fn snapshot_of(server: &Running) -> Result<String, Fault> {
    let (mut cursor, mut upto, mut count) = ("earliest".to_owned(), String::new(), 0);
    loop {
        let batch = batch(server, &format!("latest=1{upto}&cursor={cursor}"))?;
        count += batch.events;
        match batch.live {
            true if count == TOPICS => return Ok(batch.cursor),
            false if count <= TOPICS => {}
            _ => return Err(format!("{count} events instead of {TOPICS}").into()),
        }
        upto = batch.upto.map(|upto| format!("&upto={upto}")).unwrap_or_default();
        cursor = batch.cursor;
    }
}

/// Reads one batch of a thousand events.
fn page(server: &Running, parameters: &str) -> Result<(), Fault> {
    match batch(server, parameters)?.events {
        TOPICS => Ok(()),
        count => Err(format!("{count} events instead of {TOPICS}").into()),
    }
}

struct Batch {
    events: u64,
    cursor: String,
    upto: Option<String>,
    live: bool,
}

fn batch(server: &Running, parameters: &str) -> Result<Batch, Fault> {
    let body = server.request(&http::get(&format!("/v1/poll?topic=bench.*&limit=1000&{parameters}"), ""))?;
    Ok(Batch {
        events: memchr::memmem::find_iter(&body, b"\"time\":").count() as u64,
        cursor: http::quoted(&body, "{\"cursor\":\"")
            .ok_or_else(|| format!("no batch: {}", String::from_utf8_lossy(&body)))?
            .to_owned(),
        upto: http::quoted(&body, "\"upto\":\"").map(str::to_owned),
        live: memchr::memmem::find(&body, b"\"live\":true").is_some(),
    })
}

/// Deliveries to subscribers that are caught up, without `latest` (1) and with it (2).
pub(crate) fn latest(quick: bool) -> Result<Vec<Growth>, Fault> {
    let title = "CPU µs a delivery: without `latest` (1), with it (2)";
    let mut growth = Growth::new(title, "1: every event, 2: latest=1", Claim::Shown);
    let time = Duration::from_millis(if quick { 1000 } else { 4000 });
    // In alternating rounds, and the median: the clock rate of a processor varies.
    let mut rounds = [Vec::new(), Vec::new()];
    for _ in 0..if quick { 1 } else { 5 } {
        for (at, topic) in ["bench", "bench&latest=1"].into_iter().enumerate() {
            let server = servers::memory(Build::This, &[])?;
            let mut load = Load::new()?;
            listen(&mut load, &server, &[topic], SUBSCRIBERS)?;
            let request = |data: &str| publish("bench", data);
            rounds[at].push(delivery(&server, &mut load, SUBSCRIBERS, Box::new(request), time)?);
        }
    }
    growth.add(1, stats::median(&rounds[0]));
    growth.add(2, stats::median(&rounds[1]));
    Ok(vec![growth])
}
