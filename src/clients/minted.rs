//! Evicts the records of unused server-minted ids, which visitors leave behind by the thousand. They are kept in memory only,
//! for a while, within a budget of bytes in total and for each address; the oldest are evicted first.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use uuid::Uuid;

use crate::log::ClientRecord;
use crate::topic::PatternSet;

/// Most bytes of such records.
const ALL_MAX_BYTES: usize = 16 << 20;

/// Most bytes of such records of one address.
const ADDRESS_MAX_BYTES: usize = 1 << 20;

/// The approximate size of a record without its patterns.
const RECORD_BYTES: usize = 300;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Minted {
    /// In the order of their creation.
    by_age: BTreeMap<u64, Held>,
    by_client: HashMap<Uuid, u64>,
    by_address: HashMap<IpAddr, Share>,
    bytes: usize,
    next: u64,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    client: Uuid,
    address: IpAddr,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Share {
    bytes: usize,
    /// The keys of its records in [`Minted::by_age`].
    places: std::collections::BTreeSet<u64>,
}

impl Minted {
    /// Adds a record; returns the clients whose records have to be evicted for it.
    pub(super) fn add(&mut self, client: Uuid, address: IpAddr, patterns: &PatternSet) -> Vec<Uuid> {
        self.remove(client);
        let bytes = cost_bytes(patterns);
        let place = self.next;
        self.next += 1;
        self.by_age.insert(place, Held { client, address, bytes });
        self.by_client.insert(client, place);
        self.bytes += bytes;
        let share = self.by_address.entry(address).or_default();
        share.bytes += bytes;
        share.places.insert(place);
        let mut forgotten = Vec::new();
        while let Some(oldest) = self.one_too_many(address) {
            self.remove(oldest);
            forgotten.push(oldest);
        }
        forgotten
    }

    /// Removes a record that was deleted, or whose id is in use now.
    pub(super) fn remove(&mut self, client: Uuid) {
        let Some(place) = self.by_client.remove(&client) else { return };
        let Some(held) = self.by_age.remove(&place) else { return };
        self.bytes -= held.bytes;
        if let Some(share) = self.by_address.get_mut(&held.address) {
            share.bytes -= held.bytes;
            share.places.remove(&place);
            if share.places.is_empty() {
                self.by_address.remove(&held.address);
            }
        }
    }

    /// The next client to evict: the address's oldest if the address exceeds its budget, else the oldest of all if they exceed
    /// theirs.
    fn one_too_many(&self, address: IpAddr) -> Option<Uuid> {
        let share = self.by_address.get(&address)?;
        let oldest = if share.bytes > ADDRESS_MAX_BYTES {
            share.places.first().and_then(|place| self.by_age.get(place))
        } else if self.bytes > ALL_MAX_BYTES {
            self.by_age.values().next()
        } else {
            None
        };
        oldest.map(|held| held.client)
    }
}

fn cost_bytes(patterns: &PatternSet) -> usize {
    RECORD_BYTES + patterns.cost_bytes()
}

const _: () = assert!(size_of::<ClientRecord>() + size_of::<Held>() < RECORD_BYTES);

#[cfg(test)]
mod tests {
    use super::*;

    fn long() -> PatternSet {
        let pattern = |n| format!("{n}.{}", "a".repeat(240)).parse().unwrap();
        PatternSet::new((0..64).map(pattern)).unwrap()
    }

    fn address(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn an_address_evicts_its_own_oldest_client_only() {
        let (mut minted, patterns) = (Minted::default(), long());
        let other = Uuid::new_v4();
        assert!(minted.add(other, address(1), &patterns).is_empty());
        let mut came = Vec::new();
        let mut forgotten = Vec::new();
        for _ in 0..200 {
            came.push(Uuid::new_v4());
            forgotten.extend(minted.add(*came.last().unwrap(), address(2), &patterns));
            assert!(minted.by_address[&address(2)].bytes <= ADDRESS_MAX_BYTES);
        }
        assert_eq!(forgotten, came[..forgotten.len()], "the oldest first");
        assert!(forgotten.len() > 100 && minted.by_client.contains_key(&other));
        came.into_iter().chain([other]).for_each(|client| minted.remove(client));
        assert!(minted.bytes == 0 && minted.by_age.is_empty() && minted.by_address.is_empty());
    }

    #[test]
    fn all_together_are_bounded() {
        let (mut minted, patterns) = (Minted::default(), long());
        let oldest = Uuid::new_v4();
        minted.add(oldest, address(0), &patterns);
        for n in 1..=255 {
            for _ in 0..8 {
                minted.add(Uuid::new_v4(), address(n), &patterns);
            }
            assert!(minted.bytes <= ALL_MAX_BYTES);
        }
        assert!(!minted.by_client.contains_key(&oldest));
    }
}
