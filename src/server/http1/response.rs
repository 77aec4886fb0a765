//! How an answer stands on the wire (RFC 9112).

use std::cell::RefCell;
use std::fmt::Write as _;
use std::time::{SystemTime, UNIX_EPOCH};

use actix_http::body::BodySize;
use actix_http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use actix_http::{ConnectionType, ResponseHead, StatusCode};
use bytes::{BufMut as _, BytesMut};

use crate::http::EVERY_ANSWER;

/// How the end of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// By its length.
    Sized,
    /// It comes in chunks.
    Chunked,
    /// By the end of the connection, of which nobody else can make use.
    Raw,
}

/// Writes a head; says how its body is to be written.
pub(super) fn write_head(
    head: &ResponseHead,
    size: BodySize,
    close: bool,
    common: &Common,
    out: &mut BytesMut,
) -> Framing {
    out.reserve(512);
    out.put_slice(b"HTTP/1.1 ");
    out.put_slice(head.status.as_str().as_bytes());
    out.put_u8(b' ');
    out.put_slice(head.reason().as_bytes());
    out.put_slice(b"\r\n");
    let framing = match (head.status, size) {
        (StatusCode::SWITCHING_PROTOCOLS, _) => Framing::Raw,
        (StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED, _) => Framing::None,
        (_, BodySize::None | BodySize::Sized(0)) => {
            out.put_slice(b"content-length: 0\r\n");
            Framing::None
        }
        (_, BodySize::Sized(length)) => {
            out.put_slice(b"content-length: ");
            out.put_slice(itoa::Buffer::new().format(length).as_bytes());
            out.put_slice(b"\r\n");
            Framing::Sized
        }
        (_, BodySize::Stream) if head.chunked() => {
            out.put_slice(b"transfer-encoding: chunked\r\n");
            Framing::Chunked
        }
        (_, BodySize::Stream) => Framing::Raw,
    };
    if head.connection_type() == ConnectionType::Upgrade {
        out.put_slice(b"connection: upgrade\r\n");
    } else if close || framing == Framing::Raw {
        out.put_slice(b"connection: close\r\n");
    }
    debug_assert!(EVERY_ANSWER.iter().all(|(name, _)| !head.headers().contains_key(*name)), "{head:?}");
    for (name, value) in head.headers() {
        if matches!(*name, CONNECTION | CONTENT_LENGTH | TRANSFER_ENCODING | DATE) {
            continue;
        }
        out.put_slice(name.as_str().as_bytes());
        out.put_slice(b": ");
        out.put_slice(value.as_bytes());
        out.put_slice(b"\r\n");
    }
    common.write(out);
    out.put_slice(b"\r\n");
    framing
}

/// Writes a part of a body. None is empty: that would be its end.
pub(super) fn write_part(framing: Framing, part: &[u8], out: &mut BytesMut) {
    if framing != Framing::Chunked {
        return out.put_slice(part);
    }
    if !part.is_empty() {
        let _ = write!(out, "{:X}\r\n", part.len());
        out.put_slice(part);
        out.put_slice(b"\r\n");
    }
}

/// Writes the end of a body.
pub(super) fn write_end(framing: Framing, out: &mut BytesMut) {
    if framing == Framing::Chunked {
        out.put_slice(b"0\r\n\r\n");
    }
}

/// The headers that all answers have in common, `Date` (RFC 9110 §6.6.1) among them: put together once a second.
#[derive(Default)]
pub(super) struct Common(RefCell<(u64, String)>);

impl Common {
    fn write(&self, out: &mut BytesMut) {
        let now = SystemTime::now();
        let second = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let mut kept = self.0.borrow_mut();
        if kept.0 != second || kept.1.is_empty() {
            let mut text = format!("date: {}\r\n", httpdate::fmt_http_date(now));
            for (name, value) in EVERY_ANSWER {
                text.extend([name, ": ", value, "\r\n"]);
            }
            *kept = (second, text);
        }
        out.put_slice(kept.1.as_bytes());
    }
}
