//! How far other nodes have sent a client every event: an acknowledgement may arrive at this node for events that another node
//! sent.
//!
//! Only the nodes know that, in memory: saving it with every event would cost a write per event and client. So this node sends
//! one request to all others, over a subject that is not stored. Where one of them does not answer, it has to be assumed that it
//! may have sent anything.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use async_nats::Message;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::node::Node;
use crate::cursor::Position;
use crate::store::{SentBy, SentElsewhere};

/// The timeout for the other nodes' answers.
const ANSWER_WAIT: Duration = Duration::from_millis(500);

/// The delay before the subscription to the other nodes' requests is retried.
const LISTEN_AGAIN: Duration = Duration::from_secs(1);

/// Requests from the other nodes how far they have sent a client every event.
pub(super) async fn ask(node: &Node, client: Uuid) -> SentElsewhere {
    let others = node.skew.others();
    if others.is_empty() && !node.skew.is_young() {
        return SentElsewhere::Nothing;
    }
    let end = Instant::now() + ANSWER_WAIT;
    let inbox = node.client.new_inbox();
    let Ok(mut answers) = node.client.subscribe(inbox.clone()).await else { return SentElsewhere::Unknown };
    let question = Bytes::from(format!("{} {client}", node.skew.own()));
    if node.client.publish_with_reply(node.names.sent_subject(), inbox, question).await.is_err() {
        return SentElsewhere::Unknown;
    }
    let mut silent: HashSet<Uuid> = others.into_iter().collect();
    let mut sent = SentElsewhere::Nothing;
    // A node that has just started does not know all the others yet, so it waits for every answer until the timeout.
    while !silent.is_empty() || node.skew.is_young() {
        let Ok(Some(answer)) = timeout_at(end, answers.next()).await else { break };
        let Some((other, position)) = answer_of(&answer.payload) else { continue };
        silent.remove(&other);
        if let Some(position) = position {
            sent = sent.and(position);
        }
    }
    if silent.is_empty() { sent } else { SentElsewhere::Unknown }
}

/// Answers the other nodes' requests, for as long as the store's thread runs.
pub(super) async fn answer(node: Arc<Node>, sent_by: Arc<dyn SentBy>) {
    loop {
        if let Ok(mut questions) = node.client.subscribe(node.names.sent_subject()).await {
            while let Some(question) = questions.next().await {
                answer_one(&node, &*sent_by, question).await;
            }
        }
        sleep(LISTEN_AGAIN).await;
    }
}

async fn answer_one(node: &Node, sent_by: &dyn SentBy, question: Message) {
    let Some((asking, client)) = question_of(&question.payload) else { return };
    let Some(inbox) = question.reply.filter(|_| asking != node.skew.own()) else { return };
    let position = sent_by.sent(client).map_or_else(|| "-".to_owned(), |position| position.0.to_string());
    // Where the answer is lost, the requesting node assumes that this one may have sent anything.
    let _ = node.client.publish(inbox, format!("{} {position}", node.skew.own()).into()).await;
}

fn question_of(payload: &[u8]) -> Option<(Uuid, Uuid)> {
    let (asking, client) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    Some((asking.parse().ok()?, client.parse().ok()?))
}

fn answer_of(payload: &[u8]) -> Option<(Uuid, Option<Position>)> {
    let (node, position) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    let position = if position == "-" { None } else { Some(Position(position.parse().ok()?)) };
    Some((node.parse().ok()?, position))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_read_back() {
        let (node, client) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(question_of(format!("{node} {client}").as_bytes()), Some((node, client)));
        assert_eq!(answer_of(format!("{node} -").as_bytes()), Some((node, None)));
        assert_eq!(answer_of(format!("{node} 7").as_bytes()), Some((node, Some(Position(7)))));
        for payload in [&b""[..], b"x 7", b"\xff", b"00000000-0000-0000-0000-000000000001 x"] {
            assert_eq!((question_of(payload), answer_of(payload)), (None, None), "{payload:?}");
        }
    }
}
