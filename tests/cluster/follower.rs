//! A subscriber over one transport that sends each request to a different node, and records every received event.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::ledger::{Account, END, Part, Pauses};
use super::nodes::Addresses;
use crate::support::client::{Failure, Got, Kind, Link, Query};
use crate::support::wire::Item;

/// A stream that is silent for this long has failed: heartbeats are sent every second.
const MUTE: Duration = Duration::from_secs(20);

/// The deadline for a response. A node that waits for its feed responds with an error after 5 s.
const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct RoamingSubscriber {
    kind: Kind,
    part: Part,
    nodes: Addresses,
    rng: StdRng,
    node: String,
    cursor: String,
    account: Account,
    pauses: Pauses,
    /// The pause between two requests.
    away: Duration,
    requests: usize,
    failures: Arc<AtomicUsize>,
}

/// The result of a subscriber.
pub(crate) struct Done {
    pub(crate) account: Account,
    pub(crate) longest_pause: Duration,
    pub(crate) requests: usize,
}

impl RoamingSubscriber {
    /// A subscriber that counts broken and refused connections.
    pub(crate) fn new(
        kind: Kind,
        part: Part,
        nodes: &Addresses,
        start: &str,
        rng: StdRng,
        failures: &Arc<AtomicUsize>,
    ) -> Self {
        let account = Account { name: format!("{kind} {part:?}"), part, received: Vec::new() };
        Self {
            kind,
            part,
            nodes: nodes.clone(),
            rng,
            node: String::new(),
            cursor: start.to_owned(),
            account,
            pauses: Pauses::default(),
            away: Duration::ZERO,
            requests: 0,
            failures: failures.clone(),
        }
    }

    /// A subscriber that pauses between two requests, and falls behind.
    pub(crate) fn away(mut self, away: Duration) -> Self {
        self.away = away;
        if !away.is_zero() {
            self.account.name.push_str(", slow");
        }
        self
    }

    /// Reads until the end marker.
    pub(crate) async fn run(mut self) -> Done {
        while !self.is_done() {
            self.node = self.nodes.another(&self.node, &mut self.rng);
            self.requests += 1;
            if let Err(why) = self.listen().await {
                self.failures.fetch_add(1, Ordering::Relaxed);
                self.refused(why);
                tokio::time::sleep(Duration::from_millis(self.rng.random_range(20..120))).await;
            }
            tokio::time::sleep(self.away).await;
        }
        let Self { account, pauses, requests, .. } = self;
        Done { account, longest_pause: pauses.longest, requests }
    }

    fn is_done(&self) -> bool {
        self.account.received.last().is_some_and(|(_, marker)| marker == END)
    }

    /// One connection: some items of a stream, or a batch.
    async fn listen(&mut self) -> Result<(), Failure> {
        let mut query = Query::topics(self.part.patterns()).with("cursor", &self.cursor);
        query = query.with("limit", self.rng.random_range(1..200));
        if self.kind.holds() {
            query = query.with("wait", self.rng.random_range(1..4));
        }
        let opened = tokio::time::timeout(PATIENCE, Link::open(&self.node, self.kind, &query)).await;
        let mut link = opened.unwrap_or_else(|_| panic!("{}: no answer from {}", self.account.name, self.node))?;
        if !self.kind.streams() {
            let batch = match self.next(&mut link).await? {
                Some(Got::Batch(batch)) => batch,
                other => panic!("{}: not a batch: {other:?}", self.account.name),
            };
            // Sometimes the page disconnects in the middle of a batch, and resumes after the last event that it processed.
            let looked_at = if self.rng.random_ratio(1, 8) { self.rng.random_range(0..4) } else { usize::MAX };
            let whole = looked_at >= batch.events.len();
            batch.events.iter().take(looked_at).for_each(|item| self.receive(item));
            if let (true, Some(cursor)) = (whole, batch.cursor) {
                self.cursor = cursor;
            }
            if batch.events.is_empty() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            return Ok(());
        }
        let items = self.rng.random_range(1..if self.away.is_zero() { 120 } else { 500 });
        let end = Instant::now() + Duration::from_millis(self.rng.random_range(100..3000));
        for _ in 0..items {
            if self.is_done() || Instant::now() > end {
                break;
            }
            match self.next(&mut link).await? {
                Some(Got::Item(item)) => self.receive(&item),
                Some(other) => panic!("{}: not an item: {other:?}", self.account.name),
                None => break,
            }
        }
        Ok(())
    }

    async fn next(&self, link: &mut Link) -> Result<Option<Got>, Failure> {
        let next = tokio::time::timeout(MUTE, link.next()).await;
        Ok(next.unwrap_or_else(|_| panic!("{}: {} is silent", self.account.name, self.node))?)
    }

    fn receive(&mut self, item: &Item) {
        if let Some(cursor) = &item.cursor {
            self.cursor.clone_from(cursor);
        }
        if !item.is_control() {
            let marker = item.value()["marker"].as_str().unwrap_or_else(|| panic!("not ours: {item:?}")).to_owned();
            assert_eq!(item.topic, Some(Part::topic(&marker)), "{}", self.account.name);
            self.pauses.note(Instant::now());
            self.account.received.push((item.at(), marker));
            return;
        }
        let data = item.value();
        let usual = match item.event.as_str() {
            "$hello" | "$live" | "$beat" => true,
            "$bye" => data["reason"] == "shutdown" || data["reason"] == "recycle",
            "$error" => {
                self.failures.fetch_add(1, Ordering::Relaxed);
                let passing = ["store_unavailable", "behind", "shutting_down", "busy"];
                passing.iter().any(|code| data["error"]["code"] == *code) && data["retry"].is_u64()
            }
            _ => false,
        };
        assert!(usual, "{} at {}: {item:?}", self.account.name, self.cursor);
    }

    /// No connection, a lost connection, or a node that is unavailable at the moment (503).
    fn refused(&self, why: Failure) {
        if let Failure::Refused(response) = why {
            assert_eq!(response.status, 503, "{}: {response:?}", self.account.name);
            // A page cannot read headers, so the document has the retry delay.
            let has_delay = self.kind.transport() == "iframe" || response.header("retry-after").is_some();
            assert!(has_delay, "a 503 has a retry delay: {response:?}");
        }
    }
}
