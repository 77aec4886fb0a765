//! Request bodies.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_core::Stream;
use futures_util::StreamExt as _;
use h2::RecvStream;
use tokio::time::timeout;

/// Bytes that a client may still send after its response, and for how long: they are read and discarded.
const READ_OUT_MAX_BYTES: usize = 4 << 20;
const READ_OUT_TIME: Duration = Duration::from_secs(5);

/// A request's body. Its flow-control window opens as it is read.
#[derive(Clone)]
pub(super) struct Upload(Rc<RefCell<RecvStream>>);

impl Upload {
    pub(super) fn new(body: RecvStream) -> Self {
        Self(Rc::new(RefCell::new(body)))
    }

    pub(super) fn has_ended(&self) -> bool {
        self.0.borrow().is_end_stream()
    }

    /// Reads and discards what a client still sends after its response, for a while. In some clients a reset of the stream would
    /// discard the response (RFC 9113 §8.1 allows the reset; curl 7.88 reports an error then).
    pub(super) async fn read_out(mut self) {
        let reading = async {
            let mut left = READ_OUT_MAX_BYTES;
            while left > 0
                && let Some(Ok(bytes)) = self.next().await
            {
                left = left.saturating_sub(bytes.len().max(1));
            }
        };
        let _ = timeout(READ_OUT_TIME, reading).await;
    }
}

impl Stream for Upload {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut body = self.0.borrow_mut();
        match ready!(body.poll_data(cx)) {
            Some(Ok(bytes)) => {
                let released = body.flow_control().release_capacity(bytes.len());
                Poll::Ready(Some(released.map(|()| bytes).map_err(io::Error::other)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(io::Error::other(error)))),
            None => Poll::Ready(None),
        }
    }
}
