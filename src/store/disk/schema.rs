//! The tables of `events.db`, and the state that is loaded from them when the log is opened.
//!
//! All state that a start needs is stored beside the events and updated in their transactions. So opening reads
//! the topics and the keys of the idempotency window, never the events: a log of ten million events opens at once.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::Connection;

use super::ancestors::{self, Ancestors};
use super::clients::ClientsFile;
use super::column::{integer, parsed, position};
use super::erasures::{self, ErasureList};
use super::fault::open_error;
use super::file;
use super::form::{self, Stored};
use super::keeping::{self, Keeping};
use super::lock::sync_directory;
use super::log_state::{self, LogState};
use super::security_records::SecurityRecordsFile;
use super::times::{self, Times};
use crate::cursor::Epoch;
use crate::segment::TopicMap;
use crate::store::dedupe::DedupeWindow;
use crate::store::keep::Policy;
use crate::store::marks::TrimMarks;
use crate::store::removed::Removed;
use crate::store::{OpenError, StoreOptions};
use crate::topic::Topic;

/// "SwLg", in the header of every log.
pub(super) const LOG_ID: i32 = 0x5377_4c67;

/// "SwBk": a copy by `backup` that has not been opened as a log yet.
pub(super) const BACKUP_ID: i32 = 0x5377_426b;

/// The data of a short event, which fits into an index's page; else `NULL`. SQLite reads the value from the index only if a
/// query's expression equals the index's, word for word; else it silently reads the event's page.
macro_rules! short_data {
    () => {
        "CASE WHEN cost <= 960 THEN data END"
    };
}
pub(super) use short_data;

/// `data` is the last column: the columns before it are read without following a long value's overflow pages.
///
/// An event is stored twice: by position, and in `e_topic` beside its topic's other events. Without that index, a client that
/// resumes on one topic of a thousand would cost a page read of 4 KiB for each event, five times the cost of the event itself.
/// The price is space on the disk. An event too long for an index's page is stored once only: the lookup is then the smaller
/// part of its cost. (`seq` is named, although SQLite appends it to every index, so that the other columns do not separate it
/// from its topic.)
///
/// The column `base64` holds the encoding of `data` ([`form`]). The file's `user_version` is the format of its events.
///
/// Idempotency keys are indexed by time, so that a start reads those within the window only. The index is partial: events
/// without a key cost nothing.
const TABLES: &str = concat!(
    "
    CREATE TABLE meta(
        one INTEGER PRIMARY KEY CHECK (one = 1), epoch TEXT NOT NULL, began INTEGER NOT NULL,
        last INTEGER NOT NULL, floor INTEGER NOT NULL, bytes INTEGER NOT NULL, folded INTEGER NOT NULL);
    CREATE TABLE topics(id INTEGER PRIMARY KEY, topic TEXT NOT NULL UNIQUE, mark INTEGER NOT NULL);
    CREATE TABLE e(
        seq INTEGER PRIMARY KEY, topic_id INTEGER NOT NULL, time INTEGER NOT NULL, cost INTEGER NOT NULL,
        base64 INTEGER NOT NULL, name TEXT, id TEXT, data TEXT NOT NULL);
    CREATE INDEX e_topic ON e(topic_id, seq, time, base64, name, id, ",
    short_data!(),
    ");
    CREATE INDEX e_keyed ON e(time) WHERE id IS NOT NULL;
    CREATE TABLE kept_keys(seq INTEGER PRIMARY KEY, topic TEXT NOT NULL, id TEXT NOT NULL, time INTEGER NOT NULL);
"
);

/// The path of the events' file in `directory`.
pub(super) fn events_path(directory: &Path) -> PathBuf {
    directory.join("events.db")
}

/// Every topic with retained or trimmed events.
#[derive(Debug, Default)]
pub(super) struct Topics {
    pub(super) by_name: TopicMap<i64>,
    pub(super) by_id: HashMap<i64, Topic>,
}

impl Topics {
    pub(super) fn insert(&mut self, topic: Topic, id: i64) {
        self.by_id.insert(id, topic.clone());
        self.by_name.insert(topic, id);
    }

    pub(super) fn remove(&mut self, topic: &Topic) {
        if let Some(id) = self.by_name.remove(topic) {
            self.by_id.remove(&id);
        }
    }
}

/// A log that is open for writing, with its state in memory.
pub(super) struct Opened {
    pub(super) db: Connection,
    pub(super) log: LogState,
    pub(super) topics: Topics,
    pub(super) removed: Removed,
    pub(super) keeping: Option<Keeping>,
    pub(super) erasures: ErasureList,
    pub(super) dedupe: DedupeWindow,
    pub(super) times: Times,
    pub(super) ancestors: Ancestors,
    /// Topics whose marks were folded while loading.
    pub(super) forget: Vec<Topic>,
    /// Whether keys of trimmed events are stored.
    pub(super) has_kept_keys: bool,
}

/// Opens the log in `directory`, creates a missing one, and gives a restored copy its new identity.
/// The caller must hold the directory's lock.
pub(super) fn open(
    directory: &Path,
    options: &StoreOptions,
    marks_max: usize,
    now_ms: u64,
    clients: &mut ClientsFile,
    security_records: &mut SecurityRecordsFile,
) -> Result<Opened, OpenError> {
    let path = events_path(directory);
    remove_stale_wal(directory, &path).map_err(|error| open_error(&path, error))?;
    let db = file::connect(&path).map_err(|error| open_error(&path, error))?;
    prepare(&db, clients, security_records).map_err(|reason| open_error(&path, reason))?;
    let mut erasures = ErasureList::open(directory)?;
    sync_directory(directory).map_err(|error| open_error(directory, error))?;
    erasures.reconcile(&db).map_err(|error| open_error(&path, error))?;
    load(db, options, marks_max, now_ms, erasures).map_err(|reason| open_error(&path, reason))
}

/// Opens the log in `directory` read-only. Its writer must be open already.
pub(super) fn open_reader(directory: &Path) -> Result<Connection, OpenError> {
    let path = events_path(directory);
    let open = || {
        let db = file::connect_reader(&path)?;
        db.set_prepared_statement_cache_capacity(32);
        db.pragma_update(None, "cache_size", -READER_CACHE_KIB)?;
        db.pragma_update(None, "temp_store", "MEMORY")?;
        Ok(db)
    };
    open().map_err(|error: rusqlite::Error| open_error(&path, error))
}

/// The size to which the write-ahead log's file is truncated after a checkpoint.
const WAL_FILE_BYTES: i64 = 16 << 20;

const WRITER_CACHE_KIB: i64 = 16 * 1024;

/// The page cache of each reader: 2,000 pages of 4 KiB. Many clients that resume at once read the same pages.
const READER_CACHE_KIB: i64 = 8 * 1024;

/// A copy by `backup` is complete in one file. A write-ahead log beside it belongs to the log that was in the directory
/// before, and SQLite would replay it into the copy. This reads the header itself, since SQLite would replay first.
fn remove_stale_wal(directory: &Path, events: &Path) -> std::io::Result<()> {
    const APPLICATION_ID_AT: u64 = 68;
    let mut id = [0; 4];
    let header = std::fs::File::open(events).and_then(|mut file| {
        file.seek(SeekFrom::Start(APPLICATION_ID_AT))?;
        file.read_exact(&mut id)
    });
    if header.is_err() || i32::from_be_bytes(id) != BACKUP_ID {
        return Ok(());
    }
    for name in ["events.db-wal", "events.db-shm"] {
        match std::fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_directory(directory)
}

fn prepare(
    db: &Connection,
    clients: &mut ClientsFile,
    security_records: &mut SecurityRecordsFile,
) -> Result<(), String> {
    let text = |error: rusqlite::Error| error.to_string();
    db.set_prepared_statement_cache_capacity(32);
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(text)?;
    for (pragma, value) in file::SYNCED {
        db.pragma_update(None, pragma, value).map_err(text)?;
    }
    // What is removed is overwritten, so that it can be erased.
    db.pragma_update_and_check(None, "secure_delete", "ON", |_| Ok(())).map_err(text)?;
    let number = |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(text);
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(text)?;
    match (number("application_id")?, number("user_version")?) {
        (0, 0) if tables == 0 => create(db).map_err(text)?,
        (LOG_ID, form::FIRST_FORMAT..=form::NEWEST_FORMAT) => {}
        (BACKUP_ID, form::FIRST_FORMAT..=form::NEWEST_FORMAT) => adopt(db, clients, security_records)?,
        (LOG_ID | BACKUP_ID, format) if format > form::NEWEST_FORMAT => return Err(file::newer(format)),
        _ => return Err("the file is not a Switchback log".into()),
    }
    db.execute_batch(times::TABLES).map_err(text)?;
    db.execute_batch(ancestors::TABLE).map_err(text)?;
    db.execute_batch(keeping::TABLE).map_err(text)?;
    db.execute_batch(erasures::TABLE).map_err(text)?;
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(text)?;
    if mode != "wal" {
        return Err(format!("the journal mode stays {mode}: the file system does not support a write-ahead log"));
    }
    let pragmas =
        [("wal_autocheckpoint", 0), ("cache_size", -WRITER_CACHE_KIB), ("journal_size_limit", WAL_FILE_BYTES)];
    for (pragma, value) in pragmas {
        db.pragma_update(None, pragma, value).map_err(text)?;
    }
    db.pragma_update(None, "temp_store", "MEMORY").map_err(text)
}

fn create(db: &Connection) -> rusqlite::Result<()> {
    let transaction = db.unchecked_transaction()?;
    transaction.execute_batch(TABLES)?;
    transaction.execute("INSERT INTO meta VALUES (1, ?1, 0, 0, 0, 0, 0)", [Epoch::mint().as_str()])?;
    transaction.pragma_update(None, "application_id", LOG_ID)?;
    log_state::write_format(&transaction, form::FIRST_FORMAT)?;
    transaction.commit()
}

/// Gives a restored copy a new epoch: events that were published after the copy was made are lost, and may have
/// had the positions that come next. This precedes the switch to write-ahead logging, so that the file's header,
/// which [`remove_stale_wal`] reads, is always current.
fn adopt(db: &Connection, clients: &mut ClientsFile, security_records: &mut SecurityRecordsFile) -> Result<(), String> {
    // An interrupted import is repeated: records that were imported already stay.
    clients.import(db)?;
    security_records.import(db)?;
    let renew = || {
        let transaction = db.unchecked_transaction()?;
        ancestors::add(&transaction)?;
        transaction.execute("UPDATE meta SET epoch = ?1, began = last", [Epoch::mint().as_str()])?;
        transaction.execute_batch("DROP TABLE IF EXISTS restored_clients; DROP TABLE IF EXISTS restored_notes")?;
        transaction.pragma_update(None, "application_id", LOG_ID)?;
        transaction.commit()
    };
    renew().map_err(|error: rusqlite::Error| error.to_string())
}

fn load(
    db: Connection,
    options: &StoreOptions,
    marks_max: usize,
    now_ms: u64,
    erasures: ErasureList,
) -> Result<Opened, String> {
    let text = |error: rusqlite::Error| error.to_string();
    let (log, folded) =
        LogState::read(&db).map_err(text)?.ok_or("its counters are missing: restore it from a backup")?;
    let newest: Option<i64> = db.query_row("SELECT max(seq) FROM e", [], |row| row.get(0)).map_err(text)?;
    // A log without events has had all of them removed.
    let newest = newest.map_or(log.floor, position);
    let has_holes = log.format >= form::HOLES_FORMAT;
    if newest > log.last || log.floor > log.last || (newest < log.last && !has_holes) {
        return Err("its newest event is not at the last position: restore it from a backup".into());
    }
    let mut expired = TrimMarks::with_max(marks_max);
    expired.fold_up_to(folded);
    let topics = load_topics(&db, &mut expired).map_err(text)?;
    let forget = expired.fold();
    let removed = Removed { expired, erased: erasures::marks(&db).map_err(text)? };
    let keeping = Keeping::load(&db, Policy::of(options)).map_err(text)?;
    let StoreOptions { dedupe_window, dedupe_keys_max, dedupe_keys_per_publisher_max, .. } = *options;
    let mut dedupe = DedupeWindow::new(dedupe_window, dedupe_keys_max, dedupe_keys_per_publisher_max);
    load_keys(&db, &topics, options, now_ms, &mut dedupe).map_err(text)?;
    let has_kept_keys = db.query_row("SELECT EXISTS (SELECT 1 FROM kept_keys)", [], |row| row.get(0)).map_err(text)?;
    let times = Times::load(&db).map_err(text)?;
    let ancestors = Ancestors::load(&db).map_err(text)?;
    Ok(Opened { db, log, topics, removed, keeping, erasures, dedupe, times, ancestors, forget, has_kept_keys })
}

fn load_topics(db: &Connection, marks: &mut TrimMarks) -> rusqlite::Result<Topics> {
    let mut topics = Topics::default();
    let mut statement = db.prepare("SELECT id, topic, mark FROM topics")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let topic: Topic = parsed(row.get_ref(1)?.as_str()?, 1)?;
        let mark = position(row.get(2)?);
        if mark > marks.folded() {
            marks.set(&topic, mark);
        }
        topics.insert(topic, row.get(0)?);
    }
    Ok(topics)
}

/// The keys within the window before now or before the newest key, whichever is earlier; the first `maintain` removes those that
/// have left the window since. If the newest key alone were the reference, a single key from the future would exclude all others.
fn load_keys(
    db: &Connection,
    topics: &Topics,
    options: &StoreOptions,
    now_ms: u64,
    dedupe: &mut DedupeWindow,
) -> rusqlite::Result<()> {
    let newest = "SELECT max(coalesce((SELECT max(time) FROM e WHERE id IS NOT NULL), 0),
                             coalesce((SELECT max(time) FROM kept_keys), 0))";
    let newest: i64 = db.query_row(newest, [], |row| row.get(0))?;
    let newest = newest.min(integer(now_ms));
    let window_ms = i64::try_from(options.dedupe_window.as_millis()).unwrap_or(i64::MAX);
    let keys_max = i64::try_from(options.dedupe_keys_max).unwrap_or(i64::MAX);
    // The newest keys, in case the limit was lowered; oldest first.
    let read = "SELECT * FROM (
                    SELECT time, seq, id, topic_id, NULL, name, base64, data FROM e WHERE id IS NOT NULL AND time >= ?1
                    UNION ALL
                    SELECT time, seq, id, NULL, topic, NULL, NULL, NULL FROM kept_keys WHERE time >= ?1
                    ORDER BY 1 DESC, 2 DESC LIMIT ?2)
                ORDER BY 1, 2";
    let mut statement = db.prepare(read)?;
    let mut rows = statement.query([newest.saturating_sub(window_ms), keys_max])?;
    while let Some(row) = rows.next()? {
        let topic = match row.get_ref(4)?.as_str_or_null()? {
            Some(topic) => Some(parsed(topic, 4)?),
            None => topics.by_id.get(&row.get(3)?).cloned(),
        };
        if let Some(topic) = topic {
            let id: Arc<str> = row.get(2)?;
            let data = row.get_ref(7)?.as_str_or_null()?;
            let digest = match data {
                Some(data) => {
                    let stored = Stored { form: row.get(6)?, data: data.into() };
                    Some(stored.payload_digest(row.get_ref(5)?.as_str_or_null()?)?)
                }
                None => None,
            };
            dedupe.restore((topic, id), position(row.get(0)?).0, position(row.get(1)?), digest);
        }
    }
    Ok(())
}
