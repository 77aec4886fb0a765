//! A request's headers, wherever they stand.

use actix_web::http::header::{HeaderMap, HeaderName};

use super::direct::Direct;

/// A request's headers: values as they were sent.
#[derive(Clone, Copy)]
pub(crate) enum Headers<'r> {
    /// In actix's table.
    Table(&'r HeaderMap),
    /// Where they lie in a head.
    Head(&'r Direct),
}

impl<'r> From<&'r HeaderMap> for Headers<'r> {
    fn from(table: &'r HeaderMap) -> Self {
        Self::Table(table)
    }
}

impl<'r> Headers<'r> {
    /// The first of a name.
    pub(crate) fn get(self, name: &HeaderName) -> Option<&'r [u8]> {
        match self {
            Self::Table(table) => table.get(name).map(|value| value.as_bytes()),
            Self::Head(head) => head.values(name).next(),
        }
    }

    /// As [`Self::get`], where it is text; `None` also where it is not.
    pub(crate) fn text(self, name: &HeaderName) -> Option<&'r str> {
        self.get(name).and_then(text)
    }

    /// All of a name, in order.
    pub(crate) fn get_all(self, name: &HeaderName) -> Vec<&'r [u8]> {
        match self {
            Self::Table(table) => table.get_all(name).map(|value| value.as_bytes()).collect(),
            Self::Head(head) => head.values(name).collect(),
        }
    }

    /// Those of a name that are text, in order.
    pub(crate) fn texts(self, name: &HeaderName) -> impl Iterator<Item = &'r str> {
        self.get_all(name).into_iter().filter_map(text)
    }

    /// Whether there is one whose name is so. Names come in any case.
    pub(crate) fn any_name(self, is: impl Fn(&[u8]) -> bool) -> bool {
        match self {
            Self::Table(table) => table.keys().any(|name| is(name.as_str().as_bytes())),
            Self::Head(head) => head.fields().any(|(name, _)| is(name)),
        }
    }

    /// Bytes of all names and values.
    pub(crate) fn bytes(self) -> usize {
        match self {
            Self::Table(table) => table.iter().map(|(name, value)| name.as_str().len() + value.len()).sum(),
            Self::Head(head) => head.fields().map(|(name, value)| name.len() + value.len()).sum(),
        }
    }
}

/// A value as text: printable ASCII and tabs (RFC 9110 §5.5, but for what is obsolete there).
pub(crate) fn text(value: &[u8]) -> Option<&str> {
    let printable = value.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~'));
    std::str::from_utf8(value).ok().filter(|_| printable)
}

#[cfg(test)]
mod tests {
    use actix_web::http::Method;
    use actix_web::http::header::HeaderValue;
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::super::direct::Span;
    use super::*;

    proptest! {
        /// What a head says is what actix's table of the same says.
        #[test]
        fn a_head_says_what_a_table_does(
            fields in proptest::collection::vec(("[hH][oO]?(st|ST)?|cookie|Cookie", "[\\x20-\\x7e\\x80-\\xff]{0,9}"), 0..6),
        ) {
            let mut table = HeaderMap::new();
            let text: String = fields.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
            let head = Bytes::from(text);
            let (mut spans, mut at) = (Vec::new(), 0);
            for (name, value) in &fields {
                let (value_at, end) = (at + name.len() + 2, at + name.len() + 2 + value.len());
                let span = |part: &[u8]| Span::of(part, &head).unwrap();
                spans.push((span(&head[at..at + name.len()]), span(&head[value_at..end])));
                table.append(name.parse().unwrap(), HeaderValue::from_bytes(value.as_bytes()).unwrap());
                at = end + 2;
            }
            let nowhere = Span::of(&head[..0], &head).unwrap();
            let direct = Direct::new(head, Method::GET, (nowhere, None), spans);
            let (head, table) = (Headers::Head(&direct), Headers::Table(&table));
            for name in ["h", "ho", "host", "cookie", "hst"].map(HeaderName::from_static) {
                prop_assert_eq!(head.get(&name), table.get(&name));
                prop_assert_eq!(head.text(&name), table.text(&name));
                prop_assert_eq!(head.get_all(&name), table.get_all(&name));
                prop_assert_eq!(head.texts(&name).collect::<Vec<_>>(), table.texts(&name).collect::<Vec<_>>());
                let is = |named: &[u8]| named.eq_ignore_ascii_case(name.as_str().as_bytes());
                prop_assert_eq!(head.any_name(is), table.any_name(is));
            }
            prop_assert_eq!(head.bytes(), table.bytes());
        }

        /// As actix has it.
        #[test]
        fn text_is_what_actix_takes_for_text(bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            if let Ok(value) = HeaderValue::from_bytes(&bytes) {
                prop_assert_eq!(text(&bytes), value.to_str().ok());
            }
        }
    }

    #[test]
    fn what_lies_elsewhere_has_no_place_in_a_head() {
        let (head, other) = (b"abc".to_vec(), b"abc".to_vec());
        assert_eq!(Span::of(&other, &head), None);
        assert!(Span::of(&head[1..], &head).is_some());
        let long = vec![b'a'; 70_000];
        assert_eq!(Span::of(&long[66_000..], &long), None);
    }
}
