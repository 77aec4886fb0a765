//! Rate limits, concurrency limits and memory budgets: for all peers together, for one address, and for one token's subject.
//!
//! A count, of things or of bytes, is held by a guard and released when the guard is dropped, so that no return path can leak it.
//! A rate is a leaky bucket (GCRA, by `governor`). Both are kept by key; the number of keys is bounded, so that a flood of new
//! addresses costs no memory. This module decides; the caller sends the refusal.

mod accounts;
mod buckets;
mod counts;
mod memory;
mod publishing;
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
use publishing::PublishRates;
use rates::{Rate, Rates};
use scans::Scans;
use tickets::Tickets;

pub use counts::Permit;
pub use memory::{InboundBudget, MemoryOptions, OutboundBudget};
pub use publishing::EVENT_BYTES_RATE_MAX;
pub(crate) use refusal_log::{Refusal, RefusalLog};
pub use scans::Scanner;

/// The limits. `None` is any number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitOptions {
    /// Most connections at a time.
    pub connections_max: usize,
    /// Most connections of one address at a time.
    pub connections_per_address_max: Option<usize>,
    /// Most open subscriptions at a time: streams and long polls.
    pub held_max: usize,
    /// Most open subscriptions of one address.
    pub held_per_address_max: Option<usize>,
    /// Most open subscriptions of one subject.
    pub held_per_subject_max: Option<usize>,
    /// Subscriptions that one address may begin a second; a new token on a WebSocket counts as one.
    pub connects_per_address: Option<NonZeroU32>,
    /// Subscriptions that one subject may begin a second.
    pub connects_per_subject: Option<NonZeroU32>,
    /// The burst of the rates of subscriptions and of other requests.
    pub connect_burst: NonZeroU32,
    /// Requests a second of one address that are neither a publish nor a subscription, or that are refused.
    pub requests_per_address: Option<NonZeroU32>,
    /// Events that one address may publish a second.
    pub events_per_address: Option<NonZeroU32>,
    /// Events that one subject may publish a second.
    pub events_per_subject: Option<NonZeroU32>,
    /// The burst of the rates of events.
    pub event_burst: NonZeroU32,
    /// Bytes of events that one address may publish a second, at most [`EVENT_BYTES_RATE_MAX`].
    pub event_bytes_per_address: Option<NonZeroU32>,
    /// Bytes of events that one subject may publish a second, at most [`EVENT_BYTES_RATE_MAX`].
    pub event_bytes_per_subject: Option<NonZeroU32>,
    /// The burst of the rates of bytes, in bytes; at least a second's worth.
    pub event_bytes_burst: NonZeroU32,
    /// The memory budgets.
    pub memory: MemoryOptions,
    /// Whether event ids published without a subject count against the address's share of the table of ids.
    pub publishers_by_address: bool,
    /// Most unused tickets of one address, made with tokens that name no subject.
    pub tickets_per_address_max: Option<usize>,
    /// Most unused tickets of one subject.
    pub tickets_per_subject_max: Option<usize>,
    /// Rows of the log a second that may be examined for one address without matching its patterns.
    pub scan_rows_per_address: Option<NonZeroU32>,
    /// Rows of the log a second that may be examined for one subject without matching its patterns.
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
            event_bytes_per_address: None,
            event_bytes_per_subject: None,
            event_bytes_burst: const { NonZeroU32::new(8 << 20).unwrap() },
            memory: MemoryOptions::default(),
            publishers_by_address: false,
            tickets_per_address_max: None,
            tickets_per_subject_max: None,
            scan_rows_per_address: None,
            scan_rows_per_subject: None,
        }
    }
}

/// The keys that something is counted against: an address, and the subject of a token, if there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateKey {
    address: Key,
    subject: Option<Key>,
    /// The token's `rate` claim in events a second, which replaces the address's limit.
    event_rate: Option<NonZeroU32>,
}

impl RateKey {
    /// An address without a subject. An IPv6 network (a /64, RFC 6177 §2) counts as one address, since a site that has
    /// one of its addresses has all of them.
    #[must_use]
    pub fn at(address: IpAddr) -> Self {
        let network = match address.to_canonical() {
            IpAddr::V6(v6) => IpAddr::V6((v6.to_bits() >> 64 << 64).into()),
            v4 => v4,
        };
        Self { address: Key::Address(network), subject: None, event_rate: None }
    }

    /// The IPv4 address or the IPv6 network.
    #[must_use]
    pub fn address(&self) -> IpAddr {
        match self.address {
            Key::Address(address) => address,
            // Unreachable: `at` sets an address.
            Key::Subject(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        }
    }

    /// The subject, if a token names one.
    pub(crate) fn subject(&self) -> Option<&str> {
        match &self.subject {
            Some(Key::Subject(subject)) => Some(subject),
            _ => None,
        }
    }

    /// Adds the subject of a token.
    #[must_use]
    pub fn named(self, subject: Option<Arc<str>>) -> Self {
        Self { subject: subject.map(Key::Subject), ..self }
    }

    /// Adds the `rate` claim of a token: it replaces the event rates of the address and the subject.
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
    /// How error messages name the key.
    const ADDRESS: &str = "this address";
    const SUBJECT: &str = "this subject";
}

/// A request exceeds a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitError {
    /// All peers together have reached the limit.
    #[error("this server has reached its limit of {0}; try again later")]
    ServerFull(&'static str),
    /// One address or subject has reached its limit.
    #[error("{whose} has reached its limit of {what}; end some, or try again later")]
    Count {
        /// What is counted: a plural noun.
        what: &'static str,
        /// `this address` or `this subject`.
        whose: &'static str,
    },
    /// One address or subject holds as much memory as it may.
    #[error(
        "{whose} has reached its limit of memory on this server (--max-memory-per-peer): end some requests or read their \
         responses, or try again later"
    )]
    Memory {
        /// `this address` or `this subject`.
        whose: &'static str,
    },
    /// One address or subject exceeds a rate.
    #[error("{whose} exceeds its limit of {per_second} {what} a second ({set_by}); slow down")]
    Rate {
        /// What is limited: a plural noun.
        what: &'static str,
        /// `this address` or `this subject`.
        whose: &'static str,
        /// The limit.
        per_second: NonZeroU32,
        /// What sets the limit: a flag, or a claim.
        set_by: &'static str,
        /// How long until the rate allows it.
        wait: Duration,
    },
    /// More in one request than the burst allows, however long the client waits.
    #[error("at most {burst} {what} may be published in one request ({set_by})")]
    Burst {
        /// What is limited: a plural noun.
        what: &'static str,
        /// The limit.
        burst: NonZeroU32,
        /// What sets the limit: a flag.
        set_by: &'static str,
    },
}

/// The counts and rates of one server, shared by its workers.
pub struct Limits {
    options: LimitOptions,
    connections: Arc<Counts>,
    held: Arc<Counts>,
    connects: Rates,
    requests: Rates,
    publishing: PublishRates,
    memory: Memory,
    refusals: RefusalLog,
    scans: Scans,
    tickets: Tickets,
    publishers: RandomState,
}

/// How much of the limits is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Open connections, and the most of them.
    pub(crate) connections: usize,
    pub(crate) connections_max: usize,
    /// Bytes that are charged to peers, in both directions.
    pub(crate) charged_bytes: usize,
}

impl Limits {
    /// Limits with nothing counted yet.
    #[must_use]
    pub fn new(options: LimitOptions) -> Self {
        let rate = |per_second: Option<NonZeroU32>, set_by| {
            let (burst, burst_set_by) = (options.connect_burst, "--connect-burst");
            per_second.map(|per_second| Rate { per_second, burst, set_by, burst_set_by })
        };
        Self {
            connections: Arc::default(),
            held: Arc::default(),
            connects: Rates::new(
                "subscriptions",
                rate(options.connects_per_address, "--connect-rate-per-address"),
                rate(options.connects_per_subject, "--connect-rate-per-subject"),
            ),
            requests: Rates::new("requests", rate(options.requests_per_address, "--request-rate-per-address"), None),
            publishing: PublishRates::new(&options),
            refusals: RefusalLog::default(),
            memory: Memory::new(options.memory),
            scans: Scans::new(options.scan_rows_per_address, options.scan_rows_per_subject),
            tickets: Tickets::new(options.tickets_per_address_max, options.tickets_per_subject_max),
            publishers: RandomState::new(),
            options,
        }
    }

    #[cfg(test)]
    pub(crate) fn options(&self) -> &LimitOptions {
        &self.options
    }

    /// Counts a connection of an address, or of a trusted proxy (`None`), which may have any number.
    ///
    /// # Errors
    /// [`LimitError::ServerFull`], [`LimitError::Count`].
    pub fn connection(&self, key: Option<&RateKey>) -> Result<Permit, LimitError> {
        let address = key.zip(self.options.connections_per_address_max).map(|(key, max)| (key.address.clone(), max));
        self.connections.count("connections", self.options.connections_max, address, None)
    }

    /// Counts an open subscription: a stream or a long poll.
    ///
    /// # Errors
    /// [`LimitError::ServerFull`], [`LimitError::Count`].
    pub fn hold(&self, key: &RateKey) -> Result<Permit, LimitError> {
        let address = self.options.held_per_address_max.map(|max| (key.address.clone(), max));
        let subject = key.subject.clone().zip(self.options.held_per_subject_max);
        self.held.count("subscriptions", self.options.held_max, address, subject)
    }

    /// Counts a new subscription, or a new token on a WebSocket.
    ///
    /// # Errors
    /// [`LimitError::Rate`].
    pub fn connect(&self, key: &RateKey) -> Result<(), LimitError> {
        self.connects.take(key, NonZeroU32::MIN)
    }

    /// Counts a request that is neither a publish nor a subscription, or was refused before it could be counted as one.
    ///
    /// # Errors
    /// [`LimitError::Rate`].
    pub fn request(&self, key: &RateKey) -> Result<(), LimitError> {
        self.requests.take(key, NonZeroU32::MIN)
    }

    /// Whose share of the table of ids a publish counts against: the subject's, else the address's if those are counted.
    #[must_use]
    pub fn publisher(&self, key: &RateKey) -> Option<Publisher> {
        let address = self.options.publishers_by_address.then_some(&key.address);
        let whose = key.subject.as_ref().or(address)?;
        // Publishers whose hashes collide (one in 2^64) have one share together.
        std::num::NonZeroU64::new(self.publishers.hash_one(whose)).map(Publisher)
    }

    /// Reserves the count of a ticket that is about to be made. Pass the permit to [`Self::ticket_made`]. `on_all_nodes` is how
    /// many unused tickets the peer has on all nodes, where the store counts them: nodes that make one at the same moment may each
    /// exceed the limit by it.
    ///
    /// # Errors
    /// [`LimitError::Count`].
    pub fn ticket(&self, key: &RateKey, on_all_nodes: Option<u64>) -> Result<Permit, LimitError> {
        self.tickets.count(key, on_all_nodes, Instant::now())
    }

    /// Counts a ticket that was made, until it is used or `ttl` is over.
    pub fn ticket_made(&self, name: &str, permit: Permit, ttl: Duration) {
        self.tickets.made(name, permit, ttl, Instant::now());
    }

    /// Releases the count of a ticket that was used.
    pub fn ticket_used(&self, name: &str) {
        self.tickets.used(name);
    }

    /// Admits a search of the log.
    ///
    /// # Errors
    /// [`LimitError::Rate`] where the peer's debt of rows that did not match is too large.
    pub fn scan(self: &Arc<Self>, key: &RateKey) -> Result<Scanner, LimitError> {
        self.scans.check(key, Instant::now())?;
        Ok(self.scanner(key))
    }

    /// Charges a peer for rows that do not match, whatever its debt is already.
    #[must_use]
    pub fn scanner(self: &Arc<Self>, key: &RateKey) -> Scanner {
        Scanner::new(self.clone(), key.clone())
    }

    /// Counts events that are about to be published: their number, and their bytes as the store's retention counts them.
    ///
    /// # Errors
    /// [`LimitError::Rate`], [`LimitError::Burst`].
    pub fn publish(&self, key: &RateKey, events: usize, bytes: u64) -> Result<(), LimitError> {
        self.publish_events(key, events)?;
        self.publish_bytes(key, bytes)
    }

    /// As [`Self::publish`], only their number: for a publisher that waits for each of the two rates, and must not use up one while
    /// it waits for the other.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_events(&self, key: &RateKey, events: usize) -> Result<(), LimitError> {
        self.publishing.take_events(key, events)
    }

    /// As [`Self::publish`], only their bytes.
    ///
    /// # Errors
    /// As [`Self::publish`].
    pub fn publish_bytes(&self, key: &RateKey, bytes: u64) -> Result<(), LimitError> {
        self.publishing.take_bytes(key, bytes)
    }

    /// Whether an event of about so many bytes could be published now. It is not counted: a publish is refused by this before its body
    /// is read, and counted once that has arrived.
    ///
    /// # Errors
    /// [`LimitError::Rate`].
    pub fn check_publish(&self, key: &RateKey, bytes: u64) -> Result<(), LimitError> {
        self.publishing.look(key, bytes)
    }

    /// Most events that can be published in one request; `None` where that is not limited.
    #[must_use]
    pub fn event_burst(&self, key: &RateKey) -> Option<NonZeroU32> {
        self.publishing.event_burst(key)
    }

    /// Most bytes of events that can be published in one request; `None` where that is not limited.
    #[must_use]
    pub fn event_bytes_burst(&self, key: &RateKey) -> Option<NonZeroU32> {
        self.publishing.bytes_burst(key)
    }

    /// A budget for a request body or message of a peer, with no bytes held yet.
    #[must_use]
    pub fn inbound(self: &Arc<Self>, key: RateKey) -> InboundBudget {
        InboundBudget::new(self.clone(), key)
    }

    /// A budget for bytes that wait until a peer reads them, with no bytes held yet.
    #[must_use]
    pub fn outbound(self: &Arc<Self>, key: RateKey) -> OutboundBudget {
        OutboundBudget::new(self.clone(), key)
    }

    /// How much of the limits is used.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            connections: self.connections.all(),
            connections_max: self.options.connections_max,
            charged_bytes: self.memory.charged_bytes(),
        }
    }

    /// The log of refusals.
    pub(crate) fn refusals(&self) -> &RefusalLog {
        &self.refusals
    }

    /// Removes the keys whose rates have recovered, and logs the summaries of refusals that are due. Called about once a
    /// second.
    pub fn sweep(&self) {
        self.connects.sweep();
        self.requests.sweep();
        self.publishing.sweep();
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
        assert!(limits.hold(&other).is_ok(), "a refused subscription is not counted");
        drop(third);
        assert!(limits.hold(&named).is_ok());
    }

    #[test]
    fn a_rate_is_a_burst_and_then_a_pace() {
        let rate = |number| NonZeroU32::new(number);
        let options = LimitOptions { events_per_address: rate(1), events_per_subject: rate(1), ..Default::default() };
        let limits = Limits::new(LimitOptions { event_burst: rate(10).unwrap(), ..options });
        let one = key("10.0.0.1");
        assert!(matches!(limits.publish(&one, 11, 0), Err(LimitError::Burst { what: "events", .. })));
        limits.publish(&one, 10, 0).unwrap();
        let Err(LimitError::Rate { wait, .. }) = limits.publish(&one, 5, 0) else { panic!("the burst is used up") };
        assert!(wait > Duration::from_secs(3) && wait <= Duration::from_secs(5), "{wait:?}");
        limits.publish(&key("10.0.0.2"), 10, 0).unwrap();
        // A subject is counted across addresses.
        limits.publish(&key("10.0.0.3").named(Some("li".into())), 10, 0).unwrap();
        let elsewhere = limits.publish(&key("10.0.0.4").named(Some("li".into())), 1, 0);
        assert!(matches!(elsewhere, Err(LimitError::Rate { whose: "this subject", .. })), "{elsewhere:?}");
        assert_eq!(limits.connect(&one), Ok(()), "a rate that is not set refuses nothing");
    }
}
