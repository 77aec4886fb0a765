//! The inbound messages of a WebSocket, one after the other, within limits of time and memory.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker, ready};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Sleep;

use crate::limits::InboundBudget;
use crate::net::websocket::{CloseReason, Message, MessageSource};

/// For a client that publishes too fast, and ignores the replies that say so.
pub(super) const TOO_FAST: CloseReason = CloseReason { code: 1013, text: "too fast" };
const TOO_SLOW: CloseReason = CloseReason { code: 1013, text: "the message did not arrive in time" };

/// The reply to a peer's own close frame: the same code (RFC 6455 §5.5.1).
pub(super) fn echoed(code: Option<u16>) -> CloseReason {
    const NORMAL: u16 = 1000;
    CloseReason { code: code.unwrap_or(NORMAL), text: "" }
}

/// The inbound messages of one peer.
pub(super) struct Messages {
    source: Box<dyn MessageSource>,
    /// Timeout of a message, from its first byte to its last.
    time_max: Duration,
    /// The deadline of the incomplete message; set while its bytes are awaited.
    due: Option<Pin<Box<Sleep>>>,
    /// The memory of an incomplete message.
    budget: InboundBudget,
    bell: Arc<Bell>,
    /// The bell as a waker, for the source.
    ring: Waker,
    /// The task that the bell wakes.
    task: Option<Waker>,
    /// Refused: the start of the next frame is no longer known.
    refused: bool,
}

/// Rings when bytes have arrived. A WebSocket's task runs with every delivery; to poll through the layers of the source
/// each time, for messages that are rare, would cost as much as the delivery itself.
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
    /// Of an upgraded connection; a message takes at most `time_max`.
    pub(super) fn new(source: Box<dyn MessageSource>, time_max: Duration, budget: InboundBudget) -> Self {
        let bell = Arc::new(Bell { rung: AtomicBool::new(true), task: AtomicWaker::new() });
        let ring = Waker::from(bell.clone());
        Self { source, time_max, due: None, budget, bell, ring, task: None, refused: false }
    }

    /// Whether bytes have arrived since the last call.
    pub(super) fn heard(&mut self) -> bool {
        self.source.take_heard()
    }

    /// The next message; `None` after the peer's last.
    ///
    /// # Errors
    /// The reason to close with; no more messages are read then.
    pub(super) fn poll_next(&mut self, cx: &Context<'_>) -> Poll<Option<Result<Message, CloseReason>>> {
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
            // There may be more messages to poll for.
            self.bell.rung.store(true, Ordering::Relaxed);
        }
        next
    }

    /// Waits for the peer's close frame, or the end of its bytes; other messages are dropped. After a refusal any bytes
    /// count as the end.
    pub(super) fn poll_close(&mut self, cx: &Context<'_>) -> Poll<()> {
        loop {
            match ready!(self.poll_next(cx)) {
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Poll::Ready(()),
                Some(Ok(_)) => {}
            }
        }
    }

    fn read(&mut self) -> Poll<Option<Result<Message, CloseReason>>> {
        let mut cx = Context::from_waker(&self.ring);
        if self.refused {
            return self.source.poll_bytes(&mut cx).map(|()| None);
        }
        let mut read = self.source.poll_message(&mut cx, &mut self.budget);
        match &read {
            Poll::Ready(Some(Ok(message))) if message.is_data() => self.due = None,
            Poll::Ready(_) => {}
            Poll::Pending if !self.source.is_amid_message() => self.due = None,
            // A peer that sends half a message and stays connected would keep that half in memory for ever: it answers
            // pings, so no other timeout ends it.
            Poll::Pending => {
                let time_max = self.time_max;
                let due = self.due.get_or_insert_with(|| Box::pin(tokio::time::sleep(time_max)));
                read = due.as_mut().poll(&mut cx).map(|()| Some(Err(TOO_SLOW)));
            }
        }
        if matches!(read, Poll::Ready(Some(Err(_)))) {
            self.refused = true;
            self.due = None;
            let _less_is_never_refused = self.budget.set(0);
        }
        read
    }
}
