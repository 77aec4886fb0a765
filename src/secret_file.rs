//! Files with secrets or trusted keys: read whole, and refused if other users than their owner can have written them.

use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// Longest file, in bytes.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// How to treat a file that other users than its owner may read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Readable {
    /// The file is accepted: its content is public.
    Allowed,
    /// A warning is logged when the file is read for the first time.
    #[default]
    Warned,
    /// The file is refused.
    Refused,
}

/// Why a secret's file cannot be used. The message does not show the content.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct SecretFileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with the file, and what would be right.
    pub reason: String,
}

/// Reads a file, and logs a warning about its permissions where `readable` requires one.
///
/// # Errors
/// As [`read_again`].
pub fn read(path: &Path, readable: Readable) -> Result<Vec<u8>, SecretFileError> {
    let (bytes, metadata) = open(path, readable)?;
    if readable == Readable::Warned && others_may(&metadata, READ) {
        tracing::warn!(
            file = %path.display(),
            "other users may read this secret: run chmod 600 on the file (--strict-permissions refuses such files)"
        );
    }
    Ok(bytes)
}

/// As [`read`], for a file that was read before: without a warning in the log.
///
/// # Errors
/// [`SecretFileError`] where the file cannot be read, is longer than 1 MiB, may be written by other users than its owner, or may
/// be read by them though `readable` refuses that.
pub fn read_again(path: &Path, readable: Readable) -> Result<Vec<u8>, SecretFileError> {
    open(path, readable).map(|(bytes, _)| bytes)
}

fn open(path: &Path, readable: Readable) -> Result<(Vec<u8>, Metadata), SecretFileError> {
    let refused = |reason: String| SecretFileError { path: path.to_owned(), reason };
    let failed = |error: io::Error| refused(error.to_string());
    let mut file = File::open(path).map_err(failed)?;
    // The metadata of the opened file: the path may lead to another file in between.
    let metadata = file.metadata().map_err(failed)?;
    if others_may(&metadata, WRITE) {
        return Err(refused("other users may write it, so it is not trusted: run chmod 600 on it".into()));
    }
    if readable == Readable::Refused && others_may(&metadata, READ) {
        return Err(refused("other users may read it (--strict-permissions): run chmod 600 on it".into()));
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
    // The modes of devices and pipes, such as a shell's `<(…)`, are not the user's choice.
    metadata.is_file() && metadata.mode() & what != 0
}

/// Other systems have no such bits.
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
