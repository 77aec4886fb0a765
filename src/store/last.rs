//! The search for where the newest events that match begin. A pattern may match nothing in millions of events, so it goes in
//! bounded steps, between which others have their turn, and which can be paced.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use super::bisection::Bisection;
use crate::cursor::Position;
use crate::topic::{PatternSet, Topic};

/// A search for the newest events that match, from the log's end backwards, as far as it has come.
#[derive(Clone, Debug)]
pub struct LastSearch {
    patterns: PatternSet,
    count: usize,
    /// The newest that were found so far, at most `count`; the oldest of them is on top.
    found: BinaryHeap<Reverse<Position>>,
    pub(super) resume: Resume,
}

/// Where a search goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Resume {
    /// At the log's end.
    Begin,
    /// At a position, down from there; the log ended at the second one when the search began.
    Below(Position, Position),
    /// By halves.
    Bisection(Box<Bisection>),
    /// Topic by topic, in their order, after this one; from the first where it is `None`. The log ended at the position when the
    /// search began.
    Topics(Option<Topic>, Position),
}

/// How far one step has come.
#[derive(Clone, Debug)]
pub struct LastStep {
    /// Rows and topics that were looked at and did not match: the cost of the step, besides what it found.
    pub vain_rows: u64,
    /// What came of it.
    pub progress: LastProgress,
}

/// What came of a step.
#[derive(Clone, Debug)]
pub enum LastProgress {
    /// The position before the first of those that were wanted, or before the oldest where there are fewer; `None` where
    /// nothing matches.
    Found(Option<Position>),
    /// There is more to look at.
    Further(LastSearch),
}

impl LastSearch {
    /// A search for the newest `count` events, at least 1, that match.
    #[must_use]
    pub fn new(patterns: PatternSet, count: usize) -> Self {
        Self { patterns, count: count.max(1), found: BinaryHeap::new(), resume: Resume::Begin }
    }

    /// What it looks for.
    #[must_use]
    pub fn patterns(&self) -> &PatternSet {
        &self.patterns
    }

    /// How many are wanted.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// Takes a position that matches; says whether an older one could still be among the newest.
    pub(super) fn take(&mut self, position: Position) -> bool {
        self.found.push(Reverse(position));
        if self.found.len() > self.count {
            self.found.pop();
        }
        self.is_short()
    }

    /// Whether fewer were found than are wanted.
    pub(super) fn is_short(&self) -> bool {
        self.found.len() < self.count
    }

    /// Forgets what was found, to look for it in another way.
    pub(super) fn restart(&mut self, resume: Resume) {
        self.found.clear();
        self.resume = resume;
    }

    /// Below here nothing is wanted any more.
    pub(super) fn oldest_wanted(&self) -> Position {
        let oldest = self.found.peek().filter(|_| !self.is_short());
        oldest.map_or(Position::ZERO, |Reverse(oldest)| *oldest)
    }

    /// There is more to look at.
    pub(super) fn further(self) -> LastProgress {
        LastProgress::Further(self)
    }

    /// The outcome of a search that has looked at everything; what lies at or below the floor has been trimmed meanwhile.
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
        let LastProgress::Found(found) = search.clone().done(Position(0)) else { panic!("it is done") };
        assert_eq!(found, Some(Position(6)));
        let LastProgress::Found(found) = search.done(Position(9)) else { panic!("it is done") };
        assert_eq!(found, None, "all of it was trimmed");
    }
}
