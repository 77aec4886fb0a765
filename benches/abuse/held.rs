//! One address that makes the server hold what it can: half messages, half bodies, errors that nobody reads, probes and bad
//! requests as fast as they go. What it holds has an end, and the others notice little.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::{Memory, Row, Times, connect, publish};
use crate::support::Server;
use crate::support::raw::{Connection, masked};

/// Where the attacker sits.
const ATTACKER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);

/// Connections of each kind.
const SOCKETS: usize = 16;

/// How long each attack lasts, which is longer than a half may (30 s).
const LASTS: Duration = Duration::from_secs(35);

/// How often the others publish.
const EVERY: Duration = Duration::from_millis(10);

/// Publishes of the others that are measured without an attack, and with each.
const CALM: usize = 500;

/// What it does.
#[derive(Clone, Copy)]
enum Attack {
    HalfMessages,
    HalfBodies,
    UnreadErrors,
    BadRequests,
}

pub(crate) async fn run() -> Row {
    let server = Server::start(&["--request-rate-per-address", "100"]);
    let memory = Memory::of(&server).await;
    let (mut calm, _) = beside(&server, async { tokio::time::sleep(EVERY * CALM as u32).await }).await;
    let mut how = vec![format!("publishing without it {}", calm.short())];
    for attack in Attack::ALL {
        let before = memory.now_kib();
        let address = server.address().to_owned();
        let attacking = async {
            let held = attack.connections(&address).await;
            let most = memory.now_kib().saturating_sub(before);
            tokio::time::sleep(LASTS).await;
            drop(held);
            most
        };
        let (mut times, most) = beside(&server, attacking).await;
        let (name, mib) = (attack.name(), most.div_ceil(1024));
        how.push(format!("{name}: holds {mib} MiB, publishing beside it {}", times.short()));
    }
    Row {
        what: format!("one address, {SOCKETS} connections of each kind, {} s each", LASTS.as_secs()),
        how: how.join("; "),
        memory: memory.settled().await,
    }
}

/// Publishes from other addresses as long as something goes on; none of it may be refused.
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

impl Attack {
    const ALL: [Self; 4] = [Self::HalfMessages, Self::HalfBodies, Self::UnreadErrors, Self::BadRequests];

    fn name(self) -> &'static str {
        match self {
            Self::HalfMessages => "half messages",
            Self::HalfBodies => "half bodies",
            Self::UnreadErrors => "errors that are not read",
            Self::BadRequests => "bad requests",
        }
    }

    /// Connections that hold what they can; the server may have closed some.
    async fn connections(self, address: &str) -> Vec<Connection> {
        let mut held = Vec::new();
        for _ in 0..SOCKETS {
            let mut connection = Connection::from(ATTACKER, address).await.expect("connected");
            // It may be refused in the middle of it.
            let _ = connection.send(self.bytes()).await;
            held.push(connection);
        }
        held
    }

    fn bytes(self) -> Vec<u8> {
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
            Self::BadRequests => b"GET /v1/poll?limit=x HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1000),
        }
    }
}

fn upgrade(path: &str) -> String {
    let key = "dGhlIHNhbXBsZSBub25jZQ==";
    format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n"
    )
}
