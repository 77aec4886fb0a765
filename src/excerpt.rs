//! Excerpts of a peer's input for error messages and log lines: long enough to locate the error, too short to amplify an attack.
//!
//! A parser's message may repeat the whole input, seven times as long if each byte is escaped. The message goes into a
//! response, which waits in memory until the peer reads it, and into lists of errors.

use std::fmt;

/// Most characters of input in one message.
pub(crate) const EXCERPT_MAX_CHARS: usize = 80;

/// Most characters of input in one field of a log line.
const LOGGED_MAX_CHARS: usize = 250;

/// The beginning of `text`, with an ellipsis if it is longer.
pub(crate) fn excerpt(text: &str) -> String {
    match text.char_indices().nth(EXCERPT_MAX_CHARS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

/// A parser's message in which each quoted piece, in `"` or in a grave accent, is truncated to [`EXCERPT_MAX_CHARS`].
pub(crate) fn shorten_quotes(message: &str) -> String {
    let mut out = String::with_capacity(message.len().min(256));
    let mut rest = message;
    while let Some(start) = rest.find(['"', '`']) {
        let quote = rest.as_bytes()[start];
        let (before, quoted) = rest.split_at(start + 1);
        out.push_str(before);
        let end = quote_end(quoted, quote);
        out.push_str(&excerpt_of_escaped(&quoted[..end]));
        rest = &quoted[end..];
        // The closing quote does not open the next piece.
        if let Some(after) = rest.strip_prefix(char::from(quote)) {
            out.push(char::from(quote));
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// The end of the quoted piece, which may be the text's end.
fn quote_end(text: &str, quote: u8) -> usize {
    let bytes = text.as_bytes();
    let mut at = 0;
    while at < bytes.len() && bytes[at] != quote {
        at += if bytes[at] == b'\\' && quote == b'"' { 2 } else { 1 };
    }
    // After a backslash before a multi-byte character the index may be within that character.
    (at.min(bytes.len())..=bytes.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(bytes.len())
}

/// As [`excerpt`], without a part of an escape at its end.
fn excerpt_of_escaped(text: &str) -> String {
    let Some((end, _)) = text.char_indices().nth(EXCERPT_MAX_CHARS) else { return text.to_owned() };
    let cut = &text[..end];
    // The longest escape of `Debug` is `\u{10ffff}`. A complete escape at the end is dropped as well, which does no harm.
    const ESCAPE_MAX_BYTES: usize = 10;
    let whole = cut.rfind('\\').filter(|at| cut.len() - at < ESCAPE_MAX_BYTES).map_or(cut, |at| &cut[..at]);
    format!("{}…", whole.trim_end_matches('\\'))
}

/// Text from a client, made safe for a log line: truncated; without control characters, which would let a client forge log
/// lines; and without tokens, which are valid until they expire.
pub(crate) struct LogSafe<'a>(pub(crate) &'a str);

impl fmt::Display for LogSafe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_of_a_token = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        let cut = self.0.char_indices().nth(LOGGED_MAX_CHARS).map_or(self.0, |(end, _)| &self.0[..end]);
        for piece in cut.split_inclusive(|c| !is_of_a_token(c)) {
            let rest = piece.trim_start_matches(is_of_a_token);
            let word = &piece[..piece.len() - rest.len()];
            // Every JWT begins with `{"` in base64url.
            f.write_str(if word.starts_with("eyJ") && word.contains('.') { "[token]" } else { word })?;
            for c in rest.chars() {
                if c.is_control() { write!(f, "{}", c.escape_debug())? } else { write!(f, "{c}")? }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde::Deserialize;

    use super::*;

    #[derive(Debug, Deserialize)]
    struct Wanted {
        #[expect(dead_code)]
        topics: Vec<u8>,
    }

    #[test]
    fn a_parser_repeats_little_of_its_input() {
        let long = "\u{7f}".repeat(100_000);
        for json in [format!("\"{long}\""), format!("{{\"topics\":\"{long}\"}}")] {
            let error = serde_json::from_str::<Wanted>(&json).unwrap_err().to_string();
            assert!(error.len() > 100_000, "the parser repeats all of it");
            let short = shorten_quotes(&error);
            assert!(short.len() < 250, "{short}");
            assert!(short.contains("…\", expected") && short.contains("line 1"), "{short}");
        }
    }

    #[test]
    fn short_text_is_unchanged() {
        for text in ["", "missing field `topic` at line 1 column 2", r#"invalid type: string "a\"b", expected a map"#] {
            assert_eq!(shorten_quotes(text), text);
        }
        assert_eq!(excerpt("abc"), "abc");
        assert_eq!(excerpt(&"é".repeat(100)), "é".repeat(80) + "…");
    }

    proptest! {
        #[test]
        fn never_longer_than_its_pieces(text in "[\"`\\\\a-zé {}u]{0,400}") {
            let quotes = text.matches(['"', '`']).count();
            let short = shorten_quotes(&text);
            prop_assert!(short.chars().count() <= text.chars().count() + quotes);
        }

        #[test]
        fn debug_text_of_any_length_is_bounded(input: String) {
            let message = format!("invalid type: string {input:?}, expected a map");
            prop_assert!(shorten_quotes(&message).chars().count() <= EXCERPT_MAX_CHARS + 41);
        }
    }

    #[test]
    fn what_is_written_is_one_line_without_tokens() {
        for (text, expected) in [
            ("li", "li"),
            ("li\n2026 INFO all is well\x1b[2J", "li\\n2026 INFO all is well\\u{1b}[2J"),
            ("token=eyJhbGciOi.eyJzdWIi.c2ln&x", "token=[token]&x"),
            ("\"eyJhbGciOi.eyJzdWIi.c2ln\"", "\"[token]\""),
            ("orders.42 is not public", "orders.42 is not public"),
        ] {
            assert_eq!(LogSafe(text).to_string(), expected);
        }
        assert!(LogSafe(&"x".repeat(1000)).to_string().len() <= LOGGED_MAX_CHARS);
    }
}
