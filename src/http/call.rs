//! One request, wherever it came from, and what all requests have in common.

use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use actix_http::ResponseBuilder;
use actix_http::ws::{self, HandshakeError};
use actix_web::dev::Payload;
use actix_web::http::header::{HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY};
use actix_web::http::{Method, StatusCode, Version};
use actix_web::{HttpRequest, HttpResponse};

use super::body::Body;
use super::direct::Direct;
use super::error::ApiError;
use super::headers::Headers;
use super::options::HttpOptions;
use super::origin::{self, Source};
use super::outlet::{Outlet, OutletRef};
use super::peer::{Caller, Peer, Scheme};
use super::{Answer, State, body};
use crate::auth::Rights;
use crate::limits::{InboundBudget, Limits, RateKey, Refusal};

/// What every answer says that has no other word for it. To a direct request, whose handlers have none, it is said by whoever
/// writes the answer's head: through a map of headers it costs more than the rest of the head.
pub(crate) const EVERY_ANSWER: [(&str, &str); 5] = [
    ("vary", "Origin"),
    ("cache-control", "no-store, no-transform"),
    ("x-content-type-options", "nosniff"),
    // nginx holds back what is not a line yet, unless it is told not to.
    ("x-accel-buffering", "no"),
    // Any URL may have a token in it.
    ("referrer-policy", "no-referrer"),
];

/// One request. Boxed: each of the futures around its handler has room for it, and a held one keeps them all.
pub(super) struct Call(Box<Parts>);

pub(super) struct Parts {
    pub(super) request: Request,
    pub(super) body: Body,
    /// The body in chunks that `body` reads.
    kept: Option<body::Kept>,
    pub(super) state: Rc<State>,
    peer: Peer,
    caller: Caller,
    source: Source,
    outlet: Option<Outlet>,
    /// What its pace is counted as.
    pub(super) pace: Pace,
}

/// What a request is counted as, so that no path can be asked for without end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As one request, before it is looked at.
    Request,
    /// As a publish or a subscription, by its handler; as a request where it is refused before that.
    Own,
    /// As nothing: a probe that a busy server refuses would have it restarted.
    Exempt,
}

/// Counts and writes down what is refused to one caller.
pub(super) struct Refusals {
    state: Rc<State>,
    address: IpAddr,
    pace: Pace,
}

impl Refusals {
    fn admit(&self) -> Result<(), ApiError> {
        match self.pace {
            Pace::Request => Ok(self.state.options.limits.request(&RateKey::at(self.address))?),
            Pace::Own | Pace::Exempt => Ok(()),
        }
    }

    /// What the caller is told instead of `error`: a refusal costs work, too, and is counted where nothing else was.
    pub(super) fn charge(&self, error: ApiError) -> ApiError {
        let limits = &self.state.options.limits;
        let counts = self.pace == Pace::Own && error.is_client_error();
        let paced = if counts { limits.request(&RateKey::at(self.address)) } else { Ok(()) };
        let error = paced.err().map_or(error, ApiError::from);
        self.note(&error);
        error
    }

    /// Writes down a refusal, where `error` is one.
    pub(super) fn note(&self, error: &ApiError) {
        if let Some(refusal) = error.refusal(self.address).filter(|_| self.pace != Pace::Exempt) {
            self.state.options.limits.refusals().record(Instant::now(), &refusal);
        }
    }
}

/// How a request came.
pub(super) enum Request {
    /// Through an `App`, with what its router noted.
    Routed(HttpRequest),
    /// Straight from a connection of our own listener.
    Direct(Box<Direct>),
}

impl Request {
    pub(super) fn headers(&self) -> Headers<'_> {
        match self {
            Self::Routed(request) => Headers::Table(request.headers()),
            Self::Direct(direct) => Headers::Head(direct),
        }
    }

    pub(super) fn method(&self) -> &Method {
        match self {
            Self::Routed(request) => request.method(),
            Self::Direct(direct) => direct.method(),
        }
    }

    pub(super) fn version(&self) -> Version {
        match self {
            Self::Routed(request) => request.version(),
            Self::Direct(_) => Version::HTTP_11,
        }
    }

    fn path(&self) -> &str {
        match self {
            Self::Routed(request) => request.uri().path(),
            Self::Direct(direct) => direct.path(),
        }
    }

    pub(super) fn query_string(&self) -> &str {
        match self {
            Self::Routed(request) => request.query_string(),
            Self::Direct(direct) => direct.query().unwrap_or_default(),
        }
    }

    /// The answer to a WebSocket's handshake (RFC 6455 §4.2).
    pub(super) fn shake_hands(&self) -> Result<ResponseBuilder, HandshakeError> {
        match self {
            Self::Routed(request) => ws::handshake(request.head()),
            Self::Direct(direct) => ws::handshake(&direct.to_head()),
        }
    }

    /// What stands in the path after `/v1/NAME/`, as it was sent: a router would replace what is not UTF-8.
    pub(super) fn named(&self) -> Option<&str> {
        let before = match self {
            Self::Routed(request) => {
                let routed = request.match_info();
                &routed.as_str()[..routed.as_str().len() - routed.unprocessed().len()]
            }
            Self::Direct(direct) => {
                let below = direct.path().strip_prefix("/v1/")?;
                return memchr::memchr(b'/', below.as_bytes()).map(|slash| &below[slash + 1..]);
            }
        };
        // A router's path has as many slashes as the raw one: an encoded slash it leaves as it is.
        let slashes = before.matches('/').count() + 2;
        self.path().splitn(slashes + 1, '/').nth(slashes)
    }
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
                let (body, kept) = body::keep(payload.take(), chunked);
                let outlet = request.conn_data::<OutletRef>().and_then(OutletRef::upgrade);
                let (peer, state) = (Peer::of(request), state.clone());
                Ok(Self::new(Request::Routed(request.clone()), Body::Coming(body), kept, peer, outlet, state))
            }
            None => Err(actix_web::error::ErrorInternalServerError("the routes are not configured")),
        };
        std::future::ready(call)
    }
}

impl Call {
    pub(super) fn new(
        request: Request,
        body: Body,
        kept: Option<body::Kept>,
        peer: Peer,
        outlet: Option<Outlet>,
        state: Rc<State>,
    ) -> Self {
        let caller = Caller::of(&peer, request.headers(), &state.options);
        let source = Source::of(request.headers(), caller.scheme, &state.options);
        let pace = Pace::Request;
        Self(Box::new(Parts { request, body, kept, state, peer, caller, source, outlet, pace }))
    }

    pub(super) fn options(&self) -> &HttpOptions {
        &self.state.options
    }

    /// How it came, where that is known.
    pub(super) fn scheme(&self) -> Option<Scheme> {
        self.caller.scheme
    }

    /// What its work is counted against, before anything is known of its rights.
    pub(super) fn rate_key(&self) -> RateKey {
        RateKey::at(self.caller.address)
    }

    /// As [`Self::rate_key`], with the subject of its token.
    pub(super) fn rate_key_of(&self, rights: &Rights) -> RateKey {
        self.rate_key().named(rights.subject().map(Arc::from)).with_event_rate(rights.event_rate())
    }

    /// Writes down what an administrator did.
    pub(super) fn note(&self, reason: &'static str, rights: &Rights, message: &str) {
        let (address, subject) = (self.caller.address, rights.subject());
        let done = Refusal { address, subject, reason, message, is_pace: false };
        self.limits().refusals().record(Instant::now(), &done);
    }

    /// What has to be known of the caller once the handler has taken the call.
    pub(super) fn refusals(&self) -> Refusals {
        Refusals { state: self.state.clone(), address: self.caller.address, pace: self.pace }
    }

    /// Memory for its body.
    pub(super) fn inbound(&self, rights: &Rights) -> InboundBudget {
        self.limits().inbound(self.rate_key_of(rights)).privileged(rights.is_admin())
    }

    pub(super) fn limits(&self) -> &Arc<Limits> {
        &self.state.options.limits
    }

    /// Where a stream may write past its task, if it may.
    pub(super) fn outlet(&self) -> Option<Outlet> {
        self.outlet.clone()
    }

    pub(super) fn source(&self) -> &Source {
        &self.source
    }

    /// Runs a handler inside what all have in common: who may come at all, and the headers of every answer.
    pub(super) async fn answer<F, R>(self, handler: F) -> HttpResponse
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
    pub(super) async fn answer_unasked<F, R>(self, handler: F) -> HttpResponse
    where
        F: FnOnce(Self) -> R,
        R: Future<Output = Answer>,
    {
        let (source, kept) = (self.source.clone(), self.kept.clone());
        let refusals = self.refusals();
        let routed = matches!(self.request, Request::Routed(_));
        let hsts = self.options().hsts;
        let hsts = (!hsts.is_zero() && self.peer.secure).then_some(hsts.as_secs());
        let answer = match refusals.admit() {
            Ok(()) => handler(self).await,
            Err(error) => Err(error),
        };
        let mut response = answer.unwrap_or_else(|error| refusals.charge(error).response());
        let headers = response.headers_mut();
        source.write(headers);
        for (name, value) in EVERY_ANSWER.into_iter().filter(|_| routed) {
            if !headers.contains_key(name) {
                headers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
            }
        }
        if let Some(seconds) = hsts.and_then(|seconds| HeaderValue::try_from(format!("max-age={seconds}")).ok()) {
            headers.insert(STRICT_TRANSPORT_SECURITY, seconds);
        }
        match kept {
            Some(kept) => response.map_body(|_, body| kept.beside(body)),
            None => response,
        }
    }

    /// Whether it may come at all.
    pub(super) fn admit(&self) -> Result<(), ApiError> {
        if let Some(error) = self.peer.refused {
            return Err(error.into());
        }
        check_head(&self.request, self.options().header_bytes_max)?;
        origin::check_host(self.request.headers())?;
        origin::check_open(self.request.headers(), self.options())?;
        if self.state.hub.draining().is_some() {
            return Err(ApiError::unavailable("shutting_down", "this server is shutting down; another will answer"));
        }
        Ok(())
    }
}

/// 431 where a request's head is too long. What actix reads of one is bounded as well, but not for us to set.
fn check_head(request: &Request, bytes_max: usize) -> Result<(), ApiError> {
    // Nearly every one is short, whatever of it counts.
    if matches!(request, Request::Direct(direct) if direct.bytes() <= bytes_max) {
        return Ok(());
    }
    let url = request.path().len() + request.query_string().len();
    if url + request.headers().bytes() > bytes_max {
        let message = format!("a URL and its headers have at most {bytes_max} bytes here");
        return Err(ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message));
    }
    Ok(())
}
