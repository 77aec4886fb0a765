//! Follows the requests of a connection on their way to the `App`: checks their heads, and finds where they end.
//!
//! Heads are checked by actix's own rules, so that a refusal is this server's own response and says what is wrong; what passes
//! here is still decoded by actix. Of a body only its framing is checked: the sizes of its chunks, and its trailer section.
//!
//! actix skips the bytes between the last chunk and the next empty line unread, whether they are a trailer section
//! (RFC 9112 §7.1.2) or not. A proxy that ends a line at a bare line feed, as §2.2 allows, may end such a body earlier: what
//! follows is then another client's request for the proxy, and a part of the skipped section for actix.
//!
//! Where these rules and actix's differed, a body would go unchecked, or a valid request would be refused; no request would be
//! split differently. In another program's `App` the connections are that program's, and this check is not in their way.

use super::head_check::{self, BodyEnd, HeadSummary};
use crate::net::head_error::HeadError;

/// The check of one connection's requests.
#[derive(Debug, Default)]
pub(super) struct RequestCheck {
    place: Place,
}

/// What the check says of the next bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Checked {
    /// They are the beginning of a head.
    Partial,
    Passed(Passed),
}

/// Bytes that are valid: at least one, and at most to the end of a head or of a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Passed {
    pub(super) bytes: usize,
    /// A request's head ends behind them.
    pub(super) ends_head: bool,
    /// The request ends behind them: its body, or its head where it has no body.
    pub(super) ends_request: bool,
    /// No handler reads the body of this head's request.
    pub(super) ignores_body: bool,
    /// Behind this head the connection is a WebSocket's, or a tunnel's, if the request is accepted.
    pub(super) ends_http: bool,
}

/// The next byte is not valid.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Invalid {
    Head(HeadError),
    /// The framing of the body.
    Body,
}

/// Where the next byte belongs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Head,
    /// A body's remaining bytes.
    Body(u64),
    Chunk(Chunk),
    Trailer(Trailer),
    /// The rest of the connection is not HTTP.
    Unchecked,
}

/// Where the next byte belongs among the chunks of a body (RFC 9112 §7.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Chunk {
    /// The first digit of a size.
    Begin,
    /// More digits behind those of this size.
    Size(u64),
    /// White space behind a size.
    Space(u64),
    Extension(u64),
    /// The line feed behind a size.
    SizeEnd(u64),
    /// The remaining bytes of a chunk.
    Data(u64),
    /// The line end behind a chunk.
    DataEnd,
    DataLineFeed,
}

/// Where the next byte belongs in a trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailer {
    Begin,
    Name,
    Value,
    /// The line feed of a field line.
    FieldEnd,
    /// The line feed of the empty line.
    End,
}

impl RequestCheck {
    /// Checks the bytes that the `App` reads next, of which there is at least one.
    ///
    /// # Errors
    /// [`Invalid`] where the first of them is not valid; the check is over then.
    pub(super) fn next(&mut self, bytes: &[u8]) -> Result<Checked, Invalid> {
        if self.place != Place::Head {
            return self.body(bytes).map(Checked::Passed).ok_or(Invalid::Body);
        }
        let Some(HeadSummary { bytes, body, ignores_body }) = head_check::read(bytes).map_err(Invalid::Head)? else {
            return Ok(Checked::Partial);
        };
        self.place = match body {
            BodyEnd::None => Place::Head,
            BodyEnd::Length(length) => Place::Body(length),
            BodyEnd::Chunked => Place::Chunk(Chunk::Begin),
            BodyEnd::Connection => Place::Unchecked,
        };
        let (ends_request, ends_http) = (body == BodyEnd::None, body == BodyEnd::Connection);
        Ok(Checked::Passed(Passed { bytes, ends_head: true, ends_request, ignores_body, ends_http }))
    }

    /// As [`Self::next`], behind a head; `None` where the first byte is not valid.
    fn body(&mut self, bytes: &[u8]) -> Option<Passed> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let left = (bytes.len() - at) as u64;
            let next = match self.place {
                Place::Unchecked => return Some(Passed { bytes: bytes.len(), ..Passed::default() }),
                Place::Body(rest) if rest > left => Some((Place::Body(rest - left), left)),
                Place::Body(rest) => Some((Place::Head, rest)),
                Place::Chunk(Chunk::Data(rest)) if rest > left => Some((Place::Chunk(Chunk::Data(rest - left)), left)),
                Place::Chunk(Chunk::Data(rest)) => Some((Place::Chunk(Chunk::DataEnd), rest)),
                Place::Chunk(chunk) => chunk.next(byte).map(|next| (next, 1)),
                Place::Trailer(trailer) => trailer.next(byte).map(|next| (next, 1)),
                Place::Head => break,
            };
            let Some((place, taken)) = next else {
                // What is valid before it is passed first.
                return (at > 0).then_some(Passed { bytes: at, ..Passed::default() });
            };
            (self.place, at) = (place, at + taken as usize);
        }
        Some(Passed { bytes: at, ends_request: self.place == Place::Head, ..Passed::default() })
    }
}

impl Chunk {
    /// The place after a byte; `None` where the byte is malformed.
    fn next(self, byte: u8) -> Option<Place> {
        let digit = char::from(byte).to_digit(16).map(u64::from);
        Some(Place::Chunk(match (self, byte) {
            (Self::Begin, _) => Self::Size(digit?),
            (Self::Size(size), _) if digit.is_some() => Self::Size(size.checked_mul(16)? + digit?),
            (Self::Size(size) | Self::Space(size), b' ' | b'\t') => Self::Space(size),
            (Self::Size(size) | Self::Space(size), b';') => Self::Extension(size),
            (Self::Size(size) | Self::Space(size) | Self::Extension(size), b'\r') => Self::SizeEnd(size),
            (Self::Extension(size), b'\t' | b' '..=b'~' | 0x80..) => Self::Extension(size),
            (Self::SizeEnd(0), b'\n') => return Some(Place::Trailer(Trailer::Begin)),
            (Self::SizeEnd(size), b'\n') => Self::Data(size),
            (Self::DataEnd, b'\r') => Self::DataLineFeed,
            (Self::DataLineFeed, b'\n') => Self::Begin,
            _ => return None,
        }))
    }
}

impl Trailer {
    /// The place after a byte; `None` where the byte is malformed.
    fn next(self, byte: u8) -> Option<Place> {
        Some(Place::Trailer(match (self, byte) {
            (Self::Begin, b'\r') => Self::End,
            (Self::End, b'\n') => return Some(Place::Head),
            (Self::Begin | Self::Name, byte) if is_token_byte(byte) => Self::Name,
            (Self::Name, b':') => Self::Value,
            (Self::Value, b'\r') => Self::FieldEnd,
            (Self::Value, b'\t' | b' '..=b'~' | 0x80..) => Self::Value,
            (Self::FieldEnd, b'\n') => Self::Begin,
            _ => return None,
        }))
    }
}

/// Whether a byte may be part of a field's name (RFC 9110 §5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests;
