//! Security records (tickets, bans, revocations), with a bucket for each kind.

use std::collections::HashMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::DeliverPolicy;
use async_nats::jetstream::consumer::push::OrderedConfig;
use base64::Engine as _;
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio::time::Instant;

use super::bucket::{Bucket, Put};
use super::direct;
use super::message::base64;
use super::node::{DEADLINE, Node};
use crate::clock::{self, Moment};
use crate::cursor::Position;
use crate::store::{
    RECORD_VALUE_MAX_BYTES, RecordWatcher, SecurityRecord, SecurityRecordKind, StoreError, TICKET_SHARE_END,
};
use crate::sync::lock;

/// A record outlives its expiry a little, so that a node whose clock is behind does not miss it.
const PAST_END: Duration = Duration::from_secs(60);

/// The delay before the watch of a bucket is retried.
const WATCH_AGAIN: Duration = Duration::from_secs(1);

/// How long a start waits until all bans and revocations have been received: a hundred thousand take some seconds.
const KNOWN_WAIT: Duration = Duration::from_secs(30);

/// The kinds that are watched.
const WATCHED: [SecurityRecordKind; 2] = [SecurityRecordKind::Ban, SecurityRecordKind::Revocation];

#[derive(Deserialize, Serialize)]
struct Stored {
    key: String,
    value: String,
    /// The expiry by NATS's clock.
    until_ms: u64,
}

/// The records of a node.
pub(super) struct SecurityRecords {
    tickets: Bucket,
    bans: Bucket,
    revocations: Bucket,
    watch: Mutex<Watch>,
    /// How far the trusted time was ahead of the wall clock at the last maintenance, in milliseconds.
    believed_ahead_ms: AtomicI64,
    /// For each kind of [`WATCHED`], in order: whether the sink has received every existing record.
    known: watch::Sender<[bool; 2]>,
}

#[derive(Default)]
struct Watch {
    sink: Option<Arc<dyn RecordWatcher>>,
    /// The revision of each key that the sink has received, so that a record saved by this node is not delivered twice.
    sent: HashMap<(SecurityRecordKind, String), (u64, u64)>,
}

impl SecurityRecords {
    pub(super) fn new(node: &Node) -> Self {
        let bucket = |kind| Bucket::new(node.names.records_bucket(kind));
        Self {
            tickets: bucket(SecurityRecordKind::Ticket),
            bans: bucket(SecurityRecordKind::Ban),
            revocations: bucket(SecurityRecordKind::Revocation),
            watch: Mutex::default(),
            believed_ahead_ms: AtomicI64::new(0),
            known: watch::Sender::new([false; 2]),
        }
    }

    fn bucket(&self, kind: SecurityRecordKind) -> &Bucket {
        match kind {
            SecurityRecordKind::Ticket => &self.tickets,
            SecurityRecordKind::Ban => &self.bans,
            SecurityRecordKind::Revocation => &self.revocations,
        }
    }

    pub(super) async fn save(&self, node: &Node, record: SecurityRecord) -> Result<(), StoreError> {
        let stored = Stored {
            key: record.key.clone(),
            value: base64::engine::general_purpose::STANDARD.encode(&record.value),
            until_ms: record.until_ms.saturating_add_signed(self.nats_ahead_ms(node)),
        };
        let value = serde_json::to_vec(&stored).map_err(StoreError::unavailable)?;
        let left = Duration::from_millis(record.until_ms.saturating_sub(self.believed_ms()));
        let put = Put { over: None, ttl: Some(left + PAST_END) };
        let end = Instant::now() + DEADLINE;
        let saved =
            self.bucket(record.kind).put(node, &key(record.kind, &record.key), Bytes::from(value), put, end).await?;
        if record.kind.is_watched() {
            self.report(record, saved.unwrap_or_default());
        }
        Ok(())
    }

    pub(super) async fn take(
        &self,
        node: &Node,
        kind: SecurityRecordKind,
        name: &str,
        now_ms: u64,
    ) -> Result<Option<SecurityRecord>, StoreError> {
        let end = Instant::now() + DEADLINE;
        let bucket = self.bucket(kind);
        let mut entry = bucket.get(node, &key(kind, name), end).await?;
        if entry.is_none() {
            // A successful removal is a proof in itself; a missing record needs another.
            node.proven().await?;
            entry = bucket.get(node, &key(kind, name), end).await?;
        }
        let Some(entry) = entry else { return Ok(None) };
        let Some(record) = self.read(node, kind, &entry.value) else { return Ok(None) };
        if record.until_ms <= now_ms || !bucket.remove(node, entry.revision, end).await? {
            return Ok(None);
        }
        Ok(Some(record))
    }

    /// The tickets of a share that are in the bucket: unused, and expired by no more than [`PAST_END`].
    pub(super) async fn count_tickets(&self, node: &Node, share: &str) -> Result<u64, StoreError> {
        let keys = format!("{}.>", share_level(share));
        let (stream, subject) = (self.tickets.stream(), self.tickets.subject(&keys));
        let (first, end) = (Position::ZERO.next(), Instant::now() + DEADLINE);
        let slice = direct::slice_of(node, &stream, first, Some(&subject), 1, RECORD_VALUE_MAX_BYTES, end).await?;
        Ok(slice.messages.len() as u64 + slice.pending)
    }

    fn report(&self, record: SecurityRecord, revision: u64) {
        let mut watch = lock(&self.watch);
        let Some(sink) = watch.sink.clone() else { return };
        let now_ms = self.believed_ms();
        let sent = watch.sent.entry((record.kind, record.key.clone())).or_default();
        if sent.0 >= revision {
            return;
        }
        *sent = (revision, record.until_ms.max(now_ms) + PAST_END.as_millis() as u64);
        // Under the lock, so that the newest record is delivered last. `push` never blocks.
        sink.push(record);
    }

    /// Drops the revisions of expired records.
    pub(super) fn expire(&self, now: &Moment) {
        let ahead_ms = now.believed_ms.cast_signed().saturating_sub(now.wall_ms.cast_signed());
        self.believed_ahead_ms.store(ahead_ms, Ordering::Relaxed);
        let now_ms = now.earliest_ms();
        lock(&self.watch).sent.retain(|_, (_, until_ms)| *until_ms > now_ms);
    }

    /// The time by which records expire: a jump of this node's clock neither keeps nor ends the other nodes' records.
    fn believed_ms(&self) -> u64 {
        clock::wall_ms().saturating_add_signed(self.believed_ahead_ms.load(Ordering::Relaxed))
    }

    /// How far NATS's clock is ahead of the time by which records expire here, in milliseconds. In the bucket records expire by
    /// NATS's clock, so they expire at the same moment for all nodes, whatever their clocks. Rounded to seconds, or the expiry
    /// would move with every measurement.
    fn nats_ahead_ms(&self, node: &Node) -> i64 {
        let ahead_ms = node.skew.nats_ahead_ms().saturating_sub(self.believed_ahead_ms.load(Ordering::Relaxed));
        ahead_ms.saturating_add(500).div_euclid(1000).saturating_mul(1000)
    }

    /// Decodes a value; `None` where it is foreign.
    fn read(&self, node: &Node, kind: SecurityRecordKind, value: &[u8]) -> Option<SecurityRecord> {
        let stored: Stored = serde_json::from_slice(value).ok()?;
        let value = base64::engine::general_purpose::STANDARD.decode(stored.value).ok()?;
        let until_ms = stored.until_ms.saturating_add_signed(self.nats_ahead_ms(node).saturating_neg());
        Some(SecurityRecord { kind, key: stored.key, value, until_ms })
    }

    /// Watches the buckets from the beginning, and restarts a watch that breaks.
    pub(super) fn watch(self: &Arc<Self>, node: &Arc<Node>, sink: Arc<dyn RecordWatcher>) {
        lock(&self.watch).sink = Some(sink);
        for kind in WATCHED {
            let (records, node) = (self.clone(), node.clone());
            tokio::spawn(async move {
                loop {
                    if let Err(error) = records.watch_once(&node, kind).await {
                        tracing::debug!(%error, kind = kind.name(), "the watch of the records failed: retrying");
                    }
                    records.set_known(kind, false);
                    tokio::time::sleep(WATCH_AGAIN).await;
                }
            });
        }
    }

    /// Whether the sink has received every existing record, and receives each one that is saved.
    pub(super) fn are_known(&self) -> bool {
        self.known.borrow().iter().all(|known| *known)
    }

    /// Waits until the records are known.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] where that takes longer than half a minute.
    pub(super) async fn until_known(&self) -> Result<(), StoreError> {
        let mut known = self.known.subscribe();
        let waited = tokio::time::timeout(KNOWN_WAIT, known.wait_for(|known| known.iter().all(|known| *known))).await;
        match waited {
            Ok(Ok(_)) => Ok(()),
            _ => Err(StoreError::unavailable("bans and revocations could not be read from NATS in time")),
        }
    }

    fn set_known(&self, kind: SecurityRecordKind, is_known: bool) {
        self.known.send_modify(|known| {
            for (watched, known) in WATCHED.into_iter().zip(known) {
                if watched == kind {
                    *known = is_known;
                }
            }
        });
    }

    async fn watch_once(&self, node: &Node, kind: SecurityRecordKind) -> Result<(), async_nats::Error> {
        node.until_up(Instant::now() + DEADLINE).await;
        let bucket = self.bucket(kind);
        let stream = match node.context.get_stream(bucket.stream()).await {
            Ok(stream) => stream,
            Err(error) => {
                bucket.remake(node).await;
                return Err(error.into());
            }
        };
        let config = OrderedConfig {
            deliver_subject: node.client.new_inbox(),
            description: Some("Switchback's security records".into()),
            filter_subject: bucket.subject(">"),
            deliver_policy: DeliverPolicy::All,
            ..OrderedConfig::default()
        };
        let consumer = stream.create_consumer(config).await?;
        if consumer.cached_info().num_pending == 0 {
            self.set_known(kind, true);
        }
        let mut messages = consumer.messages().await?;
        let mut link = node.link.clone();
        let generation = link.borrow().generation;
        loop {
            // While the connection is down, records saved elsewhere are not received: then the records count as unknown, and are read
            // again. Leaving that to the consumer would report nothing until its heartbeats are missed.
            let message = tokio::select! {
                message = messages.next() => message,
                _ = link.wait_for(|link| !link.up || link.generation != generation).map(drop) => return Ok(()),
            };
            let Some(message) = message else { return Ok(()) };
            let message: jetstream::Message = message?;
            let info = message.info()?;
            let (revision, pending) = (info.stream_sequence, info.pending);
            if let Some(record) = self.read(node, kind, &message.payload) {
                self.report(record, revision);
            }
            if pending == 0 {
                self.set_known(kind, true);
            }
        }
    }
}

/// Encodes any text as a bucket's key. The share of a ticket is a level of its own, so that NATS can count the tickets of one by
/// its index of subjects.
fn key(kind: SecurityRecordKind, text: &str) -> String {
    match text.split_once(TICKET_SHARE_END).filter(|_| kind == SecurityRecordKind::Ticket) {
        Some((share, name)) => format!("{}.k{}", share_level(share), base64(name.as_bytes())),
        None => format!("k{}", base64(text.as_bytes())),
    }
}

fn share_level(share: &str) -> String {
    format!("s{}", base64(share.as_bytes()))
}
