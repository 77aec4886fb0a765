//! Lookup of a request's header fields.

use http::header::HeaderName;

use super::RequestHead;

/// A request's header fields, with the values as they were sent.
#[derive(Clone, Copy)]
pub(crate) struct Headers<'r>(pub(super) &'r RequestHead);

impl<'r> Headers<'r> {
    /// The first value of a name.
    pub(crate) fn get(self, name: &HeaderName) -> Option<&'r [u8]> {
        self.0.values(name).next()
    }

    /// As [`Self::get`], as text; `None` also where the value is not text.
    pub(crate) fn text(self, name: &HeaderName) -> Option<&'r str> {
        self.get(name).and_then(text)
    }

    /// All values of a name, in order.
    pub(crate) fn get_all(self, name: &HeaderName) -> Vec<&'r [u8]> {
        self.0.values(name).collect()
    }

    /// The values of a name that are text, in order.
    pub(crate) fn texts(self, name: &HeaderName) -> impl Iterator<Item = &'r str> {
        self.get_all(name).into_iter().filter_map(text)
    }

    /// Whether any field's name satisfies `is`. Names come in any case.
    pub(crate) fn any_name(self, is: impl Fn(&[u8]) -> bool) -> bool {
        self.0.fields().any(|(name, _)| is(name))
    }

    /// Bytes of all names and values.
    pub(crate) fn bytes(self) -> usize {
        self.0.fields().map(|(name, value)| name.len() + value.len()).sum()
    }
}

/// A value as text: printable ASCII and tabs (RFC 9110 §5.5, without its obsolete bytes).
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    let printable = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|_| printable)
}

#[cfg(test)]
mod tests {
    use http::header::{HeaderMap, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// A head gives the same results as a table of the same fields.
        #[test]
        fn a_head_says_what_a_table_does(
            fields in proptest::collection::vec(("[hH][oO]?(st|ST)?|cookie|Cookie", "[\\x20-\\x7e\\x80-\\xff]{0,9}"), 0..6),
        ) {
            let mut table = HeaderMap::new();
            for (name, value) in &fields {
                let name: HeaderName = name.parse().unwrap();
                table.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap());
            }
            let fields: Vec<(&str, &[u8])> =
                fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
            let head = RequestHead::get("/", &fields);
            let head = head.headers();
            for name in ["h", "ho", "host", "cookie", "hst"].map(HeaderName::from_static) {
                let values: Vec<&[u8]> = table.get_all(&name).iter().map(|value| value.as_bytes()).collect();
                prop_assert_eq!(head.get(&name), values.first().copied());
                prop_assert_eq!(head.text(&name), values.first().copied().and_then(text));
                let texts: Vec<&str> = values.iter().copied().filter_map(text).collect();
                prop_assert_eq!(head.texts(&name).collect::<Vec<_>>(), texts);
                prop_assert_eq!(head.get_all(&name), values);
                prop_assert_eq!(head.any_name(|named| named.eq_ignore_ascii_case(name.as_str().as_bytes())), table.contains_key(&name));
            }
            prop_assert_eq!(head.bytes(), table.iter().map(|(name, value)| name.as_str().len() + value.len()).sum::<usize>());
        }

        /// The same decision as the `http` crate's.
        #[test]
        fn text_is_what_the_http_crate_takes_for_text(bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                prop_assert_eq!(text(&bytes), value.to_str().ok());
            }
        }
    }
}
