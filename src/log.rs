//! What the log says of itself: its bounds, its events as they arrive or as a page of them, what became of an append, and what is
//! remembered of a client between its connections. Plain data, which the engines of [`crate::store`] make, and readers and the
//! hub take.

use std::net::IpAddr;
use std::sync::Arc;

use uuid::Uuid;

use crate::cursor::{Cursor, Epoch, Position};
use crate::event::Event;
use crate::topic::{Pattern, PatternSet};

/// What follows in the log.
#[derive(Clone, Debug)]
pub struct FeedBatch {
    /// The log's identity; where it differs from the last batch's, the log is another one, which began at `after`.
    pub epoch: Epoch,
    /// Where the batch before ended; how a listener notices that it missed one.
    pub after: Position,
    /// The events, in order.
    pub events: Vec<Arc<Event>>,
    /// Everything up to here has been trimmed.
    pub floor: Position,
}

impl FeedBatch {
    /// Where the batch ends.
    #[must_use]
    pub fn end(&self) -> Position {
        self.events.last().map_or(self.after, |event| event.position())
    }
}

/// What became of one draft.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Its place, or that of the event it repeats.
    pub position: Position,
    /// Whether an event with this topic and id was there already.
    pub duplicate: bool,
    /// Whether that one is known to have another name, other data or other headers: then this payload is not stored.
    pub differs: bool,
}

impl Appended {
    /// A new event.
    pub(crate) fn new(position: Position) -> Self {
        Self { position, duplicate: false, differs: false }
    }
}

/// A bounded read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ReadRequest {
    /// What to read.
    pub patterns: PatternSet,
    /// Where to start, exclusive.
    pub after: Position,
    /// Most events to return; at least 1.
    pub events_max: usize,
    /// Stop after the event that passes this many bytes.
    pub bytes_max: usize,
    /// Most rows to look at where the read has to scan.
    pub rows_max: u64,
}

/// What a read found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// Matching events, in order.
    pub events: Vec<Arc<Event>>,
    /// No matching event at or before here, and after the start or the gap, is missing from `events`.
    pub through: Position,
    /// What was asked for and is gone; it comes before `events`.
    pub trimmed: Option<Trimmed>,
    /// Rows looked at.
    pub rows: u64,
    /// Rows, and marks of what was trimmed, that were looked at and did not match: the cost of the read, besides what it found.
    pub vain_rows: u64,
}

/// Something that was asked for has been trimmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trimmed {
    /// Reading goes on after this position: the log's floor.
    pub to: Position,
    /// The patterns that lost something.
    pub patterns: Vec<Pattern>,
}

/// Where the log begins and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The log's identity.
    pub epoch: Epoch,
    /// Where this epoch began: 0 for a new log, the last restored position after a restore.
    pub began: Position,
    /// Everything up to here has been trimmed.
    pub floor: Position,
    /// The newest durable position.
    pub last: Position,
}

/// What is remembered of a client between its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientRecord {
    /// The client's UUID.
    pub client: Uuid,
    /// What it last asked for; empty where it only ever acknowledged.
    pub patterns: PatternSet,
    /// What it last acknowledged, or where it first started.
    pub cursor: Cursor,
    /// When it was last there: milliseconds since the Unix epoch.
    pub seen_ms: u64,
    /// Whose it is: the subject of the token that first used the id, where that named one.
    pub owner: Option<String>,
    /// The address (IPv6: the network, a /64) that it last came from, against whose share it counts. `None` where it has an
    /// owner, and where no address is counted.
    pub address: Option<IpAddr>,
}

/// Whose share of the remembered clients a record takes.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ClientShare {
    /// A token's subject.
    Owner(String),
    /// The address of a client without one.
    Address(IpAddr),
}

/// Bytes of patterns that weigh as much as a record: one with the longest patterns (16 KiB) counts as 17 with short ones.
const PATTERN_BYTES_PER_WEIGHT: usize = 1024;

impl ClientRecord {
    /// What is saved of a client that is to be forgotten: it was last there so long ago that the next maintenance
    /// removes it; until then whoever loads it takes it for none.
    #[must_use]
    pub fn forgotten(client: Uuid, epoch: Epoch) -> Self {
        let cursor = Cursor::new(epoch, Position::ZERO);
        Self { client, patterns: PatternSet::default(), cursor, seen_ms: 0, owner: None, address: None }
    }

    /// How much it counts against the limits: 1, and 1 more for each whole KiB of patterns.
    #[must_use]
    pub fn weight(&self) -> u64 {
        let bytes: usize = self.patterns.iter().map(|pattern| pattern.as_str().len()).sum();
        1 + (bytes / PATTERN_BYTES_PER_WEIGHT) as u64
    }

    /// Whose share it takes, if anybody's is counted.
    #[must_use]
    pub fn share(&self) -> Option<ClientShare> {
        match (&self.owner, self.address) {
            (Some(owner), _) => Some(ClientShare::Owner(owner.clone())),
            (None, address) => address.map(ClientShare::Address),
        }
    }

    /// Whether it stands for nothing.
    #[must_use]
    pub fn is_forgotten(&self) -> bool {
        self.seen_ms == 0
    }
}
