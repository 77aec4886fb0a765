//! The costs of state: a snapshot of a thousand topics by the log behind it, and deliveries with `latest`.

use std::time::{Duration, Instant};

use super::live::{delivery, listen, publish, some};
use super::log::fill;
use super::{Claim, Growth};
use crate::support::load::Load;
use crate::support::servers::{Build, Running, disk_in, scratch};
use crate::support::{Fault, http, machine, servers, stats};

const TOPICS: u64 = 1000;
const SUBSCRIBERS: u64 = 100;

/// Snapshots of the same topics in a log that grows; beside them, a resume of as many events.
pub(crate) fn snapshot(quick: bool) -> Result<Vec<Growth>, Fault> {
    let axis = "events in the log, on disk";
    let mut topic = Growth::new("CPU µs a topic of a snapshot of 1,000, by events in the log", axis, Claim::Flat);
    let mut first =
        Growth::new("the first snapshot after a start, ms, by events in the log", axis, Claim::AtMost(1000));
    let mut event = Growth::new("CPU µs an event of a resume of 1,000, by events in the log", axis, Claim::Shown);
    let home = scratch()?;
    let data = home.path().join("data");
    for &count in some(&[10_000, 100_000, 1_000_000, 10_000_000], quick) {
        fill(&data, count, |n| format!("bench.{}", n % TOPICS))?;
        let server = disk_in(&data, &["--scan-rate-per-address", "0"])?;
        let begun = Instant::now();
        let end = read(&server, "latest=1", "earliest")?;
        first.add(count, begun.elapsed().as_secs_f64() * 1e3);
        topic.add(count, cost(&server, "latest=1", "earliest")?);
        let epoch = end.split('-').next().unwrap_or_default();
        event.add(count, cost(&server, "latest=0", &format!("{epoch}-{}", count - TOPICS))?);
    }
    Ok(vec![topic, first, event])
}

/// The median cost of one of the thousand events, in microseconds of the server's processor time.
fn cost(server: &Running, parameters: &str, start: &str) -> Result<f64, Fault> {
    let pids = server.pids();
    let mut costs = Vec::new();
    for _ in 0..30 {
        let cpu = machine::cpu_time(&pids);
        // A processor's time is counted in steps: ten reads a measurement.
        for _ in 0..10 {
            read(server, parameters, start)?;
        }
        costs.push(machine::cpu_time(&pids).saturating_sub(cpu).as_secs_f64() * 1e6 / (10 * TOPICS) as f64);
    }
    Ok(stats::median(&costs))
}

/// Polls from a start to the log's end, which has to return a thousand events; returns the end.
fn read(server: &Running, parameters: &str, start: &str) -> Result<String, Fault> {
    let mut connection = server.connection()?;
    let (mut cursor, mut count) = (start.to_owned(), 0);
    loop {
        let path = format!("/v1/poll?topic=bench.*&limit=1000&{parameters}&cursor={cursor}");
        let body = connection.request(&http::get(&path, ""))?;
        count += memchr::memmem::find_iter(&body, b"\"time\":").count() as u64;
        let is_live = memchr::memmem::find(&body, b"\"live\":true").is_some();
        cursor = http::quoted(&body, "{\"cursor\":\"")
            .ok_or_else(|| format!("no batch: {}", String::from_utf8_lossy(&body)))?
            .to_owned();
        if is_live && count == TOPICS {
            return Ok(cursor);
        }
        if is_live || count > TOPICS {
            return Err(format!("{count} events instead of {TOPICS}").into());
        }
    }
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
