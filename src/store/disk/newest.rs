//! Fills the index of the newest events for the first read that needs it: one look-up in the topics' index for each topic, in slices
//! between other reads.
//!
//! Rejected: a column in `topics`, from which a start could fill the index. It would cost each append another page for each of
//! its topics, and the servers that never read a snapshot would pay for it. A snapshot reads the same pages anyway.

use std::ops::Bound;

use rusqlite::Connection;

use super::rows::NewestLookup;
use super::{Shared, held};
use crate::cursor::Position;
use crate::topic::Topic;

/// Topics that are looked up in a slice: about a millisecond, where their pages are in memory.
const SLICE_TOPICS: usize = 256;

/// How far the index of the newest events is filled.
#[derive(Debug, Default)]
pub(super) enum Filling {
    /// Not at all.
    #[default]
    Begin,
    /// Up to and including this topic.
    Through(Topic),
    /// Every topic is in the index.
    Done,
}

/// Adds the next topics to the index. Returns whether it has all of them. Other threads wait meanwhile, and continue then: a slice
/// is short.
pub(super) fn fill_slice(db: &Connection, shared: &Shared) -> rusqlite::Result<bool> {
    let mut filling = held(&shared.filling);
    let after = match &*filling {
        Filling::Begin => Bound::Unbounded,
        Filling::Through(topic) => Bound::Excluded(topic),
        Filling::Done => return Ok(true),
    };
    let slice: Vec<(Topic, i64)> = {
        let topics = shared.topics();
        let next = topics.by_name.range::<Topic, _>((after, Bound::Unbounded)).take(SLICE_TOPICS);
        next.map(|(topic, id)| (topic.clone(), *id)).collect()
    };
    // Later events are added by the writer.
    let end = held(&shared.newest).made_at();
    let mut lookup = NewestLookup::new(db)?;
    let mut found = Vec::with_capacity(slice.len());
    for (topic, id) in &slice {
        found.extend(lookup.newest(*id, Position::ZERO, end)?.map(|newest| (topic, newest)));
    }
    let mut index = held(&shared.newest);
    found.into_iter().for_each(|(topic, newest)| index.fill(topic, newest));
    match slice.into_iter().next_back() {
        Some((last, _)) => *filling = Filling::Through(last),
        None => {
            index.filled();
            *filling = Filling::Done;
        }
    }
    Ok(matches!(*filling, Filling::Done))
}
