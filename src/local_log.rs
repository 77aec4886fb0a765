//! A tail and the index of the subscribers that wait for its events: one pair for each worker, and one for the hub itself.

use std::task::Waker;
use std::time::Instant;

use bytes::BytesMut;

use crate::delivery::{Delivery, Step};
use crate::log::{Bounds, FeedBatch};
use crate::subscription_index::{SubscriptionIndex, SubscriptionKey};
use crate::tail::Tail;

/// A tail and its subscription index, which only ever change together.
#[derive(Debug)]
pub(crate) struct LocalLog {
    pub(crate) tail: Tail,
    pub(crate) subscription_index: SubscriptionIndex,
}

impl LocalLog {
    pub(crate) fn new(tail: Tail) -> Self {
        Self { tail, subscription_index: SubscriptionIndex::default() }
    }

    /// Appends the log's next batch and wakes the subscribers that it matches.
    pub(crate) fn push(&mut self, batch: &FeedBatch) {
        if self.tail.push(batch) {
            self.subscription_index.invalidate();
        }
        for event in &batch.events {
            self.subscription_index.record_match(event.topic(), event.position());
        }
    }

    /// Batches up to `end` were lost: subscribers that are behind read from the store.
    pub(crate) fn lose_through(&mut self, end: crate::cursor::Position) {
        self.tail.reset(end);
        self.subscription_index.invalidate();
    }

    /// The log was replaced by another one, and the batch that announced it was lost.
    pub(crate) fn begin_anew(&mut self, bounds: &Bounds, end: crate::cursor::Position) {
        self.tail.begin_anew(bounds, end);
        self.subscription_index.invalidate();
    }

    /// One step of a delivery. Registers its waker before it reads, so that an event that arrives between the two wakes it.
    pub(crate) fn step(
        &mut self,
        key: SubscriptionKey,
        waker: &Waker,
        delivery: &mut Delivery,
        now: Instant,
        out: &mut BytesMut,
    ) -> Step {
        self.subscription_index.wait(key, waker);
        self.push_step(key, delivery, now, out)
    }

    /// As [`Self::step`], for a delivery that is registered already and is written to directly.
    pub(crate) fn push_step(
        &mut self,
        key: SubscriptionKey,
        delivery: &mut Delivery,
        now: Instant,
        out: &mut BytesMut,
    ) -> Step {
        let step = delivery.step(now, &self.tail, self.subscription_index.pending(key), out);
        if delivery.is_caught_up(&self.tail) {
            self.subscription_index.mark_caught_up(key);
        }
        step
    }
}
