//! Reads behind the tail: batched direct reads by subject, which any replica of the stream answers from its index. A consumer,
//! which the cluster would have to agree on, is not needed.
//!
//! A replica may lag behind the others, and a direct read does not report that; so its end decides nothing. The messages that it
//! does return are in order and without holes. Two facts are therefore requested from the stream's leader: that no more messages
//! follow, up to the end of the log as known when the read began; and, after the read, what has been trimmed, since JetStream
//! answers a read from a trimmed position silently with a later event.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::try_join_all;
use serde_json::json;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

use super::direct::{self, DIRECT_READ_ROWS, Slice, filters};
use super::last;
use super::node::{DEADLINE, Node, StreamInfo};
use crate::cursor::{Cursor, Epoch, Position};
use crate::event::Event;
use crate::log::Bounds;
use crate::store::newest::WalkRange;
use crate::store::{LastSearch, LastStep, Page, ReadRequest, StoreError, Trimmed};
use crate::wire::GapReason;

/// Concurrent reads of the log on a node.
const READS_MAX: usize = 16;

/// The most events of one direct read.
const SLICE_EVENTS: usize = 1000;

/// The fewest bytes that are worth a direct read.
const SLICE_BYTES_MIN: usize = 64 << 10;

/// The most bytes of one direct read: what the connection should carry at a time.
const SLICE_BYTES_MAX: usize = 2 << 20;

/// Newest events that one direct read is for.
const NEWEST_AT_ONCE: usize = 256;

/// Topics whose newest events one direct read is for where only their positions are wanted, and a bound on its bytes, which so
/// many of the largest events do not reach.
const SUPERSEDED_AT_ONCE: usize = 32;
const SUPERSEDED_BYTES_MAX: usize = 64 << 20;

/// The reads of a node.
pub(super) struct Reader {
    places: Semaphore,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self { places: Semaphore::new(READS_MAX) }
    }

    /// One step of a search for the newest matching events. Other reads get their turn between two steps.
    pub(super) async fn search_last(
        &self,
        node: &Node,
        search: LastSearch,
        rows_max: u64,
    ) -> Result<LastStep, StoreError> {
        let _place = self.place(Instant::now() + DEADLINE).await?;
        last::search(node, search, rows_max).await
    }

    async fn place(&self, end: Instant) -> Result<Option<SemaphorePermit<'_>>, StoreError> {
        let place = tokio::time::timeout_at(end, self.places.acquire()).await;
        let place = place.map_err(|_| StoreError::Busy("too many reads of the log are waiting"))?;
        // The semaphore is never closed.
        Ok(place.ok())
    }

    /// A bounded read.
    pub(super) async fn read(&self, node: &Node, request: ReadRequest) -> Result<Page, StoreError> {
        let end = Instant::now() + DEADLINE;
        let _place = self.place(end).await?;
        let bounds = node.bounds();
        if request.after >= bounds.last {
            return Ok(Page { through: request.after, ..Page::default() });
        }
        let mut page = Collected::new(&request, bounds);
        match request.latest_upto {
            Some(upto) => page.read_newest(node, &request, upto, end).await?,
            None => page.scan(node, &request, end).await?,
        }
        let mut seen = node.query_past(Cursor::new(bounds.epoch, page.through)).await?;
        if seen.floor > request.after {
            seen = node.proven().await?;
        }
        if seen.epoch != bounds.epoch {
            return Err(StoreError::unavailable("the stream has just become another one"));
        }
        Ok(page.above(&request, &seen))
    }
}

/// The outcome of a read by the index of the newest events.
enum Walked {
    /// The next ones can be read.
    More,
    /// The page ends here.
    Ended,
    /// The index does not have all of them.
    Unknown,
}

struct Collected {
    epoch: Epoch,
    /// The end of the log as known when the read began, or of the round that is read.
    known: Position,
    /// Whether events past `known` are left out: they belong to the next round.
    in_round: bool,
    events: Vec<Arc<Event>>,
    bytes: usize,
    through: Position,
    /// The cost of the search, in rows.
    looked_at: u64,
    /// Events that were read, and entries of the index that were compared.
    rows: u64,
}

impl Collected {
    fn new(request: &ReadRequest, Bounds { epoch, last, .. }: Bounds) -> Self {
        let (known, in_round) = (request.latest_upto.unwrap_or(last), request.latest_upto.is_some());
        Self { epoch, known, in_round, events: Vec::new(), bytes: 0, through: request.after, looked_at: 0, rows: 0 }
    }

    fn events_left(&self, request: &ReadRequest) -> usize {
        let rows_max = usize::try_from(request.rows_max).unwrap_or(usize::MAX).max(1);
        request.events_max.min(rows_max).saturating_sub(self.events.len())
    }

    fn is_full(&self, request: &ReadRequest) -> bool {
        self.events_left(request) == 0 || self.bytes >= request.bytes_max || self.through >= self.known
    }

    /// Reads all events, until the page is full.
    async fn scan(&mut self, node: &Node, request: &ReadRequest, end: Instant) -> Result<(), StoreError> {
        let filters = filters(node, &request.patterns);
        while !self.is_full(request) && self.slices(node, &filters, request, end).await? {}
        Ok(())
    }

    /// Reads the newest events of a round, until the page is full: by the node's index, or by a scan where the index does not have
    /// all of them.
    async fn read_newest(
        &mut self,
        node: &Node,
        request: &ReadRequest,
        upto: Position,
        end: Instant,
    ) -> Result<(), StoreError> {
        while !self.is_full(request) && self.rows < request.rows_max {
            match self.newest(node, request, end).await? {
                Walked::More => {}
                Walked::Ended => return Ok(()),
                Walked::Unknown => {
                    self.scan(node, request, end).await?;
                    return self.skip_superseded(node, upto, end).await;
                }
            }
        }
        Ok(())
    }

    /// Reads the next newest events of a round by the node's index.
    async fn newest(&mut self, node: &Node, request: &ReadRequest, end: Instant) -> Result<Walked, StoreError> {
        let events_max = self.events_left(request).min(NEWEST_AT_ONCE);
        let rows_max = request.rows_max - self.rows;
        let range = WalkRange { after: self.through, upto: self.known, events_max, rows_max };
        let Some(walk) = node.newest.walk(self.epoch, &request.patterns, range) else { return Ok(Walked::Unknown) };
        self.rows += walk.rows;
        self.looked_at += walk.rows - walk.found.len() as u64;
        if walk.found.is_empty() {
            self.through = walk.through;
            return Ok(Walked::More);
        }
        let subjects: Vec<String> = walk.found.iter().map(|(_, topic)| node.names.subject(topic.as_str())).collect();
        let bytes = request.bytes_max.saturating_sub(self.bytes).clamp(SLICE_BYTES_MIN, SLICE_BYTES_MAX);
        let slice = direct::last_of(node, &subjects, self.known, bytes, end).await?;
        let mut messages = slice.messages.into_iter().peekable();
        let floor = node.bounds().floor;
        for (position, _) in walk.found {
            while messages.next_if(|message| message.position < position).is_some() {}
            match messages.next_if(|message| message.position == position) {
                Some(message) => {
                    let event = message.event(node, self.epoch);
                    self.bytes += event.as_ref().map_or(0, |event| event.json_bytes());
                    self.events.extend(event);
                }
                None if position <= floor => {}
                // The slice ends here, the replica is behind, or the event was removed from the stream: the page ends before it. Where
                // that is no progress, the scan decides.
                None => {
                    self.through = self.through.max(position.before());
                    return Ok(if self.through > request.after { Walked::Ended } else { Walked::Unknown });
                }
            }
            self.through = position;
            if self.bytes >= request.bytes_max {
                return Ok(Walked::Ended);
            }
        }
        self.through = self.through.max(walk.through);
        Ok(Walked::More)
    }

    /// Removes the events that are known to have a later one of their topic at or before a round's end.
    async fn skip_superseded(&mut self, node: &Node, upto: Position, end: Instant) -> Result<(), StoreError> {
        let mut subjects: Vec<String> =
            self.events.iter().map(|event| node.names.subject(event.topic().as_str())).collect();
        subjects.sort_unstable();
        subjects.dedup();
        let mut newest: HashMap<String, Position> = HashMap::new();
        for some in subjects.chunks(SUPERSEDED_AT_ONCE) {
            let slice = direct::last_of(node, some, upto, SUPERSEDED_BYTES_MAX, end).await?;
            newest.extend(slice.messages.into_iter().map(|message| (message.subject, message.position)));
        }
        // A replica that is behind knows an earlier one: then the event stays.
        self.events.retain(|event| {
            let subject = node.names.subject(event.topic().as_str());
            newest.get(&subject).is_none_or(|newest| *newest <= event.position())
        });
        Ok(())
    }

    /// Reads one slice per filter; returns whether `through` has moved.
    async fn slices(
        &mut self,
        node: &Node,
        filters: &[Option<String>],
        request: &ReadRequest,
        end: Instant,
    ) -> Result<bool, StoreError> {
        let count = self.events_left(request).min(SLICE_EVENTS);
        let bytes = request.bytes_max.saturating_sub(self.bytes).clamp(SLICE_BYTES_MIN, SLICE_BYTES_MAX);
        let from = self.through.next();
        let asked = filters.iter().map(|filter| direct::slice(node, from, filter.as_deref(), count, bytes, end));
        let slices = try_join_all(asked).await?;
        self.looked_at += filters.len() as u64 * DIRECT_READ_ROWS;
        // Up to the position up to which all filters' slices are complete.
        let ends = filters.iter().zip(&slices).map(|(filter, slice)| self.end_of(node, filter.as_deref(), slice, end));
        let through = try_join_all(ends).await?.into_iter().min().unwrap_or(self.known);
        let mut found: Vec<Arc<Event>> = slices
            .into_iter()
            .flat_map(|slice| slice.messages)
            .filter(|message| message.position <= through)
            .filter_map(|message| message.event(node, self.epoch))
            .collect();
        found.sort_unstable_by_key(|event| event.position());
        // An event that two patterns match was read twice.
        found.dedup_by_key(|event| event.position());
        for event in found {
            if self.events_left(request) == 0 || self.bytes >= request.bytes_max {
                return Ok(false);
            }
            self.bytes += event.json_bytes();
            self.through = event.position();
            self.rows += 1;
            self.events.push(event);
        }
        self.through = self.through.max(through);
        Ok(self.through >= from)
    }

    /// The position up to which a filter's slice is complete.
    async fn end_of(
        &self,
        node: &Node,
        filter: Option<&str>,
        slice: &Slice,
        end: Instant,
    ) -> Result<Position, StoreError> {
        let mut last = slice.messages.last().map_or(self.through, |message| message.position);
        if self.in_round {
            last = last.min(self.known);
        }
        if slice.more {
            return Ok(last);
        }
        if last >= self.known {
            return Ok(self.known);
        }
        // The replica has no more messages. Whether that holds is the leader's to say, once the leader has everything that this
        // node knows of.
        let seen = node.query_past(Cursor::new(self.epoch, self.known)).await?;
        let known = if seen.epoch == self.epoch { self.known.min(seen.last) } else { self.through };
        let next = leader_next(node, filter, last.next(), end).await?;
        Ok(next.map_or(known, |next| next.before().min(known)).max(last))
    }

    /// The page without what has been trimmed meanwhile, and with the resulting gap.
    fn above(mut self, request: &ReadRequest, seen: &StreamInfo) -> Page {
        let trimmed = (seen.floor > request.after).then(|| Trimmed {
            to: seen.floor,
            // JetStream does not know which of the patterns lost events.
            patterns: request.patterns.iter().cloned().collect(),
            reason: GapReason::Expired,
            is_whole: true,
        });
        if trimmed.is_some() {
            self.events.retain(|event| event.position() > seen.floor);
            self.through = self.through.max(seen.floor);
        }
        let (rows, unmatched_rows) = (self.rows, self.looked_at);
        Page { rows, unmatched_rows, events: self.events, through: self.through, trimmed }
    }
}

/// The position of the leader's next message that matches a filter, from a position on.
pub(super) async fn leader_next(
    node: &Node,
    filter: Option<&str>,
    from: Position,
    end: Instant,
) -> Result<Option<Position>, StoreError> {
    let message = json!({ "seq": from.0, "next_by_subj": filter.unwrap_or(">") });
    Ok(node.leader_message(&message, end).await?)
}
