//! Notes: small facts with an end that lie beside the log. Tickets, bans, revocations.

use std::collections::HashMap;
use std::sync::Arc;

use super::StoreError;

/// Longest key, in bytes. Whoever saves keeps to it.
pub const NOTE_KEY_MAX_BYTES: usize = 255;

/// Longest value, in bytes. Whoever saves keeps to it.
pub const NOTE_VALUE_MAX_BYTES: usize = 16 << 10;

/// What a note is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NoteKind {
    /// A ticket that has not been used: what it grants. Nobody watches these.
    Ticket,
    /// A client that may not come.
    Ban,
    /// A token, or a subject's tokens, that are worth nothing any more.
    Revocation,
}

impl NoteKind {
    /// The name in a store.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ticket => "ticket",
            Self::Ban => "ban",
            Self::Revocation => "revocation",
        }
    }

    /// Whether watchers are told of it.
    #[must_use]
    pub fn is_watched(self) -> bool {
        match self {
            Self::Ticket => false,
            Self::Ban | Self::Revocation => true,
        }
    }
}

/// A small fact with an end.
#[derive(Clone, PartialEq, Eq)]
pub struct Note {
    /// What it is about.
    pub kind: NoteKind,
    /// Whom it is about: any text of at most [`NOTE_KEY_MAX_BYTES`].
    pub key: String,
    /// What is said: at most [`NOTE_VALUE_MAX_BYTES`].
    pub value: Vec<u8>,
    /// Its end, in milliseconds since the Unix epoch: from then on it is gone.
    pub until_ms: u64,
}

impl std::fmt::Debug for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // A ticket's key is all that it takes to use it.
        let key = if self.kind == NoteKind::Ticket { "…" } else { &self.key };
        write!(f, "Note({} {key:?}, {} bytes, until {})", self.kind.name(), self.value.len(), self.until_ms)
    }
}

/// Who is told of bans and revocations. Never blocks.
pub trait NoteSink: Send + Sync + 'static {
    /// A note that is kept, was saved, or has replaced an older one.
    fn push(&self, note: Note);
}

/// The notes of an engine that keeps them in memory.
#[derive(Default)]
pub(super) struct NoteTable {
    notes: HashMap<NoteKind, HashMap<String, Note>>,
    sink: Option<Arc<dyn NoteSink>>,
}

impl NoteTable {
    /// Keeps `note`, and tells who watches.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where there are `notes_max` of its kind already.
    pub(super) fn save(&mut self, note: Note, notes_max: usize) -> Result<(), StoreError> {
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

    /// Removes a note, and gives it where it is not past its end.
    pub(super) fn take(&mut self, kind: NoteKind, key: &str, now_ms: u64) -> Option<Note> {
        self.notes.get_mut(&kind)?.remove(key).filter(|note| now_ms < note.until_ms)
    }

    /// Tells `sink` of what is kept, and from now on of what is saved.
    pub(super) fn watch(&mut self, sink: Arc<dyn NoteSink>) {
        for note in self.notes.values().flat_map(HashMap::values).filter(|note| note.kind.is_watched()) {
            sink.push(note.clone());
        }
        self.sink = Some(sink);
    }

    /// Forgets what is past its end.
    pub(super) fn expire(&mut self, now_ms: u64) {
        for kept in self.notes.values_mut() {
            kept.retain(|_, note| now_ms < note.until_ms);
        }
    }

    /// Lets go of who watches.
    pub(super) fn close(&mut self) {
        self.sink = None;
    }
}

impl std::fmt::Debug for NoteTable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "NoteTable({} notes)", self.notes.values().map(HashMap::len).sum::<usize>())
    }
}

/// The refusal of one note too many.
pub(super) fn too_many() -> StoreError {
    StoreError::Busy("too many tickets, bans or revocations are kept; they end by themselves")
}
