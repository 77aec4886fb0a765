//! The index of the newest events of a JetStream log: filled when the feed begins ([`super::newest_fill`]), and kept up to date by the
//! feed. Reads that it cannot serve scan the log.

use std::sync::{Arc, Mutex};

use crate::cursor::{Epoch, Position};
use crate::event::Event;
use crate::store::newest::{NewestIndex, Walk, WalkRange};
use crate::sync::lock;
use crate::topic::{PatternSet, Topic};

/// The most topics in the index, about 200 bytes each. A log with more is scanned.
const TOPICS_MAX: usize = 1_000_000;

/// The index, as far as the feed has come.
pub(super) struct Newest(Mutex<Indexed>);

struct Indexed {
    epoch: Epoch,
    /// Every event up to this position is in the index, or was there before the feed began.
    through: Position,
    /// `None` before the feed begins, and where the log has too many topics.
    index: Option<NewestIndex>,
}

impl Newest {
    /// Without an index: the feed has not begun.
    pub(super) fn new(epoch: Epoch) -> Self {
        Self(Mutex::new(Indexed { epoch, through: Position::ZERO, index: None }))
    }

    /// The feed will deliver every event of a log after a position. The topics up to there are still to be added.
    pub(super) fn begin(&self, epoch: Epoch, after: Position) {
        // The number of topics is not known: they count once they are added.
        *lock(&self.0) = Indexed { epoch, through: after, index: Some(NewestIndex::unfilled(after, 0)) };
    }

    /// Adds the feed's next events, which end at `through`, and removes those up to the floor.
    pub(super) fn push(&self, epoch: Epoch, events: &[Arc<Event>], through: Position, floor: Position) {
        let mut indexed = lock(&self.0);
        if indexed.epoch != epoch {
            return;
        }
        indexed.through = indexed.through.max(through);
        let Some(index) = &mut indexed.index else { return };
        events.iter().for_each(|event| index.push(event.topic(), event.position()));
        index.trim(floor);
        indexed.check_size();
    }

    /// The next newest events of a round; `None` where the index does not have all of them.
    pub(super) fn walk(&self, epoch: Epoch, patterns: &PatternSet, range: WalkRange) -> Option<Walk> {
        let indexed = lock(&self.0);
        let is_known = indexed.epoch == epoch && indexed.through >= range.upto;
        indexed.index.as_ref().filter(|_| is_known)?.walk(patterns, range)
    }

    /// Adds a topic with its newest event.
    pub(super) fn fill(&self, epoch: Epoch, topic: &Topic, newest: Position) {
        let mut indexed = lock(&self.0);
        if indexed.epoch == epoch
            && let Some(index) = &mut indexed.index
        {
            index.fill(topic, newest);
            indexed.check_size();
        }
    }

    /// Every topic has been added.
    pub(super) fn filled(&self, epoch: Epoch) {
        let mut indexed = lock(&self.0);
        if indexed.epoch == epoch
            && let Some(index) = &mut indexed.index
        {
            index.filled();
        }
    }

    /// Whether topics of the log of this epoch are still to be added.
    pub(super) fn lacks(&self, epoch: Epoch) -> bool {
        let indexed = lock(&self.0);
        indexed.epoch == epoch && indexed.index.as_ref().is_some_and(|index| !index.is_filled())
    }
}

impl Indexed {
    fn check_size(&mut self) {
        if self.index.as_ref().is_some_and(|index| index.len() > TOPICS_MAX) {
            self.index = None;
            tracing::warn!("the log has more than {TOPICS_MAX} topics: subscriptions with `latest=1` scan it");
        }
    }
}
