//! `switchback serve`: the server, with its log, signals and settings.

use std::error::Error;

use super::{
    hangups, log_to_stderr, outlive_file_size_limit, print_line, raise_open_files, service_manager, stop_requested,
};
use crate::config::{self, Cli, Command, ServeArgs};
use crate::server::{Reloader, Server, check_files, greeting, summary};

/// Runs the server until a signal to stop it arrives.
///
/// # Errors
/// Where the settings are wrong, the store cannot be opened or the address cannot be bound.
pub(super) async fn serve(arguments: ServeArgs) -> Result<(), Box<dyn Error>> {
    let _log = log_to_stderr(&arguments.log, arguments.log_format, arguments.access_log)?;
    let config = arguments.into_config()?;
    raise_open_files(config.connections_max, config.workers)?;
    outlive_file_size_limit()?;
    let hangups = hangups()?;
    let server = Server::bind(config.clone()).await?;
    let reloader = server.reloader();
    hangups.each(move || reload(&reloader));
    // Installed before the greeting is printed, so that a process that reads the greeting can stop the server gracefully.
    let stop_requested = stop_requested()?;
    // Standard output may be closed.
    let _ = print_line(&greeting(&config, server.address()));
    service_manager::notify_ready();
    let stop_requested = async {
        stop_requested.await;
        service_manager::notify_stopping();
    };
    Ok(server.run(stop_requested).await?)
}

/// Checks all that the server reads before it opens its store: flags, file, keys, certificates. Returns a summary to print.
///
/// # Errors
/// What would keep the server from starting.
pub(super) fn check(arguments: ServeArgs) -> Result<String, Box<dyn Error>> {
    let _log = log_to_stderr(&arguments.log, arguments.log_format, false)?;
    let config = arguments.into_config()?;
    check_files(&config)?;
    Ok(format!("the configuration is valid: {}", summary(&config, config.listen)))
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
