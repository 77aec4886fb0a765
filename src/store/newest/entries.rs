//! The events of the index in log order, as the log appends them.
//!
//! Every publish adds an event at the end and supersedes an earlier one. In a `BTreeMap` that took a thirtieth of a publish's instructions;
//! here the former is a push, the latter two binary searches. One sorted queue with gaps would be as fast, but closing its gaps
//! would take time in proportion to the number of topics, while the writer waits.

use std::collections::VecDeque;

use crate::cursor::Position;
use crate::topic::Topic;

/// Entries that a block is filled with: what is moved at once where gaps are closed.
const BLOCK_ENTRIES: usize = 256;

/// An event that is the newest of its topic, or was until recently.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) topic: Topic,
    /// The position of the topic's next event.
    pub(super) superseded_at: Option<Position>,
}

/// Entries by ascending position.
#[derive(Debug, Default)]
pub(super) struct Entries {
    /// Each has an entry that was not removed, and at least a quarter of its slots.
    blocks: VecDeque<Block>,
}

#[derive(Debug)]
struct Block {
    /// `None` where the entry was removed.
    slots: Vec<(Position, Option<Entry>)>,
    count: usize,
}

impl Block {
    fn last(&self) -> Position {
        self.slots.last().map_or(Position::ZERO, |(position, _)| *position)
    }

    /// The slot of an entry.
    fn find(&self, position: Position) -> Option<usize> {
        self.slots.binary_search_by_key(&position, |(position, _)| *position).ok()
    }
}

impl Entries {
    /// Adds an entry, at a position after all others.
    pub(super) fn push(&mut self, position: Position, entry: Entry) {
        match self.blocks.back_mut() {
            Some(block) if block.slots.len() < BLOCK_ENTRIES => {
                block.slots.push((position, Some(entry)));
                block.count += 1;
            }
            _ => self.blocks.push_back(Block { slots: vec![(position, Some(entry))], count: 1 }),
        }
    }

    pub(super) fn get_mut(&mut self, position: Position) -> Option<&mut Entry> {
        let at = self.block(position);
        let block = self.blocks.get_mut(at)?;
        let slot = block.find(position)?;
        block.slots[slot].1.as_mut()
    }

    /// Removes an entry, and closes the gaps of its block where those are most of it.
    pub(super) fn remove(&mut self, position: Position) -> Option<Entry> {
        let at = self.block(position);
        let block = self.blocks.get_mut(at)?;
        let slot = block.find(position)?;
        let entry = block.slots[slot].1.take()?;
        block.count -= 1;
        if block.count == 0 {
            self.blocks.remove(at);
        } else if block.count < block.slots.len() / 4 {
            block.slots.retain(|(_, entry)| entry.is_some());
            block.slots.shrink_to_fit();
        }
        Some(entry)
    }

    /// Removes the first entry if it lies at or before a position.
    pub(super) fn pop_through(&mut self, position: Position) -> Option<Entry> {
        let (first, _) = self.iter_after(Position::ZERO).next().filter(|(first, _)| *first <= position)?;
        self.remove(first)
    }

    /// The entries after a position.
    pub(super) fn iter_after(&self, after: Position) -> impl Iterator<Item = (Position, &Entry)> {
        let slots = self.blocks.range(self.block(after.next())..).flat_map(|block| &block.slots);
        slots.filter(move |(at, _)| *at > after).filter_map(|(at, entry)| Some((*at, entry.as_ref()?)))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.blocks.iter().map(|block| block.count).sum()
    }

    /// The first block that reaches a position.
    fn block(&self, position: Position) -> usize {
        self.blocks.partition_point(|block| block.last() < position)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Any sequence of additions and removals leaves what an ordered map has, and bounded gaps.
        #[test]
        fn entries_are_those_of_an_ordered_map(steps in proptest::collection::vec((0_u64..4, any::<prop::sample::Index>()), 1..800)) {
            let topic: Topic = "t".parse().unwrap();
            let (mut entries, mut model, mut last) = (Entries::default(), BTreeMap::new(), 0);
            for (step, which) in steps {
                let at = (last > 0).then(|| Position(which.index(last as usize) as u64 + 1));
                match (step, at) {
                    (0, Some(at)) => {
                        let removed = entries.remove(at).map(|entry| entry.superseded_at);
                        prop_assert_eq!(removed, model.remove(&at));
                    }
                    (1, Some(at)) if which.index(20) == 0 => while let Some(entry) = entries.pop_through(at) {
                        prop_assert_eq!(model.pop_first().map(|(_, superseded_at)| superseded_at), Some(entry.superseded_at));
                    },
                    (1, Some(at)) => {
                        let found = entries.get_mut(at).map(|entry| entry.superseded_at.replace(at));
                        prop_assert_eq!(found, model.get_mut(&at).map(|superseded_at| superseded_at.replace(at)));
                    }
                    _ => {
                        last += 1 + which.index(2) as u64;
                        entries.push(Position(last), Entry { topic: topic.clone(), superseded_at: None });
                        model.insert(Position(last), None);
                    }
                }
                prop_assert_eq!(entries.len(), model.len());
                prop_assert!(entries.blocks.iter().all(|block| block.count > 0 && block.count >= block.slots.len() / 4));
                if which.index(16) > 0 {
                    continue;
                }
                let after = at.unwrap_or(Position::ZERO);
                let found: Vec<_> = entries.iter_after(after).map(|(at, entry)| (at, entry.superseded_at)).collect();
                let expected: Vec<_> = model.range(after.next()..).map(|(at, superseded_at)| (*at, *superseded_at)).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }
}
