//! One request on its way to a handler, and what all requests have in common.

use std::future::Future;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::header::{CONTENT_LENGTH, STRICT_TRANSPORT_SECURITY, TRANSFER_ENCODING, UPGRADE};
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

/// One request. Boxed: each of the futures around its handler has room for it, and a held one keeps them all.
pub(super) struct Call(Box<Parts>);

pub(super) struct Parts {
    pub(super) request: Request,
    pub(super) state: Rc<State>,
    caller: Caller,
    source: RequestOrigin,
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
            // Where that is refused, the peer before it pays on: what waits is the answer to that one.
            let _refused = payer.charge_to(RateKey::at(caller.address));
        }
        let source = RequestOrigin::of(request.headers(), caller.scheme, &options.allowed_origins);
        Self(Box::new(Parts { request, state, caller, source, pace: Pace::Request }))
    }

    /// The request's body, which is empty from then on.
    pub(super) fn take_body(&mut self) -> RequestBody {
        self.request.body.take()
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

    /// Where a stream may be written to directly, if it may.
    pub(super) fn sink(&self) -> Option<DirectSink> {
        self.request.sink.clone()
    }

    /// How its connection learns that the request waits for events.
    pub(super) fn hold(&self) -> Option<Hold> {
        self.request.hold.clone()
    }

    /// Whether only the head of GET's answer is asked for (RFC 9110 §9.3.2).
    pub(super) fn is_head(&self) -> bool {
        *self.request.method() == Method::HEAD
    }

    pub(super) fn source(&self) -> &RequestOrigin {
        &self.source
    }

    /// Runs a handler inside what all have in common: who may come at all, and the headers of every answer.
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
        let mut response = answer.unwrap_or_else(|error| refusals.charge(error).response());
        source.write(&mut response.fields);
        match hsts {
            Some(seconds) => response.with(STRICT_TRANSPORT_SECURITY, format!("max-age={seconds}")),
            None => response,
        }
    }

    /// Whether it may come at all.
    pub(super) fn admit(&self) -> Result<(), ApiError> {
        if let Some(error) = self.request.peer.refused {
            return Err(error.into());
        }
        check_head(&self.request.head, self.options().header_bytes_max)?;
        check_host(self.request.headers())?;
        self.options().access.check_open(self.request.headers())?;
        self.options().access.check_name(self.request.headers(), self.options().loopback_only)?;
        if self.state.hub.draining().is_some() {
            return Err(ApiError::unavailable("shutting_down", "this server is shutting down; another will answer"));
        }
        Ok(())
    }
}

/// 411 where a body's length cannot be known (RFC 9110 §15.5.12), and 400 where it would reach to the end of the connection:
/// actix takes all that follows an `Upgrade: websocket` for one body, the next request with its credentials too.
pub(super) fn check_body(head: &RequestHead) -> Result<(), ApiError> {
    // A body of HTTP/2 has an end of its own.
    if *head.method() != Method::POST || head.version() >= Version::HTTP_2 {
        return Ok(());
    }
    let headers = head.headers();
    if headers.get(&TRANSFER_ENCODING).is_some() {
        return Ok(());
    }
    if headers.get(&CONTENT_LENGTH).is_none() {
        let message = "a body comes with its length (Content-Length) or in chunks (Transfer-Encoding: chunked)";
        return Err(ApiError::new(StatusCode::LENGTH_REQUIRED, "length_required", message));
    }
    if headers.texts(&UPGRADE).any(|value| value.trim().eq_ignore_ascii_case("websocket")) {
        return Err(ApiError::bad("bad_upgrade", "a request with a body cannot upgrade its connection to a WebSocket"));
    }
    Ok(())
}

/// 431 where a request's head is too long. What actix reads of one is bounded as well, but not for us to set.
fn check_head(head: &RequestHead, bytes_max: usize) -> Result<(), ApiError> {
    if head.has_dropped_fields() {
        let message = "a request has at most 96 header fields here, each cookie counted";
        return Err(ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message));
    }
    // Nearly every one is short, whatever of it counts.
    if head.bytes() <= bytes_max {
        return Ok(());
    }
    let url = head.path().len() + head.query().map_or(0, str::len);
    if url + head.headers().bytes() > bytes_max {
        let message = format!("a URL and its headers have at most {bytes_max} bytes here");
        return Err(ApiError::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", message));
    }
    Ok(())
}
