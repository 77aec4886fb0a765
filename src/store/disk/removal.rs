//! Removes single events from the log, within a transaction, and keeps the log's counters.

use rusqlite::{Connection, Row, params};

use super::column::{integer, position};
use super::form;
use super::log_state::{self, LogState};
use crate::cursor::Position;
use crate::store::dedupe::DedupeWindow;
use crate::topic::Topic;

/// The columns of [`Doomed`].
macro_rules! doomed_columns {
    () => {
        "seq, topic_id, time, cost, id"
    };
}
pub(super) use doomed_columns;

/// An event that is to be removed.
pub(super) struct Doomed {
    pub(super) seq: Position,
    pub(super) topic_id: i64,
    time_ms: i64,
    cost_bytes: u64,
    id: Option<Box<str>>,
}

impl Doomed {
    /// Decodes the columns of [`doomed_columns`].
    pub(super) fn of(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            seq: position(row.get(0)?),
            topic_id: row.get(1)?,
            time_ms: row.get(2)?,
            cost_bytes: position(row.get(3)?).0,
            id: row.get_ref(4)?.as_str_or_null()?.map(Into::into),
        })
    }
}

/// The events that a transaction removes from the middle of the log.
pub(super) struct Removal<'a> {
    db: &'a Connection,
    /// The number of removed events.
    pub(super) count: u64,
    /// Whether keys were kept that are still within the window.
    pub(super) kept_keys: bool,
}

impl<'a> Removal<'a> {
    pub(super) fn new(db: &'a Connection) -> Self {
        Self { db, count: 0, kept_keys: false }
    }

    /// Removes an event whose id is removed, too.
    pub(super) fn erase(&mut self, log: &mut LogState, doomed: &Doomed) -> rusqlite::Result<()> {
        self.db.prepare_cached("DELETE FROM e WHERE seq = ?1")?.execute([integer(doomed.seq.0)])?;
        log.bytes = log.bytes.saturating_sub(doomed.cost_bytes);
        log.events = log.events.saturating_sub(1);
        self.count += 1;
        Ok(())
    }

    /// Removes an event of a topic, and keeps its id while that is within the window.
    pub(super) fn remove(
        &mut self,
        log: &mut LogState,
        dedupe: &DedupeWindow,
        topic: &Topic,
        doomed: &Doomed,
    ) -> rusqlite::Result<()> {
        self.erase(log, doomed)?;
        if let Some(id) = &doomed.id {
            self.kept_keys |= keep_key(self.db, dedupe, topic, id, doomed.seq, doomed.time_ms)?;
        }
        Ok(())
    }

    /// Completes the removal: the floor moves to where the oldest event is, and an older server refuses the log from now on.
    pub(super) fn finish(&self, log: &mut LogState) -> rusqlite::Result<()> {
        if self.count == 0 {
            return Ok(());
        }
        log.removals += 1;
        if log.format < form::HOLES_FORMAT {
            log.format = form::HOLES_FORMAT;
            log_state::write_format(self.db, log.format)?;
        }
        let oldest: Option<i64> = self.db.prepare_cached("SELECT min(seq) FROM e")?.query_row([], |row| row.get(0))?;
        log.floor = log.floor.max(oldest.map_or(log.last, |oldest| position(oldest).before()));
        Ok(())
    }
}

/// Stores the key of an event that is removed, where it is still within the window. Returns whether it is.
pub(super) fn keep_key(
    db: &Connection,
    dedupe: &DedupeWindow,
    topic: &Topic,
    id: &str,
    seq: Position,
    time_ms: i64,
) -> rusqlite::Result<bool> {
    if dedupe.position(topic, id) != Some(seq) {
        return Ok(false);
    }
    let keep = "INSERT OR REPLACE INTO kept_keys VALUES (?1, ?2, ?3, ?4)";
    db.prepare_cached(keep)?.execute(params![integer(seq.0), topic.as_str(), id, time_ms])?;
    Ok(true)
}
