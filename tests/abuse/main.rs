//! The real binary, abused: HTTP that is none, requests hidden in others, storms, and all of it behind a real proxy.
//!
//! What is measured is in `benches/abuse`; here is what has to hold on any machine.

mod corpus;
mod direct;
mod follower;
mod nginx;
mod proxied;
mod raw;
mod storms;
#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub)] // Shared with other test crates, each of which uses a part.
mod support;
#[path = "../faults/wire.rs"]
#[allow(dead_code)] // As above.
mod wire;

use std::time::Duration;

/// How long anything may take that is waited for: far longer than it does, so that only a fault reaches it.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for what must come.
async fn within<T>(what: &str, coming: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, coming).await {
        Ok(come) => come,
        Err(_) => panic!("waited in vain for {what}"),
    }
}
