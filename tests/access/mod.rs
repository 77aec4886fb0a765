//! Access control: authentication, authorization, origins and tickets of the real program, over real sockets, on every transport.
//!
//! Each rule has a test that fails without the rule. The clients are those of the conformance tests.

mod anonymous;
mod clients;
mod expiry;
mod foreign;
pub(crate) mod keyed;
mod keys;
mod nodes;
mod origins;
mod permissions;
mod places;
mod policies;
mod rights;
mod start;
mod tickets;
mod tokens;
mod withdrawn;
