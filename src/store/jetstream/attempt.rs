//! One message to JetStream, retried until it is acknowledged or its deadline has passed, and the meaning of a refusal.

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

/// The result of an append.
pub(super) type Outcome = Result<Vec<Appended>, StoreError>;

/// The start and the deadline of an append.
pub(super) struct Attempt {
    epoch: Epoch,
    /// A lower bound of the log's end before the first message was sent.
    after: Position,
    pub(super) end: Instant,
}

impl Attempt {
    pub(super) fn new(node: &Node) -> Self {
        let fed = node.fed();
        // Only within the window does JetStream recognize our own repeats.
        let within = DEADLINE.min(node.plan.window.mul_f64(0.75));
        Self { epoch: fed.epoch, after: fed.position, end: Instant::now() + within }
    }

    /// Waits until this process's feed has delivered the stored event. If the feed does not within the deadline, the append
    /// succeeds all the same, since the event is stored: a reader here waits for the feed as well.
    pub(super) async fn fed(&self, node: &Node, stored: &[Appended]) {
        let Some(last) = stored.iter().map(|one| one.position).max() else { return };
        // A new event whose position is not beyond the previous end is in another stream of the same name.
        let replaced = stored.iter().any(|one| !one.duplicate && one.position <= self.after);
        let end = Instant::now() + DEADLINE;
        let fed = if replaced {
            node.recheck.notify_one();
            node.until_fed(end, |fed| fed.epoch != self.epoch && fed.position >= last).await
        } else {
            node.reached(self.epoch, last);
            node.until_fed(end, |fed| fed.epoch != self.epoch || fed.position >= last).await
        };
        if !fed {
            tracing::warn!(position = %last, "an event is stored, but the feed has not delivered it yet");
        }
    }
}

/// A message that can be sent repeatedly.
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

    /// Sends the message; returns the future of its acknowledgement.
    pub(super) async fn send(self, node: &Node) -> Result<PublishAckFuture, Failure> {
        let message = PublishMessage::build().payload(self.payload).headers(self.headers);
        node.context.send_publish(self.subject, message).await.map_err(|error| Failure::of(node, &error))
    }
}

/// Waits for an acknowledgement.
pub(super) async fn acknowledged(node: &Node, sent: PublishAckFuture) -> Result<PublishAck, Failure> {
    sent.await.map_err(|error| Failure::of(node, &error))
}

/// Why a message was not acknowledged.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The message may be stored or not, or is not stored but a retry may succeed.
    Retry,
    /// No responders: the stream has no leader for a moment, or does not exist.
    Missing,
    /// A batch contains a duplicate id.
    DuplicateId,
    /// JetStream has too many batches in flight.
    TooManyInFlight,
    /// The stream's last id is not the expected one.
    LastIdMismatch,
    /// The last sequence of the stream, or of a bucket's key, is not the expected one.
    LastSequenceMismatch,
    /// The message is not stored, and a retry would not help.
    Final(StoreError),
}

impl Failure {
    fn of(node: &Node, error: &PublishError) -> Self {
        match error.kind() {
            PublishErrorKind::StreamNotFound => {
                node.recheck.notify_one();
                Self::Missing
            }
            PublishErrorKind::WrongLastMessageId => Self::LastIdMismatch,
            PublishErrorKind::WrongLastSequence => Self::LastSequenceMismatch,
            PublishErrorKind::MaxPayloadExceeded => Self::Final(StoreError::TooLarge(node.client.max_payload())),
            PublishErrorKind::MaxAckPending => Self::TooManyInFlight,
            PublishErrorKind::Other => {
                let source = std::error::Error::source(error);
                match source.and_then(|source| source.downcast_ref::<jetstream::Error>()) {
                    Some(refusal) => Self::refused(refusal),
                    None => Self::Retry,
                }
            }
            _ => Self::Retry,
        }
    }

    fn refused(error: &jetstream::Error) -> Self {
        match error.error_code() {
            ErrorCode::ATOMIC_PUBLISH_CONTAINS_DUPLICATE_MESSAGE => Self::DuplicateId,
            ErrorCode::ATOMIC_PUBLISH_TOO_MANY_INFLIGHT => Self::TooManyInFlight,
            ErrorCode::ATOMIC_PUBLISH_DISABLED => Self::Final(StoreError::NotAtomic),
            ErrorCode::STORAGE_RESOURCES_EXCEEDED
            | ErrorCode::INSUFFICIENT_RESOURCES
            | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED => Self::Final(StoreError::Full),
            // A bucket is full. Retention prevents that for the log.
            ErrorCode::STREAM_STORE_FAILED if error.to_string().contains("maximum messages exceeded") => {
                Self::Final(StoreError::Busy("the maximum number of this kind is stored already"))
            }
            // The first message with this id is in flight, or a leader has just gone.
            ErrorCode::STREAM_DUPLICATE_MESSAGE_CONFLICT
            | ErrorCode::ATOMIC_PUBLISH_INCOMPLETE_BATCH
            | ErrorCode::CLUSTER_NOT_AVAILABLE
            | ErrorCode::CLUSTER_NOT_LEADER
            | ErrorCode::CLUSTER_NOT_ACTIVE => Self::Retry,
            _ => Self::Final(StoreError::unavailable(format!("JetStream refuses an event: {error}"))),
        }
    }
}

/// Waits before the next attempt; `None` if the deadline leaves no time for one.
pub(super) async fn before_next_try(node: &Node, end: Instant) -> Result<(), StoreError> {
    tokio::time::sleep(RETRY_WAIT).await;
    if node.until_up(end).await && Instant::now() < end { Ok(()) } else { Err(away()) }
}
