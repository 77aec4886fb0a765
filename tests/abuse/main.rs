//! The real binary, abused: HTTP that is none, requests hidden in others, storms, and all of it behind a real proxy.
//!
//! What is measured is in `benches/abuse`; here is what has to hold on any machine.

mod corpus;
mod direct;
mod follower;
mod nginx;
mod proxied;
mod raw;
mod storms;
#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub)] // Shared with other test crates, each of which uses a part.
mod support;
#[path = "../faults/wire.rs"]
#[allow(dead_code)] // As above.
mod wire;

use support::within;
