//! Which keys were published within the idempotency window.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::StoreError;
use crate::cursor::Position;
use crate::event::Draft;
use crate::topic::Topic;

type Key = (Topic, Arc<str>);

/// The window: a key is topic and id together.
#[derive(Debug)]
pub(crate) struct DedupeWindow {
    window_ms: u64,
    keys_max: usize,
    positions: HashMap<Key, Position>,
    /// In order of entry. The time of day may step back, so the order of expiry is only nearly that of entry.
    by_age: VecDeque<(u64, Key)>,
}

impl DedupeWindow {
    pub(crate) fn new(window: Duration, keys_max: usize) -> Self {
        let window_ms = u64::try_from(window.as_millis()).unwrap_or(u64::MAX);
        Self { window_ms, keys_max, positions: HashMap::new(), by_age: VecDeque::new() }
    }

    /// Where the event that `draft` repeats stands, if it does.
    pub(crate) fn find(&self, draft: &Draft) -> Option<Position> {
        let id = draft.id()?;
        // An empty map is the common case: most publishers send no id.
        if self.positions.is_empty() { None } else { self.positions.get(&(draft.topic().clone(), id.clone())).copied() }
    }

    /// Remembers a key that is stored at `position`. Without an id there is none.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where the window holds as many keys as it may: to forget one early would store its repeat.
    pub(crate) fn insert(&mut self, draft: &Draft, position: Position) -> Result<(), StoreError> {
        let Some(id) = draft.id() else { return Ok(()) };
        if self.window_ms == 0 {
            return Ok(());
        }
        if self.positions.len() >= self.keys_max {
            return Err(StoreError::Busy("more ids within the dedupe window than --dedupe-keys allows"));
        }
        let key = (draft.topic().clone(), id.clone());
        self.positions.insert(key.clone(), position);
        self.by_age.push_back((draft.time_ms(), key));
        Ok(())
    }

    /// Where the event with this key stands, if it is known.
    pub(crate) fn position(&self, topic: &Topic, id: &str) -> Option<Position> {
        if self.positions.is_empty() { None } else { self.positions.get(&(topic.clone(), id.into())).copied() }
    }

    /// Remembers a key again that was stored before; the caller keeps to the limit, and to the order of time.
    pub(crate) fn restore(&mut self, topic: Topic, id: Arc<str>, time_ms: u64, position: Position) {
        if self.window_ms > 0 {
            let key = (topic, id);
            self.positions.insert(key.clone(), position);
            self.by_age.push_back((time_ms, key));
        }
    }

    /// Takes back the newest keys, of an append that failed.
    pub(crate) fn undo_from(&mut self, first: Position) {
        while let Some((_, key)) = self.by_age.back()
            && self.positions.get(key).is_some_and(|position| *position >= first)
        {
            self.positions.remove(key);
            self.by_age.pop_back();
        }
    }

    /// Forgets keys that are older than the window.
    pub(crate) fn expire(&mut self, now_ms: u64) {
        while let Some((time_ms, key)) = self.by_age.front()
            && now_ms.saturating_sub(*time_ms) > self.window_ms
        {
            self.positions.remove(key);
            self.by_age.pop_front();
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
        let mut window = DedupeWindow::new(Duration::from_millis(100), 3);
        window.insert(&draft("a", "1", 0), Position(1)).unwrap();
        window.insert(&draft("a", "2", 50), Position(2)).unwrap();
        window.insert(&draft("b", "1", 50), Position(3)).unwrap();
        assert!(matches!(window.insert(&draft("c", "1", 50), Position(4)), Err(StoreError::Busy(_))));
        assert_eq!(window.find(&draft("a", "1", 9)), Some(Position(1)));
        assert_eq!(window.find(&draft("b", "2", 9)), None);
        window.undo_from(Position(3));
        assert_eq!(window.find(&draft("b", "1", 9)), None);
        window.expire(101);
        assert_eq!(window.find(&draft("a", "1", 101)), None);
        assert_eq!(window.find(&draft("a", "2", 101)), Some(Position(2)));
    }
}
