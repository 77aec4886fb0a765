//! What one subscriber is sent, and when: the one place that decides it, for every transport.
//!
//! A [`Delivery`] knows no socket and reads no clock. Its driver calls [`Delivery::step`] with the time, the
//! tail and what is new, and does what the answer says: write the bytes, fetch older events, wait, or finish. It holds a
//! position, never a queue: whatever the peer cannot take yet stays in the log.

mod unsent;

use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use bytes::{BufMut, BytesMut};
use uuid::Uuid;

use crate::cursor::{Cursor, Position};
use crate::event::Event;
use crate::json::Literal;
use crate::store::{Page, ReadRequest, Trimmed};
use crate::tail::{Tail, TailRead};
use crate::topic::PatternSet;
use crate::transport::Transport;
use crate::waiters::News;
use crate::wire::{Batch, Bye, ByeReason, Control, Framing, Gap, GapReason, ping_frame};

use unsent::EventSpan;
pub use unsent::UnsentBatch;

/// A write ends after the event that passes this many bytes: with actix's write buffer of 32 KiB it bounds what one
/// stalled reader holds.
const WRITE_BYTES: usize = 16 << 10;

/// A batch ends after the event that passes this many bytes: enough for a thousand events of 200 bytes. It is encoded whole,
/// for its length and its entity tag, but not kept so for a peer that does not take it ([`UnsentBatch`]).
const BATCH_BYTES: usize = 256 << 10;

/// Most events of one fetch for a stream; a batch has its own limit.
const FETCH_EVENTS: usize = 256;

/// Most comparisons of a topic with a pattern in one fetch that has to scan: below a millisecond, so that those who read at the
/// same time have their turn soon.
const FETCH_COMPARISONS: u64 = 8192;

/// Fewest rows that one fetch may scan, whatever the number of patterns: 64 patterns at most come to about as many comparisons.
const FETCH_ROWS_MIN: u64 = 256;

/// Looks without a find, at the tail or by a fetch, after which a request that completes at once is answered with how far it
/// came.
const LOOKS_MAX: u32 = 8;

/// How far an empty batch may move and still be omitted where its peer would do without: behind that, the client would
/// make the server look at the same events again and again.
const UNMOVED_EVENTS: u64 = 256;

/// How long a stream waits before it asks a store again that could not answer.
const FETCH_RETRY: Duration = Duration::from_secs(1);

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

/// Where a connection begins.
#[derive(Clone, Debug, PartialEq)]
pub struct Start {
    /// What the client presented, or where the server put it.
    pub cursor: Cursor,
    /// What it has to be told before anything else; reading goes on where the gap ends.
    pub gap: Option<Gap>,
}

impl Start {
    /// At a cursor of this log.
    #[must_use]
    pub fn at(cursor: Cursor) -> Self {
        Self { cursor, gap: None }
    }
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
    patterns: PatternSet,
    /// Everything up to here that was asked for has been written, or is in `items`.
    cursor: Cursor,
    /// The newest cursor that the peer was given.
    told: Cursor,
    /// Boxed, as the page is: they are rare, and everybody would carry their size.
    gap: Option<Box<Gap>>,
    /// Nothing was asked for yet, but a place to start from was given: it is kept until something is.
    parked: bool,
    page: Option<Box<Page>>,
    /// Looks that found nothing yet.
    looks: u32,
    /// When a store that could not answer is asked again.
    fetch_after: Option<Instant>,
    /// When it may look for events again: until then it pays for what it looked at in vain.
    look_after: Option<Instant>,
    /// Rows that were looked at in vain and not paid for yet.
    vain_rows: u64,
    /// The items of a batch, with commas between.
    items: BytesMut,
    /// Which of them are events. Boxed: streams have none.
    span: Option<Box<EventSpan>>,
    /// How they stand as a literal in a script.
    literal: Literal,
    delivered: usize,
    written_bytes: usize,
    begun: bool,
    finished: bool,
    /// The batch was cut by a limit.
    cut: bool,
    omits_unmoved: bool,
    next_beat: Instant,
    next_ping: Instant,
    /// When it was pinged for the first time since it was heard.
    pinged: Option<Instant>,
    heard: Instant,
    /// When the right to it ends.
    expires: Option<Instant>,
    bye: Option<(Instant, Bye)>,
}

impl Delivery {
    /// A connection that begins now.
    #[must_use]
    pub fn new(now: Instant, plan: Plan, patterns: PatternSet, start: Start) -> Self {
        let cursor = start.gap.as_ref().map_or(start.cursor, |gap| gap.to);
        let next = now + plan.heartbeat;
        Self {
            plan,
            patterns,
            cursor,
            told: start.cursor,
            gap: start.gap.map(Box::new),
            parked: false,
            page: None,
            looks: 0,
            fetch_after: None,
            look_after: None,
            vain_rows: 0,
            items: BytesMut::new(),
            span: None,
            literal: Literal::Same,
            delivered: 0,
            written_bytes: 0,
            begun: false,
            finished: false,
            cut: false,
            omits_unmoved: false,
            next_beat: next,
            next_ping: next,
            pinged: None,
            heard: now,
            expires: None,
            bye: None,
        }
    }

    /// Keeps the place where it starts until something is asked for, instead of following the log's end.
    pub fn park(&mut self) {
        self.parked = self.patterns.is_empty();
    }

    /// Whether it keeps a place to start from until something is asked for.
    #[must_use]
    pub fn is_parked(&self) -> bool {
        self.parked
    }

    /// How far it has come: no matching event that was not written lies at or before it.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// What it asks for.
    #[must_use]
    pub fn patterns(&self) -> &PatternSet {
        &self.patterns
    }

    /// How many items were delivered: events, and control events other than `$hello` and `$beat`.
    #[must_use]
    pub fn delivered(&self) -> usize {
        self.delivered
    }

    /// Whether its last word has been written.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether it has read all that the tail holds, so that its waiter need only be told what comes.
    #[must_use]
    pub fn is_caught_up(&self, tail: &Tail) -> bool {
        let at_end = self.cursor.position >= tail.end() || self.patterns.is_empty();
        self.cursor.epoch == tail.epoch() && at_end && self.page.is_none()
    }

    /// What it asks for from now on. A fetch that is under way was for the old patterns: the driver drops it.
    pub fn set_patterns(&mut self, patterns: PatternSet) {
        self.patterns = patterns;
        self.parked = false;
        self.page = None;
    }

    /// Goes on elsewhere, after a gap where there is one.
    pub fn seek(&mut self, start: Start) {
        self.cursor = start.gap.as_ref().map_or(start.cursor, |gap| gap.to);
        self.gap = start.gap.map(Box::new);
        self.page = None;
    }

    /// What a [`Step::Fetch`] found.
    pub fn fetched(&mut self, now: Instant, page: Page) {
        let progress = page.through > self.cursor.position || page.trimmed.is_some() || !page.events.is_empty();
        // A store that has not come as far as its own feed is asked again later, not at once for ever.
        self.fetch_after = (!progress).then(|| now + FETCH_RETRY);
        self.vain_rows += page.vain_rows;
        self.page = Some(Box::new(page));
    }

    /// A [`Step::Fetch`] failed: a stream asks again a little later.
    pub fn fetch_failed(&mut self, now: Instant) {
        self.fetch_after = Some(now + FETCH_RETRY);
    }

    /// Rows that were looked at since this was called last and did not match: what its peer made the server do for nothing. The
    /// driver charges them to the peer.
    pub fn take_vain_rows(&mut self) -> u64 {
        std::mem::take(&mut self.vain_rows)
    }

    /// Does not look for events before a time. Beats, pings and its end come as ever.
    pub fn look_after(&mut self, at: Instant) {
        self.look_after = Some(at);
    }

    /// The peer gave a sign of life.
    pub fn heard(&mut self, now: Instant) {
        self.heard = now;
        self.pinged = None;
    }

    /// When it ends because the right to it does, whatever else would keep it; `None` where that has no end.
    pub fn set_expiry(&mut self, at: Option<Instant>) {
        self.expires = at;
    }

    /// A batch without items that hardly moves need not be written: its peer has one like it. It finishes without a word.
    pub fn omit_unmoved(&mut self) {
        self.omits_unmoved = true;
    }

    /// What is kept of a finished batch of so many bytes while it is sent; `None` where no event is in it.
    #[must_use]
    pub fn into_unsent(self: Box<Self>, length: usize) -> Option<UnsentBatch> {
        UnsentBatch::new(self, length)
    }

    /// Ends it now, for a reason.
    pub fn end(&mut self, now: Instant, reason: ByeReason) {
        self.bye = Some((now, self.bye(reason)));
    }

    /// The server stops: it ends at a moment of its own within the time, so that not all come back at once.
    pub fn drain(&mut self, now: Instant, within: Duration) {
        if self.bye.is_none() {
            let at = now + within.mul_f64(0.8 * f64::from(self.plan.jitter) / f64::from(u32::MAX));
            self.bye = Some((at, self.bye(ByeReason::Shutdown)));
        }
    }

    /// When it ends, if nobody ends it before: at its age, with the right to it, or when it was told to. Not for silence,
    /// which a peer can end any moment.
    #[must_use]
    pub fn ends_at(&self) -> Option<Instant> {
        // Once its end is fixed, its age does not count any more.
        let end = match (self.bye, self.plan.completion) {
            (Some((at, _)), _) => Some(at),
            (None, Completion::Stream { until, .. }) => until,
            (None, Completion::AtOnce | Completion::Held { .. }) => None,
        };
        end.into_iter().chain(self.expires).min()
    }

    /// Whether the next step ends it, or it is over: its end has come, or its peer has been silent for too long.
    #[must_use]
    pub fn is_due_to_end(&self, now: Instant) -> bool {
        let end = self.ends_at().into_iter().chain(self.silent_at()).min();
        self.finished || end.is_some_and(|at| now >= at)
    }

    /// What is next; bytes to be sent are put into `out`, which is empty when this is called.
    ///
    /// `news` tells what came since the last time that [`Self::is_caught_up`] held.
    pub fn step(&mut self, now: Instant, tail: &Tail, news: News, out: &mut BytesMut) -> Step {
        if self.finished {
            return Step::Finish;
        }
        self.skip(tail, news);
        // Even where it is to end a little later anyway.
        if self.expires.is_some_and(|at| now >= at) && self.bye.is_none_or(|(at, _)| now < at) {
            self.end(now, ByeReason::Expired);
        }
        let step = match self.plan.completion {
            Completion::Stream { bytes_max, until, pings } => self.stream(now, tail, bytes_max, until, pings, out),
            Completion::AtOnce => self.batch(now, tail, None, out),
            Completion::Held { until } => self.batch(now, tail, Some(until), out),
        };
        if out.is_empty() {
            return step;
        }
        self.written_bytes += out.len();
        self.told = self.cursor;
        self.next_beat = now + self.plan.heartbeat;
        Step::Write
    }

    /// Moves over what the waiter knows to be of no interest, without looking at it.
    pub(crate) fn skip(&mut self, tail: &Tail, news: News) {
        let clear = match news {
            News::Unknown => return,
            News::None => tail.end(),
            News::First(position) => position.before(),
        };
        if self.cursor.epoch == tail.epoch() && !self.patterns.is_empty() {
            self.cursor.position = self.cursor.position.max(clear);
        }
    }

    fn stream(
        &mut self,
        now: Instant,
        tail: &Tail,
        bytes_max: Option<usize>,
        until: Option<Instant>,
        pings: bool,
        out: &mut BytesMut,
    ) -> Step {
        if !self.begun {
            self.begun = true;
            self.plan.framing.preamble(out);
            let hello = Control::Hello {
                client: self.plan.client,
                heartbeat: self.plan.heartbeat,
                transport: self.plan.transport,
                known: self.plan.known,
            };
            self.plan.framing.control(&hello, Some(self.told), out);
        }
        if self.bye.is_none() {
            if until.is_some_and(|until| now >= until) {
                self.end(now, ByeReason::Recycle);
            } else if self.silent_at().is_some_and(|at| now >= at) {
                self.end(now, ByeReason::Slow);
            }
        }
        if let Some((at, bye)) = self.bye
            && now >= at
        {
            return self.finish(&bye, out);
        }
        let left = bytes_max.map_or(usize::MAX, |max| max.saturating_sub(self.written_bytes));
        let behind = self.read_events(now, tail, left.min(WRITE_BYTES), usize::MAX, out);
        if bytes_max.is_some_and(|max| self.written_bytes + out.len() >= max) {
            let bye = self.bye(ByeReason::Recycle);
            return self.finish(&bye, out);
        }
        if !out.is_empty() {
            return Step::Write;
        }
        if behind && self.may_fetch(now) {
            return Step::Fetch(self.request(FETCH_EVENTS, WRITE_BYTES));
        }
        if pings && now >= self.next_ping {
            self.next_ping = now + self.plan.heartbeat;
            self.pinged.get_or_insert(now);
            out.put_slice(&ping_frame());
        }
        if now >= self.next_beat {
            // Also where the framing has no item for it, or it would be due again at once.
            self.next_beat = now + self.plan.heartbeat;
            self.plan.framing.control(&Control::Beat, Some(self.cursor), out);
        }
        if !out.is_empty() {
            return Step::Write;
        }
        if !behind && !self.is_caught_up(tail) {
            return Step::Yield;
        }
        let retry = self.next_look().filter(|_| behind);
        let times = [Some(self.next_beat), self.ends_at(), self.silent_at(), retry, pings.then_some(self.next_ping)];
        Step::Wait(times.into_iter().flatten().min())
    }

    fn batch(&mut self, now: Instant, tail: &Tail, until: Option<Instant>, out: &mut BytesMut) -> Step {
        let mut items = std::mem::take(&mut self.items);
        let behind = self.read_events(now, tail, BATCH_BYTES, self.plan.events_max, &mut items);
        if let Some((at, bye)) = self.bye
            && now >= at
        {
            self.control(Control::Bye(bye), &mut items);
        }
        self.items = items;
        let time_is_up = until.is_none_or(|until| now >= until);
        let patient = (until.is_some() && !time_is_up) || self.looks < LOOKS_MAX;
        if self.delivered == 0 && patient {
            if behind && self.may_fetch(now) {
                self.looks += 1;
                return Step::Fetch(self.request(self.plan.events_max, BATCH_BYTES));
            }
            if !behind && !self.is_caught_up(tail) {
                self.looks += 1;
                return Step::Yield;
            }
        }
        if self.delivered == 0 && !time_is_up {
            let retry = self.next_look().filter(|_| behind);
            return Step::Wait([until, self.bye.map(|(at, _)| at), self.expires, retry].into_iter().flatten().min());
        }
        self.finished = true;
        let moved = self.cursor.position.0.saturating_sub(self.told.position.0);
        if self.omits_unmoved && self.delivered == 0 && moved <= UNMOVED_EVENTS && self.plan.known {
            return Step::Finish;
        }
        self.cut = self.is_cut(now, tail);
        self.write_batch(&self.items, out);
        Step::Write
    }

    fn write_batch(&self, items: &[u8], out: &mut BytesMut) {
        self.plan.framing.preamble(out);
        let (cursor, literal) = (Some(self.cursor), self.literal);
        let batch = Batch { cursor, items, literal, more: self.cut, known: self.plan.known };
        self.plan.framing.batch(&batch, out);
    }

    /// Whether a limit (of events, bytes, or rows looked at) has ended the batch before the log's end. Not where it came no
    /// further than its peer was: there a store has to catch up first, and to ask again at once would be a busy loop.
    fn is_cut(&self, now: Instant, tail: &Tail) -> bool {
        let is_ending = self.bye.is_some_and(|(at, _)| now >= at);
        !is_ending && self.cursor != self.told && !self.is_caught_up(tail)
    }

    /// Appends the gap, the fetched page or what the tail holds, as far as the limits go; says whether the position
    /// is older than the tail, or the tail may not be looked at yet.
    fn read_events(
        &mut self,
        now: Instant,
        tail: &Tail,
        bytes_target: usize,
        events_max: usize,
        out: &mut BytesMut,
    ) -> bool {
        if self.cursor.epoch != tail.epoch() && self.gap.is_none() {
            let to = Cursor::new(tail.epoch(), tail.began());
            let gap = Gap { reason: GapReason::Epoch, from: self.cursor, to, patterns: Vec::new(), missed: None };
            self.gap = Some(Box::new(gap));
            self.page = None;
        }
        if let Some(gap) = self.gap.take() {
            self.cursor = gap.to;
            self.control(Control::Gap(*gap), out);
        }
        if let Some(page) = self.page.take() {
            self.write_page(*page, out);
        }
        if self.patterns.is_empty() {
            // Nothing is subscribed, so nothing is left out: the position is the log's end.
            if !self.parked {
                self.cursor.position = self.cursor.position.max(tail.end());
            }
            return false;
        }
        if out.len() >= bytes_target || self.delivered >= events_max {
            return false;
        }
        if self.look_after.is_some_and(|at| now < at) && !self.is_caught_up(tail) {
            return true;
        }
        let patterns = self.patterns.clone();
        let read = tail.read(&patterns, self.cursor.position, &mut |event| {
            self.event(event, out);
            let full = out.len() >= bytes_target || self.delivered >= events_max;
            if full { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match read {
            TailRead::Behind => true,
            TailRead::Through { position, vain_rows } => {
                self.cursor.position = position;
                self.vain_rows += vain_rows;
                false
            }
        }
    }

    fn write_page(&mut self, page: Page, out: &mut BytesMut) {
        if let Some(Trimmed { to, patterns }) = page.trimmed {
            let to = Cursor::new(self.cursor.epoch, to);
            // Where everything was asked for, everything between was missed; else only the store could have counted.
            let missed = self.patterns.has_everything().then(|| to.position.0.saturating_sub(self.cursor.position.0));
            let gap = Gap { reason: GapReason::Expired, from: self.cursor, to, patterns, missed };
            self.cursor = to;
            self.control(Control::Gap(gap), out);
        }
        for event in &page.events {
            self.event(event, out);
        }
        self.cursor.position = self.cursor.position.max(page.through);
    }

    fn event(&mut self, event: &Event, out: &mut BytesMut) {
        let start_bytes = out.len();
        self.separate_in(out);
        self.plan.framing_for_items().event(event, out);
        if !matches!(self.plan.completion, Completion::Stream { .. }) {
            self.note_event(event.position(), start_bytes, out.len());
        }
        self.literal = event.literal().max(self.literal);
        self.delivered += 1;
    }

    /// An event of a batch lies between two bytes of its items.
    fn note_event(&mut self, position: Position, start_bytes: usize, end_bytes: usize) {
        let after = position.before();
        let first = || Box::new(EventSpan { start_bytes, end_bytes, after, through: position, count: 0 });
        let span = self.span.get_or_insert_with(first);
        (span.end_bytes, span.through) = (end_bytes, position);
        span.count += 1;
    }

    fn control(&mut self, control: Control, out: &mut BytesMut) {
        self.separate_in(out);
        self.plan.framing_for_items().control(&control, Some(self.cursor), out);
        self.delivered += 1;
    }

    /// The comma between two items of a batch.
    fn separate_in(&self, out: &mut BytesMut) {
        if self.delivered > 0 && !matches!(self.plan.completion, Completion::Stream { .. }) {
            out.put_u8(b',');
        }
    }

    fn finish(&mut self, bye: &Bye, out: &mut BytesMut) -> Step {
        self.finished = true;
        self.plan.framing.control(&Control::Bye(*bye), Some(self.cursor), out);
        self.plan.framing.ending(bye, out);
        self.delivered += 1;
        Step::Write
    }

    fn request(&self, events_max: usize, bytes_max: usize) -> ReadRequest {
        ReadRequest {
            patterns: self.patterns.clone(),
            after: self.cursor.position,
            events_max,
            bytes_max,
            rows_max: rows_max(&self.patterns),
        }
    }

    fn may_fetch(&self, now: Instant) -> bool {
        self.next_look().is_none_or(|at| now >= at)
    }

    /// When it may fetch again, where it has to wait for that.
    fn next_look(&self) -> Option<Instant> {
        self.fetch_after.max(self.look_after)
    }

    /// When its peer has been silent for too long: for two heartbeats, the last of them with a ping that was not answered.
    ///
    /// Whoever was not asked does not answer: where the ping was late, because the store kept this waiting or the process
    /// stood still, its peer has a heartbeat from then on. Nobody is asked any more whose end is fixed.
    fn silent_at(&self) -> Option<Instant> {
        let pinged = self.pinged.filter(|_| self.bye.is_none())?;
        Some((pinged + self.plan.heartbeat).max(self.heard + self.plan.heartbeat * SILENT_HEARTBEATS))
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

impl Plan {
    /// In a batch an item is bare JSON, whatever is put around the batch.
    fn framing_for_items(&self) -> &Framing {
        match self.completion {
            Completion::Stream { .. } => &self.framing,
            Completion::AtOnce | Completion::Held { .. } => &Framing::Json,
        }
    }
}

/// Most rows that one fetch may look at.
fn rows_max(patterns: &PatternSet) -> u64 {
    (FETCH_COMPARISONS / patterns.len().max(1) as u64).max(FETCH_ROWS_MIN)
}

/// Where to read on after a position that a store's bounds say is elsewhere; `None` where it is in the log.
#[must_use]
pub fn gap_at(cursor: Cursor, bounds: &crate::store::Bounds) -> Option<Gap> {
    let gap = |reason, to: Position| Gap {
        reason,
        from: cursor,
        to: Cursor::new(bounds.epoch, to),
        patterns: Vec::new(),
        missed: None,
    };
    if cursor.epoch != bounds.epoch {
        Some(gap(GapReason::Epoch, bounds.began))
    } else if cursor.position > bounds.last {
        Some(gap(GapReason::Ahead, bounds.last))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::{Data, NewEvent};
    use crate::store::{Bounds, FeedBatch};
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
        let plan = Plan {
            framing: Framing::Json,
            completion: Completion::AtOnce,
            client: Uuid::nil(),
            known: true,
            transport: Transport::Poll,
            heartbeat: Duration::from_secs(15),
            events_max: 256,
            jitter: 0,
        };
        let patterns = PatternSet::new([patterns.parse().unwrap()]).unwrap();
        let (now, start) = (Instant::now(), Start::at(Cursor::new(bounds.epoch, zero)));
        let mut delivery = Delivery::new(now, plan, patterns, start);
        if omits {
            delivery.omit_unmoved();
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
