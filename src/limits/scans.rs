//! The rate limit of log scans, in rows that were examined and did not match the peer's patterns. A search costs the rows that
//! it examines, not those that it returns, so requests would be the wrong unit.
//!
//! Rows are charged afterwards, since only the store knows what a read costs; each read is bounded. A peer in debt waits.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::{Key, LimitError, Limits, RateKey};
use crate::sync::lock;

/// The burst, as time at the rate.
const BURST: Duration = Duration::from_secs(1);

/// Longest debt: however many rows concurrent reads examine, their peer is not refused for long.
const DEBT_MAX: Duration = Duration::from_secs(60);

/// Debt above which a new search is refused.
const DEBT_REFUSED: Duration = Duration::from_secs(2);

/// Most keys that are kept, about 60 bytes each. Above that the keys without debt are removed, then all.
const KEYS_MAX: usize = 100_000;

/// The rates of addresses and subjects.
pub(super) struct Scans {
    address: Option<Account>,
    subject: Option<Account>,
}

impl Scans {
    pub(super) fn new(address: Option<NonZeroU32>, subject: Option<NonZeroU32>) -> Self {
        Self {
            address: address.map(|rate| Account::new(rate, "--scan-rate-per-address")),
            subject: subject.map(|rate| Account::new(rate, "--scan-rate-per-subject")),
        }
    }

    /// Refuses a new search of a peer with too much debt from older ones.
    pub(super) fn check(&self, key: &RateKey, now: Instant) -> Result<(), LimitError> {
        for (account, key, whose) in self.accounts(key) {
            let wait = account.debt(key, now);
            if wait > DEBT_REFUSED {
                let what = "rows read without a match";
                let Account { per_second, set_by, .. } = *account;
                return Err(LimitError::Rate { what, whose, per_second, set_by, wait });
            }
        }
        Ok(())
    }

    /// Charges rows to a peer; returns how long it has to wait before its next read.
    fn charge(&self, key: &RateKey, rows: u64, now: Instant) -> Duration {
        self.accounts(key).map(|(account, key, _)| account.charge(key, rows, now)).max().unwrap_or_default()
    }

    fn accounts<'a>(&'a self, key: &'a RateKey) -> impl Iterator<Item = (&'a Account, &'a Key, &'static str)> {
        let address = self.address.as_ref().map(|account| (account, &key.address, Key::ADDRESS));
        let subject = self.subject.as_ref().zip(key.subject.as_ref());
        address.into_iter().chain(subject.map(|(account, key)| (account, key, Key::SUBJECT)))
    }
}

/// The debts of one kind of key.
struct Account {
    per_second: NonZeroU32,
    /// The flag that sets the rate.
    set_by: &'static str,
    /// When each key's debt is paid off. A key without debt need not be in it.
    paid: Mutex<HashMap<Key, Instant>>,
}

impl Account {
    fn new(per_second: NonZeroU32, set_by: &'static str) -> Self {
        Self { per_second, set_by, paid: Mutex::default() }
    }

    fn charge(&self, key: &Key, rows: u64, now: Instant) -> Duration {
        let mut paid = lock(&self.paid);
        if paid.len() >= KEYS_MAX && !paid.contains_key(key) {
            paid.retain(|_, at| *at > now);
            if paid.len() >= KEYS_MAX {
                paid.clear();
            }
        }
        let seconds = (rows as f64 / f64::from(self.per_second.get())).min((BURST + DEBT_MAX).as_secs_f64());
        let cost = Duration::from_secs_f64(seconds);
        let at = paid.get(key).map_or(now, |at| now.max(*at));
        let at = (at + cost).min(now + BURST + DEBT_MAX);
        paid.insert(key.clone(), at);
        at.saturating_duration_since(now + BURST)
    }

    fn debt(&self, key: &Key, now: Instant) -> Duration {
        lock(&self.paid).get(key).map_or(Duration::ZERO, |at| at.saturating_duration_since(now + BURST))
    }
}

/// Charges one peer for the rows that its searches examine without a match.
#[derive(Debug)]
pub struct Scanner {
    limits: Arc<Limits>,
    key: RateKey,
}

impl Scanner {
    pub(super) fn new(limits: Arc<Limits>, key: RateKey) -> Self {
        Self { limits, key }
    }

    /// Charges rows that were examined and did not match; returns how long to wait before the next read.
    #[must_use]
    pub fn looked_at(&self, unmatched_rows: u64, now: Instant) -> Duration {
        self.limits.scans.charge(&self.key, unmatched_rows, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_paid_for_at_the_rate_after_a_burst() {
        let scans = Scans::new(NonZeroU32::new(1000), NonZeroU32::new(100));
        let (now, one) = (Instant::now(), RateKey::at([10, 0, 0, 1].into()));
        assert_eq!(scans.charge(&one, 1000, now), Duration::ZERO);
        assert_eq!(scans.charge(&one, 500, now), Duration::from_millis(500));
        assert!(scans.check(&one, now).is_ok(), "a small debt delays the search, but does not refuse it");
        assert_eq!(scans.charge(&one, 2000, now), Duration::from_millis(2500));
        let Err(LimitError::Rate { wait, .. }) = scans.check(&one, now) else { panic!("the debt is too large") };
        assert_eq!(wait, Duration::from_millis(2500));
        assert_eq!(scans.charge(&RateKey::at([10, 0, 0, 2].into()), 1000, now), Duration::ZERO, "another address");
        let named = RateKey::at([10, 0, 0, 3].into()).named(Some("li".into()));
        assert_eq!(scans.charge(&named, 200, now), Duration::from_secs(1), "a subject has its own rate");
        assert_eq!(scans.charge(&one, 0, now + Duration::from_secs(4)), Duration::ZERO, "the debt is paid off");
        assert_eq!(scans.charge(&one, u64::MAX, now), DEBT_MAX);
    }

    #[test]
    fn the_keys_are_bounded() {
        let scans = Scans::new(NonZeroU32::new(1), None);
        let now = Instant::now();
        for number in 0..150_000_u32 {
            let _ = scans.charge(&RateKey::at(std::net::Ipv4Addr::from_bits(number).into()), 100, now);
        }
        assert!(lock(&scans.address.as_ref().unwrap().paid).len() <= KEYS_MAX);
    }
}
