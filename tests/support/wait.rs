//! Waiting for conditions, never for a fixed time: the speed of the machine changes the duration of a test, not its result.

use std::time::{Duration, Instant};

/// The deadline of every wait: far longer than needed, so that only a fault reaches it.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// The longest pause between two checks of a condition. The first pause is a millisecond.
const PAUSE_MAX: Duration = Duration::from_millis(20);

/// Waits for a future that must complete. Panics after [`DEADLINE`].
pub(crate) async fn within<T>(what: &str, coming: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, coming).await {
        Ok(come) => come,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

/// Waits until a condition holds. Panics after [`DEADLINE`], also where a single check takes that long.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let (end, mut pause) = (Instant::now() + DEADLINE, Duration::from_millis(1));
    while !within(what, holds()).await {
        assert!(Instant::now() < end, "waited in vain until {what}");
        tokio::time::sleep(pause).await;
        pause = PAUSE_MAX.min(2 * pause);
    }
}
