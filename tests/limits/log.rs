//! The access log: each request is logged once, and no secret is logged, however the secret was sent.

use serde_json::{Value, json};

use super::keyed::{keyed, token};
use crate::support::Server;
use crate::support::fixture::uuid;
use crate::support::http::{self, Connection, Request};
use crate::support::raw::{self, Items, STREAMS, masked};

/// The secret that must not be logged.
const SECRET: &str = "eyJhbGciOiJIUzI1NiJ9.c2VjcmV0.c2lnbmF0dXJl";

#[tokio::test]
async fn each_request_is_written_down_when_it_is_over() {
    let server = Server::start(&["--log", "warn", "--access-log"]);
    let address = server.address();
    raw::post(address, &json!({ "topic": "a", "data": "payload" })).await.expect("an answer");
    raw::get(address, "/v1/poll?topic=a&cursor=earliest&_=123").await.expect("an answer");
    raw::get(address, "/nowhere").await.expect("an answer");
    let mut items = Items::open(address, "sse", "topic=a&cursor=earliest").await.expect("open");
    items.news().await;
    assert!(!server.log().contains("/v1/sse"), "a stream is logged when it ends");
    drop(items);
    super::until("all requests are logged", async || server.log().contains(" sse")).await;
    let log = server.log();
    for expected in [
        "127.0.0.1 \"POST /v1/events HTTP/1.1\" 201 ",
        "\"GET /v1/poll?topic=a&cursor=earliest&_=- HTTP/1.1\" 200 ",
        "ms poll",
        "\"GET /nowhere HTTP/1.1\" 404 ",
        "\"GET /v1/sse?topic=a&cursor=earliest HTTP/1.1\" 200 ",
    ] {
        assert!(log.contains(expected), "{expected}: {log}");
    }
    assert!(!log.contains("payload"));
    assert!(!log.contains('\x1b'), "terminal colours in a file: {log:?}");
    assert_eq!(log.lines().filter(|line| line.contains("switchback::access")).count(), 4, "{log}");
}

/// Bytes of direct writes are counted, too; chunk framing is not.
#[tokio::test]
async fn the_bytes_of_a_stream_are_all_counted() {
    let server = Server::start(&["--log", "warn", "--access-log"]);
    let address = server.address();
    for transport in STREAMS {
        // The second request on the same connection has its own count, where keep-alive is possible.
        let mut connection = Connection::open(address).await.expect("connected");
        for round in 0..if transport == "ws" { 1 } else { 2 } {
            let client = uuid();
            let query = format!("topic=a&last={}&client={client}", round + 1);
            Items::request(&mut connection, transport, &query).await.expect("sent");
            super::until("the stream is open", async || {
                connection.fill().await.is_ok() && connection.buffer.len() > 300
            })
            .await;
            for number in 0..20 {
                let event = json!({ "topic": "a", "data": format!("{transport} {number}") });
                raw::post(address, &event).await.expect("an answer");
            }
            let last = format!("{transport} 19");
            while http::find(&connection.buffer, last.as_bytes()).is_none() {
                let closed = super::within("all events", connection.fill()).await.expect("the stream is read");
                assert!(!closed, "{transport} ended early");
            }
            Request::new("DELETE", format!("/v1/clients/{client}")).send(address).await;
            let answer = super::within("the end", connection.answer()).await.expect("an answer");
            let text = answer.text();
            assert!(text.contains(&last) && text.contains("$bye"), "{text}");
            let (status, bytes) = (answer.status(), answer.body.len());
            let line =
                format!("\"GET /v1/{transport}?topic=a&last={}&client=- HTTP/1.1\" {status} {bytes}B ", round + 1);
            super::until(&line, async || server.log().contains(&line)).await;
        }
    }
}

#[tokio::test]
async fn nothing_is_logged_by_default() {
    let server = Server::start(&["--log", "info"]);
    raw::get(server.address(), "/v1/info").await.expect("an answer");
    raw::get(server.address(), "/healthz").await.expect("an answer");
    assert!(!server.log().contains("/v1/info"), "{}", server.log());
}

/// The logged address is the client that a trusted proxy names.
#[tokio::test]
async fn the_client_behind_a_trusted_proxy_is_written_down() {
    let server =
        Server::start(&["--log", "warn", "--access-log", "--allow-anonymous", "--trusted-proxy", "127.0.0.0/8"]);
    let mut connection = Connection::open(server.address()).await.expect("connected");
    let request = "GET /v1/info HTTP/1.1\r\nHost: localhost\r\nX-Forwarded-For: 192.0.2.7\r\n\r\n";
    connection.send(request).await.expect("sent");
    connection.answer().await.expect("an answer");
    super::until("the request is logged", async || server.log().contains("192.0.2.7 \"GET /v1/info")).await;
}

/// At every log level, no secret is logged.
#[tokio::test]
async fn no_secret_is_ever_written_down() {
    let server = Server::start(&["--log", "off,switchback=trace", "--access-log"]);
    let address = server.address();
    let paths = [
        format!("/v1/sse?topic=a&token={SECRET}"),
        format!("/v1/poll?topic=a&ticket={SECRET}"),
        format!("/v1/poll?topic=a&cursor={SECRET}"),
        format!("/v1/poll?topic=a&t%6Fken={SECRET}"),
        format!("/v1/poll?{SECRET}"),
        format!("/v1/poll?topic=a&{SECRET}=1"),
        format!("/v1/jsonp?topic=a&callback=f&wait=0&token={SECRET}"),
        format!("/v1/iframe?topic=a&once=1&wait=0&ticket={SECRET}"),
        "/v1/longpoll?topic=a&wait=0".to_owned(),
        "/v1/last".to_owned(),
    ];
    let count = paths.len();
    for path in paths {
        let mut connection = Connection::open(address).await.expect("connected");
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {SECRET}\r\nCookie: switchback_token={SECRET}\r\n\
             X-Api-Key: {SECRET}\r\nReferer: https://a.test/?token={SECRET}\r\n\r\n"
        );
        connection.send(request).await.expect("sent");
        let head = super::within("a head", connection.head()).await.expect("a head");
        assert!(head.status < 500, "{head:?}");
    }
    let mut connection = Connection::open(address).await.expect("connected");
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
    let protocols = format!("Sec-WebSocket-Protocol: switchback.v1, switchback.token.{SECRET}");
    let request = format!("GET /v1/ws?topic=a HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n{protocols}\r\n\r\n");
    connection.send(request).await.expect("sent");
    let head = connection.head().await.expect("a head");
    if let Ok(mut items) = Items::after(connection, "ws", &head) {
        let message = json!({ "type": "auth", "token": SECRET, "ref": 1 }).to_string();
        items.connection.send(raw::masked(0x81, message.as_bytes())).await.expect("sent");
        items.named("$reply").await;
    }
    let body = format!("{{\"topic\":\"a\",\"data\":1,\"token\":\"{SECRET}\"");
    let mut connection = Connection::open(address).await.expect("connected");
    connection.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
    assert_eq!(connection.answer().await.expect("an answer").status(), 400);
    super::until("all requests are logged", async || {
        server.log().lines().filter(|line| line.contains("switchback::access")).count() > count
    })
    .await;
    let log = server.log();
    for part in SECRET.split('.') {
        assert!(!log.contains(part), "{part} in {log}");
    }
}

/// The lines of a log in JSON. Each is one object, whatever clients have sent.
fn objects(log: &str) -> Vec<Value> {
    let object = |line: &str| -> Value { serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}")) };
    let lines: Vec<Value> = log.lines().map(object).collect();
    for line in &lines {
        for field in ["timestamp", "level", "target", "message"] {
            assert!(line[field].is_string(), "{field}: {line}");
        }
    }
    lines
}

fn of_target(lines: &[Value], target: &str) -> Vec<Value> {
    lines.iter().filter(|line| line["target"] == target).cloned().collect()
}

/// One line for each stream and each publish, once it is over.
#[tokio::test]
async fn streams_and_publishes_are_logged_at_debug() {
    let (server, _secret) = keyed(&["--log", "debug", "--log-format", "json"]);
    let address = server.address();
    let forged = "eve\n{\"level\":\"ERROR\"}\u{1b}[2J";
    let token = token(&json!({ "sub": forged, "publish": ["a"], "subscribe": ["a"] }));
    let publish = async |topic: &str| {
        let request = Request::post(format!("/v1/topics/{topic}"), "", "1");
        request.header("Authorization", format!("Bearer {token}")).send(address).await.status
    };
    assert_eq!((publish("a").await, publish("b").await), (201, 403));
    let mut clients = Vec::new();
    for transport in STREAMS {
        let query = format!("topic=a&cursor=earliest&token={token}");
        let mut items = Items::open(address, transport, &query).await.expect("open");
        clients.push(items.named("$hello").await["data"]["client"].clone());
        items.news().await;
        if transport == "ws" {
            let message = json!({ "type": "publish", "topic": "a", "data": 2, "ref": 1 }).to_string();
            items.connection.send(masked(0x81, message.as_bytes())).await.expect("sent");
            items.named("$reply").await;
        }
    }
    assert_eq!(raw::get(address, &format!("/v1/poll?topic=a&token={token}")).await.expect("an answer").status(), 200);
    super::until("all is logged", async || {
        let lines = objects(&server.log());
        of_target(&lines, "switchback::subscriptions").len() > STREAMS.len()
            && of_target(&lines, "switchback::publishes").len() == 3
    })
    .await;
    let log = server.log();
    assert!(!log.contains(&token) && !log.contains('\x1b'), "{log}");
    let lines = objects(&log);
    let escaped = "eve\\n{\"level\":\"ERROR\"}\\u{1b}[2J";
    for (transport, client) in STREAMS.iter().zip(&clients) {
        let of_client: Vec<_> = of_target(&lines, "switchback::subscriptions")
            .into_iter()
            .filter(|line| line["client"] == *client)
            .collect();
        let [line] = &of_client[..] else { panic!("{transport}: {of_client:?}") };
        assert_eq!(
            (&line["transport"], &line["patterns"], &line["subject"], &line["address"], &line["end"]),
            (&json!(transport), &json!("a"), &json!(escaped), &json!("127.0.0.1"), &json!("client gone")),
            "{line}"
        );
        assert!(
            line["items"].as_u64() >= Some(1) && line["bytes"].as_u64() > Some(100) && line["ms"].is_u64(),
            "{line}"
        );
        assert!(raw::position(&line["to"]) > raw::position(&line["from"]), "{line}");
    }
    let poll = of_target(&lines, "switchback::subscriptions").into_iter().find(|line| line["transport"] == "poll");
    assert_eq!(poll.expect("of the poll")["end"], "complete");
    let publishes = of_target(&lines, "switchback::publishes");
    for (line, outcome) in publishes.iter().zip(["stored", "forbidden", "stored"]) {
        assert_eq!((&line["outcome"], &line["subject"]), (&json!(outcome), &json!(escaped)), "{line}");
        if outcome == "stored" {
            assert_eq!((&line["topic"], &line["events"]), (&json!("a"), &json!(1)), "{line}");
            assert!(line["cursor"].is_string() && line["bytes"].as_u64() > Some(0) && line["ms"].is_u64(), "{line}");
        }
    }
}

/// Without the flag the lines are for a person, and as debug lines are not wanted, there are none.
#[tokio::test]
async fn lines_for_a_person_are_the_default() {
    let server = Server::start(&["--log", "info"]);
    raw::post(server.address(), &json!({ "topic": "a", "data": 1 })).await.expect("an answer");
    raw::get(server.address(), "/v1/poll?topic=a").await.expect("an answer");
    let log = server.log();
    assert!(log.contains(" INFO ") && !log.contains('{') && !log.contains("switchback::publishes"), "{log}");
}
