//! The health of a file: whether its thread's last write succeeded, and since when a write has been waiting for the disk.
//!
//! A server is ready while a publish would succeed. The file system does not report that, and it can be remounted read-only, fill
//! up or hang at any moment. So writing is tried: where nothing has been written for a second, the readiness check writes
//! something itself.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::fault::is_full;
use crate::store::{DiskFault, StoreError};
use crate::sync::lock;

/// How long a caller waits for the disk before it gets an error.
pub(super) const ANSWER_MAX: Duration = Duration::from_secs(30);

/// How long the readiness check waits for the disk: well above a slow disk's sync, below the timeout of readiness probes.
pub(super) const PROBE_MAX: Duration = Duration::from_secs(2);

/// A write this recent means that the next one will succeed, too.
const FRESH: Duration = Duration::from_secs(1);

/// The state of one file and its thread.
#[derive(Debug)]
pub(super) struct Health {
    /// The file's name in log lines.
    name: &'static str,
    directory: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// When the thread began the present write.
    writing_since: Option<Instant>,
    written_at: Option<Instant>,
    failure: Option<StoreError>,
}

impl Health {
    pub(super) fn new(name: &'static str, directory: PathBuf) -> Self {
        Self { name, directory, state: Mutex::default() }
    }

    /// Runs a write of the file's thread and records its outcome; each change between success and failure is logged once.
    pub(super) fn watch<T>(&self, write: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        lock(&self.state).writing_since = Some(Instant::now());
        let outcome = write();
        let mut state = lock(&self.state);
        state.writing_since = None;
        match &outcome {
            Ok(_) => {
                state.written_at = Some(Instant::now());
                if state.failure.take().is_some() {
                    tracing::info!(file = self.name, "the file is writable again");
                }
            }
            // A refusal for a limit on number or size says nothing about the disk.
            Err(error @ (StoreError::Full | StoreError::Disk(_) | StoreError::Unavailable(_))) => {
                if state.failure.is_none() {
                    tracing::error!(file = self.name, directory = %self.directory.display(), %error, "the file is not writable");
                }
                state.failure = Some(error.clone());
            }
            Err(_) => {}
        }
        outcome
    }

    /// Refuses at once a job that would wait for a disk which has not answered for longer than a caller waits.
    pub(super) fn check_answers(&self, within: Duration) -> Result<(), StoreError> {
        let writing_since = lock(&self.state).writing_since;
        match writing_since.map(|since| since.elapsed()) {
            Some(waited) if waited >= within => Err(DiskFault::Stalled.into()),
            _ => Ok(()),
        }
    }

    /// Whether the last write is so recent that another need not be tried.
    pub(super) fn is_fresh(&self) -> bool {
        let state = lock(&self.state);
        state.failure.is_none() && state.written_at.is_some_and(|at| at.elapsed() < FRESH)
    }

    /// Runs a write that only tests whether writing succeeds. After a full disk a small write may succeed where a publish does
    /// not yet.
    pub(super) fn probe(&self, write: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
        let was_full = matches!(lock(&self.state).failure, Some(StoreError::Full));
        self.watch(|| if was_full && is_full(&self.directory) { Err(StoreError::Full) } else { write() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_as_its_last_write_was() {
        let home = tempfile::tempdir().unwrap();
        let health = Health::new("events.db", home.path().to_owned());
        assert!(!health.is_fresh(), "nothing has been written yet");
        health.watch(|| Ok(())).unwrap();
        assert!(health.is_fresh());
        health.watch(|| Err::<(), _>(DiskFault::ReadOnly.into())).unwrap_err();
        assert!(!health.is_fresh());
        // A fault of the publisher's own changes nothing.
        health.watch(|| Err::<(), _>(StoreError::Busy("too many ids"))).unwrap_err();
        assert!(!health.is_fresh());
        health.probe(|| Ok(())).unwrap();
        assert!(health.is_fresh());
    }

    #[test]
    fn who_would_wait_for_a_stalled_write_is_refused() {
        let health = Health::new("events.db", PathBuf::new());
        health
            .watch(|| {
                assert!(health.check_answers(ANSWER_MAX).is_ok());
                assert!(matches!(health.check_answers(Duration::ZERO), Err(StoreError::Disk(DiskFault::Stalled))));
                Ok(())
            })
            .unwrap();
        assert!(health.check_answers(Duration::ZERO).is_ok());
    }
}
