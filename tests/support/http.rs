//! A minimal HTTP/1.1 client: requests are sent byte for byte as a test writes them, and a response can be cut at any byte.

use std::io::{Error, ErrorKind, Result};

use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::within;

/// A request, sent on a new connection.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    method: String,
    target: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
    body: Option<Vec<u8>>,
}

impl Request {
    pub(crate) fn new(method: &str, target: impl Into<String>) -> Self {
        Self { method: method.to_owned(), target: target.into(), host: None, headers: Vec::new(), body: None }
    }

    pub(crate) fn get(target: impl Into<String>) -> Self {
        Self::new("GET", target)
    }

    /// A POST of `body`, with a content type where one is given.
    pub(crate) fn post(target: impl Into<String>, kind: &str, body: impl Into<Vec<u8>>) -> Self {
        let mut request = Self::new("POST", target);
        request.body = Some(body.into());
        if kind.is_empty() { request } else { request.header("Content-Type", kind) }
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// A `Host` other than the address that the request is sent to.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.host = Some(host.to_owned());
        self
    }

    /// Requests a WebSocket upgrade (RFC 6455 §4.1).
    pub(crate) fn upgrade(self) -> Self {
        self.header("Upgrade", "websocket")
            .header("Connection", "Upgrade")
            .header("Sec-WebSocket-Version", "13")
            .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
    }

    fn text(&self, address: &str) -> Vec<u8> {
        let host = self.host.as_deref().unwrap_or(address);
        let mut text = format!("{} {} HTTP/1.1\r\nHost: {host}\r\n", self.method, self.target);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if let Some(body) = &self.body {
            text.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        text.push_str("\r\n");
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(self.body.as_deref().unwrap_or_default());
        bytes
    }

    /// Sends the request and reads the head of the response.
    pub(crate) async fn try_send(&self, address: &str) -> Result<Response> {
        let mut stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        // A server may respond and close before it has read a body that it refuses.
        let sent = stream.write_all(&self.text(address)).await;
        let response = Response::read(stream, self.method == "HEAD").await;
        sent.and(response.as_ref().map(drop).map_err(|error| error.kind().into())).or(Ok::<(), Error>(()))?;
        response
    }

    /// As [`Self::try_send`], where there has to be a response.
    pub(crate) async fn send(&self, address: &str) -> Response {
        let response = within(&self.target, self.try_send(address)).await;
        response.unwrap_or_else(|error| panic!("{} {}: {error}", self.method, self.target))
    }
}

/// A response, whose body may be incomplete yet.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Body,
}

impl Response {
    /// Reads the head of a response.
    pub(crate) async fn read(mut stream: TcpStream, bodiless: bool) -> Result<Self> {
        let mut buffer = Vec::new();
        let end = loop {
            if let Some(at) = find(&buffer, b"\r\n\r\n") {
                break at;
            }
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        let head = std::str::from_utf8(&buffer[..end]).map_err(|_| broken("a head that is not UTF-8"))?.to_owned();
        buffer.drain(..end + 4);
        let mut lines = head.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| broken("no status"))?;
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(": ").ok_or_else(|| broken("a header without a colon")))
            .map(|header| header.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())))
            .collect::<Result<_>>()?;
        let one = |name: &str| headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let shape = if bodiless || matches!(status, 101 | 204 | 304) {
            Shape::Length(0)
        } else if one("transfer-encoding") == Some("chunked") {
            Shape::Chunked
        } else if let Some(length) = one("content-length") {
            Shape::Length(length.parse().map_err(|_| broken("a Content-Length that is no number"))?)
        } else {
            Shape::ToTheEnd
        };
        Ok(Self { status, headers, body: Body { stream, buffer, shape } })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// The whole body.
    pub(crate) async fn bytes(&mut self) -> Result<Vec<u8>> {
        let mut all = Vec::new();
        while let Some(chunk) = self.body.chunk().await? {
            all.extend_from_slice(&chunk);
        }
        Ok(all)
    }

    pub(crate) async fn text(&mut self) -> String {
        let bytes = within("a body", self.bytes()).await.expect("a whole body");
        String::from_utf8(bytes).expect("a body in UTF-8")
    }

    pub(crate) async fn json(&mut self) -> Value {
        let text = self.text().await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The response to a publish.
    pub(crate) async fn created(mut self) -> Value {
        let text = self.text().await;
        assert_eq!(self.status, 201, "{text}");
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
    }

    /// The error object of a refusal: a code, a meaningful message, and no other field.
    pub(crate) async fn error(&mut self) -> (u16, String) {
        assert_eq!(self.header("content-type"), Some("application/json"), "an error is JSON: {}", self.status);
        let body = self.json().await;
        (self.status, error_code(&body))
    }
}

/// The code of `{"error":{"code","message"}}`.
pub(crate) fn error_code(body: &Value) -> String {
    let error = body["error"].as_object().unwrap_or_else(|| panic!("no error object in {body}"));
    let code = error["code"].as_str().unwrap_or_else(|| panic!("no code in {body}"));
    let message = error["message"].as_str().unwrap_or_else(|| panic!("no message in {body}"));
    assert!(message.len() > 10, "an error message explains what is valid: {body}");
    assert!(code.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'), "{body}");
    code.to_owned()
}

#[derive(Debug)]
enum Shape {
    Chunked,
    Length(usize),
    ToTheEnd,
    Done,
}

/// A response body, read incrementally.
#[derive(Debug)]
pub(crate) struct Body {
    stream: TcpStream,
    buffer: Vec<u8>,
    shape: Shape,
}

impl Body {
    /// The next bytes; `None` at the proper end, an error where the body is cut off.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        match self.shape {
            Shape::Done | Shape::Length(0) => Ok(None),
            Shape::Length(left) => {
                if self.buffer.is_empty() && self.fill().await? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
                let taken = left.min(self.buffer.len());
                self.shape = Shape::Length(left - taken);
                Ok(Some(self.buffer.drain(..taken).collect()))
            }
            Shape::ToTheEnd => {
                if self.buffer.is_empty() && self.fill().await? == 0 {
                    self.shape = Shape::Done;
                    return Ok(None);
                }
                Ok(Some(std::mem::take(&mut self.buffer)))
            }
            Shape::Chunked => loop {
                if let Some(at) = find(&self.buffer, b"\r\n") {
                    let size = std::str::from_utf8(&self.buffer[..at]).ok();
                    let size = size.and_then(|text| usize::from_str_radix(text, 16).ok());
                    let size = size.ok_or_else(|| broken("a chunk without a size"))?;
                    let whole = at + 2 + size + 2;
                    if self.buffer.len() >= whole {
                        if &self.buffer[whole - 2..whole] != b"\r\n" {
                            return Err(broken("a chunk that does not end"));
                        }
                        let chunk = self.buffer[at + 2..whole - 2].to_vec();
                        self.buffer.drain(..whole);
                        if chunk.is_empty() {
                            self.shape = Shape::Done;
                            return Ok(None);
                        }
                        return Ok(Some(chunk));
                    }
                }
                if self.fill().await? == 0 {
                    return Err(ErrorKind::UnexpectedEof.into());
                }
            },
        }
    }

    async fn fill(&mut self) -> Result<usize> {
        self.stream.read_buf(&mut self.buffer).await
    }

    /// The socket after an upgrade, with the bytes that have been read ahead.
    pub(crate) fn into_socket(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.buffer)
    }
}

fn broken(what: &str) -> Error {
    Error::new(ErrorKind::InvalidData, what.to_owned())
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
