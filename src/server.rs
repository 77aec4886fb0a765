//! The server: a store, a hub and its routes behind a listener, until it is told to stop.

use std::future::Future;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::{App, HttpServer};

use crate::config::{Config, StoreChoice};
use crate::http::{pages, routes};
use crate::hub::Hub;
use crate::store::{DiskStore, JetStreamStore, MemoryStore, OpenError, Store, StoreError};

/// How often the end of a drain is looked for.
const DRAIN_POLL: Duration = Duration::from_millis(20);

/// How long sockets that linger after their last answer are waited for, in seconds.
const SHUTDOWN_SECONDS: u64 = 1;

/// A server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The store cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The store cannot be read.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}: {reason}; choose another with --listen")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        reason: std::io::Error,
    },
    /// The server failed while it ran.
    #[error("the server failed: {0}")]
    Run(#[from] std::io::Error),
}

/// A server that listens, and does not serve yet.
#[derive(Debug)]
pub struct Server {
    config: Config,
    listener: TcpListener,
    hub: Hub,
    address: SocketAddr,
}

impl Server {
    /// Opens the store and listens.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn bind(config: Config) -> Result<Self, ServerError> {
        let store: Arc<dyn Store> = match (&config.store, &config.nats) {
            (StoreChoice::Nats(_), Some(nats)) => {
                Arc::new(JetStreamStore::open(nats.clone(), config.store_options).await?)
            }
            (StoreChoice::Memory, _) => Arc::new(MemoryStore::new(config.store_options)),
            (StoreChoice::Disk | StoreChoice::Nats(_), _) => {
                Arc::new(DiskStore::open(&config.data, config.store_options)?)
            }
        };
        let hub = Hub::open(store, config.hub_options).await?;
        let refused = |reason| ServerError::Listen { address: config.listen, reason };
        let listener = TcpListener::bind(config.listen).map_err(refused)?;
        let address = listener.local_addr().map_err(refused)?;
        Ok(Self { config, listener, hub, address })
    }

    /// Where it listens: the port that was free, where 0 was asked for.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The hub, to publish and subscribe beside what comes over HTTP.
    #[must_use]
    pub fn hub(&self) -> &Hub {
        &self.hub
    }

    /// Serves until `shutdown` is there, then drains: new work is refused, streams end one by one within the drain
    /// time, and the store is closed.
    ///
    /// # Errors
    /// [`ServerError::Run`].
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), ServerError> {
        let Self { config, listener, hub, .. } = self;
        let (app_hub, http_options) = (hub.clone(), config.http_options.clone());
        let stall_timeout = config.stall_timeout;
        let server =
            HttpServer::new(move || App::new().configure(routes(&app_hub, http_options.clone())).configure(pages))
                .workers(config.workers)
                .max_connections(config.connections_max.div_ceil(config.workers))
                .backlog(4096)
                .client_request_timeout(config.header_timeout)
                // A held request ends when its client goes: half-closed connections are not kept for their answer.
                .h1_allow_half_closed(false)
                .on_connect(move |connection, _| bound_stalls(connection, stall_timeout))
                .disable_signals()
                .shutdown_timeout(SHUTDOWN_SECONDS)
                .listen(listener)?
                .run();
        let handle = server.handle();
        let mut serving = std::pin::pin!(server);
        tokio::select! {
            ended = &mut serving => {
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
        hub.close().await;
        Ok(ended?)
    }
}

/// Waits until every stream has ended, at most for the time that was given.
async fn drained(hub: &Hub, within: Duration) {
    let end = Instant::now() + within;
    while hub.live() > 0 && Instant::now() < end {
        tokio::time::sleep(DRAIN_POLL).await;
    }
}

/// Bytes that the kernel takes for a peer before they can be sent. It would take megabytes for each that does not read,
/// where they do not show as ours; the network's own need, what is under way, is not limited by this.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

/// A peer that takes nothing of what is sent to it holds a buffer for nothing: little of one, and not for long. The
/// kernel knows how long that has been so; actix has no such deadline, and a body that is not polled cannot have one.
fn bound_stalls(connection: &dyn std::any::Any, after: Duration) {
    let Some(stream) = connection.downcast_ref::<actix_web::rt::net::TcpStream>() else { return };
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(stream);
        let bounded = socket.set_tcp_user_timeout(Some(after)).and(socket.set_tcp_notsent_lowat(UNSENT_BYTES));
        if let Err(error) = bounded {
            tracing::debug!(%error, "stalls are not bounded on this connection");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, after);
}

/// What `serve` says when it is ready.
#[must_use]
pub fn greeting(config: &Config, address: SocketAddr) -> String {
    let store = match (&config.store, &config.nats) {
        (StoreChoice::Nats(_), Some(nats)) => {
            let servers: Vec<String> = nats.servers.iter().map(ToString::to_string).collect();
            format!("in NATS at {}", servers.join(","))
        }
        (StoreChoice::Memory, _) => "in memory".to_owned(),
        (StoreChoice::Disk | StoreChoice::Nats(_), _) => format!("on disk in {}", absolute(&config.data).display()),
    };
    format!("switchback {} listens on http://{address}, its log is {store}", env!("CARGO_PKG_VERSION"))
}

fn absolute(path: &std::path::Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
