//! The idempotency window: the keys that were published within it.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::StoreError;
use crate::clock::Moment;
use crate::cursor::Position;
use crate::event::{Draft, PayloadDigest, Publisher};
use crate::log::Appended;
use crate::topic::Topic;

type Key = (Topic, Arc<str>);

/// The event that first had a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct First {
    position: Position,
    /// `None` where the event was trimmed before this process began.
    digest: Option<PayloadDigest>,
    /// The publisher in whose share the key counts, where publishers are counted.
    publisher: Option<Publisher>,
}

/// The event that a draft repeats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Repeat {
    /// The position of the first.
    pub(crate) position: Position,
    /// Whether the first is known to have another payload.
    pub(crate) differs: bool,
}

impl From<Repeat> for Appended {
    fn from(repeat: Repeat) -> Self {
        Self { position: repeat.position, duplicate: true, differs: repeat.differs }
    }
}

/// A step of the wall clock that the window follows, in milliseconds: less than the tolerated error of a key's age, more than the
/// difference between two threads' readings.
const STEP_MS: u64 = 1000;

/// The window. A key is a topic and an id together.
///
/// A key's age counts by time elapsed, whatever the clock did since the key was stored: a clock that is set back makes no key
/// older than its arrival, and a clock that jumps ahead ages no key.
#[derive(Debug)]
pub(crate) struct DedupeWindow {
    window_ms: u64,
    keys_max: usize,
    publisher_keys_max: usize,
    firsts: HashMap<Key, First>,
    /// The number of keys per publisher, for publishers that are counted.
    by_publisher: HashMap<Publisher, usize>,
    /// In order of arrival; and of time, up to [`STEP_MS`].
    by_age: VecDeque<(u64, Key)>,
    /// When expired keys were last dropped.
    seen: Option<Moment>,
}

impl DedupeWindow {
    /// An empty window, with limits on keys in all and per publisher.
    pub(crate) fn new(window: Duration, keys_max: usize, publisher_keys_max: usize) -> Self {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        let (firsts, by_publisher, by_age) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Self { window_ms, keys_max, publisher_keys_max, firsts, by_publisher, by_age, seen: None }
    }

    /// The event that `draft` repeats, if any.
    pub(crate) fn find(&self, draft: &Draft) -> Option<Repeat> {
        let id = draft.id()?;
        // An empty map is the common case: most publishers send no id.
        if self.firsts.is_empty() {
            return None;
        }
        let First { position, digest, .. } = *self.firsts.get(&(draft.topic().clone(), id.clone()))?;
        Some(Repeat { position, differs: digest.is_some_and(|digest| digest != draft.payload_digest()) })
    }

    /// Records a key that is stored at `position`. A draft without an id has none.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where the window is full, [`StoreError::Share`] where this publisher's share is full: to drop a key
    /// early would store its repeat.
    pub(crate) fn insert(&mut self, draft: &Draft, position: Position) -> Result<(), StoreError> {
        let Some(id) = draft.id() else { return Ok(()) };
        if self.window_ms == 0 {
            return Ok(());
        }
        if self.firsts.len() >= self.keys_max {
            return Err(StoreError::Busy("there are more ids within the dedupe window than `--dedupe-keys` allows"));
        }
        let publisher = draft.publisher();
        if let Some(publisher) = publisher {
            let keys = self.by_publisher.entry(publisher).or_default();
            if *keys >= self.publisher_keys_max {
                return Err(StoreError::Share("ids within the dedupe window (--dedupe-keys-per-publisher)"));
            }
            *keys += 1;
        }
        let key = (draft.topic().clone(), id.clone());
        self.arrived_by(draft.time_ms());
        self.firsts.insert(key.clone(), First { position, digest: Some(draft.payload_digest()), publisher });
        self.by_age.push_back((draft.time_ms(), key));
        Ok(())
    }

    /// The position of the event with this key, if it is known.
    pub(crate) fn position(&self, topic: &Topic, id: &str) -> Option<Position> {
        if self.firsts.is_empty() {
            return None;
        }
        self.firsts.get(&(topic.clone(), id.into())).map(|first| first.position)
    }

    /// Restores a stored key; the caller ensures the limit and the order of time.
    pub(crate) fn restore(
        &mut self,
        (topic, id): (Topic, Arc<str>),
        time_ms: u64,
        position: Position,
        digest: Option<PayloadDigest>,
    ) {
        if self.window_ms > 0 {
            let key = (topic, id);
            self.firsts.insert(key.clone(), First { position, digest, publisher: None });
            self.by_age.push_back((time_ms, key));
        }
    }

    /// Removes all keys of a topic.
    pub(crate) fn forget_topic(&mut self, topic: &Topic) {
        let gone: Vec<Key> = self.firsts.keys().filter(|(of, _)| of == topic).cloned().collect();
        for key in &gone {
            let forgotten = self.firsts.remove(key);
            self.give_back(forgotten);
        }
        if !gone.is_empty() {
            self.by_age.retain(|(_, (of, _))| of != topic);
        }
    }

    /// Removes the newest keys, of an append that failed.
    pub(crate) fn undo_from(&mut self, first: Position) {
        while let Some((_, key)) = self.by_age.back()
            && self.firsts.get(key).is_some_and(|known| known.position >= first)
        {
            let forgotten = self.firsts.remove(key);
            self.by_age.pop_back();
            self.give_back(forgotten);
        }
    }

    /// A key was dropped: its publisher has room for another.
    fn give_back(&mut self, forgotten: Option<First>) {
        let Some(publisher) = forgotten.and_then(|first| first.publisher) else { return };
        if let Some(keys) = self.by_publisher.get_mut(&publisher) {
            *keys = keys.saturating_sub(1);
            if *keys == 0 {
                self.by_publisher.remove(&publisher);
            }
        }
    }

    /// Drops keys that are older than the window.
    pub(crate) fn expire(&mut self, now: &Moment) {
        if let Some(seen) = self.seen.replace(*now) {
            let by_boot_clock = seen.wall_ms.saturating_add(now.boot_ms.saturating_sub(seen.boot_ms));
            let ahead_ms = now.wall_ms.saturating_sub(by_boot_clock);
            if ahead_ms > STEP_MS {
                self.by_age
                    .iter_mut()
                    .for_each(|(time_ms, _)| *time_ms = time_ms.saturating_add(ahead_ms).min(now.wall_ms));
            }
        }
        self.arrived_by(now.wall_ms);
        while let Some((time_ms, key)) = self.by_age.front()
            && now.wall_ms.saturating_sub(*time_ms) > self.window_ms
        {
            let forgotten = self.firsts.remove(key);
            self.by_age.pop_front();
            self.give_back(forgotten);
        }
    }

    /// Every key has arrived by `now_ms`. A key that was stored while the clock was ahead would otherwise stay until its time has
    /// come, and keep all keys behind it.
    fn arrived_by(&mut self, now_ms: u64) {
        if self.by_age.back().is_some_and(|(time_ms, _)| *time_ms > now_ms.saturating_add(STEP_MS)) {
            self.by_age.iter_mut().for_each(|(time_ms, _)| *time_ms = (*time_ms).min(now_ms));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Data, NewEvent};

    fn draft(topic: &str, id: &str, time_ms: u64) -> Draft {
        NewEvent::new(topic.parse().unwrap(), Data::text("")).with_id(id).unwrap().draft(time_ms)
    }

    #[test]
    fn knows_a_key_for_the_window_and_takes_back_a_failed_append() {
        let mut window = DedupeWindow::new(Duration::from_millis(100), 3, 3);
        window.insert(&draft("a", "1", 0), Position(1)).unwrap();
        window.insert(&draft("a", "2", 50), Position(2)).unwrap();
        window.insert(&draft("b", "1", 50), Position(3)).unwrap();
        assert!(matches!(window.insert(&draft("c", "1", 50), Position(4)), Err(StoreError::Busy(_))));
        assert_eq!(window.find(&draft("a", "1", 9)), Some(Repeat { position: Position(1), differs: false }));
        assert_eq!(window.find(&draft("b", "2", 9)), None);
        window.undo_from(Position(3));
        assert_eq!(window.find(&draft("b", "1", 9)), None);
        window.expire(&Moment::at(101));
        assert_eq!(window.find(&draft("a", "1", 101)), None);
        assert_eq!(window.find(&draft("a", "2", 101)), Some(Repeat { position: Position(2), differs: false }));
    }

    #[test]
    fn another_payload_is_told_apart() {
        let mut window = DedupeWindow::new(Duration::from_secs(1), 10, 10);
        let event = |name: &str, data: Data| {
            let new = NewEvent::new("a".parse().unwrap(), data).named(name).unwrap();
            new.with_id("k").unwrap().draft(0)
        };
        window.insert(&event("n", Data::json("1").unwrap()), Position(1)).unwrap();
        let differs = |draft: &Draft| window.find(draft).unwrap().differs;
        assert!(!differs(&event("n", Data::json("1").unwrap())));
        assert!(differs(&event("n", Data::json("2").unwrap())), "other data");
        assert!(differs(&event("m", Data::json("1").unwrap())), "another name");
        assert!(differs(&event("n", Data::text("1"))), "another type");
        window.restore(("b".parse().unwrap(), "k".into()), 0, Position(2), None);
        assert!(!window.find(&draft("b", "k", 0)).unwrap().differs, "what is not known is not said");
    }

    #[test]
    fn a_publisher_fills_its_share_and_no_more() {
        let publisher = |number| Some(Publisher(std::num::NonZeroU64::new(number).unwrap()));
        let draft = |id: &str, by, time_ms| {
            let new = NewEvent::new("a".parse().unwrap(), Data::text("")).with_id(id).unwrap();
            new.by(publisher(by)).draft(time_ms)
        };
        let mut window = DedupeWindow::new(Duration::from_millis(100), 10, 2);
        window.insert(&draft("1", 1, 0), Position(1)).unwrap();
        window.insert(&draft("2", 1, 50), Position(2)).unwrap();
        assert!(matches!(window.insert(&draft("3", 1, 50), Position(3)), Err(StoreError::Share(_))));
        window.insert(&draft("3", 2, 50), Position(3)).unwrap();
        window.undo_from(Position(2));
        window.insert(&draft("2", 1, 60), Position(2)).unwrap();
        assert!(window.insert(&draft("4", 1, 60), Position(3)).is_err());
        window.expire(&Moment::at(101));
        window.insert(&draft("4", 1, 101), Position(3)).unwrap();
        window.expire(&Moment::at(1000));
        assert!(window.by_publisher.is_empty());
    }

    #[test]
    fn a_key_of_the_future_leaves_the_window_as_any_other() {
        let mut window = DedupeWindow::new(Duration::from_secs(2), 100, 100);
        window.insert(&draft("a", "ahead", 3_600_000), Position(1)).unwrap();
        // The clock is corrected before anything else happens.
        window.insert(&draft("a", "right", 10_000), Position(2)).unwrap();
        window.expire(&Moment::at(12_000));
        assert_eq!(window.find(&draft("a", "ahead", 0)).map(|repeat| repeat.position), Some(Position(1)));
        window.expire(&Moment::at(12_001));
        assert!(window.firsts.is_empty() && window.by_age.is_empty());
        // No key follows; time passes all the same.
        window.insert(&draft("a", "ahead", 3_600_000), Position(3)).unwrap();
        window.expire(&Moment::at(13_000));
        window.expire(&Moment::at(15_001));
        assert!(window.firsts.is_empty());
    }

    #[test]
    fn a_jump_ahead_ages_no_key() {
        let mut window = DedupeWindow::new(Duration::from_secs(2), 100, 100);
        let at = |wall_ms, boot_ms| Moment { boot_ms, ..Moment::at(wall_ms) };
        window.expire(&at(10_000, 500));
        window.insert(&draft("a", "1", 10_000), Position(1)).unwrap();
        window.expire(&at(11_000, 1500));
        // An hour ahead, a second later; one more key arrived since.
        window.insert(&draft("a", "2", 3_611_700), Position(2)).unwrap();
        window.expire(&at(3_612_000, 2500));
        assert_eq!(window.find(&draft("a", "1", 0)).map(|repeat| repeat.position), Some(Position(1)));
        window.expire(&at(3_613_000, 3500));
        assert_eq!(window.find(&draft("a", "1", 0)), None);
        assert_eq!(window.find(&draft("a", "2", 0)).map(|repeat| repeat.position), Some(Position(2)));
        window.expire(&at(3_614_001, 4501));
        assert!(window.firsts.is_empty());
    }
}
