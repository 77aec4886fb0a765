//! Size limits and timeouts of heads, bodies, messages, patterns and idle connections.

use serde_json::json;

use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{self, Items, masked};

#[tokio::test]
async fn heads_are_bounded() {
    let server = Server::start(&["--max-header-bytes", "4KiB"]);
    for (path, header) in [
        (format!("/v1/info?{}", "x".repeat(5000)), String::new()),
        ("/v1/info".to_owned(), format!("X-Long: {}\r\n", "x".repeat(5000))),
        ("/v1/info".to_owned(), (0..90).map(|n| format!("X-{n}: {}\r\n", "x".repeat(60))).collect()),
    ] {
        let mut connection = Connection::open(server.address()).await.expect("connected");
        connection.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{header}\r\n")).await.expect("sent");
        let answer = super::within("an answer", connection.answer()).await.expect("an answer");
        assert_eq!((answer.status(), answer.code().as_str()), (431, "head_too_large"));
    }
    let short = format!("/v1/info?{}", "x".repeat(3000));
    assert_eq!(raw::get(server.address(), &short).await.expect("an answer").status(), 200);
}

/// A later request on a connection has the same head timeout as the first.
#[tokio::test]
async fn no_head_is_waited_for_without_end() {
    let server = Server::start(&["--header-timeout", "1s", "--keep-alive", "1s"]);
    for before in [0, 1] {
        for part in ["", "G", "GET /v1/info HTTP/1.1\r\nHost: loc"] {
            let mut connection = Connection::open(server.address()).await.expect("connected");
            for _ in 0..before {
                connection.get("/v1/info").await.expect("sent");
                assert_eq!(connection.answer().await.expect("an answer").status(), 200);
            }
            connection.send(part).await.expect("sent");
            let rest = super::within("a close", connection.closed()).await;
            let text = String::from_utf8_lossy(&rest);
            assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{before} {part:?}: {text}");
        }
    }
}

/// The timeout is for the whole head, so that a head that arrives byte by byte times out, too.
#[tokio::test]
async fn a_slow_head_is_cut_though_it_goes_on() {
    let server = Server::start(&["--header-timeout", "1s", "--keep-alive", "1s"]);
    let mut connection = Connection::open(server.address()).await.expect("connected");
    connection.get("/v1/info").await.expect("sent");
    assert_eq!(connection.answer().await.expect("an answer").status(), 200);
    connection.send("GET /v1/info HTTP/1.1\r\n").await.expect("sent");
    super::within("its end", connection.dribble(b"X: y\r\n")).await;
}

#[tokio::test]
async fn a_stream_is_no_idle_connection() {
    let server = Server::start(&["--header-timeout", "500ms", "--keep-alive", "500ms", "--heartbeat", "1s"]);
    let mut all = Vec::new();
    for transport in raw::STREAMS {
        all.push(Items::open(server.address(), transport, "topic=a").await.expect("open").flowing());
    }
    for items in &mut all {
        for _ in 0..3 {
            items.next_named("$beat").await;
        }
    }
}

#[tokio::test]
async fn patterns_are_bounded() {
    let server = Server::start(&["--max-patterns", "2"]);
    let address = server.address();
    assert_eq!(raw::get(address, "/v1/poll?topic=a&topic=b").await.expect("an answer").status(), 200);
    let answer = raw::get(address, "/v1/poll?topic=a&topic=b&topic=c").await.expect("an answer");
    assert_eq!((answer.status(), answer.code().as_str()), (400, "too_many_topics"));
    let info = raw::get(address, "/v1/info").await.expect("an answer").json();
    assert_eq!(info["limits"]["patterns"], 2);
    let mut items = Items::open(address, "ws", "topic=a").await.expect("open");
    for (topic, ok) in [("b", true), ("c", false), ("b", true)] {
        let message = json!({ "type": "subscribe", "topics": [topic], "ref": topic }).to_string();
        items.connection.send(masked(0x81, message.as_bytes())).await.expect("sent");
        let reply = items.named("$reply").await;
        assert_eq!(reply["data"]["ok"], ok, "{reply}");
    }
}

#[tokio::test]
async fn messages_are_bounded() {
    let server = Server::start(&["--max-event-bytes", "1KiB", "--max-ws-bytes", "2KiB", "--max-echo-bytes", "4KiB"]);
    for (path, bytes) in [("/v1/ws", 2048), ("/v1/echo", 4096)] {
        for over in [0, 1] {
            let mut connection = Connection::open(server.address()).await.expect("connected");
            connection.upgrade(path).await.expect("sent");
            let head = connection.head().await.expect("a head");
            let mut items = Items::after(connection, "ws", &head).expect("a socket");
            items.connection.send(masked(0x82, &vec![b'x'; bytes + over])).await.expect("sent");
            items.connection.send(masked(0x88, &1000_u16.to_be_bytes())).await.expect("sent");
            while items.next().await.expect("frames").is_some() {}
            assert_eq!(items.close_code, Some(if over == 0 { 1000 } else { 1009 }), "{path} {over}");
        }
    }
}

/// The memory for incomplete bodies and messages is bounded for all clients together, and released.
#[tokio::test]
async fn inbound_data_is_bounded_for_all_peers_together() {
    // With one worker: two workers might refuse each other's requests.
    let server = Server::start(&["--workers", "1", "--max-arriving-bytes", "1MiB", "--max-batch-bytes", "1MiB"]);
    let address = server.address();
    // An incomplete body, whose last byte is missing, and an incomplete message. A body of more than all may have is refused by its
    // head.
    let half = vec![b' '; 700 << 10];
    let begun = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 716801\r\n\r\n";
    let mut bodies = Vec::new();
    let mut echo = Connection::open(address).await.expect("connected");
    echo.upgrade("/v1/echo").await.expect("sent");
    let head = echo.head().await.expect("a head");
    let mut echo = Items::after(echo, "ws", &head).expect("a socket");
    super::until("there is no room for both", async || {
        // A new one each time: this one may be the refused one, where the other is read first.
        let mut body = Connection::open(address).await.expect("connected");
        let _ = body.send([begun.as_bytes(), &half].concat()).await;
        bodies.push(body);
        let mut other = Connection::open(address).await.expect("connected");
        other.post("/v1/events", "application/json", &half).await.expect("sent");
        let answer = other.answer().await.expect("an answer");
        assert!(matches!(answer.status(), 413 | 503), "{answer:?}");
        answer.status() == 503 && answer.head.header("retry-after").is_some()
    })
    .await;
    let _ = echo.connection.send(masked(0x82, &half)).await;
    while echo.next().await.expect("frames").is_some() {}
    assert_eq!(echo.close_code, Some(1013));
    drop(bodies);
    super::until("there is room again", async || {
        let mut other = Connection::open(address).await.expect("connected");
        other.post("/v1/events", "application/json", &half).await.expect("sent");
        other.answer().await.expect("an answer").status() == 413
    })
    .await;
}
