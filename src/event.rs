//! An event and its encoding.
//!
//! An event is encoded once, when it is published or read from a store: [`Event::write_json`] appends all that follows its
//! cursor ready-made, and every framing shares these bytes. A framing only adds a few bytes of its own around them, so no
//! encoding is cached for each framing.

mod headers;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use aws_lc_rs::digest::{Context, SHA256};
use base64::Engine as _;
use bytes::BufMut;

use crate::cursor::{Cursor, Epoch, Position};
use crate::json::{self, JsonError, Literal};
use crate::topic::{Topic, TopicError};

pub use headers::{EventHeaders, HEADERS_MAX, HEADERS_MAX_BYTES, HeadersError};
pub(crate) use headers::{TRACEPARENT, TRACESTATE, payload_headers};

/// Longest event name, in bytes.
pub const NAME_MAX_BYTES: usize = 128;

/// Longest idempotency key, in bytes.
pub const ID_MAX_BYTES: usize = 128;

/// How far an event's time may be ahead of the server's clock at its receipt, in milliseconds.
pub const TIME_AHEAD_MAX_MS: u64 = 60_000;

/// The name of an event whose publisher gave none.
pub const DEFAULT_NAME: &str = "message";

/// [`DEFAULT_NAME`] as JSON.
const DEFAULT_NAME_JSON: &[u8] = b"\"message\"";

/// An event's payload: JSON in the safe form (see [`crate::json`]), or binary as base64.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Data {
    json: Box<str>,
    base64: bool,
}

impl Data {
    /// One JSON value, in its original spelling.
    ///
    /// # Errors
    /// [`EventError::Data`] where it is not JSON, nests deeper than 128, or holds a lone surrogate.
    pub fn json(text: &str) -> Result<Self, EventError> {
        Ok(Self { json: json::safe(text)?.into(), base64: false })
    }

    /// A JSON value whose syntax serde has checked already.
    pub(crate) fn raw(value: &serde_json::value::RawValue) -> Result<Self, EventError> {
        Ok(Self { json: json::safe_syntax(value.get())?.into(), base64: false })
    }

    /// A text, which clients receive as a JSON string.
    #[must_use]
    pub fn text(text: &str) -> Self {
        Self { json: json::string(text).into(), base64: false }
    }

    /// Bytes, which clients receive as a base64 string beside `"encoding":"base64"`.
    #[must_use]
    pub fn binary(bytes: &[u8]) -> Self {
        let mut json = String::with_capacity(bytes.len() * 4 / 3 + 6);
        json.push('"');
        base64::engine::general_purpose::STANDARD.encode_string(bytes, &mut json);
        json.push('"');
        Self { json: json.into(), base64: true }
    }

    /// Data from [`Draft::data`] and [`Draft::is_base64`]: for stores, which keep these two.
    #[must_use]
    pub fn from_stored(json: &str, base64: bool) -> Self {
        Self { json: json.into(), base64 }
    }

    /// Data that is base64 already, as a JSON string.
    pub(crate) fn encoded(value: &serde_json::value::RawValue) -> Result<Self, EventError> {
        let text: String = serde_json::from_str(value.get()).map_err(|_| EventError::Base64)?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text).map_err(|_| EventError::Base64)?;
        Ok(Self::binary(&bytes))
    }

    /// Length of the JSON text, in bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.json.len()
    }

    /// Never: the shortest JSON text has one byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.json.is_empty()
    }
}

/// The encoding of an event's content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Content {
    /// Data: a JSON value.
    Json,
    /// Data: bytes, as a base64 string.
    Base64,
    /// No data: the topic no longer has a value.
    Deletion,
}

/// The data of a deletion, as JSON, where a value is required.
const NO_DATA: &str = "null";

/// The publisher whose event ids share one quota: a number for each subject or address, meaningful within one process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Publisher(pub std::num::NonZeroU64);

/// A validated event of a publisher, ready to be stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewEvent {
    /// The topic on which it is published.
    pub topic: Topic,
    name: Option<Box<str>>,
    id: Option<Arc<str>>,
    /// `None` for a deletion.
    data: Option<Data>,
    headers: EventHeaders,
    publisher: Option<Publisher>,
}

impl NewEvent {
    /// An event on `topic` with `data`, named `message`, without an idempotency key.
    #[must_use]
    pub fn new(topic: Topic, data: Data) -> Self {
        Self { topic, name: None, id: None, data: Some(data), headers: EventHeaders::default(), publisher: None }
    }

    /// An event that says that `topic` no longer has a value: delivered like any other, with `"deleted":true` and without
    /// data.
    #[must_use]
    pub fn deletion(topic: Topic) -> Self {
        Self { topic, name: None, id: None, data: None, headers: EventHeaders::default(), publisher: None }
    }

    /// The same event, whose id counts against the publisher's quota of remembered ids.
    #[must_use]
    pub fn by(self, publisher: Option<Publisher>) -> Self {
        Self { publisher, ..self }
    }

    /// An event on `topic` whose data is `value` as JSON.
    ///
    /// # Errors
    /// [`EventError`] where the topic is invalid, or the value has no JSON form.
    ///
    /// ```
    /// # use switchback::NewEvent;
    /// let event = NewEvent::json("orders.42.status", &serde_json::json!({ "by": "li" }))?.named("approved")?;
    /// # Ok::<(), switchback::EventError>(())
    /// ```
    pub fn json(topic: &str, value: &impl serde::Serialize) -> Result<Self, EventError> {
        let text = serde_json::to_string(value).map_err(JsonError::Syntax)?;
        Ok(Self::new(topic.parse()?, Data::json(&text)?))
    }

    /// The same event with a name. `message` is the default name; an empty name is the default, too.
    ///
    /// # Errors
    /// [`EventError::Name`] over 128 bytes, with control characters, with a leading `$`, which is reserved for control
    /// events, or for `*`, with which clients select every name.
    pub fn named(self, name: &str) -> Result<Self, EventError> {
        // Clients select events of every name with `*`.
        if name == "*" {
            return Err(EventError::Name);
        }
        self.name_as_stored(name)
    }

    /// As [`Self::named`], for a name from a store: `*` was legal once.
    pub(crate) fn name_as_stored(mut self, name: &str) -> Result<Self, EventError> {
        if name.len() > NAME_MAX_BYTES || name.starts_with('$') || name.contains(char::is_control) {
            return Err(EventError::Name);
        }
        self.name = (!name.is_empty() && name != DEFAULT_NAME).then(|| name.into());
        Ok(self)
    }

    /// The same event with a name that the server itself gives.
    pub(crate) fn named_by_server(self, name: &'static str) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// The same event with an idempotency key. An event that is published again on the same topic within the window is not
    /// stored: its response has the first event's cursor. An empty key means none.
    ///
    /// # Errors
    /// [`EventError::Id`] over 128 bytes or with control characters.
    pub fn with_id(mut self, id: &str) -> Result<Self, EventError> {
        if id.len() > ID_MAX_BYTES || id.contains(char::is_control) {
            return Err(EventError::Id);
        }
        self.id = (!id.is_empty()).then(|| id.into());
        Ok(self)
    }

    /// The same event with these headers instead of its own.
    #[must_use]
    pub fn with_headers(self, headers: EventHeaders) -> Self {
        Self { headers, ..self }
    }

    /// The headers.
    #[must_use]
    pub fn headers(&self) -> &EventHeaders {
        &self.headers
    }

    /// The idempotency key.
    #[must_use]
    pub fn id(&self) -> Option<&Arc<str>> {
        self.id.as_ref()
    }

    /// The name, unless it is `message`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The approximate size of the event in a store, in bytes: counted by queues and retention.
    #[must_use]
    pub fn cost_bytes(&self) -> u64 {
        let data_bytes = self.data.as_ref().map_or(0, Data::len);
        cost_bytes(self.topic.as_str().len(), self.headers.as_json().len(), data_bytes)
    }

    /// Encodes the event, all but its position in the log. To be called outside any lock.
    #[must_use]
    pub fn draft(self, time_ms: u64) -> Draft {
        let (json, content) = match &self.data {
            Some(Data { json, base64: false }) => (&**json, Content::Json),
            Some(Data { json, base64: true }) => (&**json, Content::Base64),
            None => ("", Content::Deletion),
        };
        let headers = self.headers.as_json();
        let mut body = Vec::with_capacity(json.len() + headers.len() + self.topic.as_str().len() + 96);
        body.extend_from_slice(b"\",\"topic\":");
        json::write_string(self.topic.as_str(), &mut body);
        body.extend_from_slice(b",\"event\":");
        match &self.name {
            Some(name) => json::write_string(name, &mut body),
            None => body.extend_from_slice(DEFAULT_NAME_JSON),
        }
        body.extend_from_slice(if content == Content::Deletion { b",\"deleted\":true" } else { b",\"data\":" });
        let data = append(json, &mut body);
        if content == Content::Base64 {
            body.extend_from_slice(b",\"encoding\":\"base64\"");
        }
        if !headers.is_empty() {
            body.extend_from_slice(b",\"headers\":");
        }
        let headers = append(headers, &mut body);
        body.extend_from_slice(b",\"time\":");
        let time_start = body.len() as u32;
        body.extend_from_slice(itoa::Buffer::new().format(time_ms).as_bytes());
        if let Some(id) = &self.id {
            body.extend_from_slice(b",\"id\":");
            json::write_string(id, &mut body);
        }
        body.push(b'}');
        Draft {
            topic: self.topic,
            name: self.name,
            id: self.id,
            publisher: self.publisher,
            time_ms,
            content,
            literal: json::as_literal(json).max(json::as_literal(self.headers.as_json())),
            body: body.into_boxed_slice(),
            data,
            headers,
            time_start,
        }
    }
}

/// An event that is encoded and has a time, but no position yet: what a store appends.
#[derive(Clone, Debug)]
pub struct Draft {
    topic: Topic,
    name: Option<Box<str>>,
    id: Option<Arc<str>>,
    publisher: Option<Publisher>,
    time_ms: u64,
    content: Content,
    literal: Literal,
    body: Box<[u8]>,
    data: Range<u32>,
    headers: Range<u32>,
    /// Where the digits of the time begin in the body.
    time_start: u32,
}

impl Draft {
    /// The same with a time no earlier than `earlier_ms`, the time of the previous event, so that times do not go back
    /// within a log when the clock does. At most [`TIME_AHEAD_MAX_MS`] ahead of its own time, so that a clock that was far
    /// ahead for a moment does not set the time of all later events.
    #[must_use]
    pub fn not_before(mut self, earlier_ms: u64) -> Self {
        let time_ms = earlier_ms.min(self.time_ms.saturating_add(TIME_AHEAD_MAX_MS)).max(self.time_ms);
        if time_ms != self.time_ms {
            let (start, mut digits) = (self.time_start as usize, itoa::Buffer::new());
            let end = start + digits.format(self.time_ms).len();
            let mut body = Vec::from(std::mem::take(&mut self.body));
            body.splice(start..end, digits.format(time_ms).bytes());
            self.body = body.into_boxed_slice();
            self.time_ms = time_ms;
        }
        self
    }

    /// The event at its position. From here on it is immutable.
    #[must_use]
    pub fn at(self, epoch: Epoch, position: Position) -> Event {
        Event { cursor: Cursor::new(epoch, position), draft: self }
    }

    /// The publisher against whose quota the id counts; `None` where it counts against none.
    #[must_use]
    pub fn publisher(&self) -> Option<Publisher> {
        self.publisher
    }

    /// The topic on which it is published.
    #[must_use]
    pub fn topic(&self) -> &Topic {
        &self.topic
    }

    /// The name, unless it is `message`.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// The publisher's idempotency key.
    #[must_use]
    pub fn id(&self) -> Option<&Arc<str>> {
        self.id.as_ref()
    }

    /// The data: JSON in the safe form; a base64 string where [`Self::is_base64`]; `null` where [`Self::is_deletion`].
    #[must_use]
    pub fn data(&self) -> &str {
        if self.is_deletion() { NO_DATA } else { self.part(&self.data) }
    }

    /// Whether [`Self::data`] is binary, as a base64 string.
    #[must_use]
    pub fn is_base64(&self) -> bool {
        self.content == Content::Base64
    }

    /// Whether the event says that its topic no longer has a value; then it has no data.
    #[must_use]
    pub fn is_deletion(&self) -> bool {
        self.content == Content::Deletion
    }

    /// The encoding of the content.
    pub(crate) fn content(&self) -> Content {
        self.content
    }

    /// The headers as a JSON object, as [`EventHeaders::as_json`]; empty where there are none.
    #[must_use]
    pub fn headers(&self) -> &str {
        self.part(&self.headers)
    }

    /// The value of one header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<String> {
        headers::header(self.headers(), name)
    }

    /// A range of the body.
    fn part(&self, range: &Range<u32>) -> &str {
        // The range was measured on a str when the body was built: the fallback is never taken.
        let bytes = self.body.get(range.start as usize..range.end as usize).unwrap_or_default();
        std::str::from_utf8(bytes).unwrap_or_default()
    }

    /// Whether the JSON keeps its meaning as a literal in a script; where it does not, a script parses it from a string.
    #[must_use]
    pub fn literal(&self) -> Literal {
        self.literal
    }

    /// When the server received the event: milliseconds since the Unix epoch.
    #[must_use]
    pub fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// Distinguishes the payload from others.
    #[must_use]
    pub(crate) fn payload_digest(&self) -> PayloadDigest {
        payload_digest(self.name(), self.content, self.headers(), self.data())
    }

    /// The approximate size of the event in a store, in bytes: counted by queues and retention.
    #[must_use]
    pub fn cost_bytes(&self) -> u64 {
        cost_bytes(self.topic.as_str().len(), self.headers.len(), self.data.len())
    }
}

/// An event at its position in the log; immutable. Derefs to [`Draft`] for all that does not depend on the position.
#[derive(Clone)]
pub struct Event {
    cursor: Cursor,
    draft: Draft,
}

impl std::ops::Deref for Event {
    type Target = Draft;

    fn deref(&self) -> &Draft {
        &self.draft
    }
}

impl Event {
    /// The cursor of a client that has received this event.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// The position in the log.
    #[must_use]
    pub fn position(&self) -> Position {
        self.cursor.position
    }

    /// Length of the output of [`Self::write_json`], in bytes.
    #[must_use]
    pub fn json_bytes(&self) -> usize {
        ITEM_START.len() + self.cursor.text_bytes() + self.draft.body.len()
    }

    /// Appends the event as an item: one line of JSON that is valid in every framing.
    pub fn write_json(&self, out: &mut impl BufMut) {
        out.put_slice(ITEM_START);
        self.cursor.write(out);
        out.put_slice(&self.draft.body);
    }
}

/// The first bytes of every item that has a cursor; the rest of an event's body starts with the closing quote.
const ITEM_START: &[u8] = b"{\"cursor\":\"";

/// Fixed cost of an event in a store, in bytes: its row, its index entry, its allocation.
const EVENT_OVERHEAD_BYTES: u64 = 64;

/// The first half of the SHA-256 of an event's name, headers, encoding and data: enough to detect that a repeated id has
/// another payload.
pub(crate) type PayloadDigest = [u8; 16];

/// As [`Draft::payload_digest`], of an event's parts. The trace context in the headers does not count (see
/// [`payload_headers`]).
pub(crate) fn payload_digest(name: Option<&str>, content: Content, headers: &str, data: &str) -> PayloadDigest {
    let mut context = Context::new(&SHA256);
    // Names and JSON have no NUL, so no part can be mistaken for the start of the next.
    context.update(name.unwrap_or(DEFAULT_NAME).as_bytes());
    let headers = payload_headers(headers);
    if !headers.is_empty() {
        context.update(b"\0h");
        context.update(headers.as_bytes());
    }
    match content {
        Content::Json => context.update(b"\0j"),
        Content::Base64 => context.update(b"\0b"),
        Content::Deletion => context.update(b"\0d"),
    }
    if content != Content::Deletion {
        context.update(data.as_bytes());
    }
    let mut digest = PayloadDigest::default();
    for (to, from) in digest.iter_mut().zip(context.finish().as_ref()) {
        *to = *from;
    }
    digest
}

fn cost_bytes(topic_bytes: usize, headers_bytes: usize, data_bytes: usize) -> u64 {
    topic_bytes as u64 + headers_bytes as u64 + data_bytes as u64 + EVENT_OVERHEAD_BYTES
}

/// Appends a text; returns its range.
fn append(text: &str, body: &mut Vec<u8>) -> Range<u32> {
    let start = body.len() as u32;
    body.extend_from_slice(text.as_bytes());
    start..body.len() as u32
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Event({} {} {})", self.cursor, self.topic(), self.data())
    }
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.cursor == other.cursor && self.draft.body == other.draft.body
    }
}

/// An event is invalid. The message says what would be valid.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// The topic is invalid.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The name is invalid.
    #[error(
        "`event` must have at most 128 bytes and no control characters, must not begin with `$`, which is reserved for control events, and must not be `*`, which selects every name"
    )]
    Name,
    /// The idempotency key is invalid.
    #[error("`id` must have at most 128 bytes and no control characters")]
    Id,
    /// The data is not JSON, or exceeds a limit.
    #[error("`data` is invalid: {0}")]
    Data(#[from] JsonError),
    /// The headers are invalid.
    #[error(transparent)]
    Headers(#[from] HeadersError),
    /// `encoding` is base64, and `data` is not.
    #[error("with \"encoding\":\"base64\", `data` must be a string of padded base64 (RFC 4648 §4)")]
    Base64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn item(event: &Event) -> String {
        let mut out = Vec::new();
        event.write_json(&mut out);
        assert_eq!(out.len(), event.json_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn is_written_as_the_contract_shows_it() {
        let new = NewEvent::new("orders.42.status".parse().unwrap(), Data::json(r#"{"by":"li"}"#).unwrap());
        let event =
            new.named("approved").unwrap().draft(1_763_750_000_123).at("k3f9x2".parse().unwrap(), Position(1042));
        assert_eq!(
            item(&event),
            r#"{"cursor":"k3f9x2-1042","topic":"orders.42.status","event":"approved","data":{"by":"li"},"time":1763750000123}"#
        );
        assert_eq!(event.data(), r#"{"by":"li"}"#);
    }

    #[test]
    fn a_time_that_is_moved_is_moved_in_every_form() {
        let at = |time_ms: u64| {
            let new = NewEvent::new("a".parse().unwrap(), Data::json(r#"{"time":7}"#).unwrap());
            new.with_id("k").unwrap().draft(time_ms)
        };
        for (time_ms, earlier_ms, expected_ms) in [
            (999, 1000, 1000),
            (1000, 1000, 1000),
            (1001, 1000, 1001),
            (5, 60_005, 60_005),
            (5, 60_006, 60_005),
            (5, u64::MAX, 60_005),
        ] {
            let event = at(time_ms).not_before(earlier_ms).at("e".parse().unwrap(), Position(1));
            assert_eq!(event.time_ms(), expected_ms);
            assert_eq!(item(&event), item(&at(expected_ms).at("e".parse().unwrap(), Position(1))));
            assert_eq!(event.data(), r#"{"time":7}"#);
        }
    }

    #[test]
    fn binary_names_its_encoding_and_the_id_comes_back() {
        let new = NewEvent::new("a".parse().unwrap(), Data::binary(&[0, 255, 16])).with_id("k<1").unwrap();
        let event = new.draft(5).at("e".parse().unwrap(), Position(1));
        assert_eq!(
            item(&event),
            r#"{"cursor":"e-1","topic":"a","event":"message","data":"AP8Q","encoding":"base64","time":5,"id":"k\u003c1"}"#
        );
    }

    #[test]
    fn a_deletion_has_no_data_and_headers_stand_beside_it() {
        let headers = EventHeaders::json(r#"{"reason":"</left>"}"#).unwrap();
        let deletion = NewEvent::deletion("a".parse().unwrap()).with_headers(headers.clone());
        let event = deletion.draft(5).at("e".parse().unwrap(), Position(1));
        assert_eq!(
            item(&event),
            r#"{"cursor":"e-1","topic":"a","event":"message","deleted":true,"headers":{"reason":"\u003c/left>"},"time":5}"#
        );
        assert!(event.is_deletion() && !event.is_base64());
        assert_eq!((event.data(), event.header("reason").as_deref()), ("null", Some("</left>")));
        let binary = NewEvent::new("a".parse().unwrap(), Data::binary(&[0])).with_headers(headers);
        let event = binary.draft(5).not_before(1000).at("e".parse().unwrap(), Position(1));
        assert_eq!(
            item(&event),
            r#"{"cursor":"e-1","topic":"a","event":"message","data":"AA==","encoding":"base64","headers":{"reason":"\u003c/left>"},"time":1000}"#
        );
    }

    #[test]
    fn the_size_of_an_event_includes_its_headers() {
        let headers = EventHeaders::new([("a", "b")]).unwrap();
        let plain = NewEvent::new("t".parse().unwrap(), Data::text("x"));
        let more = plain.clone().with_headers(headers.clone());
        assert_eq!(more.cost_bytes(), plain.cost_bytes() + headers.as_json().len() as u64);
        assert_eq!(more.cost_bytes(), more.clone().draft(0).cost_bytes());
        let deletion = NewEvent::deletion("t".parse().unwrap());
        assert_eq!(deletion.cost_bytes(), plain.cost_bytes() - 3);
        assert_eq!(deletion.cost_bytes(), deletion.clone().draft(0).cost_bytes());
    }

    #[test]
    fn a_header_that_a_literal_cannot_hold_is_seen() {
        let event = |data: &str, headers: &str| {
            let new = NewEvent::new("a".parse().unwrap(), Data::json(data).unwrap());
            new.with_headers(EventHeaders::json(headers).unwrap()).draft(0)
        };
        assert_eq!(event("1", r#"{"a":"__proto__"}"#).literal(), Literal::Same);
        assert_eq!(event("1", r#"{"__proto__":"a"}"#).literal(), Literal::LosesKeys);
        assert_eq!(event(r#"{"__proto__":1,"__proto__":2}"#, r#"{"__proto__":"a"}"#).literal(), Literal::Illegal);
    }

    #[test]
    fn every_part_of_a_payload_counts_but_its_trace() {
        let new = |data: &str| NewEvent::new("a".parse().unwrap(), Data::json(data).unwrap());
        let headers = |text: &str| EventHeaders::json(text).unwrap();
        let events = [
            new("1"),
            new("null"),
            NewEvent::deletion("a".parse().unwrap()),
            new("1").with_headers(headers(r#"{"a":"1"}"#)),
            new("1").with_headers(headers(r#"{"a":"2"}"#)),
            NewEvent::deletion("a".parse().unwrap()).with_headers(headers(r#"{"a":"1"}"#)),
            new("1").named("n").unwrap(),
        ];
        let digests: std::collections::HashSet<_> =
            events.iter().map(|event| event.clone().draft(0).payload_digest()).collect();
        assert_eq!(digests.len(), events.len());
        let traced = new("1").with_headers(headers(r#"{"a":"1","traceparent":"x","tracestate":"y"}"#));
        assert_eq!(traced.draft(0).payload_digest(), events[3].clone().draft(9).payload_digest());
    }

    #[test]
    fn stored_parts_give_the_same_event_again() {
        let first = NewEvent::new("a<b".parse().unwrap(), Data::binary(b"x")).named("n").unwrap().with_id("i").unwrap();
        let first = first.draft(7).at("e".parse().unwrap(), Position(3));
        let mut again = NewEvent::new(first.topic().clone(), Data::from_stored(first.data(), first.is_base64()));
        again = again.named(first.name().unwrap()).unwrap().with_id(first.id().unwrap()).unwrap();
        assert_eq!(again.draft(first.time_ms()).at("e".parse().unwrap(), Position(3)), first);
    }

    #[test]
    fn names_and_ids_have_limits() {
        let new = || NewEvent::new("a".parse().unwrap(), Data::text(""));
        for name in ["$hello", "a\nb", "\0", &"n".repeat(129)] {
            assert!(new().named(name).is_err(), "{name:?}");
        }
        assert_eq!(new().named("message").unwrap().name(), None);
        assert!(new().named(&"n".repeat(128)).is_ok());
        for id in ["a\rb", &"i".repeat(129)] {
            assert!(new().with_id(id).is_err(), "{id:?}");
        }
    }
}
