//! Memory for inbound data: the buffers for one address are bounded, released by a deadline, and leave room for other addresses.

use std::net::Ipv4Addr;

use serde_json::json;

use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{Items, masked};

/// A message of a megabyte and a half, without its last byte.
fn half_message() -> Vec<u8> {
    let mut frame = masked(0x82, &vec![b'x'; 1500 << 10]);
    frame.pop();
    frame
}

async fn echo(address: &str, from: Ipv4Addr) -> Items {
    let mut connection = Connection::from(from, address).await.expect("connected");
    connection.upgrade("/v1/echo").await.expect("sent");
    let head = connection.head().await.expect("a head");
    Items::after(connection, "ws", &head).expect("a socket")
}

async fn publish(address: &str, from: Ipv4Addr, bytes: usize) -> u16 {
    let mut connection = Connection::from(from, address).await.expect("connected");
    let body = json!({ "topic": "a", "data": "x".repeat(bytes) }).to_string();
    connection.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
    super::within("an answer", connection.answer()).await.expect("an answer").status()
}

/// Ten incomplete messages from one address: most are refused, and publishing still works, even for that address.
#[tokio::test]
async fn half_messages_of_one_address_take_its_share_only() {
    let flags = ["--max-memory-per-peer", "8MiB", "--max-arriving-bytes", "16MiB", "--max-echo-bytes", "2MiB"];
    let server = Server::start(&flags);
    let address = server.address();
    let attacker = Ipv4Addr::new(127, 0, 0, 66);
    let mut sockets = Vec::new();
    for _ in 0..10 {
        let mut socket = echo(address, attacker).await;
        // The server may close the connection while the client still sends.
        let _ = socket.connection.send(half_message()).await;
        sockets.push(socket);
    }
    let mut ends = tokio::task::JoinSet::new();
    for mut socket in sockets {
        ends.spawn(async move {
            while let Ok(Some(_)) = socket.next().await {}
            socket.close_code
        });
    }
    // At most five of a megabyte and a half have room in eight; which five, depends on how they arrive.
    for _ in 0..5 {
        let end = super::within("a refusal", ends.join_next()).await.expect("a socket").expect("its end");
        assert_eq!(end, Some(1013));
    }
    assert_eq!(publish(address, attacker, 1000).await, 201, "small bodies have a reserve");
    for number in 1..5 {
        assert_eq!(publish(address, Ipv4Addr::new(127, 0, 0, number), 200 << 10).await, 201);
    }
}

/// Where several addresses fill the whole budget, small bodies still have room, and large ones do once the addresses disconnect.
#[tokio::test]
async fn a_full_server_takes_small_bodies() {
    let flags = ["--max-arriving-bytes", "8MiB", "--max-memory-per-peer", "4MiB", "--max-echo-bytes", "2MiB"];
    let server = Server::start(&flags);
    let address = server.address();
    let calm = Ipv4Addr::new(127, 0, 0, 9);
    let mut sockets = Vec::new();
    super::until("the budget is full", async || {
        let number = 100 + sockets.len() as u8 % 100;
        let mut socket = echo(address, Ipv4Addr::new(127, 0, 0, number)).await;
        let _ = socket.connection.send(half_message()).await;
        sockets.push(socket);
        publish(address, calm, 200 << 10).await == 503
    })
    .await;
    assert_eq!(publish(address, calm, 1000).await, 201);
    drop(sockets);
    super::until("there is room again", async || publish(address, calm, 200 << 10).await == 201).await;
}

/// A body, a line, a message: each has a deadline, after which its memory is released.
#[tokio::test]
async fn no_half_lasts() {
    let server = Server::start(&["--body-timeout", "1s"]);
    let address = server.address();
    let begun = |kind: &str, part: &str| {
        format!(
            "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: 100000\r\n\r\n{part}"
        )
    };
    for request in
        [begun("application/json", "{\"topic\""), begun("application/x-ndjson", "{\"topic\":\"a\",\"data\":1}\n{")]
    {
        let mut connection = Connection::open(address).await.expect("connected");
        connection.send(&request).await.expect("sent");
        let answer = super::within("an answer", connection.answer()).await.expect("an answer");
        assert_eq!(answer.status(), 408, "{request}");
    }
    for path in ["/v1/echo", "/v1/ws"] {
        for part in [&masked(0x81, b"hello")[..6], &masked(0x01, b"a fragment"), b"\x81"] {
            let mut connection = Connection::open(address).await.expect("connected");
            connection.upgrade(path).await.expect("sent");
            let head = connection.head().await.expect("a head");
            let mut items = Items::after(connection, "ws", &head).expect("a socket");
            items.connection.send(part).await.expect("sent");
            while let Some(item) = super::within("its end", items.next()).await.expect("frames") {
                assert_eq!(item["event"], "$hello");
            }
            assert_eq!(items.close_code, Some(1013), "{path} {part:?}");
        }
    }
}

/// The deadline of a line counts from its first byte; a stream of lines that end in time has no deadline.
#[tokio::test]
async fn a_dripping_line_is_cut_and_a_slow_stream_of_lines_is_not() {
    let server = Server::start(&["--body-timeout", "2s"]);
    let head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nContent-Length: 100000\r\n\r\n";
    let mut dripping = Connection::open(server.address()).await.expect("connected");
    dripping.send(head).await.expect("sent");
    let cut = async {
        while dripping.send(" ").await.is_ok() {
            let pause = std::time::Duration::from_millis(100);
            if tokio::time::timeout(pause, dripping.fill()).await.is_ok() {
                return;
            }
        }
    };
    super::within("its end", cut).await;
    assert!(String::from_utf8_lossy(&dripping.buffer).starts_with("HTTP/1.1 408"));
}

/// Blank lines are no lines: a body of those ends at the deadline of the event that does not come.
#[tokio::test]
async fn a_stream_of_blank_lines_ends() {
    let server = Server::start(&["--body-timeout", "1s"]);
    let head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    for blank in ["1\r\n\n\r\n", "2\r\n\r\n\r\n", "3\r\n \t\n\r\n", "1\r\n \r\n"] {
        let mut connection = Connection::open(server.address()).await.expect("connected");
        connection.send(head).await.expect("sent");
        let event = json!({ "topic": "a", "data": 1 }).to_string() + "\n";
        connection.send(format!("{:x}\r\n{event}\r\n", event.len())).await.expect("sent");
        let answered = async {
            let pause = std::time::Duration::from_millis(50);
            while tokio::time::timeout(pause, connection.fill()).await.is_err() {
                connection.send(blank).await.expect("the server continues to read");
            }
            connection.answer().await.expect("an answer")
        };
        let answer = super::within("an answer", answered).await;
        assert_eq!((answer.status(), answer.code().as_str()), (408, "timeout"), "{blank:?}");
        assert_eq!(answer.json()["accepted"], 1, "{blank:?}");
    }
}

/// Errors quote little of the input, and a stream of lines keeps only the first errors.
#[tokio::test]
async fn errors_are_short_for_every_input() {
    let server = Server::start(&[]);
    let address = server.address();
    let long = format!("\"{}\"", "\u{7f}".repeat(200_000));
    for body in [long.clone(), format!("[{long}]"), format!("{{\"topic\":{long},\"data\":1}}")] {
        let mut connection = Connection::open(address).await.expect("connected");
        connection.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
        let answer = connection.answer().await.expect("an answer");
        assert_eq!(answer.status(), 400);
        assert!(answer.body.len() < 600, "{} bytes: {}", answer.body.len(), answer.text());
    }
    let lines = format!("{long}\n").repeat(150);
    let mut connection = Connection::open(address).await.expect("connected");
    connection.post("/v1/events", "application/x-ndjson", lines.as_bytes()).await.expect("sent");
    let answer = super::within("an answer", connection.answer()).await.expect("an answer");
    assert_eq!(answer.status(), 400);
    assert!(answer.body.len() < 64 << 10, "{} bytes", answer.body.len());
    let mut items = Items::open(address, "ws", "topic=a").await.expect("open");
    items.named("$hello").await;
    items.connection.send(masked(0x81, long.as_bytes())).await.expect("sent");
    let reply = items.named("$reply").await;
    assert_eq!(reply["data"]["ok"], false);
    assert!(reply.to_string().len() < 600, "{reply}");
}

/// What has no room is refused by what announces it: else the rest of the share would be received in vain, again and again.
#[tokio::test]
async fn what_is_announced_and_has_no_room_is_refused_before_it_arrives() {
    // Of the 8 MiB a small part is of the reserve; and no deadline refuses.
    let share = ["--max-memory-per-peer", "8MiB", "--max-arriving-bytes", "16MiB", "--max-echo-bytes", "4MiB"];
    let flags = [&share[..], &["--body-timeout", "10m"]].concat();
    for way in [&[][..], &["--through-app"]] {
        let server = Server::start(&[&flags[..], way].concat());
        let (address, attacker) = (server.address(), Ipv4Addr::new(127, 0, 0, 66));
        let mut half = masked(0x82, &vec![b'x'; 4_000_000]);
        half.pop();
        let mut first = echo(address, attacker).await;
        first.connection.send(half).await.expect("sent");
        super::until("the first message takes most of the share", async || {
            let mut connection = Connection::from(attacker, address).await.expect("connected");
            let head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n";
            connection.send(format!("{head}Content-Length: 4190000\r\n\r\n")).await.expect("sent");
            let answer = tokio::time::timeout(std::time::Duration::from_millis(200), connection.answer()).await;
            answer.is_ok_and(|answer| answer.expect("an answer").status() == 429)
        })
        .await;
        let mut second = echo(address, attacker).await;
        second.connection.send(&masked(0x82, &vec![b'x'; 4_190_000])[..14]).await.expect("sent");
        while let Ok(Some(_)) = super::within("its end", second.next()).await {}
        assert_eq!(second.close_code, Some(1013), "{way:?}");
    }
}
