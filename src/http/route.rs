//! The table of routes: resources, their methods and handlers, the same for every kind of connection.

use std::future::{Future, Ready, ready};

use futures_util::FutureExt as _;
use futures_util::future::{Either, LocalBoxFuture};
use http::Method;

use super::body::JsonBody;
use super::call::{Call, Pace, check_body};
use super::error::ApiError;
use super::{
    Answer, admin, assets, erase, history, metrics, not_found, openapi, preflight, publish, resources, security_txt,
    subscribe, tickets, websocket,
};
use crate::net::{HeadError, Response};

/// A resource.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    Events,
    Topic,
    Poll,
    Longpoll,
    Jsonp,
    Iframe,
    Sse,
    Stream,
    Ws,
    Echo,
    Ack,
    Info,
    History,
    Clients,
    Client,
    Tickets,
    Revocations,
    Healthz,
    Readyz,
    /// The metrics, for an administrator.
    Metrics,
    /// The metrics on an address of their own, which only those who operate the server reach.
    OpenMetrics,
    /// The description of this API.
    OpenApi,
    /// Where a vulnerability of this installation is reported.
    SecurityTxt,
    /// A file of the client library or of the pages.
    Asset(&'static str),
    /// No resource.
    Nothing,
}

impl Route {
    /// The resource of a path; the pages' files only where they are served.
    pub(super) fn of(path: &str, pages: bool) -> Self {
        if let Some(below) = path.strip_prefix("/v1/") {
            return Self::below_v1(below).unwrap_or(Self::Nothing);
        }
        match path {
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            "/metrics" => Self::Metrics,
            "/openapi.json" => Self::OpenApi,
            security_txt::PATH => Self::SecurityTxt,
            _ => {
                if let Some(page) = assets::page_at(path).filter(|_| pages) {
                    return Self::Asset(page);
                }
                let name = path.strip_prefix('/').unwrap_or_default();
                let mut files = assets::client_files().chain(assets::page_files().filter(|_| pages));
                files.find(|file| *file == name).or_else(|| assets::versioned(name)).map_or(Self::Nothing, Self::Asset)
            }
        }
    }

    /// The resource of a path on the address of the metrics.
    pub(super) fn of_monitoring(path: &str) -> Self {
        match path {
            "/metrics" => Self::OpenMetrics,
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            _ => Self::Nothing,
        }
    }

    /// The resource of the part of a path after `/v1/`.
    pub(super) fn below_v1(below: &str) -> Option<Self> {
        Some(match below {
            "events" => Self::Events,
            "poll" => Self::Poll,
            "longpoll" => Self::Longpoll,
            "jsonp" => Self::Jsonp,
            "iframe" => Self::Iframe,
            "sse" => Self::Sse,
            "stream" => Self::Stream,
            "ws" => Self::Ws,
            "echo" => Self::Echo,
            "ack" => Self::Ack,
            "info" => Self::Info,
            "history" => Self::History,
            "clients" => Self::Clients,
            "tickets" => Self::Tickets,
            "revocations" => Self::Revocations,
            topic if topic.strip_prefix("topics").is_some_and(|rest| rest.is_empty() || rest.starts_with('/')) => {
                Self::Topic
            }
            other => match other.strip_prefix("clients/") {
                Some(client) if !client.is_empty() && !client.contains('/') => Self::Client,
                _ => return None,
            },
        })
    }

    /// Whether requests may be held: such a request lives as long as its response takes.
    pub(super) fn is_held(self) -> bool {
        matches!(self, Self::Longpoll | Self::Jsonp | Self::Iframe)
    }

    /// Whether the resource is a WebSocket.
    pub(super) fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Echo)
    }

    /// How its requests count against the rate limits.
    fn pace(self) -> Pace {
        match self {
            Self::Events | Self::Topic => Pace::Own,
            Self::Poll | Self::Longpoll | Self::Jsonp | Self::Iframe | Self::Sse | Self::Stream => Pace::Own,
            // An acknowledgement counts as a subscription: clients that poll send as many. So does a page of the past.
            Self::Ws | Self::Echo | Self::Ack | Self::History => Pace::Own,
            Self::Info | Self::Clients | Self::Client | Self::Tickets | Self::Revocations => Pace::Request,
            Self::Metrics | Self::OpenApi | Self::SecurityTxt | Self::Asset(_) | Self::Nothing => Pace::Request,
            Self::OpenMetrics | Self::Healthz | Self::Readyz => Pace::Exempt,
        }
    }

    /// What may be done with the resource; nothing where there is none.
    pub(super) fn methods(self) -> Option<Methods> {
        Some(match self {
            Self::Events | Self::Ack | Self::Tickets | Self::Revocations => Methods::Post,
            Self::Topic => Methods::PostDelete,
            Self::Longpoll | Self::Jsonp | Self::Iframe | Self::Sse | Self::Stream => Methods::Stream,
            Self::Ws | Self::Echo => Methods::Socket,
            Self::Client => Methods::ReadDelete,
            Self::Poll | Self::Info | Self::History | Self::Clients | Self::Healthz | Self::Readyz => Methods::Read,
            Self::Metrics | Self::OpenMetrics | Self::OpenApi => Methods::Read,
            Self::SecurityTxt | Self::Asset(_) => Methods::Read,
            Self::Nothing => return None,
        })
    }

    /// Calls the handler.
    pub(super) fn run(self, mut call: Call) -> LocalBoxFuture<'static, Response> {
        call.pace = match self.pace() {
            Pace::Own if *call.request.method() == Method::OPTIONS => Pace::Request,
            pace => pace,
        };
        let Some(methods) = self.methods() else { return call.answer(not_found).boxed_local() };
        match self {
            Self::Events => guarded(call, methods, Pages::Allowed, publish::events),
            Self::Topic => match *call.request.method() {
                Method::DELETE => guarded(call, methods, Pages::Allowed, erase::erase),
                _ => guarded(call, methods, Pages::Allowed, publish::topic),
            },
            Self::Poll => guarded(call, methods, Pages::Every, subscribe::poll),
            Self::Longpoll => guarded(call, methods, Pages::Every, subscribe::longpoll),
            Self::Jsonp => unguarded(call, methods, subscribe::jsonp),
            Self::Iframe => unguarded(call, methods, subscribe::iframe),
            Self::Sse => guarded(call, methods, Pages::Every, subscribe::sse),
            Self::Stream => guarded(call, methods, Pages::Every, subscribe::lines),
            Self::Ws => guarded(call, methods, Pages::Allowed, websocket::subscribe),
            Self::Echo => guarded(call, methods, Pages::Allowed, websocket::echo),
            Self::Ack => with_json(call, resources::ACK_BYTES_MAX, resources::ack),
            Self::Info => guarded(call, methods, Pages::Every, resources::info),
            Self::History => guarded(call, methods, Pages::Every, history::history),
            Self::Clients => guarded(call, methods, Pages::Every, resources::clients),
            Self::Client => match *call.request.method() {
                Method::DELETE => guarded(call, methods, Pages::Allowed, admin::kick),
                _ => guarded(call, methods, Pages::Every, resources::client),
            },
            Self::Tickets => with_json(call, tickets::BODY_BYTES_MAX, tickets::make),
            Self::Revocations => with_json(call, admin::BODY_BYTES_MAX, admin::revoke),
            // A probe is answered whatever the server's state.
            Self::Healthz => unguarded(call, methods, resources::healthz),
            Self::Readyz => unguarded(call, methods, resources::readyz),
            Self::Metrics => guarded(call, methods, Pages::Every, metrics::administrators),
            Self::OpenMetrics => unguarded(call, methods, metrics::monitoring),
            Self::OpenApi => guarded(call, methods, Pages::Every, openapi::document),
            Self::SecurityTxt => guarded(call, methods, Pages::Every, security_txt::serve),
            Self::Asset(name) => guarded(call, methods, Pages::Every, move |call| assets::serve(call, name)),
            Self::Nothing => call.answer(not_found).boxed_local(),
        }
    }
}

/// The response to a request whose head is refused.
pub(super) fn refuse(call: Call, error: HeadError) -> LocalBoxFuture<'static, Response> {
    call.answer_unguarded(|_| ready(Err(error.into()))).boxed_local()
}

/// Which pages may make a request.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    /// All: CORS keeps the answer from those that may not read it.
    Every,
    /// The server's own and those on the list: the request changes something, or CORS does not keep its answer from other pages.
    Allowed,
}

/// What may be done with a resource.
///
/// Matched by hand, not by actix's guards: these record the wanted method in every request, for a 405 that is written here.
#[derive(Clone, Copy)]
pub(super) enum Methods {
    /// Read as a whole.
    Read,
    /// Held, or without an end. HEAD holds nothing.
    Stream,
    /// A WebSocket: HEAD cannot upgrade.
    Socket,
    /// Read, or deleted.
    ReadDelete,
    Post,
    /// Published to, or erased.
    PostDelete,
}

impl Methods {
    fn allow(self, method: &Method) -> bool {
        match *method {
            Method::GET => !matches!(self, Self::Post | Self::PostDelete),
            Method::HEAD => matches!(self, Self::Read | Self::ReadDelete | Self::Stream),
            Method::DELETE => matches!(self, Self::ReadDelete | Self::PostDelete),
            Method::POST => matches!(self, Self::Post | Self::PostDelete),
            _ => false,
        }
    }

    /// The value of `Allow` and `Access-Control-Allow-Methods`.
    pub(super) fn names(self) -> &'static str {
        match self {
            Self::Read | Self::Stream => "GET, HEAD, OPTIONS",
            Self::Socket => "GET, OPTIONS",
            Self::ReadDelete => "GET, HEAD, DELETE, OPTIONS",
            Self::Post => "POST, OPTIONS",
            Self::PostDelete => "POST, DELETE, OPTIONS",
        }
    }
}

/// A handler's answer, once it is checked, in this order: that the call may come at all ([`Call::admit`]), its method, that its
/// body has an end, and the page that it comes from. Boxed, each by itself: a held request has no room for what others need.
fn guarded<F, R>(call: Call, methods: Methods, pages: Pages, handler: F) -> LocalBoxFuture<'static, Response>
where
    F: FnOnce(Call) -> R + 'static,
    R: Future<Output = Answer> + 'static,
{
    call.answer(move |call| by_method(call, methods, pages, handler)).boxed_local()
}

/// As [`guarded`], of a `POST` whose body is JSON, of at most so many bytes. The handler reads it, once it knows whose memory
/// that takes.
fn with_json<F, R>(call: Call, bytes_max: usize, handler: F) -> LocalBoxFuture<'static, Response>
where
    F: FnOnce(Call, JsonBody) -> R + 'static,
    R: Future<Output = Answer> + 'static,
{
    guarded(call, Methods::Post, Pages::Allowed, move |mut call| {
        let body = JsonBody::new(call.take_body(), bytes_max);
        handler(call, body)
    })
}

/// As [`guarded`], of a handler before which only the method and the body's end are checked: a stream whose status a page cannot
/// read admits the call itself, and tells a refusal in its own way.
fn unguarded<F, R>(call: Call, methods: Methods, handler: F) -> LocalBoxFuture<'static, Response>
where
    F: FnOnce(Call) -> R + 'static,
    R: Future<Output = Answer> + 'static,
{
    call.answer_unguarded(move |call| by_method(call, methods, Pages::Every, handler)).boxed_local()
}

/// The handler's answer, where the method is one of its own.
fn by_method<F, R>(call: Call, methods: Methods, pages: Pages, handler: F) -> Either<R, Ready<Answer>>
where
    F: FnOnce(Call) -> R,
    R: Future<Output = Answer>,
{
    match call.request.method() {
        method if methods.allow(method) => {
            let checked = check_body(&call.request.head);
            let checked = checked.and_then(|()| if pages == Pages::Allowed { call.source().check() } else { Ok(()) });
            match checked {
                Ok(()) => Either::Left(handler(call)),
                Err(error) => Either::Right(ready(Err(error))),
            }
        }
        &Method::OPTIONS => Either::Right(ready(preflight(&call, methods))),
        _ => Either::Right(ready(Err(ApiError::method(methods.names())))),
    }
}
