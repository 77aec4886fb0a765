//! What all together, one address or one subject may take: counted here, refused by whoever asks.
//!
//! A count is held by a guard and given back when that is dropped, so that no way out can forget to. A rate is a bucket that
//! refills (GCRA, by `governor`). Both are kept by key; the keys are bounded, so that a flood of new ones costs no memory.

mod counts;
mod rates;

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use counts::Counts;
use rates::{Rate, Rates};

pub use counts::Counted;

/// How many, how often. `None` is any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitOptions {
    /// Most connections at a time.
    pub connections_max: usize,
    /// Most connections of one address at a time.
    pub connections_per_address_max: Option<usize>,
    /// Most subscriptions open at a time, streams and held requests.
    pub held_max: usize,
    /// Most of them of one address.
    pub held_per_address_max: Option<usize>,
    /// Most of them of one subject.
    pub held_per_subject_max: Option<usize>,
    /// Subscriptions that one address may begin a second; a socket's new token counts as one.
    pub connects_per_address: Option<NonZeroU32>,
    /// Subscriptions that one subject may begin a second.
    pub connects_per_subject: Option<NonZeroU32>,
    /// How many may begin at once, before the rates count.
    pub connect_burst: NonZeroU32,
    /// Events that one address may publish a second.
    pub events_per_address: Option<NonZeroU32>,
    /// Events that one subject may publish a second.
    pub events_per_subject: Option<NonZeroU32>,
    /// How many may be published at once, before the rates count.
    pub event_burst: NonZeroU32,
    /// Most bytes of bodies and messages that are still arriving, over all connections.
    pub arriving_bytes_max: usize,
}

impl Default for LimitOptions {
    fn default() -> Self {
        let burst = const { NonZeroU32::new(1000).unwrap() };
        Self {
            connections_max: 25_000,
            connections_per_address_max: None,
            held_max: 25_000,
            held_per_address_max: None,
            held_per_subject_max: None,
            connects_per_address: None,
            connects_per_subject: None,
            connect_burst: burst,
            events_per_address: None,
            events_per_subject: None,
            event_burst: burst,
            arriving_bytes_max: 256 << 20,
        }
    }
}

/// Whom something is counted against. A subject is one besides its address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    address: Key,
    subject: Option<Key>,
}

impl Who {
    /// Somebody at an address. One network of IPv6 (a /64, RFC 6177 §2) counts as one, since whoever has it has all of
    /// its addresses.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        let network = match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
            v4 => v4,
        };
        Self { address: Key::Address(network), subject: None }
    }

    /// With the subject of a token.
    #[must_use]
    pub fn named(self, subject: Option<Arc<str>>) -> Self {
        Self { subject: subject.map(Key::Subject), ..self }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    Subject(Arc<str>),
}

/// What was asked for is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// Of all together: nobody gets more at the moment.
    #[error("this server has as many {0} as it takes at the moment; try again later")]
    Everyone(&'static str),
    /// Of one address or subject.
    #[error("there are as many {what} of {whose} as one may have; end some, or try again later")]
    Count {
        /// Of what.
        what: &'static str,
        /// `this address` or `this subject`.
        whose: &'static str,
    },
    /// Too fast, from one address or subject.
    #[error("{whose} is too fast: it may {what} {per_second} a second; slow down")]
    Rate {
        /// What it does.
        what: &'static str,
        /// `this address` or `this subject`.
        whose: &'static str,
        /// How many it may.
        per_second: NonZeroU32,
        /// When there is room again.
        wait: Duration,
    },
    /// More at once than there ever is room for.
    #[error("at most {0} events may be published at once here")]
    Burst(NonZeroU32),
}

/// The counts and rates of one server, shared by its workers.
pub struct Limits {
    options: LimitOptions,
    connections: Arc<Counts>,
    held: Arc<Counts>,
    connects: Rates,
    events: Rates,
    arriving_bytes: AtomicUsize,
}

impl Limits {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(options: LimitOptions) -> Self {
        let rate = |per_second: Option<NonZeroU32>, burst| per_second.map(|per_second| Rate { per_second, burst });
        let connects = (options.connects_per_address, options.connects_per_subject, options.connect_burst);
        let events = (options.events_per_address, options.events_per_subject, options.event_burst);
        Self {
            connections: Arc::default(),
            held: Arc::default(),
            connects: Rates::new("subscribe", rate(connects.0, connects.2), rate(connects.1, connects.2)),
            events: Rates::new("publish", rate(events.0, events.2), rate(events.1, events.2)),
            arriving_bytes: AtomicUsize::new(0),
            options,
        }
    }

    /// A connection of an address, or of a trusted proxy (`None`), which has any number.
    ///
    /// # Errors
    /// [`LimitError::Everyone`], [`LimitError::Count`].
    pub fn connection(&self, who: Option<&Who>) -> Result<Counted, LimitError> {
        let address = who.zip(self.options.connections_per_address_max).map(|(who, max)| (who.address.clone(), max));
        self.connections.count("connections", self.options.connections_max, address, None)
    }

    /// A subscription that stays open for a while.
    ///
    /// # Errors
    /// [`LimitError::Everyone`], [`LimitError::Count`].
    pub fn hold(&self, who: &Who) -> Result<Counted, LimitError> {
        let address = self.options.held_per_address_max.map(|max| (who.address.clone(), max));
        let subject = who.subject.clone().zip(self.options.held_per_subject_max);
        self.held.count("subscriptions", self.options.held_max, address, subject)
    }

    /// A subscription begins, or a socket shows another token.
    ///
    /// # Errors
    /// [`LimitError::Rate`].
    pub fn connect(&self, who: &Who) -> Result<(), LimitError> {
        self.connects.take(who, NonZeroU32::MIN)
    }

    /// Events are about to be published.
    ///
    /// # Errors
    /// [`LimitError::Rate`], [`LimitError::Burst`].
    pub fn publish(&self, who: &Who, events: usize) -> Result<(), LimitError> {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        NonZeroU32::new(events).map_or(Ok(()), |events| self.events.take(who, events))
    }

    /// Most events that can ever be published at once; `None` where that is not limited.
    #[must_use]
    pub fn event_burst(&self) -> Option<NonZeroU32> {
        self.events.burst()
    }

    /// Room for bytes that arrive. Grows with [`Arriving::grow`].
    #[must_use]
    pub fn arriving(self: &Arc<Self>) -> Arriving {
        Arriving { limits: self.clone(), bytes: 0 }
    }

    /// Forgets whose rates have recovered. Called now and then.
    pub fn sweep(&self) {
        self.connects.sweep();
        self.events.sweep();
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(LimitOptions::default())
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits").field("options", &self.options).finish_non_exhaustive()
    }
}

/// Bytes that have arrived and are kept until they are whole.
#[derive(Debug)]
pub struct Arriving {
    limits: Arc<Limits>,
    bytes: usize,
}

impl Arriving {
    /// More has come.
    ///
    /// # Errors
    /// [`LimitError::Everyone`] where all together have no room for it.
    pub fn grow(&mut self, bytes: usize) -> Result<(), LimitError> {
        let before = self.limits.arriving_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.bytes += bytes;
        if before.saturating_add(bytes) > self.limits.options.arriving_bytes_max {
            return Err(LimitError::Everyone("bytes that are arriving"));
        }
        Ok(())
    }

    /// So many are kept now.
    ///
    /// # Errors
    /// As [`Self::grow`].
    pub fn set(&mut self, bytes: usize) -> Result<(), LimitError> {
        match bytes.checked_sub(self.bytes) {
            Some(0) => Ok(()),
            Some(more) => self.grow(more),
            None => {
                self.limits.arriving_bytes.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
                self.bytes = bytes;
                Ok(())
            }
        }
    }

    /// It is whole, and somebody else's.
    pub fn clear(&mut self) {
        if self.bytes > 0 {
            self.limits.arriving_bytes.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        }
    }
}

impl Drop for Arriving {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn who(text: &str) -> Who {
        Who::at(text.parse().unwrap())
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        assert_eq!(who("2001:db8::1"), who("2001:db8::ffff:1"));
        assert_ne!(who("2001:db8::1"), who("2001:db8:0:1::1"));
        assert_eq!(who("::ffff:10.0.0.1"), who("10.0.0.1"));
    }

    #[test]
    fn counts_are_given_back() {
        let options = LimitOptions { held_max: 3, held_per_address_max: Some(2), ..LimitOptions::default() };
        let limits = Limits::new(LimitOptions { held_per_subject_max: Some(1), ..options });
        let (one, other) = (who("10.0.0.1"), who("10.0.0.2"));
        let named = other.clone().named(Some("li".into()));
        let first = limits.hold(&one).unwrap();
        let _second = limits.hold(&one).unwrap();
        assert!(matches!(limits.hold(&one), Err(LimitError::Count { whose: "this address", .. })));
        let third = limits.hold(&named).unwrap();
        assert_eq!(limits.hold(&other).unwrap_err(), LimitError::Everyone("subscriptions"));
        drop(first);
        assert!(matches!(limits.hold(&named), Err(LimitError::Count { whose: "this subject", .. })));
        assert!(limits.hold(&other).is_ok(), "what was refused is not counted");
        drop(third);
        assert!(limits.hold(&named).is_ok());
    }

    #[test]
    fn a_rate_is_a_burst_and_then_a_pace() {
        let rate = |number| NonZeroU32::new(number);
        let options = LimitOptions { events_per_address: rate(1), events_per_subject: rate(1), ..Default::default() };
        let limits = Limits::new(LimitOptions { event_burst: rate(10).unwrap(), ..options });
        let one = who("10.0.0.1");
        assert_eq!(limits.publish(&one, 11), Err(LimitError::Burst(rate(10).unwrap())));
        limits.publish(&one, 10).unwrap();
        let Err(LimitError::Rate { wait, .. }) = limits.publish(&one, 5) else { panic!("it has published ten") };
        assert!(wait > Duration::from_secs(3) && wait <= Duration::from_secs(5), "{wait:?}");
        limits.publish(&who("10.0.0.2"), 10).unwrap();
        // The same subject from elsewhere is the same subject.
        limits.publish(&who("10.0.0.3").named(Some("li".into())), 10).unwrap();
        let elsewhere = limits.publish(&who("10.0.0.4").named(Some("li".into())), 1);
        assert!(matches!(elsewhere, Err(LimitError::Rate { whose: "this subject", .. })), "{elsewhere:?}");
        assert_eq!(limits.connect(&one), Ok(()), "what is not limited is not refused");
    }

    #[test]
    fn arriving_bytes_are_given_back() {
        let limits = Arc::new(Limits::new(LimitOptions { arriving_bytes_max: 10, ..LimitOptions::default() }));
        let (mut one, mut other) = (limits.arriving(), limits.arriving());
        one.grow(6).unwrap();
        assert!(other.grow(6).is_err());
        drop(other);
        one.clear();
        assert!(limits.arriving().grow(10).is_ok());
    }
}
