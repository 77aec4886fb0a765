//! A simulation of the writer with publishers, in simulated time: what waiting costs and gains, in syncs.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::Gather;

/// Publishes that are simulated in a case.
const PUBLISHES: usize = 6000;

/// The load on the writer.
#[derive(Clone, Copy, Debug)]
struct Load {
    /// How long a commit takes: mostly its sync.
    commit: Duration,
    /// Publishers that each await an answer before they publish again.
    loops: usize,
    /// Publishes at random times (a Poisson process), a second.
    random: f64,
}

/// How long publishes wait for their answers, in commits.
#[derive(Clone, Copy, Debug)]
struct Waits {
    mean: f64,
    p99: f64,
}

/// A moment since the start, and whether the publish is a loop's.
type Publish = (Duration, bool);

/// The publishes to come, and those that wait for the writer.
struct Publishers {
    random: StdRng,
    a_second: f64,
    coming: BinaryHeap<Reverse<Publish>>,
    queue: Vec<Publish>,
}

impl Publishers {
    fn new(load: Load, seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let coming = (0..load.loops).map(|_| Reverse((load.commit.mul_f64(random.random::<f64>()), true))).collect();
        let mut publishers = Self { random, a_second: load.random, coming, queue: Vec::new() };
        if load.random > 0.0 {
            publishers.plan(Duration::ZERO);
        }
        publishers
    }

    /// Plans the random publish after the one at `at`.
    fn plan(&mut self, at: Duration) {
        let pause = -(1.0 - self.random.random::<f64>()).ln() / self.a_second;
        self.coming.push(Reverse((at + Duration::from_secs_f64(pause), false)));
    }

    /// Queues the next publish if it arrives by then; returns its moment.
    fn next(&mut self, until: Duration) -> Option<Duration> {
        let Reverse((at, loops)) = self.coming.peek().filter(|Reverse((at, _))| *at <= until).copied()?;
        self.coming.pop();
        self.queue.push((at, loops));
        if !loops {
            self.plan(at);
        }
        Some(at)
    }

    fn until(&mut self, until: Duration) {
        while self.next(until).is_some() {}
    }

    /// A loop is answered, and publishes again after a round trip.
    fn answered(&mut self, now: Duration) {
        let round_trip = Duration::from_micros(self.random.random_range(50..150));
        self.coming.push(Reverse((now + round_trip, true)));
    }
}

/// Runs a writer that waits as [`Gather`] says, or never.
fn simulate(load: Load, gathers: bool, seed: u64) -> Waits {
    let (start, mut gather, mut publishers) = (Instant::now(), Gather::default(), Publishers::new(load, seed));
    let (mut now, mut waits) = (Duration::ZERO, Vec::new());
    while waits.len() < PUBLISHES {
        if publishers.queue.is_empty() {
            now = publishers.next(Duration::MAX).map_or(now, |at| at.max(now));
        }
        publishers.until(now);
        let group = std::mem::take(&mut publishers.queue);
        let _ = group.iter().all(|(at, _)| gather.arrived(start + *at));
        let commit = load.commit.mul_f64(publishers.random.random_range(0.95..1.05));
        now += commit;
        publishers.until(now);
        let _ = publishers.queue.iter().all(|(at, _)| gather.arrived(start + *at));
        let deadline = gather.answered(start + now, group.len(), commit).filter(|_| gathers);
        let wanted = publishers.queue.len() + group.len();
        for (at, loops) in group {
            waits.push((now - at).as_secs_f64() / load.commit.as_secs_f64());
            if loops {
                publishers.answered(now);
            }
        }
        if let Some(deadline) = deadline.map(|at| at - start) {
            while publishers.queue.len() < wanted {
                let next = publishers.next(deadline);
                now = next.unwrap_or(deadline);
                if next.is_none() {
                    break;
                }
            }
        }
    }
    waits.sort_by(f64::total_cmp);
    Waits { mean: waits.iter().sum::<f64>() / waits.len() as f64, p99: waits[waits.len() * 99 / 100] }
}

fn commits() -> impl Iterator<Item = Duration> {
    [100, 1000, 10_000, 100_000].into_iter().map(Duration::from_micros)
}

#[test]
fn no_load_waits_longer_than_without_gathering() {
    for commit in commits() {
        for (loops, random) in [1, 2, 3, 4, 8, 16].map(|loops| (loops, 0.0)).into_iter().chain([
            (0, 10.0),
            (0, 60.0),
            (0, 200.0),
            (2, 60.0),
            (8, 60.0),
        ]) {
            let load = Load { commit, loops, random };
            let (with, without) = (simulate(load, true, 7), simulate(load, false, 7));
            let worse = with.mean > 1.02 * without.mean || with.p99 > 1.15 * without.p99;
            assert!(!worse, "{load:?}: {with:?} instead of {without:?}");
        }
    }
}

#[test]
fn publishers_in_a_loop_wait_for_one_sync() {
    for commit in commits().filter(|commit| *commit >= Duration::from_millis(1)) {
        for loops in [2, 3, 4, 8, 16] {
            let load = Load { commit, loops, random: 0.0 };
            let waits = simulate(load, true, 7);
            assert!(waits.mean < 1.1, "{load:?}: {waits:?}");
            assert!(simulate(load, false, 7).mean > 1.8, "{load:?}: without, they alternate");
        }
    }
}

#[test]
fn publishers_that_end_are_not_waited_for() {
    let (start, commit) = (Instant::now(), Duration::from_millis(100));
    let at = |ms| start + Duration::from_millis(ms);
    let mut gather = Gather::default();
    for answer in 1..=3 {
        assert_eq!(gather.answered(at(100 * answer), 4, commit), None, "too few answers to judge by");
        (0..4).for_each(|_| assert!(gather.arrived(at(100 * answer + 1))));
    }
    assert_eq!(gather.answered(at(400), 4, commit), Some(at(425)));
    // Two of four, and one too late.
    assert!(gather.arrived(at(401)) && gather.arrived(at(425)) && !gather.arrived(at(426)));
    assert_eq!(gather.answered(at(500), 2, commit), None);
}
