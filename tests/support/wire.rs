//! Strict parsers for the framing of each transport: every violation of the protocol fails the test.

use std::collections::VecDeque;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::http::find;

/// One item of a subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item {
    pub(crate) cursor: Option<String>,
    pub(crate) topic: Option<String>,
    pub(crate) event: String,
    /// The JSON of the data, as received.
    pub(crate) data: Option<String>,
    pub(crate) time: Option<u64>,
    pub(crate) id: Option<String>,
    pub(crate) encoding: Option<String>,
    /// Whether the item has `"deleted":true`.
    pub(crate) deleted: bool,
    /// The JSON of the headers, as received.
    pub(crate) headers: Option<String>,
    /// The end of the round of newest events, in a control event.
    pub(crate) upto: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Fields {
    cursor: Option<String>,
    topic: Option<String>,
    event: String,
    // An absent field is not the same as null here.
    #[serde(default, deserialize_with = "present")]
    data: Option<Box<RawValue>>,
    time: Option<u64>,
    id: Option<String>,
    encoding: Option<String>,
    deleted: Option<bool>,
    headers: Option<Box<RawValue>>,
    upto: Option<String>,
}

fn present<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<Box<RawValue>>, D::Error> {
    Box::<RawValue>::deserialize(deserializer).map(Some)
}

impl Item {
    /// Parses an item's JSON, which must have exactly the fields of its kind.
    pub(crate) fn parse(json: &str) -> Self {
        assert!(
            !json.contains(['<', '\r', '\n', '\u{85}', '\u{2028}', '\u{2029}']),
            "not safe in every framing: {json}"
        );
        let fields: Fields = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
        let Fields { cursor, topic, event, data, time, id, encoding, deleted, headers, upto } = fields;
        if event.starts_with('$') {
            assert!(topic.is_none() && time.is_none() && id.is_none() && encoding.is_none(), "{json}");
            assert!(deleted.is_none() && headers.is_none(), "{json}");
            assert!(upto.is_none() || matches!(event.as_str(), "$beat" | "$bye"), "{json}");
            match event.as_str() {
                "$hello" | "$gap" | "$bye" | "$live" => assert!(data.is_some() && cursor.is_some(), "{json}"),
                "$beat" => assert!(data.is_none() && cursor.is_some(), "{json}"),
                "$error" | "$reply" => {
                    assert!(data.is_some() && cursor.is_none(), "an `$error` or `$reply` has no cursor: {json}")
                }
                _ => panic!("not a control event of the protocol: {json}"),
            }
        } else {
            assert!(cursor.is_some() && topic.is_some() && time.is_some() && upto.is_none(), "{json}");
            assert!(
                deleted != Some(false) && data.is_some() != deleted.is_some(),
                "an event has either data or a deletion: {json}"
            );
            assert!(encoding.is_none() || data.is_some(), "{json}");
            assert!(encoding.is_none() || encoding.as_deref() == Some("base64"), "{json}");
        }
        if let Some(cursor) = &cursor {
            position(cursor);
        }
        let [data, headers] = [data, headers].map(|json| json.map(|json| json.get().to_owned()));
        Self { cursor, topic, event, data, time, id, encoding, deleted: deleted.is_some(), headers, upto }
    }

    pub(crate) fn is_control(&self) -> bool {
        self.event.starts_with('$')
    }

    /// The data, where it is a value that `serde_json` can represent.
    pub(crate) fn value(&self) -> Value {
        let text = self.data.as_deref().unwrap_or("null");
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    pub(crate) fn at(&self) -> u64 {
        position(self.cursor.as_deref().expect("an item with a cursor"))
    }
}

/// The position in a cursor, whose syntax is checked.
pub(crate) fn position(cursor: &str) -> u64 {
    let (epoch, position) = cursor.split_once('-').unwrap_or_else(|| panic!("not a cursor: {cursor}"));
    let legal = epoch.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    assert!((1..=32).contains(&epoch.len()) && legal, "not a valid epoch: {cursor}");
    let number: u64 = position.parse().unwrap_or_else(|_| panic!("not a position: {cursor}"));
    assert_eq!(number.to_string(), position, "not the canonical form: {cursor}");
    number
}

/// The epoch in a cursor.
pub(crate) fn epoch(cursor: &str) -> &str {
    position(cursor);
    cursor.split_once('-').map(|(epoch, _)| epoch).unwrap_or_default()
}

/// The cursor of another position in the same log.
pub(crate) fn moved(cursor: &str, to: u64) -> String {
    format!("{}-{to}", epoch(cursor))
}

/// A complete batch.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) cursor: Option<String>,
    pub(crate) events: Vec<Item>,
    /// Whether the batch was cut by a limit.
    pub(crate) more: bool,
    /// Whether the named client is remembered.
    pub(crate) known: bool,
    /// Whether the batch ends at or after the log's end when the request arrived.
    pub(crate) live: bool,
    /// The end of the round of newest events, where the batch ends before it.
    pub(crate) upto: Option<String>,
}

impl Batch {
    pub(crate) fn parse(json: &str) -> Self {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Fields {
            cursor: Option<String>,
            events: Vec<Box<RawValue>>,
            more: Option<bool>,
            known: Option<bool>,
            live: Option<bool>,
            upto: Option<String>,
        }
        let fields: Fields = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {json}"));
        let events: Vec<Item> = fields.events.iter().map(|event| Item::parse(event.get())).collect();
        let cursor = fields.cursor;
        if events.iter().any(|item| item.event == "$error") {
            assert_eq!(events.len(), 1, "an error is the only item of its batch: {json}");
        } else {
            let end = position(cursor.as_deref().unwrap_or_else(|| panic!("a batch without a cursor: {json}")));
            let last = events.iter().filter(|item| item.cursor.is_some()).map(Item::at).next_back();
            assert!(last.is_none_or(|last| last <= end), "the batch ends before its last event: {json}");
        }
        assert!(events.iter().all(|item| !matches!(item.event.as_str(), "$hello" | "$beat" | "$live")), "{json}");
        let Fields { more, known, live, upto, .. } = fields;
        assert!(
            more != Some(false) && known != Some(true) && live != Some(false),
            "default values are left out: {json}"
        );
        if let (Some(upto), Some(cursor)) = (&upto, &cursor) {
            assert!(position(upto) > position(cursor), "the batch ends before its round does: {json}");
        }
        Self { cursor, events, more: more.is_some(), known: known.is_none(), live: live.is_some(), upto }
    }

    /// The argument of `/**/callback(...);`.
    pub(crate) fn parse_jsonp(callback: &str, text: &str) -> Self {
        let argument = text.strip_prefix("/**/").and_then(|text| text.strip_prefix(callback));
        let argument = argument.and_then(|text| text.strip_prefix('(')).and_then(|text| text.strip_suffix(");"));
        let argument = argument.unwrap_or_else(|| panic!("not /**/{callback}(...);: {text}"));
        let quoted = argument.strip_prefix("JSON.parse(").and_then(|text| text.strip_suffix(')'));
        Self::parse(&literal(argument, quoted, r#""__proto__":"#))
    }

    /// The single chunk of an iframe document with `once=1`.
    pub(crate) fn parse_document(nonce: &str, text: &str) -> Self {
        let mut chunks = Chunks::new(nonce);
        let all = chunks.push(text.as_bytes());
        assert_eq!(all.len(), 1, "once=1 is one chunk: {text}");
        chunks.finish();
        Self::parse(&all[0])
    }
}

/// The JSON in a script. In an object literal a key `__proto__` sets the prototype, and two such keys are a syntax error; so
/// where the JSON contains such a key (`impossible`), and only there, the JSON is in a string literal.
fn literal(argument: &str, quoted: Option<&str>, impossible: &str) -> String {
    let json = match quoted {
        Some(quoted) => serde_json::from_str(quoted).unwrap_or_else(|error| panic!("{error}: {quoted}")),
        None => argument.to_owned(),
    };
    assert_eq!(quoted.is_some(), json.contains(impossible), "{json}");
    json
}

/// The nonce in the Content-Security-Policy of an iframe document, which allows only scripts with this nonce.
pub(crate) fn nonce_of(policy: &str) -> String {
    let directives: Vec<&str> = policy.split(';').map(str::trim).collect();
    assert!(directives.contains(&"default-src 'none'"), "{policy}");
    let scripts = directives.iter().find_map(|directive| directive.strip_prefix("script-src "));
    let nonce = scripts.and_then(|text| text.strip_prefix("'nonce-")?.strip_suffix("' 'unsafe-inline'"));
    // Browsers that know nonces ignore 'unsafe-inline' beside a nonce; browsers with CSP 1.0 know only 'unsafe-inline'.
    let nonce = nonce.unwrap_or_else(|| panic!("no nonce, or more than one for old browsers, in {policy}"));
    assert!(nonce.len() >= 22 && nonce.bytes().all(|b| b.is_ascii_alphanumeric()), "{policy}");
    nonce.to_owned()
}

/// An incremental parser of a stream, for any split of its bytes.
#[derive(Debug)]
pub(crate) enum Reader {
    Sse(Box<Sse>),
    Lines(Vec<u8>),
    Chunks(Box<Chunks>),
}

impl Reader {
    pub(crate) fn push(&mut self, bytes: &[u8]) -> VecDeque<Item> {
        match self {
            Self::Sse(sse) => sse.push(bytes),
            Self::Lines(buffer) => {
                buffer.extend_from_slice(bytes);
                lines_of(buffer, Item::parse).into()
            }
            Self::Chunks(chunks) => chunks.push(bytes).iter().map(|json| Item::parse(json)).collect(),
        }
    }

    /// Asserts that the stream ended on an item boundary.
    pub(crate) fn finish(&self) {
        match self {
            Self::Sse(sse) => assert!(sse.buffer.is_empty() && sse.block.is_empty(), "a block is cut off: {sse:?}"),
            Self::Lines(buffer) => assert!(buffer.is_empty(), "a line is cut off"),
            Self::Chunks(chunks) => chunks.finish(),
        }
    }
}

fn lines_of<T>(buffer: &mut Vec<u8>, mut read: impl FnMut(&str) -> T) -> Vec<T> {
    let mut all = Vec::new();
    while let Some(end) = buffer.iter().position(|b| *b == b'\n') {
        let line: Vec<u8> = buffer.drain(..=end).collect();
        all.push(read(std::str::from_utf8(&line[..end]).expect("a line in UTF-8")));
    }
    all
}

/// The event stream format (WHATWG HTML §9.2.5), and the fields that the protocol uses.
#[derive(Debug, Default)]
pub(crate) struct Sse {
    buffer: Vec<u8>,
    block: Vec<(String, String)>,
    begun: bool,
    pub(crate) comments: usize,
}

impl Sse {
    fn push(&mut self, bytes: &[u8]) -> VecDeque<Item> {
        assert!(!bytes.contains(&b'\r') && !bytes.contains(&0), "CR ends a line, NUL spoils an id");
        self.buffer.extend_from_slice(bytes);
        let mut buffer = std::mem::take(&mut self.buffer);
        let items = lines_of(&mut buffer, |line| self.line(line)).into_iter().flatten().collect();
        self.buffer = buffer;
        items
    }

    fn line(&mut self, line: &str) -> Option<Item> {
        if line.is_empty() {
            return self.dispatch();
        }
        if let Some(comment) = line.strip_prefix(':') {
            self.comments += comment.len();
            return None;
        }
        let (name, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        assert!(matches!(name, "id" | "event" | "data" | "retry"), "an unknown field: {line}");
        assert!(self.block.iter().all(|(known, _)| known != name), "a field is given twice in a block: {line}");
        if name == "retry" {
            assert!(!value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()), "{line}");
        }
        self.block.push((name.to_owned(), value.to_owned()));
        None
    }

    fn dispatch(&mut self) -> Option<Item> {
        let block = std::mem::take(&mut self.block);
        let field = |name: &str| block.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        // Some SSE clients pass a block without data to the application.
        let data = field("data").unwrap_or_else(|| panic!("a block without data: {block:?}"));
        let item = Item::parse(data);
        assert_eq!(field("id"), item.cursor.as_deref(), "`id:` is the item's cursor");
        let name = match item.event.as_str() {
            "message" | "open" | "error" => None,
            name => Some(name),
        };
        assert_eq!(field("event"), name, "event: is the item's name, where an EventSource has none of that name");
        let first = !std::mem::replace(&mut self.begun, true);
        assert_eq!(first, item.event == "$hello", "a stream begins with $hello: {block:?}");
        let closing = item.event == "$bye";
        assert_eq!(field("retry").is_some(), first || closing, "retry: is in the blocks of $hello and $bye: {block:?}");
        if item.event == "$bye"
            && let Some(retry) = item.value()["retry"].as_u64()
        {
            assert_eq!(field("retry"), Some(retry.to_string().as_str()), "`retry:` and the item have the same delay");
        }
        Some(item)
    }
}

/// An iframe document: a head that defines `p`, then one script element an item.
#[derive(Debug)]
pub(crate) struct Chunks {
    nonce: String,
    buffer: Vec<u8>,
    begun: bool,
}

impl Chunks {
    pub(crate) fn new(nonce: &str) -> Self {
        Self { nonce: nonce.to_owned(), buffer: Vec::new(), begun: false }
    }

    /// The arguments of the complete calls.
    fn push(&mut self, bytes: &[u8]) -> Vec<String> {
        self.buffer.extend_from_slice(bytes);
        let open = format!("<script nonce=\"{}\">p(", self.nonce).into_bytes();
        const CLOSE: &[u8] = b")</script>\n";
        if !self.begun {
            let Some(start) = find(&self.buffer, &open) else { return Vec::new() };
            let head: Vec<u8> = self.buffer.drain(..start).collect();
            self.check_head(std::str::from_utf8(&head).expect("a head in UTF-8"));
            self.begun = true;
        }
        let mut all = Vec::new();
        while !self.buffer.is_empty() {
            let length = open.len().min(self.buffer.len());
            assert!(
                self.buffer[..length] == open[..length],
                "not a chunk: {:?}",
                String::from_utf8_lossy(&self.buffer)
            );
            // The argument has no `<`, so the first end tag is the chunk's.
            let Some(end) = find(&self.buffer, CLOSE) else { break };
            let argument = std::str::from_utf8(&self.buffer[open.len()..end]).expect("a chunk in UTF-8").to_owned();
            assert!(!argument.contains(['<', '\u{85}', '\u{2028}', '\u{2029}']), "{argument}");
            self.buffer.drain(..end + CLOSE.len());
            let quoted = argument.starts_with('"').then_some(argument.as_str());
            all.push(literal(&argument, quoted, r#""__proto__":1,"__proto__":"#));
        }
        all
    }

    fn check_head(&self, head: &str) {
        assert!(head.starts_with("<!DOCTYPE html>"), "{head}");
        assert!(
            head.len() >= 1024,
            "the head is too short, old browsers do not run its script yet: {} bytes",
            head.len()
        );
        assert!(head.contains("charset=\"utf-8\"") && head.contains("IE=edge"), "{head}");
        let tags: Vec<&str> = head.split("<script").skip(1).collect();
        assert!(tags.iter().all(|tag| tag.starts_with(&format!(" nonce=\"{}\">", self.nonce))), "{head}");
        assert_eq!(tags.len(), 1, "one script defines p: {head}");
        assert!(head.contains("function p(") && head.contains("parent.postMessage("), "{head}");
        assert!(!head.contains("'*'") && !head.contains("\"*\""), "the document posts messages to any origin: {head}");
    }

    fn finish(&self) {
        assert!(self.begun && self.buffer.is_empty(), "the document is cut off: {self:?}");
    }
}
