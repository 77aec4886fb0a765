//! What a store counts of itself.

use std::time::Duration;

use prometheus::{Histogram, Registry};

use super::{counts, registered, seconds};

/// The metrics of a store.
pub struct StoreMetrics {
    commit_events: Histogram,
    commit_duration: Histogram,
    sync_duration: Histogram,
}

impl StoreMetrics {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            commit_events: registered(registry, counts("switchback_commit_events", "Events of one commit to disk.")),
            commit_duration: registered(
                registry,
                seconds("switchback_commit_duration_seconds", "Duration of a commit to disk, with its sync."),
            ),
            sync_duration: registered(
                registry,
                seconds(
                    "switchback_sync_duration_seconds",
                    "Duration of the write and sync that end a commit to disk.",
                ),
            ),
        }
    }

    /// A commit has ended.
    pub fn committed(&self, events: usize, commit: Duration, sync: Duration) {
        self.commit_events.observe(u32::try_from(events).map_or(f64::MAX, f64::from));
        self.commit_duration.observe(commit.as_secs_f64());
        self.sync_duration.observe(sync.as_secs_f64());
    }
}

impl std::fmt::Debug for StoreMetrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoreMetrics")
    }
}
