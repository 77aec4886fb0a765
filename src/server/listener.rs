//! From an accepted connection to the routes: limits, TLS, and which HTTP it speaks.

use std::future::ready;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use actix_http::HttpServiceBuilder;
use actix_server::GracefulShutdownSignal;
use actix_service::{IntoServiceFactory, Service, ServiceFactory, fn_factory, fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use futures_util::FutureExt as _;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use super::http1::Front;
use super::http2;
use super::io::{BoxedIo, Io, Patience, Wire};
use super::redirect;
use super::watch::Watch;
use crate::http::{HttpOptions, Peer, Site, is_trusted};
use crate::hub::Hub;
use crate::limits::{Permit, RateKey};

/// Connections past the limit that are told so, instead of being cut at once.
pub(super) const TOLD_MAX: usize = 256;

/// How long a socket may linger after its last answer. Less, and some never closed after a WebSocket's close frame.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// What a connection is given.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) http: HttpOptions,
    pub(super) tls: Option<Arc<rustls::ServerConfig>>,
    pub(super) http2: http2::Options,
    pub(super) access_log: bool,
    pub(super) stopping: GracefulShutdownSignal,
    /// Connections past the limit that are being told so.
    pub(super) told: Arc<AtomicUsize>,
}

/// The service of one worker: connections to the routes. `app` puts them under an `App`.
pub(super) fn front<F, I, S, B>(
    settings: Settings,
    hub: Hub,
    app: F,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = io::Error, InitError = ()>
where
    F: Fn(&Site) -> I + 'static,
    I: IntoServiceFactory<S, actix_http::Request>,
    S: ServiceFactory<
            actix_http::Request,
            Config = AppConfig,
            Response = ServiceResponse<B>,
            Error = actix_web::Error,
            InitError = (),
        > + 'static,
    S::Service: 'static,
    <S::Service as Service<actix_http::Request>>::Future: Unpin + 'static,
    B: MessageBody + Unpin + 'static,
{
    fn_factory(move || {
        let site = Site::new(&hub, settings.http.clone());
        let app = map_config(app(&site), |()| AppConfig::default());
        let settings = Rc::new(settings.clone());
        async move {
            let log = settings.access_log.then(|| Rc::new(settings.http.clone()));
            let routes = Watch::new(app.new_service(()).await?, log.clone());
            let shared = routes.clone();
            // One for the worker: of its own, each connection's would take a quarter of a kilobyte, and a lock that all share.
            let stopping = settings.stopping.clone();
            let stopping = async move { stopping.notified().await }.boxed_local().shared();
            let front = Rc::new(Front::new(site, log, stopping.clone()));
            let http1 = HttpServiceBuilder::default()
                // The pauses between requests are timed below, see `io`.
                .keep_alive(actix_http::KeepAlive::Os)
                .client_request_timeout(settings.http2.header_timeout)
                .client_disconnect_timeout(DISCONNECT_TIMEOUT)
                // A held request ends when its client goes: half-closed connections are not kept for their answer.
                .h1_allow_half_closed(false)
                .graceful_shutdown_signal(move || stopping.clone())
                .on_connect_ext(|io: &BoxedIo, data| {
                    data.insert(io.peer);
                    data.insert(io.activity.clone());
                    if let Some(outlet) = io.outlet() {
                        data.insert(outlet.downgrade());
                    }
                })
                .h1(fn_factory(move || ready(Ok::<_, ()>(shared.clone()))));
            let http1 = Rc::new(http1.new_service(()).await?);
            Ok(fn_service(move |stream: TcpStream| {
                let (settings, routes) = (settings.clone(), routes.clone());
                let (front, http1) = (front.clone(), http1.clone());
                async move {
                    let Some(accepted) = Box::pin(accept(stream, &settings)).await else { return Ok(()) };
                    let Accepted { wire, address, peer, counted, _told } = accepted;
                    if wire.is_http2() {
                        let _counted = counted;
                        // Boxed, as the handshake is: every plain connection would carry the larger one's size.
                        Box::pin(http2::serve(wire, peer, routes, settings.http2, settings.stopping.clone())).await;
                        return Ok(());
                    }
                    let patience = Patience { idle: settings.http2.keep_alive, head: settings.http2.header_timeout };
                    let Some(io) = front.serve(Io::new(wire, peer, patience, counted)).await else { return Ok(()) };
                    // Boxed, as above.
                    if let Err(error) = Box::pin(http1.call((io, Some(address)))).await {
                        tracing::debug!(%error, "a connection ends");
                    }
                    Ok(())
                }
            }))
        }
    })
}

/// Plain HTTP, where there is HTTPS on another port.
pub(super) fn redirecting(
    settings: Settings,
    port: u16,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = io::Error, InitError = ()> {
    fn_factory(move || {
        let settings = Rc::new(Settings { tls: None, ..settings.clone() });
        async move {
            let redirect =
                fn_service(move |request| ready(Ok::<_, actix_http::Error>(redirect::to_https(&request, port))));
            let http1 = HttpServiceBuilder::default()
                .keep_alive(actix_http::KeepAlive::Disabled)
                .client_request_timeout(settings.http2.header_timeout)
                .client_disconnect_timeout(DISCONNECT_TIMEOUT)
                .h1(redirect);
            let http1 = Rc::new(http1.new_service(()).await?);
            Ok(fn_service(move |stream: TcpStream| {
                let (settings, http1) = (settings.clone(), http1.clone());
                async move {
                    if let Some(Accepted { wire, address, peer, counted, _told }) =
                        Box::pin(accept(stream, &settings)).await
                    {
                        let (idle, head) = (Duration::ZERO, settings.http2.header_timeout);
                        let io = Io::new(wire, peer, Patience { idle, head }, counted);
                        let _ = http1.call((io, Some(address))).await;
                    }
                    Ok(())
                }
            }))
        }
    })
}

/// A connection that may speak.
struct Accepted {
    wire: Wire,
    address: SocketAddr,
    peer: Peer,
    counted: Option<Permit>,
    _told: Option<Told>,
}

/// One of those that are told that there are too many.
struct Told(Arc<AtomicUsize>);

impl Told {
    fn new(told: &Arc<AtomicUsize>) -> Option<Self> {
        let one = Self(told.clone());
        (told.fetch_add(1, Ordering::Relaxed) < TOLD_MAX).then_some(one)
    }
}

impl Drop for Told {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn accept(stream: TcpStream, settings: &Settings) -> Option<Accepted> {
    let address = stream.peer_addr().ok()?;
    bound_stalls(&stream, settings.http2.stall_timeout);
    let ip = address.ip().to_canonical();
    let key = (!is_trusted(ip, &settings.http.trusted_proxies)).then(|| RateKey::at(ip));
    let (counted, refused, _told) = match settings.http.limits.connection(key.as_ref()) {
        Ok(counted) => (Some(counted), None, None),
        Err(error) => (None, Some(error), Some(Told::new(&settings.told)?)),
    };
    let wire = match &settings.tls {
        None => Wire::plain(stream),
        Some(config) => {
            let shaking_hands = TlsAcceptor::from(config.clone()).accept(stream);
            Wire::Tls(Box::new(timeout(settings.http2.header_timeout, shaking_hands).await.ok()?.ok()?))
        }
    };
    let peer = Peer { address: ip, secure: settings.tls.is_some(), refused };
    Some(Accepted { wire, address, peer, counted, _told })
}

/// Bytes that the kernel takes for a peer before they can be sent. It would take megabytes for each that does not read,
/// where they do not show as ours; the network's own need, what is under way, is not limited by this.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 128 << 10;

/// A peer that takes nothing of what is sent to it holds a buffer for nothing: little of one, and not for long. The
/// kernel knows how long that has been so; actix has no such deadline, and a body that is not polled cannot have one.
/// Events go out when they come, not when the last one has been acknowledged (RFC 1122 §4.2.3.4 asks for a way to say so).
fn bound_stalls(stream: &TcpStream, after: Duration) {
    let _ = stream.set_nodelay(true);
    #[cfg(target_os = "linux")]
    {
        let socket = socket2::SockRef::from(stream);
        let bounded = socket.set_tcp_user_timeout(Some(after)).and(socket.set_tcp_notsent_lowat(UNSENT_BYTES));
        if let Err(error) = bounded {
            tracing::debug!(%error, "stalls are not bounded on this connection");
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = after;
}
