//! Checks a disk image against the ledger's promises.

use std::collections::HashSet;
use std::path::Path;
use std::sync::{Arc, Mutex};

use serde_json::Value;
use switchback::store::{DiskStore, ReadRequest, RecordWatcher, Retention, SecurityRecord, Store, StoreOptions};
use switchback::topic::PatternSet;
use switchback::{Data, NewEvent, Position};
use uuid::Uuid;

use super::ledger::{Ledger, What, topic};

/// The retention of the recorded server.
pub(crate) const EVENTS_MAX: u64 = 150;

#[derive(Default)]
struct Bans(Mutex<HashSet<Uuid>>);

impl RecordWatcher for Bans {
    fn push(&self, note: SecurityRecord) {
        if let Some(client) = note.key.strip_prefix("ban:") {
            self.0.lock().expect("not poisoned").insert(client.parse().expect("a client's id"));
        }
    }
}

/// Opens the image in `directory` as a server would, and checks the promises made when the trace was `at` bytes long.
///
/// # Errors
/// The promise that is broken.
pub(crate) async fn check(directory: &Path, ledger: &Ledger, at: u64, now_ms: u64) -> Result<(), String> {
    let retention = Retention { events_max: Some(EVENTS_MAX), ..Retention::default() };
    let options =
        StoreOptions { retention, dedupe_window: std::time::Duration::from_secs(3600), ..StoreOptions::default() };
    let store = DiskStore::open_at(directory, options, now_ms).map_err(|error| format!("it does not open: {error}"))?;
    let bounds = store.bounds();
    let text = |error: switchback::StoreError| error.to_string();

    // The log: in order, complete from its floor on, without repeats, without events that were never published.
    let everything = ReadRequest {
        patterns: PatternSet::everything(),
        after: bounds.floor,
        events_max: usize::MAX,
        bytes_max: usize::MAX,
        rows_max: u64::MAX,
        latest_upto: None,
    };
    let events = store.read(everything).await.map_err(text)?.events;
    let mut seen = HashSet::new();
    let mut expected = bounds.floor;
    let promised = ledger.positions(at);
    for event in &events {
        expected = expected.next();
        let data: Value = serde_json::from_str(event.data()).map_err(|error| error.to_string())?;
        let marker = data["marker"].as_str().unwrap_or_default().to_owned();
        if event.position() != expected {
            return Err(format!("{} where {expected} should be", event.position()));
        }
        if !ledger.published.contains(&marker) || event.topic().as_str() != topic(&marker) {
            return Err(format!("{marker:?} was never published"));
        }
        if promised.get(&expected.0).is_some_and(|there| *there != marker) {
            return Err(format!("{marker} at {expected}, which was promised to another"));
        }
        if !seen.insert(marker.clone()) {
            return Err(format!("{marker} is there twice"));
        }
    }
    if expected != bounds.last || bounds.floor.0 != bounds.last.0.saturating_sub(EVENTS_MAX) {
        return Err(format!("{} events do not make {bounds:?}", events.len()));
    }

    let bans = Arc::new(Bans::default());
    store.watch_records(bans.clone()).await.map_err(|error| format!("bans: {error}"))?;
    let mut repeats = Vec::new();
    for what in ledger.at(at) {
        match what {
            What::Event { cursor, .. } if cursor.epoch != bounds.epoch => {
                return Err(format!("the epoch is {}, and was {}", bounds.epoch, cursor.epoch));
            }
            What::Event { marker, cursor, .. } if cursor.position > bounds.floor && !seen.contains(marker) => {
                return Err(format!("{marker} was acknowledged at {cursor}, and the log ends at {}", bounds.last));
            }
            What::Event { cursor, .. } if cursor.position > bounds.last => {
                return Err(format!("{cursor} will be given out again"));
            }
            What::Event { marker, keyed: true, cursor } => repeats.push((marker, cursor.position)),
            What::Event { .. } => {}
            What::Ban(client) => {
                if !bans.0.lock().expect("not poisoned").contains(client) {
                    return Err(format!("{client} is not shut out any more"));
                }
            }
            What::Client(client, cursor) => {
                let record = store.load_client(*client).await.map_err(text)?;
                let position = record.map(|record| record.cursor.position);
                if position != Some(cursor.position) {
                    return Err(format!("{client} acknowledged {cursor}, and {position:?} is remembered"));
                }
            }
        }
    }
    // Last, since this may change the log: ids are remembered, also those of trimmed events.
    for (marker, position) in repeats {
        let new = NewEvent::new(topic(marker).parse().expect("a topic"), Data::text("again"));
        let draft = new.with_id(marker).expect("an id").draft(now_ms);
        let appended = store.append(vec![draft]).await.map_err(text)?;
        if !appended[0].duplicate || appended[0].position != position {
            return Err(format!(
                "{marker} was acknowledged at {position}, and is {:?} when it is repeated",
                appended[0]
            ));
        }
    }
    // Positions continue.
    let new = NewEvent::new("crash.after".parse().expect("a topic"), Data::text("x")).draft(now_ms);
    let appended = store.append(vec![new]).await.map_err(text)?;
    if appended[0].position != Position(bounds.last.0 + 1) {
        return Err(format!("after {} comes {:?}", bounds.last, appended[0]));
    }
    store.close().await;
    Ok(())
}
