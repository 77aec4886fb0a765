//! Security records: small records with an expiry beside the log, for tickets, bans and revocations.

use std::collections::HashMap;
use std::sync::Arc;

use super::StoreError;

/// The longest key, in bytes; callers of `save_record` ensure it.
pub const RECORD_KEY_MAX_BYTES: usize = 255;

/// Ends the share in a ticket's key, see [`Store::count_tickets`](super::Store::count_tickets).
pub const TICKET_SHARE_END: char = '/';

/// The longest value, in bytes; callers of `save_record` ensure it.
pub const RECORD_VALUE_MAX_BYTES: usize = 16 << 10;

/// The kind of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SecurityRecordKind {
    /// An unused ticket with what it grants. Tickets are not watched.
    Ticket,
    /// A banned client.
    Ban,
    /// A revoked token, or a subject whose tokens are revoked.
    Revocation,
}

impl SecurityRecordKind {
    /// The kind's name in a store.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Ban => "ban",
            Self::Revocation => "revocation",
        }
    }

    /// Whether watchers receive records of this kind.
    #[must_use]
    pub fn is_watched(self) -> bool {
        match self {
            Self::Ticket => false,
            Self::Ban | Self::Revocation => true,
        }
    }
}

/// A small record with an expiry.
#[derive(Clone, PartialEq, Eq)]
pub struct SecurityRecord {
    /// The kind.
    pub kind: SecurityRecordKind,
    /// The subject of the record: any text of at most [`RECORD_KEY_MAX_BYTES`].
    pub key: String,
    /// The content: at most [`RECORD_VALUE_MAX_BYTES`].
    pub value: Vec<u8>,
    /// The expiry, in milliseconds since the Unix epoch; from then on the record does not exist.
    pub until_ms: u64,
}

impl std::fmt::Debug for SecurityRecord {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A ticket's key is a credential.
        let key = if self.kind == SecurityRecordKind::Ticket { "…" } else { &self.key };
        write!(f, "SecurityRecord({} {key:?}, {} bytes, until {})", self.kind.name(), self.value.len(), self.until_ms)
    }
}

/// Receives bans and revocations. Never blocks.
pub trait RecordWatcher: Send + Sync + 'static {
    /// Receives a record that exists, was saved, or has replaced an older one.
    fn push(&self, record: SecurityRecord);
}

/// The records of an engine that keeps them in memory.
#[derive(Default)]
pub(super) struct SecurityRecordTable {
    records: HashMap<SecurityRecordKind, HashMap<String, SecurityRecord>>,
    sink: Option<Arc<dyn RecordWatcher>>,
}

impl SecurityRecordTable {
    /// Saves `record`, and sends it to the watcher.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where there are `security_records_max` of its kind already.
    pub(super) fn save(&mut self, record: SecurityRecord, security_records_max: usize) -> Result<(), StoreError> {
        let kept = self.records.entry(record.kind).or_default();
        if kept.len() >= security_records_max && !kept.contains_key(&record.key) {
            return Err(too_many());
        }
        kept.insert(record.key.clone(), record.clone());
        if record.kind.is_watched()
            && let Some(sink) = &self.sink
        {
            sink.push(record);
        }
        Ok(())
    }

    /// Removes a record, and returns it where it has not expired.
    pub(super) fn take(&mut self, kind: SecurityRecordKind, key: &str, now_ms: u64) -> Option<SecurityRecord> {
        self.records.get_mut(&kind)?.remove(key).filter(|record| now_ms < record.until_ms)
    }

    /// Sends `sink` the existing records, and from now on each one that is saved.
    pub(super) fn watch(&mut self, sink: Arc<dyn RecordWatcher>) {
        for record in self.records.values().flat_map(HashMap::values).filter(|record| record.kind.is_watched()) {
            sink.push(record.clone());
        }
        self.sink = Some(sink);
    }

    /// Drops expired records.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for kept in self.records.values_mut() {
            kept.retain(|_, record| now_ms < record.until_ms);
        }
    }

    /// Drops the watcher.
    pub(super) fn close(&mut self) {
        self.sink = None;
    }
}

impl std::fmt::Debug for SecurityRecordTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecurityRecordTable({} records)", self.records.values().map(HashMap::len).sum::<usize>())
    }
}

/// The error of one record too many.
pub(super) fn too_many() -> StoreError {
    StoreError::Busy("there are too many tickets, bans or revocations; they expire by themselves")
}
