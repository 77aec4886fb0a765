//! The subscription index: which subscribers a published topic has to wake, and for each the first match since it caught up.
//!
//! A subscriber registers once and stays. While it is caught up, a push that matches none of its patterns
//! costs it nothing, and it may skip the pushed events: [`Pending`] says up to which position.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use slab::Slab;

use crate::cursor::Position;
use crate::topic::{Pattern, PatternSet, Topic};

/// A subscriber's slot in the index. Not reused while the subscriber is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SubscriptionKey(pub(crate) usize);

impl SubscriptionKey {
    /// The key of no slot: of a reader that does not wait.
    pub(crate) const NONE: Self = Self(usize::MAX);
}

/// What is pending for a subscriber since it was last caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pending {
    /// No match, up to the tail's end.
    None,
    /// The position of the first match.
    First(Position),
    /// Not known: the subscriber has to read from its own position.
    Unknown,
}

#[derive(Debug)]
struct Slot {
    patterns: PatternSet,
    pending: Pending,
    /// Kept after a wake-up: to clone a waker for every delivery would double the cost of a push.
    waker: Option<Waker>,
    /// Woken, and not waiting again yet.
    woken: bool,
    /// The subscriber is listed in `due` for a direct write, instead of being woken.
    pushed: bool,
}

impl Slot {
    fn wake(&mut self) {
        if let Some(waker) = &self.waker
            && !self.woken
        {
            self.woken = true;
            waker.wake_by_ref();
        }
    }
}

/// The subscribers of one tail, by pattern.
#[derive(Debug, Default)]
pub struct SubscriptionIndex {
    slots: Slab<Slot>,
    /// Patterns without wildcards, by far the most common: found by one look-up per push.
    literal: HashMap<Topic, Vec<usize>>,
    wild: Node,
    /// Subscribers that are due for a direct write. Bounded by the number of subscribers, since a subscriber is listed only
    /// once between two times that it catches up.
    due: VecDeque<SubscriptionKey>,
}

/// Patterns with wildcards, as a trie of their tokens: a push visits only the branches that match its topic.
#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    here: Vec<usize>,
    tail: Vec<usize>,
}

impl SubscriptionIndex {
    /// Adds a subscriber. Its state is [`Pending::Unknown`] until [`Self::mark_caught_up`] is called for it.
    pub fn register(&mut self, patterns: &PatternSet) -> SubscriptionKey {
        let (none, pending) = (PatternSet::default(), Pending::Unknown);
        let key = self.slots.insert(Slot { patterns: none, pending, waker: None, woken: false, pushed: false });
        self.set_patterns(SubscriptionKey(key), patterns);
        SubscriptionKey(key)
    }

    /// Replaces a subscriber's patterns; its state becomes [`Pending::Unknown`].
    pub fn set_patterns(&mut self, key: SubscriptionKey, patterns: &PatternSet) {
        let Some(slot) = self.slots.get_mut(key.0) else { return };
        let before = std::mem::replace(&mut slot.patterns, patterns.clone());
        slot.pending = Pending::Unknown;
        before.iter().for_each(|pattern| self.unlink(pattern, key.0));
        patterns.iter().for_each(|pattern| self.link(pattern, key.0));
    }

    /// Removes a subscriber.
    pub fn remove(&mut self, key: SubscriptionKey) {
        self.set_patterns(key, &PatternSet::default());
        self.slots.try_remove(key.0);
    }

    /// Interns patterns: the set of the last subscriber that registered with equal ones, else `patterns` itself.
    pub(crate) fn shared(&self, patterns: PatternSet) -> PatternSet {
        let list = patterns.iter().next().and_then(|pattern| match pattern.literal() {
            Some(topic) => self.literal.get(topic),
            None => self.wild.find(pattern.as_str()),
        });
        let last = list.and_then(|keys| self.slots.get(*keys.last()?));
        last.filter(|slot| slot.patterns == patterns).map_or(patterns, |slot| slot.patterns.clone())
    }

    /// From now on a match does not wake the subscriber, but lists it in [`Self::next_due`].
    pub fn push_to(&mut self, key: SubscriptionKey) {
        if let Some(slot) = self.slots.get_mut(key.0) {
            slot.pushed = true;
        }
    }

    /// The next subscriber that is due for a direct write, in the order of their first matches. The key may be stale: its
    /// subscriber may have been removed since, or its slot reused.
    pub fn next_due(&mut self) -> Option<SubscriptionKey> {
        self.due.pop_front()
    }

    /// Wakes a subscriber, if it has not been woken since it last waited.
    pub fn wake(&mut self, key: SubscriptionKey) {
        if let Some(slot) = self.slots.get_mut(key.0) {
            slot.wake();
        }
    }

    /// What is pending for a subscriber since it was last caught up.
    #[must_use]
    pub fn pending(&self, key: SubscriptionKey) -> Pending {
        self.slots.get(key.0).map_or(Pending::Unknown, |slot| slot.pending)
    }

    /// A subscriber has read up to the tail's end; from now on its first match is recorded.
    pub fn mark_caught_up(&mut self, key: SubscriptionKey) {
        if let Some(slot) = self.slots.get_mut(key.0) {
            slot.pending = Pending::None;
        }
    }

    /// Registers the waker for a subscriber's next match, and for [`Self::wake_all`].
    pub fn wait(&mut self, key: SubscriptionKey, waker: &Waker) {
        let Some(slot) = self.slots.get_mut(key.0) else { return };
        slot.woken = false;
        if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            slot.waker = Some(waker.clone());
        }
    }

    /// An event on `topic` was pushed to the tail: records it as the first match of its subscribers, and wakes them.
    pub fn record_match(&mut self, topic: &Topic, position: Position) {
        let (slots, due) = (&mut self.slots, &mut self.due);
        let mut record = |keys: &[usize]| {
            for key in keys {
                let Some(slot) = slots.get_mut(*key) else { continue };
                if slot.pending == Pending::None {
                    slot.pending = Pending::First(position);
                    // Once: until the subscriber has caught up again it needs no other call.
                    if slot.pushed {
                        due.push_back(SubscriptionKey(*key));
                    } else {
                        slot.wake();
                    }
                }
            }
        };
        if let Some(keys) = self.literal.get(topic) {
            record(keys);
        }
        self.wild.visit(topic.as_str().split('.'), &mut record);
    }

    /// What was pushed is not known any more: every subscriber has to read from its own position.
    pub fn invalidate(&mut self) {
        self.slots.iter_mut().for_each(|(_, slot)| slot.pending = Pending::Unknown);
        self.wake_all();
    }

    /// Wakes every subscriber, as when the server is about to stop.
    pub fn wake_all(&mut self) {
        self.slots.iter_mut().for_each(|(_, slot)| slot.wake());
    }

    /// How many subscribers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    fn link(&mut self, pattern: &Pattern, key: usize) {
        match pattern.literal().map(str::parse::<Topic>) {
            Some(Ok(topic)) => self.literal.entry(topic).or_default().push(key),
            _ => self.wild.list(pattern.as_str()).push(key),
        }
    }

    fn unlink(&mut self, pattern: &Pattern, key: usize) {
        match pattern.literal() {
            Some(topic) => {
                if let Some(keys) = self.literal.get_mut(topic) {
                    remove(keys, key);
                    if keys.is_empty() {
                        self.literal.remove(topic);
                    }
                }
            }
            None => {
                self.wild.remove(&mut pattern.as_str().split('.'), key);
            }
        }
    }
}

fn remove(keys: &mut Vec<usize>, key: usize) {
    if let Some(at) = keys.iter().position(|other| *other == key) {
        keys.swap_remove(at);
    }
}

impl Node {
    /// The list of a pattern, created where it is missing.
    fn list(&mut self, pattern: &str) -> &mut Vec<usize> {
        let mut node = self;
        for token in pattern.split('.') {
            node = match token {
                ">" => return &mut node.tail,
                "*" => node.any.get_or_insert_default(),
                literal => node.children.entry(literal.into()).or_default(),
            };
        }
        &mut node.here
    }

    /// The list of a pattern, if there is one.
    fn find(&self, pattern: &str) -> Option<&Vec<usize>> {
        let mut node = self;
        for token in pattern.split('.') {
            node = match token {
                ">" => return Some(&node.tail),
                "*" => node.any.as_ref()?,
                literal => node.children.get(literal)?,
            };
        }
        Some(&node.here)
    }

    /// Removes `key` from a pattern's list, and the branches that this empties; returns whether this node is empty now.
    fn remove(&mut self, tokens: &mut std::str::Split<'_, char>, key: usize) -> bool {
        match tokens.next() {
            None => remove(&mut self.here, key),
            Some(">") => remove(&mut self.tail, key),
            Some("*") => {
                if self.any.as_mut().is_some_and(|node| node.remove(tokens, key)) {
                    self.any = None;
                }
            }
            Some(literal) => {
                if self.children.get_mut(literal).is_some_and(|node| node.remove(tokens, key)) {
                    self.children.remove(literal);
                }
            }
        }
        self.children.is_empty() && self.any.is_none() && self.here.is_empty() && self.tail.is_empty()
    }

    /// The depth is bounded by a topic's tokens (128, since it has 255 bytes), the work by the number of branches.
    fn visit(&self, mut tokens: std::str::Split<'_, char>, notify: &mut dyn FnMut(&[usize])) {
        let mut node = self;
        // Descend in a loop while only one branch matches; recurse where `*` opens a second one.
        while let Some(token) = tokens.next() {
            notify(&node.tail);
            node = match (node.any.as_deref(), node.children.get(token)) {
                (Some(any), Some(child)) => {
                    any.visit(tokens.clone(), notify);
                    child
                }
                (Some(only), None) | (None, Some(only)) => only,
                (None, None) => return,
            }
        }
        notify(&node.here);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl std::task::Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn set(texts: &[String]) -> PatternSet {
        PatternSet::new(texts.iter().map(|text| text.parse().unwrap())).unwrap()
    }

    #[test]
    fn is_woken_once_for_the_first_match_after_catching_up() {
        let count = Arc::new(Count::default());
        let mut subscription_index = SubscriptionIndex::default();
        let key = subscription_index.register(&set(&["a.*".into(), "a.b".into()]));
        subscription_index.wait(key, &count.clone().into());
        let topic: Topic = "a.b".parse().unwrap();
        subscription_index.record_match(&topic, Position(1));
        assert_eq!(subscription_index.pending(key), Pending::Unknown, "not caught up yet");
        subscription_index.mark_caught_up(key);
        subscription_index.record_match(&"b".parse().unwrap(), Position(2));
        assert_eq!(subscription_index.pending(key), Pending::None);
        subscription_index.record_match(&topic, Position(3));
        subscription_index.record_match(&topic, Position(4));
        assert_eq!(subscription_index.pending(key), Pending::First(Position(3)));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        subscription_index.remove(key);
        assert!(subscription_index.is_empty() && subscription_index.literal.is_empty());
        assert!(subscription_index.wild.any.is_none() && subscription_index.wild.children.is_empty());
    }

    proptest! {
        /// The trie finds exactly the subscribers whose patterns match, through changes and removals.
        #[test]
        fn notifies_exactly_the_matching_subscribers(
            subscribers in proptest::collection::vec(proptest::collection::vec("([ab*]\\.){0,3}([ab*]|>)", 1..4), 1..12),
            removed in proptest::collection::vec(any::<bool>(), 12),
            changed in proptest::option::of(proptest::collection::vec("([ab*]\\.){0,2}[ab>]", 1..3)),
            topic in "([ab]\\.){0,4}[ab]",
        ) {
            let topic: Topic = topic.parse().unwrap();
            let mut subscription_index = SubscriptionIndex::default();
            let mut sets: Vec<PatternSet> = subscribers.iter().map(|texts| set(texts)).collect();
            let keys: Vec<SubscriptionKey> = sets.iter().map(|patterns| subscription_index.register(patterns)).collect();
            if let Some(changed) = changed {
                sets[0] = set(&changed);
                subscription_index.set_patterns(keys[0], &sets[0]);
            }
            for key in &keys { subscription_index.mark_caught_up(*key); }
            for (key, gone) in keys.iter().zip(&removed) {
                if *gone { subscription_index.remove(*key); }
            }
            subscription_index.record_match(&topic, Position(9));
            for ((key, patterns), gone) in keys.iter().zip(&sets).zip(&removed) {
                let expected = match (gone, patterns.matches(topic.as_str())) {
                    (true, _) => Pending::Unknown,
                    (false, true) => Pending::First(Position(9)),
                    (false, false) => Pending::None,
                };
                prop_assert_eq!(subscription_index.pending(*key), expected);
            }
        }
    }
}
