//! JetStream's batched direct read (its ADR-31): messages from a position on that match a filter, from any replica.

use std::sync::Arc;

use async_nats::{HeaderMap, Message};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::time::{Instant, timeout_at};

use super::RETRY_WAIT;
use super::message;
use super::node::{Node, REQUEST_TIMEOUT, away};
use crate::cursor::{Epoch, Position};
use crate::event::Event;
use crate::store::StoreError;
use crate::topic::PatternSet;

/// What a direct read costs besides what it returns, in rows: the server looks for the next match in an index that it has on disk.
pub(super) const DIRECT_READ_ROWS: u64 = 10;

/// What to filter by; nothing where all of it is asked for.
pub(super) fn filters(node: &Node, patterns: &PatternSet) -> Vec<Option<String>> {
    if patterns.has_everything() {
        return vec![None];
    }
    patterns.iter().map(|pattern| Some(node.names.subject(pattern.as_str()))).collect()
}

/// The result of a direct read.
#[derive(Default)]
pub(super) struct Slice {
    pub(super) messages: Vec<Found>,
    /// Whether the replica that answered has more.
    pub(super) more: bool,
    /// The number of further matches after the last message.
    pub(super) pending: u64,
}

impl Slice {
    /// Whether the first message is at this position and has exactly this payload.
    pub(super) fn holds(&self, position: Position, payload: &[u8]) -> bool {
        self.messages.first().is_some_and(|found| found.position == position && found.payload == payload)
    }

    /// Whether the first message is at this position and has another name or other data.
    pub(super) fn differs(&self, position: Position, payload: &[u8]) -> bool {
        let first = self.messages.first().filter(|found| found.position == position);
        first.is_some_and(|found| message::payload_of(&found.payload) != message::payload_of(payload))
    }
}

/// A message of the stream.
pub(super) struct Found {
    pub(super) position: Position,
    pub(super) subject: String,
    received_ms: u64,
    payload: Bytes,
}

impl Found {
    /// The message decoded as an event; `None` where it is none.
    pub(super) fn event(&self, node: &Node, epoch: Epoch) -> Option<Arc<Event>> {
        let topic = node.names.topic(&self.subject)?;
        let draft = message::draft(topic, &self.payload, self.received_ms)?;
        Some(Arc::new(draft.at(epoch, self.position)))
    }
}

/// Reads at most `count` messages of the log; see [`slice_of`].
pub(super) async fn slice(
    node: &Node,
    from: Position,
    filter: Option<&str>,
    count: usize,
    bytes: usize,
    end: Instant,
) -> Result<Slice, StoreError> {
    slice_of(node, &node.names.stream, from, filter, count, bytes, end).await
}

/// Reads at most `count` messages from `from` on, until so many bytes have passed. The request is retried where there
/// is no answer, or an incomplete one.
pub(super) async fn slice_of(
    node: &Node,
    stream: &str,
    from: Position,
    filter: Option<&str>,
    count: usize,
    bytes: usize,
    end: Instant,
) -> Result<Slice, StoreError> {
    let mut body = json!({ "seq": from.0.max(1), "batch": count, "max_bytes": bytes });
    if let Some(filter) = filter {
        body["next_by_subj"] = filter.into();
    }
    answered(node, stream, &body, end).await
}

/// Reads the last message of each subject at or before a position, in the order of their positions, until so many bytes have
/// passed. At most 1,024 subjects.
pub(super) async fn last_of(
    node: &Node,
    subjects: &[String],
    upto: Position,
    bytes: usize,
    end: Instant,
) -> Result<Slice, StoreError> {
    let body = json!({ "multi_last": subjects, "up_to_seq": upto.0, "batch": subjects.len(), "max_bytes": bytes });
    answered(node, &node.names.stream, &body, end).await
}

async fn answered(node: &Node, stream: &str, body: &Value, end: Instant) -> Result<Slice, StoreError> {
    let body = Bytes::from(body.to_string());
    loop {
        if !node.until_up(end).await {
            return Err(away());
        }
        let try_end = end.min(Instant::now() + REQUEST_TIMEOUT);
        if let Ok(Some(slice)) = timeout_at(try_end, once(node, stream, &body)).await {
            return Ok(slice);
        }
        if Instant::now() + RETRY_WAIT >= end {
            return Err(away());
        }
        tokio::time::sleep(RETRY_WAIT).await;
    }
}

async fn once(node: &Node, stream: &str, body: &Bytes) -> Option<Slice> {
    let inbox = node.client.new_inbox();
    let mut answers = node.client.subscribe(inbox.clone()).await.ok()?;
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    node.client.publish_with_reply(subject, inbox, body.clone()).await.ok()?;
    let mut slice = Slice::default();
    let mut pending = 0;
    let mut last = 0;
    while let Some(answer) = answers.next().await {
        match answer.status.map(|status| status.as_u16()) {
            None | Some(200) => {
                let headers = answer.headers.as_ref()?;
                // Each message carries the sequence of the one before it, so a loss on the way is detected.
                if number(headers, "Nats-Last-Sequence").is_some_and(|before| before != last) {
                    return None;
                }
                pending = number(headers, "Nats-Num-Pending").unwrap_or_default();
                let found = found(&answer)?;
                last = found.position.0;
                slice.messages.push(found);
            }
            // The end of the batch.
            Some(204) => {
                let headers = answer.headers.as_ref()?;
                if number(headers, "Nats-Last-Sequence").is_some_and(|before| before != last) {
                    return None;
                }
                slice.pending = number(headers, "Nats-Num-Pending").unwrap_or(pending);
                slice.more = slice.pending > 0;
                return Some(slice);
            }
            // No messages.
            Some(404) => return Some(slice),
            // No responders, or the server does not support the request.
            Some(status) => {
                tracing::debug!(status, "a direct read was answered with an error status");
                return None;
            }
        }
    }
    None
}

fn found(message: &Message) -> Option<Found> {
    let headers = message.headers.as_ref()?;
    let received =
        headers.get("Nats-Time-Stamp").and_then(|time| async_nats::datetime::parse_rfc3339(time.as_str()).ok());
    let received_ms = received.map(|time| time.unix_timestamp_nanos() / 1_000_000);
    Some(Found {
        position: Position(number(headers, "Nats-Sequence")?),
        subject: headers.get("Nats-Subject")?.as_str().to_owned(),
        received_ms: received_ms.and_then(|ms| u64::try_from(ms).ok()).unwrap_or_default(),
        payload: message.payload.clone(),
    })
}

fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    headers.get(name)?.as_str().parse().ok()
}
