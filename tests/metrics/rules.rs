//! The alert rules that are shipped, and Prometheus's own checker.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::text::Metrics;
use crate::support::Server;

fn shipped(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging").join(file)
}

/// Runs Debian's `promtool`, of the package `prometheus`; `tests/run` installs it.
fn promtool(arguments: &[&str], input: &str) -> String {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool: `tests/run tools` installs it");
    child.stdin.take().expect("standard input").write_all(input.as_bytes()).expect("promtool reads");
    let output = child.wait_with_output().expect("promtool ends");
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "{text}");
    text
}

#[tokio::test]
async fn the_checker_of_prometheus_finds_nothing() {
    let server = Server::start(&["--workers", "1"]);
    let findings = promtool(&["check", "metrics"], &Metrics::of(&server).await.0);
    assert_eq!(findings, "");
}

#[tokio::test]
async fn every_metric_of_the_rules_and_the_dashboard_exists() {
    promtool(&["check", "rules", shipped("prometheus/alerts.yml").to_str().expect("a path")], "");
    let tested = promtool(&["test", "rules", shipped("prometheus/alerts.test.yml").to_str().expect("a path")], "");
    assert!(tested.contains("SUCCESS"), "{tested}");
    let server = Server::start(&["--workers", "1"]);
    let names = Metrics::of(&server).await.names();
    for file in ["prometheus/alerts.yml", "grafana/switchback.json"] {
        let text = std::fs::read_to_string(shipped(file)).expect(file);
        let is_of_a_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let used = text
            .split(|c| !is_of_a_name(c))
            .filter(|word| word.starts_with("switchback_") || word.starts_with("process_"));
        let unknown: Vec<&str> = used.filter(|word| !names.iter().any(|name| name == word)).collect();
        assert_eq!(unknown, Vec::<&str>::new(), "{file}");
    }
}
