//! The rate of published bytes: a pace in events alone would let one publisher of large events take what others have stored.

use serde_json::{Value, json};

use super::counts;
use super::keyed::{keyed, token};
use crate::support::Server;
use crate::support::http::{Answer, Connection};
use crate::support::raw::{self, Items, masked};

/// A burst of 32 KiB, and then 1 KiB a second.
const SLOW: [&str; 6] =
    ["--max-event-bytes", "16KiB", "--max-batch-bytes", "16KiB", "--publish-bytes-per-address", "1KiB"];

fn large(bytes: usize) -> Value {
    json!({ "topic": "large", "data": "x".repeat(bytes) })
}

async fn post(address: &str, headers: &str, event: &Value) -> Answer {
    let mut connection = Connection::open(address).await.expect("connected");
    let (body, kind) = (event.to_string(), "Content-Type: application/json");
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\n{headers}{kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.send([head.as_bytes(), body.as_bytes()].concat()).await.expect("sent");
    super::within("an answer", connection.answer()).await.expect("an answer")
}

fn assert_refused(answer: &Answer, flag: &str) {
    counts::assert_refused(answer, 429, "too_fast");
    assert!(answer.text().contains("bytes of events") && answer.text().contains(flag), "{}", answer.text());
}

/// With the defaults: what others have published outlasts a flood from one address, however large its events are.
#[tokio::test]
async fn the_events_of_others_outlast_a_flood() {
    let flags = ["--store", "memory", "--max-bytes", "16MiB", "--allow-anonymous", "--trusted-proxy", "127.0.0.1"];
    let server = Server::start(&flags);
    let address = server.address();
    let calm = post(address, "X-Forwarded-For: 192.0.2.1\r\n", &json!({ "topic": "calm", "data": 1 })).await;
    assert_eq!(calm.status(), 201);
    let mut refused = 0;
    for _ in 0..100 {
        let answer = post(address, "X-Forwarded-For: 192.0.2.66\r\n", &large(200_000)).await;
        refused += usize::from(answer.status() == 429);
    }
    assert_eq!(raw::history(address, "calm").await.len(), 1, "after a flood of which {refused} of 100 were refused");
    assert!(refused > 50, "{refused}");
    let calm = post(address, "X-Forwarded-For: 192.0.2.1\r\n", &json!({ "topic": "calm", "data": 2 })).await;
    assert_eq!(calm.status(), 201);
}

#[tokio::test]
async fn an_address_has_a_pace_in_bytes() {
    let server = Server::start(&SLOW);
    let address = server.address();
    // What would never fit is refused for its size. Escaped, each of these characters is stored as six.
    let escaped = json!({ "topic": "large", "data": "<".repeat(10_000) });
    let answer = post(address, "", &escaped).await;
    assert_eq!((answer.status(), answer.code().as_str()), (413, "too_large"), "{}", answer.text());
    assert!(answer.text().contains("--max-batch-bytes"), "{}", answer.text());
    for _ in 0..3 {
        assert_eq!(post(address, "", &large(10_000)).await.status(), 201);
    }
    assert_refused(&post(address, "", &large(10_000)).await, "--publish-bytes-per-address");
    // A batch and a body without JSON around it count alike.
    let batch: Vec<Value> = (0..3).map(|_| large(4000)).collect();
    assert_refused(&post(address, "", &json!(batch)).await, "--publish-bytes-per-address");
    let mut plain = Connection::open(address).await.expect("connected");
    plain.post("/v1/topics/large", "application/octet-stream", &[7; 10_000]).await.expect("sent");
    assert_refused(&plain.answer().await.expect("an answer"), "--publish-bytes-per-address");
    super::until("there is room again for a short event", async || post(address, "", &large(1)).await.status() == 201)
        .await;
    let mut other = Connection::from([127, 0, 0, 77].into(), address).await.expect("connected");
    other.post("/v1/events", "application/json", large(10_000).to_string().as_bytes()).await.expect("sent");
    assert_eq!(other.answer().await.expect("an answer").status(), 201);
}

#[tokio::test]
async fn a_socket_has_it_too() {
    let server = Server::start(&SLOW);
    let mut items = Items::open(server.address(), "ws", "").await.expect("open");
    items.named("$hello").await;
    let mut refused = Value::Null;
    for number in 0..4 {
        let message = json!({ "type": "publish", "topic": "large", "data": "x".repeat(10_000), "ref": number });
        items.connection.send(masked(0x81, message.to_string().as_bytes())).await.expect("sent");
        refused = items.named("$reply").await;
    }
    assert_eq!(
        (&refused["data"]["ref"], &refused["data"]["error"]["code"]),
        (&json!(3), &json!("too_fast")),
        "{refused}"
    );
}

/// A stream of lines is slowed down, and every line is stored.
#[tokio::test]
async fn lines_are_slowed_down() {
    let server = Server::start(&[&SLOW[..4], &["--publish-bytes-per-address", "32KiB", "--log", "warn"]].concat());
    let lines: String = (0..8).map(|_| large(10_000).to_string() + "\n").collect();
    let mut connection = Connection::open(server.address()).await.expect("connected");
    connection.post("/v1/events", "application/x-ndjson", lines.as_bytes()).await.expect("sent");
    let answer = super::within("an answer", connection.answer()).await.expect("an answer");
    assert_eq!((answer.status(), answer.json()["accepted"].as_u64()), (201, Some(8)));
    assert!(server.log().contains("--publish-bytes-per-address"), "{}", server.log());
}

/// A subject has its pace on every address. A claimed rate raises it in proportion, and is counted apart.
#[tokio::test]
async fn a_subject_has_a_pace_and_a_claim_raises_it() {
    let flags =
        [&SLOW[..4], &["--publish-bytes-per-subject", "1KiB", "--publish-rate-per-subject", "10", "--log", "warn"]]
            .concat();
    let (server, _secret) = keyed(&flags);
    let address = server.address();
    let publish =
        async |claims| post(address, &format!("Authorization: Bearer {}\r\n", token(&claims)), &large(10_000)).await;
    let page = || json!({ "sub": "page", "publish": ["large"] });
    for _ in 0..3 {
        assert_eq!(publish(page()).await.status(), 201);
    }
    for _ in 0..5 {
        assert_refused(&publish(page()).await, "--publish-bytes-per-subject");
    }
    // 10,000 times the rate of events, so 10 MiB a second.
    for _ in 0..20 {
        let answer = publish(json!({ "sub": "backend", "publish": ["large"], "rate": 100_000 })).await;
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
    super::until("a slow claim has the flag's bytes", async || {
        let answer = publish(json!({ "sub": "slow", "publish": ["large"], "rate": 100 })).await;
        answer.status() == 429 && answer.text().contains("--publish-bytes-per-subject")
    })
    .await;
    let log = server.log();
    let lines: Vec<&str> = log.lines().filter(|line| line.contains("too_fast")).collect();
    assert_eq!(lines.len(), 1, "one line a minute for an address: {log}");
    assert!(lines[0].contains("page") && lines[0].contains("--publish-bytes-per-subject"), "{log}");
}

/// Lines that publish nothing count as events: a body of those has the pace of any other.
#[tokio::test]
async fn blank_and_refused_lines_count() {
    for line in ["\n", "x\n", " \r\n"] {
        let server = Server::start(&["--publish-rate-per-address", "1", "--publish-burst", "5"]);
        let mut connection = Connection::open(server.address()).await.expect("connected");
        connection.post("/v1/events", "application/x-ndjson", line.repeat(5).as_bytes()).await.expect("sent");
        let answer = super::within("an answer", connection.answer()).await.expect("an answer");
        assert_eq!(answer.json()["accepted"], 0, "{line:?}");
        counts::assert_refused(&post(server.address(), "", &large(1)).await, 429, "too_fast");
    }
}

/// The pace is looked at before the body, whose end is never sent here.
#[tokio::test]
async fn a_publish_beyond_the_pace_is_refused_before_its_body() {
    for way in [&[][..], &["--through-app"]] {
        let server = Server::start(&[&SLOW[..], way].concat());
        let address = server.address();
        for _ in 0..3 {
            assert_eq!(post(address, "", &large(10_000)).await.status(), 201);
        }
        for (target, kind) in [
            ("events", "application/json"),
            ("topics/large", "application/octet-stream"),
            ("events", "application/x-www-form-urlencoded"),
        ] {
            let mut connection = Connection::open(address).await.expect("connected");
            let head = format!(
                "POST /v1/{target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 10000\r\n\r\n"
            );
            connection.send(head).await.expect("sent");
            let answer = super::within(kind, connection.answer()).await.expect("an answer");
            assert_refused(&answer, "--publish-bytes-per-address");
            assert_eq!(answer.head.header("connection"), Some("close"), "the rest of the body is no request");
        }
        // A short one still has room: what is looked at is not counted.
        assert_eq!(post(address, "", &large(1)).await.status(), 201);
    }
}
