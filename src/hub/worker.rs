//! A worker thread's own view of the log: its tail and its subscription index, used without a lock, and the inbox that fills
//! them.

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::rc::{Rc, Weak};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use tokio::sync::{Notify, mpsc};

use super::{Hub, lock};
use crate::clock::runtime_now;
use crate::cursor::{Cursor, Position};
use crate::delivery::{Delivery, Step};
use crate::event::Event;
use crate::local_log::LocalLog;
use crate::log::FeedBatch;
use crate::segment::Extent;
use crate::subscription_index::SubscriptionKey;
use crate::topic::PatternSet;
use crate::transport::Transport;

/// Most batches queued for a worker. Above that the worker's tail is reset, and its readers turn to the store.
const INBOX_BATCHES: usize = 1024;

/// Most direct writes before the thread's other tasks have their turn.
const PUSHES_AT_ONCE: usize = 64;

/// How long a request waits until its worker's tail has reached its cursor.
const FEED_WAIT: Duration = Duration::from_secs(5);

enum Message {
    Batch(Arc<FeedBatch>),
    /// Every reader has to run for another reason than an event.
    Wake,
}

/// The sending end of a worker's channel.
pub(super) struct Inbox {
    sender: mpsc::Sender<Message>,
    loss: Arc<Loss>,
}

/// Batches that did not fit into an inbox.
#[derive(Default)]
struct Loss {
    any: AtomicBool,
    /// The end of the last batch that was lost.
    through: Mutex<Option<Cursor>>,
}

impl Loss {
    fn note(&self, through: Cursor) {
        *lock(&self.through) = Some(through);
        self.any.store(true, Ordering::Release);
    }

    fn take(&self) -> Option<Cursor> {
        if self.any.load(Ordering::Acquire) && self.any.swap(false, Ordering::AcqRel) {
            return lock(&self.through).take();
        }
        None
    }
}

impl Inbox {
    /// Sends a batch, or records its loss; returns whether the worker still exists.
    pub(super) fn push(&self, batch: &Arc<FeedBatch>) -> bool {
        use mpsc::error::TrySendError::{Closed, Full};
        match self.sender.try_send(Message::Batch(batch.clone())) {
            Ok(()) => true,
            Err(Closed(_)) => false,
            Err(Full(message)) => {
                self.loss.note(Cursor::new(batch.epoch, batch.end()));
                // Once more: if the worker has emptied the channel meanwhile, this message wakes it to see the loss; if the
                // worker has not, the messages in the channel wake it.
                !matches!(self.sender.try_send(message), Err(Closed(_)))
            }
        }
    }

    /// Wakes every reader of the worker. A worker whose channel is full is awake anyway.
    pub(super) fn wake(&self) -> bool {
        !matches!(self.sender.try_send(Message::Wake), Err(mpsc::error::TrySendError::Closed(_)))
    }
}

/// A reader that the worker can write to directly, without waking its task: see [`SubscriptionHandle::push_to`].
pub(crate) trait Push {
    /// Writes the new events. Returns whether that was all there is to do; if not, the reader's task is woken.
    fn push(&self, now: Instant, out: &mut BytesMut) -> bool;
}

/// One thread's readers. Deliberately not `Send`.
pub(crate) struct Worker {
    hub: Hub,
    local_log: RefCell<LocalLog>,
    inbox: RefCell<mpsc::Receiver<Message>>,
    loss: Arc<Loss>,
    moved: Notify,
    /// The readers for direct writes, by their slot in the subscription index.
    pushed: RefCell<Vec<Option<Weak<dyn Push>>>>,
    /// The buffer of the direct writes, one after the other.
    out: RefCell<BytesMut>,
}

impl Worker {
    /// Joins the feed. Called on the worker's thread, within its `LocalSet`.
    pub(crate) fn start(hub: &Hub) -> Rc<Self> {
        let (sender, receiver) = mpsc::channel(INBOX_BATCHES);
        let loss = Arc::new(Loss::default());
        let fan_out = &hub.0.fan_out;
        let local_log = fan_out.local_log();
        let tail = local_log.tail.fork();
        lock(&fan_out.inboxes).push(Inbox { sender, loss: loss.clone() });
        drop(local_log);
        let worker = Rc::new(Self {
            hub: hub.clone(),
            local_log: RefCell::new(LocalLog::new(tail)),
            inbox: RefCell::new(receiver),
            loss,
            moved: Notify::new(),
            pushed: RefCell::default(),
            out: RefCell::default(),
        });
        let weak = Rc::downgrade(&worker);
        tokio::task::spawn_local(std::future::poll_fn(move |cx| follow(&weak, cx)));
        worker
    }

    pub(crate) fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Registers a delivery in this worker's subscription index.
    pub(crate) fn seat(self: &Rc<Self>, patterns: &PatternSet, transport: Transport) -> SubscriptionHandle {
        let key = self.local_log.borrow_mut().subscription_index.register(patterns);
        SubscriptionHandle::new(self, key, transport)
    }

    /// A handle for a delivery that reads once and does not wait: it is not in the index.
    pub(crate) fn visit(self: &Rc<Self>, transport: Transport) -> SubscriptionHandle {
        SubscriptionHandle::new(self, SubscriptionKey::NONE, transport)
    }

    /// Interns patterns, so that a thousand subscribers with equal patterns hold them in memory once.
    pub(crate) fn shared(&self, patterns: PatternSet) -> PatternSet {
        self.local_log.borrow().subscription_index.shared(patterns)
    }

    /// The matching events of an extent, up to the one at `through`; `None` where the tail does not hold them all.
    pub(crate) fn tail_events(
        &self,
        patterns: &PatternSet,
        extent: Extent,
        through: Position,
    ) -> Option<Vec<Arc<Event>>> {
        let (mut events, mut complete) = (Vec::new(), false);
        let local_log = self.local_log.borrow();
        local_log.tail.read_extent(patterns, extent, &mut |event| {
            complete = event.position() >= through;
            events.push(event.clone());
            if complete { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        complete.then_some(events)
    }

    /// Waits until this worker's tail has reached a cursor of an event in the store; returns whether it did in time.
    pub(crate) async fn reach(&self, cursor: Cursor) -> bool {
        // Nearly always the case, and then no timer is needed.
        self.pump();
        if self.has_reached(cursor) {
            return true;
        }
        let reached = async {
            loop {
                let moved = self.moved.notified();
                self.pump();
                if self.has_reached(cursor) {
                    return;
                }
                moved.await;
            }
        };
        tokio::time::timeout(FEED_WAIT, reached).await.is_ok()
    }

    fn has_reached(&self, cursor: Cursor) -> bool {
        let tail = &self.local_log.borrow().tail;
        tail.epoch() == cursor.epoch && tail.end() >= cursor.position
    }

    /// Drains the inbox into the tail. Called before every read, so that a client whose publish has succeeded finds its event.
    fn pump(&self) {
        self.take_in(|inbox| inbox.try_recv().ok());
    }

    fn take_in(&self, mut next: impl FnMut(&mut mpsc::Receiver<Message>) -> Option<Message>) {
        let mut inbox = self.inbox.borrow_mut();
        let mut local_log = self.local_log.borrow_mut();
        let before = (local_log.tail.epoch(), local_log.tail.end());
        while let Some(message) = next(&mut inbox) {
            match message {
                Message::Batch(batch) => local_log.push(&batch),
                Message::Wake => local_log.subscription_index.wake_all(),
            }
        }
        if let Some(lost) = self.loss.take() {
            let bounds = self.hub.bounds();
            if lost.epoch == local_log.tail.epoch() && local_log.tail.end() < lost.position {
                local_log.lose_through(lost.position);
            } else if lost.epoch != local_log.tail.epoch() && lost.epoch == bounds.epoch {
                // The log was replaced, and the batch that announced it is among the lost ones.
                local_log.begin_anew(&bounds, lost.position);
            }
        }
        if (local_log.tail.epoch(), local_log.tail.end()) != before {
            self.moved.notify_waiters();
        }
    }

    /// Does the direct writes that are due, a bounded number; returns whether there are more.
    ///
    /// Only from the worker's own task: a reader's task has its delivery borrowed while it reads.
    fn push_due(&self) -> bool {
        let (now, mut out) = (runtime_now(), self.out.borrow_mut());
        for _ in 0..PUSHES_AT_ONCE {
            let Some(key) = self.local_log.borrow_mut().subscription_index.next_due() else { return false };
            let reader = self.pushed.borrow().get(key.0).and_then(|reader| reader.as_ref()?.upgrade());
            if !reader.is_some_and(|reader| reader.push(now, &mut out)) {
                self.local_log.borrow_mut().subscription_index.wake(key);
            }
        }
        true
    }
}

/// The worker's one task: appends batches to the tail as they arrive, so that wake-ups stay on the thread, and does the direct
/// writes.
fn follow(worker: &Weak<Worker>, cx: &mut Context<'_>) -> Poll<()> {
    let Some(worker) = worker.upgrade() else { return Poll::Ready(()) };
    let mut open = true;
    worker.take_in(|inbox| match inbox.poll_recv(cx) {
        Poll::Ready(Some(message)) => Some(message),
        Poll::Ready(None) => {
            open = false;
            None
        }
        Poll::Pending => None,
    });
    if worker.push_due() {
        // Yields to the thread's other tasks before the remaining writes.
        cx.waker().wake_by_ref();
    }
    if open { Poll::Pending } else { Poll::Ready(()) }
}

/// A delivery's registration at a worker; removed when dropped.
pub(crate) struct SubscriptionHandle {
    worker: Rc<Worker>,
    key: SubscriptionKey,
    transport: Transport,
}

impl SubscriptionHandle {
    fn new(worker: &Rc<Worker>, key: SubscriptionKey, transport: Transport) -> Self {
        worker.hub.0.live.fetch_add(1, Ordering::Relaxed);
        worker.hub.metrics().opened(transport);
        Self { worker: worker.clone(), key, transport }
    }

    /// One step; `waker` is woken at the next match.
    pub(crate) fn step(&self, waker: &Waker, delivery: &mut Delivery, now: Instant, out: &mut BytesMut) -> Step {
        self.worker.pump();
        self.drain(delivery, now);
        self.worker.local_log.borrow_mut().step(self.key, waker, delivery, now, out)
    }

    /// From now on new events are written to `reader` directly, instead of waking its task.
    pub(crate) fn push_to(&self, reader: Weak<dyn Push>) {
        let mut pushed = self.worker.pushed.borrow_mut();
        if pushed.len() <= self.key.0 {
            pushed.resize_with(self.key.0 + 1, || None);
        }
        pushed[self.key.0] = Some(reader);
        self.worker.local_log.borrow_mut().subscription_index.push_to(self.key);
    }

    /// One step, for [`Push::push`].
    pub(crate) fn push_step(&self, delivery: &mut Delivery, now: Instant, out: &mut BytesMut) -> Step {
        self.worker.local_log.borrow_mut().push_step(self.key, delivery, now, out)
    }

    /// Whether the delivery has read all that the tail holds.
    pub(crate) fn is_caught_up(&self, delivery: &Delivery) -> bool {
        delivery.is_caught_up(&self.worker.local_log.borrow().tail)
    }

    /// Whether the server is shutting down. When a stream ends is decided in that stream's task.
    pub(crate) fn is_draining(&self) -> bool {
        self.worker.hub.draining().is_some()
    }

    /// Registers the waker of a task that cannot read on yet, so that [`SubscriptionIndex::wake_all`](crate::subscription_index::SubscriptionIndex::wake_all)
    /// reaches the task.
    pub(crate) fn wait(&self, waker: &Waker, delivery: &mut Delivery, now: Instant) {
        self.worker.local_log.borrow_mut().subscription_index.wait(self.key, waker);
        self.drain(delivery, now);
    }

    fn drain(&self, delivery: &mut Delivery, now: Instant) {
        if let Some(within) = self.worker.hub.draining() {
            delivery.drain(now, within);
        }
    }

    /// Moves a delivery past events that are known not to match.
    pub(crate) fn catch_up(&self, delivery: &mut Delivery) {
        self.worker.pump();
        let local_log = self.worker.local_log.borrow();
        delivery.skip(&local_log.tail, local_log.subscription_index.pending(self.key));
    }

    /// A new beginning of the delivery, see [`Delivery::begin_again`].
    pub(crate) fn begin_again(&self, delivery: &mut Delivery, reference: Option<Box<str>>) {
        delivery.begin_again(&self.worker.local_log.borrow().tail, reference);
    }

    /// Replaces the patterns that the delivery waits for.
    pub(crate) fn set_patterns(&self, patterns: &PatternSet) {
        self.worker.local_log.borrow_mut().subscription_index.set_patterns(self.key, patterns);
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }
}

impl Drop for SubscriptionHandle {
    fn drop(&mut self) {
        if let Some(reader) = self.worker.pushed.borrow_mut().get_mut(self.key.0) {
            *reader = None;
        }
        self.worker.local_log.borrow_mut().subscription_index.remove(self.key);
        self.worker.hub.0.live.fetch_sub(1, Ordering::Relaxed);
        self.worker.hub.metrics().closed(self.transport);
    }
}
