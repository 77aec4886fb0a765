//! The tables of `events.db`, and what is loaded from them when the log is opened.
//!
//! Everything that a start needs is stored beside the events and changes in their transactions, so opening reads
//! the topics and the keys of the idempotency window, never the events: a log of ten million opens at once.

use std::collections::HashMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension as _, params};

use super::ancestors::{self, Ancestors};
use super::clients::ClientsFile;
use super::column::{integer, parsed, position};
use super::fault::open_error;
use super::file;
use super::form::{self, Stored};
use super::lock::sync_directory;
use super::notes::NotesFile;
use super::times::{self, Times};
use crate::cursor::{Epoch, Position};
use crate::segment::TopicMap;
use crate::store::dedupe::DedupeWindow;
use crate::store::marks::TrimMarks;
use crate::store::{OpenError, StoreOptions};
use crate::topic::Topic;

/// "SwLg", in the header of every log.
pub(super) const LOG_ID: i32 = 0x5377_4c67;

/// "SwBk": a copy that `backup` made and that has not been opened as a log yet.
pub(super) const BACKUP_ID: i32 = 0x5377_426b;

/// The data of a short event, else nothing: what of it an index keeps within its page. SQLite takes the value out of the
/// index only where the expression is the index's own, word for word; else it would read the event's page, and nobody would notice.
macro_rules! short_data {
    () => {
        "CASE WHEN cost <= 960 THEN data END"
    };
}
pub(super) use short_data;

/// `data` stands last: what lies before it is read without following a long value's pages.
///
/// An event lies in the file twice: by position, and in `e_topic` beside its topic's others. Whoever resumes on a topic
/// that is one in a thousand would else read a page of 4 KiB for each event, which costs five times what the event itself
/// does; that is the price of the bytes on the disk. One that is longer than what an index keeps within its page is there
/// once only: finding it is then the smaller part. (`seq` is named, though an index ends with it anyway, so that what comes after it
/// does not come between it and its topic.)
///
/// The column `base64` holds the form of `data` ([`form`]). The file's `user_version` is the format of its events.
///
/// Keys are found by time, so that a start reads those within the window only; their index costs nothing where nobody
/// sends any.
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

/// Where the events of `directory` are.
pub(super) fn events_path(directory: &Path) -> PathBuf {
    directory.join("events.db")
}

/// The log's own numbers; one row, written with every transaction.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogState {
    pub(super) epoch: Epoch,
    pub(super) began: Position,
    pub(super) last: Position,
    pub(super) floor: Position,
    /// What the retained events cost, in bytes.
    pub(super) bytes: u64,
    /// The format of its events ([`form`]); the file's `user_version`, raised with the first event that needs it.
    pub(super) format: i32,
}

/// Every topic that has events, or lost some.
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

/// A log, opened for writing, with what is kept of it in memory.
pub(super) struct Opened {
    pub(super) db: Connection,
    pub(super) log: LogState,
    pub(super) topics: Topics,
    pub(super) marks: TrimMarks,
    pub(super) dedupe: DedupeWindow,
    pub(super) times: Times,
    pub(super) ancestors: Ancestors,
    /// Topics whose marks were folded while loading.
    pub(super) forget: Vec<Topic>,
    /// Whether keys of trimmed events are kept.
    pub(super) has_kept_keys: bool,
}

/// Opens the log in `directory`, creating it where there is none, and gives a restored copy its new identity.
/// The directory's lock must be held.
pub(super) fn open(
    directory: &Path,
    options: &StoreOptions,
    marks_max: usize,
    now_ms: u64,
    clients: &mut ClientsFile,
    notes: &mut NotesFile,
) -> Result<Opened, OpenError> {
    let path = events_path(directory);
    remove_stale_wal(directory, &path).map_err(|error| open_error(&path, error))?;
    let db = file::connect(&path).map_err(|error| open_error(&path, error))?;
    prepare(&db, clients, notes).map_err(|reason| open_error(&path, reason))?;
    sync_directory(directory).map_err(|error| open_error(directory, error))?;
    load(db, options, marks_max, now_ms).map_err(|reason| open_error(&path, reason))
}

/// Opens the log in `directory` for reading only. Its writer must be open already.
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

/// What the write-ahead log's file is cut to once a long one has been checkpointed.
const WAL_FILE_BYTES: i64 = 16 << 20;

const WRITER_CACHE_KIB: i64 = 16 * 1024;

/// Each reader's. A crowd that resumes reads the same pages again: 2,000 of them, of 4 KiB.
const READER_CACHE_KIB: i64 = 8 * 1024;

/// A copy from `backup` is whole in one file. A write-ahead log that lies beside it belongs to the log that was
/// there before, and SQLite would replay it into the copy. Reads the header itself, since SQLite would look at that log first.
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

fn prepare(db: &Connection, clients: &mut ClientsFile, notes: &mut NotesFile) -> Result<(), String> {
    let text = |error: rusqlite::Error| error.to_string();
    db.set_prepared_statement_cache_capacity(32);
    db.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(text)?;
    for (pragma, value) in file::SYNCED {
        db.pragma_update(None, pragma, value).map_err(text)?;
    }
    let number = |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(text);
    let tables: i64 = db.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(text)?;
    match (number("application_id")?, number("user_version")?) {
        (0, 0) if tables == 0 => create(db).map_err(text)?,
        (LOG_ID, form::FIRST_FORMAT..=form::NEWEST_FORMAT) => {}
        (BACKUP_ID, form::FIRST_FORMAT..=form::NEWEST_FORMAT) => adopt(db, clients, notes)?,
        (LOG_ID | BACKUP_ID, format) if format > form::NEWEST_FORMAT => return Err(file::newer(format)),
        _ => return Err("it is not a switchback log".into()),
    }
    db.execute_batch(times::TABLES).map_err(text)?;
    db.execute_batch(ancestors::TABLE).map_err(text)?;
    let mode: String = db.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(text)?;
    if mode != "wal" {
        return Err(format!("its journal mode stays {mode}: the file system does not support a write-ahead log"));
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
    write_format(&transaction, form::FIRST_FORMAT)?;
    transaction.commit()
}

/// Makes a log of its own of a restored copy: what was published after the copy was made is lost, and may have
/// had the positions that come next. Done before the write-ahead log is switched on, so that the file's header,
/// which [`remove_stale_wal`] reads, is never behind.
fn adopt(db: &Connection, clients: &mut ClientsFile, notes: &mut NotesFile) -> Result<(), String> {
    // If this is cut short, it is done again: what is there already stays.
    clients.import(db)?;
    notes.import(db)?;
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

fn load(db: Connection, options: &StoreOptions, marks_max: usize, now_ms: u64) -> Result<Opened, String> {
    let text = |error: rusqlite::Error| error.to_string();
    let (log, folded) = read_state(&db).map_err(text)?.ok_or("it has lost its head: restore it from a backup")?;
    let newest: Option<i64> = db.query_row("SELECT max(seq) FROM e", [], |row| row.get(0)).map_err(text)?;
    // Without events, all of them have been trimmed.
    if newest.map_or(log.floor, position) != log.last || log.floor > log.last {
        return Err("its newest event is not where it should be: restore it from a backup".into());
    }
    let mut marks = TrimMarks::with_max(marks_max);
    marks.fold_up_to(folded);
    let topics = load_topics(&db, &mut marks).map_err(text)?;
    let forget = marks.fold();
    let StoreOptions { dedupe_window, dedupe_keys_max, dedupe_keys_per_publisher_max, .. } = *options;
    let mut dedupe = DedupeWindow::new(dedupe_window, dedupe_keys_max, dedupe_keys_per_publisher_max);
    load_keys(&db, &topics, options, now_ms, &mut dedupe).map_err(text)?;
    let has_kept_keys = db.query_row("SELECT EXISTS (SELECT 1 FROM kept_keys)", [], |row| row.get(0)).map_err(text)?;
    let times = Times::load(&db).map_err(text)?;
    let ancestors = Ancestors::load(&db).map_err(text)?;
    Ok(Opened { db, log, topics, marks, dedupe, times, ancestors, forget, has_kept_keys })
}

/// The log's numbers and the floor that marks were folded into; `None` where the row is missing or makes no sense.
pub(super) fn read_state(db: &Connection) -> rusqlite::Result<Option<(LogState, Position)>> {
    let read = "SELECT epoch, began, last, floor, bytes, folded FROM meta WHERE one = 1";
    let format = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let row = db.query_row(read, [], |row| {
        let at = |column: usize| row.get(column).map(position);
        let epoch: String = row.get(0)?;
        let epoch: Option<Epoch> = epoch.parse().ok();
        let (began, last, floor, bytes, folded) = (at(1)?, at(2)?, at(3)?, at(4)?.0, at(5)?);
        Ok(epoch.map(|epoch| (LogState { epoch, began, last, floor, bytes, format }, folded)))
    });
    Ok(row.optional()?.flatten())
}

pub(super) fn write_state(db: &Connection, log: &LogState) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE meta SET last = ?1, floor = ?2, bytes = ?3")?
        .execute(params![integer(log.last.0), integer(log.floor.0), integer(log.bytes)])
        .map(drop)
}

/// Raises the format of the log's events, in the transaction of the first that needs it.
pub(super) fn write_format(db: &Connection, format: i32) -> rusqlite::Result<()> {
    db.pragma_update(None, "user_version", format)
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

/// The keys within the window before now, or before the newest one where that is longer ago; the first `maintain` forgets what is out of
/// the window since. Counted from the newest one alone, a single key from the future would leave out all others.
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
    // The newest ones, should the limit have been lowered; they come oldest first.
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
