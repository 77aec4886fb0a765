//! The end of a WebSocket: the closing handshake (RFC 6455 §7.1.1).

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Sleep;

use super::incoming::Messages;

/// Timeout for the peer's close frame, after the server's was sent.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A WebSocket whose close frame was sent first by the server, and that waits for the peer's.
///
/// One that was closed by its peer needs none of this: with the reply both close frames are exchanged, the body ends, and
/// the connection is closed at once.
pub(super) struct Closing {
    messages: Messages,
    timeout: Pin<Box<Sleep>>,
}

impl Closing {
    pub(super) fn new(messages: Messages) -> Self {
        Self { messages, timeout: Box::pin(tokio::time::sleep(CLOSE_TIMEOUT)) }
    }

    /// Waits for the peer's close frame, or for a substitute: the end of its bytes, any bytes of a peer that violated the
    /// framing, or the timeout. Messages before it are dropped.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.timeout.as_mut().poll(cx).is_ready() {
            return Poll::Ready(());
        }
        self.messages.poll_close(cx)
    }
}
