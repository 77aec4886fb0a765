//! JetStream specifics beyond the store contract: stream setup, sharing between nodes, and loss of the stream or the connection.

use std::sync::Arc;
use std::time::Duration;

use async_nats::jetstream;
use switchback::clock::Moment;
use switchback::cursor::{Cursor, Epoch, Position};
use switchback::store::{
    Appended, Bounds, ClientRecord, FeedBatch, JetStreamOptions, JetStreamStore, OpenError, ReadMode, ReadRequest,
    Retention, SecurityRecord, SecurityRecordKind, Store, StoreError, StoreOptions, parse_servers,
};
use switchback::topic::PatternSet;
use uuid::Uuid;

use super::common::*;
use super::until;
use crate::support::nats::{Access, Nats};

/// The maximum size of a test's log in bytes, which JetStream reserves.
const BYTES_MAX: u64 = 64 << 20;

fn options() -> StoreOptions {
    let retention = Retention { bytes_max: Some(BYTES_MAX), ..Retention::default() };
    StoreOptions { retention, ..StoreOptions::default() }
}

fn open(nats: &Nats, store: StoreOptions) -> Result<JetStreamStore, OpenError> {
    open_jetstream(&nats.url(), "test", store)
}

fn error_text<T>(outcome: Result<T, OpenError>) -> String {
    outcome.err().map(|error| error.to_string()).expect("the setup is refused")
}

/// A JetStream context, as the NATS operator has.
async fn operator(nats: &Nats) -> jetstream::Context {
    jetstream::new(async_nats::connect(nats.addresses()).await.unwrap())
}

/// The store's current bounds of the log.
async fn refreshed(store: &JetStreamStore) -> Result<Bounds, StoreError> {
    let bounds = store.bounds();
    store.refresh(Cursor::new(bounds.epoch, bounds.last)).await
}

fn outcomes(appended: &[Appended]) -> Vec<(u64, bool)> {
    appended.iter().map(|one| (one.position.0, one.duplicate)).collect()
}

#[tokio::test]
async fn the_stream_is_made_as_the_options_say() {
    let nats = Nats::single();
    let retention =
        Retention { age_max: Some(Duration::from_secs(3600)), events_max: Some(1000), bytes_max: Some(BYTES_MAX) };
    let _store = open(&nats, StoreOptions { retention, clients_max: 77, ..StoreOptions::default() }).unwrap();
    let context = operator(&nats).await;
    let config = context.get_stream("test-events").await.unwrap().cached_info().config.clone();
    assert_eq!(config.subjects, ["test.events.>"]);
    assert_eq!((config.max_messages, config.max_bytes), (1000, BYTES_MAX as i64));
    assert_eq!((config.max_age, config.duplicate_window), (Duration::from_secs(3600), Duration::from_secs(120)));
    assert_eq!((config.num_replicas, config.storage), (1, jetstream::stream::StorageType::File));
    assert!(config.deny_delete && config.deny_purge && config.allow_direct && config.allow_atomic_publish);
    assert_eq!(
        nats.streams(),
        [
            "KV_test-bans",
            "KV_test-clients",
            "KV_test-quorum",
            "KV_test-revocations",
            "KV_test-shares",
            "KV_test-tickets",
            "test-events"
        ]
    );
    let clients = context.get_stream("KV_test-clients").await.unwrap().cached_info().config.clone();
    assert_eq!((clients.max_messages, clients.max_messages_per_subject), (77, 1));
}

/// A node that starts on a log with events reads a snapshot by its topics; also of a log that takes the place of another.
#[tokio::test]
async fn a_node_that_starts_knows_the_newest_event_of_each_topic() {
    const TOPICS: u64 = 300;
    let nats = Nats::single();
    let first = open(&nats, options()).unwrap();
    let topics: Vec<String> = (0..TOPICS).map(|n| format!("t.{n}")).collect();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    for _ in 0..10 {
        publish(&first, &topics).await;
    }
    let second = open(&nats, options()).unwrap();
    let _recorder = Recorder::following(&second, second.bounds().last.0);
    let snapshot = async || {
        let upto = second.bounds().last;
        second.read(ReadRequest { latest_upto: Some(upto), ..request(&["t.*"], 0) }).await
    };
    let expected: Vec<u64> = (9 * TOPICS + 1..=10 * TOPICS).collect();
    until("the index is filled", async || {
        let page = snapshot().await.unwrap();
        assert_eq!(events_of(&page), expected);
        page.rows == TOPICS
    })
    .await;
    // It is kept up to date.
    let changed = publish(&first, &["t.7", "t.7", "t.new"]).await;
    until("the events have come", async || second.bounds().last.0 == changed[2]).await;
    let mut expected: Vec<u64> = expected.into_iter().filter(|at| (at - 1) % TOPICS != 7).collect();
    expected.extend(&changed[1..]);
    let page = snapshot().await.unwrap();
    assert_eq!((events_of(&page), page.rows < TOPICS + 10), (expected, true));
    nats.delete_stream("test-events");
    until("the log is another one", async || {
        let again = first.append(vec![draft("t.1")]).await;
        again.is_ok() && second.bounds().epoch != page.events[0].cursor().epoch && second.bounds().last >= Position(1)
    })
    .await;
    until("its snapshot has one topic", async || snapshot().await.is_ok_and(|page| page.events.len() == 1)).await;
}

#[tokio::test]
async fn another_configuration_is_refused_by_name_unless_it_is_to_be_changed() {
    let nats = Nats::single();
    let first = open(&nats, options()).unwrap();
    publish(&first, &["a"]).await;
    let epoch = first.bounds().epoch;
    let other = StoreOptions {
        retention: Retention { events_max: Some(5), ..options().retention },
        dedupe_window: Duration::from_secs(60),
        ..options()
    };
    let error = error_text(open(&nats, other.clone()));
    for part in [
        "test-events",
        "max_msgs is unlimited in the stream and 5 by the flags (--max-events)",
        "--dedupe-window",
        "--nats-reconfigure",
    ] {
        assert!(error.contains(part), "{error}");
    }
    assert!(!error.contains("max_age"), "{error}");
    // The same options again are accepted, on any number of nodes.
    open(&nats, options()).unwrap();
    let (servers, _) = parse_servers(&nats.url()).unwrap();
    let changing =
        JetStreamOptions { prefix: "test".into(), reconfigure: true, ..JetStreamOptions::new(servers.clone()) };
    let changed = open_jetstream_with(changing, other.clone()).unwrap();
    assert_eq!(changed.bounds().epoch, epoch, "the log is the same");
    open(&nats, other).unwrap();
    // Missing features of a NATS server are reported, too.
    let three = JetStreamOptions { prefix: "three".into(), replicas: Some(3), ..JetStreamOptions::new(servers) };
    let error = error_text(open_jetstream_with(three, options()));
    assert!(error.contains("--replicas"), "{error}");
}

#[tokio::test]
async fn installations_with_names_of_their_own_share_a_nats() {
    let nats = Nats::single();
    let one = open_jetstream(&nats.url(), "one", options()).unwrap();
    let two = open_jetstream(&nats.url(), "two", options()).unwrap();
    publish(&one, &["a", "a"]).await;
    assert_eq!(publish(&two, &["a"]).await, [1]);
    assert_ne!(one.bounds().epoch, two.bounds().epoch);
    assert_eq!(events_of(&read(&two, &[">"], 0).await), [1]);
    for prefix in ["", "a.b", "a*"] {
        assert!(error_text(open_jetstream(&nats.url(), prefix, options())).contains("letters, digits"));
    }
}

#[tokio::test]
async fn a_password_authenticates_and_is_never_shown() {
    let nats = Nats::start(1, Access::Password, "");
    let store = open(&nats, options()).unwrap();
    assert_eq!(publish(&store, &["a"]).await, [1]);
    let (servers, login) = parse_servers(&nats.url()).unwrap();
    assert_eq!(login, Some((crate::support::nats::USER.into(), crate::support::nats::PASSWORD.into())));
    for login in [None, Some((crate::support::nats::USER.to_owned(), "wr0ng".to_owned()))] {
        let error = error_text(open_jetstream_with(
            JetStreamOptions { login, ..JetStreamOptions::new(servers.clone()) },
            options(),
        ));
        assert!(error.contains("authorization"), "{error}");
        assert!(!error.contains("wr0ng") && !error.contains(crate::support::nats::PASSWORD), "{error}");
    }
}

#[tokio::test]
async fn a_credentials_file_authenticates() {
    let nats = Nats::start(1, Access::Credentials, "");
    let (servers, _) = parse_servers(&nats.url()).unwrap();
    let with = |credentials| JetStreamOptions { credentials, ..JetStreamOptions::new(servers.clone()) };
    let store = open_jetstream_with(with(Some(nats.credentials_file())), options()).unwrap();
    assert_eq!(publish(&store, &["a"]).await, [1]);
    let error = error_text(open_jetstream_with(with(None), options()));
    assert!(error.contains("authorization"), "{error}");
    let nowhere = error_text(open_jetstream_with(with(Some("/nowhere/user.creds".into())), options()));
    assert!(nowhere.contains("/nowhere/user.creds"), "{nowhere}");
}

#[tokio::test]
async fn a_certificate_is_checked() {
    let nats = Nats::start(1, Access::Tls, "");
    let (servers, _) = parse_servers(&nats.url()).unwrap();
    let with = |ca| JetStreamOptions { ca, ..JetStreamOptions::new(servers.clone()) };
    let store = open_jetstream_with(with(Some(nats.ca_file())), options()).unwrap();
    assert_eq!(publish(&store, &["a"]).await, [1]);
    let error = error_text(open_jetstream_with(with(None), options()));
    assert!(error.to_lowercase().contains("tls") || error.contains("certificate"), "{error}");
    let nowhere = error_text(open_jetstream_with(with(Some("/nowhere/ca.pem".into())), options()));
    assert!(nowhere.contains("/nowhere/ca.pem"), "{nowhere}");
}

#[tokio::test]
async fn trimmed_events_are_a_gap_whatever_their_topic() {
    let nats = Nats::single();
    let retention = Retention { events_max: Some(4), ..options().retention };
    let store = open(&nats, StoreOptions { retention, ..options() }).unwrap();
    publish(&store, &["a", "a", "a", "b", "c", "d"]).await;
    for after in 0..=3 {
        let page = read(&store, &["d", "none"], after).await;
        assert_eq!(page.trimmed.map(|trimmed| trimmed.to), (after < 2).then_some(Position(2)), "after {after}");
        assert_eq!((events_of_page(&page.events), page.through), (vec![6], Position(6)));
    }
}

fn events_of_page(events: &[Arc<switchback::event::Event>]) -> Vec<u64> {
    events.iter().map(|event| event.position().0).collect()
}

#[tokio::test]
async fn age_and_bytes_are_jetstreams_own() {
    let nats = Nats::single();
    let retention = Retention { age_max: Some(Duration::from_secs(1)), ..options().retention };
    let store = open(&nats, StoreOptions { retention, ..options() }).unwrap();
    let recorder = Recorder::following(&store, 0);
    publish(&store, &["a", "b"]).await;
    until("all events have expired", async || {
        store.maintain(Moment::at(NOW_MS));
        store.bounds().floor == Position(2)
    })
    .await;
    until("the feed is notified", async || recorder.batches().last().is_some_and(|batch| batch.floor == Position(2)))
        .await;
    assert_eq!(read(&store, &["a"], 0).await.trimmed.unwrap().to, Position(2));
    assert_eq!(publish(&store, &["a"]).await, [3], "positions are never used again");

    let retention = Retention { bytes_max: Some(10_000), ..Retention::default() };
    let store = open_jetstream(&nats.url(), "bytes", StoreOptions { retention, ..StoreOptions::default() }).unwrap();
    for _ in 0..30 {
        store.append(vec![new("a", &"x".repeat(1000)).draft(NOW_MS)]).await.unwrap();
    }
    refreshed(&store).await.unwrap();
    let kept = 30 - store.bounds().floor.0;
    assert!((5..10).contains(&kept), "{kept} of about 1 KB are kept in 10 KB");
}

#[tokio::test]
async fn nodes_share_one_log() {
    let nats = Nats::single();
    let nodes = [open(&nats, options()).unwrap(), open(&nats, options()).unwrap()];
    let recorders = nodes.each_ref().map(|node| Recorder::following(node, 0));
    // A key is known on every node, also in batches, and where two nodes race.
    assert_eq!(
        outcomes(&nodes[0].append(vec![keyed("a", "1"), keyed("a", "2")]).await.unwrap()),
        [(1, false), (2, false)]
    );
    let batch = vec![draft("b"), keyed("a", "2"), keyed("b", "2"), keyed("a", "1"), keyed("b", "2")];
    let answer = outcomes(&nodes[1].append(batch).await.unwrap());
    assert_eq!(answer, [(3, false), (2, true), (4, false), (1, true), (4, true)]);
    for round in 0..20 {
        let batch = |from: u32| (from..from + 4).map(|n| keyed("r", &format!("{round}.{n}"))).collect::<Vec<_>>();
        let raced = tokio::join!(nodes[0].append(batch(0)), nodes[1].append(batch(2)), nodes[1].append(batch(3)));
        let [one, two, three] = [raced.0, raced.1, raced.2].map(|answer| outcomes(&answer.unwrap()));
        for (one, two) in
            [(one[2], two[0]), (one[3], two[1]), (one[3], three[0]), (two[1], three[0]), (two[3], three[2])]
        {
            assert_eq!(one.0, two.0, "the same event is at one position");
            assert!(one.1 || two.1, "one of the two appends is the duplicate");
        }
    }
    let last = refreshed(&nodes[0]).await.unwrap().last;
    assert_eq!(last, Position(4 + 20 * 7));
    recorders.iter().for_each(|recorder| recorder.wait_for(last.0));
    assert_eq!(recorders[0].events(), recorders[1].events());
    // The store knows keys that a node has not received yet.
    let more = publish(&nodes[0], &["c"]).await[0];
    assert_eq!(refreshed(&nodes[1]).await.unwrap().last, Position(more));
}

#[tokio::test]
async fn nodes_share_clients_and_records() {
    let nats = Nats::single();
    let nodes = [open(&nats, options()).unwrap(), open(&nats, options()).unwrap()];
    let record = |epoch: Epoch, position, seen_ms, pattern: &str| ClientRecord {
        client: Uuid::from_u128(7),
        patterns: patterns(&[pattern]),
        cursor: Cursor::new(epoch, Position(position)),
        seen_ms,
        mode: ReadMode::default(),
        upto: None,
        owner: None,
        address: None,
    };
    let (epoch, other) = (nodes[0].bounds().epoch, "other".parse().unwrap());
    let load = async || {
        let record = nodes[0].load_client(Uuid::from_u128(7)).await.unwrap().unwrap();
        (record.cursor, record.patterns)
    };
    // A later, older record of one node does not overwrite the newer record of the other.
    for (node, saved, cursor, pattern) in [
        (0, record(other, 99, 1, "a"), Cursor::new(other, Position(99)), "a"),
        (0, record(epoch, 5, 2, "b"), Cursor::new(epoch, Position(5)), "b"),
        (1, record(epoch, 9, 3, "c"), Cursor::new(epoch, Position(9)), "c"),
        (0, record(epoch, 6, 4, "d"), Cursor::new(epoch, Position(9)), "d"),
        (1, record(other, 100, 5, "e"), Cursor::new(epoch, Position(9)), "e"),
    ] {
        nodes[node].save_clients(vec![saved]).await.unwrap();
        assert_eq!(load().await, (cursor, patterns(&[pattern])));
    }
    // A ticket is used once, on any node; a ban is known on the other node.
    let watcher = Arc::new(Watcher::default());
    nodes[1].watch_records(watcher.clone()).await.expect("the stored records");
    let record = |kind| SecurityRecord { kind, key: "k".into(), value: b"v".to_vec(), until_ms: NOW_MS + 1000 };
    for _ in 0..10 {
        nodes[0].save_record(record(SecurityRecordKind::Ticket)).await.unwrap();
        let taken = futures_util::future::join_all(
            (0..6).map(|n| nodes[n % 2].consume_record(SecurityRecordKind::Ticket, "k".into(), NOW_MS)),
        );
        assert_eq!(taken.await.into_iter().filter(|taken| taken.as_ref().unwrap().is_some()).count(), 1);
    }
    nodes[0].save_record(record(SecurityRecordKind::Ban)).await.unwrap();
    until("the other node is notified", async || watcher.records() == [record(SecurityRecordKind::Ban)]).await;
}

/// The batches that reported another log.
fn changes(batches: &[FeedBatch], first: Epoch) -> Vec<FeedBatch> {
    let mut epoch = first;
    let changed = batches.iter().filter(|batch| std::mem::replace(&mut epoch, batch.epoch) != batch.epoch);
    changed.cloned().collect()
}

#[tokio::test]
async fn a_stream_that_is_deleted_is_another_log() {
    let nats = Nats::single();
    let nodes = [open(&nats, options()).unwrap(), open(&nats, options()).unwrap()];
    let recorders = nodes.each_ref().map(|node| Recorder::following(node, 0));
    let first = nodes[0].bounds().epoch;
    publish(&nodes[0], &["a", "a", "a"]).await;
    nodes[1].save_clients(vec![]).await.unwrap();
    let context = operator(&nats).await;
    for stream in nats.streams() {
        context.delete_stream(stream).await.unwrap();
    }
    for (node, recorder) in nodes.iter().zip(&recorders) {
        until("the feed reports another log", async || {
            node.maintain(Moment::at(NOW_MS));
            !changes(&recorder.batches(), first).is_empty()
        })
        .await;
        let changed = changes(&recorder.batches(), first);
        assert_eq!((changed.len(), changed[0].after), (1, Position::ZERO));
        assert_eq!(node.bounds().epoch, changed[0].epoch);
    }
    assert_eq!(nodes[0].bounds(), refreshed(&nodes[1]).await.unwrap());
    let bounds = nodes[0].bounds();
    assert_eq!((bounds.began, bounds.floor, bounds.last), (Position::ZERO, Position::ZERO, Position::ZERO));
    assert_eq!(publish(&nodes[1], &["b"]).await, [1]);
    recorders[0].wait_for(1);
    // An answer from the deleted stream may still find nothing.
    until("the new log is read", async || events_of(&read(&nodes[0], &[">"], 0).await) == [1]).await;
    // The buckets are created again, too.
    let record = ClientRecord {
        client: Uuid::from_u128(1),
        patterns: PatternSet::default(),
        cursor: Cursor::new(bounds.epoch, Position(1)),
        seen_ms: 1,
        mode: ReadMode::default(),
        upto: None,
        owner: None,
        address: None,
    };
    nodes[0].save_clients(vec![record.clone()]).await.unwrap();
    assert_eq!(nodes[1].load_client(record.client).await.unwrap(), Some(record));
}

#[tokio::test]
async fn a_nats_that_was_away_is_caught_up_with() {
    let mut nats = Nats::single();
    let store = open(&nats, options()).unwrap();
    let recorder = Recorder::following(&store, 0);
    let mut acknowledged = publish(&store, &["a"; 10]).await;
    nats.kill(0);
    let refused = store.append(vec![draft("a")]).await;
    assert!(matches!(refused, Err(StoreError::Unavailable(_))), "{refused:?}");
    assert!(refreshed(&store).await.is_err() && store.read(request(&["a"], 0)).await.is_err());
    nats.restart(0);
    nats.wait_until_ready();
    loop {
        match store.append(vec![draft("a")]).await {
            Ok(answer) => {
                acknowledged.extend(positions(&answer));
                break;
            }
            Err(error) => assert!(matches!(error, StoreError::Unavailable(_)), "{error}"),
        }
    }
    let last = *acknowledged.last().unwrap();
    recorder.wait_for(last);
    let fed = events_of_page(&recorder.events());
    assert_eq!(fed, (1..=last).collect::<Vec<_>>(), "no gap, nothing twice");
    assert_eq!(events_of(&read(&store, &["a"], 0).await), fed);
}

#[tokio::test]
async fn a_cluster_keeps_three_copies_and_answers_from_any() {
    let mut nats = Nats::cluster();
    let store = open(&nats, options()).unwrap();
    let recorder = Recorder::following(&store, 0);
    let context = operator(&nats).await;
    let replicas = context.get_stream("test-events").await.unwrap().cached_info().config.num_replicas;
    assert_eq!(replicas, 3);
    store.append(vec![keyed("a", "1"), keyed("a", "2")]).await.unwrap();
    // Ids that are checked and unknown are stored all the same.
    for round in 0..5 {
        let fresh = format!("new {round}");
        let batch = vec![keyed("a", "2"), keyed("b", &fresh), draft("c"), keyed("a", "1")];
        let first = 3 + round * 2;
        let expected = [(2, true), (first, false), (first + 1, false), (1, true)];
        assert_eq!(outcomes(&store.append(batch).await.unwrap()), expected);
    }
    // Any leader may fail.
    let leader = nats.leader_of("test-events").unwrap();
    nats.kill(leader);
    let mut acknowledged = Vec::new();
    let mut tries = 0;
    while acknowledged.len() < 20 {
        tries += 1;
        assert!(tries < 60, "the stream has no leader");
        if let Ok(answer) = store.append(vec![keyed("d", &acknowledged.len().to_string())]).await {
            acknowledged.extend(positions(&answer));
        }
    }
    nats.restart(leader);
    recorder.wait_for(*acknowledged.last().unwrap());
    let fed = recorder.events();
    assert!(fed.iter().zip(1..).all(|(event, position)| event.position().0 == position), "no gap, nothing twice");
    assert_eq!(fed.len(), 12 + 20, "each is stored once, however often it was appended");
}

#[tokio::test]
async fn a_message_of_another_program_in_the_stream_is_an_event() {
    let nats = Nats::single();
    let store = open(&nats, options()).unwrap();
    let recorder = Recorder::following(&store, 0);
    let context = operator(&nats).await;
    for payload in ["{\"a\":1}", "text"] {
        context.publish("test.events.other.x", payload.into()).await.unwrap().await.unwrap();
    }
    let last = publish(&store, &["a"]).await[0];
    assert_eq!(last, 3);
    recorder.wait_for(3);
    let page = read(&store, &["other.*"], 0).await;
    assert_eq!(page.events, recorder.events()[..2]);
    assert_eq!(
        page.events.iter().map(|event| event.data().to_owned()).collect::<Vec<_>>(),
        [r#"{"a":1}"#, r#""text""#]
    );
    assert!(page.events[0].time_ms() > NOW_MS);
}

/// A port without a listener.
#[tokio::test]
async fn an_unreachable_nats_server_is_named_by_its_address() {
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let error = error_text(open_jetstream(&format!("nats://u:s3cret@127.0.0.1:{port}"), "test", options()));
    assert!(error.contains(&format!("nats://127.0.0.1:{port}")) && !error.contains("s3cret"), "{error}");
}
