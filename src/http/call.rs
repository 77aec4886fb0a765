//! One request, wherever it came from, and what all requests have in common.

use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;

use actix_web::dev::{Payload, RequestHead};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue, STRICT_TRANSPORT_SECURITY};
use actix_web::http::{Method, StatusCode, Version};
use actix_web::{HttpRequest, HttpResponse};

use super::error::ApiError;
use super::options::HttpOptions;
use super::origin::{self, Source};
use super::outlet::{Outlet, OutletRef};
use super::peer::{Caller, Peer, Scheme};
use super::{Answer, State, body};
use crate::auth::Rights;
use crate::limits::{Arriving, Limits, Who};

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
    pub(super) payload: Payload,
    /// The body in chunks that `payload` reads.
    kept: Option<body::Kept>,
    pub(super) state: Rc<State>,
    peer: Peer,
    caller: Caller,
    source: Source,
    outlet: Option<Outlet>,
}

/// How a request came.
pub(super) enum Request {
    /// Through an `App`, with what its router noted.
    Routed(HttpRequest),
    /// Straight from a connection of our own listener.
    Direct {
        request: actix_http::Request,
        /// How long its head was, as it was sent. What is longer than this can tell does not come here.
        head_bytes: u16,
    },
}

impl Request {
    pub(super) fn head(&self) -> &RequestHead {
        match self {
            Self::Routed(request) => request.head(),
            Self::Direct { request, .. } => request.head(),
        }
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.head().headers()
    }

    pub(super) fn method(&self) -> &Method {
        &self.head().method
    }

    pub(super) fn version(&self) -> Version {
        self.head().version
    }

    pub(super) fn query_string(&self) -> &str {
        self.head().uri.query().unwrap_or_default()
    }

    /// What stands in the path after `/v1/NAME/`, as it was sent: a router would replace what is not UTF-8.
    pub(super) fn named(&self) -> Option<&str> {
        let before = match self {
            Self::Routed(request) => {
                let routed = request.match_info();
                &routed.as_str()[..routed.as_str().len() - routed.unprocessed().len()]
            }
            Self::Direct { request, .. } => {
                let below = request.uri().path().strip_prefix("/v1/")?;
                return memchr::memchr(b'/', below.as_bytes()).map(|slash| &below[slash + 1..]);
            }
        };
        // A router's path has as many slashes as the raw one: an encoded slash it leaves as it is.
        let slashes = before.matches('/').count() + 2;
        self.head().uri.path().splitn(slashes + 1, '/').nth(slashes)
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
                let (payload, kept) = body::keep(payload.take(), chunked);
                let outlet = request.conn_data::<OutletRef>().and_then(OutletRef::upgrade);
                let (peer, state) = (Peer::of(request), state.clone());
                Ok(Self::new(Request::Routed(request.clone()), payload, kept, peer, outlet, state))
            }
            None => Err(actix_web::error::ErrorInternalServerError("the routes are not configured")),
        };
        std::future::ready(call)
    }
}

impl Call {
    pub(super) fn new(
        request: Request,
        payload: Payload,
        kept: Option<body::Kept>,
        peer: Peer,
        outlet: Option<Outlet>,
        state: Rc<State>,
    ) -> Self {
        let caller = Caller::of(&peer, request.head(), &state.options);
        let source = Source::of(request.headers(), caller.scheme, &state.options);
        Self(Box::new(Parts { request, payload, kept, state, peer, caller, source, outlet }))
    }

    pub(super) fn head(&self) -> &RequestHead {
        self.request.head()
    }

    pub(super) fn options(&self) -> &HttpOptions {
        &self.state.options
    }

    /// How it came, where that is known.
    pub(super) fn scheme(&self) -> Option<Scheme> {
        self.caller.scheme
    }

    /// Whom what it does is counted against.
    pub(super) fn who(&self) -> Who {
        Who::at(self.caller.address)
    }

    /// As [`Self::who`], once it is known whose rights it has.
    pub(super) fn who_as(&self, rights: &Rights) -> Who {
        self.who().named(rights.subject().map(Arc::from))
    }

    /// Room for its body.
    pub(super) fn arriving(&self) -> Arriving {
        self.limits().arriving()
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
        let routed = matches!(self.request, Request::Routed(_));
        let hsts = self.options().hsts;
        let hsts = (!hsts.is_zero() && self.peer.secure).then_some(hsts.as_secs());
        let mut response = handler(self).await.unwrap_or_else(|error| error.response());
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
        origin::check_host(self.head().headers())?;
        origin::check_open(self.head(), self.options())?;
        if self.state.hub.draining().is_some() {
            return Err(ApiError::unavailable("shutting_down", "this server is shutting down; another will answer"));
        }
        Ok(())
    }
}

/// 431 where a request's head is too long. What actix reads of one is bounded as well, but not for us to set.
fn check_head(request: &Request, bytes_max: usize) -> Result<(), ApiError> {
    // Nearly every one is short, whatever of it counts.
    if matches!(request, Request::Direct { head_bytes, .. } if usize::from(*head_bytes) <= bytes_max) {
        return Ok(());
    }
    let head = request.head();
    let url = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let headers: usize = head.headers().iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if url + headers > bytes_max {
        let message = format!("a URL and its headers have at most {bytes_max} bytes here");
        return Err(ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message));
    }
    Ok(())
}
