//! The short way out: what a stream is sent, straight to its socket.
//!
//! A stream's usual way is its body: its task is woken, goes through the connection's state, asks the body, copies what it
//! gives and writes it. With a thousand streams that is two microseconds for each event and stream, most of them spent
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

/// The writing side of a plain connection, shared by what its task writes and what goes the short way.
#[derive(Clone, Debug)]
pub(crate) struct Outlet(Rc<Shared>);

/// An outlet while its connection is there. What is noted about a connection can outlive it, in actix's pools.
#[derive(Clone, Debug)]
pub(crate) struct OutletRef(Weak<Shared>);

#[derive(Debug)]
struct Shared {
    half: OwnedWriteHalf,
    /// Whether all that was given to the task has been written.
    clear: Cell<bool>,
    /// What the socket did not take yet: at most one write of one stream.
    rest: RefCell<BytesMut>,
    /// Bytes of bodies that went the short way.
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

    /// Bytes of bodies that went the short way so far, without what stands around chunks.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes.get()
    }

    /// Notes that bytes of a body went the short way.
    pub(super) fn count(&self, bytes: usize) {
        self.0.sent_bytes.set(self.0.sent_bytes.get() + bytes as u64);
    }

    /// Something is given to the task: until it is written, nothing may overtake it.
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

    /// What the connection's task writes.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_rest(cx))?;
        self.poll_socket(cx, bytes)
    }

    /// The task flushes when its own buffer is empty, and only then: so does actix.
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::task::noop_waker_ref;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;

    /// Both ends of a connection that takes little at a time.
    async fn pair() -> (Outlet, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let (peer, accepted) = tokio::join!(socket.connect(listener.local_addr().unwrap()), listener.accept());
        let (stream, _) = accepted.unwrap();
        socket2::SockRef::from(&stream).set_send_buffer_size(4096).unwrap();
        (Outlet::new(stream.into_split().1), peer.unwrap())
    }

    /// A write that tells by its bytes where it belongs.
    fn block(number: usize) -> Vec<u8> {
        (0..1000).flat_map(|at| format!("{number}.{at} ").into_bytes()).collect()
    }

    /// Sends until the socket is full; returns all that was given.
    fn fill(outlet: &Outlet) -> Vec<u8> {
        let mut given = Vec::new();
        for number in 0..10_000 {
            given.extend(block(number));
            if !outlet.send(&block(number)) {
                return given;
            }
        }
        panic!("the socket is never full");
    }

    async fn flushed(outlet: &Outlet) -> io::Result<()> {
        poll_fn(|cx| outlet.poll_flush(cx)).await
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_comes_before_all_that_follows() {
        let (outlet, mut peer) = pair().await;
        assert!(!outlet.is_clear(), "nothing has been flushed yet");
        flushed(&outlet).await.unwrap();
        assert!(outlet.is_clear());
        let mut given = fill(&outlet);
        let mut cx = Context::from_waker(noop_waker_ref());
        assert!(outlet.poll_rest(&mut cx).is_pending() && !outlet.is_clear());
        assert!(outlet.poll_write(&mut cx, b"too early").is_pending(), "actix waits behind the rest");
        assert!(outlet.poll_flush(&mut cx).is_pending() && !outlet.is_clear());
        assert!(outlet.poll_shutdown(&mut cx).is_pending(), "nothing is cut off");
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).await.map(|_| all)
        });
        // By turns: what actix writes, and what goes the short way.
        for round in 0..50 {
            let text = format!("actix {round}");
            let written = poll_fn(|cx| outlet.poll_write(cx, text.as_bytes())).await.unwrap();
            given.extend(&text.as_bytes()[..written]);
            flushed(&outlet).await.unwrap();
            assert!(outlet.is_clear(), "the rest has been taken before");
            given.extend(block(round));
            outlet.send(&block(round));
        }
        poll_fn(|cx| outlet.poll_shutdown(cx)).await.unwrap();
        let taken = reading.await.unwrap().unwrap();
        assert!(taken == given, "{} of {} bytes, or in another order", taken.len(), given.len());
        assert_eq!(outlet.0.rest.borrow().capacity(), 0, "at rest it keeps no buffer");
    }

    #[tokio::test]
    async fn nothing_overtakes_what_was_given_to_actix() {
        let (outlet, mut peer) = pair().await;
        flushed(&outlet).await.unwrap();
        outlet.block();
        assert!(!outlet.is_clear());
        // Written in part: actix flushes when it is whole.
        poll_fn(|cx| outlet.poll_write(cx, b"a")).await.unwrap();
        assert!(!outlet.is_clear());
        poll_fn(|cx| outlet.poll_write(cx, b"b")).await.unwrap();
        flushed(&outlet).await.unwrap();
        assert!(outlet.is_clear() && outlet.send(b"c"));
        let mut taken = [0; 3];
        peer.read_exact(&mut taken).await.unwrap();
        assert_eq!(&taken, b"abc");
    }

    #[tokio::test]
    async fn a_broken_socket_is_found_out_by_its_task() {
        let (outlet, mut peer) = pair().await;
        flushed(&outlet).await.unwrap();
        fill(&outlet);
        // Closed with bytes unread, it resets the connection.
        peer.write_all(b"x").await.unwrap();
        drop(peer);
        assert!(poll_fn(|cx| outlet.poll_rest(cx)).await.is_err());
        assert!(!outlet.send(b"more") && !outlet.is_clear());
        assert!(flushed(&outlet).await.is_err(), "so actix ends the connection");
        let noted = outlet.downgrade();
        assert!(noted.upgrade().is_some());
        drop(outlet);
        assert!(noted.upgrade().is_none(), "what is noted about it does not keep it open");
    }
}
