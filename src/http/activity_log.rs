//! The log of what is published and delivered: one line at `debug` for each publish and for each subscription, once it is over.
//!
//! The lines answer what a page received, over what, and why it ended. They are not made unless they are logged.

use std::cell::RefCell;
use std::net::IpAddr;
use std::time::Instant;

use tracing::Level;
use uuid::Uuid;

use crate::cursor::Cursor;
use crate::delivery::Delivery;
use crate::event::NewEvent;
use crate::excerpt::LogSafe;
use crate::limits::RateKey;
use crate::topic::PatternSet;
use crate::transport::Transport;
use crate::wire::ByeReason;

/// The targets by which the lines are filtered.
const SUBSCRIPTIONS: &str = "switchback::subscriptions";
const PUBLISHES: &str = "switchback::publishes";

/// The client behind a line.
struct Peer {
    address: IpAddr,
    subject: Option<Box<str>>,
}

impl Peer {
    fn of(key: &RateKey) -> Self {
        Self { address: key.address(), subject: key.subject().map(Into::into) }
    }
}

/// One subscription on one connection. Its line is written on drop.
pub(super) struct SubscriptionRecord {
    peer: Peer,
    client: Uuid,
    began: Instant,
    from: Cursor,
    state: Reached,
    end: Option<&'static str>,
}

/// How far a subscription has come.
struct Reached {
    transport: Transport,
    patterns: PatternSet,
    cursor: Cursor,
    items: usize,
    bytes: usize,
}

impl SubscriptionRecord {
    /// Of a delivery that begins; `None` where its line would not be logged.
    pub(super) fn begin(key: &RateKey, client: Uuid, delivery: &Delivery) -> Option<Box<Self>> {
        tracing::enabled!(target: SUBSCRIPTIONS, Level::DEBUG).then(|| {
            let (patterns, cursor) = (delivery.patterns().clone(), delivery.cursor());
            let state = Reached { transport: delivery.transport(), patterns, cursor, items: 0, bytes: 0 };
            Box::new(Self { peer: Peer::of(key), client, began: Instant::now(), from: cursor, state, end: None })
        })
    }

    /// Records what a step of the delivery has written.
    pub(super) fn wrote(&mut self, delivery: &Delivery, bytes: usize, bye: Option<ByeReason>) {
        self.state.cursor = delivery.cursor();
        self.state.items = delivery.delivered();
        self.state.bytes += bytes;
        if let Some(reason) = bye {
            self.end = Some(reason.name());
        } else if delivery.is_finished() {
            self.complete();
        }
    }

    /// Records that the response is complete.
    pub(super) fn complete(&mut self) {
        self.end.get_or_insert("complete");
    }

    pub(super) fn set_patterns(&mut self, patterns: &PatternSet) {
        self.state.patterns = patterns.clone();
    }
}

impl Drop for SubscriptionRecord {
    fn drop(&mut self) {
        let Reached { transport, patterns, cursor, items, bytes } = &self.state;
        let patterns = patterns.iter().map(|pattern| pattern.as_str()).collect::<Vec<_>>().join(",");
        tracing::debug!(
            target: SUBSCRIPTIONS,
            address = %self.peer.address,
            subject = self.peer.subject.as_deref().map(LogSafe).map(display),
            client = %self.client,
            transport = transport.name(),
            patterns = %LogSafe(&patterns),
            from = %self.from,
            to = %cursor,
            items,
            bytes,
            ms = elapsed_ms(self.began),
            // Without a reason of the server's, the peer has ended it.
            end = self.end.unwrap_or("client gone"),
            "subscription"
        );
    }
}

/// One publish, of one event or of several. Its line is written on drop.
pub(super) struct PublishRecord(Option<Box<RefCell<Publish>>>);

struct Publish {
    peer: Peer,
    began: Instant,
    /// The topic of the first event.
    topic: Option<Box<str>>,
    events: usize,
    bytes: u64,
    cursor: Option<Cursor>,
    outcome: &'static str,
}

impl PublishRecord {
    /// Of a publish that begins; without a line where that would not be logged.
    pub(super) fn begin(key: &RateKey) -> Self {
        Self(tracing::enabled!(target: PUBLISHES, Level::DEBUG).then(|| {
            let (peer, began, outcome) = (Peer::of(key), Instant::now(), "client gone");
            Box::new(RefCell::new(Publish { peer, began, topic: None, events: 0, bytes: 0, cursor: None, outcome }))
        }))
    }

    /// Records the subject, once it is known.
    pub(super) fn by(&self, key: &RateKey) {
        self.update(|publish| publish.peer = Peer::of(key));
    }

    /// Records the events that are to be stored, in addition to earlier ones.
    pub(super) fn add(&self, events: &[NewEvent]) {
        self.update(|publish| {
            publish.events += events.len();
            publish.bytes += events.iter().map(NewEvent::cost_bytes).sum::<u64>();
            if let Some(first) = events.first().filter(|_| publish.topic.is_none()) {
                publish.topic = Some(first.topic.as_str().into());
            }
        });
    }

    /// Records the furthest cursor of the stored events.
    pub(super) fn stored(&self, cursor: Cursor) {
        self.update(|publish| publish.cursor = Some(cursor));
    }

    /// Records how it ended: `stored`, or an error's code.
    pub(super) fn end(&self, outcome: &'static str) {
        self.update(|publish| publish.outcome = outcome);
    }

    fn update(&self, change: impl FnOnce(&mut Publish)) {
        if let Some(publish) = &self.0 {
            change(&mut publish.borrow_mut());
        }
    }
}

impl Drop for Publish {
    fn drop(&mut self) {
        tracing::debug!(
            target: PUBLISHES,
            address = %self.peer.address,
            subject = self.peer.subject.as_deref().map(LogSafe).map(display),
            topic = self.topic.as_deref().map(LogSafe).map(display),
            events = self.events,
            bytes = self.bytes,
            cursor = self.cursor.map(display),
            ms = elapsed_ms(self.began),
            outcome = self.outcome,
            "publish"
        );
    }
}

fn elapsed_ms(began: Instant) -> u64 {
    u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX)
}
