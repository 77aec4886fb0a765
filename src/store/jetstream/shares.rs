//! Shares of the table of remembered clients, so that one subject or one address cannot fill the table for all.
//!
//! The records are keyed by the client's id, by which they are looked up. For each unit of a record's weight there is a mark,
//! keyed by kind, share and id, so that NATS can tell from its index of subjects how many marks a share has and which is the
//! oldest. A mark is renewed while its client comes back, but not with every save: the client that has been away the longest is
//! known to within [`RENEWAL_MAX`].
//!
//! Several nodes that save at the same moment may each evict a record too many, or admit one too many.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{try_join, try_join_all};
use tokio::sync::Mutex;
use tokio::time::Instant;
use uuid::Uuid;

use super::bucket::{Bucket, Put};
use super::direct::{self, Found};
use super::message::base64;
use super::node::Node;
use super::stored_client::Stored;
use crate::cursor::Position;
use crate::store::{ClientRecord, ClientShare, StoreError, StoreOptions};

/// The greatest age of a mark before it is renewed.
const RENEWAL_MAX: Duration = Duration::from_secs(3600);

/// The number of records with the oldest marks among which the least recently seen one is evicted: a mark is renewed less often
/// than its record.
const CANDIDATES: usize = 8;

/// The most marks that are read for one new record.
const LOOK_MAX: usize = 256;

/// The bytes of such a read: a mark is empty, its subject below 200.
const LOOK_BYTES: usize = 128 << 10;

/// The first level of the marks' keys of a record with an owner.
const OWNED: &str = "owner";

/// The same for a record without an owner: these are evicted first.
const UNOWNED: &str = "address";

/// The marks of an installation's records.
pub(super) struct Shares {
    marks: Bucket,
    options: StoreOptions,
    /// One eviction at a time in this process, or two would evict for the same place.
    forgetting: Mutex<()>,
}

/// A record to evict, by its mark.
struct Mark {
    client: Uuid,
    revision: u64,
}

impl Shares {
    pub(super) fn new(marks: Bucket, options: StoreOptions) -> Self {
        Self { marks, options, forgetting: Mutex::default() }
    }

    /// How long a mark is valid before it has to be renewed, in milliseconds.
    pub(super) fn renewal_ms(&self) -> u64 {
        let renewal = RENEWAL_MAX.min(self.options.client_idle_max / 8);
        u64::try_from(renewal.as_millis()).unwrap_or(u64::MAX)
    }

    /// Marks a record that is about to be saved, and evicts what exceeds the limits with it. `before` is the record's share until
    /// now.
    pub(super) async fn mark(
        &self,
        node: &Node,
        records: &Bucket,
        record: &ClientRecord,
        before: Option<&str>,
        end: Instant,
    ) -> Result<(), StoreError> {
        let share = share_of(record);
        let weight = record.weight();
        for unit in 0..weight {
            let key = key(&share, record.client, unit);
            self.marks.put(node, &key, Bytes::new(), Put::default(), end).await?;
        }
        if let Some(before) = before {
            let from = if before == share { weight } else { 0 };
            self.unmark(node, before, record.client, from, end).await?;
        }
        let most = record.share().map_or(u64::MAX, |share| self.options.client_share_weight_max(&share));
        let all_max = self.options.clients_max as u64;
        let of_share = format!("{share}.>");
        let (taken, all) = try_join(self.oldest(node, &of_share, 1, end), self.oldest(node, ">", 1, end)).await?;
        if taken.1 <= most && all.1 <= all_max {
            return Ok(());
        }
        let _alone = self.forgetting.lock().await;
        let (marks, count) = self.oldest(node, &of_share, LOOK_MAX, end).await?;
        self.forget(node, records, marks, count.saturating_sub(most), record.client, end).await?;
        let (oldest, count) = self.oldest(node, ">", LOOK_MAX, end).await?;
        if count > all_max {
            let (unowned, _) = self.oldest(node, &format!("{UNOWNED}.>"), LOOK_MAX, end).await?;
            let marks = if unowned.is_empty() { oldest } else { unowned };
            self.forget(node, records, marks, count - all_max, record.client, end).await?;
        }
        Ok(())
    }

    /// Removes the marks of a client, from a unit on.
    pub(super) async fn unmark(
        &self,
        node: &Node,
        share: &str,
        client: Uuid,
        from: u64,
        end: Instant,
    ) -> Result<(), StoreError> {
        let (marks, _) = self.oldest_found(node, &format!("{share}.{client}.>"), LOOK_MAX, end).await?;
        for found in marks {
            let unit = found.subject.rsplit('.').next().and_then(|unit| unit.parse().ok());
            if unit.is_none_or(|unit: u64| unit >= from) {
                self.marks.remove(node, found.position.0, end).await?;
            }
        }
        Ok(())
    }

    /// The oldest marks of a kind, and the number of its marks.
    async fn oldest(&self, node: &Node, keys: &str, most: usize, end: Instant) -> Result<(Vec<Mark>, u64), StoreError> {
        let (found, count) = self.oldest_found(node, keys, most, end).await?;
        let marks = found.iter().filter_map(|found| {
            let client = found.subject.rsplit('.').nth(1)?.parse().ok()?;
            Some(Mark { client, revision: found.position.0 })
        });
        Ok((marks.collect(), count))
    }

    async fn oldest_found(
        &self,
        node: &Node,
        keys: &str,
        most: usize,
        end: Instant,
    ) -> Result<(Vec<Found>, u64), StoreError> {
        let subject = self.marks.subject(keys);
        let stream = self.marks.stream();
        let first = Position::ZERO.next();
        let slice = direct::slice_of(node, &stream, first, Some(&subject), most, LOOK_BYTES, end).await?;
        let count = slice.messages.len() as u64 + slice.pending;
        Ok((slice.messages, count))
    }

    /// Evicts records until so many of these marks are gone: among those with the oldest marks always the least recently seen
    /// one, never the client that makes the eviction necessary.
    async fn forget(
        &self,
        node: &Node,
        records: &Bucket,
        mut marks: Vec<Mark>,
        count: u64,
        saved: Uuid,
        end: Instant,
    ) -> Result<(), StoreError> {
        marks.retain(|mark| mark.client != saved);
        let mut gone = 0;
        while gone < count && !marks.is_empty() {
            let mut oldest: Vec<Uuid> = Vec::new();
            for mark in &marks {
                if oldest.len() < CANDIDATES && !oldest.contains(&mark.client) {
                    oldest.push(mark.client);
                }
            }
            let looked_at = oldest.into_iter().map(|client| candidate(node, records, client, end));
            let candidates = try_join_all(looked_at).await?;
            let Some((_, client, revision)) = candidates.into_iter().min() else { break };
            if let Some(revision) = revision {
                records.remove(node, revision, end).await?;
            }
            for mark in marks.extract_if(.., |mark| mark.client == client).collect::<Vec<_>>() {
                self.marks.remove(node, mark.revision, end).await?;
                gone += 1;
            }
        }
        Ok(())
    }
}

/// When a client was last seen, and the revision of its record; `None` where the record cannot be read.
async fn candidate(
    node: &Node,
    records: &Bucket,
    client: Uuid,
    end: Instant,
) -> Result<(u64, Uuid, Option<u64>), StoreError> {
    let entry = records.get(node, &client.to_string(), end).await?;
    let known = entry.as_ref().and_then(|entry| Stored::read(client, &entry.value));
    Ok((known.map_or(0, |known| known.record.seen_ms), client, entry.map(|entry| entry.revision)))
}

/// The prefix of a record's marks.
pub(super) fn share_of(record: &ClientRecord) -> String {
    match record.share() {
        // A digest, since an owner is any text.
        Some(ClientShare::Owner(owner)) => format!("{OWNED}.{}", digest(&owner)),
        Some(ClientShare::Address(address)) => format!("{UNOWNED}.{}", digest(&address.to_string())),
        None => format!("{UNOWNED}.none"),
    }
}

fn key(share: &str, client: Uuid, unit: u64) -> String {
    format!("{share}.{client}.{unit}")
}

/// 126 bits in letters, digits, `-` and `_`.
fn digest(text: &str) -> String {
    let digest = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, text.as_bytes());
    base64(digest.as_ref().get(..16).unwrap_or_default())
}
