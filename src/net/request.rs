//! A request, whatever it came over: its head, its body, and the connection that it came over.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_core::Stream;
use http::Method;

use super::direct_write::DirectSink;
use super::head::{Headers, RequestHead};
use super::hold::Hold;
use super::payer::Payer;
use super::peer::Peer;
use super::websocket::OpenMessages;

/// One request.
pub(crate) struct Request {
    /// Boxed: it moves through several futures, and each would reserve space for it.
    pub(crate) head: Box<RequestHead>,
    pub(crate) body: RequestBody,
    /// The other end of its connection.
    pub(crate) peer: Peer,
    /// The sink for direct writes of a streamed response, where they are possible.
    pub(crate) sink: Option<DirectSink>,
    /// Set by a request that waits for events; `None` where the connection does not use it.
    pub(crate) hold: Option<Hold>,
    /// The payer of the connection's memory; `None` in another program's server, where memory is not counted.
    pub(crate) payer: Option<Payer>,
}

impl Request {
    pub(crate) fn headers(&self) -> Headers<'_> {
        self.head.headers()
    }

    pub(crate) fn method(&self) -> &Method {
        self.head.method()
    }

    pub(crate) fn query_string(&self) -> &str {
        self.head.query().unwrap_or_default()
    }

    /// The rest of the path after `/v1/NAME/`, as it was sent: a router would replace bytes that are not UTF-8.
    pub(crate) fn named(&self) -> Option<&str> {
        // An encoded slash is no separator.
        self.head.mounted_path().splitn(4, '/').nth(3)
    }
}

/// A body that is read as it comes.
pub(crate) type Payload = Pin<Box<dyn Stream<Item = io::Result<Bytes>>>>;

/// A request's body.
pub(crate) enum RequestBody {
    /// The body arrived with the head.
    Full(Bytes),
    /// It is read as it comes.
    Stream(Payload),
    /// The request may begin a WebSocket: after the upgrade, all that the peer sends is messages.
    WebSocket(OpenMessages),
}

impl RequestBody {
    /// Takes the body, which is empty from then on.
    pub(crate) fn take(&mut self) -> Self {
        std::mem::replace(self, Self::Full(Bytes::new()))
    }
}

impl Stream for RequestBody {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then_some(Ok(bytes)))
            }
            Self::Stream(stream) => stream.as_mut().poll_next(cx),
            Self::WebSocket(_) => Poll::Ready(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::Version;

    use super::*;

    #[test]
    fn a_name_in_the_path_is_found_below_any_mount() {
        for (path, mount, name) in [
            ("/v1/topics/a%2Fb.c", "", Some("a%2Fb.c")),
            ("/v1/topics/a/b", "", Some("a/b")),
            ("/v1/topics/", "", Some("")),
            ("/v1/topics", "", None),
            ("/deep/events/v1/clients/x", "/deep/events", Some("x")),
        ] {
            let head = RequestHead::builder(Method::GET, Version::HTTP_11, path, None).mounted_below(mount.len());
            let (head, body) = (Box::new(head.finish()), RequestBody::Full(Bytes::new()));
            let request = Request { head, body, peer: Peer::unnoted(None), sink: None, hold: None, payer: None };
            assert_eq!(request.named(), name, "{path}");
        }
    }
}
