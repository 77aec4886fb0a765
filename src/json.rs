//! JSON made safe for every framing, once, when an event is published.
//!
//! The same bytes are then valid in JSON, in JavaScript, inside `<script>`, on one line of SSE or
//! NDJSON, and in a WebSocket text frame:
//!
//! - `<` becomes `\u003c`: neither `</script>` nor `<!--` can end or change a script (WHATWG HTML §13.2.5.4).
//! - U+2028 and U+2029 become escapes: they end a line in JavaScript before ES2019.
//! - U+0085 becomes an escape: it ends a line for clients that split text as Unicode defines it (Python's `str.splitlines`).
//! - raw CR and LF, which JSON allows between tokens only, are dropped: they end a line of SSE.
//!
//! Nothing else changes: numbers keep every digit, keys their order, duplicate keys both values. So the text is scanned
//! and copied, not parsed into a tree and serialized again.

use std::borrow::Cow;

use bytes::BufMut;

/// Deepest nesting of arrays and objects in an event's data.
pub const NESTING_MAX: usize = 128;

/// Why a text cannot be an event's data.
#[derive(Debug, thiserror::Error)]
pub enum JsonError {
    /// Not JSON (RFC 8259).
    #[error("not JSON: {0}")]
    Syntax(#[from] serde_json::Error),
    /// Deeper than [`NESTING_MAX`].
    #[error("nested too deep: at most 128 levels of arrays and objects are allowed")]
    Nesting,
    /// Half of a UTF-16 pair: it has no UTF-8 form, so it could not reach every client unchanged.
    #[error("a lone surrogate: \\ud800 to \\udfff are allowed only in pairs")]
    LoneSurrogate,
}

/// Checks that `text` is one JSON value within the limits and returns it in the safe form.
///
/// # Errors
/// [`JsonError`] says what is wrong.
pub fn safe(text: &str) -> Result<Cow<'_, str>, JsonError> {
    let value: &serde_json::value::RawValue = serde_json::from_str(text)?;
    safe_syntax(value.get())
}

/// As [`safe`], for a text whose syntax was checked already, as in serde's `RawValue`.
///
/// # Errors
/// [`JsonError::Nesting`] and [`JsonError::LoneSurrogate`].
pub fn safe_syntax(json: &str) -> Result<Cow<'_, str>, JsonError> {
    check_limits(json)?;
    Ok(escape(json))
}

/// Appends a string as JSON in the safe form. Fast for strings that need no escape, as most topics and names.
pub fn write_string(text: &str, out: &mut impl BufMut) {
    let plain = |byte: u8| matches!(byte, b' '..=b'~') && !matches!(byte, b'"' | b'\\' | b'<');
    if text.bytes().all(plain) {
        out.put_u8(b'"');
        out.put_slice(text.as_bytes());
        out.put_u8(b'"');
    } else {
        out.put_slice(string(text).as_bytes());
    }
}

/// A string as JSON in the safe form.
#[must_use]
pub fn string(text: &str) -> String {
    // Serializing a str into memory cannot fail.
    let json = serde_json::to_string(text).unwrap_or_default();
    escape(&json).into_owned()
}

/// Whether a JSON text keeps its meaning as a literal in a script, which depends on keys named `__proto__`: in a script such a
/// key sets the object's prototype, and two of them in one object are a syntax error (ECMA-262 §13.2.5.1 and §B.3.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Literal {
    /// The literal means the same as the JSON.
    #[default]
    Same,
    /// The literal is valid, but loses a key.
    LosesKeys,
    /// The literal is a syntax error.
    Illegal,
}

/// Whether `json`, a text in the safe form, keeps its meaning as a literal in a script.
#[must_use]
pub fn as_literal(json: &str) -> Literal {
    let bytes = json.as_bytes();
    // Nearly every text is decided here, and most by the first test.
    if memchr::memchr2(b'_', b'\\', bytes).is_none() || !json.contains("__proto__") && !json.contains("\\u00") {
        return Literal::Same;
    }
    let mut literal = Literal::Same;
    // For each open object or array, whether such a key was seen in it.
    let mut open = Vec::new();
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let start = at;
        at += 1;
        match byte {
            b'{' | b'[' => open.push(false),
            b'}' | b']' => drop(open.pop()),
            b'"' => {
                at = string_end(bytes, at);
                if is_proto_key(&json[start..at], &json[at..])
                    && let Some(seen) = open.last_mut()
                {
                    let found = if std::mem::replace(seen, true) { Literal::Illegal } else { Literal::LosesKeys };
                    literal = literal.max(found);
                }
            }
            _ => {}
        }
    }
    literal
}

/// Just past the quote that ends the string whose content begins at `at`.
fn string_end(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|byte| *byte != b'"') {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn is_proto_key(string: &str, rest: &str) -> bool {
    rest.trim_start().starts_with(':')
        && serde_json::from_str::<Cow<'_, str>>(string).is_ok_and(|key| key == "__proto__")
}

/// Checks depth and surrogates in one pass over the bytes. Relies on the syntax, which was checked before.
fn check_limits(json: &str) -> Result<(), JsonError> {
    let bytes = json.as_bytes();
    let (mut depth, mut at) = (0_usize, 0);
    while let Some(&byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'"' => at = check_string(bytes, at)?,
            b'[' | b'{' => {
                depth += 1;
                if depth > NESTING_MAX {
                    return Err(JsonError::Nesting);
                }
            }
            b']' | b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    Ok(())
}

/// Just past the quote that ends the string whose content begins at `at`.
fn check_string(bytes: &[u8], mut at: usize) -> Result<usize, JsonError> {
    // Most bytes of events are in strings, and few of those are escapes.
    while let Some(skipped) = memchr::memchr2(b'"', b'\\', bytes.get(at..).unwrap_or_default()) {
        at += skipped;
        if bytes[at] == b'"' {
            return Ok(at + 1);
        }
        at += escape_length(&bytes[at..])?;
    }
    Ok(bytes.len())
}

/// The length of the escape at the start of `bytes`; a surrogate pair counts as one escape.
fn escape_length(bytes: &[u8]) -> Result<usize, JsonError> {
    match unicode_escape(bytes) {
        None => Ok(2),
        Some(0xDC00..=0xDFFF) => Err(JsonError::LoneSurrogate),
        Some(0xD800..=0xDBFF) => match bytes.get(6..).and_then(unicode_escape) {
            Some(0xDC00..=0xDFFF) => Ok(12),
            _ => Err(JsonError::LoneSurrogate),
        },
        Some(_) => Ok(6),
    }
}

fn unicode_escape(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// Escapes the characters that some framing could not carry. Borrowed if there are none, which is nearly always so.
fn escape(json: &str) -> Cow<'_, str> {
    let bytes = json.as_bytes();
    // U+2028 and U+2029 are E2 80 A8 and E2 80 A9; the loop below keeps other characters with these bytes. Most texts
    // have no E2 at all, and one byte is found faster than two.
    let separator =
        memchr::memchr(0xE2, bytes).and_then(|from| Some(from + memchr::memmem::find(&bytes[from..], b"\xE2\x80")?));
    // U+0085 is C2 85.
    let next_line =
        memchr::memchr(0xC2, bytes).and_then(|from| Some(from + memchr::memmem::find(&bytes[from..], b"\xC2\x85")?));
    let marks = [memchr::memchr3(b'<', b'\r', b'\n', bytes), separator, next_line];
    let Some(first) = marks.into_iter().flatten().min() else {
        return Cow::Borrowed(json);
    };
    let mut out = String::with_capacity(json.len() + 16);
    out.push_str(&json[..first]);
    for c in json[first..].chars() {
        match c {
            '<' => out.push_str("\\u003c"),
            '\u{85}' => out.push_str("\\u0085"),
            '\u{2028}' => out.push_str("\\u2028"),
            '\u{2029}' => out.push_str("\\u2029"),
            // Inside strings JSON has them escaped already, so these are between tokens.
            '\r' | '\n' => {}
            other => out.push(other),
        }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn keeps_the_text_of_safe_json() {
        for text in [
            "1e400",
            "123456789012345678901234567890.10",
            "-0",
            r#"{"b":1,"a":2,"b":3}"#,
            r#"{ "a" : [ 1 , 2 ] }"#,
            r#""\/\u0041\ud83d\ude00""#,
            "null",
            r#""\\u003c\\""#,
            r#""\\ud800""#,
        ] {
            assert_eq!(safe(text).unwrap(), text);
        }
    }

    #[test]
    fn escapes_characters_that_a_framing_cannot_carry() {
        for (text, expected) in [
            (r#""</script><!--""#, r#""\u003c/script>\u003c!--""#),
            ("\"\u{2028}\u{2029}\"", r#""\u2028\u2029""#),
            ("\"°\u{85}\"", r#""°\u0085""#),
            ("{\r\n\"a\":\n1}", r#"{"a":1}"#),
        ] {
            assert_eq!(safe(text).unwrap(), expected);
        }
    }

    #[test]
    fn refuses_what_some_transport_cannot_carry() {
        for text in [r#""\ud800""#, r#""\udc00""#, r#""\ud800\ud800""#, r#""\ud800x""#, r#""\uDBFF\\udc00""#] {
            assert!(matches!(safe(text), Err(JsonError::LoneSurrogate)), "{text}");
        }
        for text in ["", "{", "[1,]", "'a'", "NaN", "1 2", "\"\n\"", "\"\t\"", "\u{feff}1"] {
            assert!(matches!(safe(text), Err(JsonError::Syntax(_))), "{text:?}");
        }
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(safe(&nested(128)).is_ok());
        assert!(matches!(safe(&nested(129)), Err(JsonError::Nesting)));
        assert!(matches!(safe(&nested(100_000)), Err(JsonError::Nesting)));
        assert!(safe(&format!("\"{}\"", "[".repeat(500))).is_ok());
    }

    #[test]
    fn finds_keys_that_a_literal_cannot_hold() {
        for text in [
            r#"{"__proto__":1}"#,
            r#"[{"a":{"__proto__" : 1}}]"#,
            r#"{"\u005f_proto__":1}"#,
            r#"{"a\"":1,"__proto__":2}"#,
            r#"{"\u005F\u005f\u0070roto__":null}"#,
        ] {
            assert_eq!(as_literal(text), Literal::LosesKeys, "{text}");
        }
        for text in [r#"{"__proto__":1,"a":{},"__proto__":2}"#, r#"[{"a":{"__proto__":1,"\u005f_proto__":[]}}]"#] {
            assert_eq!(as_literal(text), Literal::Illegal, "{text}");
        }
        assert_eq!(as_literal(r#"{"__proto__":{"__proto__":1}}"#), Literal::LosesKeys, "one in each");
        for text in [
            r#""__proto__""#,
            r#"{"a":"__proto__"}"#,
            r#"{"__proto__x":1}"#,
            r#"["__proto__",":"]"#,
            r#"{"a":"\"__proto__\":"}"#,
            "{}",
            r#"{"\u0000":"__proto__"}"#,
            r#"{"\\u005f_proto__":1}"#,
        ] {
            assert_eq!(as_literal(text), Literal::Same, "{text}");
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            any::<String>().prop_map(Into::into),
            Just("</script><!--\u{85}\u{2028}\u{2029}\r\n\0\u{1f600}".into()),
        ];
        leaf.prop_recursive(4, 32, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map(any::<String>(), inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_safe_form_means_the_same_and_is_safe(value in any_json(), pretty: bool) {
            let text = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
            let out = safe(&text).unwrap();
            prop_assert_eq!(out.find(['<', '\r', '\n', '\u{85}', '\u{2028}', '\u{2029}']), None);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&out).unwrap(), value);
        }

        #[test]
        fn strings_too(text: String) {
            let out = string(&text);
            prop_assert_eq!(out.find(['<', '\r', '\n', '\u{85}', '\u{2028}', '\u{2029}']), None);
            prop_assert_eq!(&serde_json::from_str::<String>(&out).unwrap(), &text);
            let mut written = Vec::new();
            write_string(&text, &mut written);
            prop_assert_eq!(written, out.into_bytes());
        }

        #[test]
        fn finds_a_key_at_any_place(value in any_json(), name in prop_oneof![Just("__proto__"), Just("other")]) {
            let text = serde_json::json!([value, { "a": { name: 1 } }]).to_string();
            prop_assert_eq!(as_literal(&text) == Literal::LosesKeys, name == "__proto__");
        }

        #[test]
        fn never_panics(text in "[\\[\\]{}\"\\\\u0-9a-fA-F,:tn ]{0,80}") {
            let _ = safe(&text);
            let _ = as_literal(&text);
        }
    }
}
