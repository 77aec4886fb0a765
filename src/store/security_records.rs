//! Notes: small records with an expiry beside the log, for tickets, bans and revocations.

use std::collections::HashMap;
use std::sync::Arc;

use super::StoreError;

/// The longest key, in bytes; callers of `save_record` ensure it.
pub const RECORD_KEY_MAX_BYTES: usize = 255;

/// The longest value, in bytes; callers of `save_record` ensure it.
pub const RECORD_VALUE_MAX_BYTES: usize = 16 << 10;

/// The kind of a note.
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

    /// Whether watchers receive notes of this kind.
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
    /// The subject of the note: any text of at most [`RECORD_KEY_MAX_BYTES`].
    pub key: String,
    /// The content: at most [`RECORD_VALUE_MAX_BYTES`].
    pub value: Vec<u8>,
    /// The expiry, in milliseconds since the Unix epoch; from then on the note does not exist.
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
    /// Receives a note that exists, was saved, or has replaced an older one.
    fn push(&self, note: SecurityRecord);
}

/// The notes of an engine that keeps them in memory.
#[derive(Default)]
pub(super) struct SecurityRecordTable {
    notes: HashMap<SecurityRecordKind, HashMap<String, SecurityRecord>>,
    sink: Option<Arc<dyn RecordWatcher>>,
}

impl SecurityRecordTable {
    /// Saves `note`, and sends it to the watcher.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where there are `notes_max` of its kind already.
    pub(super) fn save(&mut self, note: SecurityRecord, notes_max: usize) -> Result<(), StoreError> {
        let kept = self.notes.entry(note.kind).or_default();
        if kept.len() >= notes_max && !kept.contains_key(&note.key) {
            return Err(too_many());
        }
        kept.insert(note.key.clone(), note.clone());
        if note.kind.is_watched()
            && let Some(sink) = &self.sink
        {
            sink.push(note);
        }
        Ok(())
    }

    /// Removes a note, and returns it where it has not expired.
    pub(super) fn take(&mut self, kind: SecurityRecordKind, key: &str, now_ms: u64) -> Option<SecurityRecord> {
        self.notes.get_mut(&kind)?.remove(key).filter(|note| now_ms < note.until_ms)
    }

    /// Sends `sink` the existing notes, and from now on each one that is saved.
    pub(super) fn watch(&mut self, sink: Arc<dyn RecordWatcher>) {
        for note in self.notes.values().flat_map(HashMap::values).filter(|note| note.kind.is_watched()) {
            sink.push(note.clone());
        }
        self.sink = Some(sink);
    }

    /// Drops expired notes.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for kept in self.notes.values_mut() {
            kept.retain(|_, note| now_ms < note.until_ms);
        }
    }

    /// Drops the watcher.
    pub(super) fn close(&mut self) {
        self.sink = None;
    }
}

impl std::fmt::Debug for SecurityRecordTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SecurityRecordTable({} notes)", self.notes.values().map(HashMap::len).sum::<usize>())
    }
}

/// The error of one note too many.
pub(super) fn too_many() -> StoreError {
    StoreError::Busy("there are too many tickets, bans or revocations; they expire by themselves")
}
