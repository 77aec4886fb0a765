//! A file beside the log (`clients.db`, `notes.db`): its connection, and the checks that every write of it needs.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, TransactionBehavior};

use super::fault::store_error;
use super::file;
use super::health::Health;
use super::presence::Presence;
use crate::store::{OpenError, StoreError};

/// A file beside the log, open for writing by one thread. A write is on the disk once it returns.
pub(super) struct SideFile {
    db: Connection,
    directory: PathBuf,
    presence: Presence,
}

impl SideFile {
    /// Opens the file at `path`, in `directory`, as [`file::open`] does.
    pub(super) fn open(
        directory: &Path,
        path: &Path,
        version: i32,
        step: impl FnOnce(i32) -> Option<String>,
    ) -> Result<Self, OpenError> {
        let db = file::open(path, file::SYNCED, version, step)?;
        Ok(Self { db, directory: directory.to_owned(), presence: Presence::of(path) })
    }

    /// The connection, to read.
    pub(super) fn db(&self) -> &Connection {
        &self.db
    }

    /// Runs `work` in one transaction; an error rolls it back.
    pub(super) fn transact<T>(&self, work: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> rusqlite::Result<T> {
        let transaction = file::begin(&self.db, TransactionBehavior::Deferred)?;
        let outcome = work(&transaction)?;
        transaction.commit()?;
        Ok(outcome)
    }

    /// Runs `work` in one transaction, and records in `health` whether the disk took it.
    ///
    /// # Errors
    /// As [`Self::error`]; [`DiskFault::Gone`](crate::store::DiskFault::Gone) if the file was deleted meanwhile.
    pub(super) fn write<T>(
        &mut self,
        health: &Health,
        work: impl FnOnce(&Connection) -> rusqlite::Result<T>,
    ) -> Result<T, StoreError> {
        health.watch(|| {
            let written = self.transact(work).map_err(|error| self.error(&error));
            // After the commit, since the file may be deleted during the sync; and before its result, since SQLite does not
            // notice.
            self.presence.check().and(written)
        })
    }

    /// Writes without a change, to test whether a write succeeds.
    ///
    /// # Errors
    /// As [`Self::write`].
    pub(super) fn probe(&mut self, health: &Health) -> Result<(), StoreError> {
        file::probe(&self.db, &self.directory, &mut self.presence, health)
    }

    /// The error for callers, without paths.
    pub(super) fn error(&self, error: &rusqlite::Error) -> StoreError {
        store_error(error, &self.directory)
    }
}
