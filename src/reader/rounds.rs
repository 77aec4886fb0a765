//! The rounds in which a subscriber reads that wants only each topic's newest event, or a pause between deliveries.
//!
//! A round's end is the log's end when the round begins, and stays. So the reader reaches it however fast the log grows, and
//! then has every topic's newest event as of that end: a topic that changes all the time is not put off for ever.

use std::time::{Duration, Instant};

use crate::cursor::Position;
use crate::log::ReadMode;

/// A reader's present round, and when the next one may begin.
#[derive(Debug)]
pub(super) struct Rounds {
    mode: ReadMode,
    /// The present round's end; the round is over once the reader has reached it.
    end: Position,
    /// Whether an event of the present round was delivered.
    has_delivered: bool,
    /// The pace: no round begins before this time.
    not_before: Option<Instant>,
}

impl Rounds {
    /// Begins in a round that ends at `end`, which another reader of the same subscription has begun.
    pub(super) fn new(mode: ReadMode, end: Position) -> Self {
        Self { mode, end, has_delivered: false, not_before: None }
    }

    /// Whether an event is skipped if a later one of its topic lies in the same round.
    pub(super) fn latest(&self) -> bool {
        self.mode.latest
    }

    /// The end of the round that a reader at `at` is in, or begins now; `None` where it has to wait for the next one.
    pub(super) fn end(&mut self, now: Instant, at: Position, log_end: Position) -> Option<Position> {
        if at >= self.end {
            if self.not_before.is_some_and(|begin| now < begin) {
                return None;
            }
            (self.end, self.has_delivered) = (log_end, false);
        }
        Some(self.end)
    }

    /// The end of the present round, or of the last one.
    pub(super) fn last_end(&self) -> Position {
        self.end
    }

    /// The end of the present round, where a reader at `at` has not reached it.
    pub(super) fn unreached(&self, at: Position) -> Option<Position> {
        (at < self.end).then_some(self.end)
    }

    /// When the next round may begin, for a reader at `at` that has ended its round.
    pub(super) fn next(&self, at: Position) -> Option<Instant> {
        self.not_before.filter(|_| at >= self.end)
    }

    /// An event was delivered. The pause counts from the first one of a round: a round without events delays nothing.
    pub(super) fn delivered(&mut self, now: Instant) {
        if !self.has_delivered {
            self.has_delivered = true;
            let pace = Duration::from_millis(self.mode.pace_ms.into());
            self.not_before = (!pace.is_zero()).then(|| now + pace);
        }
    }

    /// The reader moves elsewhere: a new round begins there.
    pub(super) fn restart(&mut self) {
        self.end = Position::ZERO;
    }
}
