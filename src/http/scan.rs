//! Backpressure for scans of the log that a request causes: rows that do not match are charged, and paid for with waiting
//! time.

use std::cell::Cell;

use crate::clock::runtime_now;
use crate::limits::Scanner;
use crate::store::StoreError;

/// Rows without a match that one request may scan in search of the newest events.
const SEARCH_ROWS_MAX: u64 = 1_000_000;

/// Charges rows that a scan read without a match, and waits for the budget; other tasks run in any case.
pub(super) async fn wait_after(scanner: &Scanner, unmatched_rows: u64) {
    let debt = scanner.looked_at(unmatched_rows, runtime_now());
    if debt.is_zero() { tokio::task::yield_now().await } else { tokio::time::sleep(debt).await }
}

/// The rows of one request's search for the newest events.
pub(super) struct SearchBudget<'a> {
    scanner: &'a Scanner,
    looked_at: Cell<u64>,
}

impl<'a> SearchBudget<'a> {
    pub(super) fn new(scanner: &'a Scanner) -> Self {
        Self { scanner, looked_at: Cell::new(0) }
    }

    /// As [`wait_after`]. Refuses a search that has scanned a million rows.
    pub(super) async fn charge(&self, unmatched_rows: u64) -> Result<(), StoreError> {
        self.looked_at.set(self.looked_at.get() + unmatched_rows);
        if self.looked_at.get() > SEARCH_ROWS_MAX {
            let message = "a million rows were scanned and too few matched: give narrower patterns, or a cursor";
            return Err(StoreError::Busy(message));
        }
        wait_after(self.scanner, unmatched_rows).await;
        Ok(())
    }
}
