//! A request as it came over a connection of our own listener: not taken apart, but for where in its head what lies.
//!
//! actix's tables of headers cost more than most requests: each name is looked up, each value counted by, and nearly all of
//! them nobody asks for.

use actix_web::dev::RequestHead;
use actix_web::http::header::{HeaderName, HeaderValue};
use actix_web::http::{Method, Version};
use bytes::Bytes;

/// A request's head that has been read, and is sound. HTTP/1.1.
pub(crate) struct Direct {
    head: Bytes,
    method: Method,
    path: Span,
    query: Option<Span>,
    fields: Vec<(Span, Span)>,
}

/// Where something lies in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u16,
    end: u16,
}

impl Span {
    /// Where `part` lies in `whole`; `None` where it does not, or where that is too long to tell.
    pub(crate) fn of(part: &[u8], whole: &[u8]) -> Option<Self> {
        let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
        let end = start.checked_add(part.len()).filter(|end| *end <= whole.len())?;
        Some(Self { start: u16::try_from(start).ok()?, end: u16::try_from(end).ok()? })
    }

    fn bytes(self) -> usize {
        usize::from(self.end - self.start)
    }
}

impl Direct {
    /// A head in which the path, the query, and the fields' names and values lie where they are said to.
    pub(crate) fn new(
        head: Bytes,
        method: Method,
        (path, query): (Span, Option<Span>),
        fields: Vec<(Span, Span)>,
    ) -> Self {
        Self { head, method, path, query, fields }
    }

    fn at(&self, span: Span) -> &[u8] {
        self.head.get(usize::from(span.start)..usize::from(span.end)).unwrap_or_default()
    }

    fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.at(span)).unwrap_or_default()
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    /// Of the head, as it was sent.
    pub(crate) fn bytes(&self) -> usize {
        self.head.len()
    }

    pub(crate) fn path(&self) -> &str {
        self.text(self.path)
    }

    pub(crate) fn query(&self) -> Option<&str> {
        self.query.map(|query| self.text(query))
    }

    /// Names, in the case that they were sent in, and values.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.fields.iter().map(|(name, value)| (self.at(*name), self.at(*value)))
    }

    /// The values of all fields of a name, in order.
    pub(crate) fn values<'d, 'n>(&'d self, name: &'n HeaderName) -> impl Iterator<Item = &'d [u8]> + use<'d, 'n> {
        let name = name.as_str().as_bytes();
        // Most are told apart by their length alone.
        let is_named = move |span: Span| span.bytes() == name.len() && self.at(span).eq_ignore_ascii_case(name);
        self.fields.iter().filter(move |(name, _)| is_named(*name)).map(|(_, value)| self.at(*value))
    }

    /// As actix has it: for what of it is asked once a connection.
    pub(crate) fn to_head(&self) -> RequestHead {
        let mut head = RequestHead::default();
        head.method = self.method.clone();
        head.version = Version::HTTP_11;
        for (name, value) in self.fields() {
            if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
                head.headers_mut().append(name, value);
            }
        }
        head
    }
}
