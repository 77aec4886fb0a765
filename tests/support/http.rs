//! The HTTP/1.1 client of the tests: requests are sent byte for byte as a test writes them, and a response can be cut at any byte.
//! Responses are parsed strictly: a head, a chunk or a length that is not as the server writes it is an error.
//!
//! A [`Request`] has a connection of its own, and a [`Response`] that can be read in parts. On a [`Connection`] a test sends and
//! receives whatever it likes, whole [`Answer`]s among it.

mod connection;

use std::io::{Error, ErrorKind, Result};

use serde_json::Value;
use tokio::net::TcpStream;

use super::within;
pub(crate) use connection::{Connection, Duplex, PAUSE, narrow_socket};

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

    fn bytes(&self, address: &str) -> Vec<u8> {
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
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let mut connection = Connection::over(stream);
        // A server may respond and close before it has read a body that it refuses.
        let sent = connection.send(&self.bytes(address)).await;
        let response = Response::of(connection, self.method == "HEAD").await;
        sent.and(response.as_ref().map(drop).map_err(|error| error.kind().into())).or(Ok::<(), Error>(()))?;
        response
    }

    /// As [`Self::try_send`], where there has to be a response.
    pub(crate) async fn send(&self, address: &str) -> Response {
        let response = within(&self.target, self.try_send(address)).await;
        response.unwrap_or_else(|error| panic!("{} {}: {error}", self.method, self.target))
    }
}

/// The head of a response.
#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) status: u16,
    /// Names in lower case, with their values.
    pub(crate) headers: Vec<(String, String)>,
    /// As received, without the empty line.
    pub(crate) text: String,
}

impl Head {
    fn parse(bytes: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(bytes).map_err(|_| broken("a head that is not UTF-8"))?.to_owned();
        let mut lines = text.split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = status_line.split(' ').nth(1).and_then(|text| text.parse().ok());
        let status = status.ok_or_else(|| broken(format!("no status in {status_line:?}")))?;
        let headers = lines
            .map(|line| line.split_once(": ").ok_or_else(|| broken(format!("no header: {line:?}"))))
            .map(|header| header.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())))
            .collect::<Result<_>>()?;
        Ok(Self { status, headers, text })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
    }

    pub(crate) fn is_chunked(&self) -> bool {
        self.header("transfer-encoding") == Some("chunked")
    }
}

fn header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Where the body of a response ends, and how far it was read.
#[derive(Debug)]
pub(crate) enum Framing {
    Chunked,
    /// The bytes that are left.
    Length(usize),
    ToTheEnd,
    Done,
}

impl Framing {
    /// `bodiless`: the request was a HEAD.
    pub(crate) fn of(head: &Head, bodiless: bool) -> Result<Self> {
        // The bytes after an upgrade end with the connection.
        Ok(if bodiless || matches!(head.status, 204 | 304) {
            Self::Done
        } else if head.is_chunked() {
            Self::Chunked
        } else if let Some(length) = head.header("content-length") {
            Self::Length(length.parse().map_err(|_| broken("a Content-Length that is no number"))?)
        } else {
            Self::ToTheEnd
        })
    }
}

/// A complete response.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) head: Head,
    pub(crate) body: Vec<u8>,
}

impl Answer {
    pub(crate) fn status(&self) -> u16 {
        self.head.status
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }

    /// The code of the error object that every refusal has.
    pub(crate) fn code(&self) -> String {
        error_code(&self.json())
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
    pub(crate) async fn read(stream: TcpStream, bodiless: bool) -> Result<Self> {
        Self::of(Connection::over(stream), bodiless).await
    }

    async fn of(mut connection: Connection<TcpStream>, bodiless: bool) -> Result<Self> {
        let head = connection.head().await?;
        let framing = Framing::of(&head, bodiless)?;
        Ok(Self { status: head.status, headers: head.headers, body: Body { connection, framing } })
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.headers, name)
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

/// A response body, read incrementally.
#[derive(Debug)]
pub(crate) struct Body {
    connection: Connection<TcpStream>,
    framing: Framing,
}

impl Body {
    /// The next bytes; `None` at the proper end, an error where the body is cut off.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Vec<u8>>> {
        self.connection.part(&mut self.framing).await
    }

    /// The socket after an upgrade, with the bytes that have been read ahead.
    pub(crate) fn into_socket(self) -> (TcpStream, Vec<u8>) {
        self.connection.into_parts()
    }
}

pub(crate) fn broken(what: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidData, what.into())
}

pub(crate) fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
