//! One request with its server state, and the checks that all requests have in common.

use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use http::header::{CONTENT_LENGTH, STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING, UPGRADE, USER_AGENT};
use http::{Method, StatusCode, Version};

use super::Answer;
use super::error::ApiError;
use super::host::check_host;
use super::options::HttpOptions;
use super::origin::RequestOrigin;
use super::state::State;
use crate::auth::Rights;
use crate::limits::{InboundBudget, Limits, RateKey, Refusal};
use crate::net::{Caller, DirectSink, Hold, Request, RequestBody, RequestHead, Response, Scheme};

/// How long a refusal waits whose caller exceeds the pace of its requests: the least retry delay, which such a caller ignores.
const REFUSAL_DELAY: Duration = Duration::from_secs(1);

/// One request. Boxed: the futures around its handler each have room for it, and a held request keeps all of these futures.
pub(super) struct Call(Box<Parts>);

pub(super) struct Parts {
    pub(super) request: Request,
    pub(super) state: Rc<State>,
    caller: Caller,
    source: RequestOrigin,
    /// How the request counts against the rate limits.
    pub(super) pace: Pace,
}

/// How a request counts against the rate limits, so that no path is unlimited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pace {
    /// As one request, before it is examined.
    Request,
    /// As a publish or a subscription, by its handler; as a request where it is refused before that.
    Own,
    /// Not at all: a health check that a busy server refused would have the server restarted.
    Exempt,
}

/// Charges and logs the refusals of one caller.
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

    /// The error to respond with: a refusal costs work, too, and is charged as a request where nothing else was.
    pub(super) fn charge(&self, error: ApiError) -> ApiError {
        self.charged(error).0
    }

    /// As [`Self::charge`]. Beyond the pace the error waits for a moment: a client that does not heed its refusals is slowed down by
    /// them, and costs no more than its connections do.
    pub(super) async fn respond(&self, error: ApiError) -> ApiError {
        let (error, exceeds) = self.charged(error);
        if exceeds {
            let hub = self.state.hub.clone();
            // Boxed: no other request has room for it.
            let moment = async move {
                tokio::select! {
                    () = tokio::time::sleep(REFUSAL_DELAY) => {}
                    () = hub.drain_begun() => {}
                }
            };
            moment.boxed_local().await;
        }
        error
    }

    /// The error to respond with, and whether the caller's refusals exceed the pace of its requests.
    fn charged(&self, error: ApiError) -> (ApiError, bool) {
        let counts = self.pace == Pace::Own && error.status.is_client_error();
        let limits = &self.state.options.limits;
        let paced = if counts { limits.request(&RateKey::at(self.address)) } else { Ok(()) };
        let exceeds = paced.is_err();
        let error = match paced {
            // What the client exceeded first says what it has to do.
            Err(limit) if !error.is_too_many() => limit.into(),
            _ => error,
        };
        self.note(&error);
        (error, exceeds)
    }

    /// Logs a refusal, where `error` is one.
    pub(super) fn note(&self, error: &ApiError) {
        if let Some(refusal) = error.refusal(self.address).filter(|_| self.pace != Pace::Exempt) {
            self.state.hub.metrics().refused(refusal.reason);
            self.state.options.limits.refusals().record(Instant::now(), &refusal);
        }
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

impl Call {
    pub(super) fn new(request: Request, state: Rc<State>) -> Self {
        let options = &state.options;
        let caller = Caller::of(&request.peer, request.headers(), &options.trusted_proxies, options.proxy_header);
        if let Some(payer) = &request.payer {
            // Where that is refused, the previous payer stays charged: the memory is for the response to its request.
            let _refused = payer.charge_to(RateKey::at(caller.address));
        }
        let source = RequestOrigin::of(request.headers(), caller.scheme, &options.allowed_origins);
        Self(Box::new(Parts { request, state, caller, source, pace: Pace::Request }))
    }

    /// Takes the request's body, and leaves an empty one.
    pub(super) fn take_body(&mut self) -> RequestBody {
        self.request.body.take()
    }

    /// The output of `work`, which waits for the peer; an error where the server begins to shut down meanwhile. The peer is answered
    /// then, while its connection is still open.
    ///
    /// # Errors
    /// 503; and those of `work`.
    pub(super) async fn while_serving<T>(
        &self,
        work: impl Future<Output = Result<T, ApiError>>,
    ) -> Result<T, ApiError> {
        self.check_serving()?;
        tokio::select! {
            biased;
            // First: much has arrived already, and need not register for the shutdown.
            output = work => output,
            () = self.state.hub.drain_begun() => Err(shutting_down()),
        }
    }

    /// # Errors
    /// 503 where the server is shutting down.
    pub(super) fn check_serving(&self) -> Result<(), ApiError> {
        if self.state.hub.draining().is_some() { Err(shutting_down()) } else { Ok(()) }
    }

    pub(super) fn options(&self) -> &HttpOptions {
        &self.state.options
    }

    /// The scheme of the request, where it is known.
    pub(super) fn scheme(&self) -> Option<Scheme> {
        self.caller.scheme
    }

    /// The key that the request's work is charged to, before its rights are known.
    pub(super) fn rate_key(&self) -> RateKey {
        RateKey::at(self.caller.address)
    }

    /// As [`Self::rate_key`], with the subject of the token.
    pub(super) fn rate_key_of(&self, rights: &Rights) -> RateKey {
        self.rate_key().named(rights.subject().map(Arc::from)).with_event_rate(rights.event_rate())
    }

    /// Logs an action of an administrator.
    pub(super) fn note(&self, reason: &'static str, rights: &Rights, message: &str) {
        let (address, subject) = (self.caller.address, rights.subject());
        let done = Refusal { address, subject, reason, message, is_pace: false };
        self.limits().refusals().record(Instant::now(), &done);
    }

    /// What is needed of the caller after the handler has consumed the call.
    pub(super) fn refusals(&self) -> Refusals {
        Refusals { state: self.state.clone(), address: self.caller.address, pace: self.pace }
    }

    /// The memory budget of the body.
    pub(super) fn inbound(&self, rights: &Rights) -> InboundBudget {
        self.limits().inbound(self.rate_key_of(rights)).privileged(rights.is_admin())
    }

    pub(super) fn limits(&self) -> &Arc<Limits> {
        &self.state.options.limits
    }

    /// The sink for direct writes of a stream, if the connection has one.
    pub(super) fn sink(&self) -> Option<DirectSink> {
        self.request.sink.clone()
    }

    /// Notifies the connection that the request waits for events.
    pub(super) fn hold(&self) -> Option<Hold> {
        self.request.hold.clone()
    }

    /// The request's `User-Agent`, where it is text.
    pub(super) fn user_agent(&self) -> Option<&str> {
        self.request.headers().text(&USER_AGENT)
    }

    /// Whether only the head of GET's response is requested (RFC 9110 §9.3.2).
    pub(super) fn is_head(&self) -> bool {
        *self.request.method() == Method::HEAD
    }

    pub(super) fn source(&self) -> &RequestOrigin {
        &self.source
    }

    /// Runs a handler after the common checks (admission), and adds the headers of every response.
    pub(super) async fn answer<F, R>(self, handler: F) -> Response
    where
        F: FnOnce(Self) -> R,
        R: Future<Output = Answer>,
    {
        self.answer_unguarded(|call: Self| async move {
            call.admit()?;
            handler(call).await
        })
        .await
    }

    /// As [`Self::answer`], for a handler that calls [`Self::admit`] itself, or need not.
    pub(super) async fn answer_unguarded<F, R>(self, handler: F) -> Response
    where
        F: FnOnce(Self) -> R,
        R: Future<Output = Answer>,
    {
        let source = self.source.clone();
        let refusals = self.refusals();
        let hsts = self.options().hsts;
        let hsts = (!hsts.is_zero() && self.request.peer.secure).then_some(hsts.as_secs());
        let answer = match refusals.admit() {
            Ok(()) => handler(self).await,
            Err(error) => Err(error),
        };
        let mut response = match answer {
            Ok(response) => response,
            Err(error) => refusals.respond(error).await.response(),
        };
        source.write(&mut response.fields);
        match hsts {
            Some(seconds) => response.with(STRICT_TRANSPORT_SECURITY, format!("max-age={seconds}")),
            None => response,
        }
    }

    /// Admission: whether the request is served at all.
    pub(super) fn admit(&self) -> Result<(), ApiError> {
        if let Some(error) = self.request.peer.refused {
            return Err(error.into());
        }
        check_head(&self.request.head, self.options().header_bytes_max)?;
        check_host(self.request.headers())?;
        self.options().access.check_open(self.request.headers())?;
        self.options().access.check_name(self.request.headers(), self.options().loopback_only)?;
        if self.state.hub.draining().is_some() {
            return Err(shutting_down());
        }
        Ok(())
    }
}

fn shutting_down() -> ApiError {
    ApiError::unavailable("shutting_down", "this server is shutting down: try another server")
}

/// 411 where a body's length cannot be known (RFC 9110 §15.5.12), and 400 where it would extend to the end of the
/// connection: actix takes all bytes after an `Upgrade: websocket` for one body, the next request with its credentials too.
pub(super) fn check_body(head: &RequestHead) -> Result<(), ApiError> {
    // A body of HTTP/2 is delimited by its frames.
    if *head.method() != Method::POST || head.version() >= Version::HTTP_2 {
        return Ok(());
    }
    let headers = head.headers();
    if headers.get(&TRANSFER_ENCODING).is_some() {
        return Ok(());
    }
    if headers.get(&CONTENT_LENGTH).is_none() {
        let message = "a body must have a `Content-Length` or `Transfer-Encoding: chunked`";
        return Err(ApiError::new(StatusCode::LENGTH_REQUIRED, "length_required", message));
    }
    if headers.texts(&UPGRADE).any(|value| value.trim().eq_ignore_ascii_case("websocket")) {
        return Err(ApiError::bad("bad_upgrade", "a request with a body cannot upgrade its connection to a WebSocket"));
    }
    Ok(())
}

/// 431 where a request's head is too long. actix limits what it reads of a head as well, but that limit cannot be
/// configured.
fn check_head(head: &RequestHead, bytes_max: usize) -> Result<(), ApiError> {
    if head.has_dropped_fields() {
        let message = "a request may have at most 96 header fields, each cookie counted";
        return Err(ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message));
    }
    // Nearly every head is short, by any measure.
    if head.bytes() <= bytes_max {
        return Ok(());
    }
    let url = head.path().len() + head.query().map_or(0, str::len);
    if url + head.headers().bytes() > bytes_max {
        let message = format!("a URL and its headers may have at most {bytes_max} bytes");
        return Err(ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message));
    }
    Ok(())
}
