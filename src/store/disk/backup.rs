//! Backup: a consistent copy of a log that may be in use by this process or another.

use std::io;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};

use super::clients;
use super::file;
use super::log_state::LogState;
use super::partial::Partial;
use super::schema::{self, BACKUP_ID};
use super::security_records;
use crate::cursor::{Epoch, Position};

/// The content of a backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The epoch of the original log; the copy gets another one when it is opened.
    pub epoch: Epoch,
    /// Every event up to this position had been trimmed.
    pub floor: Position,
    /// The newest event.
    pub last: Position,
    /// Remembered clients.
    pub clients: u64,
    /// Size of the file, in bytes.
    pub bytes: u64,
}

/// A backup failed; no file is left of it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The file exists.
    #[error("{} exists already: a backup never overwrites a file; choose another name or remove the file", .0.display())]
    Exists(PathBuf),
    /// The directory contains no log.
    #[error("{} contains no log: give the server's data directory with --data", .0.display())]
    NoLog(PathBuf),
    /// The log could not be copied.
    #[error("cannot copy the log in {}: {reason}", directory.display())]
    Copy {
        /// The data directory.
        directory: PathBuf,
        /// SQLite's error.
        reason: String,
    },
    /// The copy could not be written or named.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        reason: String,
    },
}

/// Copies the log in `directory`, its clients' cursors, its bans and its revocations into `file`, whether or not a server runs on
/// it.
///
/// The copy is a snapshot of one moment; appends go on meanwhile, and the write-ahead log grows by them. The copy is one file.
/// Put into an empty data directory as `events.db`, it becomes a log with a new epoch that begins at its last position: a client
/// that was further is sent a gap, any other resumes from its cursor. A plain copy of a stopped server's directory would keep the
/// epoch, and a client that was further would miss events without a gap.
///
/// # Errors
/// [`BackupError`]; `file` does not exist then, unless it did before.
pub fn backup(directory: &Path, file: &Path) -> Result<BackupReport, BackupError> {
    if file.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(file.to_owned()));
    }
    let events = schema::events_path(directory);
    if !events.is_file() {
        return Err(BackupError::NoLog(directory.to_owned()));
    }
    let write_error = |error: io::Error| BackupError::Write { path: file.to_owned(), reason: error.to_string() };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    if folder.is_some_and(|folder| !folder.is_dir()) {
        return Err(write_error(io::ErrorKind::NotADirectory.into()));
    }
    let partial = Partial::beside(file).ok_or_else(|| write_error(io::ErrorKind::InvalidFilename.into()))?;
    let mut report = copy(directory, &events, &partial.path)
        .map_err(|error| BackupError::Copy { directory: directory.to_owned(), reason: error.to_string() })?
        .ok_or_else(|| BackupError::NoLog(directory.to_owned()))?;
    report.bytes = partial.sync().map_err(write_error)?;
    partial.name(file).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => BackupError::Exists(file.to_owned()),
        _ => write_error(error),
    })?;
    Ok(report)
}

fn copy(directory: &Path, events: &Path, partial: &Path) -> rusqlite::Result<Option<BackupReport>> {
    let source = file::connect_reader(events)?;
    let mut copy = file::connect(partial)?;
    let whole = Backup::new(&source, &mut copy)?;
    // All pages in one step, for one snapshot. In several steps, each append of the server would restart the backup.
    if whole.step(-1)? != StepResult::Done {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(busy, Some("the log is locked by another process".into())));
    }
    drop(whole);
    // One file without a write-ahead log, so that it can be moved by itself.
    copy.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
    let Some((log, _)) = LogState::read(&copy)? else { return Ok(None) };
    let clients = clients::export(directory, &copy)?;
    security_records::export(directory, &copy)?;
    copy.pragma_update(None, "application_id", BACKUP_ID)?;
    copy.close().map_err(|(_, error)| error)?;
    Ok(Some(BackupReport { epoch: log.epoch, floor: log.floor, last: log.last, clients, bytes: 0 }))
}
