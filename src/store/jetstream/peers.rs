//! The presence messages of nodes: each node announces itself, and how far its clock is from NATS's.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;

use super::node::Node;
use super::skew::parse;

/// The interval of a node's announcements.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(5);

/// Sends this node's announcements and receives the others', for as long as the store's thread runs.
pub(super) async fn exchange(node: Arc<Node>) {
    loop {
        if let Ok(mut others) = node.client.subscribe(node.names.clock_subject()).await {
            let mut announce = tokio::time::interval(ANNOUNCE_INTERVAL);
            announce.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    message = others.next() => {
                        let Some(message) = message else { break };
                        let is_new = parse(&message.payload).is_some_and(|(other, ms)| node.skew.announced(other, ms));
                        if is_new {
                            // A new node does not know this node either.
                            announce.reset_immediately();
                        }
                    }
                    _ = announce.tick() => {
                        node.skew.log();
                        // A lost announcement is made up for by the next one.
                        let _ = node.client.publish(node.names.clock_subject(), node.skew.announcement()).await;
                    }
                }
            }
        }
        tokio::time::sleep(ANNOUNCE_INTERVAL).await;
    }
}
