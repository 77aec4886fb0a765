//! Drives a [`Delivery`]: supplies the time and the wake-ups, and carries out its steps. The only code that knows both a
//! delivery and a socket.

use std::cell::{Cell, RefCell, RefMut};
use std::future::Future as _;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker, ready};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use tokio::time::Sleep;

use super::activity_log::SubscriptionRecord;
use crate::clients::Registration;
use crate::clock::runtime_now;
use crate::delivery::{Delivery, Step};
use crate::hub::{Push, SubscriptionHandle, Worker};
use crate::limits::{LimitError, OutboundBudget, Permit, Scanner};
use crate::log::Page;
use crate::net::{DirectSink, Hold};
use crate::store::StoreError;
use crate::topic::PatternSet;
use crate::wire::ByeReason;

/// A delivery with its registration at a worker and its entry in the registry of clients; both are released on drop.
pub(super) struct Driver {
    pub(super) delivery: Delivery,
    pub(super) registration: Option<Registration>,
    seat: SubscriptionHandle,
    /// What the delivery takes of the client's limits. Boxed: it is rarely read while events are delivered.
    costs: Box<Costs>,
    hold: Option<Hold>,
    fetch: Option<LocalBoxFuture<'static, Result<Page, StoreError>>>,
    /// Armed for a time at or before the next deadline: to re-arm the timer with every write would cost more than an
    /// occasional spurious wake-up.
    timer: Option<Pin<Box<Sleep>>>,
    /// When the timer fires, for the task that is registered with it: before that the timer need not be polled. The timer
    /// and all that it touches lie elsewhere in memory, and would be loaded with every delivery.
    armed_for: Option<Instant>,
    /// The items that are counted in the metrics.
    counted: usize,
    /// Its line in the log, where there is to be one.
    record: Option<Box<SubscriptionRecord>>,
    /// The task that the registry and the timer wake: it is registered again only when it changes.
    watching: Option<Waker>,
}

/// What a delivery takes of the client's limits, released on drop.
pub(super) struct Costs {
    /// The permit of an open connection; a short poll has none.
    pub(super) held: Option<Permit>,
    /// The budget that rows without a match are charged to.
    pub(super) scanner: Scanner,
    /// The memory of its patterns, and of its request where that is kept. Equal patterns may be shared in memory, but each
    /// subscription is charged for them: the sharing ends when one of them changes.
    pub(super) memory: OutboundBudget,
}

impl Driver {
    pub(super) fn new(
        delivery: Delivery,
        seat: SubscriptionHandle,
        registration: Option<Registration>,
        costs: Costs,
        hold: Option<Hold>,
    ) -> Self {
        Self {
            delivery,
            registration,
            seat,
            costs: Box::new(costs),
            hold,
            fetch: None,
            timer: None,
            armed_for: None,
            counted: 0,
            record: None,
            watching: None,
        }
    }

    /// Sets the line that is logged at the end.
    pub(super) fn set_record(&mut self, record: Option<Box<SubscriptionRecord>>) {
        self.record = record;
    }

    /// The next bytes, `None` at the end.
    ///
    /// # Errors
    /// Where a read from the store failed; the caller may continue, and the delivery retries the read later.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StoreError>>> {
        let mut out = BytesMut::new();
        loop {
            let now = runtime_now();
            if let Some(fetch) = &mut self.fetch {
                let page = ready!(fetch.poll_unpin(cx));
                self.fetch = None;
                match page {
                    Ok(page) => {
                        self.delivery.fetched(now, page);
                        if self.pay(now) {
                            // The page had rows without a match: other tasks run first.
                            cx.waker().wake_by_ref();
                            return Poll::Pending;
                        }
                    }
                    Err(error) => {
                        self.delivery.fetch_failed(now);
                        return Poll::Ready(Some(Err(error)));
                    }
                }
            }
            if let Some(reason) = self.ending(cx.waker()) {
                self.delivery.end(now, reason);
            }
            let step = self.seat.step(cx.waker(), &mut self.delivery, now, &mut out);
            self.pay(now);
            match step {
                Step::Write => {
                    self.note_sent();
                    self.count(out.len());
                    return Poll::Ready(Some(Ok(out.freeze())));
                }
                Step::Fetch(request) => {
                    let hub = self.seat.worker().hub().clone();
                    self.fetch = Some(async move { hub.read(request).await }.boxed_local());
                }
                Step::Wait(until) => {
                    if let Some(hold) = &self.hold {
                        hold.set(true);
                    }
                    match until {
                        Some(until) => ready!(self.sleep(now, until, cx)),
                        None => return Poll::Pending,
                    }
                }
                Step::Yield => {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
                Step::Finish => {
                    if let Some(record) = &mut self.record {
                        record.complete();
                    }
                    return Poll::Ready(None);
                }
            }
        }
    }

    /// Charges the client for rows that did not match, and returns whether there were any. Where the client's budget is
    /// overdrawn, nothing more is read for it for a while.
    fn pay(&mut self, now: Instant) -> bool {
        let rows = self.delivery.take_unmatched_rows();
        if rows == 0 {
            return false;
        }
        let debt = self.costs.scanner.looked_at(rows, now);
        if !debt.is_zero() {
            self.delivery.look_after(now + debt);
        }
        true
    }

    /// Replaces the subscribed patterns. The delivery first skips the events that the old patterns are known not to match,
    /// so that the new patterns apply from the present on.
    ///
    /// # Errors
    /// Where the client has no memory left for them; the old patterns stay.
    pub(super) fn set_patterns(&mut self, patterns: PatternSet) -> Result<(), LimitError> {
        self.costs.memory.set(patterns.cost_bytes())?;
        self.seat.catch_up(&mut self.delivery);
        self.fetch = None;
        self.seat.set_patterns(&patterns);
        if let Some(registration) = &self.registration {
            registration.connection.set_patterns(&patterns);
        }
        if let Some(record) = &mut self.record {
            record.set_patterns(&patterns);
        }
        self.delivery.set_patterns(patterns);
        Ok(())
    }

    /// A new beginning of the delivery: `$live` is sent, with this `ref`, once every event was sent that is in the log now.
    pub(super) fn begin_again(&mut self, reference: Option<Box<str>>) {
        self.seat.begin_again(&mut self.delivery, reference);
    }

    /// The whole batch of a poll.
    pub(super) async fn batch(&mut self) -> Result<Bytes, StoreError> {
        let batch = std::future::poll_fn(|cx| self.poll(cx)).await;
        batch.unwrap_or(Ok(Bytes::new()))
    }

    /// The finished delivery, and its worker; all else is released.
    pub(super) fn into_delivery(self: Box<Self>) -> (Rc<Worker>, Box<Delivery>) {
        let Self { delivery, seat, .. } = *self;
        (seat.worker().clone(), Box::new(delivery))
    }

    /// Waits until the delivery has to end, and reads no events until then.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let now = runtime_now();
            if self.delivery.is_finished() || self.ending(cx.waker()).is_some() {
                return Poll::Ready(());
            }
            self.seat.wait(cx.waker(), &mut self.delivery, now);
            match self.delivery.ends_at() {
                Some(at) if at <= now => return Poll::Ready(()),
                Some(at) => ready!(self.sleep(now, at, cx)),
                None => return Poll::Pending,
            }
        }
    }

    /// Why the delivery has to end, if it has to; else the task is registered to be woken when it has to.
    fn ending(&mut self, waker: &Waker) -> Option<ByeReason> {
        if !self.watching.as_ref().is_some_and(|known| known.will_wake(waker)) {
            if let Some(registration) = &self.registration {
                registration.connection.watch(waker);
            }
            self.watching = Some(waker.clone());
            self.armed_for = None;
        }
        self.registration.as_ref()?.connection.ending()
    }

    /// One step of a direct write, outside the stream's task. Returns `false` where the task has to continue: there is more
    /// to do than to write.
    ///
    /// The end is left to the task: it has the timers for it, and it first reads what the peer has sent. After a suspension
    /// of the whole process the pongs of all sockets have arrived, but are not processed yet.
    fn push(&mut self, now: Instant, out: &mut BytesMut) -> bool {
        let ending = self.registration.as_ref().is_some_and(|registration| registration.connection.is_ending());
        if self.fetch.is_some() || ending || self.seat.is_draining() || self.delivery.is_due_to_end(now) {
            return false;
        }
        match self.seat.push_step(&mut self.delivery, now, out) {
            Step::Write => {
                self.note_sent();
                self.count(out.len());
                true
            }
            Step::Wait(_) => true,
            Step::Fetch(_) | Step::Yield | Step::Finish => false,
        }
    }

    /// Records in the registry the position up to which the client was sent everything.
    pub(super) fn note_sent(&self) {
        if let Some(registration) = &self.registration {
            registration.connection.sent(self.delivery.cursor().position);
        }
    }

    /// Counts what a step has written.
    fn count(&mut self, bytes: usize) {
        let metrics = self.seat.worker().hub().metrics();
        let items = self.delivery.delivered();
        metrics.delivered(self.delivery.transport(), items - self.counted, bytes);
        self.counted = items;
        let (gap, bye) = self.delivery.take_notices();
        if let Some(record) = &mut self.record {
            record.wrote(&self.delivery, bytes, bye);
        }
        if let Some(reason) = gap {
            metrics.gap(reason);
        }
        if let Some(reason) = bye {
            metrics.bye(reason);
        }
    }

    fn sleep(&mut self, now: Instant, until: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.armed_for.is_some_and(|at| at <= until && now < at) {
            return Poll::Pending;
        }
        let until = tokio::time::Instant::from_std(until);
        match &mut self.timer {
            Some(timer) if timer.deadline() <= until && !timer.is_elapsed() => {}
            Some(timer) => timer.as_mut().reset(until),
            None => self.timer = Some(Box::pin(tokio::time::sleep_until(until))),
        }
        let Some(timer) = &mut self.timer else { return Poll::Pending };
        let fired = timer.as_mut().poll(cx);
        self.armed_for = fired.is_pending().then(|| timer.deadline().into_std());
        fired
    }
}

/// A stream: polled by its task, and written to directly by its worker while it is idle, where its connection has a sink.
pub(super) struct StreamDriver {
    driver: RefCell<Driver>,
    sink: Option<DirectSink>,
    /// The last byte was returned.
    ended: Cell<bool>,
    /// The peer does not take the bytes that were written directly.
    slow: Cell<bool>,
}

impl StreamDriver {
    pub(super) fn new(driver: Box<Driver>, sink: Option<DirectSink>) -> Rc<Self> {
        let (ended, slow) = (Cell::new(false), Cell::new(false));
        let live = Rc::new(Self { driver: RefCell::new(*driver), sink, ended, slow });
        if let Some(sink) = &live.sink {
            // The response head is written first, and the responses before it on the connection: those to pipelined
            // requests.
            sink.block();
            let reader: Weak<Self> = Rc::downgrade(&live);
            live.driver.borrow().seat.push_to(reader);
        }
        live
    }

    pub(super) fn driver(&self) -> RefMut<'_, Driver> {
        self.driver.borrow_mut()
    }

    /// The next bytes for the body, `None` at the end.
    ///
    /// While the peer does not take the bytes that were written directly, no events are read for it; the stream still ends
    /// when it has to, and the sink queues its last bytes behind the others. A peer that is slow for long does not count as
    /// silent, since it was not pinged.
    ///
    /// # Errors
    /// As [`Driver::poll`].
    pub(super) fn poll(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, StoreError>>> {
        let mut driver = self.driver.borrow_mut();
        match self.sink.as_ref().map_or(Poll::Ready(Ok(())), |sink| sink.poll_rest(cx)) {
            Poll::Pending => {
                self.slow.set(true);
                ready!(driver.poll_end(cx));
            }
            // With the end of the body the connection's task writes, and finds out that the socket is broken: at once, not with the
            // next heartbeat.
            Poll::Ready(Err(_)) => return Poll::Ready(None),
            Poll::Ready(Ok(())) => {
                if self.slow.take() {
                    driver.delivery.heard(runtime_now());
                }
            }
        }
        let next = ready!(driver.poll(cx));
        if matches!(next, Some(Ok(_))) {
            self.block();
        }
        Poll::Ready(next)
    }

    /// The body returns bytes: no direct write before they are written.
    pub(super) fn block(&self) {
        if let Some(sink) = &self.sink {
            sink.block();
        }
    }

    /// No more direct writes.
    pub(super) fn end(&self) {
        self.ended.set(true);
    }
}

impl Push for StreamDriver {
    fn push(&self, now: Instant, out: &mut BytesMut) -> bool {
        let Some(sink) = &self.sink else { return false };
        if self.ended.get() || !sink.is_clear() {
            // When the queued bytes are written, the stream's task is woken, and reads on.
            return true;
        }
        let Ok(mut driver) = self.driver.try_borrow_mut() else { return false };
        out.clear();
        let done = driver.push(now, out);
        let sent = out.is_empty() || sink.send(out);
        done && sent && !driver.delivery.is_finished() && driver.seat.is_caught_up(&driver.delivery)
    }
}

/// The body of a stream's response. It is pulled, which is the backpressure: while the socket takes nothing, no events are
/// read.
pub(super) struct StreamBody(pub(super) Rc<StreamDriver>);

impl Stream for StreamBody {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            match ready!(self.0.poll(cx)) {
                Some(Ok(bytes)) => return Poll::Ready(Some(bytes)),
                // The stream stays open with heartbeats, and retries the read in a moment.
                Some(Err(error)) => tracing::warn!(%error, "a stream cannot read from the store"),
                None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod simulation;
