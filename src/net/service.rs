//! What the connection layer hands requests to.

use futures_util::future::LocalBoxFuture;

use super::request::Request;
use super::response::Response;

/// Answers requests, on the thread that their connections belong to.
pub(crate) trait Service {
    /// How the path of an HTTP/1.1 request is served: `None` where the request is not one of the frequent ones, so that it may
    /// as well take the slower way through the `App`.
    fn fast_path(&self, path: &str) -> Option<FastPath>;

    /// The answer to any request. Dropping the future abandons it.
    ///
    /// Boxed, and not a type of the service's: a connection has room for its largest future as long as it lives.
    fn call(&self, request: Request) -> LocalBoxFuture<'static, Response>;
}

/// What is behind a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FastPath {
    /// Whether a request may upgrade to WebSocket there.
    pub(crate) is_websocket: bool,
}
