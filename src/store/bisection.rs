//! The search for the newest matching events, for an engine that reads forwards only but reports how many more events match from
//! a position on: by bisection. It sends no request to the engine itself, so that the engine can answer a few questions at a time
//! and serve other readers in between.

use crate::cursor::{Epoch, Position};

/// The most positions in one question.
const POSITIONS_MAX: usize = 1000;

/// The state of a search. Its size is bounded by the number of filters and of wanted events.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bisection {
    /// The log of the search: in another log it has to begin anew.
    pub(super) epoch: Epoch,
    floor: Position,
    /// Events after this position are not wanted.
    last: Position,
    /// How many events match after `last`; an event that two filters match counts twice. A few more may be there by now: then fewer
    /// are found than wanted, and the search goes on further back.
    beyond: u64,
    wanted: u64,
    /// The filters that match anything, by their index in the caller's list; at first all.
    filters: Vec<usize>,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// The number of events that each filter matches, for the filters counted so far.
    Counting(Vec<u64>),
    /// Counting what matches after the last wanted position, for the first so many filters.
    Beyond {
        counted: usize,
    },
    /// Finding where the last `reach` matches begin; an event that two filters match counts twice.
    Halving(Halving),
    /// Reading the positions from there on.
    Collecting(Collecting),
    Done(Vec<Position>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Halving {
    reach: u64,
    /// From this position on there are enough matches, or it is the first position.
    low: u64,
    /// From this position on there are too few matches.
    high: u64,
    /// How many filters have been counted from the middle on, and the sum of their matches.
    counted: usize,
    matching: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Collecting {
    reach: u64,
    from: Position,
    /// The filter that is read, and the position to read from.
    filter: usize,
    next: Position,
    found: Vec<Position>,
}

/// A question to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The filter's index in the caller's list.
    pub(super) filter: usize,
    /// The start, inclusive.
    pub(super) from: Position,
    /// The most positions in the reply; at least 1.
    pub(super) positions_max: usize,
}

/// The engine's reply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    /// The first matching positions from the start on.
    pub(super) positions: Vec<Position>,
    /// The number of matches from the start on, including these.
    pub(super) matching: u64,
}

impl Bisection {
    /// A search among so many filters for the newest `wanted` events between two positions of a log.
    pub(super) fn new(filters: usize, wanted: usize, epoch: Epoch, floor: Position, last: Position) -> Self {
        let phase = Phase::Counting(Vec::new());
        Self { epoch, floor, last, beyond: 0, wanted: wanted as u64, filters: (0..filters).collect(), phase }
    }

    /// The next questions, at most `most`; none once the search is done. They can be answered concurrently.
    pub(super) fn questions(&self, most: usize) -> Vec<Question> {
        let counts = |from, done| {
            let filters = self.filters.iter().skip(done).take(most.max(1));
            filters.map(|filter| Question { filter: *filter, from, positions_max: 1 }).collect()
        };
        match &self.phase {
            Phase::Counting(counted) => counts(self.floor.next(), counted.len()),
            Phase::Beyond { counted } => counts(self.last.next(), *counted),
            Phase::Halving(halving) => counts(halving.middle(), halving.counted),
            Phase::Collecting(Collecting { filter, next, .. }) => {
                let filter = self.filters.get(*filter).copied();
                let question = |filter| Question { filter, from: *next, positions_max: POSITIONS_MAX };
                filter.map(question).into_iter().collect()
            }
            Phase::Done(_) => Vec::new(),
        }
    }

    /// Continues with the replies to [`Self::questions`], in their order.
    pub(super) fn take(&mut self, replies: Vec<Reply>) {
        let first = self.floor.next();
        match &mut self.phase {
            Phase::Counting(counts) => {
                counts.extend(replies.iter().map(|reply| reply.matching));
                if counts.len() >= self.filters.len() {
                    let counts = std::mem::take(counts);
                    self.counted(&counts);
                }
            }
            Phase::Beyond { counted } => {
                *counted += replies.len();
                self.beyond += replies.iter().map(|reply| reply.matching).sum::<u64>();
                if *counted >= self.filters.len() {
                    self.phase = self.halving(self.wanted, self.last);
                }
            }
            Phase::Halving(halving) => {
                halving.counted += replies.len();
                halving.matching += replies.iter().map(|reply| reply.matching).sum::<u64>();
                let enough = halving.matching >= halving.reach.saturating_add(self.beyond);
                if enough || halving.counted >= self.filters.len() {
                    self.phase = halving.halved(enough).phase(first);
                }
            }
            Phase::Collecting(collecting) => {
                let reply = replies.into_iter().next().unwrap_or_default();
                collecting.take(reply, self.last);
                if collecting.filter >= self.filters.len() {
                    self.collected();
                }
            }
            Phase::Done(_) => {}
        }
    }

    /// Once the search is done, the positions found, in order: all that match, or at least as many as are wanted.
    pub(super) fn outcome(&self) -> Option<&[Position]> {
        if let Phase::Done(found) = &self.phase { Some(found) } else { None }
    }

    /// Drops the filters that match nothing: each would cost an index lookup at every halving.
    fn counted(&mut self, counts: &[u64]) {
        let with_counts = self.filters.iter().zip(counts);
        self.filters = with_counts.filter(|(_, count)| **count > 0).map(|(filter, _)| *filter).collect();
        self.phase = if self.filters.is_empty() { Phase::Done(Vec::new()) } else { Phase::Beyond { counted: 0 } };
    }

    /// The search for where the last `reach` matches begin; it is no later than `latest`.
    fn halving(&self, reach: u64, latest: Position) -> Phase {
        let first = self.floor.next();
        Halving { reach, low: first.0, high: latest.next().0, counted: 0, matching: 0 }.phase(first)
    }

    /// Called when everything from a position on was read. Where several filters match the same events there may be fewer than
    /// wanted: then the search continues further back.
    fn collected(&mut self) {
        let Phase::Collecting(Collecting { reach, from, found, .. }) = &mut self.phase else { return };
        found.sort_unstable();
        found.dedup();
        self.phase = if found.len() as u64 >= self.wanted || *from <= self.floor.next() {
            Phase::Done(std::mem::take(found))
        } else {
            let (reach, from) = (reach.saturating_mul(2).max(*reach + 16), *from);
            self.halving(reach, from)
        };
    }
}

impl Halving {
    fn middle(&self) -> Position {
        Position(self.low + (self.high - self.low) / 2)
    }

    fn halved(&self, enough: bool) -> Self {
        let middle = self.middle().0;
        let (low, high) = if enough { (middle, self.high) } else { (self.low, middle) };
        Self { low, high, counted: 0, matching: 0, ..*self }
    }

    /// This phase, or the next one where there is nothing left to halve.
    fn phase(self, first: Position) -> Phase {
        if self.low + 1 < self.high {
            return Phase::Halving(self);
        }
        let from = Position(self.low).max(first);
        Phase::Collecting(Collecting { reach: self.reach, from, filter: 0, next: from, found: Vec::new() })
    }
}

impl Collecting {
    fn take(&mut self, reply: Reply, last: Position) {
        let is_all = reply.positions.len() as u64 >= reply.matching;
        match reply.positions.last() {
            Some(newest) if !is_all && *newest < last => self.next = newest.next(),
            _ => (self.filter, self.next) = (self.filter + 1, self.from),
        }
        self.found.extend(reply.positions.into_iter().filter(|position| *position <= last));
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// The reply of an engine whose log has these positions for a filter.
    fn reply(log: &[Vec<u64>], question: Question) -> Reply {
        let from_there = log[question.filter].iter().copied().filter(|position| *position >= question.from.0);
        let all: Vec<Position> = from_there.map(Position).collect();
        Reply { matching: all.len() as u64, positions: all.into_iter().take(question.positions_max).collect() }
    }

    #[test]
    fn the_newest_are_found_whatever_matches_what() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let (floor, end) = (random.random_range(0..50), random.random_range(50..3000_u64));
            let last = if random.random_bool(0.5) { end } else { random.random_range(floor..=end) };
            let share = [0.0, 0.001, 0.05, 1.0];
            let filters = random.random_range(1..6);
            let log: Vec<Vec<u64>> = (0..filters)
                .map(|_| {
                    let share = share[random.random_range(0..share.len())];
                    (floor + 1..=end).filter(|_| random.random_bool(share)).collect()
                })
                .collect();
            let mut expected: Vec<u64> = log.concat();
            expected.sort_unstable();
            expected.dedup();
            expected.retain(|position| *position <= last);
            let wanted = random.random_range(1..40);
            let most = random.random_range(1..4);
            let mut search = Bisection::new(log.len(), wanted, "e".parse().unwrap(), Position(floor), Position(last));
            let mut asked = 0;
            while search.outcome().is_none() {
                let questions = search.questions(most);
                assert!((1..=most).contains(&questions.len()), "seed {seed}");
                asked += questions.len();
                search.take(questions.into_iter().map(|question| reply(&log, question)).collect());
            }
            let found: Vec<u64> = search.outcome().unwrap().iter().map(|position| position.0).collect();
            let newest = |all: &[u64]| all[all.len().saturating_sub(wanted)..].to_vec();
            assert_eq!(newest(&found), newest(&expected), "seed {seed}");
            assert!(asked < 300, "seed {seed}: {asked} questions");
        }
    }
}
