//! Clock skew: which other nodes there are, and how far this node's wall clock is from theirs and from NATS's.
//!
//! The leader's answer about the stream carries the leader's time. Half of the round trip counts as one way, and of the last
//! answers the one with the shortest round trip is used, as in NTP's clock filter (RFC 5905 §10). Nodes send each other their
//! offset from NATS: the difference of two offsets does not depend on a message's latency.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_nats::datetime::DateTime;
use bytes::Bytes;
use uuid::Uuid;

use crate::store::ClockSkew;
use crate::sync::lock;

/// The number of samples of NATS's clock of which the fastest counts.
const SAMPLES_MAX: usize = 8;

/// A node that was silent for so long is gone. It is as long as a node answers for clients that have left it.
const NODE_GONE: Duration = Duration::from_secs(60);

/// The longest time until the other nodes have answered a node that has just started.
const YOUNG: Duration = Duration::from_secs(2);

/// The most other nodes that are kept, about 100 bytes each. Further nodes are ignored.
const NODES_MAX: usize = 1000;

/// The interval between two log lines about the same skew.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The measurements.
#[derive(Debug)]
pub(super) struct Skew {
    /// This node's id among the others, for this run.
    own: Uuid,
    began: Instant,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    samples: VecDeque<Sample>,
    /// By node: how far NATS is ahead of it, in milliseconds, and when the node reported that.
    nodes: HashMap<Uuid, (i64, Instant)>,
    logged: Option<Instant>,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    took: Duration,
    nats_ahead_ms: i64,
}

impl Skew {
    pub(super) fn new() -> Self {
        Self { own: Uuid::new_v4(), began: Instant::now(), state: Mutex::default() }
    }

    /// Records that NATS's clock showed `nats` at some moment between the wall clock's `asked_ms` and now.
    pub(super) fn measured(&self, asked_ms: u64, took: Duration, nats: DateTime) {
        let nats_ms = i64::try_from(nats.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
        let half_ms = i64::try_from(took.as_millis() / 2).unwrap_or_default();
        let nats_ahead_ms = nats_ms.saturating_sub(asked_ms.cast_signed()).saturating_sub(half_ms);
        let mut state = lock(&self.state);
        // After a clock was set, older samples are invalid.
        let moved = |sample: &Sample| sample.nats_ahead_ms.abs_diff(nats_ahead_ms) > 1000 + took.as_millis() as u64;
        if state.samples.back().is_some_and(moved) {
            state.samples.clear();
        }
        if state.samples.len() >= SAMPLES_MAX {
            state.samples.pop_front();
        }
        state.samples.push_back(Sample { took, nats_ahead_ms });
    }

    /// How far NATS's clock is ahead of this node's wall clock, in milliseconds; 0 before the first measurement.
    pub(super) fn nats_ahead_ms(&self) -> i64 {
        lock(&self.state).nats_ahead_ms().unwrap_or_default()
    }

    /// Records how far NATS is ahead of another node; returns whether that node is new.
    pub(super) fn announced(&self, node: Uuid, nats_ahead_ms: i64) -> bool {
        let mut state = lock(&self.state);
        let known = state.nodes.contains_key(&node);
        if node == self.own || !known && state.nodes.len() >= NODES_MAX {
            return false;
        }
        state.nodes.insert(node, (nats_ahead_ms, Instant::now()));
        !known
    }

    /// This node's id among the others, for this run.
    pub(super) fn own(&self) -> Uuid {
        self.own
    }

    /// The other nodes: those heard from recently, some of which may have ended since.
    pub(super) fn others(&self) -> Vec<Uuid> {
        let mut state = lock(&self.state);
        state.forget_gone();
        state.nodes.keys().copied().collect()
    }

    /// Whether this node has just started, so that it may not have heard from all the others.
    pub(super) fn is_young(&self) -> bool {
        self.began.elapsed() < YOUNG
    }

    /// The message that the other nodes are sent.
    pub(super) fn announcement(&self) -> Bytes {
        format!("{} {}", self.own, self.nats_ahead_ms()).into()
    }

    /// The offsets; `None` before the first measurement.
    pub(super) fn get(&self) -> Option<ClockSkew> {
        let mut state = lock(&self.state);
        state.forget_gone();
        let nats_ms = state.nats_ahead_ms()?;
        let distances = state.nodes.values().map(|(of_node, _)| nats_ms.saturating_sub(*of_node));
        Some(ClockSkew { nats_ms, nodes_ms: distances.max_by_key(|ms| ms.unsigned_abs()) })
    }

    /// Logs a warning where a clock is too far off.
    pub(super) fn log(&self) {
        let Some(skew) = self.get().filter(ClockSkew::is_large) else { return };
        let mut state = lock(&self.state);
        if state.logged.is_none_or(|logged| logged.elapsed() >= LOG_INTERVAL) {
            state.logged = Some(Instant::now());
            let ClockSkew { nats_ms, nodes_ms } = skew;
            tracing::warn!(
                nats_ahead_ms = nats_ms,
                node_ahead_ms = nodes_ms,
                "the clocks of this node, of NATS and of the other nodes differ by more than 5 seconds: run NTP on all of them"
            );
        }
    }
}

impl State {
    fn forget_gone(&mut self) {
        self.nodes.retain(|_, (_, last)| last.elapsed() < NODE_GONE);
    }

    fn nats_ahead_ms(&self) -> Option<i64> {
        self.samples.iter().min_by_key(|sample| sample.took).map(|sample| sample.nats_ahead_ms)
    }
}

/// Parses another node's message: its id, and how far NATS is ahead of it.
pub(super) fn parse(payload: &[u8]) -> Option<(Uuid, i64)> {
    let (node, ms) = std::str::from_utf8(payload).ok()?.split_once(' ')?;
    Some((node.parse().ok()?, ms.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: i64) -> DateTime {
        async_nats::datetime::parse_rfc3339("1970-01-01T00:00:00Z").unwrap() + Duration::from_millis(ms.unsigned_abs())
    }

    #[test]
    fn of_the_last_answers_the_quickest_counts() {
        let skew = Skew::new();
        assert_eq!((skew.nats_ahead_ms(), skew.get()), (0, None));
        skew.measured(10_000, Duration::from_millis(800), at_ms(10_900));
        assert_eq!(skew.nats_ahead_ms(), 500);
        skew.measured(20_000, Duration::from_millis(20), at_ms(20_110));
        assert_eq!(skew.nats_ahead_ms(), 100);
        skew.measured(30_000, Duration::from_millis(400), at_ms(30_400));
        assert_eq!(skew.nats_ahead_ms(), 100);
        // The clock is set.
        skew.measured(40_000, Duration::from_millis(40), at_ms(100_020));
        assert_eq!(skew.nats_ahead_ms(), 60_000);
    }

    #[test]
    fn the_node_that_is_farthest_away_counts() {
        let skew = Skew::new();
        skew.measured(10_000, Duration::ZERO, at_ms(12_000));
        for (number, ms) in [(1, 2000), (2, 9500), (3, -4000)] {
            skew.announced(Uuid::from_u128(number), ms);
        }
        skew.announced(skew.own, 1_000_000);
        assert_eq!(skew.get(), Some(ClockSkew { nats_ms: 2000, nodes_ms: Some(-7500) }));
        let (node, ms) = parse(&skew.announcement()).unwrap();
        assert_eq!((node, ms), (skew.own, 2000));
        assert_eq!(parse(b"no node 5"), None);
    }
}
