//! The `switchback` program: reads flags, environment and file into a [`Config`]; everything else is in the library.

// Both panic where the output is closed.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use switchback::command;
use switchback::config::{self, Cli, Command};
use switchback::server::{Reloader, Server, greeting};

/// Long-poll requests of a few hundred bytes come and go between long-lived streams, a pattern that glibc's allocator handles
/// badly.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os()) {
        Ok(cli) => cli,
        // clap returns `--help` and `--version` as errors, too; these print themselves and exit with success.
        Err(error) => error.exit(),
    };
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            command::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Box<dyn std::error::Error>> {
    let command = cli.command.unwrap_or(Command::Serve(cli.serve));
    let system = actix_web::rt::System::new();
    match command {
        Command::Serve(serve) => {
            let _log = command::log_to_stderr(&serve.log, serve.access_log)?;
            let config = serve.into_config()?;
            command::raise_open_files(config.connections_max, config.workers)?;
            system.block_on(async {
                command::outlive_file_size_limit()?;
                let hangups = command::hangups()?;
                let server = Server::bind(config.clone()).await?;
                let reloader = server.reloader();
                hangups.each(move || reload(&reloader));
                // Installed before the greeting is printed, so that a process that reads the greeting can stop the server
                // gracefully.
                let asked_to_stop = command::asked_to_stop()?;
                // Standard output may be closed.
                let _ = command::print_line(&greeting(&config, server.address()));
                Ok(server.run(asked_to_stop).await?)
            })
        }
        Command::Publish(publish) => say(&system.block_on(command::publish(publish))?),
        Command::Subscribe(subscribe) => Ok(system.block_on(command::subscribe(subscribe))?),
        Command::Backup(backup) => say(&command::backup(&backup)?),
        Command::Token(token) => say(&command::token(token)?),
    }
}

fn say(text: &str) -> Result<(), Box<dyn std::error::Error>> {
    command::print_line(text).map_err(|error| format!("cannot write to standard output: {error}").into())
}

/// Handles SIGHUP: the settings come from the same command line and environment, and from the file as it is now.
fn reload(reloader: &Reloader) {
    reloader.reload();
    match config::parse(std::env::args_os()) {
        Ok(Cli { command: None, serve } | Cli { command: Some(Command::Serve(serve)), .. }) => {
            reloader.take_settings(serve);
        }
        // Only the server command gets here.
        Ok(_) => {}
        Err(error) => {
            tracing::error!(error = %error.to_string().trim(), "the new settings cannot be used; the settings stay as they were")
        }
    }
}
