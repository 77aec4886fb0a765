//! What the operating system allows the server's process.

/// Open files that the server needs beside those of its connections: listeners, the store, and what its threads wait with.
const BASE_FILES: u64 = 48;

/// Open files that each worker thread needs.
const FILES_A_WORKER: u64 = 8;

/// The process may not open enough files to serve.
#[derive(Debug, thiserror::Error)]
#[error(
    "at most {limit} files may be open, and {needed} are needed before the first connection; raise the limit \
     (`ulimit -n`, systemd's LimitNOFILE=), or start fewer threads with --workers"
)]
pub struct TooFewFiles {
    /// What is allowed.
    limit: u64,
    /// What is needed.
    needed: u64,
}

/// Raises the limit of open files as far as the process may by itself (from the soft to the hard limit: the soft one is low
/// for programs that use `select`), and warns where it stays below what `connections_max` takes.
///
/// # Errors
/// [`TooFewFiles`] where there would be none for connections. Else the server would end in the middle of its start.
pub fn raise_open_files(connections_max: usize, workers: usize) -> Result<(), TooFewFiles> {
    let Some(limit) = open_files_limit() else { return Ok(()) };
    let needed = BASE_FILES + FILES_A_WORKER * workers as u64;
    if limit < needed {
        return Err(TooFewFiles { limit, needed });
    }
    let connections = limit - needed;
    if connections < connections_max as u64 {
        tracing::warn!(
            limit,
            connections,
            "the limit of open files leaves room for fewer connections than --max-connections ({connections_max}); raise it \
             (`ulimit -n`, systemd's LimitNOFILE=), or lower --max-connections"
        );
    }
    Ok(())
}

/// The limit of open files, raised; `None` where there is none that is known.
#[cfg(unix)]
fn open_files_limit() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, soft, hard, "the limit of open files is not raised");
    }
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

#[cfg(not(unix))]
fn open_files_limit() -> Option<u64> {
    None
}

/// A file that grows past the process's limit of file size (`ulimit -f`, systemd's LimitFSIZE=) then fails to be written, as
/// on a full disk; else the signal that comes with it (SIGXFSZ) would end the process. Needs a tokio runtime.
///
/// # Errors
/// Where the signal cannot be handled.
#[cfg(unix)]
pub fn outlive_file_size_limit() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Tokio keeps a signal's handler for as long as the process lives. (To ignore it would be `unsafe`.)
    signal(SignalKind::from_raw(nix::libc::SIGXFSZ)).map(drop)
}

/// There is no such signal.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub fn outlive_file_size_limit() -> std::io::Result<()> {
    Ok(())
}
