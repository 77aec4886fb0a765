//! The encoding of a remembered client's record in its bucket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::ClientRecord;
use crate::topic::{Pattern, PatternSet};

/// A key's value, as JSON.
#[derive(Deserialize, Serialize)]
pub(super) struct Stored {
    patterns: Vec<String>,
    cursor: String,
    seen_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// The address in whose share the record counts, where it has no owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    /// When a node last marked the record in its share.
    #[serde(default)]
    marked_ms: u64,
}

/// A decoded value.
pub(super) struct Known {
    pub(super) record: ClientRecord,
    pub(super) marked_ms: u64,
}

impl Stored {
    pub(super) fn of(record: &ClientRecord, marked_ms: u64) -> Self {
        Self {
            patterns: record.patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            cursor: record.cursor.to_string(),
            seen_ms: record.seen_ms,
            owner: record.owner.clone(),
            address: record.address,
            marked_ms,
        }
    }

    /// Decodes a value; `None` where it is foreign.
    pub(super) fn read(client: Uuid, value: &[u8]) -> Option<Known> {
        let stored: Self = serde_json::from_slice(value).ok()?;
        let patterns: Result<Vec<Pattern>, _> = stored.patterns.iter().map(|text| text.parse()).collect();
        let record = ClientRecord {
            client,
            patterns: PatternSet::new(patterns.ok()?).ok()?,
            cursor: stored.cursor.parse().ok()?,
            seen_ms: stored.seen_ms,
            owner: stored.owner,
            address: stored.address,
        };
        Some(Known { record, marked_ms: stored.marked_ms })
    }
}
