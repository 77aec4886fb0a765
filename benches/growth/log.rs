//! The costs of a long log: opening, memory, delivery, a resume from far back, trimming.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use switchback::event::Draft;
use switchback::store::Store as _;
use switchback::{Data, DiskStore, NewEvent, StoreOptions};

use super::live::{delivery, listen, publish, some};
use super::{Claim, Growth};
use crate::support::load::Load;
use crate::support::servers::{Build, Running, disk, disk_in, scratch};
use crate::support::{Fault, http, machine, seen, stats};

const FILL_EVENTS: u64 = 4000;

/// One log that grows: opened at each size, measured, and filled further.
pub(crate) fn log(quick: bool) -> Result<Vec<Growth>, Fault> {
    let axis = "events in the log, on disk";
    let mut start = Growth::new("start-up, ms, by events in the log", axis, Claim::AtMost(5000));
    let mut memory = Growth::new("memory after the start, MB, by events in the log", axis, Claim::AtMost(200));
    let mut cost = Growth::new("CPU µs a delivery, by events in the log", axis, Claim::Flat);
    let home = scratch()?;
    let data = home.path().join("data");
    for &count in some(&[1000, 10_000, 100_000, 1_000_000, 10_000_000], quick) {
        fill(&data, count, |n| format!("bench.{}", n % 1000))?;
        let server = disk_in(&data, &[])?;
        start.add(count, server.start_time.as_secs_f64() * 1e3);
        memory.add(count, machine::memory_bytes(&server.pids()) as f64 / 1e6);
        let mut load = Load::new()?;
        listen(&mut load, &server, &["bench.7"], 100)?;
        let time = Duration::from_millis(if quick { 1000 } else { 4000 });
        cost.add(count, delivery(&server, &mut load, 100, Box::new(|data| publish("bench.7", data)), time)?);
    }
    Ok(vec![cost, start, memory])
}

/// Resumes over a log of a million events, of which more and more match.
pub(crate) fn resume(quick: bool) -> Result<Vec<Growth>, Fault> {
    let sizes = some(&[1000, 10_000, 100_000, 1_000_000], quick);
    let axis = "events that are returned";
    let mut cost = Growth::new("CPU µs an event, resuming from a million events back", axis, Claim::Flat);
    let mut whole = Growth::new("the resume as a whole, ms", axis, Claim::Shown);
    let home = scratch()?;
    let data = home.path().join("data");
    const EVENTS: u64 = 1_000_000;
    // The rarest topic has one event in 1000; other topics share the rest.
    fill(&data, EVENTS, |n| match n {
        n if n % 1000 == 0 => "resume.rare".into(),
        n if n % 100 == 1 => "resume.some".into(),
        n if n % 10 == 2 => "resume.many".into(),
        n => format!("resume.others.{}", n % 200),
    })?;
    for &count in sizes {
        let topic = match count {
            1000 => "resume.rare",
            10_000 => "resume.some",
            100_000 => "resume.many",
            _ => "resume.%3E",
        };
        let server = disk_in(&data, &[])?;
        let pids = server.pids();
        let mut costs = Vec::new();
        let mut times = Vec::new();
        // The same number of events of each, so that cold pages and cold reader threads weigh the same.
        for _ in 0..(100_000 / count).clamp(3, 100) {
            let (begun, cpu) = (Instant::now(), machine::cpu_time(&pids));
            let returned = poll_all(&server, topic)?;
            if returned != count {
                return Err(format!("{topic}: {returned} events instead of {count}").into());
            }
            times.push(begun.elapsed().as_secs_f64() * 1e3);
            costs.push(machine::cpu_time(&pids).saturating_sub(cpu).as_secs_f64() * 1e6 / count as f64);
        }
        cost.add(count, stats::median(&costs));
        whole.add(count, stats::median(&times));
    }
    Ok(vec![cost, whole])
}

/// Polls from the beginning to the end of the log; returns the number of events.
fn poll_all(server: &Running, topic: &str) -> Result<u64, Fault> {
    let mut connection = server.connection()?;
    let (mut cursor, mut count) = ("earliest".to_owned(), 0);
    loop {
        let path = format!("/v1/poll?topic={topic}&limit=1000&cursor={cursor}");
        let body = connection.request(&http::get(&path, ""))?;
        let events = memchr::memmem::find_iter(&body, b"\"time\":").count() as u64;
        let next = http::quoted(&body, "{\"cursor\":\"").ok_or("a batch has a cursor")?.to_owned();
        count += events;
        if events == 0 && next == cursor {
            return Ok(count);
        }
        cursor = next;
    }
}

/// Publishing on disk: with nothing to trim, and with an event to trim for each new one.
pub(crate) fn trimming(quick: bool) -> Result<Vec<Growth>, Fault> {
    let title = "publishing on disk, 16 connections, p99 ms: without trimming (1), while trimming (2)";
    let mut growth = Growth::new(title, "1: nothing is trimmed, 2: an event for each that comes", Claim::AtMostTwice);
    add_p99s(&mut growth, &[&[], &["--max-events", "20000"]], quick)?;
    Ok(vec![growth])
}

/// Publishing on disk: with nothing to remove, and while a rule removes an event from the middle of the log for each new one.
pub(crate) fn keeping(quick: bool) -> Result<Vec<Growth>, Fault> {
    let title = "publishing on disk, 16 connections, p99 ms: without a rule (1), 1000 events of the topic (2), an age of a second (3)";
    let mut growth =
        Growth::new(title, "1: nothing is removed, 2 and 3: an event for each that comes", Claim::AtMostTwice);
    add_p99s(&mut growth, &[&[], &["--keep", "bench=1000 events"], &["--keep", "bench=1s"]], quick)?;
    Ok(vec![growth])
}

/// Adds the latency of publishing with some flags, and with others.
fn add_p99s(growth: &mut Growth, all: &[&[&str]], quick: bool) -> Result<(), Fault> {
    let time = Duration::from_secs(if quick { 2 } else { 6 });
    // In alternating rounds, and the median: a disk's latency varies.
    let mut rounds = vec![Vec::new(); all.len()];
    for _ in 0..if quick { 1 } else { 5 } {
        for (round, flags) in rounds.iter_mut().zip(all) {
            let server = disk(Build::This, flags)?;
            // The first event stays where a rule removes others, so that those lie in the middle of the log.
            super::live::fill(&server, 20_000, |n| if n == 0 { "kept".into() } else { "bench".into() })?;
            round.push(publish_p99(&server, time)?);
        }
    }
    for (number, round) in (1..).zip(&rounds) {
        growth.add(number, stats::median(round));
    }
    Ok(())
}

fn publish_p99(server: &Running, time: Duration) -> Result<f64, Fault> {
    let mut load = Load::new()?;
    let request = publish("bench", &seen::data(0, 0, 0));
    for _ in 0..16 {
        let requester = load.requester(server.address)?;
        load.send(requester, &request);
    }
    let begun = Instant::now();
    while begun.elapsed() < time {
        load.figures.on = begun.elapsed() > time / 6;
        load.turn()?;
        for requester in std::mem::take(&mut load.answered) {
            load.send(requester, &request);
        }
    }
    load.figures.response_times_us.sort_unstable();
    Ok(stats::percentile(&load.figures.response_times_us, 0.99) / 1000.0)
}

/// Fills a log up to so many events, without a server.
pub(crate) fn fill(data: &Path, count: u64, topic: impl Fn(u64) -> String) -> Result<(), Fault> {
    let store = Arc::new(DiskStore::open(data, StoreOptions::default())?);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let text = "x".repeat(100);
    let mut next = store.bounds().last.0;
    runtime.block_on(async {
        while next < count {
            let end = count.min(next + FILL_EVENTS);
            let drafts: Result<Vec<Draft>, Fault> =
                (next..end).map(|n| Ok(NewEvent::new(topic(n).parse()?, Data::text(&text)).draft(now_ms()))).collect();
            store.append(drafts?).await?;
            next = end;
        }
        store.close().await;
        Ok(())
    })
}

fn now_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as u64
}
