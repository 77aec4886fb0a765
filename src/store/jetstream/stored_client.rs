//! The encoding of a remembered client's record in its bucket.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::store::{ClientRecord, ReadMode};
use crate::topic::{Pattern, PatternSet};

/// A key's value, as JSON.
#[derive(Deserialize, Serialize)]
pub(super) struct Stored {
    patterns: Vec<String>,
    /// The subscription's [`ReadMode`].
    #[serde(default, skip_serializing_if = "is_default")]
    latest: bool,
    #[serde(default, skip_serializing_if = "is_default")]
    pace_ms: u16,
    cursor: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    upto: Option<String>,
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
            latest: record.mode.latest,
            pace_ms: record.mode.pace_ms,
            cursor: record.cursor.to_string(),
            upto: record.upto.map(|upto| upto.to_string()),
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
            mode: ReadMode { latest: stored.latest, pace_ms: stored.pace_ms },
            cursor: stored.cursor.parse().ok()?,
            upto: stored.upto.map(|upto| upto.parse()).transpose().ok()?,
            seen_ms: stored.seen_ms,
            owner: stored.owner,
            address: stored.address,
        };
        Some(Known { record, marked_ms: stored.marked_ms })
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
