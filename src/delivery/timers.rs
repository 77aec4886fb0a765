//! The deadlines of a delivery, in one table: a small array, like quinn's timers of a connection. To search seven entries
//! for the earliest is cheaper than to keep them sorted, since every write moves one of them.

use std::time::Instant;

/// What happens when the timer fires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// A `$beat` is due: the stream has been idle for a heartbeat.
    Beat,
    /// A ping is due.
    Ping,
    /// The peer has been silent for too long.
    Silence,
    /// The stream reaches its maximum age, or the long poll its deadline.
    Completion,
    /// The scheduled `$bye` is sent.
    Close,
    /// The right to the subscription expires.
    Expiry,
    /// Events may be read again: a failed fetch is retried, the peer has paid for rows, or the pace allows the next run.
    Read,
}

impl Timer {
    const COUNT: usize = 7;
}

/// When each timer fires, where it is set.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct TimerTable([Option<Instant>; Timer::COUNT]);

impl TimerTable {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.put(timer, Some(at));
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.put(timer, None);
    }

    /// Sets a timer, or stops it with `None`.
    pub(super) fn put(&mut self, timer: Timer, at: Option<Instant>) {
        self.0[timer as usize] = at;
    }

    pub(super) fn get(&self, timer: Timer) -> Option<Instant> {
        self.0[timer as usize]
    }

    pub(super) fn is_expired(&self, timer: Timer, now: Instant) -> bool {
        self.get(timer).is_some_and(|at| now >= at)
    }

    /// The earliest deadline.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// The earliest deadline of some timers.
    pub(super) fn next_of(&self, timers: &[Timer]) -> Option<Instant> {
        timers.iter().filter_map(|timer| self.get(*timer)).min()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_next_is_the_earliest_that_is_set() {
        let (mut timers, now) = (TimerTable::default(), Instant::now());
        let after = |seconds| now + Duration::from_secs(seconds);
        assert_eq!(timers.next(), None);
        for (timer, seconds) in [(Timer::Read, 3), (Timer::Beat, 2), (Timer::Expiry, 5)] {
            timers.set(timer, after(seconds));
        }
        assert_eq!(timers.next(), Some(after(2)));
        assert_eq!(timers.next_of(&[Timer::Expiry, Timer::Read, Timer::Ping]), Some(after(3)));
        assert!(timers.is_expired(Timer::Beat, after(2)) && !timers.is_expired(Timer::Beat, after(1)));
        timers.stop(Timer::Beat);
        assert!(!timers.is_expired(Timer::Beat, after(9)));
        assert_eq!(timers.next(), Some(after(3)));
    }
}
