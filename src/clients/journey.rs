//! The transports that a client has used, in the order in which it changed between them: what an operator needs to see why a client
//! polls that could have a stream.

use crate::transport::Transport;

/// Most changes that are kept, the latest: a client that changes more often shows that by their times.
const CHANGES_MAX: usize = 8;

/// The changes of one client. Another connection on the same transport, such as the next poll, is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Journey(Vec<(Transport, u64)>);

impl Journey {
    /// Records a connection, which began at this time, in milliseconds since the Unix epoch.
    pub(super) fn connected(&mut self, transport: Transport, now_ms: u64) {
        if self.0.last().is_some_and(|(last, _)| *last == transport) {
            return;
        }
        if self.0.len() >= CHANGES_MAX {
            self.0.remove(0);
        }
        self.0.push((transport, now_ms));
    }

    /// Each transport with the time of its first connection, the oldest first.
    pub(super) fn changes(&self) -> &[(Transport, u64)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_changes_are_kept() {
        let mut journey = Journey::default();
        for now_ms in 0..4 {
            journey.connected(Transport::Poll, now_ms);
        }
        journey.connected(Transport::Ws, 4);
        assert_eq!(journey.changes(), [(Transport::Poll, 0), (Transport::Ws, 4)]);
        for now_ms in 5..100 {
            journey.connected(if now_ms % 2 == 0 { Transport::Sse } else { Transport::Poll }, now_ms);
        }
        assert_eq!((journey.changes().len(), journey.changes()[CHANGES_MAX - 1]), (CHANGES_MAX, (Transport::Poll, 99)));
    }
}
