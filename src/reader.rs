//! Reads the log from a position: merges the tail, the pages of the store and the pending events of a subscriber into one
//! ordered sequence of events and gaps, each event once. Deliveries over HTTP ([`crate::delivery`]) and in-process
//! subscriptions share this code.
//!
//! Sans I/O: the time is an argument, a read from the store is a request that the caller carries out, and the results go to
//! the caller's [`Items`]. A reader holds a position and, for a moment, one page; never a queue.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cursor::Cursor;
use crate::event::Event;
use crate::log::{Bounds, Page, ReadRequest, Trimmed};
use crate::subscription_index::Pending;
use crate::tail::{Tail, TailRead};
use crate::topic::PatternSet;
use crate::wire::{Gap, GapReason};

/// Budget of one fetch that has to scan, in comparisons of a topic with a pattern: less than a millisecond, so that
/// concurrent fetches are served soon.
const FETCH_COMPARISONS: u64 = 8192;

/// Fewest rows that one fetch may scan, whatever the number of patterns: with 64 patterns that is twice the budget.
const FETCH_ROWS_MIN: u64 = 256;

/// How long a reader waits before it retries a read from a store that failed, or that is behind its own feed. Without the
/// wait, the reader of such a store would be a busy loop.
const FETCH_RETRY: Duration = Duration::from_secs(1);

/// The start of a subscription.
#[derive(Clone, Debug, PartialEq)]
pub struct StartPoint {
    /// The cursor that the client presented, or that the server chose.
    pub cursor: Cursor,
    /// The gap that is delivered before any event; reading continues at the gap's end.
    pub gap: Option<Gap>,
}

impl StartPoint {
    /// At a cursor of this log.
    #[must_use]
    pub fn at(cursor: Cursor) -> Self {
        Self { cursor, gap: None }
    }

    /// The position from which reading continues: the gap's end where there is one.
    fn resumes_at(&self) -> Cursor {
        self.gap.as_ref().map_or(self.cursor, |gap| gap.to)
    }
}

/// The gap between a cursor and the log, as far as the log's bounds reveal one; `None` where the cursor is in the log.
#[must_use]
pub fn gap_at(cursor: Cursor, bounds: &Bounds) -> Option<Gap> {
    if cursor.epoch != bounds.epoch {
        Some(gap(GapReason::Epoch, cursor, Cursor::new(bounds.epoch, bounds.began)))
    } else if cursor.position > bounds.last {
        Some(gap(GapReason::Ahead, cursor, Cursor::new(bounds.epoch, bounds.last)))
    } else {
        None
    }
}

/// A gap that affects all patterns, with an unknown number of missed events.
fn gap(reason: GapReason, from: Cursor, to: Cursor) -> Gap {
    Gap { reason, from, to, patterns: Vec::new(), missed: None }
}

/// Receives what a [`Reader`] finds, in the log's order.
pub(crate) trait Items {
    /// A gap; later items lie after its end.
    fn gap(&mut self, gap: Gap);

    /// An event that matches.
    fn event(&mut self, event: &Arc<Event>);

    /// Whether the batch or buffer is full. The reader then stops after the item that filled it.
    fn is_full(&self) -> bool;
}

/// A subscriber's position in the log, and its next read.
#[derive(Debug)]
pub(crate) struct Reader {
    patterns: PatternSet,
    /// Every matching event at or before this cursor has been delivered.
    cursor: Cursor,
    /// Boxed, as the page is: both are rare, and every reader would carry their size.
    gap: Option<Box<Gap>>,
    page: Option<Box<Page>>,
    /// There is no pattern yet, and the start position is kept until there is one.
    awaiting_first_subscribe: bool,
    /// When a read from the store may be retried.
    fetch_after: Option<Instant>,
    /// When events may be read again: until then the peer pays for rows that did not match.
    look_after: Option<Instant>,
    /// Rows that were scanned, did not match and are not charged to the peer yet.
    unmatched_rows: u64,
}

impl Reader {
    /// A reader of these patterns, from a start point.
    pub(crate) fn new(patterns: PatternSet, start: StartPoint) -> Self {
        Self {
            patterns,
            cursor: start.resumes_at(),
            gap: start.gap.map(Box::new),
            page: None,
            awaiting_first_subscribe: false,
            fetch_after: None,
            look_after: None,
            unmatched_rows: 0,
        }
    }

    /// Keeps the start position until there is a pattern, instead of following the log's end.
    pub(crate) fn await_first_subscribe(&mut self) {
        self.awaiting_first_subscribe = self.patterns.is_empty();
    }

    pub(crate) fn is_awaiting_first_subscribe(&self) -> bool {
        self.awaiting_first_subscribe
    }

    /// The cursor that is reached: every matching event at or before it was passed to the [`Items`].
    pub(crate) fn cursor(&self) -> Cursor {
        self.cursor
    }

    pub(crate) fn patterns(&self) -> &PatternSet {
        &self.patterns
    }

    /// Whether the whole tail has been read: only events that arrive from now on can be pending.
    pub(crate) fn is_caught_up(&self, tail: &Tail) -> bool {
        let at_end = self.cursor.position >= tail.end() || self.patterns.is_empty();
        self.cursor.epoch == tail.epoch() && at_end && self.page.is_none()
    }

    /// Replaces the patterns. A fetch that is under way is for the old patterns: the caller drops it.
    pub(crate) fn set_patterns(&mut self, patterns: PatternSet) {
        self.patterns = patterns;
        self.awaiting_first_subscribe = false;
        self.page = None;
    }

    /// Moves to another position, after a gap where there is one.
    pub(crate) fn seek(&mut self, start: StartPoint) {
        self.cursor = start.resumes_at();
        self.gap = start.gap.map(Box::new);
        self.page = None;
    }

    /// Skips the events that are known not to match, without scanning them.
    pub(crate) fn skip(&mut self, tail: &Tail, pending: Pending) {
        let clear = match pending {
            Pending::Unknown => return,
            Pending::None => tail.end(),
            Pending::First(position) => position.before(),
        };
        if self.cursor.epoch == tail.epoch() && !self.patterns.is_empty() {
            self.cursor.position = self.cursor.position.max(clear);
        }
    }

    /// A request for the next events from the store, with a budget of rows to scan.
    pub(crate) fn request(&self, events_max: usize, bytes_max: usize) -> ReadRequest {
        ReadRequest {
            patterns: self.patterns.clone(),
            after: self.cursor.position,
            events_max,
            bytes_max,
            rows_max: (FETCH_COMPARISONS / self.patterns.len().max(1) as u64).max(FETCH_ROWS_MIN),
        }
    }

    /// Takes the page that a [`Self::request`] has read.
    pub(crate) fn fetched(&mut self, now: Instant, page: Page) {
        let progress = page.through > self.cursor.position || page.trimmed.is_some() || !page.events.is_empty();
        self.fetch_after = (!progress).then(|| now + FETCH_RETRY);
        self.unmatched_rows += page.unmatched_rows;
        self.page = Some(Box::new(page));
    }

    /// A [`Self::request`] has failed: it is retried a little later.
    pub(crate) fn fetch_failed(&mut self, now: Instant) {
        self.fetch_after = Some(now + FETCH_RETRY);
    }

    /// Reads no events before `at`.
    pub(crate) fn look_after(&mut self, at: Instant) {
        self.look_after = Some(at);
    }

    /// Returns and resets the number of rows that were scanned and did not match.
    pub(crate) fn take_unmatched_rows(&mut self) -> u64 {
        std::mem::take(&mut self.unmatched_rows)
    }

    /// Whether a read from the store is allowed now.
    pub(crate) fn may_fetch(&self, now: Instant) -> bool {
        self.next_fetch().is_none_or(|at| now >= at)
    }

    /// When a read from the store is allowed again, where the reader has to wait.
    pub(crate) fn next_fetch(&self) -> Option<Instant> {
        self.fetch_after.max(self.look_after)
    }

    /// Passes the gap, the fetched page and the events of the tail to `items` until those are full. Returns whether the
    /// reader is behind: its position is older than the tail, so that only the store has the next events, or the tail may
    /// not be read yet.
    pub(crate) fn read(&mut self, now: Instant, tail: &Tail, items: &mut impl Items) -> bool {
        if self.cursor.epoch != tail.epoch() && self.gap.is_none() {
            let to = Cursor::new(tail.epoch(), tail.began());
            self.gap = Some(Box::new(gap(GapReason::Epoch, self.cursor, to)));
            self.page = None;
        }
        if let Some(gap) = self.gap.take() {
            self.cursor = gap.to;
            items.gap(*gap);
        }
        if let Some(page) = self.page.take() {
            self.read_page(*page, items);
        }
        if self.patterns.is_empty() {
            // There is no subscription, so no event is missed: the position is the log's end.
            if !self.awaiting_first_subscribe {
                self.cursor.position = self.cursor.position.max(tail.end());
            }
            return false;
        }
        if items.is_full() {
            return false;
        }
        if self.look_after.is_some_and(|at| now < at) && !self.is_caught_up(tail) {
            return true;
        }
        let read = tail.read(&self.patterns, self.cursor.position, &mut |event| {
            items.event(event);
            if items.is_full() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        match read {
            TailRead::Behind => true,
            TailRead::Through { position, unmatched_rows } => {
                self.cursor.position = position;
                self.unmatched_rows += unmatched_rows;
                false
            }
        }
    }

    fn read_page(&mut self, page: Page, items: &mut impl Items) {
        if let Some(Trimmed { to, patterns }) = page.trimmed {
            let to = Cursor::new(self.cursor.epoch, to);
            // With a subscription to everything, every event in between was missed; else only the store could count the
            // missed ones.
            let missed = self.patterns.has_everything().then(|| to.position.0.saturating_sub(self.cursor.position.0));
            items.gap(Gap { patterns, missed, ..gap(GapReason::Expired, self.cursor, to) });
            self.cursor = to;
        }
        for event in &page.events {
            items.event(event);
        }
        self.cursor.position = self.cursor.position.max(page.through);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cursor::Position;
    use crate::event::{Data, NewEvent};
    use crate::log::FeedBatch;
    use crate::tail::TailLimits;

    /// What was found, with room for `room` events.
    struct Found {
        events_max: usize,
        events: Vec<u64>,
        gaps: Vec<Gap>,
    }

    impl Found {
        fn of(events_max: usize) -> Self {
            Self { events_max, events: Vec::new(), gaps: Vec::new() }
        }
    }

    impl Items for Found {
        fn gap(&mut self, gap: Gap) {
            self.gaps.push(gap);
        }

        fn event(&mut self, event: &Arc<Event>) {
            self.events.push(event.position().0);
        }

        fn is_full(&self) -> bool {
            self.events.len() >= self.events_max
        }
    }

    fn bounds() -> Bounds {
        let zero = Position::ZERO;
        Bounds { epoch: "e".parse().unwrap(), began: zero, floor: zero, last: zero }
    }

    /// A tail with the events after `after` of a log of `end`, all on topic `t`.
    fn tail(after: u64, end: u64) -> Tail {
        let mut tail = Tail::new(bounds(), Position(after), TailLimits::default());
        tail.push(&FeedBatch {
            epoch: bounds().epoch,
            after: Position(after),
            events: events(after, end),
            floor: Position::ZERO,
        });
        tail
    }

    fn events(after: u64, end: u64) -> Vec<Arc<Event>> {
        let draft = NewEvent::new("t".parse().unwrap(), Data::text("x")).draft(0);
        (after + 1..=end).map(|position| Arc::new(draft.clone().at(bounds().epoch, Position(position)))).collect()
    }

    fn reader(pattern: &str, position: u64) -> Reader {
        let patterns = PatternSet::new([pattern.parse().unwrap()]).unwrap();
        Reader::new(patterns, StartPoint::at(Cursor::new(bounds().epoch, Position(position))))
    }

    #[test]
    fn stops_behind_the_item_that_fills_and_goes_on_there() {
        let (mut reader, tail, now) = (reader("t", 1), tail(0, 5), Instant::now());
        for expected in [vec![2, 3], vec![4, 5], vec![]] {
            let mut found = Found::of(2);
            assert!(!reader.read(now, &tail, &mut found));
            assert_eq!(found.events, expected);
        }
        assert!(reader.is_caught_up(&tail));
    }

    #[test]
    fn a_page_comes_before_the_tail_and_its_gap_before_its_events() {
        let (mut reader, tail, now) = (reader(">", 1), tail(6, 8), Instant::now());
        let mut found = Found::of(100);
        assert!(reader.read(now, &tail, &mut found) && reader.may_fetch(now));
        assert_eq!(reader.request(10, 1000).after, Position(1));
        let trimmed = Some(Trimmed { to: Position(4), patterns: vec![">".parse().unwrap()] });
        reader.fetched(now, Page { events: events(4, 6), through: Position(6), trimmed, ..Page::default() });
        assert!(!reader.read(now, &tail, &mut found));
        assert_eq!(found.events, [5, 6, 7, 8]);
        let gap = &found.gaps[0];
        assert_eq!((gap.from.position, gap.to.position, gap.missed), (Position(1), Position(4), Some(3)));
    }

    #[test]
    fn a_store_that_makes_no_progress_or_fails_is_read_again_later() {
        let (mut reader, tail, now) = (reader("t", 1), tail(6, 8), Instant::now());
        let empty = || Page { through: Position(1), ..Page::default() };
        for fail in [false, true] {
            if fail {
                reader.fetch_failed(now)
            } else {
                reader.fetched(now, empty())
            }
            assert!(reader.read(now, &tail, &mut Found::of(1)), "only the store has the next events");
            assert!(!reader.may_fetch(now));
            assert_eq!(reader.next_fetch(), Some(now + FETCH_RETRY));
            assert!(reader.may_fetch(now + FETCH_RETRY));
        }
        reader.fetched(now, Page { through: Position(2), ..Page::default() });
        assert!(reader.may_fetch(now), "the position moved");
    }

    #[test]
    fn another_log_is_a_gap_and_drops_what_was_fetched() {
        let (mut reader, mut tail, now) = (reader("t", 1), tail(6, 8), Instant::now());
        reader.fetched(now, Page { events: events(1, 2), through: Position(2), ..Page::default() });
        let (epoch, after, floor) = ("f".parse().unwrap(), Position(3), Position::ZERO);
        tail.push(&FeedBatch { epoch, after, events: Vec::new(), floor });
        let mut found = Found::of(1);
        assert!(!reader.read(now, &tail, &mut found));
        assert!(found.events.is_empty() && reader.is_caught_up(&tail));
        assert_eq!((found.gaps[0].reason, found.gaps[0].to), (GapReason::Epoch, Cursor::new(epoch, after)));
    }

    #[test]
    fn who_looks_in_vain_waits_and_is_charged() {
        let (mut reader, tail, now) = (reader("quiet.*", 0), tail(0, 5), Instant::now());
        let later = now + Duration::from_secs(1);
        reader.look_after(later);
        assert!(reader.read(now, &tail, &mut Found::of(1)) && !reader.may_fetch(now));
        assert_eq!(reader.take_unmatched_rows(), 0);
        assert!(!reader.read(later, &tail, &mut Found::of(1)) && reader.is_caught_up(&tail));
    }
}
