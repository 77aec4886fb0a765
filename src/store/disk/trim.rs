//! Retention of the whole log: trims the oldest events within the transaction that exceeded a limit.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;

use super::column::{integer, position};
use super::keeping::is_newest;
use super::log_state::LogState;
use super::removal::keep_key;
use crate::cursor::Position;
use crate::store::Retention;
use crate::store::arrivals::Arrivals;
use crate::store::dedupe::DedupeWindow;
use crate::store::keep::Policy;
use crate::topic::Topic;

/// The limits for one transaction.
pub(super) struct Limits {
    pub(super) retention: Retention,
    /// Events from before this time are too old; milliseconds since the Unix epoch.
    pub(super) oldest_ms: Option<u64>,
    /// The most events to trim.
    pub(super) rows_max: u64,
}

impl Limits {
    /// Whether the log exceeds a limit on its size, whatever its age.
    pub(super) fn exceeded_by(&self, log: &LogState) -> bool {
        self.retention.events_max.is_some_and(|max| log.events > max)
            || self.retention.bytes_max.is_some_and(|max| log.bytes > max && log.last > log.floor)
    }
}

/// The result of a trim.
#[derive(Default)]
pub(super) struct Trimmed {
    /// The newest position that each topic lost.
    pub(super) marks: Vec<(Topic, Position)>,
    /// Whether the log is within its limits now.
    pub(super) complete: bool,
    /// Whether keys were kept that are still within the window.
    pub(super) kept_keys: bool,
    /// The topics that lost events.
    pub(super) topic_ids: Vec<i64>,
}

/// Trims, and updates `log`. `topic_of` knows every topic that has events. A superseded event of a value, as `policy` has it,
/// leaves no mark.
pub(super) fn trim(
    db: &Connection,
    log: &mut LogState,
    limits: &Limits,
    policy: Option<&Policy>,
    dedupe: &DedupeWindow,
    arrivals: &Arrivals,
    topic_of: &dyn Fn(i64) -> Option<Topic>,
) -> rusqlite::Result<Trimmed> {
    let mut trimmed = Trimmed::default();
    if !limits.exceeded_by(log) && limits.oldest_ms.is_none() {
        trimmed.complete = true;
        return Ok(trimmed);
    }
    let mut marks: HashMap<i64, Position> = HashMap::new();
    let (mut gone, mut values) = (HashSet::new(), HashMap::new());
    let mut oldest = db.prepare_cached("SELECT seq, topic_id, time, cost, id FROM e WHERE seq > ?1 ORDER BY seq")?;
    let mut rows = oldest.query([integer(log.floor.0)])?;
    let mut left = limits.rows_max;
    loop {
        if left == 0 {
            break;
        }
        left -= 1;
        let Some(row) = rows.next()? else {
            trimmed.complete = true;
            break;
        };
        let time_ms: i64 = row.get(2)?;
        let seq = position(row.get(0)?);
        let arrived_ms = arrivals.time_ms(seq, position(time_ms).0);
        let too_old = limits.oldest_ms.is_some_and(|oldest_ms| arrived_ms < oldest_ms);
        if !too_old && !limits.exceeded_by(log) {
            trimmed.complete = true;
            break;
        }
        let topic_id = row.get(1)?;
        log.floor = seq;
        log.bytes = log.bytes.saturating_sub(position(row.get(3)?).0);
        log.events = log.events.saturating_sub(1);
        gone.insert(topic_id);
        let is_value = *values.entry(topic_id).or_insert_with(|| {
            policy.is_some_and(|policy| topic_of(topic_id).is_some_and(|topic| policy.is_value(topic.as_str())))
        });
        if !is_value || is_newest(db, topic_id, seq)? {
            marks.insert(topic_id, seq);
        }
        if let Some(id) = row.get_ref(4)?.as_str_or_null()?
            && let Some(topic) = topic_of(topic_id)
        {
            trimmed.kept_keys |= keep_key(db, dedupe, &topic, id, seq, time_ms)?;
        }
    }
    drop(rows);
    if gone.is_empty() {
        return Ok(trimmed);
    }
    db.prepare_cached("DELETE FROM e WHERE seq <= ?1")?.execute([integer(log.floor.0)])?;
    let mut mark = db.prepare_cached("UPDATE topics SET mark = max(mark, ?2) WHERE id = ?1")?;
    for (topic_id, at) in marks {
        mark.execute([topic_id, integer(at.0)])?;
        trimmed.marks.extend(topic_of(topic_id).map(|topic| (topic, at)));
    }
    trimmed.topic_ids = gone.into_iter().collect();
    Ok(trimmed)
}
