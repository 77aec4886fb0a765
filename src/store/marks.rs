//! Trim marks: which topics have lost events, so that gaps are exact.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use crate::cursor::Position;
use crate::topic::{Pattern, PatternSet, Topic};

/// The most topics with a mark of their own. Past it the lowest marks fold into one floor that applies to every topic.
pub(crate) const MARKS_MAX: usize = 1_000_000;

/// For each topic, the newest position that was trimmed from it.
#[derive(Debug)]
pub(crate) struct TrimMarks {
    by_topic: HashMap<Topic, Position>,
    /// The same marks by position, which is unique: a reader near the floor finds the few marks above it.
    by_position: BTreeMap<Position, Topic>,
    folded: Position,
    marks_max: usize,
}

impl Default for TrimMarks {
    fn default() -> Self {
        Self::with_max(MARKS_MAX)
    }
}

impl TrimMarks {
    pub(crate) fn with_max(marks_max: usize) -> Self {
        Self { by_topic: HashMap::new(), by_position: BTreeMap::new(), folded: Position::ZERO, marks_max }
    }

    /// Records that the event at `position` of `topic` was trimmed.
    pub(crate) fn set(&mut self, topic: &Topic, position: Position) {
        match self.by_topic.get_mut(topic) {
            Some(mark) if *mark >= position => return,
            Some(mark) => {
                self.by_position.remove(mark);
                *mark = position;
            }
            None => {
                self.by_topic.insert(topic.clone(), position);
            }
        }
        self.by_position.insert(position, topic.clone());
    }

    /// Every event up to `position` counts as trimmed, whatever its topic.
    pub(crate) fn fold_up_to(&mut self, position: Position) {
        self.folded = self.folded.max(position);
    }

    /// Where there are too many marks, folds the lowest tenth and returns their topics, which a store may then drop.
    pub(crate) fn fold(&mut self) -> Vec<Topic> {
        if self.by_topic.len() <= self.marks_max {
            return Vec::new();
        }
        let keep = self.marks_max - self.marks_max / 10;
        let mut forgotten = Vec::with_capacity(self.by_topic.len() - keep);
        while self.by_topic.len() > keep
            && let Some((position, topic)) = self.by_position.pop_first()
        {
            self.by_topic.remove(&topic);
            self.folded = position;
            forgotten.push(topic);
        }
        forgotten
    }

    /// The floor into which marks were folded.
    pub(crate) fn folded(&self) -> Position {
        self.folded
    }

    /// The patterns that lost events after `after`; empty where there is no gap.
    #[cfg(test)]
    pub(crate) fn lost(&self, patterns: &PatternSet, after: Position) -> Vec<Pattern> {
        let mut search = LostSearch::new(patterns, after);
        loop {
            if let Some(lost) = self.search(&mut search, usize::MAX) {
                return lost;
            }
        }
    }

    /// Continues a search, for about so many comparisons; `None` where it is not complete.
    ///
    /// Marks may be set between two calls: later trims have higher positions, so the search still reaches them. The
    /// result is exact as of the call that returns it.
    pub(crate) fn search(&self, search: &mut LostSearch<'_>, comparisons_max: usize) -> Option<Vec<Pattern>> {
        let newest = self.by_position.last_key_value().map_or(self.folded, |(position, _)| self.folded.max(*position));
        if newest <= search.after {
            return Some(Vec::new());
        }
        if self.folded > search.after {
            return Some(search.patterns.iter().cloned().collect());
        }
        let mut left = comparisons_max;
        let mut above = self.by_position.range((Bound::Excluded(search.walked), Bound::Unbounded));
        while !search.undecided.is_empty()
            && let Some((position, topic)) = above.next()
        {
            left = left.saturating_sub(search.undecided.len());
            search.undecided.retain(|pattern| !pattern.matches(topic.as_str()));
            search.walked = *position;
            search.rows += 1;
            if left == 0 {
                return None;
            }
        }
        let lost = search.patterns.iter().filter(|pattern| match pattern.literal() {
            Some(topic) => self.by_topic.get(topic).is_some_and(|mark| *mark > search.after),
            None => !search.undecided.contains(pattern),
        });
        Some(lost.cloned().collect())
    }
}

/// An interruptible search for lost events: a million marks take a while, and other callers wait for the marks' lock.
#[derive(Debug)]
pub(crate) struct LostSearch<'p> {
    patterns: &'p PatternSet,
    after: Position,
    /// Marks up to this position have been compared.
    walked: Position,
    /// Patterns with wildcards for which nothing was found so far.
    undecided: Vec<&'p Pattern>,
    /// Marks that have been compared: the cost of the search.
    pub(crate) rows: u64,
}

impl<'p> LostSearch<'p> {
    pub(crate) fn new(patterns: &'p PatternSet, after: Position) -> Self {
        let undecided = patterns.iter().filter(|pattern| pattern.literal().is_none()).collect();
        Self { patterns, after, walked: after, undecided, rows: 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(marks: &TrimMarks, pattern: &str, after: u64) -> bool {
        !marks.lost(&PatternSet::new([pattern.parse().unwrap()]).unwrap(), Position(after)).is_empty()
    }

    #[test]
    fn only_what_was_trimmed_after_the_position_is_lost() {
        let mut marks = TrimMarks::default();
        assert!(!lost(&marks, ">", 0));
        for (topic, position) in [("a.1", 3), ("b", 4), ("a.1", 7)] {
            marks.set(&topic.parse().unwrap(), Position(position));
        }
        for (pattern, after, expected) in [
            ("a.1", 6, true),
            ("a.1", 7, false),
            ("a.*", 3, true),
            ("a.*", 7, false),
            ("b", 3, true),
            ("b", 4, false),
            ("c", 0, false),
            ("c.>", 0, false),
            (">", 6, true),
            (">", 7, false),
        ] {
            assert_eq!(lost(&marks, pattern, after), expected, "{pattern} after {after}");
        }
    }

    #[test]
    fn a_search_in_slices_finds_what_is_trimmed_meanwhile() {
        let mut marks = TrimMarks::default();
        for position in 1..=100 {
            marks.set(&format!("t.{position}").parse().unwrap(), Position(position));
        }
        let patterns = PatternSet::new(["*.50", "*.7", "u.*", "v.*", "t.9"].map(|text| text.parse().unwrap())).unwrap();
        let mut search = LostSearch::new(&patterns, Position(9));
        assert_eq!(marks.search(&mut search, 10), None);
        // A topic whose earlier mark was below the start, one whose mark was passed already, and a new one.
        for (position, topic) in [(101, "t.7"), (102, "t.11"), (103, "u.1")] {
            marks.set(&topic.parse().unwrap(), Position(position));
        }
        let mut slices = 1;
        let lost = loop {
            slices += 1;
            if let Some(lost) = marks.search(&mut search, 10) {
                break lost;
            }
        };
        assert_eq!(lost.iter().map(Pattern::as_str).collect::<Vec<_>>(), ["*.50", "*.7", "u.*"]);
        assert_eq!(lost, marks.lost(&patterns, Position(9)));
        assert!(slices > 10);
    }

    #[test]
    fn past_the_limit_the_lowest_marks_become_one_floor() {
        let mut marks = TrimMarks::with_max(10);
        for position in 1..=11 {
            marks.set(&format!("t.{position}").parse().unwrap(), Position(position));
        }
        assert_eq!(marks.fold().len(), 2);
        assert_eq!(marks.folded(), Position(2));
        assert!(lost(&marks, "never.there", 1));
        assert!(!lost(&marks, "never.there", 2));
        assert!(lost(&marks, "t.11", 10));
    }
}
