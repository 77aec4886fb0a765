//! What is remembered of clients: a file of its own, so that it never stands in the way of a commit to the log.

use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::fault::{open_error, store_error};
use super::file;
use super::queue::{Load, Queue};
use super::schema::{integer, parsed, position};
use crate::cursor::Cursor;
use crate::store::{ClientRecord, OpenError, StoreError, StoreOptions};
use crate::topic::{Pattern, PatternSet};

/// Raised with every change of the table that an older server could not read.
const VERSION: i32 = 2;

/// The same in a backup, under another name. Those of version 1 had no owner.
const COLUMNS: &str = "(client BLOB PRIMARY KEY NOT NULL, patterns TEXT NOT NULL, epoch TEXT NOT NULL,
    position INTEGER NOT NULL, seen INTEGER NOT NULL, owner TEXT)";

/// Most records that wait to be written; past it, saving is refused. About 300 bytes each.
const QUEUED_MAX: u64 = 16_384;

/// Most records that one transaction writes.
const GROUP: Load = Load { items: 4096, bytes: u64::MAX };

/// What the thread is asked to do.
pub(super) enum ClientJob {
    Save(Vec<ClientRecord>, Saved),
    Load(Uuid, oneshot::Sender<Result<Option<ClientRecord>, StoreError>>),
    Expire(u64),
}

/// Who waits until records are saved.
pub(super) type Saved = oneshot::Sender<Result<(), StoreError>>;

pub(super) fn queue() -> Queue<ClientJob> {
    Queue::new(Load { items: QUEUED_MAX, bytes: u64::MAX })
}

/// Where the clients of `directory` are.
pub(super) fn clients_path(directory: &Path) -> PathBuf {
    directory.join("clients.db")
}

/// `clients.db`. Written at once but not synced: it survives the end of the process, and a power loss takes
/// the last seconds, by which a client hears some events again.
pub(super) struct ClientsFile {
    db: Connection,
    directory: PathBuf,
    options: StoreOptions,
    count: usize,
}

impl ClientsFile {
    /// Opens the file in `directory`, creating it where there is none.
    pub(super) fn open(directory: &Path, options: &StoreOptions) -> Result<Self, OpenError> {
        let path = clients_path(directory);
        let step = |version| match version {
            0 => Some(format!(
                "CREATE TABLE IF NOT EXISTS clients {COLUMNS} WITHOUT ROWID;
                 CREATE INDEX IF NOT EXISTS clients_seen ON clients(seen)"
            )),
            1 => Some("ALTER TABLE clients ADD COLUMN owner TEXT".to_owned()),
            _ => None,
        };
        let db = file::open(&path, file::UNSYNCED, VERSION, step)?;
        let count = db.query_row("SELECT count(*) FROM clients", [], |row| row.get::<_, i64>(0));
        let count = usize::try_from(count.map_err(|error| open_error(&path, error))?).unwrap_or(0);
        Ok(Self { db, directory: directory.to_owned(), options: *options, count })
    }

    /// Works the queue until it is closed.
    pub(super) fn run(mut self, queue: &Queue<ClientJob>) {
        let _worker = queue.worker();
        while let Some(jobs) = queue.take(GROUP, true) {
            let mut saves = Vec::new();
            for job in jobs {
                match job {
                    ClientJob::Save(records, reply) => saves.push((records, reply)),
                    ClientJob::Load(client, reply) => {
                        self.save(std::mem::take(&mut saves));
                        let found = self.load(client).map_err(|error| store_error(&error, &self.directory));
                        // Whoever asked may have gone; so below.
                        let _ = reply.send(found);
                    }
                    ClientJob::Expire(now_ms) => {
                        self.save(std::mem::take(&mut saves));
                        if let Err(error) = self.expire(now_ms) {
                            tracing::warn!(%error, "clients that were long away could not be forgotten; it is tried again");
                        }
                    }
                }
            }
            self.save(saves);
        }
    }

    fn save(&mut self, saves: Vec<(Vec<ClientRecord>, Saved)>) {
        if saves.is_empty() {
            return;
        }
        let outcome = self
            .write(saves.iter().flat_map(|(records, _)| records))
            .map_err(|error| store_error(&error, &self.directory));
        for (_, reply) in saves {
            let _ = reply.send(outcome.clone());
        }
    }

    fn write<'a>(&mut self, records: impl Iterator<Item = &'a ClientRecord>) -> rusqlite::Result<()> {
        let transaction = self.db.unchecked_transaction()?;
        let mut count = self.count;
        for record in records {
            let client = record.client.as_bytes().as_slice();
            let (patterns, epoch) = (joined(&record.patterns), record.cursor.epoch);
            let (at, seen) = (integer(record.cursor.position.0), integer(record.seen_ms));
            let values = params![client, patterns, epoch.as_str(), at, seen, record.owner];
            let update =
                "UPDATE clients SET patterns = ?2, epoch = ?3, position = ?4, seen = ?5, owner = ?6 WHERE client = ?1";
            if transaction.prepare_cached(update)?.execute(values)? == 0 {
                transaction.prepare_cached("INSERT INTO clients VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?.execute(values)?;
                count += 1;
            }
        }
        let excess = count.saturating_sub(self.options.clients_max);
        if excess > 0 {
            // A hundredth more than needed, so that a full table is not trimmed again for each newcomer.
            let forget = excess + self.options.clients_max / 100;
            count -= transaction
                .prepare_cached(
                    "DELETE FROM clients WHERE client IN (SELECT client FROM clients ORDER BY seen, client LIMIT ?1)",
                )?
                .execute([integer(forget as u64)])?;
        }
        transaction.commit()?;
        self.count = count;
        Ok(())
    }

    fn load(&self, client: Uuid) -> rusqlite::Result<Option<ClientRecord>> {
        self.db
            .prepare_cached("SELECT client, patterns, epoch, position, seen, owner FROM clients WHERE client = ?1")?
            .query_row([client.as_bytes().as_slice()], record)
            .optional()
    }

    fn expire(&mut self, now_ms: u64) -> rusqlite::Result<()> {
        let idle_max_ms = u64::try_from(self.options.client_idle_max.as_millis()).unwrap_or(u64::MAX);
        let oldest_ms = integer(now_ms.saturating_sub(idle_max_ms));
        self.count -= self.db.prepare_cached("DELETE FROM clients WHERE seen < ?1")?.execute([oldest_ms])?;
        Ok(())
    }

    /// Takes the clients out of a restored copy; where one is known here already, what is known here is newer.
    pub(super) fn import(&mut self, copy: &Connection) -> Result<(), String> {
        let import = || {
            let transaction = self.db.unchecked_transaction()?;
            let owner = owner_column(copy, "restored_clients")?;
            let read = format!("SELECT client, patterns, epoch, position, seen, {owner} FROM restored_clients");
            let mut statement = copy.prepare(&read)?;
            let mut rows = statement.query([])?;
            while let Some(row) = rows.next()? {
                let record = record(row)?;
                transaction.execute(
                    "INSERT OR IGNORE INTO clients VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
                    params![
                        record.client.as_bytes().as_slice(),
                        joined(&record.patterns),
                        record.cursor.epoch.as_str(),
                        integer(record.cursor.position.0),
                        integer(record.seen_ms),
                        record.owner
                    ],
                )?;
            }
            transaction.commit()?;
            // The copy forgets them next, durably; so they must be durable here.
            self.db.query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))?;
            self.db.query_row("SELECT count(*) FROM clients", [], |row| row.get::<_, i64>(0))
        };
        let count = import().map_err(|error: rusqlite::Error| format!("its clients: {error}"))?;
        self.count = usize::try_from(count).unwrap_or(0);
        Ok(())
    }
}

/// Copies the clients of `directory` into the backup `copy`, which may have some of a restored copy already.
/// Returns how many it has then.
pub(super) fn export(directory: &Path, copy: &Connection) -> rusqlite::Result<u64> {
    copy.execute_batch(&format!("CREATE TABLE IF NOT EXISTS restored_clients {COLUMNS} WITHOUT ROWID"))?;
    if owner_column(copy, "restored_clients")? != "owner" {
        copy.execute_batch("ALTER TABLE restored_clients ADD COLUMN owner TEXT")?;
    }
    let path = clients_path(directory);
    if path.exists() {
        let db = file::connect_reader(&path)?;
        let owner = owner_column(&db, "clients")?;
        let read = format!("SELECT client, patterns, epoch, position, seen, {owner} FROM clients");
        let mut statement = db.prepare(&read)?;
        let mut rows = statement.query([])?;
        let transaction = copy.unchecked_transaction()?;
        let insert = "INSERT OR REPLACE INTO restored_clients(client, patterns, epoch, position, seen, owner)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6)";
        let mut insert = transaction.prepare(insert)?;
        while let Some(row) = rows.next()? {
            let values: [Value; 6] = [row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?];
            insert.execute(values)?;
        }
        drop(insert);
        transaction.commit()?;
    }
    copy.query_row("SELECT count(*) FROM restored_clients", [], |row| row.get(0).map(|count| position(count).0))
}

/// The owner, or what stands for it in a table that an older server made.
fn owner_column(db: &Connection, table: &str) -> rusqlite::Result<&'static str> {
    Ok(if db.column_exists(None, table, "owner")? { "owner" } else { "NULL" })
}

fn record(row: &Row<'_>) -> rusqlite::Result<ClientRecord> {
    let client: [u8; 16] = row.get(0)?;
    let patterns: Result<Vec<Pattern>, _> =
        row.get_ref(1)?.as_str()?.lines().map(|pattern| parsed(pattern, 1)).collect();
    let patterns = PatternSet::new(patterns?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error)))?;
    let cursor = Cursor::new(parsed(row.get_ref(2)?.as_str()?, 2)?, position(row.get(3)?));
    let seen_ms = position(row.get(4)?).0;
    Ok(ClientRecord { client: Uuid::from_bytes(client), patterns, cursor, seen_ms, owner: row.get(5)? })
}

/// One a line: patterns hold no line ends.
fn joined(patterns: &PatternSet) -> String {
    patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join("\n")
}
