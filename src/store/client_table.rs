//! The table of remembered clients, for an engine that keeps it in memory.

use std::collections::HashMap;

use uuid::Uuid;

use super::{ClientRecord, ClientShare, StoreOptions};

/// Records by client, bounded in all and per owner or address.
#[derive(Debug, Default)]
pub(super) struct ClientTable {
    records: HashMap<Uuid, ClientRecord>,
    weight: u64,
    shares: HashMap<ClientShare, u64>,
}

impl ClientTable {
    /// Saves records, of several for one client the last; then evicts: past a share's limit, the share's least recently seen
    /// record, and past the table's, records without an owner first.
    pub(super) fn save(&mut self, records: Vec<ClientRecord>, options: &StoreOptions) {
        for record in records {
            let share = record.share();
            self.put(record);
            let Some(share) = share else { continue };
            let (weight, max) =
                (self.shares.get(&share).copied().unwrap_or_default(), options.client_share_weight_max(&share));
            if weight > max {
                self.forget(weight - max + max / 100, |record| record.share().as_ref() == Some(&share));
            }
        }
        let max = options.clients_max as u64;
        if self.weight > max {
            self.forget(self.weight - max + max / 100, |_| true);
        }
    }

    pub(super) fn load(&self, client: Uuid) -> Option<ClientRecord> {
        self.records.get(&client).cloned()
    }

    /// Drops records that were last seen before a time.
    pub(super) fn expire(&mut self, oldest_ms: u64) {
        let gone: Vec<Uuid> =
            self.records.values().filter(|record| record.seen_ms < oldest_ms).map(|record| record.client).collect();
        for client in gone {
            self.remove(client);
        }
    }

    /// Evicts records of at least the given weight, among those that `is_meant` selects. A hundredth more than necessary is
    /// evicted, so that a full table is not sorted again for each new record.
    fn forget(&mut self, weight: u64, is_meant: impl Fn(&ClientRecord) -> bool) {
        let meant = self.records.values().filter(|record| is_meant(record));
        let mut by_age: Vec<_> =
            meant.map(|record| ((record.owner.is_some(), record.seen_ms, record.client), record.weight())).collect();
        by_age.sort_unstable();
        let mut left = weight;
        for ((.., client), weight) in by_age {
            if left == 0 {
                return;
            }
            left = left.saturating_sub(weight);
            self.remove(client);
        }
    }

    fn put(&mut self, record: ClientRecord) {
        self.remove(record.client);
        self.weight += record.weight();
        if let Some(share) = record.share() {
            *self.shares.entry(share).or_default() += record.weight();
        }
        self.records.insert(record.client, record);
    }

    fn remove(&mut self, client: Uuid) {
        let Some(record) = self.records.remove(&client) else { return };
        self.weight -= record.weight();
        if let Some(share) = record.share()
            && let Some(weight) = self.shares.get_mut(&share)
        {
            *weight -= record.weight();
            if *weight == 0 {
                self.shares.remove(&share);
            }
        }
    }
}
