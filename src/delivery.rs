//! Decides what one subscriber is sent, and when, for every transport.
//!
//! A [`Delivery`] is a state machine without I/O: it knows no socket and reads no clock. Its driver calls
//! [`Delivery::step`] with the time, the tail and the pending events, and does what the returned [`Step`] says: write the
//! bytes, fetch older events, wait, or finish. A delivery holds a position, never a queue: what the peer cannot take yet
//! stays in the log.

mod items;
mod timers;
mod unsent;

use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use crate::cursor::{Cursor, Position};
use crate::log::{Page, ReadMode, ReadRequest};
use crate::reader::Reader;
use crate::subscription_index::Pending;
use crate::tail::Tail;
use crate::topic::PatternSet;
use crate::transport::Transport;
use crate::wire::{Batch, Bye, ByeReason, Control, Framing, GapReason, ping_frame};

pub use crate::reader::{StartPoint, gap_at};
use items::{ItemWriter, Written};
use timers::{Timer, TimerTable};
pub use unsent::UnsentBatch;

/// A write ends after the event that passes this many bytes: with actix's write buffer of 32 KiB it bounds the memory of
/// one stalled peer.
const WRITE_BYTES: usize = 16 << 10;

/// A batch ends after the event that passes this many bytes: enough for a thousand events of 200 bytes. The batch is
/// encoded as a whole, for its length and its entity tag, but not kept as a whole for a slow peer ([`UnsentBatch`]).
const BATCH_BYTES: usize = 256 << 10;

/// Most events of one fetch for a stream; a batch has its own limit.
const FETCH_EVENTS: usize = 256;

/// Reads without a match, of the tail or by a fetch, after which a short poll is answered with the cursor that it reached.
const LOOKS_MAX: u32 = 8;

/// How far the cursor of an empty batch may move while the response is still "not modified". Beyond it, the client has to
/// get the new cursor: the server would scan the same events again with every poll.
const UNMOVED_EVENTS: u64 = 256;

/// Heartbeats without a sign of life after which a pinged peer is disconnected.
const SILENT_HEARTBEATS: u32 = 2;

/// When a response is complete.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// At once, with the events that are there: a short poll.
    ShortPoll,
    /// With the first batch, or with an empty one at a deadline: a long poll.
    LongPoll {
        /// The deadline.
        until: Instant,
    },
    /// Never by itself: a stream, which the server ends.
    Stream {
        /// Ends after the item that passes this many bytes.
        bytes_max: Option<usize>,
        /// Ends at this time.
        until: Option<Instant>,
        /// Whether the peer is pinged, and has to answer pings.
        pings: bool,
    },
}

/// The parameters of a delivery, fixed for its lifetime.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The encoding of items.
    pub framing: Framing,
    /// When the response is complete.
    pub completion: Completion,
    /// The client's id; only a stream is sent it.
    pub client: Uuid,
    /// Whether the client that the request named is remembered, so that it resumes from its cursor; true also where the
    /// request named none. A client that is not remembered is notified with `known`.
    pub known: bool,
    /// The transport.
    pub transport: Transport,
    /// How long a stream may be idle before a `$beat` is sent.
    pub heartbeat: Duration,
    /// Most events in a batch.
    pub events_max: usize,
    /// Random, one for each connection: spreads what many connections would do at the same moment.
    pub jitter: u32,
}

/// What the driver has to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send what was appended to the buffer, then step again.
    Write,
    /// Read from the store, hand the page to [`Delivery::fetched`], then step again.
    Fetch(ReadRequest),
    /// Wait until there are pending events, or until the deadline.
    Wait(Option<Instant>),
    /// Step again after other tasks have run: a bounded scan of the tail found no match, and there is more of the tail to
    /// scan.
    Yield,
    /// The delivery has ended.
    Finish,
}

/// One subscriber on one connection.
#[derive(Debug)]
pub struct Delivery {
    plan: Plan,
    reader: Reader,
    /// The newest cursor that was sent to the peer.
    last_sent: Cursor,
    written: Written,
    /// The items of a batch, with commas between.
    items: BytesMut,
    written_bytes: usize,
    /// Reads without a match so far.
    looks: u32,
    begun: bool,
    finished: bool,
    /// A limit ended the batch before the log's end.
    cut: bool,
    allows_not_modified: bool,
    timers: TimerTable,
    /// When the last sign of life of the peer arrived.
    last_heard: Instant,
    /// The reason and retry delay of the end, once it is scheduled; [`Timer::Close`] is its time.
    closing: Option<Bye>,
}

impl Delivery {
    /// A delivery that begins now.
    #[must_use]
    pub fn new(now: Instant, plan: Plan, patterns: PatternSet, start: StartPoint) -> Self {
        let mut timers = TimerTable::default();
        match plan.completion {
            Completion::ShortPoll => {}
            Completion::LongPoll { until } => timers.set(Timer::Completion, until),
            Completion::Stream { until, pings, .. } => {
                timers.put(Timer::Completion, until);
                timers.set(Timer::Beat, now + plan.heartbeat);
                timers.put(Timer::Ping, pings.then(|| now + plan.heartbeat));
            }
        }
        Self {
            plan,
            last_sent: start.cursor,
            reader: Reader::new(patterns, start),
            written: Written::nothing(),
            items: BytesMut::new(),
            written_bytes: 0,
            looks: 0,
            begun: false,
            finished: false,
            cut: false,
            allows_not_modified: false,
            timers,
            last_heard: now,
            closing: None,
        }
    }

    /// Reads in rounds, for [`ReadMode::latest`] and [`ReadMode::pace_ms`]. The first one ends at `upto` where that is ahead of
    /// the start.
    pub fn read_in_rounds(&mut self, mode: ReadMode, upto: Option<Position>) {
        self.reader.read_in_rounds(mode, upto);
    }

    /// A new beginning: `$live` is sent, with this `ref`, once every event was sent that is in the log now.
    pub fn begin_again(&mut self, tail: &Tail, reference: Option<Box<str>>) {
        self.reader.begin_again(tail, reference);
    }

    /// Keeps the start position until there is a subscription, instead of following the log's end.
    pub fn await_first_subscribe(&mut self) {
        self.reader.await_first_subscribe();
    }

    /// Whether the start position is kept until there is a subscription.
    #[must_use]
    pub fn is_awaiting_first_subscribe(&self) -> bool {
        self.reader.is_awaiting_first_subscribe()
    }

    /// The cursor that is reached: every matching event at or before it has been written.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.reader.cursor()
    }

    /// The subscribed patterns.
    #[must_use]
    pub fn patterns(&self) -> &PatternSet {
        self.reader.patterns()
    }

    /// The number of items that were written: events, and control events other than `$hello` and `$beat`.
    #[must_use]
    pub fn delivered(&self) -> usize {
        self.written.count
    }

    /// Returns and resets the reasons of the last gap and of the `$bye` that were written, for the metrics.
    pub fn take_notices(&mut self) -> (Option<GapReason>, Option<ByeReason>) {
        (self.written.gap.take(), self.written.bye.take())
    }

    /// The transport.
    #[must_use]
    pub fn transport(&self) -> Transport {
        self.plan.transport
    }

    /// Whether its last item has been written.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the whole tail has been read: only events that arrive from now on can be pending.
    #[must_use]
    pub fn is_caught_up(&self, tail: &Tail) -> bool {
        self.reader.is_caught_up(tail)
    }

    /// Replaces the subscribed patterns. A fetch that is under way is for the old patterns: the driver drops it.
    pub fn set_patterns(&mut self, patterns: PatternSet) {
        self.reader.set_patterns(patterns);
    }

    /// Moves to another position, after a gap where there is one.
    pub fn seek(&mut self, start: StartPoint) {
        self.reader.seek(start);
    }

    /// Takes the page that a [`Step::Fetch`] has read.
    pub fn fetched(&mut self, now: Instant, page: Page) {
        self.reader.fetched(now, page);
    }

    /// A [`Step::Fetch`] has failed: it is retried a little later.
    pub fn fetch_failed(&mut self, now: Instant) {
        self.reader.fetch_failed(now);
    }

    /// Returns and resets the number of rows that were scanned and did not match. The driver charges them to the peer, for
    /// which the server did that work.
    pub fn take_unmatched_rows(&mut self) -> u64 {
        self.reader.take_unmatched_rows()
    }

    /// Reads no events before `at`. Beats, pings and the end keep their times.
    pub fn look_after(&mut self, at: Instant) {
        self.reader.look_after(at);
    }

    /// A sign of life of the peer arrived.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.timers.stop(Timer::Silence);
    }

    /// Sets when the right to the subscription expires, which ends the delivery in any case; `None` where it never expires.
    pub fn set_expiry(&mut self, at: Option<Instant>) {
        self.timers.put(Timer::Expiry, at);
    }

    /// Allows a short poll to finish without a body: the client has a batch like an empty one whose cursor hardly moves.
    pub fn allow_not_modified(&mut self) {
        self.allows_not_modified = true;
    }

    /// Keeps of a finished batch of `length` bytes what is needed to encode it again; `None` where it has no event.
    #[must_use]
    pub fn into_unsent(self: Box<Self>, length: usize) -> Option<UnsentBatch> {
        UnsentBatch::new(self, length)
    }

    /// Ends the delivery now, for a reason.
    pub fn end(&mut self, now: Instant, reason: ByeReason) {
        self.close_at(now, reason);
    }

    /// The server shuts down: the delivery ends at a random time within `within`, so that clients do not reconnect all at
    /// once.
    pub fn drain(&mut self, now: Instant, within: Duration) {
        if self.closing.is_none() {
            let spread = within.mul_f64(0.8 * f64::from(self.plan.jitter) / f64::from(u32::MAX));
            self.close_at(now + spread, ByeReason::Shutdown);
        }
    }

    fn close_at(&mut self, at: Instant, reason: ByeReason) {
        self.closing = Some(self.bye(reason));
        self.timers.set(Timer::Close, at);
        // Once the end is scheduled, neither silence nor age ends a stream earlier. A long poll still completes at its
        // deadline.
        self.timers.stop(Timer::Silence);
        if self.plan.completion.is_stream() {
            self.timers.stop(Timer::Completion);
        }
    }

    /// The time by which the delivery ends: at the stream's age, at the expiry of the right to it, or at the scheduled end.
    /// Silence is not included, since the peer may break it at any moment.
    #[must_use]
    pub fn ends_at(&self) -> Option<Instant> {
        self.timers.next_of(&[Timer::Completion, Timer::Close, Timer::Expiry])
    }

    /// Whether the next step ends the delivery, or it has ended: its end is due, or the peer has been silent for too long.
    #[must_use]
    pub fn is_due_to_end(&self, now: Instant) -> bool {
        let end = [Timer::Completion, Timer::Close, Timer::Expiry, Timer::Silence];
        self.finished || end.into_iter().any(|timer| self.timers.is_expired(timer, now))
    }

    /// Decides what to do next; bytes to be sent are appended to `out`, which is empty when this is called.
    ///
    /// `pending` is what became pending since [`Self::is_caught_up`] last held.
    pub fn step(&mut self, now: Instant, tail: &Tail, pending: Pending, out: &mut BytesMut) -> Step {
        if self.finished {
            return Step::Finish;
        }
        if !self.begun {
            self.begin(tail, out);
        }
        self.reader.skip(tail, pending);
        // Expiry comes first even where another end is scheduled for later.
        if self.timers.is_expired(Timer::Expiry, now) && !self.timers.is_expired(Timer::Close, now) {
            self.end(now, ByeReason::Expired);
        }
        let step = match self.plan.completion {
            Completion::Stream { bytes_max, .. } => self.stream(now, tail, bytes_max, out),
            Completion::ShortPoll | Completion::LongPoll { .. } => self.batch(now, tail, out),
        };
        if out.is_empty() {
            return step;
        }
        self.written_bytes += out.len();
        self.last_sent = self.reader.cursor();
        if self.plan.completion.is_stream() {
            self.timers.set(Timer::Beat, now + self.plan.heartbeat);
        }
        Step::Write
    }

    /// Skips the events that the subscription index knows not to match, without scanning them.
    pub(crate) fn skip(&mut self, tail: &Tail, pending: Pending) {
        self.reader.skip(tail, pending);
    }

    fn stream(&mut self, now: Instant, tail: &Tail, bytes_max: Option<usize>, out: &mut BytesMut) -> Step {
        if self.closing.is_none() {
            if self.timers.is_expired(Timer::Completion, now) {
                self.end(now, ByeReason::Recycle);
            } else if self.timers.is_expired(Timer::Silence, now) {
                self.end(now, ByeReason::Slow);
            }
        }
        if let Some(bye) = self.due_bye(now) {
            return self.finish(&bye, out);
        }
        let left = bytes_max.map_or(usize::MAX, |max| max.saturating_sub(self.written_bytes));
        let behind = self.read(now, tail, left.min(WRITE_BYTES), usize::MAX, out);
        if bytes_max.is_some_and(|max| self.written_bytes + out.len() >= max) {
            let bye = self.bye(ByeReason::Recycle);
            return self.finish(&bye, out);
        }
        if !out.is_empty() {
            return Step::Write;
        }
        if behind && self.reader.may_fetch(now) {
            return Step::Fetch(self.reader.request(FETCH_EVENTS, WRITE_BYTES));
        }
        self.write_signs_of_life(now, out);
        if !out.is_empty() {
            return Step::Write;
        }
        if !behind && !self.is_caught_up(tail) {
            return Step::Yield;
        }
        self.wait(behind)
    }

    fn begin(&mut self, tail: &Tail, out: &mut BytesMut) {
        self.begun = true;
        let live = self.reader.begin(tail);
        if !self.plan.completion.is_stream() {
            return;
        }
        self.plan.framing.preamble(out);
        let hello = Control::Hello {
            client: self.plan.client,
            heartbeat: self.plan.heartbeat,
            transport: self.plan.transport,
            known: self.plan.known,
            live,
        };
        self.plan.framing.control(&hello, Some(self.last_sent), out);
    }

    /// Writes the ping and the `$beat` where they are due.
    fn write_signs_of_life(&mut self, now: Instant, out: &mut BytesMut) {
        if self.timers.is_expired(Timer::Ping, now) {
            self.timers.set(Timer::Ping, now + self.plan.heartbeat);
            self.expect_sign_of_life(now);
            out.put_slice(&ping_frame());
        }
        if self.timers.is_expired(Timer::Beat, now) {
            // Also where the framing does not encode a `$beat`: the timer would fire again at once.
            self.timers.set(Timer::Beat, now + self.plan.heartbeat);
            let beat = Control::Beat { upto: self.reader.upto() };
            self.plan.framing.control(&beat, Some(self.reader.cursor()), out);
        }
    }

    /// The peer is pinged. It has been silent for too long after two heartbeats, if it did not answer the ping at the
    /// second.
    ///
    /// A peer that is not pinged does not answer. Where the ping is late, because a fetch delayed it or the process was
    /// suspended, the peer has one heartbeat from the ping on. Once the end is scheduled, silence no longer counts.
    fn expect_sign_of_life(&mut self, now: Instant) {
        if self.closing.is_none() && self.timers.get(Timer::Silence).is_none() {
            let heartbeat = self.plan.heartbeat;
            let at = (now + heartbeat).max(self.last_heard + heartbeat * SILENT_HEARTBEATS);
            self.timers.set(Timer::Silence, at);
        }
    }

    fn batch(&mut self, now: Instant, tail: &Tail, out: &mut BytesMut) -> Step {
        let mut items = std::mem::take(&mut self.items);
        let behind = self.read(now, tail, BATCH_BYTES, self.plan.events_max, &mut items);
        if let Some(bye) = self.due_bye(now) {
            let cursor = self.reader.cursor();
            // Here the batch carries `upto`.
            self.item_writer(0, 0, &mut items).0.control(&Control::Bye { bye, upto: None }, cursor);
            self.written.bye = Some(bye.reason);
        }
        self.items = items;
        let held = matches!(self.plan.completion, Completion::LongPoll { .. });
        let time_is_up = !held || self.timers.is_expired(Timer::Completion, now);
        let patient = !time_is_up || self.looks < LOOKS_MAX;
        if self.written.count == 0 && patient {
            if behind && self.reader.may_fetch(now) {
                self.looks += 1;
                return Step::Fetch(self.reader.request(self.plan.events_max, BATCH_BYTES));
            }
            if !behind && !self.is_caught_up(tail) {
                self.looks += 1;
                return Step::Yield;
            }
        }
        if self.written.count == 0 && !time_is_up {
            return self.wait(behind);
        }
        self.finished = true;
        let moved = self.cursor().position.0.saturating_sub(self.last_sent.position.0);
        // Without a body a response says that its client is live, and known.
        let is_plain = self.reader.is_live() && self.plan.known;
        if self.allows_not_modified && self.written.count == 0 && moved <= UNMOVED_EVENTS && is_plain {
            return Step::Finish;
        }
        self.cut = self.is_cut(now, tail);
        self.write_batch(&self.items, out);
        Step::Write
    }

    /// Waits for the earliest deadline; the retry of a fetch counts only where the reader is `behind` the tail.
    fn wait(&mut self, behind: bool) -> Step {
        self.timers.put(Timer::Read, self.reader.next_fetch().filter(|_| behind));
        Step::Wait(self.timers.next())
    }

    fn write_batch(&self, items: &[u8], out: &mut BytesMut) {
        self.plan.framing.preamble(out);
        let (cursor, literal) = (Some(self.cursor()), self.written.literal);
        let (live, upto) = (self.reader.is_live(), self.reader.upto());
        let batch = Batch { cursor, items, literal, more: self.cut, known: self.plan.known, live, upto };
        self.plan.framing.batch(&batch, out);
    }

    /// Whether a limit (of events, bytes or scanned rows) has ended the batch before the log's end. False where the cursor
    /// did not move: the store has to catch up first, and a client that polled again at once would be a busy loop.
    fn is_cut(&self, now: Instant, tail: &Tail) -> bool {
        self.due_bye(now).is_none() && self.cursor() != self.last_sent && !self.is_caught_up(tail)
    }

    /// Appends the events that the reader finds, up to the limits; returns whether it is behind the tail, as
    /// [`Reader::read`] does.
    fn read(&mut self, now: Instant, tail: &Tail, bytes_target: usize, items_max: usize, out: &mut BytesMut) -> bool {
        let (mut writer, reader) = self.item_writer(bytes_target, items_max, out);
        reader.read(now, tail, &mut writer)
    }

    /// The writer for items, and the reader that finds them: two borrows of disjoint fields.
    fn item_writer<'a>(
        &'a mut self,
        bytes_target: usize,
        items_max: usize,
        out: &'a mut BytesMut,
    ) -> (ItemWriter<'a>, &'a mut Reader) {
        let Self { plan, reader, written, .. } = self;
        let in_batch = !plan.completion.is_stream();
        (ItemWriter { framing: &plan.framing, in_batch, written, out, bytes_target, items_max }, reader)
    }

    fn finish(&mut self, bye: &Bye, out: &mut BytesMut) -> Step {
        self.finished = true;
        let upto = self.reader.upto();
        self.plan.framing.control(&Control::Bye { bye: *bye, upto }, Some(self.cursor()), out);
        self.plan.framing.ending(bye, out);
        self.written.count += 1;
        self.written.bye = Some(bye.reason);
        Step::Write
    }

    /// The `$bye` that is due now, if any.
    fn due_bye(&self, now: Instant) -> Option<Bye> {
        self.closing.filter(|_| self.timers.is_expired(Timer::Close, now))
    }

    fn bye(&self, reason: ByeReason) -> Bye {
        let spread = |from_ms: u64, to_ms: u64| {
            Some(Duration::from_millis(from_ms + u64::from(self.plan.jitter) % (to_ms - from_ms)))
        };
        let retry = match reason {
            ByeReason::Recycle => spread(0, 250),
            ByeReason::Shutdown | ByeReason::Slow => spread(500, 3000),
            ByeReason::Expired | ByeReason::Replaced | ByeReason::Kicked => None,
        };
        Bye { reason, retry }
    }
}

impl Completion {
    fn is_stream(&self) -> bool {
        matches!(self, Self::Stream { .. })
    }
}

#[cfg(test)]
impl Plan {
    /// The plan of a short poll.
    fn short_poll(framing: Framing) -> Self {
        Self {
            framing,
            completion: Completion::ShortPoll,
            client: Uuid::nil(),
            known: true,
            transport: Transport::Poll,
            heartbeat: Duration::from_secs(15),
            events_max: 256,
            jitter: 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{Data, NewEvent};
    use crate::log::{Bounds, FeedBatch};
    use crate::tail::TailLimits;

    /// The first step of a short poll from the beginning of a log of `events` events, and the bytes that it wrote.
    fn poll(patterns: &str, events: u64, omits: bool) -> (Step, String) {
        let zero = Position::ZERO;
        let bounds = Bounds { epoch: "e".parse().unwrap(), began: zero, floor: zero, last: zero };
        let mut tail = Tail::new(bounds, zero, TailLimits::default());
        let draft = NewEvent::new("loud".parse().unwrap(), Data::text("x")).draft(0);
        let event = |position| Arc::new(draft.clone().at(bounds.epoch, Position(position)));
        let events = (1..=events).map(event).collect();
        tail.push(&FeedBatch { epoch: bounds.epoch, after: zero, events, floor: zero });
        let patterns = PatternSet::new([patterns.parse().unwrap()]).unwrap();
        let (now, start) = (Instant::now(), StartPoint::at(Cursor::new(bounds.epoch, zero)));
        let mut delivery = Delivery::new(now, Plan::short_poll(Framing::Json), patterns, start);
        if omits {
            delivery.allow_not_modified();
        }
        let mut out = BytesMut::new();
        let step = delivery.step(now, &tail, Pending::Unknown, &mut out);
        assert!(delivery.is_finished());
        (step, String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn an_empty_batch_is_omitted_where_it_hardly_moves_and_its_peer_would_do_without() {
        assert_eq!(poll("quiet", 0, true), (Step::Finish, String::new()));
        assert_eq!(poll("quiet", UNMOVED_EVENTS, true), (Step::Finish, String::new()));
        let moved = r#"{"cursor":"e-257","events":[],"live":true}"#;
        assert_eq!(poll("quiet", UNMOVED_EVENTS + 1, true), (Step::Write, moved.to_owned()));
        let unasked = r#"{"cursor":"e-0","events":[],"live":true}"#;
        assert_eq!(poll("quiet", 0, false), (Step::Write, unasked.to_owned()));
        let (step, said) = poll("loud", 1, true);
        assert!(step == Step::Write && said.starts_with(r#"{"cursor":"e-1","events":[{"#), "{said}");
    }
}
