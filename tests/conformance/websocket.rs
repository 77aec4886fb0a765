//! WebSocket specifics: commands and replies, publishing, acknowledgements, close codes, fragmentation, pings and handshakes.

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Bytes, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};

use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{end_of_log, numbers, post_events, publish, publish_all, shared, topic, uuid};
use crate::support::http::{Request, Response};
use crate::support::until;
use crate::support::wire::{Item, moved, position};
use crate::support::{Server, within};

/// A WebSocket that has received its `$hello`.
async fn connect(server: &Server, query: &Query) -> Link {
    let mut link = Link::to(server.address(), Kind::Ws, query).await;
    assert_eq!(link.item().await.event, "$hello");
    link
}

/// The next `$reply`; only heartbeats may arrive before it.
async fn reply(link: &mut Link) -> Value {
    let item = link.telling().await;
    assert_eq!(item.event, "$reply", "{item:?}");
    item.value()
}

fn refused(reply: &Value) -> String {
    assert_eq!(reply["ok"], false, "{reply}");
    crate::support::http::error_code(reply)
}

#[tokio::test]
async fn subscribes_later() {
    let server = shared();
    let (a, b) = (topic("later"), topic("later"));
    publish(&server, &a, "before").await;
    let mut link = connect(&server, &Query::default()).await;
    publish(&server, &a, "not asked for yet").await;
    let end = end_of_log(&server).await;
    let answer = link.ask(json!({ "type": "subscribe", "topics": [a] })).await;
    assert_eq!(answer["ok"], true);
    assert!(
        position(answer["cursor"].as_str().expect("a cursor")) >= position(&end),
        "without a subscription, the cursor is the end of the log"
    );
    publish(&server, &a, 1).await;
    publish(&server, &b, "not asked for").await;
    assert_eq!(link.telling().await.value(), 1);
    // Another pattern beside the first; a repeated pattern counts once.
    let answer = link.ask(json!({ "type": "subscribe", "topics": [b, b, a] })).await;
    assert_eq!(answer["ok"], true);
    publish(&server, &b, 2).await;
    publish(&server, &a, 3).await;
    assert_eq!((link.telling().await.value(), link.telling().await.value()), (json!(2), json!(3)));
    // Unsubscribed again.
    assert_eq!(link.ask(json!({ "type": "unsubscribe", "topics": [a, "never.asked.for"] })).await["ok"], true);
    publish(&server, &a, "no more").await;
    publish(&server, &b, 4).await;
    assert_eq!(link.telling().await.value(), 4);
    assert_eq!(link.ask(json!({ "type": "unsubscribe", "topics": [b] })).await["ok"], true);
    publish(&server, &b, "no more").await;
    assert_eq!(link.ask(json!({ "type": "ping" })).await["ok"], true);
}

#[tokio::test]
async fn subscribes_later_from_a_cursor() {
    let server = shared();
    let topic = topic("from");
    let cursors = publish_all(&server, &topic, numbers(0..4)).await;
    for (cursor, first) in [(json!(cursors[1]), 2), (json!("earliest"), 0), (json!("now"), 4), (Value::Null, 4)] {
        let mut link = connect(&server, &Query::default()).await;
        let answer = link.ask(json!({ "type": "subscribe", "topics": [topic], "cursor": cursor })).await;
        assert_eq!(answer["ok"], true, "{answer}");
        if first == 2 {
            assert_eq!(answer["cursor"], cursors[1]);
        }
        for n in first..4 {
            assert_eq!(link.telling().await.value(), n, "from {cursor}");
        }
        // Again without a subscription, and from any cursor.
        link.ask(json!({ "type": "unsubscribe", "topics": [topic] })).await;
        link.ask(json!({ "type": "subscribe", "topics": [topic], "cursor": cursors[2] })).await;
        assert_eq!(link.telling().await.value(), 3);
    }
    // The cursor of the URL applies to the first pattern.
    let mut link = connect(&server, &Query::default().with("cursor", &cursors[0])).await;
    link.ask(json!({ "type": "subscribe", "topics": [topic] })).await;
    for n in 1..4 {
        assert_eq!(link.telling().await.value(), n);
    }
    // A cursor of another log is a gap here, too.
    let mut link = connect(&server, &Query::default()).await;
    link.ask(json!({ "type": "subscribe", "topics": [topic], "cursor": "other-1" })).await;
    let gap = link.telling().await;
    assert_eq!((gap.event.as_str(), &gap.value()["reason"]), ("$gap", &json!("epoch")));
    assert_eq!(link.telling().await.value(), 0);
}

/// A pattern is added while its events arrive: the reply's cursor is the boundary between the live events and those to poll for.
#[tokio::test]
async fn a_pattern_is_delivered_from_the_replys_cursor_on() {
    let server = shared();
    let (old, new) = (topic("added"), topic("added"));
    for already in [true, false] {
        let start = end_of_log(&server).await;
        let (address, old_topic, new_topic) = (server.address().to_owned(), old.clone(), new.clone());
        let publisher = tokio::spawn(async move {
            for n in 0..80 {
                let topic = if n % 3 == 0 { &old_topic } else { &new_topic };
                let body = json!({ "topic": topic, "data": n }).to_string();
                Request::post("/v1/events", "application/json", body).send(&address).await.created().await;
            }
        });
        let query = if already { Query::topic(&old) } else { Query::default() };
        let mut link = connect(&server, &query).await;
        let begun = || async { position(&end_of_log(&server).await) > position(&start) + 10 };
        until("the publisher has begun", begun).await;
        let answer = link.ask(json!({ "type": "subscribe", "topics": [new] })).await;
        let from = answer["cursor"].as_str().expect("a cursor").to_owned();
        publisher.await.expect("the publisher ends");
        publish(&server, &new, "end").await;
        let mut received = Vec::new();
        loop {
            let item = link.telling().await;
            let last = item.value() == "end";
            if item.topic.as_deref() == Some(new.as_str()) {
                received.push(item);
            }
            if last {
                break;
            }
        }
        let query = Query::topic(&new).with("cursor", &start).with("limit", 1000);
        let all = Link::to(server.address(), Kind::Poll, &query).await.batch().await.events;
        let (history, expected): (Vec<Item>, Vec<Item>) =
            all.into_iter().partition(|item| item.at() <= position(&from));
        assert_eq!(received, expected, "after {from}, {} before", history.len());
    }
}

#[tokio::test]
async fn patterns_are_remembered_as_they_change() {
    let server = shared();
    let (a, b, client) = (topic("rem"), topic("rem"), uuid());
    let mut link = connect(&server, &Query::topic(&a).with("client", &client)).await;
    link.ask(json!({ "type": "subscribe", "topics": [b] })).await;
    link.ask(json!({ "type": "unsubscribe", "topics": [a] })).await;
    let state = || async { Request::get(format!("/v1/clients/{client}")).send(server.address()).await.json().await };
    assert_eq!(state().await["patterns"], json!([b]));
    drop(link);
    until("the WebSocket is closed", || async { state().await["transports"] == json!([]) }).await;
    assert_eq!(state().await["patterns"], json!([b]));
    publish(&server, &b, 1).await;
    let mut again = Subscriber::new(server.address(), Kind::Longpoll, Query::default().with("client", &client));
    assert_eq!(again.values(1).await, [1]);
}

#[tokio::test]
async fn publishes() {
    let server = shared();
    let topic = topic("wspub");
    let mut link = connect(&server, &Query::topic(&topic)).await;
    let mut other = Subscriber::start(server.address(), Kind::Sse, Query::topic(&topic)).await;
    let message = json!({ "type": "publish", "topic": topic, "event": "named", "data": { "n": 1 }, "id": "k" });
    let answer = link.ask(message).await;
    let event = other.event().await;
    assert_eq!(
        (&answer["ok"], answer["cursor"].as_str(), &answer["duplicate"]),
        (&json!(true), event.cursor.as_deref(), &json!(false))
    );
    assert_eq!((event.event.as_str(), event.value(), event.id.as_deref()), ("named", json!({ "n": 1 }), Some("k")));
    // The publisher receives its own event as any subscriber.
    assert_eq!(link.telling().await, event);
    // Without `ref` there is no reply; numbers keep their digits.
    let raw = format!(r#"{{"type":"publish","topic":"{topic}","data":[1e999,123456789012345678901234567890]}}"#);
    link.send(Message::text(raw)).await;
    assert_eq!(link.telling().await.data.as_deref(), Some("[1e999,123456789012345678901234567890]"));
    // `ref` is a number or a string, and is returned unchanged.
    for reference in [json!(7), json!(-1.5), json!("x"), json!("")] {
        link.say(&json!({ "type": "publish", "topic": "elsewhere", "data": 1, "ref": reference })).await;
        assert_eq!(reply(&mut link).await["ref"], reference);
    }
    // Replies are in the order of the messages.
    for n in 0..50 {
        link.say(&json!({ "type": "publish", "topic": "elsewhere", "data": n, "ref": n })).await;
    }
    for n in 0..50 {
        let answer = reply(&mut link).await;
        assert_eq!((&answer["ref"], &answer["ok"]), (&json!(n), &json!(true)));
    }
}

#[tokio::test]
async fn publishes_binary_frames() {
    let server = shared();
    let topic = topic("wsbin");
    let mut link = connect(&server, &Query::topic(&topic).with("publish", &topic)).await;
    for (bytes, base64) in [(&b"\x00\x01\xff"[..], "\"AAH/\""), (b"", "\"\""), (b"{}", "\"e30=\"")] {
        link.send(Message::binary(bytes)).await;
        let item = link.telling().await;
        assert_eq!((item.data.as_deref(), item.encoding.as_deref()), (Some(base64), Some("base64")));
    }
    // Text messages still work beside binary ones.
    assert_eq!(link.ask(json!({ "type": "ping" })).await["ok"], true);
    // A topic is missing.
    let mut link = connect(&server, &Query::topic(&topic)).await;
    link.send(Message::binary(&b"x"[..])).await;
    assert_eq!(refused(&reply(&mut link).await), "no_topic");
    // Too large for an event, not for a message.
    let mut link = connect(&server, &Query::topic(&topic).with("publish", &topic)).await;
    link.send(Message::binary(vec![0; 300 << 10])).await;
    assert_eq!(refused(&reply(&mut link).await), "too_large");
    assert_eq!(link.ask(json!({ "type": "ping" })).await["ok"], true);
}

#[tokio::test]
async fn acknowledges_sent_events() {
    let server = shared();
    let (topic, client) = (topic("wsack"), uuid());
    let start = end_of_log(&server).await;
    let cursors = publish_all(&server, &topic, numbers(0..4)).await;
    let mut link = connect(&server, &Query::topic(&topic).with("client", &client).with("cursor", start)).await;
    for _ in 0..4 {
        link.telling().await;
    }
    assert_eq!(link.ask(json!({ "type": "ack", "cursor": cursors[2] })).await["ok"], true);
    let state = Request::get(format!("/v1/clients/{client}")).send(server.address()).await.json().await;
    assert_eq!(state["acknowledged"], cursors[2]);
    // An acknowledgement moves neither back nor beyond the sent events.
    assert_eq!(link.ask(json!({ "type": "ack", "cursor": cursors[0] })).await["ok"], true);
    let beyond = moved(&cursors[3], position(&cursors[3]) + 1_000_000);
    let answer = link.ask(json!({ "type": "ack", "cursor": beyond })).await;
    assert_eq!(refused(&answer), "bad_cursor");
    for bad in [json!("now"), json!("x"), json!(3), json!(null)] {
        assert_eq!(link.ask(json!({ "type": "ack", "cursor": bad })).await["ok"], false, "{bad}");
    }
    let state = Request::get(format!("/v1/clients/{client}")).send(server.address()).await.json().await;
    assert_eq!(state["acknowledged"], cursors[2]);
    // Events in the log that were not sent on this socket cannot be acknowledged either.
    let mut parked = connect(&server, &Query::default().with("cursor", &cursors[1]).with("client", uuid())).await;
    assert_eq!(refused(&parked.ask(json!({ "type": "ack", "cursor": cursors[2] })).await), "bad_cursor");
    assert_eq!(parked.ask(json!({ "type": "ack", "cursor": cursors[1] })).await["ok"], true);
}

#[tokio::test]
async fn pings() {
    let server = shared();
    let mut link = connect(&server, &Query::default()).await;
    assert_eq!(link.ask(json!({ "type": "ping" })).await["ok"], true);
    link.say(&json!({ "type": "ping" })).await;
    assert_eq!(reply(&mut link).await, json!({ "ok": true }));
    link.say(&json!({ "type": "ping", "ref": 5 })).await;
    assert_eq!(reply(&mut link).await, json!({ "ok": true, "ref": 5 }));
    // A number is returned as it was written, with all its digits.
    for number in ["9".repeat(200), "1e400".to_owned(), "-0.10".to_owned()] {
        link.send(Message::text(format!("{{\"type\":\"ping\",\"ref\":{number}}}"))).await;
        let data = link.telling().await.data.expect("data");
        assert!(data.ends_with(&format!(",\"ref\":{number}}}")), "{data}");
    }
}

/// This server has no keys, so a token cannot be renewed; but the connection stays open.
#[tokio::test]
async fn auth_is_answered() {
    let server = shared();
    let mut link = connect(&server, &Query::default()).await;
    let answer = link.ask(json!({ "type": "auth", "token": "x.y.z" })).await;
    assert!(answer["ok"].is_boolean(), "{answer}");
    assert_eq!(link.ask(json!({ "type": "ping" })).await["ok"], true);
}

/// Every error in a message is reported on the open socket, with the message's `ref` if there is one.
#[tokio::test]
async fn wrong_messages_are_answered() {
    let server = shared();
    let topic = topic("wrong");
    let mut link = connect(&server, &Query::topic(&topic)).await;
    let patterns: Vec<String> = (0..65).map(|n| format!("a.{n}")).collect();
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let long_topic = "x".repeat(256);
    let big = "y".repeat(257 << 10);
    let cases: Vec<(String, &str)> = vec![
        ("".into(), "bad_json"),
        ("{".into(), "bad_json"),
        ("hello".into(), "bad_json"),
        ("[]".into(), ""),
        ("7".into(), ""),
        ("null".into(), ""),
        ("{}".into(), ""),
        (json!({ "type": 7, "ref": 1 }).to_string(), ""),
        (json!({ "type": "shout", "ref": 1 }).to_string(), "bad_type"),
        (json!({ "type": "Subscribe", "topics": ["a"], "ref": 1 }).to_string(), "bad_type"),
        (json!({ "type": "subscribe", "ref": 1 }).to_string(), ""),
        (json!({ "type": "subscribe", "topics": "a", "ref": 1 }).to_string(), ""),
        (json!({ "type": "subscribe", "topics": [], "ref": 1 }).to_string(), "no_topic"),
        (json!({ "type": "subscribe", "topics": ["a..b"], "ref": 1 }).to_string(), "bad_topic"),
        (json!({ "type": "subscribe", "topics": ["a", "a>"], "ref": 1 }).to_string(), "bad_topic"),
        (json!({ "type": "subscribe", "topics": patterns, "ref": 1 }).to_string(), "too_many_topics"),
        (json!({ "type": "subscribe", "topics": ["a"], "cursor": "x", "ref": 1 }).to_string(), "bad_cursor"),
        (json!({ "type": "unsubscribe", "topics": ["."], "ref": 1 }).to_string(), "bad_topic"),
        (json!({ "type": "unsubscribe", "ref": 1 }).to_string(), ""),
        (json!({ "type": "publish", "topic": "a", "ref": 1 }).to_string(), ""),
        (json!({ "type": "publish", "data": 1, "ref": 1 }).to_string(), ""),
        (json!({ "type": "publish", "topic": "a.*", "data": 1, "ref": 1 }).to_string(), "bad_topic"),
        (json!({ "type": "publish", "topic": long_topic, "data": 1, "ref": 1 }).to_string(), "bad_topic"),
        (json!({ "type": "publish", "topic": "a", "event": "$hello", "data": 1, "ref": 1 }).to_string(), "bad_event"),
        (
            json!({ "type": "publish", "topic": "a", "event": "x".repeat(129), "data": 1, "ref": 1 }).to_string(),
            "bad_event",
        ),
        (json!({ "type": "publish", "topic": "a", "id": "x".repeat(129), "data": 1, "ref": 1 }).to_string(), "bad_id"),
        (format!(r#"{{"type":"publish","topic":"a","data":{deep},"ref":1}}"#), ""),
        (r#"{"type":"publish","topic":"a","data":"\ud800","ref":1}"#.into(), "bad_data"),
        (json!({ "type": "publish", "topic": "a", "data": big, "ref": 1 }).to_string(), "too_large"),
        (json!({ "type": "ping", "ref": {} }).to_string(), "bad_ref"),
        (json!({ "type": "ping", "ref": "x".repeat(257) }).to_string(), "bad_ref"),
        (format!(r#"{{"type":"ping","ref":{}}}"#, "9".repeat(257)), "bad_ref"),
        (r#"{"type":"ping","ref":"\ud800"}"#.into(), "bad_ref"),
        (json!({ "type": "ack", "ref": 1 }).to_string(), ""),
    ];
    for (text, code) in cases {
        let shown: String = text.chars().take(100).collect();
        link.send(Message::text(text.clone())).await;
        let answer = reply(&mut link).await;
        let told = refused(&answer);
        assert!(code.is_empty() || told == code, "{shown}: {told}");
        if text.contains("\"ref\":1") {
            assert_eq!(answer["ref"], 1, "{shown}: {answer}");
        }
    }
    // The subscription is unchanged, and nothing was published.
    publish(&server, "a", "for nobody").await;
    publish(&server, &topic, "still here").await;
    assert_eq!(link.telling().await.value(), "still here");
}

/// A client's frame, valid or not.
fn frame(first: u8, masked: bool, payload: &[u8]) -> Vec<u8> {
    let mut out = header(first, masked, payload.len() as u64);
    if masked {
        // A mask of zeros leaves the payload unchanged.
        out.extend_from_slice(&[0; 4]);
    }
    out.extend_from_slice(payload);
    out
}

fn header(first: u8, masked: bool, length: u64) -> Vec<u8> {
    let mask = if masked { 0x80 } else { 0 };
    let mut out = vec![first];
    match length {
        0..=125 => out.push(mask | length as u8),
        126..=0xFFFF => {
            out.push(mask | 126);
            out.extend((length as u16).to_be_bytes());
        }
        _ => {
            out.push(mask | 127);
            out.extend(length.to_be_bytes());
        }
    }
    out
}

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;

/// A protocol violation closes the connection with the matching close code; other clients are unaffected.
#[tokio::test]
async fn abusive_peers_are_closed() {
    let server = shared();
    let topic = topic("abuse");
    let mut bystander = Subscriber::start(server.address(), Kind::Ws, Query::topic(&topic)).await;
    let mut fragments = frame(0x01, true, &vec![b'a'; 600 << 10]);
    fragments.extend(frame(0x00, true, &vec![b'a'; 600 << 10]));
    let cases: Vec<(&str, Vec<u8>, u16)> = vec![
        ("unmasked", frame(TEXT, false, b"{}"), 1002),
        ("unmasked ping", frame(PING, false, b""), 1002),
        ("RSV1", frame(0xC1, true, b"{}"), 1002),
        ("RSV2", frame(0xA1, true, b"{}"), 1002),
        ("RSV3", frame(0x91, true, b"{}"), 1002),
        ("an opcode that is none", frame(0x83, true, b"{}"), 1002),
        ("a control opcode that is none", frame(0x8B, true, b""), 1002),
        ("a ping in pieces", frame(0x09, true, b""), 1002),
        ("a long ping", frame(PING, true, &[0; 126]), 1002),
        ("a continuation of nothing", frame(0x80, true, b"x"), 1002),
        ("a text within a text", [frame(0x01, true, b"{"), frame(TEXT, true, b"}")].concat(), 1002),
        ("not UTF-8", frame(TEXT, true, b"\"\xff\""), 1007),
        ("UTF-8 that is cut off", frame(TEXT, true, b"\"\xe6\xbc"), 1007),
        ("a reason to close that is not UTF-8", frame(0x88, true, b"\x03\xe8\xff"), 1007),
        ("UTF-8 that breaks between pieces", [frame(0x01, true, b"\"\xe6"), frame(0x80, true, b"\"")].concat(), 1007),
        ("announced too big", header(TEXT, true, 2 << 20), 1009),
        ("announced far too big", header(0x82, true, u64::MAX >> 1), 1009),
        ("too big in pieces", fragments, 1009),
    ];
    for (name, bytes, code) in cases {
        let mut link = connect(&server, &Query::topic(&topic)).await;
        // The server may close the connection before it has read everything.
        let _ = link.socket().write_all(&bytes).await;
        let (told, reason) = link.end().await.unwrap_or_else(|| panic!("{name}: no close frame"));
        assert_eq!(told, code, "{name}: {reason}");
        assert!(!reason.is_empty(), "{name}: the close frame has a reason");
    }
    publish(&server, &topic, "undisturbed").await;
    assert_eq!(bystander.values(1).await, ["undisturbed"]);
}

/// Messages of exactly the maximum size are accepted.
#[tokio::test]
async fn a_message_may_have_a_mebibyte() {
    let server = shared();
    let mut link = connect(&server, &Query::default()).await;
    let mut text = json!({ "type": "ping", "ref": "big" }).to_string();
    text.push_str(&" ".repeat((1 << 20) - text.len()));
    link.send(Message::text(text.clone())).await;
    assert_eq!(reply(&mut link).await["ref"], "big");
    // Fragmented, with a ping between the fragments.
    let (head, tail) = text.as_bytes().split_at(1000);
    let bytes = [frame(0x01, true, head), frame(PING, true, b"?"), frame(0x80, true, tail)].concat();
    link.socket().write_all(&bytes).await.expect("sent");
    assert_eq!(reply(&mut link).await["ref"], "big");
}

#[tokio::test]
async fn a_close_is_answered() {
    let server = shared();
    let closes = [
        (&b"\x03\xe8"[..], Some(1000)),
        (b"\x03\xe9going", Some(1001)),
        (b"\x0b\xb8own", Some(3000)),
        (b"\x0f\xa0", Some(4000)),
        (b"", None),
    ];
    let all = ["/v1/ws", "/v1/echo"].into_iter().flat_map(|path| closes.map(|(payload, code)| (path, payload, code)));
    // Concurrently: each closed socket may linger for a second.
    futures_util::future::join_all(all.map(|(path, payload, code)| close(&server, path, payload, code))).await;
}

async fn close(server: &Server, path: &str, payload: &[u8], code: Option<u16>) {
    let mut socket = stock(server, path).await;
    if path == "/v1/ws" {
        within("hello", socket.next()).await;
    }
    let MaybeTlsStream::Plain(stream) = socket.get_mut() else { panic!("plain") };
    stream.write_all(&frame(CLOSE, true, payload)).await.expect("sent");
    let answer = loop {
        match within("a close frame", socket.next()).await {
            Some(Ok(Message::Close(frame))) => break frame.map(|frame| u16::from(frame.code)),
            Some(Ok(_)) => {}
            other => panic!("not a close frame: {other:?}"),
        }
    };
    assert!(answer == code || code.is_none() && answer == Some(1000), "{path} {payload:?}: {answer:?}");
    // Then the server closes TCP.
    if let Some(Ok(other)) = within("the end", socket.next()).await {
        panic!("a message after the close frame: {other:?}");
    }
}

async fn stock(server: &Server, path: &str) -> WebSocketStream<MaybeTlsStream<TcpStream>> {
    let mut config = WebSocketConfig::default();
    config.max_message_size = Some(32 << 20);
    config.max_frame_size = Some(32 << 20);
    let url = format!("ws://{}{path}", server.address());
    let connected = tokio_tungstenite::connect_async_with_config(url, Some(config), false).await;
    connected.expect("the handshake").0
}

#[tokio::test]
async fn a_ping_is_answered_with_its_payload() {
    let server = shared();
    for path in ["/v1/ws?topic=a", "/v1/echo"] {
        let mut socket = stock(&server, path).await;
        for payload in [&b""[..], b"x", &[7; 125]] {
            socket.send(Message::Ping(Bytes::copy_from_slice(payload))).await.expect("sent");
            loop {
                match within("a pong", socket.next()).await {
                    Some(Ok(Message::Pong(answer))) => {
                        assert_eq!(&answer[..], payload);
                        break;
                    }
                    Some(Ok(Message::Text(_) | Message::Ping(_))) if path != "/v1/echo" => {}
                    other => panic!("not a pong: {other:?}"),
                }
            }
        }
    }
}

/// The next message that is not a heartbeat.
async fn echo(socket: &mut WebSocketStream<MaybeTlsStream<TcpStream>>) -> Message {
    loop {
        match within("an echo", socket.next()).await.expect("open").expect("whole") {
            Message::Ping(_) => {}
            message => return message,
        }
    }
}

#[tokio::test]
async fn echo_changes_nothing() {
    let server = shared();
    let mut socket = stock(&server, "/v1/echo").await;
    let big: Vec<u8> = (0..3_000_000_u32).map(|n| n as u8).collect();
    let messages = [
        Message::text(""),
        Message::text("{not json"),
        Message::text("é\u{2028}</script>\0"),
        Message::text("漢".repeat(100_000)),
        Message::binary(&b""[..]),
        Message::binary(&b"\xff\x00"[..]),
        Message::binary(vec![1; 125]),
        Message::binary(vec![1; 126]),
        Message::binary(vec![1; 65_535]),
        Message::binary(vec![1; 65_536]),
        Message::binary(big),
    ];
    for message in &messages {
        socket.send(message.clone()).await.expect("sent");
        assert_eq!(&echo(&mut socket).await, message);
    }
    // Many concurrent messages are echoed in order.
    for n in 0..100 {
        socket.feed(Message::text(n.to_string())).await.expect("sent");
    }
    socket.flush().await.expect("sent");
    for n in 0..100 {
        assert_eq!(echo(&mut socket).await, Message::text(n.to_string()));
    }
    // A fragmented message is one message.
    let MaybeTlsStream::Plain(stream) = socket.get_mut() else { panic!("plain") };
    let bytes = [frame(0x01, true, b"a\xc3"), frame(0x00, true, b""), frame(0x80, true, b"\xa9b")].concat();
    stream.write_all(&bytes).await.expect("sent");
    assert_eq!(echo(&mut socket).await, Message::text("aéb"));
    let close = CloseFrame { code: CloseCode::Away, reason: "done".into() };
    socket.close(Some(close)).await.expect("sent");
    // Invalid messages.
    for (bytes, code) in [
        (frame(TEXT, true, b"\xff"), 1007),
        (frame(TEXT, false, b"x"), 1002),
        (frame(0xC1, true, b"x"), 1002),
        (header(0x82, true, (16 << 20) + 1), 1009),
    ] {
        let mut socket = stock(&server, "/v1/echo").await;
        let MaybeTlsStream::Plain(stream) = socket.get_mut() else { panic!("plain") };
        stream.write_all(&bytes).await.expect("sent");
        match echo(&mut socket).await {
            Message::Close(Some(frame)) => assert_eq!(u16::from(frame.code), code),
            other => panic!("not a close frame: {other:?}"),
        }
    }
}

/// A peer that is silent for two heartbeats is closed; a peer that answers pings, or sends any message, is not.
#[tokio::test]
async fn silence_is_detected() {
    let server = Server::start(&["--heartbeat", "150ms", "--workers", "1", "--store", "memory"]);
    let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
    let request = format!(
        "GET /v1/ws?topic=a HTTP/1.1\r\nHost: {}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        server.address()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut all = Vec::new();
    let read = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut all);
    within("the end of a mute peer's socket", read).await.expect("the server hangs up");
    let pings = all.windows(2).filter(|two| two == b"\x89\x00").count();
    assert!(pings >= 1, "the server pings before it closes");
    let close = [&[0x88, 6][..], &1013_u16.to_be_bytes(), b"slow"].concat();
    assert!(all.ends_with(&close), "{:?}", String::from_utf8_lossy(&all));
    assert!(crate::support::http::find(&all, b"\"event\":\"$bye\",\"data\":{\"reason\":\"slow\"").is_some());
    // A peer that answers pings.
    let mut link = connect(&server, &Query::topic("a")).await;
    for _ in 0..10 {
        assert_eq!(link.item().await.event, "$beat");
    }
}

/// An invalid handshake is refused before the upgrade, as JSON.
#[tokio::test]
async fn handshakes() {
    let server = shared();
    for path in ["/v1/ws?topic=a", "/v1/echo"] {
        let upgrade = |version: &str, key: &str| {
            let request = Request::get(path).header("Upgrade", "websocket").header("Connection", "keep-alive, Upgrade");
            let request = if version.is_empty() { request } else { request.header("Sec-WebSocket-Version", version) };
            if key.is_empty() { request } else { request.header("Sec-WebSocket-Key", key) }
        };
        for (name, request) in [
            ("no upgrade", Request::get(path)),
            ("no version", upgrade("", "dGhlIHNhbXBsZSBub25jZQ==")),
            ("an old version", upgrade("8", "dGhlIHNhbXBsZSBub25jZQ==")),
            ("an older version", upgrade("7", "dGhlIHNhbXBsZSBub25jZQ==")),
            ("no connection option", Request::get(path).header("Upgrade", "websocket")),
            ("no key", upgrade("13", "")),
            ("two versions", upgrade("13", "dGhlIHNhbXBsZSBub25jZQ==").header("Sec-WebSocket-Version", "13")),
            (
                "two keys",
                upgrade("13", "dGhlIHNhbXBsZSBub25jZQ==").header("Sec-WebSocket-Key", "eGhlIHNhbXBsZSBub25jZQ=="),
            ),
        ] {
            let mut response = request.send(server.address()).await;
            assert_eq!(response.header("sec-websocket-version"), Some("13"), "{path}, {name}");
            let options = response.header("connection").unwrap_or_default();
            assert!(options.contains("upgrade"), "{path}, {name}: {options} (RFC 9110 §7.8)");
            assert_eq!(response.error().await, (400, "upgrade_required".to_owned()), "{path}, {name}");
        }
        let answer = upgrade("13", "dGhlIHNhbXBsZSBub25jZQ==").send(server.address()).await;
        assert_eq!(
            (answer.status, answer.header("sec-websocket-protocol")),
            (101, None),
            "{path}: no subprotocol was offered"
        );
        let foreign = upgrade("13", "dGhlIHNhbXBsZSBub25jZQ==").header("Sec-WebSocket-Protocol", "chat, other");
        let answer = foreign.send(server.address()).await;
        assert_eq!(
            (answer.status, answer.header("sec-websocket-protocol")),
            (101, None),
            "{path}: an unknown subprotocol"
        );
    }
}

/// With patterns that change all the time under load, each event is delivered at most once, in order.
#[tokio::test]
async fn patterns_change_under_load() {
    let server = shared();
    let root = topic("churn");
    let start = end_of_log(&server).await;
    let (address, publisher_root) = (server.address().to_owned(), root.clone());
    let publisher = tokio::spawn(async move {
        for n in 0..150 {
            let body = json!({ "topic": format!("{publisher_root}.{}", n % 3), "data": n }).to_string();
            Request::post("/v1/events", "application/json", body).send(&address).await.created().await;
        }
    });
    let mut link = connect(&server, &Query::topic(&format!("{root}.0"))).await;
    let hello = position(&end_of_log(&server).await);
    let mut round = 0;
    while !publisher.is_finished() {
        let kind = if round % 2 == 0 { "subscribe" } else { "unsubscribe" };
        let topics = [format!("{root}.{}", 1 + round / 2 % 2)];
        assert_eq!(link.ask(json!({ "type": kind, "topics": topics })).await["ok"], true);
        round += 1;
    }
    publisher.await.expect("the publisher ends");
    post_events(&server, &json!({ "topic": format!("{root}.0"), "data": "end" })).await;
    let mut received: Vec<Item> = Vec::new();
    while received.last().is_none_or(|item| item.value() != "end") {
        received.push(link.telling().await);
    }
    assert!(received.windows(2).all(|two| two[0].at() < two[1].at()), "events are in order, without repeats");
    let steady = |item: &Item| item.topic.as_deref() == Some(format!("{root}.0").as_str()) && item.at() > hello;
    let query = Query::topic(&format!("{root}.0")).with("cursor", &start).with("limit", 1000);
    let all = Link::to(server.address(), Kind::Poll, &query).await.batch().await.events;
    let expected: Vec<Item> = all.into_iter().filter(steady).collect();
    let kept: Vec<Item> = received.into_iter().filter(steady).collect();
    assert_eq!(kept, expected, "every event of the permanent pattern is delivered");
}

/// Unusual but valid headers (RFC 9110 §7.6.1, §7.8): lists, also over several lines. `/v1/%65cho` is served by the App.
#[tokio::test]
async fn upgrades_may_be_lists() {
    let server = shared();
    for path in ["/v1/echo", "/v1/%65cho"] {
        for lines in [
            "Connection: Upgrade, close\r\nUpgrade: websocket\r\n",
            "Connection: keep-alive\r\nConnection: upgrade\r\nUpgrade: WebSocket\r\n",
            "Connection: Upgrade\r\nUpgrade: foo\r\nUpgrade: websocket\r\n",
        ] {
            let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
            let ping = [0x89, 0x80, 0, 0, 0, 0];
            let key = "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
            let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{lines}{key}\r\n");
            stream.write_all(&[head.as_bytes(), &ping].concat()).await.expect("sent");
            let response = within("an answer", Response::read(stream, false)).await.expect("an answer");
            assert_eq!(response.status, 101, "{path}: {lines}");
            let (mut stream, mut read) = response.body.into_socket();
            within("a pong", async {
                while read.len() < 2 {
                    assert!(stream.read_buf(&mut read).await.expect("the socket is open") > 0, "{path}: {lines}");
                }
            })
            .await;
            assert_eq!(read, [0x8A, 0], "{path}: {lines}");
        }
    }
    // HTTP/1.0 has no upgrade.
    let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
    let head = "GET /v1/echo HTTP/1.0\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.expect("sent");
    let mut response = within("an answer", Response::read(stream, false)).await.expect("an answer");
    assert_eq!(response.error().await, (400, "upgrade_required".to_owned()));
}
