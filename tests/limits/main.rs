//! The real binary at its limits: what one client may take, TLS and HTTP/2, whom it believes, what it writes down.
//!
//! Tests count and wait for conditions; none of them asserts a time.

mod certificates;
mod counts;
mod echo;
mod http2;
mod http2_attacks;
#[path = "../support/jwt.rs"]
#[allow(dead_code, unreachable_pub)] // As below.
mod jwt;
mod keyed;
mod log;
mod memory;
mod proxies;
mod rates;
mod readers;
mod requests;
mod scans;
mod sizes;
#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub)] // Shared with other test crates, each of which uses a part.
mod support;
mod tls;
#[path = "../faults/wire.rs"]
#[allow(dead_code)] // As above.
mod wire;

use std::time::Duration;

use support::within;

/// Waits until something holds that must.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
