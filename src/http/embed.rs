//! Mounts the routes in an actix-web `App`: converts its requests to [`Request`]s, and [`Response`]s to its responses. The
//! only file of `http` that knows actix-web.

use std::rc::Rc;

use actix_http::ConnectionType;
use actix_web::dev::{Path, Payload, RequestHead, Service as _, Url};
use actix_web::http::header::{CONNECTION, CONTENT_LENGTH, HeaderMap, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::future::LocalBoxFuture;

use super::assets;
use super::call::Call;
use super::options::HttpOptions;
use super::route::{self, Route};
use super::security_txt;
use super::site::Site;
use super::state::State;
use crate::hub::Hub;
use crate::net::{Activity, HeadError, Hold, Payer, Peer, Request, RequestBody, Response, WeakSink, fallback};

mod retained;
mod socket;

use retained::RetainedPayload;

/// The routes of a hub, to be mounted into any actix-web `App`, at its root or under any prefix.
///
/// Mount it in a scope of its own. Two settings are the server's, and [`crate::server`] shows them:
/// `h1_allow_half_closed(false)`, so that a held request ends when its client disconnects, and no `Compress` around the
/// streams.
///
/// ```no_run
/// use actix_web::{App, HttpServer, web};
/// use switchback::{Hub, HubOptions, HttpOptions, MemoryStore, StoreOptions, routes};
///
/// # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
/// let store = MemoryStore::new(StoreOptions::default());
/// let hub = Hub::open(std::sync::Arc::new(store), HubOptions::default()).await?;
/// HttpServer::new(move || {
///     App::new().service(web::scope("/events").configure(routes(&hub, HttpOptions::default())))
/// })
/// .h1_allow_half_closed(false)
/// .bind(("127.0.0.1", 8080))?
/// .run()
/// .await?;
/// # Ok(()) }
/// ```
pub fn routes(hub: &Hub, options: HttpOptions) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
    Site::new(hub, options).mount()
}

/// The server's own pages: the front page, the comparison page, the dashboard, the page for old browsers, the review desk. Mounted after
/// [`routes`], whose state they share.
pub fn pages(config: &mut web::ServiceConfig) {
    for path in ["/", "/compare"] {
        if let Some(page) = assets::page_at(path) {
            config.service(resource(path, Route::Asset(page)));
        }
    }
    for name in assets::page_files() {
        config.service(resource(&format!("/{name}"), Route::Asset(name)));
    }
    config.default_service(web::to(nothing));
}

/// The response to a request for no resource.
async fn nothing(embedded: Embedded) -> HttpResponse {
    embedded.run(Route::Nothing).await
}

impl Site {
    /// What the server serves: the routes, the pages unless they are switched off, and an error for all other paths.
    pub(crate) fn mount_all(&self) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        let (mount, has_pages) = (self.mount(), self.has_pages());
        move |config| {
            mount(config);
            config.service(resource(security_txt::PATH, Route::SecurityTxt));
            if has_pages {
                pages(config);
            } else {
                config.default_service(web::to(nothing));
            }
        }
    }

    /// As [`routes`].
    fn mount(&self) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        let state = self.state().clone();
        move |config| {
            // Not one actix resource for each route: the table of routes is `http::route`, and is the same without an
            // `App`.
            let v1 = web::scope("/v1").app_data(state.clone()).default_service(web::to(v1)).wrap_fn(
                |mut request, service| {
                    match Route::below_v1(below(request.match_info())) {
                        Some(route) if route.is_held() => lighten(request.head_mut()),
                        Some(route) if route.is_websocket() => join_upgrade(request.head_mut()),
                        _ => {}
                    }
                    service.call(request)
                },
            );
            config
                .app_data(state)
                .service(v1)
                .service(resource("/healthz", Route::Healthz))
                .service(resource("/readyz", Route::Readyz))
                .service(resource("/metrics", Route::Metrics))
                .service(resource("/openapi.json", Route::OpenApi));
            for name in assets::client_files() {
                config.service(resource(&format!("/{name}"), Route::Asset(name)));
            }
            for (name, stem, extension) in assets::versioned_files() {
                let path = format!("/{stem}-{{version:[0-9a-fA-F]{{16}}}}.{extension}");
                config.service(resource(&path, Route::Asset(name)));
            }
        }
    }
}

fn resource(path: &str, route: Route) -> actix_web::Resource {
    web::resource(path).to(move |embedded: Embedded| embedded.run(route))
}

/// Dispatches all requests below `/v1`.
async fn v1(routed: HttpRequest, embedded: Embedded) -> HttpResponse {
    let route = Route::below_v1(below(routed.match_info())).unwrap_or(Route::Nothing);
    drop(routed);
    embedded.run(route).await
}

/// Whether a request is for a WebSocket's route.
fn is_websocket(request: &HttpRequest) -> bool {
    Route::below_v1(below(request.match_info())).is_some_and(Route::is_websocket)
}

/// The part of the path after `/v1/`, as the router has decoded it.
fn below(routed: &Path<Url>) -> &str {
    routed.unprocessed().strip_prefix('/').unwrap_or_default()
}

/// Moves a request's headers into a smaller table. actix allocates one for 16 to 28 headers, which is 6 KB: most of the
/// cost of a held request, and most clients send five.
fn lighten(head: &mut RequestHead) {
    let headers = head.headers_mut();
    if headers.capacity() > 2 * headers.len() {
        let mut fitting = HeaderMap::with_capacity(headers.len());
        for (name, value) in std::mem::take(headers) {
            fitting.append(name, value);
        }
        *headers = fitting;
    }
}

/// Puts the upgrade of a request on one line. The fields may be lists, and lists may span several lines (RFC 9110 §5.3);
/// actix-ws reads only the first line, and nothing after a `close`.
fn join_upgrade(head: &mut RequestHead) {
    let headers = head.headers_mut();
    for (name, option) in [(UPGRADE, "websocket"), (CONNECTION, "upgrade")] {
        if lists(headers, name.as_str(), option) {
            headers.insert(name, HeaderValue::from_static(option));
        }
    }
}

/// Whether one of the elements of a list field, over all its lines, is `option`.
fn lists(headers: &HeaderMap, field: &str, option: &str) -> bool {
    let lines = headers.get_all(field).filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).any(|element| element.trim().eq_ignore_ascii_case(option))
}

/// Whether a request has no body of its own, so that the bytes after it on an upgraded connection are frames.
fn is_bodiless(request: &HttpRequest) -> bool {
    let length = request.headers().get(CONTENT_LENGTH);
    let is_empty = length.is_none_or(|length| length.as_bytes().trim_ascii().iter().all(|digit| *digit == b'0'));
    is_empty && !request.headers().contains_key(TRANSFER_ENCODING)
}

/// A request that came through an `App`.
struct Embedded {
    request: Request,
    state: Rc<State>,
    /// The body that `request` reads as it arrives.
    retained: Option<RetainedPayload>,
    /// The connection, where it is this server's own.
    activity: Option<Rc<Activity>>,
    /// The handshake of actix-ws, should the handler accept it.
    handshake: Option<HttpResponse>,
    /// Whether a streaming response is chunked.
    chunked: bool,
    /// Why the request is refused: it is the placeholder of a malformed one.
    refusal: Option<HeadError>,
}

impl FromRequest for Embedded {
    type Error = actix_web::Error;
    type Future = std::future::Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let Some(state) = request.app_data::<Rc<State>>() else {
            return std::future::ready(Err(actix_web::error::ErrorInternalServerError(
                "the routes are not configured",
            )));
        };
        let Some(head) = fallback::request_head(request.head()) else {
            return std::future::ready(Err(actix_web::error::ErrorBadRequest("the method is invalid")));
        };
        let (mut retained, mut handshake) = (None, None);
        let connection = request.conn_data::<Rc<Activity>>();
        let refusal = connection.and_then(|activity| activity.take_refusal());
        let body = match fallback::request_body(payload.take(), connection) {
            frames @ RequestBody::Stream(_) if is_websocket(request) && is_bodiless(request) => {
                match socket::accept(request, frames) {
                    Some(accepted) => {
                        handshake = Some(accepted.response);
                        RequestBody::WebSocket(accepted.messages)
                    }
                    None => RequestBody::Full(Bytes::new()),
                }
            }
            body @ RequestBody::Stream(_) => {
                let body = RetainedPayload::new(body, fallback::is_endless(request.head()));
                RequestBody::Stream(Box::pin(retained.insert(body).clone()))
            }
            body => body,
        };
        let chunked = fallback::is_chunked(request.head());
        let activity = connection.filter(|_| retained.is_some()).cloned();
        let request = Request {
            head: Box::new(head.mounted_below(mount_bytes(request)).finish()),
            body,
            peer: request.conn_data::<Peer>().copied().unwrap_or(Peer::unnoted(request.peer_addr())),
            sink: request.conn_data::<WeakSink>().and_then(WeakSink::upgrade),
            hold: request.conn_data::<Hold>().cloned(),
            payer: request.conn_data::<Payer>().cloned(),
        };
        std::future::ready(Ok(Self { request, state: state.clone(), retained, activity, handshake, chunked, refusal }))
    }
}

impl Embedded {
    /// Boxed, as all responses are: a held request keeps no room for what other responses need.
    fn run(self, route: Route) -> LocalBoxFuture<'static, HttpResponse> {
        let Self { request, state, retained, activity, handshake, chunked, refusal } = self;
        let sink = request.sink.clone();
        let call = Call::new(request, state);
        let answering = match refusal {
            Some(error) => route::refuse(call, error),
            None => route.run(call),
        };
        Box::pin(async move {
            let response: Response = answering.await;
            let handshake = handshake.filter(|_| response.status == http::StatusCode::SWITCHING_PROTOCOLS);
            if let Some(sink) = sink {
                sink.set_chunked(chunked && handshake.is_none());
            }
            let mut response = HttpResponse::from(fallback::response(response, chunked));
            let retained = match retained {
                Some(body) if !body.finish().await => Some(body),
                _ => None,
            };
            if retained.is_some() {
                // The rest of the body would be parsed as requests.
                response.head_mut().set_connection_type(ConnectionType::Close);
                activity.inspect(|activity| activity.finish_requests());
            }
            match (handshake, retained) {
                (Some(handshake), _) => socket::answer(handshake, response),
                (None, Some(retained)) => response.map_body(|_, body| retained::beside(body, retained)),
                (None, None) => response,
            }
        })
    }
}

/// Bytes of the raw path before the place where the routes are mounted.
///
/// A router's path has as many slashes as the raw one: the router does not decode an encoded slash.
fn mount_bytes(request: &HttpRequest) -> usize {
    let routed = request.match_info();
    let before = &routed.as_str()[..routed.as_str().len() - routed.unprocessed().len()];
    // The last of them is the one before `v1`.
    let Some(nth) = before.matches('/').count().checked_sub(1) else { return 0 };
    request.uri().path().match_indices('/').nth(nth).map_or(0, |(at, _)| at)
}
