//! The service of each worker's listener. It passes connections to [`net`](crate::net), which answers the requests that it reads,
//! and to an actix-web `App`, which can serve everything.

use std::future::{Future, ready};
use std::io;
use std::rc::Rc;
use std::time::Duration;

use actix_http::HttpServiceBuilder;
use actix_server::GracefulShutdownSignal;
use actix_service::{IntoServiceFactory, Service, ServiceFactory, fn_factory, fn_service, map_config};
use actix_web::body::MessageBody;
use actix_web::dev::{AppConfig, ServiceResponse};
use bytes::BytesMut;
use futures_util::FutureExt as _;
use tokio::net::TcpStream;

use crate::http::{HttpOptions, Site};
use crate::hub::Hub;
use crate::limits::{LimitOptions, Limits};
use crate::net::accept::{AcceptOptions, accept};
use crate::net::access_log::AccessLog;
use crate::net::fallback::io::{AppIo, BoxedIo};
use crate::net::fallback::{SingleRequest, Tracked};
use crate::net::http1::Http1;
use crate::net::http2::{Http2, Http2Options};
use crate::net::{Request, Response, Service as _, redirect};

/// How long a socket may linger after its last response. With less time, some sockets were never closed after a WebSocket's close
/// frame.
const DISCONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// Most connections to the address of the metrics, of all callers and of one address.
const MONITORING_CONNECTIONS_MAX: usize = 64;
const MONITORING_CONNECTIONS_PER_ADDRESS: usize = 32;

/// A worker's settings.
#[derive(Clone)]
pub(super) struct Settings {
    pub(super) http: HttpOptions,
    pub(super) accept: AcceptOptions,
    pub(super) http2: Http2Options,
    /// Whether the `App` is given every connection of HTTP/1.1 as it is.
    pub(super) through_app: bool,
    pub(super) access_log: Option<AccessLog>,
    pub(super) stopping: GracefulShutdownSignal,
}

/// The service of one worker. `app` mounts the site in an `App`.
pub(super) fn serving<F, I, S, B>(
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
    <S::Service as actix_service::Service<actix_http::Request>>::Future: Unpin + 'static,
    B: MessageBody + Unpin + 'static,
{
    fn_factory(move || {
        let site = Site::with_pages(&hub, settings.http.clone());
        let app = map_config(app(&site), |()| AppConfig::default());
        let settings = Rc::new(settings.clone());
        async move {
            let log = settings.access_log.clone().map(Rc::new);
            let app = Rc::new(Tracked::new(app.new_service(()).await?, log.clone()));
            // One per worker: one per connection would take a quarter of a kilobyte each, and a lock that all of them share.
            let stopping = settings.stopping.clone();
            let stopping = async move { stopping.notified().await }.boxed_local().shared();
            let site = Rc::new(site);
            let plain = (!settings.through_app).then(|| Http1::new(site.clone(), log.clone(), stopping.clone()));
            let plain = Rc::new(plain);
            let http2 = Rc::new(Http2::new(site, log, stopping.clone(), settings.http2.clone()));
            let fallback = HttpServiceBuilder::default()
                // `net::io` has the timeouts of heads and of idle connections.
                .keep_alive(actix_http::KeepAlive::Os)
                .client_request_timeout(Duration::ZERO)
                .client_disconnect_timeout(DISCONNECT_TIMEOUT)
                // A response is sent although the client has closed its sending side; `AppIo` ends held requests.
                .h1_allow_half_closed(true)
                .graceful_shutdown_signal(move || stopping.clone())
                .on_connect_ext(|connection: &BoxedIo, data| {
                    let io = &connection.io;
                    data.insert(io.peer);
                    data.insert(io.activity.clone());
                    data.insert(io.activity.hold.clone());
                    data.insert(io.payer.clone());
                    if let Some(sink) = io.sink() {
                        data.insert(sink.downgrade());
                    }
                })
                .h1(fn_factory(move || ready(Ok::<_, ()>(app.clone()))));
            let fallback = Rc::new(fallback.new_service(()).await?);
            Ok(fn_service(move |stream: TcpStream| {
                let settings = settings.clone();
                let (plain, http2, fallback) = (plain.clone(), http2.clone(), fallback.clone());
                // Boxed, since actix-server reserves a connection's future twice: where it is, and where it is awaited.
                Box::pin(async move {
                    // Boxed, as the others below: every connection would reserve the largest one's size.
                    let Some(accepted) = Box::pin(accept(stream, &settings.accept)).await else { return Ok(()) };
                    if accepted.wire.is_http2() {
                        Box::pin(http2.serve(accepted)).await;
                        return Ok(());
                    }
                    let (io, address, _slot) = accepted.into_http1();
                    let io = match &*plain {
                        Some(plain) => plain.serve(io).await,
                        None => Some(AppIo::new(*io, BytesMut::new())),
                    };
                    let Some(io) = io else { return Ok(()) };
                    if let Err(error) = Box::pin(fallback.call((io, Some(address)))).await {
                        tracing::debug!(%error, "a connection ended with an error");
                    }
                    Ok(())
                })
            }))
        }
    })
}

/// Plain HTTP with the metrics and the health checks. Its connections are limited by themselves: a server that is full can still
/// be examined.
pub(super) fn monitoring(
    settings: Settings,
    hub: Hub,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = io::Error, InitError = ()> {
    fn_factory(move || {
        let options = AcceptOptions { tls: None, ..settings.accept.clone() };
        let site = Site::monitoring(&hub, settings.http.clone());
        single_requests(options, move |request| site.call(request))
    })
}

/// Plain HTTP that redirects to HTTPS on another port.
pub(super) fn redirecting(
    settings: Settings,
    port: u16,
) -> impl ServiceFactory<TcpStream, Config = (), Response = (), Error = io::Error, InitError = ()> {
    fn_factory(move || {
        let options = AcceptOptions { tls: None, ..settings.accept.clone() };
        let http = settings.http.clone();
        single_requests(options, move |request| {
            let answer = redirect::to_https(&request.head, port);
            // No name is sent to HTTPS that is refused there.
            let refused = answer.status.is_redirection().then(|| http.wrong_name(request.headers())).flatten();
            ready(refused.unwrap_or(answer))
        })
    })
}

/// The limits of the connections for the metrics: enough for several monitors, and for a person besides.
pub(super) fn monitoring_limits() -> Limits {
    Limits::new(LimitOptions {
        connections_max: MONITORING_CONNECTIONS_MAX,
        connections_per_address_max: Some(MONITORING_CONNECTIONS_PER_ADDRESS),
        ..LimitOptions::default()
    })
}

/// Plain HTTP/1 with one request a connection, whose body is not read.
async fn single_requests<F, R>(
    options: AcceptOptions,
    respond: F,
) -> Result<impl Service<TcpStream, Response = (), Error = io::Error>, ()>
where
    F: Fn(Request) -> R + 'static,
    R: Future<Output = Response> + 'static,
{
    let respond = Rc::new(respond);
    let answer = fn_service(move |request: actix_http::Request| {
        let (request, respond) = (SingleRequest::new(request), respond.clone());
        async move { Ok::<_, actix_http::Error>(request.respond(|request| respond(request)).await) }
    });
    let http1 = HttpServiceBuilder::default()
        .keep_alive(actix_http::KeepAlive::Disabled)
        .client_request_timeout(Duration::ZERO)
        .client_disconnect_timeout(DISCONNECT_TIMEOUT)
        .on_connect_ext(|connection: &BoxedIo, data| {
            data.insert(connection.io.peer);
            data.insert(connection.io.activity.clone());
        })
        .h1(answer);
    let (http1, options) = (Rc::new(http1.new_service(()).await?), Rc::new(options));
    Ok(fn_service(move |stream: TcpStream| {
        let (options, http1) = (options.clone(), http1.clone());
        async move {
            if let Some(accepted) = Box::pin(accept(stream, &options)).await {
                let (io, address, _slot) = accepted.into_http1();
                let _ = http1.call((AppIo::new(*io, BytesMut::new()), Some(address))).await;
            }
            Ok(())
        }
    }))
}
