//! The data directory: created durably, and held by one server at a time.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::Path;

use super::fault::open_error;
use super::file::private;
use crate::store::OpenError;

/// Held for as long as the directory's files are open. The operating system lets go of it with the process, however that ends.
///
/// The lock is on the directory itself, which cannot be deleted without its files, and on a file in it, which says who holds it and keeps
/// servers away that know no other. A lock on the file alone would be gone with its name.
#[derive(Debug)]
pub(super) struct DirectoryLock {
    file: File,
    _directory: Option<File>,
}

impl DirectoryLock {
    /// Takes the lock of `directory` and leaves the process id in it.
    pub(super) fn acquire(directory: &Path) -> Result<Self, OpenError> {
        let path = directory.join("lock");
        let locked = |file: Option<File>| {
            let mut holder = String::new();
            // The name of the holder is a courtesy: without it the message is still right.
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
        // The name is a courtesy to whoever is refused; the lock holds without it.
        let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        Ok(Self { file, _directory: held })
    }
}

/// Locks the directory itself, unless another process has. `None` where the file system cannot (NFS locks only what is open for writing).
#[cfg(unix)]
fn lock_directory(directory: &Path) -> Result<Option<File>, ()> {
    let Ok(opened) = File::open(directory) else { return Ok(None) };
    match opened.try_lock() {
        Ok(()) => Ok(Some(opened)),
        Err(TryLockError::WouldBlock) => Err(()),
        Err(TryLockError::Error(_)) => Ok(None),
    }
}

/// Elsewhere a file that is open cannot be deleted, so that the lock on it is enough.
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

/// Creates `directory` and what is missing above it, so that a power loss does not take it away again.
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
        return Err(open_error(directory, "it is not a directory"));
    }
    Ok(())
}

/// Events and cursors are nobody else's business: the directory is its owner's alone.
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

/// Elsewhere a directory cannot be opened as a file; names are journalled by the file system.
#[cfg(not(unix))]
pub(super) fn sync_directory(_directory: &Path) -> io::Result<()> {
    Ok(())
}
