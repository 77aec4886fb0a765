//! The connection layer: turns bytes into [`Request`]s, and [`Response`]s into bytes. It knows no topic, no hub and no
//! route.
//!
//! | module | job |
//! |---|---|
//! | `head`, `request`, `response`, `service` | requests, responses and the service between them, the same for every protocol |
//! | `hold` | whether a request only waits for events, and so ends with its client |
//! | `accept`, `tls`, `io`, `peer` | from a socket to a connection: limits, TLS, timeouts, the peer's address |
//! | `activity` | a connection's requests in flight, its idle time, and its end |
//! | `error_object`, `head_error` | the error object; the errors of a request's head, and their responses |
//! | `linger` | the last reads of a connection that ends |
//! | `growth` | buffers for what arrives in pieces |
//! | `backlog`, `payer` | unsent bytes of slow readers: their limits, and the address and subject that they are charged to |
//! | `direct_write` | writes to idle streams without waking their tasks |
//! | `http1` | HTTP/1.1: the frequent requests |
//! | `http2` | HTTP/2 |
//! | `websocket` | WebSocket frames, decoded to messages |
//! | `fallback` | the other requests of HTTP/1, one at a time, by way of an actix-web `App` |
//! | `in_flight`, `access_log` | a request until its response is complete: its guard, its line in the access log |
//! | `redirect` | redirects from HTTP to HTTPS |

pub(crate) mod accept;
pub(crate) mod access_log;
mod activity;
mod backlog;
mod direct_write;
mod error_object;
pub(crate) mod fallback;
pub(crate) mod growth;
mod head;
mod head_error;
mod hold;
pub(crate) mod http1;
pub(crate) mod http2;
mod in_flight;
pub(crate) mod io;
mod linger;
mod payer;
mod peer;
pub(crate) mod redirect;
mod request;
mod response;
mod service;
pub(crate) mod tls;
pub(crate) mod websocket;

pub(crate) use activity::{Activity, Timeouts};
pub(crate) use backlog::MinReadRate;
#[cfg(test)]
pub(crate) use direct_write::SimulatedSocket;
pub(crate) use direct_write::{DirectSink, WeakSink};
pub(crate) use error_object::{error_object, error_response_with};
pub(crate) use head::{Headers, RequestHead, text};
pub(crate) use head_error::HeadError;
pub(crate) use hold::Hold;
pub(crate) use payer::Payer;
pub use peer::ProxyHeader;
pub(crate) use peer::{Caller, Peer, Proxies, Scheme};
pub(crate) use request::{Payload, Request, RequestBody};
pub(crate) use response::{Response, ResponseFields};
pub(crate) use service::{FastPath, Service};
