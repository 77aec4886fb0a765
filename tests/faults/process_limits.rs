//! Resource limits of the process (ulimit): few open files, small files.

use std::process::Command;
use std::sync::Arc;

use serde_json::json;

use crate::support::Server;
use crate::support::raw;

/// A server under limits set by a shell.
fn limited(limits: &str, flags: &[&str]) -> Server {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let command = format!("{limits}; exec \"$@\"");
    Server::start_under(&["sh", "-c", &command, "sh"], directory, flags)
}

/// The soft and the hard limit of a process's open files.
fn open_files_limits(pid: u32) -> (u64, u64) {
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("the process is there");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).expect("there is such a limit");
    let mut numbers = line.split_whitespace().map(|number| number.parse().expect("a number"));
    (numbers.next().expect("a soft limit"), numbers.next().expect("a hard limit"))
}

#[tokio::test]
async fn the_limit_of_open_files_is_raised() {
    let server = limited("ulimit -Sn 200; ulimit -Hn 1000", &["--store", "memory", "--log", "warn"]);
    assert_eq!(open_files_limits(server.pid()), (1000, 1000));
    super::until("the reduced limit is logged", async || server.log().contains("--max-connections")).await;
    let server =
        limited("ulimit -Sn 200; ulimit -Hn 1000", &["--store", "memory", "--log", "warn", "--max-connections", "500"]);
    raw::get(server.address(), "/healthz").await.expect("an answer");
    assert_eq!(server.log(), "", "no warning where the limit is sufficient");
}

#[test]
fn too_few_open_files_are_refused_at_start() {
    for limit in [20, 30, 50] {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let command = format!("ulimit -n {limit}; exec timeout 40 \"$@\"");
        let output = Command::new("sh")
            .args(["-c", &command, "sh", env!("CARGO_BIN_EXE_switchback"), "--listen", "127.0.0.1:0"])
            .current_dir(directory.path())
            .output()
            .expect("the binary runs");
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{limit}: {message}");
        assert!(message.contains("ulimit -n") && !message.contains("panicked"), "{limit}: {message}");
        assert!(output.stdout.is_empty(), "{limit}: the server prints no greeting");
    }
}

/// Beyond the file size limit a publish is refused, as on a full disk; the process and its readers continue.
#[tokio::test]
async fn the_limit_of_file_size_refuses_publishers() {
    // In blocks of 512 bytes.
    let mut server = limited("ulimit -f 3000", &["--store", "disk"]);
    let event = json!({ "topic": "a", "data": "x".repeat(100_000) });
    let (mut stored, mut refused) = (0, 0);
    while refused < 3 {
        let answer = super::within("an answer", raw::post(server.address(), &event)).await.expect("an answer");
        match answer.status() {
            201 => stored += 1,
            503 | 507 => refused += 1,
            status => panic!("{status}: {}", answer.text()),
        }
        assert!(stored < 100, "the limit is not applied");
    }
    assert!(stored > 3, "only {stored} events fit");
    assert_eq!(server.ended(), None);
    assert_eq!(raw::history(server.address(), "a").await.len(), stored);
    assert_eq!(raw::get(server.address(), "/healthz").await.expect("an answer").status(), 200);
}
