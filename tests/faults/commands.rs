//! The command line: output, exit codes, and settings from flags, environment and files.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::support::Server;
use crate::support::raw::{self, Items};

const BINARY: &str = env!("CARGO_BIN_EXE_switchback");

/// Runs the binary until it exits, in a scratch directory.
pub(super) fn run(arguments: &[&str], environment: &[(&str, &str)], input: &[u8]) -> Output {
    let directory = tempfile::tempdir().expect("a temporary directory");
    // A command that does not exit by itself is killed, and fails.
    let mut child = Command::new("timeout")
        .args(["--kill-after=1", "40", BINARY])
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(directory.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    // A command that does not read its input may have exited already.
    let _ = child.stdin.take().expect("a pipe").write_all(input);
    child.wait_with_output().expect("the command exits")
}

fn stderr_text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn lines(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"))).collect()
}

/// Asserts the exit code, certain words in the error message, and no other output.
pub(super) fn check_refusal(output: &Output, code: i32, words: &[&str]) {
    let message = stderr_text(output);
    assert_eq!(output.status.code(), Some(code), "{message}");
    assert!(output.stdout.is_empty(), "{output:?}");
    for word in words {
        assert!(message.contains(word), "{word:?} is missing in: {message}");
    }
    assert!(!message.contains("panicked"), "{message}");
}

#[tokio::test]
async fn publish_reports_the_outcome_of_the_event() {
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
    let history = raw::history(server.address(), "a.b").await;
    let data: Vec<&Value> = history.iter().map(|item| &item["data"]).collect();
    assert_eq!(data, [&json!({ "n": 1.50 }), &json!("just a text"), &json!(["from", "a pipe"]), &json!("AP8=")]);
    assert_eq!((&history[0]["event"], &history[0]["id"]), (&json!("named"), &json!("key")));
    assert_eq!(history[3]["encoding"], "base64");

    answer(&publish(&["a.b", "3", "--header", "reason=a=b", "--header", "empty="], b""));
    answer(&publish(&["a.b", "--delete", "--event", "left", "--header", "reason=gone"], b"not read"));
    let history = raw::history(server.address(), "a.b").await;
    assert_eq!(history[4]["headers"], json!({ "reason": "a=b", "empty": "" }));
    let deletion = history[5].as_object().expect("an item");
    assert!(deletion["deleted"] == true && !deletion.contains_key("data"), "{deletion:?}");
    assert_eq!((&deletion["event"], &deletion["headers"]), (&json!("left"), &json!({ "reason": "gone" })));

    check_refusal(&publish(&["a", "1", "--delete"], b""), 2, &["--delete"]);
    check_refusal(&publish(&["a", "1", "--header", "reason"], b""), 2, &["--header", "NAME=VALUE"]);
    check_refusal(&publish(&["a", "1", "--header", "=x"], b""), 2, &["--header", "NAME=VALUE"]);
    let twice = publish(&["a", "1", "--header", "r=1", "--header", "r=2"], b"");
    check_refusal(&twice, 1, &["400", "headers", "given twice"]);
    check_refusal(&publish(&["a..b", "1"], b""), 1, &["switchback:", "400", "topic"]);
    check_refusal(&publish(&["a", "1", "--event", "$bye"], b""), 1, &["400", "event"]);
    let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
    check_refusal(&publish(&["a", &deep], b""), 1, &["400"]);
    check_refusal(&publish(&[], b""), 2, &["TOPIC"]);
    check_refusal(&publish(&["a", "1", "--nonsense"], b""), 2, &["--nonsense"]);
    let unreachable = run(&["publish", "a", "1", "--server", "http://127.0.0.1:1"], &[], b"");
    check_refusal(&unreachable, 1, &["cannot reach http://127.0.0.1:1", "--server"]);
    // The server's URL is read from the environment, too.
    let from_environment = run(&["publish", "a", "1"], &[("SWITCHBACK_SERVER", &server.base)], b"");
    assert_eq!(from_environment.status.code(), Some(0), "{from_environment:?}");
}

#[tokio::test]
async fn subscribe_prints_events_over_every_transport() {
    let server = Server::start(&[]);
    for number in 0..5 {
        server.publish(&json!({ "topic": "a.b", "event": "n", "data": number })).await;
    }
    let subscribe =
        |arguments: &[&str]| run(&[&["subscribe"], arguments, &["--server", &server.base]].concat(), &[], b"");
    for transport in ["auto", "ws", "sse", "stream", "longpoll", "poll"] {
        let all = subscribe(&["a.*", "--cursor", "earliest", "--count", "5", "--transport", transport]);
        assert_eq!(all.status.code(), Some(0), "{transport}: {all:?}");
        let items = lines(&all);
        let data: Vec<u64> = items.iter().map(|item| item["data"].as_u64().expect("a number")).collect();
        assert_eq!(data, [0, 1, 2, 3, 4], "{transport}");
        let cursor = items[2]["cursor"].as_str().expect("a cursor");
        let rest = subscribe(&["a.*", "--cursor", cursor, "--count", "2", "--transport", transport]);
        assert_eq!(lines(&rest), items[3..], "{transport}");
        let last = subscribe(&["a.*", "--last", "1", "--count", "1", "--transport", transport]);
        assert_eq!(lines(&last), items[4..], "{transport}");
        let since = ["a.*", "--since", "1970-01-01T00:00:00Z", "--count", "5", "--transport", transport];
        assert_eq!(lines(&subscribe(&since)), items, "{transport}");
        check_refusal(&subscribe(&["a.*", "--cursor", "rubbish", "--transport", transport]), 1, &["switchback:"]);
        let unreachable =
            run(&["subscribe", "a", "--server", "http://127.0.0.1:1", "--transport", transport], &[], b"");
        check_refusal(&unreachable, 1, &["cannot reach http://127.0.0.1:1"]);
    }
    check_refusal(&subscribe(&["a..b"]), 1, &["switchback:"]);
    check_refusal(&subscribe(&[]), 2, &["PATTERNS"]);
    check_refusal(&subscribe(&["a", "--transport", "pigeon"]), 2, &["pigeon", "longpoll"]);
    check_refusal(&subscribe(&["a", "--last", "3", "--cursor", "now"]), 2, &["--last", "--cursor"]);
    check_refusal(&subscribe(&["a", "--last", "3", "--since", "0"]), 2, &["--last", "--since"]);
    check_refusal(&subscribe(&["a", "--since", "yesterday"]), 1, &["since", "RFC 3339"]);
}

#[tokio::test]
async fn history_prints_pages_of_the_past() {
    let server = Server::start(&[]);
    for number in 0..5 {
        server.publish(&json!({ "topic": "a.b", "data": number })).await;
    }
    let history = |arguments: &[&str]| run(&[&["history"], arguments, &["--server", &server.base]].concat(), &[], b"");
    let data = |output: &Output| lines(output).iter().map(|item| item["data"].as_u64().unwrap()).collect::<Vec<_>>();
    let newest = history(&["a.*", "--limit", "2"]);
    assert_eq!((newest.status.code(), data(&newest)), (Some(0), vec![3, 4]));
    let hint = String::from_utf8_lossy(&newest.stderr).into_owned();
    let before = hint.trim().rsplit(' ').next().unwrap();
    let rest = history(&["a.*", "--before", before]);
    assert_eq!((data(&rest), rest.stderr.is_empty()), (vec![0, 1, 2], true));
    check_refusal(&history(&["a", "--before", "rubbish"]), 1, &["before", "cursor"]);
    check_refusal(&history(&["a", "--limit", "0"]), 1, &["limit"]);
    check_refusal(&history(&[]), 2, &["PATTERNS"]);
}

#[tokio::test]
async fn clients_prints_who_is_connected() {
    let server = Server::start(&[]);
    let clients = |arguments: &[&str]| run(&[&["clients"], arguments, &["--server", &server.base]].concat(), &[], b"");
    assert_eq!((clients(&[]).status.code(), lines(&clients(&[])).len()), (Some(0), 0));
    let mut items = Items::open(server.address(), "sse", "topic=a").await.expect("open");
    let hello = items.named("$hello").await;
    let listed = lines(&clients(&[]));
    let [one] = &listed[..] else { panic!("{listed:?}") };
    assert_eq!((&one["client"], &one["transports"]), (&hello["data"]["client"], &json!(["sse"])));
    assert!(lines(&clients(&["--subject", "li"])).is_empty());
}

/// `switchback subscribe` reconnects with its cursor, as any client.
#[tokio::test]
async fn subscribe_goes_on_through_restarts() {
    let mut server = Server::start(&["--drain", "200ms"]);
    let mut children = Vec::new();
    for transport in ["auto", "ws", "sse", "stream", "longpoll"] {
        let mut child = tokio::process::Command::new(BINARY)
            .args(["subscribe", "a", "--cursor", "earliest", "--count", "9", "--transport", transport])
            .args(["--server", &server.base])
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("the binary runs");
        let output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        children.push((transport, child, output));
    }
    for round in 0..3 {
        for number in 0..3 {
            server.publish(&json!({ "topic": "a", "data": round * 3 + number })).await;
        }
        for (transport, _, output) in &mut children {
            for number in 0..3 {
                let line = super::within(&format!("a line over {transport}"), output.next_line()).await;
                let line = line.expect("readable").expect("a line");
                let item: Value = serde_json::from_str(&line).expect("JSON");
                assert_eq!(item["data"], round * 3 + number, "{transport}: {line}");
            }
        }
        server = if round == 1 { server.stop_and_restart() } else { server.kill_and_restart() };
    }
    for (transport, mut child, mut output) in children {
        let end = super::within(transport, child.wait()).await.expect("the command exits");
        assert_eq!(end.code(), Some(0), "{transport}");
        assert_eq!(output.next_line().await.expect("readable"), None);
    }
}

#[tokio::test]
async fn backup_copies_or_reports_why_not() {
    let server = Server::start(&[]);
    for number in 0..3 {
        server.publish(&json!({ "topic": "a", "data": number })).await;
    }
    let file = server.directory().join("copy.db");
    let (file, data) = (file.to_str().expect("a plain path"), server.data());
    let data = data.to_str().expect("a plain path");
    let made = run(&["backup", file, "--data", data], &[], b"");
    assert_eq!(made.status.code(), Some(0), "{made:?}");
    let said = String::from_utf8_lossy(&made.stdout).into_owned();
    let info = raw::get(server.address(), "/v1/info").await.expect("an answer").json();
    let bytes = std::fs::metadata(file).expect("the copy").len().to_string();
    for word in [file, info["epoch"].as_str().expect("an epoch"), "from 1 to 3", &bytes, "switchback restore"] {
        assert!(said.contains(word), "{word} is missing in: {said}");
    }
    check_refusal(&run(&["backup", file, "--data", data], &[], b""), 1, &[file, "exists already"]);
    let empty = tempfile::tempdir().expect("a temporary directory");
    let (other, nowhere) = (empty.path().join("other.db"), empty.path().join("nowhere"));
    let (other, nowhere) = (other.to_str().expect("a plain path"), nowhere.to_str().expect("a plain path"));
    check_refusal(&run(&["backup", other, "--data", nowhere], &[], b""), 1, &[nowhere, "--data"]);
    let astray = format!("{nowhere}/deep/copy.db");
    check_refusal(&run(&["backup", &astray, "--data", data], &[], b""), 1, &["nowhere/deep"]);
    check_refusal(&run(&["backup"], &[], b""), 2, &["FILE"]);
    assert_eq!(std::fs::read_dir(empty.path()).expect("readable").count(), 0, "no file is left behind");
}

async fn heartbeat(wrapper: &[&str], flags: &[&str]) -> u64 {
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let server = Server::start_under(wrapper, directory, flags);
    let info = raw::get(server.address(), "/v1/info").await.expect("an answer").json();
    info["heartbeat"].as_u64().expect("a number")
}

#[tokio::test]
async fn the_flag_wins_then_the_environment_then_the_file() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("config.toml");
    std::fs::write(&file, "heartbeat = \"3s\"\nmax-events = 7\n").expect("written");
    let file = file.to_str().expect("a plain path");
    let (named, variable) = (format!("SWITCHBACK_CONFIG={file}"), "SWITCHBACK_HEARTBEAT=4s");
    for (wrapper, flags, expected) in [
        (&[][..], &[][..], 20_000),
        (&[], &["--config", file], 3000),
        (&["env", &named], &[], 3000),
        (&["env", variable], &["--config", file], 4000),
        (&["env", variable, &named], &["--heartbeat", "5s"], 5000),
        (&[], &["--config", file, "--heartbeat", "5s"], 5000),
    ] {
        assert_eq!(heartbeat(wrapper, flags).await, expected, "{wrapper:?} {flags:?}");
    }
}

#[test]
fn wrong_settings_are_refused_by_name() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("config.toml");
    let path = file.to_str().expect("a plain path");
    for (text, words) in [
        ("hart-beat = \"3s\"", &["config.toml", "hart-beat"][..]),
        ("heartbeat = \"soon\"", &["heartbeat", "soon"]),
        ("heartbeat = [", &["config.toml"]),
        ("heartbeat = [\"1s\", \"2s\"]", &["config.toml", "heartbeat takes one value"]),
        ("heartbeat = \"1s\"\nheartbeat = \"2s\"", &["config.toml", "heartbeat"]),
    ] {
        std::fs::write(&file, text).expect("written");
        check_refusal(&run(&["--config", path], &[], b""), 2, words);
    }
    check_refusal(&run(&["--config", "/nowhere/config.toml"], &[], b""), 2, &["/nowhere/config.toml"]);
    check_refusal(&run(&[], &[("SWITCHBACK_HEARTBEAT", "1ms")], b""), 2, &["heartbeat", "100ms"]);
    for name in ["SWITCHBACK_HEARTBEATS", "SWITCHBACK_HARTBEAT"] {
        check_refusal(&run(&[], &[(name, "3s")], b""), 2, &[name, "did you mean SWITCHBACK_HEARTBEAT?"]);
        check_refusal(&run(&["publish", "a", "1"], &[(name, "3s")], b""), 2, &[name]);
    }
    check_refusal(&run(&["--heartbeat", "1s", "--heartbeat", "2s"], &[], b""), 2, &["--heartbeat"]);
    check_refusal(&run(&["--log", "warning"], &[], b""), 2, &["--log", "warning", "warn"]);
    check_refusal(&run(&["--workers", "0", "--listen", "127.0.0.1:0"], &[], b""), 1, &["--workers"]);
    check_refusal(&run(&["--listen", "nonsense"], &[], b""), 1, &["--listen nonsense", "127.0.0.1:8080"]);
    check_refusal(&run(&["--store", "redis://localhost:6379"], &[], b""), 2, &["--store", "nats://"]);
}

/// Empty variables, as from `docker compose` and systemd, count as unset; and the accepted spellings of a boolean.
#[tokio::test]
async fn an_empty_variable_is_none() {
    let empty =
        ["CONFIG", "HEARTBEAT", "MAX_BYTES", "ALLOW_ORIGIN", "TRUSTED_PROXY", "ACCESS_LOG", "JWKS", "WORKERS", "STORE"]
            .map(|name| format!("SWITCHBACK_{name}="));
    let wrapper: Vec<&str> = ["env"].into_iter().chain(empty.iter().map(String::as_str)).collect();
    assert_eq!(heartbeat(&wrapper, &[]).await, 20_000);
    let kubernetes = ["env", "SWITCHBACK_PORT=tcp://10.0.0.1:80", "SWITCHBACK_SERVICE_HOST=10.0.0.1"];
    assert_eq!(heartbeat(&kubernetes, &["--heartbeat", "5s"]).await, 5000);
    for yes in ["1", "true", "yes", "on"] {
        assert_eq!(heartbeat(&["env", &format!("SWITCHBACK_ACCESS_LOG={yes}")], &[]).await, 20_000);
    }
}

#[test]
fn help_does_not_depend_on_settings() {
    let settings = [("SWITCHBACK_CONFIG", "/nowhere.toml"), ("SWITCHBACK_HEARTBEAT", "soon"), ("SWITCHBACK_TYPO", "1")];
    for arguments in [&["--help"][..], &["-h"], &["--version"], &["serve", "--help"], &["token", "--help"], &["help"]] {
        let output = run(arguments, &settings, b"");
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {}", stderr_text(&output));
        assert!(!output.stdout.is_empty());
    }
    // The configuration file is the server's: client commands do not read it.
    let unreachable = run(&["publish", "a", "1", "--server", "http://127.0.0.1:1"], &settings[..1], b"");
    check_refusal(&unreachable, 1, &["cannot reach http://127.0.0.1:1"]);
}

#[tokio::test]
async fn it_listens_openly_only_with_an_explicit_flag() {
    let words = ["0.0.0.0", "not a loopback address", "--allow-anonymous"];
    check_refusal(&run(&["--listen", "0.0.0.0:0"], &[], b""), 1, &words);
    check_refusal(&run(&["serve", "--listen", "0.0.0.0:0"], &[], b""), 1, &words);
    check_refusal(&run(&[], &[("SWITCHBACK_LISTEN", "0.0.0.0:0")], b""), 1, &words);
    check_refusal(&run(&["--listen", "[::]:0"], &[], b""), 1, &["[::]", "--allow-anonymous"]);
    // The last value wins.
    let refused = ["--listen", "127.0.0.1:0", "--listen", "0.0.0.0:0"];
    assert_ne!(run(&refused, &[], b"").status.code(), Some(0));

    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let open = Server::start_under(&["env", "SWITCHBACK_ALLOW_ANONYMOUS=true"], directory, &[]);
    assert_eq!(raw::get(open.address(), "/v1/info").await.expect("an answer").status(), 200);

    // A port that is in use is reported as such.
    let taken = run(&["--listen", open.address(), "--store", "memory"], &[], b"");
    check_refusal(&taken, 1, &["cannot listen on", open.address(), "--listen"]);
}
