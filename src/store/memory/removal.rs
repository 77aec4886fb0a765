//! Removal of events from the middle of the log in memory: by rules, and by erasing a topic.

use std::sync::Arc;

use super::Log;
use crate::clock::Moment;
use crate::cursor::Position;
use crate::event::Event;
use crate::log::Erased;
use crate::store::keep::{Policy, Sweep, Sweeps};
use crate::store::marks::MARKS_MAX;
use crate::store::{Retention, StoreError};
use crate::topic::Topic;

/// Events that a sweep passes while the lock is held.
const SLICE_EVENTS: usize = 256;

/// The rules of a log, and how far their sweeps have come.
pub(super) struct Keeping {
    policy: Policy,
    sweeps: Sweeps,
}

impl Keeping {
    pub(super) fn new(policy: Policy) -> Self {
        let sweeps = Sweeps::new(&policy);
        Self { policy, sweeps }
    }

    /// Whether a topic is a value.
    pub(super) fn is_value(&self, topic: &Topic) -> bool {
        self.policy.is_value(topic.as_str())
    }
}

impl Log {
    /// Removes what is due by the rules, as of `now`, a slice of each sweep. Returns whether more is due.
    pub(super) fn sweep(&mut self, retention: &Retention, now: &Moment) -> bool {
        let Some(mut keeping) = self.keeping.take() else { return false };
        let floor = self.floor;
        let mut expired = Vec::new();
        for index in 0..keeping.sweeps.len() {
            let sweep = keeping.sweeps.get(index);
            let slice = self.segment.range_after(sweep.at, SLICE_EVENTS);
            let (mut at, mut is_pending) = (sweep.at, slice.len() == SLICE_EVENTS);
            for event in &slice {
                let arrived_ms = self.arrivals.time_ms(event.position(), event.time_ms());
                if arrived_ms.saturating_add(sweep.delay_ms) > now.wall_ms {
                    is_pending = false;
                    break;
                }
                at = event.position();
                if sweep.deletes {
                    self.expire(&keeping.policy, sweep, event, &mut expired);
                } else {
                    self.pass(&keeping.policy, sweep, event);
                }
            }
            keeping.sweeps.set(index, at, is_pending);
        }
        self.removed.expired.fold();
        self.raise_floor();
        let is_pending = keeping.sweeps.any_pending();
        self.keeping = Some(keeping);
        if !expired.is_empty() {
            let drafts = expired.iter().map(|topic| Policy::expiry(topic, now.wall_ms)).collect();
            // Without ids no draft is refused, and a log that is closed removes nothing.
            let _ = self.append(drafts, retention);
        } else if self.floor != floor {
            self.tell(self.last, Vec::new());
        }
        is_pending
    }

    /// Removes what is due once an event has been in the log for the delay of a sweep.
    fn pass(&mut self, policy: &Policy, sweep: Sweep, event: &Event) {
        let topic = event.topic();
        let due = policy.due(policy.keep(topic.as_str()), sweep.delay_ms, event.is_deletion());
        if due.superseded {
            self.remove_while(topic, |at, _| at < event.position(), false);
        }
        let is_newest =
            self.segment.positions_of(topic).and_then(|positions| positions.back()) == Some(&event.position());
        if due.aged || (due.forgotten && is_newest) {
            self.remove_while(topic, |at, _| at <= event.position(), true);
        }
        if let Some(max) = due.events_max {
            self.remove_while(topic, |_, count| count as u64 > max, true);
        }
    }

    /// Notes a topic whose value has aged out.
    fn expire(&self, policy: &Policy, sweep: Sweep, event: &Event, expired: &mut Vec<Topic>) {
        let topic = event.topic();
        let is_newest =
            self.segment.positions_of(topic).and_then(|positions| positions.back()) == Some(&event.position());
        if is_newest && Policy::expires(policy.keep(topic.as_str()), sweep.delay_ms, event.is_deletion()) {
            expired.push(topic.clone());
        }
    }

    /// Removes a topic's oldest events, while the position of the oldest and the number of the topic's events demand it; `is_owed`
    /// is whether they are told to readers.
    fn remove_while(&mut self, topic: &Topic, demands: impl Fn(Position, usize) -> bool, is_owed: bool) {
        let mut newest_gone = None;
        while let Some(positions) = self.segment.positions_of(topic)
            && let Some(oldest) = positions.front().copied()
            && demands(oldest, positions.len())
        {
            self.segment.remove(oldest);
            newest_gone = Some(oldest);
        }
        let Some(gone) = newest_gone else { return };
        if is_owed {
            self.removed.expired.set(topic, gone);
        }
        self.newest.remove(topic, gone);
    }

    /// Moves the floor to where the oldest event is.
    fn raise_floor(&mut self) {
        let oldest = self.segment.front().map_or(self.last, |event| event.position().before());
        if oldest > self.floor {
            self.floor = oldest;
            self.newest.trim(oldest);
            self.arrivals.trim(oldest);
        }
    }

    /// Erases what a topic has now, and its ids.
    ///
    /// # Errors
    /// [`StoreError::Busy`], where the list of erased topics is full.
    pub(super) fn erase(&mut self, topic: &Topic) -> Result<Erased, StoreError> {
        if self.removed.erased.len() >= MARKS_MAX && self.removed.erased.of(topic.as_str()).is_none() {
            return Err(StoreError::Busy("the list of erased topics is full: it has a million"));
        }
        let count = self.segment.positions_of(topic).map_or(0, |positions| positions.len() as u64);
        let newest = self.segment.positions_of(topic).and_then(|positions| positions.back().copied());
        self.dedupe.forget_topic(topic);
        if let Some(newest) = newest {
            self.remove_while(topic, |_, _| true, false);
            self.removed.erased.set(topic, newest);
            self.raise_floor();
            if let Some(feed) = &self.feed {
                // No tail holds what was erased any more.
                let (after, floor) = (self.last, self.floor.max(newest));
                feed.push(crate::log::FeedBatch { epoch: self.epoch, after, events: Vec::<Arc<Event>>::new(), floor });
            }
        }
        Ok(Erased { events: count, upto: self.last })
    }
}
