//! The encoding of an event in its row: the column `base64`, which contains the encoding's number, and `data`.
//!
//! Logs of format 1 have two encodings, 0 and 1: JSON, and bytes in base64. Format 2 adds deletions and events with headers, in
//! the same two columns, since these are in the index `e_topic`, from which a topic's events are read. A column of its own would
//! need another index, which takes minutes to build in a log of ten million events. So a log is opened as it is, whichever
//! version wrote it, and becomes one of format 2 with the first event that needs it, in that event's transaction. Until then an
//! older server can open the log; from then on it refuses to, instead of delivering a deletion as base64.

use std::borrow::Cow;

use rusqlite::types::Type;

use crate::event::{Content, Data, Draft, EventHeaders, NewEvent, PayloadDigest, payload_digest};
use crate::topic::Topic;

/// The format of a log without deletions and headers.
pub(super) const FIRST_FORMAT: i32 = 1;

/// The format of a log with deletions or headers.
const DELETIONS_FORMAT: i32 = 2;

/// The format of a log from whose middle events were removed. An older server would count them, take the log for damaged, and
/// deliver what follows without a gap.
pub(super) const HOLES_FORMAT: i32 = 3;

/// The newest format that this server reads.
pub(super) const NEWEST_FORMAT: i32 = HOLES_FORMAT;

const BASE64: i64 = 1;

/// A deletion. `data` is empty, but for headers.
const DELETION: i64 = 2;

/// The headers precede the data, separated by a line feed: neither contains one in its safe form.
const WITH_HEADERS: i64 = 4;

/// Whether an event with this encoding is a deletion.
pub(super) fn is_deletion(form: i64) -> bool {
    form & !WITH_HEADERS == DELETION
}

/// The content of the two columns.
pub(super) struct Stored<'d> {
    pub(super) form: i64,
    pub(super) data: Cow<'d, str>,
}

impl<'d> Stored<'d> {
    pub(super) fn of(draft: &'d Draft) -> Self {
        let (form, data) = match draft.content() {
            Content::Json => (0, draft.data()),
            Content::Base64 => (BASE64, draft.data()),
            Content::Deletion => (DELETION, ""),
        };
        match draft.headers() {
            "" => Self { form, data: data.into() },
            headers => Self { form: form | WITH_HEADERS, data: format!("{headers}\n{data}").into() },
        }
    }

    /// The oldest log format that has this encoding.
    pub(super) fn format(&self) -> i32 {
        if self.form <= BASE64 { FIRST_FORMAT } else { DELETIONS_FORMAT }
    }

    /// The event, without its name and its id.
    ///
    /// # Errors
    /// Where the encoding is unknown or does not fit: the file is damaged.
    pub(super) fn event(&self, topic: Topic) -> rusqlite::Result<NewEvent> {
        let (content, headers, data) = self.parts()?;
        let event = match content {
            Content::Deletion => NewEvent::deletion(topic),
            Content::Json | Content::Base64 => {
                NewEvent::new(topic, Data::from_stored(data, content == Content::Base64))
            }
        };
        Ok(if headers.is_empty() { event } else { event.with_headers(EventHeaders::from_stored(headers)) })
    }

    /// As [`Draft::payload_digest`] of the event.
    ///
    /// # Errors
    /// As [`Self::event`].
    pub(super) fn payload_digest(&self, name: Option<&str>) -> rusqlite::Result<PayloadDigest> {
        let (content, headers, data) = self.parts()?;
        Ok(payload_digest(name, content, headers, data))
    }

    /// The kind of content, the headers, and the data.
    fn parts(&self) -> rusqlite::Result<(Content, &str, &str)> {
        let content = match self.form & !WITH_HEADERS {
            0 => Content::Json,
            BASE64 => Content::Base64,
            DELETION => Content::Deletion,
            _ => return Err(self.damaged()),
        };
        if self.form & WITH_HEADERS == 0 {
            return Ok((content, "", &self.data));
        }
        let (headers, data) = self.data.split_once('\n').ok_or_else(|| self.damaged())?;
        Ok((content, headers, data))
    }

    fn damaged(&self) -> rusqlite::Error {
        let reason = format!("an event with encoding {} does not have that encoding", self.form);
        rusqlite::Error::FromSqlConversionFailure(0, Type::Integer, reason.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Position;

    #[test]
    fn a_row_holds_the_whole_event() {
        let topic: Topic = "a".parse().unwrap();
        let new = |data: Data| NewEvent::new(topic.clone(), data);
        let headers = || EventHeaders::new([("a", "\n{}"), ("__proto__", "é")]).unwrap();
        let cases = [
            (new(Data::json("{\"a\":\n1}").unwrap()), 0, FIRST_FORMAT),
            (new(Data::binary(b"\n")), 1, FIRST_FORMAT),
            (NewEvent::deletion(topic.clone()), 2, DELETIONS_FORMAT),
            (new(Data::text("x\ny")).with_headers(headers()), 4, DELETIONS_FORMAT),
            (new(Data::binary(&[])).with_headers(headers()), 5, DELETIONS_FORMAT),
            (NewEvent::deletion(topic.clone()).with_headers(headers()), 6, DELETIONS_FORMAT),
        ];
        for (event, form, format) in cases {
            let draft = event.clone().draft(7);
            let stored = Stored::of(&draft);
            assert_eq!((stored.form, stored.format()), (form, format), "{event:?}");
            assert_eq!(stored.event(topic.clone()).unwrap(), event);
            assert_eq!(stored.payload_digest(None).unwrap(), draft.payload_digest());
            let at = |draft: Draft| draft.at("e".parse().unwrap(), Position(1));
            assert_eq!(at(stored.event(topic.clone()).unwrap().draft(7)), at(draft.clone()));
        }
    }

    #[test]
    fn a_form_that_is_none_is_damage() {
        for (form, data) in [(3, "1"), (7, "{}\n1"), (8, "1"), (-1, "1"), (4, "{\"a\":\"b\"}")] {
            assert!(Stored { form, data: data.into() }.event("a".parse().unwrap()).is_err(), "{form}");
        }
    }
}
