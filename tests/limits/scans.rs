//! The scan budget: how many rows of the log one address may make the server scan without a match, with complete results.

use serde_json::{Value, json};

use super::counts::assert_refused;
use crate::support::Server;
use crate::support::http::{Answer, Connection};
use crate::support::raw::{self, STREAMS};

/// The number of topics: so many that a pattern with wildcards needs a scan row by row.
const TOPICS: usize = 6000;

/// A server with an event on each of many topics, and the searched event at the end.
async fn server(store: &str, flags: &[&str]) -> Server {
    let server = Server::start(&[&["--store", store, "--tail-events", "1000"], flags].concat());
    let all: Vec<Value> =
        (0..TOPICS).map(|number| json!({ "topic": format!("many.{number}.a"), "data": number })).collect();
    for events in all.chunks(1000) {
        assert_eq!(raw::post(server.address(), &json!(events)).await.expect("an answer").status(), 201);
    }
    assert_eq!(
        raw::post(server.address(), &json!({ "topic": "few.1.b", "data": 1 })).await.expect("an answer").status(),
        201
    );
    server
}

/// A path with the maximum number of patterns, all of which have to be compared.
fn path(transport: &str, more: &str) -> String {
    let absent: Vec<String> = (0..63).map(|number| format!("topic=*.*.x{number}")).collect();
    format!("/v1/{transport}?{}&topic=*.*.b{more}", absent.join("&"))
}

async fn get(server: &Server, path: &str) -> Answer {
    super::within(path, raw::get(server.address(), path)).await.expect("an answer")
}

#[tokio::test]
async fn a_poll_is_cut_where_it_has_looked_enough_and_goes_on_from_there() {
    for store in ["memory", "disk"] {
        let server = server(store, &["--scan-rate-per-address", "0"]).await;
        let (mut cursor, mut polls) = ("earliest".to_owned(), 0);
        let batch = loop {
            let batch = get(&server, &path("poll", &format!("&cursor={cursor}"))).await.json();
            polls += 1;
            if batch["events"] != json!([]) {
                break batch;
            }
            assert_eq!(batch["more"], true, "there is more to scan: {batch}");
            assert_ne!(batch["cursor"], cursor, "the cursor advances");
            cursor = batch["cursor"].as_str().expect("a cursor").to_owned();
        };
        assert!(polls > 1, "{store}: one request scanned everything");
        assert_eq!(batch["events"][0]["topic"], "few.1.b");
    }
}

#[tokio::test]
async fn fruitless_scans_of_one_peer_are_limited_in_rate() {
    for store in ["memory", "disk"] {
        let server = server(store, &["--scan-rate-per-address", "50"]).await;
        // The request scans some hundred rows, which are charged to its budget.
        let answer = get(&server, &path("poll", "&cursor=earliest")).await;
        assert_eq!((answer.status(), &answer.json()["more"]), (200, &json!(true)), "{answer:?}");
        for path in [path("poll", "&last=1"), path("longpoll", "&cursor=earliest"), path("sse", "")] {
            let answer = get(&server, &path).await;
            assert_refused(&answer, 429, "too_fast");
            assert!(answer.text().contains("--scan-rate-per-address"), "the error names the flag: {answer:?}");
        }
        // Publishing and other addresses are not affected.
        assert_eq!(
            raw::post(server.address(), &json!({ "topic": "a", "data": 1 })).await.expect("an answer").status(),
            201
        );
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.78:0".parse().expect("an address")).expect("bound");
        let stream = socket.connect(server.address().parse().expect("an address")).await.expect("connected");
        let mut other = Connection::on(stream);
        other.get("/v1/poll?topic=a&last=1").await.expect("sent");
        assert_eq!(other.answer().await.expect("an answer").json()["events"][0]["data"], 1);
    }
}

/// A stream over its scan budget stays open with heartbeats, and finds its event at the end.
#[tokio::test]
async fn a_stream_in_debt_waits_and_misses_nothing() {
    for transport in STREAMS {
        let flags = ["--scan-rate-per-address", "3000", "--heartbeat", "100ms"];
        let server = server("memory", &flags).await;
        let query = path("", "&cursor=earliest");
        let query = query.split_once('?').expect("a query").1;
        let mut items = raw::Items::open(server.address(), transport, query).await.expect("open");
        items.named("$beat").await;
        let found = items.news().await;
        assert_eq!((&found["topic"], &found["data"]), (&json!("few.1.b"), &json!(1)), "{transport}");
    }
}
