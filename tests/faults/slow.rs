//! Slow readers, a few bytes at a time: partial writes are continued later, complete and in order, with heartbeats and replies in
//! between; and the streams end in time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::support::Server;
use crate::support::http::{Connection, narrow_socket};
use crate::support::jwt::Signer;
use crate::support::raw::{self, Items, masked};

/// The minimum that the kernel buffers for a slow reader.
const RECEIVE_BYTES: u32 = 4096;

/// The maximum of bytes of one read.
const READ_BYTES: usize = 64;

/// A socket that is read a few bytes at a time.
struct Trickle {
    stream: TcpStream,
    rng: StdRng,
}

impl AsyncRead for Trickle {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut bytes = [0; READ_BYTES];
        let most = self.rng.random_range(1..=READ_BYTES).min(buf.remaining());
        let mut few = ReadBuf::new(&mut bytes[..most]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut few))?;
        buf.put_slice(few.filled());
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Trickle {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Publishes one event after the other, so that each finds the streams idle (direct writes).
struct Publisher {
    connection: Connection,
    path: String,
    /// The number of published events.
    published: u64,
}

impl Publisher {
    async fn new(address: &str, query: &str) -> Self {
        let connection = Connection::open(address).await.expect("connected");
        Self { connection, path: format!("/v1/events{query}"), published: 0 }
    }

    async fn publish(&mut self, bytes: usize) {
        let event = json!({ "topic": "a", "data": [self.published, "x".repeat(bytes)] });
        self.connection.post(&self.path, "application/json", event.to_string().as_bytes()).await.expect("sent");
        let answer = super::within("an answer", self.connection.answer()).await.expect("an answer");
        assert_eq!(answer.status(), 201, "{}", answer.text());
        self.published += 1;
    }
}

/// Reads a stream, and checks every item.
struct Reader {
    items: Option<Items>,
    transport: &'static str,
    cursor: String,
    events: u64,
    replies: u64,
    last: String,
}

impl Reader {
    async fn new(address: &str, transport: &'static str, rng: &mut StdRng) -> Self {
        let stream = narrow_socket(address, Some(RECEIVE_BYTES)).await.expect("connected");
        let connection = Connection::on(Trickle { stream, rng: StdRng::seed_from_u64(rng.random()) });
        let items = Items::over(connection, transport, "topic=a&cursor=earliest").await.expect("open");
        Self { items: Some(items), transport, cursor: String::new(), events: 0, replies: 0, last: String::new() }
    }

    /// Sends a ping and a command, which get a pong frame and a `$reply`.
    async fn send(&mut self, reference: u64) {
        let connection = &mut self.items.as_mut().expect("open").connection;
        connection.send(masked(0x89, b"still here")).await.expect("sent");
        let ping = json!({ "type": "ping", "ref": reference }).to_string();
        connection.send(masked(0x81, ping.as_bytes())).await.expect("sent");
    }

    /// Reads up to a number of events and replies.
    async fn read(&mut self, events: u64, replies: u64) {
        while self.events < events || self.replies < replies {
            let items = self.items.as_mut().expect("open");
            let next = super::within("an item", items.next()).await;
            match next.unwrap_or_else(|error| panic!("{} after {} events: {error}", self.transport, self.events)) {
                Some(item) => self.take(&item),
                None => self.come_back().await,
            }
        }
    }

    fn take(&mut self, item: &Value) {
        item["event"].as_str().expect("a name").clone_into(&mut self.last);
        match self.last.as_str() {
            "message" => {
                assert_eq!(item["data"][0], self.events, "the next event");
                self.events += 1;
            }
            "$reply" => {
                assert_eq!(item["data"]["ref"], self.replies, "the next reply: {item}");
                self.replies += 1;
                return;
            }
            "$bye" => assert_eq!(item["data"]["reason"], "recycle", "{item}"),
            other => assert!(matches!(other, "$hello" | "$live" | "$beat"), "{item}"),
        }
        item["cursor"].as_str().expect("a cursor").clone_into(&mut self.cursor);
    }

    /// An iframe document ends at its byte budget; then the next is requested, on the same connection.
    async fn come_back(&mut self) {
        assert_eq!((self.transport, self.last.as_str()), ("iframe", "$bye"), "after {} events", self.events);
        let connection = self.items.take().expect("open").connection;
        let query = format!("topic=a&cursor={}", self.cursor);
        self.items = Some(Items::over(connection, self.transport, &query).await.expect("open"));
    }
}

/// The reader alternates between stalling under load and reading live; a WebSocket also requests replies.
async fn gets_every_byte(transport: &'static str) {
    let mut rng = super::seeded(transport);
    let server = Server::start(&["--store", "memory", "--workers", "1", "--heartbeat", "1s"]);
    let mut reader = Reader::new(server.address(), transport, &mut rng).await;
    let mut publisher = Publisher::new(server.address(), "").await;
    let mut requested = 0;
    for round in 0..16 {
        let sizes: Vec<usize> = (0..rng.random_range(50..300)).map(|_| rng.random_range(0..3000)).collect();
        let goal = publisher.published + sizes.len() as u64;
        if round % 2 == 0 {
            for size in sizes {
                publisher.publish(size).await;
                if transport == "ws" {
                    reader.send(requested).await;
                    requested += 1;
                }
            }
            reader.read(goal, requested).await;
        } else {
            let publishing = async {
                for size in sizes {
                    publisher.publish(size).await;
                }
            };
            tokio::join!(publishing, reader.read(goal, requested));
        }
    }
    // Once the stream is idle again, it gets heartbeats.
    if reader.last != "$bye" {
        reader.items.as_mut().expect("open").named("$beat").await;
    }
}

#[tokio::test]
async fn sse_gets_every_byte() {
    gets_every_byte("sse").await;
}

#[tokio::test]
async fn stream_gets_every_byte() {
    gets_every_byte("stream").await;
}

#[tokio::test]
async fn iframe_gets_every_byte() {
    gets_every_byte("iframe").await;
}

#[tokio::test]
async fn ws_gets_every_byte() {
    gets_every_byte("ws").await;
}

/// The streams without a byte budget.
const ENDLESS: [&str; 3] = ["sse", "stream", "ws"];

/// Unread streams, each with an event partially written to its socket.
struct Stalled {
    streams: Vec<(&'static str, uuid::Uuid, Connection)>,
    address: String,
    query: String,
}

impl Stalled {
    async fn new(address: &str, transports: &[&'static str], token: &str) -> Self {
        let mut streams = Vec::new();
        for transport in transports {
            let client = uuid::Uuid::new_v4();
            let mut connection = Connection::narrow(address, Some(RECEIVE_BYTES)).await.expect("connected");
            let query = format!("topic=a&cursor=earliest&client={client}&token={token}");
            Items::request(&mut connection, transport, &query).await.expect("sent");
            streams.push((*transport, client, connection));
        }
        Self { streams, address: address.to_owned(), query: String::new() }
    }

    /// Observes and publishes with this token.
    fn looked_at_with(mut self, token: &str) -> Self {
        self.query = format!("?token={token}");
        self
    }

    async fn client(&self, client: uuid::Uuid) -> Option<Value> {
        let path = format!("/v1/clients/{client}{}", self.query);
        let answer = raw::get(&self.address, &path).await.expect("an answer");
        (answer.status() == 200).then(|| answer.json())
    }

    async fn is_gone(&self, client: uuid::Uuid) -> bool {
        self.client(client).await.is_none_or(|state| state["transports"].as_array().is_some_and(Vec::is_empty))
    }

    /// Publishes until all streams are blocked, or have ended already.
    async fn fill(&mut self) {
        const LAG_EVENTS: u64 = 3;
        let clients: Vec<uuid::Uuid> = self.streams.iter().map(|(_, client, _)| *client).collect();
        for client in &clients {
            super::until("the client is connected", async || self.client(*client).await.is_some()).await;
        }
        let mut publisher = Publisher::new(&self.address, &self.query).await;
        for client in clients {
            loop {
                let state = self.client(client).await.expect("the client is known");
                let gone = state["transports"].as_array().is_some_and(Vec::is_empty);
                if gone || state["lag"]["events"].as_u64() >= Some(LAG_EVENTS) {
                    break;
                }
                assert!(publisher.published < 10_000, "the stream is never blocked: {state}");
                publisher.publish(3000).await;
            }
        }
    }

    /// Reads the rest: all events from the first on, without a hole, then the reason of the end.
    async fn check_ends(self, reason: &str, close_code: u16) {
        for (transport, _, mut connection) in self.streams {
            let head = super::within("a head", connection.head()).await.expect("a head");
            let mut items = Items::after(connection, transport, &head).expect("a stream");
            let mut events = 0_u64;
            let bye = loop {
                let item = items.news().await;
                if item["event"] == "$bye" {
                    break item;
                }
                assert_eq!(item["data"][0], events, "{transport}");
                events += 1;
            };
            assert_eq!(bye["data"]["reason"], reason, "{transport}");
            assert!(events > 10, "{transport}: {events} events");
            let end = super::within("the end", items.next()).await;
            assert!(matches!(end, Ok(None)), "{transport} ends properly: {end:?}");
            assert_eq!(items.close_code, (transport == "ws").then_some(close_code));
            assert!(items.connection.buffer.is_empty(), "{transport}: no bytes follow the end");
        }
    }

    async fn until_gone(&self) {
        for (transport, client, _) in &self.streams {
            super::until(&format!("the {transport} ends"), async || self.is_gone(*client).await).await;
        }
    }
}

#[tokio::test]
async fn a_kick_ends_a_stalled_reader() {
    let server = Server::start(&["--store", "memory", "--heartbeat", "1h", "--stall-timeout", "1h"]);
    let mut stalled = Stalled::new(server.address(), &ENDLESS, "").await;
    stalled.fill().await;
    for (_, client, _) in &stalled.streams {
        let mut connection = Connection::open(server.address()).await.expect("connected");
        let request = format!("DELETE /v1/clients/{client} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        connection.send(request).await.expect("sent");
        assert!(super::within("an answer", connection.answer()).await.expect("an answer").status() < 300);
    }
    stalled.until_gone().await;
    stalled.check_ends("kicked", 1008).await;
}

#[tokio::test]
async fn a_new_connection_replaces_a_stalled_reader() {
    let server = Server::start(&["--store", "memory", "--heartbeat", "1h", "--stall-timeout", "1h"]);
    let mut stalled = Stalled::new(server.address(), &ENDLESS, "").await;
    stalled.fill().await;
    for (transport, client, _) in &stalled.streams {
        let mut items =
            Items::open(server.address(), transport, &format!("topic=a&client={client}")).await.expect("open");
        items.named("$hello").await;
        drop(items);
    }
    stalled.until_gone().await;
    stalled.check_ends("replaced", 1008).await;
}

#[tokio::test]
async fn age_ends_a_stalled_reader() {
    let server =
        Server::start(&["--store", "memory", "--heartbeat", "1h", "--stall-timeout", "1h", "--max-stream-age", "3s"]);
    let mut stalled = Stalled::new(server.address(), &ENDLESS, "").await;
    stalled.fill().await;
    stalled.until_gone().await;
    stalled.check_ends("recycle", 1001).await;
}

#[tokio::test]
async fn the_end_of_its_token_ends_a_stalled_reader() {
    const SECRET: &str = "a secret of enough random bytes, 32+";
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&file, SECRET).expect("a secret");
    let path = file.path().to_str().expect("a path");
    let server =
        Server::start(&["--store", "memory", "--heartbeat", "1h", "--stall-timeout", "1h", "--jwt-secret-file", path]);
    let now_s = SystemTime::UNIX_EPOCH.elapsed().expect("a time after 1970").as_secs();
    let signer = Signer::secret(SECRET);
    let brief = signer.sign(&json!({ "subscribe": ["a"], "exp": now_s + 4 }));
    let root = signer.sign(&json!({ "subscribe": [">"], "publish": [">"], "admin": true, "exp": now_s + 600 }));
    let mut stalled = Stalled::new(server.address(), &ENDLESS, &brief).await.looked_at_with(&root);
    stalled.fill().await;
    stalled.until_gone().await;
    stalled.check_ends("expired", 1008).await;
}

#[tokio::test]
async fn a_drain_ends_a_reader_that_resumes_late() {
    let mut server = Server::start(&["--store", "memory", "--heartbeat", "1h", "--drain", "20s"]);
    let mut stalled = Stalled::new(server.address(), &ENDLESS, "").await;
    stalled.fill().await;
    server.signal(Signal::SIGTERM);
    stalled.check_ends("shutdown", 1001).await;
    assert_eq!(super::end_of(&mut server).await.code(), Some(0));
}

/// A WebSocket whose pings could not be sent is slow, not silent.
#[tokio::test]
async fn a_slow_reader_is_not_silent() {
    let server = Server::start(&["--store", "memory", "--workers", "1", "--heartbeat", "2s", "--stall-timeout", "1h"]);
    let mut idle = Items::open(server.address(), "sse", "topic=quiet").await.expect("open");
    idle.named("$hello").await;
    let mut stalled = Stalled::new(server.address(), &["ws"], "").await;
    stalled.fill().await;
    for _ in 0..3 {
        idle.named("$beat").await;
    }
    let (transport, client, mut connection) = stalled.streams.remove(0);
    let head = super::within("a head", connection.head()).await.expect("a head");
    let mut items = Items::after(connection, transport, &head).expect("a stream");
    let mut publisher = Publisher::new(server.address(), "").await;
    publisher.published = 1_000_000;
    publisher.publish(1).await;
    let mut events = 0_u64;
    loop {
        let item = items.news().await;
        if item["data"][0] == 1_000_000 {
            break;
        }
        assert_eq!(item["data"][0], events, "{item}");
        events += 1;
    }
    assert!(!stalled.is_gone(client).await);
}

/// Unsent responses precede a stream that was pipelined behind them.
#[tokio::test]
async fn a_stream_waits_for_the_answers_before_it() {
    let server = Server::start(&["--store", "memory", "--workers", "1", "--heartbeat", "1h"]);
    let mut publisher = Publisher::new(server.address(), "").await;
    for _ in 0..80 {
        publisher.publish(3000).await;
    }
    for transport in ["sse", "stream", "iframe"] {
        let mut connection = Connection::narrow(server.address(), Some(RECEIVE_BYTES)).await.expect("connected");
        let first = publisher.published;
        let poll = "GET /v1/poll?topic=a&cursor=earliest&limit=80 HTTP/1.1\r\nHost: localhost\r\n\r\n";
        let stream = format!("GET /v1/{transport}?topic=a HTTP/1.1\r\nHost: localhost\r\n\r\n");
        connection.send(format!("{poll}{poll}{stream}")).await.expect("sent");
        for _ in 0..2 {
            let answer = super::within("an answer", connection.answer()).await.expect("an answer");
            assert_eq!(answer.json()["events"].as_array().map(Vec::len), Some(80));
            publisher.publish(10).await;
        }
        let head = super::within("a head", connection.head()).await.expect("a head");
        let mut items = Items::after(connection, transport, &head).expect("a stream");
        let hello = items.item().await;
        assert_eq!(hello["event"], "$hello", "`$hello` is the first item");
        let mut next = raw::position(&hello["cursor"]);
        assert!(next >= first);
        for _ in 0..20 {
            publisher.publish(10).await;
        }
        while next < publisher.published {
            let item = items.news().await;
            assert_eq!((raw::position(&item["cursor"]), &item["data"][0]), (next + 1, &json!(next)));
            next += 1;
        }
    }
}

/// HTTP/1.0 has no chunked bodies; and some proxies add WebSocket upgrade headers to every request, for which actix omits the
/// chunks.
#[tokio::test]
async fn a_close_delimited_body_is_never_chunked() {
    let server = Server::start(&["--store", "memory", "--workers", "1", "--heartbeat", "1h"]);
    let mut publisher = Publisher::new(server.address(), "").await;
    let headers =
        ["HTTP/1.0\r\nHost: localhost", "HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket"];
    for (transport, headers) in ["sse", "stream", "iframe"].into_iter().flat_map(|one| headers.map(|head| (one, head)))
    {
        let mut connection = Connection::open(server.address()).await.expect("connected");
        connection.send(format!("GET /v1/{transport}?topic=a {headers}\r\n\r\n")).await.expect("sent");
        let head = super::within("a head", connection.head()).await.expect("a head");
        assert!(!head.is_chunked(), "{head:?}");
        let mut items = Items::after(connection, transport, &head).expect("a stream");
        items.named("$hello").await;
        for _ in 0..20 {
            let number = publisher.published;
            publisher.publish(10).await;
            assert_eq!(items.news().await["data"][0], number);
        }
    }
}
