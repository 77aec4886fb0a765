//! What the program does besides serving: publishing, subscribing, backing up; and what its commands share.

mod publish;
mod remote;
mod subscribe;

use crate::config::BackupArgs;
use crate::store::BackupError;

pub use publish::publish;
pub use remote::RemoteError;
pub use subscribe::subscribe;

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

/// Logs on standard error, filtered by `filter` (`info`, or `switchback=debug,actix_web=warn`).
///
/// # Errors
/// Where the filter is not one.
pub fn log_to_stderr(filter: &str) -> Result<(), String> {
    let filter = tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| format!("--log {filter}: {error}"))?;
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    Ok(())
}

/// Ends when the process is asked to stop: by ctrl-c, or SIGTERM. Asked once more, it exits at once.
pub async fn asked_to_stop() {
    stop_signal().await;
    tokio::spawn(async {
        stop_signal().await;
        tracing::warn!("asked to stop again: not waiting any longer");
        std::process::exit(1);
    });
}

#[cfg(unix)]
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        }
        Err(error) => {
            tracing::warn!(%error, "SIGTERM is not heard; ctrl-c is");
            let _ = tokio::signal::ctrl_c().await;
        }
    }
}

#[cfg(not(unix))]
async fn stop_signal() {
    let _ = tokio::signal::ctrl_c().await;
}
