//! The feed: one consumer per node that delivers every event in order. It survives lost connections, lost consumers, and the
//! replacement of the stream by another one of the same name.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Message, StatusCode, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::RETRY_WAIT;
use super::connect::LinkState;
use super::message;
use super::node::{AskError, DEADLINE, Node, StreamInfo};
use super::stream_state::identify;
use crate::cursor::{Epoch, Position};
use crate::event::Event;
use crate::store::{Feed, FeedBatch};

/// The interval of an idle consumer's heartbeats.
pub(super) const HEARTBEAT: Duration = Duration::from_secs(1);

/// A consumer that was silent for so long counts as lost.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// JetStream removes a consumer whose node has been gone for so long.
const INACTIVE_MAX: Duration = Duration::from_secs(30);

/// The most events in a batch.
const BATCH_EVENTS: usize = 512;

/// The delay before a stream that was not found is looked up once more, and then created again.
const MISSING_WAIT: Duration = Duration::from_millis(300);

/// Follows the log for as long as the store's thread runs.
pub(super) async fn follow(node: Arc<Node>, after: Position, feed: Arc<dyn Feed>) {
    let mut follower = Follower { epoch: node.bounds().epoch, at: after, feed };
    node.fed_to(follower.epoch, after);
    loop {
        if follower.session(&node).await.is_err() {
            tokio::time::sleep(RETRY_WAIT).await;
        }
    }
}

struct Follower {
    epoch: Epoch,
    /// The end of the last batch.
    at: Position,
    feed: Arc<dyn Feed>,
}

/// The consumer is lost: a new session has to begin.
pub(super) struct Lost;

impl From<AskError> for Lost {
    fn from(_: AskError) -> Self {
        Self
    }
}

impl Follower {
    /// Finds the stream, and follows it with one consumer until the consumer is lost.
    async fn session(&mut self, node: &Arc<Node>) -> Result<(), Lost> {
        let end = Instant::now() + DEADLINE;
        if !node.until_up(end).await {
            return Err(Lost);
        }
        let generation = node.link.borrow().generation;
        let mut seen = find(node, end).await?;
        if seen.epoch != self.epoch {
            seen = node.proven().await.map_err(|_| Lost)?;
        }
        self.adopt(node, &seen);
        let inbox = node.client.new_inbox();
        let mut messages = node.client.subscribe(inbox.clone()).await.map_err(|_| Lost)?;
        let consumer = self.consumer(node, inbox).await?;
        // Between the two requests the stream may have been replaced.
        let again = identify(node, Instant::now() + DEADLINE).await;
        let outcome = match again {
            Ok(again) if again.epoch == self.epoch => self.listen(node, &mut messages, generation).await,
            _ => Ok(()),
        };
        let (context, stream) = (node.context.clone(), node.names.stream.clone());
        // The consumer would expire by itself, so it does not matter whether this request arrives.
        tokio::spawn(async move { context.delete_consumer_from_stream(consumer, stream).await });
        outcome
    }

    /// Adopts the present state of the stream: another log, or one of which unread events were trimmed.
    fn adopt(&mut self, node: &Node, seen: &StreamInfo) {
        if seen.epoch != self.epoch {
            tracing::warn!(old = %self.epoch, new = %seen.epoch, "the stream was replaced: the log begins anew");
            self.epoch = seen.epoch;
            self.at = Position::ZERO;
            node.switch_log(seen);
            node.newest.begin(seen.epoch, Position::ZERO);
            self.push(node, Vec::new(), Position::ZERO);
        }
        if node.record_state(seen) || seen.floor > self.at {
            self.push_floor(node);
        }
    }

    /// The floor has moved. Events at or below the floor that were not read will not come; where no other message could move the
    /// feed there, it moves there by itself.
    fn push_floor(&mut self, node: &Node) {
        let bounds = node.bounds();
        if bounds.floor > self.at && bounds.floor == bounds.last {
            self.at = bounds.floor;
        }
        self.push(node, Vec::new(), bounds.floor.min(self.at));
    }

    fn push(&mut self, node: &Node, events: Vec<Arc<Event>>, floor: Position) {
        let batch = FeedBatch { epoch: self.epoch, after: self.at, events, floor };
        self.at = batch.end();
        node.reached(self.epoch, self.at);
        // Before the tails, so that the index has every event up to a round's end.
        node.newest.push(self.epoch, &batch.events, self.at, node.bounds().floor);
        self.feed.push(batch);
        node.fed_to(self.epoch, self.at);
    }

    async fn consumer(&self, node: &Node, inbox: String) -> Result<String, Lost> {
        let config = push::Config {
            deliver_subject: inbox,
            description: Some("Switchback's feed".into()),
            deliver_policy: DeliverPolicy::ByStartSequence { start_sequence: self.at.next().0 },
            ack_policy: AckPolicy::None,
            max_deliver: 1,
            flow_control: true,
            idle_heartbeat: HEARTBEAT,
            inactive_threshold: INACTIVE_MAX,
            memory_storage: true,
            num_replicas: 1,
            ..push::Config::default()
        };
        let made = node.context.create_consumer_on_stream(config, node.names.stream.as_str()).await;
        match made {
            Ok(consumer) => Ok(consumer.cached_info().name.clone()),
            Err(error) => {
                tracing::debug!(%error, "the feed's consumer could not be created");
                Err(Lost)
            }
        }
    }

    async fn listen(&mut self, node: &Arc<Node>, messages: &mut Subscriber, generation: u64) -> Result<(), Lost> {
        let mut link = node.link.clone();
        let mut delivered = 0;
        // Other wake-ups in the loop do not extend the consumer's deadline.
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = timeout_at(heard + SILENCE_MAX, messages.next()) => {
                    let Ok(Some(message)) = message else {
                        tracing::debug!("the feed's consumer sends no heartbeats");
                        return Err(Lost);
                    };
                    heard = Instant::now();
                    self.take(node, message, messages, &mut delivered)?;
                }
                // Messages sent into the broken connection are lost: a new session begins from the present position.
                () = reconnected(&mut link, generation) => return Ok(()),
                () = node.recheck.notified() => {
                    let seen = identify(node, Instant::now() + DEADLINE).await?;
                    if seen.epoch != self.epoch {
                        return Ok(());
                    }
                    node.record_state(&seen);
                    self.push_floor(node);
                }
            }
        }
    }

    /// Takes in a message, and those that have arrived with it.
    fn take(
        &mut self,
        node: &Arc<Node>,
        first: Message,
        messages: &mut Subscriber,
        delivered: &mut u64,
    ) -> Result<(), Lost> {
        let mut events = Vec::new();
        let mut next = Some(first);
        let mut outcome = Ok(());
        while let Some(message) = next {
            outcome = match message.status {
                Some(_) => control(node, message, *delivered),
                None => self.event(node, message, delivered, &mut events),
            };
            if outcome.is_err() || events.len() >= BATCH_EVENTS {
                break;
            }
            next = messages.next().now_or_never().flatten();
        }
        self.hand_on(node, &mut events);
        outcome
    }

    fn hand_on(&mut self, node: &Node, events: &mut Vec<Arc<Event>>) {
        let Some(last) = events.last().map(|event| event.position()) else { return };
        // First the end of the log, so that the batch carries the floor that follows from it.
        node.reached(self.epoch, last);
        let floor = node.bounds().floor.min(last);
        self.push(node, std::mem::take(events), floor);
    }

    fn event(
        &mut self,
        node: &Node,
        message: Message,
        delivered: &mut u64,
        events: &mut Vec<Arc<Event>>,
    ) -> Result<(), Lost> {
        let message = jetstream::Message { message, context: node.context.clone() };
        let Ok(info) = message.info() else {
            tracing::warn!(subject = %message.subject, "the feed has received a message that is not JetStream's");
            return Ok(());
        };
        *delivered += 1;
        if info.consumer_sequence != *delivered {
            tracing::debug!(expected = *delivered, came = info.consumer_sequence, "the feed has missed a message");
            return Err(Lost);
        }
        let position = Position(info.stream_sequence);
        let end = events.last().map_or(self.at, |event| event.position());
        if position <= end {
            return Ok(());
        }
        if position > end.next() {
            // Events in between were trimmed before they arrived. The floor covers them: readers that wait for them read the
            // store.
            self.hand_on(node, events);
            node.record_floor(self.epoch, position.before());
        }
        let received_ms = u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let topic = node.names.topic(&message.subject).unwrap_or_default();
        match message::draft(topic, &message.payload, received_ms) {
            Some(draft) => events.push(Arc::new(draft.at(self.epoch, position))),
            None => {
                tracing::warn!(%position, "a message in the stream is ignored: its subject is not a topic");
                self.hand_on(node, events);
                self.at = position;
                self.push(node, Vec::new(), node.bounds().floor.min(position));
            }
        }
        Ok(())
    }
}

async fn reconnected(link: &mut watch::Receiver<LinkState>, generation: u64) {
    // The channel is closed when the store is dropped, and so this task ends as well.
    drop(link.wait_for(|link| link.generation != generation).await);
}

/// Heartbeats and flow control.
pub(super) fn control(node: &Arc<Node>, message: Message, delivered: u64) -> Result<(), Lost> {
    if message.status != Some(StatusCode::IDLE_HEARTBEAT) {
        return Err(Lost);
    }
    let header =
        |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str());
    let last = header("Nats-Last-Consumer").and_then(|text| text.parse::<u64>().ok());
    if last.is_some_and(|last| last != delivered) {
        tracing::debug!(delivered, ?last, "the feed has missed a message, as its consumer reports");
        return Err(Lost);
    }
    let stalled = header("Nats-Consumer-Stalled").map(str::to_owned);
    let answer_to = message.reply.map(|reply| reply.to_string()).or(stalled);
    if let Some(subject) = answer_to {
        let client = node.client.clone();
        tokio::spawn(async move { client.publish(subject, bytes::Bytes::new()).await });
    }
    Ok(())
}

/// The present state of the stream; the stream is created again where it has been deleted.
async fn find(node: &Node, end: Instant) -> Result<StreamInfo, AskError> {
    match identify(node, end).await {
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {}
        outcome => return outcome,
    }
    tokio::time::sleep(MISSING_WAIT).await;
    match identify(node, end).await {
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {}
        outcome => return outcome,
    }
    tracing::error!(stream = %node.names.stream, "the stream has been deleted, with every event in it: creating it again");
    if let Err(reason) = node.plan.remake_events(&node.context).await {
        tracing::warn!(%reason, "the stream could not be created");
    }
    identify(node, end).await
}
