//! A connection's bytes, plain or over TLS, with an idle timeout and a timeout for heads.
//!
//! actix has a timeout for the head of the first request of a connection only. A connection that sends a request, and then the
//! first byte of another, would be kept for ever. actix can also limit the pauses between requests, but arms a timer after each
//! request; here one timer serves many requests.

use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::task::coop::{has_budget_remaining, poll_proceed};
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use super::activity::{Activity, Timeouts};
use super::backlog::Backlog;
use super::direct_write::DirectSink;
use super::payer::Payer;
use super::peer::Peer;
use super::tls::HTTP2;
use crate::limits::Permit;

/// Bytes of answers that wait within TLS, before and after they are encrypted: a record of each (RFC 8446 §5.1).
const TLS_BUFFER_BYTES: usize = 16 << 10;
const TLS_BUFFERS: usize = 2;

/// Bytes of a turn: tokio lets a task that reads without waiting go on for 128 operations, and ends its turn then, so that the
/// thread's other tasks get theirs. 128 reads of an upload are megabytes, for which the others would wait; so each takes as many
/// operations as its part of these bytes.
const TURN_BYTES: usize = 64 << 10;
const TURN_OPERATIONS: usize = 128;

/// The transport of a connection.
pub(crate) enum Wire {
    /// The writing side is shared with the streams of the connection.
    Plain(OwnedReadHalf, DirectSink),
    /// Boxed, since its state is a kilobyte, which plain connections should not reserve.
    Tls(Box<TlsStream<TcpStream>>, Backlog),
}

impl Wire {
    pub(super) fn plain(stream: TcpStream, backlog: Backlog) -> Self {
        let (reading, writing) = stream.into_split();
        Self::Plain(reading, DirectSink::new(writing, backlog))
    }

    pub(super) fn tls(mut stream: TlsStream<TcpStream>, backlog: Backlog) -> Self {
        stream.get_mut().1.set_buffer_limit(Some(TLS_BUFFER_BYTES));
        Self::Tls(Box::new(stream), backlog)
    }

    /// The sink for direct writes, where they are possible.
    fn sink(&self) -> Option<&DirectSink> {
        match self {
            Self::Plain(_, sink) => Some(sink),
            Self::Tls(..) => None,
        }
    }

    /// Whether ALPN has negotiated HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        match self {
            Self::Plain(..) => false,
            Self::Tls(stream, _) => stream.get_ref().1.alpn_protocol() == Some(HTTP2),
        }
    }
}

/// An HTTP/1 connection.
pub(crate) struct Io {
    wire: Wire,
    pub(crate) peer: Peer,
    pub(crate) activity: Rc<Activity>,
    /// The payer of the bytes queued on the connection.
    pub(crate) payer: Payer,
    timeouts: Timeouts,
    /// Fires at or before the timeout. It is not reset while a request is in flight, and is reset when it fires early: resetting
    /// it with each request would cost a tenth of a short request.
    idle: Option<Pin<Box<Sleep>>>,
    /// The peer has closed its sending side.
    pub(super) read_ended: bool,
    _counted: Option<Permit>,
}

impl Io {
    pub(super) fn new(wire: Wire, peer: Peer, payer: Payer, timeouts: Timeouts, counted: Option<Permit>) -> Self {
        let activity = Activity::begin_connection();
        Self { wire, peer, activity, payer, timeouts, idle: None, read_ended: false, _counted: counted }
    }

    pub(crate) fn sink(&self) -> Option<&DirectSink> {
        self.wire.sink()
    }

    /// Reads, for a caller that records by itself when a part of a request has arrived: most requests arrive completely.
    pub(super) fn poll_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.wire).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(()))) {
            let read_bytes = buf.filled().len() - before;
            self.read_ended = read_bytes == 0;
            spend_turn(cx, read_bytes);
        }
        // Checked last: for a connection whose request has arrived already no timer is armed at all.
        if read.is_pending() && self.poll_idle(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.activity.is_idle() {
            return Poll::Pending;
        }
        let until = self.activity.ends_at(self.timeouts);
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
        loop {
            ready!(idle.as_mut().poll(cx));
            if idle.deadline() >= until {
                return Poll::Ready(());
            }
            idle.as_mut().reset(until);
        }
    }
}

/// Takes the operations of a read off the task's turn, beside the one that the socket took.
fn spend_turn(cx: &mut Context<'_>, read_bytes: usize) {
    for _ in 0..read_bytes / (TURN_BYTES / TURN_OPERATIONS) {
        if !has_budget_remaining() {
            return;
        }
        if let Poll::Ready(operation) = poll_proceed(cx) {
            operation.made_progress();
        }
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(reading, _) => Pin::new(reading).poll_read(cx, buf),
            Self::Tls(stream, _) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(_, sink) => sink.poll_write(cx, buf),
            Self::Tls(stream, backlog) => {
                backlog.queue(TLS_BUFFERS * TLS_BUFFER_BYTES + buf.len());
                match Pin::new(&mut **stream).poll_write(cx, buf) {
                    Poll::Ready(written) => {
                        backlog.took(*written.as_ref().unwrap_or(&0), false);
                        Poll::Ready(written)
                    }
                    Poll::Pending => backlog.poll_blocked(cx, stream.get_ref().0).map(Err),
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_, sink) => sink.poll_flush(cx),
            Self::Tls(stream, backlog) => match Pin::new(&mut **stream).poll_flush(cx) {
                Poll::Ready(flushed) => {
                    backlog.took(0, true);
                    Poll::Ready(flushed)
                }
                Poll::Pending => {
                    backlog.queue(TLS_BUFFERS * TLS_BUFFER_BYTES);
                    backlog.poll_blocked(cx, stream.get_ref().0).map(Err)
                }
            },
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(_, sink) => sink.poll_shutdown(cx),
            Self::Tls(stream, _) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
