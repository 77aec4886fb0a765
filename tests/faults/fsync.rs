//! Durability by system call traces: no response is sent before the sync of its events has returned.
//!
//! Killing the process cannot show a missing sync, since the kernel keeps what was written; so the calls are traced with strace.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::ledger::Load;
use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw;

const WATCHED: &str = "trace=write,writev,pwrite64,pwritev,sendto,sendmsg,fsync,fdatasync";

/// A system call: the lines of the trace at which it was entered and left, and its arguments.
#[derive(Debug)]
struct Call {
    name: String,
    arguments: String,
    entered: usize,
    left: usize,
    succeeded: bool,
}

impl Call {
    fn is_sync_of(&self, file: &str) -> bool {
        matches!(self.name.as_str(), "fsync" | "fdatasync") && self.succeeded && self.arguments.contains(file)
    }

    fn is_write_to(&self, file: &str) -> bool {
        // The descriptor is the first argument, with its path.
        let target = self.arguments.split('>').next().unwrap_or_default();
        matches!(self.name.as_str(), "write" | "writev" | "pwrite64" | "pwritev") && target.contains(file)
    }
}

/// The calls of a trace. A call that is interrupted by another thread's has two lines.
fn calls(trace: &str) -> Vec<Call> {
    let mut calls: Vec<Call> = Vec::new();
    let mut unfinished: HashMap<&str, usize> = HashMap::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        let succeeded = !rest.contains(" = -1 ");
        if let Some(resumed) = rest.strip_prefix("<... ") {
            if let Some(call) = unfinished.remove(thread) {
                assert!(resumed.starts_with(&calls[call].name), "{line}");
                calls[call].left = number;
                calls[call].succeeded = succeeded;
            }
            continue;
        }
        let Some((name, arguments)) = rest.split_once('(') else { continue };
        let mut call =
            Call { name: name.to_owned(), arguments: arguments.to_owned(), entered: number, left: number, succeeded };
        if rest.ends_with("<unfinished ...>") {
            call.left = usize::MAX;
            call.succeeded = false;
            unfinished.insert(thread, calls.len());
        }
        calls.push(call);
    }
    calls
}

/// The positions that a response acknowledges.
fn promised(call: &Call) -> Vec<u64> {
    let cursors = call.arguments.split(r#"\"cursor\":\""#).skip(1);
    cursors
        .map(|rest| {
            let cursor = rest.split('\\').next().expect("a first part");
            raw::position(&Value::from(cursor))
        })
        .collect()
}

/// Publishes the events of one request, and records the position of each marker.
async fn publish(connection: &mut Connection, topic: &str, markers: &[String], placed: &mut HashMap<u64, String>) {
    let events: Vec<Value> =
        markers.iter().map(|marker| json!({ "topic": topic, "data": format!("<{marker}>") })).collect();
    let body = if events.len() == 1 { events[0].clone() } else { Value::from(events) };
    connection.post("/v1/events", "application/json", body.to_string().as_bytes()).await.expect("sent");
    let answer = super::within("an answer", connection.answer()).await.expect("an answer");
    assert_eq!(answer.status(), 201, "{answer:?}");
    let answer = answer.json();
    let single = [answer.clone()];
    let outcomes = answer["events"].as_array().map_or(&single[..], Vec::as_slice);
    for (outcome, marker) in outcomes.iter().zip(markers) {
        placed.insert(raw::position(&outcome["cursor"]), marker.clone());
    }
}

/// Whether processes may be traced; prints a note where they may not.
fn can_trace() -> bool {
    let permitted = Command::new("strace").args(["-f", "-o", "/dev/null", "true"]).output();
    let permitted = permitted.expect("strace is installed; tests/run installs it where it is missing");
    if !permitted.status.success() {
        println!("SKIPPED: processes cannot be traced here: {}", String::from_utf8_lossy(&permitted.stderr));
    }
    permitted.status.success()
}

/// A server whose system calls are traced.
struct Traced {
    server: Server,
    trace: PathBuf,
}

impl Traced {
    fn start() -> Self {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let trace = directory.path().join("trace");
        let path = trace.to_str().expect("a plain path").to_owned();
        // With strace as a grandchild (-D), so that the server is our child; with paths (-y); with whole pages of the log (-s).
        let wrapper = ["strace", "-D", "-f", "-y", "-s", "70000", "-e", WATCHED, "-o", &path];
        Self { server: Server::start_under(&wrapper, directory, &[]), trace }
    }

    /// Stops the server, and returns its system calls.
    async fn end(mut self) -> Vec<Call> {
        self.server.signal(Signal::SIGTERM);
        let process = format!("{} ", self.server.pid());
        assert!(super::end_of(&mut self.server).await.success());
        let mut text = String::new();
        super::until("the trace is complete", async || {
            text = String::from_utf8_lossy(&std::fs::read(&self.trace).expect("the trace")).into_owned();
            text.lines().any(|line| line.starts_with(&process) && line.ends_with("+++ exited with 0 +++"))
        })
        .await;
        calls(&text)
    }
}

/// A disk that fails now and then: events that are not durable are neither acknowledged nor delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sync_that_fails_is_an_answer_that_fails() {
    if !can_trace() {
        return;
    }
    // So rarely that a commit can succeed: a commit needs one sync, or a dozen writes.
    for (calls, rate) in [("fsync,fdatasync", "60+7"), ("pwrite64", "300+101")] {
        let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
        let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:error=EIO:when={rate}"));
        let log = directory.path().join("trace");
        let log = log.to_str().expect("a plain path");
        let wrapper = ["strace", "-D", "-f", "-q", "-s", "0", "-e", &trace, "-e", &inject, "-o", log];
        let server = Server::start_under(&wrapper, directory.clone(), &[]);
        let load = Load::start(&server, &["sse", "ws", "longpoll"]).await;
        super::until("publishing continues", async || load.acknowledged() >= 400).await;
        let failed = std::fs::read_to_string(log).expect("the trace").matches("(INJECTED)").count();
        assert!(failed > 3, "only {failed} calls failed");
        println!("{calls}: {} events, {failed} calls failed", load.judge().await);
        // Refused events do not reappear after a restart, and acknowledged ones do.
        let before = raw::history(server.address(), "load.%3E").await;
        let server = server.kill_and_restart();
        let after = raw::history(server.address(), "load.%3E").await;
        assert_eq!(after[..before.len()], before);
    }
}

#[tokio::test]
async fn no_201_is_written_before_the_sync_that_covers_it() {
    if !can_trace() {
        return;
    }
    let traced = Traced::start();
    let address = traced.server.address().to_owned();

    let mut placed = HashMap::new();
    let mut connection = Connection::open(&address).await.expect("connected");
    for number in 0..15 {
        let count = if number % 3 == 2 { 4 } else { 1 };
        let markers: Vec<String> = (0..count).map(|part| format!("alone-{number}-{part}")).collect();
        publish(&mut connection, "alone", &markers, &mut placed).await;
    }
    let many = (0..8).map(|name| {
        let address = address.clone();
        tokio::spawn(async move {
            let mut placed = HashMap::new();
            let mut connection = Connection::open(&address).await.expect("connected");
            for number in 0..6 {
                publish(&mut connection, "many", &[format!("many-{name}-{number}")], &mut placed).await;
            }
            placed
        })
    });
    for one in many.collect::<Vec<_>>() {
        placed.extend(one.await.expect("published"));
    }
    let data = traced.server.data();
    let calls = traced.end().await;
    let (log, data) = ("/events.db-wal", format!("<{}>", data.to_str().expect("a plain path")));
    let answers: Vec<&Call> = calls.iter().filter(|call| call.arguments.contains("HTTP/1.1 201")).collect();
    assert_eq!(answers.len(), 15 + 48, "each response is in the trace");
    let mut checked = 0;
    for answer in &answers {
        for position in promised(answer) {
            let marker = &placed[&position];
            let written =
                calls.iter().find(|call| call.is_write_to(log) && call.arguments.contains(&format!("{marker}>")));
            let written = written.unwrap_or_else(|| panic!("{marker} was not written to the log"));
            let covers =
                |sync: &&Call| sync.is_sync_of(log) && sync.entered > written.left && sync.left < answer.entered;
            assert!(
                calls.iter().any(|call| covers(&call)),
                "{marker} was written at line {} and answered at line {} of the trace without a sync between",
                written.left,
                answer.entered
            );
            checked += 1;
        }
    }
    // The response to an array has its last cursor twice.
    assert!(checked >= placed.len() && placed.len() == 30 + 48, "{checked} of {}", placed.len());
    // A file whose directory entry is not durable is lost at a power loss.
    let first = answers.iter().map(|answer| answer.entered).min().expect("answers");
    assert!(calls.iter().any(|call| call.is_sync_of(&data) && call.left < first), "the directory was not synced");
}

/// A client's start and acknowledgement are durable before the response: otherwise a power loss would forget the client, which
/// would miss events when it reconnects with its id alone.
#[tokio::test]
async fn no_client_is_answered_before_its_record_is_synced() {
    if !can_trace() {
        return;
    }
    let traced = Traced::start();
    let mut connection = Connection::open(traced.server.address()).await.expect("connected");
    // The pattern is the client's marker in the file, and the id is in both responses.
    let clients: Vec<String> = (0..6).map(|_| uuid::Uuid::new_v4().to_string()).collect();
    for (number, client) in clients.iter().enumerate() {
        connection.get(&format!("/v1/longpoll?wait=0&topic=marker-{number}.x&client={client}")).await.expect("sent");
        let batch = super::within("a batch", connection.answer()).await.expect("a batch").json();
        assert_eq!(batch["known"], false, "{batch}");
        let ack = json!({ "client": client, "cursor": batch["cursor"] }).to_string();
        connection.post("/v1/ack", "application/json", ack.as_bytes()).await.expect("sent");
        assert_eq!(super::within("an answer", connection.answer()).await.expect("an answer").status(), 200);
    }
    let calls = traced.end().await;
    let log = "/clients.db-wal";
    let is_answer = |call: &&Call| {
        let of_one = [r#"\"events\":[]"#, r#"\"client\":"#].iter().any(|part| call.arguments.contains(part));
        of_one && call.arguments.contains("HTTP/1.1 200")
    };
    let answers: Vec<&Call> = calls.iter().filter(is_answer).collect();
    assert_eq!(answers.len(), 2 * clients.len(), "each response is in the trace");
    for (number, answers) in answers.chunks(2).enumerate() {
        let marker = format!("marker-{number}.x");
        // The first write of the record is for the start, a later one for the acknowledgement.
        let mut after = 0;
        for answer in answers {
            let written = calls
                .iter()
                .find(|call| call.entered >= after && call.is_write_to(log) && call.arguments.contains(&marker));
            let written = written.unwrap_or_else(|| panic!("{marker} was not written"));
            let covers =
                |sync: &&Call| sync.is_sync_of(log) && sync.entered > written.left && sync.left < answer.entered;
            assert!(calls.iter().any(|call| covers(&call)), "{marker} was acknowledged without a sync");
            after = answer.left;
        }
    }
}
