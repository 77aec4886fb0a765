//! Bodies that no handler reads: they are bounded in bytes and time, whatever the method, and nothing waits for them.

use crate::support::Server;
use crate::support::http::Connection;

/// Bytes of a body after which the connection has to be over, with room for the buffers of both kernels.
const BODY_MAX_BYTES: usize = 64 << 20;

const CHUNK_BYTES: usize = 16 << 10;

/// Sends an endless body until the connection is over; returns what came before.
async fn endless(mut connection: Connection, head: &str) -> String {
    connection.send(head).await.expect("sent");
    let chunk = format!("{CHUNK_BYTES:x}\r\n{}\r\n", "x".repeat(CHUNK_BYTES));
    let mut sent_bytes = 0;
    while connection.send(&chunk).await.is_ok() {
        sent_bytes += CHUNK_BYTES;
        assert!(sent_bytes < BODY_MAX_BYTES, "the body of {head:?} is read on");
    }
    String::from_utf8_lossy(&connection.closed().await).into_owned()
}

#[tokio::test]
async fn an_endless_body_ends_with_its_response() {
    for way in [&[][..], &["--through-app"]] {
        let server = Server::start(&[&["--store", "memory"], way].concat());
        for (method, target) in [
            ("GET", "/v1/info"),
            ("GET", "/v1/poll?topic=a"),
            ("GET", "/healthz"),
            ("GET", "/client.js"),
            ("GET", "/v1/longpoll?topic=a&wait=1"),
            ("HEAD", "/v1/info"),
            ("OPTIONS", "/v1/events"),
            ("DELETE", "/v1/clients/x"),
            ("PUT", "/v1/events"),
            ("POST", "/v1/nothing"),
            ("POST", "/v1/info"),
            ("POST", "/v1/ack"),
        ] {
            let head = format!("{method} {target} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n");
            let connection = Connection::open(server.address()).await.expect("connected");
            let received = super::within(&head, endless(connection, &head)).await;
            // A reset may overtake the response.
            assert!(received.is_empty() || received.starts_with("HTTP/1.1 "), "{head:?}: {received}");
        }
    }
}

/// A short body that has arrived is no reason to end the connection.
#[tokio::test]
async fn a_short_body_of_a_get_is_skipped() {
    for way in [&[][..], &["--through-app"]] {
        let server = Server::start(&[&["--store", "memory"], way].concat());
        let mut connection = Connection::open(server.address()).await.expect("connected");
        for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
            let get = format!("GET /v1/info HTTP/1.1\r\nHost: localhost\r\n{body}");
            connection.send(get).await.expect("sent");
            let answer = super::within("an answer", connection.answer()).await.expect("an answer");
            assert_eq!(answer.status(), 200, "{way:?} {body:?}");
        }
    }
}
