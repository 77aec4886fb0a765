//! The check of a request's head, by actix's rules.

use std::mem::MaybeUninit;

use actix_http::{Method, Uri};

use crate::net::head_error::HeadError;

/// The most bytes of a head: at this many, actix gives up an incomplete one.
const HEAD_MAX_BYTES: usize = 128 << 10;

/// The most header fields that actix accepts.
const FIELDS_MAX: usize = 96;

/// What a valid head says of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HeadSummary {
    /// The length of the head, with the empty line at its end.
    pub(super) bytes: usize,
    pub(super) body: BodyEnd,
    /// No handler reads a body of this method.
    pub(super) ignores_body: bool,
}

/// The end of a request's body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyEnd {
    /// There is no body.
    None,
    /// After so many bytes, one at least.
    Length(u64),
    /// After the last chunk and the trailer section.
    Chunked,
    /// At the end of the connection: a WebSocket, or a tunnel.
    Connection,
}

/// Reads the head at the beginning of `bytes`; `None` where it is incomplete.
///
/// # Errors
/// Why actix would refuse the head.
pub(super) fn read(bytes: &[u8]) -> Result<Option<HeadSummary>, HeadError> {
    let mut fields = [const { MaybeUninit::uninit() }; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let parsed = request.parse_with_uninit_headers(bytes, &mut fields).map_err(|error| syntax(error, bytes))?;
    let head_bytes = match parsed {
        httparse::Status::Complete(bytes) if bytes < HEAD_MAX_BYTES => bytes,
        httparse::Status::Partial if bytes.len() < HEAD_MAX_BYTES => return Ok(None),
        _ => return Err(HeadError::TooLong { limit_bytes: HEAD_MAX_BYTES }),
    };
    let (method, target) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| HeadError::RequestLine)?;
    Uri::try_from(target).map_err(|_| HeadError::Target(target.to_owned()))?;
    let is_http_11 = request.version == Some(1);
    let mut framing = Framing::default();
    for field in request.headers.iter() {
        framing.note(field.name, field.value)?;
    }
    let body = framing.body(&method, is_http_11)?;
    // Whether a WebSocket follows is not known here.
    let ignores_body = method != Method::POST && body != BodyEnd::Connection;
    Ok(Some(HeadSummary { bytes: head_bytes, body, ignores_body }))
}

/// The error in a head that is not one by its syntax.
fn syntax(error: httparse::Error, bytes: &[u8]) -> HeadError {
    match error {
        httparse::Error::TooManyHeaders => HeadError::TooManyFields { limit: FIELDS_MAX },
        httparse::Error::HeaderName | httparse::Error::HeaderValue => HeadError::Field,
        httparse::Error::Version if names_a_version(bytes) => HeadError::Version,
        _ => HeadError::RequestLine,
    }
}

/// Whether the first line is well-formed but for its version of HTTP (RFC 9112 §2.3, §3).
fn names_a_version(bytes: &[u8]) -> bool {
    let line = bytes.trim_ascii_start().split(|byte| matches!(byte, b'\r' | b'\n')).next().unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (_method, _target, version, more) = (words.next(), words.next(), words.next(), words.next());
    match version.and_then(|version| version.strip_prefix(b"HTTP/")) {
        Some([major, b'.', minor]) => more.is_none() && major.is_ascii_digit() && minor.is_ascii_digit(),
        _ => false,
    }
}

/// The fields about a body and a connection (RFC 9112 §3.2, §6).
#[derive(Default)]
struct Framing {
    has_host: bool,
    length: Option<u64>,
    is_coded: bool,
    is_websocket: bool,
}

impl Framing {
    fn note(&mut self, name: &str, value: &[u8]) -> Result<(), HeadError> {
        let value = value.trim_ascii();
        if name.eq_ignore_ascii_case("host") {
            if std::mem::replace(&mut self.has_host, true) {
                return Err(HeadError::Host);
            }
        } else if name.eq_ignore_ascii_case("content-length") {
            let is_number = !value.is_empty() && value.iter().all(u8::is_ascii_digit);
            let digits = std::str::from_utf8(value).ok().filter(|_| is_number && self.length.is_none());
            self.length = Some(digits.and_then(|digits| digits.parse().ok()).ok_or(HeadError::Length)?);
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            if std::mem::replace(&mut self.is_coded, true) {
                return Err(HeadError::Framing);
            }
            check_coding(value)?;
        } else if name.eq_ignore_ascii_case("upgrade") {
            self.is_websocket |= value.eq_ignore_ascii_case(b"websocket");
        }
        Ok(())
    }

    fn body(&self, method: &Method, is_http_11: bool) -> Result<BodyEnd, HeadError> {
        if is_http_11 && !self.has_host {
            return Err(HeadError::Host);
        }
        if self.is_coded {
            let is_sound = is_http_11 && self.length.is_none();
            return if is_sound { Ok(BodyEnd::Chunked) } else { Err(HeadError::Framing) };
        }
        if self.is_websocket {
            return Ok(BodyEnd::Connection);
        }
        match self.length {
            // HTTP/1.0 has no other way to say that a POST has no body.
            None if !is_http_11 && *method == Method::POST => Err(HeadError::NoLength),
            None | Some(0) if *method == Method::CONNECT => Ok(BodyEnd::Connection),
            None | Some(0) => Ok(BodyEnd::None),
            Some(length) => Ok(BodyEnd::Length(length)),
        }
    }
}

/// Only `chunked` is decoded. Where it is not the last coding, the body has no end (RFC 9112 §6.3).
fn check_coding(value: &[u8]) -> Result<(), HeadError> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(());
    }
    let mut codings = value.rsplit(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    match (codings.next(), codings.next()) {
        (Some(last), Some(other))
            if last.eq_ignore_ascii_case(b"chunked") && !other.eq_ignore_ascii_case(b"chunked") =>
        {
            Err(HeadError::Coding(String::from_utf8_lossy(other).into_owned()))
        }
        _ => Err(HeadError::Framing),
    }
}
