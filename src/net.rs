//! The connection layer: turns bytes into [`Request`]s, and [`Response`]s into bytes. It knows no topic, no hub and no
//! route.
//!
//! | module | job |
//! |---|---|
//! | `head`, `request`, `response`, `service` | what is handed up and down, whatever it came over |
//! | `hold` | whether a request waits for events, and ends with its client |
//! | `accept`, `tls`, `io`, `peer` | from a socket to a connection: limits, TLS, deadlines, the other end's address |
//! | `activity` | a connection's requests in flight, its idle time, and its end |
//! | `head_error` | the errors of a request's head, and their responses |
//! | `backlog`, `payer` | what waits for a peer that reads slowly, and whom it is charged to |
//! | `direct_write` | writes to idle streams, past their tasks |
//! | `http1` | HTTP/1.1, for the frequent requests |
//! | `http2` | HTTP/2, straight to requests |
//! | `websocket` | the messages of a WebSocket; frames to messages |
//! | `fallback` | the other requests of HTTP/1, one at a time, by way of an actix-web `App` |
//! | `in_flight`, `access_log` | what is noted of a request until its answer is over |
//! | `redirect` | from plain HTTP to HTTPS |

pub(crate) mod accept;
pub(crate) mod access_log;
mod activity;
mod backlog;
mod direct_write;
pub(crate) mod fallback;
mod head;
mod head_error;
mod hold;
pub(crate) mod http1;
pub(crate) mod http2;
mod in_flight;
pub(crate) mod io;
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
pub(crate) use head::{Headers, RequestHead, text};
pub(crate) use head_error::HeadError;
pub(crate) use hold::Hold;
pub(crate) use payer::Payer;
pub use peer::ProxyHeader;
pub(crate) use peer::{Caller, Peer, Proxies, Scheme};
pub(crate) use request::{Request, RequestBody};
pub(crate) use response::{Response, ResponseFields};
pub(crate) use service::{FastPath, Service};
