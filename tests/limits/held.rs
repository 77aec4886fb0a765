//! Memory budgets for each address and subject, for open subscriptions and unsent bytes: memory is charged while it is held,
//! refused or cut beyond the share, and released.

use std::net::Ipv4Addr;
use std::time::Duration;

use http::StatusCode;
use serde_json::json;
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

use super::certificates::{self, Certificate};
use super::http2;
use super::keyed::{keyed, token};
use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{self, Items, masked};

const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
const CALM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 9);

/// A small budget, and no other limit that would end a slow reader.
const FLAGS: [&str; 10] = [
    "--max-memory-per-peer",
    "2MiB",
    "--max-arriving-bytes",
    "8MiB",
    "--stall-timeout",
    "1h",
    "--min-read-rate",
    "0",
    "--log",
    "warn",
];

/// Many times what the kernel buffers for a peer with a small receive window.
const EVENTS: usize = 20;
const EVENT_BYTES: usize = 200_000;

/// A connection with a small kernel receive buffer, from an address.
async fn narrow(source: Ipv4Addr, address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.bind((source, 0).into()).expect("bound");
    socket.connect(address.parse().expect("an address")).await.expect("connected")
}

/// Completes when the server resets a connection, also with unread bytes.
pub(crate) fn reset_of(stream: &TcpStream) -> impl Future<Output = ()> + use<> {
    let watched = std::os::fd::AsFd::as_fd(stream).try_clone_to_owned().expect("another handle");
    let watched = TcpStream::from_std(watched.into()).expect("a socket");
    async move {
        let _ = watched.ready(Interest::ERROR).await;
    }
}

/// Opens subscriptions without reading them, until the server resets one.
async fn stall_until_one_is_cut(server: &Server, certificate: Option<&Certificate>, request: &str) {
    const MOST: usize = 100;
    let (cut, mut seen) = tokio::sync::mpsc::channel::<()>(1);
    let mut watches = Vec::new();
    for number in 0..MOST {
        let stream = narrow(ATTACKER, server.address()).await;
        let (reset, cut) = (reset_of(&stream), cut.clone());
        let mut connection = match certificate {
            None => Connection::on(stream),
            Some(certificate) => Connection::on(certificate.over(stream, "http/1.1").await.expect("TLS")),
        };
        connection.send(request).await.expect("sent");
        watches.push(tokio::spawn(async move {
            reset.await;
            let _ = cut.send(()).await;
            drop(connection);
        }));
        if tokio::time::timeout(Duration::from_millis(20), seen.recv()).await.is_ok() {
            assert!(number >= 3, "a budget has room for several: {number}");
            break;
        }
    }
    if watches.len() == MOST {
        super::within("one that is cut", seen.recv()).await;
    }
    watches.iter().for_each(tokio::task::JoinHandle::abort);
}

async fn fill(server: &Server) {
    for number in 0..EVENTS {
        server.publish(&json!({ "topic": "long", "data": format!("{number} {}", "x".repeat(EVENT_BYTES)) })).await;
    }
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

fn upgrade(path: &str) -> String {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
}

/// Reads all events, from an address.
async fn reads_all(server: &Server, source: Ipv4Addr) {
    let stream = narrow(source, server.address()).await;
    let mut connection = Connection::on(stream);
    connection.get("/v1/stream?topic=long&cursor=earliest").await.expect("sent");
    let head = connection.head().await.expect("a head");
    let mut items = Items::after(connection, "stream", &head).expect("a stream");
    items.named("$hello").await;
    for number in 0..EVENTS {
        let item = super::within("an event", items.next()).await.expect("not cut").expect("an event");
        assert!(item["data"].as_str().is_some_and(|data| data.starts_with(&format!("{number} "))));
    }
}

#[tokio::test]
async fn answers_that_are_not_read_take_a_share_and_are_cut_past_it() {
    let server = Server::start(&FLAGS);
    fill(&server).await;
    for request in [
        get("/v1/stream?topic=long&cursor=earliest"),
        upgrade("/v1/ws?topic=long&cursor=earliest"),
        // This request falls back to the `App`.
        "GET /v1/sse?topic=long&cursor=earliest HTTP/1.0\r\nHost: localhost\r\n\r\n".to_owned(),
    ] {
        stall_until_one_is_cut(&server, None, &request).await;
        reads_all(&server, CALM).await;
    }
    // The memory is released: no connection is cut any more.
    reads_all(&server, ATTACKER).await;
    super::until("the cut is logged", async || server.log().contains("unsent_bytes")).await;
}

#[tokio::test]
async fn answers_over_tls_that_are_not_read_are_charged_too() {
    let (certificate, files) = (Certificate::new(), certificates::Files::new());
    certificate.write(&files);
    let flags: Vec<&str> = files.flags().into_iter().chain(FLAGS).collect();
    let server = Server::start(&flags);
    let mut connection = http2::Connection::open(&certificate, &server).await;
    for number in 0..EVENTS {
        let data = format!("{number} {}", "x".repeat(EVENT_BYTES));
        connection.publish(&json!({ "topic": "long", "data": data })).await;
    }
    let request = get("/v1/stream?topic=long&cursor=earliest");
    stall_until_one_is_cut(&server, Some(&certificate), &request).await;
    // Another address is served.
    let mut other = http2::Connection::open(&certificate, &server).await;
    assert_eq!(other.get("/v1/poll?topic=long&cursor=earliest").await.status, 200);
}

async fn connections(server: &Server) -> usize {
    let text = raw::get(server.address(), "/metrics").await.expect("an answer").text();
    let line = text.lines().find_map(|line| line.strip_prefix("switchback_connections "));
    line.expect("the number of connections").parse().expect("a number")
}

/// A stream that is cut for the event that it does not take ends at once, and that event's bytes with it: not with the next
/// heartbeat.
#[tokio::test]
async fn a_stream_that_is_cut_holds_nothing_more() {
    const STREAMS: usize = 40;
    for transport in ["sse", "stream", "ws"] {
        let server = Server::start(&[&FLAGS[..], &["--heartbeat", "1h"]].concat());
        let mut open = Vec::new();
        for _ in 0..STREAMS {
            let connection = Connection::on(narrow(ATTACKER, server.address()).await);
            let mut items = Items::over(connection, transport, "topic=live").await.expect("open");
            items.named("$hello").await;
            open.push(items);
        }
        assert!(connections(&server).await >= STREAMS);
        server.publish(&json!({ "topic": "live", "data": "x".repeat(250_000) })).await;
        // Each holds what the kernel does not buffer: more than a twentieth of the share.
        super::until("the streams beyond the share are closed", async || connections(&server).await < STREAMS / 2)
            .await;
        assert!(server.log().contains("unsent_bytes"), "{transport}: {}", server.log());
    }
}

/// Over HTTP/2 a stream's window is the client's to open: the event that waits for it is charged with all of its bytes.
#[tokio::test]
async fn events_that_wait_for_a_window_are_charged() {
    let (certificate, files) = (Certificate::new(), certificates::Files::new());
    certificate.write(&files);
    let flags: Vec<&str> = files.flags().into_iter().chain(FLAGS).collect();
    let server = Server::start(&flags);
    let mut connection = http2::Connection::open(&certificate, &server).await;
    for number in 0..3 {
        let data = format!("{number} {}", "x".repeat(EVENT_BYTES));
        connection.publish(&json!({ "topic": "long", "data": data })).await;
    }
    let mut held = Vec::new();
    let reset = loop {
        assert!(held.len() < 20, "the events are not charged");
        let mut connection = http2::Connection::from(ATTACKER, &certificate, &server).await;
        let request = connection.request("GET", "/v1/stream?topic=long&cursor=earliest").body(()).expect("a request");
        let mut answer = match connection.send(request, None).await {
            Ok(answer) => answer,
            Err(error) => break error,
        };
        // Nothing is read beyond the window that a client has at the beginning.
        let mut left: usize = 60_000;
        let end = loop {
            match super::within("more, or a reset", answer.body().data()).await {
                Some(Ok(bytes)) if bytes.len() < left => left -= bytes.len(),
                Some(Ok(_)) => break None,
                Some(Err(error)) => break Some(error),
                None => panic!("the stream ends"),
            }
        };
        match end {
            Some(error) => break error,
            None => held.push((connection, answer)),
        }
    };
    assert_eq!(reset.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM));
    assert!(held.len() >= 3, "a budget has room for several: {}", held.len());
    super::until("the cut is logged", async || server.log().contains("unsent_bytes")).await;
}

/// 64 patterns, 16 KB in all.
fn patterns(number: usize) -> Vec<String> {
    (0..64).map(|pattern| format!("p{number}.{pattern}.{}", "a".repeat(235))).collect()
}

#[tokio::test]
async fn patterns_of_open_streams_take_a_share_and_are_refused_past_it() {
    let server = Server::start(&FLAGS);
    let address = server.address();
    let query =
        |number| patterns(number).iter().map(|pattern| format!("topic={pattern}")).collect::<Vec<_>>().join("&");
    let from = async |source| Connection::from(source, address).await.expect("connected");
    let mut open = Vec::new();
    let refused = loop {
        let mut connection = from(ATTACKER).await;
        connection.get(&format!("/v1/stream?{}", query(open.len()))).await.expect("sent");
        let head = super::within("a head", connection.head()).await.expect("a head");
        match head.status {
            200 => open.push(connection),
            429 => break head,
            status => panic!("{status}"),
        }
        assert!(open.len() < 200, "patterns are not charged");
    };
    assert!(refused.header("retry-after").is_some() && open.len() > 50, "{}: {refused:?}", open.len());
    let mut other = Items::over(from(CALM).await, "stream", &query(0)).await.expect("of another address");
    other.named("$hello").await;
    // On a WebSocket the refusal is a reply, and earlier subscriptions stay.
    let mut socket = Items::over(from(ATTACKER).await, "ws", "topic=a").await.expect("a small one has room");
    socket.named("$hello").await;
    let message = json!({ "type": "subscribe", "topics": patterns(100_000_000)[..63], "ref": 1 }).to_string();
    socket.connection.send(masked(0x81, message.as_bytes())).await.expect("sent");
    let reply = socket.named("$reply").await;
    assert_eq!((&reply["data"]["ok"], &reply["data"]["error"]["code"]), (&json!(false), &json!("too_many")), "{reply}");
    server.publish(&json!({ "topic": "a", "data": 1 })).await;
    assert_eq!(super::within("its event", socket.next()).await.expect("open").expect("an event")["data"], 1);
    // A closed subscription releases its memory.
    drop(open);
    super::until("there is room again", async || {
        socket.connection.send(masked(0x81, message.as_bytes())).await.expect("sent");
        socket.named("$reply").await["data"]["ok"] == true
    })
    .await;
}

/// Heads of held requests, of one subject from two addresses: they share one budget.
#[tokio::test]
async fn heads_over_http2_are_charged_to_the_subject() {
    let (certificate, files) = (Certificate::new(), certificates::Files::new());
    certificate.write(&files);
    let flags: Vec<&str> = files.flags().into_iter().chain(FLAGS).collect();
    let (server, _secret) = keyed(&flags);
    let bearer = |subject: &str| format!("Bearer {}", token(&json!({ "sub": subject, "subscribe": [">"] })));
    let fill = "x".repeat(50_000);
    let mut held = Vec::new();
    let mut waiting = async |source: [u8; 4], subject: &str, number: usize| {
        let mut connection = http2::Connection::from(source.into(), &certificate, &server).await;
        let mut refused: Vec<StatusCode> = Vec::new();
        let mut answers = Vec::new();
        for _ in 0..number {
            let request = connection.request("GET", "/v1/longpoll?topic=a&wait=30").header("x-fill", &fill);
            let request = request.header("authorization", bearer(subject)).body(()).expect("a request");
            answers.push(connection.begin(request).await);
        }
        // This is answered after all of them have been processed.
        assert_eq!(connection.get("/healthz").await.status, 200);
        for answer in &mut answers {
            if let Ok(answer) = tokio::time::timeout(Duration::from_millis(50), answer).await {
                refused.push(answer.expect("an answer").status());
            }
        }
        held.push((connection, answers));
        refused
    };
    let refused = waiting([127, 0, 0, 61], "li", 25).await;
    assert!(refused.is_empty(), "25 of 50 KB are within two MiB: {refused:?}");
    let refused = waiting([127, 0, 0, 62], "li", 25).await;
    assert!((1..25).contains(&refused.len()) && refused.iter().all(|status| *status == 429), "{refused:?}");
    let refused = waiting([127, 0, 0, 63], "wu", 25).await;
    assert!(refused.is_empty(), "{refused:?}");
}
