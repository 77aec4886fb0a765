//! The bytes held for each address and each subject.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::sync::Mutex;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

use super::{Key, RateKey};
use crate::sync::lock;

/// Every body takes a lock twice; sharding keeps the workers from contending for it.
const SHARDS: usize = 16;

/// A number of bytes per key. A key with zero bytes is removed, so there are never more keys than budgets that hold bytes.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    /// Keys come from peers, so their hashes must not be predictable. Such a hash costs as much as the rest of a charge: it is
    /// computed once, for the shard and for its table.
    hasher: RandomState,
    shards: [Mutex<HashTable<(Key, usize)>>; SHARDS],
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

    /// As [`Self::charge`], and adds nothing.
    ///
    /// # Errors
    /// As [`Self::charge`].
    pub(super) fn check(&self, key: &RateKey, bytes: usize, bytes_max: usize) -> Result<(), &'static str> {
        let fits = |key: &Key| self.held(key).saturating_add(bytes) <= bytes_max;
        match &key.subject {
            _ if !fits(&key.address) => Err(Key::ADDRESS),
            Some(subject) if !fits(subject) => Err(Key::SUBJECT),
            _ => Ok(()),
        }
    }

    fn held(&self, key: &Key) -> usize {
        let hash = self.hasher.hash_one(key);
        lock(self.shard(hash)).find(hash, |(known, _)| known == key).map_or(0, |(_, held)| *held)
    }

    /// Releases charged bytes.
    pub(super) fn credit(&self, key: &RateKey, bytes: usize) {
        for key in std::iter::once(&key.address).chain(&key.subject) {
            self.credit_one(key, bytes);
        }
    }

    fn charge_one(&self, key: &Key, bytes: usize, bytes_max: usize) -> bool {
        let hash = self.hasher.hash_one(key);
        let mut shard = lock(self.shard(hash));
        match shard.entry(hash, |(known, _)| known == key, |(known, _)| self.hasher.hash_one(known)) {
            Entry::Occupied(mut account) => {
                let (_, held) = account.get_mut();
                let fits = held.saturating_add(bytes) <= bytes_max;
                if fits {
                    *held += bytes;
                }
                fits
            }
            Entry::Vacant(account) => {
                let fits = bytes <= bytes_max;
                if fits {
                    account.insert((key.clone(), bytes));
                }
                fits
            }
        }
    }

    fn credit_one(&self, key: &Key, bytes: usize) {
        let hash = self.hasher.hash_one(key);
        let mut shard = lock(self.shard(hash));
        if let Ok(mut account) = shard.find_entry(hash, |(known, _)| known == key) {
            let (_, held) = account.get_mut();
            *held = held.saturating_sub(bytes);
            if *held == 0 {
                account.remove();
            }
        }
        // A burst of requests leaves a table behind that is too large.
        if shard.capacity() > 1024 && shard.len() < shard.capacity() / 8 {
            shard.shrink_to_fit(|(known, _)| self.hasher.hash_one(known));
        }
    }

    /// By bits in the middle: a table uses the lowest and the highest.
    fn shard(&self, hash: u64) -> &Mutex<HashTable<(Key, usize)>> {
        &self.shards[(hash >> 32) as usize % SHARDS]
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| lock(shard).is_empty())
    }
}
