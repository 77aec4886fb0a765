//! The server: a store, a hub and its routes behind a listener, until it is shut down.

mod listener;
mod reload;

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use actix_web::App;

use crate::clock::{self, UnusableClock};
use crate::config::{Config, StoreConfig};
use crate::http::Site;
use crate::hub::Hub;
use crate::limits::Limits;
use crate::net::accept::{AcceptOptions, REJECT_SLOTS};
use crate::net::access_log::AccessLog;
use crate::net::http2::Http2Options;
use crate::net::tls::Certificates;
use crate::net::{MinReadRate, Proxies, Timeouts};
use crate::store::{DiskStore, JetStreamStore, MemoryStore, OpenError, Store, StoreError};
use listener::Settings;

pub(crate) use crate::net::access_log::TARGET as ACCESS_LOG;
pub use crate::net::tls::TlsError;
pub use reload::Reloader;

/// How often the end of a drain is checked.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// The accept queue: large enough for a storm of connections. (The kernel has a limit of its own, `somaxconn`.)
const BACKLOG: i32 = 4096;

/// The interval of maintenance: the certificate is checked, and the limits' counters are tidied.
const MAINTENANCE_INTERVAL: Duration = Duration::from_secs(1);

/// How long sockets may linger after their last response, in seconds.
const SHUTDOWN_SECONDS: u64 = 1;

/// Why a server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The wall clock is unusable.
    #[error(transparent)]
    Clock(#[from] UnusableClock),
    /// The certificate or its key cannot be served.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The file for `/.well-known/security.txt` cannot be served.
    #[error("--security-txt {}: {reason}", path.display())]
    SecurityTxt {
        /// The file.
        path: PathBuf,
        /// The operating system's error; or the file is not text, or longer than 32 KiB.
        reason: std::io::Error,
    },
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}; choose another address with --{flag}")]
    Listen {
        /// The flag that gives the address.
        flag: &'static str,
        /// The address.
        address: SocketAddr,
        /// The operating system's error.
        reason: std::io::Error,
    },
    /// The server failed while it ran.
    #[error("the server failed: {0}")]
    Run(#[from] std::io::Error),
}

/// A server that is bound to its address, and does not serve yet.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listener: TcpListener,
    redirect: Option<TcpListener>,
    metrics: Option<(TcpListener, SocketAddr)>,
    certificates: Option<Arc<Certificates>>,
    hub: Hub,
    address: SocketAddr,
}

impl Server {
    /// Opens the store and listens.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        clock::check_usable(SystemTime::now())?;
        let certificates = config.tls.clone().map(Certificates::open).transpose()?;
        check_security_txt(&config)?;
        let store: Arc<dyn Store> = match &config.store {
            StoreConfig::Nats(nats) => {
                Arc::new(JetStreamStore::open((**nats).clone(), config.store_options.clone()).await?)
            }
            StoreConfig::Memory => Arc::new(MemoryStore::new(config.store_options.clone())),
            StoreConfig::Disk { directory } => Arc::new(DiskStore::open(directory, config.store_options.clone())?),
        };
        let hub = Hub::open(store, config.hub_options).await?;
        let (listener, address) = listen("listen", config.listen)?;
        if config.http_options.access.keys.is_none() && !address.ip().is_loopback() {
            tracing::warn!(
                "--allow-anonymous is set, and no key is: every client that reaches {address} may subscribe to and publish anything"
            );
        }
        let redirect = config.http_redirect.map(|address| listen("http-redirect", address)).transpose()?;
        let redirect = redirect.map(|(listener, _)| listener);
        let metrics = config.metrics_listen.map(|address| listen("metrics-listen", address)).transpose()?;
        if let Some((_, address)) = &metrics {
            tracing::info!("the metrics are at http://{address}/metrics");
        }
        Ok(Self { config, listener, redirect, metrics, certificates, hub, address })
    }

    /// The bound address; for port 0 with the port that was chosen.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The hub, for publishing and subscribing within the process.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Reloads keys, certificates and some settings while the server runs.
    #[must_use]
    pub fn reloader(&self) -> Reloader {
        let http = &self.config.http_options;
        Reloader {
            keys: http.access.keys.clone(),
            certificates: self.certificates.clone(),
            allowed_origins: http.allowed_origins.clone(),
            clock: self.hub.clock().clone(),
        }
    }

    /// Serves until `shutdown` completes, then drains: new requests are refused, streams end one by one within the drain time,
    /// and the store is closed.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self { config, listener, redirect, metrics, certificates, hub, address } = self;
        let (site_hub, http_options) = (hub.clone(), config.http_options.clone());
        // Beyond our own limit there is room for connections that are refused with an answer, and for those that are being cut.
        let connections_max = config.connections_max.saturating_add(2 * REJECT_SLOTS);
        let mut builder = actix_server::Server::build()
            .workers(config.workers)
            .max_concurrent_connections(connections_max.div_ceil(config.workers))
            .disable_signals()
            .shutdown_timeout(SHUTDOWN_SECONDS);
        let proxies = Proxies { trusted: http_options.trusted_proxies.clone(), header: http_options.proxy_header };
        let min_read_rate =
            MinReadRate { bytes_per_second: config.read_bytes_per_second_min, window: config.read_rate_window };
        let settings = Settings {
            accept: AcceptOptions {
                limits: http_options.limits.clone(),
                trusted_proxies: http_options.trusted_proxies.clone(),
                tls: certificates.as_ref().map(Certificates::config).transpose()?,
                timeouts: Timeouts { idle: config.keep_alive, head: config.header_timeout },
                stall_timeout: config.stall_timeout,
                min_read_rate,
                rejecting: Arc::default(),
            },
            http2: Http2Options {
                streams_max: config.http2_streams_max,
                header_bytes_max: u32::try_from(http_options.header_bytes_max).unwrap_or(u32::MAX),
                header_timeout: config.header_timeout,
                keep_alive: config.keep_alive,
                stall_timeout: config.stall_timeout,
                min_read_rate,
                limits: http_options.limits.clone(),
                proxies: proxies.clone(),
            },
            through_app: config.through_app,
            access_log: config.access_log.then(|| AccessLog { proxies: proxies.clone() }),
            http: http_options,
            stopping: builder.graceful_shutdown_signal(),
        };
        if let Some(redirect) = redirect {
            let settings = settings.clone();
            let to = address.port();
            builder = builder.listen("redirect", redirect, move || listener::redirecting(settings.clone(), to))?;
        }
        if let Some((metrics, address)) = metrics {
            let (mut settings, hub) = (settings.clone(), hub.clone());
            settings.accept.limits = Arc::new(listener::monitoring_limits());
            settings.accept.rejecting = Arc::default();
            settings.http.loopback_only = address.ip().is_loopback();
            builder =
                builder.listen("metrics", metrics, move || listener::monitoring(settings.clone(), hub.clone()))?;
        }
        let front = move || {
            let app = |site: &Site| App::new().configure(site.mount_all());
            listener::serving(settings.clone(), site_hub.clone(), app)
        };
        let server = builder.listen("http", listener, front)?.run();
        let handle = server.handle();
        let maintenance = tokio::spawn(maintain(certificates, config.http_options.limits.clone()));
        let mut serving = std::pin::pin!(server);
        tokio::select! {
            ended = &mut serving => {
                maintenance.abort();
                hub.close().await;
                return Ok(ended?);
            }
            () = shutdown => {}
        }
        tracing::info!(streams = hub.live(), "shutting down");
        hub.drain(config.drain);
        let stop = async {
            drained(&hub, config.drain).await;
            handle.stop(true).await;
        };
        let (ended, ()) = tokio::join!(serving, stop);
        maintenance.abort();
        hub.close().await;
        Ok(ended?)
    }
}

fn listen(flag: &'static str, address: SocketAddr) -> Result<(TcpListener, SocketAddr), ServerError> {
    use socket2::{Domain, Socket, Type};
    let bound = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        #[cfg(unix)]
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let address = listener.local_addr()?;
        Ok((listener, address))
    };
    bound().map_err(|reason| ServerError::Listen { flag, address, reason })
}

/// Periodic maintenance while the server runs.
async fn maintain(certificates: Option<Arc<Certificates>>, limits: Arc<Limits>) {
    let mut interval = tokio::time::interval(MAINTENANCE_INTERVAL);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        let (certificates, limits) = (certificates.clone(), limits.clone());
        let (done, over) = tokio::sync::oneshot::channel();
        let slice = move || {
            if let Some(certificates) = certificates {
                certificates.refresh();
            }
            limits.sweep();
            let _ = done.send(());
        };
        // A short-lived thread, not one of the runtime's: when a thread ends, mimalloc collects what all threads have freed, and
        // returns memory that was unused for a second to the system. Otherwise it does so when it needs memory, which after a
        // peak may be never.
        if let Err(error) = std::thread::Builder::new().name("maintenance".into()).spawn(slice) {
            tracing::warn!(%error, "the maintenance thread could not be started; trying again");
        }
        let _ = over.await;
    }
}

/// Waits until every stream has ended, at most for the given time.
async fn drained(hub: &Hub, within: Duration) {
    let end = Instant::now() + within;
    while hub.live() > 0 && Instant::now() < end {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

/// The line that `serve` prints when it is ready.
#[must_use]
pub fn greeting(config: &Config, address: SocketAddr) -> String {
    format!("switchback {} {}", env!("CARGO_PKG_VERSION"), summary(config, address))
}

/// Where a server of this configuration listens, and where its log is.
#[must_use]
pub fn summary(config: &Config, address: SocketAddr) -> String {
    let store = match &config.store {
        StoreConfig::Nats(nats) => {
            let servers: Vec<String> = nats.servers.iter().map(ToString::to_string).collect();
            format!("in NATS at {}", servers.join(","))
        }
        StoreConfig::Memory => "in memory".to_owned(),
        StoreConfig::Disk { directory } => format!("on disk in {}", absolute(directory).display()),
    };
    let scheme = if config.tls.is_some() { "https" } else { "http" };
    format!("listens on {scheme}://{address}, its log is {store}")
}

/// Checks the files that a server reads at its start, besides those of its store.
///
/// # Errors
/// [`ServerError::Tls`], [`ServerError::SecurityTxt`].
pub fn check_files(config: &Config) -> Result<(), ServerError> {
    config.tls.clone().map(Certificates::open).transpose()?;
    check_security_txt(config)
}

fn check_security_txt(config: &Config) -> Result<(), ServerError> {
    let Some(path) = &config.http_options.security_txt else { return Ok(()) };
    let read = crate::http::read_security_txt(path);
    read.map(drop).map_err(|reason| ServerError::SecurityTxt { path: path.clone(), reason })
}

fn absolute(path: &std::path::Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
