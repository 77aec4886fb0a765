//! The Autobahn WebSocket test cases against `/v1/echo`, on each path of a WebSocket through the server: our own HTTP/1.1
//! connection, the actix-web App, and TLS.
//!
//! The runner is `kosoku` (PyPI), a port of the cases to current Python; `tests/run tools` installs it in `target/tools/kosoku`.

use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::{Server, through_app, within};

/// Cases without compression, 1.1.1 to 10.1.1.
const CASES: usize = 301;

/// Runs all cases, or the named ones, and asserts that each passes.
async fn check(url: String, cases: &[&str]) {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let package = root.join("target/tools/kosoku");
    assert!(
        package.is_dir(),
        "{} is not there: `tests/run tools` fetches kosoku, which has Autobahn's cases",
        package.display()
    );
    let run = tokio::process::Command::new("python3")
        .arg(root.join("tests/conformance/autobahn.py"))
        .arg(&url)
        .args(cases)
        .env("PYTHONPATH", &package)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within("the cases", run).await.expect("python3 runs");
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{report}");
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    let results: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let failed: Vec<&Value> = results.iter().filter(|result| result["passed"] != true).collect();
    assert!(failed.is_empty(), "{url}: {} of {}: {failed:#?}", failed.len(), results.len());
    if cases.is_empty() {
        assert_eq!(results.len(), CASES, "{url}: all cases were run");
    }
}

#[tokio::test]
async fn over_a_plain_connection() {
    if through_app() {
        // In this mode every WebSocket goes through the App, whose cases are those below.
        return;
    }
    let server = Server::start(&["--store", "memory"]);
    check(format!("ws://{}/v1/echo", server.address()), &[]).await;
}

/// A percent-encoded path falls back to the App.
#[tokio::test]
async fn through_the_app() {
    let server = Server::start(&["--store", "memory"]);
    check(format!("ws://{}/v1/%65cho", server.address()), &[]).await;
}
