//! Publishing: at a fixed rate (open loop), or as fast as the subscribers receive (closed loop).

use std::time::{Duration, Instant};

use super::load::Load;
use super::seen::{self, PUBLISHERS_MAX};

/// Makes the request that publishes one event's data.
pub(crate) type Request<'a> = Box<dyn Fn(&str) -> Vec<u8> + 'a>;

/// When the next event is due.
#[derive(Clone, Copy)]
pub(crate) enum Pace {
    /// At a fixed interval, whether or not the last event was acknowledged: an open loop.
    Every(Duration),
    /// As soon as one is acknowledged, with a maximum of events in flight to the subscribers.
    Window { events: u64, subscribers: u64 },
}

/// Publishers of numbered events.
pub(crate) struct Publishing<'a> {
    requesters: Vec<usize>,
    pub(crate) published: [u64; PUBLISHERS_MAX],
    pace: Pace,
    due: Instant,
    request: Request<'a>,
}

impl<'a> Publishing<'a> {
    /// `requesters` publish concurrently, each with its own sequence of numbers.
    pub(crate) fn new(requesters: Vec<usize>, pace: Pace, request: Request<'a>) -> Self {
        assert!(requesters.len() <= PUBLISHERS_MAX, "events are numbered for so many publishers only");
        Self { requesters, published: [0; PUBLISHERS_MAX], pace, due: Instant::now(), request }
    }

    pub(crate) fn total(&self) -> u64 {
        self.published.iter().sum()
    }

    /// Resumes after a pause, in which nothing was due.
    pub(crate) fn resume(&mut self) {
        self.due = Instant::now();
    }

    /// Publishes what is due.
    pub(crate) fn turn(&mut self, load: &mut Load) {
        match self.pace {
            Pace::Every(interval) => {
                while Instant::now() >= self.due {
                    let at = self.total() as usize % self.requesters.len();
                    // Latency counts from the time at which the event was due, so that a delay of the load is included.
                    self.one(at, load);
                    self.due += interval;
                }
            }
            Pace::Window { events, subscribers } => {
                for at in 0..self.requesters.len() {
                    let under_way = (self.total() * subscribers).saturating_sub(load.seen);
                    if under_way < events * subscribers && load.unanswered(self.requesters[at]) == 0 {
                        self.one(at, load);
                    }
                }
            }
        }
    }

    fn one(&mut self, at: usize, load: &mut Load) {
        let number = &mut self.published[at];
        let data = seen::data(at, *number, load.nanos());
        *number += 1;
        load.send(self.requesters[at], &(self.request)(&data));
    }
}
