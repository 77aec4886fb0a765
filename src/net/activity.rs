//! What a connection does: its requests in flight, since when it has been idle, and how it is to end.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::time::Instant;

use super::head_error::HeadError;
use super::hold::Hold;

/// The timeouts of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Timeouts {
    /// Between requests.
    pub(crate) idle: Duration,
    /// For a request's head.
    pub(crate) head: Duration,
}

/// Whether a connection has requests in flight, since when it has been idle, and how it is to end.
#[derive(Debug)]
pub(crate) struct Activity {
    requests: Cell<usize>,
    idle_since: Cell<Instant>,
    /// When the first byte of a request arrived whose head is incomplete.
    head_since: Cell<Option<Instant>>,
    /// Whether the request in flight waits for events.
    pub(crate) hold: Hold,
    /// The `App` was given a request's head, and has not begun to serve the request.
    is_expected: Cell<bool>,
    /// Why the request that the `App` serves next is refused: it is the placeholder of a malformed one.
    refusal: RefCell<Option<HeadError>>,
    /// The body of the request in flight is malformed, and is not read any further.
    body_is_malformed: Cell<bool>,
    /// The request in flight has made the connection a WebSocket's.
    is_upgraded: Cell<bool>,
    /// The connection's task, where it waits for the end of the request in flight to read the next one, or for an upgrade.
    reader: RefCell<Option<Waker>>,
    end: Cell<ConnectionEnd>,
}

/// How far an HTTP/1 connection is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ConnectionEnd {
    /// More requests may come.
    Open,
    /// The request in flight is the connection's last (RFC 9112 §9.6).
    LastRequest,
    /// The last byte was queued: the sending side is shut down once that is written.
    LastByte,
}

/// One request in flight, until its response is complete.
#[derive(Debug)]
pub(crate) struct InFlightGuard(Rc<Activity>);

impl Activity {
    /// For a new connection, which owes a head.
    pub(super) fn begin_connection() -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            requests: Cell::new(0),
            idle_since: Cell::new(now),
            head_since: Cell::new(Some(now)),
            hold: Hold::default(),
            is_expected: Cell::new(false),
            refusal: RefCell::default(),
            body_is_malformed: Cell::new(false),
            is_upgraded: Cell::new(false),
            reader: RefCell::default(),
            end: Cell::new(ConnectionEnd::Open),
        })
    }

    pub(super) fn begin(self: &Rc<Self>) -> InFlightGuard {
        self.requests.set(self.requests.get() + 1);
        self.head_since.set(None);
        self.hold.set(false);
        self.is_expected.set(false);
        InFlightGuard(self.clone())
    }

    /// The request under way is the connection's last: no other is read.
    pub(crate) fn finish_requests(&self) {
        if self.end.get() == ConnectionEnd::Open {
            self.end.set(ConnectionEnd::LastRequest);
        }
    }

    /// Whether another request may follow.
    pub(super) fn is_open(&self) -> bool {
        self.end.get() == ConnectionEnd::Open
    }

    /// Nothing is sent any more behind what was given until now.
    pub(super) fn finish_sending(&self) {
        self.end.set(ConnectionEnd::LastByte);
    }

    /// Whether nothing is sent any more behind what was given.
    pub(super) fn has_finished_sending(&self) -> bool {
        self.end.get() == ConnectionEnd::LastByte
    }

    pub(super) fn is_idle(&self) -> bool {
        self.requests.get() == 0
    }

    /// The `App` has been given a head, and will begin to serve the request.
    pub(super) fn expect(&self) {
        self.is_expected.set(true);
        self.head_since.set(None);
        self.idle_since.set(Instant::now());
    }

    /// Whether every request that the `App` was given has its complete response.
    pub(super) fn is_answered(&self) -> bool {
        self.is_idle() && !self.is_expected.get()
    }

    /// The response to the request in flight accepts the upgrade to a WebSocket.
    pub(super) fn upgrade(&self) {
        self.is_upgraded.set(true);
        self.wake_reader();
    }

    pub(super) fn is_upgraded(&self) -> bool {
        self.is_upgraded.get()
    }

    fn wake_reader(&self) {
        if let Some(reader) = self.reader.borrow_mut().take() {
            reader.wake();
        }
    }

    /// Wakes this task when a request in flight is over, or is accepted as an upgrade.
    pub(super) fn wake_when_answered(&self, cx: &Context<'_>) {
        *self.reader.borrow_mut() = Some(cx.waker().clone());
    }

    /// The request that the `App` serves next is refused, and is the connection's last.
    pub(super) fn refuse(&self, error: HeadError) {
        *self.refusal.borrow_mut() = Some(error);
    }

    /// Whether the request that is to be served is the placeholder of a malformed one.
    pub(super) fn is_refusing(&self) -> bool {
        self.refusal.borrow().is_some()
    }

    /// Why the request that is to be served is refused, if it is.
    pub(crate) fn take_refusal(&self) -> Option<HeadError> {
        self.refusal.borrow_mut().take()
    }

    /// The rest of the body of the request in flight is malformed, and is not read.
    pub(super) fn note_malformed_body(&self) {
        self.body_is_malformed.set(true);
    }

    /// Whether the body of the request in flight is malformed.
    pub(super) fn has_malformed_body(&self) -> bool {
        self.body_is_malformed.get()
    }

    /// Records that a part of a request has arrived.
    pub(super) fn heard(&self) {
        if self.is_idle() && self.head_since.get().is_none() {
            self.head_since.set(Some(Instant::now()));
        }
    }

    /// Whether a request's head is due.
    pub(super) fn owes_head(&self) -> bool {
        self.head_since.get().is_some()
    }

    /// When the idle timeout or the head's timeout passes, if the connection stays as it is.
    pub(super) fn ends_at(&self, timeouts: Timeouts) -> Instant {
        match self.head_since.get() {
            Some(since) => since + timeouts.head,
            None => self.idle_since.get() + timeouts.idle,
        }
    }
}

impl InFlightGuard {
    pub(super) fn activity(&self) -> &Activity {
        &self.0
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.requests.set(self.0.requests.get() - 1);
        self.0.idle_since.set(Instant::now());
        self.0.wake_reader();
    }
}
