//! Reads WebSocket messages from a connection of [`http1`](crate::net::http1).

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures_core::Stream;

use super::decoder::Decoder;
use super::{CloseReason, Message, MessageSource};
use crate::limits::InboundBudget;

/// Reads messages from a connection's bytes. Between messages it holds no buffer.
pub(crate) struct FrameReader<S> {
    bytes: S,
    decoder: Decoder,
    /// Bytes that have been read and not decoded.
    input: Bytes,
    heard: bool,
    /// End of the stream.
    ended: bool,
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> FrameReader<S> {
    /// A reader of messages of at most so many bytes.
    pub(crate) fn new(bytes: S, bytes_max: usize) -> Self {
        Self { bytes, decoder: Decoder::new(bytes_max), input: Bytes::new(), heard: false, ended: false }
    }

    fn decode(&mut self) -> Result<Option<Message>, CloseReason> {
        let mut left = &self.input[..];
        let decoded = self.decoder.decode(&mut left);
        let taken = self.input.len() - left.len();
        if left.is_empty() {
            self.input = Bytes::new();
        } else {
            self.input.advance(taken);
        }
        if decoded.is_err() {
            self.input = Bytes::new();
            self.decoder.discard();
        }
        decoded
    }
}

impl<S: Stream<Item = io::Result<Bytes>> + Unpin> MessageSource for FrameReader<S> {
    fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
        budget: &mut InboundBudget,
    ) -> Poll<Option<Result<Message, CloseReason>>> {
        loop {
            if let Some(decoded) = self.decode().transpose() {
                return Poll::Ready(Some(decoded));
            }
            if self.ended {
                return Poll::Ready(None);
            }
            let announced = self.decoder.take_announced().map_or(Ok(()), |bytes| budget.announce(bytes));
            if announced.and_then(|()| budget.set(self.decoder.held_bytes())).is_err() {
                self.decoder.discard();
                return Poll::Ready(Some(Err(CloseReason::NO_ROOM)));
            }
            match ready!(Pin::new(&mut self.bytes).poll_next(cx)) {
                Some(Ok(bytes)) => {
                    self.heard = true;
                    self.input = bytes;
                }
                // After a connection error no peer is left to send a reason to.
                Some(Err(_)) | None => self.ended = true,
            }
        }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Pin::new(&mut self.bytes).poll_next(cx).map(|_| ())
    }

    fn is_amid_message(&self) -> bool {
        self.decoder.is_amid_message()
    }

    fn take_heard(&mut self) -> bool {
        std::mem::take(&mut self.heard)
    }
}
