//! A connection to the server, byte by byte: a test can send invalid bytes, stop or stall at any point.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use super::{Answer, Framing, Head, broken, find};

/// The pause of a slow peer between two bytes.
pub(crate) const PAUSE: Duration = Duration::from_millis(100);

/// The byte stream of a connection: a socket, or TLS on a socket.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection and the bytes that were read ahead.
#[derive(Debug)]
pub(crate) struct Connection<S = Box<dyn Duplex>> {
    stream: S,
    pub(crate) buffer: Vec<u8>,
}

impl Connection {
    pub(crate) async fn open(address: &str) -> io::Result<Self> {
        Self::narrow(address, None).await
    }

    /// A connection, with a small kernel receive buffer if requested.
    pub(crate) async fn narrow(address: &str, receive_bytes: Option<u32>) -> io::Result<Self> {
        Ok(Self::on(narrow_socket(address, receive_bytes).await?))
    }

    /// A connection on an established stream of any kind.
    pub(crate) fn on(stream: impl Duplex + 'static) -> Self {
        Self::over(Box::new(stream))
    }

    /// A connection from a given loopback address: there are 28,000 ports an address, and limits for each address.
    pub(crate) async fn from(source: Ipv4Addr, address: &str) -> io::Result<Self> {
        let address: SocketAddr = address.parse().expect("an address");
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let stream = socket.connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self::on(stream))
    }
}

impl<S: Duplex> Connection<S> {
    pub(crate) fn over(stream: S) -> Self {
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.write_all(bytes.as_ref()).await
    }

    /// Closes the sending side.
    pub(crate) async fn finish(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    /// Sends `GET path`, without waiting for a response.
    pub(crate) async fn get(&mut self, path: &str) -> io::Result<()> {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")).await
    }

    /// Sends `POST path` with a body of a content type.
    pub(crate) async fn post(&mut self, path: &str, kind: &str, body: &[u8]) -> io::Result<()> {
        let length = body.len();
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        );
        self.send([head.as_bytes(), body].concat()).await
    }

    /// Requests the upgrade to a WebSocket.
    pub(crate) async fn upgrade(&mut self, path: &str) -> io::Result<()> {
        let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
                       Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==";
        self.send(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{upgrade}\r\n\r\n")).await
    }

    /// Reads the received bytes, or waits for some; returns whether the peer has closed.
    pub(crate) async fn fill(&mut self) -> io::Result<bool> {
        Ok(self.stream.read_buf(&mut self.buffer).await? == 0)
    }

    /// Reads until so many bytes are in the buffer.
    pub(crate) async fn need(&mut self, bytes: usize) -> io::Result<()> {
        while self.buffer.len() < bytes {
            if self.fill().await? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(())
    }

    /// Waits for a complete head; returns whether there is one. Cancel safe.
    pub(crate) async fn has_head(&mut self) -> bool {
        while find(&self.buffer, b"\r\n\r\n").is_none() {
            if self.fill().await.unwrap_or(true) {
                return false;
            }
        }
        true
    }

    /// The head of a response. Cancel safe: it is consumed completely or not at all.
    pub(crate) async fn head(&mut self) -> io::Result<Head> {
        let end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n\r\n") {
                break end;
            }
            self.need(self.buffer.len() + 1).await?;
        };
        let head = Head::parse(&self.buffer[..end])?;
        self.buffer.drain(..end + 4);
        Ok(head)
    }

    /// The next bytes of a body; `None` at the proper end, an error where the body is cut off. Cancel safe, as [`Self::head`].
    pub(crate) async fn part(&mut self, framing: &mut Framing) -> io::Result<Option<Vec<u8>>> {
        match *framing {
            Framing::Done | Framing::Length(0) => Ok(None),
            Framing::Length(left) => {
                self.need(1).await?;
                let taken = left.min(self.buffer.len());
                *framing = Framing::Length(left - taken);
                Ok(Some(self.buffer.drain(..taken).collect()))
            }
            Framing::ToTheEnd => {
                if self.buffer.is_empty() && self.fill().await? {
                    *framing = Framing::Done;
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.buffer)))
            }
            Framing::Chunked => {
                let chunk = self.chunk().await?;
                if chunk.is_empty() {
                    *framing = Framing::Done;
                    return Ok(None);
                }
                Ok(Some(chunk))
            }
        }
    }

    /// The next chunk, empty at the end.
    async fn chunk(&mut self) -> io::Result<Vec<u8>> {
        let line_end = loop {
            if let Some(end) = find(&self.buffer, b"\r\n") {
                break end;
            }
            self.need(self.buffer.len() + 1).await?;
        };
        let size = String::from_utf8_lossy(&self.buffer[..line_end]);
        let size = usize::from_str_radix(&size, 16).map_err(|_| broken(format!("{size:?} is no size")))?;
        let whole = line_end + 2 + size + 2;
        self.need(whole).await?;
        if &self.buffer[whole - 2..whole] != b"\r\n" {
            return Err(broken("a chunk that does not end"));
        }
        Ok(self.buffer.drain(..whole).skip(line_end + 2).take(size).collect())
    }

    /// The complete response, which has to end.
    pub(crate) async fn answer(&mut self) -> io::Result<Answer> {
        let head = self.head().await?;
        let (mut framing, mut body) = (Framing::of(&head, false)?, Vec::new());
        while let Some(part) = self.part(&mut framing).await? {
            body.extend(part);
        }
        Ok(Answer { head, body })
    }

    /// Sends `bytes` now and then until the peer closes, and returns what the peer had sent before.
    pub(crate) async fn dribble(mut self, bytes: &[u8]) -> Vec<u8> {
        loop {
            let sent = self.send(bytes).await;
            match tokio::time::timeout(PAUSE, self.fill()).await {
                Err(_) => assert!(sent.is_ok(), "the peer neither responds nor reads"),
                Ok(Ok(false)) => {}
                Ok(Ok(true) | Err(_)) => return self.buffer,
            }
        }
    }

    /// Waits until the peer closes, and returns what the peer had sent before.
    pub(crate) async fn closed(&mut self) -> Vec<u8> {
        loop {
            // A reset counts as a close, too.
            if self.fill().await.unwrap_or(true) {
                return std::mem::take(&mut self.buffer);
            }
        }
    }

    /// The stream, with the bytes that have been read ahead.
    pub(super) fn into_parts(self) -> (S, Vec<u8>) {
        (self.stream, self.buffer)
    }
}

/// A socket, with a small kernel receive buffer if requested.
pub(crate) async fn narrow_socket(address: &str, receive_bytes: Option<u32>) -> io::Result<TcpStream> {
    let address: SocketAddr = address.parse().expect("an address");
    let socket = TcpSocket::new_v4()?;
    if let Some(bytes) = receive_bytes {
        socket.set_recv_buffer_size(bytes)?;
    }
    let stream = socket.connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
