//! The short way: a stream at rest is handed what is new by its worker; its task runs only when something wakes it.
//!
//! Sockets take as many bytes as they like, also in the middle of an item. Whoever is not woken when it should be is found
//! out: nothing else makes it run.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use bytes::BytesMut;
use futures_util::FutureExt as _;
use rand::RngExt as _;
use switchback::delivery::Step;
use switchback::store::{ReadRequest, Store as _};
use switchback::wire::ByeReason;

use super::{Client, Connection, DRAIN, HEARTBEAT, World};

/// What waits to be written, at most, for a body to be asked for more.
const BUFFER_BYTES: usize = 2000;

#[derive(Default)]
struct Flag(AtomicBool);

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A connection's socket and task.
pub(super) struct Short {
    /// What the socket did not take of what went the short way, and what was given to be written the usual way.
    rest: Vec<u8>,
    buffer: Vec<u8>,
    /// Whether all that was given has been written.
    clear: bool,
    /// Bytes that the socket takes before it is full.
    room: usize,
    /// What it took, and the client has not read.
    wire: Vec<u8>,
    fetch: Option<ReadRequest>,
    kicked: bool,
    woken: Arc<Flag>,
    waker: Waker,
}

impl Short {
    /// Of one that has not run yet.
    pub(super) fn new() -> Self {
        let woken = Arc::new(Flag(AtomicBool::new(true)));
        let waker = Waker::from(woken.clone());
        let (rest, buffer, wire) = (Vec::new(), Vec::new(), Vec::new());
        Self { rest, buffer, clear: false, room: 0, wire, fetch: None, kicked: false, woken, waker }
    }

    pub(super) fn kick(&mut self) {
        self.kicked = true;
        self.waker.wake_by_ref();
    }

    fn is_clear(&self) -> bool {
        self.clear && self.rest.is_empty()
    }

    /// Offers bytes to the socket; says how many it took.
    fn offer(&mut self, bytes: &[u8]) -> usize {
        let taken = bytes.len().min(self.room);
        self.room -= taken;
        self.wire.extend(&bytes[..taken]);
        taken
    }

    fn write_rest(&mut self) {
        let rest = std::mem::take(&mut self.rest);
        let taken = self.offer(&rest);
        self.rest = rest[taken..].to_vec();
    }

    fn flush(&mut self) {
        self.write_rest();
        if self.rest.is_empty() {
            let buffer = std::mem::take(&mut self.buffer);
            let taken = self.offer(&buffer);
            self.buffer = buffer[taken..].to_vec();
        }
        self.clear |= self.buffer.is_empty();
    }

    fn is_flushed(&self) -> bool {
        self.rest.is_empty() && self.buffer.is_empty()
    }
}

impl World {
    /// Hands what is new to those who can take it at once: all of them, or as many as have their turn now.
    pub(super) fn push_due(&mut self, clients: &mut [Client]) {
        let most = if self.rng.random_bool(0.2) { 1 } else { usize::MAX };
        for _ in 0..most {
            let Some(key) = self.waiters.next_due() else { return };
            let connections = clients.iter_mut().filter_map(|client| client.connection.as_mut());
            let reader = connections.into_iter().find(|connection| connection.key == key && connection.short.is_some());
            if !reader.is_some_and(|connection| self.push(connection)) {
                self.waiters.wake(key);
            }
        }
    }

    /// As a stream does: says whether there is nothing left to do.
    fn push(&mut self, connection: &mut Connection) -> bool {
        let Some(short) = &mut connection.short else { return false };
        if !short.is_clear() {
            return true;
        }
        let delivery = &mut connection.delivery;
        if short.fetch.is_some() || short.kicked || self.draining || delivery.is_due_to_end(self.now) {
            return false;
        }
        let mut out = BytesMut::new();
        let step = delivery.step(self.now, &self.tail, self.waiters.news(connection.key), &mut out);
        if delivery.is_caught_up(&self.tail) {
            self.waiters.caught_up(connection.key);
        }
        let taken = short.offer(&out);
        short.rest.extend(&out[taken..]);
        if step == Step::Write {
            connection.last_bytes = self.now;
            self.pushes += 1;
        }
        let done = matches!(step, Step::Write | Step::Wait(_)) && taken == out.len();
        done && !delivery.is_finished() && delivery.is_caught_up(&self.tail)
    }

    /// Lets a connection's socket take bytes, its task run if something wakes it, and its client read.
    pub(super) fn run_task(&mut self, client: &mut Client, mut connection: Connection) {
        let Some(mut short) = connection.short.take() else { return };
        let room = [0, 1, 100, 3000, 1 << 20][self.rng.random_range(0..5)];
        short.room = if client.stalled {
            0
        } else if self.calm {
            1 << 20
        } else {
            room
        };
        let timer = connection.wait_until.is_some_and(|until| until <= self.now);
        let writable = short.room > 0 && !short.is_flushed();
        let woken = short.woken.0.swap(false, Ordering::Relaxed);
        if woken || timer || writable || short.fetch.is_some() {
            // Where there may be more than there was room for, it is asked again once all has been written, as actix does.
            let mut full = true;
            while std::mem::take(&mut full) {
                self.poll_body(&mut connection, &mut short);
                full = short.buffer.len() >= BUFFER_BYTES;
                short.flush();
                full &= short.is_flushed();
            }
        }
        let over = connection.finished && short.is_flushed();
        if !self.calm && self.rng.random_bool(0.03) {
            // Lost, with all that was not read.
            self.waiters.remove(connection.key);
            return;
        }
        let end = short.wire.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        let lines: Vec<u8> = short.wire.drain(..end).collect();
        self.receive(client, &connection, &lines);
        if over {
            assert!(short.wire.is_empty(), "a line is cut off");
            self.waiters.remove(connection.key);
            return;
        }
        if short.is_flushed() && !client.stalled && short.fetch.is_none() {
            assert!(self.now - connection.last_bytes <= HEARTBEAT, "a stream is mute");
        }
        connection.short = Some(short);
        client.connection = Some(connection);
    }

    /// Asks a body for more until there is nothing, or no room for it.
    fn poll_body(&mut self, connection: &mut Connection, short: &mut Short) {
        let mut steps = 0;
        while short.buffer.len() < BUFFER_BYTES && !connection.finished {
            steps += 1;
            assert!(steps < 10_000, "a connection spins");
            short.write_rest();
            self.waiters.wait(connection.key, &short.waker);
            if short.kicked {
                connection.delivery.end(self.now, ByeReason::Kicked);
            }
            if self.draining {
                connection.delivery.drain(self.now, DRAIN);
            }
            if !short.rest.is_empty() && !self.is_to_end(connection) {
                connection.wait_until = connection.delivery.ends_at();
                return;
            }
            if let Some(request) = short.fetch.take() {
                let page = self.store.read(request).now_or_never().unwrap().unwrap();
                connection.delivery.fetched(self.now, page);
            }
            let mut out = BytesMut::new();
            let news = self.waiters.news(connection.key);
            let step = connection.delivery.step(self.now, &self.tail, news, &mut out);
            if connection.delivery.is_caught_up(&self.tail) {
                self.waiters.caught_up(connection.key);
            }
            match step {
                Step::Write => {
                    short.clear = false;
                    short.buffer.extend(&out);
                    connection.last_bytes = self.now;
                }
                Step::Fetch(request) => {
                    short.fetch = Some(request);
                    if self.rng.random_bool(0.3) {
                        return;
                    }
                }
                Step::Wait(until) => {
                    assert!(until.is_some_and(|until| until > self.now), "waits for a time to come");
                    connection.wait_until = until;
                    return;
                }
                Step::Yield => {}
                Step::Finish => connection.finished = true,
            }
        }
    }

    fn is_to_end(&self, connection: &Connection) -> bool {
        connection.delivery.is_finished() || connection.delivery.ends_at().is_some_and(|at| at <= self.now)
    }
}
