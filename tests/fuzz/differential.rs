//! Differential fuzzing of the two HTTP/1 paths: the same bytes are sent to our own HTTP/1.1 connection (with its fallback) and
//! to a server that serves everything through the actix-web `App`; the responses have to be the same.

use std::collections::BTreeMap;

use futures_util::FutureExt as _;
use proptest::prelude::*;
use proptest::sample::{Index, select};

use super::inputs::damaged_as;
use super::{exchange, run};
use crate::support::Server;
use crate::support::http::{Connection, Duplex, Framing, Head, find};
use crate::support::raw::masked;

/// The stored event: publishing it again always has the same response.
const EVENT: &str = r#"{"topic":"a","data":[1,"<é>"],"id":"once"}"#;

/// Targets of requests that complete at once, independent of earlier requests.
const TARGETS: [&str; 33] = [
    "/v1/poll?topic=a",
    "/v1/poll?topic=a&cursor=earliest",
    "/v1/poll?topic=a&cursor=nonsense",
    "/v1/poll?topic=a&cursor=earliest&limit=1",
    "/v1/poll",
    "/v1/poll/",
    "/v1/poll?",
    "/v1/poll?topic=%zz",
    "/v1/poll?topic=\u{fc}",
    "/v1/poll?topic=a#b",
    "/v1/%70oll?topic=a&cursor=earliest",
    "//v1/poll?topic=a",
    "/v1//poll?topic=a",
    "/v1/../v1/poll?topic=a",
    "http://HOST/v1/poll?topic=a&cursor=earliest",
    "http://other.example/v1/poll?topic=a",
    "HTTP://HOST/v1/poll?topic=a",
    "*",
    "",
    "/v1/longpoll?topic=a&cursor=earliest&wait=1",
    "/v1/jsonp?topic=a&cursor=earliest&callback=f",
    "/v1/iframe?topic=a&cursor=earliest&once=1",
    "/v1/sse?topic=a..b",
    "/v1/stream",
    "/v1/ws",
    "/v1/echo",
    "/v1/topics/a",
    "/v1/events",
    "/v1/clients/x",
    "/v1/nothing",
    "/client.js",
    "/",
    "/nothing",
];

const METHODS: [&str; 12] =
    ["GET", "GET", "GET", "GET", "GET", "HEAD", "HEAD", "POST", "OPTIONS", "DELETE", "get", "BREW"];

/// Header fields, most of which have no effect by themselves.
const FIELDS: [&str; 31] = [
    "Accept: */*",
    "ACCEPT-encoding:gzip, br",
    "user-agent:   spaces around   ",
    "X-Empty:",
    "X-Odd: \u{ff}",
    "x-tab:\ta\tb",
    "Cookie: a=b",
    "Cookie: c=d; e=f",
    "Origin: http://HOST",
    "Origin: https://evil.example",
    "Origin: null",
    "oRiGiN: http://HOST",
    "Sec-Fetch-Site: cross-site",
    "If-None-Match: *",
    "If-None-Match: \"nothing\"",
    "If-Modified-Since: Fri, 27 Nov 2026 00:00:00 GMT",
    "Range: bytes=0-1",
    "Connection: keep-alive",
    "Connection: Keep-Alive, close",
    "connection: CLOSE",
    "Connection: te",
    "TE: trailers",
    "Expect: 100-continue",
    "Upgrade: h2c",
    "Upgrade: websocket",
    "Upgrade: h2c, websocket",
    "Host: HOST",
    "Transfer-Encoding: identity",
    "Content-Length: 0",
    "Authorization: Bearer x.y.z",
    "Last-Event-ID: nonsense",
];

const HOSTS: [&str; 8] =
    ["Host: HOST", "Host: HOST", "Host: HOST", "Host: HOST", "host:HOST", "HOST: HOST", "Host: evil.example", "X: y"];

const BODIES: [&str; 6] = [EVENT, EVENT, "", "{", "[]", r#"{"topic":"a..b"}"#];

/// A valid WebSocket handshake.
const HANDSHAKE: &str = "GET /v1/echo HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// A request with a body, in one of the possible framings.
fn request() -> impl Strategy<Value = String> {
    let version = prop_oneof![9 => Just("HTTP/1.1"), 1 => Just("HTTP/1.0"), 1 => select(vec!["HTTP/1.2", "HTTP/2.0", "http/1.1", ""])];
    let fields = prop::collection::vec(select(FIELDS.to_vec()), 0..4);
    let body = (select(BODIES.to_vec()), 0..7);
    (select(METHODS.to_vec()), select(TARGETS.to_vec()), version, select(HOSTS.to_vec()), fields, body).prop_map(
        |(method, target, version, host, fields, (body, framing))| {
            let mut head = format!("{method} {target} {version}\r\n{host}\r\n");
            for field in fields {
                head += &format!("{field}\r\n");
            }
            let length = body.len();
            match (method, framing) {
                ("POST", 0..=2) => format!("{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"),
                ("POST", 3) => format!("{head}content-LENGTH:  {length} \r\ncontent-type:application/json\r\n\r\n{body}"),
                ("POST", 4) => format!(
                    "{head}Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{length:x}\r\n{body}\r\n0\r\n\r\n"
                ),
                ("POST", 5) => format!("{head}Content-Length: {length}\r\n\r\n{body}"),
                ("GET", 6) => format!("{head}Content-Length: {length}\r\n\r\n{body}"),
                _ => format!("{head}\r\n"),
            }
        },
    )
}

/// The bytes of one connection: pipelined requests, perhaps mutated; or a WebSocket.
fn connection() -> impl Strategy<Value = Vec<u8>> {
    let requests = prop::collection::vec(request(), 1..4).prop_map(|requests| requests.concat().into_bytes());
    let frames = prop::collection::vec(
        (select(vec![0x81, 0x82, 0x89, 0x01, 0x80, 0x88, 0xF1]), prop::collection::vec(any::<u8>(), 0..9)),
        0..4,
    );
    let socket = frames.prop_map(|frames| {
        let frames = frames.iter().flat_map(|(first, payload)| masked(*first, payload));
        HANDSHAKE.bytes().chain(frames).collect::<Vec<u8>>()
    });
    let whole = prop_oneof![6 => requests, 1 => socket];
    prop_oneof![3 => whole.clone().boxed(), 1 => damaged_as(whole, 2).boxed()]
}

/// The time-independent part of a response.
#[derive(Debug, PartialEq, Eq)]
struct Answer {
    status: String,
    headers: BTreeMap<String, Vec<String>>,
    body: String,
}

fn has_body(bytes: &[u8]) -> bool {
    let bytes = bytes.to_ascii_lowercase();
    ["content-length", "transfer-encoding"].iter().any(|name| find(&bytes, name.as_bytes()).is_some())
}

/// Sends bytes in two pieces, and returns all that the server sends until it closes the connection.
fn talk(address: &str, bytes: &[u8], cut: usize) -> Result<Vec<u8>, TestCaseError> {
    exchange(async {
        let mut connection = Connection::open(address).await?;
        for piece in [&bytes[..cut], &bytes[cut..]] {
            // The server may close the connection before it has read everything.
            let _ = connection.send(piece).await;
        }
        let _ = connection.finish().await;
        Ok(connection.closed().await)
    })
}

/// The responses, with their texts normalised by `neutral`.
async fn answers(received: Vec<u8>, neutral: &dyn Fn(&str) -> String) -> Vec<Answer> {
    let mut connection = Connection::over(tokio::io::join(tokio::io::empty(), tokio::io::sink()));
    connection.buffer = received;
    let mut answers = Vec::new();
    while connection.has_head().await {
        let head = connection.head().await.expect("a head is well-formed");
        let body = body(&mut connection, &head).await;
        let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (name, value) in &head.headers {
            headers.entry(name.clone()).or_default().push(neutral(value));
        }
        headers.remove("date");
        let status = head.text.lines().next().unwrap_or_default().to_owned();
        answers.push(Answer { status, headers, body: neutral(&String::from_utf8_lossy(&body)) });
    }
    if !connection.buffer.is_empty() {
        answers.push(Answer { status: "half a head".to_owned(), headers: BTreeMap::new(), body: String::new() });
    }
    answers
}

/// The body behind a head, or as much of it as there is.
async fn body<S: Duplex>(connection: &mut Connection<S>, head: &Head) -> Vec<u8> {
    if head.status == 101 {
        return std::mem::take(&mut connection.buffer);
    }
    // A response to HEAD has none, whatever its head says.
    let is_bodiless = connection.buffer.starts_with(b"HTTP/1.");
    let mut framing = Framing::of(head, is_bodiless).expect("a length is a number");
    let mut body = Vec::new();
    while let Ok(Some(part)) = connection.part(&mut framing).await {
        body.extend(part);
    }
    body
}

/// The text without its times, UUIDs and nonces, which differ each time.
fn timeless(text: &str) -> String {
    const RANDOM_MIN: usize = 32;
    let (mut kept, mut rest) = (String::new(), text);
    while let Some(next) = rest.chars().next() {
        let random = rest.len() - rest.trim_start_matches(|next: char| next.is_ascii_hexdigit() || next == '-').len();
        if random >= RANDOM_MIN {
            kept.push_str("RANDOM");
            rest = &rest[random..];
        } else if kept.ends_with("\"time\":") {
            kept.push_str("TIME");
            rest = rest.trim_start_matches(|digit: char| digit.is_ascii_digit());
        } else {
            kept.push(next);
            rest = &rest[next.len_utf8()..];
        }
    }
    kept
}

/// One of the two paths: a server of its own, with the same log.
struct Way {
    server: Server,
    /// The log's epoch, which every cursor begins with.
    epoch: String,
}

impl Way {
    fn start(flags: &[&str]) -> Self {
        let server = Server::start(&[&["--store", "memory", "--workers", "1", "--heartbeat", "1h"], flags].concat());
        let mut way = Self { server, epoch: String::new() };
        let publish = format!(
            "POST /v1/events HTTP/1.1\r\nHost: HOST\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{EVENT}",
            EVENT.len()
        );
        let published = way.answers(publish.as_bytes(), 0).expect("an answer");
        assert!(published[0].status.contains("201"), "{published:?}");
        let cursor = serde_json::from_str::<serde_json::Value>(&published[0].body).expect("JSON")["cursor"].clone();
        way.epoch = cursor.as_str().and_then(|cursor| cursor.split_once('-')).expect("a cursor").0.to_owned();
        way
    }

    /// The responses to these bytes, in which `HOST` is replaced by this server's address.
    fn answers(&self, bytes: &[u8], cut: usize) -> Result<Vec<Answer>, TestCaseError> {
        let bytes = with_host(bytes, self.server.address().as_bytes());
        let received = talk(self.server.address(), &bytes, cut.min(bytes.len()))?;
        let answers = answers(received, &|text| self.neutral(text)).now_or_never();
        Ok(answers.expect("all bytes are there"))
    }

    /// The text without this server's epoch and address.
    fn neutral(&self, text: &str) -> String {
        let text = text.replace(self.server.address(), "HOST");
        timeless(&if self.epoch.is_empty() { text } else { text.replace(&self.epoch, "EPOCH") })
    }
}

fn with_host(mut bytes: &[u8], host: &[u8]) -> Vec<u8> {
    const PLACE: &[u8] = b"HOST";
    let mut named = Vec::new();
    while let Some(at) = find(bytes, PLACE) {
        named.extend_from_slice(&bytes[..at]);
        named.extend_from_slice(host);
        bytes = &bytes[at + PLACE.len()..];
    }
    named.extend_from_slice(bytes);
    named
}

#[test]
fn both_ways_answer_the_same() {
    let (plain, app) = (Way::start(&[]), Way::start(&["--through-app"]));
    let inputs = (connection(), any::<Index>());
    run("both_ways_answer_the_same", 600, &inputs, |(bytes, cut)| {
        let cut = cut.index(bytes.len() + 1);
        let (mut plain, mut app) = (plain.answers(&bytes, cut)?, app.answers(&bytes, cut)?);
        if has_body(&bytes) {
            // A body that no handler reads ends its connection where actix has not seen all of it when it is answered; where it has,
            // the connection goes on. Up to there the answers are the same.
            let together = plain.len().min(app.len());
            for answers in [&mut plain, &mut app] {
                answers.truncate(together);
                answers.iter_mut().for_each(|answer| drop(answer.headers.remove("connection")));
            }
        }
        for (plain, app) in plain.iter_mut().zip(&app).filter(|(_, app)| app.status.contains(" 101 ")) {
            // A socket whose peer has closed its sending side may be let go through the App before it has been sent all.
            if plain.body.starts_with(&app.body) {
                plain.body.clone_from(&app.body);
            }
        }
        prop_assert_eq!(plain, app, "cut at {}: {:?}", cut, String::from_utf8_lossy(&bytes));
        Ok(())
    });
}
