//! A contiguous run of events in memory, indexed by topic: the data structure of the tails and of the memory store.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap, VecDeque};
use std::ops::{Bound, ControlFlow};
use std::sync::Arc;

use crate::cursor::Position;
use crate::event::Event;
use crate::topic::{PatternSet, Topic};

/// Most topics that a read merges from the topic index; where patterns match more, it scans by position.
pub(crate) const INDEXED_TOPICS_MAX: usize = 64;

/// Most topics that are compared with wildcard patterns before a read gives up on the index and scans by position.
const TOPICS_COMPARED_MAX: usize = 1024;

/// Up to this many events a scan costs less than topic look-ups.
const SCAN_EVENTS_MAX: usize = 64;

/// Topics in order, so that the topics with a pattern's literal prefix are adjacent.
pub(crate) type TopicMap<V> = BTreeMap<Topic, V>;

/// The topics of `map` that match, if they are few: at most [`INDEXED_TOPICS_MAX`], found within
/// [`TOPICS_COMPARED_MAX`] comparisons. `None` means "too many for the index".
pub(crate) fn matching_topics<'a, V>(map: &'a TopicMap<V>, patterns: &PatternSet) -> Option<Vec<(&'a Topic, &'a V)>> {
    let mut found: BTreeMap<&Topic, &V> = BTreeMap::new();
    let mut compared = 0;
    for pattern in patterns {
        if let Some(literal) = pattern.literal() {
            found.extend(map.get_key_value(literal));
            continue;
        }
        let prefix = pattern.prefix();
        let below = map.range::<str, _>((Bound::Included(prefix), Bound::Unbounded));
        for (topic, value) in below.take_while(|(topic, _)| topic.as_str().starts_with(prefix)) {
            compared += 1;
            if compared > TOPICS_COMPARED_MAX || found.len() > INDEXED_TOPICS_MAX {
                return None;
            }
            if pattern.matches(topic.as_str()) {
                found.insert(topic, value);
            }
        }
    }
    (found.len() <= INDEXED_TOPICS_MAX).then(|| found.into_iter().collect())
}

/// The part of a log that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    /// The start, exclusive.
    pub(crate) after: Position,
    /// The end, inclusive.
    pub(crate) end: Position,
    /// Whether an event is skipped if a later event of its topic lies at or before the end.
    pub(crate) latest: bool,
}

impl Extent {
    /// Every event after a position, up to another one.
    pub(crate) fn all(after: Position, end: Position) -> Self {
        Self { after, end, latest: false }
    }
}

/// How far a read of a segment got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scanned {
    /// No matching event at or before this position was left out.
    pub(crate) through: Position,
    /// Events examined: the cost of the read.
    pub(crate) rows: u64,
}

/// The events of a segment, in log order.
pub(crate) trait EventList: Default {
    /// The number of events.
    fn len(&self) -> usize;

    /// Appends an event, whose position is the highest.
    fn push(&mut self, event: Arc<Event>);

    /// Removes the first event.
    fn pop_first(&mut self) -> Option<Arc<Event>>;

    /// The events after a position.
    fn after(&self, after: Position) -> impl DoubleEndedIterator<Item = &Arc<Event>>;

    /// The events at or before a position.
    fn up_to(&self, end: Position) -> impl DoubleEndedIterator<Item = &Arc<Event>>;

    /// Whether there are more than so many events after a position.
    fn exceeds(&self, after: Position, count: usize) -> bool;
}

/// Events of which only the first are ever removed: the fastest list.
pub(crate) type Ring = VecDeque<Arc<Event>>;

/// Events of which any may be removed.
pub(crate) type Ordered = BTreeMap<Position, Arc<Event>>;

impl EventList for Ring {
    fn len(&self) -> usize {
        self.len()
    }

    fn push(&mut self, event: Arc<Event>) {
        self.push_back(event);
    }

    fn pop_first(&mut self) -> Option<Arc<Event>> {
        self.pop_front()
    }

    fn after(&self, after: Position) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.range(index_after(self, after)..)
    }

    fn up_to(&self, end: Position) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.range(..index_after(self, end))
    }

    fn exceeds(&self, after: Position, count: usize) -> bool {
        self.len() - index_after(self, after) > count
    }
}

impl EventList for Ordered {
    fn len(&self) -> usize {
        self.len()
    }

    fn push(&mut self, event: Arc<Event>) {
        self.insert(event.position(), event);
    }

    fn pop_first(&mut self) -> Option<Arc<Event>> {
        self.pop_first().map(|(_, event)| event)
    }

    fn after(&self, after: Position) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.range((Bound::Excluded(after), Bound::Unbounded)).map(|(_, event)| event)
    }

    fn up_to(&self, end: Position) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.range(..=end).map(|(_, event)| event)
    }

    fn exceeds(&self, after: Position, count: usize) -> bool {
        EventList::after(self, after).nth(count).is_some()
    }
}

/// By binary search, not by subtraction: a replicated engine's positions may have holes.
fn index_after(events: &Ring, after: Position) -> usize {
    match events.front() {
        Some(first) if first.position() > after => 0,
        Some(first) => {
            // Without holes the subtraction is right.
            let guess = usize::try_from(after.0 - first.position().0 + 1).unwrap_or(usize::MAX);
            match guess.checked_sub(1).and_then(|at| events.get(at)) {
                Some(event) if event.position() == after => guess,
                _ => events.partition_point(|event| event.position() <= after),
            }
        }
        None => 0,
    }
}

/// Events in log order, with their positions by topic.
#[derive(Debug, Default)]
pub(crate) struct Segment<L = Ring> {
    events: L,
    by_topic: HashMap<Topic, VecDeque<Position>>,
    topics: TopicMap<()>,
    cost_bytes: u64,
}

impl Segment<Ordered> {
    /// Removes the event at a position.
    pub(crate) fn remove(&mut self, at: Position) -> Option<Arc<Event>> {
        let event = self.events.remove(&at)?;
        self.forget(&event);
        Some(event)
    }

    /// The positions of a topic's events, in order.
    pub(crate) fn positions_of(&self, topic: &Topic) -> Option<&VecDeque<Position>> {
        self.by_topic.get(topic)
    }
}

impl<L: EventList> Segment<L> {
    pub(crate) fn len(&self) -> usize {
        self.events.len()
    }

    pub(crate) fn cost_bytes(&self) -> u64 {
        self.cost_bytes
    }

    pub(crate) fn front(&self) -> Option<&Arc<Event>> {
        self.events.after(Position::ZERO).next()
    }

    pub(crate) fn events(&self) -> impl DoubleEndedIterator<Item = &Arc<Event>> {
        self.events.after(Position::ZERO)
    }

    /// The first event after `after`.
    pub(crate) fn first_after(&self, after: Position) -> Option<&Arc<Event>> {
        self.events.after(after).next()
    }

    /// The first event whose time is at or after `time_ms`.
    pub(crate) fn first_since(&self, time_ms: u64) -> Option<&Arc<Event>> {
        let mut low = self.front()?.position().before();
        let mut high = self.events().next_back()?.position();
        // All up to `low` are older. The first after `high` is not, or there is none.
        while low < high {
            let middle = Position(low.0 + (high.0 - low.0) / 2);
            match self.first_after(middle) {
                Some(event) if event.position() <= high && event.time_ms() < time_ms => low = event.position(),
                _ => high = middle,
            }
        }
        self.first_after(low)
    }

    pub(crate) fn push(&mut self, event: Arc<Event>) {
        self.cost_bytes += event.cost_bytes();
        let position = event.position();
        match self.by_topic.get_mut(event.topic()) {
            Some(positions) => positions.push_back(position),
            None => {
                self.topics.insert(event.topic().clone(), ());
                self.by_topic.insert(event.topic().clone(), VecDeque::from([position]));
            }
        }
        self.events.push(event);
    }

    pub(crate) fn pop_front(&mut self) -> Option<Arc<Event>> {
        let event = self.events.pop_first()?;
        self.forget(&event);
        Some(event)
    }

    fn forget(&mut self, event: &Event) {
        self.cost_bytes -= event.cost_bytes();
        let Some(positions) = self.by_topic.get_mut(event.topic()) else { return };
        if positions.front() == Some(&event.position()) {
            positions.pop_front();
        } else if let Ok(at) = positions.binary_search(&event.position()) {
            positions.remove(at);
        }
        if positions.is_empty() {
            self.by_topic.remove(event.topic());
            self.topics.remove(event.topic());
        }
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Calls `visit` with the matching events of an extent, in order, until it breaks (the event it breaks on counts as
    /// visited), or `rows_max` were examined.
    pub(crate) fn read(
        &self,
        patterns: &PatternSet,
        extent: Extent,
        rows_max: u64,
        visit: &mut dyn FnMut(&Arc<Event>) -> ControlFlow<()>,
    ) -> Scanned {
        if self.events.exceeds(extent.after, SCAN_EVENTS_MAX)
            && let Some(topics) = matching_topics(&self.topics, patterns)
        {
            return self.merge(&topics, extent, visit);
        }
        self.scan(patterns, extent, rows_max, visit)
    }

    /// Whether a later event of the topic of an event, at or before `end`, is in the segment.
    pub(crate) fn is_superseded(&self, event: &Event, end: Position) -> bool {
        let Some(positions) = self.by_topic.get(event.topic()) else { return false };
        let at = event.position();
        match positions.back() {
            Some(newest) if *newest > at => {
                *newest <= end || first_after(positions, at).is_some_and(|next| next <= end)
            }
            _ => false,
        }
    }

    /// The newest events at or below a position, newest first, at most `most`.
    pub(crate) fn newest_below(&self, below: Position, most: usize) -> Vec<Arc<Event>> {
        self.events.up_to(below).rev().take(most).cloned().collect()
    }

    /// The events after a position, at most `most`.
    pub(crate) fn range_after(&self, after: Position, most: usize) -> Vec<Arc<Event>> {
        self.events.after(after).take(most).cloned().collect()
    }

    /// Whether a read of these patterns uses the topic index, so that it costs only what it returns.
    pub(crate) fn is_indexed(&self, patterns: &PatternSet) -> bool {
        matching_topics(&self.topics, patterns).is_some()
    }

    /// The position before the `count`-th newest match at or before `end`, or before the oldest where there are fewer, and how many
    /// were found. Where the patterns match too many topics for the index, only the newest `rows_max` events are examined.
    pub(crate) fn before_last(
        &self,
        patterns: &PatternSet,
        count: usize,
        end: Position,
        rows_max: usize,
    ) -> Option<(Position, usize)> {
        let mut found = 0;
        let mut first = None;
        let mut take = |position: Position| {
            found += 1;
            first = Some(position.before());
            found == count
        };
        match matching_topics(&self.topics, patterns) {
            Some(topics) => {
                let mut newest: BinaryHeap<_> = topics
                    .iter()
                    .filter_map(|(topic, ())| self.by_topic.get(*topic))
                    .filter_map(|positions| {
                        let newest = positions.partition_point(|position| *position <= end).checked_sub(1)?;
                        Some((positions[newest], newest, positions))
                    })
                    .collect();
                while let Some((position, left, positions)) = newest.pop() {
                    if take(position) {
                        break;
                    }
                    newest.extend(left.checked_sub(1).map(|next| (positions[next], next, positions)));
                }
            }
            None => {
                for event in self.events.up_to(end).rev().take(rows_max) {
                    if patterns.matches(event.topic().as_str()) && take(event.position()) {
                        break;
                    }
                }
            }
        }
        first.map(|position| (position, found))
    }

    fn scan(
        &self,
        patterns: &PatternSet,
        Extent { after, end, latest }: Extent,
        rows_max: u64,
        visit: &mut dyn FnMut(&Arc<Event>) -> ControlFlow<()>,
    ) -> Scanned {
        let mut scanned = Scanned { through: after, rows: 0 };
        for event in self.events.after(after).take_while(|event| event.position() <= end) {
            if scanned.rows == rows_max {
                return scanned;
            }
            scanned.rows += 1;
            scanned.through = event.position();
            let wanted = patterns.matches(event.topic().as_str()) && !(latest && self.is_superseded(event, end));
            if wanted && visit(event).is_break() {
                return scanned;
            }
        }
        scanned.through = end.max(after);
        scanned
    }

    /// Merges the position lists of a few topics: the cost is what is returned, however many other events lie between.
    fn merge(
        &self,
        topics: &[(&Topic, &())],
        Extent { after, end, latest }: Extent,
        visit: &mut dyn FnMut(&Arc<Event>) -> ControlFlow<()>,
    ) -> Scanned {
        let mut rows = 0;
        let mut next: BinaryHeap<Reverse<(Position, usize, usize)>> = BinaryHeap::new();
        let lists: Vec<&VecDeque<Position>> =
            topics.iter().filter_map(|(topic, ())| self.by_topic.get(*topic)).collect();
        let within = |list: usize, at: usize| {
            let position = lists[list].get(at).filter(|position| after < **position && **position <= end);
            position.map(|position| Reverse((*position, list, at)))
        };
        for (list, positions) in lists.iter().enumerate() {
            let bound = if latest { end } else { after };
            let at = positions.partition_point(|position| *position <= bound);
            next.extend(if latest { at.checked_sub(1) } else { Some(at) }.and_then(|at| within(list, at)));
        }
        while let Some(Reverse((position, list, at))) = next.pop() {
            rows += 1;
            if !latest {
                next.extend(within(list, at + 1));
            }
            let event = self.first_after(position.before());
            if event.is_some_and(|event| visit(event).is_break()) {
                return Scanned { through: position, rows };
            }
        }
        Scanned { through: end.max(after), rows }
    }
}

/// The first of some ascending positions that lies after another one.
fn first_after(positions: &VecDeque<Position>, at: Position) -> Option<Position> {
    positions.get(positions.partition_point(|position| *position <= at)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, NewEvent};
    use proptest::prelude::*;

    fn event(position: u64, topic: &str) -> Arc<Event> {
        let draft = NewEvent::new(topic.parse().unwrap(), Data::text("x")).draft(position);
        Arc::new(draft.at("e".parse().unwrap(), Position(position)))
    }

    fn patterns(texts: &[&str]) -> PatternSet {
        PatternSet::new(texts.iter().map(|text| text.parse().unwrap())).unwrap()
    }

    proptest! {
        /// Index and scan give the same events, the same end, with holes in the positions too; also of an extent's newest events.
        #[test]
        fn reads_the_same_as_a_naive_filter(
            topics in proptest::collection::vec(("[abc]\\.[0-9]{1,2}", 1_u64..3), 0..300),
            wanted in prop_oneof![Just(vec!["a.1"]), Just(vec!["a.*"]), Just(vec![">"]), Just(vec!["b.7", "c.>"]), Just(vec!["z"])],
            popped in 0_usize..40, after in 0_u64..400, length in 0_u64..600, latest: bool,
            limit in 1_usize..50, last in 1_usize..50,
        ) {
            let wanted = patterns(&wanted);
            let mut segment = Segment::<Ring>::default();
            let mut ordered = Segment::<Ordered>::default();
            let mut position = 0;
            for (topic, step) in &topics {
                position += step;
                segment.push(event(position, topic));
                ordered.push(event(position, topic));
            }
            for _ in 0..popped {
                segment.pop_front();
                ordered.pop_front();
            }
            check(&segment, &wanted, Position(after.min(position)), Position((after + length).min(position)), latest, limit, last)?;
            // From the middle, too.
            let holes: Vec<Position> = ordered.events().map(|event| event.position()).filter(|at| at.0 % 3 == 1).collect();
            check(&ordered, &wanted, Position(after.min(position)), Position((after + length).min(position)), latest, limit, last)?;
            for hole in holes {
                prop_assert_eq!(ordered.remove(hole).map(|event| event.position()), Some(hole));
            }
            prop_assert_eq!(ordered.remove(Position(position + 1)), None);
            check(&ordered, &wanted, Position(after.min(position)), Position((after + length).min(position)), latest, limit, last)?;
        }
    }

    fn check<L: EventList>(
        segment: &Segment<L>,
        wanted: &PatternSet,
        after: Position,
        end: Position,
        latest: bool,
        limit: usize,
        last: usize,
    ) -> Result<(), TestCaseError> {
        let extent = Extent { after, end: end.max(after), latest };
        let all: Vec<Arc<Event>> = segment.events().filter(|e| wanted.matches(e.topic().as_str())).cloned().collect();
        let within: Vec<_> =
            all.iter().filter(|e| e.position() > after && e.position() <= extent.end).cloned().collect();
        let is_newest =
            |e: &Event| within.iter().rfind(|other| other.topic() == e.topic()).unwrap().position() == e.position();
        let expected: Vec<_> = within.iter().filter(|e| !latest || is_newest(e)).take(limit).cloned().collect();

        let mut got = Vec::new();
        let scanned = segment.read(wanted, extent, u64::MAX, &mut |event| {
            got.push(event.clone());
            if got.len() == limit { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        });
        prop_assert_eq!(&got, &expected);
        let through = if got.len() == limit { got[limit - 1].position() } else { extent.end };
        prop_assert_eq!(scanned.through, through);

        let older: Vec<_> = all.iter().filter(|e| e.position() <= extent.end).collect();
        let newest = older.iter().rev().take(last).next_back().map(|e| (e.position().before(), older.len().min(last)));
        prop_assert_eq!(segment.before_last(wanted, last, extent.end, usize::MAX), newest);
        prop_assert_eq!(segment.cost_bytes(), segment.events().map(|e| e.cost_bytes()).sum::<u64>());
        for time_ms in [0, 100, 10_000] {
            let since = segment.events().find(|event| event.time_ms() >= time_ms);
            prop_assert_eq!(segment.first_since(time_ms), since);
        }
        Ok(())
    }

    #[test]
    fn the_cost_of_a_sparse_topic_is_its_result() {
        let mut segment = Segment::<Ring>::default();
        for position in 1..=10_000 {
            segment.push(event(position, if position % 1000 == 0 { "rare.one" } else { "busy" }));
        }
        for wanted in ["rare.one", "rare.*"] {
            for (latest, rows) in [(false, 10), (true, 1)] {
                let extent = Extent { after: Position::ZERO, end: Position(10_000), latest };
                let scanned = segment.read(&patterns(&[wanted]), extent, u64::MAX, &mut |_| ControlFlow::Continue(()));
                assert_eq!(scanned, Scanned { through: Position(10_000), rows });
            }
        }
    }

    #[test]
    fn a_scan_keeps_to_its_row_budget_and_returns_its_end() {
        let mut segment = Segment::<Ring>::default();
        for position in 1..=1000 {
            segment.push(event(position, &format!("t.{position}")));
        }
        let extent = Extent::all(Position(10), Position(1000));
        let scanned = segment.read(&patterns(&["t.>", "u.*"]), extent, 100, &mut |_| ControlFlow::Continue(()));
        assert_eq!(scanned, Scanned { through: Position(110), rows: 100 });
    }
}
