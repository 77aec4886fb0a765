//! The HTTP side: the only map of URLs, and what every request passes before its handler.
//!
#![doc = include_str!("http/protocol.md")]

mod access;
mod admin;
mod assets;
mod body;
mod driver;
mod error;
mod options;
mod origin;
mod outlet;
mod peer;
mod publish;
mod query;
mod resources;
mod subscribe;
mod tickets;
mod websocket;

use std::cell::OnceCell;
use std::future::{Future, Ready, ready};
use std::rc::Rc;
use std::sync::Arc;

use actix_web::dev::{HttpServiceFactory, Payload, RequestHead, Service as _};
use actix_web::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, HeaderMap,
    HeaderName, HeaderValue, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY, X_CONTENT_TYPE_OPTIONS,
};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, Resource, web};
use futures_util::future::Either;

use crate::auth::Rights;
use crate::hub::{Hub, Worker};
use crate::limits::{Arriving, Limits, Who};
use crate::transport::Transport;
use error::ApiError;
use origin::Source;

pub use access::AccessOptions;
pub use options::HttpOptions;
pub use origin::{AllowedOrigin, OriginError};
pub(crate) use outlet::{Outlet, OutletRef};
pub use peer::ProxyHeader;
use peer::Scheme;
pub(crate) use peer::{Caller, Peer, is_trusted};

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
    let hub = hub.clone();
    move |config| {
        let state = Rc::new(State { hub, options: Arc::new(options), worker: OnceCell::new() });
        let v1 = web::scope("/v1")
            .service(resource("/events", Methods::Post, publish::events))
            // Not a resource with the topic as its parameter: that is a regular expression, and every request that
            // is none of those before it would be matched against it.
            .service(web::scope("/topics").default_service(web::to(topics)))
            .service(resource("/poll", Methods::Read, subscribe::poll))
            .service(light(resource("/longpoll", Methods::Stream, subscribe::longpoll)))
            .service(light(unasked("/jsonp", Methods::Stream, subscribe::jsonp)))
            .service(light(unasked("/iframe", Methods::Stream, subscribe::iframe)))
            .service(resource("/sse", Methods::Stream, subscribe::sse))
            .service(resource("/stream", Methods::Stream, subscribe::lines))
            .service(resource("/ws", Methods::Stream, websocket::subscribe))
            .service(resource("/echo", Methods::Stream, websocket::echo))
            .service(resource("/ack", Methods::Post, resources::ack))
            .service(resource("/info", Methods::Read, resources::info))
            .service(resource("/clients", Methods::Read, resources::clients))
            .service(resource("/clients/{client}", Methods::ReadDelete, client))
            .service(resource("/tickets", Methods::Post, tickets::make))
            .service(resource("/revocations", Methods::Post, admin::revoke))
            .default_service(web::to(|call: Call| call.answer(not_found)));
        config
            .app_data(state.clone())
            .service(v1.app_data(state))
            .service(unasked("/healthz", Methods::Read, resources::healthz))
            .service(unasked("/readyz", Methods::Read, resources::readyz));
        for name in assets::client_files() {
            config.service(resource(&format!("/{name}"), Methods::Read, move |call| assets::serve(call, name)));
        }
    }
}

/// What the server shows besides: the comparison page, the page for old browsers, the review desk. Mounted after
/// [`routes`], whose state it shares.
pub fn pages(config: &mut web::ServiceConfig) {
    config.service(resource("/", Methods::Read, |call| assets::serve(call, "index.html")));
    for name in assets::page_files() {
        config.service(resource(&format!("/{name}"), Methods::Read, move |call| assets::serve(call, name)));
    }
    config.default_service(web::to(|call: Call| call.answer(not_found)));
}

/// What may be done with a resource.
///
/// Asked for by hand, not by actix's guards: those note what they were asked for in every request, for a 405 that we write
/// ourselves.
#[derive(Clone, Copy)]
enum Methods {
    /// Read in one go.
    Read,
    /// Held, or without an end.
    Stream,
    /// Looked at, or ended.
    ReadDelete,
    Post,
}

impl Methods {
    fn allow(self, method: &Method) -> bool {
        match *method {
            Method::GET => !matches!(self, Self::Post),
            Method::HEAD => matches!(self, Self::Read | Self::ReadDelete),
            Method::DELETE => matches!(self, Self::ReadDelete),
            Method::POST => matches!(self, Self::Post),
            _ => false,
        }
    }

    /// As the headers `Allow` and `Access-Control-Allow-Methods` have them.
    fn names(self) -> &'static str {
        match self {
            Self::Read => "GET, HEAD, OPTIONS",
            Self::Stream => "GET, OPTIONS",
            Self::ReadDelete => "GET, HEAD, DELETE, OPTIONS",
            Self::Post => "POST, OPTIONS",
        }
    }
}

/// A resource with what is done with it.
fn resource<F, R>(path: &str, methods: Methods, handler: F) -> Resource
where
    F: Fn(Call) -> R + Clone + 'static,
    R: Future<Output = Answer> + 'static,
{
    web::resource(path).to(move |call: Call| {
        let handler = handler.clone();
        call.answer(move |call| by_method(call, methods, handler))
    })
}

/// As [`resource`], of whose handler nothing is asked first: a probe answers whatever the server's state, and a stream whose
/// status a page cannot read admits the call itself, and tells a refusal in its own way.
fn unasked<F, R>(path: &str, methods: Methods, handler: F) -> Resource
where
    F: Fn(Call) -> R + Clone + 'static,
    R: Future<Output = Answer> + 'static,
{
    web::resource(path).to(move |call: Call| {
        let handler = handler.clone();
        call.answer_unasked(move |call| by_method(call, methods, handler))
    })
}

/// The handler's answer, where the method is one of its own.
fn by_method<F, R>(call: Call, methods: Methods, handler: F) -> Either<R, Ready<Answer>>
where
    F: FnOnce(Call) -> R,
    R: Future<Output = Answer>,
{
    match call.request.method() {
        method if methods.allow(method) => Either::Left(handler(call)),
        &Method::OPTIONS => Either::Right(ready(preflight(&call, methods))),
        _ => Either::Right(ready(Err(ApiError::method(methods.names())))),
    }
}

/// A resource whose requests are held: each lives as long as its answer takes.
fn light(resource: Resource) -> impl HttpServiceFactory {
    resource.wrap_fn(|mut request, service| {
        lighten(request.head_mut());
        service.call(request)
    })
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

/// Everything below `/topics`.
async fn topics(call: Call) -> HttpResponse {
    call.answer(|call| by_method(call, Methods::Post, publish::topic)).await
}

/// One client: looked at, or ended.
async fn client(call: Call) -> Answer {
    match *call.request.method() {
        Method::DELETE => admin::kick(call).await,
        _ => resources::client(call).await,
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
}

impl State {
    fn worker(&self) -> &Rc<Worker> {
        self.worker.get_or_init(|| Worker::start(&self.hub))
    }
}

/// One request. Boxed: each of the futures around its handler has room for it, and a held one keeps them all.
struct Call(Box<Parts>);

struct Parts {
    request: HttpRequest,
    payload: Payload,
    /// The body in chunks that `payload` reads.
    kept: Option<body::Kept>,
    state: Rc<State>,
}

impl std::ops::Deref for Call {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl std::ops::DerefMut for Call {
    fn deref_mut(&mut self) -> &mut Parts {
        &mut self.0
    }
}

impl actix_web::FromRequest for Call {
    type Error = actix_web::Error;
    type Future = std::future::Ready<Result<Self, Self::Error>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let call = match request.app_data::<Rc<State>>() {
            Some(state) => {
                let chunked = actix_web::HttpMessage::chunked(request).unwrap_or(false);
                let (payload, kept) = body::keep(payload.take(), chunked);
                Ok(Self(Box::new(Parts { request: request.clone(), payload, kept, state: state.clone() })))
            }
            None => Err(actix_web::error::ErrorInternalServerError("the routes are not configured")),
        };
        std::future::ready(call)
    }
}

impl Call {
    fn head(&self) -> &RequestHead {
        self.request.head()
    }

    fn options(&self) -> &HttpOptions {
        &self.state.options
    }

    /// Who asks.
    fn caller(&self) -> Caller {
        Caller::of(&Peer::of(&self.request), self.head(), self.options())
    }

    /// How it came, where that is known.
    fn scheme(&self) -> Option<Scheme> {
        self.caller().scheme
    }

    /// Whom what it does is counted against.
    fn who(&self) -> Who {
        Who::at(self.caller().address)
    }

    /// As [`Self::who`], once it is known whose rights it has.
    fn who_as(&self, rights: &Rights) -> Who {
        self.who().named(rights.subject().map(Arc::from))
    }

    /// Room for its body.
    fn arriving(&self) -> Arriving {
        self.limits().arriving()
    }

    fn limits(&self) -> &Arc<Limits> {
        &self.state.options.limits
    }

    /// Where a stream may write past actix, if it may.
    fn outlet(&self) -> Option<Outlet> {
        self.request.conn_data::<OutletRef>()?.upgrade()
    }

    fn source(&self) -> Source {
        Source::of(self.request.headers(), self.scheme(), self.options())
    }

    /// Runs a handler inside what all have in common: who may come at all, and the headers of every answer.
    async fn answer<F, R>(self, handler: F) -> HttpResponse
    where
        F: FnOnce(Self) -> R,
        R: Future<Output = Answer>,
    {
        self.answer_unasked(|call: Self| async move {
            call.admit()?;
            handler(call).await
        })
        .await
    }

    /// As [`Self::answer`], for a handler that asks [`Self::admit`] itself, or need not.
    async fn answer_unasked<F, R>(self, handler: F) -> HttpResponse
    where
        F: FnOnce(Self) -> R,
        R: Future<Output = Answer>,
    {
        let (source, kept) = (self.source(), self.kept.clone());
        let hsts = self.options().hsts;
        let hsts = (!hsts.is_zero() && Peer::of(&self.request).secure).then_some(hsts.as_secs());
        let mut response = handler(self).await.unwrap_or_else(|error| error.response());
        let headers = response.headers_mut();
        source.write(headers);
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        if !headers.contains_key(CACHE_CONTROL) {
            headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store, no-transform"));
        }
        headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
        // Any URL may have a token in it.
        headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
        if let Some(seconds) = hsts.and_then(|seconds| HeaderValue::try_from(format!("max-age={seconds}")).ok()) {
            headers.insert(STRICT_TRANSPORT_SECURITY, seconds);
        }
        match kept {
            Some(kept) => response.map_body(|_, body| kept.beside(body)),
            None => response,
        }
    }

    /// Whether it may come at all.
    fn admit(&self) -> Result<(), ApiError> {
        if let Some(error) = Peer::of(&self.request).refused {
            return Err(error.into());
        }
        check_head(self.head(), self.options().header_bytes_max)?;
        origin::check_host(self.head().headers())?;
        origin::check_open(self.head(), self.options())?;
        if self.state.hub.draining().is_some() {
            return Err(ApiError::unavailable("shutting_down", "this server is shutting down; another will answer"));
        }
        Ok(())
    }
}

/// 431 where a request's head is too long. What actix reads of one is bounded as well, but not for us to set.
fn check_head(head: &RequestHead, bytes_max: usize) -> Result<(), ApiError> {
    let url = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let headers: usize = head.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if url + headers > bytes_max {
        let message = format!("a URL and its headers have at most {bytes_max} bytes here");
        return Err(ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message));
    }
    Ok(())
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
    response.insert_header((actix_web::http::header::ALLOW, methods.names()));
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
