//! What there is, and what may be done with it: the one table for all the ways that a request can come.

use std::future::{Future, Ready, ready};

use futures_util::FutureExt as _;
use futures_util::future::{Either, LocalBoxFuture};
use http::Method;

use super::call::{Call, Pace, check_body};
use super::error::ApiError;
use super::{Answer, admin, assets, not_found, preflight, publish, resources, subscribe, tickets, websocket};
use crate::net::Response;

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
    Clients,
    Client,
    Tickets,
    Revocations,
    Healthz,
    Readyz,
    /// A file of the client library or of the pages.
    Asset(&'static str),
    /// There is nothing here.
    Nothing,
}

impl Route {
    /// What a path names; that of the pages only where they are served.
    pub(super) fn of(path: &str, pages: bool) -> Self {
        if let Some(below) = path.strip_prefix("/v1/") {
            return Self::below_v1(below).unwrap_or(Self::Nothing);
        }
        match path {
            "/healthz" => Self::Healthz,
            "/readyz" => Self::Readyz,
            "/" if pages => Self::Asset("index.html"),
            _ => {
                let name = path.strip_prefix('/').unwrap_or_default();
                let mut files = assets::client_files().chain(assets::page_files().filter(|_| pages));
                files.find(|file| *file == name).map_or(Self::Nothing, Self::Asset)
            }
        }
    }

    /// What the part of a path after `/v1/` names.
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

    /// Whether requests are held: each lives as long as its answer takes.
    pub(super) fn is_held(self) -> bool {
        matches!(self, Self::Longpoll | Self::Jsonp | Self::Iframe)
    }

    /// Whether it upgrades to WebSocket.
    pub(super) fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Echo)
    }

    /// What its requests are counted as.
    fn pace(self) -> Pace {
        match self {
            Self::Events | Self::Topic => Pace::Own,
            Self::Poll | Self::Longpoll | Self::Jsonp | Self::Iframe | Self::Sse | Self::Stream => Pace::Own,
            // An acknowledgement is counted as a subscription: clients that poll send as many.
            Self::Ws | Self::Echo | Self::Ack => Pace::Own,
            Self::Info | Self::Clients | Self::Client | Self::Tickets | Self::Revocations => Pace::Request,
            Self::Asset(_) | Self::Nothing => Pace::Request,
            Self::Healthz | Self::Readyz => Pace::Exempt,
        }
    }

    /// The answer to a call.
    pub(super) fn run(self, mut call: Call) -> LocalBoxFuture<'static, Response> {
        call.pace = match self.pace() {
            Pace::Own if *call.request.method() == Method::OPTIONS => Pace::Request,
            pace => pace,
        };
        match self {
            Self::Events => asked(call, Methods::Post, publish::events),
            Self::Topic => asked(call, Methods::Post, publish::topic),
            Self::Poll => asked(call, Methods::Read, subscribe::poll),
            Self::Longpoll => asked(call, Methods::Stream, subscribe::longpoll),
            Self::Jsonp => unasked(call, Methods::Stream, subscribe::jsonp),
            Self::Iframe => unasked(call, Methods::Stream, subscribe::iframe),
            Self::Sse => asked(call, Methods::Stream, subscribe::sse),
            Self::Stream => asked(call, Methods::Stream, subscribe::lines),
            Self::Ws => asked(call, Methods::Socket, websocket::subscribe),
            Self::Echo => asked(call, Methods::Socket, websocket::echo),
            Self::Ack => asked(call, Methods::Post, resources::ack),
            Self::Info => asked(call, Methods::Read, resources::info),
            Self::Clients => asked(call, Methods::Read, resources::clients),
            Self::Client => match *call.request.method() {
                Method::DELETE => asked(call, Methods::ReadDelete, admin::kick),
                _ => asked(call, Methods::ReadDelete, resources::client),
            },
            Self::Tickets => asked(call, Methods::Post, tickets::make),
            Self::Revocations => asked(call, Methods::Post, admin::revoke),
            // A probe is answered whatever the server's state.
            Self::Healthz => unasked(call, Methods::Read, resources::healthz),
            Self::Readyz => unasked(call, Methods::Read, resources::readyz),
            Self::Asset(name) => asked(call, Methods::Read, move |call| assets::serve(call, name)),
            Self::Nothing => call.answer(not_found).boxed_local(),
        }
    }
}

/// What may be done with a resource.
///
/// Asked for by hand, not by actix's guards: those note what they were asked for in every request, for a 405 that we write
/// ourselves.
#[derive(Clone, Copy)]
pub(super) enum Methods {
    /// Read in one go.
    Read,
    /// Held, or without an end. HEAD holds nothing.
    Stream,
    /// A WebSocket: HEAD knows no upgrade.
    Socket,
    /// Looked at, or ended.
    ReadDelete,
    Post,
}

impl Methods {
    fn allow(self, method: &Method) -> bool {
        match *method {
            Method::GET => !matches!(self, Self::Post),
            Method::HEAD => matches!(self, Self::Read | Self::ReadDelete | Self::Stream),
            Method::DELETE => matches!(self, Self::ReadDelete),
            Method::POST => matches!(self, Self::Post),
            _ => false,
        }
    }

    /// As the headers `Allow` and `Access-Control-Allow-Methods` have them.
    pub(super) fn names(self) -> &'static str {
        match self {
            Self::Read | Self::Stream => "GET, HEAD, OPTIONS",
            Self::Socket => "GET, OPTIONS",
            Self::ReadDelete => "GET, HEAD, DELETE, OPTIONS",
            Self::Post => "POST, OPTIONS",
        }
    }
}

/// A handler's answer. Boxed, each by itself: a held request has no room for what others need.
pub(super) fn asked<F, R>(call: Call, methods: Methods, handler: F) -> LocalBoxFuture<'static, Response>
where
    F: FnOnce(Call) -> R + 'static,
    R: Future<Output = Answer> + 'static,
{
    call.answer(move |call| by_method(call, methods, handler)).boxed_local()
}

/// As [`asked`], of a handler of which nothing is asked first: a stream whose status a page cannot read admits the call
/// itself, and tells a refusal in its own way.
pub(super) fn unasked<F, R>(call: Call, methods: Methods, handler: F) -> LocalBoxFuture<'static, Response>
where
    F: FnOnce(Call) -> R + 'static,
    R: Future<Output = Answer> + 'static,
{
    call.answer_unasked(move |call| by_method(call, methods, handler)).boxed_local()
}

/// The handler's answer, where the method is one of its own.
fn by_method<F, R>(call: Call, methods: Methods, handler: F) -> Either<R, Ready<Answer>>
where
    F: FnOnce(Call) -> R,
    R: Future<Output = Answer>,
{
    match call.request.method() {
        method if methods.allow(method) => match check_body(&call.request.head) {
            Ok(()) => Either::Left(handler(call)),
            Err(error) => Either::Right(ready(Err(error))),
        },
        &Method::OPTIONS => Either::Right(ready(preflight(&call, methods))),
        _ => Either::Right(ready(Err(ApiError::method(methods.names())))),
    }
}
