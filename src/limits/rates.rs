//! How often something may be done.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use super::{Key, LimitError, Who};

/// Most keys whose buckets are kept, about 100 bytes each. Past it all are forgotten: everybody has one more burst, which
/// is better than memory for whoever comes from everywhere.
const KEYS_MAX: usize = 100_000;

/// How often the keys are looked through, in requests.
const SWEEP_EVERY: usize = 20_000;

/// A pace, and how much may come at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) per_second: NonZeroU32,
    pub(super) burst: NonZeroU32,
}

/// The rates of one kind of thing.
pub(super) struct Rates {
    what: &'static str,
    address: Option<Meter>,
    subject: Option<Meter>,
}

impl Rates {
    pub(super) fn new(what: &'static str, address: Option<Rate>, subject: Option<Rate>) -> Self {
        Self { what, address: address.map(Meter::new), subject: subject.map(Meter::new) }
    }

    pub(super) fn take(&self, who: &Who, number: NonZeroU32) -> Result<(), LimitError> {
        if let Some(meter) = &self.address {
            meter.take(self.what, "this address", &who.address, number)?;
        }
        match (&self.subject, &who.subject) {
            (Some(meter), Some(subject)) => meter.take(self.what, "this subject", subject, number),
            _ => Ok(()),
        }
    }

    pub(super) fn burst(&self) -> Option<NonZeroU32> {
        self.address.iter().chain(&self.subject).map(|meter| meter.rate.burst).min()
    }

    pub(super) fn sweep(&self) {
        self.address.iter().chain(&self.subject).for_each(Meter::sweep);
    }
}

struct Meter {
    rate: Rate,
    buckets: RwLock<Arc<DefaultKeyedRateLimiter<Key>>>,
    /// Requests since the keys were looked through; each adds one at most.
    since: AtomicUsize,
}

impl Meter {
    fn new(rate: Rate) -> Self {
        Self { rate, buckets: RwLock::new(Arc::new(Self::buckets(rate))), since: AtomicUsize::new(0) }
    }

    fn buckets(rate: Rate) -> DefaultKeyedRateLimiter<Key> {
        RateLimiter::keyed(Quota::per_second(rate.per_second).allow_burst(rate.burst))
    }

    fn take(&self, what: &'static str, whose: &'static str, key: &Key, number: NonZeroU32) -> Result<(), LimitError> {
        if self.since.fetch_add(1, Ordering::Relaxed) >= SWEEP_EVERY {
            self.sweep();
        }
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner).clone();
        match buckets.check_key_n(key, number) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(DefaultClock::default().now());
                Err(LimitError::Rate { what, whose, per_second: self.rate.per_second, wait })
            }
            Err(_) => Err(LimitError::Burst(self.rate.burst)),
        }
    }

    fn sweep(&self) {
        self.since.store(0, Ordering::Relaxed);
        let buckets = self.buckets.read().unwrap_or_else(PoisonError::into_inner).clone();
        buckets.retain_recent();
        buckets.shrink_to_fit();
        if buckets.len() > KEYS_MAX {
            *self.buckets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Self::buckets(self.rate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever comes from a new address each time costs no more than the bound.
    #[test]
    fn the_keys_are_bounded() {
        let slow = NonZeroU32::MIN;
        let rates = Rates::new("subscribe", Some(Rate { per_second: slow, burst: slow }), None);
        for number in 0..300_000_u32 {
            let who = Who::at(std::net::Ipv4Addr::from_bits(number).into());
            rates.take(&who, NonZeroU32::MIN).unwrap();
        }
        let meter = rates.address.as_ref().unwrap();
        let kept = meter.buckets.read().unwrap().len();
        assert!(kept <= KEYS_MAX + SWEEP_EVERY, "{kept}");
    }

    #[test]
    fn what_has_recovered_is_forgotten() {
        let many = NonZeroU32::MAX;
        let rates = Rates::new("publish", Some(Rate { per_second: many, burst: many }), None);
        for number in 0..1000_u32 {
            rates.take(&Who::at(std::net::Ipv4Addr::from_bits(number).into()), NonZeroU32::MIN).unwrap();
        }
        let meter = rates.address.as_ref().unwrap();
        while !meter.buckets.read().unwrap().is_empty() {
            rates.sweep();
        }
    }
}
