//! The interface to the layer above: a service that answers requests.

use futures_util::future::LocalBoxFuture;

use super::request::Request;
use super::response::Response;

/// Answers requests, on the thread of their connections.
pub(crate) trait Service {
    /// How the path of an HTTP/1.1 request is served; `None` for a path of infrequent requests, which go through the slower
    /// `App`.
    fn fast_path(&self, path: &str) -> Option<FastPath>;

    /// Answers any request. Dropping the future cancels it.
    ///
    /// Boxed, and not an associated type: a connection would reserve space for the largest future for as long as it lives.
    fn call(&self, request: Request) -> LocalBoxFuture<'static, Response>;
}

/// The resource at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FastPath {
    /// Whether a request may upgrade to WebSocket there.
    pub(crate) is_websocket: bool,
}
