//! Tickets, bans and revocations: a file of their own, synced like the log, so that neither waits for the other's commits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::sync::oneshot;

use super::column::{integer, position};
use super::fault::open_error;
use super::file;
use super::health::Health;
use super::queue::{Load, Queue};
use super::side_file::SideFile;
use crate::store::security_records::too_many;
use crate::store::{OpenError, RecordWatcher, SecurityRecord, SecurityRecordKind, StoreError, StoreOptions};

/// Raised with every change of the table that an older server could not read.
const VERSION: i32 = 1;

/// Also the table of a backup, under another name.
const COLUMNS: &str = "(kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (kind, key))";

/// Maximum of records in the write queue; beyond it, saving and taking are refused.
const QUEUED_MAX: Load = Load { items: 16_384, bytes: 16 << 20 };

/// Maximum of records in one transaction.
const GROUP: Load = Load { items: 1024, bytes: 4 << 20 };

const KINDS: [SecurityRecordKind; 3] =
    [SecurityRecordKind::Ticket, SecurityRecordKind::Ban, SecurityRecordKind::Revocation];

/// A job of the thread.
pub(super) enum SecurityRecordJob {
    Save(SecurityRecord, oneshot::Sender<Result<(), StoreError>>),
    Take(SecurityRecordKind, String, u64, oneshot::Sender<Result<Option<SecurityRecord>, StoreError>>),
    /// A new watcher, and the caller to notify once the watcher has received the stored records.
    Watch(Arc<dyn RecordWatcher>, oneshot::Sender<Result<(), StoreError>>),
    Expire(u64),
    /// Test write: whether the disk takes writes.
    Probe(oneshot::Sender<Result<(), StoreError>>),
}

pub(super) fn queue() -> Queue<SecurityRecordJob> {
    Queue::new(QUEUED_MAX)
}

/// The size of a record in a queue.
pub(super) fn load(record: &SecurityRecord) -> Load {
    Load { items: 1, bytes: (record.key.len() + record.value.len()) as u64 }
}

/// The path of the records' file in `directory`.
fn records_path(directory: &Path) -> PathBuf {
    directory.join("notes.db")
}

/// The path of the file, and the newest version of its tables that this server reads.
pub(super) fn file_and_version(directory: &Path) -> (PathBuf, i32) {
    (records_path(directory), VERSION)
}

/// `notes.db`.
pub(super) struct SecurityRecordsFile {
    file: SideFile,
    security_records_max: usize,
    counts: HashMap<SecurityRecordKind, usize>,
    sink: Option<Arc<dyn RecordWatcher>>,
}

/// The result of a job, to be reported once the transaction is durable.
enum Done {
    Saved,
    OneTooMany,
    Taken(Option<SecurityRecord>),
}

impl SecurityRecordsFile {
    /// Opens the file in `directory`, and creates a missing one.
    pub(super) fn open(directory: &Path, options: &StoreOptions) -> Result<Self, OpenError> {
        let path = records_path(directory);
        let step = |version| {
            let make = format!(
                "CREATE TABLE IF NOT EXISTS notes {COLUMNS} WITHOUT ROWID;
                 CREATE INDEX IF NOT EXISTS notes_until ON notes(until)"
            );
            (version == 0).then_some(make)
        };
        let file = SideFile::open(directory, &path, VERSION, step)?;
        let counts = count(file.db()).map_err(|error| open_error(&path, error))?;
        Ok(Self { file, security_records_max: options.security_records_max, counts, sink: None })
    }

    /// Processes the queue until it is closed.
    pub(super) fn run(mut self, queue: &Queue<SecurityRecordJob>, health: &Health) {
        let _worker = queue.worker();
        while let Some(jobs) = queue.take(GROUP, true) {
            let mut group = Vec::new();
            for job in jobs {
                match job {
                    SecurityRecordJob::Save(..) | SecurityRecordJob::Take(..) => group.push(job),
                    SecurityRecordJob::Watch(sink, done) => {
                        self.write(std::mem::take(&mut group), health);
                        // The caller may have gone.
                        let _ = done.send(self.watch(sink));
                    }
                    SecurityRecordJob::Probe(reply) => {
                        // The caller may have stopped waiting.
                        let _ = reply.send(self.file.probe(health));
                    }
                    SecurityRecordJob::Expire(now_ms) => {
                        self.write(std::mem::take(&mut group), health);
                        if let Err(error) = self.expire(now_ms) {
                            tracing::warn!(%error, "expired tickets, bans and revocations could not be removed; this is retried");
                        }
                    }
                }
            }
            self.write(group, health);
        }
    }

    /// One transaction and one sync. Watchers are notified before callers are answered.
    fn write(&mut self, group: Vec<SecurityRecordJob>, health: &Health) {
        if group.is_empty() {
            return;
        }
        let before = self.counts.clone();
        let Self { file, counts, security_records_max, .. } = self;
        let written =
            file.write(health, |db| group.iter().map(|job| perform(db, job, counts, *security_records_max)).collect());
        match written {
            Ok(outcomes) => {
                let outcomes: Vec<Done> = outcomes;
                for (job, done) in group.into_iter().zip(outcomes) {
                    self.answer(job, Ok(done));
                }
            }
            Err(error) => {
                self.counts = before;
                for job in group {
                    self.answer(job, Err(error.clone()));
                }
            }
        }
    }

    /// The caller may have gone.
    fn answer(&self, job: SecurityRecordJob, done: Result<Done, StoreError>) {
        match job {
            SecurityRecordJob::Save(record, reply) => {
                let saved = match done {
                    Ok(Done::OneTooMany) => Err(too_many()),
                    done => done.map(drop),
                };
                if saved.is_ok()
                    && record.kind.is_watched()
                    && let Some(sink) = &self.sink
                {
                    sink.push(record);
                }
                let _ = reply.send(saved);
            }
            SecurityRecordJob::Take(.., reply) => {
                let _ = reply.send(done.map(|done| if let Done::Taken(record) = done { record } else { None }));
            }
            SecurityRecordJob::Watch(..) | SecurityRecordJob::Expire(..) | SecurityRecordJob::Probe(..) => {}
        }
    }

    fn watch(&mut self, sink: Arc<dyn RecordWatcher>) -> Result<(), StoreError> {
        let kept = self.watched().map_err(|error| self.file.error(&error))?;
        kept.into_iter().for_each(|record| sink.push(record));
        self.sink = Some(sink);
        Ok(())
    }

    fn watched(&self) -> rusqlite::Result<Vec<SecurityRecord>> {
        let mut statement = self.file.db().prepare("SELECT kind, key, value, until FROM notes WHERE kind <> ?1")?;
        let records = statement.query_map([SecurityRecordKind::Ticket.name()], record)?;
        records.filter_map(Result::transpose).collect()
    }

    fn expire(&mut self, now_ms: u64) -> rusqlite::Result<()> {
        let db = self.file.db();
        if db.prepare_cached("DELETE FROM notes WHERE until <= ?1")?.execute([integer(now_ms)])? > 0 {
            self.counts = count(db)?;
        }
        Ok(())
    }

    /// Imports the bans and revocations of a restored copy. One that exists here already is not imported: the one here is newer.
    pub(super) fn import(&mut self, copy: &Connection) -> Result<(), String> {
        let import = || {
            if !copy.table_exists(None, "restored_notes")? {
                return count(self.file.db());
            }
            let mut statement = copy.prepare("SELECT kind, key, value, until FROM restored_notes")?;
            let mut rows = statement.query([])?;
            self.file.transact(|db| {
                while let Some(row) = rows.next()? {
                    db.execute("INSERT OR IGNORE INTO notes VALUES (?1, ?2, ?3, ?4)", values(row)?)?;
                }
                count(db)
            })
        };
        self.counts = import().map_err(|error: rusqlite::Error| format!("its bans and revocations: {error}"))?;
        Ok(())
    }
}

/// Copies the bans and revocations of `directory` into the backup `copy`, so that they survive a restore. Tickets expire
/// before a copy could be used.
pub(super) fn export(directory: &Path, copy: &Connection) -> rusqlite::Result<()> {
    copy.execute_batch(&format!("CREATE TABLE IF NOT EXISTS restored_notes {COLUMNS} WITHOUT ROWID"))?;
    let path = records_path(directory);
    if !path.exists() {
        return Ok(());
    }
    let db = file::connect_reader(&path)?;
    let mut statement = db.prepare("SELECT kind, key, value, until FROM notes WHERE kind <> ?1")?;
    let mut rows = statement.query([SecurityRecordKind::Ticket.name()])?;
    let transaction = copy.unchecked_transaction()?;
    while let Some(row) = rows.next()? {
        transaction.execute("INSERT OR REPLACE INTO restored_notes VALUES (?1, ?2, ?3, ?4)", values(row)?)?;
    }
    transaction.commit()
}

/// Performs a job in its group's transaction.
fn perform(
    db: &Connection,
    job: &SecurityRecordJob,
    counts: &mut HashMap<SecurityRecordKind, usize>,
    security_records_max: usize,
) -> rusqlite::Result<Done> {
    match job {
        SecurityRecordJob::Save(record, _) => {
            save(db, record, counts.entry(record.kind).or_default(), security_records_max)
        }
        SecurityRecordJob::Take(kind, key, now_ms, _) => {
            let taken = take(db, *kind, key)?;
            if taken.is_some() {
                let count = counts.entry(*kind).or_default();
                *count = count.saturating_sub(1);
            }
            Ok(Done::Taken(taken.filter(|record| *now_ms < record.until_ms)))
        }
        SecurityRecordJob::Watch(..) | SecurityRecordJob::Expire(..) | SecurityRecordJob::Probe(..) => {
            Ok(Done::Taken(None))
        }
    }
}

fn save(
    db: &Connection,
    record: &SecurityRecord,
    count: &mut usize,
    security_records_max: usize,
) -> rusqlite::Result<Done> {
    let (kind, until) = (record.kind.name(), integer(record.until_ms));
    let update = "UPDATE notes SET value = ?3, until = ?4 WHERE kind = ?1 AND key = ?2";
    if db.prepare_cached(update)?.execute(params![kind, record.key, record.value, until])? == 0 {
        if *count >= security_records_max {
            return Ok(Done::OneTooMany);
        }
        let insert = "INSERT INTO notes VALUES (?1, ?2, ?3, ?4)";
        db.prepare_cached(insert)?.execute(params![kind, record.key, record.value, until])?;
        *count += 1;
    }
    Ok(Done::Saved)
}

fn take(db: &Connection, kind: SecurityRecordKind, key: &str) -> rusqlite::Result<Option<SecurityRecord>> {
    let take = "DELETE FROM notes WHERE kind = ?1 AND key = ?2 RETURNING kind, key, value, until";
    Ok(db.prepare_cached(take)?.query_row([kind.name(), key], record).optional()?.flatten())
}

/// A row; `None` if this version does not know its kind.
fn record(row: &Row<'_>) -> rusqlite::Result<Option<SecurityRecord>> {
    let name = row.get_ref(0)?.as_str()?;
    let Some(kind) = KINDS.into_iter().find(|kind| kind.name() == name) else { return Ok(None) };
    Ok(Some(SecurityRecord { kind, key: row.get(1)?, value: row.get(2)?, until_ms: position(row.get(3)?).0 }))
}

fn values(row: &Row<'_>) -> rusqlite::Result<[Value; 4]> {
    Ok([row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?])
}

fn count(db: &Connection) -> rusqlite::Result<HashMap<SecurityRecordKind, usize>> {
    let mut counts = HashMap::new();
    for kind in KINDS {
        let count: i64 = db
            .prepare_cached("SELECT count(*) FROM notes WHERE kind = ?1")?
            .query_row([kind.name()], |row| row.get(0))?;
        counts.insert(kind, usize::try_from(count).unwrap_or(0));
    }
    Ok(counts)
}
