//! The transports, each with a name, a framing and a completion rule.

use std::fmt;

/// A transport that a client can connect over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// `GET /v1/ws`: a WebSocket.
    Ws,
    /// `GET /v1/sse`: Server-Sent Events.
    Sse,
    /// `GET /v1/stream`: newline-delimited JSON.
    Stream,
    /// `GET /v1/iframe`: a document of script chunks, or one batch in a document.
    Iframe,
    /// `GET /v1/longpoll`: a request that is answered with the first events, or after a timeout.
    Longpoll,
    /// `GET /v1/jsonp`: a script that calls a function, answered like a long poll.
    Jsonp,
    /// `GET /v1/poll`: a request that is answered at once.
    Poll,
    /// `GET /v1/echo`: a WebSocket that echoes messages, without a subscription.
    Echo,
}

impl Transport {
    /// All transports of subscriptions, best first: the order of preference in `/v1/info`.
    pub const ALL: [Self; 7] =
        [Self::Ws, Self::Sse, Self::Stream, Self::Iframe, Self::Longpoll, Self::Jsonp, Self::Poll];

    /// The name in the URL, in `$hello` and in `/v1/info`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Sse => "sse",
            Self::Stream => "stream",
            Self::Iframe => "iframe",
            Self::Longpoll => "longpoll",
            Self::Jsonp => "jsonp",
            Self::Poll => "poll",
            Self::Echo => "echo",
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
