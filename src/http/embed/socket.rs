//! WebSockets of an `App`: actix-ws performs the handshake and decodes the messages; `wire` encodes what is sent.
//!
//! actix-ws reads all available bytes before it returns the first message, returns an error before the messages that
//! preceded it, and buffers a frame's announced length before it checks that length. So it is passed one frame at a time,
//! and no frame whose header is refused ([`FrameCutter`]): then messages stay in order, no bytes are read ahead of demand,
//! and the memory of one WebSocket is bounded.
//!
//! Two differences to our own connections remain. actix makes no upgrade where `Upgrade` lists other protocols on the same
//! line as `websocket` (RFC 9110 §7.8 allows it, no browser sends it): such a handshake is refused with 400. And an invalid
//! payload is found once its frame is complete, not at its first invalid byte. For an invalid close frame actix-ws has only one
//! error, so the close code comes from our own check of the frame.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::str::Utf8Error;
use std::task::{Context, Poll, ready};

use actix_http::BoxedPayloadStream;
use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::{FromRequest as _, HttpRequest, HttpResponse, web};
use actix_ws::{Item, MessageStream, ProtocolError};
use bytes::Bytes;
use futures_core::Stream;

use super::retained;
use crate::limits::InboundBudget;
use crate::net::RequestBody;
use crate::net::websocket::{
    CloseReason, Fragments, FrameHeader, HeaderReader, Message, MessageSource, Opcode, OpenMessages, read_close,
};

/// A handshake that actix-ws has accepted.
pub(super) struct Handshake {
    pub(super) response: HttpResponse,
    pub(super) messages: OpenMessages,
}

/// Accepts a request's handshake, where it is one; `bytes` are what the client sends after it.
pub(super) fn accept(request: &HttpRequest, bytes: RequestBody) -> Option<Handshake> {
    let frames = Rc::new(RefCell::new(FrameCutter::new(bytes)));
    let cut: BoxedPayloadStream = Box::pin(CutFrames(frames.clone()));
    let mut payload = Payload::Stream { payload: cut };
    let payload = web::Payload::from_request(request, &mut payload).into_inner().ok()?;
    // The response body sends the frames, so the session is not used.
    let (response, _session, stream) = actix_ws::handle(request, payload).ok()?;
    let messages = move |bytes_max| -> Box<dyn MessageSource> {
        frames.borrow_mut().headers = HeaderReader::new(bytes_max);
        Box::new(Messages { stream: stream.max_frame_size(bytes_max), frames, message: None, bytes_max })
    };
    Some(Handshake { response, messages: Box::new(messages) })
}

/// The response that accepts a handshake: actix-ws's, with the fields and the body of `response`.
pub(super) fn answer(handshake: HttpResponse, ours: HttpResponse) -> HttpResponse {
    let (ours, body) = ours.into_parts();
    let mut answer = handshake.map_body(|_, session| {
        // Dropped, actix-ws's own body would end the messages.
        retained::beside(body, session)
    });
    for (name, value) in ours.headers() {
        if !answer.headers().contains_key(name) {
            answer.headers_mut().insert(name.clone(), value.clone());
        }
    }
    answer
}

/// The messages that actix-ws decodes.
struct Messages {
    stream: MessageStream,
    frames: Rc<RefCell<FrameCutter>>,
    /// The message whose fragments are arriving.
    message: Option<Fragments>,
    bytes_max: usize,
}

impl Messages {
    /// The message that a frame is, or completes.
    fn take(&mut self, frame: actix_ws::Message) -> Result<Option<Message>, CloseReason> {
        Ok(Some(match frame {
            actix_ws::Message::Text(text) => Message::Text(text.to_string()),
            actix_ws::Message::Binary(bytes) => Message::Binary(bytes),
            actix_ws::Message::Ping(payload) => Message::Ping(payload),
            actix_ws::Message::Pong(_) => Message::Pong,
            actix_ws::Message::Close(reason) => Message::Close(reason.map(|reason| reason.code.into())),
            actix_ws::Message::Continuation(item) => return self.fragment(item),
            actix_ws::Message::Nop => return Ok(None),
        }))
    }

    fn fragment(&mut self, item: Item) -> Result<Option<Message>, CloseReason> {
        let (piece, last) = match item {
            Item::FirstText(piece) => {
                self.message = Some(Fragments::new(true));
                (piece, false)
            }
            Item::FirstBinary(piece) => {
                self.message = Some(Fragments::new(false));
                (piece, false)
            }
            Item::Continue(piece) => (piece, false),
            Item::Last(piece) => (piece, true),
        };
        let Some(message) = &mut self.message else { return Err(CloseReason::FRAGMENTS) };
        message.push(&piece, self.bytes_max)?;
        self.message.take_if(|_| last).map(Fragments::finish).transpose()
    }

    fn poll(&mut self, cx: &mut Context<'_>, budget: &mut InboundBudget) -> Poll<Option<Result<Message, CloseReason>>> {
        loop {
            let polled = Pin::new(&mut self.stream).poll_next(cx);
            if let Some(reason) = self.frames.borrow().refused {
                return Poll::Ready(Some(Err(reason)));
            }
            let frame = match polled {
                Poll::Ready(Some(Ok(frame))) => frame,
                Poll::Ready(Some(Err(ProtocolError::BadOpCode))) => {
                    return Poll::Ready(Some(Err(self.frames.borrow().close_refusal())));
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(reason_of(&error).map(Err)),
                Poll::Ready(None) => return Poll::Ready(None),
                Poll::Pending => {
                    let mut frames = self.frames.borrow_mut();
                    let message_bytes = self.message.as_ref().map_or(0, Fragments::len);
                    let announced = frames.announced_bytes.take();
                    let has_room = announced.map_or(Ok(()), |bytes| budget.announce(message_bytes + bytes));
                    return match has_room.and_then(|()| budget.set(message_bytes + frames.frame_bytes)) {
                        Ok(()) => Poll::Pending,
                        Err(_) => Poll::Ready(Some(Err(CloseReason::NO_ROOM))),
                    };
                }
            };
            if let Some(message) = self.take(frame).transpose() {
                return Poll::Ready(Some(message));
            }
        }
    }
}

impl MessageSource for Messages {
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        budget: &mut InboundBudget,
    ) -> Poll<Option<Result<Message, CloseReason>>> {
        let polled = self.poll(cx, budget);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.message = None;
            self.frames.borrow_mut().input = Bytes::new();
        }
        polled
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.frames.borrow_mut().bytes).poll_next(cx).map(|_| ())
    }

    fn is_amid_message(&self) -> bool {
        self.message.is_some() || self.frames.borrow().frame_bytes > 0
    }

    fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.frames.borrow_mut().heard)
    }
}

/// The close reason for an error of actix-ws; `None` where the connection is lost, so that no close frame can be sent.
fn reason_of(error: &ProtocolError) -> Option<CloseReason> {
    Some(match error {
        ProtocolError::UnmaskedFrame | ProtocolError::MaskedFrame => CloseReason::UNMASKED,
        ProtocolError::InvalidOpcode(_) => CloseReason::OPCODE,
        ProtocolError::Overflow => CloseReason::TOO_BIG,
        ProtocolError::ContinuationFragment(_) => CloseReason::LONG_CONTROL,
        ProtocolError::ContinuationNotStarted | ProtocolError::ContinuationStarted => CloseReason::FRAGMENTS,
        // Control frames that are too long were refused before: what is left is half a close code, or one that must not be
        // sent.
        ProtocolError::BadOpCode | ProtocolError::InvalidLength(_) => CloseReason::CLOSE_PAYLOAD,
        ProtocolError::Io(error) if error.get_ref().is_some_and(|error| error.is::<Utf8Error>()) => {
            CloseReason::NOT_UTF8
        }
        ProtocolError::Io(error) if error.kind() == io::ErrorKind::InvalidData => CloseReason::RESERVED,
        ProtocolError::Io(_) => return None,
    })
}

/// Cuts the inbound bytes into frames.
struct FrameCutter {
    bytes: RequestBody,
    headers: HeaderReader,
    /// Bytes that were read and are not passed on yet.
    input: Bytes,
    /// Bytes of the payload that are still to come, after its header was read.
    left_bytes: Option<usize>,
    /// The length of a payload whose header was read since this was taken.
    announced_bytes: Option<usize>,
    /// The close frame that is being passed on, or was, with its payload: at most 125 bytes.
    close: Option<(FrameHeader, Vec<u8>)>,
    /// Bytes that were passed on of an incomplete frame.
    frame_bytes: usize,
    /// A frame has just been completed: it is decoded before more bytes are passed on.
    pause: bool,
    heard: bool,
    refused: Option<CloseReason>,
}

impl FrameCutter {
    fn new(bytes: RequestBody) -> Self {
        Self {
            bytes,
            headers: HeaderReader::new(0),
            input: Bytes::new(),
            left_bytes: None,
            announced_bytes: None,
            close: None,
            frame_bytes: 0,
            pause: false,
            heard: false,
            refused: None,
        }
    }

    /// The fault of the close frame that was passed on.
    fn close_refusal(&self) -> CloseReason {
        let read = self.close.as_ref().map(|(header, payload)| read_close(&header.unmasked(payload)));
        read.and_then(Result::err).unwrap_or(CloseReason::CLOSE_PAYLOAD)
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, PayloadError>>> {
        // No waker is needed: actix-ws returns a message or an error for a complete frame, and is polled again for the
        // next.
        if std::mem::take(&mut self.pause) || self.refused.is_some() {
            return Poll::Pending;
        }
        while self.input.is_empty() {
            match ready!(Pin::new(&mut self.bytes).poll_next(cx)) {
                Some(Ok(bytes)) => self.input = bytes,
                Some(Err(error)) => return Poll::Ready(Some(Err(PayloadError::Io(error)))),
                None => return Poll::Ready(None),
            }
            self.heard = true;
        }
        let mut rest = &self.input[..];
        if self.left_bytes.is_none() {
            match self.headers.read(&mut rest) {
                Ok(header) => {
                    self.left_bytes = header.map(|header| header.length);
                    self.announced_bytes = self.left_bytes.or(self.announced_bytes);
                    self.close =
                        header.filter(|header| header.opcode == Opcode::Close).map(|header| (header, Vec::new()));
                }
                Err(reason) => {
                    self.refused = Some(reason);
                    return Poll::Pending;
                }
            }
        }
        let mut given_bytes = self.input.len() - rest.len();
        self.frame_bytes += given_bytes;
        if let Some(left_bytes) = &mut self.left_bytes {
            let payload_bytes = rest.len().min(*left_bytes);
            if let Some((_, payload)) = &mut self.close {
                payload.extend_from_slice(&rest[..payload_bytes]);
            }
            *left_bytes -= payload_bytes;
            given_bytes += payload_bytes;
            self.frame_bytes += payload_bytes;
            if *left_bytes == 0 {
                (self.left_bytes, self.frame_bytes, self.pause) = (None, 0, true);
            }
        }
        let given = self.input.split_to(given_bytes);
        if self.input.is_empty() {
            // Else the buffer would stay in memory until the next read.
            self.input = Bytes::new();
        }
        Poll::Ready(Some(Ok(given)))
    }
}

/// The frames, as a stream for actix-ws.
struct CutFrames(Rc<RefCell<FrameCutter>>);

impl Stream for CutFrames {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests;
