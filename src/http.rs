//! The HTTP side: the only map of URLs, and what every request passes before its handler.
//!
#![doc = include_str!("http/protocol.md")]

mod access;
mod admin;
mod assets;
mod body;
mod call;
mod direct;
mod driver;
mod error;
mod headers;
mod options;
mod origin;
mod outlet;
mod peer;
mod publish;
mod query;
mod readiness;
mod resources;
mod route;
mod subscribe;
mod tickets;
mod websocket;

use std::cell::OnceCell;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::dev::{Path, RequestHead, Service as _, Url};
use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, ALLOW, HeaderMap,
};
use actix_web::{HttpResponse, Resource, web};
use futures_util::future::LocalBoxFuture;

use crate::hub::{Hub, Worker};
use crate::transport::Transport;
pub(crate) use body::Body;
pub(crate) use call::EVERY_ANSWER;
use call::{Call, Pace, Request};
use error::ApiError;
use readiness::Readiness;
use route::Methods;

pub use access::AccessOptions;
pub(crate) use direct::{Direct, Span};
pub(crate) use headers::Headers;
pub use options::HttpOptions;
pub use origin::{AllowedOrigin, OriginError};
pub(crate) use outlet::{Outlet, OutletRef};
pub use peer::ProxyHeader;
pub(crate) use peer::{Caller, Peer, is_trusted};
pub(crate) use route::Route;

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
    Site::new(hub, options).routes()
}

/// What one thread serves: under an `App`, or asked directly.
#[derive(Clone)]
pub(crate) struct Site(Rc<State>);

impl Site {
    pub(crate) fn new(hub: &Hub, options: HttpOptions) -> Self {
        Self(Rc::new(State {
            hub: hub.clone(),
            options: Arc::new(options),
            worker: OnceCell::new(),
            readiness: Readiness::default(),
        }))
    }

    /// As [`routes`].
    pub(crate) fn routes(&self) -> impl FnOnce(&mut web::ServiceConfig) + use<> {
        let state = self.0.clone();
        move |config| {
            // Not a resource each: which is which we tell by ourselves, in the same way where no `App` is asked.
            let v1 = web::scope("/v1").app_data(state.clone()).default_service(web::to(v1)).wrap_fn(
                |mut request, service| {
                    if Route::of(below(request.match_info())).is_some_and(Route::is_held) {
                        lighten(request.head_mut());
                    }
                    service.call(request)
                },
            );
            config
                .app_data(state)
                .service(v1)
                .service(unasked("/healthz", resources::healthz))
                .service(unasked("/readyz", resources::readyz));
            for name in assets::client_files() {
                config.service(resource(&format!("/{name}"), move |call| assets::serve(call, name)));
            }
        }
    }

    /// The answer to a request that came straight from a connection of our own listener.
    pub(crate) fn answer(
        &self,
        route: Route,
        request: Box<Direct>,
        body: Body,
        peer: Peer,
        outlet: Option<Outlet>,
    ) -> LocalBoxFuture<'static, HttpResponse> {
        route.run(Call::new(Request::Direct(request), body, None, peer, outlet, self.0.clone()))
    }
}

/// What the server shows besides: the comparison page, the page for old browsers, the review desk. Mounted after
/// [`routes`], whose state it shares.
pub fn pages(config: &mut web::ServiceConfig) {
    config.service(resource("/", |call| assets::serve(call, "index.html")));
    for name in assets::page_files() {
        config.service(resource(&format!("/{name}"), move |call| assets::serve(call, name)));
    }
    config.default_service(web::to(|call: Call| call.answer(not_found)));
}

/// What is read in one go.
fn resource<F, R>(path: &str, handler: F) -> Resource
where
    F: Fn(Call) -> R + Clone + 'static,
    R: Future<Output = Answer> + 'static,
{
    web::resource(path).to(move |call: Call| route::asked(call, Methods::Read, handler.clone()))
}

/// As [`resource`], of whose handler nothing is asked first: a probe answers whatever the server's state.
fn unasked<F, R>(path: &str, handler: F) -> Resource
where
    F: Fn(Call) -> R + Clone + 'static,
    R: Future<Output = Answer> + 'static,
{
    web::resource(path).to(move |mut call: Call| {
        call.pace = Pace::Exempt;
        route::unasked(call, Methods::Read, handler.clone())
    })
}

/// Everything below `/v1`.
async fn v1(call: Call) -> HttpResponse {
    let route = match &call.request {
        Request::Routed(request) => Route::of(below(request.match_info())),
        Request::Direct(_) => None,
    };
    match route {
        Some(route) => route.run(call).await,
        None => call.answer(not_found).await,
    }
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

/// What every handler returns.
type Answer = Result<HttpResponse, ApiError>;

/// What every handler of this thread shares.
struct State {
    hub: Hub,
    options: Arc<HttpOptions>,
    /// Joins the feed with the first request that this thread serves: it has to be done on the thread itself.
    worker: OnceCell<Rc<Worker>>,
    /// What was last found of the store.
    readiness: Readiness,
}

impl State {
    fn worker(&self) -> &Rc<Worker> {
        self.worker.get_or_init(|| Worker::start(&self.hub))
    }
}

/// CORS preflight (Fetch §3.2.2): yes to our own pages and those on the list, no to others.
fn preflight(call: &Call, methods: Methods) -> Answer {
    call.source().check()?;
    let mut response = HttpResponse::NoContent();
    response.insert_header((ACCESS_CONTROL_ALLOW_METHODS, methods.names()));
    response.insert_header((
        ACCESS_CONTROL_ALLOW_HEADERS,
        "Authorization, Content-Type, Idempotency-Key, If-None-Match, Last-Event-ID",
    ));
    response.insert_header((ACCESS_CONTROL_MAX_AGE, "600"));
    response.insert_header((ALLOW, methods.names()));
    Ok(response.finish())
}

async fn not_found(_: Call) -> Answer {
    Err(nothing_here())
}

fn nothing_here() -> ApiError {
    let names: Vec<&str> = Transport::ALL.iter().map(|transport| transport.name()).collect();
    let message = format!(
        "nothing is here; subscribe at GET /v1/<transport>, where the transport is one of {}, and publish with POST /v1/events",
        names.join(", ")
    );
    ApiError::new(StatusCode::NOT_FOUND, "not_found", message)
}
