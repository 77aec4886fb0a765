//! The connection layer: bytes to [`Request`]s, [`Response`]s to bytes. It knows no topic, no hub and no route.
//!
//! | module | job |
//! |---|---|
//! | `request`, `headers`, `response`, `service` | what is handed up and down, whatever it came over |
//! | `hold` | whether a request waits for events, and ends with its client |
//! | `accept`, `tls`, `io`, `peer` | from a socket to a connection: limits, TLS, deadlines, the other end's address |
//! | `backlog`, `payer` | what waits for a peer that reads slowly, and whom it is charged to |
//! | `http1` | HTTP/1.1, for the frequent requests; direct writes to idle streams |
//! | `http2` | HTTP/2, straight to requests |
//! | `fallback` | what `http1` does not read, by way of an actix-web `App` |
//! | `in_flight`, `access_log` | what is noted of a request until its answer is over |
//! | `redirect` | from plain HTTP to HTTPS |

pub(crate) mod accept;
pub(crate) mod access_log;
mod backlog;
pub(crate) mod fallback;
mod headers;
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

pub(crate) use backlog::MinReadRate;
pub(crate) use headers::{Headers, text};
pub(crate) use hold::Hold;
pub(crate) use http1::DirectSink;
#[cfg(test)]
pub(crate) use http1::SimulatedSocket;
pub(crate) use payer::Payer;
pub use peer::ProxyHeader;
pub(crate) use peer::{Caller, Peer, Proxies, Scheme};
pub(crate) use request::{Request, RequestBody, RequestHead};
pub(crate) use response::{Response, ResponseFields};
pub(crate) use service::{FastPath, Service};
