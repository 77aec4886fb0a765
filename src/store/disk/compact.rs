//! Compaction: the log's file without the free space in it, while no server uses it.
//!
//! A running server returns free pages at the end of the file step by step. Pages in its middle stay, for events to come: after a
//! limit was lowered by far, that may be most of the file.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::file::{self, private};
use super::form;
use super::lock::DirectoryLock;
use super::partial::{Partial, has_owner_of};
use super::schema::{self, LOG_ID};
use crate::store::OpenError;

/// The effect of a compaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompactReport {
    /// Size of the file before, in bytes, without its write-ahead log.
    pub before: u64,
    /// Size of the file after, in bytes.
    pub after: u64,
}

/// A log was not compacted; it is as it was.
#[derive(Debug, thiserror::Error)]
pub enum CompactError {
    /// The directory contains no log.
    #[error("{} contains no log: give the server's data directory with --data", .0.display())]
    NoLog(PathBuf),
    /// The directory cannot be used, or a server uses it.
    #[error(transparent)]
    Directory(#[from] OpenError),
    /// The server could not open the compacted file.
    #[error("{} belongs to another user: run this command as that user, or the server cannot open the compacted log", .0.display())]
    OtherOwner(PathBuf),
    /// The log could not be read or written.
    #[error("cannot compact {}: {reason}", path.display())]
    Failed {
        /// The file.
        path: PathBuf,
        /// SQLite's error, or the operating system's.
        reason: String,
    },
}

/// Writes the log in `directory` anew, without free space, and puts the new file in the place of the old one: a crash leaves one or
/// the other, whole. Needs as much space as the events take. The log's identity and content stay.
///
/// # Errors
/// [`CompactError`].
pub fn compact(directory: &Path) -> Result<CompactReport, CompactError> {
    let events = schema::events_path(directory);
    if !events.is_file() {
        return Err(CompactError::NoLog(directory.to_owned()));
    }
    let failed = |reason: String| CompactError::Failed { path: events.clone(), reason };
    let io_failed = |error: io::Error| failed(error.to_string());
    let partial = Partial::beside(&events).ok_or_else(|| io_failed(io::ErrorKind::InvalidFilename.into()))?;
    // SQLite writes into an empty file that exists, and keeps its mode.
    private().create_new(true).open(&partial.path).map_err(io_failed)?;
    if !has_owner_of(&partial.path, &events).map_err(io_failed)? {
        return Err(CompactError::OtherOwner(directory.to_owned()));
    }
    let _lock = DirectoryLock::acquire(directory)?;
    let before = fs::metadata(&events).map_err(io_failed)?.len();
    rewrite(&events, &partial.path).map_err(failed)?;
    fs::set_permissions(&partial.path, fs::metadata(&events).map_err(io_failed)?.permissions()).map_err(io_failed)?;
    let after = partial.sync().map_err(io_failed)?;
    partial.replace(&events).map_err(io_failed)?;
    Ok(CompactReport { before, after })
}

/// Writes a copy without free space. Afterwards `events` has no write-ahead log, which would be taken for one of the copy.
fn rewrite(events: &Path, copy: &Path) -> Result<(), String> {
    let text = |error: rusqlite::Error| error.to_string();
    let db = file::connect(events).map_err(text)?;
    let number = |pragma: &str| db.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(text);
    match (number("application_id")?, number("user_version")?) {
        (LOG_ID, form::FIRST_FORMAT..=form::NEWEST_FORMAT) => {}
        (LOG_ID, format) if format > form::NEWEST_FORMAT => return Err(file::newer(format)),
        _ => return Err("the file is not a Switchback log".into()),
    }
    for (pragma, value) in file::SYNCED {
        db.pragma_update(None, pragma, value).map_err(text)?;
    }
    let busy: i64 = db.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0)).map_err(text)?;
    if busy != 0 {
        return Err("another process reads the log; end it, or try again later".into());
    }
    let copy = copy.to_str().ok_or("the directory's path is not UTF-8")?;
    db.execute("VACUUM INTO ?1", [copy]).map_err(text)?;
    // The last connection removes the empty write-ahead log.
    db.close().map_err(|(_, error)| error.to_string())?;
    match fs::metadata(events.with_extension("db-wal")) {
        Ok(left) if left.len() > 0 => Err("another process writes to the log; end it, or try again later".into()),
        _ => Ok(()),
    }
}
