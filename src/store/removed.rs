//! What was removed from the log and is owed to readers: the *holes*, each told at its place.
//!
//! Of each topic the newest removed position is known. Rules remove the oldest events of a topic first, and erasing removes all, so
//! a cursor before that position has lost an event of the topic, and one at or after it has lost none. A page ends before a
//! hole; the next one begins with the gap, which spans all holes up to the next retained event that matches. Superseded events of
//! values leave no mark: no gap reports them.

use std::collections::btree_map;
use std::iter::Peekable;
use std::ops::ControlFlow;
use std::sync::Arc;

use super::marks::TrimMarks;
use crate::cursor::Position;
use crate::event::Event;
use crate::log::{Page, Trimmed};
use crate::topic::{PatternSet, Topic};
use crate::wire::GapReason;

/// The newest removed position of each topic that lost events.
#[derive(Debug, Default)]
pub(super) struct Removed {
    /// Removed by retention.
    pub(super) expired: TrimMarks,
    /// Erased by an administrator.
    pub(super) erased: TrimMarks,
}

impl Removed {
    /// The newest removed position.
    fn newest(&self) -> Position {
        self.expired.newest().max(self.erased.newest())
    }

    /// The marks after a position, in log order.
    fn after(&self, position: Position) -> MarksAfter<'_> {
        let folded = self.expired.folded();
        MarksAfter {
            expired: self.expired.after(position).peekable(),
            erased: self.erased.after(position).peekable(),
            folded: (folded > position).then_some(folded),
        }
    }
}

/// A removed position.
struct Mark<'a> {
    at: Position,
    /// The topic; `None` where it is forgotten, so that it may be any.
    topic: Option<&'a Topic>,
    is_erased: bool,
}

struct MarksAfter<'a> {
    expired: Peekable<btree_map::Range<'a, Position, Topic>>,
    erased: Peekable<btree_map::Range<'a, Position, Topic>>,
    folded: Option<Position>,
}

impl<'a> Iterator for MarksAfter<'a> {
    type Item = Mark<'a>;

    fn next(&mut self) -> Option<Mark<'a>> {
        let expired = self.expired.peek().map(|(at, _)| **at);
        let erased = self.erased.peek().map(|(at, _)| **at);
        let first = [self.folded, expired, erased].into_iter().flatten().min()?;
        if self.folded == Some(first) {
            self.folded = None;
            return Some(Mark { at: first, topic: None, is_erased: false });
        }
        let is_erased = erased == Some(first);
        let marks = if is_erased { &mut self.erased } else { &mut self.expired };
        marks.next().map(|(at, topic)| Mark { at: *at, topic: Some(topic), is_erased })
    }
}

/// An interruptible search for the holes in the range of a page: a million marks take a while, and other callers wait for the marks'
/// lock. Marks may be set between two calls: a mark only moves up, so an event that the page lacks is told by this page or by a
/// later one.
#[derive(Debug)]
pub(super) struct HoleSearch<'p> {
    patterns: &'p PatternSet,
    after: Position,
    /// Marks up to this position have been compared.
    walked: Position,
    /// For each pattern, whether it lost an event in the gap.
    lost: Vec<bool>,
    /// The end of the gap that precedes the page's events.
    gap_to: Option<Position>,
    has_erased: bool,
    /// The first hole behind an event of the page.
    hole: Option<Position>,
    /// Marks that were compared: the cost of the search.
    pub(super) rows: u64,
}

impl<'p> HoleSearch<'p> {
    /// A search for the holes in a page of these patterns, which begins after a position.
    pub(super) fn new(patterns: &'p PatternSet, after: Position) -> Self {
        Self {
            patterns,
            after,
            walked: after,
            lost: vec![false; patterns.len()],
            gap_to: None,
            has_erased: false,
            hole: None,
            rows: 0,
        }
    }

    /// Continues the search, for about so many comparisons. Every event up to `floor` has been removed. Returns whether the search
    /// is complete.
    pub(super) fn search(&mut self, removed: &Removed, floor: Position, page: &Page, comparisons_max: usize) -> bool {
        if removed.newest() <= self.walked {
            return true;
        }
        let end = page.through.max(floor);
        if self.patterns.all_literal() {
            self.look_up(removed, floor, end, page);
            return true;
        }
        let mut left = comparisons_max;
        let mut marks = removed.after(self.walked);
        while let Some(mark) = marks.next().filter(|mark| mark.at <= end) {
            if left == 0 {
                return false;
            }
            left = left.saturating_sub(self.patterns.len());
            self.rows += 1;
            self.walked = mark.at;
            if self.take(&mark, floor, &page.events).is_break() {
                return true;
            }
            // What else lies below the floor adds nothing to the gap.
            if mark.at < floor && self.gap_to == Some(floor) && self.lost.iter().all(|lost| *lost) {
                self.walked = floor;
                marks = removed.after(floor);
            }
        }
        true
    }

    /// The marks of a few topics.
    fn look_up(&mut self, removed: &Removed, floor: Position, end: Position, page: &Page) {
        let mut marks: Vec<Mark<'_>> = Vec::new();
        for topic in self.patterns.iter().filter_map(|pattern| pattern.literal()) {
            for (all, is_erased) in [(&removed.expired, false), (&removed.erased, true)] {
                marks.extend(all.of(topic).map(|(topic, at)| Mark { at, topic: Some(topic), is_erased }));
            }
        }
        let folded = removed.expired.folded();
        marks.push(Mark { at: folded, topic: None, is_erased: false });
        marks.retain(|mark| mark.at > self.after && mark.at <= end);
        marks.sort_unstable_by_key(|mark| mark.at);
        for mark in &marks {
            if self.take(mark, floor, &page.events).is_break() {
                return;
            }
        }
    }

    fn take(&mut self, mark: &Mark<'_>, floor: Position, events: &[Arc<Event>]) -> ControlFlow<()> {
        let matches = |topic: &Topic| self.patterns.matches(topic.as_str());
        if !mark.topic.is_none_or(matches) {
            return ControlFlow::Continue(());
        }
        let reached = self.gap_to.unwrap_or(self.after);
        if mark.at > floor {
            let next = events.partition_point(|event| event.position() <= reached);
            if events.get(next).is_some_and(|event| event.position() < mark.at) {
                self.hole = Some(mark.at);
                return ControlFlow::Break(());
            }
        }
        self.gap_to = Some(mark.at.max(floor).max(reached));
        self.has_erased |= mark.is_erased;
        for (pattern, lost) in self.patterns.iter().zip(&mut self.lost) {
            *lost |= mark.topic.is_none_or(|topic| pattern.matches(topic.as_str()));
        }
        ControlFlow::Continue(())
    }

    /// Ends the page before the first hole behind its events, and adds the gap before them. `counts` is whether everything up to
    /// the floor was owed, so that what is missing can be counted.
    pub(super) fn finish(self, page: &mut Page, floor: Position, counts: bool) {
        if let Some(to) = self.gap_to {
            // Those were removed after they had been read.
            let gone = page.events.partition_point(|event| event.position() <= to);
            page.events.drain(..gone);
        }
        page.through = page.through.max(self.after).max(self.gap_to.unwrap_or_default());
        if let Some(hole) = self.hole {
            let kept = page.events.partition_point(|event| event.position() < hole);
            page.events.truncate(kept);
            page.through = hole.before();
        }
        page.trimmed = self.gap_to.map(|to| {
            let patterns = self.patterns.iter().zip(&self.lost).filter(|(_, lost)| **lost);
            Trimmed {
                to,
                patterns: patterns.map(|(pattern, _)| pattern.clone()).collect(),
                reason: if self.has_erased { GapReason::Erased } else { GapReason::Expired },
                is_whole: counts && to <= floor,
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::event::{Data, NewEvent};

    const TOPICS: [&str; 4] = ["a.1", "a.2", "b", "c"];

    fn event(position: u64, topic: &str) -> Arc<Event> {
        let draft = NewEvent::new(topic.parse().unwrap(), Data::text("x")).draft(0);
        Arc::new(draft.at("e".parse().unwrap(), Position(position)))
    }

    fn patterns(texts: &[&str]) -> PatternSet {
        PatternSet::new(texts.iter().map(|text| text.parse().unwrap())).unwrap()
    }

    /// One page of a log, of whose events those at some positions are retained.
    fn page(
        log: &[usize],
        retained: &[u64],
        removed: &Removed,
        patterns: &PatternSet,
        (after, end, floor): (u64, u64, u64),
        comparisons_max: usize,
    ) -> Page {
        let wanted = retained.iter().filter(|at| **at > after && **at <= end);
        let wanted = wanted.map(|at| event(*at, TOPICS[log[*at as usize - 1]]));
        let events = wanted.filter(|event| patterns.matches(event.topic().as_str())).collect();
        let mut page = Page { events, through: Position(end.max(after)), ..Page::default() };
        let mut search = HoleSearch::new(patterns, Position(after));
        while !search.search(removed, Position(floor), &page, comparisons_max) {}
        search.finish(&mut page, Position(floor), true);
        page
    }

    proptest! {
        /// A reader by pages receives every retained event, once and in order, and before the place of each lost one either
        /// that event's gap or nothing: a gap is told if and only if a matching event was lost in its range.
        #[test]
        fn every_hole_is_told_once_at_its_place(
            log in proptest::collection::vec(0_usize..4, 1..40),
            counts in proptest::array::uniform4(0_usize..12),
            erased in proptest::option::of(0_usize..4), floor in 0_u64..20, after in 0_u64..40, slice in 1_usize..6,
            wanted in prop_oneof![
                Just(vec!["a.1"]), Just(vec!["a.*"]), Just(vec![">"]), Just(vec!["b", "c"]), Just(vec!["b", "a.>"]), Just(vec!["z"])
            ],
        ) {
            let last = log.len() as u64;
            let (floor, mut after) = (floor.min(last), after.min(last));
            let wanted = patterns(&wanted);
            // Of each topic the oldest so many are removed, and all up to the floor.
            let mut removed = Removed::default();
            let mut lost = vec![false; log.len()];
            for (topic, count) in counts.into_iter().enumerate() {
                let of_topic: Vec<u64> = (1..=last).filter(|at| log[*at as usize - 1] == topic).collect();
                let count = if erased == Some(topic) { of_topic.len() } else { count.min(of_topic.len()) };
                let below = of_topic.iter().filter(|at| **at <= floor).count();
                for at in &of_topic[..count.max(below)] {
                    let marks = if erased == Some(topic) { &mut removed.erased } else { &mut removed.expired };
                    marks.set(&TOPICS[topic].parse().unwrap(), Position(*at));
                    lost[*at as usize - 1] = true;
                }
            }
            let matches = |at: u64| wanted.matches(TOPICS[log[at as usize - 1]]);
            let retained: Vec<u64> = (1..=last).filter(|at| !lost[*at as usize - 1]).collect();
            let start = after;
            let (mut received, mut told) = (Vec::new(), Vec::new());
            let mut pages = 0;
            while after < last {
                let page = page(&log, &retained, &removed, &wanted, (after, last, floor), slice);
                prop_assert!(page.through.0 > after || !page.events.is_empty());
                if let Some(gap) = &page.trimmed {
                    let newest = |pattern: &crate::topic::Pattern| {
                        (after + 1..=gap.to.0).any(|at| lost[at as usize - 1] && pattern.matches(TOPICS[log[at as usize - 1]]))
                    };
                    prop_assert!(gap.to.0 > after && !gap.patterns.is_empty());
                    prop_assert!(gap.patterns.iter().all(newest));
                    prop_assert!(page.events.iter().all(|event| event.position() > gap.to));
                    prop_assert!(!retained.iter().any(|at| *at > after && *at <= gap.to.0 && matches(*at)));
                    told.push((after, gap.to.0));
                }
                received.extend(page.events.iter().map(|event| event.position().0));
                after = page.through.0;
                pages += 1;
                prop_assert!(pages < 200);
            }
            let expected: Vec<u64> = retained.iter().copied().filter(|at| *at > start && matches(*at)).collect();
            prop_assert_eq!(&received, &expected);
            // The newest lost event of each topic lies within a gap.
            for topic in 0..4 {
                let newest = (start + 1..=last).rfind(|at| log[*at as usize - 1] == topic && lost[*at as usize - 1] && matches(*at));
                if let Some(newest) = newest {
                    prop_assert!(told.iter().any(|(from, to)| *from < newest && newest <= *to), "{} in {:?}", newest, told);
                }
            }
            // Two gaps have an event between them.
            for pair in told.windows(2) {
                prop_assert!(received.iter().any(|at| *at > pair[0].1 && *at <= pair[1].0 + 1), "{:?} {:?}", told, received);
            }
        }
    }

    #[test]
    fn an_erased_topic_is_told_as_erased_and_a_forgotten_mark_as_a_loss_of_any_pattern() {
        let mut removed = Removed::default();
        removed.erased.set(&"b".parse().unwrap(), Position(2));
        let all = patterns(&["b"]);
        let gap = page(&[2, 2, 3], &[3], &removed, &all, (0, 3, 0), 9).trimmed.unwrap();
        assert_eq!((gap.to, gap.reason, gap.is_whole), (Position(2), GapReason::Erased, false));
        removed.expired.fold_up_to(Position(3));
        for wanted in [&["never"][..], &["never.*"]] {
            let gap = page(&[2, 2, 3], &[], &removed, &patterns(wanted), (0, 3, 3), 9).trimmed.unwrap();
            assert_eq!((gap.to, gap.reason, gap.is_whole), (Position(3), GapReason::Expired, true));
        }
    }
}
