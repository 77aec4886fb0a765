//! Sparse subscriptions: a reader of very few events in a long log.

use std::sync::Arc;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use switchback::store::{DiskStore, ReadRequest, Store as _};
use switchback::topic::PatternSet;
use switchback::{Position, StoreOptions};

use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{self, Items, position};

const EVENTS: u64 = 200_000;

/// One of this number of events matches.
const EVERY: u64 = 100_000;

const BATCH: u64 = 1000;

#[tokio::test]
async fn a_sparse_reader_gets_its_few_events_and_scans_few_others() {
    let server = Server::start(&[]);
    let mut connection = Connection::open(server.address()).await.expect("connected");
    let mut rare = Vec::new();
    for first in (0..EVENTS).step_by(BATCH as usize) {
        let events: Vec<Value> = (first..first + BATCH)
            .map(|number| match number % EVERY == EVERY / 2 {
                true => json!({ "topic": "rare.one", "data": number }),
                false => json!({ "topic": format!("common.{}", number % 10), "data": number }),
            })
            .collect();
        let body = Value::from(events).to_string();
        connection.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
        let answer = super::within("an answer", connection.answer()).await.expect("an answer");
        assert_eq!(answer.status(), 201);
        let outcomes = answer.json()["events"].as_array().cloned().expect("outcomes");
        rare.extend((first..first + BATCH).zip(outcomes).filter(|(number, _)| number % EVERY == EVERY / 2));
    }
    let rare: Vec<(u64, u64)> = rare.iter().map(|(number, outcome)| (*number, position(&outcome["cursor"]))).collect();
    assert_eq!(rare.len() as u64, EVENTS / EVERY);

    // All matching events are behind the tail, which is warmed with only the newest events.
    let mut server = server.stop_and_restart();
    let address = server.address().to_owned();
    let found = |items: &[Value]| -> Vec<(u64, u64)> {
        items.iter().map(|item| (item["data"].as_u64().expect("a number"), position(&item["cursor"]))).collect()
    };
    for pattern in ["rare.one", "rare.*", "rare.%3E", "*.one"] {
        assert_eq!(found(&raw::history(&address, pattern).await), rare, "{pattern}");
        for transport in raw::STREAMS {
            let query = format!("topic={pattern}&cursor=earliest");
            let mut items = Items::open(&address, transport, &query).await.expect("open");
            for expected in &rare {
                assert_eq!(found(&[items.news().await]), [*expected], "{pattern} over {transport}");
            }
        }
    }
    let (_, last) = raw::poll(&address, "/v1/poll?topic=rare.one&last=1").await.expect("a batch");
    assert_eq!(found(&last), rare[1..]);

    // Rows and pages are counted on the same files, without the server.
    server.signal(Signal::SIGTERM);
    assert!(super::end_of(&mut server).await.success());
    let store = Arc::new(DiskStore::open(&server.data(), StoreOptions::default()).expect("the log"));
    let mut after = Position(0);
    let (mut rows, mut events, mut pages) = (0, 0, 0);
    while after < store.bounds().last {
        let patterns = PatternSet::new(["rare.*".parse().expect("a pattern")]).expect("patterns");
        let request =
            ReadRequest { patterns, after, events_max: 1, bytes_max: 1 << 20, rows_max: 1000, latest_upto: None };
        let page = store.read(request).await.expect("a page");
        assert!(page.through > after, "an empty page advances");
        rows += page.rows;
        events += page.events.len();
        pages += 1;
        after = page.through;
    }
    assert_eq!(events, rare.len());
    assert!(rows <= 10 && pages <= 5, "{rows} rows in {pages} pages for {events} events");
    store.close().await;
}
