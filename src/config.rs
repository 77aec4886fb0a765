//! Configuration: the command line, the environment and the configuration file, merged into one valid [`Config`].
//!
//! Every flag has a variable `SWITCHBACK_<FLAG>` and a key of the flag's name in the TOML file. The flag takes precedence, then
//! the variable, then the file, then the default.

mod access;
mod commands;
mod environment;
mod error;
mod file;
mod help;
mod limits;
mod nats;
mod serve;
mod store;
mod tls;
mod token;
mod values;

use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use crate::http::HttpOptions;
use crate::hub::HubOptions;
use crate::store::StoreOptions;

pub use crate::net::tls::TlsFiles;
pub(crate) use access::SECRET_VARIABLE;
pub use access::{AccessArgs, SecretArgs};
pub use commands::{
    BackupArgs, ClientsArgs, CompletionsArgs, DataArgs, EraseArgs, Header, HistoryArgs, ManArgs, PublishArgs,
    RemoteArgs, RestoreArgs, SubscribeArgs, SubscribeTransport, VerifyArgs,
};
pub use error::ConfigError;
pub use limits::LimitArgs;
pub use nats::NatsArgs;
use nats::PASSWORD_VARIABLE;
pub use serve::{LogFormat, ServeArgs};
pub use store::{StoreChoice, StoreConfig};
pub use tls::TlsArgs;
pub use token::{Secret, ShowArgs, TokenArgs};

/// Events to web pages, in order, once, over whatever transport works.
#[derive(Debug, Parser)]
#[command(name = "switchback", version = env!("PROGRAM_VERSION"), args_conflicts_with_subcommands = true, max_term_width = 110)]
pub struct Cli {
    /// The command; `serve` if none is given.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The server's flags, if no command is given.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// The program's commands.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // A process has one value of this type.
pub enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Publish one event
    Publish(PublishArgs),
    /// Print events as they arrive, one line of JSON each
    Subscribe(SubscribeArgs),
    /// Print past events, the oldest first, one line of JSON each
    History(HistoryArgs),
    /// Print the connected clients, one line of JSON each
    Clients(ClientsArgs),
    /// Erase the events that a topic has now, for good
    Erase(EraseArgs),
    /// Ask a server whether it is ready: for container health checks, and scripts
    Health(RemoteArgs),
    /// Check the server's flags, its configuration file, keys and certificates, without starting it
    CheckConfig(ServeArgs),
    /// Copy the disk store into one file, even while a server uses it
    Backup(BackupArgs),
    /// Put a backup into an empty data directory
    Restore(RestoreArgs),
    /// Check that the disk store, or a backup, is intact; a server may use the store meanwhile
    Verify(VerifyArgs),
    /// Return the free space in the disk store's file to the system, while no server uses it
    Compact(DataArgs),
    /// Sign a token with the server's secret, for trials
    Token(TokenArgs),
    /// Print a script that completes commands and flags in a shell
    Completions(CompletionsArgs),
    /// Print a page of the manual, in roff: switchback man | man -l -
    Man(ManArgs),
}

/// Parses the command line, with the environment and the file as defaults. An empty variable counts as unset.
///
/// # Errors
/// clap's errors of the command line, and those of a variable or the file. `--help` and `--version` are returned as
/// errors, too, even where the environment or the file is invalid.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = help::arranged(Cli::command());
    if let Err(error) = environment::lenient(command.clone()).try_get_matches_from(&arguments)
        && matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
    {
        return Err(error);
    }
    environment::check(&command, std::env::vars_os())
        .map_err(|reason| command.error(ErrorKind::UnknownArgument, reason))?;
    command = environment::lenient(command);
    // The file is the server's: an error in it must not fail the other commands.
    if is_server(&arguments)
        && let Some(file) = file::config_file(&arguments)
    {
        command = file::with_file(command, &file)?;
    }
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// Whether the command takes the server's flags: `serve`, which is the default, or the check of them. A command is given before all
/// flags.
fn is_server(arguments: &[OsString]) -> bool {
    let first = arguments.get(1).map(OsString::as_os_str);
    first.is_none_or(|first| {
        ["serve", "check-config"].map(OsStr::new).contains(&first) || first.as_encoded_bytes().starts_with(b"-")
    })
}

/// The command line, as the completions and the manual describe it.
#[must_use]
pub fn described() -> clap::Command {
    help::arranged(Cli::command())
}

/// A server's complete and valid configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the log is.
    pub store: StoreConfig,
    /// The store's options.
    pub store_options: StoreOptions,
    /// The hub's options.
    pub hub_options: HubOptions,
    /// The options of the routes.
    pub http_options: HttpOptions,
    /// The time limit of the shutdown.
    pub drain: Duration,
    /// The timeout of a request's head.
    pub header_timeout: Duration,
    /// The idle timeout of a connection.
    pub keep_alive: Duration,
    /// How long a peer may read none of the bytes that wait for it.
    pub stall_timeout: Duration,
    /// The slowest rate at which a peer has to read the bytes that wait for it, over `read_rate_window`; 0 is any.
    pub read_bytes_per_second_min: u32,
    /// How long bytes may wait before that rate applies.
    pub read_rate_window: Duration,
    /// Most concurrent connections.
    pub connections_max: usize,
    /// Most concurrent streams of one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// The certificate and its key, if the server speaks TLS.
    pub tls: Option<TlsFiles>,
    /// The address of a plain HTTP listener that redirects to HTTPS.
    pub http_redirect: Option<SocketAddr>,
    /// The address of a plain HTTP listener for the metrics and the health checks, which need no key there.
    pub metrics_listen: Option<SocketAddr>,
    /// The number of worker threads.
    pub workers: usize,
    /// Whether each request is written to the log.
    pub access_log: bool,
    /// Whether all of HTTP/1.1 goes through the actix-web `App`, as where the routes are embedded: slower, and the same.
    pub through_app: bool,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::values::bytes;

    fn serve(arguments: &[&str]) -> Result<ServeArgs, clap::Error> {
        let all = std::iter::once("switchback").chain(arguments.iter().copied()).map(OsString::from);
        let cli = parse(all)?;
        Ok(match cli.command {
            Some(Command::Serve(serve)) => serve,
            _ => cli.serve,
        })
    }

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_stand_with_and_without_serve() {
        for arguments in [&["--heartbeat", "3s"][..], &["serve", "--heartbeat", "3s"]] {
            assert_eq!(serve(arguments).unwrap().heartbeat, Duration::from_secs(3));
        }
        assert_eq!(serve(&[]).unwrap().max_age, Duration::from_secs(7 * 24 * 3600));
    }

    #[test]
    fn flags_override_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(
            &file,
            "max-age = \"24h\"\nmax-events = 5\nallow-anonymous = true\nallow-origin = [\"https://a.test\", \"https://b.test\"]\n",
        )
        .unwrap();
        let path = file.path().to_str().unwrap();
        for command in [&["--config", path, "--max-events", "6"][..], &["serve", "--max-events", "6", "--config", path]]
        {
            let args = serve(command).unwrap();
            assert_eq!((args.max_age, args.max_events), (Duration::from_secs(24 * 3600), 6));
            assert!(args.access.allow_anonymous);
            assert_eq!(args.allow_origin.len(), 2);
        }
    }

    #[test]
    fn an_error_in_a_file_names_the_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, expected) in [
            ("max-agee = 1", "did you mean max-age?"),
            ("max-age = [\"1h\", \"2h\"]", "max-age takes one value"),
            ("max-age = []", "max-age takes one value"),
            ("allow-anonymous = [\"true\", \"false\"]", "allow-anonymous takes one value"),
            ("max-age = 1.5", "max-age"),
            ("max-age", "TOML"),
            ("max-age = \"x\"", "max-age"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = serve(&["--config", file.path().to_str().unwrap()]).unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
        assert!(serve(&["--config", "/nowhere/x.toml"]).is_err());
    }

    #[test]
    fn wrong_values_are_refused() {
        for arguments in [
            ["--heartbeat", "10ms"],
            ["--heartbeat", "5"],
            ["--max-bytes", "5x"],
            ["--store", "mongo"],
            ["--allow-origin", "a.test"],
            ["--replicas", "0"],
            // As a module's name, it would turn off every other line.
            ["--log", "warning"],
            ["--log", "info,switchback"],
            ["--log", "switchback=warning"],
        ] {
            assert!(serve(&arguments).is_err(), "{arguments:?}");
        }
        assert_eq!(bytes("3GiB"), Ok(3 << 30));
        for filter in ["warn", "OFF", "info,switchback=debug", "warn,[span]=trace"] {
            assert!(serve(&["--log", filter]).is_ok(), "{filter}");
        }
    }

    #[test]
    fn only_the_server_reads_the_file() {
        let parse = |arguments: &[&str]| {
            parse(std::iter::once("switchback").chain(arguments.iter().copied()).map(OsString::from))
        };
        for arguments in [&["--config", "/nowhere.toml"][..], &["serve", "--config", "/nowhere.toml"]] {
            let error = parse(arguments).unwrap_err();
            assert!(error.to_string().contains("/nowhere.toml"), "{arguments:?}: {error}");
            let error = parse(&[arguments, &["--help"]].concat()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{arguments:?}");
        }
        assert!(is_server(&["switchback".into()]) && !is_server(&["switchback".into(), "token".into()]));
    }

    #[test]
    fn a_store_is_chosen_with_all_that_it_takes() {
        let store = |arguments: &[&str]| serve(arguments).unwrap().into_config().unwrap().store;
        assert!(matches!(store(&["--data", "d"]), StoreConfig::Disk { directory } if directory.ends_with("d")));
        assert!(matches!(store(&["--store", "memory"]), StoreConfig::Memory));
        let StoreConfig::Nats(options) = store(&["--store", "nats://n1,n2", "--replicas", "3"]) else {
            panic!("expected the NATS store")
        };
        assert_eq!((options.servers.len(), options.replicas), (2, Some(3)));
    }

    /// On loopback every client is on this machine, unless a proxy names the client's address; subjects are known everywhere.
    #[test]
    fn limits_of_an_address_apply_where_addresses_are_known() {
        let basis = limits::Basis { loopback: true, retained_bytes: 1, batch_bytes: 1 };
        let options = |arguments: &[&str]| serve(arguments).unwrap().limits.options(basis);
        let rates = |options: &crate::limits::LimitOptions| {
            let address = [options.connects_per_address, options.requests_per_address, options.events_per_address];
            let subject = [options.connects_per_subject, options.events_per_subject];
            let bytes = [options.event_bytes_per_address, options.event_bytes_per_subject];
            (address.map(|rate| rate.is_some()), subject.map(|rate| rate.is_some()), bytes.map(|rate| rate.is_some()))
        };
        let plain = options(&[]);
        assert_eq!(rates(&plain), ([false; 3], [true; 2], [false, true]));
        assert_eq!((plain.held_per_address_max, plain.held_per_subject_max), (None, Some(1000)));
        assert_eq!(plain.memory.bytes_per_peer_max, Some(64 << 20));
        let behind = options(&["--trusted-proxy", "127.0.0.1"]);
        assert_eq!(rates(&behind), ([true; 3], [true; 2], [true; 2]));
        assert_eq!(behind.held_per_address_max, Some(1000));
        let none = options(&["--max-memory-per-peer", "0", "--publish-rate-per-subject", "0"]);
        assert_eq!((none.memory.bytes_per_peer_max, none.events_per_subject), (None, None));
    }

    /// One publisher takes four hours to replace what is retained, within the limits of what a publisher and a disk need.
    #[test]
    fn bytes_of_events_have_a_pace_that_follows_from_retention() {
        let bytes = |arguments: &[&str]| {
            let all = [&["--listen", "0.0.0.0:0", "--allow-anonymous"], arguments].concat();
            let limits = serve(&all).unwrap().into_config().unwrap().http_options.limits;
            let options = limits.options();
            assert_eq!(options.event_bytes_per_address, options.event_bytes_per_subject);
            options.event_bytes_per_address.map_or(0, |rate| rate.get())
        };
        assert_eq!(u64::from(bytes(&[])), (16 << 30) / (4 * 3600));
        assert_eq!(bytes(&["--store", "memory"]), 128 << 10);
        assert_eq!(bytes(&["--max-bytes", "1024GiB"]), 4 << 20);
        assert_eq!(bytes(&["--max-bytes", "0"]), 4 << 20);
        let given = ["--publish-bytes-per-address", "1MiB", "--publish-bytes-per-subject", "1MiB"];
        assert_eq!(bytes(&given), 1 << 20);
        assert!(serve(&["--publish-bytes-per-subject", "65MiB"]).unwrap().into_config().is_err());
    }

    #[test]
    fn only_loopback_is_open_by_default() {
        let open = serve(&["--listen", "0.0.0.0:0"]).unwrap().into_config().unwrap_err().to_string();
        assert!(open.contains("--allow-anonymous"), "{open}");
        assert!(serve(&["--listen", "0.0.0.0:0", "--allow-anonymous"]).unwrap().into_config().is_ok());
        assert!(serve(&["--listen", "[::1]:0"]).unwrap().into_config().is_ok());
        assert!(serve(&["--listen", "nonsense"]).unwrap().into_config().is_err());
    }
}
