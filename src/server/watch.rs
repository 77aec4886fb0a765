//! What every request passes, and every answer: it is counted as under way until it is over, and then written down.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use actix_http::body::{BodySize, MessageBody};
use actix_http::{HttpMessage as _, Request};
use actix_service::Service;
use actix_web::dev::ServiceResponse;
use bytes::Bytes;

use super::access_log::Line;
use super::io::{Activity, Busy};
use crate::http::{HttpOptions, OutletRef, Peer};

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
        let busy = request.conn_data::<Rc<Activity>>().map(Activity::begin);
        let line = self.log.as_ref().map(|options| {
            let noted = request.conn_data::<Peer>().copied().or_else(|| request.extensions().get::<Peer>().copied());
            Box::new(Line::begin(request.head(), noted, options))
        });
        Answering { answer: self.service.call(request), line, busy }
    }
}

/// An answer that is under way.
pub(super) struct Answering<F> {
    answer: F,
    line: Option<Box<Line>>,
    busy: Option<Busy>,
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
        let mut line = this.line.take();
        if let Some(line) = &mut line {
            let outlet = response.request().conn_data::<OutletRef>().and_then(OutletRef::upgrade);
            line.answered(response.status(), outlet);
        }
        let busy = this.busy.take();
        Poll::Ready(Ok(response.map_body(|_, body| Watched { body, line, _busy: busy })))
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
