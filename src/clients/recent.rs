//! For clients that are connected or were until a minute ago: the newest connection attempt, the position up to which every event was
//! sent, and the transports.
//!
//! A request that a client has aborted can reach the server after the request that replaced it; its attempt number shows that
//! it is older, so that it ends nothing. An acknowledgement can arrive after the end of its poll; it is checked against the
//! position that was sent.

use std::collections::HashMap;

use uuid::Uuid;

use super::journey::Journey;
use crate::cursor::Position;
use crate::transport::Transport;

/// How long this is kept after a client disconnects: as long as a proxy may delay an older request. A page that was reloaded,
/// and counts its attempts from 1 again, is served after that.
const KEPT_MS: u64 = 60_000;

/// Most clients that are tracked, about 100 bytes each. Above that a new client is not tracked: its attempts count as if they had
/// no number, and its acknowledgements are checked against the log's end only.
const CLIENTS_MAX: usize = 100_000;

/// The newest attempt and the sent position, by client.
#[derive(Debug, Default)]
pub(super) struct Recent(HashMap<Uuid, Known>);

#[derive(Clone, Debug, Default)]
struct Known {
    attempt: u64,
    journey: Journey,
    sent: Option<Position>,
    updated_ms: u64,
}

impl Recent {
    /// Records an attempt; returns whether it is the client's newest. An attempt without a number always is.
    pub(super) fn begin(&mut self, client: Uuid, attempt: Option<u64>, now_ms: u64) -> bool {
        let Some(attempt) = attempt else { return true };
        let Some(known) = self.known(client, now_ms) else { return true };
        if attempt < known.attempt {
            return false;
        }
        known.attempt = attempt;
        true
    }

    /// Records a connection.
    pub(super) fn connected(&mut self, client: Uuid, transport: Transport, now_ms: u64) {
        if let Some(known) = self.known(client, now_ms) {
            known.journey.connected(transport, now_ms);
        }
    }

    /// The transports that a client changed to, and when, the oldest first.
    pub(super) fn changes(&self, client: Uuid) -> &[(Transport, u64)] {
        self.0.get(&client).map_or(&[], |known| known.journey.changes())
    }

    /// Records the position up to which a connection that has ended was sent every event.
    pub(super) fn note_sent(&mut self, client: Uuid, sent: Position, now_ms: u64) {
        if let Some(known) = self.known(client, now_ms) {
            known.sent = known.sent.max(Some(sent));
        }
    }

    /// The position up to which a client was sent every event on connections that have ended.
    pub(super) fn sent(&self, client: Uuid) -> Option<Position> {
        self.0.get(&client)?.sent
    }

    /// Removes clients that have been disconnected for [`KEPT_MS`].
    pub(super) fn forget_old(&mut self, now_ms: u64, is_connected: impl Fn(&Uuid) -> bool) {
        self.0.retain(|client, known| {
            if is_connected(client) {
                known.updated_ms = now_ms;
            }
            now_ms.saturating_sub(known.updated_ms) <= KEPT_MS
        });
    }

    fn known(&mut self, client: Uuid, now_ms: u64) -> Option<&mut Known> {
        if self.0.len() >= CLIENTS_MAX && !self.0.contains_key(&client) {
            return None;
        }
        let known = self.0.entry(client).or_default();
        known.updated_ms = now_ms;
        Some(known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smaller_number_is_not_the_newest_until_it_is_forgotten() {
        let (one, other) = (Uuid::new_v4(), Uuid::new_v4());
        let mut recent = Recent::default();
        assert!(recent.begin(one, Some(2), 0));
        assert!(!recent.begin(one, Some(1), 0));
        assert!(recent.begin(one, Some(2), 0), "the same request, twice");
        assert!(recent.begin(one, None, 0), "an attempt without a number");
        assert!(recent.begin(other, Some(1), 0));
        recent.forget_old(2 * KEPT_MS, |client| *client == one);
        recent.forget_old(3 * KEPT_MS, |_| false);
        assert!(!recent.begin(one, Some(1), 3 * KEPT_MS), "it was connected until a minute ago");
        recent.forget_old(4 * KEPT_MS + 1, |_| false);
        assert!(recent.begin(one, Some(1), 4 * KEPT_MS + 1));
    }

    #[test]
    fn the_sent_position_outlives_the_connection_for_a_while() {
        let client = Uuid::new_v4();
        let mut recent = Recent::default();
        assert_eq!(recent.sent(client), None);
        recent.note_sent(client, Position(7), 0);
        recent.note_sent(client, Position(5), 0);
        assert_eq!(recent.sent(client), Some(Position(7)));
        recent.forget_old(KEPT_MS + 1, |_| false);
        assert_eq!(recent.sent(client), None);
    }
}
