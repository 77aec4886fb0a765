//! Where the newest events that match begin. JetStream reads forwards only; but with each message it tells how many more
//! match, so the place is found by bisection.

use futures_util::future::try_join_all;
use tokio::time::Instant;

use super::direct::{self, Slice};
use super::node::{DEADLINE, Node};
use super::read::{DIRECT_READ_ROWS, filters};
use crate::cursor::Position;
use crate::store::{LastSearch, LastStep, StoreError};

/// Most events of one direct read.
const SLICE_EVENTS: usize = 1000;

/// Bytes of one direct read.
const SLICE_BYTES: usize = 4 << 20;

/// Looks for the newest events that match. The cost is that of a bisection for each filter that matches anything.
pub(super) async fn search(node: &Node, mut search: LastSearch) -> Result<LastStep, StoreError> {
    let end = Instant::now() + DEADLINE;
    let seen = node.look().await?;
    let wanted = search.count() as u64;
    let all = filters(node, search.patterns());
    let filters = matched(node, &all, seen.floor, end).await?;
    let halvings = u64::from(u64::BITS - seen.last.0.saturating_sub(seen.floor.0).leading_zeros());
    let vain_rows = (all.len() as u64 + filters.len() as u64 * halvings) * DIRECT_READ_ROWS;
    if filters.is_empty() {
        return Ok(LastStep { vain_rows, progress: search.done(seen.floor) });
    }
    // What two patterns match counts twice here: the place that is found has at most so many behind it, and a few more are
    // read below until there are enough.
    let mut reach = wanted;
    loop {
        let from = bisect(node, &filters, seen.floor, seen.last, reach, end).await?;
        let mut positions = positions_from(node, &filters, from, end).await?;
        positions.retain(|position| *position > seen.floor);
        let complete = from <= seen.floor.next();
        if positions.len() as u64 >= wanted || complete {
            for position in positions.into_iter().rev().take(search.count()) {
                search.take(position);
            }
            return Ok(LastStep { vain_rows, progress: search.done(seen.floor) });
        }
        reach = reach.saturating_mul(2).max(reach + 16);
    }
}

/// The filters that match anything. The others are left out of the bisection: the server looks through its whole index for
/// each, and with many of them the bisection would not end within the deadline.
async fn matched(
    node: &Node,
    filters: &[Option<String>],
    floor: Position,
    end: Instant,
) -> Result<Vec<Option<String>>, StoreError> {
    let counts = filters.iter().map(|filter| direct::slice(node, floor.next(), filter.as_deref(), 1, 1, end));
    let counts = try_join_all(counts).await?;
    let with_counts = filters.iter().zip(&counts);
    Ok(with_counts.filter(|(_, slice)| matching(slice) > 0).map(|(filter, _)| filter.clone()).collect())
}

/// The highest position with at least `wanted` matches from there on, counted for each filter on its own; else the first.
async fn bisect(
    node: &Node,
    filters: &[Option<String>],
    floor: Position,
    last: Position,
    wanted: u64,
    end: Instant,
) -> Result<Position, StoreError> {
    let (mut low, mut high) = (floor.next().0, last.0 + 1);
    // From `high` on there are too few; from `low` on enough, or it is the first.
    while low + 1 < high {
        let middle = low + (high - low) / 2;
        let asked = filters.iter().map(|filter| direct::slice(node, Position(middle), filter.as_deref(), 1, 1, end));
        let matching: u64 = try_join_all(asked).await?.iter().map(matching).sum();
        if matching >= wanted { low = middle } else { high = middle }
    }
    Ok(Position(low))
}

fn matching(slice: &Slice) -> u64 {
    slice.messages.len() as u64 + slice.pending
}

/// The positions of what matches from a place on, sorted, each once.
async fn positions_from(
    node: &Node,
    filters: &[Option<String>],
    from: Position,
    end: Instant,
) -> Result<Vec<Position>, StoreError> {
    let asked = filters.iter().map(|filter| of_one(node, filter.as_deref(), from, end));
    let mut all = try_join_all(asked).await?.concat();
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

async fn of_one(
    node: &Node,
    filter: Option<&str>,
    mut from: Position,
    end: Instant,
) -> Result<Vec<Position>, StoreError> {
    let mut all = Vec::new();
    loop {
        let slice = direct::slice(node, from, filter, SLICE_EVENTS, SLICE_BYTES, end).await?;
        let Some(last) = slice.messages.last().map(|message| message.position) else { return Ok(all) };
        all.extend(slice.messages.iter().map(|message| message.position));
        if !slice.more {
            return Ok(all);
        }
        from = last.next();
    }
}
