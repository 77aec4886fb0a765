//! Raw items: the events of any transport as JSON, in batches and in streams, for the suites that break things on the way. The
//! suites that check the framing itself use `client`.

use std::collections::VecDeque;
use std::io;

use serde_json::Value;

use super::http::{self, Answer, Connection, Framing, Head, broken};

/// The transports that stream.
pub(crate) const STREAMS: [&str; 4] = ["sse", "stream", "iframe", "ws"];

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
    framing: Framing,
    /// The received bytes of the body.
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
        Self::request(&mut connection, transport, query).await?;
        let head = connection.head().await?;
        Self::after(connection, transport, &head)
    }

    /// Requests the stream, and reads nothing.
    pub(crate) async fn request(connection: &mut Connection, transport: &str, query: &str) -> io::Result<()> {
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
            framing: Framing::of(head, false)?,
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
        let Some(part) = self.connection.part(&mut self.framing).await? else { return Ok(false) };
        self.text.extend(part);
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
    if what.is_empty() { Some(0) } else { http::find(text, what) }
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
