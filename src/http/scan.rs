//! Searches of the log that a request makes the server do: what they look at in vain is paid for with time.

use crate::clock::runtime_now;
use crate::limits::Scanner;

/// Pays for rows that a search looked at in vain; others have their turn in any case.
pub(super) async fn wait_after(scanner: &Scanner, vain_rows: u64) {
    let debt = scanner.looked_at(vain_rows, runtime_now());
    if debt.is_zero() { tokio::task::yield_now().await } else { tokio::time::sleep(debt).await }
}
