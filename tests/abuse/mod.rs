//! Abuse of the real binary: malformed HTTP, request smuggling, connection storms, and the same behind a real reverse proxy.
//!
//! Measurements are in `benches/abuse`; this suite asserts what has to hold on any machine.

mod corpus;
mod direct;
mod nginx;
mod proxied;
mod storms;

use crate::support::{until, within};
