//! A tail and the index of the subscribers that wait for its events: one pair for each worker, and one for the hub itself.

use std::task::Waker;
use std::time::Instant;

use bytes::BytesMut;

use crate::delivery::{Delivery, Step};
use crate::log::{Bounds, FeedBatch};
use crate::tail::Tail;
use crate::waiters::{WaiterKey, Waiters};

/// A tail and its subscription index, which only ever change together.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) tail: Tail,
    pub(crate) waiters: Waiters,
}

impl Lane {
    pub(crate) fn new(tail: Tail) -> Self {
        Self { tail, waiters: Waiters::default() }
    }

    /// Appends the log's next batch and wakes the subscribers that it matches.
    pub(crate) fn push(&mut self, batch: &FeedBatch) {
        if self.tail.push(batch) {
            self.waiters.forget_news();
        }
        for event in &batch.events {
            self.waiters.tell(event.topic(), event.position());
        }
    }

    /// Batches up to `end` were lost: subscribers that are behind read from the store.
    pub(crate) fn lose_through(&mut self, end: crate::cursor::Position) {
        self.tail.reset(end);
        self.waiters.forget_news();
    }

    /// The log was replaced by another one, and the batch that announced it was lost.
    pub(crate) fn begin_anew(&mut self, bounds: &Bounds, end: crate::cursor::Position) {
        self.tail.begin_anew(bounds, end);
        self.waiters.forget_news();
    }

    /// One step of a delivery. Registers its waker before it reads, so that an event that arrives between the two wakes it.
    pub(crate) fn step(
        &mut self,
        key: WaiterKey,
        waker: &Waker,
        delivery: &mut Delivery,
        now: Instant,
        out: &mut BytesMut,
    ) -> Step {
        self.waiters.wait(key, waker);
        self.push_step(key, delivery, now, out)
    }

    /// As [`Self::step`], for a delivery that is registered already and is written to directly.
    pub(crate) fn push_step(
        &mut self,
        key: WaiterKey,
        delivery: &mut Delivery,
        now: Instant,
        out: &mut BytesMut,
    ) -> Step {
        let step = delivery.step(now, &self.tail, self.waiters.news(key), out);
        if delivery.is_caught_up(&self.tail) {
            self.waiters.caught_up(key);
        }
        step
    }
}
