//! HTTP/2: every transport but WebSocket, many streams on one connection, and streams that end early or stall.

use std::collections::HashSet;
use std::net::Ipv4Addr;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::{HeaderMap, Request, StatusCode};
use serde_json::{Value, json};

use super::certificates::{self, Certificate};
use crate::support::Server;

/// A connection, driven by a task of its own until it is dropped.
pub(crate) struct Connection {
    pub(crate) requests: SendRequest<Bytes>,
    pub(crate) driver: tokio::task::JoinHandle<Result<(), h2::Error>>,
    authority: String,
}

/// A response whose body is still arriving.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    body: RecvStream,
    text: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(certificate: &Certificate, server: &Server) -> Self {
        Self::with(certificate, server, &h2::client::Builder::new()).await
    }

    pub(crate) async fn with(certificate: &Certificate, server: &Server, builder: &h2::client::Builder) -> Self {
        let stream = certificate.connect(server.address(), "h2").await.expect("TLS");
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
        let (requests, connection) = builder.handshake(stream).await.expect("HTTP/2");
        Self { requests, driver: tokio::spawn(connection), authority: server.address().to_owned() }
    }

    /// A connection from a given loopback address.
    pub(crate) async fn from(source: Ipv4Addr, certificate: &Certificate, server: &Server) -> Self {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind((source, 0).into()).expect("bound");
        let stream = socket.connect(server.address().parse().expect("an address")).await.expect("connected");
        let stream = certificate.over(stream, "h2").await.expect("TLS");
        let (requests, connection) = h2::client::handshake(stream).await.expect("HTTP/2");
        Self { requests, driver: tokio::spawn(connection), authority: server.address().to_owned() }
    }

    /// Sends a request, without waiting for the response.
    pub(crate) async fn begin(&mut self, request: Request<()>) -> h2::client::ResponseFuture {
        let mut requests = self.requests.clone().ready().await.expect("room for a stream");
        requests.send_request(request, true).expect("sent").0
    }

    pub(crate) async fn send(&mut self, request: Request<()>, body: Option<&[u8]>) -> Result<Answer, h2::Error> {
        let mut requests = self.requests.clone().ready().await?;
        let (answer, mut stream) = requests.send_request(request, body.is_none())?;
        if let Some(body) = body {
            stream.send_data(Bytes::copy_from_slice(body), true)?;
        }
        let (head, body) = super::within("an answer", answer).await?.into_parts();
        Ok(Answer { status: head.status, headers: head.headers, body, text: Vec::new() })
    }

    pub(crate) fn request(&self, method: &str, path: &str) -> http::request::Builder {
        Request::builder().method(method).uri(format!("https://{}{path}", self.authority))
    }

    pub(crate) async fn get(&mut self, path: &str) -> Answer {
        let request = self.request("GET", path).body(()).expect("a request");
        self.send(request, None).await.unwrap_or_else(|error| panic!("{path}: {error}"))
    }

    pub(crate) async fn publish(&mut self, events: &Value) {
        let request = self.request("POST", "/v1/events").header("content-type", "application/json").body(());
        let body = events.to_string();
        let answer = self.send(request.expect("a request"), Some(body.as_bytes())).await.expect("an answer");
        assert_eq!(answer.status, 201);
    }

    /// The transports over which a client is connected.
    pub(crate) async fn transports(&mut self, client: uuid::Uuid) -> usize {
        let mut answer = self.get(&format!("/v1/clients/{client}")).await;
        let client: Value = serde_json::from_str(&answer.all().await).expect("JSON");
        client["transports"].as_array().map_or(0, Vec::len)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Answer {
    /// Reads the next bytes, and releases the flow-control window for them.
    pub(crate) fn body(&mut self) -> &mut RecvStream {
        &mut self.body
    }

    async fn more(&mut self) -> bool {
        match super::within("more", self.body.data()).await {
            Some(Ok(bytes)) => {
                let _ = self.body.flow_control().release_capacity(bytes.len());
                self.text.extend_from_slice(&bytes);
                true
            }
            Some(Err(error)) => panic!("the stream failed: {error}"),
            None => false,
        }
    }

    /// The whole body.
    pub(crate) async fn all(&mut self) -> String {
        while self.more().await {}
        String::from_utf8(std::mem::take(&mut self.text)).expect("text")
    }

    /// Reads until the body contains a text.
    pub(crate) async fn until(&mut self, what: &str) -> String {
        loop {
            let text = String::from_utf8_lossy(&self.text).into_owned();
            if text.contains(what) {
                return text;
            }
            assert!(self.more().await, "the stream ended without {what}: {text}");
        }
    }
}

#[tokio::test]
async fn every_transport_but_websocket_works() {
    let (server, certificate, _files) = certificates::server(&[]);
    let mut connection = Connection::open(&certificate, &server).await;
    connection.publish(&json!({ "topic": "a", "data": 7 })).await;
    for (path, ends) in [
        ("poll?", true),
        ("longpoll?", true),
        ("jsonp?callback=f&", true),
        ("iframe?once=1&", true),
        ("iframe?", false),
        ("sse?", false),
        ("stream?", false),
    ] {
        let mut answer = connection.get(&format!("/v1/{path}topic=a&cursor=earliest")).await;
        assert_eq!(answer.status, 200, "{path}");
        let text = if ends { answer.all().await } else { answer.until("\"data\":7").await };
        assert!(text.contains("\"data\":7"), "{path}: {text}");
        for (name, value) in [
            ("x-accel-buffering", "no"),
            ("cache-control", "no-store, no-transform"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(answer.headers.get(name).map(|value| value.as_bytes()), Some(value.as_bytes()), "{path} {name}");
        }
        assert!(answer.headers.contains_key("date"));
        for name in ["connection", "keep-alive", "transfer-encoding", "upgrade"] {
            assert!(!answer.headers.contains_key(name), "{path} sends {name}");
        }
        assert_eq!(answer.headers.contains_key("content-length"), ends, "{path}");
    }
    let mut answer = connection.get("/v1/ws?topic=a").await;
    assert_eq!(answer.status, 400);
    assert!(answer.all().await.contains("upgrade_required"));
    assert!(!answer.headers.contains_key("upgrade"));
}

#[tokio::test]
async fn requests_keep_their_meaning() {
    let (server, certificate, _files) = certificates::server(&[]);
    let mut connection = Connection::open(&certificate, &server).await;
    // A same-origin and a cross-origin page: `:authority` takes the place of `Host`.
    let own = format!("https://{}", server.address());
    // TLS is terminated by this server, so the scheme is checked.
    let plain = format!("http://{}", server.address());
    for (origin, status) in [(own.as_str(), 201), ("https://evil.example", 403), (plain.as_str(), 403)] {
        let request = connection.request("POST", "/v1/topics/a").header("origin", origin).body(());
        let answer = connection.send(request.expect("a request"), Some(b"1")).await.expect("an answer");
        assert_eq!(answer.status, status, "{origin}");
    }
    let head = connection.request("HEAD", "/v1/info").body(()).expect("a request");
    let mut answer = connection.send(head, None).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.all().await.len()), (200, 0));
    let mut answer = connection.get("/v1/poll?topic=a&cursor=nonsense").await;
    assert_eq!(answer.status, 400);
    assert!(answer.all().await.contains("bad_cursor"));
    let mut etag = connection.get("/v1/poll?topic=a&cursor=earliest").await;
    let tag = etag.headers["etag"].clone();
    let cursor = tag.to_str().expect("text").trim_matches('"').to_owned();
    etag.all().await;
    let request = connection.request("GET", &format!("/v1/poll?topic=a&cursor={cursor}")).header("if-none-match", tag);
    let mut answer = connection.send(request.body(()).expect("a request"), None).await.expect("an answer");
    assert_eq!((answer.status.as_u16(), answer.all().await.len()), (304, 0));
    // Larger than the flow-control window, which is released as the body is read.
    let text = "x".repeat(200_000);
    connection.publish(&json!({ "topic": "large", "data": text })).await;
    let mut answer = connection.get("/v1/poll?topic=large&cursor=earliest").await;
    assert!(answer.all().await.contains(&text));
}

/// More streams than the six connections of HTTP/1.1, on one connection.
#[tokio::test]
async fn many_streams_share_a_connection() {
    let (server, certificate, _files) = certificates::server(&[]);
    let mut connection = Connection::open(&certificate, &server).await;
    let mut streams = Vec::new();
    for number in 0..60 {
        let mut stream = connection.get(&format!("/v1/sse?topic=t.{number}&topic=all")).await;
        stream.until("$hello").await;
        streams.push(stream);
    }
    let own: Vec<Value> = (0..60).map(|number| json!({ "topic": format!("t.{number}"), "data": number })).collect();
    connection.publish(&json!(own)).await;
    connection.publish(&json!({ "topic": "all", "data": "end" })).await;
    for (number, stream) in streams.iter_mut().enumerate() {
        let text = stream.until("\"end\"").await;
        let data: HashSet<&str> = text.lines().filter(|line| line.starts_with("data: ")).collect();
        let received: Vec<_> = data.iter().filter(|line| line.contains("\"topic\":\"t.")).collect();
        assert!(received.len() == 1 && received[0].contains(&format!("\"data\":{number},")), "{number}: {received:?}");
    }
}

/// A disconnect is noticed without a heartbeat, which is an hour away.
#[tokio::test]
async fn an_aborted_stream_is_freed_at_once() {
    let (server, certificate, _files) = certificates::server(&["--heartbeat", "1h"]);
    let mut watching = Connection::open(&certificate, &server).await;
    for transport in ["sse", "stream", "iframe", "longpoll", "jsonp"] {
        let connection = Connection::open(&certificate, &server).await;
        let clients = [uuid::Uuid::new_v4(), uuid::Uuid::new_v4()];
        let mut streams = Vec::new();
        for client in clients {
            let path = format!("/v1/{transport}?topic=quiet&client={client}&callback=f&wait=60");
            let mut requests = connection.requests.clone().ready().await.expect("ready");
            let request = connection.request("GET", &path).body(()).expect("a request");
            streams.push(requests.send_request(request, true).expect("sent"));
            super::until("the client is connected", async || watching.transports(client).await == 1).await;
        }
        let (_answer, mut stream) = streams.remove(0);
        stream.send_reset(Reason::CANCEL);
        super::until("the reset stream is removed", async || watching.transports(clients[0]).await == 0).await;
        assert_eq!(watching.transports(clients[1]).await, 1, "the connection's other stream stays open");
        connection.driver.abort();
        super::until("the streams of the connection are removed", async || watching.transports(clients[1]).await == 0)
            .await;
    }
}

/// A stalled stream is reset; the other streams of its connection continue.
#[tokio::test]
async fn a_stalled_stream_ends_alone() {
    let flags = ["--stall-timeout", "2s", "--heartbeat", "500ms"];
    let (server, certificate, _files) = certificates::server(&flags);
    let mut watching = Connection::open(&certificate, &server).await;
    let mut builder = h2::client::Builder::new();
    let connection = builder.initial_window_size(16 << 10).initial_connection_window_size(8 << 20);
    let mut connection = Connection::with(&certificate, &server, connection).await;
    let client = uuid::Uuid::new_v4();
    // The stream's flow-control window is never released.
    let stalled = connection.get(&format!("/v1/sse?topic=a&client={client}")).await;
    let mut healthy = connection.get("/v1/sse?topic=a&topic=end").await;
    healthy.until("$hello").await;
    let healthy = tokio::spawn(async move { healthy.until("the end").await });
    let text = "x".repeat(1000);
    for _ in 0..40 {
        let events: Vec<Value> = (0..50).map(|number| json!({ "topic": "a", "data": [number, text] })).collect();
        watching.publish(&json!(events)).await;
    }
    super::until("the stalled stream is reset", async || watching.transports(client).await == 0).await;
    watching.publish(&json!({ "topic": "end", "data": "the end" })).await;
    let received = super::within("the healthy stream", healthy).await.expect("the healthy stream receives everything");
    assert_eq!(received.matches("\"topic\":\"a\"").count(), 2000, "no event is missing");
    let mut stalled = stalled.body;
    let ended = async {
        while let Some(data) = stalled.data().await {
            if let Err(error) = data {
                return error.reason();
            }
        }
        None
    };
    assert_eq!(super::within("its end", ended).await, Some(Reason::CANCEL));
}

/// HTTP/2 requests do not go through the `App`, and have the same routes.
#[tokio::test]
async fn every_path_is_found_as_over_http1() {
    let (server, certificate, _files) = certificates::server(&[]);
    let mut connection = Connection::open(&certificate, &server).await;
    for (path, status, media_type) in [
        ("/", 200, "text/html; charset=utf-8"),
        ("/client.js", 200, "text/javascript; charset=utf-8"),
        ("/legacy.html", 200, "text/html; charset=utf-8"),
        ("/healthz", 200, "application/json"),
        ("/readyz", 200, "application/json"),
        ("/v1/info", 200, "application/json"),
        ("/v1/%69nfo", 200, "application/json"),
        ("/v1/nothing", 404, "application/json"),
        ("/nothing.html", 404, "application/json"),
    ] {
        let answer = connection.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.headers["content-type"]),
            (status, &media_type.parse().unwrap()),
            "{path}"
        );
        assert!(answer.headers.contains_key("x-content-type-options"), "{path}");
    }
}

/// The end of a response needs no flow-control window.
#[tokio::test]
async fn an_answer_that_fills_its_window_ends() {
    let (server, certificate, _files) = certificates::server(&[]);
    let mut connection = Connection::open(&certificate, &server).await;
    let length = connection.get("/healthz").await.all().await.len();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(u32::try_from(length).expect("a short answer"));
    let mut connection = Connection::with(&certificate, &server, &builder).await;
    let mut answer = connection.get("/healthz").await;
    let reading = async {
        let mut read = 0;
        while let Some(data) = answer.body.data().await {
            read += data.expect("data").len();
        }
        read
    };
    assert_eq!(super::within("the end", reading).await, length);
}

/// The number of header fields is limited as over HTTP/1: with HPACK a field is a byte on the wire, and may be kilobytes in
/// memory.
#[tokio::test]
async fn more_fields_than_a_request_may_have_are_refused() {
    let (server, certificate, _files) = certificates::server(&[]);
    let mut connection = Connection::open(&certificate, &server).await;
    for name in ["x", "cookie"] {
        for (number, status) in [(90, 200), (97, 431), (1500, 431)] {
            let mut request = connection.request("GET", "/v1/info");
            for _ in 0..number {
                request = request.header(name, "");
            }
            let request = request.body(()).expect("a request");
            let answer = connection.send(request, None).await.expect("an answer");
            assert_eq!(answer.status, status, "{number} times {name}");
        }
    }
}

/// Some clients lose the response to an upload whose stream is reset after it.
#[tokio::test]
async fn a_refused_upload_is_read_on() {
    let (server, certificate, _files) = certificates::server(&[]);
    let connection = Connection::open(&certificate, &server).await;
    for (path, status) in [("/v1/topics/x", 413), ("/v1/nothing", 404), ("/v1/poll", 405)] {
        let request = connection.request("POST", path).header("content-type", "text/plain").body(());
        let mut requests = connection.requests.clone().ready().await.expect("ready");
        let (answer, mut upload) = requests.send_request(request.expect("a request"), false).expect("sent");
        let uploading = async {
            let mut left = Bytes::from(vec![b'x'; 1_000_000]);
            while !left.is_empty() {
                upload.reserve_capacity(left.len());
                let room = std::future::poll_fn(|cx| upload.poll_capacity(cx)).await.expect("open").expect("not reset");
                let part = left.split_to(room.min(left.len()));
                upload.send_data(part, left.is_empty()).expect("sent");
            }
        };
        let (answer, ()) = super::within("both", async { tokio::join!(answer, uploading) }).await;
        assert_eq!(answer.expect("an answer").status(), status, "{path}");
    }
}

/// A body that no handler reads is discarded while its request is held: unread, it would stay in the server's memory.
#[tokio::test]
async fn the_body_of_a_held_request_is_discarded() {
    let (server, certificate, _files) = certificates::server(&[]);
    let connection = Connection::open(&certificate, &server).await;
    for path in ["/v1/longpoll?topic=a&wait=60", "/v1/sse?topic=a"] {
        let request = connection.request("GET", path).body(()).expect("a request");
        let mut requests = connection.requests.clone().ready().await.expect("ready");
        let (_answer, mut upload) = requests.send_request(request, false).expect("sent");
        // Several times the window of a stream and of the connection.
        let mut left = Bytes::from(vec![b'x'; 2 << 20]);
        let uploading = async {
            while !left.is_empty() {
                upload.reserve_capacity(left.len());
                let room = std::future::poll_fn(|cx| upload.poll_capacity(cx)).await.expect("open").expect("not reset");
                upload.send_data(left.split_to(room.min(left.len())), false).expect("sent");
            }
        };
        super::within("the body is read", uploading).await;
    }
}

/// Streams that are answered while their bodies still arrive are held by the server: they take a share of their address.
#[tokio::test]
async fn answered_uploads_that_go_on_take_a_share() {
    // 200 KiB, and a quarter of the reserve: room for a hundred such streams.
    let flags = ["--max-memory-per-peer", "328KiB", "--max-arriving-bytes", "8MiB", "--max-event-bytes", "64KiB"];
    let (server, certificate, _files) = certificates::server(&flags);
    let from = async |last| Connection::from(Ipv4Addr::new(127, 0, 0, last), &certificate, &server).await;
    let (mut connections, mut held) = (Vec::new(), Vec::new());
    'all: loop {
        assert!(held.len() < 20 * 50, "the streams are not charged");
        let connection = from(66).await;
        for _ in 0..50 {
            let request = connection.request("POST", "/v1/nothing").body(()).expect("a request");
            let mut requests = connection.requests.clone().ready().await.expect("ready");
            let (answer, upload) = requests.send_request(request, false).expect("sent");
            match super::within("an answer", answer).await {
                Ok(answer) if answer.status() == 404 => held.push((upload, requests)),
                Ok(answer) => break 'all assert_eq!(answer.status(), 429),
                Err(error) => break 'all assert_eq!(error.reason(), Some(h2::Reason::ENHANCE_YOUR_CALM)),
            }
        }
        connections.push(connection);
    }
    assert_eq!(from(9).await.get("/v1/info").await.status, 200, "another address");
    // Streams that are over are charged no more.
    drop((held, connections));
    super::until("there is room again", async || {
        let mut connection = from(66).await;
        let request = connection.request("GET", "/v1/info").body(()).expect("a request");
        connection.send(request, None).await.is_ok_and(|answer| answer.status == 200)
    })
    .await;
}

/// A head that is too long has the error object. Beyond twice the limit it is h2 that refuses, with the status alone.
#[tokio::test]
async fn a_long_head_is_refused_with_an_error_object() {
    let (server, certificate, _files) = certificates::server(&["--max-header-bytes", "8KiB"]);
    let mut connection = Connection::open(&certificate, &server).await;
    for (bytes, has_object) in [(9 << 10, true), (15 << 10, true), (20 << 10, false)] {
        let request = connection.request("GET", "/v1/info").header("x-long", "x".repeat(bytes)).body(());
        let mut answer = connection.send(request.expect("a request"), None).await.expect("an answer");
        assert_eq!(answer.status, 431, "{bytes}");
        let text = answer.all().await;
        assert_eq!(text.contains("head_too_large"), has_object, "{bytes}: {text}");
    }
    assert_eq!(connection.get("/v1/info").await.status, 200);
}

/// A slow body gets a 408 response, and the connection stays open.
#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let (server, certificate, _files) = certificates::server(&["--body-timeout", "1s"]);
    let mut connection = Connection::open(&certificate, &server).await;
    let request = connection.request("POST", "/v1/events").header("content-type", "application/json").body(());
    let mut requests = connection.requests.clone().ready().await.expect("ready");
    let (answer, mut stream) = requests.send_request(request.expect("a request"), false).expect("sent");
    stream.send_data(Bytes::from_static(b"{"), false).expect("sent");
    assert_eq!(super::within("an answer", answer).await.expect("an answer").status(), 408);
    assert_eq!(connection.get("/v1/info").await.status, 200);
}

/// An idle connection without streams times out; a connection with a quiet stream does not.
#[tokio::test]
async fn an_idle_connection_is_closed() {
    let (server, certificate, _files) = certificates::server(&["--keep-alive", "1s", "--header-timeout", "1s"]);
    let mut streaming = Connection::open(&certificate, &server).await;
    let mut stream = streaming.get("/v1/sse?topic=a").await;
    stream.until("$hello").await;
    let mut idle = Connection::open(&certificate, &server).await;
    assert_eq!(idle.get("/v1/info").await.status, 200);
    // With GOAWAY, or with a broken pipe where this side was about to respond to it.
    let _ = super::within("the end of the idle connection", &mut idle.driver).await.expect("the driver does not panic");
    streaming.publish(&json!({ "topic": "a", "data": "still here" })).await;
    stream.until("still here").await;
}

/// At shutdown streams end with a retry delay.
#[tokio::test]
async fn a_stop_is_announced() {
    let (mut server, certificate, _files) = certificates::server(&["--drain", "1s"]);
    let mut connection = Connection::open(&certificate, &server).await;
    let mut stream = connection.get("/v1/stream?topic=a").await;
    stream.until("$hello").await;
    server.signal(nix::sys::signal::Signal::SIGTERM);
    let text = stream.all().await;
    assert!(text.contains("\"$bye\"") && text.contains("shutdown"), "{text}");
    let ended = tokio::task::spawn_blocking(move || server.wait());
    assert!(super::within("the server's end", ended).await.expect("the server ends").success());
}
