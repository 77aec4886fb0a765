//! The presence messages of nodes: each node announces itself, and how far its clock is from NATS's.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

use super::node::Node;
use super::skew::parse;

/// The interval of a node's announcements.
const TELL_INTERVAL: Duration = Duration::from_secs(5);

/// Sends this node's announcements and receives the others', for as long as the store's thread runs.
pub(super) async fn exchange(node: Arc<Node>) {
    loop {
        if let Ok(mut heard) = node.client.subscribe(node.names.clock_subject()).await {
            let mut tell = tokio::time::interval(TELL_INTERVAL);
            tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    message = heard.next() => {
                        let Some(message) = message else { break };
                        let is_new = parse(&message.payload).is_some_and(|(other, ms)| node.skew.heard(other, ms));
                        if is_new {
                            // A new node does not know this node either.
                            tell.reset_immediately();
                        }
                    }
                    _ = tell.tick() => {
                        node.skew.log();
                        // A lost announcement is made up for by the next one.
                        let _ = node.client.publish(node.names.clock_subject(), node.skew.told()).await;
                    }
                }
            }
        }
        tokio::time::sleep(TELL_INTERVAL).await;
    }
}
