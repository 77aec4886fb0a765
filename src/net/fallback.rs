//! The adapter to an actix-web `App`: converts its requests and responses, and tracks them.
//!
//! A request that [`super::http1`] does not read is served through this adapter, and so is every request in another program's
//! `App`. What this server's own `App` reads is checked on its way ([`io`]).

mod head_check;
pub(crate) mod io;
mod request_check;

use std::io::{Error, ErrorKind};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::error::PayloadError;
use actix_http::header::{CONTENT_LENGTH, HOST, HeaderName, HeaderValue, TRANSFER_ENCODING, UPGRADE};
use actix_http::{ConnectionType, Payload, StatusCode};
use actix_service::Service;
use actix_web::dev::ServiceResponse;
use bytes::Bytes;
use futures_core::Stream;
use futures_util::TryStreamExt as _;
use http::{Method, Version};

use super::access_log::AccessLog;
use super::activity::Activity;
use super::direct_write::WeakSink;
use super::head::{HeadBuilder, RequestHead};
use super::head_error::HeadError;
use super::in_flight::InFlight;
use super::peer::Peer;
use super::request::{Request, RequestBody};
use super::response::{Response, ResponseBody};

/// A request's head; `None` where its method is not valid.
pub(crate) fn request_head(head: &actix_http::RequestHead) -> Option<HeadBuilder> {
    let method = Method::from_bytes(head.method.as_str().as_bytes()).ok()?;
    let version = match head.version {
        actix_http::Version::HTTP_09 => Version::HTTP_09,
        actix_http::Version::HTTP_10 => Version::HTTP_10,
        actix_http::Version::HTTP_2 => Version::HTTP_2,
        actix_http::Version::HTTP_3 => Version::HTTP_3,
        _ => Version::HTTP_11,
    };
    let mut builder = RequestHead::builder(method, version, head.uri.path(), head.uri.query());
    // The host of a target in absolute form overrides `Host` (RFC 9112 §3.2.2).
    let authority = head.uri.authority();
    if let Some(authority) = authority {
        builder.field(HOST.as_str().as_bytes(), authority.as_str().as_bytes());
    }
    for (name, value) in head.headers() {
        if name != HOST || authority.is_none() {
            builder.field(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    Some(builder)
}

/// A request's body; with the connection's `activity` where it is one of this server's own.
pub(crate) fn request_body(payload: Payload, activity: Option<&Rc<Activity>>) -> RequestBody {
    let activity = activity.cloned();
    match payload {
        Payload::None => RequestBody::Full(Bytes::new()),
        payload => RequestBody::Stream(Box::pin(payload.map_err(move |error| match error {
            // actix knows only that no more bytes come.
            _ if activity.as_ref().is_some_and(|activity| activity.has_malformed_body()) => {
                Error::new(ErrorKind::InvalidData, "its chunks or its trailer section are malformed")
            }
            PayloadError::Io(error) => error,
            error => Error::other(error),
        }))),
    }
}

/// Whether a streamed response is chunked. HTTP/1.0 has no chunks (nginx uses it for upstreams unless configured otherwise):
/// there the end of the connection is the end of the body. So it is for a refused upgrade to WebSocket: actix announces chunks
/// then, and writes none.
pub(crate) fn is_chunked(head: &actix_http::RequestHead) -> bool {
    head.version >= actix_http::Version::HTTP_11 && !is_endless(head)
}

/// Whether actix takes all that follows a request's head for its body: where it asks for a WebSocket, be there one or not.
pub(crate) fn is_endless(head: &actix_http::RequestHead) -> bool {
    let is_websocket = |value: &HeaderValue| value.as_bytes().trim_ascii().eq_ignore_ascii_case(b"websocket");
    head.headers().get_all(UPGRADE).any(is_websocket)
}

/// A response; `chunked` as [`is_chunked`] returns it.
pub(crate) fn response(response: Response, chunked: bool) -> actix_http::Response<BoxBody> {
    let status = StatusCode::from_u16(response.status.as_u16()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut answer = actix_http::Response::new(status);
    let fields = response.fields.iter().map(|(name, value)| (name.as_str(), value.as_bytes()));
    let defaults = response.missing_defaults().map(|(name, value)| (name, value.as_bytes()));
    for (name, value) in fields.chain(defaults) {
        // Two versions of the same crate: a valid name or value in one is valid in the other.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_bytes(value)) {
            answer.headers_mut().insert(name, value);
        }
    }
    match response.body {
        ResponseBody::Empty => answer.map_into_boxed_body(),
        ResponseBody::Omitted => answer.set_body(actix_http::body::None::new()).map_into_boxed_body(),
        ResponseBody::Full(bytes) => answer.set_body(bytes).map_into_boxed_body(),
        ResponseBody::SizedStream(bytes, stream) => {
            answer.set_body(SizedBody { left_bytes: bytes, stream }).map_into_boxed_body()
        }
        ResponseBody::Stream(stream) => {
            if !chunked {
                answer.head_mut().no_chunking(true);
                answer.head_mut().set_connection_type(ConnectionType::Close);
            }
            answer.set_body(StreamedBody(stream)).map_into_boxed_body()
        }
    }
}

/// A streamed body.
struct StreamedBody(Pin<Box<dyn Stream<Item = Bytes>>>);

impl MessageBody for StreamedBody {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        self.get_mut().0.as_mut().poll_next(cx).map(|part| part.map(Ok))
    }
}

/// A streamed body of known length.
struct SizedBody {
    left_bytes: usize,
    stream: Pin<Box<dyn Stream<Item = Bytes>>>,
}

impl MessageBody for SizedBody {
    type Error = Error;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.left_bytes as u64)
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        match ready!(this.stream.as_mut().poll_next(cx)) {
            Some(part) => {
                this.left_bytes = this.left_bytes.saturating_sub(part.len());
                Poll::Ready(Some(Ok(part)))
            }
            None if this.left_bytes > 0 => Poll::Ready(Some(Err(ErrorKind::UnexpectedEof.into()))),
            None => Poll::Ready(None),
        }
    }
}

/// The service around an `App` in our own server: each request is in flight until its response is complete, and then logged.
pub(crate) struct Tracked<S> {
    service: S,
    log: Option<Rc<AccessLog>>,
}

impl<S> Tracked<S> {
    pub(crate) fn new(service: S, log: Option<Rc<AccessLog>>) -> Self {
        Self { service, log }
    }
}

impl<S, B> Service<actix_http::Request> for Tracked<S>
where
    S: Service<actix_http::Request, Response = ServiceResponse<B>>,
    S::Future: Unpin,
    B: MessageBody,
{
    type Response = ServiceResponse<TrackedBody<B>>;
    type Error = S::Error;
    type Future = TrackedCall<S::Future>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&self, request: actix_http::Request) -> Self::Future {
        let peer = request.conn_data::<Peer>().copied().unwrap_or(Peer::unnoted(request.head().peer_addr));
        let activity = request.conn_data::<Rc<Activity>>();
        let last = peer.refused.is_some() || is_last(&request);
        if let Some(activity) = activity.filter(|_| last) {
            activity.finish_requests();
        }
        // Only the access log needs the head. The placeholder of a malformed request is not logged.
        let logged = self.log.as_ref().filter(|_| !activity.is_some_and(|activity| activity.is_refusing()));
        let head = logged.and_then(|_| request_head(request.head())).map(HeadBuilder::finish);
        let log = self.log.as_deref().zip(head.as_ref());
        let in_flight = InFlight::begin(log, &peer, activity);
        TrackedCall { answer: self.service.call(request), in_flight, last }
    }
}

/// A request that is the only one of its connection, and whose body is not read.
pub(crate) struct SingleRequest {
    request: Result<Request, HeadError>,
    in_flight: InFlight,
    unread: Payload,
}

impl SingleRequest {
    pub(crate) fn new(mut request: actix_http::Request) -> Self {
        let peer = request.conn_data::<Peer>().copied().unwrap_or(Peer::unnoted(request.head().peer_addr));
        let activity = request.conn_data::<Rc<Activity>>().cloned();
        let in_flight = InFlight::begin(None, &peer, activity.as_ref());
        let refusal = activity.and_then(|activity| {
            activity.finish_requests();
            activity.take_refusal()
        });
        let head = request_head(request.head()).map(HeadBuilder::finish).ok_or(HeadError::RequestLine);
        let request_of = |head| {
            let body = RequestBody::Full(Bytes::new());
            Request { head: Box::new(head), body, peer, sink: None, hold: None, payer: None }
        };
        let request_or_refusal = refusal.map_or_else(|| head.map(request_of), Err);
        Self { request: request_or_refusal, in_flight, unread: request.take_payload() }
    }

    /// The response: `respond`'s, or a refusal where the request is malformed.
    pub(crate) async fn respond<R>(
        self,
        respond: impl FnOnce(Request) -> R,
    ) -> actix_http::Response<TrackedBody<BoxBody>>
    where
        R: Future<Output = Response>,
    {
        let Self { request, mut in_flight, unread } = self;
        let answer = match request {
            Ok(request) => respond(request).await,
            Err(error) => error.response(),
        };
        in_flight.answered(answer.status.as_u16(), None);
        let mut answer = response(answer, true);
        answer.head_mut().set_connection_type(ConnectionType::Close);
        answer.map_body(|_, body| TrackedBody { body, in_flight, activity: None, _unread: Some(unread) })
    }
}

/// Whether a request is the connection's last: by its `Connection` field, by its version, or because its body has no known length
/// and would be parsed as requests (for which the request is refused as well).
fn is_last(request: &actix_http::Request) -> bool {
    let unbounded = || {
        let headers = request.head().headers();
        *request.method() == actix_http::Method::POST
            && !headers.contains_key(CONTENT_LENGTH)
            && !headers.contains_key(TRANSFER_ENCODING)
    };
    request.head().connection_type() == ConnectionType::Close || unbounded()
}

/// A request without a response yet.
pub(crate) struct TrackedCall<F> {
    answer: F,
    in_flight: InFlight,
    /// Whether the request is the connection's last.
    last: bool,
}

impl<F, B, E> Future for TrackedCall<F>
where
    F: Future<Output = Result<ServiceResponse<B>, E>> + Unpin,
    B: MessageBody,
{
    type Output = Result<ServiceResponse<TrackedBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut response = ready!(Pin::new(&mut this.answer).poll(cx))?;
        let upgraded = response.status() == StatusCode::SWITCHING_PROTOCOLS;
        if this.last && !upgraded {
            response.response_mut().head_mut().set_connection_type(ConnectionType::Close);
        }
        let sink = response.request().conn_data::<WeakSink>().and_then(WeakSink::upgrade);
        let mut in_flight = std::mem::take(&mut this.in_flight);
        in_flight.answered(response.status().as_u16(), sink);
        let activity = response.request().conn_data::<Rc<Activity>>().filter(|_| upgraded).cloned();
        activity.iter().for_each(|activity| activity.upgrade());
        Poll::Ready(Ok(response.map_body(|_, body| TrackedBody { body, in_flight, activity, _unread: None })))
    }
}

/// The body of a response in flight.
pub(crate) struct TrackedBody<B> {
    body: B,
    in_flight: InFlight,
    /// For a connection that became a WebSocket.
    activity: Option<Rc<Activity>>,
    /// The body of the request, where it is not read. Dropped earlier, a chunked one would be read by actix to its end, however
    /// long that took.
    _unread: Option<Payload>,
}

impl<B: MessageBody + Unpin> MessageBody for TrackedBody<B> {
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let part = Pin::new(&mut this.body).poll_next(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &part {
            this.in_flight.sent(bytes.len());
        }
        if let (Some(activity), Poll::Ready(None)) = (&this.activity, &part) {
            // Both close frames have passed, or the peer has not sent its own in time: the server closes TCP first, and at once
            // (RFC 6455 §7.1.1). actix would wait for the peer to do so.
            activity.finish_sending();
        }
        part
    }
}
