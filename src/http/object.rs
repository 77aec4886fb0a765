//! Parses a peer's JSON objects, with errors whose cost does not depend on the peer's strings.
//!
//! Where serde finds a string in another type's place, its message repeats the string, escaped: seven bytes for one, formatted
//! character by character, which takes thirty times as long as parsing. To shorten the message afterwards bounds what is sent, not
//! what is computed; so a string is refused before serde's own check.

use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::value::RawValue;

/// Parses `text` as an object, or as an array of a type whose own parser is bounded.
///
/// # Errors
/// Not JSON, or not a `T`.
pub(super) fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> serde_json::Result<T> {
    if is_string(text) {
        let _checked: &RawValue = serde_json::from_str(text)?;
        return Err(serde_json::Error::custom("a string, where an object is expected"));
    }
    serde_json::from_str(text)
}

/// For `deserialize_with`: a field that is not a string.
///
/// # Errors
/// A string, or not a `T`.
pub(super) fn not_a_string<'de, D: Deserializer<'de>, T: DeserializeOwned>(deserializer: D) -> Result<T, D::Error> {
    NotAString::deserialize(deserializer).map(|value| value.0)
}

/// A value that is not a string; see [`not_a_string`].
pub(super) struct NotAString<T>(pub(super) T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for NotAString<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let raw = <&RawValue>::deserialize(deserializer)?;
        if is_string(raw.get()) {
            return Err(D::Error::custom("a string, where another type is expected"));
        }
        serde_json::from_str(raw.get()).map(Self).map_err(D::Error::custom)
    }
}

fn is_string(json: &str) -> bool {
    json.trim_ascii_start().starts_with('"')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Message {
        #[serde(deserialize_with = "not_a_string")]
        topics: Vec<String>,
        #[serde(default, deserialize_with = "not_a_string")]
        live: Option<bool>,
    }

    #[test]
    fn what_is_right_parses() {
        let message: Message = parse(r#" {"topics":["a","b"],"live":null} "#).unwrap();
        assert_eq!((message.topics.len(), message.live), (2, None));
        assert_eq!(parse::<Message>(r#"{"topics":[],"live":true}"#).unwrap().live, Some(true));
    }

    #[test]
    fn no_string_is_repeated_by_an_error() {
        let long = "\u{7f}".repeat(100_000);
        for json in [
            format!("\"{long}\""),
            format!(" \n\"{long}\""),
            format!(r#"{{"topics":"{long}"}}"#),
            format!(r#"{{"topics":[],"live":"{long}"}}"#),
        ] {
            let error = parse::<Message>(&json).unwrap_err();
            assert!(error.is_data() && error.to_string().len() < 120, "{error}");
        }
        assert!(parse::<Message>("\"without an end").unwrap_err().is_eof());
    }
}
