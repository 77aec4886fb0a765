//! The commands on a data directory: `verify`, `restore`, `compact`; and those that describe the program or ask a server.

use std::collections::BTreeSet;
use std::path::Path;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::commands::{check_refusal, run};
use super::end_of;
use crate::support::{Server, raw};

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain path")
}

/// The standard output of a command that succeeds.
fn done(arguments: &[&str]) -> String {
    let output = run(arguments, &[], b"");
    assert_eq!(output.status.code(), Some(0), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// A server with events of every kind on disk.
async fn with_events() -> Server {
    let server = Server::start(&["--store", "disk"]);
    let long = "x".repeat(5000);
    server
        .publish(&json!([
            { "topic": "a.1", "event": "named", "data": { "n": 1 }, "id": "key" },
            { "topic": "a.2", "data": long },
            { "topic": "a.1", "deleted": true, "headers": { "reason": "gone" } },
            { "topic": "b", "data": "AP8=", "encoding": "base64" },
        ]))
        .await;
    server
}

async fn stopped(mut server: Server) -> Server {
    server.signal(Signal::SIGTERM);
    assert!(end_of(&mut server).await.success());
    server
}

#[tokio::test]
async fn verify_reads_a_log_while_a_server_writes_it() {
    let server = with_events().await;
    let data = server.data();
    let publisher = async {
        for number in 0..300 {
            server.publish(&json!({ "topic": format!("c.{}", number % 7), "data": number })).await;
        }
    };
    let verifying = tokio::task::spawn_blocking(move || {
        for _ in 0..5 {
            let report = done(&["verify", "--data", text(&data)]);
            assert!(report.contains("intact") && report.contains(" from 1 to "), "{report}");
        }
    });
    let ((), verified) = tokio::join!(publisher, verifying);
    verified.expect("each time intact");
    let report = done(&["verify", "--data", text(&server.data())]);
    assert!(report.contains("from 1 to 304, 304 events"), "{report}");
}

#[tokio::test]
async fn verify_finds_what_is_damaged_and_changes_nothing() {
    let server = stopped(with_events().await).await;
    let data = server.data();
    let events = data.join("events.db");
    let damage = |sql: &str| {
        let copy = tempfile::tempdir().expect("a directory");
        for file in ["events.db", "clients.db", "notes.db"] {
            std::fs::copy(data.join(file), copy.path().join(file)).expect("a copy");
        }
        let db = rusqlite::Connection::open(copy.path().join("events.db")).expect("a log");
        db.execute_batch(sql).expect("damaged");
        db.close().expect("closed");
        copy
    };
    assert!(done(&["verify", "--data", text(&data)]).contains("intact"));
    for (sql, finding) in [
        ("UPDATE meta SET bytes = bytes + 1", "bytes"),
        ("UPDATE meta SET last = last + 1", "its counters say 1 to 5, its events are 1 to 4"),
        ("DELETE FROM e WHERE seq = 4", "its events are 1 to 3"),
        ("DELETE FROM meta", "its counters are missing"),
        ("UPDATE e SET base64 = 64 WHERE seq = 2", "event 2"),
        ("DELETE FROM topics WHERE topic = 'b'", "event 4"),
        ("PRAGMA user_version = 99", "newer switchback"),
        ("PRAGMA application_id = 1", "contains no log"),
    ] {
        let copy = damage(sql);
        check_refusal(&run(&["verify", "--data", text(copy.path())], &[], b""), 1, &[finding]);
    }
    let mut bytes = std::fs::read(&events).expect("the log");
    let middle = bytes.len() / 2 / 4096 * 4096;
    bytes[middle..middle + 4096].fill(0xA5);
    let copy = damage("");
    std::fs::write(copy.path().join("events.db"), &bytes).expect("written");
    check_refusal(&run(&["verify", "--data", text(copy.path())], &[], b""), 1, &["damaged", "backup"]);
    assert!(std::fs::read(copy.path().join("events.db")).expect("the log") == bytes, "nothing is mended in secret");
    let nowhere = copy.path().join("nowhere");
    check_refusal(&run(&["verify", "--data", text(&nowhere)], &[], b""), 1, &["--data"]);
}

#[tokio::test]
async fn restore_makes_a_log_and_overwrites_none() {
    let server = with_events().await;
    let home = tempfile::tempdir().expect("a directory");
    let (backup, data) = (home.path().join("copy.db"), home.path().join("deep/data"));
    let (backup, data) = (text(&backup), text(&data));
    done(&["backup", backup, "--data", text(&server.data())]);
    assert!(done(&["verify", backup]).contains("intact"));
    let report = done(&["restore", backup, "--data", data]);
    assert!(report.contains("from 1 to 4, 4 events"), "{report}");

    let before = raw::history(server.address(), "%3E").await;
    let directory = std::sync::Arc::new(home);
    // The harness's directory is `data` below a parent.
    let parent = directory.path().join("deep");
    let restored = tempfile::tempdir_in(&parent).expect("a directory");
    std::fs::rename(data, restored.path().join("data")).expect("moved");
    let restored = Server::start_in(std::sync::Arc::new(restored), &["--store", "disk"]);
    let after = raw::history(restored.address(), "%3E").await;
    let content = |items: &[Value]| -> Vec<Value> {
        let keys = ["topic", "event", "data", "headers", "deleted", "encoding", "id", "time"];
        items.iter().map(|item| keys.iter().map(|key| item[*key].clone()).collect()).collect()
    };
    assert_eq!(content(&after), content(&before));
    assert_ne!(after[0]["cursor"], before[0]["cursor"], "another epoch");

    // Neither a log that a server uses, nor one that none uses.
    let used = restored.data();
    check_refusal(&run(&["restore", backup, "--data", text(&used)], &[], b""), 1, &["in use"]);
    let restored = stopped(restored).await;
    check_refusal(&run(&["restore", backup, "--data", text(&used)], &[], b""), 1, &["events.db", "never overwrites"]);
    assert!(done(&["verify", "--data", text(&used)]).contains("4 events"));
    drop(restored);

    // Files of another log, without it.
    let half = tempfile::tempdir().expect("a directory");
    std::fs::write(half.path().join("clients.db"), "").expect("written");
    check_refusal(&run(&["restore", backup, "--data", text(half.path())], &[], b""), 1, &["clients.db"]);
    let names: BTreeSet<_> =
        std::fs::read_dir(half.path()).expect("readable").map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(names.iter().all(|name| name == "clients.db" || name == "lock"), "{names:?}");

    // What is no backup, or a damaged one.
    let log = server.data().join("events.db");
    let empty = tempfile::tempdir().expect("a directory");
    let target = ["--data", text(empty.path())];
    check_refusal(&run(&[&["restore", text(&log)][..], &target].concat(), &[], b""), 1, &["not a backup"]);
    let mut bytes = std::fs::read(backup).expect("the backup");
    bytes.truncate(bytes.len() / 2);
    let torn = directory.path().join("torn.db");
    std::fs::write(&torn, bytes).expect("written");
    check_refusal(&run(&[&["restore", text(&torn)][..], &target].concat(), &[], b""), 1, &["damaged"]);
    assert_eq!(std::fs::read_dir(empty.path()).expect("readable").count(), 0, "nothing is left behind");
}

#[tokio::test]
async fn compact_returns_free_space_and_keeps_the_log() {
    let server = with_events().await;
    let data = server.data();
    check_refusal(&run(&["compact", "--data", text(&data)], &[], b""), 1, &["in use"]);
    let before = raw::history(server.address(), "%3E").await;
    let server = stopped(server).await;
    let events = data.join("events.db");
    let db = rusqlite::Connection::open(&events).expect("a log");
    // Free pages in the middle of the file.
    let fill =
        "CREATE TABLE filler(x); INSERT INTO filler SELECT zeroblob(100000) FROM (VALUES (1), (2), (3), (4), (5), (6));
        CREATE TABLE last(x); INSERT INTO last VALUES (zeroblob(50000)); DROP TABLE filler; DROP TABLE last";
    db.execute_batch(fill).expect("filled and freed");
    db.close().expect("closed");
    let size = || std::fs::metadata(&events).expect("the log").len();
    let large = size();
    assert!(large > 500_000, "{large}");
    let report = done(&["compact", "--data", text(&data)]);
    assert!(
        size() < 200_000 && report.contains(&size().to_string()) && report.contains(&large.to_string()),
        "{report}"
    );
    assert!(done(&["verify", "--data", text(&data)]).contains("4 events"));
    let server = server.start_again();
    // The same log: cursors stay valid.
    assert_eq!(raw::history(server.address(), "%3E").await, before);
    let names: Vec<_> =
        std::fs::read_dir(&data).expect("readable").map(|entry| entry.expect("an entry").file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().contains("partial")), "{names:?}");
}

#[test]
fn check_config_says_what_would_keep_the_server_from_starting() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("switchback.toml");
    let config = text(&file);
    std::fs::write(&file, "listen = \"127.0.0.1:9999\"\nmax-age = \"24h\"\n").expect("written");
    let report = done(&["check-config", "--config", config, "--data", "elsewhere"]);
    assert!(report.contains("valid") && report.contains("127.0.0.1:9999") && report.contains("elsewhere"), "{report}");
    std::fs::write(&file, "max-agee = \"24h\"\n").expect("written");
    check_refusal(&run(&["check-config", "--config", config], &[], b""), 2, &["max-agee", "did you mean max-age"]);
    for (flags, code, words) in [
        (&["--listen", "0.0.0.0:80"][..], 1, &["--allow-anonymous"][..]),
        (&["--jwt-secret-file", "missing"], 1, &["--jwt-secret-file", "missing"]),
        (&["--tls-cert", "missing.pem", "--tls-key", "missing.pem"], 1, &["missing.pem"]),
        (&["--security-txt", "missing.txt"], 1, &["--security-txt", "missing.txt"]),
        (&["--heartbeat", "1ms"], 2, &["--heartbeat"]),
    ] {
        check_refusal(&run(&[&["check-config"], flags].concat(), &[], b""), code, words);
    }
}

#[tokio::test]
async fn health_is_the_readiness_of_a_server() {
    let server = Server::start(&["--store", "memory"]);
    assert_eq!(done(&["health", "--server", &server.base]), "ready\n");
    check_refusal(&run(&["health", "--server", "http://127.0.0.1:1"], &[], b""), 1, &["cannot reach"]);
}

#[test]
fn the_program_describes_itself() {
    let version = done(&["--version"]);
    assert!(version.starts_with(concat!("switchback ", env!("CARGO_PKG_VERSION"))), "{version}");
    for shell in ["bash", "zsh", "fish"] {
        let script = done(&["completions", shell]);
        assert!(script.contains("check-config") && script.contains("jwt-secret-file"), "{shell}");
    }
    for (arguments, word) in
        [(&["man"][..], "SUBCOMMANDS"), (&["man", "serve"], "max\\-age"), (&["man", "restore"], "\\-\\-data")]
    {
        let page = done(arguments);
        assert!(page.contains(".TH") && page.contains(word), "{arguments:?}: {page}");
    }
    check_refusal(&run(&["man", "nonsense"], &[], b""), 1, &["nonsense", "serve"]);
    check_refusal(&run(&["completions", "nonsense"], &[], b""), 2, &["nonsense", "bash"]);
}
