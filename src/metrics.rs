//! The metrics of one hub and its server, in Prometheus's text format.
//!
//! Names and units follow Prometheus's conventions: a `switchback_` prefix, base units, `_total` for counters. Every label has a
//! small, fixed set of values, so that no client can create time series. The server's own numbers are read from where they are
//! when the metrics are requested; only what happens is counted here.
//!
//! Deliveries are counted in `sharded` cells, since all workers count them all the time; everything else by the counters of the
//! `prometheus` crate, which also writes the text and measures the process.

mod sharded;
mod snapshot;
mod store;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use prometheus::core::Collector;
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::sync::lock;
use crate::transport::Transport;
use crate::wire::{ByeReason, GapReason};
use sharded::Sharded;
use snapshot::Gauges;
pub(crate) use snapshot::{LAGS, Snapshot};
pub use store::StoreMetrics;

/// The `Content-Type` of [`Metrics::text`].
pub(crate) const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Every transport, as an index: those of subscriptions, and the echo.
const TRANSPORTS: usize = Transport::ALL.len() + 1;
const COUNTERS: usize = 4 * TRANSPORTS;

/// The client library's own names for transports, besides the server's: two ways to poll.
const CLIENT_TRANSPORTS: [&str; 2] = ["jsonp-poll", "iframe-poll"];

/// Why a client library changes its transport: the kinds of endings in `client.js`, and `wanted`. Every other one counts as `other`.
const SWITCH_REASONS: [&str; 11] =
    ["wanted", "lost", "late", "silent", "leaving", "resumed", "recycled", "goodbye", "refused", "foreign", "unusable"];

/// The most frequent refusals, whose series exist from the start.
const REFUSALS: [&str; 4] = ["unauthorized", "forbidden", "too_fast", "overloaded"];

/// Buckets of durations, in seconds: from a fast disk's commit to a stalled one's.
const SECONDS: [f64; 14] =
    [0.0001, 0.000_25, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0, 30.0];

/// What is counted of each transport.
#[derive(Clone, Copy, Debug)]
enum Traffic {
    /// Subscriptions that are open.
    Open,
    /// Subscriptions that were opened.
    Opened,
    Items,
    Bytes,
}

/// The metrics of one [`Hub`](crate::Hub). Shared by all of its workers.
pub struct Metrics {
    registry: Registry,
    traffic: Sharded<COUNTERS>,
    /// The sums of `traffic`, as they were written last.
    written: Mutex<Written>,
    publishes: IntCounterVec,
    publish_duration: Histogram,
    feed_delay: Histogram,
    gaps: IntCounterVec,
    byes: IntCounterVec,
    switches: IntCounterVec,
    refusals: IntCounterVec,
    store: Arc<StoreMetrics>,
    gauges: Gauges,
}

struct Written {
    open: IntGaugeVec,
    opened: IntCounterVec,
    items: IntCounterVec,
    bytes: IntCounterVec,
}

/// The outcome of a publish, for each of its events: stored, known already, or refused by the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PublishOutcome {
    Stored,
    Duplicate,
    Full,
    Busy,
    Share,
    NotAtomic,
    TooLarge,
    Disk,
    Unavailable,
}

impl PublishOutcome {
    const ALL: [Self; 9] = [
        Self::Stored,
        Self::Duplicate,
        Self::Full,
        Self::Busy,
        Self::Share,
        Self::NotAtomic,
        Self::TooLarge,
        Self::Disk,
        Self::Unavailable,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Stored => "stored",
            Self::Duplicate => "duplicate",
            Self::Full => "full",
            Self::Busy => "busy",
            Self::Share => "share",
            Self::NotAtomic => "not_atomic",
            Self::TooLarge => "too_large",
            Self::Disk => "disk",
            Self::Unavailable => "unavailable",
        }
    }
}

impl Metrics {
    /// Metrics with nothing counted yet.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::new();
        let counters = |name, help, labels: &[&str]| registered(&registry, counters(name, help, labels));
        let metrics = Self {
            traffic: Sharded::new(),
            written: Mutex::new(Written {
                open: registered(&registry, gauges("switchback_subscriptions", "Open subscriptions.", &["transport"])),
                opened: counters(
                    "switchback_subscriptions_opened_total",
                    "Subscriptions that were opened.",
                    &["transport"],
                ),
                items: counters(
                    "switchback_delivered_items_total",
                    "Events that were delivered, with control events other than $hello and $beat.",
                    &["transport"],
                ),
                bytes: counters(
                    "switchback_delivered_bytes_total",
                    "Bytes of subscriptions' bodies and messages, before TLS.",
                    &["transport"],
                ),
            }),
            publishes: counters(
                "switchback_published_events_total",
                "Events of publishes, by their outcome.",
                &["outcome"],
            ),
            publish_duration: registered(
                &registry,
                seconds("switchback_publish_duration_seconds", "Time from a publish to its durable storage."),
            ),
            feed_delay: registered(
                &registry,
                seconds(
                    "switchback_feed_delay_seconds",
                    "Age of the newest event of a batch when it reaches this node's workers.",
                ),
            ),
            gaps: counters("switchback_gaps_total", "Gaps that subscribers were notified of.", &["reason"]),
            byes: counters("switchback_byes_total", "Subscriptions that the server ended.", &["reason"]),
            switches: counters(
                "switchback_transport_switches_total",
                "Changes of transport that client libraries reported.",
                &["from", "to", "reason"],
            ),
            refusals: counters("switchback_refusals_total", "Refused requests, by the error's code.", &["reason"]),
            store: Arc::new(StoreMetrics::new(&registry)),
            gauges: Gauges::new(&registry),
            registry,
        };
        metrics.begin_series();
        metrics.register_process();
        metrics
    }

    /// Creates the series with known labels, so that each begins at 0: the rate of a series that appears with its first event lacks
    /// that event.
    fn begin_series(&self) {
        let known: [(&IntCounterVec, &[&str]); 4] = [
            (&self.publishes, &PublishOutcome::ALL.map(PublishOutcome::name)),
            (&self.gaps, &GapReason::ALL.map(GapReason::name)),
            (&self.byes, &ByeReason::ALL.map(ByeReason::name)),
            (&self.refusals, &REFUSALS),
        ];
        self.switches.with_label_values(&["other", "other", "other"]);
        for (counters, labels) in known {
            for label in labels {
                counters.with_label_values(&[label]);
            }
        }
    }

    /// CPU time, memory and files of the process, where the system tells them.
    fn register_process(&self) {
        #[cfg(target_os = "linux")]
        {
            let _registered =
                self.registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()));
        }
    }

    /// All metrics in the text format, with the gauges of a snapshot.
    pub(crate) fn text(&self, snapshot: &Snapshot) -> String {
        let mut text = String::new();
        // Locked until the text is written: no second request writes sums that are older.
        let written = lock(&self.written);
        for transport in Transport::ALL.into_iter().chain([Transport::Echo]) {
            let sum = |traffic| self.traffic.sum(index(transport, traffic));
            let label = &[transport.name()];
            // A thread may have counted the end of a subscription that another one has begun.
            written.open.with_label_values(label).set(sum(Traffic::Open).cast_signed());
            raise(&written.opened.with_label_values(label), sum(Traffic::Opened));
            raise(&written.items.with_label_values(label), sum(Traffic::Items));
            raise(&written.bytes.with_label_values(label), sum(Traffic::Bytes));
        }
        self.gauges.set(snapshot);
        if let Err(error) = TextEncoder::new().encode_utf8(&self.registry.gather(), &mut text) {
            tracing::error!(%error, "the metrics cannot be written");
        }
        drop(written);
        text
    }

    /// The store's part.
    #[must_use]
    pub fn store(&self) -> &Arc<StoreMetrics> {
        &self.store
    }

    /// A subscription was opened.
    pub(crate) fn opened(&self, transport: Transport) {
        self.add(transport, Traffic::Open, 1);
        self.add(transport, Traffic::Opened, 1);
    }

    /// A subscription has ended.
    pub(crate) fn closed(&self, transport: Transport) {
        self.add(transport, Traffic::Open, 1_u64.wrapping_neg());
    }

    /// Items and bytes were delivered.
    pub(crate) fn delivered(&self, transport: Transport, items: usize, bytes: usize) {
        if items > 0 {
            self.add(transport, Traffic::Items, items as u64);
        }
        self.add(transport, Traffic::Bytes, bytes as u64);
    }

    fn add(&self, transport: Transport, traffic: Traffic, n: u64) {
        self.traffic.add(index(transport, traffic), n);
    }

    /// A publish of so many events has ended.
    pub(crate) fn published(&self, outcome: PublishOutcome, events: usize) {
        if events > 0 {
            self.publishes.with_label_values(&[outcome.name()]).inc_by(events as u64);
        }
    }

    /// How long a publish took.
    pub(crate) fn publish_took(&self, duration: Duration) {
        self.publish_duration.observe(duration.as_secs_f64());
    }

    /// The age of the newest event of a batch of the feed.
    pub(crate) fn feed_delayed(&self, age_ms: u64) {
        self.feed_delay.observe(Duration::from_millis(age_ms).as_secs_f64());
    }

    /// A subscriber was notified of a gap.
    pub(crate) fn gap(&self, reason: GapReason) {
        self.gaps.with_label_values(&[reason.name()]).inc();
    }

    /// The server has ended a subscription.
    pub(crate) fn bye(&self, reason: ByeReason) {
        self.byes.with_label_values(&[reason.name()]).inc();
    }

    /// A request was refused.
    pub(crate) fn refused(&self, code: &'static str) {
        self.refusals.with_label_values(&[code]).inc();
    }

    /// A client library has reported a change of transport, as `FROM.TO.REASON`. Names that this server does not know count as
    /// `other`: a client must not be able to create time series.
    pub(crate) fn switched(&self, switched: &str) {
        let mut parts = switched.splitn(3, '.');
        let mut transport = || {
            let name = parts.next().unwrap_or_default();
            let known = Transport::ALL.iter().map(|transport| transport.name()).chain(CLIENT_TRANSPORTS);
            known.into_iter().find(|known| *known == name).unwrap_or("other")
        };
        let (from, to) = (transport(), transport());
        let reason = parts.next().unwrap_or_default();
        let reason = SWITCH_REASONS.into_iter().find(|known| *known == reason).unwrap_or("other");
        self.switches.with_label_values(&[from, to, reason]).inc();
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

fn index(transport: Transport, traffic: Traffic) -> usize {
    transport as usize + TRANSPORTS * traffic as usize
}

/// Raises a counter to a sum that never falls.
fn raise(counter: &IntCounter, sum: u64) {
    counter.inc_by(sum.saturating_sub(counter.get()));
}

/// Registers a metric.
///
/// # Panics
/// Where the name is registered already: names are constants, and each is used once.
#[expect(clippy::expect_used, reason = "a mistake in a constant, which every test finds")]
fn registered<C: Collector + Clone + 'static>(registry: &Registry, metric: prometheus::Result<C>) -> C {
    let metric = metric.expect("the name and the labels are valid");
    registry.register(Box::new(metric.clone())).expect("the name is used once");
    metric
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn gauge(name: &str, help: &str) -> prometheus::Result<IntGauge> {
    IntGauge::new(name, help)
}

fn counter(name: &str, help: &str) -> prometheus::Result<IntCounter> {
    IntCounter::new(name, help)
}

fn seconds(name: &str, help: &str) -> prometheus::Result<Histogram> {
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()))
}

fn counts(name: &str, help: &str) -> prometheus::Result<Histogram> {
    let buckets = vec![1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 1024.0, 4096.0];
    Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))
}

#[cfg(test)]
mod tests;
