//! The search for the newest events that match, for an engine that reads forwards only, but tells how many more match from a
//! position on: by bisection. It asks no engine itself, so that an engine can answer a few questions at a time and let others have
//! their turn between.

use crate::cursor::{Epoch, Position};

/// Most positions that one question asks for.
const POSITIONS_MAX: usize = 1000;

/// A search as far as it has come. What it holds is bounded by the number of filters, and by how many events are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bisection {
    /// The log that it is a search in: in another one it has to begin anew.
    pub(super) epoch: Epoch,
    floor: Position,
    last: Position,
    wanted: u64,
    /// The filters that match anything, by their places in the caller's list; to begin with all.
    filters: Vec<usize>,
    phase: Phase,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    /// How many events each filter matches, for the first of them.
    Counting(Vec<u64>),
    /// Where the last `reach` matches begin, an event that two filters match counted twice.
    Halving(Halving),
    /// The positions from there on.
    Collecting(Collecting),
    Done(Vec<Position>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Halving {
    reach: u64,
    /// From here on there are enough, or it is the first position.
    low: u64,
    /// From here on there are too few.
    high: u64,
    /// How many filters have been counted from the middle on, and what they match together.
    counted: usize,
    matching: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Collecting {
    reach: u64,
    from: Position,
    /// Which of the filters is read, and from where.
    filter: usize,
    next: Position,
    found: Vec<Position>,
}

/// What the engine is to look for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Question {
    /// The filter's place in the caller's list.
    pub(super) filter: usize,
    /// Where to begin, inclusive.
    pub(super) from: Position,
    /// Most positions to answer with; at least 1.
    pub(super) positions_max: usize,
}

/// What it found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Reply {
    /// The first positions from there on that match.
    pub(super) positions: Vec<Position>,
    /// How many match from there on, those among them.
    pub(super) matching: u64,
}

impl Bisection {
    /// A search among so many filters for the newest `wanted` events of a log between two positions.
    pub(super) fn new(filters: usize, wanted: usize, epoch: Epoch, floor: Position, last: Position) -> Self {
        let phase = Phase::Counting(Vec::new());
        Self { epoch, floor, last, wanted: wanted as u64, filters: (0..filters).collect(), phase }
    }

    /// The next questions, at most so many; none once it is done. They can be asked at the same time.
    pub(super) fn questions(&self, most: usize) -> Vec<Question> {
        let counts = |from, done| {
            let filters = self.filters.iter().skip(done).take(most.max(1));
            filters.map(|filter| Question { filter: *filter, from, positions_max: 1 }).collect()
        };
        match &self.phase {
            Phase::Counting(counted) => counts(self.floor.next(), counted.len()),
            Phase::Halving(halving) => counts(halving.middle(), halving.counted),
            Phase::Collecting(Collecting { filter, next, .. }) => {
                let filter = self.filters.get(*filter).copied();
                let question = |filter| Question { filter, from: *next, positions_max: POSITIONS_MAX };
                filter.map(question).into_iter().collect()
            }
            Phase::Done(_) => Vec::new(),
        }
    }

    /// Goes on with the replies to [`Self::questions`], in their order.
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
            Phase::Halving(halving) => {
                halving.counted += replies.len();
                halving.matching += replies.iter().map(|reply| reply.matching).sum::<u64>();
                let enough = halving.matching >= halving.reach;
                if enough || halving.counted >= self.filters.len() {
                    self.phase = halving.halved(enough).phase(first);
                }
            }
            Phase::Collecting(collecting) => {
                let reply = replies.into_iter().next().unwrap_or_default();
                collecting.take(reply);
                if collecting.filter >= self.filters.len() {
                    self.collected();
                }
            }
            Phase::Done(_) => {}
        }
    }

    /// The positions that were found, in order, once it is done: all that match, or at least as many as are wanted.
    pub(super) fn outcome(&self) -> Option<&[Position]> {
        if let Phase::Done(found) = &self.phase { Some(found) } else { None }
    }

    /// The filters that match nothing are left out from here on: each would cost a look at an index at every halving.
    fn counted(&mut self, counts: &[u64]) {
        let with_counts = self.filters.iter().zip(counts);
        self.filters = with_counts.filter(|(_, count)| **count > 0).map(|(filter, _)| *filter).collect();
        self.phase =
            if self.filters.is_empty() { Phase::Done(Vec::new()) } else { self.halving(self.wanted, self.last) };
    }

    /// The search for where the last `reach` matches begin; it is no later than `latest`.
    fn halving(&self, reach: u64, latest: Position) -> Phase {
        let first = self.floor.next();
        Halving { reach, low: first.0, high: latest.next().0, counted: 0, matching: 0 }.phase(first)
    }

    /// Everything from a position on was read. Where that is fewer events than are wanted, since several filters match the same,
    /// it goes on further back.
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

    /// This, or, where there is nothing left to halve, what comes after it.
    fn phase(self, first: Position) -> Phase {
        if self.low + 1 < self.high {
            return Phase::Halving(self);
        }
        let from = Position(self.low).max(first);
        Phase::Collecting(Collecting { reach: self.reach, from, filter: 0, next: from, found: Vec::new() })
    }
}

impl Collecting {
    fn take(&mut self, reply: Reply) {
        let is_all = reply.positions.len() as u64 >= reply.matching;
        match reply.positions.last() {
            Some(last) if !is_all => self.next = last.next(),
            _ => (self.filter, self.next) = (self.filter + 1, self.from),
        }
        self.found.extend(reply.positions);
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt as _, SeedableRng as _};

    use super::*;

    /// What an engine would answer whose log holds these positions for a filter.
    fn reply(log: &[Vec<u64>], question: Question) -> Reply {
        let from_there = log[question.filter].iter().copied().filter(|position| *position >= question.from.0);
        let all: Vec<Position> = from_there.map(Position).collect();
        Reply { matching: all.len() as u64, positions: all.into_iter().take(question.positions_max).collect() }
    }

    #[test]
    fn the_newest_are_found_whatever_matches_what() {
        for seed in 0..300 {
            let mut random = StdRng::seed_from_u64(seed);
            let (floor, last) = (random.random_range(0..50), random.random_range(50..3000_u64));
            let share = [0.0, 0.001, 0.05, 1.0];
            let filters = random.random_range(1..6);
            let log: Vec<Vec<u64>> = (0..filters)
                .map(|_| {
                    let share = share[random.random_range(0..share.len())];
                    (floor + 1..=last).filter(|_| random.random_bool(share)).collect()
                })
                .collect();
            let mut expected: Vec<u64> = log.concat();
            expected.sort_unstable();
            expected.dedup();
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
