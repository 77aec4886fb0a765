//! Topics, to which events are published, and patterns, to which clients subscribe, and their matching.
//!
//! The rules are NATS's subject rules: tokens are separated by dots; in a pattern a token may be `*`
//! (exactly one token), and the last may be `>` (one or more).

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// Longest topic or pattern, in bytes.
pub const TOPIC_MAX_BYTES: usize = 255;

/// The approximate memory of a subscription's pattern besides its text: its entries in the set, in the subscription index and
/// in the registry.
const PATTERN_BYTES: usize = 64;

/// Most patterns of one subscription.
pub const PATTERNS_MAX: usize = 64;

/// The topic of an event: dot-separated tokens, `orders.42.status`. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

impl Topic {
    /// The topic's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::borrow::Borrow<str> for Topic {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl FromStr for Topic {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        check_length(text)?;
        if is_plain(text) {
            return Ok(Self(text.into()));
        }
        for token in text.split('.') {
            if token.contains(['*', '>']) {
                return Err(TopicError::Wildcard);
            }
            check_token(token)?;
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Topic({})", self.0)
    }
}

/// A pattern of topics that a client subscribes to: a topic in which tokens may be wildcards. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    text: Arc<str>,
    shape: Shape,
}

/// The kind of a pattern, determined when it is parsed, so that the common kinds match by one comparison.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Shape {
    /// No wildcard: matches the topic of the same text.
    Literal,
    /// `>` alone: matches everything.
    Everything,
    /// Some wildcard.
    Wild,
}

impl Pattern {
    /// The pattern's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The topic's text, if the pattern can match one topic only.
    #[must_use]
    pub fn literal(&self) -> Option<&str> {
        (self.shape == Shape::Literal).then_some(&*self.text)
    }

    /// Whether this is `>`, which matches every topic.
    #[must_use]
    pub fn is_everything(&self) -> bool {
        self.shape == Shape::Everything
    }

    /// The text before the first wildcard token, dots included: every topic that matches begins with it.
    #[must_use]
    pub fn prefix(&self) -> &str {
        match self.shape {
            Shape::Literal => &self.text,
            Shape::Everything => "",
            Shape::Wild => {
                let end = self.text.split_inclusive('.').take_while(|token| !is_wildcard(token.trim_end_matches('.')));
                &self.text[..end.map(str::len).sum()]
            }
        }
    }

    /// Whether this pattern matches `topic`.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        match self.shape {
            Shape::Literal => *self.text == *topic,
            Shape::Everything => true,
            Shape::Wild => matches_tokens(&self.text, topic),
        }
    }
}

/// Walks both texts byte by byte. A search of the log does so for each event and each of its patterns; `str::split` takes ten times
/// as long.
fn matches_tokens(pattern: &str, topic: &str) -> bool {
    let (pattern, topic) = (pattern.as_bytes(), topic.as_bytes());
    let (mut at, mut topic_at) = (0, 0);
    loop {
        // Both are at the start of a token, and a wildcard is always a whole token.
        match pattern.get(at) {
            Some(b'>') => return true,
            Some(b'*') => {
                at += 1;
                topic_at += topic[topic_at..].iter().take_while(|byte| **byte != b'.').count();
            }
            _ => {
                while let Some(byte) = pattern.get(at).filter(|byte| **byte != b'.') {
                    if topic.get(topic_at) != Some(byte) {
                        return false;
                    }
                    (at, topic_at) = (at + 1, topic_at + 1);
                }
            }
        }
        match (pattern.get(at), topic.get(topic_at)) {
            (None, None) => return true,
            (Some(b'.'), Some(b'.')) => (at, topic_at) = (at + 1, topic_at + 1),
            _ => return false,
        }
    }
}

impl From<Topic> for Pattern {
    fn from(topic: Topic) -> Self {
        Self { text: topic.0, shape: Shape::Literal }
    }
}

impl FromStr for Pattern {
    type Err = TopicError;

    fn from_str(text: &str) -> Result<Self, TopicError> {
        check_length(text)?;
        if is_plain(text) {
            return Ok(Self { text: text.into(), shape: Shape::Literal });
        }
        let mut shape = Shape::Literal;
        let mut tokens = text.split('.').peekable();
        while let Some(token) = tokens.next() {
            match token {
                ">" if tokens.peek().is_some() => return Err(TopicError::TailNotLast),
                wildcard if is_wildcard(wildcard) => shape = Shape::Wild,
                "**" => return Err(TopicError::DoubleStar),
                partial if partial.contains(['*', '>']) => return Err(TopicError::PartialWildcard),
                literal => check_token(literal)?,
            }
        }
        if text == ">" {
            shape = Shape::Everything;
        }
        Ok(Self { text: text.into(), shape })
    }
}

/// Refuses patterns that are legal but most likely mistakes: topic filters of MQTT, and paths. For the patterns of subscribers
/// and tokens; topics may have such names.
///
/// # Errors
/// [`TopicError::Mqtt`], [`TopicError::TrailingSlash`].
pub fn check_habits(pattern: &str) -> Result<(), TopicError> {
    let is_filter =
        pattern == "#" || pattern.contains('/') && pattern.split('/').any(|level| matches!(level, "#" | "+"));
    if is_filter {
        Err(TopicError::Mqtt)
    } else if pattern.ends_with('/') {
        Err(TopicError::TrailingSlash)
    } else {
        Ok(())
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pattern({})", self.text)
    }
}

impl serde::Serialize for Pattern {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.text)
    }
}

/// The patterns of one subscription: at most [`PATTERNS_MAX`], sorted, without duplicates.
///
/// Sorted, so that equal subscriptions compare and hash equal whatever order they were written in;
/// this lets equal reads of the store be shared.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct PatternSet(Arc<[Pattern]>);

impl PatternSet {
    /// A set of `patterns`, each kept once.
    ///
    /// # Errors
    /// [`TopicError::TooMany`] where there are more than [`PATTERNS_MAX`] different ones.
    pub fn new(patterns: impl IntoIterator<Item = Pattern>) -> Result<Self, TopicError> {
        let mut list: Vec<Pattern> = patterns.into_iter().collect();
        list.sort_unstable();
        list.dedup();
        if list.len() > PATTERNS_MAX {
            return Err(TopicError::TooMany);
        }
        Ok(Self(list.into()))
    }

    /// The set that matches every topic: `>`.
    #[must_use]
    pub fn everything() -> Self {
        Self([Pattern { text: ">".into(), shape: Shape::Everything }].into())
    }

    /// Whether one of the patterns matches `topic`.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        self.0.iter().any(|pattern| pattern.matches(topic))
    }

    /// The patterns, sorted.
    pub fn iter(&self) -> std::slice::Iter<'_, Pattern> {
        self.0.iter()
    }

    /// The approximate memory of a subscription to these patterns, in bytes.
    #[must_use]
    pub fn cost_bytes(&self) -> usize {
        self.iter().map(|pattern| PATTERN_BYTES + pattern.as_str().len()).sum()
    }

    /// How many patterns there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are no patterns.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether each pattern can match one topic only, so that an index by topic finds every match.
    #[must_use]
    pub fn all_literal(&self) -> bool {
        self.0.iter().all(|pattern| pattern.literal().is_some())
    }

    /// Whether one of the patterns is `>`.
    #[must_use]
    pub fn has_everything(&self) -> bool {
        self.0.iter().any(Pattern::is_everything)
    }
}

impl<'a> IntoIterator for &'a PatternSet {
    type Item = &'a Pattern;
    type IntoIter = std::slice::Iter<'a, Pattern>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

fn is_wildcard(token: &str) -> bool {
    matches!(token, "*" | ">")
}

/// Whether all tokens are visible ASCII without a wildcard, which is nearly always so: a fast path that reads each byte once and
/// splits no tokens.
fn is_plain(text: &str) -> bool {
    let mut before = b'.';
    for byte in text.bytes() {
        let fits = match byte {
            b'.' => before != b'.',
            b'*' | b'>' => false,
            byte => byte.is_ascii_graphic(),
        };
        if !fits {
            return false;
        }
        before = byte;
    }
    before != b'.'
}

fn check_length(text: &str) -> Result<(), TopicError> {
    if text.len() > TOPIC_MAX_BYTES {
        return Err(TopicError::TooLong);
    }
    Ok(())
}

fn check_token(token: &str) -> Result<(), TopicError> {
    if token.is_empty() {
        return Err(TopicError::EmptyToken);
    }
    if token.contains(|c: char| c.is_control() || c.is_whitespace()) {
        return Err(TopicError::IllegalCharacter);
    }
    Ok(())
}

/// Why a text is no topic or no pattern. The message says what would be right.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Longer than [`TOPIC_MAX_BYTES`].
    #[error("a topic or pattern must have at most 255 bytes")]
    TooLong,
    /// An empty token.
    #[error("a token is empty: topics are tokens separated by single dots, such as orders.42.status")]
    EmptyToken,
    /// A control character or a space.
    #[error("a topic must not contain spaces or control characters")]
    IllegalCharacter,
    /// `*` or `>` in a topic.
    #[error("the topic of an event must not contain wildcards: * and > are for subscriptions")]
    Wildcard,
    /// `a*` or the like.
    #[error("a wildcard matches whole tokens: write orders.* or orders.>, not orders*")]
    PartialWildcard,
    /// `**` for any number of tokens.
    #[error("** is not a wildcard: > at the end matches one or more tokens, as in orders.>")]
    DoubleStar,
    /// A pattern of MQTT.
    #[error(
        "this is a topic filter of MQTT: here tokens are separated by dots, * matches one token and > at the end one or more, \
         as in orders.*.status or orders.>"
    )]
    Mqtt,
    /// A path.
    #[error(
        "a pattern must not end with a slash: tokens are separated by dots, and orders.> matches every topic below orders"
    )]
    TrailingSlash,
    /// `>` before the end.
    #[error("the wildcard > can only be the last token")]
    TailNotLast,
    /// More than [`PATTERNS_MAX`].
    #[error("a subscription must have at most 64 patterns")]
    TooMany,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().unwrap()
    }

    #[test]
    fn matches_as_nats_subjects_do() {
        for (wanted, topic, expected) in [
            ("a", "a", true),
            ("a", "b", false),
            ("a", "a.b", false),
            ("a.b", "a", false),
            ("*", "a", true),
            ("*", "a.b", false),
            ("a.*", "a.b", true),
            ("a.*", "a", false),
            ("a.*.c", "a.b.c", true),
            ("a.*.c", "a.b.d", false),
            ("a.*.c", "a.b.c.d", false),
            (">", "a", true),
            (">", "a.b.c", true),
            ("a.>", "a.b", true),
            ("a.>", "a.b.c", true),
            ("a.>", "a", false),
            ("a.>", "ab.c", false),
            ("*.>", "a.b", true),
            ("*.>", "a", false),
            ("*.*", "a.b", true),
        ] {
            assert_eq!(pattern(wanted).matches(topic), expected, "{wanted} against {topic}");
        }
    }

    #[test]
    fn refuses_bad_topics_and_patterns() {
        let long = "x".repeat(256);
        for text in ["", ".", "a.", ".a", "a..b", "a b", "a\tb", "a\u{a0}b", "a\nb", "a\0b", "a\u{7f}b", &long] {
            assert!(text.parse::<Topic>().is_err(), "topic {text:?}");
            assert!(text.parse::<Pattern>().is_err(), "pattern {text:?}");
        }
        for text in ["*", ">", "a.*", "a.>", "a*"] {
            assert_eq!(text.parse::<Topic>(), Err(TopicError::Wildcard));
        }
        for text in ["a*", "*a", "a.>b", "a.**", ">.a", "a.>.b"] {
            assert!(text.parse::<Pattern>().is_err(), "pattern {text:?}");
        }
        assert!("x".repeat(255).parse::<Topic>().is_ok());
        assert!("Zürich.日本.a/b:c$%".parse::<Topic>().is_ok());
    }

    #[test]
    fn every_match_begins_with_the_prefix() {
        for (text, prefix) in [("a.b", "a.b"), (">", ""), ("*", ""), ("a.>", "a."), ("a.b.*.c", "a.b."), ("*.a", "")] {
            assert_eq!(pattern(text).prefix(), prefix, "{text}");
        }
    }

    #[test]
    fn a_set_holds_each_pattern_once_and_64_at_most() {
        let set = PatternSet::new(["b", "a", "b"].map(pattern)).unwrap();
        assert_eq!(set.iter().map(Pattern::as_str).collect::<Vec<_>>(), ["a", "b"]);
        let many = |n: usize| PatternSet::new((0..n).map(|i| pattern(&format!("t{i}"))));
        assert!(many(64).is_ok());
        assert_eq!(many(65), Err(TopicError::TooMany));
    }

    proptest! {
        /// The walk over both texts agrees with the definition, written recursively over lists.
        #[test]
        fn matching_agrees_with_its_definition(
            wanted in proptest::collection::vec(prop_oneof!["[ab]{1,2}", Just("*".to_owned())], 1..5),
            tail: bool,
            topic in proptest::collection::vec("[ab]{1,2}", 1..6),
        ) {
            fn definition(wanted: &[String], topic: &[String]) -> bool {
                match (wanted, topic) {
                    ([w], [_, ..]) if w == ">" => true,
                    ([], []) => true,
                    ([w, ws @ ..], [t, ts @ ..]) => (w == "*" || w == t) && definition(ws, ts),
                    _ => false,
                }
            }
            let mut wanted = wanted;
            if tail { wanted.push(">".to_owned()); }
            let text = wanted.join(".");
            prop_assert_eq!(pattern(&text).matches(&topic.join(".")), definition(&wanted, &topic));
        }

        /// The fast path accepts exactly the plain texts that the check of each token accepts.
        #[test]
        fn plain_is_visible_ascii_without_wildcards(tokens in proptest::collection::vec("[ -~é]{0,3}", 1..4)) {
            let text = tokens.join(".");
            let visible = text.bytes().all(|byte| byte.is_ascii_graphic() && !b"*>".contains(&byte));
            prop_assert_eq!(is_plain(&text), visible && text.split('.').all(|token| check_token(token).is_ok()));
        }

        #[test]
        fn never_panics(text in "\\PC{0,300}") {
            let _ = text.parse::<Topic>();
            let _ = text.parse::<Pattern>();
        }
    }
}
