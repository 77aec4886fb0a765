//! HTTP/1.1 (RFC 9112) in front of the routes, for what is asked for plainly.
//!
//! What the server is for is asked for by the same few requests, again and again, and answered by the same few heads. actix
//! serves anything, and for that keeps two buffers of 8 KiB and two KiB of state for each connection, and takes each request
//! through layers that find nothing to do. So a request that is here as a whole, is for one of our routes and says nothing
//! unusual about itself is read, handed to its route and answered here. With the first that is not plain, or is not here as
//! a whole, the connection is handed over to actix, with what was read of it, and stays there: what is malformed, slow, long
//! or rare is not ours to know. So nothing here waits in the middle of a request.
//!
//! The routes are the same as under an `App`, and know of no difference.

mod request;
mod response;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use actix_http::body::{BoxBody, MessageBody};
use actix_http::error::PayloadError;
use actix_http::{Payload, Response, Version};
use actix_web::HttpResponse;
use bytes::{Buf as _, Bytes, BytesMut};
use futures_core::Stream;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use tokio::io::{AsyncWrite as _, ReadBuf};
use tokio::task::coop::{consume_budget, has_budget_remaining};

use super::access_log::Asked;
use super::io::{BoxedIo, Io};
use super::watch::{Watched, Watching};
use crate::http::{Body, Headers, HttpOptions, Site};
use request::{INPUT_MAX_BYTES, Parsed, Plain, parse};
use response::{Common, Framing, write_end, write_head, write_part};

/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;

/// Bytes of answers that wait to be written; past it no more are made.
const OUT_MAX_BYTES: usize = 32 << 10;

/// Bytes that a peer may still send, and how long it may take, once it has had its last answer: to close with something
/// unread would take back what is under way to it (RFC 9112 §9.6).
const LINGER_MAX_BYTES: usize = 256 << 10;
const LINGER_TIME: Duration = Duration::from_secs(1);

const TOO_SLOW: &[u8] = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// What the connections of one worker share.
pub(super) struct Front {
    site: Site,
    /// Where requests are written down.
    log: Option<Rc<HttpOptions>>,
    stopping: Stopping,
    common: Common,
}

/// Comes when the server stops.
pub(super) type Stopping = Shared<LocalBoxFuture<'static, ()>>;

impl Front {
    pub(super) fn new(site: Site, log: Option<Rc<HttpOptions>>, stopping: Stopping) -> Self {
        Self { site, log, stopping, common: Common::default() }
    }

    /// Serves a connection until it ends, `None`, or until it is to be handed over.
    pub(super) async fn serve(&self, io: Io) -> Option<BoxedIo> {
        if io.peer.refused.is_some() {
            return Some(io.handed_over(BytesMut::new()));
        }
        let link = Rc::new(RefCell::new(Link { io, input: BytesMut::new() }));
        let mut connection = Connection { link, out: BytesMut::new(), stopping: self.stopping.clone() };
        let mut begun = false;
        loop {
            // However many requests came together, others have their turn between them.
            consume_budget().await;
            match connection.next().await {
                Next::Plain(plain) => {
                    begun = true;
                    match connection.answer(plain, self).await {
                        After::Next => {}
                        After::Close => break,
                        After::Gone => return None,
                    }
                }
                Next::HandOver => return connection.hand_over().await,
                Next::Silent if !begun => {
                    connection.out.extend_from_slice(TOO_SLOW);
                    break;
                }
                Next::Silent | Next::Gone => return None,
                Next::Stopping => break,
            }
        }
        connection.close().await;
        None
    }
}

/// What comes next on a connection.
enum Next {
    Plain(Plain),
    HandOver,
    /// Nothing, for too long.
    Silent,
    Gone,
    Stopping,
}

/// What becomes of a connection after an answer.
enum After {
    Next,
    Close,
    Gone,
}

/// A connection's socket, and what has been read of it.
struct Link {
    io: Io,
    input: BytesMut,
}

impl Link {
    /// Reads more; says how much. It has no buffer of its own: a connection at rest costs none.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(self.io.poll_some(cx, &mut read))?;
        self.input.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        loop {
            if !self.input.is_empty() {
                match parse(&mut self.input) {
                    Parsed::Plain(plain) => return Poll::Ready(Next::Plain(plain)),
                    Parsed::Other => return Poll::Ready(Next::HandOver),
                    Parsed::Part => self.io.activity.heard(),
                }
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Next::Gone),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut => return Poll::Ready(Next::Silent),
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Gone),
                // Nothing is there yet; or the others of the thread have their turn.
                Poll::Pending if self.input.is_empty() || !has_budget_remaining() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Next::HandOver),
            }
        }
    }

    /// Waits until the peer has gone, while it is being answered. What else it asks for is kept, as far as there is room.
    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.input.len() < INPUT_MAX_BYTES {
            match ready!(self.poll_read(cx)) {
                Ok(0) | Err(_) => return Poll::Ready(()),
                Ok(_) => {}
            }
        }
        Poll::Pending
    }

    /// Writes all of `out`. Flushed then, and only then: it is how the short way learns that nothing is before it.
    fn poll_write(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<io::Result<()>> {
        while !out.is_empty() {
            let written = ready!(Pin::new(&mut self.io).poll_write(cx, out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            out.advance(written);
        }
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        *out = BytesMut::new();
        Poll::Ready(Ok(()))
    }
}

/// One connection: at rest it is a socket and little else.
struct Connection {
    /// Shared with the messages of a WebSocket, which are read by whom they are for.
    link: Rc<RefCell<Link>>,
    /// Answers that wait to be written.
    out: BytesMut,
    stopping: Stopping,
}

impl Connection {
    /// The next request. What was answered is written when there is none that could be answered with it.
    async fn next(&mut self) -> Next {
        poll_fn(|cx| {
            let mut link = self.link.borrow_mut();
            // What has been read is answered together; before more is read, the answers go out.
            let full = self.out.len() >= OUT_MAX_BYTES;
            let due = !self.out.is_empty() && (full || link.input.is_empty());
            let written = if due { Some(link.poll_write(cx, &mut self.out)) } else { None };
            match written {
                Some(Poll::Ready(Err(_))) => return Poll::Ready(Next::Gone),
                Some(Poll::Pending) if full => return Poll::Pending,
                _ => {}
            }
            let next = link.poll_next(cx);
            if let Poll::Ready(Next::Plain(_)) = next {
                return next;
            }
            // Behind them is a part of a request, or something for somebody else.
            let written = if self.out.is_empty() {
                Poll::Ready(Ok(()))
            } else {
                written.unwrap_or_else(|| link.poll_write(cx, &mut self.out))
            };
            match written {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Gone),
                // Nobody waits here but for the peer.
                Poll::Pending => return next,
            }
            if next.is_pending() && self.stopping.poll_unpin(cx).is_ready() {
                return Poll::Ready(Next::Stopping);
            }
            next
        })
        .await
    }

    async fn answer(&mut self, plain: Plain, front: &Front) -> After {
        let Plain { route, request, upgrade, body } = plain;
        let (run, watching, outlet) = {
            let link = self.link.borrow();
            let (peer, outlet) = (link.io.peer, link.io.outlet().cloned());
            let asked = || Asked {
                peer,
                method: request.method(),
                path: request.path(),
                query: request.query(),
                version: Version::HTTP_11,
                headers: Headers::Head(&request),
            };
            let watching = Watching::begin(front.log.as_deref(), asked, Some(&link.io.activity));
            let body = if upgrade {
                Body::Coming(Payload::Stream { payload: Box::pin(Incoming(self.link.clone())) })
            } else {
                Body::Whole(body)
            };
            (front.site.answer(route, request, body, peer, outlet.clone()), watching, outlet)
        };
        let Some(response) = self.run(run, upgrade).await else { return After::Gone };
        let status = response.status();
        let (head, body) = Response::from(response).into_parts();
        // A socket that was refused may have said more, that is no request.
        let close = front.stopping.peek().is_some() || upgrade;
        let size = body.size();
        let framing = write_head(head.head(), size, close, &front.common, &mut self.out);
        drop(head);
        let body = watching.answered(status, outlet, body);
        let sent = framing == Framing::None || self.send(body, framing).await;
        if sent && framing == Framing::Raw {
            self.hear_out().await;
        }
        match (sent, close || framing == Framing::Raw) {
            (false, _) => After::Gone,
            (true, true) => After::Close,
            (true, false) => After::Next,
        }
    }

    /// Waits for an answer; `None` where the peer has gone meanwhile.
    async fn run(&mut self, mut run: LocalBoxFuture<'static, HttpResponse>, upgrade: bool) -> Option<HttpResponse> {
        poll_fn(|cx| {
            if let Poll::Ready(response) = run.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            let mut link = self.link.borrow_mut();
            // What was answered before does not wait for this.
            if !self.out.is_empty() && matches!(link.poll_write(cx, &mut self.out), Poll::Ready(Err(_))) {
                return Poll::Ready(None);
            }
            // The messages of a socket are not for us to read.
            if !upgrade && link.poll_gone(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// Sends a body; says whether to its end.
    async fn send(&mut self, body: Watched<BoxBody>, framing: Framing) -> bool {
        // Let go of when it has given its last, whenever that is taken.
        let mut body = Some(body);
        poll_fn(|cx| {
            loop {
                while let Some(parts) = body.as_mut().filter(|_| self.out.len() < OUT_MAX_BYTES) {
                    match Pin::new(parts).poll_next(cx) {
                        Poll::Ready(Some(Ok(part))) => write_part(framing, &part, &mut self.out),
                        Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
                        Poll::Ready(None) => {
                            write_end(framing, &mut self.out);
                            body = None;
                        }
                        Poll::Pending => break,
                    }
                }
                if body.is_none() && framing == Framing::Sized {
                    // Written with the next, or when there is none.
                    return Poll::Ready(true);
                }
                let mut link = self.link.borrow_mut();
                if framing != Framing::Raw && link.poll_gone(cx).is_ready() {
                    return Poll::Ready(false);
                }
                if self.out.is_empty() {
                    return if body.is_none() { Poll::Ready(true) } else { Poll::Pending };
                }
                let full = self.out.len() >= OUT_MAX_BYTES;
                match ready!(link.poll_write(cx, &mut self.out)) {
                    Err(_) => return Poll::Ready(false),
                    Ok(()) if body.is_none() => return Poll::Ready(true),
                    Ok(()) if full => {}
                    Ok(()) => return Poll::Pending,
                }
            }
        })
        .await
    }

    /// A socket's peer answers a close frame with its own (RFC 6455 §7.1.1), or goes; it is cut only where it does neither.
    async fn hear_out(&self) {
        let word = poll_fn(|cx| self.link.borrow_mut().poll_read(cx).map(drop));
        let _ = tokio::time::timeout(LINGER_TIME, word).await;
    }

    async fn hand_over(mut self) -> Option<BoxedIo> {
        poll_fn(|cx| self.link.borrow_mut().poll_write(cx, &mut self.out)).await.ok()?;
        // Nobody else has it: it is shared during an answer only.
        let Link { io, input } = Rc::into_inner(self.link)?.into_inner();
        Some(io.handed_over(input))
    }

    /// Writes what waits, says that there is no more, and waits a little for the peer to see it.
    async fn close(mut self) {
        let closing = poll_fn(|cx| {
            let mut link = self.link.borrow_mut();
            if !self.out.is_empty() {
                ready!(link.poll_write(cx, &mut self.out))?;
            }
            ready!(Pin::new(&mut link.io).poll_shutdown(cx))?;
            let mut left = LINGER_MAX_BYTES;
            loop {
                match ready!(link.poll_read(cx))? {
                    read if read > 0 && read < left => left -= read,
                    _ => return Poll::Ready(io::Result::Ok(())),
                }
                link.input.clear();
            }
        });
        let _ = tokio::time::timeout(LINGER_TIME, closing).await;
    }
}

/// What comes over a connection that is not HTTP any more.
struct Incoming(Rc<RefCell<Link>>);

impl Stream for Incoming {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut link = self.0.borrow_mut();
        if link.input.is_empty() {
            match ready!(link.poll_read(cx)) {
                Ok(0) => return Poll::Ready(None),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(PayloadError::Io(error)))),
            }
        }
        Poll::Ready(Some(Ok(std::mem::take(&mut link.input).freeze())))
    }
}
