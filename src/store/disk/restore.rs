//! Restoring: a backup becomes the log of a data directory that has none.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::clients;
use super::file::private;
use super::lock::{DirectoryLock, create_directory};
use super::partial::{Partial, has_owner_of};
use super::schema;
use super::security_records;
use super::verify::{VerifyError, VerifyReport, verify_backup};
use crate::store::OpenError;

/// What was restored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RestoreReport {
    /// The backup's content. The restored log gets an epoch of its own when it is first opened.
    pub backup: VerifyReport,
    /// Size of the file, in bytes.
    pub bytes: u64,
}

/// A backup was not restored; the directory is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The directory contains a log, or files of one.
    #[error("{} exists already: restoring never overwrites a log; choose an empty directory with --data, or move that one away", .0.display())]
    Exists(PathBuf),
    /// The backup is damaged, or is none.
    #[error(transparent)]
    Backup(#[from] VerifyError),
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The server could not open the restored file.
    #[error("{} belongs to another user: run this command as that user, or the server cannot open what is restored", .0.display())]
    OtherOwner(PathBuf),
    /// The copy could not be written.
    #[error("cannot write {}: {reason}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// The operating system's error.
        reason: String,
    },
}

/// Verifies the backup in `file`, and copies it into `directory`, which is created if it is missing. The next server that opens the
/// directory gives the log a new epoch, which begins at the backup's last position.
///
/// # Errors
/// [`RestoreError`].
pub fn restore(file: &Path, directory: &Path) -> Result<RestoreReport, RestoreError> {
    let backup = verify_backup(file)?;
    create_directory(directory)?;
    let events = schema::events_path(directory);
    let write_error = |error: io::Error| RestoreError::Write { path: events.clone(), reason: error.to_string() };
    let partial = Partial::beside(&events).ok_or_else(|| write_error(io::ErrorKind::InvalidFilename.into()))?;
    let mut copy = private().create_new(true).open(&partial.path).map_err(write_error)?;
    // Before the lock, whose file would be the other user's, too.
    if !has_owner_of(&partial.path, directory).map_err(write_error)? {
        return Err(RestoreError::OtherOwner(directory.to_owned()));
    }
    let _lock = DirectoryLock::acquire(directory)?;
    check_empty(directory)?;
    File::open(file).and_then(|mut backup| io::copy(&mut backup, &mut copy)).map_err(write_error)?;
    drop(copy);
    let bytes = partial.sync().map_err(write_error)?;
    partial.name(&events).map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => RestoreError::Exists(events.clone()),
        _ => write_error(error),
    })?;
    Ok(RestoreReport { backup, bytes })
}

/// No file of a log is there: remembered clients and revocations of another log would become part of the restored one.
fn check_empty(directory: &Path) -> Result<(), RestoreError> {
    let [(clients, _), (records, _)] =
        [clients::file_and_version(directory), security_records::file_and_version(directory)];
    let events = schema::events_path(directory);
    let log = events.with_extension("db-wal");
    match [events, log, clients, records].into_iter().find(|path| fs::symlink_metadata(path).is_ok()) {
        Some(path) => Err(RestoreError::Exists(path)),
        None => Ok(()),
    }
}
