//! The short way out: what a stream is sent, straight to its socket.
//!
//! A stream's usual way is its body: its task is woken, actix goes through the connection's state, asks the body, copies what
//! it gives and writes it. With a thousand streams that is two microseconds for each event and stream, most of them spent
//! waiting for memory. So a stream that is at rest is written to by its worker directly. What the socket does not take
//! then, and all that is not at rest, goes the usual way, which is also the only one over TLS, over HTTP/2 and in somebody
//! else's server.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::Shutdown;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::net::tcp::OwnedWriteHalf;

/// The writing side of a plain connection, shared by what actix writes and what goes the short way.
#[derive(Clone, Debug)]
pub(crate) struct Outlet(Rc<Shared>);

/// An outlet while its connection is there. What is noted about a connection can outlive it, in actix's pools.
#[derive(Clone, Debug)]
pub(crate) struct OutletRef(Weak<Shared>);

#[derive(Debug)]
struct Shared {
    half: OwnedWriteHalf,
    /// Whether all that was given to actix has been written.
    clear: Cell<bool>,
    /// What the socket did not take yet: at most one write of one stream.
    rest: RefCell<BytesMut>,
    /// Bytes that went the short way.
    sent_bytes: Cell<u64>,
}

impl OutletRef {
    pub(crate) fn upgrade(&self) -> Option<Outlet> {
        self.0.upgrade().map(Outlet)
    }
}

impl Outlet {
    pub(crate) fn new(half: OwnedWriteHalf) -> Self {
        let clear = Cell::new(false);
        Self(Rc::new(Shared { half, clear, rest: RefCell::default(), sent_bytes: Cell::new(0) }))
    }

    pub(crate) fn downgrade(&self) -> OutletRef {
        OutletRef(Rc::downgrade(&self.0))
    }

    /// Bytes that went the short way so far.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes.get()
    }

    /// Something is given to actix: until it is written, nothing may overtake it.
    pub(super) fn block(&self) {
        self.0.clear.set(false);
    }

    /// Whether nothing waits to be written. Where something does, the connection's task will run again.
    pub(super) fn is_clear(&self) -> bool {
        self.0.clear.get() && self.0.rest.borrow().is_empty()
    }

    /// Writes now, what is at rest; says whether the socket took all of it. If not, its task has to be woken, to see to the
    /// rest, and to find out what is wrong with the socket if something is.
    pub(super) fn send(&self, bytes: &[u8]) -> bool {
        // Not by tokio, which would look up first whether the socket is known to be full: that lies elsewhere in memory.
        let written = socket2::SockRef::from(self.0.half.as_ref()).send(bytes).unwrap_or(0);
        self.0.sent_bytes.set(self.0.sent_bytes.get() + bytes.len() as u64);
        if written == bytes.len() {
            return true;
        }
        self.0.rest.borrow_mut().extend_from_slice(&bytes[written..]);
        false
    }

    /// Waits until what the socket did not take has been taken.
    pub(super) fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut rest = self.0.rest.borrow_mut();
        while !rest.is_empty() {
            let written = ready!(self.poll_socket(cx, &rest))?;
            rest.advance(written);
            if rest.is_empty() {
                // A stream at rest costs no buffer.
                *rest = BytesMut::new();
            }
        }
        Poll::Ready(Ok(()))
    }

    /// What actix writes.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(cx))?;
        self.poll_socket(cx, bytes)
    }

    /// actix flushes when its own buffer is empty, and only then.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.clear.set(true);
        self.poll_rest(cx)
    }

    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx))?;
        match socket2::SockRef::from(self.0.half.as_ref()).shutdown(Shutdown::Write) {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_socket(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.0.half.as_ref().poll_write_ready(cx))?;
            match self.0.half.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(0) if !bytes.is_empty() => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => return Poll::Ready(written),
            }
        }
    }
}
