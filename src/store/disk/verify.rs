//! Verification: whether a log's files are intact. Nothing is changed, and a server may use the files meanwhile.

use std::path::{Path, PathBuf};

use rusqlite::Connection;

use super::clients;
use super::column::{parsed, position};
use super::erasures;
use super::file;
use super::form::{self, Stored};
use super::log_state::LogState;
use super::schema::{self, BACKUP_ID, LOG_ID};
use super::security_records;
use crate::cursor::{Epoch, Position};
use crate::topic::Topic;

/// The content of an intact log or backup.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerifyReport {
    /// The log's epoch; of a backup, that of the log that it was made of.
    pub epoch: Epoch,
    /// Every event up to this position had been trimmed.
    pub floor: Position,
    /// The newest event.
    pub last: Position,
    /// The number of events.
    pub events: u64,
    /// Their size, as retention counts it, in bytes.
    pub bytes: u64,
}

/// The log is damaged, or could not be verified.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// The directory contains no log.
    #[error("{} contains no log: give the server's data directory with --data", .0.display())]
    NoLog(PathBuf),
    /// The file is no backup.
    #[error("{} is not a backup: give a file that `switchback backup` has written", .0.display())]
    NoBackup(PathBuf),
    /// A file could not be read, or is of a newer version.
    #[error("cannot verify {}: {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// SQLite's error, or the version.
        reason: String,
    },
    /// The log is damaged.
    #[error("{} is damaged: {}; restore it from a backup", path.display(), findings.join("; "))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong; at most 20 findings.
        findings: Vec<String>,
    },
}

/// The most findings that are reported of a file.
const FINDINGS_MAX: usize = 20;

/// Verifies all files in `directory`: their pages and indexes, that every event can be read, and that the log's counters agree with
/// its events. Reads everything. All that is read of the log is as of one moment; while that lasts, a server's write-ahead log grows.
///
/// # Errors
/// [`VerifyError`].
pub fn verify(directory: &Path) -> Result<VerifyReport, VerifyError> {
    let events = schema::events_path(directory);
    if !events.is_file() {
        return Err(VerifyError::NoLog(directory.to_owned()));
    }
    let report = verify_events(&events, LOG_ID, || VerifyError::NoLog(directory.to_owned()))?;
    let side_files = [
        clients::file_and_version(directory),
        security_records::file_and_version(directory),
        erasures::file_and_version(directory),
    ];
    for (path, version) in side_files {
        if path.is_file() {
            verify_side_file(&path, version)?;
        }
    }
    Ok(report)
}

/// Verifies a backup, as [`verify`] does a log.
///
/// # Errors
/// [`VerifyError`].
pub fn verify_backup(file: &Path) -> Result<VerifyReport, VerifyError> {
    let no_backup = || VerifyError::NoBackup(file.to_owned());
    if file.is_file() { verify_events(file, BACKUP_ID, no_backup) } else { Err(no_backup()) }
}

fn verify_events(path: &Path, id: i32, other: impl Fn() -> VerifyError) -> Result<VerifyReport, VerifyError> {
    let unreadable = |error: rusqlite::Error| unreadable(path, error);
    let db = file::connect_reader(path).map_err(unreadable)?;
    // One transaction, so that the counters and the events are of the same moment.
    let snapshot = db.unchecked_transaction().map_err(unreadable)?;
    let number =
        |pragma: &str| snapshot.pragma_query_value(None, pragma, |row| row.get::<_, i32>(0)).map_err(unreadable);
    let found = number("application_id")?;
    let format = number("user_version")?;
    if found == LOG_ID && id != LOG_ID || ![LOG_ID, BACKUP_ID].contains(&found) {
        return Err(other());
    }
    if format > form::NEWEST_FORMAT {
        return Err(VerifyError::Unreadable { path: path.to_owned(), reason: file::newer(format) });
    }
    let mut findings = damaged_pages(&snapshot).map_err(unreadable)?;
    let mut report = None;
    // The events of damaged pages would only repeat the finding.
    if findings.is_empty() {
        match LogState::read(&snapshot).map_err(unreadable)? {
            None => findings.push("its counters are missing".into()),
            Some((log, _)) => {
                let counted = count_events(&snapshot, &mut findings).map_err(unreadable)?;
                let Events { first, last, number: events, bytes } = counted;
                // A log without events has had all of them removed, and one with holes may lack its newest.
                let newest = last.unwrap_or(log.floor);
                let ends = newest == log.last || newest < log.last && format >= form::HOLES_FORMAT;
                if !ends || first.is_some_and(|first| first <= log.floor) {
                    findings.push(format!(
                        "its counters say {} to {}, its events are {} to {}",
                        log.floor.next(),
                        log.last,
                        first.unwrap_or_default(),
                        last.unwrap_or_default()
                    ));
                }
                if format >= form::HOLES_FORMAT && events != log.events {
                    findings.push(format!("its counters say {} events, it has {events}", log.events));
                }
                if bytes != log.bytes {
                    findings.push(format!("its counters say {} bytes, its events have {bytes}", log.bytes));
                }
                report = Some(VerifyReport { epoch: log.epoch, floor: log.floor, last: log.last, events, bytes });
            }
        }
    }
    findings.truncate(FINDINGS_MAX);
    report.filter(|_| findings.is_empty()).ok_or(VerifyError::Damaged { path: path.to_owned(), findings })
}

fn verify_side_file(path: &Path, newest: i32) -> Result<(), VerifyError> {
    let unreadable = |error: rusqlite::Error| unreadable(path, error);
    let db = file::connect_reader(path).map_err(unreadable)?;
    let version: i32 = db.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(unreadable)?;
    if version > newest {
        return Err(VerifyError::Unreadable { path: path.to_owned(), reason: file::newer(version) });
    }
    let findings = damaged_pages(&db).map_err(unreadable)?;
    if findings.is_empty() { Ok(()) } else { Err(VerifyError::Damaged { path: path.to_owned(), findings }) }
}

/// SQLite's own check: of pages, of values, and that each index has what its table has.
fn damaged_pages(db: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = db.prepare(&format!("PRAGMA integrity_check({FINDINGS_MAX})"))?;
    let findings = statement.query_map([], |row| row.get::<_, String>(0))?;
    findings.filter(|finding| !matches!(finding, Ok(text) if text == "ok")).collect()
}

/// The events as they are, not as the counters say.
struct Events {
    first: Option<Position>,
    last: Option<Position>,
    number: u64,
    bytes: u64,
}

/// Decodes every event.
fn count_events(db: &Connection, findings: &mut Vec<String>) -> rusqlite::Result<Events> {
    let mut events = Events { first: None, last: None, number: 0, bytes: 0 };
    let read = "SELECT seq, cost, base64, data, topic FROM e LEFT JOIN topics ON topics.id = topic_id ORDER BY seq";
    let mut statement = db.prepare(read)?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let at = position(row.get(0)?);
        events.first.get_or_insert(at);
        events.last = Some(at);
        events.number += 1;
        events.bytes = events.bytes.saturating_add(position(row.get(1)?).0);
        let decode = || -> rusqlite::Result<()> {
            let topic: Topic = parsed(row.get_ref(4)?.as_str()?, 4)?;
            Stored { form: row.get(2)?, data: row.get_ref(3)?.as_str()?.into() }.event(topic).map(drop)
        };
        if let Err(error) = decode() {
            findings.push(format!("event {at}: {error}"));
            if findings.len() >= FINDINGS_MAX {
                break;
            }
        }
    }
    Ok(events)
}

fn unreadable(path: &Path, error: rusqlite::Error) -> VerifyError {
    match error.sqlite_error_code() {
        Some(rusqlite::ErrorCode::NotADatabase | rusqlite::ErrorCode::DatabaseCorrupt) => {
            VerifyError::Damaged { path: path.to_owned(), findings: vec![error.to_string()] }
        }
        _ => VerifyError::Unreadable { path: path.to_owned(), reason: error.to_string() },
    }
}
