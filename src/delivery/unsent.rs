//! A batch that is encoded and not sent yet, reduced to the positions from which its bytes can be encoded again.
//!
//! A client may request a batch and read the response slowly, or not at all. To keep the bytes would cost a quarter of a
//! megabyte for each such request, so the batch keeps its range of log positions instead. An event never changes, and no
//! event appears between two positions that were read, so the same range yields the same bytes, unless an event in it has
//! been trimmed or superseded since. Then the response is cut off, and the client polls again from its cursor.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};

use super::{BATCH_BYTES, Delivery};
use crate::cursor::Position;
use crate::event::Event;
use crate::log::ReadRequest;
use crate::topic::PatternSet;

/// The events of a batch: their bytes and their positions.
#[derive(Clone, Copy, Debug)]
pub(super) struct EventSpan {
    /// Bytes of the items before the first event.
    pub(super) start_bytes: usize,
    /// Bytes of the items up to the last event's end.
    pub(super) end_bytes: usize,
    /// The position before the first event.
    pub(super) after: Position,
    /// The position of the last event.
    pub(super) through: Position,
    /// The number of events.
    pub(super) count: usize,
}

/// A finished batch without the bytes of its events.
#[derive(Debug)]
pub struct UnsentBatch {
    /// Its `items` are those that are not events: those before the events, then those after them.
    delivery: Box<Delivery>,
    span: EventSpan,
    length: usize,
}

impl UnsentBatch {
    /// Of a delivery that has finished with a batch of `length` bytes; `None` where there is no event in it.
    pub(super) fn new(mut delivery: Box<Delivery>, length: usize) -> Option<Self> {
        let span = *delivery.written.span.take().filter(|span| span.end_bytes <= delivery.items.len())?;
        let after = delivery.items.split_off(span.end_bytes);
        let mut others = BytesMut::with_capacity(span.start_bytes + after.len());
        others.extend_from_slice(&delivery.items[..span.start_bytes]);
        others.extend_from_slice(&after);
        delivery.items = others;
        Some(Self { delivery, span, length })
    }

    /// Length of the encoded batch, in bytes.
    #[must_use]
    pub fn length(&self) -> usize {
        self.length
    }

    /// The subscribed patterns.
    #[must_use]
    pub fn patterns(&self) -> &PatternSet {
        self.delivery.patterns()
    }

    /// The range of the events: those that match, after the first position and up to the second.
    #[must_use]
    pub fn positions(&self) -> (Position, Position) {
        (self.span.after, self.span.through)
    }

    /// The round's end, where superseded events of the round were skipped.
    #[must_use]
    pub fn latest_upto(&self) -> Option<Position> {
        self.delivery.reader.round_end()
    }

    /// A read request for the next of the events, after a position.
    #[must_use]
    pub fn request(&self, after: Position) -> ReadRequest {
        ReadRequest { after, ..self.delivery.reader.request(self.delivery.plan.events_max, BATCH_BYTES) }
    }

    /// Encodes the batch again with all of its events; `None` where `events` are not all of them, or belong to another log.
    #[must_use]
    pub fn write_again(&self, events: &[Arc<Event>]) -> Option<Bytes> {
        let epoch = self.delivery.cursor().epoch;
        if events.len() != self.span.count || events.iter().any(|event| event.cursor().epoch != epoch) {
            return None;
        }
        let others = &self.delivery.items;
        let mut items = BytesMut::with_capacity(self.length);
        items.extend_from_slice(&others[..self.span.start_bytes]);
        for event in events {
            // The comma between two items.
            if !items.is_empty() {
                items.extend_from_slice(b",");
            }
            event.write_json(&mut items);
        }
        items.extend_from_slice(&others[self.span.start_bytes..]);
        let mut out = BytesMut::with_capacity(self.length);
        self.delivery.write_batch(&items, &mut out);
        (out.len() == self.length).then(|| out.freeze())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use proptest::prelude::*;

    use super::*;
    use crate::cursor::Cursor;
    use crate::delivery::{Plan, StartPoint, Step};
    use crate::event::{Data, NewEvent};
    use crate::log::{Bounds, FeedBatch};
    use crate::subscription_index::Pending;
    use crate::tail::{Tail, TailLimits};
    use crate::wire::{Framing, Gap, GapReason};

    /// A batch of events with these texts, after a gap or not; the encoded bytes, and the events.
    fn batch(framing: Framing, texts: &[String], gap: bool) -> (Option<UnsentBatch>, Bytes, Vec<Arc<Event>>) {
        let zero = Position::ZERO;
        let bounds = Bounds { epoch: "e".parse().unwrap(), began: zero, floor: zero, last: zero };
        let mut tail = Tail::new(bounds, zero, TailLimits::default());
        let events: Vec<Arc<Event>> = texts
            .iter()
            .zip(1..)
            .map(|(text, position)| {
                let draft = NewEvent::new("t".parse().unwrap(), Data::text(text)).draft(0);
                Arc::new(draft.at(bounds.epoch, Position(position)))
            })
            .collect();
        tail.push(&FeedBatch { epoch: bounds.epoch, after: zero, events: events.clone(), floor: zero });
        let start = Cursor::new(bounds.epoch, zero);
        let ahead = Gap { reason: GapReason::Ahead, from: start, to: start, patterns: Vec::new(), missed: None };
        let patterns = PatternSet::new(["t".parse().unwrap()]).unwrap();
        let start = StartPoint::after(start, gap.then_some(ahead));
        let mut delivery = Box::new(Delivery::new(Instant::now(), Plan::short_poll(framing), patterns, start));
        let mut out = BytesMut::new();
        assert_eq!(delivery.step(Instant::now(), &tail, Pending::Unknown, &mut out), Step::Write);
        (delivery.into_unsent(out.len()), out.freeze(), events)
    }

    proptest! {
        /// In every framing, and whatever items precede the events, the same events yield the same bytes, and other events
        /// none.
        #[test]
        fn what_is_written_again_is_the_same(
            texts in proptest::collection::vec("(__proto__|</script>|[a-z\u{2028}]{0,9})", 1..6),
            framing in 0..3,
            gap: bool,
        ) {
            let framing = match framing {
                0 => Framing::Json,
                1 => Framing::Jsonp("f".parse().unwrap()),
                _ => Framing::Iframe { nonce: "n".into(), target: None },
            };
            let (unsent, written, events) = batch(framing, &texts, gap);
            let unsent = unsent.unwrap();
            prop_assert_eq!(unsent.positions(), (Position::ZERO, Position(texts.len() as u64)));
            prop_assert_eq!(unsent.length(), written.len());
            prop_assert_eq!(unsent.write_again(&events), Some(written));
            prop_assert_eq!(unsent.write_again(&events[1..]), None, "an event is missing");
        }
    }

    #[test]
    fn without_an_event_there_is_nothing_to_read_again() {
        assert!(batch(Framing::Json, &[], true).0.is_none());
    }
}
