//! A key-value bucket, as NATS lays them out: a stream of one message a key. Read from its leader only, so that what one
//! node has saved is what the next one finds.

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

/// The message is refused where the key's newest has another revision.
const EXPECTED_REVISION: &str = "Nats-Expected-Last-Subject-Sequence";

/// The message's end.
const TTL: &str = "Nats-TTL";

/// One bucket.
#[derive(Clone)]
pub(super) struct Bucket {
    name: String,
}

/// What lies under a key.
pub(super) struct Entry {
    pub(super) revision: u64,
    pub(super) value: Vec<u8>,
}

/// How a key is written.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Put {
    /// Only where the key's revision is this one; 0: where the key is not there.
    pub(super) over: Option<u64>,
    /// Gone after so long.
    pub(super) ttl: Option<Duration>,
}

impl Bucket {
    pub(super) fn new(name: String) -> Self {
        Self { name }
    }

    /// The subject under which a key lies.
    pub(super) fn subject(&self, key: &str) -> String {
        format!("$KV.{}.{key}", self.name)
    }

    /// The stream beneath.
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
                    node.suspicion.notify_one();
                    self.remake(node).await;
                    before_next_try(node, end).await?;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let decode = |text: &str| base64::engine::general_purpose::STANDARD.decode(text).ok();
        // What others have deleted with the tools of NATS leaves a marker behind.
        let headers = decode(&found.message.hdrs).unwrap_or_default();
        if String::from_utf8_lossy(&headers).contains("KV-Operation") {
            return Ok(None);
        }
        let value =
            decode(&found.message.data).ok_or_else(|| StoreError::unavailable("a bucket's value is not base64"))?;
        Ok(Some(Entry { revision: found.message.seq, value }))
    }

    /// Writes a key; answers with its revision, or `None` where it had another one than was asked for.
    pub(super) async fn put(
        &self,
        node: &Node,
        key: &str,
        value: Bytes,
        put: Put,
        end: Instant,
    ) -> Result<Option<u64>, StoreError> {
        let mut headers = HeaderMap::new();
        // Asked again, it is stored once.
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
                Err(Failure::Changed) => return Ok(None),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Missing) => {
                    self.remake(node).await;
                    before_next_try(node, end).await?;
                }
                Err(_) => before_next_try(node, end).await?,
            }
        }
    }

    /// Makes it again where an operator has deleted it. One that is there, and only without a leader for a moment, stays as it is.
    pub(super) async fn remake(&self, node: &Node) {
        if let Err(reason) = node.plan.remake_bucket(&node.context, &self.name).await {
            tracing::debug!(%reason, bucket = %self.name, "the bucket is not there, and could not be made");
        }
    }

    /// Removes the entry of a revision; says whether it was this call that did. It leaves no marker.
    pub(super) async fn remove(&self, node: &Node, revision: u64, end: Instant) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Removed {
            success: bool,
        }
        let subject = format!("STREAM.MSG.DELETE.{}", self.stream());
        // Not asked twice: an answer that was lost may have been a yes, which a second question would deny.
        let once = end.min(Instant::now() + super::node::REQUEST_TIMEOUT);
        match node.ask::<Removed>(&subject, &json!({ "seq": revision, "no_erase": true }), once).await {
            Ok(removed) => Ok(removed.success),
            Err(error) if error.is_refusal() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
