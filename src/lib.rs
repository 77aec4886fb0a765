//! Events to web pages, in order, once, over whatever transport works.
//!
//! Switchback is a server, and a library, for one job: a web page, whatever its age and whatever proxy stands in between,
//! subscribes to events and gets every one of them, in order, once. The same subscription is offered over short polling, long
//! polling, JSONP, hidden-iframe streaming, Server-Sent Events, newline-delimited JSON and WebSocket. All are views of one
//! event log, read from a cursor, so a client picks the transport that works where it is, and changes its mind at any moment.
//!
//! # As a library
//!
//! ```
//! use futures_util::StreamExt as _;
//! use std::sync::Arc;
//! use switchback::{From, Hub, HubOptions, Item, MemoryStore, NewEvent, StoreOptions};
//!
//! # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let hub = Hub::open(Arc::new(MemoryStore::new(StoreOptions::default())), HubOptions::default()).await?;
//!
//! // A stream of items, from any place in the log…
//! let mut orders = hub.subscribe(["orders.>"], From::Earliest).await?;
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
//! # The walk of an event
//!
//! ```text
//! http::publish ─▶ Hub::publish ─▶ Store::append ─▶ (feed) every worker's Tail, wake ─▶ Delivery::step ─▶ socket
//!                                        │                                                   ▲
//!                                        └───────────── behind the tail: a bounded read ─────┘
//! ```
//!
//! A publisher is answered once its event is durable; by then the event is in every worker's inbox. A subscriber holds a
//! position. While it keeps up it reads its worker's [`tail`]; where it has fallen behind that, it reads the [`store`]. Both are one
//! read from a position, so history and the present meet without a seam. What the socket does not take stays in the log.
//!
//! An idle stream over plain HTTP/1 is written to by its worker directly, past its task (`net::direct_write`); all
//! else goes through its body. Handlers know one kind of request and one of answer (`net`), whatever they came over: in our
//! own server the frequent requests of HTTP/1.1 (`net::http1`) and all of HTTP/2 (`net::http2`) come straight from their
//! connection, the rest through an actix-web `App` (`http::embed`). There is one table of routes for all (`http::route`). A
//! WebSocket's messages are read by our own decoder (`net::websocket`), or through an `App` by actix-ws; what is sent is ours.
//!
//! # Map
//!
//! | module | job |
//! |---|---|
//! | [`cursor`], [`topic`], [`event`], [`json`], `excerpt` | the vocabulary: where, on what, what; data made safe for every framing, once |
//! | [`log`] | what the log says of itself: bounds, pages, requests for them, the feed's batches |
//! | [`store`] | the log: the contract of every engine; in memory, on disk (SQLite), shared by many nodes (NATS JetStream) |
//! | `segment`, [`tail`], [`waiters`], `lane` | the newest events in memory by topic, and who waits for which |
//! | [`transport`], [`wire`] | the transports, and how items become their bytes |
//! | `reader` | a position in the log, and what is read there next: of the tail, or of the store; sans I/O |
//! | [`delivery`] | what one subscriber is sent, and when: sans I/O, for every transport |
//! | [`auth`] | keys, tokens, what they grant, and whether that covers what is asked: pure |
//! | `hub`, `clients`, `barred` | publish, subscribe, the feed to the workers; who is there, how far; who is shut out |
//! | [`clock`] | the time of day, and how far it can be believed after a jump |
//! | [`secret_file`], [`keyring`] | files that only their owner may have written; the keys in force, read again where their files change |
//! | [`limits`] | how many, how often, how much memory, by address and subject; the log of refusals |
//! | `net` | bytes to requests, answers to bytes: TLS, HTTP/1.1, HTTP/2, deadlines, the access log |
//! | [`http`] | the URLs; requests parsed, deliveries driven |
//! | [`server`] | a store, a hub, its routes and `net` put together behind a listener |
//! | [`config`], [`command`] | flags; the program's commands |
//!
//! Imports point one way: `main → command → server → config → http → {hub, net} → lane → {barred, delivery} → {clients, reader}
//! → {store, tail, limits, keyring} → {log, segment, wire} → {auth, clock, event, waiters}
//! → {cursor, topic, json, transport, excerpt, secret_file, sync}`: a module uses those of its own group and of the groups behind
//! it. Among files, too, no two use each other, but for a module and its children.
//!
//! # Invariants
//!
//! 1. Only `http::embed`, `net::fallback`, [`server`] and the program know actix-web, and `http::embed` alone actix-ws. The core is usable, and tested, without
//!    a socket; handlers without a connection.
//! 2. [`delivery`], [`wire`], [`tail`], [`waiters`], [`auth`], [`topic`] and [`cursor`] never read the clock, sleep or await: time is an
//!    argument, the next deadline a return value.
//! 3. A subscriber is a position, never a queue. Nobody holds events on behalf of a client.
//! 4. Events reach a tail only through the store's feed: to publish here and to hear it from another node are the same path.
//! 5. A waiter registers before it reads. (Else an event between the read and the wait is slept through.)
//! 6. Nothing is delivered that is not durable yet, in the mode that the operator chose.
//! 7. On the hot path a worker takes no lock of others': events are shared, encoded once, but each worker has its own tail
//!    index and its own waiters; the feed crosses to a worker once a batch, not once a subscriber.
//! 8. The feed never waits for a worker: where a worker's inbox is full, its tail is reset, and its readers turn to the store.
//! 9. No store transaction is held across an await.
//! 10. A subscriber that is caught up is told the first position that concerns it. What lies before is skipped, not read: the
//!     cost of a sparse subscription is what it receives.
//! 11. A worker writes only to a stream at rest: nothing waits to be written before it, and neither its end nor a read for it
//!     is due. What the socket does not take goes out before all that follows.

// They panic where the stream cannot be written.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr))]

pub mod auth;
mod barred;
mod clients;
pub mod clock;
pub mod command;
pub mod config;
pub mod cursor;
pub mod delivery;
pub mod event;
mod excerpt;
pub mod http;
mod hub;
pub mod json;
pub mod keyring;
mod lane;
pub mod limits;
pub mod log;
mod net;
mod reader;
pub mod secret_file;
mod segment;
pub mod server;
pub mod store;
mod sync;
pub mod tail;
pub mod topic;
pub mod transport;
pub mod waiters;
pub mod wire;

pub use cursor::{Cursor, Epoch, Position};
pub use event::{Data, Event, EventError, EventHeaders, HeadersError, NewEvent};
pub use http::{HttpOptions, routes};
pub use hub::{From, Hub, HubOptions, Item, ListenError, ListenerId, Published, SubscribeError, Subscription};
pub use store::{DiskStore, JetStreamOptions, JetStreamStore, MemoryStore, OpenError, Store, StoreError, StoreOptions};
pub use topic::{Pattern, PatternSet, Topic};

/// The README's examples, compiled with the tests.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
