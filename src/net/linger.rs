//! The end of a connection that discards what its peer still sends: closing a socket with unread bytes would discard the last
//! response on its way (RFC 9112 §9.6).

use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::ReadBuf;
use tokio::time::Sleep;

use super::io::Io;

/// Bytes that a peer may still send after its last response, and for how long.
const MAX_BYTES: usize = 256 << 10;
const MAX_TIME: Duration = Duration::from_secs(1);

/// Bytes that are read at once.
const READ_BYTES: usize = 8 << 10;

/// What a connection still waits for.
pub(super) struct Linger {
    left_bytes: usize,
    time: Pin<Box<Sleep>>,
}

impl Linger {
    /// From now on.
    pub(super) fn new() -> Self {
        Self { left_bytes: MAX_BYTES, time: Box::pin(tokio::time::sleep(MAX_TIME)) }
    }

    /// Waits until the time is over.
    pub(super) fn poll_time(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.time.as_mut().poll(cx)
    }

    /// Discards what the peer sends, until it has sent enough, has closed, or the time is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, io: &mut Io) -> Poll<()> {
        loop {
            if io.read_ended || self.left_bytes == 0 || self.poll_time(cx).is_ready() {
                return Poll::Ready(());
            }
            let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
            let mut some = ReadBuf::uninit(&mut space);
            if ready!(io.poll_some(cx, &mut some)).is_err() {
                return Poll::Ready(());
            }
            self.left_bytes = self.left_bytes.saturating_sub(some.filled().len());
        }
    }
}
