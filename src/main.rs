//! The `switchback` program: flags, environment and file become a [`Config`]; the rest is the library's.

use std::process::ExitCode;

use switchback::command;
use switchback::config::{self, Cli, Command};
use switchback::server::{Server, greeting};

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
            eprintln!("switchback: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: Cli) -> Result<(), Box<dyn std::error::Error>> {
    let command = cli.command.unwrap_or(Command::Serve(cli.serve));
    let system = actix_web::rt::System::new();
    match command {
        Command::Serve(serve) => {
            command::log_to_stderr(&serve.log, serve.access_log)?;
            let config = serve.into_config()?;
            system.block_on(async {
                let server = Server::bind(config.clone()).await?;
                // Whoever reads the greeting may stop it properly.
                let asked_to_stop = command::asked_to_stop()?;
                println!("{}", greeting(&config, server.address()));
                Ok(server.run(asked_to_stop).await?)
            })
        }
        Command::Publish(publish) => Ok(system.block_on(command::publish(publish))?),
        Command::Subscribe(subscribe) => Ok(system.block_on(command::subscribe(subscribe))?),
        Command::Backup(backup) => Ok(command::backup(&backup)?),
        Command::Token(token) => Ok(command::token(token)?),
    }
}
