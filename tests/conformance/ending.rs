//! The ends of requests and connections: half-closed connections, WebSockets, and bodies without a length. Each on both paths of
//! a request: our own HTTP/1.1 connection, and, forced by an unusual header, the fallback to the App.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::fixture::{publish, shared, topic, uuid};
use crate::support::http::{Request, Response};
use crate::support::until;
use crate::support::{Server, within};

/// A header that makes a request fall back to the App.
const ODD: &str = "TE: trailers\r\n";

/// Sends a text, shuts down the sending side, and reads until the server has closed, too.
async fn half_closed(server: &Server, text: &str) -> String {
    let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
    stream.write_all(text.as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("the sending side is shut down");
    let mut said = Vec::new();
    within("the end of the connection", stream.read_to_end(&mut said))
        .await
        .expect("the connection is closed without an error");
    String::from_utf8(said).expect("text")
}

/// A half-closed connection still gets its responses (RFC 9112 §9.6).
#[tokio::test]
async fn a_client_that_has_said_all_is_answered() {
    // With the disk store the responses take a moment.
    let server = shared();
    let topic = topic("half");
    for odd in ["", ODD] {
        for round in 0..10 {
            let post = format!(
                "POST /v1/topics/{topic} HTTP/1.1\r\nHost: localhost\r\n{odd}Content-Type: text/plain\r\nContent-Length: 1\r\n\r\n1"
            );
            let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{odd}\r\n");
            let poll = get(&format!("/v1/poll?topic={topic}&cursor=earliest"));
            let longpoll = get(&format!("/v1/longpoll?topic={topic}&cursor=earliest&wait=60"));
            // A short poll returns the events that there are.
            let stream = get(&format!("/v1/stream?topic={topic}&cursor=earliest"));
            let said = half_closed(&server, &stream).await;
            assert_eq!(
                said.matches("\"event\":\"message\"").count(),
                3 * round + if odd.is_empty() { 0 } else { 30 },
                "{said}"
            );
            for (text, status) in [(&post, " 201 "), (&poll, " 200 "), (&longpoll, " 200 ")] {
                let said = half_closed(&server, text).await;
                assert!(said.lines().next().is_some_and(|line| line.contains(status)), "{round}: {text}: {said}");
            }
            let said = half_closed(&server, &format!("{post}{poll}{post}")).await;
            assert_eq!(said.matches("HTTP/1.1 20").count(), 3, "{round}: {said}");
        }
    }
}

/// A long poll or a stream ends once its client has half-closed the connection.
#[tokio::test]
async fn a_held_request_ends_with_its_client() {
    let server = shared();
    let topic = topic("held");
    for odd in ["", ODD] {
        for path in ["/v1/longpoll", "/v1/jsonp", "/v1/sse", "/v1/stream", "/v1/iframe"] {
            let client = uuid();
            let query = format!("topic={topic}&wait=60&callback=f&client={client}");
            let said =
                half_closed(&server, &format!("GET {path}?{query} HTTP/1.1\r\nHost: localhost\r\n{odd}\r\n")).await;
            if matches!(path, "/v1/longpoll" | "/v1/jsonp") {
                assert_eq!(said, "", "{path} {odd}");
            } else {
                assert!(said.contains("$hello") && !said.contains("$bye"), "{path} {odd}: {said}");
                assert!(!said.ends_with("0\r\n\r\n"), "{path} {odd}: cut, not ended: {said}");
            }
            until("the connection's permit is released", async || {
                let state = Request::get(format!("/v1/clients/{client}")).send(server.address()).await.json().await;
                state["transports"].as_array().is_some_and(Vec::is_empty)
            })
            .await;
        }
    }
}

/// A WebSocket to `path`, with the bytes read ahead behind the handshake's response.
async fn socket(server: &Server, path: &str) -> TcpStream {
    let stream = TcpStream::connect(server.address()).await.expect("a connection");
    let mut stream = stream;
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.expect("sent");
    let response = within("an answer", Response::read(stream, false)).await.expect("an answer");
    assert_eq!(response.status, 101, "{path}");
    response.body.into_socket().0
}

/// Reads until the server closes TCP; returns the last frame.
async fn last_frame(stream: &mut TcpStream, bytes: usize) -> Vec<u8> {
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.expect("the connection is closed without an error");
    said.split_off(said.len() - bytes)
}

/// Once both close frames are exchanged, the server is the first to close TCP, at once (RFC 6455 §7.1.1); where the server has
/// sent its close frame and the peer's is missing, the server waits a while. So of two sockets, the properly closed one ends
/// first.
#[tokio::test]
async fn a_closed_socket_is_closed_at_once() {
    let server = shared();
    for path in ["/v1/echo", "/v1/%65cho", "/v1/ws?topic=never", "/v1/%77s?topic=never"] {
        let mut waiting = socket(&server, path).await;
        // An unmasked frame: the server sends a close frame, and the peer does not reply.
        waiting.write_all(&[0x81, 1, b'a']).await.expect("sent");
        let mut closed = socket(&server, path).await;
        closed.write_all(&[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xE8]).await.expect("sent");
        let frame = within("the end", async {
            tokio::select! {
                biased;
                frame = last_frame(&mut closed, 4) => frame,
                _ = last_frame(&mut waiting, 4) => panic!("{path}: the properly closed socket is kept open"),
            }
        })
        .await;
        assert_eq!(frame, [0x88, 2, 0x03, 0xE8], "{path}");
        // The other socket is closed after a while, too.
        let mut rest = Vec::new();
        within("its end", waiting.read_to_end(&mut rest)).await.expect("the connection is closed without an error");
    }
}

/// A body of unknown length is not treated as an empty one.
#[tokio::test]
async fn a_body_has_a_length() {
    let server = shared();
    let topic = topic("length");
    for version in ["1.0", "1.1"] {
        for path in [format!("/v1/topics/{topic}"), "/v1/events".to_owned(), "/v1/ack".to_owned()] {
            let head = format!("POST {path} HTTP/{version}\r\nHost: localhost\r\nConnection: keep-alive\r\n\r\n");
            // The following bytes are most likely its body, not a request.
            let body = format!("POST /v1/topics/{topic} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\n1");
            for body in ["Test with netcat", &body] {
                let said = half_closed(&server, &format!("{head}{body}")).await;
                assert!(!said.contains(" 201 "), "{version} {path}: {said}");
                assert!(said.contains(" 411 ") && said.contains("\"length_required\""), "{version} {path}: {said}");
            }
        }
    }
    let first = publish(&server, &topic, "first").await;
    let poll =
        Request::get(format!("/v1/poll?topic={topic}&cursor=earliest")).send(server.address()).await.json().await;
    assert_eq!(poll["events"].as_array().map(Vec::len), Some(1), "{poll}");
    assert_eq!(poll["events"][0]["cursor"], first);
}

/// The bytes after an upgrade request are not HTTP any more: a body there would end only with the connection, and the next
/// request, with its credentials, would be a part of that body.
#[tokio::test]
async fn a_body_has_no_place_behind_an_upgrade() {
    let server = shared();
    let topic = topic("upgrade");
    let head = format!("POST /v1/topics/{topic} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n");
    let text = format!("{head}Upgrade: websocket\r\n\r\n1{head}\r\n2");
    let said = half_closed(&server, &text).await;
    assert_eq!((said.matches("HTTP/1.").count(), said.contains(" 400 ")), (1, true), "{said}");
    let first = publish(&server, &topic, "first").await;
    let poll =
        Request::get(format!("/v1/poll?topic={topic}&cursor=earliest")).send(server.address()).await.json().await;
    assert_eq!(
        (poll["events"].as_array().map(Vec::len), &poll["events"][0]["cursor"]),
        (Some(1), &first.into()),
        "{poll}"
    );
}
