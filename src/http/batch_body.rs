//! The body of a long batch. Its bytes are kept in memory only while the socket takes them.
//!
//! While the connection's task runs, the whole batch is in memory, and its parts are sent as fast as the socket takes them:
//! nearly every client takes the whole batch at once. Where the task suspends with bytes left, the bytes are dropped, and
//! encoded again from the log when the socket takes more ([`crate::delivery::UnsentBatch`]).

use std::cell::{Cell, RefCell};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_core::Stream;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;

use super::driver::Driver;
use crate::delivery::UnsentBatch;
use crate::event::Event;
use crate::hub::Worker;
use crate::net::Response;
use crate::segment::Extent;

/// Longest batch, in bytes, that is kept as it is until it is sent.
const WHOLE_BYTES_MAX: usize = 32 << 10;

/// Bytes of a longer batch that are sent at a time.
const PART_BYTES: usize = 16 << 10;

/// Bytes of long batches that one thread keeps in memory, of all those whose tasks are not suspended: a hundred requests
/// may arrive at once.
const KEPT_BYTES_MAX: usize = 4 << 20;

thread_local! {
    static KEPT_BYTES: Cell<usize> = const { Cell::new(0) };
}

/// A response with the batch that a delivery has finished with.
pub(super) fn with_batch(response: Response, driver: Box<Driver>, batch: Bytes) -> Response {
    if batch.len() <= WHOLE_BYTES_MAX {
        return response.with_body(batch);
    }
    let (worker, delivery) = driver.into_delivery();
    match delivery.into_unsent(batch.len()) {
        Some(unsent) => response.with_sized_stream(unsent.length(), BatchBody::new(worker, unsent, batch)),
        // A batch without an event is never that long.
        None => response.with_body(batch),
    }
}

struct BatchBody {
    source: Rc<Source>,
    sent_bytes: usize,
    kept: Rc<RefCell<Kept>>,
    remaking: Option<LocalBoxFuture<'static, Option<Bytes>>>,
}

/// What the batch is encoded from again.
struct Source {
    worker: Rc<Worker>,
    batch: UnsentBatch,
}

/// The bytes of a batch, charged to the thread's budget.
struct WholeBatch(Bytes);

impl WholeBatch {
    /// `None` where the thread's budget is used up.
    fn keep(bytes: Bytes) -> Option<Self> {
        let all = KEPT_BYTES.get() + bytes.len();
        (all <= KEPT_BYTES_MAX).then(|| {
            KEPT_BYTES.set(all);
            Self(bytes)
        })
    }
}

impl Drop for WholeBatch {
    fn drop(&mut self) {
        KEPT_BYTES.set(KEPT_BYTES.get() - self.0.len());
    }
}

/// The bytes of a batch, kept while the task that sends them runs.
struct Kept {
    bytes: Option<WholeBatch>,
    /// Parts that were returned.
    parts: usize,
    /// Whether a task is running that will drop the bytes.
    watched: bool,
}

impl BatchBody {
    fn new(worker: Rc<Worker>, batch: UnsentBatch, bytes: Bytes) -> Self {
        let kept = Rc::new(RefCell::new(Kept { bytes: WholeBatch::keep(bytes), parts: 0, watched: false }));
        let body = Self { source: Rc::new(Source { worker, batch }), sent_bytes: 0, kept, remaking: None };
        // A socket that takes nothing at all never polls for a part.
        body.watch();
        body
    }

    /// The next part of the batch.
    fn part(&mut self, whole: &[u8]) -> Bytes {
        let rest = whole.get(self.sent_bytes..).unwrap_or_default();
        // A copy: a slice would keep the whole batch in memory.
        let part = Bytes::copy_from_slice(&rest[..rest.len().min(PART_BYTES)]);
        self.sent_bytes += part.len();
        self.kept.borrow_mut().parts += 1;
        self.watch();
        part
    }

    /// Drops the bytes when no part is taken during one turn of the thread's tasks.
    fn watch(&self) {
        if !std::mem::replace(&mut self.kept.borrow_mut().watched, true) {
            tokio::task::spawn_local(let_go_of(Rc::downgrade(&self.kept)));
        }
    }
}

async fn let_go_of(kept: Weak<RefCell<Kept>>) {
    let parts = || kept.upgrade().map(|kept| kept.borrow().parts);
    while let Some(before) = parts() {
        tokio::task::yield_now().await;
        let Some(kept) = kept.upgrade() else { return };
        let mut kept = kept.borrow_mut();
        if kept.parts == before {
            kept.bytes = None;
            kept.watched = false;
            return;
        }
    }
}

impl Stream for BatchBody {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = self.get_mut();
        if this.sent_bytes >= this.source.batch.length() {
            return Poll::Ready(None);
        }
        let kept = this.kept.borrow().bytes.as_ref().map(|whole| whole.0.clone());
        if let Some(whole) = kept {
            return Poll::Ready(Some(this.part(&whole)));
        }
        let source = this.source.clone();
        let remaking = this.remaking.get_or_insert_with(|| async move { source.bytes().await }.boxed_local());
        let bytes = ready!(remaking.as_mut().poll(cx));
        this.remaking = None;
        // The response is cut off: the client sees fewer bytes than `Content-Length`, and polls again from its cursor.
        let Some(bytes) = bytes else { return Poll::Ready(None) };
        this.kept.borrow_mut().bytes = WholeBatch::keep(bytes.clone());
        Poll::Ready(Some(this.part(&bytes)))
    }
}

impl Source {
    /// Encodes the bytes again; `None` where the log has lost some of the events.
    async fn bytes(&self) -> Option<Bytes> {
        let (after, through) = self.batch.positions();
        let latest_upto = self.batch.latest_upto();
        let extent = Extent { after, end: latest_upto.unwrap_or(through), latest: latest_upto.is_some() };
        let bytes = match self.worker.tail_events(self.batch.patterns(), extent, through) {
            Some(events) => self.batch.write_again(&events),
            None => self.batch.write_again(&self.stored_events().await?),
        };
        if bytes.is_none() {
            tracing::debug!("a batch is cut off: its events are no longer in the log");
        }
        bytes
    }

    async fn stored_events(&self) -> Option<Vec<Arc<Event>>> {
        let (mut at, through) = self.batch.positions();
        let mut events = Vec::new();
        while at < through {
            let page = self.worker.hub().read(self.batch.request(at)).await;
            let page = page.inspect_err(|error| tracing::warn!(%error, "a batch cannot be re-read")).ok()?;
            if page.trimmed.is_some() || page.through <= at {
                return None;
            }
            events.extend(page.events.into_iter().take_while(|event| event.position() <= through));
            at = page.through;
        }
        Some(events)
    }
}
