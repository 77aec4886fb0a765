//! The log's data types: its bounds, its events as feed batches or as pages, the outcome of an append, and the record of a client
//! between its connections. Plain data, which the engines of [`crate::store`] produce, and readers and the hub consume.

use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use crate::cursor::{Cursor, Epoch, Position};
use crate::event::Event;
use crate::topic::{Pattern, PatternSet};
use crate::wire::GapReason;

/// The next part of the log, as the feed delivers it.
#[derive(Clone, Debug)]
pub struct FeedBatch {
    /// The log's identity; where it differs from the last batch's, the log was replaced by another one, which began at `after`.
    pub epoch: Epoch,
    /// The end of the previous batch; a listener detects a missed batch by it.
    pub after: Position,
    /// The events, in order.
    pub events: Vec<Arc<Event>>,
    /// Readers at or before this position turn to the store: every event up to it has been removed, or an event at it was erased,
    /// which must not be delivered from memory. It may be lower than in the batch before.
    pub floor: Position,
}

impl FeedBatch {
    /// The end of the batch.
    #[must_use]
    pub fn end(&self) -> Position {
        self.events.last().map_or(self.after, |event| event.position())
    }
}

/// The outcome of one draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// The event's position, or that of the event it repeats.
    pub position: Position,
    /// Whether an event with this topic and id existed already.
    pub duplicate: bool,
    /// Whether the existing event is known to have another name, other data or other headers: then this payload is not stored.
    pub differs: bool,
}

impl Appended {
    /// A new event.
    pub(crate) fn new(position: Position) -> Self {
        Self { position, duplicate: false, differs: false }
    }
}

/// The result of erasing a topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Erased {
    /// The number of events that were erased.
    pub events: u64,
    /// The log's end at that moment: every event of the topic up to there is gone, and later ones stay.
    pub upto: Position,
}

/// A bounded read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadRequest {
    /// The patterns to match.
    pub patterns: PatternSet,
    /// The start, exclusive.
    pub after: Position,
    /// The most events to return; at least 1.
    pub events_max: usize,
    /// The read ends after the event that passes this many bytes.
    pub bytes_max: usize,
    /// The most rows to scan.
    pub rows_max: u64,
    /// Where this is given, the read ends there, and skips an event if a later event of its topic lies at or before this
    /// position, which is not beyond the log's end.
    pub latest_upto: Option<Position>,
}

/// How a subscription reads the log. Remembered with a client's patterns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReadMode {
    /// Whether a subscriber that is behind receives of each topic only the newest event.
    pub latest: bool,
    /// The shortest time from one delivery run to the next, in milliseconds.
    pub pace_ms: u16,
}

/// The result of a read.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Matching events, in order.
    pub events: Vec<Arc<Event>>,
    /// No matching event at or before this position, and after the start or the gap, is missing from `events`.
    pub through: Position,
    /// Matching events that were removed; the gap precedes `events`, among which there is no other: a page ends before the next
    /// hole.
    pub trimmed: Option<Trimmed>,
    /// Rows scanned.
    pub rows: u64,
    /// Rows and trim marks that were compared and did not match: the cost of the read besides its results.
    pub unmatched_rows: u64,
}

/// Matching events have been removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// Reading continues after this position: the log's floor, or a hole behind it. No retained event that matches lies before
    /// it.
    pub to: Position,
    /// The patterns that lost events.
    pub patterns: Vec<Pattern>,
    /// Why: [`GapReason::Expired`] or [`GapReason::Erased`].
    pub reason: GapReason,
    /// Whether every event up to there was removed, and was owed to its subscribers.
    pub is_whole: bool,
}

/// The bounds of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The log's identity.
    pub epoch: Epoch,
    /// Where this epoch began: 0 for a new log, the last restored position after a restore.
    pub began: Position,
    /// Every event up to this position has been removed. Rules and erasing remove later ones, too.
    pub floor: Position,
    /// The newest durable position.
    pub last: Position,
}

/// The record of a client between its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRecord {
    /// The client's UUID.
    pub client: Uuid,
    /// The patterns of its last subscription; empty where it only ever acknowledged.
    pub patterns: PatternSet,
    /// How its last subscription reads.
    pub mode: ReadMode,
    /// The cursor that it last acknowledged, or its first start.
    pub cursor: Cursor,
    /// The end of the round of newest events that it last presented.
    pub upto: Option<Cursor>,
    /// When it was last seen: milliseconds since the Unix epoch.
    pub seen_ms: u64,
    /// The owner: the subject of the token that first used the id, where that token had one.
    pub owner: Option<String>,
    /// The address (IPv6: the network, a /64) of its last connection, in whose share it counts. `None` where it has an owner, and
    /// where addresses are not counted.
    pub address: Option<IpAddr>,
}

/// The share of the remembered clients in which a record counts.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientShare {
    /// A token's subject.
    Owner(String),
    /// The address of a client without an owner.
    Address(IpAddr),
}

/// Bytes of patterns that weigh as much as a record: one with the longest patterns (16 KiB) counts as 17 with short ones.
const PATTERN_BYTES_PER_WEIGHT: usize = 1024;

impl ClientRecord {
    /// A tombstone for a client: its last visit is so long ago that the next maintenance removes the record; until then readers
    /// ignore it.
    #[must_use]
    pub fn forgotten(client: Uuid, epoch: Epoch) -> Self {
        let cursor = Cursor::new(epoch, Position::ZERO);
        let (patterns, mode) = (PatternSet::default(), ReadMode::default());
        Self { client, patterns, mode, cursor, upto: None, seen_ms: 0, owner: None, address: None }
    }

    /// The weight against the limits: 1, and 1 more for each whole KiB of patterns.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let bytes: usize = self.patterns.iter().map(|pattern| pattern.as_str().len()).sum();
        1 + (bytes / PATTERN_BYTES_PER_WEIGHT) as u64
    }

    /// The share in which the record counts, if any.
    #[must_use]
    pub fn share(&self) -> Option<ClientShare> {
        match (&self.owner, self.address) {
            (Some(owner), _) => Some(ClientShare::Owner(owner.clone())),
            (None, address) => address.map(ClientShare::Address),
        }
    }

    /// Whether the record is a tombstone.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.seen_ms == 0
    }
}
