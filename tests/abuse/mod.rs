//! The real binary, abused: HTTP that is none, requests hidden in others, storms, and all of it behind a real proxy.
//!
//! What is measured is in `benches/abuse`; here is what has to hold on any machine.

mod corpus;
mod direct;
mod nginx;
mod proxied;
mod storms;

use crate::support::{until, within};
