//! The feed: one consumer a node, every event in order, through lost connections, lost consumers, and another stream of
//! the same name.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use async_nats::jetstream::{self, ErrorCode};
use async_nats::{Message, StatusCode, Subscriber};
use futures_util::{FutureExt as _, StreamExt as _};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use super::RETRY_WAIT;
use super::connect::Link;
use super::look::identify;
use super::message;
use super::node::{AskError, DEADLINE, Node, Seen};
use crate::cursor::{Epoch, Position};
use crate::event::Event;
use crate::store::{Feed, FeedBatch};

/// A consumer that has nothing to deliver says so that often.
const HEARTBEAT: Duration = Duration::from_secs(1);

/// A consumer from which nothing came for so long is lost.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// JetStream forgets a consumer whose node has gone after so long.
const INACTIVE_MAX: Duration = Duration::from_secs(30);

/// Most events that are handed on at a time.
const BATCH_EVENTS: usize = 512;

/// A stream that is not found is asked for once more after so long before it is made again.
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
    /// Where the last batch ended.
    at: Position,
    feed: Arc<dyn Feed>,
}

/// It has to be begun anew.
struct Lost;

impl From<AskError> for Lost {
    fn from(_: AskError) -> Self {
        Self
    }
}

impl Follower {
    /// Finds the stream, and follows it with one consumer until that is lost.
    async fn session(&mut self, node: &Arc<Node>) -> Result<(), Lost> {
        let end = Instant::now() + DEADLINE;
        if !node.until_up(end).await {
            return Err(Lost);
        }
        let made = node.link.borrow().made;
        let mut seen = find(node, end).await?;
        if seen.epoch != self.epoch {
            seen = node.proven().await.map_err(|_| Lost)?;
        }
        self.settle_in(node, &seen);
        let inbox = node.client.new_inbox();
        let mut messages = node.client.subscribe(inbox.clone()).await.map_err(|_| Lost)?;
        let consumer = self.consumer(node, inbox).await?;
        // Between the two questions the stream may have become another one.
        let again = identify(node, Instant::now() + DEADLINE).await;
        let outcome = match again {
            Ok(again) if again.epoch == self.epoch => self.listen(node, &mut messages, made).await,
            _ => Ok(()),
        };
        let (context, stream) = (node.context.clone(), node.names.stream.clone());
        // It would end by itself; whether this arrives does not matter.
        tokio::spawn(async move { context.delete_consumer_from_stream(consumer, stream).await });
        outcome
    }

    /// Takes in what the stream is now: another log, or one of which something is gone that was not read.
    fn settle_in(&mut self, node: &Node, seen: &Seen) {
        if seen.epoch != self.epoch {
            tracing::warn!(old = %self.epoch, new = %seen.epoch, "the stream is another one: the log begins anew");
            self.epoch = seen.epoch;
            self.at = Position::ZERO;
            node.became(seen);
            self.push(node, Vec::new(), Position::ZERO);
        }
        if node.saw(seen) || seen.floor > self.at {
            self.tell_floor(node);
        }
    }

    /// The floor has moved. What it has passed and we have not read will not come; where nothing else is left that could
    /// bring the feed there, it goes there by itself.
    fn tell_floor(&mut self, node: &Node) {
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
                tracing::debug!(%error, "no consumer for the feed");
                Err(Lost)
            }
        }
    }

    async fn listen(&mut self, node: &Arc<Node>, messages: &mut Subscriber, made: u64) -> Result<(), Lost> {
        let mut link = node.link.clone();
        let mut delivered = 0;
        // Whatever else happens meanwhile does not excuse the consumer's silence.
        let mut heard = Instant::now();
        loop {
            tokio::select! {
                message = timeout_at(heard + SILENCE_MAX, messages.next()) => {
                    let Ok(Some(message)) = message else {
                        tracing::debug!("the feed's consumer is silent");
                        return Err(Lost);
                    };
                    heard = Instant::now();
                    self.take(node, message, messages, &mut delivered)?;
                }
                // What was sent into the connection that broke is lost: begun anew from where we are.
                () = made_anew(&mut link, made) => return Ok(()),
                () = node.suspicion.notified() => {
                    let seen = identify(node, Instant::now() + DEADLINE).await?;
                    if seen.epoch != self.epoch {
                        return Ok(());
                    }
                    node.saw(&seen);
                    self.tell_floor(node);
                }
            }
        }
    }

    /// Takes in a message and those that have come with it.
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
        // First what is thereby known, so that the batch carries the floor that comes with it.
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
            tracing::warn!(subject = %message.subject, "a message that is none of JetStream's has come to the feed");
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
            // What lay between was trimmed before it came here. The floor says so: whoever waits for it asks the store.
            self.hand_on(node, events);
            node.lost(self.epoch, position.before());
        }
        let received_ms = u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let topic = node.names.topic(&message.subject).unwrap_or_default();
        match message::draft(topic, &message.payload, received_ms) {
            Some(draft) => events.push(Arc::new(draft.at(self.epoch, position))),
            None => {
                tracing::warn!(%position, "a message in the stream is no event: its subject is no topic");
                self.hand_on(node, events);
                self.at = position;
                self.push(node, Vec::new(), node.bounds().floor.min(position));
            }
        }
        Ok(())
    }
}

async fn made_anew(link: &mut watch::Receiver<Link>, made: u64) {
    // It has ended where the store has, and so does this task then.
    drop(link.wait_for(|link| link.made != made).await);
}

/// Heartbeats and flow control.
fn control(node: &Arc<Node>, message: Message, delivered: u64) -> Result<(), Lost> {
    if message.status != Some(StatusCode::IDLE_HEARTBEAT) {
        return Err(Lost);
    }
    let header =
        |name: &str| message.headers.as_ref().and_then(|headers| headers.get(name)).map(|value| value.as_str());
    let last = header("Nats-Last-Consumer").and_then(|text| text.parse::<u64>().ok());
    if last.is_some_and(|last| last != delivered) {
        tracing::debug!(delivered, ?last, "the feed has missed a message, says its consumer");
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

/// The stream as it is now; made again where it has been deleted.
async fn find(node: &Node, end: Instant) -> Result<Seen, AskError> {
    match identify(node, end).await {
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {}
        outcome => return outcome,
    }
    tokio::time::sleep(MISSING_WAIT).await;
    match identify(node, end).await {
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {}
        outcome => return outcome,
    }
    tracing::error!(stream = %node.names.stream, "the stream has been deleted, with every event in it; making it anew");
    if let Err(reason) = node.plan.remake_events(&node.context).await {
        tracing::warn!(%reason, "the stream could not be made");
    }
    identify(node, end).await
}
