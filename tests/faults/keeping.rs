//! Rules of retention and erasing, as an operator meets them: at a start, at a restart with other rules, over a kill, and with a
//! backup that is older than an erasure.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::support::raw;
use crate::support::{Server, until};

const BINARY: &str = env!("CARGO_BIN_EXE_switchback");

fn run(arguments: &[&str]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut command = Command::new("timeout");
    command.args(["--kill-after=1", "40", BINARY]).args(arguments).current_dir(directory.path());
    command.output().expect("the binary runs")
}

#[test]
fn a_start_with_bad_rules_is_refused_and_names_them() {
    for (rules, words) in [
        (&["a.b"][..], &["\"a.b\"", "PATTERN=RULE"][..]),
        (&["a.b=newest"], &["newest", "latest"]),
        (&["a=latest,3 events"], &["a=latest,3 events", "contradicts itself"]),
        (&["a=latest", "a=1d"], &["--keep", "a has two rules"]),
        (&["a.>=1d", "a.b=latest"], &["--keep", "a.b=latest never counts"]),
    ] {
        let flags: Vec<&str> = rules.iter().flat_map(|rule| ["--keep", rule]).collect();
        let output = run(&[&["--listen", "127.0.0.1:0"], &flags[..]].concat());
        let message = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && output.stdout.is_empty(), "{output:?}");
        for word in words {
            assert!(message.contains(word), "{word:?} is missing in: {message}");
        }
    }
}

async fn numbers(server: &Server, pattern: &str) -> Vec<u64> {
    let history = raw::get(server.address(), &format!("/v1/history?topic={pattern}&limit=1000")).await.expect("a page");
    let data = history.json()["events"].as_array().expect("events").clone();
    data.iter().map(|item| item["data"].as_u64().expect("a number")).collect()
}

async fn publish(server: &Server, topic: &str, data: u64) {
    server.publish(&json!({ "topic": topic, "data": data })).await;
}

#[tokio::test]
async fn a_restart_with_other_rules_says_what_they_remove_and_removes_it() {
    let server = Server::start(&["--log", "warn", "--store", "disk", "--keep", "a=100 events"]);
    for number in 0..20 {
        publish(&server, "a", number).await;
    }
    let server = server.kill_and_restart_with(&["--log", "warn", "--store", "disk", "--keep", "a=3 events"]);
    until("the new rule is applied", || async { numbers(&server, "a").await == [17, 18, 19] }).await;
    let said = server.log();
    assert!(!said.contains("a=100 events is new"), "a new log has nothing to lose: {said}");
    assert!(said.contains("a=3 events is new: it removes all but the newest 3 events of each topic"), "{said}");
    assert!(said.contains("a=100 events no longer counts"), "{said}");
    // And once more without: nothing is lost, nothing comes back.
    publish(&server, "a", 20).await;
    let server = server.kill_and_restart_with(&["--store", "disk"]);
    let kept = numbers(&server, "a").await;
    assert!(kept.ends_with(&[18, 19, 20]) && kept.len() <= 4, "{kept:?}");
}

#[tokio::test]
async fn erase_is_a_command_and_a_backup_does_not_undo_it() {
    let server = Server::start(&["--store", "disk"]);
    for number in 0..10 {
        publish(&server, if number % 2 == 0 { "users.42" } else { "other" }, number).await;
    }
    let copy = server.directory().join("copy.db");
    let data = server.data();
    let arguments = ["backup", copy.to_str().expect("a path"), "--data", data.to_str().expect("a path")];
    assert!(run(&arguments).status.success());
    let erased = run(&["erase", "users.42", "--server", &server.base]);
    assert!(erased.status.success(), "{erased:?}");
    let answer: Value = serde_json::from_slice(&erased.stdout).expect("JSON");
    assert_eq!((&answer["topic"], &answer["erased"]), (&json!("users.42"), &json!(5)));
    assert!(!run(&["erase", "users.*", "--server", &server.base]).status.success(), "a pattern is refused");
    let server = server.kill_and_restart();
    assert_eq!((numbers(&server, "users.42").await, numbers(&server, "other").await.len()), (vec![], 5));
    // The backup is put into the same directory, over the log.
    let server = server.kill_and_restart_after(|| {
        std::fs::copy(&copy, data.join("events.db")).expect("a copy");
    });
    assert_eq!((numbers(&server, "users.42").await, numbers(&server, "other").await.len()), (vec![], 5));
}
