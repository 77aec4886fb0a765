//! Who may come, and who may not: the real program with keys, over real sockets, on every transport.
//!
//! Each rule has a test that fails without it. The clients are those of the conformance tests.

mod anonymous;
#[allow(dead_code)] // Shared with the conformance tests, which use the other part.
#[path = "../conformance/client.rs"]
mod client;
mod clients;
mod expiry;
#[allow(dead_code, unused_imports, unused_macros)]
#[path = "../conformance/fixture.rs"]
mod fixture;
mod foreign;
#[allow(dead_code)]
#[path = "../conformance/http.rs"]
mod http;
#[allow(dead_code, unreachable_pub)]
#[path = "../support/jwt.rs"]
mod jwt;
mod keyed;
mod keys;
mod nodes;
mod origins;
mod permissions;
mod places;
mod policies;
mod rights;
mod start;
#[allow(dead_code, unreachable_pub)]
#[path = "../support/mod.rs"]
mod support;
mod tickets;
mod tokens;
#[path = "../conformance/told.rs"]
mod told;
#[allow(dead_code)]
#[path = "../conformance/wire.rs"]
mod wire;
mod withdrawn;

use support::nats;
