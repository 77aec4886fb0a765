//! Concurrency counts: of all peers, and of each key.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use super::{Key, LimitError};
use crate::sync::lock;

/// Counts of one kind of thing. A key with a count of zero is removed, so there are never more keys than permits.
#[derive(Debug, Default)]
pub(super) struct Counts(Mutex<Table>);

#[derive(Debug, Default)]
struct Table {
    all: usize,
    by_key: HashMap<Key, usize>,
}

/// Counts one thing until it is dropped.
#[derive(Debug)]
pub struct Permit {
    counts: Arc<Counts>,
    keys: [Option<Key>; 2],
}

impl Counts {
    /// How many are counted.
    pub(super) fn all(&self) -> usize {
        lock(&self.0).all
    }

    /// Counts one more, in total and for each key that has a limit; counts nothing where a limit is reached.
    pub(super) fn count(
        self: &Arc<Self>,
        what: &'static str,
        all_max: usize,
        address: Option<(Key, usize)>,
        subject: Option<(Key, usize)>,
    ) -> Result<Permit, LimitError> {
        let mut table = lock(&self.0);
        if table.all >= all_max {
            return Err(LimitError::ServerFull(what));
        }
        for ((key, max), whose) in [(&address, Key::ADDRESS), (&subject, Key::SUBJECT)]
            .into_iter()
            .filter_map(|(limit, whose)| Some((limit.as_ref()?, whose)))
        {
            if table.by_key.get(key).is_some_and(|count| count >= max) {
                return Err(LimitError::Count { what, whose });
            }
        }
        let keys = [address, subject].map(|limit| limit.map(|(key, _)| key));
        table.all += 1;
        for key in keys.iter().flatten() {
            *table.by_key.entry(key.clone()).or_default() += 1;
        }
        drop(table);
        Ok(Permit { counts: self.clone(), keys })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut table = lock(&self.counts.0);
        table.all = table.all.saturating_sub(1);
        for key in self.keys.iter().flatten() {
            if let Some(count) = table.by_key.get_mut(key) {
                *count -= 1;
                if *count == 0 {
                    table.by_key.remove(key);
                }
            }
        }
        // A burst of connections leaves a table behind that is too large.
        if table.by_key.capacity() > 1024 && table.by_key.len() < table.by_key.capacity() / 8 {
            table.by_key.shrink_to_fit();
        }
    }
}
