//! The data directory: created durably, and locked by one server at a time.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use super::fault::open_error;
use super::file::private;
use crate::store::OpenError;

/// Held for as long as the directory's files are open. The operating system releases it with the process, however that ends.
///
/// The lock is on the directory itself, which cannot be deleted without its files, and on a file in it, which names the holder
/// and excludes older servers that lock only the file. A lock on the file alone would be lost with the file's name.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
    _directory: Option<File>,
}

impl DirectoryLock {
    /// Acquires the lock of `directory` and writes the process id into its file.
    pub(super) fn acquire(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join("lock");
        let locked = |file: Option<File>| {
            let mut holder = String::new();
            // The holder's process id is a courtesy: the message is right without it.
            let _ = file.map(|file| file.take(32).read_to_string(&mut holder));
            OpenError::Locked { directory: directory.to_owned(), holder: holder.trim().parse().ok() }
        };
        let held = lock_directory(directory).map_err(|()| locked(File::open(&path).ok()))?;
        let failed = |error: io::Error| open_error(&path, error);
        let mut file = private().read(true).create(true).truncate(false).open(&path).map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(locked(Some(file))),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        // The process id is a courtesy to a server that is refused; the lock holds without it.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { file, _directory: held })
    }
}

/// Locks the directory itself; an error where another process has. `None` where the file system cannot (NFS locks only files open
/// for writing).
#[cfg(unix)]
fn lock_directory(directory: &Path) -> Result<Option<File>, ()> {
    let Ok(opened) = File::open(directory) else { return Ok(None) };
    match opened.try_lock() {
        Ok(()) => Ok(Some(opened)),
        Err(TryLockError::WouldBlock) => Err(()),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// On other systems an open file cannot be deleted, so that the lock on the file is enough.
#[cfg(not(unix))]
fn lock_directory(_: &Path) -> Result<Option<File>, ()> {
    Ok(None)
}

impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // Closing the file unlocks it, too.
        let _ = self.file.unlock();
    }
}

/// Creates `directory` and its missing parents, so that a power loss does not remove them again.
pub(super) fn create_directory(directory: &Path) -> Result<(), OpenError> {
    let missing: Vec<&Path> =
        directory.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    for path in missing.into_iter().rev() {
        match new_directory(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(open_error(path, error)),
            _ => {}
        }
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        sync_directory(parent).map_err(|error| open_error(parent, error))?;
    }
    if !directory.is_dir() {
        return Err(open_error(directory, "the path is not a directory"));
    }
    Ok(())
}

/// Creates a directory that only its owner can read, since events and cursors are private.
fn new_directory(path: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path)
}

/// Makes the names in `directory` durable.
#[cfg(unix)]
pub(super) fn sync_directory(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

/// On other systems a directory cannot be opened as a file; the file system journals names.
#[cfg(not(unix))]
pub(super) fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}
