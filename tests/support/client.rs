//! A small test client with one interface for every transport.

use std::collections::VecDeque;
use std::fmt;
use std::io::{Error, ErrorKind};

use futures_util::{SinkExt as _, StreamExt as _};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};

use super::http::{Body, Request, Response};
use super::wire::{Batch, Chunks, Item, Reader, Sse, moved, nonce_of, position};
use super::within;

/// A transport, with the variants that complete differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Poll,
    Longpoll,
    Jsonp,
    /// `wait=0`.
    JsonpPoll,
    Iframe,
    /// `once=1`.
    IframeOnce,
    Sse,
    Stream,
    Ws,
}

/// The JSONP callback of the tests.
pub(crate) const CALLBACK: &str = "page.on$1";

impl Kind {
    pub(crate) const ALL: [Self; 9] = [
        Self::Poll,
        Self::Longpoll,
        Self::Jsonp,
        Self::JsonpPoll,
        Self::Iframe,
        Self::IframeOnce,
        Self::Sse,
        Self::Stream,
        Self::Ws,
    ];

    /// The transport's name, in URLs and in `$hello`.
    pub(crate) fn transport(self) -> &'static str {
        match self {
            Self::Poll => "poll",
            Self::Longpoll => "longpoll",
            Self::Jsonp | Self::JsonpPoll => "jsonp",
            Self::Iframe | Self::IframeOnce => "iframe",
            Self::Sse => "sse",
            Self::Stream => "stream",
            Self::Ws => "ws",
        }
    }

    /// Whether the transport streams: one connection delivers many items.
    pub(crate) fn streams(self) -> bool {
        matches!(self, Self::Iframe | Self::Sse | Self::Stream | Self::Ws)
    }

    /// Whether a request is held until there is an event (long polling).
    pub(crate) fn holds(self) -> bool {
        matches!(self, Self::Longpoll | Self::Jsonp | Self::IframeOnce)
    }

    /// Whether the transport respects `Last-Event-ID`.
    pub(crate) fn resumes_by_header(self) -> bool {
        matches!(self, Self::Sse | Self::Stream)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self:?}")
    }
}

/// The parameters of a subscription.
#[derive(Clone, Debug, Default)]
pub(crate) struct Query {
    fields: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    /// As in the URL, encoded or not.
    raw: Vec<String>,
}

impl Query {
    pub(crate) fn topics<T: AsRef<str>>(topics: impl IntoIterator<Item = T>) -> Self {
        let mut query = Self::default();
        for topic in topics {
            query = query.with("topic", topic.as_ref());
        }
        query
    }

    pub(crate) fn topic(topic: &str) -> Self {
        Self::topics([topic])
    }

    pub(crate) fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.fields.push((name.to_owned(), value.to_string()));
        self
    }

    /// The same query, except for the value of one field.
    pub(crate) fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.fields.retain(|(known, _)| known != name);
        self.with(name, value)
    }

    pub(crate) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// A raw part of the URL, valid or not.
    pub(crate) fn raw(mut self, text: &str) -> Self {
        self.raw.push(text.to_owned());
        self
    }

    fn has(&self, name: &str) -> bool {
        self.fields.iter().any(|(known, _)| known == name)
    }

    /// The request that subscribes.
    pub(crate) fn request(&self, kind: Kind) -> Request {
        let mut all = self.clone();
        match kind {
            Kind::Jsonp | Kind::JsonpPoll
                if !all.has("callback") && !all.raw.iter().any(|raw| raw.starts_with("callback")) =>
            {
                all = all.with("callback", CALLBACK)
            }
            Kind::IframeOnce => all = all.with("once", 1),
            _ => {}
        }
        if kind == Kind::JsonpPoll && !all.has("wait") {
            all = all.with("wait", 0);
        }
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let pairs = all.fields.iter().map(|(name, value)| format!("{name}={}", encoded(value)));
        let pairs: Vec<String> = pairs.chain(all.raw).collect();
        let mut request = Request::get(format!("/v1/{}?{}", kind.transport(), pairs.join("&")));
        for (name, value) in &self.headers {
            request = request.header(name, value.as_str());
        }
        if kind == Kind::Ws {
            request = request.upgrade().header("Sec-WebSocket-Protocol", "other, switchback.v1");
        }
        request
    }
}

/// What was received.
#[derive(Clone, Debug)]
pub(crate) enum Got {
    Item(Item),
    Batch(Batch),
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The server does not answer, or the connection was lost.
    Broken(Error),
    /// The server refused.
    Refused(Response),
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Broken(error)
    }
}

enum Line {
    Stream { body: Body, reader: Reader },
    Batch { body: Body, nonce: Option<String> },
    Socket(Box<WebSocketStream<TcpStream>>),
}

/// One connection.
pub(crate) struct Link {
    kind: Kind,
    line: Line,
    queue: VecDeque<Item>,
    /// The headers of the response.
    pub(crate) headers: Vec<(String, String)>,
    /// All bytes received so far; of a WebSocket, the messages.
    pub(crate) raw: Vec<u8>,
    callback: String,
    /// Whether `$live` is an item like others; else it is left out, since most tests do not care.
    shows_live: bool,
}

impl Link {
    /// Connects, and checks the head of the response.
    pub(crate) async fn open(address: &str, kind: Kind, query: &Query) -> Result<Self, Failure> {
        let response = query.request(kind).try_send(address).await?;
        let expected = if kind == Kind::Ws { 101 } else { 200 };
        if response.status != expected {
            return Err(Failure::Refused(response));
        }
        Self::check_head(kind, &response);
        let nonce = response.header("content-security-policy").map(nonce_of);
        let Response { headers, body, .. } = response;
        let line = match kind {
            Kind::Ws => {
                let (stream, read) = body.into_socket();
                Line::Socket(Box::new(WebSocketStream::from_partially_read(stream, read, Role::Client, None).await))
            }
            Kind::Sse => Line::Stream { body, reader: Reader::Sse(Box::<Sse>::default()) },
            Kind::Stream => Line::Stream { body, reader: Reader::Lines(Vec::new()) },
            Kind::Iframe => {
                let chunks = Chunks::new(nonce.as_deref().expect("a policy"));
                Line::Stream { body, reader: Reader::Chunks(Box::new(chunks)) }
            }
            Kind::Poll | Kind::Longpoll | Kind::Jsonp | Kind::JsonpPoll | Kind::IframeOnce => {
                Line::Batch { body, nonce }
            }
        };
        let callback = query.fields.iter().find(|(name, _)| name == "callback").map_or(CALLBACK, |(_, value)| value);
        Ok(Self {
            kind,
            line,
            queue: VecDeque::new(),
            headers,
            raw: Vec::new(),
            callback: callback.to_owned(),
            shows_live: false,
        })
    }

    /// As [`Self::open`], which has to succeed.
    pub(crate) async fn to(address: &str, kind: Kind, query: &Query) -> Self {
        match within("a subscription", Self::open(address, kind, query)).await {
            Ok(link) => link,
            Err(Failure::Broken(error)) => panic!("{kind} {query:?}: {error}"),
            Err(Failure::Refused(mut response)) => {
                let text = response.text().await;
                panic!("{kind} {query:?}: {} {text}", response.status)
            }
        }
    }

    fn check_head(kind: Kind, response: &Response) {
        let expect = |name: &str, value: &str| assert_eq!(response.header(name), Some(value), "{kind}: {name}");
        expect("x-content-type-options", "nosniff");
        expect("cache-control", "no-store, no-transform");
        expect("x-accel-buffering", "no");
        assert_eq!(response.header("content-encoding"), None, "{kind}");
        match kind {
            Kind::Ws => {
                expect("sec-websocket-protocol", "switchback.v1");
                expect("sec-websocket-accept", &derive_accept_key(b"dGhlIHNhbXBsZSBub25jZQ=="));
                assert_eq!(response.header("upgrade").map(str::to_ascii_lowercase).as_deref(), Some("websocket"));
            }
            Kind::Sse => expect("content-type", "text/event-stream; charset=utf-8"),
            Kind::Stream => expect("content-type", "application/x-ndjson; charset=utf-8"),
            Kind::Iframe | Kind::IframeOnce => expect("content-type", "text/html; charset=utf-8"),
            Kind::Poll | Kind::Longpoll => expect("content-type", "application/json"),
            Kind::Jsonp | Kind::JsonpPoll => {
                expect("content-type", "application/javascript; charset=utf-8");
                expect("content-disposition", "attachment; filename=f.txt");
            }
        }
    }

    /// The next item or batch; `None` at the proper end.
    pub(crate) async fn next(&mut self) -> Result<Option<Got>, Error> {
        loop {
            while let Some(item) = self.queue.pop_front() {
                if self.shows_live || item.event != "$live" {
                    return Ok(Some(Got::Item(item)));
                }
            }
            match &mut self.line {
                Line::Stream { body, reader } => match body.chunk().await? {
                    Some(bytes) => {
                        self.raw.extend_from_slice(&bytes);
                        self.queue = reader.push(&bytes);
                    }
                    None => {
                        reader.finish();
                        return Ok(None);
                    }
                },
                Line::Batch { body, nonce } => {
                    let begun = !self.raw.is_empty();
                    while let Some(bytes) = body.chunk().await? {
                        self.raw.extend_from_slice(&bytes);
                    }
                    if begun {
                        return Ok(None);
                    }
                    let text = std::str::from_utf8(&self.raw).expect("an answer in UTF-8");
                    let batch = match (self.kind, nonce) {
                        (Kind::Jsonp | Kind::JsonpPoll, _) => Batch::parse_jsonp(&self.callback, text),
                        (_, Some(nonce)) => Batch::parse_document(nonce, text),
                        (_, None) => Batch::parse(text),
                    };
                    return Ok(Some(Got::Batch(batch)));
                }
                Line::Socket(socket) => match socket.next().await {
                    Some(Ok(Message::Text(text))) => {
                        self.raw.extend_from_slice(text.as_bytes());
                        self.queue.push_back(Item::parse(&text));
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Close(_))) => return Ok(None),
                    Some(Ok(other)) => panic!("not an item: {other:?}"),
                    Some(Err(WsError::Io(error))) => return Err(error),
                    Some(Err(WsError::Protocol(error))) => return Err(Error::new(ErrorKind::ConnectionReset, error)),
                    Some(Err(error)) => panic!("not RFC 6455: {error}"),
                    None => return Err(ErrorKind::UnexpectedEof.into()),
                },
            }
        }
    }

    /// From now on `$live` is an item like others.
    pub(crate) fn showing_live(mut self) -> Self {
        self.shows_live = true;
        self
    }

    /// The next item of a stream.
    pub(crate) async fn item(&mut self) -> Item {
        match within(&format!("an item over {}", self.kind), self.next()).await {
            Ok(Some(Got::Item(item))) => item,
            other => panic!("no item over {}: {other:?}", self.kind),
        }
    }

    /// The next item that is not a heartbeat.
    pub(crate) async fn telling(&mut self) -> Item {
        loop {
            let item = self.item().await;
            if item.event != "$beat" {
                return item;
            }
        }
    }

    /// The batch of a request that completes.
    pub(crate) async fn batch(&mut self) -> Batch {
        match within(&format!("a batch over {}", self.kind), self.next()).await {
            Ok(Some(Got::Batch(batch))) => batch,
            other => panic!("no batch over {}: {other:?}", self.kind),
        }
    }

    /// The stream ends properly; returns a WebSocket's close code and reason.
    pub(crate) async fn end(&mut self) -> Option<(u16, String)> {
        self.end_after(|item| matches!(item.event.as_str(), "$beat" | "$live")).await
    }

    /// The same, after items that are allowed before the end.
    pub(crate) async fn end_after(&mut self, may_come: impl Fn(&Item) -> bool) -> Option<(u16, String)> {
        let mut line = std::mem::take(&mut self.queue);
        line.retain(|item| item.event != "$live");
        assert!(line.is_empty(), "{} continues after its end: {line:?}", self.kind);
        if let Line::Socket(socket) = &mut self.line {
            return loop {
                match within("a close frame", socket.next()).await {
                    Some(Ok(Message::Close(frame))) => {
                        let frame = frame.expect("a close frame has a code and a reason");
                        break Some((frame.code.into(), frame.reason.to_string()));
                    }
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                    Some(Ok(Message::Text(text))) => {
                        assert!(may_come(&Item::parse(&text)), "no close frame: {text}");
                    }
                    other => panic!("no close frame: {other:?}"),
                }
            };
        }
        match within("the end of a stream", self.next()).await {
            Ok(None) => None,
            other => panic!("{} does not end: {other:?}", self.kind),
        }
    }

    /// Sends a message on the socket.
    pub(crate) async fn say(&mut self, message: &Value) {
        self.send(Message::text(message.to_string())).await;
    }

    pub(crate) async fn send(&mut self, message: Message) {
        let Line::Socket(socket) = &mut self.line else { panic!("{} cannot send", self.kind) };
        within("sending on a socket", socket.send(message)).await.expect("the message is sent");
    }

    /// The socket itself.
    pub(crate) fn socket(&mut self) -> &mut TcpStream {
        let Line::Socket(socket) = &mut self.line else { panic!("{} is not a WebSocket", self.kind) };
        socket.get_mut()
    }

    /// Sends a command on the WebSocket and waits for its reply; before the reply only items may arrive, which are queued.
    pub(crate) async fn ask(&mut self, mut message: Value) -> Value {
        let reference = format!("r{}", rand::random::<u32>());
        message["ref"] = json!(reference);
        self.say(&message).await;
        let mut before = VecDeque::new();
        let reply = loop {
            let item = self.item().await;
            if item.event == "$reply" && item.value()["ref"] == json!(reference) {
                break item.value();
            }
            before.push_back(item);
        };
        before.append(&mut self.queue);
        self.queue = before;
        reply
    }
}

/// A subscriber that reads over one transport after another and keeps its cursor, as a page does.
pub(crate) struct Subscriber {
    pub(crate) address: String,
    pub(crate) kind: Kind,
    pub(crate) query: Query,
    /// The cursor to present next.
    pub(crate) cursor: Option<String>,
    /// The end of the round to present with it, where the query is of `latest=1`.
    upto: Option<String>,
    /// The `$hello` of the last stream.
    pub(crate) hello: Option<Item>,
    pub(crate) link: Option<Link>,
    queue: VecDeque<Item>,
    /// The cursor at the end of the batch in `queue`.
    batch_end: Option<String>,
}

impl Subscriber {
    /// A subscriber that is not connected yet.
    pub(crate) fn new(address: &str, kind: Kind, query: Query) -> Self {
        Self {
            address: address.to_owned(),
            kind,
            query,
            cursor: None,
            upto: None,
            hello: None,
            link: None,
            queue: VecDeque::new(),
            batch_end: None,
        }
    }

    /// A subscriber with a cursor: every event published from now on reaches this subscriber.
    pub(crate) async fn start(address: &str, kind: Kind, query: Query) -> Self {
        let mut this = Self::new(address, kind, query);
        if kind.streams() {
            let mut link = Link::to(address, kind, &this.query).await;
            let hello = link.item().await;
            assert_eq!(hello.event, "$hello", "$hello is first on every stream");
            this.moved_by(&hello);
            this.link = Some(link);
        } else {
            let query = this.query.clone().set("wait", 0);
            let batch = Link::to(address, kind, &query).await.batch().await;
            assert!(batch.cursor.is_some(), "{kind} received {:?}", batch.events);
            // An event may have arrived since the request started: then the start is just before that event.
            let first = batch.events.first().and_then(|item| item.cursor.as_deref());
            this.cursor = first.map(|cursor| moved(cursor, position(cursor) - 1));
            this.take(batch);
            this.settle();
        }
        this
    }

    /// A subscriber that starts at a cursor.
    pub(crate) fn at(address: &str, kind: Kind, query: Query, cursor: &str) -> Self {
        let mut this = Self::new(address, kind, query);
        this.cursor = Some(cursor.to_owned());
        this
    }

    /// Drops the connection, and the unread rest of a batch.
    pub(crate) fn cut(&mut self) {
        self.link = None;
        self.queue.clear();
        self.batch_end = None;
    }

    /// Switches to another transport.
    pub(crate) fn switch(&mut self, kind: Kind) {
        self.cut();
        self.kind = kind;
    }

    /// Another subscriber on another transport, at the same cursor.
    pub(crate) fn beside(&self, kind: Kind) -> Self {
        let mut other = Self::new(&self.address, kind, self.query.clone());
        other.cursor = self.cursor.clone();
        other
    }

    fn moved_by(&mut self, item: &Item) {
        if item.event == "$hello" {
            self.hello = Some(item.clone());
        }
        if let Some(cursor) = &item.cursor {
            self.cursor = Some(cursor.clone());
        }
        self.upto = item.upto.clone().or(self.upto.take());
    }

    fn take(&mut self, batch: Batch) {
        self.batch_end = batch.cursor;
        self.upto = batch.upto;
        self.queue.extend(batch.events);
    }

    /// Once a batch is read completely, the cursor moves to its end.
    fn settle(&mut self) {
        if self.queue.is_empty()
            && let Some(end) = self.batch_end.take()
        {
            self.cursor = Some(end);
        }
    }

    /// The next item besides `$hello` and `$beat`, over as many requests as needed.
    pub(crate) async fn try_item(&mut self) -> Result<Item, Failure> {
        loop {
            if let Some(item) = self.queue.pop_front() {
                self.moved_by(&item);
                self.settle();
                return Ok(item);
            }
            self.settle();
            if self.link.is_none() {
                let query = self.query.clone();
                let mut query = self.cursor.iter().fold(query, |query, cursor| query.set("cursor", cursor));
                if query.fields.contains(&("latest".to_owned(), "1".to_owned())) {
                    query = self.upto.iter().fold(query, |query, upto| query.set("upto", upto));
                }
                self.link = Some(Link::open(&self.address, self.kind, &query).await?);
            }
            let Some(link) = &mut self.link else { continue };
            match link.next().await {
                Ok(Some(Got::Item(item))) => {
                    self.moved_by(&item);
                    if !matches!(item.event.as_str(), "$hello" | "$beat") {
                        return Ok(item);
                    }
                }
                Ok(Some(Got::Batch(batch))) => {
                    self.link = None;
                    if batch.events.is_empty() && !self.kind.holds() {
                        // As a page does between two polls; no test depends on the duration.
                        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
                    }
                    self.take(batch);
                }
                Ok(None) => self.link = None,
                Err(error) => {
                    self.link = None;
                    return Err(error.into());
                }
            }
        }
    }

    /// As [`Self::try_item`], which has to succeed.
    pub(crate) async fn item(&mut self) -> Item {
        match within(&format!("an item over {}", self.kind), self.try_item()).await {
            Ok(item) => item,
            Err(Failure::Broken(error)) => panic!("{}: {error}", self.kind),
            Err(Failure::Refused(mut response)) => {
                let text = response.text().await;
                panic!("{}: {} {text}", self.kind, response.status)
            }
        }
    }

    /// The next event. No other item may arrive, except the end of an iframe document at its byte budget.
    pub(crate) async fn event(&mut self) -> Item {
        loop {
            let item = self.item().await;
            if !item.is_control() {
                return item;
            }
            let recycled = item.event == "$bye" && item.value()["reason"] == "recycle";
            assert!(self.kind == Kind::Iframe && recycled, "{} received {item:?}", self.kind);
        }
    }

    /// The data of the next events.
    pub(crate) async fn values(&mut self, count: usize) -> Vec<Value> {
        let mut all = Vec::new();
        while all.len() < count {
            all.push(self.event().await.value());
        }
        all
    }
}
