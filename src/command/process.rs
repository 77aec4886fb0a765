//! Resource limits of the server's process: open files and file size.

/// Open files that the server needs besides its connections: listeners, the store, and the pollers of its threads.
const BASE_FILES: u64 = 48;

/// Open files that each worker thread needs.
const FILES_A_WORKER: u64 = 8;

/// The limit of open files is too low to serve.
#[derive(Debug, thiserror::Error)]
#[error(
    "the limit of open files is {limit}, but {needed} are needed before the first connection; raise the limit \
     (`ulimit -n`, systemd's LimitNOFILE=), or start fewer threads with --workers"
)]
pub(super) struct TooFewFiles {
    /// The limit.
    limit: u64,
    /// The files needed without connections.
    needed: u64,
}

/// Raises the soft limit of open files to the hard limit (the soft one is low for programs that use `select`), and warns
/// where it stays too low for `connections_max`.
///
/// # Errors
/// [`TooFewFiles`] where the limit leaves none for connections. Otherwise the server would fail in the middle of its start.
pub(super) fn raise_open_files(connections_max: usize, workers: usize) -> Result<(), TooFewFiles> {
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

/// The raised limit of open files; `None` where it is unknown.
#[cfg(unix)]
fn open_files_limit() -> Option<u64> {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    if soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::debug!(%error, soft, hard, "the limit of open files cannot be raised");
    }
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

#[cfg(not(unix))]
fn open_files_limit() -> Option<u64> {
    None
}

/// Handles SIGXFSZ, which would end the process otherwise: a write past the process's limit of file size (`ulimit -f`,
/// systemd's LimitFSIZE=) then fails, as on a full disk. Needs a tokio runtime.
///
/// # Errors
/// Where the signal cannot be handled.
#[cfg(unix)]
pub(super) fn outlive_file_size_limit() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    // Tokio keeps a signal's handler for as long as the process lives. (To ignore the signal would need `unsafe`.)
    signal(SignalKind::from_raw(nix::libc::SIGXFSZ)).map(drop)
}

/// Does nothing: there is no such signal.
///
/// # Errors
/// None.
#[cfg(not(unix))]
pub(super) fn outlive_file_size_limit() -> std::io::Result<()> {
    Ok(())
}
