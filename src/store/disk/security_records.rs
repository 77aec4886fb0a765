//! Tickets, bans and revocations: a file of their own, synced like the log, so that neither waits for the other's commits.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::sync::oneshot;

use super::column::{integer, position};
use super::fault::{open_error, store_error};
use super::file;
use super::health::Health;
use super::presence::Presence;
use super::queue::{Load, Queue};
use crate::store::security_records::too_many;
use crate::store::{OpenError, RecordWatcher, SecurityRecord, SecurityRecordKind, StoreError, StoreOptions};

/// Raised with every change of the table that an older server could not read.
const VERSION: i32 = 1;

/// Also the table of a backup, under another name.
const COLUMNS: &str = "(kind TEXT NOT NULL, key TEXT NOT NULL, value BLOB NOT NULL, until INTEGER NOT NULL,
    PRIMARY KEY (kind, key))";

/// Maximum of notes in the write queue; beyond it, saving and taking are refused.
const QUEUED_MAX: Load = Load { items: 16_384, bytes: 16 << 20 };

/// Maximum of notes in one transaction.
const GROUP: Load = Load { items: 1024, bytes: 4 << 20 };

const KINDS: [SecurityRecordKind; 3] =
    [SecurityRecordKind::Ticket, SecurityRecordKind::Ban, SecurityRecordKind::Revocation];

/// A job of the thread.
pub(super) enum SecurityRecordJob {
    Save(SecurityRecord, oneshot::Sender<Result<(), StoreError>>),
    Take(SecurityRecordKind, String, u64, oneshot::Sender<Result<Option<SecurityRecord>, StoreError>>),
    /// A new watcher, and the caller to notify once the watcher has received the stored notes.
    Watch(Arc<dyn RecordWatcher>, oneshot::Sender<Result<(), StoreError>>),
    Expire(u64),
    /// Test write: whether the disk takes writes.
    Probe(oneshot::Sender<Result<(), StoreError>>),
}

pub(super) fn queue() -> Queue<SecurityRecordJob> {
    Queue::new(QUEUED_MAX)
}

/// The size of a note in a queue.
pub(super) fn load(note: &SecurityRecord) -> Load {
    Load { items: 1, bytes: (note.key.len() + note.value.len()) as u64 }
}

/// The path of the notes' file in `directory`.
fn notes_path(directory: &Path) -> PathBuf {
    directory.join("notes.db")
}

/// `notes.db`.
pub(super) struct SecurityRecordsFile {
    db: Connection,
    directory: PathBuf,
    notes_max: usize,
    counts: HashMap<SecurityRecordKind, usize>,
    sink: Option<Arc<dyn RecordWatcher>>,
    presence: Presence,
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
        let path = notes_path(directory);
        let step = |version| {
            let make = format!(
                "CREATE TABLE IF NOT EXISTS notes {COLUMNS} WITHOUT ROWID;
                 CREATE INDEX IF NOT EXISTS notes_until ON notes(until)"
            );
            (version == 0).then_some(make)
        };
        let db = file::open(&path, file::SYNCED, VERSION, step)?;
        let counts = count(&db).map_err(|error| open_error(&path, error))?;
        let presence = Presence::of(&path);
        Ok(Self { db, directory: directory.to_owned(), notes_max: options.notes_max, counts, sink: None, presence })
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
                        let _ = reply.send(self.probe(health));
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

    fn probe(&mut self, health: &Health) -> Result<(), StoreError> {
        health.probe(|| {
            let written = file::probe(&self.db).map_err(|error| store_error(&error, &self.directory));
            self.presence.check().and(written)
        })
    }

    /// One transaction and one sync. Watchers are notified before callers are answered.
    fn write(&mut self, group: Vec<SecurityRecordJob>, health: &Health) {
        if group.is_empty() {
            return;
        }
        let counts = self.counts.clone();
        let written = health.watch(|| {
            let outcomes = self.transact(&group).map_err(|error| store_error(&error, &self.directory));
            self.presence.check().and(outcomes)
        });
        match written {
            Ok(outcomes) => {
                for (job, done) in group.into_iter().zip(outcomes) {
                    self.answer(job, Ok(done));
                }
            }
            Err(error) => {
                self.counts = counts;
                for job in group {
                    self.answer(job, Err(error.clone()));
                }
            }
        }
    }

    fn transact(&mut self, group: &[SecurityRecordJob]) -> rusqlite::Result<Vec<Done>> {
        let Self { db, counts, notes_max, .. } = self;
        if !db.is_autocommit() {
            // The previous transaction failed, and so did its rollback.
            db.execute_batch("ROLLBACK")?;
        }
        let transaction = db.unchecked_transaction()?;
        let mut outcomes = Vec::with_capacity(group.len());
        for job in group {
            outcomes.push(match job {
                SecurityRecordJob::Save(note, _) => {
                    save(&transaction, note, counts.entry(note.kind).or_default(), *notes_max)?
                }
                SecurityRecordJob::Take(kind, key, now_ms, _) => {
                    let taken = take(&transaction, *kind, key)?;
                    if taken.is_some() {
                        let count = counts.entry(*kind).or_default();
                        *count = count.saturating_sub(1);
                    }
                    Done::Taken(taken.filter(|note| *now_ms < note.until_ms))
                }
                SecurityRecordJob::Watch(..) | SecurityRecordJob::Expire(..) | SecurityRecordJob::Probe(..) => {
                    Done::Taken(None)
                }
            });
        }
        transaction.commit()?;
        Ok(outcomes)
    }

    /// The caller may have gone.
    fn answer(&self, job: SecurityRecordJob, done: Result<Done, StoreError>) {
        match job {
            SecurityRecordJob::Save(note, reply) => {
                let saved = match done {
                    Ok(Done::OneTooMany) => Err(too_many()),
                    done => done.map(drop),
                };
                if saved.is_ok()
                    && note.kind.is_watched()
                    && let Some(sink) = &self.sink
                {
                    sink.push(note);
                }
                let _ = reply.send(saved);
            }
            SecurityRecordJob::Take(.., reply) => {
                let _ = reply.send(done.map(|done| if let Done::Taken(note) = done { note } else { None }));
            }
            SecurityRecordJob::Watch(..) | SecurityRecordJob::Expire(..) | SecurityRecordJob::Probe(..) => {}
        }
    }

    fn watch(&mut self, sink: Arc<dyn RecordWatcher>) -> Result<(), StoreError> {
        let kept = self.watched().map_err(|error| store_error(&error, &self.directory))?;
        kept.into_iter().for_each(|note| sink.push(note));
        self.sink = Some(sink);
        Ok(())
    }

    fn watched(&self) -> rusqlite::Result<Vec<SecurityRecord>> {
        let mut statement = self.db.prepare("SELECT kind, key, value, until FROM notes WHERE kind <> ?1")?;
        let notes = statement.query_map([SecurityRecordKind::Ticket.name()], note)?;
        notes.filter_map(Result::transpose).collect()
    }

    fn expire(&mut self, now_ms: u64) -> rusqlite::Result<()> {
        if self.db.prepare_cached("DELETE FROM notes WHERE until <= ?1")?.execute([integer(now_ms)])? > 0 {
            self.counts = count(&self.db)?;
        }
        Ok(())
    }

    /// Imports the bans and revocations of a restored copy. One that exists here already is not imported: the one here is newer.
    pub(super) fn import(&mut self, copy: &Connection) -> Result<(), String> {
        let import = || {
            if !copy.table_exists(None, "restored_notes")? {
                return count(&self.db);
            }
            let transaction = self.db.unchecked_transaction()?;
            let mut statement = copy.prepare("SELECT kind, key, value, until FROM restored_notes")?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                transaction.execute("INSERT OR IGNORE INTO notes VALUES (?1, ?2, ?3, ?4)", values(row)?)?;
            }
            transaction.commit()?;
            count(&self.db)
        };
        self.counts = import().map_err(|error: rusqlite::Error| format!("its bans and revocations: {error}"))?;
        Ok(())
    }
}

/// Copies the bans and revocations of `directory` into the backup `copy`, so that they survive a restore. Tickets expire
/// before a copy could be used.
pub(super) fn export(directory: &Path, copy: &Connection) -> rusqlite::Result<()> {
    copy.execute_batch(&format!("CREATE TABLE IF NOT EXISTS restored_notes {COLUMNS} WITHOUT ROWID"))?;
    let path = notes_path(directory);
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

fn save(db: &Connection, note: &SecurityRecord, count: &mut usize, notes_max: usize) -> rusqlite::Result<Done> {
    let (kind, until) = (note.kind.name(), integer(note.until_ms));
    let update = "UPDATE notes SET value = ?3, until = ?4 WHERE kind = ?1 AND key = ?2";
    if db.prepare_cached(update)?.execute(params![kind, note.key, note.value, until])? == 0 {
        if *count >= notes_max {
            return Ok(Done::OneTooMany);
        }
        let insert = "INSERT INTO notes VALUES (?1, ?2, ?3, ?4)";
        db.prepare_cached(insert)?.execute(params![kind, note.key, note.value, until])?;
        *count += 1;
    }
    Ok(Done::Saved)
}

fn take(db: &Connection, kind: SecurityRecordKind, key: &str) -> rusqlite::Result<Option<SecurityRecord>> {
    let take = "DELETE FROM notes WHERE kind = ?1 AND key = ?2 RETURNING kind, key, value, until";
    Ok(db.prepare_cached(take)?.query_row([kind.name(), key], note).optional()?.flatten())
}

/// A row; `None` if this version does not know its kind.
fn note(row: &Row<'_>) -> rusqlite::Result<Option<SecurityRecord>> {
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
