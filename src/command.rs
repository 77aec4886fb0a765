//! What the program does besides serving: publishing, subscribing, backing up, making tokens; and what its commands share.

mod publish;
mod remote;
mod subscribe;
mod token;

use crate::config::BackupArgs;
use crate::store::BackupError;

pub use publish::publish;
pub use remote::RemoteError;
pub use subscribe::subscribe;
pub use token::token;

/// Copies the disk store into one file, and says what was copied.
///
/// # Errors
/// [`BackupError`]; nothing is left then.
pub fn backup(arguments: &BackupArgs) -> Result<(), BackupError> {
    let report = crate::store::backup(&arguments.data, &arguments.file)?;
    println!(
        "{}: log {} from {} to {}, {} remembered clients, {} bytes",
        arguments.file.display(),
        report.epoch,
        report.floor.next(),
        report.last,
        report.clients,
        report.bytes
    );
    println!("to restore it, put it into an empty data directory as events.db; it becomes a log of its own then");
    Ok(())
}

/// Logs on standard error, filtered by `filter` (`info`, or `switchback=debug,actix_web=warn`); with each request, if wanted,
/// whatever the filter says.
///
/// # Errors
/// Where the filter is not one.
pub fn log_to_stderr(filter: &str, access_log: bool) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| format!("--log {filter}: {error}"))?;
    let wanted = format!("{}={}", crate::server::ACCESS_LOG, if access_log { "info" } else { "off" });
    let filter = filter.add_directive(wanted.parse().map_err(|error| format!("--log {wanted}: {error}"))?);
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
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
