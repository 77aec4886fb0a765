//! One append: a single message, or a batch that is stored atomically, in consecutive positions.
//!
//! A batch is JetStream's atomic publish (its ADR-50; NATS 2.12.1 or later): each message carries the batch's id and its number
//! in the batch, and the last one commits. JetStream refuses a batch that contains the id of an earlier message. Then the store
//! looks up which ids are known, and where, and publishes the rest.

use std::collections::HashMap;

use async_nats::jetstream::context::PublishAckFuture;
use bytes::Bytes;
use futures_util::future::join_all;
use tokio::time::Instant;

use super::attempt::{Attempt, Failure, Outcome, Outgoing, acknowledged, before_next_try};
use super::direct;
use super::message;
use super::node::{DEADLINE, Node};
use crate::cursor::Position;
use crate::event::Draft;
use crate::store::{Appended, StoreError};

/// The most messages in a batch.
const MESSAGES_MAX: usize = 1000;

/// How often a batch is rebuilt because one of its ids was stored by another append meanwhile.
const ROUNDS_MAX: u32 = 16;

const BATCH_ID: &str = "Nats-Batch-Id";
const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
const BATCH_COMMIT: &str = "Nats-Batch-Commit";

/// The publish is refused where the stream's last id is not this one, and no message has this id. An unclustered stream checks
/// first whether the message's own id is a duplicate: so the header looks an id up without storing anything.
const EXPECTED_LAST_ID: &str = "Nats-Expected-Last-Msg-Id";

/// The same with a sequence: a replicated stream checks it after the id and before it proposes to the replicas. (The expected
/// last id is checked by the replicas, which would then remember the message's own id as in flight.)
const EXPECTED_LAST_SEQUENCE: &str = "Nats-Expected-Last-Sequence";

/// A sequence that no stream reaches.
const NO_SEQUENCE: &str = "9223372036854775807";

/// How an append is published.
pub(super) struct Plan {
    /// The messages to publish: of drafts with the same key, the first.
    messages: Vec<Outgoing>,
    /// For each draft, the index of its message, and whether it repeats an earlier draft.
    drafts: Vec<(usize, bool)>,
    /// The drafts that repeat an earlier one with another payload.
    differing: Vec<usize>,
    /// Whether the message's id is the publisher's: then a duplicate is a repeat by the publisher, not a retry of ours.
    keyed: Vec<bool>,
    atomic: bool,
}

/// A publish in flight: all messages that are not known yet, as one.
pub(super) struct Sent {
    ack: PublishAckFuture,
}

impl Plan {
    pub(super) fn new(node: &Node, drafts: &[Draft]) -> Self {
        let mut first: HashMap<(&str, &str), usize> = HashMap::new();
        let mut plan = Self {
            messages: Vec::new(),
            drafts: Vec::new(),
            keyed: Vec::new(),
            differing: Vec::new(),
            atomic: node.plan.atomic,
        };
        for draft in drafts {
            let id = draft.id().filter(|_| node.plan.knows_ids);
            let next = plan.messages.len();
            let at = id.map_or(next, |id| *first.entry((draft.topic().as_str(), id)).or_insert(next));
            if at == next {
                plan.messages.push(Outgoing::new(node, draft));
                plan.keyed.push(id.is_some());
            }
            plan.drafts.push((at, at != next));
            if at != next
                && message::payload_of(&plan.messages[at].payload) != message::payload_of(&message::payload(draft))
            {
                plan.differing.push(plan.drafts.len() - 1);
            }
        }
        plan
    }

    fn refusal(&self) -> Option<StoreError> {
        match self.messages.len() {
            0 | 1 => None,
            count if !self.atomic || count > MESSAGES_MAX => Some(StoreError::NotAtomic),
            _ => None,
        }
    }

    /// The first attempt to publish everything.
    pub(super) async fn send(&self, node: &Node) -> Option<Result<Sent, Failure>> {
        if self.messages.is_empty() || self.refusal().is_some() {
            return None;
        }
        let all: Vec<usize> = (0..self.messages.len()).collect();
        Some(self.send_these(node, &all).await)
    }

    async fn send_these(&self, node: &Node, which: &[usize]) -> Result<Sent, Failure> {
        let Some((last, before)) = which.split_last() else { return Err(Failure::Retry) };
        let mut commit = self.messages[*last].clone();
        if !before.is_empty() {
            let batch = uuid::Uuid::new_v4().simple().to_string();
            for (sequence, index) in (1_usize..).zip(before) {
                let Outgoing { subject, mut headers, payload } = self.messages[*index].clone();
                headers.insert(BATCH_ID, batch.as_str());
                headers.insert(BATCH_SEQUENCE, sequence.to_string());
                let published = node.client.publish_with_headers(subject, headers, payload).await;
                published.map_err(|error| match error.kind() {
                    async_nats::client::PublishErrorKind::MaxPayloadExceeded => {
                        Failure::Final(StoreError::TooLarge(node.client.max_payload()))
                    }
                    _ => Failure::Retry,
                })?;
            }
            commit.headers.insert(BATCH_ID, batch.as_str());
            commit.headers.insert(BATCH_SEQUENCE, which.len().to_string());
            commit.headers.insert(BATCH_COMMIT, "1");
        }
        Ok(Sent { ack: commit.send(node).await? })
    }

    /// Retries until everything is stored; returns the positions.
    pub(super) async fn settle(&self, node: &Node, attempt: &Attempt, sent: Option<Result<Sent, Failure>>) -> Outcome {
        if let Some(refusal) = self.refusal() {
            return Err(refusal);
        }
        let mut found: Vec<Option<Appended>> = vec![None; self.messages.len()];
        let mut sent = sent;
        let mut rounds = 0;
        let mut unanswered = false;
        loop {
            let missing: Vec<usize> = (0..found.len()).filter(|index| found[*index].is_none()).collect();
            if missing.is_empty() {
                break;
            }
            let outcome = match sent.take() {
                Some(Ok(sent)) => acknowledged(node, sent.ack).await,
                Some(Err(failure)) => Err(failure),
                None if !node.is_up() => Err(Failure::Retry),
                None => match self.send_these(node, &missing).await {
                    Ok(sent) => acknowledged(node, sent.ack).await,
                    Err(failure) => Err(failure),
                },
            };
            match outcome {
                Ok(ack) => {
                    let first = (ack.sequence + 1).saturating_sub(missing.len() as u64);
                    for (position, index) in (first..).zip(missing) {
                        let duplicate = ack.duplicate && self.keyed[index];
                        found[index] = Some(Appended { duplicate, ..Appended::new(Position(position)) });
                    }
                }
                Err(Failure::DuplicateId) if rounds < ROUNDS_MAX => {
                    rounds += 1;
                    self.look_up(node, &missing, &mut found, attempt.end).await?;
                }
                Err(Failure::Final(error)) => return Err(error),
                Err(_) => {
                    unanswered = true;
                    before_next_try(node, attempt.end).await?;
                }
            }
        }
        let places: Vec<Appended> = found.iter().copied().flatten().collect();
        attempt.fed(node, &places).await;
        if unanswered {
            self.claim_first_tries(node, &mut found, attempt.end).await;
        }
        self.compare_repeats(node, &mut found, attempt.end).await;
        let answered = self.drafts.iter().enumerate().filter_map(|(draft, (index, repeats))| {
            let at = found[*index]?;
            // A draft that repeats another of its own array is compared with that one, which is stored or is a repeat itself.
            let differs = at.differs || self.differing.contains(&draft);
            Some(Appended { duplicate: at.duplicate || *repeats, differs, ..at })
        });
        Ok(answered.collect())
    }

    /// Where the acknowledgement of a first attempt was lost, the retry is reported as a duplicate. It is of our own event if the
    /// stored message is what was sent, byte for byte, with its time. Where the message cannot be read now it stays reported as a
    /// duplicate, which is safe.
    async fn claim_first_tries(&self, node: &Node, found: &mut [Option<Appended>], end: Instant) {
        let end = end.max(Instant::now() + DEADLINE / 2);
        for (message, at) in self.messages.iter().zip(found) {
            let Some(at) = at.as_mut().filter(|at| at.duplicate) else { continue };
            let stored = direct::slice(node, at.position, None, 1, 1, end).await;
            at.duplicate = !stored.is_ok_and(|slice| slice.holds(at.position, &message.payload));
        }
    }

    /// NATS reports that an id is known but not what is stored under it, so the message is read and compared. Where it cannot be
    /// read now, or is trimmed, nothing is reported about it.
    async fn compare_repeats(&self, node: &Node, found: &mut [Option<Appended>], end: Instant) {
        let end = end.max(Instant::now() + DEADLINE / 2);
        for (message, at) in self.messages.iter().zip(found) {
            let Some(at) = at.as_mut().filter(|at| at.duplicate) else { continue };
            let stored = direct::slice(node, at.position, None, 1, 1, end).await;
            at.differs = stored.is_ok_and(|slice| slice.differs(at.position, &message.payload));
        }
    }

    /// Looks up for each message whether its id is known, and at which position.
    async fn look_up(
        &self,
        node: &Node,
        which: &[usize],
        found: &mut [Option<Appended>],
        end: Instant,
    ) -> Result<(), StoreError> {
        let end = end.max(Instant::now() + DEADLINE / 2);
        let positions = which.iter().map(|index| self.position_of(node, *index, end));
        for (index, position) in which.iter().zip(join_all(positions).await) {
            let known = position?;
            found[*index] = known.map(|position| Appended { duplicate: self.keyed[*index], ..Appended::new(position) });
        }
        Ok(())
    }

    async fn position_of(&self, node: &Node, index: usize, end: Instant) -> Result<Option<Position>, StoreError> {
        let Outgoing { subject, mut headers, .. } = self.messages[index].clone();
        if node.is_replicated() {
            headers.insert(EXPECTED_LAST_SEQUENCE, NO_SEQUENCE);
        } else {
            headers.insert(EXPECTED_LAST_ID, "none");
        }
        let question = Outgoing { subject, headers, payload: Bytes::new() };
        loop {
            let answer = match question.clone().send(node).await {
                Ok(sent) => acknowledged(node, sent).await,
                Err(failure) => Err(failure),
            };
            match answer {
                Ok(ack) => return Ok(Some(Position(ack.sequence))),
                Err(Failure::LastIdMismatch | Failure::LastSequenceMismatch) => return Ok(None),
                Err(Failure::Final(error)) => return Err(error),
                Err(_) => before_next_try(node, end).await?,
            }
        }
    }
}
