//! Watches the frames that come in, before they are decoded.
//!
//! The decoder waits for a whole frame before it looks at its length, and would buffer whatever a header announces. So
//! the headers are read here first: a frame that may not come is refused when its header is there.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_ws::{CloseReason, ProtocolError};
use bytes::Bytes;
use futures_core::Stream;

use crate::limits::Arriving;

/// Why a peer is closed, and with which code (RFC 6455 §7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

impl Refusal {
    /// The answer to a peer's own close frame: its code again (RFC 6455 §5.5.1).
    pub(super) fn echoing(reason: Option<CloseReason>) -> Self {
        const NORMAL: u16 = 1000;
        Self { code: reason.map_or(NORMAL, |reason| u16::from(reason.code)), reason: "" }
    }
}

const UNMASKED: Refusal = Refusal { code: 1002, reason: "a client masks its frames" };
const RESERVED: Refusal = Refusal { code: 1002, reason: "reserved bits are zero" };
const LONG_CONTROL: Refusal = Refusal { code: 1002, reason: "a control frame is whole and has at most 125 bytes" };
const TOO_BIG: Refusal = Refusal { code: 1009, reason: "the message is too big" };
const NOT_UTF8: Refusal = Refusal { code: 1007, reason: "a text is UTF-8" };
/// Somebody who publishes too fast, and does not listen to being told so.
pub(super) const TOO_FAST: Refusal = Refusal { code: 1013, reason: "too fast" };
const NO_ROOM: Refusal = Refusal { code: 1013, reason: "this server has no room for the message at the moment" };
const FRAMING: Refusal = Refusal { code: 1002, reason: "the frames do not follow RFC 6455" };

/// What was seen of what comes in.
#[derive(Clone, Default)]
pub(super) struct Incoming(Rc<Seen>);

#[derive(Default)]
struct Seen {
    heard: Cell<bool>,
    refused: Cell<Option<Refusal>>,
}

impl Incoming {
    /// Whether anything came since this was last asked: a long message on a slow line is a sign of life, too.
    pub(super) fn heard(&self) -> bool {
        self.0.heard.take()
    }

    /// How to answer an error of the decoder.
    pub(super) fn refusal(&self, error: &ProtocolError) -> Refusal {
        if let Some(refused) = self.0.refused.get() {
            return refused;
        }
        match error {
            ProtocolError::Overflow => TOO_BIG,
            ProtocolError::UnmaskedFrame => UNMASKED,
            // Both "not UTF-8" and "too long, in pieces" come as I/O errors; reserved bits do not get this far.
            ProtocolError::Io(error) if error.kind() == std::io::ErrorKind::InvalidData => NOT_UTF8,
            ProtocolError::Io(_) => TOO_BIG,
            _ => FRAMING,
        }
    }
}

/// The payload of an upgraded request, watched.
pub(super) fn guarded(payload: Payload, bytes_max: usize, arriving: Arriving) -> (Payload, Incoming) {
    let incoming = Incoming::default();
    let stream = Guard { payload, headers: Headers::new(bytes_max), arriving, seen: incoming.clone() };
    (Payload::Stream { payload: Box::pin(stream) }, incoming)
}

struct Guard {
    payload: Payload,
    headers: Headers,
    /// What is kept of a message that is not whole.
    arriving: Arriving,
    seen: Incoming,
}

impl Stream for Guard {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        let chunk = std::task::ready!(Pin::new(&mut this.payload).poll_next(cx));
        let Some(Ok(bytes)) = &chunk else { return Poll::Ready(chunk) };
        this.seen.0.heard.set(true);
        let passed = this.headers.pass(bytes);
        let room = |()| this.arriving.set(this.headers.unfinished).map_err(|_| NO_ROOM);
        match passed.and_then(room) {
            Ok(()) => Poll::Ready(chunk),
            Err(refusal) => {
                this.seen.0.refused.set(Some(refusal));
                Poll::Ready(Some(Err(PayloadError::Overflow)))
            }
        }
    }
}

/// Bits of a frame's first byte.
const FIN: u8 = 0x80;
const CONTROL: u8 = 0x08;

/// Follows the frames' headers through the bytes (RFC 6455 §5.2), without looking at the payloads.
struct Headers {
    bytes_max: u64,
    header: [u8; 10],
    header_len: usize,
    /// Bytes of the mask and the payload that are still to come.
    left: u64,
    /// Whether the frame at hand is a control frame, and whether it ends its message.
    control: bool,
    ends: bool,
    /// Bytes of the message that is not whole yet.
    unfinished: usize,
}

impl Headers {
    fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max: bytes_max as u64,
            header: [0; 10],
            header_len: 0,
            left: 0,
            control: false,
            ends: false,
            unfinished: 0,
        }
    }

    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= passed as u64;
                bytes = &bytes[passed..];
                if !self.control {
                    self.unfinished = if self.left == 0 && self.ends { 0 } else { self.unfinished + passed };
                }
                continue;
            }
            self.header[self.header_len] = bytes[0];
            self.header_len += 1;
            bytes = &bytes[1..];
            if let Some(length) = self.length()? {
                const MASK_BYTES: u64 = 4;
                self.left = MASK_BYTES + length;
                self.control = self.header[0] & CONTROL != 0;
                self.ends = self.header[0] & FIN != 0;
                self.header_len = 0;
            }
        }
        Ok(())
    }

    /// The payload's length, once the header is whole.
    fn length(&self) -> Result<Option<u64>, Refusal> {
        const RESERVED_BITS: u8 = 0x70;
        const MASKED: u8 = 0x80;
        let header = &self.header[..self.header_len];
        let [first, second, extended @ ..] = header else { return Ok(None) };
        if first & RESERVED_BITS != 0 {
            return Err(RESERVED);
        }
        if second & MASKED == 0 {
            return Err(UNMASKED);
        }
        let short = second & !MASKED;
        if first & CONTROL != 0 && (short > 125 || first & FIN == 0) {
            return Err(LONG_CONTROL);
        }
        let length = match (short, extended) {
            (126, [a, b]) => u64::from(u16::from_be_bytes([*a, *b])),
            (127, [a, b, c, d, e, f, g, h]) => u64::from_be_bytes([*a, *b, *c, *d, *e, *f, *g, *h]),
            (126 | 127, _) => return Ok(None),
            (short, _) => u64::from(short),
        };
        if length > self.bytes_max { Err(TOO_BIG) } else { Ok(Some(length)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(first: u8, length: usize) -> Vec<u8> {
        let mut out = vec![first];
        match length {
            0..=125 => out.push(0x80 | length as u8),
            126..=0xFFFF => {
                out.push(0x80 | 126);
                out.extend((length as u16).to_be_bytes());
            }
            _ => {
                out.push(0x80 | 127);
                out.extend((length as u64).to_be_bytes());
            }
        }
        out.extend([1, 2, 3, 4]);
        out.extend(vec![0xFF; length]);
        out
    }

    proptest! {
        /// However the bytes are cut, the same frames pass and the same are refused.
        #[test]
        fn the_cuts_do_not_matter(lengths in proptest::collection::vec(0_usize..70_000, 1..6), cut in 1_usize..9_000) {
            let all: Vec<u8> = lengths.iter().flat_map(|length| frame(0x82, *length)).collect();
            let mut headers = Headers::new(65_000);
            let passed = all.chunks(cut).try_for_each(|chunk| headers.pass(chunk));
            let expected = if lengths.iter().any(|length| *length > 65_000) { Err(TOO_BIG) } else { Ok(()) };
            prop_assert_eq!(passed, expected);
        }

        #[test]
        fn never_panics(bytes: Vec<u8>) {
            let _ = Headers::new(100).pass(&bytes);
        }
    }

    #[test]
    fn refuses_by_the_header_alone() {
        for (bytes, refusal) in [
            (vec![0x82, 0x80 | 127, 0, 0, 0, 1, 0, 0, 0, 0], TOO_BIG),
            (vec![0x82, 0x80 | 127, 0xFF, 0, 0, 0, 0, 0, 0, 0], TOO_BIG),
            (vec![0x82, 5], UNMASKED),
            (vec![0xC1, 0x80], RESERVED),
            (vec![0x89, 0x80 | 126], LONG_CONTROL),
            (vec![0x09, 0x80], LONG_CONTROL),
        ] {
            assert_eq!(Headers::new(1 << 20).pass(&bytes), Err(refusal));
        }
    }
}
