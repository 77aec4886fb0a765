//! What every request passes, and every answer: it is counted as under way until it is over, and then written down.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::body::{BodySize, MessageBody};
use actix_http::{HttpMessage as _, Request, StatusCode};
use actix_service::Service;
use actix_web::dev::ServiceResponse;
use bytes::Bytes;

use super::access_log::{Asked, Line};
use super::io::{Activity, Busy};
use crate::http::{HttpOptions, Outlet, OutletRef, Peer};

/// A service, watched.
pub(super) struct Watch<S> {
    service: Rc<S>,
    /// Whether, and with whose addresses, requests are written down.
    log: Option<Rc<HttpOptions>>,
}

impl<S> Watch<S> {
    pub(super) fn new(service: S, log: Option<Rc<HttpOptions>>) -> Self {
        Self { service: Rc::new(service), log }
    }
}

impl<S> Clone for Watch<S> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), log: self.log.clone() }
    }
}

impl<S, B> Service<Request> for Watch<S>
where
    S: Service<Request, Response = ServiceResponse<B>>,
    S::Future: Unpin,
    B: MessageBody,
{
    type Response = ServiceResponse<Watched<B>>;
    type Error = S::Error;
    type Future = Answering<S::Future>;

    fn poll_ready(&self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(cx)
    }

    fn call(&self, request: Request) -> Self::Future {
        let activity = request.conn_data::<Rc<Activity>>();
        let noted = request.conn_data::<Peer>().copied().or_else(|| request.extensions().get::<Peer>().copied());
        let asked = || Asked {
            peer: noted.unwrap_or(Peer::unnoted(request.head().peer_addr)),
            method: request.method(),
            path: request.path(),
            query: request.uri().query(),
            version: request.version(),
            headers: request.headers().into(),
        };
        let watched = Watching::begin(self.log.as_deref(), asked, activity);
        Answering { answer: self.service.call(request), watched: Some(watched) }
    }
}

/// A request that is under way.
pub(super) struct Watching {
    line: Option<Box<Line>>,
    busy: Option<Busy>,
}

impl Watching {
    pub(super) fn begin<'r>(
        log: Option<&HttpOptions>,
        asked: impl FnOnce() -> Asked<'r>,
        activity: Option<&Rc<Activity>>,
    ) -> Self {
        let line = log.map(|options| Box::new(Line::begin(&asked(), options)));
        Self { line, busy: activity.map(Activity::begin) }
    }

    /// It is answered; its body is still to be given.
    pub(super) fn answered<B>(mut self, status: StatusCode, outlet: Option<Outlet>, body: B) -> Watched<B> {
        if let Some(line) = &mut self.line {
            line.answered(status, outlet);
        }
        Watched { body, line: self.line, _busy: self.busy }
    }
}

/// An answer that is under way.
pub(super) struct Answering<F> {
    answer: F,
    watched: Option<Watching>,
}

impl<F, B, E> Future for Answering<F>
where
    F: Future<Output = Result<ServiceResponse<B>, E>> + Unpin,
    B: MessageBody,
{
    type Output = Result<ServiceResponse<Watched<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        let mut response = ready!(Pin::new(&mut this.answer).poll(cx))?;
        if response.request().conn_data::<Peer>().is_some_and(|peer| peer.refused.is_some()) {
            // Told what is the matter, it is to go.
            response.response_mut().head_mut().set_connection_type(actix_http::ConnectionType::Close);
        }
        let outlet = response.request().conn_data::<OutletRef>().and_then(OutletRef::upgrade);
        let watched = this.watched.take().unwrap_or(Watching { line: None, busy: None });
        let status = response.status();
        Poll::Ready(Ok(response.map_body(|_, body| watched.answered(status, outlet, body))))
    }
}

/// An answer's body.
pub(super) struct Watched<B> {
    body: B,
    line: Option<Box<Line>>,
    _busy: Option<Busy>,
}

impl<B: MessageBody> MessageBody for Watched<B>
where
    B: Unpin,
{
    type Error = B::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let chunk = Pin::new(&mut this.body).poll_next(cx);
        if let (Some(line), Poll::Ready(Some(Ok(bytes)))) = (&mut this.line, &chunk) {
            line.sent(bytes.len());
        }
        chunk
    }
}
