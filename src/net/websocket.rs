//! The messages of a WebSocket, as a client sends them (RFC 6455).
//!
//! There are two sources of them, and handlers cannot tell which: [`FrameReader`], where the connection is [`http1`]'s, and
//! actix-ws, where the request came through an `App`. Both give the same messages, and refuse the same with the same codes;
//! `http::embed` has the test that holds them to it.
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

/// Where the messages of one WebSocket come from.
pub(crate) trait MessageSource {
    /// The next message; `None` once the peer has sent its last byte. What is held of a message that is not whole is charged to
    /// the budget.
    ///
    /// # Errors
    /// Why the peer is to be closed. Where the next frame begins is not known any more then, so that only
    /// [`Self::poll_bytes`] is left.
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        budget: &mut InboundBudget,
    ) -> Poll<Option<Result<Message, CloseReason>>>;

    /// Waits for any bytes, or for their end, and drops what there is.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Whether a message has begun that is not whole.
    fn is_amid_message(&self) -> bool;

    /// Whether any bytes came since the last call: a long message on a slow connection is a sign of life, too.
    fn take_heard(&mut self) -> bool;
}

/// Begins to read the messages of a connection that became a WebSocket, of at most so many bytes each.
pub(crate) type OpenMessages = Box<dyn FnOnce(usize) -> Box<dyn MessageSource>>;
