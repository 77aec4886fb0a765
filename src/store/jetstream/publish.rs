//! Appending: published in the order in which it was asked for, many under way at a time, each asked again until JetStream
//! has acknowledged it or the time is up.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use async_nats::HeaderMap;
use async_nats::jetstream::context::{PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::{self, ErrorCode};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::batch;
use super::message;
use super::node::{DEADLINE, Node, RETRY_WAIT, away};
use crate::cursor::{Epoch, Position};
use crate::event::Draft;
use crate::store::{Appended, StoreError};

/// Appends under way; past it they are refused as busy.
const APPENDS_MAX: usize = 8192;

/// KiB of events under way.
const PENDING_KIB_MAX: u32 = 64 << 10;

pub(super) type Outcome = Result<Vec<Appended>, StoreError>;

/// Where appends are handed in.
pub(super) struct Publisher {
    jobs: mpsc::Sender<Job>,
    places: Arc<Semaphore>,
    kib: Arc<Semaphore>,
    closed: AtomicBool,
}

struct Job {
    drafts: Vec<Draft>,
    answer: oneshot::Sender<Outcome>,
    _room: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Publisher {
    /// Spawns the task that publishes, on the runtime of the store.
    pub(super) fn start(node: &Arc<Node>) -> Self {
        let (jobs, queue) = mpsc::channel(APPENDS_MAX);
        tokio::spawn(publish_all(node.clone(), queue));
        Self {
            jobs,
            places: Arc::new(Semaphore::new(APPENDS_MAX)),
            kib: Arc::new(Semaphore::new(PENDING_KIB_MAX as usize)),
            closed: AtomicBool::new(false),
        }
    }

    /// Takes an append in; the order of these calls is that of the positions, unless something has to be asked again.
    pub(super) fn append(&self, drafts: Vec<Draft>) -> Result<oneshot::Receiver<Outcome>, StoreError> {
        let busy = || StoreError::Busy("more is published than NATS takes");
        let bytes: u64 = drafts.iter().map(Draft::cost_bytes).sum();
        let kib = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(PENDING_KIB_MAX);
        let place = self.places.clone().try_acquire_owned().map_err(|_| busy())?;
        let room = self.kib.clone().try_acquire_many_owned(kib).map_err(|_| busy())?;
        if self.closed.load(Ordering::Acquire) {
            return Err(StoreError::unavailable("it is shut down"));
        }
        let (answer, answered) = oneshot::channel();
        self.jobs.try_send(Job { drafts, answer, _room: (place, room) }).map_err(|_| busy())?;
        Ok(answered)
    }

    /// Takes nothing in any more.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    /// Waits for those that were taken in.
    pub(super) async fn finished(&self) {
        // Whoever has all places knows that nobody is on one.
        let all = u32::try_from(APPENDS_MAX).unwrap_or(u32::MAX);
        drop(self.places.acquire_many(all).await);
    }
}

/// One task sends, so that what is asked for first is sent first; another for each append waits for its answer.
async fn publish_all(node: Arc<Node>, mut queue: mpsc::Receiver<Job>) {
    while let Some(job) = queue.recv().await {
        let node = node.clone();
        let attempt = Attempt::new(&node);
        let plan = batch::Plan::new(&node, &job.drafts);
        // Nothing is put into a connection that is not there: it would be published when its asker has long been refused.
        let sent = if node.is_up() { plan.send(&node).await } else { None };
        tokio::spawn(async move {
            let outcome = plan.settle(&node, &attempt, sent).await;
            // Whoever asked may be gone; the event is stored all the same.
            let _ = job.answer.send(outcome);
        });
    }
}

/// From when and until when an append is tried.
pub(super) struct Attempt {
    epoch: Epoch,
    /// Where the log ended, at least, before anything was sent.
    after: Position,
    pub(super) end: Instant,
}

impl Attempt {
    fn new(node: &Node) -> Self {
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
