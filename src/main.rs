//! The `switchback` program: parses flags, environment and file into a command; everything else is in the library.

// Both panic where the output is closed.
#![deny(clippy::print_stdout, clippy::print_stderr)]

use std::process::ExitCode;

use switchback::command;
use switchback::config::{self, Command};

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
    let command = cli.command.unwrap_or(Command::Serve(cli.serve));
    match actix_web::rt::System::new().block_on(command::run(command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            command::complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}
