//! The search for the position at which the newest matching events begin. A pattern may match nothing in millions of events, so
//! the search goes in bounded steps, between which other readers are served, and which can be paced.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::bisection::Bisection;
use crate::cursor::Position;
use crate::topic::{PatternSet, Topic};

/// A search for the newest matching events, from the log's end backwards, with its state.
#[derive(Clone, Debug)]
pub struct LastSearch {
    patterns: PatternSet,
    count: usize,
    /// Events after this position are left out.
    upto: Option<Position>,
    /// The newest positions found so far, at most `count`; the oldest of them is on top.
    found: BinaryHeap<Reverse<Position>>,
    pub(super) resume: Resume,
}

/// Where a search continues.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// At the log's end.
    Begin,
    /// Below the first position; the second one was the log's end when the search began.
    Below(Position, Position),
    /// By bisection.
    Bisection(Box<Bisection>),
    /// Topic by topic, in order, after this one; from the first where it is `None`. The position was the log's end when the
    /// search began.
    Topics(Option<Topic>, Position),
}

/// The result of one step.
#[derive(Clone, Debug)]
pub struct LastStep {
    /// Rows and topics that were compared and did not match: the cost of the step besides its results.
    pub unmatched_rows: u64,
    /// The outcome.
    pub progress: LastProgress,
}

/// The outcome of a step.
#[derive(Clone, Debug)]
pub enum LastProgress {
    /// The position before the first wanted event, or before the oldest match where there are fewer; `None` where nothing
    /// matches.
    Found(Option<Position>),
    /// The search is not complete.
    Further(LastSearch),
}

impl LastSearch {
    /// A search for the newest `count` matching events; at least 1.
    #[must_use]
    pub fn new(patterns: PatternSet, count: usize) -> Self {
        Self { patterns, count: count.max(1), upto: None, found: BinaryHeap::new(), resume: Resume::Begin }
    }

    /// Leaves out events after a position.
    #[must_use]
    pub fn up_to(self, upto: Position) -> Self {
        Self { upto: Some(upto), ..self }
    }

    /// The newest position to search, in a log that ends at `last`.
    pub(super) fn end(&self, last: Position) -> Position {
        self.upto.map_or(last, |upto| upto.min(last))
    }

    /// The patterns to match.
    #[must_use]
    pub fn patterns(&self) -> &PatternSet {
        &self.patterns
    }

    /// The number of wanted events.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes a matching position; returns whether an older one could still be among the newest.
    pub(super) fn take(&mut self, position: Position) -> bool {
        self.found.push(Reverse(position));
        if self.found.len() > self.count {
            self.found.pop();
        }
        self.is_short()
    }

    /// Whether fewer events were found than are wanted.
    pub(super) fn is_short(&self) -> bool {
        self.found.len() < self.count
    }

    /// Discards what was found, to search in another way.
    pub(super) fn restart(&mut self, resume: Resume) {
        self.found.clear();
        self.resume = resume;
    }

    /// Positions below this one are not wanted any more.
    pub(super) fn oldest_wanted(&self) -> Position {
        let oldest = self.found.peek().filter(|_| !self.is_short());
        oldest.map_or(Position::ZERO, |Reverse(oldest)| *oldest)
    }

    /// The outcome of an incomplete search.
    pub(super) fn further(self) -> LastProgress {
        LastProgress::Further(self)
    }

    /// The outcome of a complete search; positions at or below the floor have been trimmed meanwhile.
    pub(super) fn done(self, floor: Position) -> LastProgress {
        let first = self.found.into_iter().map(|Reverse(at)| at).filter(|at| *at > floor).min();
        LastProgress::Found(first.map(Position::before))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_are_kept_in_whatever_order_they_come() {
        let mut search = LastSearch::new(PatternSet::everything(), 2);
        assert!(search.take(Position(5)));
        assert!(!search.take(Position(9)));
        assert!(!search.take(Position(3)));
        assert!(!search.take(Position(7)));
        assert_eq!(search.oldest_wanted(), Position(7));
        let LastProgress::Found(found) = search.clone().done(Position(0)) else { panic!("the search is done") };
        assert_eq!(found, Some(Position(6)));
        let LastProgress::Found(found) = search.done(Position(9)) else { panic!("the search is done") };
        assert_eq!(found, None, "all of it was trimmed");
    }
}
