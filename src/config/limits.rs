//! The flags of the limits: for one client, one address, one subject, and the whole server.

use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use super::ConfigError;
use super::values::{bytes, duration};
use crate::http::ProxyHeader;
use crate::limits::{EVENT_BYTES_RATE_MAX, LimitOptions, MemoryOptions};

/// The default limits of one address where the server listens on other addresses than loopback. One address may be that of an
/// office or a mobile network.
const ADDRESS_CONNECTIONS: usize = 1000;
const ADDRESS_CONNECTS_PER_SECOND: u32 = 200;
const ADDRESS_EVENTS_PER_SECOND: u32 = 1000;
const ADDRESS_REQUESTS_PER_SECOND: u32 = 100;

/// How long one publisher takes, by default, to replace everything that the log retains: time for an operator to notice, and to
/// revoke its token.
const REPLACED_IN_SECONDS: u64 = 4 * 3600;

/// The range of that default, in bytes a second. At the lower end the default rate of events is reached with short events only;
/// at the upper end one publisher leaves the disk to others.
const EVENT_BYTES_PER_SECOND: std::ops::RangeInclusive<u64> = 128 << 10..=4 << 20;

/// What the limits follow from, besides their own flags.
#[derive(Clone, Copy, Debug)]
pub(super) struct Basis {
    /// Whether the server listens on loopback only.
    pub(super) loopback: bool,
    /// Most bytes of events that are retained; 0 is any.
    pub(super) retained_bytes: u64,
    /// Longest batch, in bytes.
    pub(super) batch_bytes: u64,
}

impl Basis {
    fn event_bytes_per_second(&self) -> u64 {
        let (least, most) = EVENT_BYTES_PER_SECOND.into_inner();
        if self.retained_bytes == 0 { most } else { (self.retained_bytes / REPLACED_IN_SECONDS).clamp(least, most) }
    }
}

/// The limits. Those of an address are off by default where the server listens on loopback only and no proxy is trusted: all
/// clients have the same address then. The limits of memory and of subjects apply everywhere.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// Most concurrent connections of all workers; on further ones a request is answered 503 and the connection closed
    #[arg(long, env = "SWITCHBACK_MAX_CONNECTIONS", value_name = "NUMBER", default_value_t = 25_000)]
    pub max_connections: usize,
    /// Most concurrent connections of one address (IPv6: of one /64) except trusted proxies; on further ones a request is
    /// answered 429 and the connection closed (0: any number) [default: 1000; on loopback 0]
    #[arg(long, env = "SWITCHBACK_MAX_CONNECTIONS_PER_ADDRESS", value_name = "NUMBER")]
    pub max_connections_per_address: Option<usize>,
    /// Most open subscriptions (streams and long polls); further ones are answered 503
    #[arg(long, env = "SWITCHBACK_MAX_HELD", value_name = "NUMBER", default_value_t = 25_000)]
    pub max_held: usize,
    /// Most open subscriptions of one client address; further ones are answered 429 (0: any number)
    /// [default: 1000; on loopback 0]
    #[arg(long, env = "SWITCHBACK_MAX_HELD_PER_ADDRESS", value_name = "NUMBER")]
    pub max_held_per_address: Option<usize>,
    /// Most open subscriptions of one token's subject; further ones are answered 429 (0: any number)
    #[arg(long, env = "SWITCHBACK_MAX_HELD_PER_SUBJECT", value_name = "NUMBER", default_value_t = 1000)]
    pub max_held_per_subject: usize,
    /// Subscriptions that one client address may begin a second, including polls; further ones are answered 429 (0: any
    /// number) [default: 200; on loopback 0]
    #[arg(long, env = "SWITCHBACK_CONNECT_RATE_PER_ADDRESS", value_name = "NUMBER")]
    pub connect_rate_per_address: Option<u32>,
    /// Subscriptions that one token's subject may begin a second (0: any number)
    #[arg(long, env = "SWITCHBACK_CONNECT_RATE_PER_SUBJECT", value_name = "NUMBER", default_value_t = 200)]
    pub connect_rate_per_subject: u32,
    /// Other requests of one client address a second, and refused ones; further ones are answered 429. /healthz
    /// and /readyz do not count (0: any number) [default: 100; on loopback 0]
    #[arg(long, env = "SWITCHBACK_REQUEST_RATE_PER_ADDRESS", value_name = "NUMBER")]
    pub request_rate_per_address: Option<u32>,
    /// The burst of those rates: how many subscriptions or requests may arrive at once
    #[arg(long, env = "SWITCHBACK_CONNECT_BURST", value_name = "NUMBER", default_value_t = 1000)]
    pub connect_burst: u32,
    /// Events that one client address may publish a second; further publishes are answered 429, and a stream of lines
    /// is slowed down (0: any number) [default: 1000; on loopback 0]
    #[arg(long, env = "SWITCHBACK_PUBLISH_RATE_PER_ADDRESS", value_name = "NUMBER")]
    pub publish_rate_per_address: Option<u32>,
    /// Events that one token's subject may publish a second; a token's claim `rate` replaces this limit and the address's
    /// (0: any number)
    #[arg(long, env = "SWITCHBACK_PUBLISH_RATE_PER_SUBJECT", value_name = "NUMBER", default_value_t = 1000)]
    pub publish_rate_per_subject: u32,
    /// The burst of those rates: how many events may be published at once; a larger batch is answered 413
    #[arg(long, env = "SWITCHBACK_PUBLISH_BURST", value_name = "NUMBER", default_value_t = 1000)]
    pub publish_burst: u32,
    /// Bytes of events that one client address may publish a second; further publishes are answered 429, and a stream of lines
    /// is slowed down (0: any number) [default: what lets the address replace --max-bytes in four hours, from 128KiB to 4MiB; on
    /// loopback 0]
    #[arg(long, env = "SWITCHBACK_PUBLISH_BYTES_PER_ADDRESS", value_name = "BYTES", value_parser = bytes)]
    pub publish_bytes_per_address: Option<u64>,
    /// Bytes of events that one token's subject may publish a second; a token's claim `rate` above --publish-rate-per-subject
    /// raises this limit in proportion, and replaces the address's (0: any number) [default: as for an address, on loopback too]
    #[arg(long, env = "SWITCHBACK_PUBLISH_BYTES_PER_SUBJECT", value_name = "BYTES", value_parser = bytes)]
    pub publish_bytes_per_subject: Option<u64>,
    /// Most unused tickets of one token's subject; requests for more are answered 429 (0: any number)
    #[arg(long, env = "SWITCHBACK_MAX_TICKETS_PER_SUBJECT", value_name = "NUMBER", default_value_t = 5000)]
    pub max_tickets_per_subject: usize,
    /// Most unused tickets of one client address, made with tokens without a subject (0: any number)
    #[arg(long, env = "SWITCHBACK_MAX_TICKETS_PER_ADDRESS", value_name = "NUMBER", default_value_t = 5000)]
    pub max_tickets_per_address: usize,
    /// Rows of the log a second that may be read for one client address without matching its patterns; above that its reads
    /// wait, and new ones are answered 429 (0: any number)
    #[arg(long, env = "SWITCHBACK_SCAN_RATE_PER_ADDRESS", value_name = "ROWS", default_value_t = 100_000)]
    pub scan_rate_per_address: u32,
    /// Rows of the log a second that may be read for one token's subject without a match (0: any number)
    #[arg(long, env = "SWITCHBACK_SCAN_RATE_PER_SUBJECT", value_name = "ROWS", default_value_t = 100_000)]
    pub scan_rate_per_subject: u32,
    /// Most patterns of a subscription (1 to 64); a subscription with more is answered 400
    #[arg(long, env = "SWITCHBACK_MAX_PATTERNS", value_name = "NUMBER", default_value_t = 64)]
    pub max_patterns: usize,
    /// Longest WebSocket message, and frame, on /v1/ws; a longer one closes the WebSocket with 1009. At least max-event-bytes
    #[arg(long, env = "SWITCHBACK_MAX_WS_BYTES", value_name = "BYTES", default_value = "1MiB", value_parser = bytes)]
    pub max_ws_bytes: u64,
    /// Longest WebSocket message on /v1/echo; a longer one closes the WebSocket with 1009
    #[arg(long, env = "SWITCHBACK_MAX_ECHO_BYTES", value_name = "BYTES", default_value = "16MiB", value_parser = bytes)]
    pub max_echo_bytes: u64,
    /// Most memory held for one client address, or one token's subject: bodies and messages that are arriving or being
    /// stored, the patterns of its open subscriptions, and unread responses; above that a request is answered
    /// 429, and a connection that reads nothing is closed (0: any)
    #[arg(long, env = "SWITCHBACK_MAX_MEMORY_PER_PEER", value_name = "BYTES", default_value = "64MiB", value_parser = bytes)]
    pub max_memory_per_peer: u64,
    /// Most bytes of bodies and messages that are arriving or being stored, of all requests together; further requests are
    /// answered 503
    #[arg(long, env = "SWITCHBACK_MAX_ARRIVING_BYTES", value_name = "BYTES", default_value = "256MiB", value_parser = bytes)]
    pub max_arriving_bytes: u64,
    /// How many of them are reserved for bodies below 64KiB and for administrators: less than half [default: a sixteenth]
    #[arg(long, env = "SWITCHBACK_RESERVED_ARRIVING_BYTES", value_name = "BYTES", value_parser = bytes)]
    pub reserved_arriving_bytes: Option<u64>,
    /// Most bytes that wait to be sent on all connections together, including the patterns of open subscriptions;
    /// above that a subscription is answered 503, and a connection that reads nothing is closed
    #[arg(long, env = "SWITCHBACK_MAX_UNSENT_BYTES", value_name = "BYTES", default_value = "512MiB", value_parser = bytes)]
    pub max_unsent_bytes: u64,
    /// Longest request head, its URL and headers together (up to 128KiB); a request with a longer one is answered 431. 64
    /// patterns of 255 bytes, percent-encoded, are 49 KiB
    #[arg(long, env = "SWITCHBACK_MAX_HEADER_BYTES", value_name = "BYTES", default_value = "64KiB", value_parser = bytes)]
    pub max_header_bytes: u64,
    /// Timeout of a request's head, and of the TLS handshake; then the connection is closed, after a 408 if nothing else
    /// was sent on it
    #[arg(long, env = "SWITCHBACK_HEADER_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub header_timeout: Duration,
    /// Timeout of a request's body, a line of a stream of lines, or a WebSocket message, from its first byte to its
    /// last; then the request is answered 408, and a WebSocket closed with 1013
    #[arg(long, env = "SWITCHBACK_BODY_TIMEOUT", value_name = "DURATION", default_value = "30s", value_parser = duration)]
    pub body_timeout: Duration,
    /// Idle timeout of a connection without a request. Longer than the keep-alive of a proxy in front, or the proxy
    /// will now and then use a connection that is being closed
    #[arg(long, env = "SWITCHBACK_KEEP_ALIVE", value_name = "DURATION", default_value = "75s", value_parser = duration)]
    pub keep_alive: Duration,
    /// Close a connection (Linux), or an HTTP/2 stream, whose client reads nothing of what is sent for this long
    #[arg(long, env = "SWITCHBACK_STALL_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub stall_timeout: Duration,
    /// Close a connection, or an HTTP/2 stream, whose client reads fewer bytes a second than this of what waits for it, over
    /// --read-rate-window (0: any)
    #[arg(long, env = "SWITCHBACK_MIN_READ_RATE", value_name = "BYTES", default_value_t = 1024)]
    pub min_read_rate: u32,
    /// How long bytes may wait to be read before --min-read-rate applies
    #[arg(long, env = "SWITCHBACK_READ_RATE_WINDOW", value_name = "DURATION", default_value = "60s", value_parser = duration)]
    pub read_rate_window: Duration,
    /// Most concurrent streams of one HTTP/2 connection; further requests have to wait
    #[arg(long, env = "SWITCHBACK_MAX_HTTP2_STREAMS", value_name = "NUMBER", default_value_t = 100)]
    pub max_http2_streams: u32,
    /// Trust proxies at these addresses to state their client's address: 10.0.0.0/8, ::1; repeat it, or separate with commas
    #[arg(long, env = "SWITCHBACK_TRUSTED_PROXY", value_name = "NETWORK", value_delimiter = ',', value_parser = network)]
    pub trusted_proxy: Vec<IpNet>,
    /// The header with the client's address; the other one is ignored, since a proxy may pass on what its client made up
    #[arg(long, env = "SWITCHBACK_PROXY_HEADER", value_name = "HEADER", default_value = "x-forwarded-for")]
    pub proxy_header: ProxyHeader,
}

impl LimitArgs {
    pub(super) fn check(&self, event_bytes: u64) -> Result<(), ConfigError> {
        let range = |flag, ok: bool, reason| if ok { Ok(()) } else { Err(ConfigError::Range { flag, reason }) };
        range("max-connections", self.max_connections > 0, "must be at least 1")?;
        range("max-held", self.max_held > 0, "must be at least 1")?;
        range("connect-burst", self.connect_burst > 0, "must be at least 1")?;
        range("publish-burst", self.publish_burst > 0, "must be at least 1")?;
        range("max-patterns", (1..=crate::topic::PATTERNS_MAX).contains(&self.max_patterns), "must be 1 to 64")?;
        range("max-ws-bytes", (1..=64 << 20).contains(&self.max_ws_bytes), "must be 1 to 64MiB")?;
        range("max-echo-bytes", (1..=64 << 20).contains(&self.max_echo_bytes), "must be 1 to 64MiB")?;
        range("max-arriving-bytes", self.max_arriving_bytes >= event_bytes, "must be at least max-event-bytes")?;
        range(
            "max-memory-per-peer",
            self.max_memory_per_peer == 0 || self.max_memory_per_peer > self.reserved() / 4 + event_bytes,
            "must be more than max-event-bytes and a quarter of reserved-arriving-bytes",
        )?;
        range(
            "reserved-arriving-bytes",
            self.reserved() < self.max_arriving_bytes.div_ceil(2),
            "must be less than half of max-arriving-bytes",
        )?;
        range("max-header-bytes", (1024..=128 << 10).contains(&self.max_header_bytes), "must be 1KiB to 128KiB")?;
        range("header-timeout", !self.header_timeout.is_zero(), "must be more than 0s")?;
        range("body-timeout", !self.body_timeout.is_zero(), "must be more than 0s")?;
        range("keep-alive", !self.keep_alive.is_zero(), "must be more than 0s")?;
        range("stall-timeout", self.stall_timeout >= Duration::from_millis(1), "must be more than 0s")?;
        range("read-rate-window", !self.read_rate_window.is_zero(), "must be more than 0s")?;
        for (flag, rate) in [
            ("publish-bytes-per-address", self.publish_bytes_per_address),
            ("publish-bytes-per-subject", self.publish_bytes_per_subject),
        ] {
            range(
                flag,
                rate.is_none_or(|rate| rate <= EVENT_BYTES_RATE_MAX.into()),
                "must be at most 64MiB, or 0 for any",
            )?;
        }
        range("max-http2-streams", self.max_http2_streams > 0, "must be at least 1")
    }

    /// The limits.
    pub(super) fn options(&self, basis: Basis) -> LimitOptions {
        // Behind a trusted proxy the address of every client is known, even if the proxy is on loopback.
        let loopback = basis.loopback && self.trusted_proxy.is_empty();
        let event_bytes = basis.event_bytes_per_second();
        let bytes_of_address = self.publish_bytes_per_address.unwrap_or(if loopback { 0 } else { event_bytes });
        let bytes_of_subject = self.publish_bytes_per_subject.unwrap_or(event_bytes);
        let connections = self.max_connections_per_address;
        let elsewhere = |given: Option<u32>, default| given.unwrap_or(if loopback { 0 } else { default });
        let count = |given: Option<usize>| given.unwrap_or(if loopback { 0 } else { ADDRESS_CONNECTIONS });
        LimitOptions {
            connections_max: self.max_connections,
            connections_per_address_max: some(count(connections)),
            held_max: self.max_held,
            held_per_address_max: some(count(self.max_held_per_address)),
            held_per_subject_max: some(self.max_held_per_subject),
            connects_per_address: elsewhere(self.connect_rate_per_address, ADDRESS_CONNECTS_PER_SECOND).try_into().ok(),
            connects_per_subject: self.connect_rate_per_subject.try_into().ok(),
            connect_burst: self.connect_burst.try_into().unwrap_or(std::num::NonZeroU32::MIN),
            requests_per_address: elsewhere(self.request_rate_per_address, ADDRESS_REQUESTS_PER_SECOND).try_into().ok(),
            events_per_address: elsewhere(self.publish_rate_per_address, ADDRESS_EVENTS_PER_SECOND).try_into().ok(),
            events_per_subject: self.publish_rate_per_subject.try_into().ok(),
            event_burst: self.publish_burst.try_into().unwrap_or(std::num::NonZeroU32::MIN),
            event_bytes_per_address: per_second(bytes_of_address),
            event_bytes_per_subject: per_second(bytes_of_subject),
            // A batch's events may take more bytes than its text: characters are escaped, and each event has an overhead.
            event_bytes_burst: per_second(2 * basis.batch_bytes).unwrap_or(std::num::NonZeroU32::MIN),
            memory: MemoryOptions {
                inbound_bytes_max: size(self.max_arriving_bytes),
                reserved_bytes: size(self.reserved()),
                outbound_bytes_max: size(self.max_unsent_bytes),
                bytes_per_peer_max: some(size(self.max_memory_per_peer)),
            },
            publishers_by_address: !loopback,
            tickets_per_address_max: some(self.max_tickets_per_address),
            tickets_per_subject_max: some(self.max_tickets_per_subject),
            scan_rows_per_address: self.scan_rate_per_address.try_into().ok(),
            scan_rows_per_subject: self.scan_rate_per_subject.try_into().ok(),
        }
    }

    /// The inbound bytes that are reserved for small bodies and for administrators.
    fn reserved(&self) -> u64 {
        self.reserved_arriving_bytes.unwrap_or(self.max_arriving_bytes / 16)
    }
}

fn per_second(number: u64) -> Option<std::num::NonZeroU32> {
    u32::try_from(number).unwrap_or(u32::MAX).try_into().ok()
}

fn size(bytes: u64) -> usize {
    usize::try_from(bytes).unwrap_or(usize::MAX)
}

fn some(number: usize) -> Option<usize> {
    (number > 0).then_some(number)
}

/// Parses a network, or one address.
fn network(text: &str) -> Result<IpNet, String> {
    let address = text.parse::<std::net::IpAddr>().map(IpNet::from);
    address.or_else(|_| text.parse()).map_err(|_| "a network has the form 10.0.0.0/8, fd00::/8 or 127.0.0.1".into())
}

#[cfg(test)]
mod tests {
    use super::network;

    #[test]
    fn networks_and_single_addresses() {
        assert!(network("10.0.0.0/8").unwrap().contains(&"10.1.2.3".parse::<std::net::IpAddr>().unwrap()));
        assert_eq!(network("::1").unwrap().prefix_len(), 128);
        assert!(network("10.0.0.0/33").is_err() && network("localhost").is_err());
    }
}
