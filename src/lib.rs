//! Switchback.

pub mod cursor;
pub mod delivery;
pub mod event;
pub mod json;
mod segment;
pub mod store;
pub mod tail;
pub mod transport;
pub mod waiters;
pub mod wire;
pub mod topic;

pub use event::{Data, Event, EventError, NewEvent};
