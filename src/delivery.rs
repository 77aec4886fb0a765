//! What one subscriber is sent, and when: the one place that decides it, for every transport.
//!
//! A [`Delivery`] knows no socket and reads no clock. Its driver calls [`Delivery::step`] with the time, the
//! tail and what is new, and does what the answer says: write the bytes, fetch older events, wait, or finish. It holds a
//! position, never a queue: whatever the peer cannot take yet stays in the log.

mod items;
mod timers;
mod unsent;

use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use crate::cursor::Cursor;
use crate::log::{Page, ReadRequest};
use crate::reader::Reader;
use crate::tail::Tail;
use crate::topic::PatternSet;
use crate::transport::Transport;
use crate::waiters::News;
use crate::wire::{Batch, Bye, ByeReason, Control, Framing, ping_frame};

pub use crate::reader::{StartPoint, gap_at};
use items::{ItemWriter, Written};
use timers::{Timer, TimerTable};
pub use unsent::UnsentBatch;

/// A write ends after the event that passes this many bytes: with actix's write buffer of 32 KiB it bounds what one
/// stalled reader holds.
const WRITE_BYTES: usize = 16 << 10;

/// A batch ends after the event that passes this many bytes: enough for a thousand events of 200 bytes. It is encoded whole,
/// for its length and its entity tag, but not kept so for a peer that does not take it ([`UnsentBatch`]).
const BATCH_BYTES: usize = 256 << 10;

/// Most events of one fetch for a stream; a batch has its own limit.
const FETCH_EVENTS: usize = 256;

/// Looks without a find, at the tail or by a fetch, after which a request that completes at once is answered with how far it
/// came.
const LOOKS_MAX: u32 = 8;

/// How far an empty batch may move and still be omitted where its peer would do without: behind that, the client would
/// make the server look at the same events again and again.
const UNMOVED_EVENTS: u64 = 256;

/// Heartbeats without a sign of life from a peer that is pinged, after which it counts as gone.
const SILENT_HEARTBEATS: u32 = 2;

/// When a connection is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completion {
    /// With whatever there is: a short poll.
    AtOnce,
    /// With the first batch, or an empty one when the time is up: a held request.
    Held {
        /// When the time is up.
        until: Instant,
    },
    /// When the server says so: a stream.
    Stream {
        /// Ends after the item that passes this many bytes.
        bytes_max: Option<usize>,
        /// Ends then.
        until: Option<Instant>,
        /// Whether the peer answers pings, and must.
        pings: bool,
    },
}

/// What is the same for a connection's whole life.
#[derive(Clone, Debug)]
pub struct Plan {
    /// How items become bytes.
    pub framing: Framing,
    /// When it is done.
    pub completion: Completion,
    /// Who it is; only a stream is told.
    pub client: Uuid,
    /// Whether the client that the request named is remembered, so that it goes on where it was; true also where the
    /// request named none. One that is not is told so.
    pub known: bool,
    /// What it runs over.
    pub transport: Transport,
    /// How long a stream may be quiet.
    pub heartbeat: Duration,
    /// Most events in a batch.
    pub events_max: usize,
    /// Random, one for each connection, so that what many do at once is spread.
    pub jitter: u32,
}

/// What the driver has to do next.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Send what was appended to the buffer, then step again.
    Write,
    /// Read from the store, hand the page to [`Delivery::fetched`], then step again.
    Fetch(ReadRequest),
    /// Nothing to do until something comes, or the time is there.
    Wait(Option<Instant>),
    /// Step again, once others have had their turn: a bounded look at the tail found nothing, and there is more of it.
    Yield,
    /// It is over.
    Finish,
}

/// One subscriber on one connection.
#[derive(Debug)]
pub struct Delivery {
    plan: Plan,
    reader: Reader,
    /// The newest cursor that the peer was sent.
    last_sent: Cursor,
    written: Written,
    /// The items of a batch, with commas between.
    items: BytesMut,
    written_bytes: usize,
    /// Looks that found nothing yet.
    looks: u32,
    begun: bool,
    finished: bool,
    /// The batch was cut by a limit.
    cut: bool,
    allows_not_modified: bool,
    timers: TimerTable,
    /// When the peer gave its last sign of life.
    last_heard: Instant,
    /// Why it ends, once that is fixed; [`Timer::Close`] says when.
    closing: Option<Bye>,
}

impl Delivery {
    /// A connection that begins now.
    #[must_use]
    pub fn new(now: Instant, plan: Plan, patterns: PatternSet, start: StartPoint) -> Self {
        let mut timers = TimerTable::default();
        match plan.completion {
            Completion::AtOnce => {}
            Completion::Held { until } => timers.set(Timer::Completion, until),
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

    /// Keeps the place where it starts until something is subscribed, instead of following the log's end.
    pub fn await_first_subscribe(&mut self) {
        self.reader.await_first_subscribe();
    }

    /// Whether it keeps a place to start from until something is subscribed.
    #[must_use]
    pub fn is_awaiting_first_subscribe(&self) -> bool {
        self.reader.is_awaiting_first_subscribe()
    }

    /// How far it has come: no matching event that was not written lies at or before it.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.reader.cursor()
    }

    /// What is subscribed.
    #[must_use]
    pub fn patterns(&self) -> &PatternSet {
        self.reader.patterns()
    }

    /// How many items were delivered: events, and control events other than `$hello` and `$beat`.
    #[must_use]
    pub fn delivered(&self) -> usize {
        self.written.count
    }

    /// Whether its last item has been written.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether it has read all that the tail holds, so that only what comes from now on can be news to it.
    #[must_use]
    pub fn is_caught_up(&self, tail: &Tail) -> bool {
        self.reader.is_caught_up(tail)
    }

    /// What is subscribed from now on. A fetch that is under way was for the old patterns: the driver drops it.
    pub fn set_patterns(&mut self, patterns: PatternSet) {
        self.reader.set_patterns(patterns);
    }

    /// Goes on elsewhere, after a gap where there is one.
    pub fn seek(&mut self, start: StartPoint) {
        self.reader.seek(start);
    }

    /// What a [`Step::Fetch`] found.
    pub fn fetched(&mut self, now: Instant, page: Page) {
        self.reader.fetched(now, page);
    }

    /// A [`Step::Fetch`] failed: it is made again a little later.
    pub fn fetch_failed(&mut self, now: Instant) {
        self.reader.fetch_failed(now);
    }

    /// Rows that were looked at since this was called last and did not match: what its peer made the server do for nothing. The
    /// driver charges them to the peer.
    pub fn take_vain_rows(&mut self) -> u64 {
        self.reader.take_vain_rows()
    }

    /// Does not look for events before a time. Beats, pings and its end come as ever.
    pub fn look_after(&mut self, at: Instant) {
        self.reader.look_after(at);
    }

    /// The peer gave a sign of life.
    pub fn heard(&mut self, now: Instant) {
        self.last_heard = now;
        self.timers.stop(Timer::Silence);
    }

    /// When it ends because the right to it does, whatever else would keep it; `None` where that has no end.
    pub fn set_expiry(&mut self, at: Option<Instant>) {
        self.timers.put(Timer::Expiry, at);
    }

    /// A batch without items that hardly moves need not be written: its peer has one like it. The delivery finishes without it.
    pub fn allow_not_modified(&mut self) {
        self.allows_not_modified = true;
    }

    /// What is kept of a finished batch of so many bytes while it is sent; `None` where no event is in it.
    #[must_use]
    pub fn into_unsent(self: Box<Self>, length: usize) -> Option<UnsentBatch> {
        UnsentBatch::new(self, length)
    }

    /// Ends it now, for a reason.
    pub fn end(&mut self, now: Instant, reason: ByeReason) {
        self.close_at(now, reason);
    }

    /// The server stops: it ends at a moment of its own within the time, so that not all come back at once.
    pub fn drain(&mut self, now: Instant, within: Duration) {
        if self.closing.is_none() {
            let spread = within.mul_f64(0.8 * f64::from(self.plan.jitter) / f64::from(u32::MAX));
            self.close_at(now + spread, ByeReason::Shutdown);
        }
    }

    fn close_at(&mut self, at: Instant, reason: ByeReason) {
        self.closing = Some(self.bye(reason));
        self.timers.set(Timer::Close, at);
        // Once the end is fixed, neither silence nor age ends a stream before. A held request is still answered in time.
        self.timers.stop(Timer::Silence);
        if self.plan.completion.is_stream() {
            self.timers.stop(Timer::Completion);
        }
    }

    /// When it ends if nothing ends it before: at its age, with the right to it, or at the time that was fixed. Not for silence,
    /// which a peer can end any moment.
    #[must_use]
    pub fn ends_at(&self) -> Option<Instant> {
        self.timers.next_of(&[Timer::Completion, Timer::Close, Timer::Expiry])
    }

    /// Whether the next step ends it, or it is over: its end has come, or its peer has been silent for too long.
    #[must_use]
    pub fn is_due_to_end(&self, now: Instant) -> bool {
        let end = [Timer::Completion, Timer::Close, Timer::Expiry, Timer::Silence];
        self.finished || end.into_iter().any(|timer| self.timers.is_expired(timer, now))
    }

    /// What is next; bytes to be sent are put into `out`, which is empty when this is called.
    ///
    /// `news` tells what came since the last time that [`Self::is_caught_up`] held.
    pub fn step(&mut self, now: Instant, tail: &Tail, news: News, out: &mut BytesMut) -> Step {
        if self.finished {
            return Step::Finish;
        }
        self.reader.skip(tail, news);
        // Even where it is to end a little later anyway.
        if self.timers.is_expired(Timer::Expiry, now) && !self.timers.is_expired(Timer::Close, now) {
            self.end(now, ByeReason::Expired);
        }
        let step = match self.plan.completion {
            Completion::Stream { bytes_max, .. } => self.stream(now, tail, bytes_max, out),
            Completion::AtOnce | Completion::Held { .. } => self.batch(now, tail, out),
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

    /// Moves over what the waiter knows to be of no interest, without looking at it.
    pub(crate) fn skip(&mut self, tail: &Tail, news: News) {
        self.reader.skip(tail, news);
    }

    fn stream(&mut self, now: Instant, tail: &Tail, bytes_max: Option<usize>, out: &mut BytesMut) -> Step {
        if !self.begun {
            self.begin(out);
        }
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

    fn begin(&mut self, out: &mut BytesMut) {
        self.begun = true;
        self.plan.framing.preamble(out);
        let hello = Control::Hello {
            client: self.plan.client,
            heartbeat: self.plan.heartbeat,
            transport: self.plan.transport,
            known: self.plan.known,
        };
        self.plan.framing.control(&hello, Some(self.last_sent), out);
    }

    /// The ping and the `$beat`, where they are due.
    fn write_signs_of_life(&mut self, now: Instant, out: &mut BytesMut) {
        if self.timers.is_expired(Timer::Ping, now) {
            self.timers.set(Timer::Ping, now + self.plan.heartbeat);
            self.expect_sign_of_life(now);
            out.put_slice(&ping_frame());
        }
        if self.timers.is_expired(Timer::Beat, now) {
            // Also where the framing has no item for it, or it would be due again at once.
            self.timers.set(Timer::Beat, now + self.plan.heartbeat);
            self.plan.framing.control(&Control::Beat, Some(self.reader.cursor()), out);
        }
    }

    /// The peer is pinged: it has been silent for too long after two heartbeats, the last of them with a ping that was not
    /// answered.
    ///
    /// A peer that is not pinged does not answer: where the ping is late, because the store kept this waiting or the process
    /// stood still, the peer has a heartbeat from then on. Where the end is fixed, silence does not count any more.
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
            self.item_writer(0, 0, &mut items).0.control(&Control::Bye(bye), cursor);
        }
        self.items = items;
        let held = matches!(self.plan.completion, Completion::Held { .. });
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
        if self.allows_not_modified && self.written.count == 0 && moved <= UNMOVED_EVENTS && self.plan.known {
            return Step::Finish;
        }
        self.cut = self.is_cut(now, tail);
        self.write_batch(&self.items, out);
        Step::Write
    }

    /// Waits for the first of all deadlines, for the store's only where `behind`.
    fn wait(&mut self, behind: bool) -> Step {
        self.timers.put(Timer::Fetch, self.reader.next_fetch().filter(|_| behind));
        Step::Wait(self.timers.next())
    }

    fn write_batch(&self, items: &[u8], out: &mut BytesMut) {
        self.plan.framing.preamble(out);
        let (cursor, literal) = (Some(self.cursor()), self.written.literal);
        let batch = Batch { cursor, items, literal, more: self.cut, known: self.plan.known };
        self.plan.framing.batch(&batch, out);
    }

    /// Whether a limit (of events, bytes, or rows looked at) has ended the batch before the log's end. Not where it came no
    /// further than its peer was: there a store has to catch up first, and to ask again at once would be a busy loop.
    fn is_cut(&self, now: Instant, tail: &Tail) -> bool {
        self.due_bye(now).is_none() && self.cursor() != self.last_sent && !self.is_caught_up(tail)
    }

    /// Appends what the reader finds, up to the limits; says whether only the store knows more, as [`Reader::read`] does.
    fn read(&mut self, now: Instant, tail: &Tail, bytes_target: usize, items_max: usize, out: &mut BytesMut) -> bool {
        let (mut writer, reader) = self.item_writer(bytes_target, items_max, out);
        reader.read(now, tail, &mut writer)
    }

    /// What items are written with, besides the reader that finds them.
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
        self.plan.framing.control(&Control::Bye(*bye), Some(self.cursor()), out);
        self.plan.framing.ending(bye, out);
        self.written.count += 1;
        Step::Write
    }

    /// The `$bye` that is to be sent now, if any.
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
    /// What a short poll is given.
    fn short_poll(framing: Framing) -> Self {
        Self {
            framing,
            completion: Completion::AtOnce,
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
    use crate::cursor::Position;
    use crate::event::{Data, NewEvent};
    use crate::log::{Bounds, FeedBatch};
    use crate::tail::TailLimits;

    /// The first step of a short poll from the beginning of a log of so many events, and what it wrote.
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
        let step = delivery.step(now, &tail, News::Unknown, &mut out);
        assert!(delivery.is_finished());
        (step, String::from_utf8(out.to_vec()).unwrap())
    }

    #[test]
    fn an_empty_batch_is_omitted_where_it_hardly_moves_and_its_peer_would_do_without() {
        assert_eq!(poll("quiet", 0, true), (Step::Finish, String::new()));
        assert_eq!(poll("quiet", UNMOVED_EVENTS, true), (Step::Finish, String::new()));
        let moved = r#"{"cursor":"e-257","events":[]}"#;
        assert_eq!(poll("quiet", UNMOVED_EVENTS + 1, true), (Step::Write, moved.to_owned()));
        let unasked = r#"{"cursor":"e-0","events":[]}"#;
        assert_eq!(poll("quiet", 0, false), (Step::Write, unasked.to_owned()));
        let (step, said) = poll("loud", 1, true);
        assert!(step == Step::Write && said.starts_with(r#"{"cursor":"e-1","events":[{"#), "{said}");
    }
}
