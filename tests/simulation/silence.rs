//! Dead-peer detection in simulated time: a peer is dead once it has been pinged, had a heartbeat interval to answer, and was
//! silent for two.

use std::time::{Duration, Instant};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use switchback::cursor::{Cursor, Position};
use switchback::delivery::{Completion, Delivery, Plan, StartPoint, Step};
use switchback::store::{MemoryStore, Store as _, StoreOptions};
use switchback::subscription_index::Pending;
use switchback::tail::{Tail, TailLimits};
use switchback::topic::PatternSet;
use switchback::transport::Transport;
use switchback::wire::Framing;
use switchback::{Data, NewEvent};

use super::HEARTBEAT;

const SOON: Duration = Duration::from_millis(10);
const PING: &[u8] = b"\x89\x00";

/// A WebSocket after its `$hello`, with a log of one event that only the store has.
struct Peer {
    store: MemoryStore,
    tail: Tail,
    delivery: Delivery,
    now: Instant,
}

impl Peer {
    fn new() -> Self {
        let store = MemoryStore::new(StoreOptions::default());
        let event = NewEvent::new("a".parse().unwrap(), Data::text("x")).draft(0);
        store.append(vec![event]).now_or_never().unwrap().unwrap();
        let bounds = store.bounds();
        let tail = Tail::new(bounds, bounds.last, TailLimits { events_max: 10, bytes_max: 1000 });
        let plan = Plan {
            framing: Framing::WebSocket,
            completion: Completion::Stream { bytes_max: None, until: None, pings: true },
            client: uuid::Uuid::nil(),
            known: true,
            transport: Transport::Ws,
            heartbeat: HEARTBEAT,
            events_max: 10,
            jitter: 0,
        };
        let now = Instant::now();
        let start = StartPoint::at(Cursor::new(bounds.epoch, Position::ZERO));
        let patterns = PatternSet::new(["a".parse().unwrap()]).unwrap();
        let mut peer = Self { store, tail, delivery: Delivery::new(now, plan, patterns, start), now };
        assert!(matches!(peer.step().0, Step::Write), "the first word");
        peer
    }

    /// A WebSocket that has read everything.
    fn at_rest() -> Self {
        let mut peer = Self::new();
        peer.fetch_for(Duration::ZERO);
        peer.rest();
        peer
    }

    fn step(&mut self) -> (Step, Vec<u8>) {
        let mut out = BytesMut::new();
        let step = self.delivery.step(self.now, &self.tail, Pending::Unknown, &mut out);
        (step, out.to_vec())
    }

    /// The output until the delivery waits; `None` if the delivery ends.
    fn rest(&mut self) -> Option<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let (step, out) = self.step();
            all.extend(out);
            match step {
                Step::Write if self.delivery.is_finished() => return None,
                Step::Write => {}
                Step::Wait(_) => return Some(all),
                Step::Fetch(_) | Step::Yield | Step::Finish => panic!("{step:?}"),
            }
        }
    }

    /// Fetches from the store, with this latency.
    fn fetch_for(&mut self, time: Duration) {
        let (Step::Fetch(request), _) = self.step() else { panic!("the store has it") };
        let page = self.store.read(request).now_or_never().unwrap().unwrap();
        self.now += time;
        self.delivery.fetched(self.now, page);
    }

    /// Asserts that the delivery ends after this time, and not before.
    fn assert_gone_after(&mut self, time: Duration) {
        self.now += time - SOON;
        assert!(self.rest().is_some());
        self.now += SOON;
        assert_eq!(self.rest(), None);
    }

    fn is_pinged(&mut self) -> bool {
        self.rest().is_some_and(|sent| sent.windows(PING.len()).any(|two| two == PING))
    }
}

#[test]
fn a_client_silent_for_two_heartbeats_is_disconnected() {
    let mut peer = Peer::at_rest();
    peer.now += HEARTBEAT;
    assert!(peer.is_pinged());
    peer.assert_gone_after(HEARTBEAT);
}

#[test]
fn a_message_before_the_ping_restarts_the_two_heartbeats() {
    let mut peer = Peer::at_rest();
    peer.now += HEARTBEAT - SOON;
    peer.delivery.heard(peer.now);
    peer.now += SOON;
    assert!(peer.is_pinged());
    // The peer was last received a little before.
    peer.assert_gone_after(2 * HEARTBEAT - SOON);
}

/// While the delivery waits for the store, the peer is not pinged.
#[test]
fn a_client_that_waited_for_the_store_is_pinged_first() {
    let mut peer = Peer::new();
    peer.fetch_for(5 * HEARTBEAT);
    assert!(!peer.delivery.is_due_to_end(peer.now));
    assert!(peer.is_pinged());
    peer.assert_gone_after(HEARTBEAT);
}

/// As after a machine's suspend.
#[test]
fn after_a_pause_of_the_process_clients_are_pinged_first() {
    let mut peer = Peer::at_rest();
    peer.now += 100 * HEARTBEAT;
    assert!(peer.is_pinged());
    peer.delivery.heard(peer.now + SOON);
    peer.now += HEARTBEAT + SOON;
    assert!(peer.is_pinged());
}
