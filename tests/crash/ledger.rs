//! The ledger of the server's promises: each acknowledgement with the length of the trace at that time.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};
use switchback::Cursor;
use uuid::Uuid;

use crate::support::Server;
use crate::support::http::Request;

/// A promise, valid from a length of the trace on: a later power loss must not break it.
#[derive(Debug)]
pub(crate) struct Promise {
    pub(crate) from: u64,
    pub(crate) what: What,
}

#[derive(Clone, Debug)]
pub(crate) enum What {
    /// An event with this marker is at this position; where it had the marker as its id, the id is remembered.
    Event { marker: String, keyed: bool, cursor: Cursor },
    /// The client is banned.
    Ban(Uuid),
    /// The client has acknowledged this cursor, and no later one.
    Client(Uuid, Cursor),
}

/// The promises of a run.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) promises: Vec<Promise>,
    /// All published events, acknowledged or not.
    pub(crate) published: HashSet<String>,
}

/// The topic of an event with this marker.
pub(crate) fn topic(marker: &str) -> String {
    format!("crash.{}", marker.split('-').next().unwrap_or_default())
}

const PUBLISHERS: u64 = 4;

/// The number of requests of each publisher.
const REQUESTS: u64 = 60;

/// After this number of requests a publisher also connects as a client, and bans a client.
const OTHERS_EVERY: u64 = 6;

/// Runs a load of all durable operations to its end.
pub(crate) async fn run(server: &Server, trace: PathBuf, rng: &mut StdRng) -> Ledger {
    let ledger = Arc::new(Mutex::new(Ledger::default()));
    let publishers = (0..PUBLISHERS).map(|number| {
        let publisher = Publisher {
            address: server.address().to_owned(),
            trace: trace.clone(),
            ledger: ledger.clone(),
            rng: rand::SeedableRng::seed_from_u64(rng.random()),
        };
        tokio::spawn(publisher.run(number))
    });
    for publisher in publishers.collect::<Vec<_>>() {
        crate::support::within("a publisher", publisher).await.expect("a publisher does not panic");
    }
    std::mem::take(&mut *ledger.lock().expect("no publisher panicked"))
}

struct Publisher {
    address: String,
    trace: PathBuf,
    ledger: Arc<Mutex<Ledger>>,
    rng: StdRng,
}

impl Publisher {
    async fn run(mut self, number: u64) {
        for request in 0..REQUESTS {
            self.publish(number, request).await;
            if request % OTHERS_EVERY == OTHERS_EVERY - 1 {
                self.come_and_acknowledge().await;
                self.ban().await;
            }
        }
    }

    async fn publish(&mut self, number: u64, request: u64) {
        let keyed = self.rng.random();
        let count = if self.rng.random_ratio(1, 4) { self.rng.random_range(2..6) } else { 1 };
        let markers: Vec<String> = (0..count).map(|part| format!("{number}-{request}-{part}")).collect();
        self.ledger().published.extend(markers.iter().cloned());
        // From a fraction of a page to several pages.
        let ballast = "x".repeat([0, 300, 3000, 20_000][self.rng.random_range(0..4)]);
        let events: Vec<Value> = markers
            .iter()
            .map(|marker| {
                let mut event = json!({ "topic": topic(marker), "data": { "marker": marker, "ballast": ballast } });
                if keyed {
                    event["id"] = marker.as_str().into();
                }
                event
            })
            .collect();
        let answer = self.request(post("/v1/events", &json!(events)), 201).await;
        let outcomes = answer["events"].as_array().expect("an outcome for each").clone();
        let promises = markers.into_iter().zip(outcomes).map(|(marker, outcome)| {
            let cursor = outcome["cursor"].as_str().expect("a cursor").parse().expect("a cursor");
            What::Event { marker, keyed, cursor }
        });
        self.promise(promises.collect());
    }

    /// A client that connects for the first time, and acknowledges the events that it got.
    async fn come_and_acknowledge(&mut self) {
        let client = Uuid::from_u128(self.rng.random());
        let batch = self.batch(&format!("/v1/poll?topic=crash.*&client={client}&cursor=earliest")).await;
        let body = json!({ "client": client, "cursor": batch["cursor"] });
        self.request(post("/v1/ack", &body), 200).await;
        let cursor = batch["cursor"].as_str().expect("a cursor").parse().expect("a cursor");
        self.promise(vec![What::Client(client, cursor)]);
    }

    /// A batch. One that is read slowly is cut off when its events are trimmed meanwhile, as any slow client's; it is requested
    /// again.
    async fn batch(&self, target: &str) -> Value {
        loop {
            let mut answer = Request::get(target).send(&self.address).await;
            assert_eq!(answer.status, 200, "{target}");
            if let Ok(bytes) = answer.bytes().await {
                return serde_json::from_slice(&bytes).expect("a whole batch is JSON");
            }
        }
    }

    async fn ban(&mut self) {
        let client = Uuid::from_u128(self.rng.random());
        self.request(Request::new("DELETE", format!("/v1/clients/{client}?ban=3600")), 200).await;
        self.promise(vec![What::Ban(client)]);
    }

    async fn request(&self, request: Request, status: u16) -> Value {
        let mut answer = request.send(&self.address).await;
        assert_eq!(answer.status, status, "{request:?}");
        answer.json().await
    }

    fn promise(&self, promises: Vec<What>) {
        // By now all operations before the response are in the trace.
        let from = std::fs::metadata(&self.trace).expect("the trace").len();
        self.ledger().promises.extend(promises.into_iter().map(|what| Promise { from, what }));
    }

    fn ledger(&self) -> std::sync::MutexGuard<'_, Ledger> {
        self.ledger.lock().expect("no publisher panicked")
    }
}

fn post(target: &str, body: &Value) -> Request {
    Request::post(target, "application/json", body.to_string())
}

impl Ledger {
    /// The promises made up to a length of the trace.
    pub(crate) fn at(&self, at: u64) -> impl Iterator<Item = &What> {
        self.promises.iter().filter(move |promise| promise.from <= at).map(|promise| &promise.what)
    }

    /// The markers of the events promised by then, by position.
    pub(crate) fn positions(&self, at: u64) -> HashMap<u64, &str> {
        let events = self.at(at).filter_map(|what| match what {
            What::Event { marker, cursor, .. } => Some((cursor.position.0, marker.as_str())),
            _ => None,
        });
        events.collect()
    }
}
