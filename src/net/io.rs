//! A connection's bytes, plain or over TLS, with an idle timeout.
//!
//! actix has a timeout for the head of the first request of a connection only. A connection that sends a request, and then the
//! first byte of another, would be kept for ever. actix can also limit the pauses between requests, but arms a timer after each
//! request; here one timer serves many requests.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::net::tcp::OwnedReadHalf;
use tokio::time::{Instant, Sleep};
use tokio_rustls::server::TlsStream;

use super::backlog::Backlog;
use super::direct_write::DirectSink;
use super::hold::Hold;
use super::payer::Payer;
use super::peer::Peer;
use super::tls::HTTP2;
use super::trailer_check::{Malformed, TrailerCheck};
use crate::limits::Permit;

/// actix looks at the clock twice a second: a deadline that it sets may be over so much earlier, and a short one at once.
pub(crate) const APP_CLOCK_STALE: Duration = Duration::from_millis(500);

/// Bytes of answers that wait within TLS, before and after they are encrypted: a record of each (RFC 8446 §5.1).
const TLS_BUFFER_BYTES: usize = 16 << 10;
const TLS_BUFFERS: usize = 2;

/// Bytes that actix refuses wherever a request's head or a trailer section is malformed: a carriage return that ends no line.
const REFUSED: &[u8] = b"\r\0";

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

/// Whether a connection has requests in flight, since when it has been idle, and how it is to end.
#[derive(Debug)]
pub(crate) struct Activity {
    requests: Cell<usize>,
    idle_since: Cell<Instant>,
    /// When the first byte of a request arrived whose head is incomplete.
    head_since: Cell<Option<Instant>>,
    /// Whether the request in flight waits for events.
    pub(crate) hold: Hold,
    end: Cell<ConnectionEnd>,
}

/// How far an HTTP/1 connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionEnd {
    /// More requests may come.
    Open,
    /// The request in flight is the connection's last (RFC 9112 §9.6).
    LastRequest,
    /// A request was pipelined after the last one: the connection is closed as soon as the last response is written.
    Overrun,
    /// The last byte was queued: the sending side is shut down once that is written.
    LastByte,
}

/// The timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Between requests.
    pub(crate) idle: Duration,
    /// For a request's head.
    pub(crate) head: Duration,
}

/// One request in flight, until its response is complete.
#[derive(Debug)]
pub(crate) struct InFlightGuard(Rc<Activity>);

impl Activity {
    /// For a new connection, which owes a head.
    fn begin_connection() -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            requests: Cell::new(0),
            idle_since: Cell::new(now),
            head_since: Cell::new(Some(now)),
            hold: Hold::default(),
            end: Cell::new(ConnectionEnd::Open),
        })
    }

    pub(super) fn begin(self: &Rc<Self>) -> InFlightGuard {
        self.requests.set(self.requests.get() + 1);
        self.head_since.set(None);
        self.hold.set(false);
        InFlightGuard(self.clone())
    }

    /// Whether the next request may be executed; `last` where no other may follow it. A request after the last one ends the
    /// connection.
    pub(super) fn may_execute(&self, last: bool) -> bool {
        match (self.end.get(), last) {
            (ConnectionEnd::Open, false) => true,
            (ConnectionEnd::Open, true) => {
                self.end.set(ConnectionEnd::LastRequest);
                true
            }
            _ => {
                self.end.set(ConnectionEnd::Overrun);
                false
            }
        }
    }

    /// The request under way is the connection's last.
    pub(crate) fn finish_requests(&self) {
        if self.end.get() == ConnectionEnd::Open {
            self.end.set(ConnectionEnd::LastRequest);
        }
    }

    /// Nothing is sent any more behind what was given until now.
    pub(super) fn finish_sending(&self) {
        self.end.set(ConnectionEnd::LastByte);
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.get() == 0
    }

    /// Records that a part of a request has arrived.
    pub(super) fn heard(&self) {
        if self.is_idle() && self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
    }

    /// When the idle timeout or the head's timeout passes, if the connection stays as it is.
    fn ends_at(&self, timeouts: Timeouts) -> Instant {
        match self.head_since.get() {
            Some(since) => since + timeouts.head,
            None => self.idle_since.get() + timeouts.idle,
        }
    }
}

impl InFlightGuard {
    pub(super) fn activity(&self) -> &Activity {
        &self.0
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.idle_since.set(Instant::now());
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
    /// Bytes that were read and are to be read again.
    unread: BytesMut,
    /// The peer has closed its sending side.
    pub(super) read_ended: bool,
    /// The check of what the `App` reads.
    trailers: Option<Box<TrailerCheck>>,
    _counted: Option<Permit>,
}

/// As actix gets it. A connection's task reserves space for it more than once, and an unboxed `Io` would take half a kilobyte
/// more.
pub(crate) type BoxedIo = Box<Io>;

impl Io {
    pub(super) fn new(wire: Wire, peer: Peer, payer: Payer, timeouts: Timeouts, counted: Option<Permit>) -> Self {
        let activity = Activity::begin_connection();
        let (idle, unread, read_ended, trailers) = (None, BytesMut::new(), false, None);
        Self { wire, peer, activity, payer, timeouts, idle, unread, read_ended, trailers, _counted: counted }
    }

    /// For the `App`, which is to read these bytes first. actix times the first head that it reads by itself, and answers 408.
    pub(crate) fn rewind(mut self, unread: BytesMut) -> BoxedIo {
        self.unread = unread;
        self.trailers = Some(Box::default());
        self.activity.head_since.set(Some(Instant::now() + self.timeouts.idle + APP_CLOCK_STALE));
        Box::new(self)
    }

    pub(crate) fn sink(&self) -> Option<&DirectSink> {
        self.wire.sink()
    }

    /// Reads, for a caller that records by itself when a part of a request has arrived: most requests arrive completely.
    pub(super) fn poll_some(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.wire).poll_read(cx, buf);
        if matches!(read, Poll::Ready(Ok(()))) && buf.filled().len() == before {
            self.read_ended = true;
        }
        // Checked last: for a connection whose request has arrived already no timer is armed at all.
        if read.is_pending() && self.poll_idle(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        read
    }

    /// As [`Self::poll_some`], where no caller records that a part of a request has arrived.
    fn poll_some_heard(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = self.poll_some(cx, buf);
        if buf.filled().len() > before {
            self.activity.heard();
        }
        read
    }

    /// Reads again what was read before; returns whether there was anything.
    fn take_unread(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.unread.is_empty() {
            return false;
        }
        let length = self.unread.len().min(buf.remaining());
        buf.put_slice(&self.unread.split_to(length));
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
        }
        true
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

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = if self.take_unread(buf) { Poll::Ready(Ok(())) } else { self.poll_some_heard(cx, buf) };
        let checked = self.trailers.as_mut().map_or(Ok(()), |check| check.pass(&buf.filled()[before..]));
        if let Err(Malformed { at }) = checked {
            buf.set_filled(before + at);
            // What the peer sent from here on is not read.
            (self.trailers, self.unread) = (None, REFUSED.into());
            if at == 0 {
                self.take_unread(buf);
            }
        }
        read
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
            Self::Tls(stream, backlog) => match Pin::new(&mut **stream).poll_write(cx, buf) {
                Poll::Ready(written) => {
                    backlog.took(*written.as_ref().unwrap_or(&0), false);
                    Poll::Ready(written)
                }
                Poll::Pending => {
                    backlog.poll_blocked(cx, stream.get_ref().0, TLS_BUFFERS * TLS_BUFFER_BYTES + buf.len()).map(Err)
                }
            },
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
                Poll::Pending => backlog.poll_blocked(cx, stream.get_ref().0, TLS_BUFFERS * TLS_BUFFER_BYTES).map(Err),
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

    /// The place where actix can be stopped: it flushes whenever it has run, and when everything that it had to send is written.
    ///
    /// A client that has closed its sending side still gets its response (actix is configured to allow that), but a held request
    /// ends with its client; and actix by itself would execute requests that follow the last one of a connection.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.wire).poll_flush(cx))?;
        match self.activity.end.get() {
            ConnectionEnd::Overrun => Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into())),
            _ if self.read_ended && self.activity.hold.is_set() => {
                Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()))
            }
            ConnectionEnd::LastByte => Pin::new(&mut self.wire).poll_shutdown(cx),
            ConnectionEnd::Open | ConnectionEnd::LastRequest => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
