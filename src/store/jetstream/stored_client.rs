//! How what is remembered of a client lies in its bucket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::ClientRecord;
use crate::topic::{Pattern, PatternSet};

/// The value of a key, as JSON.
#[derive(Deserialize, Serialize)]
pub(super) struct Stored {
    patterns: Vec<String>,
    cursor: String,
    seen_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
    /// The address whose share it takes, where it has no owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    address: Option<IpAddr>,
    /// When its share was last marked, by the node that did.
    #[serde(default)]
    marked_ms: u64,
}

/// What lies in the bucket.
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

    /// What lies there; `None` where it is not ours.
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
