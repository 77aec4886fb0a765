//! HTTP/1.1 (RFC 9112), for the frequent requests.
//!
//! The server's work is a few kinds of requests, repeated again and again and answered with a few kinds of heads. actix serves
//! anything; for that it keeps two buffers of 8 KiB and two KiB of state per connection, and passes each request through layers
//! that have nothing to do. So a request that has arrived completely, is for a fast path and has nothing unusual in its head is
//! parsed, served and answered here. With the first request that does not qualify the connection falls back to the actix-web
//! `App`, together with the bytes read so far, and stays there. Malformed, slow, long and rare requests are not parsed here, so
//! nothing here waits in the middle of a request.

mod decode;

mod encode;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes, BytesMut};
use futures_core::Stream;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};
use tokio::io::{AsyncWrite as _, ReadBuf};
use tokio::task::coop::{consume_budget, has_budget_remaining};

use super::access_log::AccessLog;
use super::fallback::io::{AppIo, BoxedIo};
use super::head_error::HeadError;
use super::in_flight::InFlight;
use super::io::Io;
use super::linger::Linger;
use super::request::{Request, RequestBody};
use super::response::{Response, ResponseBody};
use super::service::Service;
use super::websocket::FrameReader;
use decode::{FastRequest, INPUT_MAX_BYTES, Parsed, parse};
use encode::{BodyFraming, HeadTemplate, write_end, write_head, write_part};

/// Bytes that are read at once.
const READ_BYTES: usize = 16 << 10;

/// Bytes of responses queued for writing; past it no further request is answered.
const OUT_MAX_BYTES: usize = 16 << 10;

/// Bytes of a body that are written before the thread's other tasks get their turn: a long history fills the socket's buffers,
/// which are megabytes, and with many such streams everything else on the thread would wait for all of them.
const TURN_BYTES: usize = 64 << 10;

/// State shared by the connections of one worker.
pub(crate) struct Http1<S> {
    service: Rc<S>,
    log: Option<Rc<AccessLog>>,
    stopping: Stopping,
    template: HeadTemplate,
}

/// Completes when the server stops.
pub(crate) type Stopping = Shared<LocalBoxFuture<'static, ()>>;

impl<S: Service> Http1<S> {
    pub(crate) fn new(service: Rc<S>, log: Option<Rc<AccessLog>>, stopping: Stopping) -> Self {
        Self { service, log, stopping, template: HeadTemplate::default() }
    }

    /// Serves a connection until it ends (`None`), or until it falls back.
    pub(crate) async fn serve(&self, io: Box<Io>) -> Option<BoxedIo> {
        if io.peer.refused.is_some() {
            return Some(AppIo::new(*io, BytesMut::new()));
        }
        let link = Rc::new(RefCell::new(Link { io: *io, input: BytesMut::new() }));
        let mut connection = Connection { link, out: BytesMut::new(), stopping: self.stopping.clone() };
        let mut begun = false;
        loop {
            // Between pipelined requests, however many, other tasks get their turn.
            consume_budget().await;
            match connection.next(&*self.service).await {
                Next::Request(request) => {
                    begun = true;
                    match connection.answer(request, self).await {
                        After::Next => {}
                        After::Close => break,
                        After::Gone => return None,
                    }
                }
                Next::FallBack => return connection.fall_back().await,
                Next::Silent if !begun => {
                    connection.refuse(&HeadError::Timeout, &self.template);
                    break;
                }
                Next::Silent | Next::Gone => return None,
                Next::Finished | Next::Stopping => break,
            }
        }
        connection.close().await;
        None
    }
}

/// What comes next on a connection.
enum Next {
    Request(FastRequest),
    FallBack,
    /// The idle timeout has passed.
    Silent,
    Gone,
    /// The peer has closed its sending side.
    Finished,
    Stopping,
}

/// What follows a response.
enum After {
    Next,
    Close,
    Gone,
}

/// How a peer ends its sending.
#[derive(Clone, Copy, PartialEq, Eq)]
enum ReadEnd {
    /// The peer has closed its sending side (a FIN), and may be waiting for its response.
    Finished,
    /// The connection is broken.
    Broken,
}

/// A connection's socket, and the bytes read from it.
struct Link {
    io: Io,
    input: BytesMut,
}

impl Link {
    /// Reads more; returns how much. The read uses a temporary buffer: an idle connection has none.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut read = ReadBuf::uninit(&mut space);
        ready!(self.io.poll_some(cx, &mut read))?;
        self.input.extend_from_slice(read.filled());
        Poll::Ready(Ok(read.filled().len()))
    }

    fn poll_next(&mut self, cx: &mut Context<'_>, service: &impl Service) -> Poll<Next> {
        loop {
            if !self.input.is_empty() {
                match parse(&mut self.input, |path| service.fast_path(path)) {
                    Parsed::Complete(request) => return Poll::Ready(Next::Request(request)),
                    Parsed::Unsupported => return Poll::Ready(Next::FallBack),
                    Parsed::Partial => self.io.activity.heard(),
                }
            }
            match self.poll_read(cx) {
                Poll::Ready(Ok(0)) => return Poll::Ready(Next::Finished),
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(error)) if error.kind() == io::ErrorKind::TimedOut => return Poll::Ready(Next::Silent),
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Gone),
                // Nothing has arrived yet; or the thread's other tasks get their turn.
                Poll::Pending if self.input.is_empty() || !has_budget_remaining() => return Poll::Pending,
                Poll::Pending => return Poll::Ready(Next::FallBack),
            }
        }
    }

    /// Waits for the end of the peer's bytes while a request is being answered. Pipelined requests are kept, as far as there is
    /// room.
    fn poll_read_end(&mut self, cx: &mut Context<'_>) -> Poll<ReadEnd> {
        while self.input.len() < INPUT_MAX_BYTES {
            match ready!(self.poll_read(cx)) {
                Ok(0) => return Poll::Ready(ReadEnd::Finished),
                Ok(_) => {}
                Err(_) => return Poll::Ready(ReadEnd::Broken),
            }
        }
        Poll::Pending
    }

    /// Whether the peer has gone: its connection is broken, or the peer has closed its sending side while every response is
    /// written and the request waits for events.
    fn is_gone(&mut self, cx: &mut Context<'_>, out: &BytesMut) -> bool {
        match self.poll_read_end(cx) {
            Poll::Ready(ReadEnd::Broken) => true,
            Poll::Ready(ReadEnd::Finished) => out.is_empty() && self.io.activity.hold.is_set(),
            Poll::Pending => false,
        }
    }

    /// Writes all of `out`, and flushes then and only then: direct writes are allowed from the flush on.
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

/// One connection; an idle one is a socket and little else.
struct Connection {
    /// Shared with the messages of a WebSocket, which its handler reads.
    link: Rc<RefCell<Link>>,
    /// Responses queued for writing.
    out: BytesMut,
    stopping: Stopping,
}

impl Connection {
    /// The next request. Queued responses are written once no further request can be answered along with them.
    async fn next(&mut self, service: &impl Service) -> Next {
        poll_fn(|cx| {
            let mut link = self.link.borrow_mut();
            // Requests that have been read are answered together; before more is read, the responses are written.
            let full = self.out.len() >= OUT_MAX_BYTES;
            let due = !self.out.is_empty() && (full || link.input.is_empty());
            let written = if due { Some(link.poll_write(cx, &mut self.out)) } else { None };
            match written {
                Some(Poll::Ready(Err(_))) => return Poll::Ready(Next::Gone),
                Some(Poll::Pending) if full => return Poll::Pending,
                _ => {}
            }
            let next = link.poll_next(cx, service);
            if let Poll::Ready(Next::Request(_)) = next {
                return next;
            }
            // The rest of the input is an incomplete request, or one for the `App`.
            let written = if self.out.is_empty() {
                Poll::Ready(Ok(()))
            } else {
                written.unwrap_or_else(|| link.poll_write(cx, &mut self.out))
            };
            match written {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(_)) => return Poll::Ready(Next::Gone),
                // Only the peer is waited for here.
                Poll::Pending => return next,
            }
            if next.is_pending() && self.stopping.poll_unpin(cx).is_ready() {
                return Poll::Ready(Next::Stopping);
            }
            next
        })
        .await
    }

    async fn answer<S: Service>(&mut self, request: FastRequest, http1: &Http1<S>) -> After {
        let FastRequest { head, upgrade, body } = request;
        let (run, mut in_flight, sink) = {
            let link = self.link.borrow();
            let (peer, sink, payer) = (link.io.peer, link.io.sink().cloned(), Some(link.io.payer.clone()));
            let in_flight =
                InFlight::begin(http1.log.as_deref().map(|log| (log, &*head)), &peer, Some(&link.io.activity));
            let body = if upgrade {
                let bytes = UpgradedBytes(self.link.clone());
                RequestBody::WebSocket(Box::new(|bytes_max| Box::new(FrameReader::new(bytes, bytes_max))))
            } else {
                RequestBody::Full(body)
            };
            let hold = Some(link.io.activity.hold.clone());
            let request = Request { head, body, peer, sink: sink.clone(), hold, payer };
            (http1.service.call(request), in_flight, sink)
        };
        let Some(response) = self.run(run, upgrade).await else { return After::Gone };
        // After a refused upgrade the peer may have sent bytes that are no request.
        let close = http1.stopping.peek().is_some() || upgrade;
        let framing = write_head(&response, close, &http1.template, &mut self.out);
        if let Some(sink) = &sink {
            sink.set_chunked(framing == BodyFraming::Chunked);
        }
        in_flight.answered(response.status.as_u16(), sink);
        let sent = framing == BodyFraming::Empty || self.send(response.body, framing, in_flight).await;
        match (sent, close || framing == BodyFraming::CloseDelimited) {
            (false, _) => After::Gone,
            (true, true) => After::Close,
            (true, false) => After::Next,
        }
    }

    /// Waits for a response; `None` where the peer has gone meanwhile.
    async fn run(&mut self, mut run: LocalBoxFuture<'static, Response>, upgrade: bool) -> Option<Response> {
        poll_fn(|cx| {
            if let Poll::Ready(response) = run.as_mut().poll(cx) {
                return Poll::Ready(Some(response));
            }
            let mut link = self.link.borrow_mut();
            // Earlier responses do not wait for this one.
            if !self.out.is_empty() && matches!(link.poll_write(cx, &mut self.out), Poll::Ready(Err(_))) {
                return Poll::Ready(None);
            }
            // The messages of a WebSocket are its handler's to read.
            if !upgrade && link.is_gone(cx, &self.out) {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    }

    /// Sends a body; returns whether all of it was sent.
    async fn send(&mut self, body: ResponseBody, framing: BodyFraming, in_flight: InFlight) -> bool {
        // Dropped after its last part, whenever the peer takes that.
        let mut body = Some((body, in_flight));
        let mut left_bytes = if let BodyFraming::Length(bytes) = framing { bytes } else { 0 };
        poll_fn(|cx| {
            let mut turn_bytes = 0;
            loop {
                while let Some((parts, in_flight)) = body.as_mut().filter(|_| self.out.len() < OUT_MAX_BYTES) {
                    match parts.poll_part(cx) {
                        Poll::Ready(Some(part)) => {
                            in_flight.sent(part.len());
                            left_bytes = left_bytes.saturating_sub(part.len());
                            write_part(framing, &part, &mut self.out);
                        }
                        // The body ended early.
                        Poll::Ready(None) if left_bytes > 0 => return Poll::Ready(false),
                        Poll::Ready(None) => {
                            write_end(framing, &mut self.out);
                            body = None;
                        }
                        Poll::Pending => break,
                    }
                }
                if body.is_none() && matches!(framing, BodyFraming::Length(_)) {
                    // Written with the next part, or when there is none.
                    return Poll::Ready(true);
                }
                let mut link = self.link.borrow_mut();
                if framing != BodyFraming::CloseDelimited && link.is_gone(cx, &self.out) {
                    return Poll::Ready(false);
                }
                if self.out.is_empty() {
                    return if body.is_none() { Poll::Ready(true) } else { Poll::Pending };
                }
                let full = self.out.len() >= OUT_MAX_BYTES;
                turn_bytes += self.out.len();
                match ready!(link.poll_write(cx, &mut self.out)) {
                    Err(_) => return Poll::Ready(false),
                    Ok(()) if body.is_none() => return Poll::Ready(true),
                    Ok(()) if full && turn_bytes >= TURN_BYTES => {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    // Checked again whether the peer has gone: it closed its sending side before everything was written.
                    Ok(()) if full || link.io.read_ended => {}
                    Ok(()) => return Poll::Pending,
                }
            }
        })
        .await
    }

    async fn fall_back(mut self) -> Option<BoxedIo> {
        poll_fn(|cx| self.link.borrow_mut().poll_write(cx, &mut self.out)).await.ok()?;
        // The link is shared only while a request is answered.
        let Link { io, input } = Rc::into_inner(self.link)?.into_inner();
        Some(AppIo::new(io, input))
    }

    /// Queues the last response, to what is not a request.
    fn refuse(&mut self, error: &HeadError, template: &HeadTemplate) {
        let response = error.response();
        write_head(&response, true, template, &mut self.out);
        if let ResponseBody::Full(body) = response.body {
            self.out.extend_from_slice(&body);
        }
    }

    /// Writes what is queued, shuts down the sending side, and waits a little for the peer to read it.
    async fn close(mut self) {
        let mut linger = Linger::new();
        poll_fn(|cx| {
            let mut link = self.link.borrow_mut();
            link.input = BytesMut::new();
            let sent = if self.out.is_empty() { Poll::Ready(Ok(())) } else { link.poll_write(cx, &mut self.out) };
            let shut = match sent {
                Poll::Ready(Ok(())) => Pin::new(&mut link.io).poll_shutdown(cx),
                sent => sent,
            };
            match shut {
                Poll::Ready(Ok(())) => linger.poll(cx, &mut link.io),
                Poll::Ready(Err(_)) => Poll::Ready(()),
                Poll::Pending => linger.poll_time(cx),
            }
        })
        .await;
    }
}

/// What comes over a connection that is not HTTP any more.
struct UpgradedBytes(Rc<RefCell<Link>>);

impl Stream for UpgradedBytes {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut link = self.0.borrow_mut();
        if link.input.is_empty() {
            match ready!(link.poll_read(cx)) {
                Ok(0) => return Poll::Ready(None),
                Ok(_) => {}
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
        Poll::Ready(Some(Ok(std::mem::take(&mut link.input).freeze())))
    }
}

#[cfg(test)]
mod tests;
