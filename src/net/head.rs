//! A request's head: its bytes in one piece, and the spans of its parts in them.
//!
//! A hash map of header fields would cost more than most requests, since every field is hashed and allocated and a handler reads
//! few. So a head keeps the bytes of HTTP/1, or is written once from the fields of HTTP/2, and a field is found by comparing names.

mod headers;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::header::HeaderName;
use http::{Method, Version};

pub(crate) use headers::{Headers, text};

/// A valid head of a request.
pub(crate) struct RequestHead {
    text: Bytes,
    method: Method,
    version: Version,
    path: Span,
    query: Option<Span>,
    /// Names and values.
    fields: Vec<(Span, Span)>,
    /// Bytes of the path before the place where the routes are mounted.
    mount_bytes: usize,
    /// The head had more fields than are allowed; the rest was dropped.
    fields_dropped: bool,
}

/// A range of bytes in a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// The span of `part`, which is a slice of `whole`; `None` where it is not, or begins past four gibibytes.
    pub(crate) fn of(part: &[u8], whole: &[u8]) -> Option<Self> {
        let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
        let end = start.checked_add(part.len()).filter(|end| *end <= whole.len())?;
        Some(Self { start: u32::try_from(start).ok()?, end: u32::try_from(end).ok()? })
    }

    fn bytes(self) -> usize {
        (self.end - self.start) as usize
    }
}

impl RequestHead {
    /// A head of HTTP/1.1, with the spans of its path, its query, and the names and values of its fields.
    pub(crate) fn new(
        text: Bytes,
        method: Method,
        (path, query): (Span, Option<Span>),
        fields: Vec<(Span, Span)>,
    ) -> Self {
        Self { text, method, version: Version::HTTP_11, path, query, fields, mount_bytes: 0, fields_dropped: false }
    }

    /// Begins a head whose parts do not lie in one piece.
    pub(crate) fn builder(method: Method, version: Version, path: &str, query: Option<&str>) -> HeadBuilder {
        let mut text = BytesMut::with_capacity(512);
        let path = put(&mut text, path.as_bytes());
        let query = query.map(|query| put(&mut text, query.as_bytes()));
        let head = Self { version, query, ..Self::new(Bytes::new(), method, (path, None), Vec::new()) };
        HeadBuilder { text, head }
    }

    pub(crate) fn headers(&self) -> Headers<'_> {
        Headers(self)
    }

    pub(crate) fn method(&self) -> &Method {
        &self.method
    }

    pub(crate) fn version(&self) -> Version {
        self.version
    }

    /// Length of the head, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.text.len()
    }

    /// Frees the fields of a request that will be refused.
    pub(crate) fn drop_fields(&mut self) {
        self.fields = Vec::new();
    }

    /// Whether the head had more fields than are allowed, and some are missing here.
    pub(crate) fn has_dropped_fields(&self) -> bool {
        self.fields_dropped
    }

    /// The path, as it was sent.
    pub(crate) fn path(&self) -> &str {
        self.text(self.path)
    }

    /// The path from where the routes are mounted on.
    pub(crate) fn mounted_path(&self) -> &str {
        self.path().get(self.mount_bytes..).unwrap_or_default()
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

    fn at(&self, span: Span) -> &[u8] {
        self.text.get(span.start as usize..span.end as usize).unwrap_or_default()
    }

    fn text(&self, span: Span) -> &str {
        std::str::from_utf8(self.at(span)).unwrap_or_default()
    }
}

/// A head that is being put together.
pub(crate) struct HeadBuilder {
    /// What the head's parts lie in, until it is finished.
    text: BytesMut,
    head: RequestHead,
}

impl HeadBuilder {
    /// The routes are mounted below the first `bytes` of the path.
    pub(crate) fn mounted_below(mut self, bytes: usize) -> Self {
        self.head.mount_bytes = bytes;
        self
    }

    /// One more field.
    pub(crate) fn field(&mut self, name: &[u8], value: &[u8]) {
        let name = put(&mut self.text, name);
        let value = put(&mut self.text, value);
        self.head.fields.push((name, value));
    }

    /// There are more fields than a request may have: the rest is not kept, and the request is to be refused.
    pub(crate) fn drop_fields(&mut self) {
        self.head.fields_dropped = true;
    }

    pub(crate) fn finish(self) -> RequestHead {
        RequestHead { text: self.text.freeze(), ..self.head }
    }
}

/// Appends bytes; says where they lie. Past 4 GiB, which no head has, they would be read as nothing.
fn put(text: &mut BytesMut, bytes: &[u8]) -> Span {
    let place = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    let start = place(text.len());
    text.put_slice(bytes);
    Span { start, end: place(text.len()) }
}

#[cfg(test)]
impl RequestHead {
    /// A `GET` with fields, for tests.
    pub(crate) fn get(target: &str, fields: &[(&str, &[u8])]) -> Self {
        let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        let mut builder = Self::builder(Method::GET, Version::HTTP_11, path, query);
        fields.iter().for_each(|(name, value)| builder.field(name.as_bytes(), value));
        builder.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_elsewhere_has_no_place_in_a_head() {
        let (head, other) = (b"abc".to_vec(), b"abc".to_vec());
        assert_eq!(Span::of(&other, &head), None);
        assert!(Span::of(&head[1..], &head).is_some());
    }
}
