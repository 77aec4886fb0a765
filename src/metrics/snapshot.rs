//! What is read from the hub and the limits when the metrics are requested.

use prometheus::{Gauge, IntCounter, IntGauge, IntGaugeVec, Registry};

use super::{counter, gauge, gauges, raise, registered};

/// Lags in events: the metrics count the connected clients that are further behind than each of these.
pub(crate) const LAGS: [u64; 5] = [0, 10, 100, 1000, 10_000];

/// The state of a server at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Snapshot {
    /// The position of the newest event.
    pub(crate) last: u64,
    /// The position up to which events were trimmed.
    pub(crate) floor: u64,
    /// Bytes of the stored events, where the store counts them.
    pub(crate) log_bytes: Option<u64>,
    /// Connections, and the most of them.
    pub(crate) connections: usize,
    pub(crate) connections_max: usize,
    /// Memory that is charged to peers, in bytes.
    pub(crate) charged_bytes: usize,
    /// Connected clients that are further behind than each of [`LAGS`].
    pub(crate) behind: [u64; LAGS.len()],
    /// Whether the server is shutting down.
    pub(crate) draining: bool,
    /// Whether NATS is connected, and how often it was reconnected; `None` where the log is not in NATS.
    pub(crate) nats: Option<(bool, u64)>,
    /// How far the clock of NATS is ahead, in milliseconds, and the same for the other node that differs most.
    pub(crate) skew_ms: Option<(i64, Option<i64>)>,
}

pub(super) struct Gauges {
    last: IntGauge,
    floor: IntGauge,
    log_bytes: IntGauge,
    connections: IntGauge,
    connections_max: IntGauge,
    charged_bytes: IntGauge,
    behind: IntGaugeVec,
    draining: IntGauge,
    store_connected: IntGauge,
    nats_reconnects: IntCounter,
    skew_nats: Gauge,
    skew_nodes: Gauge,
}

impl Gauges {
    pub(super) fn new(registry: &Registry) -> Self {
        let one = |name, help| registered(registry, gauge(name, help));
        let build =
            registered(registry, gauges("switchback_build_info", "The version, as a label; always 1.", &["version"]));
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            last: one("switchback_log_last_position", "Position of the newest event."),
            floor: one("switchback_log_floor_position", "Position up to which events were trimmed."),
            log_bytes: one(
                "switchback_log_bytes",
                "Bytes of the stored events; 0 where the store does not count them.",
            ),
            connections: one("switchback_connections", "Open connections."),
            connections_max: one("switchback_connections_limit", "Most open connections (--max-connections)."),
            charged_bytes: one("switchback_peer_memory_bytes", "Memory that is charged to peers."),
            behind: registered(
                registry,
                gauges(
                    "switchback_clients_behind",
                    "Connected clients that have more than so many events of the log still to be sent or skipped.",
                    &["more_than"],
                ),
            ),
            draining: one("switchback_draining", "1 while the server is shutting down."),
            store_connected: one(
                "switchback_store_connected",
                "1 while NATS is connected; always 1 where the log is not in NATS.",
            ),
            nats_reconnects: registered(
                registry,
                counter("switchback_nats_reconnects_total", "Reconnections to NATS."),
            ),
            skew_nats: registered(
                registry,
                Gauge::new("switchback_clock_skew_nats_seconds", "How far the clock of NATS is ahead of this node's."),
            ),
            skew_nodes: registered(
                registry,
                Gauge::new(
                    "switchback_clock_skew_nodes_seconds",
                    "How far the clock of the node that differs most is ahead of this node's.",
                ),
            ),
        }
    }

    pub(super) fn set(&self, snapshot: &Snapshot) {
        let whole = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
        self.last.set(whole(snapshot.last));
        self.floor.set(whole(snapshot.floor));
        self.log_bytes.set(whole(snapshot.log_bytes.unwrap_or(0)));
        self.connections.set(whole(snapshot.connections as u64));
        self.connections_max.set(whole(snapshot.connections_max as u64));
        self.charged_bytes.set(whole(snapshot.charged_bytes as u64));
        for (lag, clients) in LAGS.iter().zip(snapshot.behind) {
            self.behind.with_label_values(&[lag.to_string().as_str()]).set(whole(clients));
        }
        self.draining.set(snapshot.draining.into());
        self.store_connected.set(snapshot.nats.is_none_or(|(connected, _)| connected).into());
        if let Some((_, reconnects)) = snapshot.nats {
            raise(&self.nats_reconnects, reconnects);
        }
        if let Some((nats_ms, nodes_ms)) = snapshot.skew_ms {
            self.skew_nats.set(seconds(nats_ms));
            self.skew_nodes.set(seconds(nodes_ms.unwrap_or(0)));
        }
    }
}

/// Milliseconds as Prometheus's base unit. Exact: no skew is near the 2^53 ms that an `f64` holds.
#[expect(clippy::cast_precision_loss, reason = "see above")]
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}
