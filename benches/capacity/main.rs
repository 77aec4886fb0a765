//! Scaling over nodes, and the cost of a client: `cargo bench --bench capacity [nodes|client]`. Prints figures, asserts
//! nothing. Linux only.
//!
//! All nodes, three NATS servers and the load share this machine, so wall-clock rates mean little. The measure of another
//! node's worth is the CPU time that the busiest node spends for each event that is published or delivered, since a machine
//! of its own would run out of CPU time first. Each figure is the median of three rounds, each round on fresh servers, the
//! numbers of nodes in turn.

mod clients;
mod cost;
mod process;

#[allow(dead_code, unreachable_pub, unused_imports, unused_macros)] // Shared with the tests, which use more of it.
#[path = "../../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use clients::{Publisher, Subscribers};
use process::Cpu;
use support::Server;
use support::nats::Nats;

const ROUNDS: usize = 3;

/// How long each load lasts.
const TIME: Duration = Duration::from_secs(4);

/// Concurrent publishers, each awaiting its acknowledgement, spread over the nodes.
const PUBLISHERS: usize = 64;

/// WebSocket subscribers, spread over the nodes.
const SUBSCRIBERS: usize = 900;

/// Events a second that every subscriber receives.
const EVENTS_PER_SECOND: u32 = 30;

/// The figures of so many nodes in one round.
#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    publishes_per_second: f64,
    /// CPU microseconds of the busiest node, for each event that is published to any node.
    publish_busiest_us: f64,
    publish_all_us: f64,
    publish_nats_us: f64,
    /// CPU microseconds of the busiest node, for each delivery by any node.
    delivery_busiest_us: f64,
    delivery_all_us: f64,
}

fn main() {
    process::raise_file_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let part = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let asked_for = |name: &str| part.as_deref().is_none_or(|part| part == name);
    runtime.block_on(async {
        if asked_for("nodes") {
            nodes().await;
        }
        if asked_for("client") {
            cost::of_a_client().await;
        }
    });
}

/// One, two and three nodes over NATS; and one with a log on disk, to compare.
async fn nodes() {
    let mut on_disk = Vec::new();
    let mut over_nats: [Vec<Figures>; 3] = Default::default();
    for _ in 0..ROUNDS {
        on_disk.push(measure(&[Server::start(&["--workers", "1"])], &[]).await);
        for (count, rounds) in (1..).zip(&mut over_nats) {
            let nats = Nats::cluster();
            let url = nats.url();
            let flags = ["--store", &url, "--workers", "1"];
            let nodes: Vec<Server> = (0..count).map(|_| Server::start(&flags)).collect();
            rounds.push(measure(&nodes, &nats.pids()).await);
        }
    }
    table(&median(&on_disk), &over_nats.map(|rounds| median(&rounds)));
}

async fn measure(nodes: &[Server], nats: &[u32]) -> Figures {
    let pids: Vec<u32> = nodes.iter().map(Server::pid).collect();
    let addresses: Vec<&str> = nodes.iter().map(Server::address).collect();
    let mut figures = Figures::default();

    let (before, before_nats) = (Cpu::of(&pids), Cpu::of(nats));
    let start = Instant::now();
    let published = clients::publish_for(TIME, &addresses, PUBLISHERS).await as f64;
    figures.publishes_per_second = published / start.elapsed().as_secs_f64();
    let spent = before.since(&pids);
    figures.publish_busiest_us = spent.most_us() / published;
    figures.publish_all_us = spent.all_us() / published;
    figures.publish_nats_us = before_nats.since(nats).all_us() / published;

    let subscribers = Subscribers::connect(&addresses, SUBSCRIBERS, "ws", "topic=fan.out").await;
    let mut publisher = Publisher::connect(addresses[0]).await;
    let before = Cpu::of(&pids);
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / EVENTS_PER_SECOND);
    let events = TIME.as_secs() as usize * EVENTS_PER_SECOND as usize;
    for _ in 0..events {
        ticks.tick().await;
        publisher.publish("fan.out").await;
    }
    subscribers.received(events).await;
    let spent = before.since(&pids);
    let deliveries = (events * SUBSCRIBERS) as f64;
    figures.delivery_busiest_us = spent.most_us() / deliveries;
    figures.delivery_all_us = spent.all_us() / deliveries;
    figures
}

fn median(rounds: &[Figures]) -> Figures {
    let of = |figure: fn(&Figures) -> f64| {
        let mut all: Vec<f64> = rounds.iter().map(figure).collect();
        all.sort_by(f64::total_cmp);
        all[all.len() / 2]
    };
    Figures {
        publishes_per_second: of(|round| round.publishes_per_second),
        publish_busiest_us: of(|round| round.publish_busiest_us),
        publish_all_us: of(|round| round.publish_all_us),
        publish_nats_us: of(|round| round.publish_nats_us),
        delivery_busiest_us: of(|round| round.delivery_busiest_us),
        delivery_all_us: of(|round| round.delivery_all_us),
    }
}

fn table(on_disk: &Figures, over_nats: &[Figures; 3]) {
    println!(
        "Publishing: {PUBLISHERS} publishers, 200 bytes. Fan-out: {SUBSCRIBERS} WebSockets, {EVENTS_PER_SECOND} events/s."
    );
    println!(
        "CPU in microseconds for each event published, for each delivery. Worth: one node's busiest / these nodes' busiest.\n"
    );
    println!(
        "|              | publishes/s here | busiest node | all nodes | NATS (3) | worth | busiest node | all nodes | worth |"
    );
    println!(
        "|--------------|------------------|--------------|-----------|----------|-------|--------------|-----------|-------|"
    );
    let row = |name: &str, figures: &Figures| {
        let Figures { publishes_per_second: rate, publish_busiest_us: busiest, publish_all_us: all, .. } = figures;
        let (nats, deliver, deliver_all) =
            (figures.publish_nats_us, figures.delivery_busiest_us, figures.delivery_all_us);
        let [one, ..] = over_nats;
        let worth = (one.publish_busiest_us / busiest, one.delivery_busiest_us / deliver);
        println!(
            "| {name:12} | {rate:16.0} | {busiest:12.1} | {all:9.1} | {nats:8.1} | {:5.2} | {deliver:12.2} | {deliver_all:9.2} | {:5.2} |",
            worth.0, worth.1
        );
    };
    row("disk, 1 node", on_disk);
    for (nodes, figures) in (1..).zip(over_nats) {
        row(&format!("NATS, {nodes} node{}", if nodes == 1 { "" } else { "s" }), figures);
    }
}
