//! Cheap load clients: they write prepared requests, and count deliveries.

use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::{JoinHandle, LocalSet};

/// A byte that is in every event's data once, and nowhere else.
const MARK: u8 = b'~';

/// A publisher with a connection of its own.
pub(crate) struct Publisher {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Publisher {
    pub(crate) async fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).await.expect("the node is there");
        stream.set_nodelay(true).expect("a socket");
        Self { stream, buffer: Vec::with_capacity(1024) }
    }

    /// Publishes 200 bytes, and awaits the acknowledgement.
    pub(crate) async fn publish(&mut self, topic: &str) {
        let data = format!("\"{}{}\"", char::from(MARK), "x".repeat(197));
        let length = data.len();
        let request = format!(
            "POST /v1/topics/{topic} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{data}"
        );
        self.stream.write_all(request.as_bytes()).await.expect("the node takes it");
        self.buffer.clear();
        // The response's body is one JSON object without nested ones, so its end is the first `}`.
        while !self.buffer.ends_with(b"}") {
            let read = self.stream.read_buf(&mut self.buffer).await.expect("an answer");
            assert!(read > 0, "the node closed the connection");
        }
        assert!(self.buffer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&self.buffer));
    }
}

/// Publishes with so many publishers for a time; returns the number of acknowledged events.
pub(crate) async fn publish_for(time: Duration, addresses: &[&str], publishers: usize) -> usize {
    let published = Rc::new(Cell::new(0));
    let local = LocalSet::new();
    let end = Instant::now() + time;
    for (number, address) in (0..publishers).zip(addresses.iter().cycle()) {
        let (address, published) = ((*address).to_owned(), published.clone());
        local.spawn_local(async move {
            let mut publisher = Publisher::connect(&address).await;
            let topic = format!("rate.{number}");
            while Instant::now() < end {
                publisher.publish(&topic).await;
                published.set(published.get() + 1);
            }
        });
    }
    local.await;
    published.get()
}

/// Subscribers that count deliveries, spread over the nodes.
pub(crate) struct Subscribers {
    count: usize,
    received: std::sync::Arc<Received>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Received {
    marks: std::sync::atomic::AtomicUsize,
    more: Notify,
}

impl Subscribers {
    /// Connects all subscribers; returns once each has its `$hello`, or, for long polls, after a time for the nodes to read them.
    pub(crate) async fn connect(addresses: &[&str], count: usize, transport: &str, query: &str) -> Self {
        let received = std::sync::Arc::new(Received::default());
        let mut tasks = Vec::with_capacity(count);
        for (_, address) in (0..count).zip(addresses.iter().cycle()) {
            let mut stream = TcpStream::connect(address).await.expect("the node is there");
            stream.set_nodelay(true).expect("a socket");
            let upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
            let upgrade = if transport == "ws" { upgrade } else { "" };
            let request = format!("GET /v1/{transport}?{query} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n");
            stream.write_all(request.as_bytes()).await.expect("the node takes it");
            if transport != "longpoll" {
                let mut greeting = Vec::new();
                while !greeting.windows(6).any(|window| window == b"$hello") {
                    assert!(stream.read_buf(&mut greeting).await.expect("a greeting") > 0, "the stream ended");
                }
                count_marks(&greeting, &received);
            }
            let received = received.clone();
            tasks.push(tokio::spawn(async move {
                let mut buffer = Vec::with_capacity(16 << 10);
                while stream.read_buf(&mut buffer).await.is_ok_and(|read| read > 0) {
                    count_marks(&buffer, &received);
                    buffer.clear();
                }
            }));
        }
        Self { count, received, tasks }
    }

    /// Waits until each subscriber has received so many events.
    pub(crate) async fn received(&self, events: usize) {
        let all = events * self.count;
        let all_received = async {
            while self.received.marks.load(std::sync::atomic::Ordering::Relaxed) < all {
                self.received.more.notified().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), all_received).await.expect("everything is delivered");
    }
}

impl Drop for Subscribers {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

fn count_marks(bytes: &[u8], received: &Received) {
    let marks = bytes.iter().filter(|byte| **byte == MARK).count();
    received.marks.fetch_add(marks, std::sync::atomic::Ordering::Relaxed);
    received.more.notify_one();
}
