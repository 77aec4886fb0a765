//! The program's commands, and helpers of its process: output, signals, the log.

mod clients;
mod data;
mod description;
mod erase;
mod health;
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

use crate::config::Command;
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
            Command::Clients(arguments) => Ok(clients::clients(arguments).await?),
            Command::Erase(arguments) => say(&erase::erase(arguments).await?),
            Command::Health(arguments) => say(health::health(arguments).await?),
            Command::CheckConfig(arguments) => say(&serve::check(arguments)?),
            Command::Backup(arguments) => say(&data::backup(&arguments)?),
            Command::Restore(arguments) => say(&data::restore(&arguments)?),
            Command::Verify(arguments) => say(&data::verify(&arguments)?),
            Command::Compact(arguments) => say(&data::compact(&arguments)?),
            Command::Token(arguments) => say(&token::token(arguments)?),
            Command::Completions(arguments) => write_all(&description::completions(&arguments)),
            Command::Man(arguments) => write_all(&description::man(&arguments)?),
        }
    }
    .boxed_local()
}

fn say(text: &str) -> Result<(), Box<dyn Error>> {
    print_line(text).map_err(unprinted)
}

fn write_all(bytes: &[u8]) -> Result<(), Box<dyn Error>> {
    let mut out = std::io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(unprinted)
}

fn unprinted(error: std::io::Error) -> Box<dyn Error> {
    format!("cannot write to standard output: {error}").into()
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
