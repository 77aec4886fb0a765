//! A file that gets its name only once it is complete.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::lock::sync_directory;

/// The file in progress, beside the one that it becomes: removed on drop, unless it got its final name.
pub(super) struct Partial {
    pub(super) path: PathBuf,
}

impl Partial {
    /// The name of the file in progress, which does not exist yet; `None` where `file` has no name.
    pub(super) fn beside(file: &Path) -> Option<Self> {
        let mut name = OsString::from(".");
        name.push(file.file_name()?);
        name.push(format!(".{}.partial", std::process::id()));
        let partial = Self { path: file.with_file_name(name) };
        // Left by an earlier attempt of a process with the same id.
        let _ = fs::remove_file(&partial.path);
        Some(partial)
    }

    /// Makes the content durable; returns its length in bytes.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn sync(&self) -> io::Result<u64> {
        let file = File::open(&self.path)?;
        file.sync_all()?;
        Ok(file.metadata()?.len())
    }

    /// Gives the file its name, durably. A link fails where a file with that name was created meanwhile; renaming would overwrite
    /// it.
    ///
    /// # Errors
    /// `AlreadyExists` where the name is taken; others of the operating system.
    pub(super) fn name(&self, file: &Path) -> io::Result<()> {
        match fs::hard_link(&self.path, file) {
            // A file system without links.
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => self.replace(file),
            linked => linked.and_then(|()| sync_parent(file)),
        }
    }

    /// As [`Self::name`], in place of a file of that name.
    ///
    /// # Errors
    /// The operating system's.
    pub(super) fn replace(&self, file: &Path) -> io::Result<()> {
        fs::rename(&self.path, file)?;
        sync_parent(file)
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        let journal = self.path.with_extension("partial-journal");
        for path in [&self.path, &journal] {
            // Usually gone already.
            let _ = fs::remove_file(path);
        }
    }
}

/// Whether `file` belongs to the user that `other` belongs to. A file that an administrator made for a service is useless to it
/// otherwise.
#[cfg(unix)]
pub(super) fn has_owner_of(file: &Path, other: &Path) -> io::Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    Ok(fs::metadata(file)?.uid() == fs::metadata(other)?.uid())
}

/// On other systems, files inherit the access rights of their directory.
#[cfg(not(unix))]
pub(super) fn has_owner_of(_: &Path, _: &Path) -> io::Result<bool> {
    Ok(true)
}

fn sync_parent(file: &Path) -> io::Result<()> {
    sync_directory(file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}
