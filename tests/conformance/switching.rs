//! Transport switching, the central promise: for every ordered pair of transports, with switches at random moments under load,
//! each event is delivered in order, once. Also while the server is stopped or killed, and while responses are lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::support::client::{Failure, Kind, Query, Subscriber};
use crate::support::fixture::{end_of_log, uuid};
use crate::support::http::Request;
use crate::support::wire::{Item, position};
use crate::support::{Server, within};

/// The fault that is injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trouble {
    Nothing,
    Stop,
    Kill,
    LostAnswers,
}

/// Events that the two publishers store.
const EVENTS: usize = 360;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_under_load() {
    every_pair(Trouble::Nothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_while_the_server_is_stopped() {
    every_pair(Trouble::Stop).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_while_the_server_is_killed() {
    every_pair(Trouble::Kill).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_pair_while_answers_are_lost() {
    every_pair(Trouble::LostAnswers).await;
}

async fn every_pair(trouble: Trouble) {
    let seed: u64 = match std::env::var("CONFORMANCE_SEED") {
        Ok(text) => text.parse().expect("CONFORMANCE_SEED is a number"),
        Err(_) => rand::random(),
    };
    println!("{trouble:?}: CONFORMANCE_SEED={seed}");
    // The heartbeats are long, since the server closes a socket that is not read for two of them, as where the machine is loaded.
    let flags = ["--workers", "2", "--heartbeat", "1m", "--drain", "300ms", "--tail-events", "200"];
    let mut server = Server::start_at("127.0.0.2:0", &flags);
    let start = end_of_log(&server).await;
    let address = match trouble {
        Trouble::LostAnswers => cutting_proxy(server.address().to_owned(), seed).await,
        _ => server.address().to_owned(),
    };

    let published = Arc::new(AtomicUsize::new(0));
    let publishers: Vec<_> = [1, 5]
        .map(|most| {
            tokio::spawn(load(address.clone(), most, published.clone(), StdRng::seed_from_u64(seed ^ most as u64)))
        })
        .into();
    let mut readers = Vec::new();
    for from in Kind::ALL {
        for to in Kind::ALL.into_iter().filter(|to| *to != from) {
            let rng = StdRng::seed_from_u64(seed.wrapping_add(1 + readers.len() as u64));
            let hopper = Hopper::new(&address, [from, to], &start, rng);
            readers.push(tokio::spawn(hopper.run(trouble)));
        }
    }
    if matches!(trouble, Trouble::Stop | Trouble::Kill) {
        for part in [3, 2] {
            crate::support::until("a part is published", || async {
                published.load(Ordering::Relaxed) >= EVENTS / part
            })
            .await;
            server = tokio::task::block_in_place(|| match trouble {
                Trouble::Stop => server.stop_and_restart(),
                _ => server.kill_and_restart(),
            });
        }
    }
    let mut log = Vec::new();
    for publisher in publishers {
        log.extend(within("the publishers", publisher).await.expect("a publisher ends"));
    }
    let mut rng = StdRng::seed_from_u64(seed);
    log.push(
        publish(&address, vec![json!({ "topic": "load.end", "data": "end", "id": "end" })], &mut rng).await.remove(0),
    );
    log.sort_by_key(|event| event.at);
    assert_eq!(log.len(), EVENTS + 1);
    assert!(log.windows(2).all(|two| two[0].at < two[1].at), "no position twice");
    assert_eq!(position(&end_of_log(&server).await), log[EVENTS].at, "no event is stored twice, and no other event");

    let (mut hops, mut losses) = (0, 0);
    for reader in readers {
        let done = within("a reader", reader).await.expect("a reader ends");
        let expected: Vec<&Stored> =
            log.iter().filter(|event| done.patterns.iter().any(|pattern| matches(pattern, &event.topic))).collect();
        let received: Vec<&Stored> = done.received.iter().collect();
        let first = received.iter().zip(&expected).position(|(received, expected)| received != expected);
        let at = first.unwrap_or(received.len().min(expected.len()));
        assert!(
            received == expected,
            "{} to {}, {:?}, seed {seed}: {} of {} events, different from {at} on: {:?}, not {:?}",
            done.kinds[0],
            done.kinds[1],
            done.patterns,
            received.len(),
            expected.len(),
            received.get(at),
            expected.get(at),
        );
        assert!(done.hops >= 5, "{:?} switched {} times only", done.kinds, done.hops);
        hops += done.hops;
        losses += done.losses;
    }
    println!("{trouble:?}: {hops} switches, {losses} broken connections");
    if trouble != Trouble::Nothing {
        assert!(losses > 0, "no fault was injected, so nothing was tested");
    }
}

/// An event that was acknowledged to a publisher or delivered to a subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stored {
    at: u64,
    topic: String,
    data: Value,
}

/// Publishes its share of the events, up to a maximum in each request.
async fn load(address: String, most: usize, published: Arc<AtomicUsize>, mut rng: StdRng) -> Vec<Stored> {
    let mut log = Vec::new();
    while log.len() < EVENTS / 2 {
        let count = rng.random_range(1..=most).min(EVENTS / 2 - log.len());
        let events: Vec<Value> = (0..count)
            .map(|n| {
                let topic = format!("load.{}.{}", ["a", "b", "c"][rng.random_range(0..3)], rng.random_range(0..3));
                let filler = "</script>\u{2028}é".repeat(rng.random_range(0..40));
                json!({ "topic": topic, "data": [most, log.len() + n, filler], "id": uuid() })
            })
            .collect();
        log.extend(publish(&address, events, &mut rng).await);
        published.fetch_add(count, Ordering::Relaxed);
        // Not all at once, so that the readers also reach the live end.
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..8))).await;
    }
    log
}

/// Publishes with retries until the batch is acknowledged; each event has an id, so that a retry is idempotent.
async fn publish(address: &str, events: Vec<Value>, rng: &mut StdRng) -> Vec<Stored> {
    let body = match &events[..] {
        [one] if rng.random() => one.to_string(),
        all => json!(all).to_string(),
    };
    let answer = loop {
        match Request::post("/v1/events", "application/json", body.clone()).try_send(address).await {
            Ok(mut answer) => match (answer.status, answer.bytes().await) {
                (201, Ok(bytes)) => break serde_json::from_slice::<Value>(&bytes).expect("JSON"),
                (201 | 503, _) => {}
                (status, bytes) => {
                    panic!("{status}: {:?}", bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
                }
            },
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    let cursors: Vec<&Value> = match answer["events"].as_array() {
        Some(outcomes) => outcomes.iter().map(|one| &one["cursor"]).collect(),
        None => vec![&answer["cursor"]],
    };
    assert_eq!(cursors.len(), events.len());
    let stored = |(event, cursor): (&Value, &&Value)| Stored {
        at: position(cursor.as_str().expect("a cursor")),
        topic: event["topic"].as_str().expect("a topic").to_owned(),
        data: event["data"].clone(),
    };
    events.iter().zip(&cursors).map(stored).collect()
}

/// An independent, simple implementation of pattern matching.
fn matches(pattern: &str, topic: &str) -> bool {
    let (mut pattern, mut topic) = (pattern.split('.'), topic.split('.'));
    loop {
        match (pattern.next(), topic.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some("*"), Some(_)) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// A reader that switches back and forth between two transports.
struct Hopper {
    address: String,
    kinds: [Kind; 2],
    patterns: Vec<&'static str>,
    client: String,
    rng: StdRng,
    on: usize,
    reader: Reader,
    /// The received events, without repeats.
    received: Vec<Stored>,
    hops: usize,
    losses: usize,
}

/// A subscriber and its index in `received`: redelivered events have to be the same, in the same order.
struct Reader {
    subscriber: Subscriber,
    next: Option<usize>,
}

/// The result of a reader.
struct Done {
    kinds: [Kind; 2],
    patterns: Vec<&'static str>,
    received: Vec<Stored>,
    hops: usize,
    losses: usize,
}

const PATTERNS: [&[&str]; 6] = [
    &["load.>"],
    &["load.end", "load.a.*", "load.*.1"],
    &["load.end", "load.b.0", "load.b.1", "load.b.2", "load.b.*"],
    &["load.*", "load.c.>"],
    &[">"],
    &["load.end", "load.a.0", "nobody.>", "load.*.2"],
];

impl Hopper {
    fn new(address: &str, kinds: [Kind; 2], start: &str, mut rng: StdRng) -> Self {
        let patterns = PATTERNS[rng.random_range(0..PATTERNS.len())].to_vec();
        let client = uuid();
        let query = Query::topics(&patterns).with("client", &client).with("limit", rng.random_range(1..60));
        let subscriber = Subscriber::at(address, kinds[0], query, start);
        let reader = Reader { subscriber, next: Some(0) };
        Self {
            address: address.to_owned(),
            kinds,
            patterns,
            client,
            rng,
            on: 0,
            reader,
            received: Vec::new(),
            hops: 0,
            losses: 0,
        }
    }

    fn is_done(&self) -> bool {
        self.received.last().is_some_and(|event| event.data == "end")
    }

    async fn run(mut self, trouble: Trouble) -> Done {
        while !self.is_done() {
            for _ in 0..self.rng.random_range(0..14) {
                if self.is_done() {
                    break;
                }
                self.listen(trouble).await;
            }
            if !self.is_done() {
                self.switch(trouble).await;
            }
        }
        let Self { kinds, patterns, received, hops, losses, .. } = self;
        Done { kinds, patterns, received, hops, losses }
    }

    /// Reads one item, or drops the connection at a random point.
    async fn listen(&mut self, trouble: Trouble) {
        if self.rng.random_ratio(1, 15) {
            let patience = Duration::from_micros(self.rng.random_range(0..8000));
            match tokio::time::timeout(patience, self.reader.subscriber.try_item()).await {
                Ok(item) => self.got(item, trouble).await,
                Err(_) => self.reader.subscriber.cut(),
            }
        } else {
            let what = format!(
                "an item over {}, {:?} after {} events",
                self.reader.subscriber.kind,
                self.kinds,
                self.received.len()
            );
            let item = within(&what, self.reader.subscriber.try_item()).await;
            self.got(item, trouble).await;
        }
    }

    async fn got(&mut self, item: Result<Item, Failure>, trouble: Trouble) {
        match item {
            Ok(item) => self.reader.receive(&item, &mut self.received),
            Err(Failure::Broken(error)) => {
                assert_ne!(trouble, Trouble::Nothing, "{:?}: {error}", self.kinds);
                self.losses += 1;
                self.reader.subscriber.cut();
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(1..20))).await;
            }
            Err(Failure::Refused(response)) => {
                assert!(response.status == 503 && trouble != Trouble::Nothing, "{:?}: {}", self.kinds, response.status);
                self.losses += 1;
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(1..20))).await;
            }
        }
    }

    async fn switch(&mut self, trouble: Trouble) {
        self.hops += 1;
        self.on = 1 - self.on;
        let kind = self.kinds[self.on];
        match self.rng.random_range(0..4) {
            // Break before make: bytes in flight are lost with the connection.
            0 | 1 => self.reader.subscriber.switch(kind),
            // Make before break: both connections for a while, from the same cursor.
            2 => {
                let subscriber = self.reader.subscriber.beside(kind);
                let newer = Reader { subscriber, next: self.reader.next };
                let mut older = std::mem::replace(&mut self.reader, newer);
                for _ in 0..self.rng.random_range(0..4) {
                    if self.is_done() {
                        return;
                    }
                    let patience = Duration::from_millis(self.rng.random_range(0..10));
                    match tokio::time::timeout(patience, older.subscriber.try_item()).await {
                        Ok(Ok(item)) => {
                            older.receive(&item, &mut self.received);
                            if item.event == "$bye" {
                                break;
                            }
                        }
                        Ok(Err(_)) => {
                            self.losses += 1;
                            break;
                        }
                        Err(_) => older.subscriber.cut(),
                    }
                    if !self.is_done() {
                        self.listen(trouble).await;
                    }
                }
            }
            // By name alone: the client resumes at its acknowledged cursor, so some events may be redelivered.
            _ => {
                if let Some(cursor) = self.reader.subscriber.cursor.clone() {
                    let body = json!({ "client": self.client, "cursor": cursor }).to_string();
                    // The acknowledgement may be lost, too: then the cursor is older.
                    let _ = Request::post("/v1/ack", "text/plain", body).try_send(&self.address).await;
                }
                if self.received.is_empty() {
                    // The client may not be known yet.
                    self.reader.subscriber.switch(kind);
                    return;
                }
                self.reader.subscriber.cut();
                let query = Query::default().with("client", &self.client).with("limit", self.rng.random_range(1..60));
                let by_name = Subscriber::new(&self.address, kind, query);
                self.reader = Reader { subscriber: by_name, next: None };
            }
        }
    }
}

impl Reader {
    fn receive(&mut self, item: &Item, received: &mut Vec<Stored>) {
        if item.is_control() {
            let reason = item.value()["reason"].as_str().unwrap_or_default().to_owned();
            let usual = match item.event.as_str() {
                "$bye" => matches!(reason.as_str(), "shutdown" | "recycle" | "replaced"),
                "$error" => true,
                _ => false,
            };
            assert!(usual, "{}: {item:?}", self.subscriber.kind);
            if item.event == "$error" {
                assert_eq!(item.value()["error"]["code"], "shutting_down", "{item:?}");
            }
            return;
        }
        let event = Stored { at: item.at(), topic: item.topic.clone().expect("a topic"), data: item.value() };
        let next = self.next.unwrap_or_else(|| {
            // With the name alone the cursor may have moved back, never forward.
            received.iter().position(|known| known.at >= event.at).unwrap_or(received.len())
        });
        if next < received.len() {
            assert_eq!(received[next], event, "{}: something else than before", self.subscriber.kind);
        } else {
            received.push(event);
        }
        self.next = Some(next + 1);
    }
}

/// A TCP proxy that loses some responses after the server has written them: a whole response, or the part after some bytes.
async fn cutting_proxy(upstream: String, seed: u64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        let mut rng = StdRng::seed_from_u64(!seed);
        while let Ok((client, _)) = listener.accept().await {
            let passed = match rng.random_range(0..5) {
                0 => Some(0),
                1 => Some(rng.random_range(1..3000)),
                _ => None,
            };
            tokio::spawn(pass_on(client, upstream.clone(), passed));
        }
    });
    address
}

async fn pass_on(client: TcpStream, upstream: String, passed: Option<usize>) -> std::io::Result<()> {
    let server = TcpStream::connect(upstream).await?;
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let asking = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut left = passed.unwrap_or(usize::MAX);
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from_server.read(&mut buffer).await?;
        let forwarded = read.min(left);
        to_client.write_all(&buffer[..forwarded]).await?;
        left -= forwarded;
        // The response was written by the server, and is not forwarded (any further).
        if read == 0 || left == 0 {
            break;
        }
    }
    asking.abort();
    Ok(())
}
