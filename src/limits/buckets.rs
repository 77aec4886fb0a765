//! The buckets of a rate, of which one can be looked at without taking from it: `governor` by itself can only take.

use std::cell::Cell;
use std::num::NonZeroU32;

use governor::clock::DefaultClock;
use governor::nanos::Nanos;
use governor::state::StateStore;
use governor::state::keyed::{DashMapStateStore, ShrinkableKeyedStateStore};
use governor::{InsufficientCapacity, NotUntil, Quota, RateLimiter};

use super::Key;

/// The outcome of a look or of a take, as `governor` returns it.
pub(super) type Outcome =
    Result<Result<(), NotUntil<<DefaultClock as governor::clock::Clock>::Instant>>, InsufficientCapacity>;

/// A bucket for each key.
pub(super) struct Buckets(RateLimiter<Access, Store, DefaultClock>);

impl Buckets {
    pub(super) fn new(quota: Quota) -> Self {
        Self(RateLimiter::new(quota, Store::default(), DefaultClock::default()))
    }

    /// Takes `number` from the bucket of a key; nothing where it has fewer.
    pub(super) fn take(&self, key: &Key, number: NonZeroU32) -> Outcome {
        self.0.check_key_n(&Access { key: key.clone(), takes: true }, number)
    }

    /// As [`Self::take`], and leaves the bucket as it is.
    pub(super) fn look(&self, key: &Key, number: NonZeroU32) -> Outcome {
        self.0.check_key_n(&Access { key: key.clone(), takes: false }, number)
    }

    /// Removes the buckets that are full again.
    pub(super) fn sweep(&self) {
        self.0.retain_recent();
        self.0.shrink_to_fit();
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }
}

/// A key, and whether its bucket is taken from or only looked at.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Access {
    key: Key,
    takes: bool,
}

#[derive(Default)]
struct Store(DashMapStateStore<Key>);

impl StateStore for Store {
    type Key = Access;

    fn measure_and_replace<T, F, E>(&self, access: &Access, measure: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        if access.takes {
            return self.0.measure_and_replace(&access.key, measure);
        }
        let outcome = Cell::new(None);
        if self.0.contains_key(&access.key) {
            // A bucket whose measure fails is not replaced.
            let _: Result<(), ()> = self.0.measure_and_replace(&access.key, |state| {
                outcome.set(Some(measure(state)));
                Err(())
            });
        }
        // A key without a bucket has a full one.
        outcome.into_inner().unwrap_or_else(|| measure(None)).map(|(value, _)| value)
    }
}

impl ShrinkableKeyedStateStore<Access> for Store {
    fn retain_recent(&self, drop_below: Nanos) {
        ShrinkableKeyedStateStore::retain_recent(&self.0, drop_below);
    }

    fn shrink_to_fit(&self) {
        ShrinkableKeyedStateStore::shrink_to_fit(&self.0);
    }

    fn len(&self) -> usize {
        ShrinkableKeyedStateStore::len(&self.0)
    }

    fn is_empty(&self) -> bool {
        ShrinkableKeyedStateStore::is_empty(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_takes_nothing_and_makes_no_bucket() {
        let number = |number| NonZeroU32::new(number).unwrap();
        let buckets = Buckets::new(Quota::per_hour(number(1)).allow_burst(number(5)));
        let key = Key::Subject("a".into());
        for _ in 0..10 {
            assert!(matches!(buckets.look(&key, number(5)), Ok(Ok(()))));
        }
        assert_eq!(buckets.len(), 0);
        assert!(matches!(buckets.take(&key, number(4)), Ok(Ok(()))));
        for _ in 0..10 {
            assert!(matches!(buckets.look(&key, number(1)), Ok(Ok(()))));
            assert!(matches!(buckets.look(&key, number(2)), Ok(Err(_))));
            assert!(buckets.look(&key, number(6)).is_err());
        }
        assert!(matches!(buckets.take(&key, number(1)), Ok(Ok(()))));
        assert!(matches!(buckets.look(&key, number(1)), Ok(Err(_))));
    }
}
