//! The server's flags, and the [`Config`] that they make.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, ValueEnum};

use super::limits::Basis;
use super::values::{address, bytes, duration, log_filter};
use super::{AccessArgs, Config, ConfigError, LimitArgs, NatsArgs, StoreChoice, StoreConfig, TlsArgs};
use crate::http::{AllowedOrigin, HttpOptions};
use crate::hub::HubOptions;
use crate::limits::Limits;
use crate::store::{KeepRule, KeepRules, Retention, StoreOptions};
use crate::tail::TailLimits;

/// The form of the log's lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For a person.
    Human,
    /// An object a line, for programs.
    Json,
}

/// The server's flags.
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The address and port to listen on; port 0 takes a free one
    #[arg(long, env = "SWITCHBACK_LISTEN", value_name = "ADDRESS", default_value = "127.0.0.1:8080")]
    pub listen: String,
    /// Where the log is stored: disk, memory (lost when the process ends), or nats://host:4222[,host:4222...], tls:// for
    /// encrypted connections
    #[arg(long, env = "SWITCHBACK_STORE", value_name = "STORE", default_value = "disk")]
    pub store: StoreChoice,
    /// Directory of the disk store; created if it is missing
    #[arg(long, env = "SWITCHBACK_DATA", value_name = "DIR", default_value = "./switchback-data")]
    pub data: PathBuf,
    /// A TOML file with any of these flags as keys: max-age = "24h"
    #[arg(long, env = "SWITCHBACK_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Authentication and authorization.
    #[command(flatten)]
    pub access: AccessArgs,
    /// Let pages of this origin read and publish, besides the server's own; repeat it, or separate with commas.
    /// `https://app.example.com`, `https://*.example.com`, or `null`
    #[arg(long, env = "SWITCHBACK_ALLOW_ORIGIN", value_name = "ORIGIN", value_delimiter = ',')]
    pub allow_origin: Vec<AllowedOrigin>,
    /// How long events are kept (0s: for ever)
    #[arg(long, env = "SWITCHBACK_MAX_AGE", value_name = "DURATION", default_value = "7d", value_parser = duration)]
    pub max_age: Duration,
    /// What is kept of the topics that match a pattern, instead of --max-age: latest (of each topic the newest event, until it is
    /// deleted), an age such as 30d, 1000 events (of each topic), or several with commas. Repeat it; the first rule that matches a
    /// topic counts. In the variable, rules are separated with semicolons
    #[arg(long, env = "SWITCHBACK_KEEP", value_name = "PATTERN=RULE", value_delimiter = ';')]
    pub keep: Vec<KeepRule>,
    /// How long the deletion of a value stays, where --keep says latest
    #[arg(long, env = "SWITCHBACK_KEEP_DELETED", value_name = "DURATION", default_value = "7d", value_parser = duration)]
    pub keep_deleted: Duration,
    /// Most events that are kept (0: any number)
    #[arg(long, env = "SWITCHBACK_MAX_EVENTS", value_name = "NUMBER", default_value_t = 0)]
    pub max_events: u64,
    /// Most bytes of events that are kept, such as 512MiB (0: any) [default: 16GiB on disk, 4GiB in NATS, 256MiB in memory]
    #[arg(long, env = "SWITCHBACK_MAX_BYTES", value_name = "BYTES", value_parser = bytes)]
    pub max_bytes: Option<u64>,
    /// How long a repeated topic and id is answered with the first event's cursor (0s: never)
    #[arg(long, env = "SWITCHBACK_DEDUPE_WINDOW", value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub dedupe_window: Duration,
    /// Most ids within that window, about 150 bytes each; further publishes with an id are answered 503
    #[arg(long, env = "SWITCHBACK_DEDUPE_KEYS", value_name = "NUMBER", default_value_t = 1_000_000)]
    pub dedupe_keys: usize,
    /// Most ids within that window of one publisher: a token's subject, or an address other than loopback; further publishes with
    /// an id are answered 429 [default: a fifth of dedupe-keys]
    #[arg(long, env = "SWITCHBACK_DEDUPE_KEYS_PER_PUBLISHER", value_name = "NUMBER")]
    pub dedupe_keys_per_publisher: Option<usize>,
    /// Send a heartbeat on a stream that was idle for this long (100ms to 1h)
    #[arg(long, env = "SWITCHBACK_HEARTBEAT", value_name = "DURATION", default_value = "20s", value_parser = heartbeat)]
    pub heartbeat: Duration,
    /// Longest age of a stream; each ends at 90 to 100% of it (0s: any)
    #[arg(long, env = "SWITCHBACK_MAX_STREAM_AGE", value_name = "DURATION", default_value = "0s", value_parser = duration)]
    pub max_stream_age: Duration,
    /// The time over which the ends of streams are spread when the server stops
    #[arg(long, env = "SWITCHBACK_DRAIN", value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub drain: Duration,
    /// How long disconnected clients are remembered
    #[arg(long, env = "SWITCHBACK_CLIENT_IDLE", value_name = "DURATION", default_value = "7d", value_parser = duration)]
    pub client_idle: Duration,
    /// Most clients that are remembered, about 300 bytes each (a client counts once more for each whole KiB of its patterns);
    /// clients without a subject are evicted first, and among those the longest idle
    #[arg(long, env = "SWITCHBACK_MAX_CLIENTS", value_name = "NUMBER", default_value_t = 100_000)]
    pub max_clients: usize,
    /// Most remembered clients of one token's subject; its own longest idle client is evicted (0: any number)
    #[arg(long, env = "SWITCHBACK_MAX_CLIENTS_PER_SUBJECT", value_name = "NUMBER", default_value_t = 5000)]
    pub max_clients_per_subject: usize,
    /// Most remembered clients without a subject of one client address (0: any number) [default: 5000; on loopback 0]
    #[arg(long, env = "SWITCHBACK_MAX_CLIENTS_PER_ADDRESS", value_name = "NUMBER")]
    pub max_clients_per_address: Option<usize>,
    /// Longest event, as received
    #[arg(long, env = "SWITCHBACK_MAX_EVENT_BYTES", value_name = "BYTES", default_value = "256KiB", value_parser = bytes)]
    pub max_event_bytes: u64,
    /// Refuse events with unknown keys (400), instead of ignoring these keys and naming them in the response
    #[arg(long, env = "SWITCHBACK_STRICT")]
    pub strict: bool,
    /// Longest batch, as received
    #[arg(long, env = "SWITCHBACK_MAX_BATCH_BYTES", value_name = "BYTES", default_value = "4MiB", value_parser = bytes)]
    pub max_batch_bytes: u64,
    /// Events that each worker keeps in memory; older ones are read from the store
    #[arg(long, env = "SWITCHBACK_TAIL_EVENTS", value_name = "NUMBER", default_value_t = 16_384)]
    pub tail_events: usize,
    /// Bytes of events that are kept in memory
    #[arg(long, env = "SWITCHBACK_TAIL_BYTES", value_name = "BYTES", default_value = "16MiB", value_parser = bytes)]
    pub tail_bytes: u64,
    /// Limits.
    #[command(flatten)]
    pub limits: LimitArgs,
    /// TLS.
    #[command(flatten)]
    pub tls: TlsArgs,
    /// The number of worker threads [default: one per core]
    #[arg(long, env = "SWITCHBACK_WORKERS", value_name = "NUMBER")]
    pub workers: Option<usize>,
    /// Serve no pages: neither the front page nor the comparison, the review desk and the page for old browsers. The client
    /// library is served all the same
    #[arg(long, env = "SWITCHBACK_NO_PAGES")]
    pub no_pages: bool,
    /// Serve the pages from this directory instead of the built-in ones
    #[arg(long = "static", env = "SWITCHBACK_STATIC", value_name = "DIR")]
    pub static_dir: Option<PathBuf>,
    /// Serve this file as /.well-known/security.txt (RFC 9116): where vulnerabilities of this installation are reported
    #[arg(long, env = "SWITCHBACK_SECURITY_TXT", value_name = "FILE")]
    pub security_txt: Option<PathBuf>,
    /// Log each request when its response has ended: client, path and outcome. Secrets in the query are left out
    #[arg(long, env = "SWITCHBACK_ACCESS_LOG")]
    pub access_log: bool,
    /// Serve all of HTTP/1.1 through the actix-web App, as where the routes are embedded: for tests, which hold both ways to the same
    #[arg(long, env = "SWITCHBACK_THROUGH_APP", hide = true)]
    pub through_app: bool,
    /// Serve `/metrics`, `/healthz` and `/readyz` on this address, too, over plain HTTP and without a key: an address that only
    /// the monitoring reaches
    #[arg(long, env = "SWITCHBACK_METRICS_LISTEN", value_name = "ADDRESS")]
    pub metrics_listen: Option<String>,
    /// What to log on standard error: error, warn, info, debug, or a filter by module
    #[arg(
        long,
        env = "SWITCHBACK_LOG",
        value_name = "FILTER",
        default_value = "warn,switchback=info,actix_http=off,h2=error",
        value_parser = log_filter
    )]
    pub log: String,
    /// The form of the lines on standard error: human, or json with one object a line
    #[arg(long, env = "SWITCHBACK_LOG_FORMAT", value_name = "FORMAT", default_value = "human")]
    pub log_format: LogFormat,
    /// The connection to NATS.
    #[command(flatten)]
    pub nats: NatsArgs,
}

/// Most remembered clients without a subject of one address, where the server listens on other addresses than loopback.
const ADDRESS_CLIENTS: usize = 5000;

impl ServeArgs {
    /// Validates the flags and their combinations.
    ///
    /// # Errors
    /// [`ConfigError`] names the invalid flag and what would be valid.
    pub fn into_config(self) -> Result<Config, ConfigError> {
        let listen = address("listen", &self.listen)?;
        let http_redirect = self.tls.redirect()?;
        let metrics_listen = self.metrics_listen.as_deref().map(|text| address("metrics-listen", text)).transpose()?;
        let readable = self.access.readable();
        let access = self.access.clone().options()?;
        if !listen.ip().is_loopback() && access.keys.is_none() && !access.allow_anonymous {
            return Err(ConfigError::OpenWithoutKey(listen));
        }
        let range = |flag, ok: bool, reason| if ok { Ok(()) } else { Err(ConfigError::Range { flag, reason }) };
        range("workers", self.workers != Some(0), "must be at least 1")?;
        range("tail-events", self.tail_events > 0, "must be at least 1")?;
        range("max-clients", self.max_clients > 0, "must be at least 1")?;
        range("max-event-bytes", (1..=64 << 20).contains(&self.max_event_bytes), "must be 1 to 64MiB")?;
        range(
            "max-batch-bytes",
            (self.max_event_bytes..=1 << 30).contains(&self.max_batch_bytes),
            "must be max-event-bytes to 1GiB",
        )?;
        self.limits.check(self.max_event_bytes)?;
        let bytes_max = self.max_bytes.unwrap_or(match self.store {
            StoreChoice::Disk => 16 << 30,
            // JetStream reserves this space in advance, on each server with a replica.
            StoreChoice::Nats(_) => 4 << 30,
            StoreChoice::Memory => 256 << 20,
        });
        let store = match &self.store {
            StoreChoice::Nats(url) => StoreConfig::Nats(Box::new(self.nats.into_options(url, readable)?)),
            StoreChoice::Disk => StoreConfig::Disk { directory: self.data },
            StoreChoice::Memory => StoreConfig::Memory,
        };
        let address_clients = if listen.ip().is_loopback() { 0 } else { ADDRESS_CLIENTS };
        let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        let basis =
            Basis { loopback: listen.ip().is_loopback(), retained_bytes: bytes_max, batch_bytes: self.max_batch_bytes };
        let http = HttpOptions::default();
        Ok(Config {
            listen,
            store_options: StoreOptions {
                retention: Retention {
                    age_max: some_time(self.max_age),
                    events_max: (self.max_events > 0).then_some(self.max_events),
                    bytes_max: (bytes_max > 0).then_some(bytes_max),
                },
                keep: Arc::new(KeepRules::new(self.keep, self.keep_deleted)?),
                dedupe_window: self.dedupe_window,
                dedupe_keys_max: self.dedupe_keys,
                dedupe_keys_per_publisher_max: self.dedupe_keys_per_publisher.unwrap_or(self.dedupe_keys.div_ceil(5)),
                client_idle_max: self.client_idle,
                clients_max: self.max_clients,
                clients_per_subject_max: some_number(self.max_clients_per_subject),
                clients_per_address_max: some_number(self.max_clients_per_address.unwrap_or(address_clients)),
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
                strict: self.strict,
                batch_bytes_max: size(self.max_batch_bytes),
                ws_bytes_max: size(self.limits.max_ws_bytes.max(self.max_event_bytes)),
                echo_bytes_max: size(self.limits.max_echo_bytes),
                patterns_max: self.limits.max_patterns,
                header_bytes_max: size(self.limits.max_header_bytes),
                limits: Arc::new(Limits::new(self.limits.options(basis))),
                trusted_proxies: self.limits.trusted_proxy,
                proxy_header: self.limits.proxy_header,
                hsts: self.tls.hsts,
                body_timeout: self.limits.body_timeout,
                allowed_origins: self.allow_origin.into_iter().collect(),
                access,
                loopback_only: listen.ip().is_loopback(),
                pages: !self.no_pages,
                static_dir: self.static_dir,
                security_txt: self.security_txt,
                ..http
            },
            store,
            drain: self.drain,
            header_timeout: self.limits.header_timeout,
            keep_alive: self.limits.keep_alive,
            stall_timeout: self.limits.stall_timeout,
            read_bytes_per_second_min: self.limits.min_read_rate,
            read_rate_window: self.limits.read_rate_window,
            connections_max: self.limits.max_connections,
            http2_streams_max: self.limits.max_http2_streams,
            tls: self.tls.files(readable)?,
            http_redirect,
            metrics_listen,
            access_log: self.access_log,
            through_app: self.through_app,
            workers: self.workers.unwrap_or_else(|| std::thread::available_parallelism().map_or(1, usize::from)),
        })
    }
}

fn some_number(number: usize) -> Option<usize> {
    (number > 0).then_some(number)
}

fn some_time(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}

fn heartbeat(text: &str) -> Result<Duration, String> {
    let heartbeat = duration(text)?;
    let range = Duration::from_millis(100)..=Duration::from_secs(3600);
    if range.contains(&heartbeat) { Ok(heartbeat) } else { Err("the heartbeat must be 100ms to 1h".into()) }
}
