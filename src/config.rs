//! The command line, the environment and the configuration file, made into one valid [`Config`].
//!
//! Every flag has a variable `SWITCHBACK_<FLAG>` and a key of its own name in the TOML file. The flag wins, then the
//! variable, then the file, then the default.

mod access;
mod limits;
mod nats;
mod tls;
mod token;

use std::ffi::OsString;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use uuid::Uuid;

pub use access::{AccessArgs, SecretArgs};
pub use token::{Secret, ShowArgs, TokenArgs};

use crate::http::{AllowedOrigin, HttpOptions};
use crate::hub::HubOptions;
use crate::limits::Limits;
use crate::store::{JetStreamOptions, Retention, StoreOptions};
use crate::tail::TailLimits;

pub use limits::LimitArgs;
pub use nats::NatsArgs;
pub use tls::{TlsArgs, TlsFiles};

/// Events to web pages, in order, once, over whatever transport works.
#[derive(Debug, Parser)]
#[command(name = "switchback", version, args_conflicts_with_subcommands = true, max_term_width = 110)]
pub struct Cli {
    /// What to do; `serve` where nothing is said.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// The server's flags, where no command stands before them.
    #[command(flatten)]
    pub serve: ServeArgs,
}

/// What the program does.
#[derive(Debug, Subcommand)]
#[allow(clippy::large_enum_variant)] // One of them exists in a process, once.
pub enum Command {
    /// Run the server
    Serve(ServeArgs),
    /// Publish one event
    Publish(PublishArgs),
    /// Print events as they come, a line of JSON each
    Subscribe(SubscribeArgs),
    /// Copy the disk store into one file, while a server runs on it or not
    Backup(BackupArgs),
    /// Sign a token with the server's secret, for trying out
    Token(TokenArgs),
}

/// The server's flags.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// Where to listen: an address and a port; port 0 takes a free one
    #[arg(long, env = "SWITCHBACK_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: String,
    /// Where the log lives: disk, memory (gone with the process), or nats://host:4222[,host:4222...], tls:// for
    /// encrypted connections
    #[arg(long, env = "SWITCHBACK_STORE", value_name = "STORE", default_value = "disk")]
    pub store: StoreChoice,
    /// Directory of the disk store; made where it is missing
    #[arg(long, env = "SWITCHBACK_DATA", value_name = "DIR", default_value = "./switchback-data")]
    pub data: PathBuf,
    /// A TOML file with any of these flags as keys: max-age = "24h"
    #[arg(long, env = "SWITCHBACK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Who may come.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Let pages of this origin read and publish, besides the server's own; repeat it, or separate with commas.
    /// `https://app.example.com`, `https://*.example.com`, or `null`
    #[arg(long, env = "SWITCHBACK_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub allow_origin: Vec<AllowedOrigin>,
    /// Keep events so long (0s: for ever)
    #[arg(long, env = "SWITCHBACK_MAX_AGE", value_name = "DURATION", default_value = "7d", value_parser = duration)]
    pub max_age: Duration,
    /// Keep so many events (0: any number)
    #[arg(long, env = "SWITCHBACK_MAX_EVENTS", value_name = "NUMBER", default_value_t = 0)]
    pub max_events: u64,
    /// Keep so many bytes of events, such as 512MiB (0: any number) [default: 16GiB on disk, 4GiB in NATS, 256MiB in memory]
    #[arg(long, env = "SWITCHBACK_MAX_BYTES", value_name = "BYTES", value_parser = bytes)]
    pub max_bytes: Option<u64>,
    /// Answer a repeated topic and id with the first one's cursor for so long (0s: never)
    #[arg(long, env = "SWITCHBACK_DEDUPE_WINDOW", value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub dedupe_window: Duration,
    /// Most ids within that window, about 150 bytes each; past it, publishes with an id are answered 503
    #[arg(long, env = "SWITCHBACK_DEDUPE_KEYS", value_name = "NUMBER", default_value_t = 1_000_000)]
    pub dedupe_keys: usize,
    /// Say something on a stream that was quiet for so long (100ms to 1h)
    #[arg(long, env = "SWITCHBACK_HEARTBEAT", value_name = "DURATION", default_value = "20s", value_parser = heartbeat)]
    pub heartbeat: Duration,
    /// End streams that are so old, each at 90 to 100% of it (0s: never)
    #[arg(long, env = "SWITCHBACK_MAX_STREAM_AGE", value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub max_stream_age: Duration,
    /// Spread the ends of streams over so long when the server stops
    #[arg(long, env = "SWITCHBACK_DRAIN", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub drain: Duration,
    /// Remember clients that are away for so long
    #[arg(long, env = "SWITCHBACK_CLIENT_IDLE", value_name = "DURATION", default_value = "7d", value_parser = duration)]
    pub client_idle: Duration,
    /// Remember so many clients, about 300 bytes each; past it, the one longest away is forgotten
    #[arg(long, env = "SWITCHBACK_MAX_CLIENTS", value_name = "NUMBER", default_value_t = 100_000)]
    pub max_clients: usize,
    /// Longest event, as received
    #[arg(long, env = "SWITCHBACK_MAX_EVENT_BYTES", value_name = "BYTES", default_value = "256KiB", value_parser = bytes)]
    pub max_event_bytes: u64,
    /// Longest batch, as received
    #[arg(long, env = "SWITCHBACK_MAX_BATCH_BYTES", value_name = "BYTES", default_value = "4MiB", value_parser = bytes)]
    pub max_batch_bytes: u64,
    /// Events that each worker keeps at hand; older ones are read from the store
    #[arg(long, env = "SWITCHBACK_TAIL_EVENTS", value_name = "NUMBER", default_value_t = 16_384)]
    pub tail_events: usize,
    /// Bytes of events that are kept at hand
    #[arg(long, env = "SWITCHBACK_TAIL_BYTES", value_name = "BYTES", default_value = "16MiB", value_parser = bytes)]
    pub tail_bytes: u64,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// Threads that serve requests [default: one a core]
    #[arg(long, env = "SWITCHBACK_WORKERS", value_name = "NUMBER")]
    pub workers: Option<usize>,
    /// Serve the pages from this directory instead of those built in
    #[arg(long = "static", env = "SWITCHBACK_STATIC", value_name = "DIR")]
    pub static_dir: Option<PathBuf>,
    /// Log each request when its answer is over: who asked, for what, how it went. Of the query only what is no secret
    #[arg(long, env = "SWITCHBACK_ACCESS_LOG")]
    pub access_log: bool,
    /// What to log on standard error: error, warn, info, debug, or a filter by module
    #[arg(
        long,
        env = "SWITCHBACK_LOG",
        value_name = "FILTER",
        default_value = "warn,switchback=info,actix_http=off,h2=error"
    )]
    pub log: String,
    /// How NATS is reached.
    #[command(flatten)]
    pub nats: NatsArgs,
}

/// Which engine keeps the log.
#[derive(Clone, PartialEq, Eq)]
pub enum StoreChoice {
    /// In the data directory.
    Disk,
    /// In memory.
    Memory,
    /// In NATS JetStream, at this URL, which may hold a password. It is looked at once it can be told what is wrong with
    /// it without showing it.
    Nats(String),
}

impl std::fmt::Debug for StoreChoice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Disk => "Disk",
            Self::Memory => "Memory",
            Self::Nats(_) => "Nats(…)",
        })
    }
}

impl std::str::FromStr for StoreChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "disk" => Ok(Self::Disk),
            "memory" => Ok(Self::Memory),
            nats if nats.starts_with("nats://") || nats.starts_with("tls://") => Ok(Self::Nats(nats.to_owned())),
            _ => Err("a store is disk, memory, nats://host:4222[,host:4222...] or tls://host:4222".into()),
        }
    }
}

/// The flags of a command that speaks to a server.
#[derive(Args, Clone, Debug)]
pub struct RemoteArgs {
    /// The server
    #[arg(long, env = "SWITCHBACK_SERVER", value_name = "URL", default_value = "http://127.0.0.1:8080")]
    pub server: String,
    /// Believe the certificates in this file (PEM), and those that they signed, instead of those that the system believes
    #[arg(long, env = "SWITCHBACK_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Who asks.
    #[command(flatten)]
    pub show: ShowArgs,
}

/// The flags of `publish`.
#[derive(Args, Clone, Debug)]
pub struct PublishArgs {
    /// Where to publish, such as orders.42.status
    pub topic: String,
    /// JSON, or else a text; - or nothing reads standard input, which may be binary
    pub data: Option<String>,
    /// The event's name
    #[arg(long, value_name = "NAME")]
    pub event: Option<String>,
    /// An idempotency key: the same key on the same topic is stored once
    #[arg(long, value_name = "KEY")]
    pub id: Option<String>,
    /// Where the server is.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// The flags of `subscribe`.
#[derive(Args, Clone, Debug)]
pub struct SubscribeArgs {
    /// What to subscribe to, such as 'orders.*' or '>'
    #[arg(required_unless_present = "client")]
    pub patterns: Vec<String>,
    /// What to subscribe over; auto takes the best that works
    #[arg(long, value_name = "NAME", default_value = "auto")]
    pub transport: SubscribeTransport,
    /// Where to start: a cursor, now, or earliest
    #[arg(long, value_name = "CURSOR")]
    pub cursor: Option<String>,
    /// Start with the newest so many events (1 to 1000)
    #[arg(long, value_name = "NUMBER", conflicts_with = "cursor")]
    pub last: Option<u16>,
    /// Be this client: the server remembers its patterns and its place
    #[arg(long, value_name = "UUID")]
    pub client: Option<Uuid>,
    /// Stop after so many events
    #[arg(long, value_name = "NUMBER")]
    pub count: Option<u64>,
    /// Where the server is.
    #[command(flatten)]
    pub remote: RemoteArgs,
}

/// What the command line can subscribe over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
#[allow(missing_docs)] // Each is the transport of its name.
pub enum SubscribeTransport {
    Auto,
    Ws,
    Sse,
    Stream,
    Longpoll,
    Poll,
}

/// The flags of `backup`.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// The file to write; it must not exist
    pub file: PathBuf,
    /// Directory of the disk store
    #[arg(long, env = "SWITCHBACK_DATA", value_name = "DIR", default_value = "./switchback-data")]
    pub data: PathBuf,
}

/// All that a server needs to know; valid.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: SocketAddr,
    /// Which engine keeps the log.
    pub store: StoreChoice,
    /// How NATS is reached, where it keeps the log.
    pub nats: Option<JetStreamOptions>,
    /// Directory of the disk store.
    pub data: PathBuf,
    /// How the store is opened.
    pub store_options: StoreOptions,
    /// The hub's knobs.
    pub hub_options: HubOptions,
    /// The routes' knobs.
    pub http_options: HttpOptions,
    /// How long stopping may take.
    pub drain: Duration,
    /// How long a request's head may take.
    pub header_timeout: Duration,
    /// How long a connection is kept on which there is no request.
    pub keep_alive: Duration,
    /// How long a peer may take nothing of what is sent to it.
    pub stall_timeout: Duration,
    /// Most connections at a time.
    pub connections_max: usize,
    /// Most requests at a time on one HTTP/2 connection.
    pub http2_streams_max: u32,
    /// The certificate and its key, where TLS ends here.
    pub tls: Option<TlsFiles>,
    /// Where plain HTTP is answered with a redirect to HTTPS.
    pub http_redirect: Option<SocketAddr>,
    /// Threads that serve requests.
    pub workers: usize,
    /// Whether each request is written to the log.
    pub access_log: bool,
}

/// The flags do not make a server.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The address is not one.
    #[error("--{flag} {text}: {reason}; it is an address and a port, such as 127.0.0.1:8080")]
    Address {
        /// The flag.
        flag: &'static str,
        /// What was given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Open to all, without having been told so.
    #[error(
        "--listen {0} is not loopback, and there is no key: everybody who reaches it could publish and subscribe; \
             ask for tokens with --jwt-secret-file or --jwks, or add --allow-anonymous if everybody is meant"
    )]
    Open(SocketAddr),
    /// A key cannot be used, or the flags about keys do not go together.
    #[error("{0}")]
    Key(String),
    /// The flags name no NATS store. The URL is not shown: there may be a password in it.
    #[error("--{flag} {reason}")]
    Nats {
        /// The flag.
        flag: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// One of two flags that need each other.
    #[error("--{given} needs --{missing}")]
    Alone {
        /// The flag that is there.
        given: &'static str,
        /// The flag that is not.
        missing: &'static str,
    },
    /// A number is not within its range.
    #[error("--{flag} {reason}")]
    Range {
        /// The flag.
        flag: &'static str,
        /// What would be right.
        reason: &'static str,
    },
}

impl ServeArgs {
    /// Checks what the flags say together.
    ///
    /// # Errors
    /// [`ConfigError`] says which flag is wrong and what would be right.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let listen = address("listen", &self.listen)?;
        let http_redirect = self.tls.redirect()?;
        let access = self.access.clone().options()?;
        if !listen.ip().is_loopback() && access.keys.is_none() && !access.allow_anonymous {
            return Err(ConfigError::Open(listen));
        }
        let range = |flag, ok: bool, reason| if ok { Ok(()) } else { Err(ConfigError::Range { flag, reason }) };
        range("workers", self.workers != Some(0), "is at least 1")?;
        range("tail-events", self.tail_events > 0, "is at least 1")?;
        range("max-clients", self.max_clients > 0, "is at least 1")?;
        range("max-event-bytes", (1..=64 << 20).contains(&self.max_event_bytes), "is 1 to 64MiB")?;
        range(
            "max-batch-bytes",
            (self.max_event_bytes..=1 << 30).contains(&self.max_batch_bytes),
            "is max-event-bytes to 1GiB",
        )?;
        self.limits.check(self.max_event_bytes)?;
        let bytes_max = self.max_bytes.unwrap_or(match self.store {
            StoreChoice::Disk => 16 << 30,
            // JetStream reserves it ahead, on each server that keeps a copy.
            StoreChoice::Nats(_) => 4 << 30,
            StoreChoice::Memory => 256 << 20,
        });
        let nats = match &self.store {
            StoreChoice::Nats(url) => Some(self.nats.into_options(url)?),
            StoreChoice::Disk | StoreChoice::Memory => None,
        };
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let http = HttpOptions::default();
        Ok(Config {
            listen,
            store_options: StoreOptions {
                retention: Retention {
                    age_max: some_time(self.max_age),
                    events_max: (self.max_events > 0).then_some(self.max_events),
                    bytes_max: (bytes_max > 0).then_some(bytes_max),
                },
                dedupe_window: self.dedupe_window,
                dedupe_keys_max: self.dedupe_keys,
                client_idle_max: self.client_idle,
                clients_max: self.max_clients,
                ..StoreOptions::default()
            },
            hub_options: HubOptions {
                tail: TailLimits { events_max: self.tail_events, bytes_max: self.tail_bytes },
                client_idle_max: self.client_idle,
                ..HubOptions::default()
            },
            http_options: HttpOptions {
                heartbeat: self.heartbeat,
                stream_age_max: some_time(self.max_stream_age),
                event_bytes_max: size(self.max_event_bytes),
                batch_bytes_max: size(self.max_batch_bytes),
                ws_bytes_max: size(self.limits.max_ws_bytes.max(self.max_event_bytes)),
                echo_bytes_max: size(self.limits.max_echo_bytes),
                patterns_max: self.limits.max_patterns,
                header_bytes_max: size(self.limits.max_header_bytes),
                limits: Arc::new(Limits::new(self.limits.options(listen.ip().is_loopback()))),
                trusted_proxies: self.limits.trusted_proxy,
                proxy_header: self.limits.proxy_header,
                hsts: self.tls.hsts,
                body_timeout: self.limits.body_timeout,
                allowed_origins: self.allow_origin,
                access,
                loopback_only: listen.ip().is_loopback(),
                static_dir: self.static_dir,
                ..http
            },
            store: self.store,
            nats,
            data: self.data,
            drain: self.drain,
            header_timeout: self.limits.header_timeout,
            keep_alive: self.limits.keep_alive,
            stall_timeout: self.limits.stall_timeout,
            connections_max: self.limits.max_connections,
            http2_streams_max: self.limits.max_http2_streams,
            tls: self.tls.files()?,
            http_redirect,
            access_log: self.access_log,
            workers: self.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        })
    }
}

fn address(flag: &'static str, text: &str) -> Result<SocketAddr, ConfigError> {
    let wrong = |reason: String| ConfigError::Address { flag, text: text.to_owned(), reason };
    let mut addresses = text.to_socket_addrs().map_err(|error| wrong(error.to_string()))?;
    addresses.next().ok_or_else(|| wrong("it names no address".into()))
}

fn some_time(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text).map_err(|error| format!("{error}; a duration is written 500ms, 20s, 5m, 24h or 7d"))
}

fn heartbeat(text: &str) -> Result<Duration, String> {
    let heartbeat = duration(text)?;
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    if range.contains(&heartbeat) { Ok(heartbeat) } else { Err("a heartbeat is 100ms to 1h".into()) }
}

fn bytes(text: &str) -> Result<u64, String> {
    let split = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let shift = match unit.trim() {
        "" | "B" => 0,
        "KiB" | "K" => 10,
        "MiB" | "M" => 20,
        "GiB" | "G" => 30,
        "TiB" | "T" => 40,
        _ => return Err("bytes are written 1048576, 512KiB, 64MiB or 16GiB".into()),
    };
    let number: Option<u64> = digits.parse().ok();
    let product = number.and_then(|number| number.checked_mul(1 << shift));
    product.ok_or_else(|| "bytes are written 1048576, 512KiB, 64MiB or 16GiB".into())
}

/// The command line, with the environment and the file behind it.
///
/// # Errors
/// What clap says of a wrong command line, and where the file is wrong. `--help` and `--version` come as errors, too.
pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let mut command = Cli::command();
    if let Some(file) = config_file(&arguments) {
        command = with_file(command, &file)?;
    }
    Cli::from_arg_matches(&command.try_get_matches_from(arguments)?)
}

/// The file has to be known before the command line can be read whole, since it gives the defaults.
fn config_file(arguments: &[OsString]) -> Option<PathBuf> {
    let mut arguments = arguments.iter();
    while let Some(argument) = arguments.next() {
        let text = argument.to_string_lossy();
        if text == "--config" {
            return arguments.next().map(PathBuf::from);
        }
        if let Some(path) = text.strip_prefix("--config=") {
            return Some(path.into());
        }
    }
    std::env::var_os("SWITCHBACK_CONFIG").filter(|path| !path.is_empty()).map(PathBuf::from)
}

/// The file's values become the flags' defaults, so that clap itself puts flag and variable before them.
fn with_file(mut command: clap::Command, path: &std::path::Path) -> Result<clap::Command, clap::Error> {
    let wrong = |command: &mut clap::Command, reason: String| {
        command.error(clap::error::ErrorKind::InvalidValue, format!("{}: {reason}", path.display()))
    };
    let text = std::fs::read_to_string(path).map_err(|error| wrong(&mut command, error.to_string()))?;
    let table: toml::Table = text.parse().map_err(|error: toml::de::Error| wrong(&mut command, error.to_string()))?;
    for (key, value) in table {
        let known =
            command.get_arguments().find(|argument| argument.get_long() == Some(key.as_str()) && key != "config");
        let Some(id) = known.map(|argument| argument.get_id().clone()) else {
            return Err(wrong(
                &mut command,
                format!("{key} is not a flag of the server; the keys are the flags' names, such as max-age"),
            ));
        };
        let Some(values) = texts(&value) else {
            return Err(wrong(&mut command, format!("{key} is a text, a number, true or false, or a list of texts")));
        };
        let set = |argument: clap::Arg| argument.default_values(values.clone());
        command = command.mut_arg(id.as_str(), set).mut_subcommand("serve", |serve| serve.mut_arg(id.as_str(), set));
    }
    Ok(command)
}

fn texts(value: &toml::Value) -> Option<Vec<String>> {
    match value {
        toml::Value::String(text) => Some(vec![text.clone()]),
        toml::Value::Integer(number) => Some(vec![number.to_string()]),
        toml::Value::Boolean(on) => Some(vec![on.to_string()]),
        toml::Value::Array(values) => values.iter().map(|value| value.as_str().map(str::to_owned)).collect(),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn the_file_stands_behind_the_flags() {
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
    fn a_wrong_file_is_told_by_name() {
        let file = tempfile::NamedTempFile::new().unwrap();
        for (text, told) in [
            ("max-agee = 1", "max-agee"),
            ("max-age = 1.5", "max-age"),
            ("max-age", "TOML"),
            ("max-age = \"x\"", "max-age"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = serve(&["--config", file.path().to_str().unwrap()]).unwrap_err().to_string();
            assert!(error.contains(told), "{text}: {error}");
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
        ] {
            assert!(serve(&arguments).is_err(), "{arguments:?}");
        }
        assert_eq!(bytes("3GiB"), Ok(3 << 30));
    }

    #[test]
    fn only_loopback_is_open_unasked() {
        let open = serve(&["--listen", "0.0.0.0:0"]).unwrap().into_config().unwrap_err().to_string();
        assert!(open.contains("--allow-anonymous"), "{open}");
        assert!(serve(&["--listen", "0.0.0.0:0", "--allow-anonymous"]).unwrap().into_config().is_ok());
        assert!(serve(&["--listen", "[::1]:0"]).unwrap().into_config().is_ok());
        assert!(serve(&["--listen", "nonsense"]).unwrap().into_config().is_err());
    }
}
