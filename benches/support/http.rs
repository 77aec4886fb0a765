//! The minimum of HTTP that a load generator needs, since it shares a machine with the server that it measures.

use memchr::memmem;

/// The end of a complete response.
pub(crate) struct Answer<'a> {
    pub(crate) status: u16,
    pub(crate) head: &'a [u8],
    pub(crate) body: &'a [u8],
    pub(crate) bytes: usize,
}

/// The first complete response in `bytes`. Chunked responses are never complete: those are streams.
pub(crate) fn answer(bytes: &[u8]) -> Option<Answer<'_>> {
    let head_bytes = memmem::find(bytes, b"\r\n\r\n")? + 4;
    let head = &bytes[..head_bytes];
    let status = head.get(9..12).and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok()).unwrap_or(0);
    let length = header(head, "content-length").and_then(|text| text.parse().ok()).unwrap_or(0);
    let body = bytes.get(head_bytes..head_bytes + length)?;
    Some(Answer { status, head, body, bytes: head_bytes + length })
}

/// A header's value.
pub(crate) fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    let mut lines = head.split(|byte| *byte == b'\n');
    let line = lines.find(|line| {
        line.len() > name.len() && line[name.len()] == b':' && line[..name.len()].eq_ignore_ascii_case(name.as_bytes())
    })?;
    std::str::from_utf8(&line[name.len() + 1..]).ok().map(str::trim)
}

/// The text between `mark` and the next quotation mark.
pub(crate) fn quoted<'a>(text: &'a [u8], mark: &str) -> Option<&'a str> {
    let start = memmem::find(text, mark.as_bytes())? + mark.len();
    let length = memchr::memchr(b'"', &text[start..])?;
    std::str::from_utf8(&text[start..start + length]).ok()
}

/// As [`quoted`], after the last mark.
pub(crate) fn last_quoted<'a>(text: &'a [u8], mark: &str) -> Option<&'a str> {
    quoted(&text[memmem::rfind(text, mark.as_bytes())?..], mark)
}

pub(crate) fn get(path: &str, headers: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{headers}\r\n").into_bytes()
}

pub(crate) fn post(path: &str, kind: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{body}")
        .into_bytes()
}

pub(crate) const UPGRADE: &str = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
