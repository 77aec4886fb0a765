//! Incomplete, oversized and unusually framed requests.

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::http::{Answer, Connection, PAUSE};
use crate::support::raw::{self, Items, masked, position};

const MIB: usize = 1 << 20;

async fn answer(connection: &mut Connection) -> Answer {
    super::within("an answer", connection.answer()).await.expect("an answer")
}

/// Asserts that other clients are still served.
async fn check_alive(server: &Server) {
    let published = server.publish(&json!({ "topic": "alive", "data": 1 })).await;
    let path = "/v1/poll?topic=alive&last=1";
    let (_, events) = raw::poll(server.address(), path).await.expect("a batch");
    assert_eq!(events[0]["cursor"], published["cursor"]);
}

#[tokio::test]
async fn a_head_has_to_end_in_time() {
    let server = Server::start(&["--header-timeout", "1s"]);
    for start in ["", "GE", "GET /v1/info HTTP/1.1\r\n", "GET /v1/info HTTP/1.1\r\nHost: localhost\r\nX-Long: "] {
        let mut connection = Connection::open(server.address()).await.expect("connected");
        connection.send(start).await.expect("sent");
        let said = super::within("the end", connection.closed()).await;
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{start:?}: {said}");
    }
    let mut slow = Connection::open(server.address()).await.expect("connected");
    slow.send("GET /v1/info HTTP/1.1\r\nHost: localhost\r\nX-Slow: ").await.expect("sent");
    let said = super::within("the end of the slow connection", slow.dribble(b"x")).await;
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&said));
    check_alive(&server).await;
}

/// The size of a head is limited.
#[tokio::test]
async fn a_head_without_bounds_is_refused() {
    let server = Server::start(&["--header-timeout", "1h"]);
    let before_kib = super::memory_kib(server.pid(), "VmHWM");
    let mut connection = Connection::open(server.address()).await.expect("connected");
    connection.send("GET /v1/info HTTP/1.1\r\nHost: localhost\r\nX-Long: ").await.expect("sent");
    let piece = vec![b'x'; 64 << 10];
    for _ in 0..1024 {
        if connection.send(&piece).await.is_err() {
            break;
        }
    }
    let said = super::within("the end", connection.closed()).await;
    assert!(said.is_empty() || said.starts_with(b"HTTP/1.1 4"), "{}", String::from_utf8_lossy(&said));
    let grown_kib = super::memory_kib(server.pid(), "VmHWM") - before_kib;
    assert!(grown_kib < 8 * 1024, "{grown_kib} KiB");
    check_alive(&server).await;
}

#[tokio::test]
async fn a_body_has_to_end_in_time() {
    let server = Server::start(&["--body-timeout", "1s"]);
    let address = server.address();
    let length = "Content-Length: 1000";
    let chunked = "Transfer-Encoding: chunked";
    for path in ["/v1/events", "/v1/topics/a", "/v1/ack"] {
        for (framing, body, more) in [(length, "{\"topic\"", " "), (chunked, "5\r\n{\"top\r\n", "1\r\n \r\n")] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{framing}\r\n\r\n{body}"
            );
            let mut stopped = Connection::open(address).await.expect("connected");
            stopped.send(&head).await.expect("sent");
            let refused = answer(&mut stopped).await;
            assert_eq!((refused.status(), refused.code().as_str()), (408, "timeout"), "{path} {framing}");

            // Each byte arrives in time, but the whole body does not.
            let mut slow = Connection::open(address).await.expect("connected");
            slow.send(&head).await.expect("sent");
            while tokio::time::timeout(PAUSE, slow.fill()).await.is_err() {
                slow.send(more).await.expect("sent");
            }
            let refused = answer(&mut slow).await;
            assert_eq!((refused.status(), refused.code().as_str()), (408, "timeout"), "{path} {framing}, slowly");
            // A next request cannot be distinguished from the rest of the body.
            super::within("the end of the stopped connection", stopped.closed()).await;
            super::within("the end of the slow connection", slow.dribble(more.as_bytes())).await;
        }
    }
    assert_eq!(raw::history(address, "%3E").await.len(), 0, "no event of it is stored");
    check_alive(&server).await;
}

/// That slow lines have no total deadline is tested with the body's reader, on a simulated clock.
#[tokio::test]
async fn lines_may_not_stop() {
    let server = Server::start(&["--body-timeout", "1s"]);
    let head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let line = |number: u64| {
        let line = format!("{}\n", json!({ "topic": "lines", "data": number }));
        format!("{:x}\r\n{line}\r\n", line.len())
    };
    let mut stopped = Connection::open(server.address()).await.expect("connected");
    let lines: String = (0..3).map(line).collect();
    stopped.send(format!("{head}{lines}")).await.expect("sent");
    // Complete lines are stored at once, not at the end of the stream.
    super::until("the lines are stored", async || raw::history(server.address(), "lines").await.len() == 3).await;
    let refused = answer(&mut stopped).await;
    assert_eq!((refused.status(), refused.code().as_str()), (408, "timeout"));
    assert_eq!(refused.json()["accepted"], 3, "the response has the number of accepted lines");

    // A stream that is cut off has published its complete lines.
    let mut broken = Connection::open(server.address()).await.expect("connected");
    broken.send(format!("{head}{}ff\r\n{{\"topic\":", line(3))).await.expect("sent");
    super::until("the line is stored", async || raw::history(server.address(), "lines").await.len() == 4).await;
    drop(broken);
    let data: Vec<Value> =
        raw::history(server.address(), "lines").await.iter().map(|item| item["data"].clone()).collect();
    assert_eq!(data, (0..4).map(Value::from).collect::<Vec<_>>());
    check_alive(&server).await;
}

#[tokio::test]
async fn a_line_that_never_ends_takes_no_memory() {
    let server = Server::start(&[]);
    let before_kib = super::memory_kib(server.pid(), "VmHWM");
    let mut connection = Connection::open(server.address()).await.expect("connected");
    let good = format!("{}\n", json!({ "topic": "a", "data": 1 }));
    let filling = vec![b'x'; MIB];
    let length = 2 * good.len() + 64 * MIB + 1;
    let head = format!(
        "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: {length}\r\n\r\n{good}"
    );
    connection.send(head).await.expect("sent");
    for _ in 0..64 {
        connection.send(&filling).await.expect("the server continues to read");
    }
    connection.send(format!("\n{good}")).await.expect("sent");
    let done = answer(&mut connection).await;
    assert_eq!(done.status(), 201, "{done:?}");
    let done = done.json();
    assert_eq!(done["accepted"], 2);
    let errors = done["errors"].as_array().expect("errors");
    assert_eq!((errors.len(), &errors[0]["line"], &errors[0]["error"]["code"]), (1, &json!(2), &json!("too_large")));
    let grown_kib = super::memory_kib(server.pid(), "VmHWM") - before_kib;
    assert!(grown_kib < 16 * 1024, "{grown_kib} KiB for a line of 64 MiB");
}

#[tokio::test]
async fn a_socket_that_answers_no_ping_is_closed() {
    // The other socket is closed as well if this process stands still for two heartbeats.
    let server = Server::start(&["--heartbeat", "3s"]);
    let mut dead = Items::open(server.address(), "ws", "topic=a").await.expect("open");
    dead.pongs = false;
    let alive = Items::open(server.address(), "ws", "topic=a").await.expect("open");
    let mut alive = alive.flowing();
    let bye = dead.named("$bye").await;
    assert_eq!(bye["data"]["reason"], "slow", "{bye}");
    assert!(bye["data"]["retry"].is_u64(), "{bye}");
    assert_eq!(super::within("the close", dead.next()).await.expect("a proper end"), None);
    assert_eq!(dead.close_code, Some(1013));
    super::within("the connection's end", dead.connection.closed()).await;
    // The other socket has been open for as long.
    let published = server.publish(&json!({ "topic": "a", "data": 1 })).await;
    assert_eq!(alive.news().await["cursor"], published["cursor"]);
}

#[tokio::test]
async fn a_frame_announced_as_huge_is_refused_by_its_header() {
    let server = Server::start(&["--heartbeat", "1h"]);
    let before_kib = super::memory_kib(server.pid(), "VmHWM");
    let mut open = Vec::new();
    for path in ["ws", "echo"] {
        for length in [16 * MIB as u64 + 1, 1 << 32, 1 << 62] {
            for first in [0x81, 0x82, 0x01] {
                let mut connection = Connection::open(server.address()).await.expect("connected");
                connection.upgrade(&format!("/v1/{path}?topic=a")).await.expect("sent");
                let head = connection.head().await.expect("a head");
                let mut items = Items::after(connection, "ws", &head).expect("a WebSocket");
                let mut frame = vec![first, 0x80 | 127];
                frame.extend(length.to_be_bytes());
                items.connection.send(frame).await.expect("sent");
                // The mask and the payload are never sent.
                while let Some(item) = super::within("the close", items.next()).await.expect("a proper close") {
                    assert_eq!(item["event"], "$hello", "{item}");
                }
                assert_eq!(items.close_code, Some(1009), "{path} {length} {first}");
                open.push(items);
            }
        }
    }
    // A fragmented message has the same limit.
    let mut pieces = Items::open(server.address(), "ws", "topic=a").await.expect("open");
    let piece = vec![b'x'; MIB / 4];
    for number in 0..8 {
        // The server may have closed the connection by then.
        let _ = pieces.connection.send(masked(if number == 0 { 0x01 } else { 0x00 }, &piece)).await;
    }
    while super::within("the close", pieces.next()).await.expect("a proper close").is_some() {}
    assert_eq!(pieces.close_code, Some(1009));
    let grown_kib = super::memory_kib(server.pid(), "VmHWM") - before_kib;
    assert!(grown_kib < 32 * 1024, "{grown_kib} KiB");
    check_alive(&server).await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&[]);
    let mut connection = Connection::open(server.address()).await.expect("connected");
    let mut all = Vec::new();
    for number in 0..50 {
        let body = json!({ "topic": "a", "data": number }).to_string();
        let length = body.len();
        all.extend(
            format!("POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
                .into_bytes(),
        );
    }
    connection.send(&all).await.expect("sent");
    for number in 0..50 {
        let created = answer(&mut connection).await;
        assert_eq!((created.status(), position(&created.json()["cursor"])), (201, number + 1));
    }
    // Requests pipelined behind a held one wait.
    let cursor = raw::get(server.address(), "/v1/info").await.expect("an answer").json()["cursor"].clone();
    let cursor = cursor.as_str().expect("a cursor");
    let held = format!(
        "GET /v1/longpoll?topic=a&cursor={cursor}&wait=60&client={} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        uuid::Uuid::from_u128(7)
    );
    let info = "GET /v1/info HTTP/1.1\r\nHost: localhost\r\n\r\n";
    connection.send(format!("{info}{held}{info}{info}")).await.expect("sent");
    assert!(answer(&mut connection).await.json()["version"].is_string());
    super::until("the request is held", async || {
        let path = format!("/v1/clients/{}", uuid::Uuid::from_u128(7));
        raw::get(server.address(), &path).await.expect("an answer").status() == 200
    })
    .await;
    let published = server.publish(&json!({ "topic": "a", "data": 50 })).await;
    assert_eq!(answer(&mut connection).await.json()["cursor"], published["cursor"]);
    for _ in 0..2 {
        assert_eq!(answer(&mut connection).await.json()["cursor"], published["cursor"]);
    }
}

/// nginx speaks HTTP/1.0 to its upstreams unless configured otherwise; HTTP/1.0 has no chunked bodies.
#[tokio::test]
async fn http_1_0_is_streamed_to_until_the_connection_ends() {
    let server = Server::start(&["--max-stream-age", "2s"]);
    for transport in ["sse", "stream", "iframe"] {
        // Published before, so that it is sent before the stream's age can matter.
        let published = server.publish(&json!({ "topic": "a", "data": transport })).await;
        let mut connection = Connection::open(server.address()).await.expect("connected");
        connection.send(format!("GET /v1/{transport}?topic=a&last=1 HTTP/1.0\r\n\r\n")).await.expect("sent");
        let head = super::within("a head", connection.head()).await.expect("a head");
        assert_eq!((head.status, head.is_chunked(), head.header("content-length")), (200, false, None), "{head:?}");
        let mut items = Items::after(connection, transport, &head).expect("a stream");
        items.named("$hello").await;
        let item = items.news().await;
        assert_eq!((&item["cursor"], &item["data"]), (&published["cursor"], &json!(transport)));
        let bye = items.named("$bye").await;
        assert_eq!(bye["data"]["reason"], "recycle");
        assert_eq!(super::within("the end", items.next()).await.expect("a proper end"), None);
    }
    let mut connection = Connection::open(server.address()).await.expect("connected");
    connection.send("GET /v1/longpoll?topic=a&cursor=earliest&limit=2 HTTP/1.0\r\n\r\n").await.expect("sent");
    let batch = answer(&mut connection).await;
    assert_eq!((batch.head.is_chunked(), batch.json()["events"].as_array().map(Vec::len)), (false, Some(2)));
}

/// A client that writes the whole body before it reads must still get the response.
#[tokio::test]
async fn a_body_beyond_the_limit_is_answered_readably() {
    let server = Server::start(&[]);
    let address = server.address();
    let json = "application/json";
    for (path, kind, mebibytes, code) in [
        ("/v1/events", json, 8, "too_large"),
        ("/v1/topics/a", json, 8, "too_large"),
        ("/v1/topics/a", "application/octet-stream", 1, "too_large"),
        ("/v1/ack", json, 1, "too_large"),
        ("/v1/events", "application/x-www-form-urlencoded", 2, "too_large"),
        ("/v1/events", "image/png", 8, "unsupported_media_type"),
        ("/v1/nothing", json, 8, "not_found"),
        ("/v1/info", json, 8, "method_not_allowed"),
    ] {
        for chunked in [false, true] {
            let body = vec![b' '; mebibytes * MIB];
            let mut connection = Connection::open(address).await.expect("connected");
            let framing =
                if chunked { "Transfer-Encoding: chunked".into() } else { format!("Content-Length: {}", body.len()) };
            let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n");
            connection.send(head).await.expect("sent");
            let sending = async {
                for piece in body.chunks(64 << 10) {
                    let size = format!("{:x}\r\n", piece.len());
                    let parts: [&[u8]; 3] = if chunked { [size.as_bytes(), piece, b"\r\n"] } else { [b"", piece, b""] };
                    // Where the server has closed already, its response can still be read.
                    if connection.send(parts.concat()).await.is_err() {
                        return;
                    }
                }
                if chunked {
                    let _ = connection.send("0\r\n\r\n").await;
                }
            };
            super::within("its place in the socket", sending).await;
            let refused = super::within("an answer", connection.answer()).await;
            let refused = refused.unwrap_or_else(|error| panic!("{path} {kind} chunked: {chunked}: {error}"));
            assert_eq!(refused.code(), code, "{path} {kind} chunked: {chunked}");
            assert!((400..500).contains(&refused.status()));
        }
    }
    assert_eq!(raw::history(address, "%3E").await.len(), 0, "no event of it is stored");
    check_alive(&server).await;
}

/// A request refused before its body has arrived, whose body then continues or stalls: neither keeps the connection open.
#[tokio::test]
async fn a_refused_body_is_not_waited_for_either() {
    let server = Server::start(&[]);
    let (length, chunked) =
        (format!("Content-Length: {}\r\n\r\n[", 1_u64 << 40), "Transfer-Encoding: chunked\r\n\r\n1\r\n[\r\n");
    for (path, kind, framing, more, status) in [
        ("/v1/events", "application/json", length.as_str(), " ", 413),
        ("/v1/nothing", "application/json", &length, " ", 404),
        ("/v1/info", "application/json", &length, " ", 405),
        ("/v1/events", "image/png", &length, " ", 415),
        ("/v1/nothing", "application/json", chunked, "1\r\n \r\n", 404),
        ("/v1/info", "application/json", chunked, "1\r\n \r\n", 405),
        ("/v1/events", "image/png", chunked, "1\r\n \r\n", 415),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{framing}");
        let mut stopped = Connection::open(server.address()).await.expect("connected");
        stopped.send(&head).await.expect("sent");
        assert_eq!(answer(&mut stopped).await.status(), status, "{path}");
        super::within(&format!("the end of the stopped connection at {path}, {framing}"), stopped.closed()).await;

        let mut slow = Connection::open(server.address()).await.expect("connected");
        slow.send(&head).await.expect("sent");
        assert_eq!(answer(&mut slow).await.status(), status, "{path}");
        super::within(&format!("the end of the slow connection at {path}, {framing}"), slow.dribble(more.as_bytes()))
            .await;
    }
    check_alive(&server).await;

    // A body that was read completely leaves the connection usable.
    let mut connection = Connection::open(server.address()).await.expect("connected");
    for position in 2..5 {
        let body = r#"{"topic":"a","data":1}"#;
        let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        let head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked";
        connection.send(format!("{head}\r\n\r\n{chunks}")).await.expect("sent");
        assert_eq!(raw::position(&answer(&mut connection).await.json()["cursor"]), position);
    }
}

/// Backpressure on pipelined requests: requests are not read faster than responses are.
#[tokio::test]
async fn a_socket_that_sends_and_does_not_read_takes_no_memory() {
    const SOCKETS: usize = 20;
    let server = Server::start(&["--heartbeat", "1h"]);
    let before_kib = super::memory_kib(server.pid(), "VmHWM");
    let mut sockets = Vec::new();
    for path in ["ws?topic=a", "echo"] {
        let ping = format!("{{\"type\":\"ping\",\"ref\":\"{}\"}}", "x".repeat(200));
        let questions = [masked(0x81, ping.as_bytes()), masked(0x89, &[b'x'; 100])].concat().repeat(200);
        for _ in 0..SOCKETS {
            let (address, questions) = (server.address().to_owned(), questions.clone());
            sockets.push(tokio::spawn(async move {
                let mut connection = Connection::narrow(&address, Some(4096)).await.expect("connected");
                connection.upgrade(&format!("/v1/{path}")).await.expect("sent");
                // Until the server reads no more.
                let mut sent = 0;
                while tokio::time::timeout(10 * PAUSE, connection.send(&questions)).await.is_ok() {
                    sent += questions.len();
                    assert!(sent < 64 * MIB, "the server reads without backpressure");
                }
                connection
            }));
        }
    }
    let mut stuck = Vec::new();
    for socket in sockets {
        stuck.push(super::within("backpressure", socket).await.expect("the server stops reading"));
    }
    let grown_kib = super::memory_kib(server.pid(), "VmHWM") - before_kib;
    println!("asking: {grown_kib} KiB for {} sockets", stuck.len());
    assert!(grown_kib < stuck.len() as u64 * 1024, "{grown_kib} KiB for {} sockets", stuck.len());
    check_alive(&server).await;
}
