//! How far each sweep has come.

use super::Policy;
use crate::cursor::Position;

/// A pass through the log, behind its end by a delay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) struct Sweep {
    /// How long an event has been in the log when the sweep passes it, in milliseconds.
    pub(in crate::store) delay_ms: u64,
    /// Whether the sweep deletes values that have aged out; else it removes events.
    pub(in crate::store) deletes: bool,
    /// Every event at or before this position has been passed.
    pub(in crate::store) at: Position,
    /// Whether events may be due; cleared once the next one is too young.
    pub(in crate::store) is_pending: bool,
}

/// The sweeps of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::store) struct Sweeps(Vec<Sweep>);

impl Sweeps {
    /// The sweeps of a policy, at the log's beginning.
    pub(in crate::store) fn new(policy: &Policy) -> Self {
        let sweep = |deletes| move |delay_ms| Sweep { delay_ms, deletes, at: Position::ZERO, is_pending: false };
        let removals = policy.removal_delays().into_iter().map(sweep(false));
        Self(removals.chain(policy.expiry_delays().into_iter().map(sweep(true))).collect())
    }

    pub(in crate::store) fn len(&self) -> usize {
        self.0.len()
    }

    pub(in crate::store) fn get(&self, index: usize) -> Sweep {
        self.0[index]
    }

    /// Sets how far a sweep has come.
    pub(in crate::store) fn set(&mut self, index: usize, at: Position, is_pending: bool) {
        let sweep = &mut self.0[index];
        (sweep.at, sweep.is_pending) = (sweep.at.max(at), is_pending);
    }

    /// Whether any sweep is pending.
    pub(in crate::store) fn any_pending(&self) -> bool {
        self.0.iter().any(|sweep| sweep.is_pending)
    }

    /// The positions as text, to be stored with the log.
    pub(in crate::store) fn to_text(&self) -> String {
        let sweep = |sweep: &Sweep| {
            let kind = if sweep.deletes { "deletes" } else { "removes" };
            format!("{kind} {} {}", sweep.delay_ms, sweep.at)
        };
        self.0.iter().map(sweep).collect::<Vec<_>>().join("\n")
    }

    /// Restores stored positions. A sweep that was not stored begins at the log's beginning.
    pub(in crate::store) fn restore(&mut self, text: &str) {
        for sweep in &mut self.0 {
            let kind = if sweep.deletes { "deletes" } else { "removes" };
            let head = format!("{kind} {} ", sweep.delay_ms);
            let stored = text.lines().find_map(|line| line.strip_prefix(&head)?.parse().ok());
            sweep.at = stored.map_or(Position::ZERO, Position);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::store::keep::{KEEP_DELETED_DEFAULT, KeepRules};

    #[test]
    fn positions_are_stored_and_restored() {
        let rules = ["a=latest,10s", "b=3 events"].map(|text| text.parse().unwrap());
        let rules = Arc::new(KeepRules::new(rules.to_vec(), KEEP_DELETED_DEFAULT).unwrap());
        let policy = Policy { rules, age_max: Some(Duration::from_secs(10)) };
        let mut sweeps = Sweeps::new(&policy);
        let delays: Vec<_> = sweeps.0.iter().map(|sweep| (sweep.delay_ms, sweep.deletes)).collect();
        assert_eq!(delays, [(0, false), (10_000, false), (60_000, false), (604_800_000, false), (10_000, true)]);
        sweeps.set(1, Position(7), true);
        sweeps.set(4, Position(9), false);
        let mut restored = Sweeps::new(&policy);
        restored.restore(&sweeps.to_text());
        assert_eq!(restored.0.iter().map(|sweep| sweep.at.0).collect::<Vec<_>>(), [0, 7, 0, 0, 9]);
        restored.restore("");
        assert_eq!(restored, Sweeps::new(&policy));
    }
}
