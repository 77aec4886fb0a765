//! End-to-end tests of the server: the real program, over real sockets, with real files and real peers (NATS, nginx).
//!
//! All suites are one binary, since most of what each compiles and links is the same; `cargo test --test server limits::` runs
//! one suite. Common fixtures and clients are in `support`. Tests run in parallel, so each test has servers and directories of
//! its own, on free ports, and waits for conditions, never for time to pass.

mod abuse;
mod access;
mod cluster;
mod conformance;
mod crash;
mod documentation;
mod faults;
mod fuzz;
mod limits;
mod metrics;
mod packaging;
#[allow(dead_code, unreachable_pub)] // Shared with the benchmarks, which use parts that no suite does.
mod support;
