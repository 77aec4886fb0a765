//! Locking, once.

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Locks, whatever panicked before: what is under a lock here changes in one step, so it is whole even then.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
