//! Waiting for conditions, never for time to pass: how long a test takes is the machine's concern, and what it asserts is not.

use std::time::{Duration, Instant};

/// How long anything may take that is waited for: far longer than it does, so that only a fault reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// The longest pause between two looks at a condition. The first is a millisecond.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Waits for what must come. Panics after [`DEADLINE`].
pub(crate) async fn within<T>(what: &str, coming: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, coming).await {
        Ok(come) => come,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Waits until something holds that must. Panics after [`DEADLINE`], or where one look at the condition takes so long.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let (end, mut pause) = (Instant::now() + DEADLINE, Duration::from_millis(1));
    while !within(what, holds()).await {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(pause).await;
        pause = PAUSE_MAX.min(2 * pause);
    }
}
