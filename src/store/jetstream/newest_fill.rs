//! Fills the index of the newest events when the feed begins, from one consumer that delivers the headers of the last message of each
//! subject.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{AckPolicy, DeliverPolicy, push};
use futures_util::StreamExt as _;
use tokio::time::timeout;

use super::RETRY_WAIT;
use super::feed;
use super::node::{DEADLINE, Node};
use crate::cursor::{Epoch, Position};
use crate::topic::Topic;

/// A consumer that was silent for so long counts as lost.
const SILENCE_MAX: Duration = Duration::from_millis(2500);

/// JetStream removes the consumer that fills the index if its node has been gone for so long.
const INACTIVE_MAX: Duration = Duration::from_secs(30);

/// Fills the index of the log of an epoch; retried until that succeeds, or the log is another one.
pub(super) async fn fill(node: Arc<Node>, epoch: Epoch) {
    while node.newest.lacks(epoch) {
        if node.until_up(tokio::time::Instant::now() + DEADLINE).await && fill_once(&node, epoch).await.is_some() {
            return node.newest.filled(epoch);
        }
        tokio::time::sleep(RETRY_WAIT).await;
    }
}

/// Reads the position of the last message of each subject; `None` where the consumer was lost. A batched direct read of last
/// messages is not an alternative: it is limited to 1,024 subjects.
async fn fill_once(node: &Arc<Node>, epoch: Epoch) -> Option<()> {
    let inbox = node.client.new_inbox();
    let mut messages = node.client.subscribe(inbox.clone()).await.ok()?;
    let config = push::Config {
        deliver_subject: inbox,
        description: Some("Switchback's index of the newest events".into()),
        deliver_policy: DeliverPolicy::LastPerSubject,
        filter_subject: node.names.every_subject(),
        headers_only: true,
        flow_control: true,
        idle_heartbeat: feed::HEARTBEAT,
        ack_policy: AckPolicy::None,
        max_deliver: 1,
        inactive_threshold: INACTIVE_MAX,
        memory_storage: true,
        num_replicas: 1,
        ..push::Config::default()
    };
    let consumer = node.context.create_consumer_on_stream(config, node.names.stream.as_str()).await.ok()?;
    let info = consumer.cached_info();
    let outcome = match info.num_pending {
        0 if info.delivered.consumer_sequence == 0 => Some(()),
        _ => take_all(node, epoch, &mut messages).await,
    };
    let (context, stream, name) = (node.context.clone(), node.names.stream.clone(), info.name.clone());
    // The consumer would expire by itself, so it does not matter whether this request arrives.
    tokio::spawn(async move { context.delete_consumer_from_stream(name, stream).await });
    outcome
}

async fn take_all(node: &Arc<Node>, epoch: Epoch, messages: &mut async_nats::Subscriber) -> Option<()> {
    let mut delivered = 0;
    loop {
        let message = timeout(SILENCE_MAX, messages.next()).await.ok()??;
        if message.status.is_some() {
            feed::control(node, message, delivered).ok()?;
            continue;
        }
        let message = jetstream::Message { message, context: node.context.clone() };
        let info = message.info().ok()?;
        delivered += 1;
        if info.consumer_sequence != delivered {
            return None;
        }
        let topic: Option<Topic> = node.names.topic(&message.subject).and_then(|topic| topic.parse().ok());
        if let Some(topic) = topic {
            node.newest.fill(epoch, &topic, Position(info.stream_sequence));
        }
        if info.pending == 0 {
            return Some(());
        }
    }
}
