//! What all peers together, one address or one subject may take: counted here, refused by the caller.
//!
//! A count, of things or of bytes, is held by a guard and given back when that is dropped, so that no way out can forget to.
//! A rate is a bucket that refills (GCRA, by `governor`). Both are kept by key; the keys are bounded, so that a flood of new
//! ones costs no memory.

mod accounts;
mod counts;
mod memory;
mod rates;
mod refusal_log;
mod scans;
mod tickets;

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::event::Publisher;
use counts::Counts;
use memory::Memory;
use rates::{ClaimedRates, Rate, Rates};
use scans::Scans;
use tickets::Tickets;

pub use counts::Permit;
pub use memory::{InboundBudget, MemoryOptions, OutboundBudget};
pub(crate) use refusal_log::{Refusal, RefusalLog};
pub use scans::Scanner;

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
    /// How many may begin at once, before the rates count; of other requests, too.
    pub connect_burst: NonZeroU32,
    /// Requests a second of one address that are neither a publish nor a subscription, or are refused.
    pub requests_per_address: Option<NonZeroU32>,
    /// Events that one address may publish a second.
    pub events_per_address: Option<NonZeroU32>,
    /// Events that one subject may publish a second.
    pub events_per_subject: Option<NonZeroU32>,
    /// How many may be published at once, before the rates count.
    pub event_burst: NonZeroU32,
    /// How much memory peers may make the server hold.
    pub memory: MemoryOptions,
    /// Whether the ids that an address publishes without a subject take from a share of the table of ids.
    pub publishers_by_address: bool,
    /// Most unused tickets of one address, made with tokens that name no subject.
    pub tickets_per_address_max: Option<usize>,
    /// Most unused tickets of one subject.
    pub tickets_per_subject_max: Option<usize>,
    /// Rows of the log that one address may have looked at in vain a second: those that do not match what it asks for.
    pub scan_rows_per_address: Option<NonZeroU32>,
    /// Rows that one subject may have looked at in vain a second.
    pub scan_rows_per_subject: Option<NonZeroU32>,
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
            requests_per_address: None,
            events_per_address: None,
            events_per_subject: None,
            event_burst: burst,
            memory: MemoryOptions::default(),
            publishers_by_address: false,
            tickets_per_address_max: None,
            tickets_per_subject_max: None,
            scan_rows_per_address: None,
            scan_rows_per_subject: None,
        }
    }
}

/// What something is counted against: an address, and the subject of a token beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateKey {
    address: Key,
    subject: Option<Key>,
    /// Events a second that its token claims, instead of what an address may publish.
    event_rate: Option<NonZeroU32>,
}

impl RateKey {
    /// An address without a subject. One network of IPv6 (a /64, RFC 6177 §2) counts as one address, since a site that has
    /// one of its addresses has all of them.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        let network = match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
            v4 => v4,
        };
        Self { address: Key::Address(network), subject: None, event_rate: None }
    }

    /// The address, or the network of one of IPv6.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        match self.address {
            Key::Address(address) => address,
            // What is made by `at` has an address.
            Key::Subject(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        }
    }

    /// The subject, where a token names one.
    pub(crate) fn subject(&self) -> Option<&str> {
        match &self.subject {
            Some(Key::Subject(subject)) => Some(subject),
            _ => None,
        }
    }

    /// With the subject of a token.
    #[must_use]
    pub fn named(self, subject: Option<Arc<str>>) -> Self {
        Self { subject: subject.map(Key::Subject), ..self }
    }

    /// With the pace of publishing that a token claims: it stands in for those of the address and of any subject.
    #[must_use]
    pub fn with_event_rate(self, per_second: Option<NonZeroU32>) -> Self {
        Self { event_rate: per_second, ..self }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Key {
    Address(IpAddr),
    Subject(Arc<str>),
}

impl Key {
    /// How a refusal names the key.
    const ADDRESS: &str = "this address";
    const SUBJECT: &str = "this subject";
}

/// What was asked for is too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// All peers together have as many as there may be.
    #[error("this server has as many {0} as it takes at the moment; try again later")]
    ServerFull(&'static str),
    /// Of one address or subject.
    #[error("there are as many {what} of {whose} as one may have; end some, or try again later")]
    Count {
        /// Of what.
        what: &'static str,
        /// `this address` or `this subject`.
        whose: &'static str,
    },
    /// One address or subject holds as much memory as it may.
    #[error(
        "{whose} holds as many bytes here as one may (--max-memory-per-peer): end some requests or read their answers, or try again later"
    )]
    Memory {
        /// `this address` or `this subject`.
        whose: &'static str,
    },
    /// Too fast, from one address or subject.
    #[error("{whose} is too fast: it may {what} {per_second} a second ({set_by}); slow down")]
    Rate {
        /// What it does.
        what: &'static str,
        /// `this address` or `this subject`.
        whose: &'static str,
        /// How many it may.
        per_second: NonZeroU32,
        /// What sets that: a flag, or a claim.
        set_by: &'static str,
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
    requests: Rates,
    events: Rates,
    claimed: ClaimedRates,
    memory: Memory,
    refusals: RefusalLog,
    scans: Scans,
    tickets: Tickets,
    publishers: RandomState,
}

impl Limits {
    /// Nothing is counted yet.
    #[must_use]
    pub fn new(options: LimitOptions) -> Self {
        let rate = |per_second: Option<NonZeroU32>, burst, set_by| {
            per_second.map(|per_second| Rate { per_second, burst, set_by })
        };
        let (connect, event) = (options.connect_burst, options.event_burst);
        let events_of_address = "--publish-rate-per-address, or the claim rate of its token";
        Self {
            connections: Arc::default(),
            held: Arc::default(),
            connects: Rates::new(
                "subscribe",
                rate(options.connects_per_address, connect, "--connect-rate-per-address"),
                rate(options.connects_per_subject, connect, "--connect-rate-per-subject"),
            ),
            requests: Rates::new(
                "ask for something",
                rate(options.requests_per_address, connect, "--request-rate-per-address"),
                None,
            ),
            events: Rates::new(
                "publish",
                rate(options.events_per_address, event, events_of_address),
                rate(options.events_per_subject, event, "--publish-rate-per-subject, or the claim rate of its token"),
            ),
            claimed: ClaimedRates::new("publish", event),
            refusals: RefusalLog::default(),
            memory: Memory::new(options.memory),
            scans: Scans::new(options.scan_rows_per_address, options.scan_rows_per_subject),
            tickets: Tickets::default(),
            publishers: RandomState::new(),
            options,
        }
    }

    /// A connection of an address, or of a trusted proxy (`None`), which has any number.
    ///
    /// # Errors
    /// [`LimitError::ServerFull`], [`LimitError::Count`].
    pub fn connection(&self, key: Option<&RateKey>) -> Result<Permit, LimitError> {
        let address = key.zip(self.options.connections_per_address_max).map(|(key, max)| (key.address.clone(), max));
        self.connections.count("connections", self.options.connections_max, address, None)
    }

    /// A subscription that stays open for a while.
    ///
    /// # Errors
    /// [`LimitError::ServerFull`], [`LimitError::Count`].
    pub fn hold(&self, key: &RateKey) -> Result<Permit, LimitError> {
        let address = self.options.held_per_address_max.map(|max| (key.address.clone(), max));
        let subject = key.subject.clone().zip(self.options.held_per_subject_max);
        self.held.count("subscriptions", self.options.held_max, address, subject)
    }

    /// A subscription begins, or a socket shows another token.
    ///
    /// # Errors
    /// [`LimitError::Rate`].
    pub fn connect(&self, key: &RateKey) -> Result<(), LimitError> {
        self.connects.take(key, NonZeroU32::MIN)
    }

    /// A request that is neither a publish nor a subscription, or was refused before it could be counted as one.
    ///
    /// # Errors
    /// [`LimitError::Rate`].
    pub fn request(&self, key: &RateKey) -> Result<(), LimitError> {
        self.requests.take(key, NonZeroU32::MIN)
    }

    /// Whose share of the table of ids a publish takes: the subject's, or the address's where there is none and it is counted.
    #[must_use]
    pub fn publisher(&self, key: &RateKey) -> Option<Publisher> {
        let address = self.options.publishers_by_address.then_some(&key.address);
        let whose = key.subject.as_ref().or(address)?;
        // Two that fall together, which is one in 2^64, share a share.
        std::num::NonZeroU64::new(self.publishers.hash_one(whose)).map(Publisher)
    }

    /// A ticket is to be made. The permit is to be given to [`Self::ticket_made`].
    ///
    /// # Errors
    /// [`LimitError::Count`].
    pub fn ticket(&self, key: &RateKey) -> Result<Permit, LimitError> {
        let (address, subject) = (self.options.tickets_per_address_max, self.options.tickets_per_subject_max);
        self.tickets.count(key, address, subject, Instant::now())
    }

    /// A ticket was made, and counts until it is used or `ttl` is over.
    pub fn ticket_made(&self, name: &str, permit: Permit, ttl: Duration) {
        self.tickets.made(name, permit, ttl, Instant::now());
    }

    /// A ticket is used up.
    pub fn ticket_used(&self, name: &str) {
        self.tickets.used(name);
    }

    /// A search of the log begins.
    ///
    /// # Errors
    /// [`LimitError::Rate`] where the peer owes too much for what was looked at in vain.
    pub fn scan(self: &Arc<Self>, key: &RateKey) -> Result<Scanner, LimitError> {
        self.scans.check(key, Instant::now())?;
        Ok(self.scanner(key))
    }

    /// Who pays for what is looked at in vain, whatever it owes already.
    #[must_use]
    pub fn scanner(self: &Arc<Self>, key: &RateKey) -> Scanner {
        Scanner::new(self.clone(), key.clone())
    }

    /// Events are about to be published.
    ///
    /// # Errors
    /// [`LimitError::Rate`], [`LimitError::Burst`].
    pub fn publish(&self, key: &RateKey, events: usize) -> Result<(), LimitError> {
        let events = u32::try_from(events).unwrap_or(u32::MAX);
        match (NonZeroU32::new(events), key.event_rate) {
            (None, _) => Ok(()),
            (Some(events), Some(rate)) => self.claimed.take(key, rate, events),
            (Some(events), None) => self.events.take(key, events),
        }
    }

    /// Most events that can ever be published at once; `None` where that is not limited.
    #[must_use]
    pub fn event_burst(&self, key: &RateKey) -> Option<NonZeroU32> {
        key.event_rate.map_or_else(|| self.events.burst(key), |rate| Some(self.claimed.burst(rate)))
    }

    /// Memory for a body or message of a peer; none of it is held yet.
    #[must_use]
    pub fn inbound(self: &Arc<Self>, key: RateKey) -> InboundBudget {
        InboundBudget::new(self.clone(), key)
    }

    /// Memory for what waits until a peer takes it; none of it is held yet.
    #[must_use]
    pub fn outbound(self: &Arc<Self>, key: RateKey) -> OutboundBudget {
        OutboundBudget::new(self.clone(), key)
    }

    /// What was refused lately.
    pub(crate) fn refusals(&self) -> &RefusalLog {
        &self.refusals
    }

    /// Forgets the keys whose rates have recovered, and writes the summaries of refusals that are due. Called about once a
    /// second.
    pub fn sweep(&self) {
        self.connects.sweep();
        self.requests.sweep();
        self.events.sweep();
        self.claimed.sweep();
        self.refusals.sweep(Instant::now());
        self.tickets.expire(Instant::now());
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

#[cfg(test)]
mod tests {
    use super::*;

    fn key(text: &str) -> RateKey {
        RateKey::at(text.parse().unwrap())
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:1"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_eq!(key("::ffff:10.0.0.1"), key("10.0.0.1"));
    }

    #[test]
    fn counts_are_given_back() {
        let options = LimitOptions { held_max: 3, held_per_address_max: Some(2), ..LimitOptions::default() };
        let limits = Limits::new(LimitOptions { held_per_subject_max: Some(1), ..options });
        let (one, other) = (key("10.0.0.1"), key("10.0.0.2"));
        let named = other.clone().named(Some("li".into()));
        let first = limits.hold(&one).unwrap();
        let _second = limits.hold(&one).unwrap();
        assert!(matches!(limits.hold(&one), Err(LimitError::Count { whose: "this address", .. })));
        let third = limits.hold(&named).unwrap();
        assert_eq!(limits.hold(&other).unwrap_err(), LimitError::ServerFull("subscriptions"));
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
        let one = key("10.0.0.1");
        assert_eq!(limits.publish(&one, 11), Err(LimitError::Burst(rate(10).unwrap())));
        limits.publish(&one, 10).unwrap();
        let Err(LimitError::Rate { wait, .. }) = limits.publish(&one, 5) else { panic!("it has published ten") };
        assert!(wait > Duration::from_secs(3) && wait <= Duration::from_secs(5), "{wait:?}");
        limits.publish(&key("10.0.0.2"), 10).unwrap();
        // The same subject from elsewhere is the same subject.
        limits.publish(&key("10.0.0.3").named(Some("li".into())), 10).unwrap();
        let elsewhere = limits.publish(&key("10.0.0.4").named(Some("li".into())), 1);
        assert!(matches!(elsewhere, Err(LimitError::Rate { whose: "this subject", .. })), "{elsewhere:?}");
        assert_eq!(limits.connect(&one), Ok(()), "what is not limited is not refused");
    }
}
