//! The parser of requests: which requests are read here, and their heads.

use std::mem::MaybeUninit;

use bytes::{Bytes, BytesMut};
use http::Method;

use crate::net::head::{RequestHead, Span};
use crate::net::service::FastPath;

/// The largest request, with its body, that is read here; and the most bytes of pipelined requests kept while one is answered.
pub(super) const INPUT_MAX_BYTES: usize = 16 << 10;

/// The most header fields of a request that is read here. Browsers send up to twenty.
const HEADERS_MAX: usize = 40;

/// The result of parsing the beginning of the input.
pub(super) enum Parsed {
    Complete(FastRequest),
    /// The request is incomplete.
    Partial,
    /// A request that is left to the `App`.
    Unsupported,
}

/// A request that has arrived completely and has nothing unusual in its head.
pub(super) struct FastRequest {
    /// Boxed, or an idle connection would reserve space for it.
    pub(super) head: Box<RequestHead>,
    /// Whether the request upgrades to WebSocket.
    pub(super) upgrade: bool,
    pub(super) body: Bytes,
}

/// Takes a request off the input, where its path is one of the fast ones; anything else stays in the input.
pub(super) fn parse(input: &mut BytesMut, fast_path: impl Fn(&str) -> Option<FastPath>) -> Parsed {
    let Read { method, target, fields, upgrade, head_bytes, body_bytes } = match read(input, fast_path) {
        Ok(read) => read,
        Err(Unread::Partial) if input.len() < INPUT_MAX_BYTES => return Parsed::Partial,
        Err(_) => return Parsed::Unsupported,
    };
    let bytes = head_bytes + body_bytes;
    if bytes > INPUT_MAX_BYTES {
        return Parsed::Unsupported;
    }
    if bytes > input.len() {
        return Parsed::Partial;
    }
    // Usually no bytes follow: then the buffer is not shared.
    let whole = if bytes == input.len() { std::mem::take(input) } else { input.split_to(bytes) };
    let mut head = whole.freeze();
    let body = if body_bytes == 0 { Bytes::new() } else { head.split_off(head_bytes) };
    let head = Box::new(RequestHead::new(head, method, target, fields));
    Parsed::Complete(FastRequest { head, upgrade, body })
}

/// A parsed head.
struct Read {
    method: Method,
    /// The path and the query.
    target: (Span, Option<Span>),
    fields: Vec<(Span, Span)>,
    upgrade: bool,
    head_bytes: usize,
    body_bytes: usize,
}

/// Why a head is not read.
enum Unread {
    Partial,
    Unsupported,
}

/// Parses the head at the beginning of `input`. A malformed or merely unusual head is left to the `App`.
fn read(input: &[u8], fast_path: impl Fn(&str) -> Option<FastPath>) -> Result<Read, Unread> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut parsed = httparse::Request::new(&mut []);
    match parsed.parse_with_uninit_headers(input, &mut headers) {
        Ok(httparse::Status::Complete(bytes)) => {
            supported(&parsed, &input[..bytes], fast_path).ok_or(Unread::Unsupported)
        }
        Ok(httparse::Status::Partial) => Err(Unread::Partial),
        Err(_) => Err(Unread::Unsupported),
    }
}

/// The parsed head; `None` where it is not read here.
fn supported(
    parsed: &httparse::Request<'_, '_>,
    head: &[u8],
    fast_path: impl Fn(&str) -> Option<FastPath>,
) -> Option<Read> {
    // The parser accepts line ends without a carriage return, too.
    if !head.ends_with(b"\r\n\r\n") {
        return None;
    }
    let method = match parsed.method? {
        "GET" => Method::GET,
        "POST" => Method::POST,
        _ => return None,
    };
    let target = parsed.path.filter(|target| parsed.version == Some(1) && is_plain_target(target.as_bytes()))?;
    let (path, query) = match memchr::memchr(b'?', target.as_bytes()) {
        Some(at) => (&target[..at], Some(&target[at + 1..])),
        None => (target, None),
    };
    let FastPath { is_websocket } = fast_path(path)?;
    let mut connection = ConnectionHeaders::default();
    let mut fields = Vec::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        connection.note(header.name, header.value)?;
        fields.push((Span::of(header.name.as_bytes(), head)?, Span::of(header.value, head)?));
    }
    let ConnectionHeaders { host, body_bytes, upgrade: wants_upgrade, close, upgrade_field, websocket } = connection;
    let upgrade = wants_upgrade && websocket;
    // An upgrade to another protocol, or one that only one of the two fields requests, is not read here; nor is a request that
    // closes the connection after its response, except a WebSocket, which closes it anyway.
    let is_agreed = wants_upgrade == websocket && upgrade_field == websocket && (!close || upgrade);
    let is_plain = host && is_agreed && (!upgrade || is_websocket);
    let is_whole = if method == Method::GET { body_bytes.unwrap_or(0) == 0 } else { body_bytes.is_some() && !upgrade };
    let query = match query {
        Some(query) => Some(Span::of(query.as_bytes(), head)?),
        None => None,
    };
    let target = (Span::of(path.as_bytes(), head)?, query);
    let (head_bytes, body_bytes) = (head.len(), body_bytes.unwrap_or(0));
    (is_plain && is_whole).then_some(Read { method, target, fields, upgrade, head_bytes, body_bytes })
}

/// Whether a target contains only characters that are valid in a URL's path and query (RFC 3986 §3.3, §3.4), and the few others
/// that browsers do not encode.
fn is_plain_target(target: &[u8]) -> bool {
    const PLAIN: [bool; 256] = {
        let mut plain = [false; 256];
        let mut byte = 0;
        while byte < plain.len() {
            plain[byte] = matches!(byte as u8, b'!' | b'$'..=b';' | b'=' | b'?'..=b'_' | b'a'..=b'z' | b'|' | b'~');
            byte += 1;
        }
        plain
    };
    target.iter().all(|byte| PLAIN[usize::from(*byte)])
}

/// The header fields about the connection and the body (RFC 9110 §7, RFC 9112 §6).
#[derive(Default)]
struct ConnectionHeaders {
    host: bool,
    body_bytes: Option<usize>,
    /// `Connection: upgrade`.
    upgrade: bool,
    /// `Connection: close`.
    close: bool,
    /// Whether there is an `Upgrade` field, and whether it contains `websocket`.
    upgrade_field: bool,
    websocket: bool,
}

impl ConnectionHeaders {
    /// Records a field; `None` where its value is unusual, or the field is repeated.
    fn note(&mut self, name: &str, value: &[u8]) -> Option<()> {
        let is = |known: &str| name.eq_ignore_ascii_case(known);
        // Most names differ by their length alone.
        match name.len() {
            2 if is("te") => None,
            4 if is("host") => (!std::mem::replace(&mut self.host, true)).then_some(()),
            6 if is("expect") => None,
            7 if is("trailer") => None,
            7 if is("upgrade") => {
                self.upgrade_field = true;
                self.websocket |= value.split(|byte| *byte == b',').any(is_websocket);
                Some(())
            }
            10 if is("connection") => value.split(|byte| *byte == b',').try_for_each(|option| {
                let option = option.trim_ascii();
                let (upgrade, close) = (option.eq_ignore_ascii_case(b"upgrade"), option.eq_ignore_ascii_case(b"close"));
                self.upgrade |= upgrade;
                self.close |= close;
                (upgrade || close || option.eq_ignore_ascii_case(b"keep-alive")).then_some(())
            }),
            14 if is("content-length") => {
                let digits = (1..=5).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
                let length = std::str::from_utf8(value).ok().filter(|_| digits && self.body_bytes.is_none())?;
                self.body_bytes = Some(length.parse().ok()?);
                Some(())
            }
            17 if is("transfer-encoding") => None,
            _ => Some(()),
        }
    }
}

fn is_websocket(protocol: &[u8]) -> bool {
    protocol.trim_ascii().eq_ignore_ascii_case(b"websocket")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(text: &str) -> (Parsed, BytesMut) {
        let fast_path = |path: &str| {
            let is_fast =
                ["/v1/events", "/v1/poll", "/v1/sse", "/v1/ws"].contains(&path) || path.starts_with("/v1/topics/");
            is_fast.then_some(FastPath { is_websocket: path == "/v1/ws" })
        };
        let mut input = BytesMut::from(text);
        (parse(&mut input, fast_path), input)
    }

    #[test]
    fn what_is_asked_for_plainly_is_taken() {
        let text = "POST /v1/topics/a%2Fb?event=x HTTP/1.1\r\nHost: h\r\nConnection: keep-alive\r\ncontent-length: 3\r\nX-A: 1\r\nx-a: 2\r\n\r\nabcGET /";
        let (Parsed::Complete(request), rest) = parsed(text) else { panic!("the request is supported") };
        assert_eq!((&*request.body, &*rest), (&b"abc"[..], &b"GET /"[..]));
        let head = request.head;
        assert_eq!((head.path(), head.query()), ("/v1/topics/a%2Fb", Some("event=x")));
        let name = http::HeaderName::from_static("x-a");
        assert_eq!(head.values(&name).collect::<Vec<_>>(), [b"1", b"2"]);
        for text in [
            "GET /v1/poll?topic=a HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /v1/sse?topic=a HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\n\r\n",
            "GET /v1/ws HTTP/1.1\r\nHost: h\r\nUpgrade: WebSocket\r\nConnection: keep-alive, Upgrade\r\n\r\n",
            "GET /v1/ws HTTP/1.1\r\nHost: h\r\nUpgrade: foo, websocket\r\nConnection: Upgrade, close\r\n\r\n",
            "GET /v1/ws HTTP/1.1\r\nHost: h\r\nUpgrade: foo\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
        ] {
            assert!(matches!(parsed(text), (Parsed::Complete(_), rest) if rest.is_empty()), "{text}");
        }
    }

    #[test]
    fn what_is_not_there_yet_is_waited_for() {
        let text = "POST /v1/topics/a HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nab";
        for end in 0..text.len() {
            let (part, rest) = parsed(&text[..end]);
            assert!(matches!(part, Parsed::Partial), "{end}");
            assert_eq!(rest, text[..end], "no byte is lost");
        }
    }

    #[test]
    fn everything_else_is_left_as_it_was() {
        let long = format!("GET /v1/poll?topic={} HTTP/1.1\r\n", "a".repeat(INPUT_MAX_BYTES));
        let many = format!("GET /v1/poll HTTP/1.1\r\nHost: h\r\n{}\r\n", "a: b\r\n".repeat(HEADERS_MAX));
        let big = format!("POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Length: {INPUT_MAX_BYTES}\r\n\r\n");
        let others = [
            "GET / HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /v1/none HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET http://h/v1/poll HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET //v1/poll HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /v1/poll HTTP/1.0\r\nHost: h\r\n\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            "OPTIONS /v1/poll HTTP/1.1\r\nHost: h\r\n\r\n",
            "HEAD /v1/poll HTTP/1.1\r\nHost: h\r\n\r\n",
            "get /v1/poll HTTP/1.1\r\nHost: h\r\n\r\n",
            "GET /v1/poll HTTP/1.1\r\n\r\n",
            "GET /v1/poll HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n",
            "GET /v1/poll HTTP/1.1\r\nHost : h\r\n\r\n",
            "GET /v1/poll HTTP/1.1\r\nHost: h\r\n folded\r\n\r\n",
            "GET /v1/poll HTTP/1.1\r\nHost: h\r\nX: a\0b\r\n\r\n",
            "GET /v1/poll HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n",
            "GET /v1/poll HTTP/1.1\r\nHost: h\r\nConnection: close, Upgrade\r\n\r\n",
            "GET /v1/ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: close\r\n\r\n",
            "GET /v1/poll HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n",
            "GET /v1/poll HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc",
            "GET /v1/poll HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            "GET /v1/sse HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            "GET /v1/ws HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\n\r\n",
            "GET /v1/ws HTTP/1.1\r\nHost: h\r\nConnection: Upgrade\r\n\r\n",
            "GET /v1/ws HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\nConnection: Upgrade\r\n\r\n",
            "POST /v1/events HTTP/1.1\r\nHost: h\r\n\r\n",
            "POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
            "POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\na",
            "POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\na",
            "POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Length: \r\n\r\n",
            "POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\na",
            "POST /v1/events HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\na",
            "POST /v1/ws HTTP/1.1\r\nHost: h\r\nContent-Length: 0\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n",
            &long,
            &many,
            &big,
        ];
        for text in others {
            let (other, rest) = parsed(text);
            assert!(matches!(other, Parsed::Unsupported), "{text}");
            assert_eq!(rest, text);
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_loses_nothing(
            start in "(GET|POST|G) /v1/(poll|ws|x)[ -~]{0,10} HTTP/1.[01]\r\n",
            headers in "((Host|Connection|Content-Length|Upgrade|X)[: ]{1,2}[ -~]{0,12}\r?\n){0,5}",
            end in "(\r\n)?[ -~]{0,20}",
        ) {
            let text = start + &headers + &end;
            let (found, rest) = parsed(&text);
            match found {
                Parsed::Complete(request) => prop_assert!(text.as_bytes().ends_with(&[&*request.body, &*rest].concat())),
                Parsed::Partial | Parsed::Unsupported => prop_assert_eq!(rest, text),
            }
        }
    }
}
