//! The program as a command: what it prints, how it ends, and where its settings come from.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::Server;
use crate::wire;

const BINARY: &str = env!("CARGO_BIN_EXE_switchback");

/// Runs it to its end, in a directory where it may leave things.
fn run(arguments: &[&str], environment: &[(&str, &str)], input: &[u8]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let mut child = Command::new(BINARY)
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it runs");
    // One that does not read its input may have gone already.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("it ends")
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// It ends with a code and a message with certain words in it, and says nothing else.
fn check_refusal(output: &Output, code: i32, words: &[&str]) {
    let message = told(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(output.stdout.is_empty(), "{output:?}");
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

#[tokio::test]
async fn publish_says_what_became_of_the_event() {
    let server = Server::start(&[]);
    let to = ["--server", server.base.as_str()];
    let publish = |arguments: &[&str], input: &[u8]| run(&[&["publish"], arguments, &to].concat(), &[], input);
    let answer = |output: &Output| -> Value {
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        lines(output).remove(0)
    };
    let first = answer(&publish(&["a.b", r#"{"n": 1.50}"#, "--event", "named", "--id", "key"], b""));
    assert_eq!(first["duplicate"], false);
    let again = answer(&publish(&["a.b", "2", "--id", "key"], b""));
    assert_eq!((&again["cursor"], &again["duplicate"]), (&first["cursor"], &json!(true)));
    answer(&publish(&["a.b", "just a text"], b""));
    answer(&publish(&["a.b", "-"], b"[\"from\", \"a pipe\"]\n"));
    answer(&publish(&["a.b"], &[0, 0xFF]));
    let history = wire::history(server.address(), "a.b").await;
    let data: Vec<&Value> = history.iter().map(|item| &item["data"]).collect();
    assert_eq!(data, [&json!({ "n": 1.50 }), &json!("just a text"), &json!(["from", "a pipe"]), &json!("AP8=")]);
    assert_eq!((&history[0]["event"], &history[0]["id"]), (&json!("named"), &json!("key")));
    assert_eq!(history[3]["encoding"], "base64");

    check_refusal(&publish(&["a..b", "1"], b""), 1, &["switchback:", "400", "topic"]);
    check_refusal(&publish(&["a", &"x".repeat(100_000)], &[]), 0, &[]).ignore_output_of(&publish(&["a", "1"], b""));
}
