//! Tests of the library, without the program: the delivery core in simulated time, the stores, the library embedded in an
//! application, and the direction of imports between modules.
//!
//! All suites are one binary; `cargo test --test library stores::` runs one suite.

mod embedding;
mod simulation;
mod stores;
mod structure;

/// The part of the common test support that these suites use.
#[allow(dead_code, unreachable_pub)]
mod support {
    pub mod nats;
    pub mod seeds;
    pub mod small;
    pub mod wait;
}
