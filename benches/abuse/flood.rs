//! One address publishes as fast as it can, beyond its rate limit, while other publishers stay far below theirs.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Memory, Row, Times, connect, publish};
use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw;

const RATE: u64 = 1000;
const SECONDS: u64 = 15;

/// Connections of the flooding address.
const LANES: u64 = 16;
/// The other publishers, each with an address of its own.
const OTHERS: usize = 20;
const EVERY: Duration = Duration::from_millis(50);

pub(crate) async fn run() -> Row {
    let rate = RATE.to_string();
    let server = Server::start(&["--publish-rate-per-address", &rate, "--publish-burst", &rate]);
    let memory = Memory::of(&server).await;
    let mut calm = others(&server).await;
    let mut lanes = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for lane in 0..LANES {
        let address = server.address().to_owned();
        lanes.spawn(async move {
            let mut connection = Connection::from(Ipv4Addr::new(127, 0, 9, 9), &address).await.expect("connected");
            let (mut taken, mut refused) = (0_u64, 0_u64);
            while begun.elapsed() < Duration::from_secs(SECONDS) {
                let event = json!({ "topic": "flood", "data": [lane, taken] });
                match publish(&mut connection, &event).await.0 {
                    201 => taken += 1,
                    429 => refused += 1,
                    status => panic!("{status}"),
                }
            }
            (taken, refused)
        });
    }
    let mut flooded = others(&server).await;
    let lanes = lanes.join_all().await;
    let taken: u64 = lanes.iter().map(|(taken, _)| taken).sum();
    let refused: u64 = lanes.iter().map(|(_, refused)| refused).sum();
    assert_eq!(raw::history(server.address(), "flood").await.len() as u64, taken, "what was acknowledged is there");
    assert_eq!(raw::history(server.address(), "beside").await.len(), calm.len() + flooded.len());
    Row {
        what: format!(
            "one address floods for {SECONDS} s, limited to {RATE} events/s; {OTHERS} others publish 20 a second each"
        ),
        how: format!(
            "{} requests/s, of which {} events/s taken, the rest answered 429; the others' publishes before: {}; \
             meanwhile: {}, none refused",
            (taken + refused) / SECONDS,
            taken / SECONDS,
            calm.short(),
            flooded.short(),
        ),
        memory: memory.settled().await,
    }
}

/// The other publishers publish for a while.
async fn others(server: &Server) -> Times {
    let mut all = tokio::task::JoinSet::new();
    for number in 0..OTHERS {
        let address = server.address().to_owned();
        all.spawn(async move {
            // Each from its own address: `connect` shares an address among many.
            let mut connection = connect(number * 2000, &address).await;
            let (mut times, mut ticks) = (Times::default(), tokio::time::interval(EVERY));
            for number in 0..SECONDS * 1000 * 2 / 3 / EVERY.as_millis() as u64 {
                ticks.tick().await;
                let begun = Instant::now();
                assert_eq!(publish(&mut connection, &json!({ "topic": "beside", "data": number })).await.0, 201);
                times.push(begun.elapsed());
            }
            times
        });
    }
    let mut times = Times::default();
    for other in all.join_all().await {
        times.extend(other);
    }
    times
}
