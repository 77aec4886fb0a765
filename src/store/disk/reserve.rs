//! Space that is kept for a start on a full disk.
//!
//! Opening a log takes space: SQLite keeps an index of each write-ahead log in a file of shared memory, which goes with a clean
//! stop. On a full disk a server that was stopped could not start again, although all it lacks is the space to publish. So a
//! file occupies some space for as long as there is enough, and is removed where a start needs it. What is then left of the
//! space is not for events: until the file is back the disk counts as full, since the next start will need it, too.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::fault::lacks;
use super::file::private;
use crate::store::StoreError;

/// The size of the file: three indexes of 32 KiB each for up to 16 MiB of write-ahead log, and as much again for longer logs.
const BYTES: usize = 1 << 20;

/// How often it is tried to take the space back.
const RETRY: Duration = Duration::from_secs(1);

/// The reserved space of a data directory.
#[derive(Debug)]
pub(super) struct Reserve {
    path: PathBuf,
    directory: PathBuf,
    /// Where the space is not reserved, since the disk is full: when that was last tried to change.
    missing_since: Option<Instant>,
}

impl Reserve {
    /// The reserve of `directory`; taken if it is missing, and there is space.
    pub(super) fn of(directory: &Path) -> Self {
        let (path, directory) = (directory.join("reserve"), directory.to_owned());
        let mut reserve = Self { path, directory, missing_since: None };
        if fs::metadata(&reserve.path).map_or(true, |file| file.len() < BYTES as u64) {
            reserve.take();
        }
        reserve
    }

    /// Frees the space, where the disk lacks it; returns whether that was so.
    pub(super) fn release(&mut self) -> bool {
        if self.missing_since.is_some() || !lacks(&self.directory, BYTES) || fs::remove_file(&self.path).is_err() {
            return false;
        }
        tracing::warn!(
            directory = %self.directory.display(),
            "the disk is full: events are served, and none is accepted until there is space again"
        );
        self.missing_since = Some(Instant::now());
        true
    }

    /// Whether the space is reserved; takes it where there is space again.
    ///
    /// # Errors
    /// [`StoreError::Full`].
    pub(super) fn check(&mut self) -> Result<(), StoreError> {
        if self.missing_since.is_some_and(|since| since.elapsed() >= RETRY) {
            self.take();
        }
        if self.missing_since.is_some() { Err(StoreError::Full) } else { Ok(()) }
    }

    fn take(&mut self) {
        self.missing_since = match self.write() {
            Ok(()) => None,
            Err(error) if matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded) => {
                // A part of the file would be of no use.
                let _ = fs::remove_file(&self.path);
                Some(Instant::now())
            }
            // A directory in which no file can be created may have a log that can be written all the same.
            Err(error) => {
                tracing::debug!(%error, path = %self.path.display(), "no space could be reserved for a start on a full disk");
                None
            }
        };
    }

    /// Writes the file. Not synced: the file system has set the space aside already, and where a power loss takes the file, the next
    /// start writes it again.
    fn write(&self) -> io::Result<()> {
        // A file system that compresses would set nothing aside for zeros.
        let mut bytes = vec![0; BYTES];
        rand::fill(&mut bytes[..]);
        private().create(true).truncate(true).open(&self.path)?.write_all(&bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_taken_once_and_kept() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("reserve");
        Reserve::of(home.path()).check().unwrap();
        let first = fs::read(&path).unwrap();
        assert_eq!(first.len(), BYTES);
        let mut reserve = Reserve::of(home.path());
        assert!(!reserve.release(), "there is space");
        assert_eq!(fs::read(&path).unwrap(), first);
        fs::write(&path, &first[1..]).unwrap();
        Reserve::of(home.path()).check().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), BYTES as u64, "a part of it is completed");
    }

    #[test]
    fn where_no_file_can_be_created_the_log_is_used_without() {
        let home = tempfile::tempdir().unwrap();
        fs::create_dir(home.path().join("reserve")).unwrap();
        let mut reserve = Reserve::of(home.path());
        reserve.check().unwrap();
        fs::remove_dir(home.path().join("reserve")).unwrap();
        assert!(Reserve::of(&home.path().join("nowhere")).check().is_ok());
    }
}
