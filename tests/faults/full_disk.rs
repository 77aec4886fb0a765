//! Disk full: publishing is refused, reading continues, and the server recovers by itself once there is space.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::fixture::uuid;
use crate::support::http::Connection;
use crate::support::raw::{self, Items};
use crate::support::small::Small;

/// A file that takes all space, until it is dropped.
struct Ballast(PathBuf);

impl Ballast {
    fn fill(disk: &Path) -> Self {
        let path = disk.join("ballast");
        let mut file = fs::File::create(&path).expect("a file");
        for size in [1 << 20, 4096, 1] {
            while file.write_all(&vec![1; size]).is_ok() {}
        }
        Self(path)
    }
}

impl Drop for Ballast {
    fn drop(&mut self) {
        // The test may have failed before the file was written.
        let _ = fs::remove_file(&self.0);
    }
}

/// The acknowledged events: position and number.
struct Filler {
    address: String,
    stored: Vec<(u64, u64)>,
    number: u64,
}

impl Filler {
    /// Publishes one event of a size; returns whether there was space.
    async fn publish(&mut self, bytes: usize) -> bool {
        self.number += 1;
        let event =
            json!({ "topic": "fill.it", "id": self.number.to_string(), "data": [self.number, "x".repeat(bytes)] });
        let answer = super::within("an answer", raw::post(&self.address, &event)).await.expect("an answer");
        match answer.status() {
            201 => {
                assert_eq!(answer.json()["duplicate"], false, "the id of a refused event is not remembered");
                self.stored.push((raw::position(&answer.json()["cursor"]), self.number));
                true
            }
            507 => {
                assert_eq!(answer.code(), "disk_full");
                // A retry is not treated as a duplicate of a stored event.
                self.number -= 1;
                false
            }
            _ => panic!("{answer:?}"),
        }
    }

    async fn check_history(&self) {
        let history = raw::history(&self.address, "fill.*").await;
        let there: Vec<(u64, u64)> = history
            .iter()
            .map(|item| (raw::position(&item["cursor"]), item["data"][0].as_u64().expect("a number")))
            .collect();
        assert_eq!(there, self.stored);
    }
}

#[tokio::test]
async fn a_full_disk_refuses_publishers_only() {
    let Some(disk) = Small::mount(24) else { return };
    let ballast = disk.path().join("ballast");
    fs::write(&ballast, vec![1; 10 << 20]).expect("the ballast fits");
    let home = Arc::new(tempfile::tempdir_in(disk.path()).expect("a directory"));
    // The tail is small, so that history is read from the disk.
    let server = Server::start_in(home, &["--heartbeat", "2s", "--tail-bytes", "64KiB"]);
    let address = server.address().to_owned();
    let mut filler = Filler { address: address.clone(), stored: Vec::new(), number: 0 };
    let mut readers = Vec::new();
    for transport in raw::STREAMS {
        // An iframe ends at its byte budget, so it subscribes to later events only.
        let topic = if transport == "iframe" { "later" } else { "fill.*" };
        let items = Items::open(&address, transport, &format!("topic={topic}&cursor=earliest")).await.expect("open");
        readers.push((transport, items.flowing()));
    }

    while filler.publish(150_000).await {}
    assert!(filler.stored.len() > 10, "only {} fitted", filler.stored.len());
    while filler.publish(2_000).await {}
    for size in [100_000, 4_000, 150_000] {
        filler.publish(size).await;
    }
    assert!(!filler.publish(250_000).await, "the disk is full");
    let batch = json!([{ "topic": "fill.it", "data": "x".repeat(200_000) }, { "topic": "fill.it", "data": "y".repeat(200_000) }]);
    let refused = raw::post(&address, &batch).await.expect("an answer");
    assert_eq!((refused.status(), refused.code().as_str()), (507, "disk_full"));
    let mut lines = Connection::open(&address).await.expect("connected");
    let line = format!("{}\n", json!({ "topic": "fill.it", "data": "z".repeat(250_000) }));
    lines.post("/v1/events", "application/x-ndjson", line.as_bytes()).await.expect("sent");
    let refused = super::within("an answer", lines.answer()).await.expect("an answer");
    assert_eq!((refused.status(), refused.json()["accepted"].as_u64()), (507, Some(0)));

    // Reading continues: for the open streams, with heartbeats, and for new ones.
    for (transport, items) in &mut readers {
        if *transport != "iframe" {
            for (position, number) in &filler.stored {
                let item = items.news().await;
                assert_eq!((raw::position(&item["cursor"]), item["data"][0].as_u64()), (*position, Some(*number)));
            }
        }
        items.next_named("$beat").await;
    }
    filler.check_history().await;
    let mut newcomer = Items::open(&address, "sse", "topic=fill.*&last=1").await.expect("open");
    let (last, _) = filler.stored[filler.stored.len() - 1];
    assert_eq!(raw::position(&newcomer.news().await["cursor"]), last);
    // Also for clients that are to be remembered, although there is no space for their records.
    for _ in 0..32 {
        let long = "x".repeat(200);
        let query = format!("topic=fill.*&topic={long}.a&topic={long}.b&topic={long}.c&last=1&client={}", uuid());
        let mut named = Items::open(&address, "sse", &query).await.expect("open");
        assert_eq!(raw::position(&named.news().await["cursor"]), last);
    }
    // Not ready, as long as no publish can succeed.
    let readiness = raw::get(&address, "/readyz").await.expect("an answer");
    assert_eq!((readiness.status(), readiness.code().as_str()), (503, "disk_full"));
    for path in ["/healthz", "/v1/info", "/v1/clients"] {
        assert_eq!(raw::get(&address, path).await.expect("an answer").status(), 200, "{path}");
    }

    // Space again: no restart is needed, and no event is lost.
    fs::remove_file(&ballast).expect("the ballast goes");
    super::until("publishing continues", async || filler.publish(150_000).await).await;
    super::until("the server is ready", async || {
        raw::get(&address, "/readyz").await.expect("an answer").status() == 200
    })
    .await;
    let (position, number) = filler.stored[filler.stored.len() - 1];
    for (transport, items) in &mut readers {
        if *transport != "iframe" {
            let item = items.news().await;
            assert_eq!((raw::position(&item["cursor"]), item["data"][0].as_u64()), (position, Some(number)));
        }
    }
    let published = server.publish(&json!({ "topic": "later", "data": 1 })).await;
    let (_, iframe) = readers.iter_mut().find(|(transport, _)| *transport == "iframe").expect("an iframe");
    assert_eq!(iframe.news().await["cursor"], published["cursor"]);
    filler.check_history().await;
    let server = server.kill_and_restart();
    assert_eq!(server.address(), filler.address);
    filler.check_history().await;
}

async fn data(server: &Server) -> Vec<Value> {
    raw::history(server.address(), "a").await.iter().map(|item| item["data"].clone()).collect()
}

async fn publish(server: &Server, data: impl Into<Value>) -> u16 {
    let event = json!({ "topic": "a", "data": data.into() });
    super::within("an answer", raw::post(server.address(), &event)).await.expect("an answer").status()
}

async fn readiness(server: &Server) -> u16 {
    raw::get(server.address(), "/readyz").await.expect("an answer").status()
}

/// A full disk keeps a server from accepting events, not from starting: whether it was stopped, which removes SQLite's files beside
/// the log, or killed.
#[tokio::test]
async fn a_server_starts_on_a_full_disk() {
    let Some(disk) = Small::mount(24) else { return };
    let home = Arc::new(tempfile::tempdir_in(disk.path()).expect("a directory"));
    let mut server = Server::start_in(home, &["--heartbeat", "300ms"]);
    let client = uuid();
    let remembered = format!("/v1/poll?topic=a&client={client}&cursor=earliest");
    assert_eq!(raw::poll(server.address(), &remembered).await.expect("a batch").1.len(), 0);
    assert_eq!(publish(&server, 0).await, 201);
    for (round, signal) in [Signal::SIGTERM, Signal::SIGKILL, Signal::SIGTERM].into_iter().enumerate() {
        server.signal(signal);
        server.wait();
        let ballast = Ballast::fill(disk.path());
        server = server.start_again();
        // Also while it is full, with what the last start has left.
        for again in [true, false] {
            assert_eq!(data(&server).await.len(), round + 1, "{signal}");
            let mut items = Items::open(server.address(), "sse", "topic=a&last=1").await.expect("open");
            assert_eq!(items.news().await["data"], round);
            items.named("$beat").await;
            let (_, events) = raw::poll(server.address(), &format!("/v1/poll?client={client}")).await.expect("a batch");
            assert_eq!(events.len(), round + 1, "the client is remembered");
            // A short event may have room in what the files had already.
            assert_eq!(publish(&server, "x".repeat(200_000)).await, 507);
            let readiness = raw::get(server.address(), "/readyz").await.expect("an answer");
            assert_eq!((readiness.status(), readiness.code().as_str()), (503, "disk_full"));
            if again {
                server = server.kill_and_restart();
            }
        }
        drop(ballast);
        super::until("publishing continues", async || publish(&server, round + 1).await == 201).await;
        super::until("the server is ready", async || readiness(&server).await == 200).await;
        assert_eq!(data(&server).await.len(), round + 2);
    }
}

/// The server is killed while clients are remembered in memory only, since the disk has no space for their records: none of them
/// continues at the log's end without being told.
#[tokio::test]
async fn clients_that_could_not_be_saved_are_unknown_after_a_kill() {
    let Some(disk) = Small::mount(24) else { return };
    let home = Arc::new(tempfile::tempdir_in(disk.path()).expect("a directory"));
    let server = Server::start_in(home, &[]);
    assert_eq!(publish(&server, 1).await, 201);
    let start = async |client: &str| {
        let query = format!("topic=a&client={client}&cursor=earliest");
        let mut items = Items::open(server.address(), "sse", &query).await.expect("open");
        (items.news().await["cursor"].clone(), items)
    };
    let (saved, mut unsaved) = (uuid(), Vec::new());
    let (first, _open) = start(&saved).await;
    assert_eq!(publish(&server, 2).await, 201);
    let ballast = Ballast::fill(disk.path());
    assert_eq!(publish(&server, "x".repeat(200_000)).await, 507);
    let mut streams = Vec::new();
    // More than fit into the pages that the files have already.
    for _ in 0..200 {
        let client = uuid();
        streams.push(start(&client).await.1);
        unsaved.push(client);
    }
    // An acknowledgement that cannot be stored is refused.
    let ack = json!({ "client": saved, "cursor": first });
    let mut connection = Connection::open(server.address()).await.expect("connected");
    connection.post("/v1/ack", "application/json", ack.to_string().as_bytes()).await.expect("sent");
    let refused = super::within("an answer", connection.answer()).await.expect("an answer");
    assert!(matches!(refused.status(), 200 | 507), "{refused:?}");
    drop(streams);
    server.signal(Signal::SIGKILL);
    drop(ballast);
    let server = server.start_again();
    super::until("publishing continues", async || publish(&server, 3).await == 201).await;

    let (mut known, mut unknown) = (0, 0);
    for client in &unsaved {
        let alone = raw::get(server.address(), &format!("/v1/poll?client={client}")).await.expect("an answer");
        let beside = raw::get(server.address(), &format!("/v1/poll?topic=a&client={client}")).await.expect("an answer");
        assert_eq!(beside.status(), 200);
        if alone.status() == 400 {
            assert_eq!(beside.json()["known"], false, "{beside:?}");
            unknown += 1;
        } else {
            // Its record was stored after all: it continues where it was at the latest.
            let events = alone.json()["events"].as_array().expect("events").clone();
            assert!(events.last().is_some_and(|item| item["data"] == 3), "{events:?}");
            known += 1;
        }
    }
    assert!(unknown > 0, "{known} of 200 could be stored");
    let (_, events) = raw::poll(server.address(), &format!("/v1/poll?client={saved}")).await.expect("a batch");
    let data: Vec<&Value> = events.iter().map(|item| &item["data"]).collect();
    assert!(data.ends_with(&[&json!(2), &json!(3)]), "at least all that it was not sent: {data:?}");
}
