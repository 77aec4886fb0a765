//! Encodes the items of a delivery: one after the other in a stream, separated by commas in a batch.

use std::sync::Arc;

use bytes::{BufMut as _, BytesMut};

use super::unsent::EventSpan;
use crate::cursor::{Cursor, Position};
use crate::event::Event;
use crate::json::Literal;
use crate::reader::Items;
use crate::wire::{ByeReason, Control, Framing, Gap, GapReason};

/// What has been encoded so far.
#[derive(Debug)]
pub(super) struct Written {
    /// Items: events, and control events other than `$hello` and `$beat`.
    pub(super) count: usize,
    /// Whether the items keep their meaning as a literal in a script.
    pub(super) literal: Literal,
    /// The reasons of the last gap and of the `$bye` among the items, until they are taken for the metrics.
    pub(super) gap: Option<GapReason>,
    pub(super) bye: Option<ByeReason>,
    /// The range of the items that are events. Boxed: streams have none.
    pub(super) span: Option<Box<EventSpan>>,
}

impl Written {
    pub(super) fn nothing() -> Self {
        Self { count: 0, literal: Literal::Same, gap: None, bye: None, span: None }
    }
}

/// Writes items into a buffer, up to a limit.
pub(super) struct ItemWriter<'a> {
    pub(super) framing: &'a Framing,
    /// Whether the items belong to a batch, in which every item is bare JSON, whatever the batch is wrapped in.
    pub(super) in_batch: bool,
    pub(super) written: &'a mut Written,
    pub(super) out: &'a mut BytesMut,
    /// Full with the item that passes this many bytes.
    pub(super) bytes_target: usize,
    /// Full with so many items.
    pub(super) items_max: usize,
}

impl<'a> ItemWriter<'a> {
    pub(super) fn control(&mut self, control: &Control, cursor: Cursor) {
        self.separate();
        self.framing().control(control, Some(cursor), self.out);
        self.written.count += 1;
    }

    fn framing(&self) -> &'a Framing {
        if self.in_batch { &Framing::Json } else { self.framing }
    }

    /// The comma between two items of a batch.
    fn separate(&mut self) {
        if self.in_batch && self.written.count > 0 {
            self.out.put_u8(b',');
        }
    }

    /// Extends the range of the batch's events by the event that was just written.
    fn note_event(&mut self, position: Position, start_bytes: usize) {
        let (after, end_bytes) = (position.before(), self.out.len());
        let first = || Box::new(EventSpan { start_bytes, end_bytes, after, through: position, count: 0 });
        let span = self.written.span.get_or_insert_with(first);
        (span.end_bytes, span.through) = (end_bytes, position);
        span.count += 1;
    }
}

impl Items for ItemWriter<'_> {
    fn gap(&mut self, gap: Gap) {
        let to = gap.to;
        self.written.gap = Some(gap.reason);
        self.control(&Control::Gap(gap), to);
    }

    fn event(&mut self, event: &Arc<Event>) {
        let start_bytes = self.out.len();
        self.separate();
        self.framing().event(event, self.out);
        if self.in_batch {
            self.note_event(event.position(), start_bytes);
        }
        self.written.literal = event.literal().max(self.written.literal);
        self.written.count += 1;
    }

    /// A batch says the same by its `live`.
    fn live(&mut self, cursor: Cursor, reference: Option<Box<str>>) {
        if !self.in_batch {
            self.control(&Control::Live(reference), cursor);
        }
    }

    fn is_full(&self) -> bool {
        self.out.len() >= self.bytes_target || self.written.count >= self.items_max
    }
}
