//! The encoding of an event as a message of the stream.
//!
//! The subject is the topic. The payload is a line about the event, followed by its data:
//!
//! ```text
//! 1 1763750000123 json approved approval-42
//! {"by":"li"}
//! ```
//!
//! The words are the format's version, the event's time, `json` or `base64`, and the name and the id, percent-encoded; `-` means
//! none. A line in the payload costs every reader less than NATS headers would, which arrive as a table.
//!
//! An event with headers, or a deletion, has version 2: its headers are on a line of their own, which is empty where there are
//! none; a deletion says `deleted` and has no data. All other events stay at version 1, which nodes of either version read. An
//! older node takes a message of version 2 for a foreign one.
//!
//! ```text
//! 2 1763750000123 json approved approval-42
//! {"reason":"left"}
//! {"by":"li"}
//! ```
//!
//! A foreign message, which another program published without such a line, is an event too: its payload is the data.

use async_nats::HeaderMap;
use base64::Engine as _;
use bytes::{BufMut as _, Bytes, BytesMut};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, percent_decode_str, utf8_percent_encode};

use crate::event::{Content, Data, Draft, EventHeaders, NewEvent, payload_headers};
use crate::topic::Topic;

/// The header by which JetStream recognizes a duplicate.
pub(super) const MESSAGE_ID: &str = "Nats-Msg-Id";

const VERSION: &str = "1";
/// The format with a line of headers.
const WITH_HEADERS: &str = "2";
const NONE: &str = "-";

/// The characters that a word of the first line keeps unencoded; a lone `-` means none.
const WORD: &AsciiSet = &NON_ALPHANUMERIC.remove(b'.').remove(b'_').remove(b':');

/// Encodes a draft as a payload.
pub(super) fn payload(draft: &Draft) -> Bytes {
    let (content, headers) = (draft.content(), draft.headers());
    let version = if headers.is_empty() && content != Content::Deletion { VERSION } else { WITH_HEADERS };
    let mut out = BytesMut::with_capacity(draft.data().len() + headers.len() + 64);
    out.put_slice(version.as_bytes());
    out.put_u8(b' ');
    out.put_slice(itoa::Buffer::new().format(draft.time_ms()).as_bytes());
    out.put_u8(b' ');
    out.put_slice(word(content).as_bytes());
    for word in [draft.name(), draft.id().map(|id| &**id)] {
        out.put_u8(b' ');
        match word {
            Some(word) => utf8_percent_encode(word, WORD).for_each(|part| out.put_slice(part.as_bytes())),
            None => out.put_slice(NONE.as_bytes()),
        }
    }
    out.put_u8(b'\n');
    if version == WITH_HEADERS {
        out.put_slice(headers.as_bytes());
        out.put_u8(b'\n');
    }
    if content != Content::Deletion {
        out.put_slice(draft.data().as_bytes());
    }
    out.freeze()
}

fn word(content: Content) -> &'static str {
    match content {
        Content::Json => "json",
        Content::Base64 => "base64",
        Content::Deletion => "deleted",
    }
}

/// The part of a payload that is the publisher's.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Payload<'p> {
    form: &'p [u8],
    name: &'p [u8],
    /// As [`payload_headers`] gives them.
    headers: String,
    data: &'p [u8],
}

/// The part of a payload that is the publisher's: its encoding, its name, its headers and its data, but not its time. `None` for
/// a foreign message.
pub(super) fn payload_of(payload: &[u8]) -> Option<Payload<'_>> {
    let (line, mut data) = cut_line(payload)?;
    let mut words = line.split(|byte| *byte == b' ');
    let (version, _time) = (words.next()?, words.next()?);
    let mut headers = String::new();
    if version == WITH_HEADERS.as_bytes() {
        let (line, rest) = cut_line(data)?;
        headers = payload_headers(std::str::from_utf8(line).ok()?);
        data = rest;
    }
    Some(Payload { form: words.next()?, name: words.next()?, headers, data })
}

/// Splits at the first line feed.
fn cut_line(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = memchr::memchr(b'\n', bytes)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// Decodes a message as a draft; `None` where its subject is no topic, which only another program can have published.
/// `received_ms` is when NATS took the message: the time of an event that has none of its own.
pub(super) fn draft(topic: &str, payload: &[u8], received_ms: u64) -> Option<Draft> {
    let topic: Topic = topic.parse().ok()?;
    Some(ours(&topic, payload).unwrap_or_else(|| foreign(topic, payload).draft(received_ms)))
}

fn ours(topic: &Topic, payload: &[u8]) -> Option<Draft> {
    let (line, data) = std::str::from_utf8(payload).ok()?.split_once('\n')?;
    let mut words = line.split(' ');
    let mut next = || words.next();
    let (headers, data) = match next()? {
        VERSION => ("", data),
        WITH_HEADERS => data.split_once('\n')?,
        _ => return None,
    };
    let time_ms = next()?.parse().ok()?;
    let content = next()?;
    let content = [Content::Json, Content::Base64, Content::Deletion].into_iter().find(|one| word(*one) == content)?;
    // Headers and data are made safe again: any client of NATS with access to the subject could have written these lines as well.
    let mut event = match content {
        Content::Deletion => NewEvent::deletion(topic.clone()),
        Content::Base64 => NewEvent::new(topic.clone(), Data::encoded(serde_json::from_str(data).ok()?).ok()?),
        Content::Json => NewEvent::new(topic.clone(), Data::json(data).ok()?),
    };
    if !headers.is_empty() {
        event = event.with_headers(EventHeaders::json(headers).ok()?);
    }
    let (name, id) = (next()?, next()?);
    if words.next().is_some() {
        return None;
    }
    if name != NONE {
        event = event.name_as_stored(&percent_decode_str(name).decode_utf8().ok()?).ok()?;
    }
    if id != NONE {
        event = event.with_id(&percent_decode_str(id).decode_utf8().ok()?).ok()?;
    }
    Some(event.draft(time_ms))
}

fn foreign(topic: Topic, payload: &[u8]) -> NewEvent {
    let data = match std::str::from_utf8(payload) {
        Ok(text) => Data::json(text).unwrap_or_else(|_| Data::text(text)),
        Err(_) => Data::binary(payload),
    };
    NewEvent::new(topic, data)
}

/// The headers by which JetStream recognizes a duplicate of this draft: by its topic and id, or, where it has no id, by our
/// attempt to publish it.
pub(super) fn headers(draft: &Draft, window: bool) -> HeaderMap {
    let id = match draft.id() {
        Some(id) if window => key_of(draft.topic(), id),
        _ => attempt_key(),
    };
    let mut headers = HeaderMap::new();
    headers.insert(MESSAGE_ID, id.as_str());
    headers
}

/// The deduplication key of a topic and an id. It is a digest, since every server keeps each key for the whole window and the
/// pair may be long; truncated to 168 bits, for which no second preimage can be found.
pub(super) fn key_of(topic: &Topic, id: &str) -> String {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    // A topic contains no NUL, so no two pairs have the same encoding.
    digest.update(topic.as_str().as_bytes());
    digest.update(b"\0");
    digest.update(id.as_bytes());
    format!("k{}", base64(&digest.finish().as_ref()[..21]))
}

fn attempt_key() -> String {
    format!("a{}", base64(uuid::Uuid::new_v4().as_bytes()))
}

/// Any bytes in letters, digits, `-` and `_`.
pub(super) fn base64(bytes: &[u8]) -> String {
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Position;

    fn back(draft: &Draft) -> Draft {
        super::draft(draft.topic().as_str(), &payload(draft), 77).unwrap()
    }

    #[test]
    fn an_event_comes_back_as_it_was() {
        let topic: Topic = "a.<b".parse().unwrap();
        for (name, id, data) in [
            ("", "", Data::json(r#"{"a":1e400,"b":"x\ny"}"#).unwrap()),
            ("-", "-", Data::binary(&[0, 255, 10])),
            ("n m%", "ü\u{2028} ", Data::text("")),
        ] {
            let new = NewEvent::new(topic.clone(), data).named(name).unwrap().with_id(id).unwrap();
            let draft = new.draft(1_763_750_000_123);
            let at = |draft: Draft| draft.at("e".parse().unwrap(), Position(3));
            assert_eq!(at(back(&draft)), at(draft));
        }
    }

    #[test]
    fn only_what_needs_it_is_of_the_second_version() {
        let topic: Topic = "a".parse().unwrap();
        let headers = || EventHeaders::json(r#"{ "a": "\u000a" }"#).unwrap();
        let at = |draft: Draft| draft.at("e".parse().unwrap(), Position(3));
        for (event, expected) in [
            (NewEvent::new(topic.clone(), Data::json("1").unwrap()), "1 7 json - -\n1"),
            (NewEvent::deletion(topic.clone()), "2 7 deleted - -\n\n"),
            (NewEvent::deletion(topic.clone()).with_headers(headers()), "2 7 deleted - -\n{ \"a\": \"\\u000a\" }\n"),
            (
                NewEvent::new(topic.clone(), Data::binary(b"x")).with_headers(headers()),
                "2 7 base64 - -\n{ \"a\": \"\\u000a\" }\n\"eA==\"",
            ),
        ] {
            let draft = event.draft(7);
            assert_eq!(payload(&draft), expected);
            assert_eq!(at(back(&draft)), at(draft));
        }
    }

    #[test]
    fn payloads_are_told_apart_but_for_their_traces() {
        let topic: Topic = "a".parse().unwrap();
        let new = |headers: &str| {
            let new = NewEvent::new(topic.clone(), Data::json("1").unwrap());
            payload(&new.with_headers(EventHeaders::json(headers).unwrap()).draft(7))
        };
        let traced = new(r#"{"traceparent":"x","tracestate":"y"}"#);
        assert_eq!(payload_of(&traced), payload_of(&new("{}")), "in either version");
        assert_ne!(payload_of(&new(r#"{"a":"1"}"#)), payload_of(&new("{}")));
        assert_ne!(payload_of(&new(r#"{"a":"1"}"#)), payload_of(&new(r#"{"a":"2"}"#)));
        assert_ne!(payload_of(&payload(&NewEvent::deletion(topic.clone()).draft(7))), payload_of(&new("{}")));
    }

    #[test]
    fn what_others_put_there_is_an_event_too() {
        for (payload, data, base64) in [
            (&b"{\"a\": 1}"[..], r#"{"a": 1}"#, false),
            (b"plain", r#""plain""#, false),
            (b"1 2 json\nx", r#""1 2 json\nx""#, false),
            (b"2 2 json - -\nx", r#""2 2 json - -\nx""#, false),
            (b"3 2 json - -\n\nx", r#""3 2 json - -\n\nx""#, false),
            (b"", r#""""#, false),
            (&[0xff, 0], r#""/wA=""#, true),
        ] {
            let draft = draft("a.b", payload, 77).unwrap();
            assert_eq!((draft.data(), draft.is_base64(), draft.time_ms()), (data, base64, 77), "{payload:?}");
        }
        assert!(draft(&"x".repeat(256), b"1", 0).is_none());
    }

    #[test]
    fn what_others_put_there_in_our_form_is_made_safe() {
        for (payload, data, base64) in [
            ("1 5 json - -\n\"</script>\u{2028}\"", r#""\u003c/script>\u2028""#, false),
            ("1 5 json - -\n{\"a\":\n1}", r#"{"a":1}"#, false),
            ("1 5 json - -\nalert(1)", r#""1 5 json - -\nalert(1)""#, false),
            ("1 5 base64 - -\n\"AA==\"", r#""AA==""#, true),
            ("1 5 base64 - -\n\"</script>\"", r#""1 5 base64 - -\n\"\u003c/script>\"""#, false),
            ("2 5 json - -\n{\"a\":1}\n1", r#""2 5 json - -\n{\"a\":1}\n1""#, false),
            ("1 5 base64 - -\n1}", r#""1 5 base64 - -\n1}""#, false),
        ] {
            let draft = draft("a.b", payload.as_bytes(), 77).unwrap();
            assert_eq!((draft.data(), draft.is_base64()), (data, base64), "{payload:?}");
        }
    }

    #[test]
    fn a_key_is_topic_and_id_together() {
        let key = |topic: &str, id| key_of(&topic.parse().unwrap(), id);
        assert_eq!(key("a", "b"), key("a", "b"));
        assert_ne!(key("a", "bc"), key("ab", "c"));
        assert!(key("a", "x").bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')));
    }
}
