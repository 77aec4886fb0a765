//! A disk that fails, hangs, or loses the server's files: `/readyz` reports not ready, publishers get an error with the cause,
//! and no event is acknowledged that is not stored.

use std::fs;
use std::process::Command;
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use serde_json::json;

use crate::support::Server;
use crate::support::http::{Answer, Connection};
use crate::support::preload::{Fault, Faults};
use crate::support::raw;

const BINARY: &str = env!("CARGO_BIN_EXE_switchback");

async fn publish(server: &Server, number: u64) -> Answer {
    let event = json!({ "topic": "a", "data": number });
    super::within("an answer", raw::post(server.address(), &event)).await.expect("an answer")
}

async fn readiness(server: &Server) -> Answer {
    super::within("an answer", raw::get(server.address(), "/readyz")).await.expect("an answer")
}

/// Waits until `/readyz` fails with this reason: a worker's view of the store may be a moment old.
async fn unreadiness(server: &Server, words: &str) -> Answer {
    let mut answer = readiness(server).await;
    super::until("the server is not ready", async || {
        answer = readiness(server).await;
        answer.status() == 503 && answer.text().contains(words)
    })
    .await;
    answer
}

/// Asserts that the server is not ready, and refuses to publish with these words.
async fn is_refused(server: &Server, words: &str) {
    for answer in [unreadiness(server, words).await, publish(server, 99).await] {
        assert_eq!((answer.status(), answer.code().as_str()), (503, "store_unavailable"), "{answer:?}");
        assert!(answer.head.header("retry-after").is_some(), "{answer:?}");
        let text = answer.text();
        assert!(text.contains(words) && !text.contains(server.data().to_str().expect("a plain path")), "{text}");
    }
}

async fn is_well(server: &Server) -> bool {
    readiness(server).await.status() == 200 && publish(server, 7).await.status() == 201
}

#[tokio::test]
async fn a_failing_disk_is_not_ready_and_recovers() {
    let (faults, server) = Faults::start(&[]);
    assert!(is_well(&server).await);
    for (fault, errno, words) in [
        (Fault::WriteErrno, Errno::EROFS, "read-only"),
        (Fault::WriteErrno, Errno::EIO, "the disk reports an error"),
        (Fault::SyncErrno, Errno::EIO, "the disk reports an error"),
    ] {
        faults.set(fault, errno as i32);
        // No publish has failed since: the server probes the disk by itself.
        is_refused(&server, words).await;
        faults.set(fault, 0);
        super::until("the server has recovered", async || is_well(&server).await).await;
    }
}

#[tokio::test]
async fn a_disk_that_hangs_is_an_error_and_not_silence() {
    let (faults, mut server) = Faults::start(&["--drain", "1s"]);
    assert!(is_well(&server).await);
    faults.set(Fault::SyncHangs, 1);
    // The first publish waits for the sync, the second for the first; both get a response while the disk still hangs.
    let address = server.address().to_owned();
    let waiting = [1, 2].map(|number| {
        let address = address.clone();
        tokio::spawn(async move {
            let event = json!({ "topic": "a", "data": number, "id": number.to_string() });
            raw::post(&address, &event).await.expect("an answer")
        })
    });
    unreadiness(&server, "has not answered in time").await;
    for answer in waiting {
        let answer = super::within("an answer", answer).await.expect("no panic");
        assert_eq!((answer.status(), answer.code().as_str()), (503, "store_unavailable"), "{answer:?}");
        assert!(answer.text().contains("repeat it with the same id"), "{answer:?}");
    }
    // Readers are not affected.
    assert_eq!(raw::get(&address, "/v1/poll?topic=a&cursor=earliest").await.expect("an answer").status(), 200);
    faults.set(Fault::SyncHangs, 0);
    super::until("the server has recovered", async || is_well(&server).await).await;
    // A retry is stored once, whether the first attempt was stored meanwhile or not.
    for number in [1, 2] {
        let event = json!({ "topic": "a", "data": number, "id": number.to_string() });
        assert_eq!(raw::post(&address, &event).await.expect("an answer").status(), 201);
    }
    let history = raw::history(&address, "a").await;
    for number in [1, 2] {
        assert_eq!(history.iter().filter(|item| item["data"] == number).count(), 1, "{history:?}");
    }
    server.signal(Signal::SIGTERM);
    assert!(super::end_of(&mut server).await.success());
}

#[tokio::test]
async fn nothing_is_acknowledged_in_files_that_are_deleted() {
    for name in ["events.db", "events.db-wal", "events.db-shm"] {
        let server = Server::start(&[]);
        assert!(is_well(&server).await, "{name}");
        fs::remove_file(server.data().join(name)).expect("the file is removed");
        // The very next publish is refused.
        assert_eq!(publish(&server, 1).await.status(), 503, "{name}");
        is_refused(&server, "deleted or replaced").await;
        // A different file in its place is not the open one.
        fs::write(server.data().join(name), "").expect("written");
        is_refused(&server, "deleted or replaced").await;
    }
    for name in ["clients.db", "notes.db"] {
        let server = Server::start(&[]);
        assert!(is_well(&server).await, "{name}");
        fs::remove_file(server.data().join(name)).expect("the file is removed");
        unreadiness(&server, "deleted or replaced").await;
        // The log is complete.
        assert_eq!(publish(&server, 1).await.status(), 201, "{name}");
    }
    let server = Server::start(&[]);
    assert!(is_well(&server).await);
    fs::remove_dir_all(server.data()).expect("the file is removed");
    is_refused(&server, "deleted or replaced").await;
}

/// The server still has the files open, and checkpoints everything into one file at shutdown.
#[tokio::test]
async fn events_acknowledged_before_the_fault_survive_a_restart() {
    for name in ["events.db-wal", "events.db-shm"] {
        let server = Server::start(&["--log", "warn"]);
        assert!(is_well(&server).await, "{name}");
        fs::remove_file(server.data().join(name)).expect("the file is removed");
        assert_eq!(publish(&server, 1).await.status(), 503, "{name}");
        // Retention fails, too.
        super::until("retention is refused", async || server.log().contains("could not be trimmed")).await;
        let server = server.stop_and_restart();
        let history = raw::history(server.address(), "a").await;
        assert_eq!(history[0]["data"], 7, "{name}");
        assert!(is_well(&server).await, "{name}");
    }
}

#[tokio::test]
async fn the_lock_holds_although_its_file_is_deleted() {
    let server = Server::start(&[]);
    for again in [false, true] {
        let lock = server.data().join("lock");
        fs::remove_file(&lock).expect("the file is removed");
        if again {
            fs::write(&lock, "").expect("written");
        }
        let second = Command::new("timeout")
            .args(["--kill-after=1", "40", BINARY, "--listen", "127.0.0.1:0", "--log", "error", "--data"])
            .arg(server.data())
            .output()
            .expect("the binary runs");
        assert_eq!(second.status.code(), Some(1), "{second:?}");
        let message = String::from_utf8_lossy(&second.stderr).into_owned();
        assert!(message.contains("in use by another switchback"), "{message}");
        // The second server leaves no lock file, or leaves the existing one.
        fs::write(&lock, "").expect("written");
    }
    assert!(is_well(&server).await);
    let directory: Arc<tempfile::TempDir> = server.home();
    drop(server);
    assert!(is_well(&Server::start_in(directory, &[])).await);
}

/// Publishes this number of events, each after the response to the one before.
async fn publish_in_turn(server: &Server, events: u64) {
    let mut connection = Connection::open(server.address()).await.expect("connected");
    for number in 0..events {
        let body = json!({ "topic": "a", "data": number }).to_string();
        connection.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
        assert_eq!(super::within("an answer", connection.answer()).await.expect("an answer").status(), 201);
    }
}

/// Group commit: concurrent publishers that each wait for their response come to share each sync. They do not alternate, in which
/// case each would wait for two syncs.
#[tokio::test]
async fn on_a_slow_disk_publishers_share_each_sync() {
    const EVENTS: u64 = 12;
    let (faults, server) = Faults::start(&[]);
    assert!(is_well(&server).await);
    faults.set(Fault::SyncMs, 200);
    let before = faults.syncs();
    publish_in_turn(&server, EVENTS).await;
    let alone = faults.syncs() - before;
    for publishers in [2, 3] {
        let before = faults.syncs();
        let all = (0..publishers).map(|_| publish_in_turn(&server, EVENTS));
        futures_util::future::join_all(all).await;
        let together = faults.syncs() - before;
        // The first commits alone; on a busy machine a publisher is late now and then.
        assert!(together <= alone * 3 / 2, "{publishers} publishers: {together} syncs, and {alone} for one");
    }
}
