//! A worker's own view of the log: its tail and its waiters, reached without a lock.

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
use crate::lane::Lane;
use crate::log::FeedBatch;
use crate::topic::PatternSet;
use crate::waiters::WaiterKey;

/// Batches that may wait for a worker. Past it the worker's tail is reset, and its readers turn to the store.
const INBOX_BATCHES: usize = 1024;

/// Readers that are handed what is new before others of the thread have their turn.
const PUSHES_AT_ONCE: usize = 64;

/// How long a request waits for a worker's tail to come to its cursor.
const FEED_WAIT: Duration = Duration::from_secs(5);

enum Message {
    Batch(Arc<FeedBatch>),
    /// Something other than an event is new for everyone.
    Wake,
}

/// The feed's end of a worker's channel.
pub(super) struct Inbox {
    sender: mpsc::Sender<Message>,
    loss: Arc<Loss>,
}

/// What could not be put into an inbox.
#[derive(Default)]
struct Loss {
    any: AtomicBool,
    /// Where the last batch that was lost ended.
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
    /// Sends, or notes the loss; says whether the worker is still there.
    pub(super) fn push(&self, batch: &Arc<FeedBatch>) -> bool {
        use mpsc::error::TrySendError::{Closed, Full};
        match self.sender.try_send(Message::Batch(batch.clone())) {
            Ok(()) => true,
            Err(Closed(_)) => false,
            Err(Full(message)) => {
                self.loss.note(Cursor::new(batch.epoch, batch.end()));
                // Once more: if the worker has emptied the channel meanwhile, this wakes it to see the loss; if it
                // has not, it has messages left to wake for.
                !matches!(self.sender.try_send(message), Err(Closed(_)))
            }
        }
    }

    /// Wakes every reader of the worker, which is awake anyway where its channel is full.
    pub(super) fn wake(&self) -> bool {
        !matches!(self.sender.try_send(Message::Wake), Err(mpsc::error::TrySendError::Closed(_)))
    }
}

/// A reader that can be handed what is new, without its task: see [`Seat::push_to`].
pub(crate) trait Push {
    /// Takes what is new. Says whether there is nothing left to do: if not, its task is woken.
    fn push(&self, now: Instant, out: &mut BytesMut) -> bool;
}

/// One thread's readers. Not `Send`: that is the point.
pub(crate) struct Worker {
    hub: Hub,
    lane: RefCell<Lane>,
    inbox: RefCell<mpsc::Receiver<Message>>,
    loss: Arc<Loss>,
    moved: Notify,
    /// Those that can be handed what is new, by their place among the waiters.
    pushed: RefCell<Vec<Option<Weak<dyn Push>>>>,
    /// What they write into, one after the other.
    out: RefCell<BytesMut>,
}

impl Worker {
    /// Joins the feed. Called on the thread it is for, within its `LocalSet`.
    pub(crate) fn start(hub: &Hub) -> Rc<Self> {
        let (sender, receiver) = mpsc::channel(INBOX_BATCHES);
        let loss = Arc::new(Loss::default());
        let fan_out = &hub.0.fan_out;
        let lane = fan_out.lane();
        let tail = lane.tail.fork();
        lock(&fan_out.inboxes).push(Inbox { sender, loss: loss.clone() });
        drop(lane);
        let worker = Rc::new(Self {
            hub: hub.clone(),
            lane: RefCell::new(Lane::new(tail)),
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

    /// A place among this worker's waiters.
    pub(crate) fn seat(self: &Rc<Self>, patterns: &PatternSet) -> Seat {
        let key = self.lane.borrow_mut().waiters.register(patterns);
        self.hub.0.live.fetch_add(1, Ordering::Relaxed);
        Seat { worker: self.clone(), key }
    }

    /// For whoever reads once and does not wait: not among the waiters.
    pub(crate) fn visit(self: &Rc<Self>) -> Seat {
        self.hub.0.live.fetch_add(1, Ordering::Relaxed);
        Seat { worker: self.clone(), key: WaiterKey::NONE }
    }

    /// The same patterns, of a waiter who has them already if there is one: a thousand who ask for the same have them in
    /// memory once.
    pub(crate) fn shared(&self, patterns: PatternSet) -> PatternSet {
        self.lane.borrow().waiters.shared(patterns)
    }

    /// The matching events after a position up to another, at which there is one; `None` where the tail does not have them.
    pub(crate) fn tail_events(
        &self,
        patterns: &PatternSet,
        after: Position,
        through: Position,
    ) -> Option<Vec<Arc<Event>>> {
        let (mut events, mut complete) = (Vec::new(), false);
        let lane = self.lane.borrow();
        lane.tail.read(patterns, after, &mut |event| {
            complete = event.position() >= through;
            events.push(event.clone());
            if complete { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        complete.then_some(events)
    }

    /// Waits until this worker's tail has come to a cursor that is in the store; says whether it did in time.
    pub(crate) async fn reach(&self, cursor: Cursor) -> bool {
        // Nearly always: a timer is set for the others only.
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
        let tail = &self.lane.borrow().tail;
        tail.epoch() == cursor.epoch && tail.end() >= cursor.position
    }

    /// Takes in what has arrived. Called by every reader before it reads: whoever was told that an event is
    /// stored finds it.
    fn pump(&self) {
        self.take_in(|inbox| inbox.try_recv().ok());
    }

    fn take_in(&self, mut next: impl FnMut(&mut mpsc::Receiver<Message>) -> Option<Message>) {
        let mut inbox = self.inbox.borrow_mut();
        let mut lane = self.lane.borrow_mut();
        let before = (lane.tail.epoch(), lane.tail.end());
        while let Some(message) = next(&mut inbox) {
            match message {
                Message::Batch(batch) => lane.push(&batch),
                Message::Wake => lane.waiters.wake_all(),
            }
        }
        if let Some(lost) = self.loss.take() {
            let bounds = self.hub.bounds();
            if lost.epoch == lane.tail.epoch() && lane.tail.end() < lost.position {
                lane.lose_through(lost.position);
            } else if lost.epoch != lane.tail.epoch() && lost.epoch == bounds.epoch {
                // What said that the log is another one is among what was lost.
                lane.begin_anew(&bounds, lost.position);
            }
        }
        if (lane.tail.epoch(), lane.tail.end()) != before {
            self.moved.notify_waiters();
        }
    }

    /// Hands what is new to those who can take it at once; says whether there are more of them.
    ///
    /// Only from the worker's own task: whoever reads has its delivery borrowed.
    fn push_due(&self) -> bool {
        let (now, mut out) = (runtime_now(), self.out.borrow_mut());
        for _ in 0..PUSHES_AT_ONCE {
            let Some(key) = self.lane.borrow_mut().waiters.next_due() else { return false };
            let reader = self.pushed.borrow().get(key.0).and_then(|reader| reader.as_ref()?.upgrade());
            if !reader.is_some_and(|reader| reader.push(now, &mut out)) {
                self.lane.borrow_mut().waiters.wake(key);
            }
        }
        true
    }
}

/// The worker's one task: takes in batches as they come, so that their wake-ups are local, and hands them to those who can
/// take them at once.
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
        // The others first, then the rest.
        cx.waker().wake_by_ref();
    }
    if open { Poll::Pending } else { Poll::Ready(()) }
}

/// A delivery's place at a worker; leaves it when dropped.
pub(crate) struct Seat {
    worker: Rc<Worker>,
    key: WaiterKey,
}

impl Seat {
    /// One step; the task behind `waker` is woken when there is news.
    pub(crate) fn step(&self, waker: &Waker, delivery: &mut Delivery, now: Instant, out: &mut BytesMut) -> Step {
        self.worker.pump();
        self.drain(delivery, now);
        self.worker.lane.borrow_mut().step(self.key, waker, delivery, now, out)
    }

    /// Whom to hand what is new from now on, instead of waking its task.
    pub(crate) fn push_to(&self, reader: Weak<dyn Push>) {
        let mut pushed = self.worker.pushed.borrow_mut();
        if pushed.len() <= self.key.0 {
            pushed.resize_with(self.key.0 + 1, || None);
        }
        pushed[self.key.0] = Some(reader);
        self.worker.lane.borrow_mut().waiters.push_to(self.key);
    }

    /// One step, for [`Push::push`].
    pub(crate) fn push_step(&self, delivery: &mut Delivery, now: Instant, out: &mut BytesMut) -> Step {
        self.worker.lane.borrow_mut().push_step(self.key, delivery, now, out)
    }

    /// Whether all that came has been read.
    pub(crate) fn is_caught_up(&self, delivery: &Delivery) -> bool {
        delivery.is_caught_up(&self.worker.lane.borrow().tail)
    }

    /// Whether the server is about to stop: each stream's task learns when its own end is.
    pub(crate) fn is_draining(&self) -> bool {
        self.worker.hub.draining().is_some()
    }

    /// For a task that cannot read on yet: it is woken where everyone is.
    pub(crate) fn wait(&self, waker: &Waker, delivery: &mut Delivery, now: Instant) {
        self.worker.lane.borrow_mut().waiters.wait(self.key, waker);
        self.drain(delivery, now);
    }

    fn drain(&self, delivery: &mut Delivery, now: Instant) {
        if let Some(within) = self.worker.hub.draining() {
            delivery.drain(now, within);
        }
    }

    /// Moves a delivery over what is known to be of no interest to it.
    pub(crate) fn catch_up(&self, delivery: &mut Delivery) {
        self.worker.pump();
        let lane = self.worker.lane.borrow();
        delivery.skip(&lane.tail, lane.waiters.news(self.key));
    }

    /// What it waits for from now on.
    pub(crate) fn set_patterns(&self, patterns: &PatternSet) {
        self.worker.lane.borrow_mut().waiters.set_patterns(self.key, patterns);
    }

    pub(crate) fn worker(&self) -> &Rc<Worker> {
        &self.worker
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(reader) = self.worker.pushed.borrow_mut().get_mut(self.key.0) {
            *reader = None;
        }
        self.worker.lane.borrow_mut().waiters.remove(self.key);
        self.worker.hub.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}
