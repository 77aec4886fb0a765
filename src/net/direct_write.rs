//! Direct writes: a worker writes a stream's events straight to its socket.
//!
//! By default a stream's events pass through its response body: the stream's task is woken, goes through the connection's state,
//! polls the body, copies its bytes and writes them. With a thousand streams that takes two microseconds for each event and
//! stream, most of them cache misses. So the worker writes to an idle stream directly. Bytes that the socket does not accept, and
//! everything behind unwritten bytes, take the default path, which is also the only one over TLS, over HTTP/2 and in another
//! program's server.

mod socket;

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;
use std::io;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BufMut as _, BytesMut};
use tokio::net::tcp::OwnedWriteHalf;

use super::backlog::Backlog;
use socket::Socket;

#[cfg(test)]
pub(crate) use socket::simulated::SimulatedSocket;

/// The writing side of a plain connection, shared by its task's writes and direct writes.
#[derive(Clone, Debug)]
pub(crate) struct DirectSink(Rc<WriteSide>);

/// A [`DirectSink`] while its connection exists. The connection's data can outlive it, in actix's pools.
#[derive(Clone, Debug)]
pub(crate) struct WeakSink(Weak<WriteSide>);

#[derive(Debug)]
struct WriteSide {
    socket: Socket,
    /// Whether all that was given to the task has been written.
    clear: Cell<bool>,
    /// Whether the body that is being sent is chunked (RFC 9112 §7.1).
    chunked: Cell<bool>,
    /// Bytes that the socket did not accept yet: at most one write of one stream.
    rest: RefCell<BytesMut>,
    /// The socket failed, and what it did not accept was discarded: nothing more may be written behind that.
    broken: Cell<bool>,
    /// Bytes queued with the task, behind the rest.
    behind_bytes: Cell<usize>,
    backlog: RefCell<Backlog>,
    /// Bytes of bodies that were written directly, without chunk framing.
    sent_bytes: Cell<u64>,
}

/// The most bytes of a chunk's framing.
const CHUNK_BYTES: usize = 16 + 4;

impl WeakSink {
    pub(crate) fn upgrade(&self) -> Option<DirectSink> {
        self.0.upgrade().map(DirectSink)
    }
}

impl DirectSink {
    pub(in crate::net) fn new(half: OwnedWriteHalf, backlog: Backlog) -> Self {
        Self::over(Socket::Tcp(half), backlog)
    }

    /// Over a socket that a simulation makes.
    #[cfg(test)]
    pub(crate) fn simulated(socket: Rc<SimulatedSocket>) -> Self {
        let any_rate = crate::net::MinReadRate { bytes_per_second: 0, window: std::time::Duration::ZERO };
        let key = crate::limits::RateKey::at([10, 0, 0, 1].into());
        let payer = crate::net::Payer::new(&std::sync::Arc::default(), key);
        Self::over(Socket::Simulated(socket), Backlog::new(any_rate, payer))
    }

    fn over(socket: Socket, backlog: Backlog) -> Self {
        let (clear, chunked, sent_bytes) = (Cell::new(false), Cell::new(false), Cell::new(0));
        let (rest, broken, behind_bytes, backlog) =
            (RefCell::default(), Cell::new(false), Cell::new(0), RefCell::new(backlog));
        Self(Rc::new(WriteSide { socket, clear, chunked, rest, broken, behind_bytes, backlog, sent_bytes }))
    }

    pub(crate) fn downgrade(&self) -> WeakSink {
        WeakSink(Rc::downgrade(&self.0))
    }

    /// Bytes of bodies that were written directly so far, without chunk framing.
    pub(crate) fn sent_bytes(&self) -> u64 {
        self.0.sent_bytes.get()
    }

    /// Called by the encoder with the framing of the body whose head it has written.
    pub(crate) fn set_chunked(&self, chunked: bool) {
        self.0.chunked.set(chunked);
    }

    /// Records that bytes are queued with the task: until they are written, no direct write may overtake them.
    pub(crate) fn block(&self) {
        self.0.clear.set(false);
    }

    /// Whether nothing is queued. Where something is, the connection's task will run again.
    pub(crate) fn is_clear(&self) -> bool {
        self.0.clear.get() && self.0.rest.borrow().is_empty() && !self.0.broken.get()
    }

    /// Writes a part of the body now, if nothing is queued; returns whether the socket accepted all of it. If not, the stream's
    /// task has to be woken, to write the rest, and to handle an error of the socket.
    pub(crate) fn send(&self, part: &[u8]) -> bool {
        self.0.sent_bytes.set(self.0.sent_bytes.get() + part.len() as u64);
        if !self.0.chunked.get() {
            return self.write_now(part);
        }
        let mut chunk = BytesMut::with_capacity(part.len() + CHUNK_BYTES);
        let _ = write!(chunk, "{:X}\r\n", part.len());
        chunk.put_slice(part);
        chunk.put_slice(b"\r\n");
        self.write_now(&chunk)
    }

    fn write_now(&self, bytes: &[u8]) -> bool {
        if self.0.broken.get() {
            return false;
        }
        let written = self.0.socket.write_now(bytes);
        if written == bytes.len() {
            return true;
        }
        self.0.rest.borrow_mut().extend_from_slice(&bytes[written..]);
        false
    }

    /// Waits until the bytes that the socket did not accept are written. Where the socket fails they are discarded: the connection
    /// may be ended for these bytes, since its peer's share of memory is full, and they are not charged to the peer.
    pub(crate) fn poll_rest(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.0.broken.get() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let mut rest = self.0.rest.borrow_mut();
        while !rest.is_empty() {
            let written = ready!(self.poll_socket(cx, &rest, self.0.behind_bytes.get()));
            let done_bytes = written.as_ref().map_or(rest.len(), |bytes| *bytes);
            rest.advance(done_bytes);
            if rest.is_empty() {
                // An idle stream keeps no buffer.
                *rest = BytesMut::new();
            }
            if let Err(error) = written {
                self.0.broken.set(true);
                return Poll::Ready(Err(error));
            }
        }
        Poll::Ready(Ok(()))
    }

    /// A write of the connection's task.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.0.behind_bytes.set(bytes.len());
        ready!(self.poll_rest(cx))?;
        let written = ready!(self.poll_socket(cx, bytes, 0))?;
        self.0.behind_bytes.set(bytes.len() - written);
        Poll::Ready(Ok(written))
    }

    /// The task flushes when its own buffer is empty, and only then; so does actix.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.clear.set(true);
        self.poll_rest(cx)
    }

    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_rest(cx))?;
        Poll::Ready(self.0.socket.shutdown())
    }

    /// Writes what the socket accepts of `bytes`, behind which others are queued.
    fn poll_socket(&self, cx: &mut Context<'_>, bytes: &[u8], behind_bytes: usize) -> Poll<io::Result<usize>> {
        self.0.socket.poll_write(cx, bytes, behind_bytes, &mut self.0.backlog.borrow_mut())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::task::noop_waker_ref;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpSocket, TcpStream};

    use super::*;
    use crate::limits::{Limits, RateKey};
    use crate::net::MinReadRate;
    use crate::net::payer::Payer;

    /// Both ends of a connection with small socket buffers.
    async fn pair() -> (DirectSink, TcpStream) {
        pair_within(&Arc::default()).await
    }

    async fn pair_within(limits: &Arc<Limits>) -> (DirectSink, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let (peer, accepted) = tokio::join!(socket.connect(listener.local_addr().unwrap()), listener.accept());
        let (stream, _) = accepted.unwrap();
        socket2::SockRef::from(&stream).set_send_buffer_size(4096).unwrap();
        let payer = Payer::new(limits, RateKey::at([127, 0, 0, 1].into()));
        let min = MinReadRate { bytes_per_second: 1024, window: Duration::from_secs(60) };
        (DirectSink::new(stream.into_split().1, Backlog::new(min, payer)), peer.unwrap())
    }

    /// A write whose bytes show its place.
    fn block(number: usize) -> Vec<u8> {
        (0..1000).flat_map(|at| format!("{number}.{at} ").into_bytes()).collect()
    }

    /// Sends until the socket is full; returns everything that was sent.
    fn fill(sink: &DirectSink) -> Vec<u8> {
        let mut given = Vec::new();
        for number in 0..10_000 {
            given.extend(block(number));
            if !sink.send(&block(number)) {
                return given;
            }
        }
        panic!("the socket is never full");
    }

    async fn flushed(sink: &DirectSink) -> io::Result<()> {
        poll_fn(|cx| sink.poll_flush(cx)).await
    }

    #[tokio::test]
    async fn what_the_socket_does_not_take_comes_before_all_that_follows() {
        let (sink, mut peer) = pair().await;
        assert!(!sink.is_clear(), "nothing has been flushed yet");
        flushed(&sink).await.unwrap();
        assert!(sink.is_clear());
        let mut given = fill(&sink);
        let mut cx = Context::from_waker(noop_waker_ref());
        assert!(sink.poll_rest(&mut cx).is_pending() && !sink.is_clear());
        assert!(sink.poll_write(&mut cx, b"too early").is_pending(), "actix waits behind the rest");
        assert!(sink.poll_flush(&mut cx).is_pending() && !sink.is_clear());
        assert!(sink.poll_shutdown(&mut cx).is_pending(), "nothing is cut off");
        let reading = tokio::spawn(async move {
            let mut all = Vec::new();
            peer.read_to_end(&mut all).await.map(|_| all)
        });
        // Writes of actix and direct writes in turn.
        for round in 0..50 {
            let text = format!("actix {round}");
            let written = poll_fn(|cx| sink.poll_write(cx, text.as_bytes())).await.unwrap();
            given.extend(&text.as_bytes()[..written]);
            flushed(&sink).await.unwrap();
            assert!(sink.is_clear(), "the rest has been taken before");
            given.extend(block(round));
            sink.send(&block(round));
        }
        poll_fn(|cx| sink.poll_shutdown(cx)).await.unwrap();
        let taken = reading.await.unwrap().unwrap();
        assert!(taken == given, "{} of {} bytes, or in another order", taken.len(), given.len());
        assert_eq!(sink.0.rest.borrow().capacity(), 0, "an idle stream keeps no buffer");
    }

    /// A buffer is freed as a whole: its bytes are charged until the last of them is taken.
    #[tokio::test]
    async fn a_queued_buffer_is_charged_until_it_is_drained() {
        let limits: Arc<Limits> = Arc::default();
        let (sink, mut peer) = pair_within(&limits).await;
        let buffer = vec![b'x'; 4 << 20];
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut written = 0;
        while let Poll::Ready(bytes) = sink.poll_write(&mut cx, &buffer[written..]) {
            written += bytes.unwrap();
        }
        assert!(written > 0);
        assert_eq!(limits.usage().charged_bytes, buffer.len(), "also the {written} that the socket has taken");
        let reading = tokio::spawn(async move { peer.read_exact(&mut vec![0; 4 << 20]).await.map(drop) });
        while written < buffer.len() {
            written += poll_fn(|cx| sink.poll_write(cx, &buffer[written..])).await.unwrap();
        }
        flushed(&sink).await.unwrap();
        assert_eq!(limits.usage().charged_bytes, 0);
        reading.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn nothing_overtakes_what_was_given_to_actix() {
        let (sink, mut peer) = pair().await;
        flushed(&sink).await.unwrap();
        sink.block();
        assert!(!sink.is_clear());
        // Written in part: actix flushes when its buffer is empty.
        poll_fn(|cx| sink.poll_write(cx, b"a")).await.unwrap();
        assert!(!sink.is_clear());
        poll_fn(|cx| sink.poll_write(cx, b"b")).await.unwrap();
        flushed(&sink).await.unwrap();
        assert!(sink.is_clear() && sink.send(b"c"));
        let mut taken = [0; 3];
        peer.read_exact(&mut taken).await.unwrap();
        assert_eq!(&taken, b"abc");
    }

    #[tokio::test]
    async fn a_broken_socket_is_found_out_by_its_task() {
        let (sink, mut peer) = pair().await;
        flushed(&sink).await.unwrap();
        fill(&sink);
        // A socket that is closed with unread bytes resets the connection.
        peer.write_all(b"x").await.unwrap();
        drop(peer);
        assert!(poll_fn(|cx| sink.poll_rest(cx)).await.is_err());
        assert_eq!(sink.0.rest.borrow().capacity(), 0, "what cannot be sent is not kept");
        assert!(!sink.send(b"more") && !sink.is_clear());
        assert!(flushed(&sink).await.is_err(), "so actix ends the connection");
        let noted = sink.downgrade();
        assert!(noted.upgrade().is_some());
        drop(sink);
        assert!(noted.upgrade().is_none(), "what is noted about it does not keep it open");
    }
}
