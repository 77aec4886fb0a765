//! Subscribers to numbered events, over any transport, that reconnect through server faults and check for lost, repeated and
//! misordered events.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::Value;

use super::http::Connection;
use super::raw::Items;

/// The transports of a group of readers, in turn.
pub(crate) const KINDS: [&str; 6] = ["ws", "sse", "stream", "longpoll", "iframe", "jsonp"];

/// One reader. The events of its topic are numbered from 0 in `data.n`.
pub(crate) struct Follower {
    pub(crate) kind: &'static str,
    topic: String,
    cursor: String,
    /// The number of the next expected event.
    pub(crate) next: u64,
    /// Counts the events of all readers of a group.
    seen: Arc<AtomicU64>,
    /// The events that were not expected, or arrived out of order.
    pub(crate) faults: Vec<String>,
}

impl Follower {
    pub(crate) fn new(kind: &'static str, topic: &str, cursor: &str, seen: Arc<AtomicU64>) -> Self {
        Self { kind, topic: topic.to_owned(), cursor: cursor.to_owned(), next: 0, seen, faults: Vec::new() }
    }

    /// Reads over one connection until the event before `end` has arrived, or the connection has ended; `begun` is called
    /// once the server has responded.
    pub(crate) async fn follow(&mut self, connection: Connection, end: u64, begun: impl FnOnce()) -> io::Result<()> {
        if matches!(self.kind, "longpoll" | "jsonp") {
            return self.poll(connection, end, begun).await;
        }
        let query = format!("topic={}&cursor={}", self.topic, self.cursor);
        let mut items = Items::over(connection, self.kind, &query).await?;
        let mut begun = Some(begun);
        while self.next < end {
            let Some(item) = items.next().await? else { break };
            if let Some(begun) = begun.take() {
                begun();
            }
            self.take(&item);
        }
        Ok(())
    }

    async fn poll(&mut self, mut connection: Connection, end: u64, begun: impl FnOnce()) -> io::Result<()> {
        let mut begun = Some(begun);
        while self.next < end {
            let path = format!("/v1/{}?topic={}&cursor={}&callback=cb", self.kind, self.topic, self.cursor);
            connection.get(&path).await?;
            // A held request (long poll) has no response yet; the reader knows only that the request was sent.
            if let Some(begun) = begun.take() {
                begun();
            }
            let answer = connection.answer().await?;
            if answer.status() != 200 {
                return Err(io::Error::other(format!("{}: {}", answer.status(), answer.text())));
            }
            let text = answer.text();
            let json = text.strip_prefix("/**/cb(").and_then(|text| text.strip_suffix(");")).unwrap_or(&text);
            let batch: Value = serde_json::from_str(json).map_err(io::Error::other)?;
            for item in batch["events"].as_array().into_iter().flatten() {
                self.take(item);
            }
            if let Some(cursor) = batch["cursor"].as_str() {
                self.cursor = cursor.to_owned();
            }
        }
        Ok(())
    }

    fn take(&mut self, item: &Value) {
        let name = item["event"].as_str().unwrap_or_default();
        match item["data"]["n"].as_u64() {
            Some(number) if !name.starts_with('$') => {
                if number != self.next {
                    self.faults.push(format!("{} instead of {} over {}", number, self.next, self.kind));
                }
                self.next = number + 1;
                self.seen.fetch_add(1, Ordering::Relaxed);
            }
            _ if matches!(name, "$hello" | "$live" | "$beat" | "$bye") => {}
            _ => self.faults.push(format!("{item} over {}", self.kind)),
        }
        if let Some(cursor) = item["cursor"].as_str() {
            self.cursor = cursor.to_owned();
        }
    }
}
