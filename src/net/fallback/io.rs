//! A connection as the `App` reads and writes it: one request at a time, each with a valid head.
//!
//! actix decodes requests ahead of the one that it answers, but has one version, one `Connection` and one mark of HEAD for a
//! connection, those of the last request that it has decoded; with them it would encode the responses to earlier requests. So a
//! pipelined request is held back until the response before it is complete.
//!
//! actix answers a malformed or late head by itself, with a bare status. So heads are checked first ([`RequestCheck`]), and in
//! the place of one that is refused the `App` reads a placeholder, a valid request ([`Activity::refuse`](super::Activity)): its
//! response takes the way of all others, with an error object and `Connection: close`.

use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::request_check::{Checked, Invalid, Passed, RequestCheck};
use crate::net::head_error::HeadError;
use crate::net::io::Io;
use crate::net::linger::Linger;

/// Bytes that are read at once.
const READ_BYTES: usize = 8 << 10;

/// The most bytes of pipelined requests that are held back, beside which one read fits. Past it the connection is not read until
/// the response is complete: backpressure by TCP.
const HELD_MAX_BYTES: usize = 16 << 10;

/// The most bytes that the `App` is given of a body that no handler reads: it would keep ten times as many.
const UNREAD_BODY_MAX_BYTES: usize = 16 << 10;

/// What the `App` reads in the place of a refused request.
const REFUSED: &[u8] = b"GET * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
const REFUSED_HEAD: &[u8] = b"HEAD * HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";

/// A connection of the `App`.
pub(crate) struct AppIo {
    pub(crate) io: Io,
    /// Bytes that the `App` has not read yet.
    unread: BytesMut,
    /// What is known of the first of them, and how many of these are not passed yet.
    passed: Passed,
    check: RequestCheck,
    /// The first of the unread bytes begins a request, which waits for the response to the one before.
    is_pipelined: bool,
    /// The unread bytes are not HTTP, and wait for the response that accepts the upgrade. A client has to wait for it, too
    /// (RFC 6455 §4.1); and where the request is for no WebSocket, the `App` would keep ten times as many, for as long as its
    /// response takes.
    awaits_upgrade: bool,
    /// Bytes of the present body that may still be passed; `None` for any number.
    body_left_bytes: Option<usize>,
    /// The body is malformed, and is not read any further.
    is_cut: bool,
    /// The request that was passed last is the placeholder of a malformed one: nothing is read behind it.
    is_refused: bool,
    /// The sending side is shut down.
    is_shut: bool,
    linger: Option<Linger>,
}

/// As actix gets it. A connection's task reserves space for it more than once.
pub(crate) type BoxedIo = Box<AppIo>;

impl AppIo {
    /// A connection that has sent `unread` already.
    pub(crate) fn new(io: Io, unread: BytesMut) -> BoxedIo {
        if !unread.is_empty() {
            io.activity.heard();
        }
        Box::new(Self {
            io,
            unread,
            passed: Passed::default(),
            check: RequestCheck::default(),
            is_pipelined: false,
            awaits_upgrade: false,
            body_left_bytes: None,
            is_cut: false,
            is_refused: false,
            is_shut: false,
            linger: None,
        })
    }

    /// Gives the `App` checked bytes.
    fn pass(&mut self, buf: &mut ReadBuf<'_>) {
        let bytes = self.passed.bytes.min(buf.remaining());
        buf.put_slice(&self.unread[..bytes]);
        self.unread.advance(bytes);
        self.passed.bytes -= bytes;
        if self.passed.bytes == 0 {
            if self.passed.ends_head {
                self.io.activity.expect();
            }
            self.is_pipelined = self.passed.ends_request;
            self.awaits_upgrade |= self.passed.ends_http;
        }
        if self.unread.is_empty() {
            self.unread = BytesMut::new();
        }
    }

    /// Checks the next unread bytes; returns whether some may be passed.
    fn check(&mut self) -> bool {
        match self.check.next(&self.unread) {
            Ok(Checked::Partial) => false,
            Ok(Checked::Passed(passed)) => {
                if passed.ends_head {
                    self.body_left_bytes = passed.ignores_body.then_some(UNREAD_BODY_MAX_BYTES);
                } else if let Some(left) = &mut self.body_left_bytes {
                    let Some(rest) = left.checked_sub(passed.bytes) else {
                        // The response ends the connection, since the rest of the body is not read.
                        self.io.activity.finish_requests();
                        self.is_pipelined = true;
                        return false;
                    };
                    *left = rest;
                }
                self.passed = passed;
                true
            }
            Err(Invalid::Head(error)) => {
                self.refuse(error);
                true
            }
            Err(Invalid::Body) => {
                self.io.activity.note_malformed_body();
                self.is_cut = true;
                true
            }
        }
    }

    /// Puts a request that is refused in the place of the present one.
    fn refuse(&mut self, error: HeadError) {
        let request = if self.unread.starts_with(b"HEAD ") { REFUSED_HEAD } else { REFUSED };
        self.io.activity.refuse(error);
        self.is_refused = true;
        self.unread = request.into();
        self.passed = Passed {
            bytes: request.len(),
            ends_head: true,
            ends_request: true,
            ignores_body: true,
            ..Passed::default()
        };
    }

    /// Reads more; returns whether the peer has closed its sending side.
    fn poll_more(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        let mut space = [const { MaybeUninit::uninit() }; READ_BYTES];
        let mut some = ReadBuf::uninit(&mut space);
        ready!(self.io.poll_some(cx, &mut some))?;
        if some.filled().is_empty() {
            return Poll::Ready(Ok(true));
        }
        self.io.activity.heard();
        self.unread.extend_from_slice(some.filled());
        Poll::Ready(Ok(false))
    }

    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.unread = BytesMut::new();
        self.linger.get_or_insert_with(Linger::new).poll(cx, &mut self.io)
    }
}

/// While a request is in flight the connection is read on: else the end of its client would not be noticed.
impl AsyncRead for AppIo {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            if this.passed.bytes > 0 {
                this.pass(buf);
                return Poll::Ready(Ok(()));
            }
            let is_answered = this.io.activity.is_answered();
            if is_answered && !this.io.activity.is_open() {
                return this.poll_linger(cx).map(Ok);
            }
            if this.is_refused {
                this.io.activity.wake_when_answered(cx);
                return Poll::Pending;
            }
            if this.is_cut {
                return Poll::Ready(Ok(()));
            }
            if this.is_pipelined && is_answered {
                this.is_pipelined = false;
                if !this.unread.is_empty() {
                    this.io.activity.heard();
                }
            }
            if this.awaits_upgrade && this.io.activity.is_upgraded() {
                this.awaits_upgrade = false;
            }
            if this.awaits_upgrade && is_answered {
                // Refused: what follows is not known to be a request.
                this.io.activity.finish_requests();
                continue;
            }
            let is_held_back = this.is_pipelined || this.awaits_upgrade;
            if !is_held_back && !this.unread.is_empty() && this.check() {
                continue;
            }
            if is_held_back {
                this.io.activity.wake_when_answered(cx);
                if this.unread.len() >= HELD_MAX_BYTES || this.io.read_ended && !this.unread.is_empty() {
                    return Poll::Pending;
                }
            }
            match ready!(this.poll_more(cx)) {
                Ok(false) => {}
                // An incomplete head is dropped: its peer has gone.
                Ok(true) if !is_held_back || this.unread.is_empty() => return Poll::Ready(Ok(())),
                Ok(true) => return Poll::Pending,
                Err(error) if error.kind() == io::ErrorKind::TimedOut && this.io.activity.owes_head() => {
                    this.refuse(HeadError::Timeout);
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }
}

impl AsyncWrite for AppIo {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    /// The place where actix can be stopped: it flushes whenever it has run, and when everything that it had to send is written.
    ///
    /// A client that has closed its sending side still gets its response (actix is configured to allow that), but a held request
    /// ends with its client.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.io).poll_flush(cx))?;
        // The messages behind an accepted upgrade are the client's last.
        let has_messages = self.io.activity.is_upgraded() && !self.unread.is_empty();
        if self.io.read_ended && self.io.activity.hold.is_set() && !has_messages {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        if self.io.activity.has_finished_sending() {
            return Pin::new(&mut self.io).poll_shutdown(cx);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.is_shut {
            ready!(Pin::new(&mut self.io).poll_shutdown(cx))?;
            self.is_shut = true;
        }
        self.poll_linger(cx).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Arc;
    use std::time::Duration;

    use futures_util::poll;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::limits::RateKey;
    use crate::net::backlog::Backlog;
    use crate::net::io::Wire;
    use crate::net::{MinReadRate, Payer, Peer, Timeouts};

    const HEAD: &str = "GET /v1/sse?topic=a HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n";

    /// A connection as the `App` has it, which was given a head with an upgrade, and has more to read.
    async fn upgrading() -> (BoxedIo, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (peer, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (mut peer, (stream, address)) = (peer.unwrap(), accepted.unwrap());
        let payer = Payer::new(&Arc::default(), RateKey::at(address.ip()));
        let any_rate = MinReadRate { bytes_per_second: 0, window: Duration::ZERO };
        let wire = Wire::plain(stream, Backlog::new(any_rate, payer.clone()));
        let timeouts = Timeouts { idle: Duration::from_secs(60), head: Duration::from_secs(60) };
        let io = Io::new(wire, Peer::unnoted(Some(address)), payer, timeouts, None);
        peer.write_all(&[HEAD.as_bytes(), &[b'x'; HELD_MAX_BYTES / 2]].concat()).await.unwrap();
        let mut io = AppIo::new(io, BytesMut::new());
        let mut head = [0; 1024];
        let bytes = io.read(&mut head).await.unwrap();
        assert_eq!(&head[..bytes], HEAD.as_bytes());
        (io, peer)
    }

    #[tokio::test]
    async fn what_follows_an_upgrade_waits_until_it_is_accepted() {
        let (mut io, _peer) = upgrading().await;
        let activity = io.io.activity.clone();
        let _request = activity.begin();
        let mut frames = [0; HELD_MAX_BYTES / 2];
        while io.unread.len() < frames.len() {
            assert!(poll!(pin!(io.read(&mut frames))).is_pending());
            tokio::task::yield_now().await;
        }
        activity.upgrade();
        io.read_exact(&mut frames).await.unwrap();
        assert_eq!(frames, [b'x'; HELD_MAX_BYTES / 2]);
    }

    #[tokio::test]
    async fn what_follows_a_refused_upgrade_is_discarded() {
        let (mut io, peer) = upgrading().await;
        let request = io.io.activity.begin();
        let mut frames = [0; 1024];
        assert!(poll!(pin!(io.read(&mut frames))).is_pending());
        drop((request, peer));
        assert_eq!(io.read(&mut frames).await.unwrap(), 0);
    }
}
