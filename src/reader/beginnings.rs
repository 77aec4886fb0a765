//! When a subscription's past is over: once every event is delivered that was in the log at a beginning (of the stream, of a
//! `subscribe` with a cursor, of another log).

use crate::cursor::Position;

/// The most beginnings whose past is not over; beyond it the newest two become one.
const PENDING_MAX: usize = 64;

/// The beginnings whose past is not over, in order.
#[derive(Debug, Default)]
pub(super) struct Beginnings(Vec<Beginning>);

/// A beginning.
#[derive(Debug)]
struct Beginning {
    /// The log's end at that moment.
    end: Position,
    /// The `ref` of the message that made it, as JSON.
    reference: Option<Box<str>>,
}

impl Beginnings {
    /// Adds a beginning; `end` is the log's end.
    pub(super) fn push(&mut self, end: Position, reference: Option<Box<str>>) {
        if self.0.len() == PENDING_MAX {
            self.0.pop();
        }
        self.0.push(Beginning { end, reference });
    }

    /// The place of the first one's end and its reference, where a reader has reached that.
    pub(super) fn pop_reached(&mut self, at: Position) -> Option<(Position, Option<Box<str>>)> {
        self.0.first().filter(|first| first.end <= at)?;
        let first = self.0.remove(0);
        Some((first.end, first.reference))
    }

    /// Whether there is none.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Removes all.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
