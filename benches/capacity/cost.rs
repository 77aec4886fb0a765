//! The cost of one client on a node: memory when idle, heartbeats, a resume.

use std::time::Duration;

use crate::clients::{Publisher, Subscribers};
use crate::process::{Cpu, resident_bytes, socket_bytes};
use crate::support::Server;

const CLIENTS: usize = 4000;

/// Events that a client has missed when it resumes.
const MISSED: usize = 10;

/// How long heartbeats are measured, one a second and client.
const BEATS: Duration = Duration::from_secs(5);

pub(crate) async fn of_a_client() {
    println!(
        "\nA client, of {CLIENTS} on one node, log on disk; a return is a new connection that presents a cursor {MISSED} events ago.\n"
    );
    println!("| transport | idle, bytes | a heartbeat, CPU us | a return, CPU us |");
    println!("|-----------|-------------|---------------------|------------------|");
    for transport in ["ws", "sse", "longpoll"] {
        let server = Server::start(&["--workers", "1", "--heartbeat", "1s", "--max-connections", "25000"]);
        let node = [server.address()];
        // Warm-up: memory that the server allocates once is not part of a client's cost.
        let warm = Subscribers::connect(&node, 200, transport, "topic=quiet&wait=60").await;
        drop(warm);
        let before = resident_bytes(server.pid());
        let idle = Subscribers::connect(&node, CLIENTS, transport, "topic=quiet&wait=60").await;
        let cpu = Cpu::of(&[server.pid()]);
        tokio::time::sleep(BEATS).await;
        let beats = cpu.since(&[server.pid()]).all_us() / (CLIENTS as f64 * BEATS.as_secs_f64());
        let bytes = resident_bytes(server.pid()).saturating_sub(before) / CLIENTS as u64;
        drop(idle);

        let mut publisher = Publisher::connect(server.address()).await;
        for _ in 0..MISSED {
            publisher.publish("busy.day").await;
        }
        let cpu = Cpu::of(&[server.pid()]);
        let query = "topic=busy.day&cursor=earliest&wait=60";
        let back = Subscribers::connect(&node, CLIENTS, transport, query).await;
        back.received(MISSED).await;
        let returned = cpu.since(&[server.pid()]).all_us() / CLIENTS as f64;
        let beats = if transport == "longpoll" { "-".to_owned() } else { format!("{beats:.1}") };
        println!("| {transport:9} | {bytes:11} | {beats:>19} | {returned:16.0} |");
    }
    if let Some(bytes) = socket_bytes() {
        println!("\nBeside that the kernel keeps about {bytes} bytes for an idle socket.");
    }
}
