//! What is remembered of clients, in a bucket. Records of one client come from several nodes, so each is merged with what
//! is there.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use uuid::Uuid;

use super::bucket::{Bucket, Put};
use super::node::{DEADLINE, Node};
use crate::cursor::Epoch;
use crate::store::{ClientRecord, StoreError};
use crate::topic::{Pattern, PatternSet};

/// Records that are written at the same time.
const WRITES_MAX: usize = 64;

/// How often a record is merged anew because another node was faster.
const MERGES_MAX: u32 = 8;

#[derive(Deserialize, Serialize)]
struct Stored {
    patterns: Vec<String>,
    cursor: String,
    seen_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<String>,
}

impl Stored {
    fn of(record: &ClientRecord) -> Self {
        Self {
            patterns: record.patterns.iter().map(|pattern| pattern.as_str().to_owned()).collect(),
            cursor: record.cursor.to_string(),
            seen_ms: record.seen_ms,
            owner: record.owner.clone(),
        }
    }

    /// What lies there; `None` where it is not ours.
    fn read(client: Uuid, value: &[u8]) -> Option<ClientRecord> {
        let stored: Self = serde_json::from_slice(value).ok()?;
        let patterns: Result<Vec<Pattern>, _> = stored.patterns.iter().map(|text| text.parse()).collect();
        Some(ClientRecord {
            client,
            patterns: PatternSet::new(patterns.ok()?).ok()?,
            cursor: stored.cursor.parse().ok()?,
            seen_ms: stored.seen_ms,
            owner: stored.owner,
            address: None,
        })
    }
}

/// Saves records, of one client the last.
pub(super) async fn save(node: &Node, bucket: &Bucket, records: Vec<ClientRecord>) -> Result<(), StoreError> {
    let newest: HashMap<Uuid, ClientRecord> = records.into_iter().map(|record| (record.client, record)).collect();
    let end = Instant::now() + DEADLINE;
    let epoch = node.bounds().epoch;
    let mut saved = stream::iter(newest.into_values())
        .map(|record| save_one(node, bucket, record, epoch, end))
        .buffer_unordered(WRITES_MAX);
    while let Some(outcome) = saved.next().await {
        outcome?;
    }
    Ok(())
}

async fn save_one(
    node: &Node,
    bucket: &Bucket,
    record: ClientRecord,
    epoch: Epoch,
    end: Instant,
) -> Result<(), StoreError> {
    let key = record.client.to_string();
    for _ in 0..MERGES_MAX {
        let entry = bucket.get(node, &key, end).await?;
        let there = entry.as_ref().and_then(|entry| Stored::read(record.client, &entry.value));
        let merged = merge(there, record.clone(), epoch);
        let value = serde_json::to_vec(&Stored::of(&merged)).map_err(StoreError::unavailable)?;
        let put = Put { over: Some(entry.map_or(0, |entry| entry.revision)), ttl: None };
        if bucket.put(node, &key, Bytes::from(value), put, end).await?.is_some() {
            return Ok(());
        }
    }
    Err(StoreError::Busy("too many nodes write the same client's record"))
}

/// An acknowledgement only moves forward within an epoch, and one of this log stands before one of another. The rest is
/// what was said last. What is to be forgotten is no more than that.
fn merge(there: Option<ClientRecord>, new: ClientRecord, epoch: Epoch) -> ClientRecord {
    let Some(there) = there.filter(|there| !there.is_forgotten() && !new.is_forgotten()) else { return new };
    let keep = if there.cursor.epoch == new.cursor.epoch {
        there.cursor.position > new.cursor.position
    } else {
        there.cursor.epoch == epoch
    };
    let cursor = if keep { there.cursor } else { new.cursor };
    let newer = if there.seen_ms > new.seen_ms { &there } else { &new };
    ClientRecord {
        client: new.client,
        patterns: newer.patterns.clone(),
        cursor,
        seen_ms: newer.seen_ms,
        owner: there.owner.clone().or_else(|| new.owner.clone()),
        address: None,
    }
}

/// What is remembered of a client.
pub(super) async fn load(node: &Node, bucket: &Bucket, client: Uuid) -> Result<Option<ClientRecord>, StoreError> {
    let entry = bucket.get(node, &client.to_string(), Instant::now() + DEADLINE).await?;
    Ok(entry.and_then(|entry| Stored::read(client, &entry.value)))
}
