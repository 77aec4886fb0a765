//! Conformance of the real program to the wire protocol, over real sockets, on every transport.
//!
//! One suite runs over each transport (`over!` makes a test of each pair), with clients that check every framing strictly.
//! Tests run in parallel, on free ports, and wait for conditions, never for time to pass.

mod autobahn;
mod bad_input;
mod clients;
mod content;
mod ending;
mod fallback;
mod gaps;
mod heads;
mod history;
mod holes;
mod latest;
mod malformed;
mod origins;
mod pages;
mod polling;
mod publish_mistakes;
mod publishing;
mod resources;
mod stock;
mod subscribe;
mod switching;
mod websocket;
