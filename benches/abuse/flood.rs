//! One address publishes as fast as it can, beyond its pace in events or in bytes, while other publishers stay far below theirs.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::common::{Memory, Row, Times, connect, publish};
use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw;

const SECONDS: u64 = 15;

const FLOODER: Ipv4Addr = Ipv4Addr::new(127, 0, 9, 9);

/// Connections of the flooding address.
const LANES: u64 = 16;
/// The other publishers, each with an address of its own.
const OTHERS: usize = 20;
const EVERY: Duration = Duration::from_millis(50);

/// What the flooding address publishes.
#[derive(Clone, Copy)]
pub(crate) enum Flood {
    /// Short events, beyond the pace in events.
    Events,
    /// Events near the limit of one, beyond the pace in bytes.
    Bytes,
}

impl Flood {
    fn flags(self) -> [&'static str; 4] {
        match self {
            Self::Events => ["--publish-rate-per-address", "1000", "--publish-burst", "1000"],
            // The default of a server that does not listen on loopback only; the pace in events is far away.
            Self::Bytes => ["--publish-bytes-per-address", "4MiB", "--publish-rate-per-address", "100000"],
        }
    }

    fn name(self) -> &'static str {
        match self {
            Self::Events => "short events, limited to 1000 a second",
            Self::Bytes => "events of 200 KB, limited to 4 MiB a second",
        }
    }

    fn event(self, lane: u64, number: u64) -> Value {
        let fill = match self {
            Self::Events => String::new(),
            Self::Bytes => "x".repeat(200_000),
        };
        json!({ "topic": "flood", "data": [lane, number, fill] })
    }
}

pub(crate) async fn run(flood: Flood) -> Row {
    let server = Server::start(&flood.flags());
    let memory = Memory::of(&server).await;
    let mut calm = others(&server).await;
    let mut lanes = tokio::task::JoinSet::new();
    let begun = Instant::now();
    for lane in 0..LANES {
        let address = server.address().to_owned();
        lanes.spawn(async move {
            let connect = || Connection::from(FLOODER, &address);
            let mut connection = connect().await.expect("connected");
            let (mut taken, mut refused) = (0_u64, 0_u64);
            while begun.elapsed() < Duration::from_secs(SECONDS) {
                match try_publish(&mut connection, &flood.event(lane, taken)).await {
                    Ok(201) => taken += 1,
                    Ok(429) => refused += 1,
                    Ok(status) => panic!("{status}"),
                    // A refusal without its body's end ends the connection, which may discard the response.
                    Err(_) => {
                        refused += 1;
                        connection = connect().await.expect("connected");
                    }
                }
            }
            (taken, refused)
        });
    }
    let mut flooded = others(&server).await;
    let lanes = lanes.join_all().await;
    let taken: u64 = lanes.iter().map(|(taken, _)| taken).sum();
    let refused: u64 = lanes.iter().map(|(_, refused)| refused).sum();
    let stored = raw::history(server.address(), "flood").await.len() as u64;
    // What was acknowledged is there; of a publish whose response was lost it is not known.
    assert!((taken..=taken + refused).contains(&stored), "{stored} of {taken}");
    assert_eq!(raw::history(server.address(), "beside").await.len(), calm.len() + flooded.len());
    let (p99_before, p99) = (calm.percentile(0.99), flooded.percentile(0.99));
    Row {
        what: format!(
            "one address floods for {SECONDS} s with {}; {OTHERS} others publish 20 a second each",
            flood.name()
        ),
        how: format!(
            "{} requests/s, of which {} events/s taken, the rest refused; the others' publishes before: {}; \
             meanwhile: {}, none refused; p99 x {:.1}",
            (taken + refused) / SECONDS,
            taken / SECONDS,
            calm.short(),
            flooded.short(),
            p99 / p99_before.max(f64::EPSILON),
        ),
        memory: memory.settled().await,
    }
}

async fn try_publish(connection: &mut Connection, event: &Value) -> std::io::Result<u16> {
    let body = event.to_string();
    connection.post("/v1/events", "application/json", body.as_bytes()).await?;
    Ok(connection.answer().await?.status())
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
