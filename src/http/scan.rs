//! Backpressure for scans of the log that a request causes: rows that do not match are charged, and paid for with waiting
//! time.

use crate::clock::runtime_now;
use crate::limits::Scanner;

/// Charges rows that a scan read without a match, and waits for the budget; other tasks run in any case.
pub(super) async fn wait_after(scanner: &Scanner, unmatched_rows: u64) {
    let debt = scanner.looked_at(unmatched_rows, runtime_now());
    if debt.is_zero() { tokio::task::yield_now().await } else { tokio::time::sleep(debt).await }
}
