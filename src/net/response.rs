//! A response, whatever protocol carries it.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use http::StatusCode;
use http::header::{HeaderName, HeaderValue};

/// The header fields of every response, unless its handler sets them. The encoders add them: in each response's own list they
/// would cost more than the rest of its head.
pub(crate) const DEFAULT_HEADERS: [(&str, &str); 6] = [
    ("vary", "Origin"),
    // Only pages of the same origin may embed the response (Fetch §3.7).
    ("cross-origin-resource-policy", "same-origin"),
    ("cache-control", "no-store, no-transform"),
    ("x-content-type-options", "nosniff"),
    // Without it nginx buffers incomplete lines.
    ("x-accel-buffering", "no"),
    // Any URL may contain a token.
    ("referrer-policy", "no-referrer"),
];

/// One response.
pub(crate) struct Response {
    pub(crate) status: StatusCode,
    pub(crate) fields: ResponseFields,
    pub(crate) body: ResponseBody,
}

/// A response's body.
pub(crate) enum ResponseBody {
    Empty,
    /// Omitted, since only the head was requested (RFC 9110 §9.3.2): its length is not known.
    Omitted,
    Full(Bytes),
    /// A stream of unknown length, which is pulled: with a full socket it is not polled. After an upgrade it is everything that
    /// the peer is sent.
    Stream(Pin<Box<dyn Stream<Item = Bytes>>>),
    /// A stream of an announced length. One that ends earlier is a response that broke off.
    SizedStream(usize, Pin<Box<dyn Stream<Item = Bytes>>>),
}

impl Response {
    pub(crate) fn new(status: StatusCode) -> Self {
        Self { status, fields: ResponseFields::default(), body: ResponseBody::Empty }
    }

    /// Sets a header field, in place of those of the same name.
    ///
    /// A value that is not valid in a head makes the response a 500: it is a mistake of the handler's, and to omit, say, a
    /// security policy would be worse.
    pub(crate) fn with<V>(mut self, name: HeaderName, value: V) -> Self
    where
        HeaderValue: TryFrom<V>,
    {
        match HeaderValue::try_from(value) {
            Ok(value) => self.fields.insert(name, value),
            Err(_) => {
                tracing::error!(%name, "a handler set a header field to an invalid value");
                self.status = StatusCode::INTERNAL_SERVER_ERROR;
            }
        }
        self
    }

    pub(crate) fn with_body(self, body: impl Into<Bytes>) -> Self {
        Self { body: ResponseBody::Full(body.into()), ..self }
    }

    /// The response to HEAD, where GET's body would be held or endless.
    pub(crate) fn without_body(self) -> Self {
        Self { body: ResponseBody::Omitted, ..self }
    }

    pub(crate) fn with_stream(self, body: impl Stream<Item = Bytes> + 'static) -> Self {
        Self { body: ResponseBody::Stream(Box::pin(body)), ..self }
    }

    /// As [`Self::with_stream`], of a length in bytes.
    pub(crate) fn with_sized_stream(self, bytes: usize, body: impl Stream<Item = Bytes> + 'static) -> Self {
        Self { body: ResponseBody::SizedStream(bytes, Box::pin(body)), ..self }
    }

    /// The default header fields that the handler has not set.
    pub(crate) fn missing_defaults(&self) -> impl Iterator<Item = (&'static str, &'static str)> {
        DEFAULT_HEADERS.into_iter().filter(|(name, _)| !self.fields.contains(name))
    }
}

impl ResponseBody {
    /// The length in bytes; `None` where it is not known.
    pub(crate) fn length(&self) -> Option<usize> {
        match self {
            Self::Empty => Some(0),
            Self::Full(bytes) => Some(bytes.len()),
            Self::Stream(_) | Self::Omitted => None,
            Self::SizedStream(bytes, _) => Some(*bytes),
        }
    }

    /// The next part, `None` at the end.
    pub(crate) fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        match self {
            Self::Empty | Self::Omitted => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then_some(bytes))
            }
            Self::Stream(stream) | Self::SizedStream(_, stream) => stream.as_mut().poll_next(cx),
        }
    }
}

/// A response's header fields. A list: nearly every response has fewer than five.
#[derive(Debug, Default)]
pub(crate) struct ResponseFields(Vec<(HeaderName, HeaderValue)>);

impl ResponseFields {
    /// Sets a field, in place of those of the same name.
    pub(crate) fn insert(&mut self, name: HeaderName, value: HeaderValue) {
        match self.0.iter_mut().find(|(known, _)| *known == name) {
            Some((_, before)) => *before = value,
            None => self.0.push((name, value)),
        }
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(known, _)| known == name)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&HeaderName, &HeaderValue)> {
        self.0.iter().map(|(name, value)| (name, value))
    }

    /// The value of a field.
    #[cfg(test)]
    pub(crate) fn get(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value)
    }
}

#[cfg(test)]
mod tests {
    use http::header::{CACHE_CONTROL, VARY};

    use super::*;

    #[test]
    fn a_field_that_is_set_twice_stands_once_and_keeps_its_default_away() {
        let response = Response::new(StatusCode::OK).with(VARY, "a").with(CACHE_CONTROL, "no-cache").with(VARY, "b");
        let fields: Vec<_> = response.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
        assert_eq!(fields, [("vary", &b"b"[..]), ("cache-control", b"no-cache")]);
        let missing: Vec<_> = response.missing_defaults().map(|(name, _)| name).collect();
        assert_eq!(
            missing,
            ["cross-origin-resource-policy", "x-content-type-options", "x-accel-buffering", "referrer-policy"]
        );
    }

    #[test]
    fn a_value_that_would_end_the_line_is_never_sent() {
        let response = Response::new(StatusCode::OK).with(VARY, "a\r\nb: c");
        assert_eq!(response.status, StatusCode::INTERNAL_SERVER_ERROR);
        assert!(!response.fields.contains("vary"));
    }
}
