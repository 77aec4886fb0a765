//! Faults of a data directory: two servers on one directory, a restored backup, a torn end of the log.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{self, Items, STREAMS, position};

const BINARY: &str = env!("CARGO_BIN_EXE_switchback");

fn new_home() -> Arc<tempfile::TempDir> {
    Arc::new(tempfile::tempdir().expect("a temporary directory"))
}

async fn publish(server: &Server, events: std::ops::RangeInclusive<u64>) -> Vec<Value> {
    let mut cursors = Vec::new();
    for number in events {
        cursors.push(server.publish(&json!({ "topic": "a", "data": number })).await["cursor"].clone());
    }
    cursors
}

async fn numbers(server: &Server) -> Vec<u64> {
    let history = raw::history(server.address(), "a").await;
    history.iter().map(|item| item["data"].as_u64().expect("a number")).collect()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn a_second_server_on_the_directory_refuses_and_leaves_the_first_alone() {
    let server = Server::start(&[]);
    let mut items = Items::open(server.address(), "sse", "topic=a&cursor=earliest").await.expect("open");
    publish(&server, 1..=3).await;
    for _ in 0..3 {
        let second = Command::new("timeout")
            .args(["--kill-after=1", "40", BINARY])
            .args(["--listen", "127.0.0.1:0", "--log", "error", "--data"])
            .arg(server.data())
            .output();
        let second = second.expect("the binary runs");
        assert_eq!(second.status.code(), Some(1), "{second:?}");
        assert!(second.stdout.is_empty(), "the second server prints no greeting: {second:?}");
        let message = said(&second);
        let process = format!("process {}", server.pid());
        for word in ["in use by another switchback", &process, "--data", server.data().to_str().expect("a plain path")]
        {
            assert!(message.contains(word), "{word} is missing in: {message}");
        }
        assert_eq!(message.trim().lines().count(), 1, "{message}");
    }
    publish(&server, 4..=5).await;
    for number in 1..=5 {
        assert_eq!(items.news().await["data"], number);
    }
    // Any end of the server releases the directory.
    let server = server.kill_and_restart();
    assert_eq!(numbers(&server).await, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_restored_backup_is_a_new_epoch_to_all_clients() {
    let server = Server::start(&[]);
    let old = publish(&server, 1..=5).await;
    let client = "5a2b7a3e-6f0e-4a9e-9d5e-0c6f4b1d2e3f";
    let mut acknowledge = Connection::open(server.address()).await.expect("connected");
    // The client connects once, so that its patterns are remembered, and acknowledges some events.
    let first = format!("/v1/longpoll?topic=a&client={client}&cursor=earliest&wait=0");
    assert_eq!(raw::poll(server.address(), &first).await.expect("a batch").1.len(), 5);
    let ack = json!({ "client": client, "cursor": old[2] }).to_string();
    acknowledge.post("/v1/ack", "application/json", ack.as_bytes()).await.expect("sent");
    assert_eq!(acknowledge.answer().await.expect("an answer").json()["cursor"], old[2]);

    // While the server runs.
    let file = server.directory().join("copy.db");
    let backup = Command::new(BINARY)
        .arg("backup")
        .arg(&file)
        .arg("--data")
        .arg(server.data())
        .output()
        .expect("the binary runs");
    assert!(backup.status.success(), "{backup:?}");
    let lost = publish(&server, 6..=8).await;

    let home = new_home();
    fs::create_dir(home.path().join("data")).expect("a directory");
    fs::copy(&file, home.path().join("data/events.db")).expect("a copy");
    let restored = Server::start_in(home, &[]);
    let address = restored.address().to_owned();
    assert_eq!(numbers(&restored).await, [1, 2, 3, 4, 5]);
    let info = raw::get(&address, "/v1/info").await.expect("an answer").json();
    let epoch = info["epoch"].as_str().expect("an epoch").to_owned();
    assert!(!old[0].as_str().expect("a cursor").starts_with(&format!("{epoch}-")), "the epoch is the old one");
    let began = Value::from(format!("{epoch}-5"));
    let gap = |from: &Value| {
        let from = from.clone();
        let began = began.clone();
        move |item: &Value| {
            assert_eq!(item["event"], "$gap", "{item}");
            let data = &item["data"];
            assert_eq!((&data["reason"], &data["from"], &data["to"]), (&json!("epoch"), &from, &began), "{item}");
            assert_eq!(item["cursor"], began);
        }
    };

    // Cursors from before the backup's end get the events of the backup, without a gap; cursors of lost events get a gap.
    let mut streams = Vec::new();
    for transport in STREAMS {
        for (from, next) in [(&old[2], Some(4)), (&old[4], None), (&lost[2], None)] {
            let cursor = from.as_str().expect("a cursor");
            let mut items = Items::open(&address, transport, &format!("topic=a&cursor={cursor}")).await.expect("open");
            if from == &lost[2] {
                gap(from)(&items.news().await);
            }
            for number in next.into_iter().flat_map(|next| next..=5) {
                let item = items.news().await;
                assert_eq!((&item["data"], &item["cursor"]), (&json!(number), &json!(format!("{epoch}-{number}"))));
            }
            streams.push(items);
        }
    }
    for path in ["poll?", "longpoll?wait=60&", "iframe?once=1&wait=60&", "jsonp?callback=f&wait=60&"] {
        let path = format!("/v1/{path}topic=a&cursor={}", lost[0].as_str().expect("a cursor"));
        let answer = super::within(&path, raw::get(&address, &path)).await.expect("an answer");
        let text = answer.text();
        let end = if path.contains("iframe") {
            ")</script>"
        } else if path.contains("jsonp") {
            ");"
        } else {
            ""
        };
        let start = text.find("{\"cursor\"").unwrap_or_else(|| panic!("no batch in {text}"));
        let batch = text[start..].trim_end_matches('\n').strip_suffix(end).unwrap_or_else(|| panic!("{text}"));
        let batch: Value = serde_json::from_str(batch).expect("a batch");
        assert_eq!(batch["cursor"], began);
        gap(&lost[0])(&batch["events"][0]);
    }
    // The remembered client resumes, too, with its name alone.
    let mut remembered = Items::open(&address, "sse", &format!("client={client}")).await.expect("open");
    for number in 4..=5 {
        assert_eq!(remembered.news().await["data"], number);
    }
    streams.push(remembered);
    let fresh = publish(&restored, 100..=101).await;
    assert_eq!(position(&fresh[0]), 6);
    for items in &mut streams {
        for (number, cursor) in [100, 101].into_iter().zip(&fresh) {
            let item = items.news().await;
            assert_eq!((&item["data"], &item["cursor"]), (&json!(number), cursor));
        }
    }
    // The epoch is minted once.
    let restored = restored.stop_and_restart();
    assert_eq!(raw::get(restored.address(), "/v1/info").await.expect("an answer").json()["epoch"], epoch.as_str());
}

fn copy_of(data: &Path) -> (Arc<tempfile::TempDir>, PathBuf) {
    let home = new_home();
    let copy = home.path().join("data");
    fs::create_dir(&copy).expect("a directory");
    for entry in fs::read_dir(data).expect("the directory") {
        let entry = entry.expect("an entry");
        fs::copy(entry.path(), copy.join(entry.file_name())).expect("a copy");
    }
    let wal = copy.join("events.db-wal");
    (home, wal)
}

#[tokio::test]
async fn a_log_torn_at_its_end_keeps_everything_before() {
    let mut server = Server::start(&[]);
    // Sequentially, so that each event is a commit group of its own.
    let cursors = publish(&server, 1..=12).await;
    server.signal(Signal::SIGKILL);
    server.wait();
    type Tear = fn(&mut Vec<u8>);
    let tears: [(&str, Tear, u64); 6] = [
        ("nothing", |_| {}, 12),
        ("its last byte is missing", |wal| wal.truncate(wal.len() - 1), 11),
        ("half of its last page is missing", |wal| wal.truncate(wal.len() - 2048), 11),
        ("its last bytes are zeros", |wal| wal.iter_mut().rev().take(700).for_each(|byte| *byte = 0), 11),
        ("a bit of its last page is wrong", |wal| *wal.last_mut().expect("bytes") ^= 1, 11),
        ("there is rubbish behind it", |wal| wal.extend([0x5A; 10_000]), 12),
    ];
    for (what, tear, last) in tears {
        let (home, wal) = copy_of(&server.data());
        let mut bytes = fs::read(&wal).expect("the write-ahead log");
        assert!(bytes.len() > 4096, "nothing to tear");
        tear(&mut bytes);
        fs::write(&wal, bytes).expect("written");
        let torn = Server::start_in(home, &[]);
        let expected: Vec<u64> = (1..=last).collect();
        assert_eq!(numbers(&torn).await, expected, "{what}");
        // The log is the same, and continues at its end.
        let reader = format!("topic=a&cursor={}", cursors[9].as_str().expect("a cursor"));
        let mut items = Items::open(torn.address(), "sse", &reader).await.expect("open");
        let next = publish(&torn, 77..=77).await;
        assert_eq!(position(&next[0]), last + 1, "{what}");
        for number in (11..=last).chain([77]) {
            assert_eq!(items.news().await["data"], number, "{what}");
        }
        if last < 12 {
            // A subscriber that had received the torn events gets a gap, since the log is shorter now.
            let (home, wal) = copy_of(&server.data());
            let mut bytes = fs::read(&wal).expect("the write-ahead log");
            tear(&mut bytes);
            fs::write(&wal, bytes).expect("written");
            let torn = Server::start_in(home, &[]);
            let reader = format!("topic=a&cursor={}", cursors[11].as_str().expect("a cursor"));
            let mut items = Items::open(torn.address(), "stream", &reader).await.expect("open");
            let gap = items.news().await;
            assert_eq!((&gap["event"], &gap["data"]["reason"]), (&json!("$gap"), &json!("ahead")), "{what}");
        }
    }
}
