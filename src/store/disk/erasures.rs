//! Which topics were erased: a list with the log, and a copy beside it in `erasures.db`.
//!
//! A backup that is older than an erasure has the events still. So the copy stays in the data directory when a backup is put there,
//! and what it lists is erased again when the backup is opened. An entry is added to the copy before anything is erased, and
//! completed in the log with the last event: an erasure that was interrupted goes on at the next start.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, OptionalExtension as _, params};

use super::column::{integer, position};
use super::fault::open_error;
use super::file;
use super::keeping::oldest;
use super::log_state::LogState;
use super::removal::Removal;
use crate::cursor::Position;
use crate::store::OpenError;
use crate::store::marks::{MARKS_MAX, TrimMarks};

/// With the log: the newest erased position of a topic (0 where none was), the log's end and the time at that moment, and whether
/// all is gone.
pub(super) const TABLE: &str = "
    CREATE TABLE IF NOT EXISTS erasures(
        topic TEXT PRIMARY KEY, mark INTEGER NOT NULL, upto INTEGER NOT NULL, time INTEGER NOT NULL,
        done INTEGER NOT NULL) WITHOUT ROWID;
";

/// The most topics that are listed, about 100 bytes each: as many as have marks.
const ERASURES_MAX: usize = MARKS_MAX;

/// Events that are erased in one transaction.
pub(super) const ERASED_AT_ONCE: u64 = 1024;

/// The copy of the list beside the log.
pub(super) struct ErasureList {
    db: Connection,
    count: usize,
}

/// An entry of the copy.
struct Entry {
    topic: String,
    epoch: String,
    upto: Position,
    time_ms: i64,
}

/// The copy's tables have this version.
const VERSION: i32 = 1;

/// The path of the copy in `directory`, and the newest version of its tables that this server reads.
pub(super) fn file_and_version(directory: &Path) -> (PathBuf, i32) {
    (directory.join("erasures.db"), VERSION)
}

impl ErasureList {
    /// Opens the copy in `directory`, and creates it where it is missing.
    pub(super) fn open(directory: &Path) -> Result<Self, OpenError> {
        let (path, version) = file_and_version(directory);
        let tables = "CREATE TABLE erasures(
            topic TEXT PRIMARY KEY, epoch TEXT NOT NULL, upto INTEGER NOT NULL, time INTEGER NOT NULL) WITHOUT ROWID;";
        let db = file::open(&path, file::SYNCED, version, |found| (found == 0).then(|| tables.to_owned()))?;
        let count = db.query_row("SELECT count(*) FROM erasures", [], |row| row.get::<_, i64>(0));
        let count = count.map_err(|error| open_error(&path, error))?;
        Ok(Self { db, count: usize::try_from(count).unwrap_or(usize::MAX) })
    }

    /// Whether another topic may be listed.
    pub(super) fn has_room(&self) -> bool {
        self.count < ERASURES_MAX
    }

    /// Lists an erasure of what the log `epoch` had of a topic up to a position.
    pub(super) fn add(&mut self, topic: &str, epoch: &str, upto: Position, time_ms: u64) -> rusqlite::Result<()> {
        let add = "INSERT INTO erasures VALUES (?1, ?2, ?3, ?4)
            ON CONFLICT (topic) DO UPDATE SET epoch = ?2, upto = ?3, time = ?4";
        self.db.prepare_cached(add)?.execute(params![topic, epoch, integer(upto.0), integer(time_ms)])?;
        // Too high where the topic was listed already; it is exact again at the next start.
        self.count += 1;
        Ok(())
    }

    fn entries(&self) -> rusqlite::Result<Vec<Entry>> {
        let mut all = self.db.prepare("SELECT topic, epoch, upto, time FROM erasures")?;
        let entries = all.query_map([], |row| {
            Ok(Entry { topic: row.get(0)?, epoch: row.get(1)?, upto: position(row.get(2)?), time_ms: row.get(3)? })
        })?;
        entries.collect()
    }

    /// Erases again what the copy lists and this log has still: a backup, or a log whose server was ended meanwhile. Copies what
    /// only the log lists, as in a backup that was put into a new directory.
    pub(super) fn reconcile(&mut self, db: &Connection) -> rusqlite::Result<()> {
        let Some((mut log, _)) = LogState::read(db)? else { return Ok(()) };
        let mut erased = false;
        for entry in self.entries()? {
            let stored = "SELECT time, done FROM erasures WHERE topic = ?1";
            let stored = db.query_row(stored, [&entry.topic], |row| Ok((row.get(0)?, row.get(1)?)));
            let is_done =
                stored.optional()?.is_some_and(|(time_ms, done): (i64, bool)| done && time_ms >= entry.time_ms);
            if !is_done {
                let bound = bound(db, &log, &entry)?;
                let count = erase_again(db, &mut log, &entry, bound)?;
                tracing::warn!("{count} events of an erased topic were in the log, and are erased again");
                erased = true;
            }
        }
        if erased {
            // The file has their bytes until then.
            db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |_| Ok(()))?;
        }
        let mut only = db.prepare("SELECT topic, upto, time FROM erasures")?;
        let mut rows = only.query([])?;
        let listed = "INSERT OR IGNORE INTO erasures VALUES (?1, ?2, ?3, ?4)";
        while let Some(row) = rows.next()? {
            let (topic, upto, time_ms): (String, i64, i64) = (row.get(0)?, row.get(1)?, row.get(2)?);
            self.db.prepare_cached(listed)?.execute(params![topic, log.epoch.as_str(), upto, time_ms])?;
        }
        self.count = self.db.query_row("SELECT count(*) FROM erasures", [], |row| {
            row.get::<_, i64>(0).map(|count| usize::try_from(count).unwrap_or(usize::MAX))
        })?;
        Ok(())
    }
}

/// Up to where an erasure counts in this log.
fn bound(db: &Connection, log: &LogState, entry: &Entry) -> rusqlite::Result<Position> {
    if entry.epoch == log.epoch.as_str() {
        return Ok(entry.upto);
    }
    // The log was restored from a backup of the log in which the topic was erased: they share their beginning.
    let shared = "SELECT through FROM ancestors WHERE epoch = ?1";
    let shared = db.query_row(shared, [&entry.epoch], |row| row.get(0).map(position)).optional()?;
    if let Some(shared) = shared {
        return Ok(entry.upto.min(shared));
    }
    // Of another descendant, whose positions mean nothing here: what was restored, and was published before the erasure.
    let before = "SELECT max(seq) FROM e WHERE seq <= ?1 AND time <= ?2";
    let before: Option<i64> = db.query_row(before, [integer(log.began.0), entry.time_ms], |row| row.get(0))?;
    Ok(before.map_or(Position::ZERO, position))
}

fn erase_again(db: &Connection, log: &mut LogState, entry: &Entry, bound: Position) -> rusqlite::Result<u64> {
    let transaction = db.unchecked_transaction()?;
    let id = "SELECT id FROM topics WHERE topic = ?1";
    let id: Option<i64> = transaction.query_row(id, [&entry.topic], |row| row.get(0)).optional()?;
    let (mut mark, mut removal) = (Position::ZERO, Removal::new(&transaction));
    if let Some(id) = id {
        loop {
            let doomed = oldest(&transaction, id, bound, ERASED_AT_ONCE)?;
            let Some(last) = doomed.last() else { break };
            mark = last.seq;
            doomed.iter().try_for_each(|doomed| removal.erase(log, doomed))?;
        }
    }
    removal.finish(log)?;
    write(&transaction, &entry.topic, mark, bound, entry.time_ms, true)?;
    log.write(&transaction)?;
    let count = removal.count;
    transaction.commit()?;
    Ok(count)
}

/// Writes an erasure's entry in the log. The ids of the topic's events that were removed before are removed, too.
pub(super) fn write(
    db: &Connection,
    topic: &str,
    mark: Position,
    upto: Position,
    time_ms: i64,
    is_done: bool,
) -> rusqlite::Result<()> {
    let write = "INSERT INTO erasures VALUES (?1, ?2, ?3, ?4, ?5)
        ON CONFLICT (topic) DO UPDATE SET mark = max(mark, ?2), upto = ?3, time = ?4, done = ?5";
    db.prepare_cached(write)?.execute(params![topic, integer(mark.0), integer(upto.0), time_ms, is_done])?;
    db.prepare_cached("DELETE FROM kept_keys WHERE topic = ?1")?.execute([topic]).map(drop)
}

/// The marks of erased topics.
pub(super) fn marks(db: &Connection) -> rusqlite::Result<TrimMarks> {
    let mut marks = TrimMarks::default();
    let mut statement = db.prepare("SELECT topic, mark FROM erasures WHERE mark > 0")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        marks.set(&super::column::parsed(row.get_ref(0)?.as_str()?, 0)?, position(row.get(1)?));
    }
    Ok(marks)
}
