//! Switchback.

mod clients;
pub mod command;
pub mod config;
pub mod cursor;
pub mod delivery;
pub mod event;
pub mod http;
mod hub;
pub mod json;
mod lane;
mod segment;
pub mod server;
pub mod store;
pub mod tail;
pub mod topic;
pub mod transport;
pub mod waiters;
pub mod wire;

pub use cursor::{Cursor, Epoch, Position};
pub use event::{Data, Event, EventError, NewEvent};
pub use http::{HttpOptions, routes};
pub use hub::{From, Hub, HubOptions, Item, ListenError, ListenerId, Published, SubscribeError, Subscription};
pub use store::{MemoryStore, OpenError, Store, StoreError, StoreOptions};
