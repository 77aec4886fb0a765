//! Marks of removed events: which topics have lost events, so that gaps are exact.

use std::collections::{BTreeMap, HashMap, btree_map};
use std::ops::Bound;

use crate::cursor::Position;
use crate::topic::Topic;

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

    /// The position up to which marks were folded: below it, an event of any topic may have been removed.
    pub(crate) fn folded(&self) -> Position {
        self.folded
    }

    /// The newest mark.
    pub(crate) fn newest(&self) -> Position {
        self.by_position.last_key_value().map_or(self.folded, |(position, _)| self.folded.max(*position))
    }

    /// The marks after a position, in log order.
    pub(crate) fn after(&self, position: Position) -> btree_map::Range<'_, Position, Topic> {
        self.by_position.range((Bound::Excluded(position), Bound::Unbounded))
    }

    /// The mark of a topic.
    pub(crate) fn of(&self, topic: &str) -> Option<(&Topic, Position)> {
        self.by_topic.get_key_value(topic).map(|(topic, mark)| (topic, *mark))
    }

    /// The number of topics with a mark.
    pub(crate) fn len(&self) -> usize {
        self.by_topic.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(max: usize, marks: &[(&str, u64)]) -> TrimMarks {
        let mut all = TrimMarks::with_max(max);
        for (topic, position) in marks {
            all.set(&topic.parse().unwrap(), Position(*position));
        }
        all
    }

    #[test]
    fn each_topic_has_the_mark_of_its_newest_removed_event() {
        let marks = marks(10, &[("a.1", 3), ("b", 4), ("a.1", 7), ("b", 2)]);
        let after =
            |position| marks.after(Position(position)).map(|(at, topic)| (at.0, topic.as_str())).collect::<Vec<_>>();
        assert_eq!((after(0), after(4)), (vec![(4, "b"), (7, "a.1")], vec![(7, "a.1")]));
        assert_eq!((marks.newest(), marks.len()), (Position(7), 2));
        assert_eq!(marks.of("b").map(|(_, at)| at), Some(Position(4)));
        assert_eq!(marks.of("c"), None);
    }

    #[test]
    fn past_the_limit_the_lowest_marks_become_one_floor() {
        let topics: Vec<String> = (1..=11).map(|position| format!("t.{position}")).collect();
        let mut marks = marks(10, &topics.iter().map(String::as_str).zip(1..).collect::<Vec<_>>());
        assert_eq!(marks.fold().len(), 2);
        assert_eq!((marks.folded(), marks.len()), (Position(2), 9));
        assert_eq!((marks.of("t.2"), marks.newest()), (None, Position(11)));
        assert!(marks.fold().is_empty());
    }
}
