//! An event log served to web pages over every transport: in order, each event once, resumable from a cursor.
//!
//! Switchback is a server, and a library. A web page subscribes to topics and gets every matching event in order, each
//! once, whatever the age of its browser and whatever proxy lies in between. The same subscription is offered over short
//! polling, long polling, JSONP, hidden-iframe streaming, Server-Sent Events, newline-delimited JSON and WebSocket. All of
//! them are views of one event log, read from a cursor, so a client picks a transport that works in its network and may
//! switch to another at any moment.
//!
//! # As a library
//!
//! ```
//! use futures_util::StreamExt as _;
//! use std::sync::Arc;
//! use switchback::{StartFrom, Hub, HubOptions, Item, MemoryStore, NewEvent, StoreOptions};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hub = Hub::open(Arc::new(MemoryStore::new(StoreOptions::default())), HubOptions::default()).await?;
//!
//! // A stream of items, from any position in the log…
//! let mut orders = hub.subscribe(["orders.>"], StartFrom::Earliest).await?;
//! // …or a function that is called, as with an event emitter.
//! let listener = hub.on("orders.*.status", |event| println!("{}: {}", event.topic(), event.data())).await?;
//!
//! let published = hub.publish(NewEvent::json("orders.42.status", &"approved")?).await?;
//! let Some(Item::Event(event)) = orders.next().await.transpose()? else { panic!("it was published") };
//! assert_eq!(event.cursor(), published.cursor);
//!
//! hub.off(listener);
//! hub.close().await;
//! # Ok(()) }
//! ```
//!
//! [`routes`] mounts all the transports into any actix-web `App`, under any prefix; [`server::Server`] is the whole server.
//!
//! # The path of an event
//!
//! ```text
//! http::publish ─▶ Hub::publish ─▶ Store::append ─▶ (feed) every worker's Tail, wake ─▶ Delivery::step ─▶ socket
//!                                        │                                                   ▲
//!                                        └───────────── behind the tail: a bounded read ─────┘
//! ```
//!
//! A publisher gets its response once its event is durable; by then the event is in every worker's inbox (fan-out). A
//! subscriber is a position in the log. While the subscriber keeps up, its worker reads the [`tail`] in memory for it; a
//! subscriber that has fallen behind the tail is served from the [`store`]. Both are one read from a position, so history
//! and live events meet without a seam. Backpressure is the socket's: what the socket does not take stays in the log.
//!
//! A worker writes to an idle stream over plain HTTP/1 directly, without waking the stream's task (`net::direct_write`);
//! all other bytes go through the response body. Handlers see one kind of request and one kind of response (`net`),
//! whatever the connection is: in the server, the frequent requests of HTTP/1.1 (`net::http1`) and all of HTTP/2
//! (`net::http2`) are decoded by `net` itself, the rest by an actix-web `App` (`http::embed`). One table of routes serves
//! both (`http::route`). WebSocket messages are decoded by `net::websocket`, or in an `App` by actix-ws; `wire` encodes the
//! frames that are sent.
//!
//! # Map
//!
//! | module | responsibility |
//! |---|---|
//! | [`cursor`], [`topic`], [`event`], [`json`], `excerpt` | the vocabulary: positions, topics, events; event data is escaped once, for every framing |
//! | [`log`] | the log's own types: bounds, read requests, pages, batches of the feed |
//! | [`store`] | the log: the contract of every engine; engines in memory, on disk (SQLite) and on a cluster (NATS JetStream) |
//! | `segment`, [`tail`], [`subscription_index`], `local_log` | the newest events in memory by topic, and an index of the subscriptions that wait for them |
//! | [`transport`], [`wire`] | the transports, and the encoding of items for each |
//! | `reader` | a subscriber's position, and its next read from the tail or from the store: sans I/O |
//! | [`delivery`] | what one subscriber is sent, and when, for every transport: sans I/O |
//! | [`auth`] | authorization: keys, tokens, their grants, and whether a grant covers a request: pure |
//! | `hub`, `clients`, `denylist` | publish, subscribe, fan-out to the workers; the registry of clients and their cursors; the denylist |
//! | [`clock`] | the wall clock, and how far it is trusted after a jump |
//! | [`secret_file`], [`keyring`] | files with checked ownership and mode; the active keys, reloaded when their files change |
//! | [`metrics`] | counters of one hub and its server, for Prometheus |
//! | [`limits`] | limits on connections, rates and memory, by address and subject; the log of rejections |
//! | `net` | decoding of requests, encoding of responses: TLS, HTTP/1.1, HTTP/2, timeouts, the access log |
//! | [`http`] | routes and handlers: requests are parsed, deliveries are driven |
//! | [`server`] | the whole server: a store, a hub, its routes and `net` behind a listener |
//! | [`config`], [`command`] | command line flags; the program's commands |
//!
//! Imports point one way: `main → command → server → config → http → {hub, net} → local_log → {denylist, delivery} → {clients,
//! reader} → {store, tail, limits, keyring} → metrics → {log, segment, wire} → {auth, clock, event, subscription_index} →
//! {cursor, topic, json, transport, excerpt, secret_file, sync}`: a module imports from its own group and from the groups after
//! it. Among files, too, there is no cycle but between a module and its children.
//!
//! # Invariants
//!
//! 1. Only `http::embed`, `net::fallback`, [`server`] and the program depend on actix-web, and `http::embed` alone on
//!    actix-ws. The core is usable, and tested, without a socket; handlers without a connection.
//! 2. [`delivery`], [`wire`], [`tail`], [`subscription_index`], [`auth`], [`topic`] and [`cursor`] never read the clock, sleep or
//!    await: time is an argument, the next deadline a return value.
//! 3. A subscriber is a position, never a queue: no component holds events on behalf of a client.
//! 4. Events reach a tail only through the store's feed: an event published on this node takes the same path as one
//!    published on another node.
//! 5. A subscription registers as a waiter before it reads. (Else it would miss the wake-up for an event that arrives
//!    between the read and the registration.)
//! 6. No event is delivered before it is durable, in the mode that the operator chose.
//! 7. On the hot path a worker takes no lock that it shares with other workers: events are shared and encoded once, but
//!    each worker has its own tail index and its own subscription index. The feed is sent to a worker once a batch, not once a
//!    subscriber.
//! 8. The feed never waits for a worker: where a worker's inbox is full, its tail is reset, and its subscribers read from
//!    the store.
//! 9. No store transaction is held across an await.
//! 10. A subscriber that is caught up is woken with the first position that matches its patterns. Events before that
//!     position are skipped, not scanned: the cost of a sparse subscription is the events that it receives.
//! 11. A worker writes directly only to an idle, drained stream: no bytes are queued before the write, and neither the
//!     stream's end nor a fetch for it is due. What the socket does not take is sent before any later bytes.

// These macros panic where the stream cannot be written.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod auth;
mod clients;
pub mod clock;
pub mod command;
pub mod config;
pub mod cursor;
pub mod delivery;
mod denylist;
pub mod event;
mod excerpt;
pub mod http;
mod hub;
pub mod json;
pub mod keyring;
pub mod limits;
mod local_log;
pub mod log;
pub mod metrics;
mod net;
mod reader;
pub mod secret_file;
mod segment;
pub mod server;
pub mod store;
pub mod subscription_index;
mod sync;
pub mod tail;
pub mod topic;
pub mod transport;
pub mod wire;

pub use cursor::{Cursor, Epoch, Position};
pub use event::{Data, Event, EventError, EventHeaders, HeadersError, NewEvent};
pub use http::{HttpOptions, routes};
pub use hub::{Hub, HubOptions, Item, ListenError, ListenerId, Published, StartFrom, SubscribeError, Subscription};
pub use metrics::Metrics;
pub use store::{DiskStore, JetStreamOptions, JetStreamStore, MemoryStore, OpenError, Store, StoreError, StoreOptions};
pub use topic::{Pattern, PatternSet, Topic};

/// The documentation's examples in Rust, compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../docs/embedding.md")]
struct Embedding;
