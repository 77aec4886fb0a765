//! Limits the unused tickets of one peer: each is kept in the store until it is used or expires, and the store's table is
//! bounded.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::counts::{Counts, Permit};
use super::{Key, LimitError, RateKey};
use crate::sync::lock;

/// How error messages name what is counted.
const WHAT: &str = "unused tickets";

/// Most unused tickets that are counted, about 200 bytes each; the store keeps fewer.
const ALL_MAX: usize = 1_000_000;

/// The limits of unused tickets, and the counts of those that this node made. A ticket that is used on another node counts here
/// until it expires. A store that several nodes share counts the tickets of all of them besides.
#[derive(Debug)]
pub(super) struct Tickets {
    per_address_max: Option<usize>,
    per_subject_max: Option<usize>,
    counts: Arc<Counts>,
    unused: Mutex<Unused>,
}

#[derive(Debug, Default)]
struct Unused {
    by_name: HashMap<Box<str>, Permit>,
    /// In the order in which they were made, which is that of their expiry: all tickets of a server have the same lifetime.
    ends: VecDeque<(Instant, Box<str>)>,
}

impl Tickets {
    pub(super) fn new(per_address_max: Option<usize>, per_subject_max: Option<usize>) -> Self {
        Self { per_address_max, per_subject_max, counts: Arc::default(), unused: Mutex::default() }
    }

    /// Counts one more ticket of the subject, or of the address where there is no subject. `on_all_nodes` is how many the peer
    /// has by the store's count, if it counts.
    ///
    /// # Errors
    /// [`LimitError::Count`].
    pub(super) fn count(&self, key: &RateKey, on_all_nodes: Option<u64>, now: Instant) -> Result<Permit, LimitError> {
        self.expire(now);
        let (key, max, whose) = match &key.subject {
            Some(subject) => (subject, self.per_subject_max, Key::SUBJECT),
            None => (&key.address, self.per_address_max, Key::ADDRESS),
        };
        if max.zip(on_all_nodes).is_some_and(|(max, counted)| counted >= max as u64) {
            return Err(LimitError::Count { what: WHAT, whose });
        }
        let limit = max.map(|max| (key.clone(), max));
        let (address, subject) = if whose == Key::SUBJECT { (None, limit) } else { (limit, None) };
        self.counts.count(WHAT, ALL_MAX, address, subject)
    }

    /// Keeps the count of a ticket that was made.
    pub(super) fn made(&self, name: &str, permit: Permit, ttl: Duration, now: Instant) {
        let mut unused = lock(&self.unused);
        unused.ends.push_back((now + ttl, name.into()));
        unused.by_name.insert(name.into(), permit);
    }

    /// Releases the count of a ticket that was used.
    pub(super) fn used(&self, name: &str) {
        lock(&self.unused).by_name.remove(name);
    }

    /// Releases the counts of expired tickets.
    pub(super) fn expire(&self, now: Instant) {
        let mut unused = lock(&self.unused);
        while unused.ends.front().is_some_and(|(end, _)| *end <= now)
            && let Some((_, name)) = unused.ends.pop_front()
        {
            unused.by_name.remove(&name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_counts_until_it_is_used_or_too_old() {
        let (tickets, now, ttl) = (Tickets::new(Some(1), Some(2)), Instant::now(), Duration::from_secs(30));
        let li = RateKey::at([10, 0, 0, 1].into()).named(Some("li".into()));
        let count = |key: &RateKey, now| tickets.count(key, None, now);
        for name in ["a", "b"] {
            tickets.made(name, count(&li, now).unwrap(), ttl, now);
        }
        assert!(matches!(count(&li, now), Err(LimitError::Count { whose: "this subject", .. })));
        let wu = RateKey::at([10, 0, 0, 1].into()).named(Some("wu".into()));
        assert!(count(&wu, now).is_ok(), "another subject, from the same address");
        tickets.used("a");
        tickets.made("c", count(&li, now).unwrap(), ttl, now);
        assert!(count(&li, now + ttl / 2).is_err());
        assert!(count(&li, now + ttl).is_ok());
        let unused = RateKey::at([10, 0, 0, 2].into());
        let one = count(&unused, now).unwrap();
        assert!(matches!(count(&unused, now), Err(LimitError::Count { whose: "this address", .. })));
        drop(one);
        assert!(count(&unused, now).is_ok(), "a ticket that was not made does not count");
    }
    #[test]
    fn the_tickets_of_all_nodes_count() {
        let (tickets, now) = (Tickets::new(Some(1), Some(3)), Instant::now());
        let li = RateKey::at([10, 0, 0, 1].into()).named(Some("li".into()));
        assert!(tickets.count(&li, Some(2), now).is_ok());
        assert!(matches!(tickets.count(&li, Some(3), now), Err(LimitError::Count { whose: "this subject", .. })));
        assert!(Tickets::new(None, None).count(&li, Some(u64::MAX), now).is_ok());
    }
}
