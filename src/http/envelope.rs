//! Decodes an event from a publisher's JSON, and collects its unknown keys.

use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::value::RawValue;

use super::error::ApiError;
use super::object::NotAString;
use crate::event::{Data, EventError, EventHeaders, NewEvent};
use crate::excerpt::excerpt;

/// Most unknown keys that are listed; more are ignored silently.
const NAMED_MAX: usize = 16;

/// Names of keys that were ignored, each once, at most [`NAMED_MAX`].
///
/// A misspelt key (`"topics"`, `"name"`) would otherwise be dropped silently, and its author would search for the error at
/// the subscribers.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Ignored(Vec<String>);

impl Ignored {
    pub(super) fn names(&self) -> &[String] {
        &self.0
    }

    /// Adds a name, unless it is listed already.
    pub(super) fn add(&mut self, name: &str) {
        let name = excerpt(name);
        if self.0.len() < NAMED_MAX && !self.0.contains(&name) {
            self.0.push(name);
        }
    }

    /// Without the keys that have another meaning.
    pub(super) fn without(mut self, known: &[&str]) -> Self {
        self.0.retain(|name| !known.contains(&name.as_str()));
        self
    }

    /// Refuses unknown keys, where `strict` is set.
    ///
    /// # Errors
    /// 400, with the names.
    pub(super) fn check(&self, strict: bool) -> Result<(), ApiError> {
        if !strict || self.0.is_empty() {
            return Ok(());
        }
        let names = self.0.join(", ");
        let message = format!(
            "unknown keys: {names}; an event has topic, event, data, encoding, deleted, headers and id (`--strict`)"
        );
        Err(ApiError::bad("bad_event", message))
    }
}

/// An event in a publisher's spelling.
pub(super) struct Envelope<'a> {
    topic: String,
    event: Option<String>,
    /// Present unless the event is a deletion.
    data: Option<&'a RawValue>,
    id: Option<String>,
    encoding: Option<String>,
    deleted: bool,
    headers: Option<&'a RawValue>,
    pub(super) ignored: Ignored,
}

impl Envelope<'_> {
    /// The event, and the keys that were ignored.
    ///
    /// # Errors
    /// 400 where a value is invalid.
    pub(super) fn into_event(self) -> Result<(NewEvent, Ignored), ApiError> {
        let data = match (self.data, self.encoding.as_deref()) {
            (_, Some(encoding)) if encoding != "base64" => {
                return Err(ApiError::bad("bad_data", "`encoding` must be \"base64\" or absent"));
            }
            (None, None) => None,
            (None, Some(_)) => {
                return Err(ApiError::bad(
                    "bad_data",
                    "`encoding` is the encoding of `data`: leave it out with `deleted`",
                ));
            }
            (Some(data), None) => Some(Data::raw(data)?),
            (Some(data), Some(_)) => Some(Data::encoded(data)?),
        };
        let headers = self.headers.map(EventHeaders::raw).transpose().map_err(EventError::from)?;
        let content = content(self.deleted, data)?;
        let event = build(&self.topic, self.event.as_deref(), self.id.as_deref(), content)?;
        Ok((event.with_headers(headers.unwrap_or_default()), self.ignored))
    }
}

/// The data of an event; `None` for a deletion.
///
/// # Errors
/// 400 where both are given, or neither.
pub(super) fn content(deleted: bool, data: Option<Data>) -> Result<Option<Data>, ApiError> {
    match (deleted, &data) {
        (true, Some(_)) => {
            let message = "`deleted` says that the topic no longer has a value, so `data` must be absent, not even null: leave out one of the two";
            Err(ApiError::bad("bad_data", message))
        }
        (false, None) => {
            Err(ApiError::bad("bad_data", "`data` is missing: an event without data is a deletion, with `deleted`"))
        }
        _ => Ok(data),
    }
}

/// An event of its parts; without data a deletion.
///
/// # Errors
/// 400 where a part is invalid.
pub(super) fn build(
    topic: &str,
    name: Option<&str>,
    id: Option<&str>,
    data: Option<Data>,
) -> Result<NewEvent, ApiError> {
    let topic = topic.parse()?;
    let event = match data {
        Some(data) => NewEvent::new(topic, data),
        None => NewEvent::deletion(topic),
    };
    Ok(event.named(name.unwrap_or_default())?.with_id(id.unwrap_or_default())?)
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum Key {
    Topic,
    Event,
    Data,
    Id,
    Encoding,
    Deleted,
    Headers,
    Unknown(String),
}

/// Written by hand: serde's derived code either drops unknown keys or, with `flatten`, cannot borrow raw values.
impl<'de> Deserialize<'de> for Envelope<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Keys)
    }
}

struct Keys;

impl<'de> Visitor<'de> for Keys {
    type Value = Envelope<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object with topic and data")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Envelope<'de>, A::Error> {
        let (mut topic, mut event, mut data, mut id, mut encoding) = (None, None, None, None, None);
        let (mut deleted, mut headers): (Option<Option<bool>>, Option<Option<&RawValue>>) = (None, None);
        let mut ignored = Ignored::default();
        while let Some(key) = map.next_key()? {
            let twice = match &key {
                Key::Topic => topic.is_some().then_some("topic"),
                Key::Event => event.is_some().then_some("event"),
                Key::Data => data.is_some().then_some("data"),
                Key::Id => id.is_some().then_some("id"),
                Key::Encoding => encoding.is_some().then_some("encoding"),
                Key::Deleted => deleted.is_some().then_some("deleted"),
                Key::Headers => headers.is_some().then_some("headers"),
                Key::Unknown(_) => None,
            };
            if let Some(name) = twice {
                return Err(A::Error::duplicate_field(name));
            }
            match key {
                Key::Topic => topic = Some(map.next_value()?),
                Key::Event => event = Some(map.next_value()?),
                Key::Data => data = Some(map.next_value()?),
                Key::Id => id = Some(map.next_value()?),
                Key::Encoding => encoding = Some(map.next_value()?),
                Key::Deleted => deleted = Some(map.next_value::<NotAString<_>>()?.0),
                Key::Headers => headers = Some(map.next_value()?),
                Key::Unknown(name) => {
                    let _: IgnoredAny = map.next_value()?;
                    ignored.add(&name);
                }
            }
        }
        let deleted = deleted.flatten().unwrap_or_default();
        if data.is_none() && !deleted {
            return Err(A::Error::missing_field("data"));
        }
        Ok(Envelope {
            topic: topic.ok_or_else(|| A::Error::missing_field("topic"))?,
            event: event.flatten(),
            data,
            id: id.flatten(),
            encoding: encoding.flatten(),
            deleted,
            headers: headers.flatten(),
            ignored,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(text: &str) -> Result<Envelope<'_>, serde_json::Error> {
        serde_json::from_str(text)
    }

    #[test]
    fn names_ignored_keys() {
        let text =
            r#"{"topic":"a","topics":[1,{"x":2}],"data":1.50,"Event":"n","event":null,"topics":3,"\u0069d":"k"}"#;
        let envelope = envelope(text).unwrap();
        assert_eq!(envelope.data.map(RawValue::get), Some("1.50"));
        assert_eq!(envelope.ignored.names(), ["topics", "Event"]);
        let (event, ignored) = envelope.into_event().unwrap();
        assert_eq!((event.name(), event.id().map(|id| &**id)), (None, Some("k")));
        assert!(ignored.check(false).is_ok() && ignored.check(true).is_err());
        assert!(ignored.without(&["topics", "Event"]).check(true).is_ok());
    }

    #[test]
    fn a_deletion_has_no_data() {
        let event = |text: &str| {
            envelope(text).map_err(|error| error.to_string()).and_then(|envelope| {
                envelope.into_event().map(|(event, _)| event.draft(0)).map_err(|error| error.message().to_owned())
            })
        };
        assert!(event(r#"{"topic":"a","deleted":true}"#).unwrap().is_deletion());
        assert!(!event(r#"{"topic":"a","deleted":false,"data":1}"#).unwrap().is_deletion());
        assert!(!event(r#"{"topic":"a","deleted":null,"data":1}"#).unwrap().is_deletion());
        for (text, expected) in [
            (r#"{"topic":"a","deleted":true,"data":null}"#, "`data` must be absent"),
            (r#"{"topic":"a","deleted":true,"encoding":"base64"}"#, "encoding"),
            (r#"{"topic":"a","deleted":false}"#, "missing field `data`"),
            (r#"{"topic":"a","deleted":"true"}"#, "a string, where another type"),
            (r#"{"topic":"a","deleted":true,"deleted":true}"#, "duplicate field"),
        ] {
            let error = event(text).map(|_| ()).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn headers_are_kept_as_they_came() {
        let headers = |value: &str| {
            let text = format!("{{\"topic\":\"a\",\"data\":1,\"headers\":{value}}}");
            let event = envelope(&text).unwrap().into_event();
            event.map(|(event, _)| event.headers().as_json().to_owned()).map_err(|error| error.message().to_owned())
        };
        assert_eq!(headers(r#"{"b": "\u0041", "a": ""}"#).unwrap(), r#"{"b": "\u0041", "a": ""}"#);
        assert_eq!((headers("null").unwrap(), headers("{}").unwrap()), (String::new(), String::new()));
        for bad in ["1", "\"a\"", "[]", r#"{"a":1}"#, r#"{"a":"1","a":"1"}"#] {
            assert!(headers(bad).unwrap_err().starts_with("`headers`"), "{bad}");
        }
    }

    #[test]
    fn names_are_few_and_short() {
        let many: String = (0..100).map(|n| format!(",\"{}{n}\":0", "k".repeat(200))).collect();
        let text = format!("{{\"topic\":\"a\",\"data\":1{many},\"x\":1}}");
        let envelope = envelope(&text).unwrap();
        assert!(envelope.ignored.names().len() <= NAMED_MAX);
        assert!(envelope.ignored.names().iter().all(|name| name.chars().count() <= 81));
    }

    #[test]
    fn refuses_json_that_is_no_event() {
        for text in ["1", "[]", "\"a\"", "{}", r#"{"topic":"a"}"#, r#"{"data":1}"#, r#"{"topic":1,"data":1}"#] {
            assert!(envelope(text).is_err(), "{text}");
        }
        for twice in ["topic", "event", "data", "id", "encoding"] {
            let text = format!("{{\"topic\":\"a\",\"data\":\"b\",\"{twice}\":\"c\",\"{twice}\":\"d\"}}");
            let error = envelope(&text).err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains("duplicate field"), "{twice}: {error}");
        }
    }
}
