//! Proofs that NATS, as this node reaches it, speaks for a majority of the replicas.
//!
//! A server that is partitioned from its peers goes on answering for the streams that it leads, for ten seconds and more, from a
//! log that ends where the partition began. If its answers were believed, clients that are further would be sent back, and would
//! receive events twice. So an answer that takes something from a client (its cursor is ahead, its events are trimmed, the log is
//! another one, its record does not exist) is believed only with a proof:
//!
//! 1. A write that needs agreement of the servers is acknowledged. It goes to a bucket of its own beside the log, so that the log
//!    holds events and nothing else. (A write to the log itself that is bound to be refused was rejected: some versions of NATS
//!    refuse it before they agree, others stop the stream over it.)
//! 2. After that, over the same connection, the log's leader answers, and has heard from a majority of the replicas less than
//!    [`QUORUM_AGE_MAX`] ago: before they could have elected another leader.
//!
//! One proof serves all callers that wait for one. Where there is none within the deadline, the state of the log is unknown:
//! readers wait or get 503, and the node is not ready. A server without a quorum is left for another one.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep, timeout};

use super::RETRY_WAIT;
use super::bucket::{Bucket, Put};
use super::node::{Node, REQUEST_TIMEOUT, StreamInfo};
use super::stream_state::{describe, query_until, quorum_age};
use crate::store::StoreError;

/// The only key of the bucket.
const KEY: &str = "proof";

/// The replicas of a stream elect another leader after four seconds of silence at the earliest.
const QUORUM_AGE_MAX: Duration = Duration::from_secs(3);

/// The deadline of a proof. An election takes longer; callers retry.
const PROOF_WAIT: Duration = Duration::from_secs(3);

/// The interval between two proofs: at most fifty a second, however many callers wait.
pub(super) const PROOF_INTERVAL: Duration = Duration::from_millis(20);

/// How often the connected server is checked.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// How long a server is kept whose leader hears from no majority: the other replicas may have just begun to elect another leader.
const PATIENCE_ALONE: Duration = Duration::from_secs(4);

/// The same where no leader answers: most elections are over by then.
const PATIENCE_SILENT: Duration = Duration::from_secs(7);

/// How often the patience is doubled where the previous servers had no quorum either: then this server is not the cause.
const DOUBLED_MAX: u32 = 3;

/// The state of the log from its leader, with the proof that it leads.
///
/// # Errors
/// [`StoreError::Unavailable`] where there is no proof within the deadline.
pub(super) async fn prove(node: &Node) -> Result<StreamInfo, StoreError> {
    let end = Instant::now() + PROOF_WAIT;
    loop {
        let generation = node.link.borrow().generation;
        agree(node, end).await?;
        let sent = Instant::now();
        let seen = query_until(node, end).await?;
        if seen.quorum_age.saturating_add(sent.elapsed()) < QUORUM_AGE_MAX
            && node.link.borrow().generation == generation
        {
            return Ok(seen);
        }
        if Instant::now() + RETRY_WAIT >= end {
            return Err(StoreError::unavailable("the NATS server that this node is connected to has no quorum"));
        }
        sleep(RETRY_WAIT).await;
    }
}

/// A write on which the servers have to agree.
async fn agree(node: &Node, end: Instant) -> Result<(), StoreError> {
    let bucket = Bucket::new(node.names.quorum_bucket());
    bucket.put(node, KEY, Bytes::new(), Put::default(), end).await.map(drop)
}

/// Leaves a server without a quorum for another one, for as long as the store's thread runs.
pub(super) async fn watch(node: Arc<Node>) {
    let mut had_quorum = Instant::now();
    let (mut generation, mut left) = (0, 0);
    loop {
        sleep(WATCH_INTERVAL).await;
        let link = *node.link.borrow();
        if !link.up || link.generation != generation {
            (generation, had_quorum) = (link.generation, Instant::now());
        }
        if !link.up {
            continue;
        }
        let patience = match leader(&node).await {
            Leader::Leads(at) => {
                (left, had_quorum) = (0, at);
                continue;
            }
            Leader::Alone => PATIENCE_ALONE,
            Leader::Silent => PATIENCE_SILENT,
        };
        if had_quorum.elapsed() >= patience * 2_u32.pow(left) && node.leave_server().await {
            left = (left + 1).min(DOUBLED_MAX);
        }
    }
}

/// The state of the log's leader, as seen from this node.
#[derive(Clone, Copy, Debug)]
enum Leader {
    /// The leader had a quorum at this moment, not long ago.
    Leads(Instant),
    /// The leader has no quorum.
    Alone,
    /// No leader answers.
    Silent,
}

async fn leader(node: &Node) -> Leader {
    let sent = Instant::now();
    let Ok(described) = describe(node, sent + REQUEST_TIMEOUT).await else { return Leader::Silent };
    let age = quorum_age(described.info.cluster.as_ref()).saturating_add(sent.elapsed());
    if age < QUORUM_AGE_MAX {
        return Leader::Leads(sent.checked_sub(age).unwrap_or(sent));
    }
    // The machine may only be slow.
    match timeout(REQUEST_TIMEOUT, node.proven()).await {
        Ok(Ok(_)) => Leader::Leads(sent),
        _ => Leader::Alone,
    }
}
