//! Counters for the hot path: each thread adds to cells of its own, and a reader sums the cells.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Number of shards. A thread uses one of them; with more threads than shards, some threads share a shard, which costs time and
/// changes no sum.
const SHARDS: usize = 16;

/// `N` counters in as many shards. A sum wraps, so a counter can also count down.
#[derive(Debug)]
pub(super) struct Sharded<const N: usize>(Box<[Shard<N>]>);

/// Two cache lines apart from the next, since processors prefetch lines in pairs: threads that count never wait for each other's
/// lines.
#[derive(Debug)]
#[repr(align(128))]
struct Shard<const N: usize>([AtomicU64; N]);

static NEXT_SHARD: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    static SHARD: usize = NEXT_SHARD.fetch_add(1, Ordering::Relaxed) % SHARDS;
}

impl<const N: usize> Sharded<N> {
    pub(super) fn new() -> Self {
        Self((0..SHARDS).map(|_| Shard(std::array::from_fn(|_| AtomicU64::new(0)))).collect())
    }

    /// Adds to a counter of this thread's shard. `n` may be negative, in two's complement.
    pub(super) fn add(&self, counter: usize, n: u64) {
        let shard = SHARD.with(|shard| *shard);
        if let Some(cell) = self.0.get(shard).and_then(|shard| shard.0.get(counter)) {
            cell.fetch_add(n, Ordering::Relaxed);
        }
    }

    /// The sum over all shards.
    pub(super) fn sum(&self, counter: usize) -> u64 {
        self.0
            .iter()
            .filter_map(|shard| shard.0.get(counter))
            .fold(0, |sum, cell| sum.wrapping_add(cell.load(Ordering::Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_of_all_threads_are_summed() {
        let counters = Sharded::<3>::new();
        std::thread::scope(|scope| {
            for _ in 0..2 * SHARDS {
                scope.spawn(|| {
                    for _ in 0..1000 {
                        counters.add(1, 2);
                        counters.add(2, 1);
                        counters.add(2, 1_u64.wrapping_neg());
                    }
                });
            }
        });
        assert_eq!([0, 1, 2].map(|counter| counters.sum(counter)), [0, 64_000, 0]);
    }
}
