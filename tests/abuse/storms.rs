//! Connection storms: mass reconnects, publish floods, and slow requests; other clients are served meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::follower::{Follower, KINDS};
use crate::support::http::Connection;
use crate::support::raw;
use crate::support::watched;

const CROWD: usize = 300;

/// The number of events before the restart, and after it.
const HALF: u64 = 200;

async fn publish(server: &Server, numbers: std::ops::Range<u64>) {
    for first in numbers.clone().step_by(20) {
        let batch: Vec<Value> =
            (first..(first + 20).min(numbers.end)).map(|n| json!({ "topic": "storm", "data": { "n": n } })).collect();
        server.publish(&Value::from(batch)).await;
    }
}

/// Reconnect storm: hundreds of clients reconnect at once after a restart, over every transport; each gets the exact sequence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconnect_storm_loses_nothing() {
    let mut server = Server::start(&[]);
    let address = server.address().to_owned();
    let cursor = raw::get(&address, "/v1/info").await.expect("an answer").json()["cursor"].clone();
    let (begun, connects) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = Arc::new(AtomicU64::new(0));
    let crowd: Vec<_> = (0..CROWD)
        .map(|number| {
            let mut follower =
                Follower::new(KINDS[number % KINDS.len()], "storm", cursor.as_str().expect("a cursor"), seen.clone());
            let (address, begun, connects) = (address.clone(), begun.clone(), connects.clone());
            tokio::spawn(async move {
                let mut first = true;
                while follower.next < 2 * HALF {
                    let Ok(connection) = Connection::open(&address).await else {
                        tokio::time::sleep(Duration::from_millis(rand::random_range(5..50))).await;
                        continue;
                    };
                    connects.fetch_add(1, Ordering::Relaxed);
                    let greeted = || {
                        begun.fetch_add(usize::from(first), Ordering::Relaxed);
                    };
                    // After any end, the client resumes at its cursor.
                    let _ = follower.follow(connection, 2 * HALF, greeted).await;
                    first = false;
                }
                follower.faults
            })
        })
        .collect();
    super::until("the crowd", async || begun.load(Ordering::Relaxed) == CROWD).await;
    publish(&server, 0..HALF).await;
    let all = CROWD as u64 * HALF;
    super::until("the first half", async || seen.load(Ordering::Relaxed) >= all).await;
    server = server.kill_and_restart();
    publish(&server, HALF..2 * HALF).await;
    for follower in crowd {
        let faults = super::within("a follower", follower).await.expect("a follower");
        assert!(faults.is_empty(), "{faults:?}");
    }
    assert!(connects.load(Ordering::Relaxed) >= 2 * CROWD, "every client connected twice");
    assert_eq!(raw::history(&address, "storm").await.len() as u64, 2 * HALF);
}

/// A flooding publisher gets a retry delay, its accepted events are kept, and others publish unhindered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_is_dammed_and_others_publish() {
    let flags = ["--publish-rate-per-address", "20", "--publish-burst", "40"];
    let (server, errors) = watched::watched(&flags);
    let address = server.address().to_owned();
    let flood = (0..4).map(|lane: u64| {
        let address = address.clone();
        tokio::spawn(async move {
            let mut connection = Connection::from([127, 0, 0, 9].into(), &address).await.expect("connected");
            let (mut taken, mut refused) = (0, 0);
            for number in 0..200_u64 {
                let body = json!({ "topic": "flood", "data": [lane, number] }).to_string();
                connection.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
                let answer = connection.answer().await.expect("an answer");
                match answer.status() {
                    201 => taken += 1,
                    429 => {
                        let wait: u64 = answer.head.header("retry-after").expect("when").parse().expect("seconds");
                        assert!(wait <= 60, "{wait}");
                        refused += 1;
                    }
                    _ => panic!("{}", answer.text()),
                }
            }
            (taken, refused)
        })
    });
    let flood: Vec<_> = flood.collect();
    let mut beside = Connection::from([127, 0, 0, 8].into(), &address).await.expect("connected");
    for number in 0..30 {
        let body = json!({ "topic": "beside", "data": number }).to_string();
        beside.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
        let answer = beside.answer().await.expect("an answer");
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
    let (mut taken, mut refused) = (0, 0);
    for lane in flood {
        let (lane_taken, lane_refused) = super::within("a lane", lane).await.expect("a lane");
        taken += lane_taken;
        refused += lane_refused;
    }
    assert!(taken >= 40 && refused > 0, "{taken} taken, {refused} refused");
    assert_eq!(raw::history(&address, "flood").await.len(), taken, "what was acknowledged is there, and no more");
    assert_eq!(raw::history(&address, "beside").await.len(), 30);
    watched::check_unharmed(&server, &errors).await;
}

/// Hundreds of clients that send their requests a byte at a time (slowloris) are cut, and do not delay others meanwhile.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dawdlers_are_cut_and_others_are_served() {
    let (server, errors) = watched::watched(&["--header-timeout", "2s", "--body-timeout", "2s"]);
    let address = server.address().to_owned();
    let host = "Host: localhost\r\n";
    let heads = [
        (format!("GET /v1/info HTTP/1.1\r\n{host}X-Slow: "), "x"),
        (
            format!("POST /v1/events HTTP/1.1\r\n{host}Content-Type: application/json\r\nContent-Length: 9999\r\n\r\n"),
            " ",
        ),
        (
            format!(
                "POST /v1/topics/a HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Type: text/plain\r\n\r\n"
            ),
            "1\r\nx\r\n",
        ),
    ];
    let dawdlers: Vec<_> = (0..CROWD)
        .map(|number| {
            let address = address.clone();
            let (head, drop) = heads[number % heads.len()].clone();
            tokio::spawn(async move {
                let mut connection = Connection::open(&address).await.expect("connected");
                connection.send(&head).await.expect("sent");
                loop {
                    let sent = connection.send(drop).await;
                    match tokio::time::timeout(Duration::from_millis(200), connection.fill()).await {
                        Err(_) => assert!(sent.is_ok(), "the server neither responds nor reads"),
                        Ok(Ok(false)) => {}
                        Ok(Ok(true) | Err(_)) => return connection.buffer,
                    }
                }
            })
        })
        .collect();
    let mut served = 0;
    while served < 50 || dawdlers.iter().any(|dawdler| !dawdler.is_finished()) {
        let published = server.publish(&json!({ "topic": "served", "data": served })).await;
        let (_, events) = raw::poll(&address, "/v1/poll?topic=served&last=1").await.expect("a batch");
        assert_eq!(events[0]["cursor"], published["cursor"]);
        served += 1;
        assert!(served < 100_000, "the slow clients are not cut");
    }
    for dawdler in dawdlers {
        let said = super::within("the end of the slow client", dawdler).await.expect("cut");
        let said = String::from_utf8_lossy(&said);
        assert!(said.is_empty() || said.starts_with("HTTP/1.1 408"), "{said}");
    }
    assert!(raw::history(&address, "a").await.is_empty());
    watched::check_unharmed(&server, &errors).await;
}
