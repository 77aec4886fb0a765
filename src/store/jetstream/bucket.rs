//! A key-value bucket in NATS's layout: a stream with one message per key. Reads go to the leader only, so that every node reads
//! what another one has saved.

use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::jetstream::ErrorCode;
use base64::Engine as _;
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::attempt::{Failure, Outgoing, acknowledged, before_next_try};
use super::message::{MESSAGE_ID, base64};
use super::node::{Node, away};
use crate::store::StoreError;

/// The write is refused where the key's latest revision is another one.
const EXPECTED_REVISION: &str = "Nats-Expected-Last-Subject-Sequence";

/// The message's time to live.
const TTL: &str = "Nats-TTL";

/// One bucket.
#[derive(Clone)]
pub(super) struct Bucket {
    name: String,
}

/// The value of a key.
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) value: Vec<u8>,
}

/// The conditions of a write.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Put {
    /// Write only where the key's revision is this one; 0: only where the key does not exist.
    pub(super) over: Option<u64>,
    /// The time to live.
    pub(super) ttl: Option<Duration>,
}

impl Bucket {
    pub(super) fn new(name: String) -> Self {
        Self { name }
    }

    /// The subject of a key.
    pub(super) fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    /// The stream behind the bucket.
    pub(super) fn stream(&self) -> String {
        format!("KV_{}", self.name)
    }

    pub(super) async fn get(&self, node: &Node, key: &str, end: Instant) -> Result<Option<Entry>, StoreError> {
        #[derive(Deserialize)]
        struct Found {
            message: Raw,
        }
        #[derive(Deserialize)]
        struct Raw {
            seq: u64,
            #[serde(default)]
            data: String,
            #[serde(default)]
            hdrs: String,
        }
        let subject = format!("STREAM.MSG.GET.{}", self.stream());
        let found: Found = loop {
            match node.ask(&subject, &json!({ "last_by_subj": self.subject(key) }), end).await {
                Ok(found) => break found,
                Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => return Ok(None),
                Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {
                    node.recheck.notify_one();
                    self.remake(node).await;
                    before_next_try(node, end).await?;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).ok();
        // A key that was deleted with NATS's tools leaves a marker behind.
        let headers = decode(&found.message.hdrs).unwrap_or_default();
        if String::from_utf8_lossy(&headers).contains("KV-Operation") {
            return Ok(None);
        }
        let value = decode(&found.message.data)
            .ok_or_else(|| StoreError::unavailable("a value in a NATS bucket is not base64"))?;
        Ok(Some(Entry { revision: found.message.seq, value }))
    }

    /// Writes a key; returns its revision, or `None` where the key has another revision than expected.
    pub(super) async fn put(
        &self,
        node: &Node,
        key: &str,
        value: Bytes,
        put: Put,
        end: Instant,
    ) -> Result<Option<u64>, StoreError> {
        let mut headers = HeaderMap::new();
        // With an id, a retry is stored once.
        headers.insert(MESSAGE_ID, base64(uuid::Uuid::new_v4().as_bytes()));
        if let Some(revision) = put.over {
            headers.insert(EXPECTED_REVISION, revision.to_string());
        }
        if let Some(ttl) = put.ttl {
            headers.insert(TTL, format!("{}s", ttl.as_secs().max(1)));
        }
        let message = Outgoing { subject: self.subject(key), headers, payload: value };
        loop {
            if !node.until_up(end).await {
                return Err(away());
            }
            let outcome = match message.clone().send(node).await {
                Ok(sent) => acknowledged(node, sent).await,
                Err(failure) => Err(failure),
            };
            match outcome {
                Ok(ack) => return Ok(Some(ack.sequence)),
                Err(Failure::LastSequenceMismatch) => return Ok(None),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Missing) => {
                    self.remake(node).await;
                    before_next_try(node, end).await?;
                }
                Err(_) => before_next_try(node, end).await?,
            }
        }
    }

    /// Creates the bucket again where an operator has deleted it. An existing bucket that has only no leader for a moment is left
    /// as it is.
    pub(super) async fn remake(&self, node: &Node) {
        if let Err(reason) = node.plan.remake_bucket(&node.context, &self.name).await {
            tracing::debug!(%reason, bucket = %self.name, "the bucket does not exist and could not be created");
        }
    }

    /// Removes the entry with a revision, without a marker; returns whether this call removed it.
    pub(super) async fn remove(&self, node: &Node, revision: u64, end: Instant) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Removed {
            success: bool,
        }
        let subject = format!("STREAM.MSG.DELETE.{}", self.stream());
        // Not retried: the lost answer may have been a success, which a retry would report as a failure.
        let once = end.min(Instant::now() + super::node::REQUEST_TIMEOUT);
        match node.ask::<Removed>(&subject, &json!({ "seq": revision, "no_erase": true }), once).await {
            Ok(removed) => Ok(removed.success),
            Err(error) if error.is_refusal() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
