//! Jumps of the wall clock while the server runs, and across a restart.

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::jwt::Signer;
use crate::support::preload::Faults;
use crate::support::raw::{self, Items};

const SECRET: &str = "the-secret-that-signs-the-tokens-of-this-test";

const HOUR_MS: i64 = 3_600_000;

async fn publish(server: &Server, number: u64) {
    server.publish(&json!({ "topic": "a", "data": number })).await;
}

async fn numbers(server: &Server) -> Vec<Value> {
    raw::history(server.address(), "a").await.iter().map(|item| item["data"].clone()).collect()
}

#[tokio::test]
async fn a_jump_ahead_removes_nothing() {
    let (faults, server) = Faults::start(&["--max-age", "10m", "--client-idle", "10m", "--log", "info"]);
    let client = "5a2b7a3e-6f0e-4a9e-9d5e-0c6f4b1d2e3f";
    publish(&server, 1).await;
    let start = format!("/v1/poll?topic=a&client={client}&cursor=earliest");
    assert_eq!(raw::poll(server.address(), &start).await.expect("a batch").1.len(), 1);
    publish(&server, 2).await;
    faults.set_clock(8 * 24 * HOUR_MS);
    super::until("the jump is logged", async || server.log().contains("has jumped ahead")).await;
    // An event published now has the clock's time. Once it is stored, the writer has run its maintenance at least once.
    for number in 3..=5 {
        publish(&server, number).await;
    }
    assert_eq!(numbers(&server).await, [1, 2, 3, 4, 5]);
    let (_, events) = raw::poll(server.address(), &format!("/v1/poll?client={client}")).await.expect("a batch");
    let data: Vec<&Value> = events.iter().map(|item| &item["data"]).collect();
    assert!(data.ends_with(&[&json!(2), &json!(3), &json!(4), &json!(5)]), "the client is remembered: {events:?}");
}

#[tokio::test]
async fn an_event_of_the_future_keeps_none_behind_it() {
    let (faults, server) = Faults::start(&["--max-age", "1s"]);
    faults.set_clock(HOUR_MS);
    publish(&server, 1).await;
    faults.set_clock(0);
    for number in 2..=4 {
        publish(&server, number).await;
    }
    super::until("all events are trimmed", async || numbers(&server).await.is_empty()).await;
}

#[tokio::test]
async fn a_restart_compares_the_clock_with_the_last_run() {
    let (faults, server) = Faults::start(&["--max-age", "10m", "--log", "info"]);
    publish(&server, 1).await;
    // The server stores the time during maintenance.
    let server = server.stop_and_restart();
    publish(&server, 2).await;
    // The restart is without fault injection, so the clock is set before.
    let directory = faults.directory();
    drop(server);
    let db = rusqlite::Connection::open(directory.path().join("data/events.db")).expect("the log");
    db.execute("UPDATE last_run SET believed = believed - ?1", [HOUR_MS]).expect("changed");
    db.execute("UPDATE e SET time = time - ?1", [HOUR_MS]).expect("changed");
    drop(db);
    let server = Server::start_in(directory, &["--max-age", "10m", "--log", "info"]);
    // The log is written by a thread of its own, so the line may come after the greeting.
    super::until("the jump is logged", async || server.log().contains("has jumped ahead")).await;
    assert_eq!(numbers(&server).await, [1, 2]);
}

#[tokio::test]
async fn a_stream_ends_when_its_token_expires_by_the_clock() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let secret = directory.path().join("secret");
    std::fs::write(&secret, SECRET).expect("written");
    let secret = secret.to_str().expect("a plain path");
    let (faults, server) = Faults::start(&["--jwt-secret-file", secret, "--heartbeat", "200ms"]);
    let exp = switchback::clock::wall_ms() / 1000 + 600;
    let token = Signer::secret(SECRET).sign(&json!({ "subscribe": [">"], "exp": exp }));
    let mut items = Items::open(server.address(), "sse", &format!("topic=a&token={token}")).await.expect("open");
    items.named("$hello").await;
    faults.set_clock(HOUR_MS);
    let bye = items.named("$bye").await;
    assert_eq!(bye["data"]["reason"], "expired");
}

/// After a jump, retention by age is suspended until the operator confirms the clock (SIGHUP).
#[tokio::test]
async fn after_a_jump_removal_by_age_goes_on_at_sighup() {
    let (faults, server) = Faults::start(&["--max-age", "1h", "--log", "info"]);
    publish(&server, 1).await;
    faults.set_clock(8 * 24 * HOUR_MS);
    super::until("the jump is logged", async || server.log().contains("has jumped ahead")).await;
    for number in 2..=4 {
        publish(&server, number).await;
    }
    assert_eq!(numbers(&server).await, [1, 2, 3, 4], "retention by age is suspended");
    server.signal(Signal::SIGHUP);
    super::until("retention by age resumes", async || numbers(&server).await == [2, 3, 4]).await;
    publish(&server, 5).await;
    assert_eq!(numbers(&server).await, [2, 3, 4, 5], "events published since have today's time");
}
