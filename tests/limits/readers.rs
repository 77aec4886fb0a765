//! Slow readers of responses: what they receive, and how much memory the server holds for them meanwhile.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::certificates::{self, Certificate, Files};
use super::held::reset_of;
use super::http2::Connection;
use crate::support::Server;

/// Bytes of one event's data.
const EVENT_BYTES: usize = 100_000;

/// The longest batch of a poll: more than 256 KiB after its third event.
async fn publish(server: &Server) {
    for event in events() {
        server.publish(&event).await;
    }
}

fn events() -> [Value; 3] {
    [0, 1, 2].map(|number| json!({ "topic": "long", "data": format!("{number}{}", "x".repeat(EVENT_BYTES)) }))
}

/// A server with TLS that stores these events.
async fn over_tls(flags: &[&str]) -> (Server, Certificate, Files) {
    let (server, certificate, files) = certificates::server(flags);
    let mut connection = Connection::open(&certificate, &server).await;
    for event in events() {
        connection.publish(&event).await;
    }
    (server, certificate, files)
}

/// A connection with a small kernel receive buffer.
async fn narrow(address: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_recv_buffer_size(4096).expect("a small buffer");
    socket.connect(address.parse().expect("an address")).await.expect("connected")
}

/// The whole response to a request, read in small pieces, with yields in between.
async fn read_slowly(address: &str, request: &str) -> Vec<u8> {
    let mut stream = narrow(address).await;
    stream.write_all(request.as_bytes()).await.expect("sent");
    let (mut all, mut piece) = (Vec::new(), [0; 3000]);
    loop {
        match stream.read(&mut piece).await.expect("read") {
            0 => return all,
            bytes => all.extend_from_slice(&piece[..bytes]),
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

fn body_of(answer: &[u8]) -> &[u8] {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    &answer[end + 4..]
}

/// A batch that is dropped while its peer stalls is encoded again with the same bytes: on the fast path (the connection's second
/// request, which closes it, goes through the `App`), from the tail and, where the tail is too short, from the store.
#[tokio::test]
async fn a_long_batch_that_is_taken_slowly_is_the_same() {
    for flags in [&[][..], &["--tail-events", "1"]] {
        let server = Server::start(flags);
        publish(&server).await;
        let path = "/v1/poll?topic=long&cursor=earliest";
        let (_, events) = crate::support::raw::poll(server.address(), path).await.expect("a batch");
        assert_eq!(events.len(), 3);
        for (path, close) in [(path, true), ("/v1/jsonp?callback=f&topic=long&cursor=earliest", true), (path, false)] {
            let host = server.address();
            // The refusal of the last request ends the connection.
            let end = if close { "Connection: close\r\n" } else { "" };
            let one = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n{end}\r\n");
            let request =
                if close { one } else { format!("{one}GET / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n") };
            let answer = super::within("a slow answer", read_slowly(host, &request)).await;
            let body = body_of(&answer);
            let length = String::from_utf8_lossy(&answer[..answer.len() - body.len()]).to_ascii_lowercase();
            let length = length.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.and_then(|text| text.parse().ok()).expect("a length");
            let body = std::str::from_utf8(&body[..length]).expect("text");
            let json = body.strip_prefix("/**/f(").map_or(body, |body| body.trim_end_matches(");"));
            let batch: Value = serde_json::from_str(json).expect("JSON");
            let slow = batch["events"].as_array().expect("events");
            assert!(slow.iter().zip(&events).all(|(slow, fast)| slow["data"] == fast["data"]), "{path}");
            assert_eq!(slow.len(), 3);
        }
    }
}

/// Many requests for long batches that are not read: the server does not hold the batch for each.
#[tokio::test]
async fn batches_that_are_not_taken_are_not_held() {
    const PEERS: usize = 200;
    const EACH_KIB: u64 = 64;
    let server = Server::start(&["--stall-timeout", "1h"]);
    publish(&server).await;
    let mut peers = Vec::new();
    let poll_request = |host: &str| format!("GET /v1/poll?topic=long&cursor=earliest HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let connect = async |peers: &mut Vec<TcpStream>, number: usize| {
        for _ in 0..number {
            let mut peer = narrow(server.address()).await;
            peer.write_all(poll_request(server.address()).as_bytes()).await.expect("sent");
            // The response has begun.
            let mut first = [0; 16];
            super::within("an answer", peer.read_exact(&mut first)).await.expect("read");
            peers.push(peer);
        }
    };
    // Memory that all connections share is allocated by now.
    connect(&mut peers, 20).await;
    let before = memory_kib(server.pid());
    connect(&mut peers, PEERS).await;
    let each = memory_kib(server.pid()).saturating_sub(before) / PEERS as u64;
    assert!(each <= EACH_KIB, "{each} KiB for each");
}

/// The same over HTTP/2, where a closed flow-control window keeps the batch from being sent at all.
#[tokio::test]
async fn batches_behind_a_closed_window_are_not_held() {
    const STREAMS: usize = 90;
    let (server, certificate, _files) = over_tls(&["--stall-timeout", "1h"]).await;
    let before = memory_kib(server.pid());
    let mut builder = h2::client::Builder::new();
    let mut shut = Connection::with(&certificate, &server, builder.initial_window_size(0)).await;
    let mut answers = Vec::new();
    for _ in 0..STREAMS {
        answers.push(shut.get("/v1/poll?topic=long&cursor=earliest").await);
    }
    let each = memory_kib(server.pid()).saturating_sub(before) / STREAMS as u64;
    assert!(each <= 64, "{each} KiB for each");
}

/// Flags without any other limit that would end a slow reader.
const RATE_FLAGS: [&str; 6] = ["--min-read-rate", "1024", "--read-rate-window", "1s", "--stall-timeout", "1h"];

/// Reads a byte now and then, which is below every minimum rate, until the connection is reset.
async fn drip(mut stream: impl AsyncRead + AsyncWrite + Unpin, reset: impl Future, address: &str) {
    let poll_request = format!("GET /v1/poll?topic=long&cursor=earliest HTTP/1.1\r\nHost: {address}\r\n\r\n");
    stream.write_all(poll_request.as_bytes()).await.expect("sent");
    let dripping = async {
        loop {
            stream.read_exact(&mut [0; 1]).await.expect("the connection has more bytes");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        _ = super::within("its end", reset) => {}
        () = dripping => {}
    }
}

/// A reader below the minimum rate is cut, over HTTP/1 and over TLS; a slow reader above this rate receives everything.
#[tokio::test]
async fn a_connection_below_the_minimum_rate_is_cut() {
    let server = Server::start(&RATE_FLAGS);
    publish(&server).await;
    let address = server.address();
    let stream = narrow(address).await;
    let reset = reset_of(&stream);
    drip(stream, reset, address).await;
    let poll_request =
        format!("GET /v1/poll?topic=long&cursor=earliest HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    let answer = super::within("a slow answer", read_slowly(address, &poll_request)).await;
    assert!(body_of(&answer).len() > 3 * EVENT_BYTES);
}

#[tokio::test]
async fn a_connection_over_tls_below_the_minimum_rate_is_cut() {
    let (server, certificate, _files) = over_tls(&RATE_FLAGS).await;
    let stream = narrow(server.address()).await;
    let reset = reset_of(&stream);
    drip(certificate.over(stream, "http/1.1").await.expect("TLS"), reset, server.address()).await;
}

/// Over HTTP/2 only the stream is reset.
#[tokio::test]
async fn a_stream_below_the_minimum_rate_is_reset() {
    const WINDOW_BYTES: u32 = 1000;
    let (server, certificate, _files) = over_tls(&RATE_FLAGS).await;
    let mut builder = h2::client::Builder::new();
    let mut connection = Connection::with(&certificate, &server, builder.initial_window_size(WINDOW_BYTES)).await;
    let mut slow = connection.get("/v1/poll?topic=long&cursor=earliest").await;
    let end = async {
        let (mut owed, mut taken) = (0, 0);
        loop {
            tokio::select! {
                part = slow.body().data() => match part {
                    Some(Ok(part)) => owed += part.len(),
                    Some(Err(error)) => return error,
                    None => panic!("the whole response was sent"),
                },
                () = tokio::time::sleep(Duration::from_millis(20)), if owed > 0 => {
                    slow.body().flow_control().release_capacity(1).expect("the window is released");
                    (owed, taken) = (owed - 1, taken + 1);
                    assert!(taken < EVENT_BYTES, "the slow stream is not cut");
                }
            }
        }
    };
    let error = super::within("its end", end).await;
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL));
    assert_eq!(connection.get("/healthz").await.status, 200, "other streams of the connection continue");
}

fn memory_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("the VmRSS of the process");
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).expect("a number")
}
