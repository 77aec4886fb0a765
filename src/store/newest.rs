//! An index of each topic's newest event, in log order: a read of the newest events walks it instead of the log, so that a
//! snapshot costs the number of topics, however long the log behind it is.
//!
//! A round ends at a position that stays while the log grows ([`ReadRequest::latest_upto`](crate::log::ReadRequest)). So an
//! event that has been superseded since stays in the index for a while. The alternative, to look up each such topic's event
//! before the round's end, would repeat these look-ups for every page, since their order is not known before.
//!
//! Kept in memory by every engine. The disk store fills it for the first read that needs it, a node on JetStream at its start.

mod entries;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::ops::Bound;

use entries::{Entries, Entry};

use crate::cursor::Position;
use crate::topic::{PatternSet, Topic};

/// Superseded events in the index, about 100 bytes each, where there are fewer topics; else there are at most as many as topics,
/// so that a walk compares at most twice as many entries as it finds. A round during which more events were superseded scans
/// the log for its rest.
const SUPERSEDED_MIN: usize = 1024;

/// The newest events of a log, and those that were the newest a short while ago.
#[derive(Debug)]
pub(crate) struct NewestIndex {
    by_topic: HashMap<Topic, Position>,
    /// The events that were there when the index was made.
    earlier: BTreeMap<Position, Entry>,
    /// The events since.
    later: Entries,
    /// The log's end when the index was made.
    made_at: Position,
    /// The positions of superseded events, in the order in which they were superseded. Trimmed events may be among them.
    superseded: VecDeque<Position>,
    superseded_min: usize,
    /// The index is exact for rounds that end at this position or later.
    exact_from: Position,
    /// Every event up to this position has been trimmed.
    floor: Position,
    /// While the index is filled; `None` once every topic with an event is in it.
    filling: Option<Filling>,
}

/// What is known of the topics that are still to be added.
#[derive(Debug)]
struct Filling {
    /// The number of topics when the index was made, about: superseded events are limited as if all of them were in the index.
    topics: usize,
    /// The topics that have had an event since, and were not added yet, each with the first of these events.
    continued: HashMap<Topic, Position>,
}

/// The next newest events of a round.
#[derive(Debug, PartialEq)]
pub(crate) struct Walk {
    /// The newest events that match, in log order.
    pub(crate) found: Vec<(Position, Topic)>,
    /// No other newest event that matches lies at or before this position.
    pub(crate) through: Position,
    /// Entries that were compared with the patterns.
    pub(crate) rows: u64,
}

/// The range of a walk, and its limits.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WalkRange {
    /// The start, exclusive.
    pub(crate) after: Position,
    /// The round's end.
    pub(crate) upto: Position,
    /// The most events to find.
    pub(crate) events_max: usize,
    /// The most entries to compare.
    pub(crate) rows_max: u64,
}

impl NewestIndex {
    /// The index of an empty log.
    pub(crate) fn empty() -> Self {
        Self {
            by_topic: HashMap::new(),
            earlier: BTreeMap::new(),
            later: Entries::default(),
            made_at: Position::ZERO,
            superseded: VecDeque::new(),
            superseded_min: SUPERSEDED_MIN,
            exact_from: Position::ZERO,
            floor: Position::ZERO,
            filling: None,
        }
    }

    /// The index of a log that ends at `end` now, with about so many topics. They are added with [`Self::fill`], in any order,
    /// until [`Self::filled`]; later events are added meanwhile. Until then [`Self::walk`] finds nothing.
    pub(crate) fn unfilled(end: Position, topics: usize) -> Self {
        let filling = (end > Position::ZERO).then(|| Filling { topics, continued: HashMap::new() });
        Self { exact_from: end, made_at: end, filling, ..Self::empty() }
    }

    /// Whether every topic with an event is in the index.
    pub(crate) fn is_filled(&self) -> bool {
        self.filling.is_none()
    }

    /// The end of the log that the index was made for; events up to there are added with [`Self::fill`].
    pub(crate) fn made_at(&self) -> Position {
        self.made_at
    }

    /// Adds a topic of the log that the index was made for, with its newest event in that log. An engine that knows only a later event
    /// gives that: the index is exact from there on.
    pub(crate) fn fill(&mut self, topic: &Topic, newest: Position) {
        let Some(filling) = self.filling.as_mut().filter(|_| newest > self.floor) else { return };
        if newest > self.made_at {
            // The event itself is added as a later one.
            self.exact_from = self.exact_from.max(newest);
            return;
        }
        let superseded_at = filling.continued.remove(topic);
        match superseded_at {
            None => drop(self.by_topic.insert(topic.clone(), newest)),
            Some(_) => self.superseded.push_back(newest),
        }
        self.earlier.insert(newest, Entry { topic: topic.clone(), superseded_at });
    }

    /// Every topic has been added.
    pub(crate) fn filled(&mut self) {
        self.filling = None;
        self.limit_superseded();
    }

    /// Adds the log's next event.
    pub(crate) fn push(&mut self, topic: &Topic, position: Position) {
        if let Some(before) = self.by_topic.insert(topic.clone(), position) {
            let entry = if before <= self.made_at { self.earlier.get_mut(&before) } else { self.later.get_mut(before) };
            if let Some(entry) = entry {
                entry.superseded_at = Some(position);
                self.superseded.push_back(before);
            }
        } else if let Some(filling) = &mut self.filling {
            filling.continued.entry(topic.clone()).or_insert(position);
        }
        self.later.push(position, Entry { topic: topic.clone(), superseded_at: None });
        self.limit_superseded();
    }

    fn limit_superseded(&mut self) {
        let topics = self.filling.as_ref().map_or(0, |filling| filling.topics).max(self.by_topic.len());
        while self.superseded.len() > self.superseded_min.max(topics)
            && let Some(oldest) = self.superseded.pop_front()
        {
            let entry = if oldest <= self.made_at { self.earlier.remove(&oldest) } else { self.later.remove(oldest) };
            let superseded_at = entry.and_then(|entry| entry.superseded_at);
            self.exact_from = self.exact_from.max(superseded_at.unwrap_or_default());
        }
    }

    /// Removes the events up to the log's floor.
    pub(crate) fn trim(&mut self, floor: Position) {
        if floor <= self.floor {
            return;
        }
        self.floor = floor;
        if self.filling.is_some() && floor >= self.made_at {
            self.filled();
        }
        while let Some(oldest) = self.pop_through(floor) {
            if oldest.superseded_at.is_none() {
                self.by_topic.remove(&oldest.topic);
            }
        }
    }

    fn pop_through(&mut self, floor: Position) -> Option<Entry> {
        match self.earlier.first_entry() {
            Some(first) if *first.key() <= floor => Some(first.remove()),
            Some(_) => None,
            None => self.later.pop_through(floor),
        }
    }

    /// The number of topics.
    pub(crate) fn len(&self) -> usize {
        self.by_topic.len()
    }

    /// Removes a topic's events up to a position from the middle of the log.
    pub(crate) fn remove(&mut self, topic: &Topic, upto: Position) {
        if self.by_topic.get(topic).is_some_and(|newest| *newest <= upto)
            && let Some(newest) = self.by_topic.remove(topic)
        {
            let _entry = if newest <= self.made_at { self.earlier.remove(&newest) } else { self.later.remove(newest) };
        }
        if let Some(filling) = &mut self.filling
            && filling.continued.get(topic).is_some_and(|first| *first <= upto)
        {
            filling.continued.remove(topic);
        }
    }

    /// The next newest events of a round; `None` where the index does not have all of them.
    pub(crate) fn walk(&self, patterns: &PatternSet, range: WalkRange) -> Option<Walk> {
        let WalkRange { after, upto, events_max, rows_max } = range;
        if !self.is_filled() || upto < self.exact_from {
            return None;
        }
        let mut walk = Walk { found: Vec::new(), through: after, rows: 0 };
        if after >= upto {
            return Some(walk);
        }
        let earlier = self.earlier.range((Bound::Excluded(after), Bound::Unbounded));
        let later = self.later.iter_after(after);
        for (position, entry) in earlier.map(|(position, entry)| (*position, entry)).chain(later) {
            if position > upto {
                break;
            }
            if walk.rows == rows_max {
                return Some(walk);
            }
            walk.rows += 1;
            walk.through = position;
            let is_newest = entry.superseded_at.is_none_or(|later| later > upto);
            if is_newest && patterns.matches(entry.topic.as_str()) {
                walk.found.push((position, entry.topic.clone()));
                if walk.found.len() >= events_max {
                    return Some(walk);
                }
            }
        }
        walk.through = upto;
        Some(walk)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn topic(number: u64) -> Topic {
        format!("t.{number}").parse().unwrap()
    }

    proptest! {
        /// A walk in pages finds what a list of all events has, or the index says that it cannot tell.
        #[test]
        fn a_walk_finds_the_newest_events_as_of_the_rounds_end(
            topics in proptest::collection::vec(0_u64..6, 1..80),
            known in 0_usize..80, knows_then: bool, superseded_min in 0_usize..60, floor in 0_u64..40,
            upto in 0_u64..80, after in 0_u64..80, events_max in 1_usize..5, rows_max in 1_u64..9,
        ) {
            let known = known.min(topics.len());
            let last = topics.len() as u64;
            let events: Vec<(Position, Topic)> = (1..).map(Position).zip(topics.into_iter().map(topic)).collect();
            let mut index = NewestIndex { superseded_min, ..NewestIndex::unfilled(Position(known as u64), 0) };
            // The first events were there before; their topics are added while new events come, by an engine that knows which were
            // the newest then, or only which are now.
            let fill = |index: &mut NewestIndex, known: usize| {
                for number in 0..6 {
                    if let Some((at, topic)) = events[..known].iter().rfind(|(_, other)| *other == topic(number)) {
                        index.fill(topic, *at);
                    }
                }
                index.filled();
            };
            let (filled_at, floor) = ((known + events.len()) / 2, Position(floor.min(last)));
            for (number, (position, topic)) in events.iter().enumerate().skip(known) {
                if number == filled_at {
                    fill(&mut index, if knows_then { known } else { number });
                }
                index.push(topic, *position);
                if *position == floor {
                    index.trim(floor);
                }
            }
            fill(&mut index, known);
            index.trim(floor);
            let (mut after, upto) = (Position(after.min(last)), Position(upto.min(last)));
            let patterns = PatternSet::new(["t.0", "t.1", "t.3", "t.5"].map(|text| text.parse().unwrap())).unwrap();
            let newest = |topic: &Topic| events.iter().rfind(|(at, other)| other == topic && *at <= upto).unwrap().0;
            let expected: Vec<_> = events
                .iter()
                .filter(|(at, topic)| *at > after.max(floor) && *at <= upto && newest(topic) == *at)
                .filter(|(_, topic)| patterns.matches(topic.as_str()))
                .cloned()
                .collect();
            let mut found = Vec::new();
            while after < upto {
                let Some(walk) = index.walk(&patterns, WalkRange { after, upto, events_max, rows_max }) else {
                    prop_assert!(upto < index.exact_from);
                    return Ok(());
                };
                prop_assert!(walk.through > after && walk.rows <= rows_max && walk.found.len() <= events_max);
                after = walk.through;
                found.extend(walk.found);
            }
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn what_it_holds_is_bounded_by_topics() {
        let mut index = NewestIndex { superseded_min: 10, ..NewestIndex::empty() };
        for position in 1..=1000 {
            index.push(&topic(position % 3), Position(position));
        }
        assert_eq!((index.by_topic.len(), index.later.len(), index.superseded.len()), (3, 13, 10));
        assert_eq!(index.exact_from, Position(990));
        index.trim(Position(999));
        assert_eq!((index.by_topic.len(), index.later.len()), (1, 1));
    }
}
