//! Bounds on the arrival of events whose time is ahead of the clock, from which their age counts.
//!
//! An event's time is the wall clock's at its publish, and it is immutable. Where the clock was ahead then and has been corrected
//! since, the event would not age until its time has come; and since retention trims the oldest events first, no event behind it
//! would be trimmed either. But an event in the log has arrived, whatever its time. So where an event may be ahead of the clock,
//! a bound is recorded, at most once a second: the time by which all events up to the newest one had arrived. The bound counts
//! where it is earlier than the event's time.
//!
//! No bound is recorded after a jump of the clock until it is known which time is right: by a clock that was wrongly set back,
//! all events would have arrived long ago.

use std::collections::VecDeque;

use crate::clock::Moment;
use crate::cursor::Position;

/// The most bounds. After a jump back events are ahead for a minute, with a bound per second; past the limit, the newest bound
/// moves.
const BOUNDS_MAX: usize = 128;

/// The times by which events had arrived, where their own times are later.
#[derive(Debug, Default)]
pub(super) struct Arrivals {
    /// For a position, the time by which all events up to it had arrived, in milliseconds since the Unix epoch. In order of
    /// position.
    bounds: VecDeque<(Position, u64)>,
    /// The latest time from which an event's age counts, as far as is known.
    latest_ms: u64,
}

impl Arrivals {
    /// Restores what an earlier run stored, in order of position.
    pub(super) fn restored(bounds: impl IntoIterator<Item = (Position, u64)>, latest_ms: u64) -> Self {
        Self { bounds: bounds.into_iter().collect(), latest_ms }
    }

    /// The latest time from which an event's age counts: stored with the bounds.
    pub(super) fn latest_ms(&self) -> u64 {
        self.latest_ms
    }

    /// Records a new event's time.
    pub(super) fn push(&mut self, time_ms: u64) {
        self.latest_ms = self.latest_ms.max(time_ms);
    }

    /// Records that all events have arrived by now. Returns whether that is a new bound, which has to be stored.
    pub(super) fn note(&mut self, newest: Position, now: &Moment) -> bool {
        let now_ms = now.wall_ms;
        let known = self.bounds.back().is_some_and(|(position, _)| *position >= newest);
        if !now.removes || self.latest_ms <= now_ms || known || newest == Position::ZERO {
            return false;
        }
        self.latest_ms = now_ms;
        if self.bounds.len() >= BOUNDS_MAX {
            self.bounds.pop_back();
        }
        self.bounds.push_back((newest, now_ms));
        true
    }

    /// The time from which an event's age counts.
    pub(super) fn time_ms(&self, position: Position, time_ms: u64) -> u64 {
        let first = self.bounds.partition_point(|(bound, _)| *bound < position);
        self.bounds.get(first).map_or(time_ms, |(_, arrived_ms)| time_ms.min(*arrived_ms))
    }

    /// Drops the bounds of trimmed events. Returns whether there were any.
    pub(super) fn trim(&mut self, floor: Position) -> bool {
        let gone = self.bounds.partition_point(|(bound, _)| *bound <= floor);
        self.bounds.drain(..gone);
        gone > 0
    }

    /// The bounds, to be stored.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Position, u64)> {
        self.bounds.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_ages_from_its_arrival_where_its_time_is_ahead() {
        let mut arrivals = Arrivals::default();
        arrivals.push(1000);
        assert!(!arrivals.note(Position(3), &Moment::at(1000)), "nothing is ahead");
        arrivals.push(5000);
        assert!(arrivals.note(Position(4), &Moment::at(1000)));
        assert!(!arrivals.note(Position(4), &Moment::at(2000)), "nothing new");
        arrivals.push(5000);
        // An event that is not ahead comes last.
        arrivals.push(1500);
        assert!(arrivals.note(Position(6), &Moment::at(2000)));
        assert!(!arrivals.note(Position(7), &Moment::at(3000)), "nothing is ahead");
        for (position, time_ms, from_ms) in
            [(1, 900, 900), (4, 5000, 1000), (5, 5000, 2000), (6, 1500, 1500), (7, 5000, 5000)]
        {
            assert_eq!(arrivals.time_ms(Position(position), time_ms), from_ms, "{position}");
        }
        assert!(!arrivals.trim(Position(3)) && arrivals.trim(Position(4)));
        assert_eq!(arrivals.iter().collect::<Vec<_>>(), [(Position(6), 2000)]);
    }

    #[test]
    fn however_often_the_clock_is_wrong_the_bounds_are_few() {
        let mut arrivals = Arrivals::default();
        for second in 1..=1000 {
            arrivals.push(u64::MAX);
            assert!(arrivals.note(Position(second), &Moment::at(second)));
        }
        assert_eq!(arrivals.iter().count(), BOUNDS_MAX);
        // The newest bound has moved: it is later than necessary, and never earlier than the arrival.
        assert_eq!(arrivals.time_ms(Position(900), u64::MAX), 1000);
        assert_eq!(arrivals.time_ms(Position(7), u64::MAX), 7);
    }
}
