//! Secure startup: unsafe configurations are refused, and secrets never appear in output, logs or the process list.

use std::io::Read as _;
use std::process::{Command, Output, Stdio};

use serde_json::json;

use super::keyed::{Keyed, SECRET, bearer, claims};
use crate::support::client::{Kind, Query};
use crate::support::http::Request;
use crate::support::jwt::{Signer, jwks};

const BINARY: &str = env!("CARGO_BIN_EXE_switchback");

/// Runs the binary until it exits by itself.
fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    let directory = tempfile::tempdir().expect("a directory");
    let child = Command::new("timeout")
        .args(["--kill-after=1", "20", BINARY])
        .args(arguments)
        .envs(environment.iter().copied())
        .current_dir(directory.path())
        .stdin(Stdio::null())
        .output();
    child.expect("the binary runs")
}

fn printed(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, text).expect("the file is written");
    file
}

fn path(file: &tempfile::NamedTempFile) -> &str {
    file.path().to_str().expect("a path")
}

#[test]
fn a_failed_start_names_its_cause() {
    let (secret, short) = (file(SECRET), file("too short"));
    let (keys, mixed) = (file(&jwks(&[&Signer::ed_dsa()])), file(&jwks(&[&Signer::ed_dsa(), &Signer::secret(SECRET)])));
    let public = ["--listen", "0.0.0.0:0"];
    for (arguments, environment, words) in [
        // Anonymous access only with an explicit flag, which the error names.
        (&public[..], &[][..], &["0.0.0.0", "--jwt-secret-file", "--jwks", "--allow-anonymous"][..]),
        (&["--listen", "[::]:0"], &[], &["--allow-anonymous"]),
        (&["--jwt-secret-file", path(&short)], &[], &["9 bytes", "32", "openssl rand"]),
        (&["--jwt-secret-file", "/nowhere/secret"], &[], &["--jwt-secret-file", "/nowhere/secret"]),
        (&[], &[("SWITCHBACK_JWT_SECRET", "too short, too")], &["SWITCHBACK_JWT_SECRET", "14 bytes"]),
        (&["--jwt-secret-file", path(&secret), "--jwks", path(&keys)], &[], &["--jwks", "leave one of them out"]),
        (&["--jwks", path(&keys)], &[("SWITCHBACK_JWT_SECRET", SECRET)], &["leave one of them out"]),
        (&["--jwt-secret-file", path(&secret)], &[("SWITCHBACK_JWT_SECRET", SECRET)], &["leave one of them out"]),
        (&["--jwks", path(&secret)], &[], &["--jwks", "JWK set"]),
        (&["--jwks", path(&mixed)], &[], &["key 1", "secret", "--jwt-secret-file"]),
        (&["--jwks", "/nowhere/keys"], &[], &["/nowhere/keys"]),
        // These flags make sense only with a key.
        (&["--public-subscribe", "news.>"], &[], &["--public-subscribe", "--jwt-secret-file"]),
        (&["--jwt-audience", "us"], &[], &["--jwt-audience", "--jwks"]),
        (&["--jwt-secret-file", path(&secret), "--public-subscribe", "a..b"], &[], &["--public-subscribe"]),
        (&["--jwt-secret-file", path(&secret), "--ticket-ttl", "1h"], &[], &["--ticket-ttl", "5m"]),
    ] {
        let output = run(arguments, environment);
        let printed = printed(&output);
        assert!(!output.status.success() && output.status.code() != Some(124), "{arguments:?}: {printed}");
        for word in words {
            assert!(printed.contains(word), "{arguments:?}: {word:?} is missing in: {printed}");
        }
        for text in [SECRET, "too short", "too short, too"] {
            assert!(!printed.contains(text), "{arguments:?} prints a secret: {printed}");
        }
    }
}

#[tokio::test]
async fn with_a_key_it_listens_anywhere() {
    let secret = file(SECRET);
    let server = crate::support::Server::start_at("0.0.0.0:0", &["--jwt-secret-file", path(&secret)]);
    let address = server.address().replace("0.0.0.0", "127.0.0.1");
    let token = Signer::secret(SECRET).sign(&claims(json!({ "subscribe": ["a"] })));
    let query = Query::topic("a").header("Authorization", bearer(&token));
    assert_eq!(query.request(Kind::Poll).send(&address).await.status, 200);
    assert_eq!(Query::topic("a").request(Kind::Poll).send(&address).await.status, 401);
}

#[test]
fn help_shows_no_secret() {
    let environment = [("SWITCHBACK_JWT_SECRET", SECRET), ("SWITCHBACK_TOKEN", "eyJ.secret.token")];
    for command in
        [&["--help"][..], &["serve", "--help"], &["publish", "--help"], &["subscribe", "--help"], &["token", "--help"]]
    {
        let output = run(command, &environment);
        assert!(output.status.success());
        let printed = printed(&output);
        assert!(!printed.contains(SECRET) && !printed.contains("eyJ."), "{printed}");
    }
    // No flag takes the secret itself, since every process of the machine could read it.
    assert!(!printed(&run(&["--help"], &[])).contains("--jwt-secret "));
}

/// The secret in the environment does not appear in any output: responses, errors, logs.
#[tokio::test]
async fn nothing_that_is_written_has_a_secret_in_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let mut child = Command::new(BINARY)
        .args(["--listen", "127.0.0.1:0", "--store", "memory", "--workers", "1", "--log", "trace"])
        .env("SWITCHBACK_JWT_SECRET", SECRET)
        .current_dir(directory.path())
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).expect("a log"))
        .spawn()
        .expect("the server starts");
    let mut stdout = child.stdout.take().expect("a pipe");
    let mut greeting = Vec::new();
    let mut byte = [0];
    while byte != *b"\n" {
        stdout.read_exact(&mut byte).expect("a greeting");
        greeting.push(byte[0]);
    }
    let greeting = String::from_utf8(greeting).expect("text");
    let url = greeting.split_whitespace().find_map(|word| word.strip_prefix("http://")).expect("an address");
    let address = url.trim_end_matches(',').to_owned();
    let command_line = std::fs::read(format!("/proc/{}/cmdline", child.id())).unwrap_or_default();
    let signer = Signer::secret(SECRET);
    let good = signer.sign(&claims(json!({ "subscribe": ["a"], "publish": ["a"] })));
    let bad = format!("{good}x");
    let mut answers = String::new();
    for token in [&good, &bad] {
        for request in [
            Request::get(format!("/v1/poll?topic=a&token={token}")),
            Request::get(format!("/v1/poll?topic=b&ticket={token}")),
            Request::get("/v1/poll?topic=b").header("Authorization", bearer(token)),
            Request::get("/v1/jsonp?topic=b&callback=x&wait=0").header("Cookie", format!("switchback_token={token}")),
            Request::get(format!("/v1/iframe?topic=b&once=1&wait=0&token={token}")),
            Request::get("/v1/ws?topic=b")
                .upgrade()
                .header("Sec-WebSocket-Protocol", format!("switchback.token.{token}")),
            Request::post(format!("/v1/events?token={token}"), "text/plain", "{"),
            Request::get(format!("/{token}?token={token}")),
        ] {
            let mut response = request.send(&address).await;
            answers.push_str(&format!("{:?}", response.headers));
            answers.push_str(&response.text().await);
        }
    }
    child.kill().expect("the server is killed");
    child.wait().expect("the server ends");
    let log = std::fs::read_to_string(&log).expect("a log");
    let (_, signature) = good.rsplit_once('.').expect("a signature");
    for (what, text) in [("the log", &log), ("an answer", &answers), ("the greeting", &greeting)] {
        assert!(!text.contains(SECRET), "{what} has the secret in it: {text}");
        assert!(!text.contains(signature), "{what} has a token in it: {text}");
    }
    assert!(!String::from_utf8_lossy(&command_line).contains(SECRET));
}

#[tokio::test]
async fn the_command_makes_tokens_that_the_server_takes() {
    let keyed = Keyed::start(&["--jwt-audience", "us"]);
    let secret = file(&format!("{SECRET}\n"));
    let make = |arguments: &[&str]| {
        let all = [&["token", "--jwt-secret-file", path(&secret)], arguments].concat();
        let output = run(&all, &[]);
        assert!(output.status.success(), "{}", printed(&output));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    let token = make(&["--subscribe", "a,b.>", "--publish", "a", "--ttl", "5m", "--subject", "li", "--audience", "us"]);
    let by = |token: &str, topic: &str| Query::topic(topic).header("Authorization", bearer(token));
    keyed.serves(Kind::Poll, &by(&token, "b.>"), "granted").await;
    keyed.refuses(Kind::Poll, &by(&token, "c"), 403, "not granted").await;
    let publish = Request::post("/v1/topics/a", "", "1").header("Authorization", bearer(&token));
    assert_eq!(publish.send(keyed.address()).await.status, 201);
    let admin = make(&["--admin", "--audience", "us"]);
    let clients = |token: &str| Request::get("/v1/clients").header("Authorization", bearer(token));
    assert_eq!(clients(&admin).send(keyed.address()).await.status, 200);
    assert_eq!(clients(&token).send(keyed.address()).await.status, 403);
    // With the environment variable, too; and the error names the missing setting.
    let output = run(&["token", "--subscribe", "a"], &[("SWITCHBACK_JWT_SECRET", SECRET)]);
    assert!(output.status.success() && output.stdout.starts_with(b"eyJ"));
    let output = run(&["token", "--subscribe", "a"], &[]);
    assert!(!output.status.success() && printed(&output).contains("--jwt-secret-file"), "{}", printed(&output));

    // The output of the other commands: by variable, flag and file, over every transport.
    let token_file = file(&format!("{token}\n"));
    let to = ["--server", keyed.server.base.as_str()];
    let as_file = ["--token-file", path(&token_file)];
    let publish = |more: &[&str], environment: &[(&str, &str)]| {
        run(&[&["publish", "a", "7"], &to[..], more].concat(), environment)
    };
    assert!(publish(&as_file, &[]).status.success());
    assert!(publish(&["--token", &token], &[]).status.success());
    assert!(publish(&[], &[("SWITCHBACK_TOKEN", &token)]).status.success());
    let output = publish(&[], &[]);
    assert!(!output.status.success() && printed(&output).contains("401"), "{}", printed(&output));
    let output = publish(&["--token", "eyJ.no.good"], &[]);
    assert!(printed(&output).contains("401") && !printed(&output).contains("eyJ.no"), "{}", printed(&output));
    for transport in ["auto", "ws", "sse", "stream", "longpoll", "poll"] {
        let common = ["subscribe", "a", "--cursor", "earliest", "--count", "2", "--transport", transport];
        let output = run(&[&common[..], &to, &as_file].concat(), &[]);
        assert!(output.status.success(), "{transport}: {}", printed(&output));
        assert_eq!(output.stdout.iter().filter(|byte| **byte == b'\n').count(), 2, "{transport}");
        let output = run(&[&common[..], &to].concat(), &[]);
        assert!(!output.status.success() && printed(&output).contains("401"), "{transport}: {}", printed(&output));
    }
}
