//! The `switchback` program: flags, environment and file become a [`Config`]; the rest is the library's.

// They panic where nobody reads.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use switchback::command;
use switchback::config::{self, Cli, Command};
use switchback::server::{Reloader, Server, greeting};

/// Held requests of a few hundred bytes come and go between streams that stay, which is what glibc's allocator is worst at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os()) {
        Ok(cli) => cli,
        // `--help` and `--version` are errors, too, which print themselves and end well.
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
                // Whoever reads the greeting may stop it properly.
                let asked_to_stop = command::asked_to_stop()?;
                // Nobody may be listening.
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

/// What SIGHUP does: the settings come from the same command line and environment, and from the file as it is now.
fn reload(reloader: &Reloader) {
    reloader.reload();
    match config::parse(std::env::args_os()) {
        Ok(Cli { command: None, serve } | Cli { command: Some(Command::Serve(serve)), .. }) => {
            reloader.take_settings(serve);
        }
        // Only a server comes here.
        Ok(_) => {}
        Err(error) => tracing::error!(error = %error.to_string().trim(), "the settings stay as they were"),
    }
}
