//! A client's WebSocket messages (RFC 6455), from the bytes of a connection.
//!
//! Messages have two sources that handlers cannot tell apart: [`FrameReader`] for connections of [`http1`], and actix-ws for
//! requests that came through an `App`. Both decode the same messages, and fail the connection with the same close codes; a
//! test in `http::embed` compares them.
//!
//! [`http1`]: super::http1

mod decoder;
mod header;
mod message;
mod reader;

use std::task::{Context, Poll};

pub(crate) use header::{FrameHeader, HeaderReader, Opcode};
pub(crate) use message::{CloseReason, Fragments, Message, read_close};
pub(crate) use reader::FrameReader;

use crate::limits::InboundBudget;

/// The source of one WebSocket's messages.
pub(crate) trait MessageSource {
    /// The next message; `None` once the peer has sent its last byte. The buffered bytes of an incomplete message are charged
    /// to the budget.
    ///
    /// # Errors
    /// The reason to close the connection. The start of the next frame is then unknown, so only [`Self::poll_bytes`] may be
    /// called.
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        budget: &mut InboundBudget,
    ) -> Poll<Option<Result<Message, CloseReason>>>;

    /// Waits for bytes or their end, and discards them.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether a message has begun and is incomplete.
    fn is_amid_message(&self) -> bool;

    /// Whether bytes have arrived since the last call: a long message on a slow connection is a sign of life, too.
    fn take_heard(&mut self) -> bool;
}

/// Reads the messages, of at most so many bytes each, of a connection that was upgraded to a WebSocket.
pub(crate) type OpenMessages = Box<dyn FnOnce(usize) -> Box<dyn MessageSource>>;
