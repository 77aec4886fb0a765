//! What all parts of the store share: the connection, the names, and what is known of the log.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::{Context, ErrorCode, context::ContextBuilder, response::Response};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout_at};

use super::RETRY_WAIT;
use super::connect::{Connection, Link};
use super::names::Names;
use super::servers::Servers;
use super::setup::Plan;
use super::single_flight::{Callers, SingleFlight};
use super::skew::Skew;
use crate::cursor::{Cursor, Epoch, Position};
use crate::store::{Bounds, StoreError};
use crate::sync::lock;

/// How long one request may take before it is asked again.
pub(super) const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);

/// How long the store tries to get something done before it says that NATS is away.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);

/// How often the leader is asked again that is behind what a copy has shown.
const LEADER_BEHIND_MAX: u32 = 10;

/// Acknowledgements of publishes that may be outstanding: more than [`super::publish`] lets in.
const ACKS_MAX: usize = 64 << 10;

/// The node's end of a stream, shared by all its parts.
pub(super) struct Node {
    pub(super) client: Client,
    pub(super) context: Context,
    pub(super) names: Names,
    pub(super) plan: Plan,
    pub(super) link: watch::Receiver<Link>,
    known: Mutex<Known>,
    replicated: AtomicBool,
    /// How far the feed has come, for those who wait for it.
    fed: watch::Sender<Fed>,
    /// The stream may be another one, or gone: the feed looks.
    pub(super) suspicion: Notify,
    looks: SingleFlight<Seen>,
    proofs: SingleFlight<Seen>,
    servers: Arc<Servers>,
    /// How far this node's clock is from others.
    pub(super) skew: Skew,
}

/// What this process knows of the log.
#[derive(Clone, Copy, Debug)]
struct Known {
    epoch: Epoch,
    floor: Position,
    last: Position,
}

/// How far the feed has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fed {
    /// Whether there is a feed at all.
    pub(super) following: bool,
    pub(super) epoch: Epoch,
    pub(super) position: Position,
}

/// What the stream's leader said at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) epoch: Epoch,
    /// Everything up to here is gone, or about to go by its age.
    pub(super) floor: Position,
    pub(super) last: Position,
    /// Whether there is more than one copy.
    pub(super) replicated: bool,
    /// How long before, at the least, the leader had a majority of the copies behind it.
    pub(super) quorum_age: Duration,
}

/// Those that ask a node, to be served.
pub(super) struct NodeCallers {
    /// For [`Node::look`].
    pub(super) looking: Callers<Seen>,
    /// For [`Node::proven`].
    pub(super) proving: Callers<Seen>,
}

impl Node {
    /// The node over a connection, and those that will ask it.
    pub(super) fn new(connection: Connection, names: Names, plan: Plan, seen: Seen) -> (Arc<Self>, NodeCallers) {
        let Connection { client, link, servers } = connection;
        let context = context(&client);
        let (looks, looking) = SingleFlight::new();
        let (proofs, proving) = SingleFlight::new();
        let known = Known { epoch: seen.epoch, floor: seen.floor, last: seen.last };
        let fed = watch::Sender::new(Fed { following: false, epoch: seen.epoch, position: Position::ZERO });
        let node = Arc::new(Self {
            client,
            context,
            names,
            plan,
            link,
            known: Mutex::new(known),
            replicated: AtomicBool::new(seen.replicated),
            fed,
            suspicion: Notify::new(),
            looks,
            proofs,
            servers,
            skew: Skew::new(),
        });
        (node, NodeCallers { looking, proving })
    }

    pub(super) fn bounds(&self) -> Bounds {
        let known = *lock(&self.known);
        Bounds { epoch: known.epoch, began: Position::ZERO, floor: known.floor, last: known.last }
    }

    /// Whether the stream has more than one copy.
    pub(super) fn is_replicated(&self) -> bool {
        self.replicated.load(Ordering::Relaxed)
    }

    /// Notes what the leader said; says whether the floor has moved. What it said of another stream is the feed's to
    /// find out.
    pub(super) fn saw(&self, seen: &Seen) -> bool {
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

    /// Notes that an event is at this position, durable. Of as many as are kept, the oldest are gone with that.
    pub(super) fn reached(&self, epoch: Epoch, position: Position) {
        let mut known = lock(&self.known);
        if known.epoch == epoch {
            known.last = known.last.max(position);
            if let Some(events_max) = self.plan.retention.events_max {
                known.floor = known.floor.max(Position(known.last.0.saturating_sub(events_max)));
            }
        }
    }

    /// Notes that everything up to here is gone.
    pub(super) fn lost(&self, epoch: Epoch, floor: Position) {
        let mut known = lock(&self.known);
        if known.epoch == epoch {
            known.floor = known.floor.max(floor);
        }
    }

    /// The log is another one from here on.
    pub(super) fn became(&self, seen: &Seen) {
        *lock(&self.known) = Known { epoch: seen.epoch, floor: seen.floor, last: seen.last };
    }

    /// Tells those who wait that the feed has come so far.
    pub(super) fn fed_to(&self, epoch: Epoch, position: Position) {
        self.fed.send_replace(Fed { following: true, epoch, position });
    }

    pub(super) fn fed(&self) -> Fed {
        *self.fed.borrow()
    }

    /// Waits until the feed fulfils something, or the time is up; says whether it does.
    pub(super) async fn until_fed(&self, end: Instant, mut holds: impl FnMut(&Fed) -> bool) -> bool {
        let mut fed = self.fed.subscribe();
        timeout_at(end, fed.wait_for(|fed| !fed.following || holds(fed))).await.is_ok_and(|waited| waited.is_ok())
    }

    /// Whether the connection is there.
    pub(super) fn is_up(&self) -> bool {
        self.link.borrow().up
    }

    /// Waits for the connection; says whether it was there in time.
    pub(super) async fn until_up(&self, end: Instant) -> bool {
        let mut link = self.link.clone();
        timeout_at(end, link.wait_for(|link| link.up)).await.is_ok_and(|waited| waited.is_ok())
    }

    /// A look at the stream that begins after this call: what is asked for at the same time is one question.
    pub(super) async fn look(&self) -> Result<Seen, StoreError> {
        self.looks.ask().await
    }

    /// A look at the stream, with the proof that a majority says the same: what to believe where a client would lose something by it.
    /// See [`super::quorum`].
    pub(super) async fn proven(&self) -> Result<Seen, StoreError> {
        self.proofs.ask().await
    }

    /// Leaves the server that is connected to for another one; says whether there is one.
    pub(super) async fn leave_server(&self) -> bool {
        let pool = self.client.server_pool().await.unwrap_or_default();
        if pool.len() < 2 {
            return false;
        }
        let server = self.servers.leave().unwrap_or_default();
        tracing::warn!(%server, "the NATS server has no quorum: it is cut from the others, or they are down; trying another");
        self.client.force_reconnect().await.is_ok()
    }

    /// A look by a leader that is not behind what somebody has been given. A copy may take in what is agreed on before
    /// the leader itself has, and hand it to another node's feed; and one that has just been replaced may not know it.
    pub(super) async fn look_past(&self, given: Cursor) -> Result<Seen, StoreError> {
        let mut seen = self.look().await?;
        for _ in 0..LEADER_BEHIND_MAX {
            if seen.epoch != given.epoch || seen.last >= given.position {
                break;
            }
            tokio::time::sleep(RETRY_WAIT).await;
            seen = self.look().await?;
        }
        Ok(seen)
    }

    /// The log's bounds as the leader knows them, to judge a cursor by. Where the stream has become another one, this
    /// process has taken that in when this returns.
    pub(super) async fn refresh(&self, cursor: Cursor) -> Result<Bounds, StoreError> {
        let mut seen = self.look_past(cursor).await?;
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
            Err(StoreError::Busy("the log has just become another one"))
        }
    }

    /// Asks JetStream's interface, again where it does not answer, until the time is up.
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

/// JetStream did not do what it was asked.
#[derive(Debug)]
pub(super) enum AskError {
    /// It did not answer, or only that it could not at the moment.
    Away,
    /// It said no.
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
            AskError::Refused(error) => Self::unavailable(format!("JetStream refuses: {error}")),
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
