//! Files that hold secrets, or that decide who is believed: read whole, and only where nobody but their owner can have
//! written them.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Longest file, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// What is done about a file that its group, or everybody, may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readable {
    /// Nothing: what is in it is public.
    Allowed,
    /// A line in the log, when it is read for the first time.
    #[default]
    Warned,
    /// It is refused.
    Refused,
}

/// A secret's file cannot be used. The message says nothing of what is in it.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct SecretFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it, and what would be right.
    pub reason: String,
}

/// The file's bytes, and a line in the log where `readable` asks for one.
///
/// # Errors
/// As [`read_again`].
pub fn read(path: &Path, readable: Readable) -> Result<Vec<u8>, SecretFileError> {
    let (bytes, metadata) = open(path, readable)?;
    if readable == Readable::Warned && others_may(&metadata, READ) {
        tracing::warn!(
            file = %path.display(),
            "others than its owner may read this secret: chmod 600 it (--strict-permissions refuses it)"
        );
    }
    Ok(bytes)
}

/// As [`read`], of a file that was read before: without a line in the log.
///
/// # Errors
/// [`SecretFileError`] where it cannot be read, is longer than 1 MiB, may be written by others than its owner, or read
/// by others where `readable` refuses that.
pub fn read_again(path: &Path, readable: Readable) -> Result<Vec<u8>, SecretFileError> {
    open(path, readable).map(|(bytes, _)| bytes)
}

fn open(path: &Path, readable: Readable) -> Result<(Vec<u8>, Metadata), SecretFileError> {
    let refused = |reason: String| SecretFileError { path: path.to_owned(), reason };
    let failed = |error: io::Error| refused(error.to_string());
    let mut file = File::open(path).map_err(failed)?;
    // Of the file that was opened: what the name means may change in between.
    let metadata = file.metadata().map_err(failed)?;
    if others_may(&metadata, WRITE) {
        return Err(refused("others than its owner may write it, so it may be anybody's: chmod 600 it".into()));
    }
    if readable == Readable::Refused && others_may(&metadata, READ) {
        return Err(refused("others than its owner may read it (--strict-permissions): chmod 600 it".into()));
    }
    let mut bytes = Vec::new();
    (&mut file).take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(refused("it is longer than 1 MiB".into()));
    }
    Ok((bytes, metadata))
}

/// Mode bits of group and others.
const READ: u32 = 0o044;
const WRITE: u32 = 0o022;

#[cfg(unix)]
fn others_may(metadata: &Metadata, what: u32) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    // Devices and pipes, such as a shell's `<(…)`, are as their maker made them.
    metadata.is_file() && metadata.mode() & what != 0
}

/// Elsewhere there are no such bits.
#[cfg(not(unix))]
fn others_may(_: &Metadata, _: u32) -> bool {
    false
}

#[cfg(all(test, unix))]
mod tests {
    use std::fs::{Permissions, set_permissions};
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn only_its_owner_may_have_written_it() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(&file, "x").unwrap();
        for (mode, allowed, warned, refused) in [
            (0o600, true, true, true),
            (0o400, true, true, true),
            (0o640, true, true, false),
            (0o604, true, true, false),
            (0o620, false, false, false),
            (0o602, false, false, false),
            (0o666, false, false, false),
        ] {
            set_permissions(file.path(), Permissions::from_mode(mode)).unwrap();
            for (readable, good) in
                [(Readable::Allowed, allowed), (Readable::Warned, warned), (Readable::Refused, refused)]
            {
                assert_eq!(read(file.path(), readable).is_ok(), good, "{mode:o} {readable:?}");
                assert_eq!(read_again(file.path(), readable).is_ok(), good, "{mode:o} {readable:?}");
            }
        }
    }
}
