//! The commands that work on a data directory: `backup`, `restore`, `verify`, `compact`. Each returns a report to print.

use crate::config::{BackupArgs, DataArgs, RestoreArgs, VerifyArgs};
use crate::store::{self, BackupError, CompactError, RestoreError, VerifyError, VerifyReport};

/// Copies the disk store into one file.
///
/// # Errors
/// [`BackupError`]; no file is left then.
pub(super) fn backup(arguments: &BackupArgs) -> Result<String, BackupError> {
    let report = store::backup(&arguments.directory.data, &arguments.file)?;
    Ok(format!(
        "{}: log {} from {} to {}, {} remembered clients, {} bytes\n\
         to restore it: switchback restore {} --data DIRECTORY; it then becomes a new log with an epoch of its own",
        arguments.file.display(),
        report.epoch,
        report.floor.next(),
        report.last,
        report.clients,
        report.bytes,
        arguments.file.display(),
    ))
}

/// Puts a backup into a data directory without a log.
///
/// # Errors
/// [`RestoreError`]; the directory has no log then.
pub(super) fn restore(arguments: &RestoreArgs) -> Result<String, RestoreError> {
    let directory = &arguments.directory.data;
    let report = store::restore(&arguments.file, directory)?;
    Ok(format!(
        "{}: restored {}, {} bytes; the next server that is started on it gives the log an epoch of its own",
        directory.display(),
        content(&report.backup),
        report.bytes
    ))
}

/// Checks that the disk store, or a backup, is intact.
///
/// # Errors
/// [`VerifyError`] says what is damaged.
pub(super) fn verify(arguments: &VerifyArgs) -> Result<String, VerifyError> {
    let (path, report) = match &arguments.backup {
        Some(file) => (file, store::verify_backup(file)?),
        None => (&arguments.directory.data, store::verify(&arguments.directory.data)?),
    };
    Ok(format!("{}: intact; {}", path.display(), content(&report)))
}

/// Returns the free space in the disk store's file to the system.
///
/// # Errors
/// [`CompactError`]; the log is as it was then.
pub(super) fn compact(arguments: &DataArgs) -> Result<String, CompactError> {
    let report = store::compact(&arguments.data)?;
    Ok(format!("{}: {} bytes, {} before", arguments.data.display(), report.after, report.before))
}

fn content(report: &VerifyReport) -> String {
    let VerifyReport { epoch, floor, last, events, bytes } = report;
    format!("log {epoch} from {} to {last}, {events} events of {bytes} bytes", floor.next())
}
