//! Switchback.

pub mod cursor;
pub mod event;
pub mod json;
mod segment;
pub mod store;
pub mod topic;

pub use event::{Data, Event, EventError, NewEvent};
