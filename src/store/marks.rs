//! Which topics have lost events: what makes gaps exact.

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;

use crate::cursor::Position;
use crate::topic::{Pattern, PatternSet, Topic};

/// Most topics that keep a mark of their own. Past it the lowest fold into one floor that counts for every topic.
pub(crate) const MARKS_MAX: usize = 1_000_000;

/// For each topic, the newest position that was trimmed from it.
#[derive(Debug)]
pub(crate) struct TrimMarks {
    by_topic: HashMap<Topic, Position>,
    /// The same marks by position, which no two topics share: a reader near the floor finds the few above it.
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

    /// Notes that the event at `position` of `topic` is gone.
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

    /// Everything up to `position` counts as trimmed, whatever its topic.
    pub(crate) fn fold_up_to(&mut self, position: Position) {
        self.folded = self.folded.max(position);
    }

    /// Where there are too many marks, folds the lowest tenth and returns their topics, which a store may then forget.
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

    /// The patterns of which something after `after` was trimmed; empty where there is no gap.
    pub(crate) fn lost(&self, patterns: &PatternSet, after: Position) -> Vec<Pattern> {
        let newest = self.by_position.last_key_value().map_or(self.folded, |(position, _)| self.folded.max(*position));
        if newest <= after {
            return Vec::new();
        }
        patterns.iter().filter(|pattern| self.lost_by(pattern, after)).cloned().collect()
    }

    fn lost_by(&self, pattern: &Pattern, after: Position) -> bool {
        if self.folded > after || pattern.is_everything() {
            return true;
        }
        match pattern.literal() {
            Some(topic) => self.by_topic.get(topic).is_some_and(|mark| *mark > after),
            None => {
                let mut above = self.by_position.range((Bound::Excluded(after), Bound::Unbounded));
                above.any(|(_, topic)| pattern.matches(topic.as_str()))
            }
        }
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
