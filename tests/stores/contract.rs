//! The contract of `switchback::store::Store`, one suite, run over every engine.
//!
//! An engine is added with a line at the end. Tests of files, restarts and faults are in `disk.rs`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use proptest::prelude::*;
use switchback::clock::Moment;
use switchback::cursor::{Cursor, Position};
use switchback::event::Draft;
use switchback::store::{
    ClientRecord, DiskStore, JetStreamStore, LastProgress, LastSearch, MemoryStore, Page, ReadMode, ReadRequest,
    Retention, SecurityRecord, SecurityRecordKind, Store, StoreError, StoreOptions,
};
use switchback::topic::PatternSet;
use switchback::{Data, EventHeaders, NewEvent};
use uuid::Uuid;

use super::common::*;
use super::until;
use crate::support::nats::Nats;

/// A store under test, and the resources that have to outlive it.
pub(super) trait Engine {
    type Store: Store;
    type Home;
    /// The number of random histories.
    const CASES: u32;
    /// Whether the engine knows the trimmed events of each topic; otherwise it reports a gap whenever a position precedes the
    /// floor.
    const EXACT_GAPS: bool = true;
    /// Whether the engine uses the time that is passed to it; otherwise it uses its own clock.
    const TOLD_THE_TIME: bool = true;
    fn open(options: StoreOptions) -> (Self::Store, Self::Home);
}

pub(super) struct Memory;

impl Engine for Memory {
    type Store = MemoryStore;
    type Home = ();
    const CASES: u32 = 256;
    fn open(options: StoreOptions) -> (MemoryStore, ()) {
        (MemoryStore::new(options), ())
    }
}

pub(super) struct Disk;

impl Engine for Disk {
    type Store = DiskStore;
    type Home = tempfile::TempDir;
    const CASES: u32 = 32;
    fn open(options: StoreOptions) -> (DiskStore, tempfile::TempDir) {
        let home = tempfile::tempdir().unwrap();
        (DiskStore::open(home.path(), options).unwrap(), home)
    }
}

/// All stores are on one server, with separate names.
pub(super) struct JetStream;

impl Engine for JetStream {
    type Store = JetStreamStore;
    type Home = Arc<Nats>;
    const CASES: u32 = 24;
    const EXACT_GAPS: bool = false;
    const TOLD_THE_TIME: bool = false;
    fn open(options: StoreOptions) -> (JetStreamStore, Arc<Nats>) {
        static SHARED: Mutex<Weak<Nats>> = Mutex::new(Weak::new());
        let nats = {
            let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
            shared.upgrade().unwrap_or_else(|| {
                let nats = Arc::new(Nats::single());
                *shared = Arc::downgrade(&nats);
                nats
            })
        };
        (open_jetstream(&nats.url(), &Uuid::new_v4().simple().to_string(), options).unwrap(), nats)
    }
}

fn open<E: Engine>() -> (E::Store, E::Home) {
    E::open(StoreOptions::default())
}

async fn positions_are_consecutive_and_batches_stay_together<E: Engine>() {
    let (store, _home) = open::<E>();
    let bounds = store.bounds();
    assert_eq!((bounds.began, bounds.floor, bounds.last), (Position::ZERO, Position::ZERO, Position::ZERO));
    // All are requested before any completes, as in a group commit.
    let appends: Vec<_> = (1..=40).map(|n| store.append(vec![draft("a"); n % 5])).collect();
    let mut next = 1;
    for (n, answer) in (1..).zip(appends) {
        let positions = positions(&answer.await.unwrap());
        assert_eq!(positions, (next..next + n % 5).collect::<Vec<_>>());
        next += n % 5;
    }
    assert_eq!(store.bounds().last, Position(next - 1));
    let page = read(&store, &[">"], 0).await;
    assert_eq!(events_of(&page), (1..next).collect::<Vec<_>>());
    assert_eq!((page.through, page.trimmed), (Position(next - 1), None));
}

async fn an_event_is_read_as_it_was_fed<E: Engine>() {
    let (store, _home) = open::<E>();
    let recorder = Recorder::following(&store, 0);
    let topic = || "a.<ü>b.\u{1f600}".replace('>', "]").parse().unwrap();
    let new = |data| NewEvent::new(topic(), data);
    let long = "x".repeat(70_000);
    let drafts = vec![
        new(Data::json(r#"{"b":1e400,"a":"\u0000</script>","b":[]}"#).unwrap()).named("changed").unwrap().draft(0),
        new(Data::binary(&[0, 255, 10, 13])).with_id("k\u{2028}").unwrap().draft(NOW_MS),
        new(Data::text(&long)).draft(1),
        new(Data::text("")).named("message").unwrap().with_id("").unwrap().draft(u64::from(u32::MAX)),
    ];
    store.append(drafts).await.unwrap();
    let page = read(&store, &[">"], 0).await;
    assert_eq!(page.events, recorder.events());
    assert_eq!(page.events.len(), 4);
    for event in &page.events {
        assert_eq!(event.cursor(), Cursor::new(store.bounds().epoch, event.position()));
    }
    assert_eq!(page.events[0].name(), Some("changed"));
    assert_eq!(page.events[0].data(), r#"{"b":1e400,"a":"\u0000\u003c/script>","b":[]}"#);
    assert_eq!((page.events[0].time_ms(), page.events[1].time_ms()), (0, NOW_MS));
    assert!(page.events[1].is_base64() && !page.events[0].is_base64());
    assert_eq!(page.events[1].id().map(|id| &**id), Some("k\u{2028}"));
    assert_eq!((page.events[3].name(), page.events[3].id()), (None, None));
}

async fn headers_and_deletions_are_kept<E: Engine>() {
    let (store, _home) = open::<E>();
    let recorder = Recorder::following(&store, 0);
    let topic = || "a.b".parse().unwrap();
    let headers = |text: &str| EventHeaders::json(text).unwrap();
    let long = format!("{{\"long\":\"{}\"}}", "é".repeat(2046));
    let drafts = vec![
        NewEvent::deletion(topic()).draft(NOW_MS),
        NewEvent::deletion(topic()).with_headers(headers(r#"{"b":"\u000a","a":"</x>"}"#)).draft(NOW_MS),
        new("a.b", "x\ny").with_headers(headers(&long)).named("n").unwrap().with_id("1").unwrap().draft(NOW_MS),
        NewEvent::new(topic(), Data::binary(b"\n")).with_headers(headers(r#"{ "a" : "" }"#)).draft(NOW_MS),
        // Longer than the prefix that an index keeps.
        new("a.b", &"x".repeat(5000)).with_headers(headers(&long)).draft(NOW_MS),
        draft("a.b"),
    ];
    let costs: u64 = drafts.iter().map(Draft::cost_bytes).sum();
    store.append(drafts).await.unwrap();
    // By position, by topic, and by several of them.
    for patterns in [&[">"][..], &["a.b"], &["a.b", "c"]] {
        let page = read(&store, patterns, 0).await;
        assert_eq!(page.events, recorder.events(), "{patterns:?}");
        let seen: Vec<_> = page.events.iter().map(|event| (event.is_deletion(), event.headers())).collect();
        let expected = [
            (true, ""),
            (true, r#"{"b":"\u000a","a":"\u003c/x>"}"#),
            (false, long.as_str()),
            (false, r#"{ "a" : "" }"#),
            (false, &long),
            (false, ""),
        ];
        assert_eq!(seen, expected);
        assert_eq!(page.events.iter().map(|event| event.cost_bytes()).sum::<u64>(), costs);
        assert_eq!((page.events[2].data(), page.events[3].data()), (r#""x\ny""#, "\"Cg==\""));
        assert!(page.events[3].is_base64() && !page.events[2].is_base64() && !page.events[1].is_base64());
    }
}

async fn a_repeat_with_other_headers_or_a_deletion_differs<E: Engine>() {
    let (store, _home) = open::<E>();
    let null = || NewEvent::new("a".parse().unwrap(), Data::json("null").unwrap());
    let with = |event: NewEvent, headers: &str| {
        event.with_headers(EventHeaders::json(headers).unwrap()).with_id("1").unwrap().draft(NOW_MS)
    };
    store.append(vec![with(null(), r#"{"a":"1"}"#)]).await.unwrap();
    for (draft, differs) in [
        (with(null(), r#"{"a":"1"}"#), false),
        (with(null(), r#"{"a":"1","traceparent":"another attempt","tracestate":"x=y"}"#), false),
        (with(null(), r#"{"a":"2"}"#), true),
        (with(null(), "{}"), true),
        (with(NewEvent::deletion("a".parse().unwrap()), r#"{"a":"1"}"#), true),
    ] {
        let shown = format!("{draft:?}");
        let appended = store.append(vec![draft]).await.unwrap();
        assert_eq!((appended[0].duplicate, appended[0].differs), (true, differs), "{shown}");
    }
    // Within one append, too.
    let deletion = |headers: &str| with(NewEvent::deletion("b".parse().unwrap()), headers);
    let appended = store.append(vec![deletion("{}"), deletion("{}"), deletion(r#"{"a":"1"}"#)]).await.unwrap();
    assert_eq!(
        appended.iter().map(|one| (one.duplicate, one.differs)).collect::<Vec<_>>(),
        [(false, false), (true, false), (true, true)]
    );
}

async fn a_repeat_is_answered_with_the_first_ones_position<E: Engine>() {
    let (store, _home) = open::<E>();
    let outcome = |appended: &[switchback::store::Appended]| {
        appended.iter().map(|appended| (appended.position.0, appended.duplicate)).collect::<Vec<_>>()
    };
    // In one batch; the key is topic and id together.
    let batch = vec![keyed("a", "1"), keyed("a", "1"), keyed("b", "1"), draft("a"), draft("a")];
    let appended = store.append(batch).await.unwrap();
    assert_eq!(outcome(&appended), [(1, false), (1, true), (2, false), (3, false), (4, false)]);
    // Across appends, with any payload.
    let other = new("a", "another").named("n").unwrap().with_id("1").unwrap().draft(NOW_MS + 5);
    assert_eq!(outcome(&store.append(vec![other]).await.unwrap()), [(1, true)]);
    // In appends that are committed together.
    let appends: Vec<_> = (0..20).map(|_| store.append(vec![keyed("c", "1"), keyed("c", "2")])).collect();
    for (n, answer) in appends.into_iter().enumerate() {
        assert_eq!(outcome(&answer.await.unwrap()), [(5, n > 0), (6, n > 0)]);
    }
    assert_eq!(store.bounds().last, Position(6));
}

async fn a_repeat_with_another_payload_differs<E: Engine>() {
    let (store, _home) = open::<E>();
    let event =
        |name: &str, data: &str, time_ms| new("a", data).named(name).unwrap().with_id("1").unwrap().draft(time_ms);
    let outcome = |appended: &[switchback::store::Appended]| {
        appended.iter().map(|appended| (appended.duplicate, appended.differs)).collect::<Vec<_>>()
    };
    assert_eq!(outcome(&store.append(vec![event("n", "x", NOW_MS)]).await.unwrap()), [(false, false)]);
    for (name, data, differs) in [("n", "x", false), ("n", "y", true), ("m", "x", true)] {
        let appended = store.append(vec![event(name, data, NOW_MS + 5)]).await.unwrap();
        assert_eq!(outcome(&appended), [(true, differs)], "{name} {data}");
    }
    // Within one append, too.
    let pair = ["x", "x", "y"].map(|data| new("b", data).with_id("1").unwrap().draft(NOW_MS));
    assert_eq!(outcome(&store.append(pair.to_vec()).await.unwrap()), [(false, false), (true, false), (true, true)]);
    assert_eq!(store.bounds().last, Position(2), "what differs is not stored");
}

async fn a_key_counts_for_the_window<E: Engine>() {
    let (store, _home) = E::open(StoreOptions { dedupe_window: Duration::from_secs(10), ..StoreOptions::default() });
    store.append(vec![keyed("a", "1")]).await.unwrap();
    store.maintain(Moment::at(NOW_MS + 10_000));
    assert!(store.append(vec![keyed("a", "1")]).await.unwrap()[0].duplicate);
    store.maintain(Moment::at(NOW_MS + 10_001));
    let again = new("a", "x").with_id("1").unwrap().draft(NOW_MS + 10_001);
    assert_eq!(positions(&store.append(vec![again.clone()]).await.unwrap()), [2]);
    store.maintain(Moment::at(NOW_MS + 15_000));
    let appended = store.append(vec![again]).await.unwrap();
    assert_eq!((appended[0].position, appended[0].duplicate), (Position(2), true));
}

async fn without_a_window_nothing_is_a_repeat<E: Engine>() {
    let (store, _home) = E::open(StoreOptions { dedupe_window: Duration::ZERO, ..StoreOptions::default() });
    let appended = store.append(vec![keyed("a", "1"), keyed("a", "1")]).await.unwrap();
    assert!(appended.iter().all(|appended| !appended.duplicate));
}

async fn an_append_that_fails_stores_nothing_and_fails_alone<E: Engine>() {
    let (store, _home) = E::open(StoreOptions { dedupe_keys_max: 3, ..StoreOptions::default() });
    let recorder = Recorder::following(&store, 0);
    let fits = store.append(vec![keyed("a", "1"), draft("a")]);
    let too_many = store.append(vec![draft("b"), keyed("b", "2"), keyed("b", "3"), keyed("b", "4")]);
    let without_key = store.append(vec![draft("c")]);
    let fits_too = store.append(vec![keyed("d", "2"), keyed("d", "3"), keyed("a", "1")]);
    let repeat = store.append(vec![keyed("d", "3")]);
    let too_many_again = store.append(vec![keyed("e", "1")]);
    assert_eq!(positions(&fits.await.unwrap()), [1, 2]);
    assert!(is_busy(&too_many.await));
    assert_eq!(positions(&without_key.await.unwrap()), [3]);
    assert_eq!(positions(&fits_too.await.unwrap()), [4, 5, 1]);
    assert_eq!(positions(&repeat.await.unwrap()), [5]);
    assert!(is_busy(&too_many_again.await));
    let topics: Vec<_> = recorder.events().iter().map(|event| event.topic().to_string()).collect();
    assert_eq!(topics, ["a", "a", "c", "d", "d"]);
    assert_eq!(read(&store, &[">"], 0).await.events, recorder.events());
}

async fn an_acknowledged_event_is_fed_and_readable<E: Engine>() {
    let (store, _home) = open::<E>();
    let recorder = Recorder::following(&store, 0);
    for _ in 0..50 {
        let appends: Vec<_> = (0..4).map(|_| store.append(vec![draft("a")])).collect();
        for answer in appends {
            let position = answer.await.unwrap()[0].position;
            assert!(recorder.events().last().is_some_and(|event| event.position() >= position));
            assert!(store.bounds().last >= position);
            let page = store.read(request(&["a"], position.before().0)).await.unwrap();
            assert_eq!(page.events[0].position(), position);
        }
    }
    assert_eq!(recorder.events().len(), 200);
}

async fn the_feed_begins_at_the_requested_position<E: Engine>() {
    let (store, _home) = E::open(retention(3000));
    for topic in ["a", "a", "a", "b"] {
        store.append(vec![draft(topic); 1000]).await.unwrap();
    }
    for (after, first) in [(0, 1001), (500, 1001), (1500, 1501), (3999, 4000), (4000, 4001)] {
        let recorder = Recorder::following(&store, after);
        if Position(after) < store.bounds().last {
            // The next append trims events that the feed has to receive first.
            recorder.wait_for(store.bounds().last.0);
        }
        let last = publish(&store, &["c"]).await[0];
        recorder.wait_for(last);
        let batches = recorder.batches();
        assert_eq!(batches[0].after.0, after.min(last - 1));
        assert!(batches.iter().all(|batch| batch.epoch == store.bounds().epoch));
        let fed: Vec<u64> = recorder.events().iter().map(|event| event.position().0).collect();
        // Events that the appends above have trimmed are gone.
        let first = first.max(last - 3000);
        assert_eq!(fed, (first..=last).collect::<Vec<_>>(), "after {after}");
    }
}

async fn retention_by_count_holds_when_answered<E: Engine>() {
    let (store, _home) = E::open(retention(10));
    let recorder = Recorder::following(&store, 0);
    for batch in [1, 9, 1, 10, 25, 1] {
        store.append(vec![draft("a"); batch]).await.unwrap();
        let bounds = store.bounds();
        assert_eq!(bounds.floor.0, bounds.last.0.saturating_sub(10));
        assert_eq!(recorder.batches().last().unwrap().floor, bounds.floor);
        let page = read(&store, &["a"], 0).await;
        assert_eq!(events_of(&page), (bounds.floor.0 + 1..=bounds.last.0).collect::<Vec<_>>());
    }
}

async fn retention_by_bytes_holds_when_answered<E: Engine>() {
    let bytes_max = 10_000;
    let retention = Retention { bytes_max: Some(bytes_max), ..Retention::default() };
    let (store, _home) = E::open(StoreOptions { retention, ..StoreOptions::default() });
    let mut costs = Vec::new();
    for length in [10, 500, 3000, 0, 9000, 20_000, 1, 4000, 4000, 4000] {
        let draft = new("a.b", &"x".repeat(length)).draft(NOW_MS);
        costs.push(draft.cost_bytes());
        store.append(vec![draft]).await.unwrap();
        // As many of the newest events as fit.
        let mut bytes = 0;
        let kept = costs.iter().rev().take_while(|cost| {
            bytes += **cost;
            bytes <= bytes_max
        });
        assert_eq!(store.bounds().floor.0, (costs.len() - kept.count()) as u64);
    }
}

async fn retention_by_age_goes_from_the_oldest<E: Engine>() {
    let retention = Retention { age_max: Some(Duration::from_secs(3)), ..Retention::default() };
    let (store, _home) = E::open(StoreOptions { retention, ..StoreOptions::default() });
    let recorder = Recorder::following(&store, 0);
    let at = |time_ms| new("a", "x").draft(time_ms);
    store.append([4000, 4500, 6000, 6000, 7000].map(at).to_vec()).await.unwrap();
    for (now_ms, floor) in [(7000, 0), (7001, 1), (7501, 2), (9000, 2), (9001, 4), (10_000, 4), (10_001, 5)] {
        store.maintain(Moment::at(now_ms));
        until(&format!("floor {floor} at {now_ms}"), async || store.bounds().floor == Position(floor)).await;
    }
    until("the feed is notified", async || recorder.batches().last().is_some_and(|batch| batch.floor == Position(5)))
        .await;
    assert_eq!(recorder.events().len(), 5);
}

async fn times_do_not_go_back_and_are_at_most_a_minute_ahead<E: Engine>() {
    let (store, _home) = open::<E>();
    let taken_ms = [1000, 900, 500_000, 10_000, 9_000, 70_000];
    for time_ms in taken_ms {
        store.append(vec![new("a", "x").draft(time_ms)]).await.unwrap();
    }
    store.append(vec![new("a", "x").draft(80_000), new("a", "x").draft(79_000)]).await.unwrap();
    let events = read(&store, &["a"], 0).await.events;
    let times_ms: Vec<u64> = events.iter().map(|event| event.time_ms()).collect();
    assert_eq!(times_ms, [1000, 1000, 500_000, 70_000, 69_000, 70_000, 80_000, 80_000]);
}

async fn an_event_of_the_future_ages_from_its_arrival<E: Engine>() {
    let retention = Retention { age_max: Some(Duration::from_secs(1)), ..Retention::default() };
    let (store, _home) = E::open(StoreOptions { retention, ..StoreOptions::default() });
    store.append(vec![new("a", "an hour ahead").draft(3_610_000)]).await.unwrap();
    maintained(&store, Moment::at(10_000)).await;
    // The clock has been corrected: this event's time is a minute ahead.
    store.append(vec![new("a", "x").draft(10_500)]).await.unwrap();
    for (now_ms, floor) in [(10_600, 0), (11_000, 0), (11_001, 1), (11_600, 1), (11_601, 2)] {
        maintained(&store, Moment::at(now_ms)).await;
        until(&format!("floor {floor} at {now_ms}"), async || store.bounds().floor == Position(floor)).await;
    }
}

/// Runs a store's maintenance, and waits until the feed is notified.
pub(super) async fn maintained(store: &impl Store, now: Moment) {
    store.maintain(now);
    store.append(Vec::new()).await.unwrap();
}

async fn a_clock_that_is_wrongly_set_back_makes_no_event_older<E: Engine>() {
    let retention = Retention { age_max: Some(Duration::from_secs(600)), ..Retention::default() };
    let (store, _home) = E::open(StoreOptions { retention, ..StoreOptions::default() });
    publish(&store, &["a"]).await;
    let back = Moment { wall_ms: NOW_MS - 3_600_000, removes: false, ..Moment::at(NOW_MS) };
    maintained(&store, back).await;
    publish(&store, &["a"]).await;
    maintained(&store, back).await;
    maintained(&store, Moment::at(NOW_MS + 1000)).await;
    assert_eq!(store.bounds().floor, Position(0));
}

async fn after_a_jump_nothing_is_removed_for_its_age<E: Engine>() {
    let retention = Retention { age_max: Some(Duration::from_secs(1)), ..Retention::default() };
    let client_idle_max = Duration::from_secs(1);
    let (store, _home) = E::open(StoreOptions { retention, client_idle_max, ..StoreOptions::default() });
    store.append(vec![keyed("a", "1")]).await.unwrap();
    store.save_clients(vec![client(1, &store)]).await.unwrap();
    store.save_record(record(SecurityRecordKind::Ban, "b", b"")).await.unwrap();
    maintained(&store, Moment::at(NOW_MS)).await;
    let days_ms = 8 * 24 * 3_600_000;
    let jumped =
        Moment { believed_ms: NOW_MS + 500, boot_ms: NOW_MS + 500, removes: false, ..Moment::at(NOW_MS + days_ms) };
    maintained(&store, jumped).await;
    assert!(store.append(vec![keyed("a", "1")]).await.unwrap()[0].duplicate);
    assert!(store.load_client(Uuid::from_u128(1)).await.unwrap().is_some());
    assert!(store.consume_record(SecurityRecordKind::Ban, "b".into(), NOW_MS + 500).await.unwrap().is_some());
    assert_eq!(store.bounds().floor, Position(0));
    let since = new("a", "x").draft(NOW_MS + days_ms);
    store.append(vec![since]).await.unwrap();
    maintained(&store, jumped).await;
    // The new time is accepted: events published by it are young.
    maintained(&store, Moment::at(NOW_MS + days_ms + 1)).await;
    until("the old events are trimmed", async || store.bounds().floor == Position(1)).await;
    maintained(&store, Moment::at(NOW_MS + days_ms + 1000)).await;
    assert_eq!(store.bounds().floor, Position(1));
    assert_eq!(store.load_client(Uuid::from_u128(1)).await.unwrap(), None);
}

async fn positions_are_never_used_again<E: Engine>() {
    let retention = Retention { age_max: Some(Duration::from_secs(1)), ..Retention::default() };
    let (store, _home) = E::open(StoreOptions { retention, ..StoreOptions::default() });
    publish(&store, &["a", "a", "b"]).await;
    store.maintain(Moment::at(NOW_MS + 60_000));
    until("an empty log", async || store.bounds().floor == Position(3)).await;
    let page = read(&store, &[">"], 0).await;
    assert_eq!((page.events.len(), page.through), (0, Position(3)));
    assert_eq!(page.trimmed.unwrap().to, Position(3));
    assert_eq!(publish(&store, &["a"]).await, [4]);
}

async fn a_cursor_ahead_of_the_log_reads_nothing<E: Engine>() {
    let (store, _home) = E::open(retention(2));
    publish(&store, &["a", "a", "a"]).await;
    for after in [3, 4, u64::MAX / 2, u64::MAX] {
        let page = read(&store, &[">", "a"], after).await;
        assert_eq!(page, Page { through: Position(after), ..Page::default() });
    }
}

async fn the_newest_matching_events_are_found<E: Engine>() {
    let (store, _home) = E::open(retention(20_000));
    let before_last = async |store: &E::Store, texts: &[&str], count| {
        super::common::before_last(store, patterns(texts), count, 3000).await.map(|position| position.0)
    };
    assert_eq!(before_last(&store, &[">"], 1).await, None);
    // Many topics, so that wildcards need a scan; a rare one far from the end, and a trimmed one.
    publish(&store, &["gone.x"]).await;
    let topics: Vec<String> = (0..20_000).map(|n| format!("many.{}.y", n % 2000)).collect();
    for (chunk, topics) in topics.chunks(1000).enumerate() {
        let mut topics: Vec<&str> = topics.iter().map(String::as_str).collect();
        if chunk == 2 {
            topics[500] = "rare.0.x";
            topics[700] = "rare.1.x";
        }
        publish(&store, &topics).await;
    }
    let (rare, last) = (2502, 20_001);
    for (texts, count, expected) in [
        (&["rare.0.x"][..], 1, Some(rare - 1)),
        (&["rare.*.x"], 1, Some(rare + 200 - 1)),
        (&["*.*.x"], 1, Some(rare + 200 - 1)),
        (&["*.*.x"], 2, Some(rare - 1)),
        (&["*.*.x"], 1000, Some(rare - 1)),
        (&["*.x"], 5, None),
        (&[">"], 1, Some(last - 1)),
        (&[">"], 1000, Some(last - 1000)),
        (&["*.*.y"], 3, Some(last - 3)),
        (&["many.1999.y", "many.1998.y"], 3, Some(last - 2001)),
        (&["nothing", "gone.x"], 3, None),
        (&["many.>", "many.7.y"], 2, Some(last - 2)),
    ] {
        assert_eq!(before_last(&store, texts, count).await, expected, "{texts:?} {count}");
    }
    // Up to a position.
    let before_last = async |texts: &[&str], count, upto| {
        let mut search = LastSearch::new(patterns(texts), count).up_to(Position(upto));
        loop {
            match store.search_last(search, 3000).await.unwrap().progress {
                LastProgress::Found(found) => return found.map(|position| position.0),
                LastProgress::Further(further) => search = further,
            }
        }
    };
    for (texts, count, upto, expected) in [
        (&["*.*.y"][..], 3, 15_000, Some(15_000 - 3)),
        (&["*.*.x"], 2, rare + 100, Some(rare - 1)),
        (&["*.*.x"], 2, rare - 1, None),
        (&["rare.0.x", "rare.1.x"], 1, rare + 199, Some(rare - 1)),
        (&["many.7.y"], 2, 10_008, Some(6008)),
        (&["many.7.y"], 1, 10_009, Some(10_008)),
        (&["many.>", "many.7.y"], 2, 10_009, Some(10_009 - 2)),
        (&[">"], 5, 0, None),
        (&[">"], 5, last, Some(last - 5)),
    ] {
        assert_eq!(before_last(texts, count, upto).await, expected, "{texts:?} {count} up to {upto}");
    }
}

/// A search without matches is split into slices, since it holds a lock that publishers need.
/// Exact where the engine knows the times of events by itself.
async fn the_place_of_a_time_is_found<E: Engine>() {
    let (store, _home) = E::open(retention(50));
    assert_eq!(store.before_time(0).await.unwrap(), Position::ZERO);
    assert_eq!(store.before_time(u64::MAX).await.unwrap(), Position::ZERO, "nothing is there");
    let at = |time_ms| new("a", "x").draft(time_ms);
    // The oldest ten are trimmed; three events have the same time.
    for position in 0..60 {
        store.append(vec![at(NOW_MS + position / 3 * 1000)]).await.unwrap();
    }
    for after_ms in (0..25_000).step_by(500) {
        let time_ms = NOW_MS + after_ms;
        let page = read(&store, &[">"], 10).await;
        let first = page.events.iter().find(|event| event.time_ms() >= time_ms);
        let expected = first.map_or(Position(60), |event| event.position().before());
        assert_eq!(store.before_time(time_ms).await.unwrap(), expected, "{after_ms}");
    }
    assert_eq!(store.before_time(0).await.unwrap(), Position(10), "the floor");
    assert_eq!(store.before_time(u64::MAX).await.unwrap(), Position(60), "the end");
}

/// With any engine's clock, no event at or after the requested time is left out.
async fn the_place_of_a_time_leaves_nothing_out<E: Engine>() {
    let (store, _home) = open::<E>();
    let now_ms = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as u64;
    let begun_ms = now_ms();
    for _ in 0..5 {
        store.append(vec![new("a", "x").draft(now_ms())]).await.unwrap();
    }
    for event in read(&store, &[">"], 0).await.events {
        let found = store.before_time(event.time_ms()).await.unwrap();
        assert!(found < event.position(), "{found} for {event:?}");
    }
    assert_eq!(store.before_time(0).await.unwrap(), Position::ZERO);
    assert_eq!(store.before_time(begun_ms - 60_000).await.unwrap(), Position::ZERO);
    assert_eq!(store.before_time(now_ms() + 60_000).await.unwrap(), Position(5));
    assert_eq!(store.before_time(u64::MAX).await.unwrap(), Position(5));
}

async fn a_search_for_the_newest_goes_in_bounded_steps<E: Engine>() {
    const TOPICS: u64 = 30_000;
    let (store, _home) = open::<E>();
    let _recorder = Recorder::following(&store, 0);
    let topics: Vec<String> = (0..TOPICS).map(|n| format!("many.{n}.y")).collect();
    for topics in topics.chunks(1000) {
        publish(&store, &topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let absent: Vec<String> = (0..64).map(|n| format!("*.*.x{n}")).collect();
    let absent = patterns(&absent.iter().map(String::as_str).collect::<Vec<_>>());
    let (mut search, mut steps, mut unmatched_rows) = (LastSearch::new(absent, 1), 0, 0);
    let found = loop {
        let step = store.search_last(search, 300).await.unwrap();
        assert!(!E::TOLD_THE_TIME || step.unmatched_rows <= 300, "{} rows in one step", step.unmatched_rows);
        (steps, unmatched_rows) = (steps + 1, unmatched_rows + step.unmatched_rows);
        match step.progress {
            LastProgress::Found(found) => break found,
            LastProgress::Further(further) => search = further,
        }
    };
    assert_eq!(found, None);
    assert!(unmatched_rows > 0 && (!E::TOLD_THE_TIME || steps >= TOPICS / 300), "{steps} steps, {unmatched_rows} rows");
}

async fn reads_keep_to_their_bounds_and_go_on<E: Engine>() {
    let (store, _home) = open::<E>();
    // So many topics that `*.x.*` needs a scan row by row.
    let topics: Vec<String> =
        (0..3000).map(|n| if n % 10 == 0 { format!("a.x.{n}") } else { format!("a.y.{n}") }).collect();
    for topics in topics.chunks(1000) {
        publish(&store, &topics.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    let expected: Vec<u64> = (0..3000).filter(|n| n % 10 == 0).map(|n| n + 1).collect();
    for (texts, events_max, bytes_max, rows_max) in [
        (&["*.x.*"][..], 7, usize::MAX, u64::MAX),
        (&["*.x.*"], usize::MAX, 1000, u64::MAX),
        (&["*.x.*"], usize::MAX, usize::MAX, 64),
        (&["*.x.*"], 3, 500, 97),
        (&["*.x.*"], 1, 1, 1),
        (&[">"], 1000, usize::MAX, 10),
    ] {
        let (mut after, mut found) = (Position::ZERO, Vec::new());
        while after < Position(3000) {
            let page = store.read(ReadRequest { after, events_max, bytes_max, rows_max, ..request(texts, 0) }).await;
            let page = page.unwrap();
            assert!(page.through > after, "no progress at {after}");
            assert!(page.events.len() <= events_max && page.rows <= rows_max);
            let bytes = page.events.iter().map(|event| event.json_bytes());
            assert!(bytes.clone().sum::<usize>() - page.events.last().map_or(0, |e| e.json_bytes()) < bytes_max);
            assert!(page.events.last().is_none_or(|event| event.position() <= page.through));
            after = page.through;
            found.extend(events_of(&page));
        }
        assert_eq!(after, Position(3000));
        if texts == [">"] {
            assert_eq!(found, (1..=3000).collect::<Vec<_>>());
        } else {
            assert_eq!(found, expected, "{events_max} {bytes_max} {rows_max}");
        }
    }
}

async fn the_cost_of_a_sparse_read_is_its_result<E: Engine>() {
    let (store, _home) = open::<E>();
    for chunk in 0..100 {
        let mut topics = vec!["busy.x"; 1000];
        if chunk % 25 == 24 {
            topics[500] = "rare.one";
        }
        publish(&store, &topics).await;
    }
    for texts in [&["rare.one"][..], &["rare.*"], &["rare.one", "nothing", "nothing.*"]] {
        let page = read(&store, texts, 0).await;
        assert_eq!(events_of(&page), [24_501, 49_501, 74_501, 99_501]);
        assert_eq!(page.through, Position(100_000));
        assert!(page.rows <= 8, "{} rows looked at for 4 events of {texts:?}", page.rows);
        // Also where the row budget would not let a scan get there.
        let page = store.read(ReadRequest { rows_max: 100, events_max: 1, ..request(texts, 50_000) }).await.unwrap();
        assert_eq!((events_of(&page), page.through), (vec![74_501], Position(74_501)));
    }
    // Reading a busy topic stops at the limit, not a chunk later.
    let page = store.read(ReadRequest { events_max: 10, ..request(&["busy.x", "rare.one"], 0) }).await.unwrap();
    assert!(page.events.len() == 10 && page.rows <= 30, "{} rows for 10 events", page.rows);
}

async fn the_cost_of_a_snapshot_is_its_result<E: Engine>() {
    const TOPICS: u64 = 500;
    /// Events of the index that were superseded lately.
    const SUPERSEDED: u64 = 1024;
    let (store, _home) = open::<E>();
    // A shared log is indexed by its feed.
    let _recorder = Recorder::following(&store, 0);
    let topics: Vec<String> = (0..TOPICS).map(|n| format!("t.{n}")).collect();
    let all: Vec<&str> = topics.iter().map(String::as_str).collect();
    for _ in 0..20 {
        publish(&store, &all).await;
    }
    // A round that ends here; the log goes on.
    let upto = store.bounds().last;
    publish(&store, &all[..100]).await;
    let newest: Vec<u64> = (upto.0 - TOPICS + 1..=upto.0).collect();
    until("the index of the newest events is filled", async || {
        let page = store.read(ReadRequest { latest_upto: Some(upto), ..request(&["t.*"], 0) }).await.unwrap();
        assert_eq!((events_of(&page), page.through), (newest.clone(), upto));
        page.rows <= TOPICS + SUPERSEDED
    })
    .await;
    // In pages, of all topics and of a few.
    for (texts, expected) in [(&["t.*"][..], &newest[..]), (&["t.7", "t.9", "t.450"], &[9508, 9510, 9951])] {
        let (mut after, mut found, mut rows) = (Position::ZERO, Vec::new(), 0);
        while after < upto {
            let page = store.read(ReadRequest { after, latest_upto: Some(upto), events_max: 7, ..request(texts, 0) });
            let page = page.await.unwrap();
            assert!(page.through > after && page.events.len() <= 7);
            after = page.through;
            rows += page.rows;
            found.extend(events_of(&page));
        }
        assert_eq!((found.as_slice(), after), (expected, upto));
        // A shared log has no index by topic here.
        let compared = if E::EXACT_GAPS { expected.len() as u64 } else { TOPICS };
        assert!(rows <= compared + SUPERSEDED, "{rows} rows for {} events", expected.len());
    }
}

/// Also where the page has space for more events, and a store reads more of them at once.
async fn a_round_ends_at_its_end<E: Engine>() {
    let (store, _home) = open::<E>();
    publish(&store, &["a.1", "b.1", "a.2", "a.3", "a.4", "a.5"]).await;
    for (upto, expected) in [(1, &[1][..]), (2, &[1]), (3, &[1, 3]), (6, &[1, 3, 4])] {
        let round = ReadRequest { latest_upto: Some(Position(upto)), events_max: 3, ..request(&["a.*"], 0) };
        let page = store.read(round).await.unwrap();
        assert_eq!(events_of(&page), expected, "up to {upto}");
        assert_eq!(page.through, Position(upto.min(4)));
    }
}

/// A history of a log, and its expected state afterwards.
#[derive(Clone, Debug)]
enum Step {
    Publish(Vec<&'static str>),
    Age(u64),
    Read { patterns: Vec<&'static str>, after: u64, events_max: usize, rows_max: u64, latest_upto: Option<u64> },
}

fn any_step() -> impl Strategy<Value = Step> {
    let topic = prop::sample::select(vec!["a.1", "a.2", "a.1.x", "b", "b.1", "c.1.x"]);
    let pattern =
        prop::sample::select(vec!["a.1", "a.*", "a.>", "b", "b.*", "*.1.x", "*.*", ">", "c.>", "z", "z.*", "*"]);
    prop_oneof![
        3 => prop::collection::vec(topic, 1..6).prop_map(Step::Publish),
        1 => (0_u64..25).prop_map(Step::Age),
        4 => (prop::collection::vec(pattern, 1..4), 0_u64..70, 1_usize..8, 1_u64..40, prop::option::of(0_u64..70)).prop_map(
            |(patterns, after, events_max, rows_max, latest_upto)| {
                Step::Read { patterns, after, events_max, rows_max, latest_upto }
            }
        ),
    ]
}

/// The reference model: the log as a list.
#[derive(Default)]
struct Naive {
    events: Vec<(&'static str, u64)>,
    floor: usize,
}

impl Naive {
    fn matching(&self, wanted: &PatternSet, after: usize) -> Vec<u64> {
        let from = after.max(self.floor).min(self.events.len());
        let positions = (from + 1..).zip(&self.events[from..]);
        positions.filter(|(_, (topic, _))| wanted.matches(topic)).map(|(position, _)| position as u64).collect()
    }

    /// Whether an event is the newest of its topic at or before a position.
    fn is_newest(&self, position: usize, end: usize) -> bool {
        let topic = self.events[position - 1].0;
        position <= end && self.events[position..end].iter().all(|(other, _)| *other != topic)
    }

    fn check(&self, exact: bool, page: &Page, request: &ReadRequest) {
        let after = request.after.0 as usize;
        let lost: Vec<_> = request
            .patterns
            .iter()
            .filter(|pattern| (after..self.floor).any(|at| !exact || pattern.matches(self.events[at].0)))
            .cloned()
            .collect();
        let trimmed = page.trimmed.clone();
        assert_eq!(trimmed.as_ref().map_or(&[][..], |trimmed| &trimmed.patterns), lost, "{request:?}");
        assert!(trimmed.is_none_or(|trimmed| trimmed.to == Position(self.floor as u64)));
        let mut expected = self.matching(&request.patterns, after);
        let end = request.latest_upto.map_or(self.events.len(), |upto| upto.0 as usize);
        if request.latest_upto.is_some() {
            expected.retain(|position| self.is_newest(*position as usize, end));
        }
        let complete = page.through.0 as usize >= end;
        expected.retain(|position| *position <= page.through.0);
        assert_eq!(events_of(page), expected, "{request:?}");
        let is_cut_before = request.latest_upto.is_some() && !exact;
        assert!(
            complete || is_cut_before || page.events.len() == request.events_max || page.rows == request.rows_max,
            "{page:?}"
        );
        assert!(page.through.0 as usize >= after.max(self.floor));
    }
}

async fn agrees_with_a_naive_log<E: Engine>(steps: Vec<Step>) {
    let age_max = E::TOLD_THE_TIME.then_some(Duration::from_millis(20));
    let retention = Retention { events_max: Some(24), age_max, ..Retention::default() };
    let (store, _home) = E::open(StoreOptions { retention, ..StoreOptions::default() });
    let (mut naive, mut time_ms) = (Naive::default(), 1000);
    for step in steps {
        match step {
            Step::Publish(topics) => {
                time_ms += 1;
                store.append(topics.iter().map(|topic| new(topic, "x").draft(time_ms)).collect()).await.unwrap();
                naive.events.extend(topics.into_iter().map(|topic| (topic, time_ms)));
                naive.floor = naive.floor.max(naive.events.len().saturating_sub(24));
            }
            Step::Age(_) if !E::TOLD_THE_TIME => {}
            Step::Age(ms) => {
                time_ms += ms;
                store.maintain(Moment::at(time_ms));
                while naive.events.get(naive.floor).is_some_and(|(_, time)| *time < time_ms - 20) {
                    naive.floor += 1;
                }
                let floor = Position(naive.floor as u64);
                until("trimmed by age", async || store.bounds().floor == floor).await;
            }
            Step::Read { patterns: texts, after, events_max, rows_max, latest_upto } => {
                let last = naive.events.len() as u64;
                let after = after.min(last);
                let latest_upto = latest_upto.map(|upto| Position(upto.min(last)));
                let request = ReadRequest { events_max, rows_max, latest_upto, ..request(&texts, after) };
                naive.check(E::EXACT_GAPS, &store.read(request.clone()).await.unwrap(), &request);
                let newest = naive.matching(&request.patterns, 0).into_iter().rev().take(events_max).next_back();
                let found = before_last(&store, request.patterns, events_max, rows_max).await;
                assert_eq!(found, newest.map(|position| Position(position - 1)), "{texts:?}");
            }
        }
    }
}

fn agrees_with_a_naive_log_under_random_operations<E: Engine>() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config = ProptestConfig { cases: E::CASES, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(steps in prop::collection::vec(any_step(), 1..40))| {
        runtime.block_on(agrees_with_a_naive_log::<E>(steps));
    });
}

/// Readers race with trimming: every page is complete, or reports what is missing.
async fn a_trim_during_a_read_is_a_gap_and_never_silence<E: Engine>() {
    const TOPICS: u64 = 7;
    let (store, home) = E::open(retention(40));
    let store = Arc::new(store);
    let stop = Arc::new(AtomicBool::new(false));
    let readers: Vec<_> = [["t.3", "u"], ["*.x", "t.*"], ["t.1", "t.6"]]
        .into_iter()
        .map(|texts| {
            let (store, stop) = (store.clone(), stop.clone());
            std::thread::spawn(move || {
                let wanted = patterns(&texts);
                let is_wanted = |position: &u64| wanted.matches(&format!("t.{}", position % TOPICS));
                let mut gaps = 0;
                while !stop.load(Ordering::Relaxed) {
                    let after = store.bounds().last.0.saturating_sub(30 + gaps % 30);
                    let page = block_on(store.read(request(&texts, after))).unwrap();
                    let from = page.trimmed.as_ref().map_or(after, |trimmed| trimmed.to.0.max(after));
                    if page.trimmed.is_some() {
                        gaps += 1;
                        let lost = (after + 1..=from).any(|position| is_wanted(&position));
                        assert!(lost || !E::EXACT_GAPS, "a gap for nothing");
                    }
                    let expected: Vec<u64> = (from + 1..=page.through.0).filter(is_wanted).collect();
                    assert_eq!(events_of(&page), expected, "after {after}: {page:?}");
                }
            })
        })
        .collect();
    let mut next = 1;
    for round in 0..400 {
        let drafts = (next..next + 1 + round % 30).map(|position| draft(&format!("t.{}", position % TOPICS)));
        next += store.append(drafts.collect()).await.unwrap().len() as u64;
    }
    stop.store(true, Ordering::Relaxed);
    for reader in readers {
        reader.join().unwrap();
    }
    drop((store, home));
}

fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn client(n: u64, store: &impl Store) -> ClientRecord {
    ClientRecord {
        client: Uuid::from_u128(u128::from(n)),
        patterns: patterns(&["a.*", &format!("b.{n}")]),
        mode: ReadMode { latest: n.is_multiple_of(3), pace_ms: n as u16 % 7 },
        cursor: Cursor::new(store.bounds().epoch, Position(n)),
        upto: n.is_multiple_of(3).then(|| Cursor::new(store.bounds().epoch, Position(2 * n))),
        seen_ms: NOW_MS + n,
        owner: n.is_multiple_of(2).then(|| format!("owner {n} \u{1f600}")),
        address: None,
    }
}

async fn clients_are_remembered<E: Engine>() {
    let (store, _home) = open::<E>();
    let mut first = client(1, &store);
    assert_eq!(store.load_client(first.client).await.unwrap(), None);
    store.save_clients(vec![first.clone(), client(2, &store)]).await.unwrap();
    assert_eq!(store.load_client(first.client).await.unwrap().as_ref(), Some(&first));
    // The last record wins, and a client may have no patterns yet.
    first.patterns = PatternSet::default();
    (first.mode, first.upto) = (ReadMode { latest: true, pace_ms: 60_000 }, Some(first.cursor));
    first.cursor.position = Position(u64::from(u32::MAX) * 7);
    store.save_clients(vec![client(1, &store), first.clone()]).await.unwrap();
    assert_eq!(store.load_client(first.client).await.unwrap(), Some(first));
    assert_eq!(store.load_client(Uuid::from_u128(2)).await.unwrap(), Some(client(2, &store)));
}

async fn clients_that_are_long_away_are_forgotten<E: Engine>() {
    let (store, _home) = E::open(StoreOptions { client_idle_max: Duration::from_secs(1), ..StoreOptions::default() });
    store.save_clients((1..=10).map(|n| client(n, &store)).collect()).await.unwrap();
    store.maintain(Moment::at(NOW_MS + 1005));
    let mut known = Vec::new();
    for n in 1..=10 {
        known.extend(store.load_client(Uuid::from_u128(n)).await.unwrap().map(|_| n));
    }
    assert_eq!(known, [5, 6, 7, 8, 9, 10]);
}

async fn a_forgotten_client_is_gone_or_the_error_says_otherwise<E: Engine>() {
    let (store, _home) = open::<E>();
    let record = client(2, &store);
    store.save_clients(vec![record.clone()]).await.unwrap();
    store.save_clients(vec![ClientRecord::forgotten(record.client, store.bounds().epoch)]).await.unwrap();
    store.maintain(Moment::at(NOW_MS));
    let left = store.load_client(record.client).await.unwrap();
    assert!(left.is_none_or(|record| record.is_forgotten() && record.owner.is_none()));
    store.save_clients(vec![record.clone()]).await.unwrap();
    assert_eq!(store.load_client(record.client).await.unwrap(), Some(record));
}

async fn the_clients_table_is_bounded<E: Engine>() {
    let (store, _home) = E::open(StoreOptions { clients_max: 10, ..StoreOptions::default() });
    let anonymous = |n| ClientRecord { owner: None, ..client(n, &store) };
    // Not in the order of last use.
    for n in [3, 1, 14, 2, 5, 4, 6, 13, 7, 8, 9, 11, 10, 12] {
        store.save_clients(vec![anonymous(n)]).await.unwrap();
    }
    store.save_clients(vec![anonymous(14), anonymous(5)]).await.unwrap();
    assert_eq!(known_of(&store, 1..=14).await, (5..=14).collect::<Vec<_>>());
}

async fn known_of(store: &impl Store, clients: std::ops::RangeInclusive<u128>) -> Vec<u128> {
    let mut known = Vec::new();
    for n in clients {
        known.extend(store.load_client(Uuid::from_u128(n)).await.unwrap().map(|_| n));
    }
    known
}

async fn clients_without_an_owner_are_forgotten_first<E: Engine>() {
    let (store, _home) = E::open(StoreOptions { clients_max: 10, ..StoreOptions::default() });
    // Clients with an even number have a subject, and have been idle the longest.
    let owned: Vec<_> = (1..=4).map(|n| client(2 * n, &store)).collect();
    store.save_clients(owned).await.unwrap();
    for n in 5..=24 {
        store.save_clients(vec![client(2 * n + 1, &store)]).await.unwrap();
    }
    assert_eq!(known_of(&store, 1..=50).await, [2, 4, 6, 8, 39, 41, 43, 45, 47, 49]);
    // Where all have a subject, the longest idle client is evicted.
    store.save_clients((6..=15).map(|n| client(2 * n, &store)).collect()).await.unwrap();
    assert_eq!(known_of(&store, 1..=50).await, (6..=15).map(|n| 2 * n).collect::<Vec<_>>());
}

/// A subject can fill only its share of the table, and then evicts its own clients.
async fn one_owner_has_a_share_of_the_clients_table<E: Engine>() {
    let (subject, address) = (Some(3), Some(5));
    let options =
        StoreOptions { clients_per_subject_max: subject, clients_per_address_max: address, ..StoreOptions::default() };
    let (store, _home) = E::open(options);
    let of = |n, owner: Option<&str>, from: [u8; 4]| ClientRecord {
        owner: owner.map(str::to_owned),
        address: owner.is_none().then_some(from.into()),
        ..client(n, &store)
    };
    store.save_clients(vec![of(1, Some("li"), [0; 4]), of(2, None, [10, 0, 0, 1])]).await.unwrap();
    for n in 10..30 {
        store.save_clients(vec![of(n, Some("mallory"), [0; 4]), of(n + 20, None, [10, 0, 0, 2])]).await.unwrap();
    }
    assert_eq!(known_of(&store, 1..=60).await, [1, 2, 27, 28, 29, 45, 46, 47, 48, 49]);
    // A client whose patterns take two KiB counts as three.
    let long = PatternSet::new((0..9).map(|n| format!("{n}.{}", "x".repeat(240)).parse().unwrap())).unwrap();
    store.save_clients(vec![ClientRecord { patterns: long, ..of(50, None, [10, 0, 0, 2]) }]).await.unwrap();
    assert_eq!(known_of(&store, 1..=60).await, [1, 2, 27, 28, 29, 48, 49, 50]);
    // The id is now another subject's, and counts for that subject.
    store.save_clients(vec![of(49, Some("wu"), [0; 4])]).await.unwrap();
    store.save_clients(vec![of(51, None, [10, 0, 0, 2])]).await.unwrap();
    assert_eq!(known_of(&store, 1..=60).await, [1, 2, 27, 28, 29, 48, 49, 50, 51]);
}

fn record(kind: SecurityRecordKind, key: &str, value: &[u8]) -> SecurityRecord {
    SecurityRecord { kind, key: key.into(), value: value.into(), until_ms: NOW_MS + 1000 }
}

async fn a_record_is_taken_once_by_kind_and_key<E: Engine>() {
    let (store, _home) = open::<E>();
    let store = Arc::new(store);
    // Any text is a key, any bytes are a value.
    let keys = ["a", "", "a.*.>", "ü /\\?=\"\u{1f600}\n\0", &"k".repeat(255)];
    for key in keys {
        let bytes: Vec<u8> = (0..=255).collect();
        store.save_record(record(SecurityRecordKind::Ticket, key, &bytes)).await.unwrap();
        assert_eq!(store.consume_record(SecurityRecordKind::Ban, key.into(), NOW_MS).await.unwrap(), None);
        assert_eq!(store.consume_record(SecurityRecordKind::Ticket, format!("{key}x"), NOW_MS).await.unwrap(), None);
        let taken = store.consume_record(SecurityRecordKind::Ticket, key.into(), NOW_MS).await.unwrap();
        assert_eq!(taken, Some(record(SecurityRecordKind::Ticket, key, &bytes)));
        assert_eq!(store.consume_record(SecurityRecordKind::Ticket, key.into(), NOW_MS).await.unwrap(), None);
    }
    // Of many concurrent calls, one succeeds.
    for _ in 0..20 {
        store.save_record(record(SecurityRecordKind::Ticket, "raced", b"")).await.unwrap();
        let appends =
            (0..8).map(|_| tokio::spawn(store.consume_record(SecurityRecordKind::Ticket, "raced".into(), NOW_MS)));
        let taken = futures_util::future::join_all(appends.collect::<Vec<_>>()).await;
        assert_eq!(taken.into_iter().filter(|taken| taken.as_ref().unwrap().as_ref().unwrap().is_some()).count(), 1);
    }
}

async fn a_record_is_gone_at_its_end<E: Engine>() {
    let (store, _home) = open::<E>();
    let at = |until_ms| SecurityRecord { until_ms, ..record(SecurityRecordKind::Ticket, "t", b"v") };
    for (until_ms, there) in [(NOW_MS, false), (NOW_MS + 1, true)] {
        store.save_record(at(until_ms)).await.unwrap();
        let taken = store.consume_record(SecurityRecordKind::Ticket, "t".into(), NOW_MS).await.unwrap();
        assert_eq!(taken.is_some(), there);
    }
    // The last record wins.
    store.save_record(at(NOW_MS + 5)).await.unwrap();
    store.save_record(SecurityRecord { value: b"w".into(), ..at(NOW_MS + 9) }).await.unwrap();
    let taken = store.consume_record(SecurityRecordKind::Ticket, "t".into(), NOW_MS + 6).await.unwrap();
    assert_eq!(taken.unwrap().value, b"w");
}

async fn records_are_bounded_each_kind_for_itself<E: Engine>() {
    let (store, _home) = E::open(StoreOptions { security_records_max: 3, ..StoreOptions::default() });
    for n in 0..3 {
        store.save_record(record(SecurityRecordKind::Ticket, &n.to_string(), b"")).await.unwrap();
    }
    assert!(is_busy(&store.save_record(record(SecurityRecordKind::Ticket, "3", b"")).await));
    // Tickets, which many clients may request, leave room for a ban. A replacement takes no room.
    store.save_record(record(SecurityRecordKind::Ban, "3", b"")).await.unwrap();
    store.save_record(record(SecurityRecordKind::Ticket, "2", b"again")).await.unwrap();
    assert!(store.consume_record(SecurityRecordKind::Ticket, "1".into(), NOW_MS).await.unwrap().is_some());
    store.save_record(record(SecurityRecordKind::Ticket, "3", b"")).await.unwrap();
    assert!(is_busy(&store.save_record(record(SecurityRecordKind::Ticket, "4", b"")).await));
    if !E::TOLD_THE_TIME {
        return;
    }
    // Expired records make room.
    store.maintain(Moment::at(NOW_MS + 1000));
    store.save_record(record(SecurityRecordKind::Ticket, "4", b"")).await.unwrap();
    assert_eq!(store.consume_record(SecurityRecordKind::Ticket, "3".into(), NOW_MS).await.unwrap(), None);
}

async fn a_watcher_is_notified_of_bans_and_revocations<E: Engine>() {
    let (store, _home) = open::<E>();
    let before = [record(SecurityRecordKind::Ban, "b", b"1"), record(SecurityRecordKind::Revocation, "r", b"2")];
    for record in before.clone() {
        store.save_record(record).await.unwrap();
    }
    store.save_record(record(SecurityRecordKind::Ticket, "t", b"secret")).await.unwrap();
    let watcher = Arc::new(Watcher::default());
    store.watch_records(watcher.clone()).await.expect("the stored records");
    for record in before {
        until("the watcher is notified of the stored record", async || watcher.records().contains(&record)).await;
    }
    // From now on the watcher is notified before the call completes, also of replacements.
    for new in [record(SecurityRecordKind::Ban, "b", b"3"), record(SecurityRecordKind::Revocation, "s", b"4")] {
        store.save_record(new.clone()).await.unwrap();
        assert_eq!(watcher.records().last(), Some(&new));
    }
    store.save_record(record(SecurityRecordKind::Ticket, "u", b"secret")).await.unwrap();
    assert!(watcher.records().iter().all(|record| record.kind != SecurityRecordKind::Ticket));
    assert!(!format!("{:?}", record(SecurityRecordKind::Ticket, "s3cret", b"")).contains("s3cret"));
}

async fn a_closed_store_takes_nothing_and_has_lost_nothing<E: Engine>() {
    let (store, _home) = open::<E>();
    let recorder = Recorder::following(&store, 0);
    let appends: Vec<_> = (0..100).map(|_| store.append(vec![draft("a")])).collect();
    store.close().await;
    for answer in appends {
        assert!(answer.await.is_ok());
    }
    assert_eq!(recorder.events().len(), 100);
    assert!(matches!(store.append(vec![draft("a")]).await, Err(StoreError::Unavailable(_))));
    store.maintain(Moment::at(NOW_MS));
    store.close().await;
    assert_eq!(store.bounds().last, Position(100));
}

async fn every_topic_has_its_own_gap<E: Engine>() {
    let (store, _home) = E::open(retention(4));
    publish(&store, &["a.1", "b", "a.2", "c", "d", "a.1"]).await;
    let mut reported = BTreeMap::new();
    for text in ["a.1", "a.2", "b", "c", "d", "a.*", "*", ">", "e"] {
        for after in 0..=3 {
            let page = read(&store, &[text], after).await;
            reported.entry(text).or_insert_with(Vec::new).push(page.trimmed.is_some());
        }
    }
    let lost_until = |position| (0..=3).map(|after| after < position).collect::<Vec<_>>();
    let expected = [("a.1", 1), ("a.2", 0), ("b", 2), ("c", 0), ("d", 0), ("a.*", 1), ("*", 2), (">", 2), ("e", 0)];
    assert_eq!(reported, expected.map(|(text, position)| (text, lost_until(position))).into());
}

macro_rules! contract {
    (@tests $module:ident $engine:ident: $($test:ident),+ $(,)?) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $test() {
                    super::$test::<super::$engine>().await;
                }
            )+

            #[test]
            fn agrees_with_a_naive_log_under_random_operations() {
                super::agrees_with_a_naive_log_under_random_operations::<super::$engine>();
            }
        }
    };
    // An engine of our own, including its clock and its counts.
    (own $module:ident: $engine:ident) => { contract! { @shared $module $engine:
        a_key_counts_for_the_window,
        the_place_of_a_time_is_found,
        an_append_that_fails_stores_nothing_and_fails_alone,
        retention_by_bytes_holds_when_answered,
        retention_by_age_goes_from_the_oldest,
        times_do_not_go_back_and_are_at_most_a_minute_ahead,
        an_event_of_the_future_ages_from_its_arrival,
        a_clock_that_is_wrongly_set_back_makes_no_event_older,
        after_a_jump_nothing_is_removed_for_its_age,
        positions_are_never_used_again,
        every_topic_has_its_own_gap,
        clients_that_are_long_away_are_forgotten,
    } };
    // An engine with its own clock, counts and deduplication window: `jetstream.rs` has its tests instead.
    (shared $module:ident: $engine:ident) => { contract! { @shared $module $engine: } };
    (@shared $module:ident $engine:ident: $($more:ident,)*) => { contract! { @tests $module $engine:
        $($more,)*
        positions_are_consecutive_and_batches_stay_together,
        a_round_ends_at_its_end,
        an_event_is_read_as_it_was_fed,
        headers_and_deletions_are_kept,
        a_repeat_with_other_headers_or_a_deletion_differs,
        a_repeat_is_answered_with_the_first_ones_position,
        a_repeat_with_another_payload_differs,
        without_a_window_nothing_is_a_repeat,
        an_acknowledged_event_is_fed_and_readable,
        the_feed_begins_at_the_requested_position,
        retention_by_count_holds_when_answered,
        a_cursor_ahead_of_the_log_reads_nothing,
        the_newest_matching_events_are_found,
        the_place_of_a_time_leaves_nothing_out,
        a_search_for_the_newest_goes_in_bounded_steps,
        reads_keep_to_their_bounds_and_go_on,
        the_cost_of_a_sparse_read_is_its_result,
        the_cost_of_a_snapshot_is_its_result,
        a_trim_during_a_read_is_a_gap_and_never_silence,
        clients_are_remembered,
        a_forgotten_client_is_gone_or_the_error_says_otherwise,
        the_clients_table_is_bounded,
        clients_without_an_owner_are_forgotten_first,
        one_owner_has_a_share_of_the_clients_table,
        a_record_is_taken_once_by_kind_and_key,
        a_record_is_gone_at_its_end,
        records_are_bounded_each_kind_for_itself,
        a_watcher_is_notified_of_bans_and_revocations,
        a_closed_store_takes_nothing_and_has_lost_nothing,
    } };
}

contract!(own memory: Memory);
contract!(own disk: Disk);
contract!(shared jetstream: JetStream);
