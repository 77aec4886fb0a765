//! The conversion of SQLite's errors into the store's.

use std::io::{ErrorKind, Write as _};
use std::path::Path;

use rusqlite::{Error, ErrorCode};

use crate::store::{DiskFault, OpenError, StoreError};

/// The size of a small file.
const SMALL_BYTES: usize = 64 * 1024;

/// The error of an operation on a file in `directory`.
pub(super) fn store_error(error: &Error, directory: &Path) -> StoreError {
    match error.sqlite_error_code() {
        Some(ErrorCode::DiskFull) => StoreError::Full,
        // Some calls (fsync, growing the shared memory, creating a file) report only that they failed.
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) if is_full(directory) => StoreError::Full,
        Some(ErrorCode::DatabaseBusy) => StoreError::Busy("another process holds the data directory's files"),
        Some(ErrorCode::ReadOnly) => DiskFault::ReadOnly.into(),
        Some(ErrorCode::SystemIoFailure | ErrorCode::CannotOpen) => {
            // SQLite's message is for the log, since it names files. SQLite does not report that a file system has become
            // read-only.
            let fault = if is_read_only(directory) { DiskFault::ReadOnly } else { DiskFault::Io };
            tracing::debug!(%error, directory = %directory.display(), "SQLite failed");
            fault.into()
        }
        _ => StoreError::unavailable(error),
    }
}

/// The error of opening `path`.
pub(super) fn open_error(path: &Path, reason: impl std::fmt::Display) -> OpenError {
    let mut reason = reason.to_string();
    // SQLite reports only "disk I/O error" where it has no room for its shared memory.
    if path.parent().is_some_and(is_full) {
        reason.push_str("; the disk is full: free some space");
    }
    OpenError::Path { path: path.to_owned(), reason }
}

/// Whether `directory` has no room for a small file. SQLite's own error number cannot be read without unsafe code.
pub(super) fn is_full(directory: &Path) -> bool {
    lacks(directory, SMALL_BYTES)
}

/// Whether `directory` has no room for a file of this size.
pub(super) fn lacks(directory: &Path, bytes: usize) -> bool {
    probe(directory, bytes)
        .is_err_and(|error| matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded))
}

fn is_read_only(directory: &Path) -> bool {
    probe(directory, SMALL_BYTES).is_err_and(|error| error.kind() == ErrorKind::ReadOnlyFilesystem)
}

/// Writes a file and removes it again.
fn probe(directory: &Path, bytes: usize) -> std::io::Result<()> {
    let path = directory.join(".room");
    let written = std::fs::File::create(&path).and_then(|mut file| {
        file.write_all(&vec![0; bytes])?;
        file.sync_all()
    });
    // Nothing depends on the probe's file; the next probe overwrites it.
    let _ = std::fs::remove_file(&path);
    written
}
