//! The real binary at its limits: what one client may take, TLS and HTTP/2, whom it believes, what it writes down.
//!
//! Tests count and wait for conditions; none of them asserts a time.

mod certificates;
mod counts;
mod http2;
mod http2_attacks;
mod log;
mod proxies;
mod rates;
mod sizes;
#[path = "../support/mod.rs"]
#[allow(dead_code, unreachable_pub)] // Shared with other test crates, each of which uses a part.
mod support;
mod tls;
#[path = "../faults/wire.rs"]
#[allow(dead_code)] // As above.
mod wire;

use std::time::Duration;

/// How long anything may take that is waited for: far longer than it does, so that only a fault reaches it.
const DEADLINE: Duration = Duration::from_secs(40);

/// Waits for what must come.
async fn within<T>(what: &str, coming: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, coming).await {
        Ok(come) => come,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Waits until something holds that must.
async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    within(what, async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
