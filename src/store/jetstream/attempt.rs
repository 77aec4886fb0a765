//! One message, sent until JetStream has acknowledged it or the time is up, and what a refusal means.

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use tokio::time::Instant;

use super::RETRY_WAIT;
use super::message;
use super::node::{DEADLINE, Node, away};
use crate::cursor::{Epoch, Position};
use crate::event::Draft;
use crate::store::{Appended, StoreError};

/// What an append comes to.
pub(super) type Outcome = Result<Vec<Appended>, StoreError>;

/// From when and until when an append is tried.
pub(super) struct Attempt {
    epoch: Epoch,
    /// Where the log ended, at least, before anything was sent.
    after: Position,
    pub(super) end: Instant,
}

impl Attempt {
    pub(super) fn new(node: &Node) -> Self {
        let fed = node.fed();
        // Our own repeats are told from new events within the window only.
        let within = DEADLINE.min(node.plan.window.mul_f64(0.75));
        Self { epoch: fed.epoch, after: fed.position, end: Instant::now() + within }
    }

    /// Waits until the feed of this process has what was stored. Where the feed does not come to it in time the answer
    /// is that it is stored, since it is: a reader here waits for the feed as well.
    pub(super) async fn fed(&self, node: &Node, stored: &[Appended]) {
        let Some(last) = stored.iter().map(|one| one.position).max() else { return };
        // A new event that is no further than what was there before is in another stream of the same name.
        let replaced = stored.iter().any(|one| !one.duplicate && one.position <= self.after);
        let end = Instant::now() + DEADLINE;
        let fed = if replaced {
            node.suspicion.notify_one();
            node.until_fed(end, |fed| fed.epoch != self.epoch && fed.position >= last).await
        } else {
            node.reached(self.epoch, last);
            node.until_fed(end, |fed| fed.epoch != self.epoch || fed.position >= last).await
        };
        if !fed {
            tracing::warn!(position = %last, "an event is stored, and the feed has not brought it yet");
        }
    }
}

/// A message, ready to be sent as often as it takes.
#[derive(Clone)]
pub(super) struct Outgoing {
    pub(super) subject: String,
    pub(super) headers: HeaderMap,
    pub(super) payload: Bytes,
}

impl Outgoing {
    pub(super) fn new(node: &Node, draft: &Draft) -> Self {
        Self {
            subject: node.names.subject(draft.topic().as_str()),
            headers: message::headers(draft, node.plan.knows_ids),
            payload: message::payload(draft),
        }
    }

    /// Sends it, to be acknowledged.
    pub(super) async fn send(self, node: &Node) -> Result<PublishAckFuture, Failure> {
        let message = PublishMessage::build().payload(self.payload).headers(self.headers);
        node.context.send_publish(self.subject, message).await.map_err(|error| Failure::of(node, &error))
    }
}

/// Waits for an acknowledgement.
pub(super) async fn acknowledged(node: &Node, sent: PublishAckFuture) -> Result<PublishAck, Failure> {
    sent.await.map_err(|error| Failure::of(node, &error))
}

/// Why something was not acknowledged.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// It may be stored or not; or is known not to be, and could be the next time.
    Again,
    /// Nobody listens: the stream is without a leader for a moment, or gone.
    Missing,
    /// A batch holds an id that is known already.
    Known,
    /// JetStream has too many batches under way.
    Crowded,
    /// The stream's last id is another than was expected.
    Unknown,
    /// The stream, or the key of a bucket, is at another sequence than was expected.
    Changed,
    /// It is not stored, and will not be.
    Final(StoreError),
}

impl Failure {
    fn of(node: &Node, error: &PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::StreamNotFound => {
                node.suspicion.notify_one();
                Self::Missing
            }
            PublishErrorKind::WrongLastMessageId => Self::Unknown,
            PublishErrorKind::WrongLastSequence => Self::Changed,
            PublishErrorKind::MaxPayloadExceeded => Self::Final(StoreError::TooLarge(node.client.max_payload())),
            PublishErrorKind::MaxAckPending => Self::Crowded,
            PublishErrorKind::Other => {
                let source = std::error::Error::source(error);
                match source.and_then(|source| source.downcast_ref::<jetstream::Error>()) {
                    Some(refusal) => Self::refused(refusal),
                    None => Self::Again,
                }
            }
            _ => Self::Again,
        }
    }

    fn refused(error: &jetstream::Error) -> Self {
        match error.error_code() {
            ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE => Self::Known,
            ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT => Self::Crowded,
            ErrorCode::ATOMIC_PUBLISH_DISABLED => Self::Final(StoreError::NotAtomic),
            ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => Self::Final(StoreError::Full),
            // A bucket that is full. Retention keeps the log from it.
            ErrorCode::STREAM_STORE_FAILED if error.to_string().contains("maximum messages exceeded") => {
                Self::Final(StoreError::Busy("as many of its kind are kept as may be"))
            }
            // Its first is on its way, or a leader has just gone.
            ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT
            | ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH
            | ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::CLUSTER_NOT_ACTIVE => Self::Again,
            _ => Self::Final(StoreError::unavailable(format!("JetStream refuses an event: {error}"))),
        }
    }
}

/// Waits before the next try; `None` where there is no time for one.
pub(super) async fn before_next_try(node: &Node, end: Instant) -> Result<(), StoreError> {
    tokio::time::sleep(RETRY_WAIT).await;
    if node.until_up(end).await && Instant::now() < end { Ok(()) } else { Err(away()) }
}
