//! Who waits for which topics, and since when nothing has come for them.
//!
//! A subscriber registers once and stays. While it is caught up, a push that matches none of its patterns
//! costs it nothing, and it may skip what was pushed: [`News`] says up to where.

use std::collections::{HashMap, VecDeque};
use std::task::Waker;

use slab::Slab;

use crate::cursor::Position;
use crate::topic::{Pattern, PatternSet, Topic};

/// A subscriber's place among the waiters. Not reused while it is registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WaiterKey(pub(crate) usize);

impl WaiterKey {
    /// Of nobody.
    pub(crate) const NONE: Self = Self(usize::MAX);
}

/// What has come since a subscriber was last caught up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing that matches, up to the tail's end.
    None,
    /// The first match has this position: nothing that matches lies before it.
    First(Position),
    /// Not known: the subscriber has to read from its position.
    Unknown,
}

#[derive(Debug)]
struct Slot {
    patterns: PatternSet,
    news: News,
    /// Kept when it is used: to clone one for every delivery would cost as much as the rest of what is done here.
    waker: Option<Waker>,
    /// Was woken, and has not come back yet.
    woken: bool,
    /// Is handed what is new for it, instead of being woken.
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

/// The waiters of one tail.
#[derive(Debug, Default)]
pub struct Waiters {
    slots: Slab<Slot>,
    /// Patterns without wildcards, by far the most: found by one look-up a push.
    literal: HashMap<Topic, Vec<usize>>,
    wild: Node,
    /// Those who are to be handed what is new, once each: bounded by the number of subscribers, since nobody is told twice
    /// before having caught up.
    due: VecDeque<WaiterKey>,
}

/// Patterns with wildcards, as a tree of tokens: a push visits the branches that match its topic, however many others there are.
#[derive(Debug, Default)]
struct Node {
    children: HashMap<Box<str>, Node>,
    any: Option<Box<Node>>,
    here: Vec<usize>,
    tail: Vec<usize>,
}

impl Waiters {
    /// Adds a subscriber. Its news are [`News::Unknown`] until it says that it is caught up.
    pub fn register(&mut self, patterns: &PatternSet) -> WaiterKey {
        let (none, news) = (PatternSet::default(), News::Unknown);
        let key = self.slots.insert(Slot { patterns: none, news, waker: None, woken: false, pushed: false });
        self.set_patterns(WaiterKey(key), patterns);
        WaiterKey(key)
    }

    /// Changes what a subscriber waits for; its news become [`News::Unknown`].
    pub fn set_patterns(&mut self, key: WaiterKey, patterns: &PatternSet) {
        let Some(slot) = self.slots.get_mut(key.0) else { return };
        let before = std::mem::replace(&mut slot.patterns, patterns.clone());
        slot.news = News::Unknown;
        before.iter().for_each(|pattern| self.unlink(pattern, key.0));
        patterns.iter().for_each(|pattern| self.link(pattern, key.0));
    }

    /// Removes a subscriber.
    pub fn remove(&mut self, key: WaiterKey) {
        self.set_patterns(key, &PatternSet::default());
        self.slots.try_remove(key.0);
    }

    /// The same patterns, of the last who registered with them, if somebody has.
    pub(crate) fn shared(&self, patterns: PatternSet) -> PatternSet {
        let list = patterns.iter().next().and_then(|pattern| match pattern.literal() {
            Some(topic) => self.literal.get(topic),
            None => self.wild.find(pattern.as_str()),
        });
        let last = list.and_then(|keys| self.slots.get(*keys.last()?));
        last.filter(|slot| slot.patterns == patterns).map_or(patterns, |slot| slot.patterns.clone())
    }

    /// From now on a subscriber is not woken for what is told, but listed in [`Self::next_due`].
    pub fn push_to(&mut self, key: WaiterKey) {
        if let Some(slot) = self.slots.get_mut(key.0) {
            slot.pushed = true;
        }
    }

    /// Who is to be handed what is new, in the order in which it came; it may be somebody who has left since, or who has come
    /// to that place.
    pub fn next_due(&mut self) -> Option<WaiterKey> {
        self.due.pop_front()
    }

    /// Wakes one, if it has not been woken since it last waited.
    pub fn wake(&mut self, key: WaiterKey) {
        if let Some(slot) = self.slots.get_mut(key.0) {
            slot.wake();
        }
    }

    /// What has come for a subscriber since it was last caught up.
    #[must_use]
    pub fn news(&self, key: WaiterKey) -> News {
        self.slots.get(key.0).map_or(News::Unknown, |slot| slot.news)
    }

    /// A subscriber has read up to the tail's end; from now on it is told what comes.
    pub fn caught_up(&mut self, key: WaiterKey) {
        if let Some(slot) = self.slots.get_mut(key.0) {
            slot.news = News::None;
        }
    }

    /// Whom to wake when something comes, or when [`Self::wake_all`] is called.
    pub fn wait(&mut self, key: WaiterKey, waker: &Waker) {
        let Some(slot) = self.slots.get_mut(key.0) else { return };
        slot.woken = false;
        if !slot.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
            slot.waker = Some(waker.clone());
        }
    }

    /// An event on `topic` was pushed to the tail: notes and wakes whoever asked for it.
    pub fn tell(&mut self, topic: &Topic, position: Position) {
        let (slots, due) = (&mut self.slots, &mut self.due);
        let mut tell = |keys: &[usize]| {
            for key in keys {
                let Some(slot) = slots.get_mut(*key) else { continue };
                if slot.news == News::None {
                    slot.news = News::First(position);
                    // Once: until it has caught up again it needs no other call.
                    if slot.pushed {
                        due.push_back(WaiterKey(*key));
                    } else {
                        slot.wake();
                    }
                }
            }
        };
        if let Some(keys) = self.literal.get(topic) {
            tell(keys);
        }
        self.wild.visit(topic.as_str().split('.'), &mut tell);
    }

    /// Nobody knows what was missed: everyone reads from their position.
    pub fn forget_news(&mut self) {
        self.slots.iter_mut().for_each(|(_, slot)| slot.news = News::Unknown);
        self.wake_all();
    }

    /// Wakes everyone: the server is about to stop, say.
    pub fn wake_all(&mut self) {
        self.slots.iter_mut().for_each(|(_, slot)| slot.wake());
    }

    /// How many subscribers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether nobody is here.
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
    /// The list of a pattern, made where it is missing.
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

    /// Takes `key` out of a pattern's list, and empty branches with it; says whether this node is empty now.
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

    /// Depth is bounded by the tokens of a topic (128, since it has 255 bytes), the work by the branches there are.
    fn visit(&self, mut tokens: std::str::Split<'_, char>, tell: &mut dyn FnMut(&[usize])) {
        let mut node = self;
        // Descend in a loop while only one branch matches; recurse where `*` opens a second one.
        while let Some(token) = tokens.next() {
            tell(&node.tail);
            node = match (node.any.as_deref(), node.children.get(token)) {
                (Some(any), Some(child)) => {
                    any.visit(tokens.clone(), tell);
                    child
                }
                (Some(only), None) | (None, Some(only)) => only,
                (None, None) => return,
            }
        }
        tell(&node.here);
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
        let mut waiters = Waiters::default();
        let key = waiters.register(&set(&["a.*".into(), "a.b".into()]));
        waiters.wait(key, &count.clone().into());
        let topic: Topic = "a.b".parse().unwrap();
        waiters.tell(&topic, Position(1));
        assert_eq!(waiters.news(key), News::Unknown, "not caught up yet");
        waiters.caught_up(key);
        waiters.tell(&"b".parse().unwrap(), Position(2));
        assert_eq!(waiters.news(key), News::None);
        waiters.tell(&topic, Position(3));
        waiters.tell(&topic, Position(4));
        assert_eq!(waiters.news(key), News::First(Position(3)));
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        waiters.remove(key);
        assert!(waiters.is_empty() && waiters.literal.is_empty());
        assert!(waiters.wild.any.is_none() && waiters.wild.children.is_empty());
    }

    proptest! {
        /// The tree finds exactly those whose patterns match, through changes and removals.
        #[test]
        fn tells_exactly_those_who_asked(
            subscribers in proptest::collection::vec(proptest::collection::vec("([ab*]\\.){0,3}([ab*]|>)", 1..4), 1..12),
            removed in proptest::collection::vec(any::<bool>(), 12),
            changed in proptest::option::of(proptest::collection::vec("([ab*]\\.){0,2}[ab>]", 1..3)),
            topic in "([ab]\\.){0,4}[ab]",
        ) {
            let topic: Topic = topic.parse().unwrap();
            let mut waiters = Waiters::default();
            let mut sets: Vec<PatternSet> = subscribers.iter().map(|texts| set(texts)).collect();
            let keys: Vec<WaiterKey> = sets.iter().map(|patterns| waiters.register(patterns)).collect();
            if let Some(changed) = changed {
                sets[0] = set(&changed);
                waiters.set_patterns(keys[0], &sets[0]);
            }
            for key in &keys { waiters.caught_up(*key); }
            for (key, gone) in keys.iter().zip(&removed) {
                if *gone { waiters.remove(*key); }
            }
            waiters.tell(&topic, Position(9));
            for ((key, patterns), gone) in keys.iter().zip(&sets).zip(&removed) {
                let expected = match (gone, patterns.matches(topic.as_str())) {
                    (true, _) => News::Unknown,
                    (false, true) => News::First(Position(9)),
                    (false, false) => News::None,
                };
                prop_assert_eq!(waiters.news(*key), expected);
            }
        }
    }
}
