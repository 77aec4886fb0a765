//! What all parts of the store share: the connection, the names, and the known state of the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{Context, ErrorCode, context::ContextBuilder, response::Response};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::RETRY_WAIT;
use super::connect::{Connection, LinkState};
use super::names::Names;
use super::newest::Newest;
use super::servers::Servers;
use super::setup::Plan;
use super::single_flight::{Callers, SingleFlight};
use super::skew::Skew;
use crate::cursor::{Cursor, Epoch, Position};
use crate::store::{Bounds, StoreError};
use crate::sync::lock;

/// The timeout of one request, after which it is retried.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// The deadline of an operation, after which the store reports that NATS does not answer.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// How often the leader is asked again that is behind what a copy has shown.
const LEADER_BEHIND_MAX: u32 = 10;

/// Outstanding acknowledgements of publishes: more than [`super::publish`] admits.
const ACKS_MAX: usize = 64 << 10;

/// This node's connection to the stream and its state, shared by all parts.
pub(super) struct Node {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) names: Names,
    pub(super) plan: Plan,
    pub(super) link: watch::Receiver<LinkState>,
    known: Mutex<Known>,
    replicated: AtomicBool,
    /// The feed's progress, for tasks that wait for it.
    fed: watch::Sender<FeedProgress>,
    /// Notified where the stream may have been replaced or deleted: the feed checks.
    pub(super) recheck: Notify,
    queries: SingleFlight<StreamInfo>,
    proofs: SingleFlight<StreamInfo>,
    servers: Arc<Servers>,
    /// How far this node's clock is from the others.
    pub(super) skew: Skew,
    /// The index of the newest events.
    pub(super) newest: Newest,
}

/// This process's knowledge of the log.
#[derive(Clone, Copy, Debug)]
struct Known {
    epoch: Epoch,
    floor: Position,
    last: Position,
}

/// The feed's progress.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FeedProgress {
    /// Whether a feed is running at all.
    pub(super) following: bool,
    pub(super) epoch: Epoch,
    pub(super) position: Position,
}

/// The state of the stream as its leader reported it at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct StreamInfo {
    pub(super) epoch: Epoch,
    /// Every event up to this position is trimmed, or about to expire.
    pub(super) floor: Position,
    pub(super) last: Position,
    /// Whether there is more than one replica.
    pub(super) replicated: bool,
    /// How long ago, at most, the leader had a majority of the replicas behind it.
    pub(super) quorum_age: Duration,
}

/// The callers that wait for this node's shared requests, to be served.
pub(super) struct NodeCallers {
    /// For [`Node::query`].
    pub(super) querying: Callers<StreamInfo>,
    /// For [`Node::proven`].
    pub(super) proving: Callers<StreamInfo>,
}

impl Node {
    /// A node over a connection, and the queues of its shared requests.
    pub(super) fn new(connection: Connection, names: Names, plan: Plan, seen: StreamInfo) -> (Arc<Self>, NodeCallers) {
        let Connection { client, link, servers } = connection;
        let context = context(&client);
        let (queries, querying) = SingleFlight::new();
        let (proofs, proving) = SingleFlight::new();
        let known = Known { epoch: seen.epoch, floor: seen.floor, last: seen.last };
        let fed = watch::Sender::new(FeedProgress { following: false, epoch: seen.epoch, position: Position::ZERO });
        let node = Arc::new(Self {
            client,
            context,
            names,
            plan,
            link,
            known: Mutex::new(known),
            replicated: AtomicBool::new(seen.replicated),
            fed,
            recheck: Notify::new(),
            queries,
            proofs,
            servers,
            skew: Skew::new(),
            newest: Newest::new(seen.epoch),
        });
        (node, NodeCallers { querying, proving })
    }

    pub(super) fn bounds(&self) -> Bounds {
        let known = *lock(&self.known);
        Bounds { epoch: known.epoch, began: Position::ZERO, floor: known.floor, last: known.last }
    }

    /// Whether the stream has more than one replica.
    pub(super) fn is_replicated(&self) -> bool {
        self.replicated.load(Ordering::Relaxed)
    }

    /// Records what the leader reported; returns whether the floor has moved. A report about another stream is ignored here: the
    /// feed switches streams.
    pub(super) fn record_state(&self, seen: &StreamInfo) -> bool {
        self.replicated.store(seen.replicated, Ordering::Relaxed);
        let mut known = lock(&self.known);
        if known.epoch != seen.epoch {
            return false;
        }
        known.last = known.last.max(seen.last);
        let moved = seen.floor > known.floor;
        known.floor = known.floor.max(seen.floor);
        moved
    }

    /// Records that a durable event is at this position. Where retention limits the number of events, the floor follows.
    pub(super) fn reached(&self, epoch: Epoch, position: Position) {
        let mut known = lock(&self.known);
        if known.epoch == epoch {
            known.last = known.last.max(position);
            if let Some(events_max) = self.plan.retention.events_max {
                known.floor = known.floor.max(Position(known.last.0.saturating_sub(events_max)));
            }
        }
    }

    /// Records that every event up to this position is trimmed.
    pub(super) fn record_floor(&self, epoch: Epoch, floor: Position) {
        let mut known = lock(&self.known);
        if known.epoch == epoch {
            known.floor = known.floor.max(floor);
        }
    }

    /// Switches to another log.
    pub(super) fn switch_log(&self, seen: &StreamInfo) {
        *lock(&self.known) = Known { epoch: seen.epoch, floor: seen.floor, last: seen.last };
    }

    /// Notifies the waiting tasks of the feed's progress.
    pub(super) fn fed_to(&self, epoch: Epoch, position: Position) {
        self.fed.send_replace(FeedProgress { following: true, epoch, position });
    }

    pub(super) fn fed(&self) -> FeedProgress {
        *self.fed.borrow()
    }

    /// Waits until the feed's progress satisfies a condition, or the deadline has passed; returns whether it does.
    pub(super) async fn until_fed(&self, end: Instant, mut holds: impl FnMut(&FeedProgress) -> bool) -> bool {
        let mut fed = self.fed.subscribe();
        timeout_at(end, fed.wait_for(|fed| !fed.following || holds(fed))).await.is_ok_and(|waited| waited.is_ok())
    }

    /// Whether the connection is up.
    pub(super) fn is_up(&self) -> bool {
        self.link.borrow().up
    }

    /// Waits for the connection; returns whether it was up by the deadline.
    pub(super) async fn until_up(&self, end: Instant) -> bool {
        let mut link = self.link.clone();
        timeout_at(end, link.wait_for(|link| link.up)).await.is_ok_and(|waited| waited.is_ok())
    }

    /// The stream's state from a request that begins after this call; concurrent calls share one request.
    pub(super) async fn query(&self) -> Result<StreamInfo, StoreError> {
        self.queries.ask().await
    }

    /// The stream's state with the proof that a majority agrees: for decisions that would take something from a client. See
    /// [`super::quorum`].
    pub(super) async fn proven(&self) -> Result<StreamInfo, StoreError> {
        self.proofs.ask().await
    }

    /// Reconnects to another server; returns whether there is another one.
    pub(super) async fn leave_server(&self) -> bool {
        let pool = self.client.server_pool().await.unwrap_or_default();
        if pool.len() < 2 {
            return false;
        }
        let server = self.servers.leave().unwrap_or_default();
        tracing::warn!(%server, "the NATS server has no quorum: it is partitioned from the others, or they are down; trying another one");
        self.client.force_reconnect().await.is_ok()
    }

    /// The stream's state from a leader that is not behind a position that a reader was given. A replica may apply an agreed
    /// message before the leader itself does, and deliver it to another node's feed; and a replica that has just lost the
    /// leadership may not know it.
    pub(super) async fn query_past(&self, given: Cursor) -> Result<StreamInfo, StoreError> {
        let mut seen = self.query().await?;
        for _ in 0..LEADER_BEHIND_MAX {
            if seen.epoch != given.epoch || seen.last >= given.position {
                break;
            }
            tokio::time::sleep(RETRY_WAIT).await;
            seen = self.query().await?;
        }
        Ok(seen)
    }

    /// The log's bounds as the leader knows them, to validate a cursor. Where the stream has been replaced, this process has
    /// switched to the new one when this returns.
    pub(super) async fn refresh(&self, cursor: Cursor) -> Result<Bounds, StoreError> {
        let mut seen = self.query_past(cursor).await?;
        if seen.epoch != cursor.epoch || seen.last < cursor.position {
            seen = self.proven().await?;
        }
        if self.bounds().epoch == seen.epoch {
            return Ok(self.bounds());
        }
        self.until_fed(Instant::now() + DEADLINE, |fed| fed.epoch == seen.epoch).await;
        let bounds = self.bounds();
        if bounds.epoch == seen.epoch {
            Ok(bounds)
        } else {
            Err(StoreError::Busy("the log has just been replaced by another one"))
        }
    }

    /// The position of the message that `message` describes, as the leader of the stream has it; `None` where there is none.
    pub(super) async fn leader_message(&self, message: &Value, end: Instant) -> Result<Option<Position>, AskError> {
        #[derive(Deserialize)]
        struct Found {
            message: At,
        }
        #[derive(Deserialize)]
        struct At {
            seq: u64,
        }
        let subject = format!("STREAM.MSG.GET.{}", self.names.stream);
        match self.ask::<Found>(&subject, message, end).await {
            Ok(found) => Ok(Some(Position(found.message.seq))),
            Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends a request to JetStream's API, and retries until the deadline where there is no answer.
    pub(super) async fn ask<T: DeserializeOwned>(
        &self,
        subject: &str,
        body: &(impl Serialize + Sync),
        end: Instant,
    ) -> Result<T, AskError> {
        loop {
            if !self.until_up(end).await {
                return Err(AskError::Away);
            }
            let answer = timeout_at(end, self.context.request(subject.to_owned(), body)).await;
            match answer {
                Ok(Ok(Response::Ok(answer))) => return Ok(answer),
                Ok(Ok(Response::Err { error })) if !is_passing(error.error_code()) => {
                    return Err(AskError::Refused(error));
                }
                Ok(Ok(Response::Err { .. }) | Err(_)) if Instant::now() + RETRY_WAIT < end => {
                    tokio::time::sleep(RETRY_WAIT).await;
                }
                _ => return Err(AskError::Away),
            }
        }
    }
}

pub(super) fn context(client: &Client) -> Context {
    ContextBuilder::new()
        .timeout(REQUEST_TIMEOUT)
        .ack_timeout(REQUEST_TIMEOUT)
        .max_ack_inflight(ACKS_MAX)
        .build(client.clone())
}

/// A failed request to JetStream's API.
#[derive(Debug)]
pub(super) enum AskError {
    /// No answer, or only a passing error.
    Away,
    /// JetStream refused the request.
    Refused(async_nats::jetstream::Error),
}

impl AskError {
    pub(super) fn is_refusal(&self) -> bool {
        matches!(self, Self::Refused(_))
    }

    pub(super) fn is(&self, code: ErrorCode) -> bool {
        matches!(self, Self::Refused(error) if error.error_code() == code)
    }
}

impl From<AskError> for StoreError {
    fn from(error: AskError) -> Self {
        match error {
            AskError::Away => away(),
            AskError::Refused(error) => Self::unavailable(format!("JetStream refuses the request: {error}")),
        }
    }
}

pub(super) fn away() -> StoreError {
    StoreError::unavailable("NATS does not answer")
}

/// Errors of a cluster between two leaders.
fn is_passing(code: ErrorCode) -> bool {
    matches!(code, ErrorCode::CLUSTER_NOT_AVAILABLE | ErrorCode::CLUSTER_NOT_LEADER | ErrorCode::CLUSTER_NOT_ACTIVE)
}
