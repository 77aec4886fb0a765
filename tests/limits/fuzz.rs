//! Whatever is sent to it: an answer that blames the sender, or none; never a fault, never a panic.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde_json::json;

use crate::support::Server;
use crate::wire::{Connection, Items, masked};

/// Tries of each.
const CASES: u32 = 300;

/// Runs a property against one server, which has to be as it was at the end.
fn holds<S: Strategy>(strategy: &S, property: impl AsyncFn(&str, S::Value) -> Result<(), TestCaseError>) {
    let server = Server::start(&["--log", "error", "--body-timeout", "5s"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let held = runner.run(strategy, |value| {
        runtime.block_on(async { crate::within("an end", property(server.address(), value)).await })
    });
    let log = server.log();
    assert!(!log.contains("panicked"), "{log}");
    if let Err(error) = held {
        panic!("{error}\n{log}");
    }
    runtime.block_on(async {
        let answer = crate::wire::get(server.address(), "/readyz").await.expect("it still answers");
        assert_eq!(answer.status(), 200);
    });
}

/// What came back to bytes that may be anything: nothing, or answers none of which is a fault of the server's.
fn blames_the_sender(answer: &[u8], sent: &[u8]) -> Result<(), TestCaseError> {
    let text = String::from_utf8_lossy(answer);
    for line in text.lines().filter(|line| line.starts_with("HTTP/1.")) {
        let status: Option<u16> = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        prop_assert!(status.is_some_and(|status| status < 500), "{line}: {:?}", String::from_utf8_lossy(sent));
    }
    prop_assert!(text.is_empty() || text.starts_with("HTTP/1."), "{text}");
    Ok(())
}

/// Sends, ends, and takes what comes.
async fn exchange(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut connection = Connection::open(address).await.expect("connected");
    // It may be cut before all is sent.
    let _ = connection.send(bytes).await;
    let _ = connection.finish().await;
    connection.closed().await
}

fn post(path: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
    );
    [head.as_bytes(), body].concat()
}

/// Something, damaged: cut, doubled, with bytes put into it.
fn damaged(whole: impl Strategy<Value = Vec<u8>>) -> impl Strategy<Value = Vec<u8>> {
    let wounds = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 0..6);
    (whole, wounds).prop_map(|(mut bytes, wounds)| {
        for (place, byte, kind) in wounds {
            let at = place.index(bytes.len() + 1);
            match kind {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, byte),
                2 if at < bytes.len() => bytes[at] = byte,
                _ => bytes.extend_from_within(at..),
            }
        }
        bytes
    })
}

/// JSON of any shape, now and then with the names that an event has.
fn json_text() -> impl Strategy<Value = Vec<u8>> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        "-?[0-9]{1,40}(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?",
        "\\PC{0,20}".prop_map(|text| json!(text).to_string()),
        Just("\"\\ud800\"".to_owned()),
        Just("\"\\u0000\"".to_owned()),
    ];
    let name =
        prop_oneof!["topic", "event", "data", "id", "encoding", "type", "topics", "cursor", "ref", "[a-z<>]{0,4}"];
    let value = leaf.prop_recursive(6, 64, 6, move |inner| {
        let members = proptest::collection::vec((name.clone(), inner.clone()), 0..6);
        prop_oneof![
            proptest::collection::vec(inner, 0..6).prop_map(|items| format!("[{}]", items.join(","))),
            members.prop_map(|members| {
                let members: Vec<String> =
                    members.iter().map(|(name, value)| format!("{}:{value}", json!(name))).collect();
                format!("{{{}}}", members.join(","))
            }),
        ]
    });
    value.prop_map(String::into_bytes)
}

fn event() -> impl Strategy<Value = Vec<u8>> {
    ("([a-z0-9*>]{0,3}\\.){0,3}\\PC{0,6}", "\\PC{0,6}", json_text()).prop_map(|(topic, name, data)| {
        let data = String::from_utf8_lossy(&data).into_owned();
        format!("{{\"topic\":{},\"event\":{},\"data\":{data},\"id\":{}}}", json!(topic), json!(name), json!(name))
            .into_bytes()
    })
}

#[test]
fn bodies() {
    let kinds = prop_oneof![
        Just("application/json"),
        Just("text/plain"),
        Just("application/x-ndjson"),
        Just("application/x-www-form-urlencoded"),
        Just("application/octet-stream"),
        "[a-z/;=+ -]{0,30}".prop_map(|text| &*Box::leak(text.into_boxed_str())),
    ];
    let form =
        "((topic|data|event|id|x)=([a-z.+]|%[0-9a-fA-F]{2}|%[g-z]|[&=]){0,20}&?){0,5}".prop_map(String::into_bytes);
    let lines = proptest::collection::vec(event(), 0..5).prop_map(|lines| lines.join(&b'\n'));
    let body = prop_oneof![json_text(), event(), form, lines, proptest::collection::vec(any::<u8>(), 0..200)];
    let path = prop_oneof![Just("/v1/events"), Just("/v1/topics/a.b"), Just("/v1/ack"), Just("/v1/topics/%ff")];
    holds(&(path, kinds, damaged(body)), async |address, (path, kind, body)| {
        let sent = post(path, kind, &body);
        blames_the_sender(&exchange(address, &sent).await, &sent)
    });
}

/// Topics, patterns, cursors, callbacks and all other parameters, on every transport.
#[test]
fn queries() {
    let name = prop_oneof![
        4 => prop_oneof!["topic", "cursor", "client", "last", "limit", "callback", "origin", "padding", "named", "publish"],
        1 => "[a-z%=\\[\\]]{0,8}",
    ];
    let cursor = "[a-z0-9%-]{0,34}-[0-9+-]{0,22}";
    let pattern = "([a-z*>]|%2A|%3E|%[0-9a-fA-F]{2}|\\.){0,40}";
    let value = prop_oneof![cursor, pattern, "[0-9]{0,22}", "now|earliest|null", "[!-~&&[^# ]]{0,30}"];
    let pairs = proptest::collection::vec((name, value), 0..8);
    let transport = prop_oneof!["poll", "longpoll", "jsonp", "iframe", "sse", "stream", "clients", "info", "topics"];
    let legal = "topic=a&callback=f&";
    holds(&(transport, any::<bool>(), pairs), async |address, (transport, legally, pairs)| {
        let mut query: Vec<String> = pairs.iter().map(|(name, value)| format!("{name}={value}")).collect();
        query.push("wait=0".to_owned());
        let prefix = if legally { legal } else { "" };
        let path = format!("/v1/{transport}?{prefix}{}", query.join("&"));
        let sent = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        // The end of the request ends what streams.
        blames_the_sender(&exchange(address, sent.as_bytes()).await, sent.as_bytes())
    });
}

#[test]
fn headers() {
    let name = prop_oneof![
        "Last-Event-ID|If-None-Match|Idempotency-Key|Origin|Host|Content-Type|Content-Length|Transfer-Encoding",
        "Authorization|Cookie|Sec-WebSocket-Protocol|Sec-WebSocket-Key|Upgrade|Connection|Expect|X-Forwarded-For|Forwarded",
        "[A-Za-z-]{1,20}",
    ];
    let value = prop_oneof![
        proptest::collection::vec(0x20..=0xFF_u8, 0..60),
        "(\"?[a-z0-9]{1,8}-[0-9]{1,22}\"?|W/|, |\\*){0,5}".prop_map(String::into_bytes),
        "(Bearer |switchback_token=|switchback\\.v1, ?)?[A-Za-z0-9._=;-]{0,80}".prop_map(String::into_bytes),
        "chunked|identity|websocket|keep-alive|close|100-continue|gzip, chunked".prop_map(String::into_bytes),
    ];
    let headers = proptest::collection::vec((name, value), 0..8);
    let path = "/(v1/(poll|sse|stream|ws|echo|events|jsonp|info|clients|tickets)\\?topic=a&callback=f&wait=0|healthz|)";
    holds(&("GET|POST|HEAD|OPTIONS|DELETE|PUT|[A-Z]{1,9}", path, headers), async |address, (method, path, headers)| {
        let mut sent = format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\n").into_bytes();
        for (name, value) in headers {
            sent.extend([name.as_bytes(), b": ", &value, b"\r\n"].concat());
        }
        sent.extend(b"\r\n");
        blames_the_sender(&exchange(address, &sent).await, &sent)
    });
}

/// What is hardly HTTP, or was.
#[test]
fn nonsense() {
    let request = prop_oneof![
        event().prop_map(|body| post("/v1/events", "application/json", &body)),
        Just(b"GET /v1/sse?topic=a HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec()),
        Just(
            b"POST /v1/topics/a HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n7\r\n0\r\n\r\n".to_vec()
        ),
        Just(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec()),
        Just(b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03".to_vec()),
        proptest::collection::vec(any::<u8>(), 0..300),
    ];
    holds(&damaged(request), async |address, sent| blames_the_sender(&exchange(address, &sent).await, &sent));
}

/// After a handshake, the socket's own language, and what is none.
#[test]
fn sockets() {
    let message = prop_oneof![
        json_text(),
        event(),
        ("subscribe|unsubscribe|publish|ack|auth|ping|[a-z]{0,6}", json_text(), json_text()).prop_map(
            |(kind, one, other)| {
                let [one, other] = [one, other].map(|json| String::from_utf8_lossy(&json).into_owned());
                format!(
                    "{{\"type\":{},\"topics\":[{one}],\"cursor\":{other},\"ref\":{one},\"token\":{other}}}",
                    json!(kind)
                )
                .into_bytes()
            }
        ),
    ];
    let frame = prop_oneof![
        3 => (prop_oneof![Just(0x81_u8), any::<u8>()], damaged(message)).prop_map(|(first, payload)| masked(first, &payload)),
        1 => proptest::collection::vec(any::<u8>(), 0..100),
    ];
    let frames = proptest::collection::vec(frame, 0..6);
    let path = prop_oneof![Just("/v1/ws?topic=a&publish=b"), Just("/v1/ws"), Just("/v1/echo")];
    holds(&(path, frames), async |address, (path, frames)| {
        let mut connection = Connection::open(address).await.expect("connected");
        connection.upgrade(path).await.expect("sent");
        let head = connection.head().await.expect("a head");
        let mut items = Items::after(connection, "ws", &head).expect("a socket");
        // It may be closed before all is sent; then it says why, in frames that are whole.
        let _ = items.connection.send(frames.concat()).await;
        let _ = items.connection.finish().await;
        if path == "/v1/echo" {
            // What it echoes need not be JSON.
            items.connection.closed().await;
            return Ok(());
        }
        while let Ok(Some(_)) = items.next().await {}
        let legal = items.close_code.is_none_or(|code| code != 1011 && code != 1006);
        prop_assert!(legal, "{:?}", items.close_code);
        Ok(())
    });
}
