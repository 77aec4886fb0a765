//! Opening the data directory's files, in the same way for all of them.

use std::fs::OpenOptions;
use std::io;
use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, Transaction, TransactionBehavior};

use super::fault::{open_error, store_error};
use super::health::Health;
use super::presence::Presence;
use crate::store::{OpenError, StoreError};

/// How long SQLite waits for a lock that another process holds, such as an operator's shell or a starting backup.
pub(super) const BUSY_WAIT: Duration = Duration::from_secs(5);

/// A commit is on the disk once it returns.
pub(super) const SYNCED: &[(&str, &str)] =
    &[("synchronous", "FULL"), ("fullfsync", "ON"), ("checkpoint_fullfsync", "ON")];

/// Opens a file beside the log for writing, creates it where it is missing, and migrates its tables to `version`, which is raised
/// with every change that an older server could not read. `step` is the SQL that migrates from an older version (0: a new file).
pub(super) fn open(
    path: &Path,
    pragmas: &[(&str, &str)],
    version: i32,
    step: impl FnOnce(i32) -> Option<String>,
) -> Result<Connection, OpenError> {
    let open = || {
        let db = connect(path)?;
        for (pragma, value) in pragmas {
            db.pragma_update(None, pragma, value)?;
        }
        db.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        let found: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        if let Some(step) = step(found) {
            db.execute_batch(&format!("BEGIN; {step}; PRAGMA user_version = {version}; COMMIT"))?;
        }
        Ok((db, found))
    };
    let (db, found) = open().map_err(|error: rusqlite::Error| open_error(path, error))?;
    if found > version { Err(open_error(path, newer(found))) } else { Ok(db) }
}

/// Begins a transaction.
pub(super) fn begin(db: &Connection, behavior: TransactionBehavior) -> rusqlite::Result<Transaction<'_>> {
    if !db.is_autocommit() {
        // The previous transaction failed, and so did its rollback.
        db.execute_batch("ROLLBACK")?;
    }
    Transaction::new_unchecked(db, behavior)
}

/// Tests whether a write to a file in `directory` succeeds, and the file still has its name.
///
/// # Errors
/// Those that a write would have.
pub(super) fn probe(
    db: &Connection,
    directory: &Path,
    presence: &mut Presence,
    health: &Health,
) -> Result<(), StoreError> {
    health.probe(|| {
        let written = rewrite_version(db).map_err(|error| store_error(&error, directory));
        presence.check().and(written)
    })
}

/// Writes a page of a file without changing its content.
fn rewrite_version(db: &Connection) -> rusqlite::Result<()> {
    let transaction = begin(db, TransactionBehavior::Deferred)?;
    let version: i32 = transaction.pragma_query_value(None, "user_version", |row| row.get(0))?;
    transaction.pragma_update(None, "user_version", version)?;
    transaction.commit()
}

/// A connection for writing; a missing file is created for its owner alone. SQLite's files beside it inherit the file's mode.
pub(super) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    match private().create_new(true).open(path) {
        Ok(_) => {}
        // An existing file keeps its mode, which an operator may have chosen.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        // SQLite tries as well, and reports the error in its own words.
        Err(error) => tracing::debug!(%error, path = %path.display(), "the file could not be created"),
    }
    connection(path, OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE)
}

/// A connection for reading only.
pub(super) fn connect_reader(path: &Path) -> rusqlite::Result<Connection> {
    connection(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

/// Options for a new file that only its owner can read, whatever the process's umask: events, cursors and revocations are
/// private.
pub(super) fn private() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options
}

/// The error for a file of a newer version.
pub(super) fn newer(version: i32) -> String {
    format!("the file was written by a newer switchback (format {version}): use that version or a later one")
}

fn connection(path: &Path, flags: OpenFlags) -> rusqlite::Result<Connection> {
    // A connection is used by one thread, or behind a lock.
    let db = Connection::open_with_flags(path, flags | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    db.busy_timeout(BUSY_WAIT)?;
    Ok(db)
}
