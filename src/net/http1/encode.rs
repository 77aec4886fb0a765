//! The encoding of responses (RFC 9112).

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{BufMut as _, BytesMut};
use http::StatusCode;
use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING, UPGRADE};

use crate::net::response::{DEFAULT_HEADERS, Response, ResponseBody};

/// The most bytes of a chunk's framing: its size, and two line ends.
const CHUNK_FRAMING_BYTES: usize = 16 + 4;

/// How the end of a body is marked (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyFraming {
    /// There is no body.
    Empty,
    /// By `Content-Length`, in bytes.
    Length(usize),
    /// The body is chunked.
    Chunked,
    /// By the end of the connection, which then serves no other request.
    CloseDelimited,
}

/// Writes a head; returns the framing of its body.
pub(super) fn write_head(response: &Response, close: bool, template: &HeadTemplate, out: &mut BytesMut) -> BodyFraming {
    out.reserve(512);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(response.status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(response.status.canonical_reason().unwrap_or_default().as_bytes());
    out.put_slice(b"\r\n");
    let framing = match (response.status, response.body.length()) {
        (StatusCode::SWITCHING_PROTOCOLS, _) => BodyFraming::CloseDelimited,
        (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => BodyFraming::Empty,
        _ if matches!(response.body, ResponseBody::Omitted) => BodyFraming::Empty,
        (_, None) => {
            out.put_slice(b"transfer-encoding: chunked\r\n");
            BodyFraming::Chunked
        }
        (_, Some(bytes)) => {
            out.put_slice(b"content-length: ");
            out.put_slice(itoa::Buffer::new().format(bytes).as_bytes());
            out.put_slice(b"\r\n");
            if bytes == 0 { BodyFraming::Empty } else { BodyFraming::Length(bytes) }
        }
    };
    // Where `Upgrade` merely says what would do, too, it is an option of the connection (RFC 9110 §7.8).
    let names_upgrade = response.fields.contains(UPGRADE.as_str());
    match (response.status, close, names_upgrade) {
        (StatusCode::SWITCHING_PROTOCOLS, _, _) | (_, false, true) => out.put_slice(b"connection: upgrade\r\n"),
        (_, true, true) => out.put_slice(b"connection: close, upgrade\r\n"),
        (_, true, false) => out.put_slice(b"connection: close\r\n"),
        (_, false, false) => {}
    }
    let mut overrides = false;
    for (name, value) in response.fields.iter() {
        if matches!(*name, CONNECTION | CONTENT_LENGTH | TRANSFER_ENCODING | DATE) {
            continue;
        }
        overrides |= DEFAULT_HEADERS.iter().any(|(default, _)| name == default);
        put_field(name.as_str(), value.as_bytes(), out);
    }
    if overrides {
        response.missing_defaults().for_each(|(name, value)| put_field(name, value.as_bytes(), out));
        put_field("date", httpdate::fmt_http_date(SystemTime::now()).as_bytes(), out);
    } else {
        template.write(out);
    }
    out.put_slice(b"\r\n");
    framing
}

fn put_field(name: &str, value: &[u8], out: &mut BytesMut) {
    out.put_slice(name.as_bytes());
    out.put_slice(b": ");
    out.put_slice(value);
    out.put_slice(b"\r\n");
}

/// Writes a part of a body, which is not empty: an empty chunk would be the body's end.
pub(super) fn write_part(framing: BodyFraming, part: &[u8], out: &mut BytesMut) {
    // Byte by byte the last one would double the buffer.
    out.reserve(part.len() + CHUNK_FRAMING_BYTES);
    if framing != BodyFraming::Chunked {
        return out.put_slice(part);
    }
    if !part.is_empty() {
        let _ = write!(out, "{:X}\r\n", part.len());
        out.put_slice(part);
        out.put_slice(b"\r\n");
    }
}

/// Writes the end of a body.
pub(super) fn write_end(framing: BodyFraming, out: &mut BytesMut) {
    if framing == BodyFraming::Chunked {
        out.put_slice(b"0\r\n\r\n");
    }
}

/// The header fields that all responses have in common, with `Date` (RFC 9110 §6.6.1): built once a second.
#[derive(Default)]
pub(super) struct HeadTemplate(RefCell<(u64, String)>);

impl HeadTemplate {
    fn write(&self, out: &mut BytesMut) {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut kept = self.0.borrow_mut();
        if kept.0 != second || kept.1.is_empty() {
            let mut text = format!("date: {}\r\n", httpdate::fmt_http_date(now));
            for (name, value) in DEFAULT_HEADERS {
                text.extend([name, ": ", value, "\r\n"]);
            }
            *kept = (second, text);
        }
        out.put_slice(kept.1.as_bytes());
    }
}
