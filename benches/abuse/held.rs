//! One address uses up memory or CPU time: with incomplete messages and bodies, unread responses, patterns, scans without a
//! match, acknowledgements of unknown ids, invalid requests. The memory it takes is bounded, and other clients are hardly
//! slowed: the table has, for each attack, the peak of memory, and the latency of other publishers before and during it.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use bytes::Bytes;
use serde_json::{Value, json};

use crate::common::{Memory, Row, Times, connect, publish};
use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::masked;

/// The attacker's address.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// The interval between the other clients' publishes.
const EVERY: Duration = Duration::from_millis(10);

/// The other clients' publishes that are measured without an attack.
const CALM: u32 = 500;

/// An attack.
#[derive(Clone, Copy)]
enum Attack {
    HalfMessages,
    HalfBodies,
    UnreadErrors,
    UnreadStreams,
    Patterns,
    Searches,
    Acknowledgements,
    BadRequests,
}

/// Runs the attacks whose short names are wanted, in sequence, each on a fresh server.
pub(crate) async fn run(is_selected: impl Fn(&str) -> bool, mut print: impl FnMut(Row)) {
    for attack in Attack::ALL.into_iter().filter(|attack| is_selected(attack.short())) {
        print(one(attack).await);
    }
}

async fn one(attack: Attack) -> Row {
    // The defaults of a server that does not listen on loopback only.
    let server = Server::start(&[
        "--request-rate-per-address",
        "100",
        "--connect-rate-per-address",
        "200",
        "--max-held-per-address",
        "1000",
        "--max-connections-per-address",
        "1000",
    ]);
    if let Attack::UnreadStreams | Attack::Searches = attack {
        fill(&server, attack).await;
    }
    let requests = attack.requests();
    let memory = Memory::of(&server).await;
    let (mut calm, ()) = beside(&server, tokio::time::sleep(EVERY * CALM)).await;
    let before = memory.now_kib();
    let address = server.address().to_owned();
    // On a thread of its own: what the attack computes is no latency of the server's.
    let attacking = tokio::task::spawn_blocking(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let held = connections(&address, requests).await;
            tokio::time::sleep(attack.lasts()).await;
            drop(held);
        });
    });
    let (mut times, attacked) = beside(&server, attacking).await;
    attacked.expect("the attack ends");
    let memory = memory.settled().await;
    let (p99_before, p99) = (calm.percentile(0.99), times.percentile(0.99));
    let times_more = if p99_before > 0.0 { p99 / p99_before } else { 0.0 };
    Row {
        what: format!(
            "one address, {} times for {} s: {}",
            attack.connections_max(),
            attack.lasts().as_secs(),
            attack.name()
        ),
        how: format!(
            "holds at most {} MiB; the others' publishes before: {}; meanwhile: {}, none refused; p99 x {times_more:.1}",
            memory[1].saturating_sub(before).div_ceil(1024),
            calm.short(),
            times.short(),
        ),
        memory,
    }
}

/// Publishes the events that the attack reads, or leaves unread.
async fn fill(server: &Server, attack: Attack) {
    for number in 0..100 {
        let event = match attack {
            Attack::UnreadStreams => json!({ "topic": "long", "data": "x".repeat(200_000) }),
            _ => Value::from_iter((0..1000).map(|event| json!({ "topic": format!("t{event}.x"), "data": number }))),
        };
        server.publish(&event).await;
    }
}

/// Publishes from other addresses while the attack runs; no publish may be refused.
async fn beside<T>(server: &Server, work: impl Future<Output = T>) -> (Times, T) {
    let mut work = std::pin::pin!(work);
    let mut connection = connect(0, server.address()).await;
    let (mut times, mut ticks) = (Times::default(), tokio::time::interval(EVERY));
    loop {
        tokio::select! {
            outcome = &mut work => return (times, outcome),
            _ = ticks.tick() => {
                let begun = Instant::now();
                assert_eq!(publish(&mut connection, &json!({ "topic": "beside", "data": 1 })).await.0, 201);
                times.push(begun.elapsed());
            }
        }
    }
}

/// The attack's open connections; the server may have closed some.
async fn connections(address: &str, requests: Vec<Bytes>) -> Vec<Connection> {
    let mut held = Vec::new();
    for request in requests {
        let mut connection = Connection::from(ATTACKER, address).await.expect("connected");
        // The server may refuse the request while it is being sent.
        let _ = connection.send(request).await;
        held.push(connection);
    }
    held
}

impl Attack {
    const ALL: [Self; 8] = [
        Self::HalfMessages,
        Self::HalfBodies,
        Self::UnreadErrors,
        Self::UnreadStreams,
        Self::Patterns,
        Self::Searches,
        Self::Acknowledgements,
        Self::BadRequests,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::HalfMessages => "half messages of 16 MiB on `/v1/echo`",
            Self::HalfBodies => "half bodies of 4 MiB",
            Self::UnreadErrors => "errors on sockets that are not read",
            Self::UnreadStreams => "streams of events of 200 KB that are not read",
            Self::Patterns => "streams with 64 patterns of 250 bytes",
            Self::Searches => "searches from the beginning of 100,000 events with 64 patterns that match none",
            Self::Acknowledgements => "1000 acknowledgements of unknown ids",
            Self::BadRequests => "1000 bad requests",
        }
    }

    fn short(self) -> &'static str {
        match self {
            Self::HalfMessages => "half-messages",
            Self::HalfBodies => "half-bodies",
            Self::UnreadErrors => "unread-errors",
            Self::UnreadStreams => "unread-streams",
            Self::Patterns => "patterns",
            Self::Searches => "searches",
            Self::Acknowledgements => "acknowledgements",
            Self::BadRequests => "bad-requests",
        }
    }

    fn connections_max(self) -> usize {
        match self {
            Self::UnreadStreams | Self::Patterns => 900,
            Self::Searches => 20,
            _ => 16,
        }
    }

    /// How long the attack keeps its connections: beyond the deadline of incomplete bodies (30 s).
    fn lasts(self) -> Duration {
        match self {
            Self::HalfMessages | Self::HalfBodies => Duration::from_secs(35),
            _ => Duration::from_secs(10),
        }
    }

    /// What each of the attack's connections sends. Prepared in advance: it is up to 16 MiB.
    fn requests(self) -> Vec<Bytes> {
        match self {
            Self::Patterns | Self::Searches => {
                (0..self.connections_max()).map(|number| self.request(number).into()).collect()
            }
            _ => vec![self.request(0).into(); self.connections_max()],
        }
    }

    fn request(self, number: usize) -> Vec<u8> {
        let patterns = |long: usize| {
            let pattern = |index| format!("topic=p{number}.{index}.{}", "a".repeat(long));
            (0..64).map(pattern).collect::<Vec<_>>().join("&")
        };
        match self {
            Self::HalfMessages => {
                let mut half = masked(0x82, &vec![b'x'; (16 << 20) - 14]);
                half.pop();
                [upgrade("/v1/echo").as_bytes(), &half].concat()
            }
            Self::HalfBodies => {
                let head = "POST /v1/events HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 4194304\r\n\r\n";
                [head.as_bytes(), &vec![b' '; (4 << 20) - 1]].concat()
            }
            Self::UnreadErrors => {
                let message = masked(0x81, format!("\"{}\"", "\u{7f}".repeat((1 << 20) - 2)).as_bytes());
                [upgrade("/v1/ws").as_bytes(), &message.repeat(4)].concat()
            }
            Self::UnreadStreams => get("/v1/stream?topic=long&cursor=earliest"),
            Self::Patterns => get(&format!("/v1/stream?{}", patterns(235))),
            Self::Searches => {
                get(&format!("/v1/stream?cursor=earliest&{}", patterns(1).replace("topic=p", "topic=*.p")))
            }
            Self::Acknowledgements => {
                let one = || {
                    let body = format!(r#"{{"client":"{}","cursor":"00000000-0"}}"#, uuid::Uuid::new_v4());
                    let length = body.len();
                    format!(
                        "POST /v1/ack HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
                    )
                };
                (0..1000).map(|_| one()).collect::<String>().into_bytes()
            }
            Self::BadRequests => get("/v1/poll?limit=x").repeat(1000),
        }
    }
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").into_bytes()
}

fn upgrade(path: &str) -> String {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
}
