//! Reads the log from a position: merges the tail, the pages of the store and the pending events of a subscriber into one
//! ordered sequence of events and gaps, each event once. Deliveries over HTTP ([`crate::delivery`]) and in-process
//! subscriptions share this code.
//!
//! Sans I/O: the time is an argument, a read from the store is a request that the caller carries out, and the results go to
//! the caller's [`Items`]. A reader holds a position and, for a moment, one page; never a queue.

mod beginnings;
mod rounds;

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cursor::{Cursor, Position};
use crate::event::Event;
use crate::log::{Bounds, Page, ReadMode, ReadRequest, Trimmed};
use crate::segment::Extent;
use crate::subscription_index::Pending;
use crate::tail::{Tail, TailRead};
use crate::topic::PatternSet;
use crate::wire::{Gap, GapReason};
use beginnings::Beginnings;
use rounds::Rounds;

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
    /// Whether the subscription begins here, and does not resume at a client's position: then no gap reports what was removed before.
    pub is_beginning: bool,
}

impl StartPoint {
    /// At a cursor of this log.
    #[must_use]
    pub fn at(cursor: Cursor) -> Self {
        Self { cursor, gap: None, is_beginning: false }
    }

    /// At a place that was found for a client that has received nothing yet.
    #[must_use]
    pub fn beginning_at(cursor: Cursor) -> Self {
        Self { is_beginning: true, ..Self::at(cursor) }
    }

    /// At a client's cursor, after a gap where there is one.
    #[must_use]
    pub fn after(cursor: Cursor, gap: Option<Gap>) -> Self {
        Self { gap, ..Self::at(cursor) }
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

    /// Every event was passed that was in the log at a beginning; `cursor` is the log's end at that moment, and `reference` the
    /// beginning's `ref`, as JSON.
    fn live(&mut self, cursor: Cursor, reference: Option<Box<str>>);

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
    /// Where the reader skips superseded events, or pauses. Boxed, since most readers do neither.
    rounds: Option<Box<Rounds>>,
    beginnings: Beginnings,
    /// The subscription began here, and did not resume at a client's position.
    is_beginning: bool,
    /// The log's end when the subscription began: gaps that end at or before this position are not reported.
    no_gap_through: Position,
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
            is_beginning: start.is_beginning,
            no_gap_through: Position::ZERO,
            gap: start.gap.map(Box::new),
            page: None,
            rounds: None,
            beginnings: Beginnings::default(),
            awaiting_first_subscribe: false,
            fetch_after: None,
            look_after: None,
            unmatched_rows: 0,
        }
    }

    /// Reads in rounds, the first of which ends at `upto` where that is ahead; else it begins with the first read.
    pub(crate) fn read_in_rounds(&mut self, mode: ReadMode, upto: Option<Position>) {
        let in_rounds = mode != ReadMode::default();
        self.rounds = in_rounds.then(|| Box::new(Rounds::new(mode, upto.unwrap_or_default())));
    }

    /// Begins: once every event is delivered that is in the log now, [`Items::live`] is called. Returns whether there is nothing
    /// to deliver before that; then it is not called. Without patterns nothing begins.
    pub(crate) fn begin(&mut self, tail: &Tail) -> bool {
        self.note_beginning(tail);
        let is_live = self.gap.is_none() && self.cursor.epoch == tail.epoch() && self.cursor.position >= tail.end();
        if !is_live {
            self.begin_again(tail, None);
        }
        is_live && !self.patterns.is_empty()
    }

    /// As [`Self::begin`], with the `ref` of the message that asked for it; [`Items::live`] is called in any case.
    pub(crate) fn begin_again(&mut self, tail: &Tail, reference: Option<Box<str>>) {
        self.note_beginning(tail);
        if !self.patterns.is_empty() {
            self.beginnings.push(tail.end(), reference);
        }
    }

    fn note_beginning(&mut self, tail: &Tail) {
        if std::mem::take(&mut self.is_beginning) {
            self.no_gap_through = tail.end();
        }
    }

    /// Whether every event was delivered that was in the log at the last beginning.
    pub(crate) fn is_live(&self) -> bool {
        self.beginnings.is_empty()
    }

    /// The end of the round of newest events that is under way.
    pub(crate) fn upto(&self) -> Option<Cursor> {
        let end = self.round_end().filter(|end| *end > self.cursor.position)?;
        Some(Cursor::new(self.cursor.epoch, end))
    }

    /// The end of the present or the last round of newest events, where the reader skips superseded ones.
    pub(crate) fn round_end(&self) -> Option<Position> {
        self.rounds.as_ref().filter(|rounds| rounds.latest()).map(|rounds| rounds.last_end())
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
        if self.patterns.is_empty() {
            self.beginnings.clear();
        }
        self.awaiting_first_subscribe = false;
        self.page = None;
    }

    /// Moves to another position, after a gap where there is one.
    pub(crate) fn seek(&mut self, start: StartPoint) {
        self.cursor = start.resumes_at();
        (self.is_beginning, self.no_gap_through) = (start.is_beginning, Position::ZERO);
        self.gap = start.gap.map(Box::new);
        self.page = None;
        self.restart_rounds();
    }

    fn restart_rounds(&mut self) {
        if let Some(rounds) = &mut self.rounds {
            rounds.restart();
        }
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
            latest_upto: self.round_end(),
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

    /// When events may be read again, where the reader has to wait.
    pub(crate) fn next_fetch(&self) -> Option<Instant> {
        let next_round = self.rounds.as_ref().and_then(|rounds| rounds.next(self.cursor.position));
        self.fetch_after.max(self.look_after).max(next_round)
    }

    /// Passes the gap, the fetched page and the events of the tail to `items` until those are full, or a round ends. Returns
    /// whether the reader is behind: its position is older than the tail, so that only the store has the next events, or the
    /// tail may not be read yet.
    pub(crate) fn read(&mut self, now: Instant, tail: &Tail, items: &mut impl Items) -> bool {
        let behind = self.read_events(now, tail, items);
        self.tell_live(self.cursor.position, items);
        behind
    }

    fn read_events(&mut self, now: Instant, tail: &Tail, items: &mut impl Items) -> bool {
        if self.cursor.epoch != tail.epoch() && self.gap.is_none() {
            let to = Cursor::new(tail.epoch(), tail.began());
            self.gap = Some(Box::new(gap(GapReason::Epoch, self.cursor, to)));
            self.page = None;
            self.no_gap_through = Position::ZERO;
            self.restart_rounds();
            self.beginnings.clear();
            self.begin_again(tail, None);
        }
        if let Some(gap) = self.gap.take() {
            self.cursor = gap.to;
            items.gap(*gap);
        }
        if let Some(page) = self.page.take() {
            self.read_page(now, *page, items);
            if self.rounds.as_ref().is_some_and(|rounds| rounds.unreached(self.cursor.position).is_none()) {
                // One read is of one round: a batch is encoded again by its round's end.
                return false;
            }
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
        self.read_tail(now, tail, items)
    }

    fn read_tail(&mut self, now: Instant, tail: &Tail, items: &mut impl Items) -> bool {
        let Self { patterns, cursor, rounds, beginnings, .. } = self;
        let after = cursor.position;
        let extent = match rounds {
            None => Extent::all(after, tail.end()),
            Some(rounds) => match rounds.end(now, after, tail.end()) {
                Some(end) => Extent { after, end, latest: rounds.latest() },
                None => return after < tail.end(),
            },
        };
        let read = tail.read_extent(patterns, extent, &mut |event| {
            tell_live(beginnings, *cursor, event.position().before(), items);
            items.event(event);
            if let Some(rounds) = rounds {
                rounds.delivered(now);
            }
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

    fn read_page(&mut self, now: Instant, page: Page, items: &mut impl Items) {
        if let Some(Trimmed { to, patterns, reason, is_whole }) = page.trimmed {
            let to = Cursor::new(self.cursor.epoch, to);
            // With a subscription to everything, every event in between was missed; else only the store could count the
            // missed ones.
            let counts = is_whole && self.patterns.has_everything();
            let missed = counts.then(|| to.position.0.saturating_sub(self.cursor.position.0));
            if to.position > self.no_gap_through {
                items.gap(Gap { patterns, missed, ..gap(reason, self.cursor, to) });
            }
            self.cursor = to;
        }
        for event in &page.events {
            self.tell_live(event.position().before(), items);
            items.event(event);
        }
        if let Some(rounds) = self.rounds.as_mut().filter(|_| !page.events.is_empty()) {
            rounds.delivered(now);
        }
        self.cursor.position = self.cursor.position.max(page.through);
    }

    /// Passes the beginnings whose past is over at a position that is reached.
    fn tell_live(&mut self, reached: Position, items: &mut impl Items) {
        tell_live(&mut self.beginnings, self.cursor, reached, items);
    }
}

/// As [`Reader::tell_live`], for a reader whose last gap or read ended at `cursor`: the items' cursors do not go back.
fn tell_live(beginnings: &mut Beginnings, cursor: Cursor, reached: Position, items: &mut impl Items) {
    while let Some((end, reference)) = beginnings.pop_reached(reached) {
        items.live(Cursor::new(cursor.epoch, end.max(cursor.position)), reference);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, NewEvent};
    use crate::log::FeedBatch;
    use crate::tail::TailLimits;

    /// What was found, with room for `room` events.
    struct Found {
        events_max: usize,
        events: Vec<u64>,
        gaps: Vec<Gap>,
        live: Vec<(u64, Option<Box<str>>)>,
    }

    impl Found {
        fn of(events_max: usize) -> Self {
            Self { events_max, events: Vec::new(), gaps: Vec::new(), live: Vec::new() }
        }
    }

    impl Items for Found {
        fn gap(&mut self, gap: Gap) {
            self.gaps.push(gap);
        }

        fn event(&mut self, event: &Arc<Event>) {
            self.events.push(event.position().0);
        }

        fn live(&mut self, cursor: Cursor, reference: Option<Box<str>>) {
            self.live.push((cursor.position.0, reference));
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

    fn trimmed_to(to: u64) -> Trimmed {
        let patterns = vec![">".parse().unwrap()];
        Trimmed { to: Position(to), patterns, reason: GapReason::Expired, is_whole: true }
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
        let trimmed = Some(trimmed_to(4));
        reader.fetched(now, Page { events: events(4, 6), through: Position(6), trimmed, ..Page::default() });
        assert!(!reader.read(now, &tail, &mut found));
        assert_eq!(found.events, [5, 6, 7, 8]);
        let gap = &found.gaps[0];
        assert_eq!((gap.from.position, gap.to.position, gap.missed), (Position(1), Position(4), Some(3)));
    }

    #[test]
    fn a_beginning_is_told_of_nothing_that_was_removed_before() {
        let (tail, now) = (tail(6, 8), Instant::now());
        for (is_beginning, to, told) in [(true, 4, 0), (true, 8, 0), (true, 9, 1), (false, 4, 1)] {
            let start = StartPoint { is_beginning, ..StartPoint::at(Cursor::new(bounds().epoch, Position(1))) };
            let mut reader = Reader::new(PatternSet::everything(), start);
            reader.begin(&tail);
            reader.fetched(now, Page { through: Position(to), trimmed: Some(trimmed_to(to)), ..Page::default() });
            let mut found = Found::of(100);
            reader.read(now, &tail, &mut found);
            assert_eq!(found.gaps.len(), told, "{to}");
            assert!(reader.cursor().position >= Position(to));
        }
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

    /// A reader of the events 1 to 9, which alternate between the topics `t.0`, `t.1` and `t.2`, and its tail.
    fn in_rounds(mode: ReadMode, upto: Option<u64>) -> (Reader, Tail) {
        let mut reader = reader("t.*", 0);
        reader.read_in_rounds(mode, upto.map(Position));
        let mut tail = Tail::new(bounds(), Position::ZERO, TailLimits::default());
        push(&mut tail, 1..=9);
        (reader, tail)
    }

    fn push(tail: &mut Tail, positions: std::ops::RangeInclusive<u64>) {
        let after = Position(positions.start() - 1);
        let event = |position: u64| {
            let draft = NewEvent::new(format!("t.{}", position % 3).parse().unwrap(), Data::text("x")).draft(0);
            Arc::new(draft.at(bounds().epoch, Position(position)))
        };
        tail.push(&FeedBatch {
            epoch: bounds().epoch,
            after,
            events: positions.map(event).collect(),
            floor: Position::ZERO,
        });
    }

    fn read(reader: &mut Reader, now: Instant, tail: &Tail, events_max: usize) -> (bool, Vec<u64>) {
        let mut found = Found::of(events_max);
        let behind = reader.read(now, tail, &mut found);
        (behind, found.events)
    }

    #[test]
    fn a_round_brings_the_newest_of_each_topic_as_of_its_end() {
        let latest = ReadMode { latest: true, pace_ms: 0 };
        let ((mut reader, mut tail), now) = (in_rounds(latest, None), Instant::now());
        assert_eq!(read(&mut reader, now, &tail, 1).1, [7]);
        assert_eq!(reader.upto().map(|upto| upto.position), Some(Position(9)));
        // The log goes on; the round's end stays.
        push(&mut tail, 10..=20);
        assert_eq!(read(&mut reader, now, &tail, 100).1, [8, 9]);
        assert_eq!((reader.upto(), reader.round_end()), (None, Some(Position(9))));
        assert_eq!(read(&mut reader, now, &tail, 100).1, [18, 19, 20]);
        assert_eq!(read(&mut reader, now, &tail, 100).1, [0; 0]);
        assert!(reader.is_caught_up(&tail));
    }

    #[test]
    fn a_round_that_was_begun_elsewhere_is_ended_first() {
        let latest = ReadMode { latest: true, pace_ms: 0 };
        let ((mut reader, tail), now) = (in_rounds(latest, Some(4)), Instant::now());
        assert_eq!(read(&mut reader, now, &tail, 100).1, [2, 3, 4]);
        assert_eq!(read(&mut reader, now, &tail, 100).1, [7, 8, 9]);
        // From the store, too: the page and what follows it are of different rounds.
        let ((mut reader, _), tail) = (in_rounds(latest, Some(4)), tail_after(5));
        assert!(read(&mut reader, now, &tail, 100).0);
        assert_eq!(reader.request(10, 1000).latest_upto, Some(Position(4)));
        reader.fetched(now, Page { through: Position(4), ..Page::default() });
        assert_eq!(read(&mut reader, now, &tail, 100), (false, vec![]));
        assert!(read(&mut reader, now, &tail, 100).0);
        assert_eq!(reader.request(10, 1000).latest_upto, Some(Position(9)));
    }

    fn tail_after(after: u64) -> Tail {
        let mut tail = Tail::new(bounds(), Position(after), TailLimits::default());
        push(&mut tail, after + 1..=9);
        tail
    }

    #[test]
    fn the_pace_is_counted_from_the_first_event_of_a_run() {
        for latest in [false, true] {
            let ((mut reader, mut tail), start) = (in_rounds(ReadMode { latest, pace_ms: 1000 }, None), Instant::now());
            let at = |ms| start + Duration::from_millis(ms);
            let first = read(&mut reader, at(0), &tail, 1).1;
            assert_eq!(first, [if latest { 7 } else { 1 }]);
            // The run goes on, over as many writes as it takes.
            let rest = read(&mut reader, at(300), &tail, 100).1;
            assert_eq!(rest, if latest { vec![8, 9] } else { (2..=9).collect() });
            push(&mut tail, 10..=12);
            assert_eq!(read(&mut reader, at(999), &tail, 100), (true, vec![]));
            assert_eq!((reader.next_fetch(), reader.may_fetch(at(999))), (Some(at(1000)), false));
            assert_eq!(read(&mut reader, at(1000), &tail, 100), (false, vec![10, 11, 12]));
            // A reader that is caught up does not wait for the pace.
            assert_eq!(read(&mut reader, at(1001), &tail, 100), (false, vec![]));
            // Another log's gap is not paced, and its events are a run of their own.
            let epoch = "f".parse().unwrap();
            tail.push(&FeedBatch { epoch, after: Position(3), events: Vec::new(), floor: Position::ZERO });
            let mut found = Found::of(9);
            reader.read(at(1002), &tail, &mut found);
            assert_eq!(found.gaps.len(), 1);
        }
    }

    #[test]
    fn the_past_is_over_once_for_each_beginning() {
        let (mut reader, tail, now) = (reader("t", 1), tail(0, 5), Instant::now());
        assert!(!reader.begin(&tail) && !reader.is_live());
        reader.begin_again(&tail, Some("7".into()));
        let mut found = Found::of(2);
        reader.read(now, &tail, &mut found);
        assert_eq!((found.events.as_slice(), found.live.len()), (&[2, 3][..], 0));
        let mut found = Found::of(100);
        reader.read(now, &tail, &mut found);
        assert_eq!((found.events, found.live), (vec![4, 5], vec![(5, None), (5, Some("7".into()))]));
        assert!(reader.is_live() && reader.begin(&tail), "nothing lies behind");
        // With newer events in the same read, it comes before them; after a gap, behind that.
        for (trimmed, live) in [(None, 5), (Some(trimmed_to(6)), 6)] {
            let mut reader = self::reader("t", 1);
            reader.begin(&tail);
            reader.fetched(now, Page { events: events(6, 8), through: Position(8), trimmed, ..Page::default() });
            let mut found = Found::of(100);
            reader.read(now, &self::tail(8, 9), &mut found);
            assert_eq!((found.events, found.live), (vec![7, 8, 9], vec![(live, None)]));
        }
    }

    #[test]
    fn without_a_pattern_nothing_begins_or_ends() {
        let (tail, now) = (tail(0, 5), Instant::now());
        let mut reader = Reader::new(PatternSet::default(), StartPoint::at(Cursor::new(bounds().epoch, Position(1))));
        assert!(!reader.begin(&tail));
        reader.set_patterns(PatternSet::everything());
        reader.begin_again(&tail, None);
        reader.set_patterns(PatternSet::default());
        let mut found = Found::of(100);
        reader.read(now, &tail, &mut found);
        assert!(found.live.is_empty() && reader.is_live());
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
