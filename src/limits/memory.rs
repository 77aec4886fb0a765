//! Budgets of the memory that peers make the server hold: inbound, bodies and messages that are not processed yet; outbound,
//! bytes that wait to be sent, and the patterns of open subscriptions.
//!
//! Each byte counts three times: for its address, for its subject, and in the total of its direction. The two directions
//! have totals of their own, so that slow readers cannot keep publishers out; an address or a subject has one
//! share for both. A part of the inbound total is a reserve for bodies and messages below 64 KiB. One peer gets a
//! quarter of the reserve at most, and the last quarter is for administrators alone. So a flood of large bodies stops neither
//! ordinary publishing nor a revocation.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::accounts::Accounts;
use super::{LimitError, Limits, RateKey};

/// A body or message below this size may use the reserve.
const SMALL_BYTES: usize = 64 << 10;

/// Parts of the reserve: a peer gets one at most, and one is for administrators alone.
const RESERVE_PARTS: usize = 4;

/// The memory budgets, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryOptions {
    /// Most bytes of bodies and messages that are arriving or being stored, of all peers together.
    pub inbound_bytes_max: usize,
    /// How many of the inbound bytes are reserved for bodies below 64 KiB and for administrators; less than half.
    pub reserved_bytes: usize,
    /// Most bytes that wait to be sent, of all peers together.
    pub outbound_bytes_max: usize,
    /// Most bytes that one address, or one subject, may hold in both directions; `None` is any number.
    pub bytes_per_peer_max: Option<usize>,
}

impl Default for MemoryOptions {
    fn default() -> Self {
        Self {
            inbound_bytes_max: 256 << 20,
            reserved_bytes: 16 << 20,
            outbound_bytes_max: 512 << 20,
            bytes_per_peer_max: Some(64 << 20),
        }
    }
}

/// The bytes held at present.
#[derive(Debug)]
pub(super) struct Memory {
    options: MemoryOptions,
    inbound: AtomicUsize,
    outbound: AtomicUsize,
    /// What each peer holds outside the reserve.
    shares: Accounts,
    /// What each peer holds of the reserve.
    reserved: Accounts,
}

/// The pool that bytes are charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pool {
    Inbound,
    /// The part of the inbound total that is for small bodies.
    Reserve,
    /// The part of the reserve that is for administrators.
    Privileged,
    Outbound,
}

impl Pool {
    fn is_full(self) -> LimitError {
        LimitError::ServerFull(if self == Self::Outbound { "unsent bytes" } else { "inbound bytes" })
    }
}

impl Memory {
    pub(super) fn new(options: MemoryOptions) -> Self {
        let (inbound, outbound) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { options, inbound, outbound, shares: Accounts::default(), reserved: Accounts::default() }
    }

    fn charge(&self, pool: Pool, key: &RateKey, bytes: usize) -> Result<(), LimitError> {
        if bytes == 0 {
            return Ok(());
        }
        if let Some((accounts, share)) = self.accounts(pool) {
            accounts.charge(key, bytes, share).map_err(|whose| LimitError::Memory { whose })?;
        }
        let before = self.total(pool).fetch_add(bytes, Ordering::Relaxed);
        if before.saturating_add(bytes) > self.total_max(pool) {
            self.credit(pool, key, bytes);
            return Err(pool.is_full());
        }
        Ok(())
    }

    /// As [`Self::charge`], and charges nothing.
    fn check(&self, pool: Pool, key: &RateKey, bytes: usize) -> Result<(), LimitError> {
        if bytes == 0 {
            return Ok(());
        }
        if let Some((accounts, share)) = self.accounts(pool) {
            accounts.check(key, bytes, share).map_err(|whose| LimitError::Memory { whose })?;
        }
        let all = self.total(pool).load(Ordering::Relaxed).saturating_add(bytes);
        if all > self.total_max(pool) { Err(pool.is_full()) } else { Ok(()) }
    }

    /// What each peer holds of a pool, and the most that one may hold; `None` where that is not limited.
    fn accounts(&self, pool: Pool) -> Option<(&Accounts, usize)> {
        let part = self.options.reserved_bytes / RESERVE_PARTS;
        match pool {
            Pool::Inbound | Pool::Outbound => {
                let share = self.options.bytes_per_peer_max.map_or(usize::MAX, |max| max.saturating_sub(part));
                Some((&self.shares, share))
            }
            Pool::Reserve => Some((&self.reserved, part)),
            Pool::Privileged => None,
        }
    }

    /// The most bytes that the pool's direction may have for something to be charged to the pool.
    fn total_max(&self, pool: Pool) -> usize {
        let options = &self.options;
        match pool {
            Pool::Inbound => options.inbound_bytes_max.saturating_sub(options.reserved_bytes),
            Pool::Reserve => options.inbound_bytes_max.saturating_sub(options.reserved_bytes / RESERVE_PARTS),
            Pool::Privileged => options.inbound_bytes_max,
            Pool::Outbound => options.outbound_bytes_max,
        }
    }

    fn credit(&self, pool: Pool, key: &RateKey, bytes: usize) {
        if bytes == 0 {
            return;
        }
        self.total(pool).fetch_sub(bytes, Ordering::Relaxed);
        if let Some((accounts, _)) = self.accounts(pool) {
            accounts.credit(key, bytes);
        }
    }

    /// Bytes that are charged now, in both directions.
    pub(super) fn charged_bytes(&self) -> usize {
        [&self.inbound, &self.outbound].map(|total| total.load(Ordering::Relaxed)).iter().sum()
    }

    fn total(&self, pool: Pool) -> &AtomicUsize {
        if pool == Pool::Outbound { &self.outbound } else { &self.inbound }
    }

    #[cfg(test)]
    fn is_empty(&self) -> bool {
        let totals = [&self.inbound, &self.outbound].map(|total| total.load(Ordering::Relaxed));
        totals == [0, 0] && self.shares.is_empty() && self.reserved.is_empty()
    }
}

/// The bytes of one body or message that is arriving or not processed yet. Released when dropped.
#[derive(Debug)]
pub struct InboundBudget {
    limits: Arc<Limits>,
    key: RateKey,
    /// Whether an administrator sent it.
    privileged: bool,
    /// Whether its announced length is too large for the reserve.
    large: bool,
    /// Bytes held, by the pool that they are charged to.
    held: [(Pool, usize); 3],
}

impl InboundBudget {
    pub(super) fn new(limits: Arc<Limits>, key: RateKey) -> Self {
        let held = [(Pool::Privileged, 0), (Pool::Reserve, 0), (Pool::Inbound, 0)];
        Self { limits, key, privileged: false, large: false, held }
    }

    /// Sets whether this is an administrator's, which may use the last quarter of the reserve.
    #[must_use]
    pub fn privileged(mut self, privileged: bool) -> Self {
        self.privileged = privileged;
        self
    }

    /// Sets how many bytes there are going to be. A large body gets nothing of the reserve, not even for its first bytes. They are
    /// not charged before they arrive, for a head alone would fill everybody's memory; but where there is no room for them now,
    /// they are refused before the first is received, which would be in vain.
    ///
    /// # Errors
    /// As [`Self::grow`].
    pub fn announce(&mut self, bytes: usize) -> Result<(), LimitError> {
        self.large = bytes >= SMALL_BYTES;
        let more = bytes.saturating_sub(self.bytes());
        self.first_pool(more, |pool| self.limits.memory.check(pool, &self.key, more)).map(drop)
    }

    /// Holds more bytes.
    ///
    /// # Errors
    /// [`LimitError::Memory`] where the peer's share is exhausted, [`LimitError::ServerFull`] where the total is. The bytes held
    /// before stay held.
    pub fn grow(&mut self, bytes: usize) -> Result<(), LimitError> {
        let pool = self.first_pool(bytes, |pool| self.limits.memory.charge(pool, &self.key, bytes))?;
        self.add(pool, bytes);
        Ok(())
    }

    /// The first pool that has room for so many bytes more, of those that this budget may use; else the first one's refusal.
    fn first_pool(&self, bytes: usize, has_room: impl Fn(Pool) -> Result<(), LimitError>) -> Result<Pool, LimitError> {
        let first = has_room(Pool::Inbound).map(|()| Pool::Inbound);
        let small = !self.large && self.bytes().saturating_add(bytes) < SMALL_BYTES;
        let others = [(small, Pool::Reserve), (self.privileged, Pool::Privileged)];
        first.or_else(|refused| {
            let mut others = others.into_iter().filter_map(|(may_use, pool)| may_use.then_some(pool));
            others.find(|pool| has_room(*pool).is_ok()).ok_or(refused)
        })
    }

    /// Holds exactly `bytes` from now on.
    ///
    /// # Errors
    /// As [`Self::grow`]; a smaller number is never refused.
    pub fn set(&mut self, bytes: usize) -> Result<(), LimitError> {
        match bytes.checked_sub(self.bytes()) {
            Some(0) => Ok(()),
            Some(more) => self.grow(more),
            None => {
                self.shrink(self.bytes() - bytes);
                Ok(())
            }
        }
    }

    /// Charges the held bytes, and those to come, to another peer.
    ///
    /// # Errors
    /// As [`Self::grow`], where the other peer has no room for them; they stay charged to the former peer then.
    pub fn charge_to(&mut self, key: RateKey) -> Result<(), LimitError> {
        for number in 0..self.held.len() {
            let (pool, bytes) = self.held[number];
            if let Err(error) = self.limits.memory.charge(pool, &key, bytes) {
                for (pool, bytes) in &self.held[..number] {
                    self.limits.memory.credit(*pool, &key, *bytes);
                }
                return Err(error);
            }
        }
        for (pool, bytes) in &self.held {
            self.limits.memory.credit(*pool, &self.key, *bytes);
        }
        self.key = key;
        Ok(())
    }

    /// How many bytes are held.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.held.iter().map(|(_, bytes)| bytes).sum()
    }

    fn add(&mut self, pool: Pool, bytes: usize) {
        for (_, held) in self.held.iter_mut().filter(|(other, _)| *other == pool) {
            *held += bytes;
        }
    }

    /// Releases bytes, the reserve's first: those are the scarcest.
    fn shrink(&mut self, mut bytes: usize) {
        for (pool, held) in &mut self.held {
            let back = bytes.min(*held);
            if back > 0 {
                self.limits.memory.credit(*pool, &self.key, back);
                *held -= back;
                bytes -= back;
            }
        }
    }
}

impl Drop for InboundBudget {
    fn drop(&mut self) {
        self.shrink(self.bytes());
    }
}

/// The bytes held for one peer, until the peer reads them or disconnects. Released when dropped.
#[derive(Debug)]
pub struct OutboundBudget {
    limits: Arc<Limits>,
    key: RateKey,
    bytes: usize,
}

impl OutboundBudget {
    pub(super) fn new(limits: Arc<Limits>, key: RateKey) -> Self {
        Self { limits, key, bytes: 0 }
    }

    /// The peer that the bytes are charged to.
    pub(crate) fn key(&self) -> &RateKey {
        &self.key
    }

    pub(crate) fn limits(&self) -> &Arc<Limits> {
        &self.limits
    }

    /// Holds exactly `bytes` from now on.
    ///
    /// # Errors
    /// [`LimitError::Memory`] where the peer's share is exhausted, [`LimitError::ServerFull`] where the total is; the number
    /// is unchanged then. A smaller number is never refused.
    pub fn set(&mut self, bytes: usize) -> Result<(), LimitError> {
        let memory = &self.limits.memory;
        if bytes > self.bytes {
            memory.charge(Pool::Outbound, &self.key, bytes - self.bytes)?;
        } else if bytes < self.bytes {
            memory.credit(Pool::Outbound, &self.key, self.bytes - bytes);
        }
        self.bytes = bytes;
        Ok(())
    }

    /// Charges the held bytes, and those to come, to another peer.
    ///
    /// # Errors
    /// As [`Self::set`], where the other peer has no room for them; they stay charged to the former peer then.
    pub fn charge_to(&mut self, key: RateKey) -> Result<(), LimitError> {
        self.limits.memory.charge(Pool::Outbound, &key, self.bytes)?;
        self.limits.memory.credit(Pool::Outbound, &self.key, self.bytes);
        self.key = key;
        Ok(())
    }
}

impl Drop for OutboundBudget {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.limits.memory.credit(Pool::Outbound, &self.key, self.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::LimitOptions;
    use proptest::prelude::*;

    const MIB: usize = 1 << 20;

    fn limits(memory: MemoryOptions) -> Arc<Limits> {
        Arc::new(Limits::new(LimitOptions { memory, ..LimitOptions::default() }))
    }

    fn key(number: u8) -> RateKey {
        RateKey::at([10, 0, 0, number].into())
    }

    #[test]
    fn one_peer_has_a_share_and_the_others_theirs() {
        let limits = limits(MemoryOptions::default());
        let mut large: Vec<_> = (0..16).map(|_| limits.inbound(key(1))).collect();
        let refused = large.iter_mut().filter_map(|budget| budget.grow(16 * MIB).err()).collect::<Vec<_>>();
        assert_eq!(refused.len(), 13, "of 64 MiB, 4 are the peer's part of the reserve");
        assert!(refused.iter().all(|error| matches!(error, LimitError::Memory { whose: "this address" })));
        // The same peer's small bodies still have room, and another peer's large ones.
        let mut small = limits.inbound(key(1));
        small.grow(60 << 10).unwrap();
        limits.inbound(key(2)).grow(16 * MIB).unwrap();
        let held: usize = large.iter().chain([&small]).map(InboundBudget::bytes).sum();
        assert!(held <= 64 * MIB);
        drop((large, small));
        assert!(limits.memory.is_empty());
    }

    /// Else the rest of a share would be received over and over again, and thrown away.
    #[test]
    fn what_has_no_room_is_refused_when_it_is_announced() {
        let limits = limits(MemoryOptions::default());
        let mut arriving: Vec<_> = (0..4).map(|_| limits.inbound(key(1))).collect();
        for budget in &mut arriving {
            // Announced bytes are not charged.
            budget.announce(16 * MIB).unwrap();
            budget.grow(12 * MIB).unwrap();
        }
        assert_eq!(limits.inbound(key(1)).announce(16 * MIB), Err(LimitError::Memory { whose: "this address" }));
        assert_eq!(arriving[0].announce(16 * MIB), Ok(()), "only the rest has to have room");
        assert_eq!(limits.inbound(key(1)).announce(SMALL_BYTES - 1), Ok(()));
        assert_eq!(limits.inbound(key(2)).announce(16 * MIB), Ok(()));
    }

    #[test]
    fn a_subject_has_a_share_wherever_it_comes_from() {
        let limits = limits(MemoryOptions::default());
        let named = |number| limits.inbound(key(number).named(Some("li".into())));
        let mut all: Vec<_> = (0..8).map(named).collect();
        let refused: Vec<_> = all.iter_mut().filter_map(|budget| budget.grow(16 * MIB).err()).collect();
        assert_eq!(refused, [LimitError::Memory { whose: "this subject" }; 5]);
        // Bytes refused for the subject are not counted against the address.
        limits.inbound(key(7)).grow(60 * MIB).unwrap();
    }

    #[test]
    fn a_full_server_has_room_for_small_bodies_and_for_administrators() {
        let limits = limits(MemoryOptions::default());
        let mut all: Vec<_> = (0..24).map(|number| limits.inbound(key(number / 4))).collect();
        let full = all.iter_mut().filter_map(|budget| budget.grow(15 * MIB).err()).collect::<Vec<_>>();
        assert!(full.contains(&LimitError::ServerFull("inbound bytes")), "{full:?}");
        assert!(limits.inbound(key(99)).grow(SMALL_BYTES).is_err(), "a body of this size is not small");
        let mut announced = limits.inbound(key(99));
        assert!(announced.announce(16 * MIB).is_err(), "nor is one that is announced as large");
        assert!(announced.grow(1000).is_err(), "nor are its first bytes");
        let mut small: Vec<_> = (0..300).map(|number| limits.inbound(key((number % 250) as u8))).collect();
        let taken = small.iter_mut().filter_map(|budget| budget.set(60 << 10).ok()).count();
        assert!((190..300).contains(&taken), "{taken}: three quarters of the reserve");
        let mut administrator = limits.inbound(key(3)).privileged(true);
        administrator.grow(1000).unwrap();
        drop((all, small, announced, administrator));
        assert!(limits.memory.is_empty());
    }

    #[test]
    fn one_peer_cannot_take_the_reserve() {
        let options = MemoryOptions { inbound_bytes_max: 32 * MIB, ..MemoryOptions::default() };
        let limits = limits(options);
        let mut all: Vec<_> = (0..1000).map(|_| limits.inbound(key(1))).collect();
        let taken = all.iter_mut().filter_map(|budget| budget.grow(60 << 10).ok()).count();
        assert!(taken < 1000, "{taken}");
        limits.inbound(key(2)).grow(60 << 10).unwrap();
    }

    #[test]
    fn what_waits_to_be_sent_shares_with_what_arrives() {
        let limits = limits(MemoryOptions { outbound_bytes_max: 70 * MIB, ..MemoryOptions::default() });
        let mut waiting = limits.outbound(key(1));
        waiting.set(40 * MIB).unwrap();
        assert_eq!(limits.inbound(key(1)).grow(30 * MIB), Err(LimitError::Memory { whose: "this address" }));
        limits.inbound(key(2)).grow(30 * MIB).unwrap();
        let mut other = limits.outbound(key(2));
        assert_eq!(other.set(50 * MIB), Err(LimitError::ServerFull("unsent bytes")));
        waiting.set(MIB).unwrap();
        other.set(50 * MIB).unwrap();
        drop((waiting, other));
        assert!(limits.memory.is_empty());
    }

    proptest! {
        /// Whatever is charged and released, in whatever order: never more than the limits is held, and nothing in the end.
        #[test]
        fn everything_is_given_back(steps in proptest::collection::vec((0_u8..3, 0_usize..200_000, any::<bool>()), 0..60)) {
            let options = MemoryOptions {
                inbound_bytes_max: 400_000,
                reserved_bytes: 100_000,
                outbound_bytes_max: 100_000,
                bytes_per_peer_max: Some(200_000),
            };
            let limits = limits(options);
            let mut budgets = [0, 1, 2].map(|number| limits.inbound(key(number)).privileged(number == 2));
            let mut waiting = [0, 1, 2].map(|number| limits.outbound(key(number)));
            for (number, bytes, inbound) in steps {
                let number = usize::from(number);
                let (before, fits) = if inbound {
                    let budget = &mut budgets[number];
                    (budget.bytes(), (budget.set(bytes), budget.bytes()))
                } else {
                    let budget = &mut waiting[number];
                    (budget.bytes, (budget.set(bytes), budget.bytes))
                };
                prop_assert_eq!(fits.1, if fits.0.is_ok() { bytes } else { before });
                prop_assert!(budgets[0].bytes() + waiting[0].bytes <= 200_000);
                prop_assert!(budgets.iter().map(InboundBudget::bytes).sum::<usize>() <= 400_000);
            }
            drop((budgets, waiting));
            prop_assert!(limits.memory.is_empty());
        }
    }
}
