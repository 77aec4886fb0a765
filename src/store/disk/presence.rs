//! A check whether the open files still have their names.
//!
//! A file that is deleted or replaced while it is open goes on accepting writes and syncs until it is closed, and is gone then.
//! So a write is acknowledged only if the file still has its name afterwards.

use std::fs::Metadata;
use std::path::{Path, PathBuf};

use crate::store::{DiskFault, StoreError};

/// A database's files as they were when it was opened.
#[derive(Debug)]
pub(super) struct Presence {
    files: Vec<(PathBuf, FileId)>,
    /// Once a file was gone, a file that is put in its place is not the open one.
    gone: bool,
}

impl Presence {
    /// Records the identity of the database at `path`, its write-ahead log and that log's index, as far as they exist.
    pub(super) fn of(path: &Path) -> Self {
        let beside = |suffix: &str| {
            let mut name = path.as_os_str().to_owned();
            name.push(suffix);
            PathBuf::from(name)
        };
        let paths = [path.to_owned(), beside("-wal"), beside("-shm")];
        let files = paths.into_iter().filter_map(|path| file_id(&path).map(|id| (path, id))).collect();
        Self { files, gone: false }
    }

    /// Fails where one of the files has lost its name, and from then on.
    ///
    /// # Errors
    /// [`DiskFault::Gone`].
    pub(super) fn check(&mut self) -> Result<(), StoreError> {
        self.gone |= self.files.iter().any(|(path, id)| file_id(path) != Some(*id));
        if self.gone { Err(DiskFault::Gone.into()) } else { Ok(()) }
    }
}

/// Distinguishes a file from another one of the same name.
type FileId = (u64, u64);

fn file_id(path: &Path) -> Option<FileId> {
    std::fs::metadata(path).ok().map(|metadata| id_of(&metadata))
}

#[cfg(unix)]
fn id_of(metadata: &Metadata) -> FileId {
    use std::os::unix::fs::MetadataExt as _;
    (metadata.dev(), metadata.ino())
}

/// On other systems an open file cannot be deleted.
#[cfg(not(unix))]
fn id_of(_: &Metadata) -> FileId {
    (0, 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_was_deleted_or_replaced_is_gone_for_good() {
        let home = tempfile::tempdir().unwrap();
        let (path, wal) = (home.path().join("a.db"), home.path().join("a.db-wal"));
        for delete in [&path, &wal] {
            std::fs::write(&path, "one").unwrap();
            std::fs::write(&wal, "two").unwrap();
            let mut presence = Presence::of(&path);
            std::fs::write(&path, "changed in place").unwrap();
            presence.check().unwrap();
            // Held open, so that its inode number is not used again.
            let _open = std::fs::File::open(delete).unwrap();
            std::fs::remove_file(delete).unwrap();
            presence.check().unwrap_err();
            std::fs::write(delete, "another").unwrap();
            presence.check().unwrap_err();
            Presence::of(&path).check().unwrap();
        }
    }
}
