//! The records of remembered clients, in a bucket. Several nodes write the record of one client, so each write is merged with the
//! stored record.

use std::collections::HashMap;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;
use uuid::Uuid;

use super::bucket::{Bucket, Put};
use super::node::{DEADLINE, Node};
use super::shares::{Shares, share_of};
use super::stored_client::{Known, Stored};
use crate::cursor::Epoch;
use crate::store::{ClientRecord, StoreError, StoreOptions};

/// Concurrent writes of records.
const WRITES_MAX: usize = 64;

/// How often a record is merged anew because another node wrote it first.
const MERGES_MAX: u32 = 8;

/// The remembered clients.
pub(super) struct Clients {
    records: Bucket,
    shares: Shares,
}

impl Clients {
    pub(super) fn new(node: &Node, options: StoreOptions) -> Self {
        let marks = Bucket::new(node.names.shares_bucket());
        Self { records: Bucket::new(node.names.clients_bucket()), shares: Shares::new(marks, options) }
    }

    /// Saves records: of several for one client, the last.
    pub(super) async fn save(&self, node: &Node, records: Vec<ClientRecord>) -> Result<(), StoreError> {
        let newest: HashMap<Uuid, ClientRecord> = records.into_iter().map(|record| (record.client, record)).collect();
        let end = Instant::now() + DEADLINE;
        let epoch = node.bounds().epoch;
        let saving = stream::iter(newest.into_values()).map(|record| self.save_one(node, record, epoch, end));
        let mut saved = saving.buffer_unordered(WRITES_MAX);
        while let Some(outcome) = saved.next().await {
            outcome?;
        }
        Ok(())
    }

    async fn save_one(&self, node: &Node, record: ClientRecord, epoch: Epoch, end: Instant) -> Result<(), StoreError> {
        let key = record.client.to_string();
        for _ in 0..MERGES_MAX {
            let entry = self.records.get(node, &key, end).await?;
            let there = entry.as_ref().and_then(|entry| Stored::read(record.client, &entry.value));
            let known = there.as_ref().map(|known| known.record.clone());
            let merged = merge(known, record.clone(), epoch);
            let marked_ms = self.mark(node, there, &merged, end).await?;
            let value = serde_json::to_vec(&Stored::of(&merged, marked_ms)).map_err(StoreError::unavailable)?;
            let put = Put { over: Some(entry.map_or(0, |entry| entry.revision)), ttl: None };
            if self.records.put(node, &key, Bytes::from(value), put, end).await?.is_some() {
                return Ok(());
            }
        }
        Err(StoreError::Busy("too many nodes write the same client's record"))
    }

    /// Keeps a record's marks in its share up to date; returns when the record was marked.
    async fn mark(
        &self,
        node: &Node,
        there: Option<Known>,
        record: &ClientRecord,
        end: Instant,
    ) -> Result<u64, StoreError> {
        let there = there.filter(|known| !known.record.is_forgotten());
        let before = there.as_ref().map(|known| share_of(&known.record));
        if record.is_forgotten() {
            if let Some(before) = &before {
                self.shares.unmark(node, before, record.client, 0, end).await?;
            }
            return Ok(0);
        }
        if let Some(Known { record: known, marked_ms }) = &there {
            let is_fresh = record.seen_ms.saturating_sub(*marked_ms) < self.shares.renewal_ms();
            if is_fresh && before.as_ref() == Some(&share_of(record)) && known.weight() == record.weight() {
                return Ok(*marked_ms);
            }
        }
        self.shares.mark(node, &self.records, record, before.as_deref(), end).await?;
        Ok(record.seen_ms)
    }

    /// The record of a client as a majority knows it: with an outdated record the client would receive events twice.
    pub(super) async fn load(&self, node: &Node, client: Uuid) -> Result<Option<ClientRecord>, StoreError> {
        node.proven().await?;
        let entry = self.records.get(node, &client.to_string(), Instant::now() + DEADLINE).await?;
        let known = entry.and_then(|entry| Stored::read(client, &entry.value));
        // The address is stored only for the share: a client without an owner may come from any address.
        Ok(known.map(|known| ClientRecord { address: None, ..known.record }))
    }
}

/// The cursor only moves forward within an epoch, and a cursor of this log precedes one of another log. All else is taken from
/// the newer record. A tombstone is never merged: the later write replaces the record.
fn merge(there: Option<ClientRecord>, new: ClientRecord, epoch: Epoch) -> ClientRecord {
    let Some(there) = there.filter(|there| !there.is_forgotten() && !new.is_forgotten()) else { return new };
    let keep = if there.cursor.epoch == new.cursor.epoch {
        there.cursor.position > new.cursor.position
    } else {
        there.cursor.epoch == epoch
    };
    let cursor = if keep { there.cursor } else { new.cursor };
    let newer = if there.seen_ms > new.seen_ms { &there } else { &new };
    let owner = there.owner.clone().or_else(|| new.owner.clone());
    ClientRecord {
        client: new.client,
        patterns: newer.patterns.clone(),
        mode: newer.mode,
        cursor,
        upto: newer.upto,
        seen_ms: newer.seen_ms,
        address: if owner.is_none() { new.address.or(there.address) } else { None },
        owner,
    }
}
