//! A publisher that sends each request to a different node, and records the acknowledgements.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use super::ledger::{Part, Promised};
use super::nodes::Addresses;
use crate::support::http::Request;
use crate::support::wire::position;

/// The style of a publisher.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// One event a request, without an id: a publish without an acknowledgement is not retried.
    Single,
    /// One event a request, with an id, retried until it is acknowledged.
    Keyed,
    /// Several events a request with ids, retried until they are acknowledged.
    Batch,
}

/// The deadline for a response.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Publisher {
    pub(crate) name: &'static str,
    pub(crate) style: Style,
    pub(crate) nodes: Addresses,
    pub(crate) promised: Arc<Mutex<Promised>>,
    pub(crate) rng: StdRng,
    pub(crate) last: String,
}

/// The result of a request.
enum Outcome {
    /// The positions.
    Acknowledged(Vec<(u64, bool)>),
    /// The server refused (503).
    Refused,
    /// No response.
    Nothing,
}

impl Publisher {
    /// Publishes until the load is stopped.
    pub(crate) async fn run(mut self, stop: Arc<AtomicBool>) {
        let mut number = 0;
        while !stop.load(Ordering::Relaxed) {
            let count = if self.style == Style::Batch { self.rng.random_range(1..6) } else { 1 };
            let markers: Vec<String> = (number..number + count).map(|n| format!("{}-{n}", self.name)).collect();
            number += count;
            self.publish(&markers).await;
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..30))).await;
        }
    }

    /// Publishes these markers in its style, with retries where the style has them.
    pub(crate) async fn publish(&mut self, markers: &[String]) {
        let events: Vec<Value> = markers
            .iter()
            .map(|marker| {
                let mut event = json!({ "topic": Part::topic(marker), "data": { "marker": marker } });
                if self.style != Style::Single {
                    event["id"] = marker.as_str().into();
                }
                event
            })
            .collect();
        let body = if self.style == Style::Batch { json!(events) } else { events[0].clone() }.to_string();
        let end = Instant::now() + super::DEADLINE;
        let mut certain = true;
        loop {
            assert!(Instant::now() < end, "{markers:?} cannot be published");
            match self.send(&body, markers.len()).await {
                Outcome::Acknowledged(outcomes) => {
                    self.note(markers, &outcomes, certain);
                    // The ids of acknowledged events are known on every other node.
                    if self.style != Style::Single
                        && self.rng.random_ratio(1, 20)
                        && let Outcome::Acknowledged(again) = self.send(&body, markers.len()).await
                    {
                        assert!(again.iter().all(|(_, duplicate)| *duplicate), "{markers:?}: {again:?}");
                        self.note(markers, &again, false);
                    }
                    return;
                }
                Outcome::Refused | Outcome::Nothing if self.style == Style::Single => {
                    let mut promised = self.promised.lock().expect("the lock is not poisoned");
                    return markers.iter().for_each(|marker| promised.uncertain(marker));
                }
                // It is unknown whether the event was stored: only an id makes a retry safe.
                Outcome::Refused | Outcome::Nothing => certain = false,
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn send(&mut self, body: &str, count: usize) -> Outcome {
        self.last = self.nodes.another(&self.last, &mut self.rng);
        let request = Request::post("/v1/events", "application/json", body);
        let answered = tokio::time::timeout(PATIENCE, async {
            let mut answer = request.try_send(&self.last).await?;
            let bytes = answer.bytes().await?;
            std::io::Result::Ok((answer, bytes))
        });
        let Ok(Ok((answer, bytes))) = answered.await else { return Outcome::Nothing };
        let text = String::from_utf8_lossy(&bytes);
        match answer.status {
            201 => {}
            503 => {
                assert!(answer.header("retry-after").is_some(), "a 503 has a retry delay: {text}");
                return Outcome::Refused;
            }
            status => panic!("{}: {status} {text}", self.name),
        }
        let answer: Value = serde_json::from_str(&text).expect("JSON");
        let outcomes = answer["events"].as_array().cloned().unwrap_or_else(|| vec![answer.clone()]);
        assert_eq!(outcomes.len(), count, "{answer}");
        let outcome = |one: &Value| {
            let cursor = one["cursor"].as_str().unwrap_or_else(|| panic!("no cursor in {answer}"));
            (position(cursor), one["duplicate"] == true)
        };
        Outcome::Acknowledged(outcomes.iter().map(outcome).collect())
    }

    fn note(&self, markers: &[String], outcomes: &[(u64, bool)], certain: bool) {
        let consecutive = outcomes.windows(2).all(|two| two[0].0 + 1 == two[1].0);
        assert!(consecutive, "{markers:?}: the positions of a batch are consecutive: {outcomes:?}");
        let duplicates = outcomes.iter().filter(|(_, duplicate)| *duplicate).count();
        assert!(!certain || duplicates == 0, "{markers:?} were never published before: {outcomes:?}");
        assert!(duplicates == 0 || duplicates == outcomes.len(), "all of a batch or none: {outcomes:?}");
        let mut promised = self.promised.lock().expect("the lock is not poisoned");
        for (marker, (position, _)) in markers.iter().zip(outcomes) {
            promised.acknowledged(marker, *position, Instant::now());
        }
    }
}
