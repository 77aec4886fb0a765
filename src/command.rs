//! What the program does besides serving: publishing, subscribing, backing up, making tokens; and what its commands share.

mod log;
mod process;
mod publish;
mod remote;
mod subscribe;
mod token;

use std::io::Write as _;

use crate::config::BackupArgs;
use crate::store::BackupError;

pub use log::{LogWriter, log_to_stderr};
pub use process::{TooFewFiles, outlive_file_size_limit, raise_open_files};
pub use publish::publish;
pub use remote::RemoteError;
pub use subscribe::subscribe;
pub use token::token;

/// Copies the disk store into one file; returns what is to be said of the copy.
///
/// # Errors
/// [`BackupError`]; nothing is left then.
pub fn backup(arguments: &BackupArgs) -> Result<String, BackupError> {
    let report = crate::store::backup(&arguments.data, &arguments.file)?;
    Ok(format!(
        "{}: log {} from {} to {}, {} remembered clients, {} bytes\n\
         to restore it, put it into an empty data directory as events.db; it becomes a log of its own then",
        arguments.file.display(),
        report.epoch,
        report.floor.next(),
        report.last,
        report.clients,
        report.bytes
    ))
}

/// Prints a line on standard output: what a command has to say.
///
/// # Errors
/// Where it cannot be written: `println!` would panic.
pub fn print_line(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Prints a line on standard error, where that can be written.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "switchback: {line}");
}

/// Listens, from this call on, for the process being asked to stop: by ctrl-c, or SIGTERM. The future ends then; asked
/// once more, the process exits at once. Needs a tokio runtime.
///
/// # Errors
/// Where the signals cannot be heard.
pub fn asked_to_stop() -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = StopSignals::new()?;
    Ok(async move {
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            tracing::warn!("asked to stop again: not waiting any longer");
            std::process::exit(1);
        });
    })
}

/// SIGHUP, from this call on: a closed terminal, `systemctl reload`, logrotate. It never ends the process then. Needs a
/// tokio runtime.
///
/// # Errors
/// Where the signal cannot be heard.
pub fn hangups() -> std::io::Result<Hangups> {
    #[cfg(unix)]
    return tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).map(Hangups);
    #[cfg(not(unix))]
    Ok(Hangups())
}

/// SIGHUPs that have come and are to come; on other systems than Unix there are none.
#[derive(Debug)]
pub struct Hangups(#[cfg(unix)] tokio::signal::unix::Signal);

impl Hangups {
    /// Calls `reload` at each, on a thread where it may block.
    #[cfg(unix)]
    pub fn each(mut self, reload: impl Fn() + Clone + Send + 'static) {
        tokio::spawn(async move {
            while self.0.recv().await.is_some() {
                if let Err(error) = tokio::task::spawn_blocking(reload.clone()).await {
                    tracing::error!(%error, "nothing could be read again");
                }
            }
        });
    }

    /// There are none.
    #[cfg(not(unix))]
    pub fn each(self, _: impl Fn() + Clone + Send + 'static) {}
}

#[cfg(unix)]
struct StopSignals([tokio::signal::unix::Signal; 2]);

#[cfg(unix)]
impl StopSignals {
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self([signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?]))
    }

    async fn next(&mut self) {
        let [terminate, interrupt] = &mut self.0;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }
}

#[cfg(not(unix))]
struct StopSignals;

#[cfg(not(unix))]
impl StopSignals {
    fn new() -> std::io::Result<Self> {
        Ok(Self)
    }

    async fn next(&mut self) {
        let _ = tokio::signal::ctrl_c().await;
    }
}
