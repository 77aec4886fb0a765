//! The headers of an event: metadata from its publisher, beside the data.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{IgnoredAny, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::excerpt::excerpt;
use crate::json::{self, JsonError};

/// Most headers of an event.
pub const HEADERS_MAX: usize = 16;

/// Most bytes of the names and values of an event's headers together, in UTF-8, before they are encoded as JSON.
pub const HEADERS_MAX_BYTES: usize = 4096;

/// The two names of W3C Trace Context: they belong to one attempt to publish, not to the payload.
pub(crate) const TRACEPARENT: &str = "traceparent";
pub(crate) const TRACESTATE: &str = "tracestate";

/// Strings by name, which accompany an event's data and mean nothing to the server: a reason, a content type, a trace.
///
/// They are kept in their original spelling and order, as one JSON object in the safe form (see [`crate::json`]). Each name
/// is unique, since parsers of JSON differ in which of two duplicates they take.
///
/// ```
/// # use switchback::EventHeaders;
/// let headers = EventHeaders::new([("reason", "left"), ("by", "li")])?;
/// assert_eq!(headers.as_json(), r#"{"reason":"left","by":"li"}"#);
/// assert_eq!(headers.get("reason").as_deref(), Some("left"));
/// assert_eq!(headers, EventHeaders::json(r#"{"reason":"left","by":"li"}"#)?);
/// # Ok::<(), switchback::HeadersError>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventHeaders {
    /// Empty where there are none.
    json: Box<str>,
}

/// Names and values, in order.
type Pairs<'j> = Vec<(Cow<'j, str>, Cow<'j, str>)>;

impl EventHeaders {
    /// Headers of names and values, in this order.
    ///
    /// # Errors
    /// [`HeadersError`] for an empty name, a duplicate name, more than [`HEADERS_MAX`] headers or more than
    /// [`HEADERS_MAX_BYTES`].
    pub fn new<N: AsRef<str>, V: AsRef<str>>(pairs: impl IntoIterator<Item = (N, V)>) -> Result<Self, HeadersError> {
        let mut json = String::new();
        let mut checked = Check::default();
        for (name, value) in pairs {
            let (name, value) = (name.as_ref(), value.as_ref());
            checked.add(name.to_owned().into(), value.to_owned().into())?;
            json.push(if json.is_empty() { '{' } else { ',' });
            json.push_str(&member(name, value));
        }
        if !json.is_empty() {
            json.push('}');
        }
        Ok(Self { json: json.into() })
    }

    /// Headers as a JSON object of strings, in its original spelling.
    ///
    /// # Errors
    /// [`HeadersError`] as [`Self::new`], and where it is not an object, a value is not a string, or a string has a lone
    /// surrogate.
    pub fn json(text: &str) -> Result<Self, HeadersError> {
        let value: &RawValue = serde_json::from_str(text).map_err(|_| HeadersError::NotAnObject)?;
        Self::raw(value)
    }

    /// As [`Self::json`], of a value whose syntax serde has checked already.
    pub(crate) fn raw(value: &RawValue) -> Result<Self, HeadersError> {
        let safe = json::safe_syntax(value.get())?;
        Ok(if parse(&safe)?.is_empty() { Self::default() } else { Self { json: safe.into() } })
    }

    /// Headers from [`Self::as_json`]: for stores, which keep that.
    #[must_use]
    pub fn from_stored(json: &str) -> Self {
        Self { json: json.into() }
    }

    /// The object; empty where there are no headers.
    #[must_use]
    pub fn as_json(&self) -> &str {
        &self.json
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// The value of a header.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<String> {
        header(&self.json, name)
    }

    /// The same headers with one more at the end.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with(&self, name: &str, value: &str) -> Result<Self, HeadersError> {
        let mut checked = Check { pairs: pairs(&self.json), ..Check::default() };
        checked.bytes = checked.pairs.iter().map(|(name, value)| name.len() + value.len()).sum();
        checked.add(name.into(), value.into())?;
        let begun = self.json.trim_end().strip_suffix('}');
        let json = match begun {
            Some(begun) => format!("{begun},{}}}", member(name, value)),
            None => format!("{{{}}}", member(name, value)),
        };
        Ok(Self { json: json.into() })
    }
}

/// A member of the object.
fn member(name: &str, value: &str) -> String {
    format!("{}:{}", json::string(name), json::string(value))
}

/// The value of one header in a validated object.
pub(super) fn header(json: &str, name: &str) -> Option<String> {
    pairs(json).into_iter().find(|(key, _)| key == name).map(|(_, value)| value.into_owned())
}

/// The headers that belong to the payload, in an unambiguous form: all but the trace context, which differs between two
/// attempts to publish the same event.
pub(crate) fn payload_headers(json: &str) -> String {
    let own = pairs(json).into_iter().filter(|(name, _)| !matches!(&**name, TRACEPARENT | TRACESTATE));
    own.map(|(name, value)| member(&name, &value)).collect::<Vec<_>>().join(",")
}

/// The pairs of a validated object; none where there is no object.
fn pairs(json: &str) -> Pairs<'_> {
    if json.is_empty() { Pairs::new() } else { parse(json).unwrap_or_default() }
}

fn parse(json: &str) -> Result<Pairs<'_>, HeadersError> {
    serde_json::from_str::<Parsed<'_>>(json).map_err(|_| HeadersError::NotAnObject)?.0
}

/// Checks the limits for one pair after the other.
#[derive(Default)]
struct Check<'j> {
    pairs: Pairs<'j>,
    bytes: usize,
}

impl<'j> Check<'j> {
    fn add(&mut self, name: Cow<'j, str>, value: Cow<'j, str>) -> Result<(), HeadersError> {
        self.bytes += name.len() + value.len();
        if self.pairs.len() >= HEADERS_MAX {
            return Err(HeadersError::TooMany);
        }
        if self.bytes > HEADERS_MAX_BYTES {
            return Err(HeadersError::TooLong);
        }
        if name.is_empty() {
            return Err(HeadersError::NoName);
        }
        if self.pairs.iter().any(|(known, _)| *known == name) {
            return Err(HeadersError::Twice(excerpt(&name)));
        }
        self.pairs.push((name, value));
        Ok(())
    }
}

/// The pairs of any object, or the error: serde's own errors would lose the kind of it.
struct Parsed<'j>(Result<Pairs<'j>, HeadersError>);

/// A string, borrowed where it has no escapes. (For `Cow` itself serde always copies.)
#[derive(Deserialize)]
struct Text<'j>(#[serde(borrow)] Cow<'j, str>);

impl<'de: 'j, 'j> Deserialize<'de> for Parsed<'j> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Members)
    }
}

struct Members;

impl<'de> Visitor<'de> for Members {
    type Value = Parsed<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Parsed<'de>, A::Error> {
        let mut checked = Check::default();
        while let Some(Text(name)) = map.next_key()? {
            let value: &RawValue = map.next_value()?;
            let added = match serde_json::from_str(value.get()) {
                Ok(Text(value)) => checked.add(name, value),
                Err(_) => Err(HeadersError::NotAString(excerpt(&name))),
            };
            if let Err(error) = added {
                // serde requires that the whole object is read.
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                return Ok(Parsed(Err(error)));
            }
        }
        Ok(Parsed(Ok(checked.pairs)))
    }
}

/// An event's headers are invalid. The message says what would be valid.
#[derive(Debug, thiserror::Error)]
pub enum HeadersError {
    /// Not an object.
    #[error("`headers` must be an object of strings, such as {{\"reason\":\"left\"}}")]
    NotAnObject,
    /// A value is a number, a list, `null` or the like; the text is the header's name.
    #[error("`headers`: the value of {0:?} is not a string: make it a string, or put it into `data`")]
    NotAString(String),
    /// A header has an empty name.
    #[error("`headers`: the name of a header must not be empty")]
    NoName,
    /// Two headers have the same name.
    #[error("`headers`: {0:?} is given twice: a name must be unique")]
    Twice(String),
    /// More than [`HEADERS_MAX`].
    #[error("`headers`: an event may have at most 16 headers: put more into `data`")]
    TooMany,
    /// More than [`HEADERS_MAX_BYTES`].
    #[error("`headers`: names and values may have at most 4096 bytes together: put more into `data`")]
    TooLong,
    /// A string that not every client could receive.
    #[error("`headers`: {0}")]
    Json(#[from] JsonError),
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn they_are_kept_as_they_came() {
        for text in [r#"{"b":"1","a":"\u00e9\/"}"#, r#"{ "a" : "</x>" }"#, "{\"a\":\n\"\u{2028}\"}"] {
            let headers = EventHeaders::json(text).unwrap();
            assert_eq!(headers.as_json(), json::safe(text).unwrap());
        }
        assert_eq!(EventHeaders::json(" { } ").unwrap(), EventHeaders::default());
        assert_eq!(EventHeaders::new::<&str, &str>([]).unwrap(), EventHeaders::default());
    }

    #[test]
    fn limits_are_exact() {
        let object = |count: usize, value: &str| {
            let members: Vec<String> = (0..count).map(|n| format!("\"{n:02}\":\"{value}\"")).collect();
            format!("{{{}}}", members.join(","))
        };
        assert!(EventHeaders::json(&object(16, "é")).is_ok());
        assert!(matches!(EventHeaders::json(&object(17, "")), Err(HeadersError::TooMany)));
        // 16 names of two bytes; 16 times 254 bytes are what is left.
        assert!(EventHeaders::json(&object(16, &"é".repeat(127))).is_ok());
        assert!(matches!(EventHeaders::json(&object(16, &"x".repeat(255))), Err(HeadersError::TooLong)));
        // An escape counts as the character that it encodes.
        assert!(EventHeaders::json(&object(16, &"\\u0000".repeat(254))).is_ok());
        let sixteen: Vec<_> = (0..16).map(|n| (format!("{n:02}"), "x".repeat(254))).collect();
        let full = EventHeaders::new(sixteen.clone()).unwrap();
        assert_eq!(full, EventHeaders::json(&object(16, &"x".repeat(254))).unwrap());
        assert!(matches!(full.with("x", ""), Err(HeadersError::TooMany)));
        let fifteen = EventHeaders::new(sixteen[1..].to_vec()).unwrap();
        assert!(fifteen.with("00", &"x".repeat(254)).is_ok());
        assert!(matches!(fifteen.with("00", &"x".repeat(255)), Err(HeadersError::TooLong)));
        assert!(matches!(fifteen.with("01", ""), Err(HeadersError::Twice(_))));
    }

    #[test]
    fn errors_name_the_fault() {
        for (text, expected) in [
            ("1", "object"),
            ("[]", "object"),
            ("null", "object"),
            ("{", "object"),
            (r#"{"a":1}"#, "\"a\" is not a string"),
            (r#"{"x":"","a":null}"#, "\"a\" is not a string"),
            (r#"{"a":["b"]}"#, "\"a\" is not a string"),
            (r#"{"a":"1","\u0061":"2"}"#, "\"a\" is given twice"),
            (r#"{"":"1"}"#, "name"),
            (r#"{"a":"\ud800"}"#, "surrogate"),
            (r#"{"\ud800":"a"}"#, "surrogate"),
        ] {
            let error = EventHeaders::json(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn a_trace_is_no_part_of_the_payload() {
        let own = EventHeaders::json(r#"{"a":"1"}"#).unwrap();
        let traced = own.with(TRACEPARENT, "x").unwrap().with(TRACESTATE, "y").unwrap();
        assert_eq!(payload_headers(traced.as_json()), payload_headers(own.as_json()));
        assert_eq!(payload_headers(""), "");
        for other in [r#"{"a":"2"}"#, r#"{"b":"1"}"#, r#"{"a":"1","b":""}"#, r#"{"a":"1\",\"b\":\""}"#] {
            assert_ne!(payload_headers(other), payload_headers(own.as_json()), "{other}");
        }
    }

    /// The same headers, spelt with one more space.
    fn spaced_out(headers: &EventHeaders) -> EventHeaders {
        let begun = headers.as_json().strip_suffix('}').unwrap_or("{");
        EventHeaders::json(&format!("{begun} }}")).unwrap()
    }

    proptest! {
        #[test]
        fn headers_survive_a_round_trip(pairs in proptest::collection::btree_map(".{1,20}", ".{0,100}", 0..16), spaced: bool) {
            let headers = EventHeaders::new(&pairs).unwrap();
            let (first, rest) = (pairs.iter().take(pairs.len() / 2), pairs.iter().skip(pairs.len() / 2));
            let first = EventHeaders::new(first).unwrap();
            let first = if spaced { spaced_out(&first) } else { first };
            let added = rest.fold(first, |headers, (name, value)| headers.with(name, value).unwrap());
            for (name, value) in &pairs {
                prop_assert_eq!(headers.get(name), Some(value.clone()));
                prop_assert_eq!(added.get(name), Some(value.clone()));
            }
            prop_assert_eq!(payload_headers(headers.as_json()), payload_headers(added.as_json()));
            prop_assert_eq!(EventHeaders::from_stored(headers.as_json()), headers);
        }

        #[test]
        fn never_panics(text in "[{}\\[\\]\":,a\\\\u0dD8 ]{0,60}") {
            let _ = EventHeaders::json(&text);
        }
    }
}
