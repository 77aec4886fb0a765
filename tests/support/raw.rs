//! A byte-level test client without an HTTP library, so that a test can send invalid bytes, stop or stall at any point.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

/// The transports that stream.
pub(crate) const STREAMS: [&str; 4] = ["sse", "stream", "iframe", "ws"];

/// The pause of a slow peer between two bytes.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// The byte stream of a connection: a socket, or TLS on a socket.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection and the bytes that were read ahead.
pub(crate) struct Connection {
    stream: Box<dyn Duplex>,
    pub(crate) buffer: Vec<u8>,
}

/// The head of a response.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    pub(crate) text: String,
}

impl Head {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.text.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding").is_some_and(|value| value.contains("chunked"))
    }
}

/// A complete response.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The code of the error object that every refusal has.
    pub(crate) fn code(&self) -> String {
        let body = self.json();
        assert!(body["error"]["message"].as_str().is_some_and(|message| !message.is_empty()), "{body}");
        body["error"]["code"].as_str().expect("a code").to_owned()
    }
}

fn broken(reason: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason.into())
}

impl Connection {
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        Self::narrow(address, None).await
    }

    /// A connection, with a small kernel receive buffer if requested.
    pub(crate) async fn narrow(address: &str, receive_bytes: Option<u32>) -> io::Result<Self> {
        Ok(Self::on(narrow_socket(address, receive_bytes).await?))
    }

    /// A connection on an established stream.
    pub(crate) fn on(stream: impl Duplex + 'static) -> Self {
        Self { stream: Box::new(stream), buffer: Vec::new() }
    }

    /// A connection from a given loopback address: there are 28,000 ports an address, and limits for each address.
    pub(crate) async fn from(source: std::net::Ipv4Addr, address: &str) -> io::Result<Self> {
        let address: SocketAddr = address.parse().expect("an address");
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::on(stream))
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Sends `GET path`, without waiting for a response.
    pub(crate) async fn get(&mut self, path: &str) -> io::Result<()> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
    }

    /// Sends `POST path` with a body of a content type.
    pub(crate) async fn post(&mut self, path: &str, kind: &str, body: &[u8]) -> io::Result<()> {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        self.send([head.as_bytes(), body].concat()).await
    }

    /// Requests the upgrade to a WebSocket.
    pub(crate) async fn upgrade(&mut self, path: &str) -> io::Result<()> {
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n\r\n")).await
    }

    /// Reads the received bytes, or waits for some; returns whether the peer has closed.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? == 0)
    }

    async fn need(&mut self, bytes: usize) -> io::Result<()> {
        while self.buffer.len() < bytes {
            if self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    async fn line(&mut self) -> io::Result<String> {
        loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                let line: Vec<u8> = self.buffer.drain(..end + 2).take(end).collect();
                return String::from_utf8(line).map_err(|error| broken(error.to_string()));
            }
            self.need(self.buffer.len() + 1).await?;
        }
    }

    /// The head of a response.
    pub(crate) async fn head(&mut self) -> io::Result<Head> {
        let first = self.line().await?;
        let status = first.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.ok_or_else(|| broken(format!("no status in {first:?}")))?;
        let mut text = first;
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Ok(Head { status, text });
            }
            text.push('\n');
            text.push_str(&line);
        }
    }

    /// The next chunk, empty at the end. Cancel safe: a chunk is consumed completely or not at all.
    async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let header = loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                break end;
            }
            self.need(self.buffer.len() + 1).await?;
        };
        let size = String::from_utf8_lossy(&self.buffer[..header]);
        let size = usize::from_str_radix(size.trim(), 16).map_err(|_| broken(format!("{size:?} is no size")))?;
        let whole = header + 2 + size + 2;
        self.need(whole).await?;
        Ok(self.buffer.drain(..whole).skip(header + 2).take(size).collect())
    }

    /// The complete response, which has to end.
    pub(crate) async fn answer(&mut self) -> io::Result<Answer> {
        let head = self.head().await?;
        let mut body = Vec::new();
        if head.is_chunked() {
            loop {
                let chunk = self.chunk().await?;
                if chunk.is_empty() {
                    break;
                }
                body.extend(chunk);
            }
        } else if let Some(length) = head.header("content-length").and_then(|length| length.parse().ok()) {
            self.need(length).await?;
            body = self.buffer.drain(..length).collect();
        } else if !matches!(head.status, 204 | 304) {
            while !self.fill().await? {}
            body = std::mem::take(&mut self.buffer);
        }
        Ok(Answer { head, body })
    }

    /// Sends `bytes` now and then until the peer closes, and returns what the peer had sent before.
    pub(crate) async fn dribble(mut self, bytes: &[u8]) -> Vec<u8> {
        loop {
            let sent = self.send(bytes).await;
            match tokio::time::timeout(PAUSE, self.fill()).await {
                Err(_) => assert!(sent.is_ok(), "the peer neither responds nor reads"),
                Ok(Ok(false)) => {}
                Ok(Ok(true) | Err(_)) => return self.buffer,
            }
        }
    }

    /// Waits until the peer closes, and returns what the peer had sent before.
    pub(crate) async fn closed(&mut self) -> Vec<u8> {
        loop {
            // A reset counts as a close, too.
            if self.fill().await.unwrap_or(true) {
                return std::mem::take(&mut self.buffer);
            }
        }
    }
}

/// A socket, with a small kernel receive buffer if requested.
pub(crate) async fn narrow_socket(address: &str, receive_bytes: Option<u32>) -> io::Result<TcpStream> {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// One request on a new connection.
pub(crate) async fn get(address: &str, path: &str) -> io::Result<Answer> {
    let mut connection = Connection::open(address).await?;
    connection.get(path).await?;
    connection.answer().await
}

/// One request on a new connection.
pub(crate) async fn post(address: &str, body: &Value) -> io::Result<Answer> {
    let mut connection = Connection::open(address).await?;
    connection.post("/v1/events", "application/json", body.to_string().as_bytes()).await?;
    connection.answer().await
}

/// The batch of a poll: its cursor and its items.
pub(crate) async fn poll(address: &str, path: &str) -> io::Result<(String, Vec<Value>)> {
    let answer = get(address, path).await?;
    if answer.status() != 200 {
        return Err(broken(format!("{} {}", answer.status(), answer.text())));
    }
    let batch = answer.json();
    let cursor = batch["cursor"].as_str().ok_or_else(|| broken("a batch without a cursor"))?.to_owned();
    Ok((cursor, batch["events"].as_array().cloned().unwrap_or_default()))
}

/// All matching events, from the beginning to the end of the log.
pub(crate) async fn history(address: &str, pattern: &str) -> Vec<Value> {
    let mut cursor = "earliest".to_owned();
    let mut all = Vec::new();
    loop {
        let path = format!("/v1/poll?topic={pattern}&cursor={cursor}&limit=1000");
        let (next, events) = poll(address, &path).await.expect("the history can be read");
        if events.is_empty() && next == cursor {
            return all;
        }
        all.extend(events);
        cursor = next;
    }
}

/// The position in a cursor.
pub(crate) fn position(cursor: &Value) -> u64 {
    let text = cursor.as_str().unwrap_or_else(|| panic!("{cursor} is not a cursor"));
    let position = text.split_once('-').and_then(|(_, position)| position.parse().ok());
    position.unwrap_or_else(|| panic!("{text} is not a cursor"))
}

/// A stream of items over any of [`STREAMS`].
pub(crate) struct Items {
    pub(crate) connection: Connection,
    transport: &'static str,
    chunked: bool,
    /// The received bytes, without chunk framing.
    text: Vec<u8>,
    ready: VecDeque<Value>,
    /// The close code of the server's WebSocket close frame.
    pub(crate) close_code: Option<u16>,
    /// Whether pings are answered.
    pub(crate) pongs: bool,
}

impl Items {
    /// Subscribes; `query` is the part of the URL behind the `?`.
    pub(crate) async fn open(address: &str, transport: &'static str, query: &str) -> io::Result<Self> {
        let connection = Connection::open(address).await?;
        Self::over(connection, transport, query).await
    }

    pub(crate) async fn over(mut connection: Connection, transport: &'static str, query: &str) -> io::Result<Self> {
        Self::ask(&mut connection, transport, query).await?;
        let head = connection.head().await?;
        Self::after(connection, transport, &head)
    }

    /// Requests the stream, and reads nothing.
    pub(crate) async fn ask(connection: &mut Connection, transport: &str, query: &str) -> io::Result<()> {
        let path = format!("/v1/{transport}?{query}");
        if transport == "ws" { connection.upgrade(&path).await } else { connection.get(&path).await }
    }

    /// Continues behind the head.
    pub(crate) fn after(connection: Connection, transport: &'static str, head: &Head) -> io::Result<Self> {
        let expected = if transport == "ws" { 101 } else { 200 };
        if head.status != expected {
            return Err(broken(head.text.clone()));
        }
        Ok(Self {
            connection,
            transport,
            chunked: head.is_chunked(),
            text: Vec::new(),
            ready: VecDeque::new(),
            close_code: None,
            pongs: true,
        })
    }

    /// The next item, `None` at a proper end.
    pub(crate) async fn next(&mut self) -> io::Result<Option<Value>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            let more = if self.transport == "ws" { self.frame().await? } else { self.piece().await? };
            if !more {
                return Ok(None);
            }
        }
    }

    /// The next item; there has to be one.
    pub(crate) async fn item(&mut self) -> Value {
        let item = super::within("an item", self.next()).await;
        item.expect("the stream is not cut off").expect("the stream has not ended")
    }

    /// The next item with this name; all others are skipped.
    pub(crate) async fn named(&mut self, name: &str) -> Value {
        loop {
            let item = self.item().await;
            if item["event"] == name {
                return item;
            }
        }
    }

    /// The next item that is neither `$hello` nor `$beat` nor `$live`.
    pub(crate) async fn news(&mut self) -> Value {
        loop {
            let item = self.item().await;
            if !["$hello", "$beat", "$live"].iter().any(|name| item["event"] == *name) {
                return item;
            }
        }
    }

    /// Reads in a task of its own, so that pings are answered and the stream does not stall.
    pub(crate) fn flowing(mut self) -> Flow {
        let (sender, items) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(item)) = self.next().await {
                if sender.send(item).is_err() {
                    return;
                }
            }
        });
        Flow(items)
    }

    async fn piece(&mut self) -> io::Result<bool> {
        if self.chunked {
            let chunk = self.connection.chunk().await?;
            if chunk.is_empty() {
                return Ok(false);
            }
            self.text.extend(chunk);
        } else {
            let closed = self.connection.fill().await?;
            self.text.append(&mut self.connection.buffer);
            if closed {
                return Ok(false);
            }
        }
        let (before, after): (&[u8], &[u8]) = match self.transport {
            "sse" => (b"\ndata: ", b"\n\n"),
            "iframe" => (b">p({", b")</script>"),
            _ => (b"", b"\n"),
        };
        while let Some(start) = find(&self.text, before) {
            // The brace belongs to the item.
            let start = start + before.len() - usize::from(before.ends_with(b"{"));
            let Some(length) = find(&self.text[start..], after) else { break };
            let item = serde_json::from_slice(&self.text[start..start + length]);
            self.ready.push_back(item.map_err(|error| broken(error.to_string()))?);
            self.text.drain(..start + length + after.len());
        }
        Ok(true)
    }

    async fn frame(&mut self) -> io::Result<bool> {
        let connection = &mut self.connection;
        connection.need(2).await?;
        let (header, length) = match connection.buffer[1] {
            126 => {
                connection.need(4).await?;
                (4, usize::from(u16::from_be_bytes([connection.buffer[2], connection.buffer[3]])))
            }
            127 => {
                connection.need(10).await?;
                let length: [u8; 8] = connection.buffer[2..10].try_into().expect("eight bytes");
                (10, usize::try_from(u64::from_be_bytes(length)).map_err(|_| broken("too long a frame"))?)
            }
            short @ 0..126 => (2, usize::from(short)),
            _ => return Err(broken("a server does not mask")),
        };
        connection.need(header + length).await?;
        let opcode = connection.buffer[0] & 0x0F;
        let payload: Vec<u8> = connection.buffer.drain(..header + length).skip(header).collect();
        match opcode {
            1 => {
                let item = serde_json::from_slice(&payload).map_err(|error| broken(error.to_string()))?;
                self.ready.push_back(item);
            }
            8 => {
                let code: Option<[u8; 2]> = payload.get(..2).and_then(|code| code.try_into().ok());
                self.close_code = code.map(u16::from_be_bytes);
                return Ok(false);
            }
            9 if self.pongs => connection.send(masked(0x8A, &payload)).await?,
            _ => {}
        }
        Ok(true)
    }
}

/// The items that the reading task receives.
pub(crate) struct Flow(tokio::sync::mpsc::UnboundedReceiver<Value>);

impl Flow {
    pub(crate) async fn item(&mut self) -> Value {
        super::within("an item", self.0.recv()).await.expect("the stream goes on")
    }

    /// The next item that is neither `$hello` nor `$beat` nor `$live`.
    pub(crate) async fn news(&mut self) -> Value {
        loop {
            let item = self.item().await;
            if !["$hello", "$beat", "$live"].iter().any(|name| item["event"] == *name) {
                return item;
            }
        }
    }

    /// Drops the items received so far, and waits for the next item with this name.
    pub(crate) async fn next_named(&mut self, name: &str) {
        while self.0.try_recv().is_ok() {}
        while self.item().await["event"] != name {}
    }
}

fn find(text: &[u8], what: &[u8]) -> Option<usize> {
    if what.is_empty() { Some(0) } else { text.windows(what.len()).position(|window| window == what) }
}

/// A masked frame, as a client sends it. The mask is zero, which is valid, too.
pub(crate) fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(0x80 | length as u8),
        length @ 126..65_536 => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend([0; 4]);
    frame.extend(payload);
    frame
}
