//! A look at the stream: who it is, where it begins and ends, as its leader knows it.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::Info;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::node::{AskError, DEADLINE, Looks, Node, Seen, away};
use crate::cursor::{Epoch, Position};
use crate::store::StoreError;

/// Most who are answered by one look.
const SHARED_MAX: usize = 1024;

/// Copies of a stream forget by age each by its own clock. What has no longer than this to live counts as gone, so that
/// a copy whose clock is ahead is not silent about what it has forgotten already.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// Serves looks for as long as the store's thread runs. There is never more than one under way.
pub(super) async fn serve(node: std::sync::Arc<Node>, mut asked: Looks) {
    while let Some(first) = asked.recv().await {
        let mut waiting = vec![first];
        while waiting.len() < SHARED_MAX
            && let Ok(next) = asked.try_recv()
        {
            waiting.push(next);
        }
        let outcome = look(&node).await;
        for answer in waiting {
            // Whoever has gone does not want it any more.
            let _ = answer.send(outcome.clone());
        }
    }
}

async fn look(node: &Node) -> Result<Seen, StoreError> {
    let end = Instant::now() + DEADLINE;
    match identify(node, end).await {
        Ok(seen) => {
            // The feed takes in what is new of the log's beginning, and tells it on.
            if node.saw(&seen) || seen.epoch != node.bounds().epoch {
                node.suspicion.notify_one();
            }
            Ok(seen)
        }
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {
            node.suspicion.notify_one();
            Err(away())
        }
        Err(error) => Err(error.into()),
    }
}

/// Asks the leader.
pub(super) async fn identify(node: &Node, end: Instant) -> Result<Seen, AskError> {
    let stream = &node.names.stream;
    let info: Info = node.ask(&format!("STREAM.INFO.{stream}"), &(), end).await?;
    let mut seen = seen(stream, &info);
    if let Some(age_max) = node.plan.retention.age_max {
        seen.floor = seen.floor.max(age_floor(node, &info, age_max, end).await?);
    }
    Ok(seen)
}

/// What a stream's description says of it.
pub(super) fn seen(stream: &str, info: &Info) -> Seen {
    let state = &info.state;
    // An empty stream's first position is the one that comes next.
    let floor = Position(state.first_sequence).before();
    let last = Position(state.last_sequence);
    Seen {
        epoch: epoch(stream, info.created.unix_timestamp_nanos()),
        floor: floor.min(last),
        last,
        replicated: info.config.num_replicas > 1,
    }
}

/// Everything that has no longer to live than clocks may differ is up to here.
async fn age_floor(node: &Node, info: &Info, age_max: Duration, end: Instant) -> Result<Position, AskError> {
    let margin = CLOCKS_DIFFER.min(age_max / 8);
    let state = &info.state;
    let cutoff = async_nats::datetime::now() - age_max.saturating_sub(margin);
    if state.messages == 0 || state.first_timestamp > cutoff {
        return Ok(Position::ZERO);
    }
    if state.last_timestamp <= cutoff {
        return Ok(Position(state.last_sequence));
    }
    #[derive(Deserialize)]
    struct Found {
        message: At,
    }
    #[derive(Deserialize)]
    struct At {
        seq: u64,
    }
    let Ok(text) = cutoff.format(&time::format_description::well_known::Rfc3339) else { return Ok(Position::ZERO) };
    let subject = format!("STREAM.MSG.GET.{}", node.names.stream);
    match node.ask::<Found>(&subject, &json!({ "start_time": text, "next_by_subj": ">" }), end).await {
        Ok(found) => Ok(Position(found.message.seq).before()),
        Err(error) if error.is(ErrorCode::NO_MESSAGE_FOUND) => Ok(Position(state.last_sequence)),
        Err(error) => Err(error),
    }
}

/// The identity of a stream of this name that was created then: 13 characters of base 36.
pub(super) fn epoch(stream: &str, created_ns: i128) -> Epoch {
    let mut digest = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    digest.update(stream.as_bytes());
    digest.update(b"\0");
    digest.update(&created_ns.to_be_bytes());
    let digest = digest.finish();
    let mut number = digest.as_ref().iter().take(8).fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
    let mut text = String::with_capacity(13);
    for _ in 0..13 {
        let digit = u32::try_from(number % 36).unwrap_or_default();
        text.push(char::from_digit(digit, 36).unwrap_or('0'));
        number /= 36;
    }
    // Thirteen of its own letters are an epoch.
    text.parse().unwrap_or_else(|_| Epoch::mint())
}

#[cfg(test)]
mod tests {
    use super::epoch;

    #[test]
    fn the_same_stream_has_the_same_epoch_and_another_has_not() {
        let first = epoch("a-events", 1_763_750_000_123_456_789);
        assert_eq!(first, epoch("a-events", 1_763_750_000_123_456_789));
        assert_ne!(first, epoch("a-events", 1_763_750_000_123_456_790));
        assert_ne!(first, epoch("b-events", 1_763_750_000_123_456_789));
        assert_eq!(first.as_str().len(), 13);
    }
}
