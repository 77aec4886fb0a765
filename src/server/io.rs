//! A connection's bytes: plain or in TLS, and cut where no request comes over it for too long.
//!
//! actix times the head of a connection's first request only. One that sends a request, and then the first byte of another,
//! would be kept for ever.

use std::cell::Cell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::Sleep;
use tokio_rustls::server::TlsStream;

use super::tls::HTTP2;
use crate::http::Peer;
use crate::limits::Counted;

/// What comes and goes.
pub(super) enum Wire {
    Plain(TcpStream),
    /// Boxed, since its state is a kilobyte that plain connections need not have.
    Tls(Box<TlsStream<TcpStream>>),
}

impl Wire {
    /// Whether both sides agreed on HTTP/2.
    pub(super) fn is_http2(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Tls(stream) => stream.get_ref().1.alpn_protocol() == Some(HTTP2),
        }
    }
}

/// Whether a connection has requests under way.
#[derive(Debug, Default)]
pub(super) struct Activity(Cell<usize>);

/// One request that is under way, until its answer has been given.
#[derive(Debug)]
pub(super) struct Busy(Rc<Activity>);

impl Activity {
    pub(super) fn begin(self: &Rc<Self>) -> Busy {
        self.0.set(self.0.get() + 1);
        Busy(self.clone())
    }

    pub(super) fn is_idle(&self) -> bool {
        self.0.get() == 0
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.0.set(self.0.0.get() - 1);
    }
}

/// An HTTP/1 connection.
pub(super) struct Io {
    wire: Wire,
    pub(super) peer: Peer,
    pub(super) activity: Rc<Activity>,
    idle_max: Duration,
    /// Runs while there is no request.
    idle: Option<Pin<Box<Sleep>>>,
    _counted: Option<Counted>,
}

impl Io {
    pub(super) fn new(wire: Wire, peer: Peer, idle_max: Duration, counted: Option<Counted>) -> Self {
        Self { wire, peer, activity: Rc::default(), idle_max, idle: None, _counted: counted }
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.activity.is_idle() {
            self.idle = None;
            return Poll::Pending;
        }
        let idle_max = self.idle_max;
        self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(idle_max))).as_mut().poll(cx)
    }
}

impl AsyncRead for Io {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.poll_idle(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        Pin::new(&mut self.wire).poll_read(cx, buf)
    }
}

impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Plain(stream) => stream.is_write_vectored(),
            Self::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl AsyncWrite for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.wire).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.wire.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.wire).poll_shutdown(cx)
    }
}
