//! The program's commands (`serve`, `publish`, `subscribe`, `history`, `backup`, `token`), and helpers of its process: output, signals, the
//! log.

mod history;
mod log;
mod process;
mod publish;
mod remote;
mod serve;
mod service_manager;
mod subscribe;
mod token;

use std::error::Error;
use std::io::Write as _;

use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;

use crate::config::{BackupArgs, Command};
use crate::store::BackupError;
use log::log_to_stderr;
use process::{outlive_file_size_limit, raise_open_files};

/// Runs a command, and prints its result. Needs an actix system.
///
/// Boxed here: the program, a crate of its own, would compile the whole server's futures once more.
///
/// # Errors
/// Those of the command, to be printed for the person who gave it.
pub fn run(command: Command) -> LocalBoxFuture<'static, Result<(), Box<dyn Error>>> {
    async move {
        match command {
            Command::Serve(arguments) => serve::serve(arguments).await,
            Command::Publish(arguments) => say(&publish::publish(arguments).await?),
            Command::Subscribe(arguments) => Ok(subscribe::subscribe(arguments).await?),
            Command::History(arguments) => Ok(history::history(arguments).await?),
            Command::Backup(arguments) => say(&backup(&arguments)?),
            Command::Token(arguments) => say(&token::token(arguments)?),
        }
    }
    .boxed_local()
}

fn say(text: &str) -> Result<(), Box<dyn Error>> {
    print_line(text).map_err(|error| format!("cannot write to standard output: {error}").into())
}

/// Copies the disk store into one file; returns a report to print.
///
/// # Errors
/// [`BackupError`]; no file is left then.
fn backup(arguments: &BackupArgs) -> Result<String, BackupError> {
    let report = crate::store::backup(&arguments.data, &arguments.file)?;
    Ok(format!(
        "{}: log {} from {} to {}, {} remembered clients, {} bytes\n\
         to restore it, put it into an empty data directory as events.db; it then becomes a new log with an epoch of its own",
        arguments.file.display(),
        report.epoch,
        report.floor.next(),
        report.last,
        report.clients,
        report.bytes
    ))
}

/// Prints a line on standard output.
///
/// # Errors
/// Where the line cannot be written: `println!` would panic.
fn print_line(line: &str) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Prints a line on standard error, and ignores a failed write.
pub fn complain(line: &str) {
    let _ = writeln!(std::io::stderr(), "switchback: {line}");
}

/// Handles SIGINT (ctrl-c) and SIGTERM from this call on. The future completes at the first signal; at the
/// second the process exits at once. Needs a tokio runtime.
///
/// # Errors
/// Where the signals cannot be handled.
fn stop_requested() -> std::io::Result<impl Future<Output = ()>> {
    let mut signals = StopSignals::new()?;
    Ok(async move {
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            tracing::warn!("a second signal to stop has arrived: exiting at once");
            std::process::exit(1);
        });
    })
}

/// Handles SIGHUP from this call on (a closed terminal, `systemctl reload`, logrotate), which no longer ends the process. Needs
/// a tokio runtime.
///
/// # Errors
/// Where the signal cannot be handled.
fn hangups() -> std::io::Result<Hangups> {
    #[cfg(unix)]
    return tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()).map(Hangups);
    #[cfg(not(unix))]
    Ok(Hangups())
}

/// A stream of SIGHUP signals; on other systems than Unix it is empty.
#[derive(Debug)]
struct Hangups(#[cfg(unix)] tokio::signal::unix::Signal);

impl Hangups {
    /// Calls `reload` at each signal, on a thread where it may block.
    #[cfg(unix)]
    fn each(mut self, reload: impl Fn() + Clone + Send + 'static) {
        tokio::spawn(async move {
            while self.0.recv().await.is_some() {
                if let Err(error) = tokio::task::spawn_blocking(reload.clone()).await {
                    tracing::error!(%error, "the reload panicked");
                }
            }
        });
    }

    /// Does nothing: there are no signals.
    #[cfg(not(unix))]
    fn each(self, _: impl Fn() + Clone + Send + 'static) {}
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
