//! Rate limiters: a bucket per address and per subject.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use governor::Quota;
use governor::clock::{Clock as _, DefaultClock};

use super::buckets::{Buckets, Outcome};
use super::{Key, LimitError, RateKey};

/// Most keys whose buckets are kept, about 100 bytes each. Above that all buckets are dropped: every client gets one more
/// burst, which is better than unbounded memory for an attacker with many addresses.
const KEYS_MAX: usize = 100_000;

/// How often recovered keys are swept, in requests.
const SWEEP_EVERY: usize = 20_000;

/// Most distinct rates claimed by tokens; above that all their buckets are dropped. An issuer uses a few.
const CLAIMED_RATES_MAX: usize = 1000;

/// A rate and its burst.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rate {
    pub(super) per_second: NonZeroU32,
    pub(super) burst: NonZeroU32,
    /// What sets the rate, as error messages name it.
    pub(super) set_by: &'static str,
    /// What sets the burst.
    pub(super) burst_set_by: &'static str,
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

    pub(super) fn take(&self, key: &RateKey, number: NonZeroU32) -> Result<(), LimitError> {
        self.meters(key).try_for_each(|(meter, whose, key)| meter.take(self.what, whose, key, number))
    }

    /// As [`Self::take`], and takes nothing.
    pub(super) fn look(&self, key: &RateKey, number: NonZeroU32) -> Result<(), LimitError> {
        self.meters(key).try_for_each(|(meter, whose, key)| meter.look(self.what, whose, key, number))
    }

    /// The meters that count for a key.
    fn meters<'a>(&'a self, key: &'a RateKey) -> impl Iterator<Item = (&'a Meter, &'static str, &'a Key)> {
        let address = self.address.iter().map(|meter| (meter, Key::ADDRESS, &key.address));
        let subject = self.subject.iter().zip(&key.subject).map(|(meter, subject)| (meter, Key::SUBJECT, subject));
        address.chain(subject)
    }

    /// The burst; `None` is any number.
    pub(super) fn burst(&self, key: &RateKey) -> Option<NonZeroU32> {
        let subject = self.subject.as_ref().filter(|_| key.subject.is_some());
        self.address.iter().chain(subject).map(|meter| meter.rate.burst).min()
    }

    pub(super) fn sweep(&self) {
        self.address.iter().chain(&self.subject).for_each(Meter::sweep);
    }
}

/// The rates that tokens claim for their subjects: a meter for each rate, so that a subject with two tokens has two rates.
/// With one meter it would gain a new burst with every change between the tokens.
pub(super) struct ClaimedRates {
    what: &'static str,
    /// Each rate, but for its pace.
    template: Rate,
    meters: RwLock<HashMap<NonZeroU32, Arc<Meter>>>,
}

impl ClaimedRates {
    /// `template` has the burst of all the rates, and what sets them.
    pub(super) fn new(what: &'static str, template: Rate) -> Self {
        Self { what, template, meters: RwLock::default() }
    }

    /// Takes from the bucket of the subject, or of the address where the token names none.
    pub(super) fn take(&self, key: &RateKey, per_second: NonZeroU32, number: NonZeroU32) -> Result<(), LimitError> {
        let (whose, key) = Self::charged(key);
        self.meter(per_second).take(self.what, whose, key, number)
    }

    /// As [`Self::take`], and takes nothing.
    pub(super) fn look(&self, key: &RateKey, per_second: NonZeroU32, number: NonZeroU32) -> Result<(), LimitError> {
        let (whose, key) = Self::charged(key);
        self.meter(per_second).look(self.what, whose, key, number)
    }

    fn charged(key: &RateKey) -> (&'static str, &Key) {
        key.subject.as_ref().map_or((Key::ADDRESS, &key.address), |subject| (Key::SUBJECT, subject))
    }

    /// The burst: the configured one, and at least a second's worth.
    pub(super) fn burst(&self, per_second: NonZeroU32) -> NonZeroU32 {
        self.template.burst.max(per_second)
    }

    pub(super) fn sweep(&self) {
        self.meters.read().unwrap_or_else(PoisonError::into_inner).values().for_each(|meter| meter.sweep());
    }

    fn meter(&self, per_second: NonZeroU32) -> Arc<Meter> {
        if let Some(meter) = self.meters.read().unwrap_or_else(PoisonError::into_inner).get(&per_second) {
            return meter.clone();
        }
        let mut meters = self.meters.write().unwrap_or_else(PoisonError::into_inner);
        if meters.len() >= CLAIMED_RATES_MAX {
            meters.clear();
        }
        let rate = Rate { per_second, burst: self.burst(per_second), ..self.template };
        meters.entry(per_second).or_insert_with(|| Arc::new(Meter::new(rate))).clone()
    }
}

struct Meter {
    rate: Rate,
    buckets: RwLock<Arc<Buckets>>,
    /// Requests since the last sweep; each adds one key at most.
    since: AtomicUsize,
}

impl Meter {
    fn new(rate: Rate) -> Self {
        Self { rate, buckets: RwLock::new(Arc::new(Self::buckets(rate))), since: AtomicUsize::new(0) }
    }

    fn buckets(rate: Rate) -> Buckets {
        Buckets::new(Quota::per_second(rate.per_second).allow_burst(rate.burst))
    }

    fn take(&self, what: &'static str, whose: &'static str, key: &Key, number: NonZeroU32) -> Result<(), LimitError> {
        if self.since.fetch_add(1, Ordering::Relaxed) >= SWEEP_EVERY {
            self.sweep();
        }
        self.outcome(what, whose, self.present().take(key, number))
    }

    fn look(&self, what: &'static str, whose: &'static str, key: &Key, number: NonZeroU32) -> Result<(), LimitError> {
        self.outcome(what, whose, self.present().look(key, number))
    }

    fn present(&self) -> Arc<Buckets> {
        self.buckets.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn outcome(&self, what: &'static str, whose: &'static str, outcome: Outcome) -> Result<(), LimitError> {
        match outcome {
            Ok(Ok(())) => Ok(()),
            Ok(Err(not_until)) => {
                let wait = not_until.wait_time_from(DefaultClock::default().now());
                let Rate { per_second, set_by, .. } = self.rate;
                Err(LimitError::Rate { what, whose, per_second, set_by, wait })
            }
            Err(_) => Err(LimitError::Burst { what, burst: self.rate.burst, set_by: self.rate.burst_set_by }),
        }
    }

    fn sweep(&self) {
        self.since.store(0, Ordering::Relaxed);
        let buckets = self.present();
        buckets.sweep();
        if buckets.len() > KEYS_MAX {
            *self.buckets.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(Self::buckets(self.rate));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(per_second: NonZeroU32) -> Rate {
        Rate { per_second, burst: per_second, set_by: "a test", burst_set_by: "a test" }
    }

    /// A client that uses a new address each time costs no more than the bound.
    #[test]
    fn the_keys_are_bounded() {
        let slow = NonZeroU32::MIN;
        let rates = Rates::new("subscriptions", Some(rate(slow)), None);
        for number in 0..300_000_u32 {
            let key = RateKey::at(std::net::Ipv4Addr::from_bits(number).into());
            rates.take(&key, NonZeroU32::MIN).unwrap();
        }
        let meter = rates.address.as_ref().unwrap();
        let kept = meter.buckets.read().unwrap().len();
        assert!(kept <= KEYS_MAX + SWEEP_EVERY, "{kept}");
    }

    #[test]
    fn what_has_recovered_is_forgotten() {
        let many = NonZeroU32::MAX;
        let rates = Rates::new("events", Some(rate(many)), None);
        for number in 0..1000_u32 {
            rates.take(&RateKey::at(std::net::Ipv4Addr::from_bits(number).into()), NonZeroU32::MIN).unwrap();
        }
        let meter = rates.address.as_ref().unwrap();
        while meter.buckets.read().unwrap().len() > 0 {
            rates.sweep();
        }
    }

    #[test]
    fn a_claimed_rate_is_the_subjects_own() {
        let number = |number| NonZeroU32::new(number).unwrap();
        let rates = ClaimedRates::new("events", rate(number(10)));
        let key = |subject: &str| RateKey::at([10, 0, 0, 1].into()).named(Some(subject.into()));
        assert_eq!((rates.burst(number(5)), rates.burst(number(5000))), (number(10), number(5000)));
        rates.take(&key("a"), number(5000), number(5000)).unwrap();
        assert!(matches!(rates.take(&key("a"), number(5000), number(5000)), Err(LimitError::Rate { .. })));
        rates.take(&key("b"), number(5000), number(5000)).unwrap();
        for rate in 1..=2 * CLAIMED_RATES_MAX as u32 {
            rates.take(&key("c"), number(rate), number(1)).unwrap();
        }
        assert!(rates.meters.read().unwrap().len() <= CLAIMED_RATES_MAX);
    }
}
