//! State and its changes over every transport: `latest=1` in rounds, `upto`, `pace`, and the end of the past (`$live`, `live`).

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};

use crate::support::Server;
use crate::support::client::{Kind, Link, Query, Subscriber};
use crate::support::fixture::{end_of_log, numbers, over, post_events, publish, publish_all, shared, topic, uuid};
use crate::support::refusal::refusal;
use crate::support::wire::{epoch, moved, position};

over!(every: a_snapshot_then_every_change, a_slow_reader_skips_what_is_superseded, remembered_with_the_client, uptos);
over!(streams: the_past_is_over_once);
over!(batches:
    a_batch_says_whether_it_is_live,
    a_round_goes_on_where_it_is_presented,
    a_slow_reader_hears_of_every_topic_in_every_round,
);

fn server() -> Server {
    Server::start(&["--heartbeat", "1s", "--workers", "2", "--store", "memory", "--tail-events", "20"])
}

async fn a_snapshot_then_every_change(kind: Kind) {
    let server = shared();
    let topics: Vec<String> = (0..4).map(|n| format!("{}.{n}", topic("snapshot"))).collect();
    let start = end_of_log(&server).await;
    for round in 0..3 {
        for (n, topic) in topics.iter().enumerate() {
            publish(&server, topic, json!([n, round])).await;
        }
    }
    publish(&server, &topics[0], json!([0, 3])).await;
    let query = Query::topics(&topics).with("latest", 1).with("limit", 2);
    let mut subscriber = Subscriber::at(server.address(), kind, query, &start);
    assert_eq!(subscriber.values(4).await, [json!([1, 2]), json!([2, 2]), json!([3, 2]), json!([0, 3])]);
    for n in 4..7 {
        publish(&server, &topics[0], n).await;
        assert_eq!(subscriber.values(1).await, [n], "every change, once the reader has caught up");
    }
}

async fn a_slow_reader_skips_what_is_superseded(kind: Kind) {
    let server = shared();
    let topic = topic("slow");
    let mut subscriber = Subscriber::start(server.address(), kind, Query::topic(&topic).with("latest", 1)).await;
    subscriber.cut();
    let cursors = publish_all(&server, &topic, numbers(0..50)).await;
    assert_eq!(subscriber.values(1).await, [49]);
    // Without the parameter every event.
    let mut plain = Subscriber::at(server.address(), kind, Query::topic(&topic), &cursors[46]);
    assert_eq!(plain.values(3).await, numbers(47..50));
}

async fn remembered_with_the_client(kind: Kind) {
    let server = shared();
    let (topic, client) = (topic("remembered"), uuid());
    let named = Query::default().with("client", &client);
    let first = named.clone().with("topic", &topic).with("latest", 1).with("pace", 1);
    let mut subscriber = Subscriber::start(server.address(), kind, first).await;
    subscriber.cut();
    let cursors = publish_all(&server, &topic, numbers(0..5)).await;
    // By its id alone: with the patterns and the mode that are remembered.
    let mut again = Subscriber::new(server.address(), kind, named.clone());
    assert_eq!(again.values(1).await, [4]);
    again.cut();
    // What a request names stands in for what is remembered.
    let mut plain = Subscriber::at(server.address(), kind, named.with("latest", 0), &cursors[2]);
    assert_eq!(plain.values(2).await, numbers(3..5));
}

/// An `upto` that names no round is ignored, and one that names none of this log is refused.
async fn uptos(kind: Kind) {
    let server = server();
    publish_all(&server, "a", numbers(0..5)).await;
    let end = end_of_log(&server).await;
    let start = moved(&end, 0);
    let query = |upto: &str| Query::topic("a").with("cursor", &start).with("latest", 1).with("upto", upto);
    for (upto, expected) in [(moved(&end, 3), 2), (moved(&end, 0), 4), ("other-3".to_owned(), 4), (end.clone(), 4)] {
        let mut link = Link::to(server.address(), kind, &query(&upto)).await;
        let value = if kind.streams() {
            link.item().await;
            link.item().await.value()
        } else {
            link.batch().await.events[0].value()
        };
        assert_eq!(value, expected, "{kind} {upto}");
    }
    let response = query(&moved(&end, 6)).request(kind).send(server.address()).await;
    assert_eq!(refusal(kind, Some(&start), response, 400).await.0, "bad_cursor");
    // A cursor that is ahead of the log is a gap, whatever round it was in.
    let lost = Query::topic("a").with("cursor", moved(&end, 8)).with("latest", 1).with("upto", moved(&end, 9));
    let mut subscriber = Subscriber::new(server.address(), kind, lost);
    assert_eq!(subscriber.item().await.event, "$gap");
}

async fn the_past_is_over_once(kind: Kind) {
    let server = server();
    publish_all(&server, "a", numbers(0..3)).await;
    let end = end_of_log(&server).await;
    for latest in [0, 1] {
        let from = |position: u64| Query::topic("a").with("latest", latest).with("cursor", moved(&end, position));
        // With nothing behind, `$hello` says so.
        let mut link = Link::to(server.address(), kind, &from(3)).await.showing_live();
        assert_eq!(link.item().await.value()["live"], true);
        let mut link = Link::to(server.address(), kind, &from(1)).await.showing_live();
        let hello = link.item().await;
        assert!(hello.value().get("live").is_none(), "{hello:?}");
        let mut names = Vec::new();
        for _ in 0..if latest == 1 { 2 } else { 3 } {
            let item = link.telling().await;
            names.push((item.event.clone(), item.at()));
        }
        let message = |at| ("message".to_owned(), at);
        let live = ("$live".to_owned(), 3);
        let expected = if latest == 1 { vec![message(3), live] } else { vec![message(2), message(3), live] };
        assert_eq!(names, expected);
        // Where nothing in the past matches, and after the gap to another log.
        let quiet = Query::topic("quiet").with("latest", latest).with("cursor", moved(&end, 1));
        let mut link = Link::to(server.address(), kind, &quiet).await.showing_live();
        link.item().await;
        assert_eq!(link.telling().await.event, "$live");
        let other = Query::topic("a").with("latest", latest).with("cursor", "other-7");
        let mut link = Link::to(server.address(), kind, &other).await.showing_live();
        let mut names = Vec::new();
        while names.last().is_none_or(|name| name != "$live") {
            names.push(link.telling().await.event);
        }
        assert_eq!(names[..2], ["$hello", "$gap"]);
        assert_eq!(names.len(), if latest == 1 { 4 } else { 6 });
    }
}

#[tokio::test]
async fn a_websocket_begins_with_each_subscribe_that_gives_a_cursor() {
    let server = server();
    publish_all(&server, "a", numbers(0..3)).await;
    let start = moved(&end_of_log(&server).await, 0);
    let mut link = Link::to(server.address(), Kind::Ws, &Query::default().with("latest", 1)).await.showing_live();
    let hello = link.item().await;
    assert!(hello.value().get("live").is_none(), "nothing is subscribed: {hello:?}");
    for reference in [json!(7), json!("seven")] {
        link.say(&json!({ "type": "subscribe", "topics": ["a"], "cursor": start, "ref": reference })).await;
        let mut seen = Vec::new();
        while seen.len() < 3 {
            let item = link.telling().await;
            seen.push((item.event.clone(), item.value()));
        }
        seen.sort_by(|one, other| one.0.cmp(&other.0));
        assert_eq!((seen[0].0.as_str(), &seen[0].1), ("$live", &json!({ "ref": reference })));
        assert_eq!((seen[2].0.as_str(), &seen[2].1), ("message", &json!(2)), "the newest only");
        let reply = link.ask(json!({ "type": "unsubscribe", "topics": ["a"] })).await;
        assert_eq!(reply["ok"], true);
    }
    // Without a cursor it is the present, and no beginning.
    assert_eq!(link.ask(json!({ "type": "subscribe", "topics": ["a"] })).await["ok"], true);
    publish(&server, "a", 3).await;
    assert_eq!(link.telling().await.value(), 3);
}

async fn a_batch_says_whether_it_is_live(kind: Kind) {
    let server = server();
    publish_all(&server, "a", numbers(0..3)).await;
    let end = end_of_log(&server).await;
    let query = |position: u64| Query::topic("a").with("cursor", moved(&end, position)).with("wait", 0);
    let query = |position| if kind == Kind::JsonpPoll { query(position).set("wait", 0) } else { query(position) };
    for (position, limit, live) in [(0, 2, false), (0, 3, true), (1, 2, true), (3, 1, true)] {
        let batch = Link::to(server.address(), kind, &query(position).with("limit", limit)).await.batch().await;
        assert_eq!((batch.live, batch.upto), (live, None), "{position} {limit}");
    }
}

async fn a_round_goes_on_where_it_is_presented(kind: Kind) {
    let server = server();
    for n in 0..3 {
        for topic in ["t.a", "t.b", "t.c"] {
            publish(&server, topic, n).await;
        }
    }
    let end = end_of_log(&server).await;
    let query = |cursor: &str| Query::topic("t.*").with("latest", 1).with("limit", 1).with("cursor", cursor);
    let first = Link::to(server.address(), kind, &query(&moved(&end, 0))).await.batch().await;
    let cursor = first.cursor.expect("a cursor");
    assert_eq!((position(&cursor), first.upto.as_ref(), first.more, first.live), (7, Some(&end), true, false));
    // The hottest topic changes meanwhile.
    publish_all(&server, "t.b", numbers(3..30)).await;
    let presented = query(&cursor).with("upto", &end);
    let next = Link::to(server.address(), kind, &presented).await.batch().await;
    assert_eq!((next.events[0].at(), next.upto.as_ref()), (8, Some(&end)), "it is not put off");
    // Without `upto` the request is a round of its own.
    let other = Link::to(server.address(), kind, &query(&cursor)).await.batch().await;
    assert_eq!((other.events[0].at(), other.upto.is_some()), (9, true));
    assert_eq!(epoch(other.upto.as_deref().unwrap()), epoch(&end));
}

/// A reader that takes a tenth of what changes: topic 0 changes as often as all the others together, and each round has all.
async fn a_slow_reader_hears_of_every_topic_in_every_round(kind: Kind) {
    const TOPICS: usize = 20;
    const LIMIT: usize = 2;
    let server = server();
    let mut round: BTreeMap<String, u64> = BTreeMap::new();
    let (mut number, mut rounds, mut at) = (0, 0, 0);
    let (mut cursor, mut upto) = (end_of_log(&server).await, None::<String>);
    while rounds < 4 {
        let changes = (0..TOPICS).map(|change| {
            let topic = if change % 2 == 0 { 0 } else { 1 + (number * TOPICS + change) / 2 % (TOPICS - 1) };
            json!({ "topic": format!("t.{topic}"), "data": number })
        });
        post_events(&server, &json!(changes.collect::<Vec<_>>())).await;
        number += 1;
        let query = Query::topic("t.*").with("latest", 1).with("limit", LIMIT).with("cursor", &cursor);
        let query = upto.iter().fold(query, |query, upto| query.with("upto", upto));
        let batch = Link::to(server.address(), kind, &query).await.batch().await;
        cursor = batch.cursor.expect("a cursor");
        for event in batch.events {
            assert!(event.at() > at, "in log order, once");
            at = event.at();
            assert_eq!(round.insert(event.topic.expect("a topic"), at), None, "a topic comes once in a round");
        }
        upto = batch.upto;
        if upto.is_none() {
            // The first rounds began before every topic had changed.
            assert!(number < TOPICS || round.len() == TOPICS, "{round:?}");
            rounds += usize::from(number >= TOPICS);
            round.clear();
        }
    }
}

/// Thousands of topics in a log on disk that has just been opened, joined over each transport while they change: of each topic the
/// newest value, in log order, each event once. `SWITCHBACK_TEST_TOPICS` is their number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_topics_joined_mid_write() {
    let topics: u64 = std::env::var("SWITCHBACK_TEST_TOPICS").map_or(3000, |topics| topics.parse().expect("a number"));
    let server = Server::start(&["--workers", "2", "--tail-events", "50"]);
    let start = end_of_log(&server).await;
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    for value in 0..2 {
        for first in (0..topics).step_by(500) {
            let names: Vec<String> = (first..topics.min(first + 500)).map(|n| format!("t.{n}")).collect();
            let events: Vec<Value> = names.iter().map(|name| json!({ "topic": name, "data": value })).collect();
            let answer = post_events(&server, &json!(events)).await;
            let outcomes = answer["events"].as_array().expect("an outcome each");
            newest.extend(
                names
                    .into_iter()
                    .zip(outcomes)
                    .map(|(name, outcome)| (name, position(outcome["cursor"].as_str().expect("a cursor")))),
            );
        }
    }
    let server = server.stop_and_restart();
    let mut rng = rand::rng();
    for kind in Kind::ALL {
        let query = Query::topic("t.*").with("latest", 1);
        let mut subscriber = Subscriber::at(server.address(), kind, query, &start);
        let mut heard: BTreeMap<String, u64> = BTreeMap::new();
        let (mut at, mut events, mut changes) = (0, 0, 0);
        while heard != newest {
            let event = subscriber.event().await;
            assert!(event.at() > at, "{kind}: in log order, once");
            at = event.at();
            heard.insert(event.topic.expect("a topic"), at);
            events += 1;
            if events % (topics / 10) == 0 && changes < 20 {
                let topic = format!("t.{}", rng.random_range(0..topics));
                newest.insert(topic.clone(), position(&publish(&server, &topic, changes).await));
                changes += 1;
            }
        }
        assert!(events <= topics + changes, "{kind}: {events} events of {topics} topics and {changes} changes");
    }
}

/// Every ordered pair of transports, switched in the middle of a snapshot while topics change: what comes of a topic is in log
/// order and once, and its newest value is the last.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_in_the_middle_of_a_snapshot() {
    const TOPICS: u64 = 30;
    let seed: u64 = rand::random();
    println!("seed {seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let server = server();
    let address = server.address();
    let start = end_of_log(&server).await;
    let mut newest: BTreeMap<String, u64> = BTreeMap::new();
    let change = async |n: u64, newest: &mut BTreeMap<String, u64>| {
        let topic = format!("t.{}", n % TOPICS);
        let cursor = publish(&server, &topic, n).await;
        newest.insert(topic, position(&cursor));
    };
    for n in 0..3 * TOPICS {
        change(n, &mut newest).await;
    }
    for from in Kind::ALL {
        for to in Kind::ALL.into_iter().filter(|to| *to != from) {
            let query = Query::topic("t.*").with("latest", 1).with("limit", 7);
            let mut subscriber = Subscriber::at(address, from, query, &start);
            let mut heard: BTreeMap<String, u64> = BTreeMap::new();
            let (mut at, mut events) = (0, 0);
            let before = rng.random_range(1..TOPICS);
            while heard != newest {
                if events == before {
                    for _ in 0..3 {
                        change(rng.random_range(0..TOPICS), &mut newest).await;
                    }
                    subscriber.switch(to);
                }
                let event = subscriber.event().await;
                assert!(event.at() > at, "{from} to {to}: in log order, once");
                at = event.at();
                events += 1;
                heard.insert(event.topic.expect("a topic"), at);
            }
            assert!(events <= TOPICS + 3, "{from} to {to}: {events} events");
        }
    }
}

/// At most one run in the time of the pace; over what was published since, only the newest.
#[tokio::test]
async fn a_paced_stream_is_sent_the_newest_in_each_run() {
    let server = server();
    let query = Query::topic("a").with("latest", 1).with("pace", 60_000);
    let mut link = Link::to(server.address(), Kind::Stream, &query).await;
    assert_eq!(link.item().await.event, "$hello");
    publish(&server, "a", 0).await;
    assert_eq!(link.telling().await.value(), 0);
    publish(&server, "a", 1).await;
    // Beats are not paced. They end where the run did.
    for _ in 0..2 {
        let beat = link.item().await;
        assert_eq!((beat.event.as_str(), beat.at(), beat.upto), ("$beat", 1, None));
    }
    // Another connection is another run.
    let cursor = moved(&end_of_log(&server).await, 1);
    let batch = Link::to(server.address(), Kind::Poll, &query.with("cursor", cursor)).await.batch().await;
    assert_eq!(batch.events.iter().map(|event| event.value()).collect::<Vec<Value>>(), [1]);
}
