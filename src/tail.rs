//! The tail: the newest events of the log in memory, indexed by topic, from which live subscribers read.
//!
//! Each worker has a tail of its own, filled by the store's feed, so that reading takes no lock. The events are
//! shared between workers; only the index is a worker's own.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::cursor::{Epoch, Position};
use crate::event::Event;
use crate::log::{Bounds, FeedBatch};
use crate::segment::{Extent, Segment};
use crate::topic::PatternSet;

/// How much a tail holds. Older events are read from the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TailLimits {
    /// Most events.
    pub events_max: usize,
    /// Most bytes, as [`crate::event::Draft::cost_bytes`] counts them. The newest event stays, however large.
    pub bytes_max: u64,
}

impl Default for TailLimits {
    fn default() -> Self {
        Self { events_max: 16_384, bytes_max: 16 << 20 }
    }
}

/// Most comparisons of a topic with a pattern in one read, where the patterns match too many topics to use the index: a
/// fraction of a millisecond, for which the worker's other clients wait.
const COMPARISONS_MAX: usize = 16_384;

/// Most events that one read examines.
const ROWS_MAX: usize = 4096;

/// The newest events of a log.
#[derive(Debug)]
pub struct Tail {
    epoch: Epoch,
    began: Position,
    /// Every event after this position, up to `end`, is in the segment.
    start: Position,
    end: Position,
    segment: Segment,
    limits: TailLimits,
}

/// The result of a read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TailRead {
    /// Every matching event up to a position was visited.
    Through {
        /// The position.
        position: Position,
        /// Events that were examined, and did not match.
        unmatched_rows: u64,
    },
    /// The position is older than the tail: read from the store instead.
    Behind,
}

impl Tail {
    /// An empty tail at the end of a log.
    #[must_use]
    pub fn new(bounds: Bounds, end: Position, limits: TailLimits) -> Self {
        Self { epoch: bounds.epoch, began: bounds.began, start: end, end, segment: Segment::default(), limits }
    }

    /// The log's identity.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// Where this epoch began.
    #[must_use]
    pub fn began(&self) -> Position {
        self.began
    }

    /// The newest position that has arrived in this tail.
    #[must_use]
    pub fn end(&self) -> Position {
        self.end
    }

    /// When the first event after `after` was published, in milliseconds since the Unix epoch, if the tail holds it.
    #[must_use]
    pub fn time_ms_after(&self, after: Position) -> Option<u64> {
        if after < self.start {
            return None;
        }
        self.segment.first_after(after).map(|event| event.time_ms())
    }

    /// A copy that shares the events, for a worker that starts later.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut segment = Segment::default();
        self.segment.events().for_each(|event| segment.push(event.clone()));
        Self { segment, ..*self }
    }

    /// Appends the log's next batch. A batch that does not continue the tail (one before it was lost, or it is of
    /// another log) empties the tail first, so that readers turn to the store; returns whether it did.
    pub fn push(&mut self, batch: &FeedBatch) -> bool {
        let end = batch.end();
        if batch.epoch == self.epoch && batch.after < self.end && end <= self.end {
            self.trim(batch.floor);
            return false;
        }
        let reset = batch.epoch != self.epoch || batch.after != self.end;
        if reset {
            if batch.epoch != self.epoch {
                self.epoch = batch.epoch;
                self.began = batch.after;
            }
            self.reset(batch.after);
        }
        for event in &batch.events {
            self.segment.push(event.clone());
        }
        self.end = end;
        self.trim(batch.floor);
        while self.segment.len() > self.limits.events_max
            || (self.segment.cost_bytes() > self.limits.bytes_max && self.segment.len() > 1)
        {
            self.drop_oldest();
        }
        reset
    }

    /// Empties the tail; the next batch continues after `end`.
    pub fn reset(&mut self, end: Position) {
        self.segment.clear();
        self.start = end;
        self.end = end;
    }

    /// Empties the tail for another log; its next batch continues after `end`.
    pub fn begin_anew(&mut self, bounds: &Bounds, end: Position) {
        self.epoch = bounds.epoch;
        self.began = bounds.began;
        self.reset(end);
    }

    /// Calls `visit` with the matching events after `after`, in order, until it breaks. A bounded number of events is
    /// examined, so a position short of [`Self::end`] means "read again", not "no match".
    pub fn read(
        &self,
        patterns: &PatternSet,
        after: Position,
        visit: &mut dyn FnMut(&Arc<Event>) -> ControlFlow<()>,
    ) -> TailRead {
        self.read_extent(patterns, Extent::all(after, self.end), visit)
    }

    /// As [`Self::read`], of an extent, which ends at or before [`Self::end`].
    pub(crate) fn read_extent(
        &self,
        patterns: &PatternSet,
        extent: Extent,
        visit: &mut dyn FnMut(&Arc<Event>) -> ControlFlow<()>,
    ) -> TailRead {
        if extent.after < self.start {
            return TailRead::Behind;
        }
        if extent.after >= extent.end {
            return TailRead::Through { position: extent.after, unmatched_rows: 0 };
        }
        let mut shown = 0;
        let read = self.segment.read(patterns, extent, rows_max(patterns) as u64, &mut |event| {
            shown += 1;
            visit(event)
        });
        TailRead::Through { position: read.through, unmatched_rows: read.rows.saturating_sub(shown) }
    }

    /// The position before the `count`-th newest matching event, if the tail holds that many and a bounded search finds them.
    #[must_use]
    pub fn before_last(&self, patterns: &PatternSet, count: usize) -> Option<Position> {
        let (position, found) = self.segment.before_last(patterns, count, self.end, rows_max(patterns))?;
        (found == count).then_some(position)
    }

    /// Drops what the store has trimmed, so that every subscriber gets the same gaps.
    fn trim(&mut self, floor: Position) {
        while self.segment.front().is_some_and(|event| event.position() <= floor) {
            self.drop_oldest();
        }
        // Where all events were trimmed, a reader behind the floor must still go to the store to learn of its gap.
        self.start = self.start.max(floor.min(self.end));
    }

    fn drop_oldest(&mut self) {
        if let Some(event) = self.segment.pop_front() {
            self.start = event.position();
        }
    }
}

fn rows_max(patterns: &PatternSet) -> usize {
    (COMPARISONS_MAX / patterns.len().max(1)).min(ROWS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, NewEvent};

    pub(super) fn bounds() -> Bounds {
        Bounds { epoch: "e".parse().unwrap(), began: Position(0), floor: Position(0), last: Position(0) }
    }

    fn batch(after: u64, count: u64, floor: u64) -> FeedBatch {
        let epoch = bounds().epoch;
        let event = |position| {
            let draft = NewEvent::new("t".parse().unwrap(), Data::text("x")).draft(position);
            Arc::new(draft.at(epoch, Position(position)))
        };
        let events = (after + 1..=after + count).map(event).collect();
        FeedBatch { epoch, after: Position(after), events, floor: Position(floor) }
    }

    fn read(tail: &Tail, after: u64) -> (TailRead, Vec<u64>) {
        let mut seen = Vec::new();
        let all = PatternSet::new([">".parse().unwrap()]).unwrap();
        let outcome = tail.read(&all, Position(after), &mut |event| {
            seen.push(event.position().0);
            ControlFlow::Continue(())
        });
        (outcome, seen)
    }

    #[test]
    fn keeps_the_newest_and_reports_a_reader_that_is_behind() {
        let mut tail = Tail::new(bounds(), Position(0), TailLimits { events_max: 3, bytes_max: 1 << 20 });
        assert!(!tail.push(&batch(0, 5, 0)));
        assert_eq!(read(&tail, 1), (TailRead::Behind, vec![]));
        assert_eq!(read(&tail, 2), (TailRead::Through { position: Position(5), unmatched_rows: 0 }, vec![3, 4, 5]));
        assert_eq!(read(&tail, 5), (TailRead::Through { position: Position(5), unmatched_rows: 0 }, vec![]));
        assert_eq!(tail.time_ms_after(Position(3)), Some(4));
        assert_eq!(tail.time_ms_after(Position(1)), None);
    }

    #[test]
    fn a_lost_batch_empties_it_and_a_repeated_one_changes_nothing() {
        let mut tail = Tail::new(bounds(), Position(0), TailLimits::default());
        tail.push(&batch(0, 2, 0));
        assert!(!tail.push(&batch(0, 2, 0)));
        assert_eq!(read(&tail, 0).1, [1, 2]);
        assert!(tail.push(&batch(4, 1, 0)));
        assert_eq!(read(&tail, 2).0, TailRead::Behind);
        assert_eq!(read(&tail, 4).1, [5]);
    }

    #[test]
    fn events_that_the_store_trimmed_are_dropped() {
        let mut tail = Tail::new(bounds(), Position(0), TailLimits::default());
        tail.push(&batch(0, 4, 0));
        tail.push(&batch(4, 0, 2));
        assert_eq!(read(&tail, 1).0, TailRead::Behind);
        assert_eq!(read(&tail, 2).1, [3, 4]);
        tail.push(&batch(4, 0, 4));
        assert_eq!(read(&tail, 3).0, TailRead::Behind);
        assert_eq!(read(&tail, 4).0, TailRead::Through { position: Position(4), unmatched_rows: 0 });
    }

    #[test]
    fn bytes_are_bounded_but_the_newest_event_stays() {
        let mut tail = Tail::new(bounds(), Position(0), TailLimits { events_max: 100, bytes_max: 1 });
        tail.push(&batch(0, 3, 0));
        assert_eq!(read(&tail, 2).1, [3]);
    }
}
