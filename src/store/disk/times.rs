//! The log's record of time: when it was last in use, and bounds on the arrival of events whose times are ahead of the clock.
//!
//! Kept in tables of its own, which an older server ignores.

use rusqlite::{Connection, OptionalExtension as _, params};
use uuid::Uuid;

use super::column::{integer, position};
use crate::clock::{LastRun, Moment};
use crate::cursor::Position;
use crate::store::arrivals::Arrivals;

pub(super) const TABLES: &str = "
    CREATE TABLE IF NOT EXISTS last_run(
        one INTEGER PRIMARY KEY CHECK (one = 1), believed INTEGER NOT NULL, boot INTEGER NOT NULL, boot_id TEXT,
        latest INTEGER NOT NULL);
    CREATE TABLE IF NOT EXISTS arrivals(seq INTEGER PRIMARY KEY, time INTEGER NOT NULL);
";

/// How often the last run is stored, in milliseconds. A start compares the two clocks over the time since, so the record need not
/// be fresh.
const STORE_EVERY_MS: u64 = 60_000;

/// The times of a log.
#[derive(Debug, Default)]
pub(super) struct Times {
    pub(super) arrivals: Arrivals,
    /// The newest event's time, even after it was trimmed; 0 where there was none.
    pub(super) newest_ms: u64,
    /// The moment of the last maintenance.
    now: Option<Moment>,
    /// The stored record.
    stored: Option<LastRun>,
    /// [`Arrivals::latest_ms`] as stored.
    stored_latest_ms: u64,
    /// Whether bounds have changed since they were stored.
    dirty: bool,
}

impl Times {
    /// Reads the stored times of a log.
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Self> {
        let read = "SELECT believed, boot, boot_id, latest FROM last_run";
        let stored = db.query_row(read, [], |row| {
            let boot_id: Option<String> = row.get(2)?;
            let boot_id = boot_id.and_then(|id| id.parse::<Uuid>().ok());
            let run = LastRun { believed_ms: position(row.get(0)?).0, boot_ms: position(row.get(1)?).0, boot_id };
            Ok((run, position(row.get(3)?).0))
        });
        let (stored, latest_ms) = stored.optional()?.unzip();
        let mut statement = db.prepare("SELECT seq, time FROM arrivals ORDER BY seq")?;
        let bounds = statement.query_map([], |row| Ok((position(row.get(0)?), position(row.get(1)?).0)))?;
        let bounds = bounds.collect::<rusqlite::Result<Vec<_>>>()?;
        let newest = db.query_row("SELECT time FROM e ORDER BY seq DESC LIMIT 1", [], |row| row.get(0)).optional()?;
        let newest_ms = newest.map_or(0, |time| position(time).0);
        let arrivals = Arrivals::restored(bounds, latest_ms.unwrap_or(0).max(newest_ms));
        let stored_latest_ms = latest_ms.unwrap_or(0);
        Ok(Self { arrivals, newest_ms, stored, stored_latest_ms, ..Self::default() })
    }

    /// The last run, as read when the log was opened.
    pub(super) fn last_run(&self) -> Option<LastRun> {
        self.stored
    }

    /// Records a stored event's time.
    pub(super) fn push(&mut self, time_ms: u64) {
        self.newest_ms = time_ms;
        self.arrivals.push(time_ms);
    }

    /// Records the time; `last` is the newest event.
    pub(super) fn note(&mut self, now: Moment, last: Position, floor: Position) {
        self.dirty |= self.arrivals.note(last, &now);
        // A start that comes before the bound has to know that there is one to record.
        self.dirty |=
            self.arrivals.latest_ms() > now.earliest_ms() && self.arrivals.latest_ms() != self.stored_latest_ms;
        self.dirty |= self.arrivals.trim(floor);
        self.now = Some(now);
    }

    /// Whether there is something to store; `ending` at the end of this run.
    pub(super) fn is_due(&self, ending: bool) -> bool {
        let Some(now) = &self.now else { return false };
        let due = |stored: &LastRun| {
            let offset = |believed_ms: u64, boot_ms: u64| believed_ms.wrapping_sub(boot_ms);
            stored.boot_id != now.boot_id
                || now.boot_ms.saturating_sub(stored.boot_ms) >= if ending { 1 } else { STORE_EVERY_MS }
                || offset(stored.believed_ms, stored.boot_ms).abs_diff(offset(now.believed_ms, now.boot_ms))
                    > STORE_EVERY_MS
        };
        self.dirty || self.stored.as_ref().is_none_or(due)
    }

    /// Stores the changes in one transaction.
    pub(super) fn store(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let Some(now) = self.now else { return Ok(()) };
        let run = LastRun::from(&now);
        let transaction = db.unchecked_transaction()?;
        transaction.prepare_cached("INSERT OR REPLACE INTO last_run VALUES (1, ?1, ?2, ?3, ?4)")?.execute(params![
            integer(run.believed_ms),
            integer(run.boot_ms),
            run.boot_id.map(|id| id.to_string()),
            integer(self.arrivals.latest_ms())
        ])?;
        if self.dirty {
            transaction.execute("DELETE FROM arrivals", [])?;
            let mut insert = transaction.prepare_cached("INSERT INTO arrivals VALUES (?1, ?2)")?;
            for (bound, time_ms) in self.arrivals.iter() {
                insert.execute(params![integer(bound.0), integer(time_ms)])?;
            }
            // Keys outlive their events, and would outlive their window where their times are ahead.
            transaction.execute("UPDATE kept_keys SET time = ?1 WHERE time > ?1", [integer(now.believed_ms)])?;
        }
        transaction.commit()?;
        (self.stored, self.stored_latest_ms, self.dirty) = (Some(run), self.arrivals.latest_ms(), false);
        Ok(())
    }
}
