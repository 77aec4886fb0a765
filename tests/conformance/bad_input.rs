//! Invalid input: each error has the documented status, a code and a message; no event is lost, and other clients are unaffected.

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::client::{Kind, Query, Subscriber};
use crate::support::fixture::{end_of_log, over, publish, shared, topic};
use crate::support::http::{Request, Response, error_code};
use crate::support::refusal::refusal;
use crate::support::{Server, within};

over!(every: wrong_subscriptions, refused_while_it_stops);

/// (the invalid query, the error code); an empty code matches any.
fn wrong_queries() -> Vec<(Query, &'static str)> {
    let good = || Query::topic("a");
    let topics = |count: usize| Query::topics((0..count).map(|n| format!("t.{n}")));
    let mut all = vec![
        (topics(65), "too_many_topics"),
        (good().with("topic", ""), "bad_topic"),
        (good().with("topic", "x".repeat(256)), "bad_topic"),
        (good().with("topic", "é".repeat(128)), "bad_topic"),
        (good().raw("topic=%ff"), "bad_utf8"),
        (good().raw("topic=%C3"), "bad_utf8"),
    ];
    for text in [
        "a..b", ".", ".a", "a.", "a b", " ", "a\tb", "a\u{0}b", "a\u{7f}", "a\u{85}b", "a\nb", "a*", "*a", "a.b*",
        "a>", ">a", ">.a", "a.>.b", "a.>>", "**",
    ] {
        all.push((good().with("topic", text), "bad_topic"));
    }
    for text in
        ["", "x", "-", "a-", "-1", "A-1", "a-01", "a-+1", "a--1", "a-1-2", "a-1 ", "a_b-1", "a-1.0", "Now", "é-1"]
    {
        all.push((good().with("cursor", text), "bad_cursor"));
    }
    all.push((good().with("cursor", "a-18446744073709551616"), "bad_cursor"));
    all.push((good().with("cursor", format!("{}-1", "a".repeat(33))), "bad_cursor"));
    let uuid = "0190b5a2-7c3e-4f6a-9d1b-2e8f4c6a0b1d";
    for text in [
        "",
        "1",
        "me",
        &uuid[1..],
        &uuid.replace('-', ""),
        &format!("{{{uuid}}}"),
        &format!("urn:uuid:{uuid}"),
        &uuid.replace('0', "g"),
    ] {
        all.push((good().with("client", text), "bad_client"));
    }
    for (name, values) in [
        ("last", &["", "0", "1001", "-1", "+1", "1.5", "x", "1e2", "99999999999999999999", " 1", "0x1"][..]),
        (
            "since",
            &["", "x", "-1", "1763750000", "1.5", "2025-11-21", "2025-11-21T18:33:20", "2025-11-21T18:33:20 01:00"],
        ),
        ("latest", &["", "2", "-1", "true", "01"]),
        ("pace", &["", "60001", "-1", "+1", "1.5", "1s", "99999999999999999999"]),
        ("limit", &["", "0", "1001", "-1", "+1", "1.5", "x", "99999999999999999999"]),
        ("wait", &["", "61", "-1", "+1", "1.5", "x", "1s", "99999999999999999999"]),
    ] {
        all.extend(values.iter().map(|value| (good().set(name, value), "bad_parameter")));
    }
    all.push((good().with("publish", "a.*"), "bad_topic"));
    all.push((good().with("upto", "a-1"), "bad_parameter"));
    all.push((good().with("upto", "a-1").with("latest", 0), "bad_parameter"));
    all.push((good().with("latest", 1).with("latest", 1), "bad_parameter"));
    for text in ["", "x", "now", "earliest", "a-", "-1", "a-18446744073709551616"] {
        all.push((good().with("latest", 1).with("upto", text), "bad_cursor"));
    }
    all.push((good().with("since", 0).with("last", 1), "bad_parameter"));
    all.push((good().with("since", 0).with("since", 0), "bad_parameter"));
    all.push((good().with("cursor", "now").with("cursor", "now"), "bad_parameter"));
    all.push((good().with("client", uuid).with("client", uuid), "bad_parameter"));
    all.push((good().with("limit", 5).with("limit", 5), "bad_parameter"));
    all
}

async fn wrong_subscriptions(kind: Kind) {
    let server = shared();
    let topic = topic("bystander");
    let mut bystander = Subscriber::start(server.address(), kind, Query::topic(&topic)).await;
    for (query, code) in wrong_queries() {
        if kind == Kind::JsonpPoll && format!("{query:?}").contains("wait") {
            // This kind already sends `wait=0`.
            continue;
        }
        let response = query.request(kind).send(server.address()).await;
        let (found, _) = refusal(kind, None, response, 400).await;
        assert!(code.is_empty() || found == code, "{query:?}: {found}");
    }
    // The response repeats the presented cursor, so that a page may continue from it.
    let cursor = end_of_log(&server).await;
    let query = Query::topic("a").with("cursor", &cursor).with("limit", 0);
    let response = query.request(kind).send(server.address()).await;
    let in_batch = matches!(kind, Kind::Jsonp | Kind::JsonpPoll | Kind::IframeOnce);
    let presented = in_batch.then_some(cursor.as_str());
    assert_eq!(refusal(kind, presented, response, 400).await.0, "bad_parameter");
    // Without a pattern.
    if kind != Kind::Ws {
        let response = Query::default().request(kind).send(server.address()).await;
        assert_eq!(refusal(kind, None, response, 400).await.0, "no_topic");
    }
    if kind.resumes_by_header() {
        for text in ["x", "now", "earliest", "a-", "a-1-2", "\u{e9}"] {
            let mut response =
                Query::topic("a").header("Last-Event-ID", text).request(kind).send(server.address()).await;
            assert_eq!(response.error().await, (400, "bad_cursor".to_owned()), "{text}");
        }
    }
    if !matches!(kind, Kind::Iframe | Kind::IframeOnce) {
        let response = Query::topic("a").with("once", "yes").request(kind).send(server.address()).await;
        assert_eq!(
            refusal(kind, None, response, 400).await.0,
            "bad_parameter",
            "the parameter is checked on every transport"
        );
    }
    // A refused origin or callback is a plain 400 on the transport that uses it, and is ignored on others.
    for (name, value) in [("origin", "https://evil.example"), ("origin", "null"), ("origin", "*"), ("origin", "")] {
        let mut response = Query::topic("a").with(name, value).request(kind).send(server.address()).await;
        match kind {
            Kind::Jsonp | Kind::JsonpPoll => assert_eq!(refusal(kind, None, response, 400).await.0, "bad_origin"),
            _ => assert_eq!(response.error().await, (400, "bad_origin".to_owned()), "{value}"),
        }
    }
    let long = "a".repeat(65);
    for callback in
        ["", "1a", "a-b", "a b", "a(", "alert(1)//", "a..b", ".a", "a.", "a[0]", "é", "a\n", "<script>", &long]
    {
        let response = Query::topic("a").with("callback", callback).request(kind).send(server.address()).await;
        match kind {
            Kind::Iframe | Kind::IframeOnce => assert_eq!(refusal(kind, None, response, 400).await.0, "bad_callback"),
            _ => {
                let mut response = response;
                assert_eq!(response.error().await, (400, "bad_callback".to_owned()), "{callback}");
            }
        }
    }
    if matches!(kind, Kind::Jsonp | Kind::JsonpPoll) {
        let (status, code) = Request::get("/v1/jsonp?topic=a").send(server.address()).await.error().await;
        assert_eq!((status, code.as_str()), (400, "bad_callback"), "missing");
    }
    publish(&server, &topic, "undisturbed").await;
    assert_eq!(bystander.values(1).await, ["undisturbed"]);
}

/// During shutdown, new requests are refused with a retry delay, in the form of each transport.
async fn refused_while_it_stops(kind: Kind) {
    let server = Server::start(&["--workers", "1", "--store", "memory", "--drain", "30s"]);
    // The ends of streams are spread over the drain time: of several streams, one keeps the server up.
    let mut streams = Vec::new();
    for _ in 0..12 {
        streams.push(Subscriber::start(server.address(), Kind::Stream, Query::topic("a")).await);
    }
    let cursor = end_of_log(&server).await;
    server.signal(nix::sys::signal::Signal::SIGTERM);
    let ready = || async { Request::get("/readyz").send(server.address()).await.status == 503 };
    crate::support::until("the server drains", ready).await;
    let query = Query::topic("a").with("cursor", &cursor);
    let response = query.request(kind).send(server.address()).await;
    let in_batch = matches!(kind, Kind::Jsonp | Kind::JsonpPoll | Kind::IframeOnce);
    let (code, retry) = refusal(kind, in_batch.then_some(cursor.as_str()), response, 503).await;
    assert_eq!(code, "shutting_down");
    assert!(retry.is_some_and(|retry| (500..60_000).contains(&retry)), "the refusal has a retry delay: {retry:?}");
    let mut answer = Request::post("/v1/events", "application/json", "{}").send(server.address()).await;
    assert!(answer.header("retry-after").is_some());
    assert_eq!(answer.error().await, (503, "shutting_down".to_owned()));
    assert_eq!(
        Request::get("/healthz").send(server.address()).await.status,
        200,
        "the server is alive while it drains"
    );
}

#[tokio::test]
async fn wrong_publishes() {
    let server = shared();
    let topic = topic("pubbad");
    let mut bystander = Subscriber::start(server.address(), Kind::Sse, Query::topic(">")).await;
    let event = |key: &str, value: Value| {
        let mut event = json!({ "topic": topic, "data": 1 });
        event[key] = value;
        event.to_string()
    };
    let without = |key: &str| {
        let mut event = json!({ "topic": topic, "data": 1 });
        event.as_object_mut().expect("an object").remove(key);
        event.to_string()
    };
    let raw = |data: &str| format!("{{\"topic\":\"{topic}\",\"data\":{data}}}");
    let deep = format!("{}{}", "[".repeat(129), "]".repeat(129));
    let deep_objects = format!("{}1{}", "{\"a\":".repeat(129), "}".repeat(129));
    let abyss = "[".repeat(200_000);
    let mut events: Vec<(String, u16, &str)> = vec![
        ("{".into(), 400, "bad_json"),
        ("{}x".into(), 400, ""),
        ("nothing".into(), 400, "bad_json"),
        ("{\"topic\":\"a\",\"data\":01}".into(), 400, "bad_json"),
        ("{\"topic\":\"a\",\"data\":NaN}".into(), 400, "bad_json"),
        ("{\"topic\":\"a\",\"data\":'x'}".into(), 400, "bad_json"),
        ("{\"topic\":\"a\",\"data\":\"\u{1}\"}".into(), 400, "bad_json"),
        ("{\"topic\":\"a\",\"data\":\"\\x\"}".into(), 400, "bad_json"),
        ("{\"topic\":\"a\",\"data\":1,}".into(), 400, "bad_json"),
        ("7".into(), 400, "bad_event"),
        ("\"text\"".into(), 400, "bad_event"),
        ("null".into(), 400, "bad_event"),
        (without("topic"), 400, "bad_event"),
        (without("data"), 400, "bad_event"),
        (event("topic", json!(7)), 400, "bad_event"),
        (event("event", json!(7)), 400, "bad_event"),
        (event("id", json!(7)), 400, "bad_event"),
        (event("event", json!("$hello")), 400, "bad_event"),
        (event("event", json!("$")), 400, "bad_event"),
        (event("event", json!("x".repeat(129))), 400, "bad_event"),
        (event("event", json!("a\nb")), 400, "bad_event"),
        (event("id", json!("x".repeat(129))), 400, "bad_id"),
        (event("id", json!("a\u{0}")), 400, "bad_id"),
        (event("encoding", json!("hex")), 400, "bad_data"),
        (event("encoding", json!("base64")), 400, "bad_data"),
        (raw("\"?\",\"encoding\":\"base64\""), 400, "bad_data"),
        (event("deleted", json!(true)), 400, "bad_data"),
        (raw("null,\"deleted\":true"), 400, "bad_data"),
        (event("deleted", json!("true")), 400, "bad_event"),
        (event("deleted", json!(1)), 400, "bad_event"),
        (json!({ "topic": topic, "deleted": false }).to_string(), 400, "bad_event"),
        (json!({ "topic": topic, "deleted": true, "encoding": "base64" }).to_string(), 400, "bad_data"),
        (raw("1,\"deleted\":false,\"deleted\":false"), 400, "bad_event"),
        (event("headers", json!("a=b")), 400, "bad_headers"),
        (event("headers", json!(["a", "b"])), 400, "bad_headers"),
        (event("headers", json!({ "a": 1 })), 400, "bad_headers"),
        (event("headers", json!({ "a": "b", "c": null })), 400, "bad_headers"),
        (event("headers", json!({ "a": { "b": "c" } })), 400, "bad_headers"),
        (event("headers", json!({ "": "b" })), 400, "bad_headers"),
        (event("headers", json!({ "a": "x".repeat(4096) })), 400, "bad_headers"),
        (event("headers", json!({ "x".repeat(4097): "" })), 400, "bad_headers"),
        (event("headers", (0..17).map(|n| (format!("h{n}"), json!(""))).collect()), 400, "bad_headers"),
        (raw("1,\"headers\":{\"a\":\"b\",\"\\u0061\":\"c\"}"), 400, "bad_headers"),
        (raw("1,\"headers\":{\"a\":\"\\ud800\"}"), 400, "bad_headers"),
        (raw("1,\"headers\":{},\"headers\":{}"), 400, "bad_event"),
        (raw(&format!("1,\"headers\":{{\"a\":\"{}\"}}", "\\u0000".repeat(64 << 10))), 413, "too_large"),
        (raw(&deep), 400, "bad_data"),
        (raw(&deep_objects), 400, "bad_data"),
        (raw(&abyss), 400, ""),
        (raw("\"\\ud800\""), 400, "bad_data"),
        (raw("\"\\udc00\\ud800\""), 400, "bad_data"),
        (raw("{\"\\ud83d\":1}"), 400, "bad_data"),
        (raw(&format!("\"{}\"", "x".repeat(256 << 10))), 413, "too_large"),
    ];
    for text in ["", ".", "a..b", ".a", "a.", "a b", "a\u{0}", "a\r", "*", "a.*", ">", "a.>", "a*", &"x".repeat(256)] {
        events.push((event("topic", json!(text)), 400, "bad_topic"));
    }
    for (body, status, code) in &events {
        let shown: String = body.chars().take(120).collect();
        for kind in ["application/json", "text/plain"] {
            let mut answer = Request::post("/v1/events", kind, body.as_str()).send(server.address()).await;
            let (found, told) = answer.error().await;
            assert!(found == *status && (code.is_empty() || told == *code), "{shown}: {found} {told}");
        }
        // In an array a bad event rejects the whole batch; among lines it rejects only its own.
        let array = format!("[{},{body}]", json!({ "topic": topic, "data": "with it" }));
        let mut answer = Request::post("/v1/events", "application/json", array).send(server.address()).await;
        assert_eq!(answer.error().await.0, *status, "in an array: {shown}");
    }
    let single = |kind: &str, body: &str| Request::post("/v1/events", kind, body.as_bytes());
    let good = raw("1");
    let array = format!("[{}]", vec![good.as_str(); 1001].join(","));
    let heavy = format!("[{}]", vec![raw(&format!("\"{}\"", "x".repeat(200 << 10))); 22].join(","));
    let other = |kind: &str| single(kind, &good);
    let topics = |path: &str, kind: &str, body: &[u8]| Request::post(format!("/v1/topics/{path}"), kind, body);
    let key = |key: String, body: &str| single("application/json", body).header("Idempotency-Key", key);
    let cases: Vec<(&str, Request, u16, &str)> = vec![
        ("an empty array", single("application/json", "[]"), 400, "empty_batch"),
        ("a broken array", single("application/json", "[1,"), 400, "bad_json"),
        ("a long array", single("application/json", &array), 413, "too_large"),
        ("a heavy array", single("application/json", &heavy), 413, "too_large"),
        ("an empty body", single("application/json", ""), 400, "bad_json"),
        (
            "not UTF-8",
            Request::post("/v1/events", "application/json", &b"{\"topic\":\"a\",\"data\":\"\xff\"}"[..]),
            400,
            "bad_utf8",
        ),
        ("HTML", other("text/html"), 415, "unsupported_media_type"),
        ("XML", other("application/xml"), 415, "unsupported_media_type"),
        ("multipart", other("multipart/form-data; boundary=x"), 415, "unsupported_media_type"),
        ("another charset", other("application/json; charset=iso-8859-1"), 415, "unsupported_media_type"),
        ("compressed", other("application/json").header("Content-Encoding", "gzip"), 415, "unsupported_media_type"),
        ("a form without a topic", single("application/x-www-form-urlencoded", "data=1"), 400, "bad_topic"),
        ("a form without data", single("application/x-www-form-urlencoded", "topic=a"), 400, "bad_data"),
        (
            "a form with two topics",
            single("application/x-www-form-urlencoded", "topic=a&topic=b&data=1"),
            400,
            "bad_parameter",
        ),
        (
            "a form that deletes data",
            single("application/x-www-form-urlencoded", "topic=a&data=&deleted=1"),
            400,
            "bad_data",
        ),
        (
            "a form with a word",
            single("application/x-www-form-urlencoded", "topic=a&deleted=true"),
            400,
            "bad_parameter",
        ),
        (
            "a form with headers that are no JSON",
            single("application/x-www-form-urlencoded", "topic=a&data=1&headers=a%3Db"),
            400,
            "bad_headers",
        ),
        ("a deletion with a body", topics("a?deleted=1", "text/plain", b"x"), 400, "bad_data"),
        ("a deletion by another word", topics("a?deleted=yes", "text/plain", b""), 400, "bad_parameter"),
        ("a deletion, twice", topics("a?deleted=1&deleted=1", "text/plain", b""), 400, "bad_parameter"),
        ("a form that is not UTF-8", single("application/x-www-form-urlencoded", "topic=a&data=%ff"), 400, "bad_utf8"),
        ("a form with a wildcard", single("application/x-www-form-urlencoded", "topic=a.*&data=1"), 400, "bad_topic"),
        (
            "a form with a $ name",
            single("application/x-www-form-urlencoded", "topic=a&data=1&event=%24x"),
            400,
            "bad_event",
        ),
        (
            "a long form",
            single("application/x-www-form-urlencoded", &format!("topic=a&data={}", "x".repeat(300 << 10))),
            413,
            "too_large",
        ),
        ("a long key", key("x".repeat(129), &good), 400, "bad_id"),
        ("a key for many", key("x".into(), &format!("[{good}]")), 400, "bad_id"),
        ("a topic with empty tokens", topics("a..b", "text/plain", b"x"), 400, "bad_topic"),
        ("a topic with a wildcard", topics("a.*", "text/plain", b"x"), 400, "bad_topic"),
        ("a topic that is not UTF-8", topics("a%ff", "text/plain", b"x"), 400, "bad_utf8"),
        ("a topic with a NUL", topics("a%00", "text/plain", b"x"), 400, "bad_topic"),
        ("a long topic", topics(&"x".repeat(256), "text/plain", b"x"), 400, "bad_topic"),
        ("no topic", topics("", "text/plain", b"x"), 400, "bad_topic"),
        ("a $ name", topics("a?event=%24x", "text/plain", b"x"), 400, "bad_event"),
        ("JSON that is none", topics("a", "application/json", b"{"), 400, "bad_json"),
        ("JSON that is deep", topics("a", "application/json", deep.as_bytes()), 400, "bad_data"),
        ("JSON that is deep, unsaid", topics("a", "", deep.as_bytes()), 400, "bad_data"),
        ("no JSON", topics("a", "application/json", b""), 400, "bad_json"),
        ("text that is not UTF-8", topics("a", "text/plain", b"\xff"), 400, "bad_utf8"),
        ("text in another charset", topics("a", "text/plain; charset=latin1", b"x"), 415, "unsupported_media_type"),
        ("a long body", topics("a", "text/plain", &vec![b'x'; 257 << 10]), 413, "too_large"),
    ];
    for (name, request, status, code) in cases {
        assert_eq!(request.send(server.address()).await.error().await, (status, code.to_owned()), "{name}");
    }
    // An event of the maximum size.
    let long = raw(&format!("\"{}\"", "x".repeat((256 << 10) - raw("\"\"").len())));
    assert_eq!(long.len(), 256 << 10);
    single("application/json", &long).send(server.address()).await.created().await;
    // A subscriber to everything has received only the accepted events of this topic.
    let received = loop {
        let item = bystander.event().await;
        if item.topic.as_deref() == Some(topic.as_str()) {
            break item;
        }
        assert_ne!(item.topic.as_deref(), Some("a"), "{item:?}");
    };
    assert_eq!(received.data.map(|data| data.len()), Some((256 << 10) - raw("").len()));
}

/// A body without `Content-Length` is counted while it arrives.
#[tokio::test]
async fn chunked_bodies_have_limits() {
    let server = shared();
    for (path, kind) in [("/v1/events", "application/json"), ("/v1/topics/a", "text/plain"), ("/v1/ack", "text/plain")]
    {
        let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n",
            server.address()
        );
        stream.write_all(head.as_bytes()).await.expect("sent");
        let (read, mut write) = stream.into_split();
        let sending = tokio::spawn(async move {
            let chunk = [format!("{:x}\r\n", 64 << 10).into_bytes(), vec![b' '; 64 << 10], b"\r\n".to_vec()].concat();
            // Until the server closes the connection, but not for ever.
            for _ in 0..1000 {
                if write.write_all(&chunk).await.is_err() {
                    break;
                }
            }
            write
        });
        let mut answer = Vec::new();
        let mut read = read;
        within("a refusal", async {
            while crate::support::http::find(&answer, b"too_large").is_none() {
                assert!(
                    read.read_buf(&mut answer).await.expect("bytes") > 0,
                    "{path}: {}",
                    String::from_utf8_lossy(&answer)
                );
            }
        })
        .await;
        assert!(answer.starts_with(b"HTTP/1.1 413 "), "{path}");
        sending.abort();
    }
}

/// A request that is never completed times out.
#[tokio::test]
async fn requests_that_never_end() {
    let server =
        Server::start(&["--workers", "1", "--header-timeout", "1s", "--body-timeout", "300ms", "--store", "memory"]);
    let host = format!("Host: {}\r\n", server.address());
    let json = "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{\"topic\":";
    let lines =
        "Content-Type: application/x-ndjson\r\nContent-Length: 100\r\n\r\n{\"topic\":\"slow\",\"data\":1}\n{\"to";
    for (name, text, code) in [
        ("a head", format!("GET /v1/poll?topic=a HTTP/1.1\r\n{host}X-Slow: "), None),
        ("a body", format!("POST /v1/events HTTP/1.1\r\n{host}{json}"), Some("timeout")),
        ("a body on a topic", format!("POST /v1/topics/a HTTP/1.1\r\n{host}{json}"), Some("timeout")),
        ("an acknowledgement", format!("POST /v1/ack HTTP/1.1\r\n{host}{json}"), Some("timeout")),
        ("lines", format!("POST /v1/events HTTP/1.1\r\n{host}{lines}"), Some("timeout")),
    ] {
        let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
        stream.write_all(text.as_bytes()).await.expect("sent");
        let Some(code) = code else {
            let mut answer = Vec::new();
            within(name, stream.read_to_end(&mut answer)).await.expect("the server closes the connection");
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408 "), "{name}");
            continue;
        };
        let mut answer = within(name, Response::read(stream, false)).await.expect("an answer");
        assert_eq!(answer.status, 408, "{name}");
        let text = answer.text().await;
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}: {text}"));
        assert_eq!(error_code(&body), code, "{name}");
        if name == "lines" {
            assert_eq!(body["accepted"], 1, "the lines that had arrived are stored and reported");
        }
    }
    let mut subscriber = Subscriber::at(server.address(), Kind::Poll, Query::topic(">"), "earliest");
    assert_eq!(subscriber.event().await.topic.as_deref(), Some("slow"));
}

/// Bytes that are not HTTP do not disturb other clients.
#[tokio::test]
async fn not_http() {
    let server = shared();
    let topic = topic("garbage");
    let mut bystander = Subscriber::start(server.address(), Kind::Stream, Query::topic(&topic)).await;
    let long = format!("GET /v1/poll?topic={} HTTP/1.1\r\n\r\n", "x".repeat(1 << 20));
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"HELLO\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /v1/poll?topic=\xff HTTP/1.1\r\nHost: a\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: x\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        long.as_bytes(),
    ] {
        let mut stream = TcpStream::connect(server.address()).await.expect("a connection");
        // The server may close the connection before it has read everything.
        let _ = stream.write_all(bytes).await;
        let mut answer = [0; 12];
        if within("an answer", stream.read_exact(&mut answer)).await.is_ok() {
            let is_refused = answer.starts_with(b"HTTP/1.1 4") || answer.ends_with(b"505");
            assert!(is_refused, "{:?}: {:?}", bytes.get(..40), String::from_utf8_lossy(&answer));
        }
    }
    publish(&server, &topic, "undisturbed").await;
    assert_eq!(bystander.values(1).await, ["undisturbed"]);
}

/// The longest query that the protocol allows is accepted on every transport.
#[tokio::test]
async fn the_longest_subscription_is_legal() {
    let server = shared();
    let root = topic("longest");
    let long = |n: usize| {
        let head = format!("{root}.{n:02}.");
        let left = 255 - head.len();
        format!("{head}{}{}", "x".repeat(left % 2), "é".repeat(left / 2))
    };
    let patterns: Vec<String> = (0..64).map(long).collect();
    assert!(patterns.iter().all(|pattern| pattern.len() == 255));
    for kind in Kind::ALL {
        let mut subscriber = Subscriber::start(server.address(), kind, Query::topics(&patterns)).await;
        publish(&server, &patterns[63], kind.to_string()).await;
        assert_eq!(subscriber.values(1).await, [kind.to_string()]);
    }
}
