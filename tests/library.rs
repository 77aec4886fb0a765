//! The library, without the program: its delivery core in simulated time, its stores, and the whole of it inside an application.
//!
//! One binary for all of these suites; `cargo test --test library stores::` runs one of them.

mod embedding;
mod simulation;
mod stores;

/// What these suites use of what all tests share.
#[allow(dead_code, unreachable_pub)]
mod support {
    pub mod nats;
    pub mod small;
    pub mod wait;
}
