//! The library, without the program: its delivery core in simulated time, its stores, the whole of it inside an application, and
//! which of its files may use which.
//!
//! One binary for all of these suites; `cargo test --test library stores::` runs one of them.

mod embedding;
mod simulation;
mod stores;
mod structure;

/// What these suites use of what all tests share.
#[allow(dead_code, unreachable_pub)]
mod support {
    pub mod nats;
    pub mod small;
    pub mod wait;
}
