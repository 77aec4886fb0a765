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

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use crate::support::{DEADLINE, raw, watched};
use proptest::strategy::Strategy;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

/// After this time without a response to what may be a partial request, the client half-closes the connection.
const PATIENCE: Duration = Duration::from_millis(100);

/// The limit of shrinking steps for a failing input: each step is a request or more.
const SHRINKS_MAX: u32 = 300;

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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
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

/// A response: the status of its head, and what was read of the body.
struct Said {
    status: u16,
    body: Vec<u8>,
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

/// Sends raw bytes, and reads the response.
fn send(address: &str, bytes: &[u8], sent: Sent) -> Result<Option<Said>, TestCaseError> {
    let fail = |error: std::io::Error| TestCaseError::fail(format!("no answer: {error}"));
    let mut stream = TcpStream::connect(address).map_err(fail)?;
    let mut patient = sent != Sent::Anything;
    stream.set_read_timeout(Some(if patient { DEADLINE } else { PATIENCE })).map_err(fail)?;
    // The server may close the connection before it has read everything.
    let _ = stream.write_all(bytes);
    let (mut said, mut buffer) = (Vec::new(), [0; 8192]);
    let end_of_head = |said: &[u8]| said.windows(4).position(|four| four == b"\r\n\r\n");
    loop {
        if sent != Sent::LastRequest && end_of_head(&said).is_some() {
            break;
        }
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(read) => said.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) if !patient && matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                patient = true;
                let _ = stream.shutdown(Shutdown::Write);
                stream.set_read_timeout(Some(DEADLINE)).map_err(fail)?;
            }
            Err(error) => return Err(fail(error)),
        }
    }
    let Some(end) = end_of_head(&said) else {
        return if said.is_empty() { Ok(None) } else { Err(TestCaseError::fail("the response head is incomplete")) };
    };
    let status = std::str::from_utf8(&said[9..12]).ok().and_then(|digits| digits.parse().ok());
    let status = status.ok_or_else(|| TestCaseError::fail(String::from_utf8_lossy(&said).into_owned()))?;
    Ok(Some(Said { status, body: said.split_off(end + 4) }))
}

/// The response is neither a server error nor a refusal without a reason. 501 (not implemented) and 505 (another version of HTTP) count as refusals.
fn check(said: &Said) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(&said.body);
    if said.status >= 500 && ![501, 505].contains(&said.status) {
        return Err(TestCaseError::fail(format!("{}: {text}", said.status)));
    }
    if said.status >= 400 && !said.body.is_empty() {
        let body: Value = serde_json::from_slice(&said.body)
            .map_err(|error| TestCaseError::fail(format!("{}: {error}: {text}", said.status)))?;
        let reason = [&body["error"]["code"], &body["error"]["message"]].map(Value::as_str);
        if !reason.iter().all(|text| text.is_some_and(|text| !text.is_empty())) {
            return Err(TestCaseError::fail(format!("{}: a refusal without a reason: {text}", said.status)));
        }
    }
    Ok(())
}
