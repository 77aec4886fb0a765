//! Stalled readers: each costs the server a cursor, does not slow other clients, and misses no event when it resumes.

use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{self, Items, position};

const READERS: usize = 1000;

const TRANSPORTS: [&str; 3] = ["sse", "ws", "stream"];

/// The maximum memory for each reader.
const EACH_KIB: u64 = 64;

/// The maximum in kernel socket buffers for each reader in addition, which a container is charged for as well.
const EACH_UNSENT_KIB: u64 = 256;

/// Raises the soft limit of open files to the hard limit, for this process and the server.
fn raise_open_files() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("a limit");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit it may be raised");
    hard
}

/// Publishes `count` events of about 1 KiB, numbered from `first`, in batches and single ones.
async fn publish(server: &Server, first: u64, count: u64) {
    let text = "x".repeat(1000);
    let event = |number: u64| json!({ "topic": "a", "data": [number, text] });
    let mut number = first;
    while number < first + count {
        server.publish(&event(number)).await;
        let batch: Vec<Value> = (number + 1..(number + 50).min(first + count)).map(event).collect();
        number += 1 + batch.len() as u64;
        if !batch.is_empty() {
            server.publish(&Value::from(batch)).await;
        }
    }
}

/// The unsent bytes in the kernel's buffers for a server's address, over all connections.
fn unsent_bytes(address: &str) -> u64 {
    let address: std::net::SocketAddrV4 = address.parse().expect("an address");
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the kernel's connections");
    let queues = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let queues = queues.filter(|columns| columns.get(1) == Some(&local.as_str())).map(|columns| columns[4].to_owned());
    queues.map(|queues| u64::from_str_radix(queues.split(':').next().unwrap_or_default(), 16).expect("a number")).sum()
}

/// Reads the events numbered `first..end`, and no others.
async fn read_all(mut items: Items, first: u64, end: u64) {
    for number in first..end {
        assert_eq!(items.news().await["data"][0], number);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_stalled_readers_cost_little_and_slow_no_one() {
    let files = raise_open_files();
    assert!(files > READERS as u64 + 100, "only {files} files may be open, in this process and in the server");
    // A small tail, so that the shared memory is the same before and after.
    let server = Server::start(&["--tail-bytes", "1MiB", "--stall-timeout", "1h", "--heartbeat", "1h"]);
    let address = server.address().to_owned();
    publish(&server, 0, 2000).await;
    let cursor = raw::get(&address, "/v1/info").await.expect("an answer").json()["cursor"].clone();
    let start = cursor.as_str().expect("a cursor").to_owned();
    // Shared memory is allocated already: pages of the log, threads, the tail.
    let warming = (0..8).map(|_| {
        let address = address.clone();
        tokio::spawn(async move { raw::history(&address, "a").await.len() })
    });
    for reader in warming.collect::<Vec<_>>() {
        assert_eq!(super::within("history", reader).await.expect("history"), 2000);
    }
    let idle_kib = super::memory_kib(server.pid(), "VmRSS");

    let mut stalled = Vec::new();
    for number in 0..READERS {
        let transport = TRANSPORTS[number % TRANSPORTS.len()];
        let mut connection = Connection::narrow(&address, Some(4096)).await.expect("connected");
        let client = uuid::Uuid::from_u128(number as u128 + 1);
        Items::request(&mut connection, transport, &format!("topic=a&cursor={start}&client={client}"))
            .await
            .expect("sent");
        stalled.push((transport, connection));
    }
    super::until("all readers are connected", async || super::open_files(server.pid()) > READERS).await;
    let mut healthy = Vec::new();
    for transport in TRANSPORTS {
        let items = Items::open(&address, transport, &format!("topic=a&cursor={start}")).await.expect("open");
        healthy.push(tokio::spawn(read_all(items, 2000, 5000)));
    }
    let began = Instant::now();
    publish(&server, 2000, 3000).await;
    for reader in healthy {
        super::within("a healthy reader", reader).await.expect("the reader receives everything");
    }
    let took = began.elapsed();
    // The readers have stalled indeed: their sent events end well before the log does.
    for number in [1_u128, 2, 3, 500, 1000] {
        let path = format!("/v1/clients/{}", uuid::Uuid::from_u128(number));
        let client = raw::get(&address, &path).await.expect("an answer").json();
        assert!(position(&client["sent"]) < 4500 && client["lag"]["events"].as_u64() > Some(0), "{client}");
    }
    let stalled_kib = super::memory_kib(server.pid(), "VmRSS");
    let grown_kib = stalled_kib.saturating_sub(idle_kib);
    println!("stalled: {idle_kib} KiB idle, {stalled_kib} KiB with {READERS} stalled; {took:?} for the others");
    assert!(grown_kib <= READERS as u64 * EACH_KIB, "{grown_kib} KiB more for {READERS} readers");

    let unsent_kib = unsent_bytes(&address) / 1024;
    println!("stalled: {unsent_kib} KiB wait in the kernel");
    assert!(
        unsent_kib <= READERS as u64 * EACH_UNSENT_KIB,
        "{unsent_kib} KiB wait in the kernel for {READERS} readers"
    );

    // Some readers resume, and get everything.
    for (transport, mut connection) in stalled.drain(..).step_by(READERS / 9 - 1) {
        let head = super::within("a head", connection.head()).await.expect("a head");
        let items = Items::after(connection, transport, &head).expect("a stream");
        read_all(items, 2000, 5000).await;
    }
}

/// With a write timeout, a stalled reader is cut, and an idle one is not.
#[tokio::test]
async fn a_stalled_reader_is_cut_in_time() {
    let server = Server::start(&["--stall-timeout", "2s", "--heartbeat", "500ms"]);
    let address = server.address();
    let mut idle = Items::open(address, "sse", "topic=quiet").await.expect("open");
    let mut stalled = Vec::new();
    for (number, transport) in TRANSPORTS.into_iter().enumerate() {
        let mut connection = Connection::narrow(address, Some(4096)).await.expect("connected");
        let client = uuid::Uuid::from_u128(number as u128 + 1);
        Items::request(&mut connection, transport, &format!("topic=a&cursor=earliest&client={client}"))
            .await
            .expect("sent");
        stalled.push((transport, client, connection));
    }
    for _ in 0..10 {
        publish(&server, 0, 500).await;
    }
    for (transport, client, _) in &stalled {
        super::until(&format!("the stalled {transport} is cut"), async || {
            let answer = raw::get(address, &format!("/v1/clients/{client}")).await.expect("an answer").json();
            answer["transports"].as_array().is_some_and(Vec::is_empty)
        })
        .await;
    }
    // The idle stream has been open for longer than the timeout, and still is.
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let item = idle.item().await;
        assert!(["$hello", "$live", "$beat"].iter().any(|name| item["event"] == *name), "{item}");
    }
    server.publish(&json!({ "topic": "quiet", "data": 1 })).await;
    assert_eq!(idle.news().await["data"], 1);
}
