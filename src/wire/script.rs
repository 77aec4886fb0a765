//! Script framings: JSONP, and the document that is streamed into a hidden iframe.

use std::fmt;
use std::str::FromStr;

use bytes::{BufMut, BytesMut};

use crate::json::Literal;

/// Longest callback name, in bytes.
const CALLBACK_MAX_BYTES: usize = 64;

/// Old WebKits do not run the first script of a document shorter than about 512 bytes, IE shows none before 256:
/// everything up to the first item is padded past this many.
const DOCUMENT_START_MIN_BYTES: usize = 1024;

/// The name of the function that a JSONP response calls: identifiers separated by dots, and nothing else, since it is
/// written into a script unescaped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callback(Box<str>);

impl FromStr for Callback {
    type Err = CallbackError;

    fn from_str(text: &str) -> Result<Self, CallbackError> {
        let identifier = |part: &str| {
            let mut bytes = part.bytes();
            bytes.next().is_some_and(|b| b.is_ascii_alphabetic() || matches!(b, b'_' | b'$'))
                && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'$'))
        };
        if text.len() > CALLBACK_MAX_BYTES || !text.split('.').all(identifier) {
            return Err(CallbackError);
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Callback {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The text is no valid name of a callback.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`callback` must be a function's name: letters, digits, _ and $, in parts separated by dots, at most 64 bytes")]
pub struct CallbackError;

/// Writes `/**/name(argument);`. The comment keeps an attacker from choosing the first bytes of the file, which some plug-ins
/// executed as a program (Rosetta Flash).
///
/// Where the argument has another meaning as a literal, the script parses it from a string, so that no key is lost.
pub(super) fn call(callback: &Callback, literal: Literal, out: &mut BytesMut, argument: impl FnOnce(&mut BytesMut)) {
    out.put_slice(b"/**/");
    out.put_slice(callback.0.as_bytes());
    if literal == Literal::Same {
        out.put_u8(b'(');
        argument(out);
        out.put_slice(b");");
    } else {
        out.put_slice(b"(JSON.parse(");
        quoted(out, argument);
        out.put_slice(b"));");
    }
}

/// Writes one call of `p` in a script element, which a browser runs as soon as its end tag has arrived. Since `p` reads
/// the script's text, it is enough that the argument is a valid literal; where it is not, `p` gets it as a string.
pub(super) fn chunk(nonce: &str, literal: Literal, out: &mut BytesMut, argument: impl FnOnce(&mut BytesMut)) {
    script_start(nonce, out);
    out.put_slice(b"p(");
    if literal == Literal::Illegal {
        quoted(out, argument);
    } else {
        argument(out);
    }
    out.put_slice(b")</script>\n");
}

/// Writes JSON as a string literal.
fn quoted(out: &mut BytesMut, argument: impl FnOnce(&mut BytesMut)) {
    let mut json = BytesMut::new();
    argument(&mut json);
    // Always UTF-8: it was written from strs.
    let text = std::str::from_utf8(&json).unwrap_or_default();
    out.put_slice(crate::json::string(text).as_bytes());
}

/// Writes the head of the document, which defines `p`.
///
/// `p` posts the text of its argument, not the argument serialized again: so a number keeps every digit, and a
/// key named `__proto__` stays a key. While a script runs during parsing it is the document's last one (WHATWG HTML
/// §13.2.6.4.8); `p` removes it, so that the document does not grow with every item.
/// `document.currentScript` would be simpler, but IE does not have it.
pub(super) fn document_start(nonce: &str, target: Option<&str>, out: &mut BytesMut) {
    let start = out.len();
    out.put_slice(
        b"<!DOCTYPE html>\n<html><head><meta charset=\"utf-8\"><meta http-equiv=\"X-UA-Compatible\" content=\"IE=edge\">\
          <title>Switchback</title>\n",
    );
    script_start(nonce, out);
    out.put_slice(b"var t=");
    match target {
        Some(origin) => crate::json::write_string(origin, out),
        None => out.put_slice(b"location.protocol+\"//\"+location.host"),
    }
    out.put_slice(
        b";function p(i){var a=document.getElementsByTagName(\"script\"),s=a[a.length-1],x=s.text.slice(2,-1);\
          s.parentNode.removeChild(s);parent.postMessage(typeof i===\"string\"?i:x,t)}</script>\n</head><body>\n",
    );
    let length = out.len() - start;
    if length < DOCUMENT_START_MIN_BYTES {
        out.put_slice(b"<!--");
        out.put_bytes(b' ', DOCUMENT_START_MIN_BYTES - length);
        out.put_slice(b"-->\n");
    }
}

fn script_start(nonce: &str, out: &mut BytesMut) {
    out.put_slice(b"<script nonce=\"");
    out.put_slice(nonce.as_bytes());
    out.put_slice(b"\">");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A callback is written into a script, so exactly the names of its grammar are accepted.
        #[test]
        fn callbacks_are_their_grammar(text in prop_oneof!["[a-zA-Z0-9_$.]{0,66}", "[a-z.$_0-9()\\[\\];\\PC]{0,12}"]) {
            let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$';
            let mut begins = true;
            let legal = text.len() <= 64 && !text.ends_with('.') && !text.is_empty() && text.bytes().all(|byte| {
                let first = std::mem::replace(&mut begins, byte == b'.');
                if first { word(byte) && !byte.is_ascii_digit() } else { word(byte) || byte == b'.' }
            });
            let parsed = text.parse::<Callback>();
            prop_assert_eq!(parsed.is_ok(), legal);
            if let Ok(callback) = parsed {
                prop_assert_eq!(callback.to_string(), text);
            }
        }
    }

    #[test]
    fn callbacks_are_names_and_nothing_else() {
        for good in ["cb", "$", "_a1", "a.b.$c", "Switchback.callbacks.c12", &"a".repeat(64)] {
            assert!(good.parse::<Callback>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ".",
            "a.",
            ".a",
            "a..b",
            "1a",
            "a-b",
            "a b",
            "a(",
            "a;b",
            "a[0]",
            "é",
            "a\n",
            "alert(1)//",
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<Callback>().is_err(), "{bad}");
        }
    }
}
