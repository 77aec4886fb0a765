//! A consistent copy of a log that may be in use, by this process or another.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rusqlite::backup::{Backup, StepResult};

use super::clients;
use super::file;
use super::lock::sync_directory;
use super::notes;
use super::schema::{self, BACKUP_ID};
use crate::cursor::{Epoch, Position};

/// What a backup holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupReport {
    /// The log that it is a copy of; opened, the copy becomes another.
    pub epoch: Epoch,
    /// Everything up to here had been trimmed.
    pub floor: Position,
    /// The newest event.
    pub last: Position,
    /// Remembered clients.
    pub clients: u64,
    /// Size of the file, in bytes.
    pub bytes: u64,
}

/// A backup was not made; nothing is left of it.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is something by that name.
    #[error("{} exists already: a backup never overwrites; choose another name or remove it", .0.display())]
    Exists(PathBuf),
    /// There is no log to copy.
    #[error("{} holds no log: name the server's data directory with --data", .0.display())]
    NoLog(PathBuf),
    /// The log could not be copied.
    #[error("cannot copy the log in {}: {reason}", directory.display())]
    Copy {
        /// The data directory.
        directory: PathBuf,
        /// Why, in SQLite's words.
        reason: String,
    },
    /// The copy could not be written or named.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why, in the words of the operating system.
        reason: String,
    },
}

/// Copies the log in `directory`, its clients' cursors, its bans and its revocations into `file`, a server running on it or not.
///
/// The copy is the log as of one moment; meanwhile appends go on, and the write-ahead log grows by what they write.
/// It is one file. Put into an empty data directory as `events.db`, it is a log with a new epoch that begins at its
/// last position, so that clients which were further are told of a gap, and others go on where they were; a plain copy of the directory
/// of a stopped server would keep the epoch, and those further would not be told.
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
    let mut report = copy(directory, &events, &partial.0)
        .map_err(|error| BackupError::Copy { directory: directory.to_owned(), reason: error.to_string() })?
        .ok_or_else(|| BackupError::NoLog(directory.to_owned()))?;
    let written = File::open(&partial.0).and_then(|copy| {
        copy.sync_all()?;
        copy.metadata()
    });
    report.bytes = written.map_err(write_error)?.len();
    partial.rename(file).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => BackupError::Exists(file.to_owned()),
        _ => write_error(error),
    })?;
    Ok(report)
}

fn copy(directory: &Path, events: &Path, partial: &Path) -> rusqlite::Result<Option<BackupReport>> {
    let source = file::connect_reader(events)?;
    let mut copy = file::connect(partial)?;
    let whole = Backup::new(&source, &mut copy)?;
    // All pages in one step: one snapshot. In several, each append of the server would start it again.
    if whole.step(-1)? != StepResult::Done {
        let busy = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_BUSY);
        return Err(rusqlite::Error::SqliteFailure(busy, Some("it is held by another process".into())));
    }
    drop(whole);
    // One file without a write-ahead log, so that it can be moved by itself.
    copy.pragma_update_and_check(None, "journal_mode", "DELETE", |_| Ok(()))?;
    let Some((log, _)) = schema::read_state(&copy)? else { return Ok(None) };
    let clients = clients::export(directory, &copy)?;
    notes::export(directory, &copy)?;
    copy.pragma_update(None, "application_id", BACKUP_ID)?;
    copy.close().map_err(|(_, error)| error)?;
    Ok(Some(BackupReport { epoch: log.epoch, floor: log.floor, last: log.last, clients, bytes: 0 }))
}

/// The copy while it is made: gone with this value, unless it got its name.
struct Partial(PathBuf);

impl Partial {
    fn beside(file: &Path) -> Option<Self> {
        let mut name = std::ffi::OsString::from(".");
        name.push(file.file_name()?);
        name.push(format!(".{}.partial", std::process::id()));
        let partial = Self(file.with_file_name(name));
        // Of an earlier attempt of a process with the same number.
        let _ = fs::remove_file(&partial.0);
        Some(partial)
    }

    /// Gives the copy its name, unless something has it meanwhile: a link fails then, where renaming would overwrite.
    fn rename(&self, file: &Path) -> io::Result<()> {
        match fs::hard_link(&self.0, file) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => fs::rename(&self.0, file)?,
            linked => linked?,
        }
        let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_directory(parent)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let journal = self.0.with_extension("partial-journal");
        for path in [&self.0, &journal] {
            // Gone already, as a rule.
            let _ = fs::remove_file(path);
        }
    }
}
