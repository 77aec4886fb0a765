//! The stream's state as its leader knows it: its identity, its first and its last position.

use std::time::Duration;

use async_nats::datetime::DateTime;
use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::stream::{ClusterInfo, Info, PeerInfo};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use super::RETRY_WAIT;
use super::node::{AskError, DEADLINE, Node, StreamInfo, away};
use crate::clock;
use crate::cursor::{Epoch, Position};
use crate::store::StoreError;

/// Each replica of a stream expires messages by its own clock. A message that expires within this time counts as trimmed, so that
/// a replica whose clock is ahead does not silently lack messages.
const CLOCKS_DIFFER: Duration = Duration::from_secs(1);

/// Queries the leader, and records the answer.
pub(super) async fn query(node: &Node) -> Result<StreamInfo, StoreError> {
    query_until(node, Instant::now() + DEADLINE).await
}

/// The same with a deadline.
pub(super) async fn query_until(node: &Node, end: Instant) -> Result<StreamInfo, StoreError> {
    match identify(node, end).await {
        Ok(seen) => {
            // The feed takes in a new floor, and passes it on.
            if node.record_state(&seen) || seen.epoch != node.bounds().epoch {
                node.recheck.notify_one();
            }
            Ok(seen)
        }
        Err(error) if error.is(ErrorCode::STREAM_NOT_FOUND) => {
            node.recheck.notify_one();
            Err(away())
        }
        Err(error) => Err(error.into()),
    }
}

/// Queries the leader.
pub(super) async fn identify(node: &Node, end: Instant) -> Result<StreamInfo, AskError> {
    let described = describe(node, end).await?;
    let mut seen = state_of(&node.names.stream, &described.info);
    if let Some(age_max) = node.plan.retention.age_max {
        seen.floor = seen.floor.max(age_floor(node, &described, age_max, end).await?);
    }
    Ok(seen)
}

/// A stream's description from its leader.
pub(super) struct Described {
    pub(super) info: Info,
    /// The leader's clock when it answered.
    pub(super) at: DateTime,
}

/// Requests the stream's description from the leader. A replica that has lost its leader answers as well, from its own knowledge:
/// its answer is ignored.
pub(super) async fn describe(node: &Node, end: Instant) -> Result<Described, AskError> {
    let subject = format!("STREAM.INFO.{}", node.names.stream);
    loop {
        let (sent, sent_ms) = (Instant::now(), clock::wall_ms());
        let answer: Value = node.ask(&subject, &(), end).await?;
        let at = answer["ts"].as_str().and_then(|text| async_nats::datetime::parse_rfc3339(text).ok());
        if let Some(at) = at {
            node.skew.measured(sent_ms, sent.elapsed(), at);
        }
        let info: Info = serde_json::from_value(answer).map_err(|_| AskError::Away)?;
        if info.cluster.as_ref().is_none_or(|cluster| cluster.leader.is_some()) {
            return Ok(Described { info, at: at.unwrap_or_else(async_nats::datetime::now) });
        }
        if Instant::now() + RETRY_WAIT >= end {
            return Err(AskError::Away);
        }
        tokio::time::sleep(RETRY_WAIT).await;
    }
}

/// The state in a stream's description.
pub(super) fn state_of(stream: &str, info: &Info) -> StreamInfo {
    let state = &info.state;
    // The first position of an empty stream is the one that comes next.
    let floor = Position(state.first_sequence).before();
    let last = Position(state.last_sequence);
    StreamInfo {
        epoch: epoch(stream, info.created.unix_timestamp_nanos()),
        floor: floor.min(last),
        last,
        replicated: info.config.num_replicas > 1,
        quorum_age: quorum_age(info.cluster.as_ref()),
    }
}

/// How long ago the leader last heard from so many replicas that they are a majority with it.
pub(super) fn quorum_age(cluster: Option<&ClusterInfo>) -> Duration {
    let Some(cluster) = cluster else { return Duration::ZERO };
    // A replica that the leader has never heard from has an age of exactly zero.
    let age = |peer: &PeerInfo| if peer.active.is_zero() || peer.offline { Duration::MAX } else { peer.active };
    let mut ages: Vec<Duration> = cluster.replicas.iter().map(age).collect();
    ages.sort_unstable();
    let others_needed = ages.len().div_ceil(2);
    others_needed.checked_sub(1).and_then(|last| ages.get(last).copied()).unwrap_or_default()
}

/// The position up to which every event expires within the tolerated clock difference. Measured by the leader's clock: by this
/// node's, a clock that is ahead would declare events trimmed that JetStream still has.
async fn age_floor(node: &Node, described: &Described, age_max: Duration, end: Instant) -> Result<Position, AskError> {
    let margin = CLOCKS_DIFFER.min(age_max / 8);
    let state = &described.info.state;
    let cutoff = described.at - age_max.saturating_sub(margin);
    if state.messages == 0 || state.first_timestamp > cutoff {
        return Ok(Position::ZERO);
    }
    if state.last_timestamp <= cutoff {
        return Ok(Position(state.last_sequence));
    }
    Ok(first_since(node, cutoff, end).await?.map_or(Position(state.last_sequence), Position::before))
}

/// An event's time is that of the node that published it, and NATS has a clock of its own: how far they may be apart, and how long an event may be on
/// its way to NATS, for it to be found by its time.
const TIMES_DIFFER: Duration = Duration::from_secs(5);

/// The position before the first event that NATS took at or after a time, less what times may differ by: earlier events may come, none is
/// left out.
pub(super) async fn before_time(node: &Node, time_ms: u64) -> Result<Position, StoreError> {
    let end = Instant::now() + DEADLINE;
    let seen = node.query().await?;
    // NATS counts nanoseconds in 64 bits: a time past the year 2262 would wrap around to one of the past.
    let nanos = i128::from(time_ms) * 1_000_000;
    let Some(time) = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok().filter(|_| nanos <= i128::from(i64::MAX))
    else {
        return Ok(seen.last);
    };
    let found = first_since(node, time - TIMES_DIFFER, end).await?;
    Ok(found.map_or(seen.last, |first| first.before().max(seen.floor)))
}

/// The first message that NATS took at or after a time, if there is one.
async fn first_since(node: &Node, time: OffsetDateTime, end: Instant) -> Result<Option<Position>, AskError> {
    // From 1970 to 9999 every time has this form; should one not have it, nothing is left out.
    let time = time.max(OffsetDateTime::UNIX_EPOCH);
    let Ok(text) = time.format(&Rfc3339) else { return Ok(Some(Position(1))) };
    node.leader_message(&json!({ "start_time": text, "next_by_subj": ">" }), end).await
}

/// The identity of a stream with this name and time of creation: 13 characters of base 36.
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
    // Thirteen characters of the epoch's own alphabet always parse.
    text.parse().unwrap_or_else(|_| Epoch::mint())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::json;

    use super::{ClusterInfo, epoch, quorum_age};

    #[test]
    fn a_quorum_is_as_old_as_the_last_word_of_a_majority() {
        let age = |peers: &[(u64, bool)]| {
            let peer = |(seconds, offline): &(u64, bool)| json!({ "name": "n", "current": true, "offline": offline, "active": seconds * 1_000_000_000 });
            let replicas: Vec<_> = peers.iter().map(peer).collect();
            let cluster: ClusterInfo = serde_json::from_value(json!({ "leader": "n", "replicas": replicas })).unwrap();
            quorum_age(Some(&cluster))
        };
        assert_eq!((quorum_age(None), age(&[])), (Duration::ZERO, Duration::ZERO), "a single replica is a majority");
        for (peers, seconds) in [
            (&[(5, false)][..], Some(5)),
            (&[(5, false), (1, false)], Some(1)),
            (&[(5, false), (1, true)], Some(5)),
            // Never heard from.
            (&[(0, false), (7, false)], Some(7)),
            (&[(0, false), (7, true)], None),
            (&[(1, false), (9, false), (3, false)], Some(3)),
            (&[(1, false), (9, false), (3, false), (8, false)], Some(3)),
        ] {
            assert_eq!(age(peers), seconds.map_or(Duration::MAX, Duration::from_secs), "{peers:?}");
        }
    }

    #[test]
    fn the_same_stream_has_the_same_epoch_and_another_has_not() {
        let first = epoch("a-events", 1_763_750_000_123_456_789);
        assert_eq!(first, epoch("a-events", 1_763_750_000_123_456_789));
        assert_ne!(first, epoch("a-events", 1_763_750_000_123_456_790));
        assert_ne!(first, epoch("b-events", 1_763_750_000_123_456_789));
        assert_eq!(first.as_str().len(), 13);
    }
}
