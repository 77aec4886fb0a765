//! Retention by topic: the rules, over the engines that have them, and what readers are told.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use switchback::NewEvent;
use switchback::clock::Moment;
use switchback::cursor::Position;
use switchback::event::Draft;
use switchback::store::{
    DiskStore, KEEP_DELETED_DEFAULT, KeepRules, Page, ReadRequest, Retention, Store, StoreOptions,
};
use switchback::wire::GapReason;

use super::common::*;
use super::contract::{Disk, Engine, JetStream, Memory, maintained};
use super::until;

const SECOND: u64 = 1000;
const MINUTE: u64 = 60 * SECOND;
const DAY: u64 = 24 * 60 * MINUTE;

fn rules(texts: &[&str], deletions: Duration) -> Arc<KeepRules> {
    let rules = texts.iter().map(|text| text.parse().unwrap()).collect();
    Arc::new(KeepRules::new(rules, deletions).unwrap())
}

fn keep(texts: &[&str]) -> StoreOptions {
    StoreOptions { keep: rules(texts, KEEP_DELETED_DEFAULT), ..StoreOptions::default() }
}

/// An event of a topic, so many milliseconds after the tests' time.
fn at(topic: &str, after_ms: u64) -> Draft {
    new(topic, "x").draft(NOW_MS + after_ms)
}

fn deletion(topic: &str, after_ms: u64) -> Draft {
    NewEvent::deletion(topic.parse().unwrap()).draft(NOW_MS + after_ms)
}

/// Maintains the store until it has exactly the events at some positions, which then are all that it keeps.
async fn comes_to(store: &impl Store, after_ms: u64, expected: &[u64]) {
    until(&format!("{expected:?} are what is kept"), async || {
        maintained(store, Moment::at(NOW_MS + after_ms)).await;
        events_by_pages(store, &[">"], 0).await.0 == expected
    })
    .await;
}

/// What a reader receives who reads page by page: positions, and gaps as the position before, the end and the reason.
async fn events_by_pages(store: &impl Store, texts: &[&str], after: u64) -> (Vec<u64>, Vec<(u64, u64, GapReason)>) {
    let (mut after, mut events, mut gaps) = (after, Vec::new(), Vec::new());
    while Position(after) < store.bounds().last {
        let page = read(store, texts, after).await;
        if let Some(gap) = &page.trimmed {
            gaps.push((after, gap.to.0, gap.reason));
            assert!(gap.to.0 > after && page.events.iter().all(|event| event.position() > gap.to));
        }
        assert!(page.through.0 > after, "no progress after {after}: {page:?}");
        after = page.through.0;
        events.extend(events_of(&page));
    }
    (events, gaps)
}

async fn superseded_events_of_a_value_go_after_a_minute_and_are_owed_to_nobody<E: Engine>() {
    let (store, _home) = E::open(keep(&["v.*=latest"]));
    store.append(vec![at("v.1", 0), at("v.2", 0), at("other", 0), at("v.1", 1000), at("v.1", 2000)]).await.unwrap();
    maintained(&store, Moment::at(NOW_MS + MINUTE + 999)).await;
    assert_eq!(events_by_pages(&store, &[">"], 0).await.0, [1, 2, 3, 4, 5]);
    comes_to(&store, MINUTE + 1000, &[2, 3, 4, 5]).await;
    comes_to(&store, MINUTE + 2000, &[2, 3, 5]).await;
    // The newest stays for ever, and no reader is told anything.
    comes_to(&store, 1000 * DAY, &[2, 3, 5]).await;
    for patterns in [&["v.1"][..], &["v.*"], &[">"], &["v.1", "v.2"]] {
        assert_eq!(events_by_pages(&store, patterns, 0).await.1, [], "{patterns:?}");
    }
    // The newest of each, for a round, too.
    let page = store.read(ReadRequest { latest_upto: Some(Position(5)), ..request(&["v.*"], 0) }).await.unwrap();
    assert_eq!((events_of(&page), page.trimmed), (vec![2, 5], None));
}

async fn a_deletion_is_kept_for_its_time_and_then_told<E: Engine>() {
    let deletions = Duration::from_secs(3600);
    let options = StoreOptions { keep: rules(&["v.*=latest"], deletions), ..StoreOptions::default() };
    let (store, _home) = E::open(options);
    store.append(vec![at("v.1", 0), at("v.2", 0), deletion("v.1", 1), at("w", 2)]).await.unwrap();
    comes_to(&store, MINUTE + 2, &[2, 3, 4]).await;
    assert_eq!(events_by_pages(&store, &["v.*"], 0).await, (vec![2, 3], vec![]));
    comes_to(&store, 60 * MINUTE + 1, &[2, 4]).await;
    // At its place: behind the other value, and before what follows.
    assert_eq!(events_by_pages(&store, &["v.*"], 0).await, (vec![2], vec![(2, 3, GapReason::Expired)]));
    assert_eq!(events_by_pages(&store, &["v.1"], 2).await, (vec![], vec![(2, 3, GapReason::Expired)]));
    assert_eq!(events_by_pages(&store, &[">"], 0).await, (vec![2, 4], vec![(2, 3, GapReason::Expired)]));
    assert_eq!(events_by_pages(&store, &[">"], 3).await, (vec![4], vec![]));
    // A deletion that is superseded leaves no gap.
    store.append(vec![deletion("v.2", 2), at("v.2", 3)]).await.unwrap();
    comes_to(&store, 3 * 60 * MINUTE, &[4, 6]).await;
    assert_eq!(events_by_pages(&store, &["v.2"], 0).await, (vec![6], vec![]));
}

async fn each_topic_has_the_age_of_its_rule<E: Engine>() {
    let retention = Retention { age_max: Some(Duration::from_secs(100)), ..Retention::default() };
    let (store, _home) = E::open(StoreOptions { retention, ..keep(&["short.>=10s", "long=1000s"]) });
    let topics = ["long", "other", "short.1", "other", "short.2", "long", "short.1"];
    store.append(topics.iter().map(|topic| at(topic, 0)).collect()).await.unwrap();
    comes_to(&store, 10 * SECOND, &[1, 2, 4, 6]).await;
    // Told at the newest removed position of each topic; adjacent holes are one gap.
    let gap = |from, to| (from, to, GapReason::Expired);
    assert_eq!(events_by_pages(&store, &["short.*"], 0).await, (vec![], vec![gap(0, 7)]));
    assert_eq!(events_by_pages(&store, &[">"], 0).await, (vec![1, 2, 4, 6], vec![gap(4, 5), gap(6, 7)]));
    assert_eq!(events_by_pages(&store, &["short.2", "other"], 0).await, (vec![2, 4], vec![gap(4, 5)]));
    assert_eq!(events_by_pages(&store, &["long", "other"], 0).await, (vec![1, 2, 4, 6], vec![]));
    comes_to(&store, 100 * SECOND, &[1, 6]).await;
    assert_eq!(events_by_pages(&store, &[">"], 0).await, (vec![1, 6], vec![gap(3, 5), gap(6, 7)]));
    comes_to(&store, 1000 * SECOND, &[]).await;
    assert_eq!(store.bounds().floor, Position(7));
    assert_eq!(events_by_pages(&store, &[">"], 0).await, (vec![], vec![gap(0, 7)]));
    assert_eq!(publish(&store, &["short.1"]).await, [8]);
}

async fn so_many_events_of_each_topic_are_kept<E: Engine>() {
    let (store, _home) = E::open(keep(&["a.*=2 events", "b=3 events,10s"]));
    store.append(["a.1", "a.2", "a.1", "b", "a.1", "b", "a.1"].map(|topic| at(topic, 0)).to_vec()).await.unwrap();
    comes_to(&store, 0, &[2, 4, 5, 6, 7]).await;
    let gaps = events_by_pages(&store, &["a.1"], 0).await.1;
    assert_eq!(gaps, [(0, 3, GapReason::Expired)]);
    assert_eq!(events_by_pages(&store, &["a.*"], 0).await, (vec![2, 5, 7], vec![(2, 3, GapReason::Expired)]));
    store.append(["a.1", "b", "b", "b"].map(|topic| at(topic, 5000)).to_vec()).await.unwrap();
    comes_to(&store, 5000, &[2, 7, 8, 9, 10, 11]).await;
    // The general age is none of theirs.
    comes_to(&store, 15_000, &[2, 7, 8]).await;
    assert_eq!(events_by_pages(&store, &["b"], 0).await, (vec![], vec![(0, 11, GapReason::Expired)]));
}

async fn a_value_that_ages_out_is_deleted_by_the_server<E: Engine>() {
    let (store, _home) = E::open(keep(&["typing.*=latest,10s"]));
    let recorder = Recorder::following(&store, 0);
    store.append(vec![at("typing.li", 0), at("typing.bo", 0), at("typing.li", 5000), at("room", 0)]).await.unwrap();
    until("the first value is deleted", async || {
        maintained(&store, Moment::at(NOW_MS + 10_000)).await;
        store.bounds().last == Position(5)
    })
    .await;
    recorder.wait_for(5);
    let expired = recorder.events().last().unwrap().clone();
    assert!(expired.is_deletion());
    assert_eq!((expired.topic().as_str(), expired.name()), ("typing.bo", Some("expired")));
    until("the second value is deleted", async || {
        maintained(&store, Moment::at(NOW_MS + 15_000)).await;
        store.bounds().last == Position(6)
    })
    .await;
    // Once each, however often the rules are applied.
    comes_to(&store, 2 * MINUTE, &[4, 5, 6]).await;
    comes_to(&store, DAY, &[4, 5, 6]).await;
    comes_to(&store, 8 * DAY, &[4]).await;
}

async fn a_gap_lies_before_what_was_published_after_it<E: Engine>() {
    let (store, _home) = E::open(keep(&["a=10s"]));
    for round in 0..3 {
        let time = round * MINUTE;
        store.append(vec![at("a", time), at("b", time)]).await.unwrap();
        until("the event has aged out", async || {
            maintained(&store, Moment::at(NOW_MS + time + 10 * SECOND)).await;
            events_by_pages(&store, &["a"], 0).await.0.is_empty()
        })
        .await;
    }
    // Only the newest place of a topic's losses is known.
    let (events, gaps) = events_by_pages(&store, &[">"], 0).await;
    assert_eq!((events, gaps), (vec![2, 4, 6], vec![(4, 5, GapReason::Expired)]));
    // A page ends before the hole, so that a client's cursor never passes it in silence.
    let page = read(&store, &[">"], 2).await;
    assert_eq!((events_of(&page), page.through, page.trimmed), (vec![4], Position(4), None));
}

async fn the_limits_of_the_whole_log_stay_above_the_rules<E: Engine>() {
    let retention = Retention { events_max: Some(4), ..Retention::default() };
    let (store, _home) = E::open(StoreOptions { retention, ..keep(&["v.*=latest"]) });
    let topics = ["v.1", "v.2", "v.1", "a", "a", "a"];
    store.append(topics.iter().map(|topic| at(topic, 0)).collect()).await.unwrap();
    assert_eq!(events_by_pages(&store, &[">"], 2).await.0, [3, 4, 5, 6]);
    // A superseded event that the limit removes is owed to nobody, either; a value is.
    assert_eq!(events_by_pages(&store, &["v.1"], 0).await, (vec![3], vec![]));
    assert_eq!(events_by_pages(&store, &["v.2"], 0).await.1, [(0, 2, GapReason::Expired)]);
    // What rules remove makes room.
    comes_to(&store, MINUTE, &[3, 4, 5, 6]).await;
    store.append(vec![at("v.1", MINUTE)]).await.unwrap();
    comes_to(&store, 2 * MINUTE, &[4, 5, 6, 7]).await;
}

async fn many_writes_to_few_values_leave_few_events<E: Engine>() {
    const TOPICS: u64 = 100;
    const WRITES: u64 = 20_000;
    let (store, _home) = E::open(keep(&["v.*=latest"]));
    for batch in 0..WRITES / 500 {
        let topic = |number: u64| format!("v.{}", (batch * 500 + number) % TOPICS);
        store.append((0..500).map(|number| at(&topic(number), batch)).collect()).await.unwrap();
    }
    let newest: Vec<u64> = (WRITES - TOPICS + 1..=WRITES).collect();
    comes_to(&store, 2 * MINUTE, &newest).await;
    assert_eq!(store.bounds().floor, Position(WRITES - TOPICS));
    let cost = at("v.42", 0).cost_bytes();
    assert!(store.status().bytes.unwrap() <= TOPICS * cost);
}

/// A step of a random history.
#[derive(Clone, Debug)]
enum Act {
    Publish(usize),
    Delete(usize),
    Pass(u64),
}

const TOPICS: [&str; 5] = ["v.1", "v.2", "short", "few", "other"];

/// What the rules of the random histories keep: the newest event of `v.*`, a minute of `short`, 2 events of `few`, five minutes of
/// the others.
fn model_options() -> StoreOptions {
    let retention = Retention { age_max: Some(Duration::from_secs(300)), ..Retention::default() };
    let keep = rules(&["v.*=latest", "short=60s", "few=2 events"], Duration::from_secs(120));
    StoreOptions { retention, keep, ..StoreOptions::default() }
}

/// The reference: a list of all events.
#[derive(Default)]
struct Model {
    /// The topic, the time, and whether it is a deletion.
    events: BTreeMap<u64, (usize, u64, bool)>,
    retained: BTreeSet<u64>,
    /// What was removed and is owed.
    lost: BTreeSet<u64>,
}

impl Model {
    fn apply(&mut self, now: u64) {
        let all: Vec<u64> = self.retained.iter().copied().collect();
        for at in all {
            let (topic, time, is_deletion) = self.events[&at];
            let later: Vec<u64> =
                self.events.range(at + 1..).filter(|(_, event)| event.0 == topic).map(|(at, _)| *at).collect();
            let (age, is_newest) = (now - time, later.is_empty());
            let (gone, owed) = match TOPICS[topic] {
                "v.1" | "v.2" => {
                    let superseded = later.first().is_some_and(|next| now - self.events[next].1 >= MINUTE);
                    let forgotten = is_newest && is_deletion && age >= 2 * MINUTE;
                    (superseded || forgotten, forgotten)
                }
                "short" => (age >= MINUTE, true),
                "few" => (later.len() >= 2, true),
                _ => (age >= 5 * MINUTE, true),
            };
            if gone {
                self.retained.remove(&at);
                if owed {
                    self.lost.insert(at);
                }
            }
        }
    }
}

/// After every step the store keeps exactly what the rules say, and a reader from any cursor receives every retained event once
/// and in order, and is told a gap if and only if it has lost an event that is owed.
fn keeps_what_the_rules_say<E: Engine>(acts: &[Act], cursors: &[u64]) -> Result<(), TestCaseError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let (store, _home) = E::open(model_options());
        let (mut model, mut now, mut last) = (Model::default(), 0, 0);
        for act in acts {
            match act {
                Act::Publish(topic) | Act::Delete(topic) => {
                    let is_deletion = matches!(act, Act::Delete(_));
                    let draft = if is_deletion { deletion(TOPICS[*topic], now) } else { at(TOPICS[*topic], now) };
                    store.append(vec![draft]).await.unwrap();
                    last += 1;
                    model.events.insert(last, (*topic, now, is_deletion));
                    model.retained.insert(last);
                }
                Act::Pass(time) => {
                    now += time;
                    model.apply(now);
                    let kept: Vec<u64> = model.retained.iter().copied().collect();
                    comes_to(&store, now, &kept).await;
                }
            }
        }
        for (patterns, topics) in [
            (&[">"][..], &[0, 1, 2, 3, 4][..]),
            (&["v.*"], &[0, 1]),
            (&["short", "few"], &[2, 3]),
            (&["v.1", "o*".trim_end_matches('*'), "*"], &[0, 2, 3, 4]),
        ] {
            let patterns: Vec<&str> = patterns.iter().copied().filter(|text| *text != "o").collect();
            for cursor in cursors {
                let cursor = cursor % (last + 1);
                let wanted = |at: &&u64| **at > cursor && topics.contains(&model.events[*at].0);
                let (events, gaps) = events_by_pages(&store, &patterns, cursor).await;
                let expected: Vec<u64> = model.retained.iter().filter(wanted).copied().collect();
                prop_assert_eq!(&events, &expected, "{:?} after {}", &patterns, cursor);
                for (from, to, reason) in &gaps {
                    let is_lost = model.lost.range(from + 1..=*to).any(|at| wanted(&at));
                    prop_assert!(
                        is_lost && *reason == GapReason::Expired,
                        "{:?} after {}: {:?}",
                        &patterns,
                        cursor,
                        &gaps
                    );
                }
                for topic in topics {
                    let newest = model.lost.iter().filter(wanted).rfind(|at| model.events[*at].0 == *topic);
                    let is_told = |at: &u64| gaps.iter().any(|(from, to, _)| from < at && at <= to);
                    prop_assert!(newest.is_none_or(is_told), "{:?} is not told after {}: {:?}", newest, cursor, &gaps);
                }
            }
        }
        Ok(())
    })
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        6 => (0..TOPICS.len()).prop_map(Act::Publish),
        1 => (0..2_usize).prop_map(Act::Delete),
        2 => prop_oneof![Just(SECOND), Just(30 * SECOND), Just(MINUTE), Just(3 * MINUTE)].prop_map(Act::Pass),
    ];
    proptest::collection::vec(act, 1..60)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn memory_keeps_what_the_rules_say(acts in acts(), cursors in proptest::collection::vec(0_u64..60, 3)) {
        keeps_what_the_rules_say::<Memory>(&acts, &cursors)?;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]
    #[test]
    fn the_disk_keeps_what_the_rules_say(acts in acts(), cursors in proptest::collection::vec(0_u64..60, 3)) {
        keeps_what_the_rules_say::<Disk>(&acts, &cursors)?;
    }
}

macro_rules! keeping {
    ($($module:ident: $engine:ident),*) => { $(mod $module {
        use super::*;
        keeping! { @tests $engine:
            superseded_events_of_a_value_go_after_a_minute_and_are_owed_to_nobody,
            a_deletion_is_kept_for_its_time_and_then_told,
            each_topic_has_the_age_of_its_rule,
            so_many_events_of_each_topic_are_kept,
            a_value_that_ages_out_is_deleted_by_the_server,
            a_gap_lies_before_what_was_published_after_it,
            the_limits_of_the_whole_log_stay_above_the_rules,
            many_writes_to_few_values_leave_few_events,
        }
    })* };
    (@tests $engine:ident: $($test:ident,)*) => { $(#[tokio::test] async fn $test() { super::$test::<$engine>().await; })* };
}

keeping!(memory: Memory, disk: Disk);

#[tokio::test]
async fn a_store_in_nats_refuses_rules_and_says_why() {
    let (store, nats) = JetStream::open(StoreOptions::default());
    let error = open_jetstream(&nats.url(), "rules", keep(&["a=latest"])).unwrap_err().to_string();
    assert!(error.contains("--keep") && error.contains("--max-age"), "{error}");
    let error = store.erase("a".parse().unwrap()).await.unwrap_err().to_string();
    assert!(error.contains("cannot erase") && error.contains("--max-age"), "{error}");
}

fn disk(home: &tempfile::TempDir, options: StoreOptions) -> DiskStore {
    DiskStore::open_at(home.path(), options, NOW_MS).unwrap()
}

#[tokio::test]
async fn a_restart_goes_on_where_the_rules_were() {
    let home = tempfile::tempdir().unwrap();
    let options = || keep(&["v.*=latest", "few=3 events", "typing=latest,10s", "a=10s"]);
    let store = disk(&home, options());
    let drafts = ["v.1", "few", "v.1", "few", "a", "few", "typing", "other", "few"].map(|topic| at(topic, 0));
    store.append(drafts.to_vec()).await.unwrap();
    comes_to(&store, 5 * SECOND, &[1, 3, 4, 5, 6, 7, 8, 9]).await;
    drop(store);
    // What is due was not due when the last run ended.
    let store = disk(&home, options());
    until("the value is deleted", async || {
        maintained(&store, Moment::at(NOW_MS + 10 * SECOND)).await;
        store.bounds().last == Position(10)
    })
    .await;
    comes_to(&store, 10 * SECOND, &[1, 3, 4, 6, 7, 8, 9, 10]).await;
    drop(store);
    let store = disk(&home, options());
    store.append(vec![at("few", 20 * SECOND)]).await.unwrap();
    comes_to(&store, 2 * MINUTE, &[3, 6, 8, 9, 10, 11]).await;
    let gaps = events_by_pages(&store, &["few", "a"], 0).await.1;
    assert_eq!(gaps, [(0, 5, GapReason::Expired)]);
}

#[tokio::test]
async fn other_rules_apply_to_what_was_published_before() {
    let home = tempfile::tempdir().unwrap();
    let store = disk(&home, keep(&["a.*=latest"]));
    store.append(["a.1", "b", "a.1", "b", "a.2", "b"].map(|topic| at(topic, 0)).to_vec()).await.unwrap();
    comes_to(&store, MINUTE, &[2, 3, 4, 5, 6]).await;
    drop(store);
    let store = disk(&home, keep(&["b=1 event", "a.2=10s"]));
    comes_to(&store, MINUTE, &[3, 6]).await;
    let gap = |from, to| (from, to, GapReason::Expired);
    assert_eq!(events_by_pages(&store, &[">"], 0).await.1, [gap(3, 5)]);
    drop(store);
    // Without rules the log goes on, holes and all, and counts its events.
    let retention = Retention { events_max: Some(3), ..Retention::default() };
    let store = disk(&home, StoreOptions { retention, ..StoreOptions::default() });
    store.append(vec![at("c", MINUTE)]).await.unwrap();
    assert_eq!(events_by_pages(&store, &[">"], 0).await.0, [3, 6, 7]);
    store.append(vec![at("c", MINUTE)]).await.unwrap();
    assert_eq!(events_by_pages(&store, &[">"], 3).await.0, [6, 7, 8]);
    assert_eq!(store.bounds().floor, Position(3));
}

#[tokio::test]
async fn the_file_has_the_size_of_its_topics() {
    const TOPICS: u64 = 100;
    let home = tempfile::tempdir().unwrap();
    let store = disk(&home, keep(&["v.*=latest"]));
    let value = "x".repeat(1000);
    let mut time = 0;
    for batch in 0..50_u64 {
        let draft = |number: u64| new(&format!("v.{}", number % TOPICS), &value).draft(NOW_MS + time);
        store.append((0..1000).map(draft).collect()).await.unwrap();
        time += 30 * SECOND;
        if batch > 4 {
            let most = 4000 * at("v.42", 0).cost_bytes() * 10;
            until("superseded events are removed", async || {
                maintained(&store, Moment::at(NOW_MS + time)).await;
                store.status().bytes.unwrap() < most
            })
            .await;
        }
    }
    comes_to(&store, time + 2 * MINUTE, &(49_901..=50_000).collect::<Vec<_>>()).await;
    drop(store);
    // 50 MB were written; the most that was there at a time is what a minute has, about 3 MB, and the free pages after it.
    let bytes = std::fs::metadata(home.path().join("events.db")).unwrap().len();
    assert!(bytes < 16 << 20, "{bytes} bytes");
}

#[tokio::test]
async fn an_id_is_known_for_its_window_even_if_its_event_is_removed() {
    let options = StoreOptions { dedupe_window: Duration::from_secs(600), ..keep(&["a=1 event"]) };
    let home = tempfile::tempdir().unwrap();
    let store = disk(&home, options.clone());
    store.append(vec![keyed("a", "1"), draft("a")]).await.unwrap();
    comes_to(&store, 0, &[2]).await;
    assert!(store.append(vec![keyed("a", "1")]).await.unwrap()[0].duplicate);
    drop(store);
    let store = disk(&home, options);
    let appended = store.append(vec![keyed("a", "1")]).await.unwrap();
    assert_eq!((appended[0].duplicate, appended[0].position), (true, Position(1)));
}

#[tokio::test]
async fn a_page_is_bounded_also_among_holes() {
    let (store, _home) = Memory::open(keep(&["a.*=10s"]));
    for number in 0..50 {
        store.append(vec![at(&format!("a.{number}"), 0), at("b", 0)]).await.unwrap();
    }
    let kept: Vec<u64> = (1..=50).map(|number| 2 * number).collect();
    comes_to(&store, 10 * SECOND, &kept).await;
    let (mut after, mut gaps) = (0, 0);
    while after < 100 {
        let page: Page = store.read(ReadRequest { events_max: 1, ..request(&[">"], after) }).await.unwrap();
        assert!(page.events.len() <= 1);
        gaps += usize::from(page.trimmed.is_some());
        after = page.through.0;
    }
    assert_eq!(gaps, 50);
}
