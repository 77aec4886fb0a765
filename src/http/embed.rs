//! The routes as a part of an actix-web `App`: its requests to ours, our answers to its. The only file here that knows
//! actix-web.

use std::rc::Rc;

use actix_web::dev::{Path, Payload, RequestHead, Service as _, Url};
use actix_web::http::header::HeaderMap;
use actix_web::{FromRequest, HttpMessage as _, HttpRequest, HttpResponse, web};
use futures_util::future::LocalBoxFuture;

use super::assets;
use super::call::Call;
use super::options::HttpOptions;
use super::route::Route;
use super::site::Site;
use super::state::State;
use crate::hub::Hub;
use crate::net::{Hold, Payer, Peer, Request, RequestBody, Response, WeakSink, fallback};

mod retained;

use retained::RetainedPayload;

/// The routes of a hub, to be mounted into any actix-web `App`, at its root or under any prefix.
///
/// Mount it in a scope of its own. Two things are the server's to set, not ours, and [`crate::server`] shows them:
/// `h1_allow_half_closed(false)`, so that a held request ends with its client, and no `Compress` around the streams.
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

/// What the server shows besides: the comparison page, the page for old browsers, the review desk. Mounted after
/// [`routes`], whose state it shares.
pub fn pages(config: &mut web::ServiceConfig) {
    config.service(resource("/", Route::Asset("index.html")));
    for name in assets::page_files() {
        config.service(resource(&format!("/{name}"), Route::Asset(name)));
    }
    config.default_service(web::to(|embedded: Embedded| embedded.run(Route::Nothing)));
}

impl Site {
    /// As [`routes`].
    pub(crate) fn mount(&self) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        let state = self.state().clone();
        move |config| {
            // Not a resource each: the table of routes is ours, and the same where no `App` is asked.
            let v1 = web::scope("/v1").app_data(state.clone()).default_service(web::to(v1)).wrap_fn(
                |mut request, service| {
                    if Route::below_v1(below(request.match_info())).is_some_and(Route::is_held) {
                        lighten(request.head_mut());
                    }
                    service.call(request)
                },
            );
            config
                .app_data(state)
                .service(v1)
                .service(resource("/healthz", Route::Healthz))
                .service(resource("/readyz", Route::Readyz));
            for name in assets::client_files() {
                config.service(resource(&format!("/{name}"), Route::Asset(name)));
            }
        }
    }
}

fn resource(path: &str, route: Route) -> actix_web::Resource {
    web::resource(path).to(move |embedded: Embedded| embedded.run(route))
}

/// Everything below `/v1`.
async fn v1(routed: HttpRequest, embedded: Embedded) -> HttpResponse {
    let route = Route::below_v1(below(routed.match_info())).unwrap_or(Route::Nothing);
    drop(routed);
    embedded.run(route).await
}

/// What stands after `/v1/`, as the router has decoded it.
fn below(routed: &Path<Url>) -> &str {
    routed.unprocessed().strip_prefix('/').unwrap_or_default()
}

/// Puts a request's headers into a smaller table. actix makes one for 16 to 28 of them, which is 6 KB: most of what a
/// held request costs, and most clients send five.
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

/// A request that came through an `App`.
struct Embedded {
    request: Request,
    state: Rc<State>,
    /// A body in chunks, that `request` reads.
    retained: Option<RetainedPayload>,
    /// Whether an answer that streams is sent in chunks.
    chunked: bool,
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
            return std::future::ready(Err(actix_web::error::ErrorBadRequest("the method is none")));
        };
        let (body, retained) = match request.chunked() {
            Ok(true) => {
                let retained = RetainedPayload::new(payload.take());
                (RequestBody::Stream(Box::pin(retained.clone())), Some(retained))
            }
            _ => (fallback::request_body(payload.take()), None),
        };
        let chunked = fallback::is_chunked(request.head());
        let request = Request {
            head: Box::new(head.mounted_below(mount_bytes(request)).finish()),
            body,
            peer: request.conn_data::<Peer>().copied().unwrap_or(Peer::unnoted(request.peer_addr())),
            sink: request.conn_data::<WeakSink>().and_then(WeakSink::upgrade),
            hold: request.conn_data::<Hold>().cloned(),
            payer: request.conn_data::<Payer>().cloned(),
        };
        std::future::ready(Ok(Self { request, state: state.clone(), retained, chunked }))
    }
}

impl Embedded {
    /// Boxed, as all answers are: what an `App` makes of it has no room for what others need.
    fn run(self, route: Route) -> LocalBoxFuture<'static, HttpResponse> {
        let Self { request, state, retained, chunked } = self;
        let sink = request.sink.clone();
        let answering = route.run(Call::new(request, state));
        Box::pin(async move {
            let response: Response = answering.await;
            if let Some(sink) = sink {
                sink.set_chunked(chunked && response.status != http::StatusCode::SWITCHING_PROTOCOLS);
            }
            let response = HttpResponse::from(fallback::response(response, chunked));
            match retained {
                Some(retained) => response.map_body(|_, body| retained.beside(body)),
                None => response,
            }
        })
    }
}

/// Bytes of the raw path before the place where the routes are mounted.
///
/// A router's path has as many slashes as the raw one: an encoded slash it leaves as it is.
fn mount_bytes(request: &HttpRequest) -> usize {
    let routed = request.match_info();
    let before = &routed.as_str()[..routed.as_str().len() - routed.unprocessed().len()];
    // The last of them begins `/v1`.
    let Some(nth) = before.matches('/').count().checked_sub(1) else { return 0 };
    request.uri().path().match_indices('/').nth(nth).map_or(0, |(at, _)| at)
}
