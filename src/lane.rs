//! A tail with those who wait at it: one for each worker, and one for the hub itself.

use std::task::Waker;
use std::time::Instant;

use bytes::BytesMut;

use crate::delivery::{Delivery, Step};
use crate::log::{Bounds, FeedBatch};
use crate::tail::Tail;
use crate::waiters::{WaiterKey, Waiters};

/// A tail and its waiters, which only ever change together.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) tail: Tail,
    pub(crate) waiters: Waiters,
}

impl Lane {
    pub(crate) fn new(tail: Tail) -> Self {
        Self { tail, waiters: Waiters::default() }
    }

    /// Takes what follows in the log and wakes those it is for.
    pub(crate) fn push(&mut self, batch: &FeedBatch) {
        if self.tail.push(batch) {
            self.waiters.forget_news();
        }
        for event in &batch.events {
            self.waiters.tell(event.topic(), event.position());
        }
    }

    /// Some batches never came: whoever is behind reads from the store.
    pub(crate) fn lose_through(&mut self, end: crate::cursor::Position) {
        self.tail.reset(end);
        self.waiters.forget_news();
    }

    /// The log is another one, and what said so never came.
    pub(crate) fn begin_anew(&mut self, bounds: &Bounds, end: crate::cursor::Position) {
        self.tail.begin_anew(bounds, end);
        self.waiters.forget_news();
    }

    /// One step of a delivery. Registers before it reads: an event that comes between the two wakes it.
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

    /// As [`Self::step`], of one who is registered and is handed what is new.
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
