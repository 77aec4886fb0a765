//! The connection layer: turns bytes into [`Request`]s, and [`Response`]s into bytes. It knows no topic, no hub and no
//! route.
//!
//! | module | job |
//! |---|---|
//! | `head`, `request`, `response`, `service` | what is handed up and down, whatever it came over |
//! | `hold` | whether a request waits for events, and ends with its client |
//! | `accept`, `tls`, `io`, `peer` | from a socket to a connection: limits, TLS, deadlines, the other end's address |
//! | `backlog`, `payer` | what waits for a peer that reads slowly, and whom it is charged to |
//! | `direct_write` | writes to idle streams, past their tasks |
//! | `http1` | HTTP/1.1, for the frequent requests |
//! | `http2` | HTTP/2, straight to requests |
//! | `websocket` | the messages of a WebSocket; frames to messages |
//! | `fallback` | what `http1` does not read, by way of an actix-web `App` |
//! | `trailer_check` | malformed trailer sections, refused before actix skips them |
//! | `in_flight`, `access_log` | what is noted of a request until its answer is over |
//! | `redirect` | from plain HTTP to HTTPS |

pub(crate) mod accept;
pub(crate) mod access_log;
mod backlog;
mod direct_write;
pub(crate) mod fallback;
mod head;
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
mod trailer_check;
pub(crate) mod websocket;

pub(crate) use backlog::MinReadRate;
#[cfg(test)]
pub(crate) use direct_write::SimulatedSocket;
pub(crate) use direct_write::{DirectSink, WeakSink};
pub(crate) use head::{Headers, RequestHead, text};
pub(crate) use hold::Hold;
pub(crate) use payer::Payer;
pub use peer::ProxyHeader;
pub(crate) use peer::{Caller, Peer, Proxies, Scheme};
pub(crate) use request::{Request, RequestBody};
pub(crate) use response::{Response, ResponseFields};
pub(crate) use service::{FastPath, Service};
