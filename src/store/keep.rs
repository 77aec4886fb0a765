//! Retention by topic: rules that say what is kept of the topics of a pattern, and what each of them removes when.
//!
//! A rule removes from the middle of the log. An engine finds what is due by *sweeps*: a sweep passes the log once, in order, behind
//! its end by the sweep's delay, and removes what has become due for each event that it passes. So the cost of retention is a few
//! steps for each published event, however much is retained. Rejected: a timer or a queue entry per event, which would have to be
//! stored, and a search of the whole log at intervals, whose cost is what is retained.

mod sweeps;

use std::fmt::{self, Display};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use super::StoreOptions;
use crate::auth::covers;
use crate::event::{Draft, NewEvent};
use crate::excerpt::excerpt;
use crate::topic::{Pattern, Topic, TopicError, check_habits};

pub(super) use sweeps::{Sweep, Sweeps};

/// The most rules of a log: each event that is passed by a sweep is compared with them.
pub const KEEP_RULES_MAX: usize = 64;

/// How long a superseded event of a value stays: a reader that is a little behind still gets every change.
const SUPERSEDED: Duration = Duration::from_secs(60);

/// The age limits: below the first, an event would be gone before it is delivered; beyond the second, milliseconds overflow.
const AGES: std::ops::RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(1000 * 365 * 24 * 3600);

/// How long the deletion of a value stays, by default: as long as clients that were away may come back.
pub const KEEP_DELETED_DEFAULT: Duration = Duration::from_secs(7 * 24 * 3600);

/// The name of the deletion that is published when a value has aged out.
const EXPIRED: &str = "expired";

/// What is kept of one topic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keep {
    /// Whether the topic is a value: superseded events are removed a minute after they were superseded, and the newest event
    /// stays until the value is deleted.
    pub latest: bool,
    /// The greatest age. A value that is older is deleted; other events are removed.
    pub age_max: Option<Duration>,
    /// The most events.
    pub events_max: Option<u64>,
}

/// A rule: what is kept of each topic that matches a pattern. Written `PATTERN=RULE`, where RULE is `latest`, an age (`30d`), a
/// number of events of each topic (`1000 events`), or several, separated by commas (`latest,10s`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepRule {
    /// The topics.
    pub pattern: Pattern,
    /// What is kept of each.
    pub keep: Keep,
}

/// The rules of a log, in order: the first whose pattern matches a topic counts, and replaces
/// [`Retention::age_max`](super::Retention::age_max).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeepRules {
    rules: Vec<KeepRule>,
    /// How long the deletion of a value stays.
    deletions: Duration,
}

/// Why rules are refused. The message names the rule, and says what would be valid.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// Not of the form `PATTERN=RULE`.
    #[error(
        "{rule:?} is no rule of retention: {reason}; a rule has the form PATTERN=RULE, where RULE is latest, an age such as 30d, a number such as 1000 events, or several with commas"
    )]
    Malformed {
        /// The text.
        rule: String,
        /// What is wrong with it.
        reason: String,
    },
    /// One rule demands what excludes each other.
    #[error("the rule {rule} contradicts itself: {reason}")]
    Contradiction {
        /// The rule.
        rule: String,
        /// What excludes each other.
        reason: &'static str,
    },
    /// Two rules have the same pattern.
    #[error("the pattern {0} has two rules: remove one of them")]
    Twice(Pattern),
    /// A rule never counts, since earlier ones match all its topics.
    #[error("the rule {0} never counts, since the rules before it match all its topics: place it before them")]
    Shadowed(KeepRule),
    /// More than [`KEEP_RULES_MAX`].
    #[error("there are {0} rules of retention: at most {KEEP_RULES_MAX} are possible")]
    TooMany(usize),
    /// The time that deletions stay is out of range.
    #[error("the deletions of values must be kept for 1s to 1000 years")]
    Deletions,
}

impl FromStr for KeepRule {
    type Err = KeepError;

    fn from_str(text: &str) -> Result<Self, KeepError> {
        let malformed = |reason: String| KeepError::Malformed { rule: excerpt(text), reason };
        // A topic may contain `=`; a rule never does.
        let (pattern, rule) = text.rsplit_once('=').ok_or_else(|| malformed("there is no =".into()))?;
        let pattern = check_habits(pattern).and_then(|()| pattern.parse());
        let pattern = pattern.map_err(|error: TopicError| malformed(error.to_string()))?;
        let twice = |reason| KeepError::Contradiction { rule: excerpt(text), reason };
        let mut keep = Keep::default();
        for part in rule.split(',').map(str::trim) {
            match Part::parse(part).map_err(malformed)? {
                Part::Latest if keep.latest => return Err(twice("it has `latest` twice")),
                Part::Latest => keep.latest = true,
                Part::Age(_) if keep.age_max.is_some() => return Err(twice("it has two ages")),
                Part::Age(age) => keep.age_max = Some(age),
                Part::Events(_) if keep.events_max.is_some() => return Err(twice("it has two numbers of events")),
                Part::Events(count) => keep.events_max = Some(count),
            }
        }
        if keep.latest && keep.events_max.is_some() {
            return Err(twice("with `latest` one event of each topic is kept, whatever the number"));
        }
        Ok(Self { pattern, keep })
    }
}

/// One part of a rule.
enum Part {
    Latest,
    Age(Duration),
    Events(u64),
}

impl Part {
    fn parse(text: &str) -> Result<Self, String> {
        if text == "latest" {
            return Ok(Self::Latest);
        }
        let count = text.strip_suffix("events").or_else(|| text.strip_suffix("event"));
        if let Some(count) = count {
            return match count.trim_end().parse() {
                Ok(count) if count > 0 => Ok(Self::Events(count)),
                _ => Err(format!("{:?} is no number of events, which is at least 1", excerpt(text))),
            };
        }
        match humantime::parse_duration(text) {
            Ok(age) if AGES.contains(&age) => Ok(Self::Age(age)),
            Ok(_) => Err(format!("the age {} is not within 1s and 1000 years", excerpt(text))),
            Err(_) => Err(format!("{:?} is neither latest nor an age nor a number of events", excerpt(text))),
        }
    }
}

impl Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        if self.latest {
            f.write_str("latest")?;
            separator = ",";
        }
        if let Some(age) = self.age_max {
            // Without the spaces of several units, as it is written in a rule.
            let age = humantime::format_duration(age).to_string().replace(' ', "");
            write!(f, "{separator}{age}")?;
            separator = ",";
        }
        if let Some(count) = self.events_max {
            write!(f, "{separator}{count} events")?;
        }
        Ok(())
    }
}

impl Display for KeepRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}={}", self.pattern, self.keep)
    }
}

impl Default for KeepRules {
    fn default() -> Self {
        Self { rules: Vec::new(), deletions: KEEP_DELETED_DEFAULT }
    }
}

impl KeepRules {
    /// Checks rules against each other; `deletions` is how long the deletion of a value stays.
    ///
    /// # Errors
    /// [`KeepError`] where a pattern has two rules, a rule never counts, there are too many, or `deletions` is out of range.
    pub fn new(rules: Vec<KeepRule>, deletions: Duration) -> Result<Self, KeepError> {
        if rules.len() > KEEP_RULES_MAX {
            return Err(KeepError::TooMany(rules.len()));
        }
        if !AGES.contains(&deletions) {
            return Err(KeepError::Deletions);
        }
        let mut before: Vec<Pattern> = Vec::with_capacity(rules.len());
        for rule in &rules {
            if before.contains(&rule.pattern) {
                return Err(KeepError::Twice(rule.pattern.clone()));
            }
            if covers(&before, &rule.pattern) {
                return Err(KeepError::Shadowed(rule.clone()));
            }
            before.push(rule.pattern.clone());
        }
        Ok(Self { rules, deletions })
    }

    /// Whether there is no rule.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, KeepRule> {
        self.rules.iter()
    }

    /// The first rule that matches a topic.
    fn of(&self, topic: &str) -> Option<&KeepRule> {
        self.rules.iter().find(|rule| rule.pattern.matches(topic))
    }
}

/// What a log keeps of each topic: its rules, and the age that counts for the topics without one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Policy {
    rules: Arc<KeepRules>,
    age_max: Option<Duration>,
}

/// What is due for an event that has been in the log for the delay of a sweep.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    /// The topic's older events are superseded, and owed to nobody.
    pub(super) superseded: bool,
    /// The event itself has aged out.
    pub(super) aged: bool,
    /// The event is a deletion that has been kept for long enough; it goes where it is the topic's newest event.
    pub(super) forgotten: bool,
    /// The topic keeps so many events up to this one.
    pub(super) events_max: Option<u64>,
}

impl Policy {
    /// The policy of a log; `None` where it has no rules: then only the log's beginning is trimmed.
    pub(super) fn of(options: &StoreOptions) -> Option<Self> {
        let rules = options.keep.clone();
        (!rules.is_empty()).then_some(Self { rules, age_max: options.retention.age_max })
    }

    /// What is kept of a topic.
    pub(super) fn keep(&self, topic: &str) -> Keep {
        self.rules.of(topic).map_or(Keep { age_max: self.age_max, ..Keep::default() }, |rule| rule.keep)
    }

    /// Whether a topic is a value.
    pub(super) fn is_value(&self, topic: &str) -> bool {
        self.rules.of(topic).is_some_and(|rule| rule.keep.latest)
    }

    /// The delays of the sweeps that remove events, in milliseconds, ascending.
    fn removal_delays(&self) -> Vec<u64> {
        let mut delays = Vec::new();
        for Keep { latest, age_max, events_max } in self.rules.iter().map(|rule| rule.keep).chain([self.keep_other()]) {
            if latest {
                delays.extend([millis(SUPERSEDED), millis(self.rules.deletions)]);
            } else {
                delays.extend(age_max.map(millis));
            }
            delays.extend(events_max.map(|_| 0));
        }
        delays.sort_unstable();
        delays.dedup();
        delays
    }

    /// The delays of the sweeps that delete values, in milliseconds, ascending.
    fn expiry_delays(&self) -> Vec<u64> {
        let values = self.rules.iter().filter(|rule| rule.keep.latest);
        let mut delays: Vec<u64> = values.filter_map(|rule| rule.keep.age_max).map(millis).collect();
        delays.sort_unstable();
        delays.dedup();
        delays
    }

    fn keep_other(&self) -> Keep {
        Keep { age_max: self.age_max, ..Keep::default() }
    }

    /// What a sweep that removes events has to do for an event that it passes.
    pub(super) fn due(&self, keep: Keep, delay_ms: u64, is_deletion: bool) -> Due {
        let is_age = keep.age_max.map(millis) == Some(delay_ms);
        Due {
            superseded: keep.latest && delay_ms == millis(SUPERSEDED),
            aged: is_age && !keep.latest,
            forgotten: keep.latest && is_deletion && delay_ms == millis(self.rules.deletions),
            events_max: keep.events_max.filter(|_| delay_ms == 0),
        }
    }

    /// Whether a sweep that deletes values has to delete the value of a topic, where this event is its newest.
    pub(super) fn expires(keep: Keep, delay_ms: u64, is_deletion: bool) -> bool {
        keep.latest && !is_deletion && keep.age_max.map(millis) == Some(delay_ms)
    }

    /// The deletion of a value that has aged out.
    pub(super) fn expiry(topic: &Topic, now_ms: u64) -> Draft {
        NewEvent::deletion(topic.clone()).named_by_server(EXPIRED).draft(now_ms)
    }

    /// The rules as text, to be stored with the log: one line each.
    pub(super) fn to_text(policy: Option<&Self>) -> String {
        let Some(Self { rules, age_max }) = policy else { return String::new() };
        let age = |age: Duration| humantime::format_duration(age).to_string().replace(' ', "");
        let mut text: String = rules.iter().map(|rule| format!("{rule}\n")).collect();
        text.push_str(&format!("--keep-deleted={}\n", age(rules.deletions)));
        text.push_str(&format!("--max-age={}", age_max.map_or_else(|| "0s".to_owned(), age)));
        text
    }

    /// What a change of the rules will do, a sentence for each rule that is new or gone; `stored` and `given` are texts of
    /// [`Self::to_text`].
    pub(super) fn changes(stored: &str, given: &str) -> Vec<String> {
        let missing_in = |text: &str, line: &str| !text.lines().any(|other| other == line);
        let gone = stored.lines().filter(|line| missing_in(given, line)).map(|line| {
            format!("{line} no longer counts: what it would have removed stays, unless another rule removes it")
        });
        let new = given.lines().filter(|line| missing_in(stored, line)).map(|line| {
            let removes = match line.rsplit_once('=').map_or("", |(_, rule)| rule) {
                "0s" => "nothing for its age".to_owned(),
                _ if line.starts_with("--keep-deleted") => "the deletions of values that are older".to_owned(),
                _ if line.starts_with("--max-age") => "the events that are older, of topics without a rule".to_owned(),
                rule => removals(rule).unwrap_or_else(|| "what it does not keep".to_owned()),
            };
            format!("{line} is new: it removes {removes}, also of what was published before")
        });
        gone.chain(new).collect()
    }
}

/// What a rule removes, in words; `None` where the text is no rule of this version.
fn removals(rule: &str) -> Option<String> {
    let words = rule.split(',').map(|part| match Part::parse(part).ok()? {
        Part::Latest => Some("superseded events a minute after they were superseded".to_owned()),
        Part::Age(_) => Some(format!("what is older than {part}")),
        Part::Events(count) => Some(format!("all but the newest {count} events of each topic")),
    });
    words.collect::<Option<Vec<_>>>().map(|words| words.join(", "))
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(texts: &[&str]) -> Result<KeepRules, KeepError> {
        let rules = texts.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
        KeepRules::new(rules, KEEP_DELETED_DEFAULT)
    }

    #[test]
    fn a_rule_is_written_as_it_is_read() {
        for text in ["a.*=latest", "a.>=30days", "a=1000 events", "a=latest,10s", "x=y=1h30m,7 events", ">=1s"] {
            assert_eq!(text.parse::<KeepRule>().unwrap().to_string(), text);
        }
        let rule: KeepRule = "a= 30d , 1 event".parse().unwrap();
        assert_eq!(rule.to_string(), "a=30days,1 events");
    }

    #[test]
    fn bad_rules_are_refused_and_named() {
        for (texts, named) in [
            (&["a.b"][..], "\"a.b\" is no rule"),
            (&["a.b="], "neither latest nor an age"),
            (&["a.b=newest"], "\"newest\" is neither"),
            (&["a.b=0 events"], "at least 1"),
            (&["a.b=500ms"], "not within 1s"),
            (&["a..b=latest"], "a..b=latest"),
            (&["a/#=latest"], "a/#=latest"),
            (&["a=latest,latest"], "`latest` twice"),
            (&["a=1d,2d"], "two ages"),
            (&["a=1 event,2 events"], "two numbers"),
            (&["a=latest,5 events"], "contradicts itself"),
            (&["a=latest", "b=1d", "a=1d"], "the pattern a has two rules"),
            (&["a.>=1d", "a.b=latest"], "a.b=latest never counts"),
            (&["a.*=1d", "a.*.>=2d", "a.>=latest"], "a.>=latest never counts"),
        ] {
            let error = rules(texts).unwrap_err().to_string();
            assert!(error.contains(named), "{texts:?}: {error}");
        }
        let many: Vec<String> = (0..=KEEP_RULES_MAX).map(|number| format!("t.{number}=latest")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(rules(&many), Err(KeepError::TooMany(65)));
        assert_eq!(KeepRules::new(Vec::new(), Duration::ZERO), Err(KeepError::Deletions));
        assert!(rules(&["a.b=latest", "a.>=1d"]).is_ok());
    }

    fn policy(texts: &[&str], age_max: Option<Duration>) -> Policy {
        Policy { rules: Arc::new(rules(texts).unwrap()), age_max }
    }

    #[test]
    fn the_first_rule_that_matches_counts_and_stands_in_for_the_general_age() {
        let policy = policy(&["a.b=latest", "a.>=1d,5 events"], Some(Duration::from_secs(9)));
        assert!(policy.keep("a.b").latest && policy.is_value("a.b") && !policy.is_value("a.c"));
        assert_eq!(policy.keep("a.c").to_string(), "1day,5 events");
        assert_eq!(policy.keep("c").to_string(), "9s");
        assert_eq!(policy.removal_delays(), [0, 9000, 60_000, 24 * 3_600_000, 7 * 24 * 3_600_000]);
        let due = |topic: &str, delay_ms, is_deletion| policy.due(policy.keep(topic), delay_ms, is_deletion);
        assert_eq!(due("c", 9000, false), Due { aged: true, ..Due::default() });
        assert_eq!(due("a.b", 9000, false), Due::default());
        assert_eq!(due("a.b", 60_000, true), Due { superseded: true, ..Due::default() });
        assert_eq!(due("a.b", 7 * 24 * 3_600_000, true), Due { forgotten: true, ..Due::default() });
        assert_eq!(due("a.b", 7 * 24 * 3_600_000, false), Due::default());
        assert_eq!(due("a.c", 0, false), Due { events_max: Some(5), ..Due::default() });
    }

    #[test]
    fn a_value_that_ages_is_deleted_instead_of_removed() {
        let policy = policy(&["t=latest,10s"], None);
        let keep = policy.keep("t");
        assert_eq!(policy.expiry_delays(), [10_000]);
        assert!(Policy::expires(keep, 10_000, false) && !Policy::expires(keep, 10_000, true));
        assert_eq!(policy.due(keep, 10_000, false), Due::default());
        let deletion = Policy::expiry(&"t".parse().unwrap(), 7);
        assert_eq!((deletion.is_deletion(), deletion.name(), deletion.time_ms()), (true, Some("expired"), 7));
    }

    #[test]
    fn a_change_says_what_it_will_remove() {
        let before = Policy::to_text(Some(&policy(&["a=latest", "b=1d"], None)));
        let after = Policy::to_text(Some(&policy(&["b=1d", "a=5 events,2d"], Some(Duration::from_secs(60)))));
        assert!(Policy::changes(&before, &before).is_empty());
        let changes = Policy::changes(&before, &after).join("\n");
        for said in [
            "a=latest no longer counts",
            "a=2days,5 events is new: it removes what is older than 2days, all but the newest 5 events of each topic",
            "--max-age=1m is new: it removes the events that are older, of topics without a rule",
        ] {
            assert!(changes.contains(said), "{changes}");
        }
        assert!(!changes.contains("b=1d"), "{changes}");
        assert_eq!(Policy::changes("", &Policy::to_text(None)), [""; 0]);
    }
}
