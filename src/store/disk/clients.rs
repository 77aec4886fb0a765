//! Remembered clients: their patterns and acknowledged cursors, in a file of its own, so that saving delays no commit to the log.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rusqlite::types::Value;
use rusqlite::{Connection, OptionalExtension as _, Row, Rows, params};
use tokio::sync::oneshot;
use uuid::Uuid;

use super::column::{integer, parsed, position};
use super::fault::open_error;
use super::file;
use super::health::Health;
use super::queue::{Load, Queue};
use super::side_file::SideFile;
use crate::cursor::Cursor;
use crate::log::{ClientRecord, ClientShare, ReadMode};
use crate::store::{OpenError, StoreError, StoreOptions};
use crate::topic::{Pattern, PatternSet};

/// Raised with every change of the table that an older server could not read.
const VERSION: i32 = 4;

/// Also the table of a backup, under another name. Version 1 had no owner, version 2 neither address nor weight, version 3 no
/// read mode (`latest`, `pace` in milliseconds, `upto`).
const COLUMNS: &str = "(client BLOB PRIMARY KEY NOT NULL, patterns TEXT NOT NULL, epoch TEXT NOT NULL,
    position INTEGER NOT NULL, seen INTEGER NOT NULL, owner TEXT, address TEXT, weight INTEGER NOT NULL DEFAULT 1,
    latest INTEGER, pace INTEGER, upto TEXT)";

/// For eviction: the least recently seen records of all, of one owner, of one address.
const INDEXES: &str = "DROP INDEX IF EXISTS clients_seen;
    CREATE INDEX IF NOT EXISTS clients_order ON clients(owner IS NOT NULL, seen);
    CREATE INDEX IF NOT EXISTS clients_owner ON clients(owner) WHERE owner IS NOT NULL;
    CREATE INDEX IF NOT EXISTS clients_address ON clients(address) WHERE address IS NOT NULL";

/// The migration to version 3.
const SHARES: &str = "ALTER TABLE clients ADD COLUMN address TEXT;
    ALTER TABLE clients ADD COLUMN weight INTEGER NOT NULL DEFAULT 1;
    UPDATE clients SET weight = 1 + length(CAST(patterns AS BLOB)) / 1024";

/// Maximum of records in the write queue; beyond it, saving is refused. About 300 bytes each.
const QUEUED_MAX: u64 = 16_384;

/// Maximum of records in one transaction.
const GROUP: Load = Load { items: 4096, bytes: u64::MAX };

/// The migration to version 4.
const MODE: &str = "ALTER TABLE clients ADD COLUMN latest INTEGER;
    ALTER TABLE clients ADD COLUMN pace INTEGER;
    ALTER TABLE clients ADD COLUMN upto TEXT";

/// A job of the thread.
pub(super) enum ClientJob {
    Save(Vec<ClientRecord>, Saved),
    Load(Uuid, oneshot::Sender<Result<Option<ClientRecord>, StoreError>>),
    Expire(u64),
    /// Test write: whether the disk takes writes.
    Probe(oneshot::Sender<Result<(), StoreError>>),
}

/// Notifies the caller once its records are saved.
pub(super) type Saved = oneshot::Sender<Result<(), StoreError>>;

pub(super) fn queue() -> Queue<ClientJob> {
    Queue::new(Load { items: QUEUED_MAX, bytes: u64::MAX })
}

/// The path of the clients' file in `directory`.
pub(super) fn clients_path(directory: &Path) -> PathBuf {
    directory.join("clients.db")
}

/// The path of the file, and the newest version of its tables that this server reads.
pub(super) fn file_and_version(directory: &Path) -> (PathBuf, i32) {
    (clients_path(directory), VERSION)
}

/// `clients.db`, with one sync for each group of saves. Saves are few: a client's first start, an answered acknowledgement, and
/// once a second all changes. The log's commits do not wait for them: another thread saves them to another file.
pub(super) struct ClientsFile {
    file: SideFile,
    options: StoreOptions,
    weights: Weights,
}

/// The weight of the remembered clients: in all, and of each owner and address.
#[derive(Default)]
struct Weights {
    all: u64,
    shares: HashMap<ClientShare, u64>,
}

impl Weights {
    /// Computes the weights from the table.
    fn read(db: &Connection) -> rusqlite::Result<Self> {
        let mut weights = Self::default();
        let mut statement = db.prepare("SELECT owner, address, sum(weight) FROM clients GROUP BY owner, address")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            weights.add(share(row, 0)?, position(row.get(2)?).0);
        }
        Ok(weights)
    }

    fn add(&mut self, share: Option<ClientShare>, weight: u64) {
        self.all += weight;
        if let Some(share) = share {
            *self.shares.entry(share).or_default() += weight;
        }
    }

    fn subtract(&mut self, share: Option<ClientShare>, weight: u64) {
        self.all = self.all.saturating_sub(weight);
        if let Some(share) = share
            && let Some(left) = self.shares.get_mut(&share)
        {
            *left = left.saturating_sub(weight);
            if *left == 0 {
                self.shares.remove(&share);
            }
        }
    }

    /// The weight to evict: the excess and a hundredth of the limit, so that a full table is not trimmed for each new client.
    fn excess(weight: u64, max: u64) -> Option<u64> {
        weight.checked_sub(max).filter(|excess| *excess > 0).map(|excess| excess + max / 100)
    }
}

impl ClientsFile {
    /// Opens the file in `directory`, and creates a missing one.
    pub(super) fn open(directory: &Path, options: &StoreOptions) -> Result<Self, OpenError> {
        let path = clients_path(directory);
        let step = |version| match version {
            0 => Some(format!("CREATE TABLE IF NOT EXISTS clients {COLUMNS} WITHOUT ROWID; {INDEXES}")),
            1 => Some(format!("ALTER TABLE clients ADD COLUMN owner TEXT; {SHARES}; {MODE}; {INDEXES}")),
            2 => Some(format!("{SHARES}; {MODE}; {INDEXES}")),
            3 => Some(MODE.to_owned()),
            _ => None,
        };
        let file = SideFile::open(directory, &path, VERSION, step)?;
        let weights = Weights::read(file.db()).map_err(|error| open_error(&path, error))?;
        Ok(Self { file, options: options.clone(), weights })
    }

    /// Processes the queue until it is closed.
    pub(super) fn run(mut self, queue: &Queue<ClientJob>, health: &Health) {
        let _worker = queue.worker();
        while let Some(jobs) = queue.take(GROUP, true) {
            let mut saves = Vec::new();
            for job in jobs {
                match job {
                    ClientJob::Save(records, reply) => saves.push((records, reply)),
                    ClientJob::Load(client, reply) => {
                        self.save(std::mem::take(&mut saves), health);
                        let found = self.load(client).map_err(|error| self.file.error(&error));
                        // The caller may have gone; so below.
                        let _ = reply.send(found);
                    }
                    ClientJob::Probe(reply) => {
                        let _ = reply.send(self.file.probe(health));
                    }
                    ClientJob::Expire(now_ms) => {
                        self.save(std::mem::take(&mut saves), health);
                        if let Err(error) = self.expire(now_ms) {
                            tracing::warn!(%error, "idle clients could not be removed; the removal is retried");
                        }
                    }
                }
            }
            self.save(saves, health);
        }
    }

    fn save(&mut self, saves: Vec<(Vec<ClientRecord>, Saved)>, health: &Health) {
        if saves.is_empty() {
            return;
        }
        let Self { file, options, weights } = self;
        let records = saves.iter().flat_map(|(records, _)| records);
        let outcome = file.write(health, |db| put_all(db, records, options, weights));
        self.weights_after(&outcome);
        for (_, reply) in saves {
            let _ = reply.send(outcome.clone());
        }
    }

    /// After a transaction that changed the weights as well: if it failed, they are computed again.
    fn weights_after<E>(&mut self, outcome: &Result<(), E>) {
        if outcome.is_err()
            && let Ok(weights) = Weights::read(self.file.db())
        {
            self.weights = weights;
        }
    }

    fn load(&self, client: Uuid) -> rusqlite::Result<Option<ClientRecord>> {
        self.file
            .db()
            .prepare_cached(
                "SELECT client, patterns, epoch, position, seen, owner, address, latest, pace, upto FROM clients
                 WHERE client = ?1",
            )?
            .query_row([client.as_bytes().as_slice()], record)
            .optional()
    }

    fn expire(&mut self, now_ms: u64) -> rusqlite::Result<()> {
        let idle_max_ms = u64::try_from(self.options.client_idle_max.as_millis()).unwrap_or(u64::MAX);
        let oldest_ms = integer(now_ms.saturating_sub(idle_max_ms));
        let Self { file, weights, .. } = self;
        let outcome = file.transact(|db| {
            // In the order of the index, where clients without an owner precede the others.
            for owned in [false, true] {
                let delete = "DELETE FROM clients WHERE (owner IS NOT NULL) = ?1 AND seen < ?2
                    RETURNING owner, address, weight";
                subtract_deleted(db.prepare_cached(delete)?.query(params![owned, oldest_ms])?, weights)?;
            }
            Ok(())
        });
        self.weights_after(&outcome);
        outcome
    }

    /// Imports the clients of a restored copy. A client that is known here already is not imported: its record here is newer.
    pub(super) fn import(&mut self, copy: &Connection) -> Result<(), String> {
        let import = || {
            let later = later_columns(copy, "restored_clients")?;
            // Addresses are not imported: a client's last address there does not predict its address here.
            let [owner, mode @ ..] = later;
            let read = format!(
                "SELECT client, patterns, epoch, position, seen, {owner}, NULL, {} FROM restored_clients",
                mode.join(", ")
            );
            let mut statement = copy.prepare(&read)?;
            let mut rows = statement.query([])?;
            self.file.transact(|db| {
                while let Some(row) = rows.next()? {
                    let record = record(row)?;
                    db.execute(
                        "INSERT OR IGNORE INTO clients(
                            client, patterns, epoch, position, seen, owner, weight, latest, pace, upto)
                         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)",
                        params![
                            record.client.as_bytes().as_slice(),
                            joined(&record.patterns),
                            record.cursor.epoch.as_str(),
                            integer(record.cursor.position.0),
                            integer(record.seen_ms),
                            record.owner,
                            integer(record.weight()),
                            record.mode.latest,
                            record.mode.pace_ms,
                            record.upto.map(|upto| upto.to_string()),
                        ],
                    )?;
                }
                Ok(())
            })?;
            // The copy durably deletes its clients next, so they must be durable here first.
            self.file.db().query_row("PRAGMA wal_checkpoint(FULL)", [], |_| Ok(()))?;
            Weights::read(self.file.db())
        };
        self.weights = import().map_err(|error: rusqlite::Error| format!("its clients: {error}"))?;
        Ok(())
    }
}

/// Copies the clients of `directory` into the backup `copy`, which may contain clients of a restored copy already.
/// Returns how many clients the backup then contains.
pub(super) fn export(directory: &Path, copy: &Connection) -> rusqlite::Result<u64> {
    copy.execute_batch(&format!("CREATE TABLE IF NOT EXISTS restored_clients {COLUMNS} WITHOUT ROWID"))?;
    for (name, there) in LATER_COLUMNS.into_iter().zip(later_columns(copy, "restored_clients")?) {
        if there != name {
            copy.execute_batch(&format!("ALTER TABLE restored_clients ADD COLUMN {name}"))?;
        }
    }
    let path = clients_path(directory);
    if path.exists() {
        let db = file::connect_reader(&path)?;
        let later = later_columns(&db, "clients")?.join(", ");
        let read = format!("SELECT client, patterns, epoch, position, seen, {later} FROM clients");
        let mut statement = db.prepare(&read)?;
        let mut rows = statement.query([])?;
        let transaction = copy.unchecked_transaction()?;
        let insert = "INSERT OR REPLACE INTO restored_clients(
                client, patterns, epoch, position, seen, owner, latest, pace, upto)
            VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)";
        let mut insert = transaction.prepare(insert)?;
        while let Some(row) = rows.next()? {
            let values = (0..9).map(|column| row.get(column)).collect::<rusqlite::Result<Vec<Value>>>()?;
            insert.execute(rusqlite::params_from_iter(values))?;
        }
        drop(insert);
        transaction.commit()?;
    }
    copy.query_row("SELECT count(*) FROM restored_clients", [], |row| row.get(0).map(|count| position(count).0))
}

/// The columns that were added since the first version and are part of a backup.
const LATER_COLUMNS: [&str; 4] = ["owner", "latest", "pace", "upto"];

/// [`LATER_COLUMNS`], with `NULL` for each that a table of an older server does not have.
fn later_columns(db: &Connection, table: &str) -> rusqlite::Result<[&'static str; 4]> {
    let mut columns = LATER_COLUMNS;
    for column in &mut columns {
        if !db.column_exists(None, table, column)? {
            *column = "NULL";
        }
    }
    Ok(columns)
}

/// Saves records, and evicts those in excess of the limits.
fn put_all<'a>(
    db: &Connection,
    records: impl Iterator<Item = &'a ClientRecord>,
    options: &StoreOptions,
    weights: &mut Weights,
) -> rusqlite::Result<()> {
    for record in records {
        put(db, record, weights)?;
        let Some(share) = record.share() else { continue };
        let weight = weights.shares.get(&share).copied().unwrap_or_default();
        if let Some(excess) = Weights::excess(weight, options.client_share_weight_max(&share)) {
            forget_share(db, &share, excess, weights)?;
        }
    }
    match Weights::excess(weights.all, options.clients_max as u64) {
        Some(excess) => forget_oldest(db, excess, weights),
        None => Ok(()),
    }
}

/// Inserts a client's record, or replaces the older one.
fn put(db: &Connection, record: &ClientRecord, weights: &mut Weights) -> rusqlite::Result<()> {
    let client = record.client.as_bytes().as_slice();
    let older = "SELECT owner, address, weight FROM clients WHERE client = ?1";
    let older = db.prepare_cached(older)?.query_row([client], |row| Ok((share(row, 0)?, position(row.get(2)?).0)));
    if let Some((share, weight)) = older.optional()? {
        weights.subtract(share, weight);
    }
    weights.add(record.share(), record.weight());
    let put = "INSERT INTO clients VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)
        ON CONFLICT (client) DO UPDATE SET
        patterns = ?2, epoch = ?3, position = ?4, seen = ?5, owner = ?6, address = ?7, weight = ?8, latest = ?9, pace = ?10, upto = ?11";
    db.prepare_cached(put)?.execute(params![
        client,
        joined(&record.patterns),
        record.cursor.epoch.as_str(),
        integer(record.cursor.position.0),
        integer(record.seen_ms),
        record.owner,
        record.address.map(|address| address.to_string()),
        integer(record.weight()),
        record.mode.latest,
        record.mode.pace_ms,
        record.upto.map(|upto| upto.to_string()),
    ])?;
    Ok(())
}

/// Evicts clients of at least this weight from one owner's or address's share, least recently seen first.
fn forget_share(db: &Connection, share: &ClientShare, excess: u64, weights: &mut Weights) -> rusqlite::Result<()> {
    let (find, value) = match share {
        ClientShare::Owner(owner) => {
            ("SELECT client, weight FROM clients WHERE owner = ?1 ORDER BY seen, client", owner.clone())
        }
        ClientShare::Address(address) => (
            "SELECT client, weight FROM clients WHERE address = ?1 AND owner IS NULL ORDER BY seen, client",
            address.to_string(),
        ),
    };
    let picked = pick(db.prepare_cached(find)?.query([value])?, excess)?;
    forget(db, &picked, weights)
}

/// Evicts clients of at least this weight: those without an owner first, each group by least recently seen.
fn forget_oldest(db: &Connection, excess: u64, weights: &mut Weights) -> rusqlite::Result<()> {
    let mut picked = Vec::new();
    let mut left = excess;
    for owned in [false, true] {
        let find = "SELECT client, weight FROM clients WHERE (owner IS NOT NULL) = ?1 ORDER BY seen, client";
        let some = pick(db.prepare_cached(find)?.query([owned])?, left)?;
        left = left.saturating_sub(some.iter().map(|(_, weight)| weight).sum());
        picked.extend(some);
    }
    forget(db, &picked, weights)
}

/// The first clients whose weights add up to at least this weight.
fn pick(mut rows: Rows<'_>, weight: u64) -> rusqlite::Result<Vec<([u8; 16], u64)>> {
    let (mut picked, mut left) = (Vec::new(), weight);
    while left > 0
        && let Some(row) = rows.next()?
    {
        let weight = position(row.get(1)?).0;
        left = left.saturating_sub(weight);
        picked.push((row.get(0)?, weight));
    }
    Ok(picked)
}

fn forget(db: &Connection, clients: &[([u8; 16], u64)], weights: &mut Weights) -> rusqlite::Result<()> {
    let mut delete = db.prepare_cached("DELETE FROM clients WHERE client = ?1 RETURNING owner, address, weight")?;
    for (client, _) in clients {
        subtract_deleted(delete.query([client.as_slice()])?, weights)?;
    }
    Ok(())
}

/// Subtracts the rows that a deletion returns (owner, address, weight) from the weights.
fn subtract_deleted(mut deleted: Rows<'_>, weights: &mut Weights) -> rusqlite::Result<()> {
    while let Some(row) = deleted.next()? {
        weights.subtract(share(row, 0)?, position(row.get(2)?).0);
    }
    Ok(())
}

/// The share that a row counts against; the owner is in this column, the address in the next.
fn share(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<ClientShare>> {
    if let Some(owner) = row.get(column)? {
        return Ok(Some(ClientShare::Owner(owner)));
    }
    Ok(address(row, column + 1)?.map(ClientShare::Address))
}

fn address(row: &Row<'_>, column: usize) -> rusqlite::Result<Option<IpAddr>> {
    row.get_ref(column)?.as_str_or_null()?.map(|text| parsed(text, column)).transpose()
}

fn record(row: &Row<'_>) -> rusqlite::Result<ClientRecord> {
    let client: [u8; 16] = row.get(0)?;
    let patterns: Result<Vec<Pattern>, _> =
        row.get_ref(1)?.as_str()?.lines().map(|pattern| parsed(pattern, 1)).collect();
    let patterns = PatternSet::new(patterns?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(1, rusqlite::types::Type::Text, Box::new(error)))?;
    let cursor = Cursor::new(parsed(row.get_ref(2)?.as_str()?, 2)?, position(row.get(3)?));
    let seen_ms = position(row.get(4)?).0;
    let (client, owner) = (Uuid::from_bytes(client), row.get(5)?);
    let (latest, pace): (Option<bool>, Option<u16>) = (row.get(7)?, row.get(8)?);
    let mode = ReadMode { latest: latest.unwrap_or_default(), pace_ms: pace.unwrap_or_default() };
    let upto = row.get_ref(9)?.as_str_or_null()?.map(|text| parsed(text, 9)).transpose()?;
    Ok(ClientRecord { client, patterns, mode, cursor, upto, seen_ms, owner, address: address(row, 6)? })
}

/// One pattern a line: patterns contain no line breaks.
fn joined(patterns: &PatternSet) -> String {
    patterns.iter().map(Pattern::as_str).collect::<Vec<_>>().join("\n")
}
