//! Maintenance of the log: retention, expiry of topics and keys, vacuum, checkpoints. The writer thread does it in slices
//! between commits, so that no publisher waits for long.

use std::time::Duration;

use rusqlite::{Connection, params};

use super::super::column::integer;
use super::super::fault::store_error;
use super::super::file::BUSY_WAIT;
use super::super::held;
use super::super::trim::Trimmed;
use super::Writer;
use crate::store::StoreError;
use crate::topic::Topic;

/// Size of the write-ahead log, in pages, from which it is checkpointed: 4 MiB.
const WAL_PAGES: i64 = 1024;

/// Size of the write-ahead log, in pages, from which a checkpoint waits briefly for readers, to restart the log: 64 MiB.
const WAL_PAGES_MAX: i64 = 16_384;

/// How long a checkpoint waits for readers. Reads are bounded, so only a backup takes longer.
const WAL_WAIT: Duration = Duration::from_millis(100);

/// Topics that are removed, and keys that expire, in a slice.
const SLICE_ROWS: usize = 1024;

/// Pages that are returned to the file system in a slice: 4 MiB.
const SLICE_PAGES: i64 = 1024;

/// Free pages that are always kept: 16 MiB. The log will grow again.
const FREE_PAGES_MIN: i64 = 4096;

/// The pending maintenance.
#[derive(Default)]
pub(super) struct Maintenance {
    /// Events older than this time are trimmed, up to the first younger one.
    pub(super) oldest_ms: Option<u64>,
    /// Topics whose marks were folded.
    pub(super) forget: Vec<Topic>,
    has_kept_keys: bool,
    keys_before_ms: Option<u64>,
    /// The time of the last maintenance, where the clock is trusted enough to remove anything by it.
    pub(super) removes_at_ms: Option<u64>,
    vacuum: Vacuum,
    /// A task failed: it is retried at the next regular time, since a full disk would fail it again at once.
    stalled: bool,
    /// The number of pages not yet in the database at which the write-ahead log is checkpointed next.
    checkpoint_at: i64,
    /// The number of pages at which a checkpoint waits for readers next.
    truncate_at: i64,
}

#[derive(Default, PartialEq)]
enum Vacuum {
    #[default]
    Idle,
    Look,
    Work,
}

impl Maintenance {
    pub(super) fn new(has_kept_keys: bool, forget: Vec<Topic>) -> Self {
        Self { has_kept_keys, forget, checkpoint_at: WAL_PAGES, truncate_at: WAL_PAGES_MAX, ..Self::default() }
    }

    /// Schedules the regular tasks, about once a second.
    pub(super) fn due(&mut self, oldest_ms: Option<u64>, keys_before_ms: u64) {
        self.stalled = false;
        self.oldest_ms = oldest_ms;
        self.keys_before_ms = self.has_kept_keys.then_some(keys_before_ms);
        if self.vacuum == Vacuum::Idle {
            self.vacuum = Vacuum::Look;
        }
    }

    pub(super) fn after_trim(&mut self, trimmed: &Trimmed, kept_keys: bool) {
        if trimmed.complete {
            self.oldest_ms = None;
        }
        self.has_kept_keys |= trimmed.kept_keys || kept_keys;
    }

    fn any(&self) -> bool {
        self.keys_before_ms.is_some() || self.vacuum != Vacuum::Idle || !self.forget.is_empty()
    }
}

impl Writer {
    /// Whether more is pending, so that the thread does not wait for the queue.
    pub(super) fn has_maintenance(&self) -> bool {
        // An erasure has its answer to give, also where the disk is full.
        self.erasing.any() || !self.maintenance.stalled && self.has_tasks()
    }

    fn has_tasks(&self) -> bool {
        let by_rules = self.keeping.as_ref().is_some_and(|keeping| keeping.removes() || keeping.expires());
        self.trim_is_due() || by_rules || self.maintenance.any() || self.times.is_due(false)
    }

    /// Runs a slice of each task.
    pub(super) fn maintain_slice(&mut self) {
        self.erase_slice();
        if self.maintenance.stalled || !self.has_tasks() {
            return;
        }
        let outcome = self
            .trim_slice()
            .and_then(|()| self.expire_slice())
            .and_then(|()| self.try_maintenance().map_err(|error| self.error(&error)));
        if let Err(error) = outcome {
            tracing::warn!(%error, "the log could not be trimmed or vacuumed; this is retried");
            self.maintenance.stalled = true;
        }
    }

    fn try_maintenance(&mut self) -> rusqlite::Result<()> {
        if self.times.is_due(false) {
            self.times.store(&self.db)?;
        }
        self.forget_slice()?;
        self.keys_slice()?;
        self.vacuum_slice()
    }

    /// Stores the floor that marks were folded into, and removes those of their topics that have no events.
    fn forget_slice(&mut self) -> rusqlite::Result<()> {
        let from = self.maintenance.forget.len().saturating_sub(SLICE_ROWS);
        let slice = &self.maintenance.forget[from..];
        if slice.is_empty() {
            return Ok(());
        }
        let folded = held(&self.shared.trims).removed.expired.folded();
        let transaction = self.db.unchecked_transaction()?;
        transaction.execute("UPDATE meta SET folded = ?1", [integer(folded.0)])?;
        let mut gone = Vec::new();
        // A mark that has been set again since then is above the floor, and stays.
        let mut forget = transaction.prepare_cached(
            "DELETE FROM topics WHERE topic = ?1 AND mark <= ?2
                AND NOT EXISTS (SELECT 1 FROM e INDEXED BY e_topic WHERE e.topic_id = topics.id)",
        )?;
        for topic in slice {
            if forget.execute(params![topic.as_str(), integer(folded.0)])? > 0 {
                gone.push(topic.clone());
            }
        }
        drop(forget);
        transaction.commit()?;
        self.maintenance.forget.truncate(from);
        let mut topics = self.shared.topics_mut();
        for topic in &gone {
            topics.remove(topic);
        }
        Ok(())
    }

    fn keys_slice(&mut self) -> rusqlite::Result<()> {
        let Some(before_ms) = self.maintenance.keys_before_ms else { return Ok(()) };
        let expire = "DELETE FROM kept_keys
            WHERE seq IN (SELECT seq FROM kept_keys ORDER BY seq LIMIT ?1) AND time < ?2";
        let gone = self.db.prepare_cached(expire)?.execute([SLICE_ROWS as i64, integer(before_ms)])?;
        if gone < SLICE_ROWS {
            self.maintenance.keys_before_ms = None;
            self.maintenance.has_kept_keys =
                self.db.query_row("SELECT EXISTS (SELECT 1 FROM kept_keys)", [], |row| row.get(0))?;
        }
        Ok(())
    }

    /// Returns pages to the file system if more than a quarter is free, until an eighth is: appends soon reuse what
    /// retention frees.
    fn vacuum_slice(&mut self) -> rusqlite::Result<()> {
        if self.maintenance.vacuum == Vacuum::Idle {
            return Ok(());
        }
        let pages = |pragma| self.db.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
        let (free, all) = (pages("freelist_count")?, pages("page_count")?);
        let keep = if self.maintenance.vacuum == Vacuum::Work { all / 8 } else { all / 4 };
        let worked = self.maintenance.vacuum == Vacuum::Work;
        self.maintenance.vacuum = if free > keep.max(FREE_PAGES_MIN) { Vacuum::Work } else { Vacuum::Idle };
        if self.maintenance.vacuum == Vacuum::Work {
            let mut statement = self.db.prepare(&format!("PRAGMA incremental_vacuum({SLICE_PAGES})"))?;
            let mut freed = statement.query([])?;
            while freed.next()?.is_some() {}
        } else if worked {
            // Only a checkpoint of the write-ahead log shortens the file.
            checkpoint(&self.db, "PASSIVE")?;
        }
        Ok(())
    }

    /// Keeps the write-ahead log short. Waits for readers only when the log is very long.
    pub(super) fn checkpoint_if_due(&mut self) {
        let outcome = checkpoint(&self.db, "NOOP").and_then(|wal| {
            let away = wal.pages - wal.home;
            if wal.pages < WAL_PAGES_MAX {
                self.maintenance.truncate_at = WAL_PAGES_MAX;
            }
            if away < WAL_PAGES {
                self.maintenance.checkpoint_at = WAL_PAGES;
            }
            // A checkpoint that fails, for a long reader (a backup) or a full disk, is retried
            // when the log has grown further, not with each commit.
            if wal.pages >= self.maintenance.truncate_at {
                self.maintenance.truncate_at = wal.pages + WAL_PAGES_MAX / 2;
                truncate(&self.db, WAL_WAIT).map(drop)
            } else if away >= self.maintenance.checkpoint_at {
                self.maintenance.checkpoint_at = away + WAL_PAGES / 4;
                checkpoint(&self.db, "PASSIVE").map(drop)
            } else {
                Ok(())
            }
        });
        if let Err(error) = outcome {
            tracing::warn!(%error, "the write-ahead log could not be checkpointed; the checkpoint is retried");
        }
    }

    /// Frees space in the write-ahead log; returns whether that succeeded.
    pub(super) fn checkpoint_fully(&self) -> bool {
        truncate(&self.db, WAL_WAIT).unwrap_or(false)
    }

    /// Truncates the write-ahead log, after readers that end within a time; returns whether it has no bytes any more.
    pub(super) fn checkpoint_within(&self, wait: Duration) -> bool {
        truncate(&self.db, wait).unwrap_or(false)
    }

    /// Stores the time at which this run ends, so that a start soon after detects even a small jump of the clock.
    pub(super) fn store_times_at_end(&mut self) {
        if self.times.is_due(true)
            && let Err(error) = self.times.store(&self.db)
        {
            tracing::warn!(%error, "the time of last use could not be stored; a jump of the clock until the next start may go unnoticed");
        }
    }

    /// Moves everything into one file.
    pub(super) fn checkpoint_at_end(&self) {
        // A failure loses nothing: the next start reads the write-ahead log.
        if !self.checkpoint_fully() {
            tracing::warn!("the write-ahead log could not be checkpointed; the next start does");
        }
    }

    fn error(&self, error: &rusqlite::Error) -> StoreError {
        store_error(error, &self.shared.directory)
    }
}

/// The write-ahead log: the number of its pages, and how many of them are in the main file already.
struct Wal {
    busy: bool,
    pages: i64,
    home: i64,
}

fn checkpoint(db: &Connection, mode: &str) -> rusqlite::Result<Wal> {
    db.prepare_cached(&format!("PRAGMA wal_checkpoint({mode})"))?
        .query_row([], |row| Ok(Wal { busy: row.get(0)?, pages: row.get(1)?, home: row.get(2)? }))
}

fn truncate(db: &Connection, wait: Duration) -> rusqlite::Result<bool> {
    db.busy_timeout(wait)?;
    let outcome = checkpoint(db, "TRUNCATE").map(|wal| !wal.busy);
    db.busy_timeout(BUSY_WAIT)?;
    outcome
}
