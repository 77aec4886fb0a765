//! Fuzzing of the real binary: generated and mutated input for everything that the server parses.
//!
//! The properties: no server error (5xx), no panic, every refusal is a JSON error, and the next request is served. A failure
//! prints its seed with the smallest failing input; `FUZZ_SEED=n` runs the same again. `FUZZ_CASES=n` sets the number of inputs
//! of each test.

mod access;
mod bodies;
mod differential;
mod frames;
mod inputs;
mod queries;

use std::io;
use std::time::Duration;

use crate::support::http::{Answer, Connection};
use crate::support::{DEADLINE, raw, watched};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokio::runtime::{Builder, Runtime};

/// After this time without a response to what may be a partial request, the client half-closes the connection.
const PATIENCE: Duration = Duration::from_millis(100);

/// The limit of shrinking steps for a failing input: each step is a request or more.
const SHRINKS_MAX: u32 = 300;

/// Runs a future: properties are tested by functions.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    }
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Runs an exchange with the server, which has to succeed within [`DEADLINE`].
fn exchange<T>(exchange: impl Future<Output = io::Result<T>>) -> Result<T, TestCaseError> {
    let exchanged = block_on(async { tokio::time::timeout(DEADLINE, exchange).await });
    let exchanged = exchanged.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    exchanged.map_err(|error| TestCaseError::fail(format!("no answer: {error}")))
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok()?.parse().ok()
}

/// Tries `cases` inputs against a server of its own, which has to be unharmed at the end.
fn fuzz<S: Strategy>(
    name: &str,
    flags: &[&str],
    cases: u32,
    inputs: &S,
    test: impl Fn(&str, S::Value) -> Result<(), TestCaseError>,
) {
    let (server, errors) = watched::watched(flags);
    let address = server.address().to_owned();
    run(name, cases, inputs, |input| test(&address, input));
    block_on(async {
        watched::check_unharmed(&server, &errors).await;
        read_everything(&address).await;
    });
}

/// A batch whose events stay raw JSON: a number in an event may be larger than any Rust type holds, and is still JSON.
#[derive(Deserialize)]
struct Batch<'a> {
    cursor: String,
    #[serde(borrow)]
    events: Vec<&'a RawValue>,
}

/// Every stored event can be read.
async fn read_everything(address: &str) {
    let mut cursor = "earliest".to_owned();
    loop {
        let path = format!("/v1/poll?topic=%3E&cursor={cursor}&limit=1000");
        let answer = raw::get(address, &path).await.expect("the history can be read");
        assert_eq!(answer.status(), 200, "{}", answer.text());
        let batch: Batch<'_> =
            serde_json::from_slice(&answer.body).unwrap_or_else(|error| panic!("{error} in {}", answer.text()));
        if batch.events.is_empty() && batch.cursor == cursor {
            return;
        }
        cursor = batch.cursor;
    }
}

fn run<S: Strategy>(name: &str, cases: u32, inputs: &S, test: impl Fn(S::Value) -> Result<(), TestCaseError>) {
    let seed = number("FUZZ_SEED").unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    println!("{name}: FUZZ_SEED={seed}");
    let cases = number("FUZZ_CASES").map_or(cases, |cases| cases as u32);
    let config = Config { cases, failure_persistence: None, max_shrink_iters: SHRINKS_MAX, ..Config::default() };
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    if let Err(failure) = TestRunner::new_with_rng(config, rng).run(inputs, test) {
        panic!("{name}, FUZZ_SEED={seed}: {failure}");
    }
}

/// Whether the input is a complete request, which has to be answered, or may be a partial one.
#[derive(Clone, Copy, PartialEq)]
enum Sent {
    /// A complete request: the head of the response is read.
    Request,
    /// A complete request: the response is read until the server closes the connection.
    LastRequest,
    /// Possibly a partial request: the head of the response is read, if there is one.
    Anything,
}

/// Sends raw bytes, and reads the response, with what has arrived of its body.
fn send(address: &str, bytes: &[u8], sent: Sent) -> Result<Option<Answer>, TestCaseError> {
    exchange(async {
        let mut connection = Connection::open(address).await?;
        // The server may close the connection before it has read everything.
        let _ = connection.send(bytes).await;
        if sent == Sent::Anything && tokio::time::timeout(PATIENCE, connection.has_head()).await.is_err() {
            let _ = connection.finish().await;
        }
        if !connection.has_head().await && connection.buffer.is_empty() {
            return Ok(None);
        }
        let head = connection.head().await?;
        let body = if sent == Sent::LastRequest { connection.closed().await } else { connection.buffer };
        Ok(Some(Answer { head, body }))
    })
}

/// The response is neither a server error nor a refusal without a reason. 501 (not implemented) and 505 (another version of HTTP) count as refusals.
fn check(answer: &Answer) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(&answer.body);
    if answer.status() >= 500 && ![501, 505].contains(&answer.status()) {
        return Err(TestCaseError::fail(format!("{}: {text}", answer.status())));
    }
    if answer.status() >= 400 && !answer.body.is_empty() {
        let body: Value = serde_json::from_slice(&answer.body)
            .map_err(|error| TestCaseError::fail(format!("{}: {error}: {text}", answer.status())))?;
        let reason = [&body["error"]["code"], &body["error"]["message"]].map(Value::as_str);
        if !reason.iter().all(|text| text.is_some_and(|text| !text.is_empty())) {
            return Err(TestCaseError::fail(format!("{}: a refusal without a reason: {text}", answer.status())));
        }
    }
    Ok(())
}
