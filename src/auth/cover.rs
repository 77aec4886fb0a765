//! Pattern inclusion: whether granted patterns cover every topic that a requested pattern matches.

use crate::topic::Pattern;

/// The rest of a granted pattern after some levels: `None` once its `>` has begun, which matches any rest.
type Rest<'a> = Option<&'a [&'a str]>;

/// Whether every topic that `requested` matches is matched by at least one of `granted`. The granted patterns may cover it
/// together, with none that covers it alone.
///
/// Exact, except that a topic's maximum length is ignored: patterns without a `>` that together grant every topic of at most
/// 255 bytes do not grant `>`.
#[must_use]
pub fn covers(granted: &[Pattern], requested: &Pattern) -> bool {
    if let Some(topic) = requested.literal() {
        return granted.iter().any(|pattern| pattern.matches(topic));
    }
    let granted: Vec<Vec<&str>> = granted.iter().map(|pattern| pattern.as_str().split('.').collect()).collect();
    let mut rests: Vec<Rest<'_>> = granted.iter().map(|levels| Some(&levels[..])).collect();
    for level in requested.as_str().split('.') {
        if level == ">" {
            return cover_any_more(&rests);
        }
        rests = rests.into_iter().filter_map(|rest| advance(rest, level)).collect();
    }
    rests.iter().any(|rest| rest.is_none_or(<[&str]>::is_empty))
}

/// The rest of a granted pattern after `level` of the requested one. The worst case of a requested `*` is a level that no granted
/// pattern names: what covers that level covers every other. So a requested `*` matches only granted wildcards.
fn advance<'a>(rest: Rest<'a>, level: &str) -> Option<Rest<'a>> {
    match rest {
        None | Some([">"]) => Some(None),
        Some(["*", rest @ ..]) => Some(Some(rest)),
        Some([literal, rest @ ..]) if *literal == level => Some(Some(rest)),
        Some(_) => None,
    }
}

/// Whether one or more arbitrary levels are granted. The worst case is again levels that no granted pattern names, so only rests
/// that consist of wildcards count, and those differ in length alone: a `>` has to cover every length from some number on, and
/// a row of stars each shorter length.
fn cover_any_more(rests: &[Rest<'_>]) -> bool {
    let stars = |levels: &[&str]| levels.iter().all(|level| *level == "*");
    let open_after = rests.iter().filter_map(|rest| match rest {
        None => Some(0),
        Some([before @ .., ">"]) if stars(before) => Some(before.len()),
        Some(_) => None,
    });
    let exactly = |length| rests.iter().flatten().any(|rest| rest.len() == length && stars(rest));
    open_after.min().is_some_and(|open_after| (1..=open_after).all(exactly))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn patterns(texts: &[&str]) -> Vec<Pattern> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn every_requested_pattern_must_be_granted() {
        for (granted, requested, expected) in [
            (&["a"][..], "a", true),
            (&["a"], "b", false),
            (&["a"], "a.b", false),
            (&["a"], "*", false),
            (&["a"], ">", false),
            (&[], "a", false),
            (&["*"], "a", true),
            (&["*"], "*", true),
            (&["*"], ">", false),
            (&["*"], "a.b", false),
            (&[">"], ">", true),
            (&[">"], "a.*.>", true),
            (&["a.>"], "a.>", true),
            (&["a.>"], "a.*", true),
            (&["a.>"], "a.b.*.c", true),
            (&["a.>"], "a", false),
            (&["a.>"], "*.b", false),
            (&["a.>"], ">", false),
            (&["a.*"], "a.>", false),
            (&["a.*", "a.*.>"], "a.>", true),
            (&["*", "*.*", "*.*.>"], ">", true),
            (&["*", "*.*.>"], ">", false),
            (&["*.>"], ">", false),
            (&["*", "*.>"], ">", true),
            (&["a.*", "*.b"], "*.*", false),
            (&["a.*", "*.b"], "a.c", true),
            (&["a.b", "a.*.>"], "a.>", false),
            (&["orders.*.status"], "orders.*.status", true),
            (&["orders.*.status"], "orders.>", false),
            (&["orders.42.>"], "orders.*.status", false),
        ] {
            assert_eq!(covers(&patterns(granted), &requested.parse().unwrap()), expected, "{requested} by {granted:?}");
        }
    }

    fn any_pattern() -> impl Strategy<Value = String> {
        let level = prop_oneof![2 => Just("a"), 2 => Just("b"), 3 => Just("*")];
        (proptest::collection::vec(level, 0..4), any::<bool>()).prop_map(|(mut levels, tail)| {
            if tail || levels.is_empty() {
                levels.push(">");
            }
            levels.join(".")
        })
    }

    /// Every topic of up to `length` levels; `z` represents every level that no pattern names.
    fn topics(length: usize) -> Vec<String> {
        let mut all: Vec<String> = ["a", "b", "z"].map(str::to_owned).into();
        let mut last = all.clone();
        for _ in 1..length {
            last = last.iter().flat_map(|topic| ["a", "b", "z"].map(|level| format!("{topic}.{level}"))).collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]
        /// By the definition: topic by topic, up to one level more than the patterns here can distinguish.
        #[test]
        fn agrees_with_trying_every_topic(
            granted in proptest::collection::vec(any_pattern(), 0..6),
            requested in any_pattern(),
        ) {
            let granted: Vec<Pattern> = granted.iter().map(|text| text.parse().unwrap()).collect();
            let requested: Pattern = requested.parse().unwrap();
            let every = topics(5).into_iter().filter(|topic| requested.matches(topic));
            let expected = every.into_iter().all(|topic| granted.iter().any(|pattern| pattern.matches(&topic)));
            prop_assert_eq!(covers(&granted, &requested), expected, "{} by {:?}", requested, granted);
        }
    }
}
