//! What comes in on a socket: frames are checked by their headers, decoded, and put together to messages.
//!
//! The decoder waits for a whole frame before it looks at its length, and would buffer whatever a header announces. So
//! the headers are read here first: a frame that may not come is refused when its header is there.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use actix_codec::Decoder as _;
use actix_http::ws::{CloseReason, Codec, Frame, Item, ProtocolError};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::task::AtomicWaker;
use tokio::time::Sleep;

use crate::limits::InboundBudget;
use crate::net::RequestBody;

/// Why a peer is closed, and with which code (RFC 6455 §7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: u16,
    pub(super) reason: &'static str,
}

impl Refusal {
    /// The answer to a peer's own close frame: its code again (RFC 6455 §5.5.1).
    pub(super) fn echoing(reason: Option<&CloseReason>) -> Self {
        const NORMAL: u16 = 1000;
        Self { code: reason.map_or(NORMAL, |reason| u16::from(reason.code)), reason: "" }
    }
}

impl From<ProtocolError> for Refusal {
    fn from(error: ProtocolError) -> Self {
        match error {
            ProtocolError::Overflow => TOO_BIG,
            ProtocolError::UnmaskedFrame => UNMASKED,
            _ => FRAMING,
        }
    }
}

const UNMASKED: Refusal = Refusal { code: 1002, reason: "a client masks its frames" };
const RESERVED: Refusal = Refusal { code: 1002, reason: "reserved bits are zero" };
const LONG_CONTROL: Refusal = Refusal { code: 1002, reason: "a control frame is whole and has at most 125 bytes" };
const TOO_BIG: Refusal = Refusal { code: 1009, reason: "the message is too big" };
const NOT_UTF8: Refusal = Refusal { code: 1007, reason: "a text is UTF-8" };
/// Somebody who publishes too fast, and does not listen to being told so.
pub(super) const TOO_FAST: Refusal = Refusal { code: 1013, reason: "too fast" };
pub(super) const NO_ROOM: Refusal =
    Refusal { code: 1013, reason: "this server has no room for the message at the moment" };
const TOO_SLOW: Refusal = Refusal { code: 1013, reason: "the message did not come in time" };
const FRAMING: Refusal = Refusal { code: 1002, reason: "the frames do not follow RFC 6455" };

/// A whole message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Message {
    Text(String),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    Close(Option<CloseReason>),
}

/// The messages of one peer.
pub(super) struct Messages {
    payload: RequestBody,
    headers: Headers,
    codec: Codec,
    /// Bytes that are not decoded yet: less than a frame, or what one read brought.
    buffer: BytesMut,
    /// The beginning of a message that comes in pieces.
    begun: Option<Pieces>,
    bytes_max: usize,
    /// How long a message may take from its first byte to its last.
    time_max: Duration,
    /// When the one that has begun is due; set when its peer is waited for.
    due: Option<Pin<Box<Sleep>>>,
    /// What is held of a message that is not whole.
    budget: InboundBudget,
    bell: Arc<Bell>,
    /// The bell as a waker, for the payload.
    ring: Waker,
    /// The task that the bell wakes.
    task: Option<Waker>,
    heard: bool,
    ended: bool,
    /// Refused: where the next frame begins is not known any more.
    refused: bool,
}

struct Pieces {
    text: bool,
    bytes: BytesMut,
}

/// Rings when something has come in. A socket's task runs with every delivery; to look through the layers of the payload
/// each time, for what is hardly ever there, would cost as much as the delivery itself.
struct Bell {
    rung: AtomicBool,
    task: AtomicWaker,
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.rung.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Messages {
    /// Of an upgraded request's payload; a message has at most `bytes_max`, and takes at most `time_max`.
    pub(super) fn new(payload: RequestBody, bytes_max: usize, time_max: Duration, budget: InboundBudget) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        Self {
            payload,
            headers: Headers::new(bytes_max),
            codec: Codec::new().max_size(bytes_max),
            buffer: BytesMut::new(),
            begun: None,
            bytes_max,
            time_max,
            due: None,
            budget,
            ring: Waker::from(bell.clone()),
            bell,
            task: None,
            heard: false,
            ended: false,
            refused: false,
        }
    }

    /// Whether anything came since this was last asked: a long message on a slow line is a sign of life, too.
    pub(super) fn heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }

    /// The next message; `None` once the peer has sent its last.
    ///
    /// # Errors
    /// What the peer is to be told before it is closed; nothing more is read then.
    pub(super) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Message, Refusal>>> {
        let same_task = self.task.as_ref().is_some_and(|known| known.will_wake(cx.waker()));
        if same_task && !self.bell.rung.load(Ordering::Acquire) {
            return Poll::Pending;
        }
        if !same_task {
            self.task = Some(cx.waker().clone());
        }
        self.bell.task.register(cx.waker());
        self.bell.rung.store(false, Ordering::Relaxed);
        let next = self.read();
        if next.is_ready() {
            // There may be more that was not looked at.
            self.bell.rung.store(true, Ordering::Relaxed);
        }
        next
    }

    /// Waits for the peer's close frame, or the end of its bytes; what else comes is dropped. Of a peer that was refused
    /// anything that comes is the end.
    pub(super) fn poll_close(&mut self, cx: &Context<'_>) -> Poll<()> {
        loop {
            match ready!(self.poll_next(cx)) {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Poll::Ready(()),
                Some(Ok(_)) => {}
            }
        }
    }

    fn read(&mut self) -> Poll<Option<Result<Message, Refusal>>> {
        if self.refused {
            let ring = self.ring.clone();
            return self.payload.poll_next_unpin(&mut Context::from_waker(&ring)).map(|_| None);
        }
        let read = self.read_message();
        if matches!(read, Poll::Ready(Some(Err(_)))) {
            self.refused = true;
            (self.buffer, self.begun) = (BytesMut::new(), None);
            let _less_is_never_refused = self.budget.set(0);
        }
        read
    }

    fn read_message(&mut self) -> Poll<Option<Result<Message, Refusal>>> {
        loop {
            match self.decode() {
                Ok(None) if self.ended => return Poll::Ready(None),
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(message))),
                Err(refusal) => return Poll::Ready(Some(Err(refusal))),
            }
            if self.budget.set(self.held_bytes()).is_err() {
                return Poll::Ready(Some(Err(NO_ROOM)));
            }
            let ring = self.ring.clone();
            let mut cx = Context::from_waker(&ring);
            match self.payload.poll_next_unpin(&mut cx) {
                Poll::Ready(Some(Ok(bytes))) => {
                    self.heard = true;
                    if let Err(refusal) = self.headers.pass(&bytes) {
                        return Poll::Ready(Some(Err(refusal)));
                    }
                    self.buffer.extend_from_slice(&bytes);
                }
                // It broke off; there is nobody to be told.
                Poll::Ready(Some(Err(_)) | None) => self.ended = true,
                Poll::Pending => {
                    ready!(self.poll_due(&mut cx));
                    return Poll::Ready(Some(Err(TOO_SLOW)));
                }
            }
        }
    }

    /// Comes when a message has begun that should be whole by now. A peer that sends half a message and stays would keep
    /// that half here for ever: it answers pings, so nothing else ends it.
    fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.buffer.is_empty() && self.begun.is_none() {
            self.due = None;
            return Poll::Pending;
        }
        let time_max = self.time_max;
        self.due.get_or_insert_with(|| Box::pin(tokio::time::sleep(time_max))).as_mut().poll(cx)
    }

    /// What has come of messages that are not whole.
    fn held_bytes(&self) -> usize {
        self.buffer.len() + self.begun.as_ref().map_or(0, |begun| begun.bytes.len())
    }

    fn decode(&mut self) -> Result<Option<Message>, Refusal> {
        while !self.buffer.is_empty() {
            // The decoder has one error for all that is wrong with a close frame.
            if close_reason(&self.buffer).is_some_and(|reason| std::str::from_utf8(&reason).is_err()) {
                return Err(NOT_UTF8);
            }
            let Some(frame) = self.codec.decode(&mut self.buffer)? else { return Ok(None) };
            if self.buffer.is_empty() {
                // What was read is let go of: between messages a quiet peer costs no buffer.
                self.buffer = BytesMut::new();
            }
            if let Some(message) = self.message(frame)? {
                if matches!(message, Message::Text(_) | Message::Binary(_)) {
                    self.due = None;
                }
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// The message that a frame is, or completes.
    fn message(&mut self, frame: Frame) -> Result<Option<Message>, Refusal> {
        let (item, last) = match frame {
            Frame::Text(bytes) => return text(bytes.into()).map(Some),
            Frame::Binary(bytes) => return Ok(Some(Message::Binary(bytes))),
            Frame::Ping(bytes) => return Ok(Some(Message::Ping(bytes))),
            Frame::Pong(_) => return Ok(Some(Message::Pong)),
            Frame::Close(reason) => return Ok(Some(Message::Close(reason))),
            Frame::Continuation(Item::FirstText(bytes)) => {
                self.begun = Some(Pieces { text: true, bytes: BytesMut::new() });
                (bytes, false)
            }
            Frame::Continuation(Item::FirstBinary(bytes)) => {
                self.begun = Some(Pieces { text: false, bytes: BytesMut::new() });
                (bytes, false)
            }
            Frame::Continuation(Item::Continue(bytes)) => (bytes, false),
            Frame::Continuation(Item::Last(bytes)) => (bytes, true),
        };
        let Some(begun) = &mut self.begun else { return Err(FRAMING) };
        if begun.bytes.len() + item.len() > self.bytes_max {
            return Err(TOO_BIG);
        }
        begun.bytes.extend_from_slice(&item);
        match self.begun.take_if(|_| last) {
            Some(whole) if whole.text => text(whole.bytes.into()).map(Some),
            Some(whole) => Ok(Some(Message::Binary(whole.bytes.freeze()))),
            None => Ok(None),
        }
    }
}

fn text(bytes: Vec<u8>) -> Result<Message, Refusal> {
    String::from_utf8(bytes).map(Message::Text).map_err(|_| NOT_UTF8)
}

/// The reason in the close frame that stands first (RFC 6455 §5.5.1), once the frame is whole.
fn close_reason(bytes: &[u8]) -> Option<Vec<u8>> {
    const CLOSE: u8 = 8;
    const OPCODE: u8 = 0x0F;
    const LENGTH: u8 = 0x7F;
    const CODE_BYTES: usize = 2;
    let [first, second, a, b, c, d, rest @ ..] = bytes else { return None };
    if first & OPCODE != CLOSE {
        return None;
    }
    let payload = rest.get(..usize::from(second & LENGTH))?;
    let unmasked = payload.iter().zip([a, b, c, d].into_iter().cycle()).map(|(byte, mask)| byte ^ mask);
    Some(unmasked.skip(CODE_BYTES).collect())
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
}

impl Headers {
    fn new(bytes_max: usize) -> Self {
        Self { bytes_max: bytes_max as u64, header: [0; 10], header_len: 0, left: 0 }
    }

    fn pass(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let passed = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
                self.left -= passed as u64;
                bytes = &bytes[passed..];
                continue;
            }
            self.header[self.header_len] = bytes[0];
            self.header_len += 1;
            bytes = &bytes[1..];
            if let Some(length) = self.length()? {
                const MASK_BYTES: u64 = 4;
                self.left = MASK_BYTES + length;
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
