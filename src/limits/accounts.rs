//! The bytes held for each address and each subject.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Mutex;

use super::{Key, RateKey};
use crate::sync::lock;

/// Every body takes a lock twice; sharding keeps the workers from contending for it.
const SHARDS: usize = 16;

/// A number of bytes per key. A key with zero bytes is removed, so there are never more keys than budgets that hold bytes.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    hasher: RandomState,
    shards: [Mutex<HashMap<Key, usize>>; SHARDS],
}

impl Accounts {
    /// Adds bytes to the accounts of an address and its subject; to neither where one of them would exceed `bytes_max`.
    ///
    /// # Errors
    /// Whose account is full: `this address` or `this subject`.
    pub(super) fn charge(&self, key: &RateKey, bytes: usize, bytes_max: usize) -> Result<(), &'static str> {
        if !self.charge_one(&key.address, bytes, bytes_max) {
            return Err(Key::ADDRESS);
        }
        if let Some(subject) = &key.subject
            && !self.charge_one(subject, bytes, bytes_max)
        {
            self.credit_one(&key.address, bytes);
            return Err(Key::SUBJECT);
        }
        Ok(())
    }

    /// Releases charged bytes.
    pub(super) fn credit(&self, key: &RateKey, bytes: usize) {
        for key in std::iter::once(&key.address).chain(&key.subject) {
            self.credit_one(key, bytes);
        }
    }

    fn charge_one(&self, key: &Key, bytes: usize, bytes_max: usize) -> bool {
        let mut shard = lock(self.shard(key));
        let held = shard.get(key).copied().unwrap_or_default();
        let fits = held.saturating_add(bytes) <= bytes_max;
        if fits {
            shard.insert(key.clone(), held + bytes);
        }
        fits
    }

    fn credit_one(&self, key: &Key, bytes: usize) {
        let mut shard = lock(self.shard(key));
        if let Some(held) = shard.get_mut(key) {
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                shard.remove(key);
            }
        }
        // A burst of requests leaves a table behind that is too large.
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            shard.shrink_to_fit();
        }
    }

    fn shard(&self, key: &Key) -> &Mutex<HashMap<Key, usize>> {
        &self.shards[self.hasher.hash_one(key) as usize % SHARDS]
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty())
    }
}
