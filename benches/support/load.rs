//! The load generator: one busy-polling thread on a core of its own. The wake-ups of a sleeping one would cost the server time.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use memchr::memmem;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use socket2::{Domain, Socket, Type};

use super::Fault;
use super::http::{self, Answer};
use super::seen::{PUBLISHERS_MAX, Seen};

const READ_BYTES: usize = 64 << 10;
const READY_MAX: usize = 1024;

/// Connections from one source address; there are about 28,000 ports.
const PORTS_MAX: usize = 20_000;

/// Bytes in which an iframe's `$bye` begins to show, with the cursor before its name.
const IFRAME_END_BYTES: usize = 128;

/// The role of a connection.
pub(crate) enum Role {
    /// Receives a stream; `greeting` marks its beginning.
    Stream { seen: Seen, greeting: &'static [u8], greeted: bool },
    /// Receives an iframe's stream, and requests the next document when one has ended.
    Iframe { seen: Seen, greeted: bool },
    /// Long polling: sends the next request when one is answered.
    Held { seen: Seen, next: fn(&Answer<'_>) -> Option<Vec<u8>> },
    /// Sends requests when called: publishers, short polls.
    Requester { sent: VecDeque<Instant>, answered: u64, refused: u64 },
}

struct Connection {
    stream: TcpStream,
    role: Role,
    input: Vec<u8>,
    output: Vec<u8>,
    /// The socket's send buffer is full.
    blocked: bool,
    open: bool,
}

/// The figures, which are counted while `on` is set.
#[derive(Default)]
pub(crate) struct Figures {
    pub(crate) on: bool,
    pub(crate) deliveries: u64,
    /// From the call that published to the read that brought the event, in microseconds.
    pub(crate) latencies_us: Vec<u32>,
    pub(crate) answers: u64,
    /// From a request to its response, in microseconds.
    pub(crate) response_times_us: Vec<u32>,
}

/// All connections of a measurement.
pub(crate) struct Load {
    epoll: Epoll,
    ready: Vec<EpollEvent>,
    buffer: Vec<u8>,
    connections: Vec<Connection>,
    zero: Instant,
    pub(crate) figures: Figures,
    /// Events that all subscribers together have received.
    pub(crate) seen: u64,
    pub(crate) greeted: usize,
    /// Requesters that were answered since this was last emptied.
    pub(crate) answered: Vec<usize>,
    pub(crate) closed: usize,
}

impl Load {
    pub(crate) fn new() -> Result<Self, Fault> {
        Ok(Self {
            epoll: Epoll::new(EpollCreateFlags::empty())?,
            ready: vec![EpollEvent::empty(); READY_MAX],
            buffer: vec![0; READ_BYTES],
            connections: Vec::new(),
            zero: Instant::now(),
            figures: Figures::default(),
            seen: 0,
            greeted: 0,
            answered: Vec::new(),
            closed: 0,
        })
    }

    /// Nanoseconds of this load's clock.
    pub(crate) fn nanos(&self) -> u64 {
        self.zero.elapsed().as_nanos() as u64
    }

    pub(crate) fn connect(&mut self, address: SocketAddr, role: Role) -> Result<usize, Fault> {
        let at = self.connections.len();
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        let source = Ipv4Addr::new(127, 0, 0, 1 + (at / PORTS_MAX) as u8);
        if at >= PORTS_MAX {
            socket.bind(&SocketAddr::from((source, 0)).into())?;
        }
        socket.connect(&address.into())?;
        let stream = TcpStream::from(socket);
        stream.set_nonblocking(true)?;
        stream.set_nodelay(true)?;
        self.epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, at as u64))?;
        self.connections.push(Connection {
            stream,
            role,
            input: Vec::new(),
            output: Vec::new(),
            blocked: false,
            open: true,
        });
        Ok(at)
    }

    /// Adds a connection that sends requests.
    pub(crate) fn requester(&mut self, address: SocketAddr) -> Result<usize, Fault> {
        self.connect(address, Role::Requester { sent: VecDeque::new(), answered: 0, refused: 0 })
    }

    pub(crate) fn send(&mut self, to: usize, bytes: &[u8]) {
        let connection = &mut self.connections[to];
        if let Role::Requester { sent, .. } = &mut connection.role {
            sent.push_back(Instant::now());
        }
        connection.send(bytes, &self.epoll, to);
    }

    /// Requests of a requester that are in flight.
    pub(crate) fn unanswered(&self, of: usize) -> usize {
        match &self.connections[of].role {
            Role::Requester { sent, .. } => sent.len(),
            _ => 0,
        }
    }

    /// Reads what has arrived, without waiting.
    pub(crate) fn turn(&mut self) -> Result<(), Fault> {
        let mut ready = std::mem::take(&mut self.ready);
        let count = self.epoll.wait(&mut ready, EpollTimeout::ZERO)?;
        for event in &ready[..count] {
            let at = event.data() as usize;
            if event.events().contains(EpollFlags::EPOLLOUT) {
                self.connections[at].flush(&self.epoll, at);
            }
            if event.events().intersects(EpollFlags::EPOLLIN | EpollFlags::EPOLLHUP | EpollFlags::EPOLLERR) {
                self.receive(at);
            }
        }
        self.ready = ready;
        Ok(())
    }

    /// Polls until a condition holds; returns whether it did within the deadline.
    pub(crate) fn until(&mut self, within: Duration, mut holds: impl FnMut(&Self) -> bool) -> Result<bool, Fault> {
        let begun = Instant::now();
        while !holds(self) {
            if begun.elapsed() > within {
                return Ok(false);
            }
            self.turn()?;
        }
        Ok(true)
    }

    /// Lost, repeated, out of order, over all subscribers.
    pub(crate) fn faults(&self, published: &[u64; PUBLISHERS_MAX]) -> [u64; 3] {
        let mut faults = [0; 3];
        for connection in &self.connections {
            let (Role::Stream { seen, .. } | Role::Iframe { seen, .. } | Role::Held { seen, .. }) = &connection.role
            else {
                continue;
            };
            faults[0] += seen.lost(published);
            faults[1] += seen.repeated;
            faults[2] += seen.disordered;
        }
        faults
    }

    /// Responses that were not 2xx or 3xx.
    pub(crate) fn refusals(&self) -> u64 {
        let refused = self.connections.iter().map(|connection| match &connection.role {
            Role::Requester { refused, .. } => *refused,
            _ => 0,
        });
        refused.sum()
    }

    fn receive(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        let read = match connection.stream.read(&mut self.buffer) {
            Ok(0) => None,
            Ok(read) => Some(read),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return,
            Err(_) => None,
        };
        let Some(read) = read else {
            let _ = self.epoll.delete(connection.stream.as_fd());
            self.closed += usize::from(std::mem::take(&mut connection.open));
            return;
        };
        let bytes = &self.buffer[..read];
        let now = self.zero.elapsed().as_nanos() as u64;
        let (figures, seen_by_all) = (&mut self.figures, &mut self.seen);
        let mut delivered = |nanos: u64| {
            *seen_by_all += 1;
            if figures.on {
                figures.deliveries += 1;
                figures.latencies_us.push(u32::try_from(now.saturating_sub(nanos) / 1000).unwrap_or(u32::MAX));
            }
        };
        // Complete events are read in place; only an incomplete rest is copied.
        let kept = std::mem::take(&mut connection.input);
        let joined;
        let all = if kept.is_empty() {
            bytes
        } else {
            joined = [&kept, bytes].concat();
            &joined
        };
        let (mut done, mut request) = (0, None);
        match &mut connection.role {
            Role::Stream { seen, greeting, greeted } => {
                if *greeted {
                    done = seen.read(all, delivered);
                } else if memmem::find(all, greeting).is_some() {
                    *greeted = true;
                    self.greeted += 1;
                    done = seen.read(all, delivered);
                }
            }
            Role::Iframe { seen, greeted } => {
                if !*greeted && memmem::find(all, b"$hello").is_some() {
                    *greeted = true;
                    self.greeted += 1;
                }
                match memmem::find(all, b"\"event\":\"$bye\"") {
                    // After the end of the document, the next one starts at its last cursor.
                    Some(_) if !all.ends_with(b"0\r\n\r\n") => {}
                    Some(_) => {
                        seen.read(all, delivered);
                        done = all.len();
                        let cursor = http::last_quoted(all, "{\"cursor\":\"").unwrap_or_default();
                        request = Some(http::get(&format!("/v1/iframe?topic=bench&cursor={cursor}"), ""));
                    }
                    // Enough bytes are kept to find an end mark that is split over two reads.
                    None if *greeted => done = seen.read_but(all, IFRAME_END_BYTES, delivered),
                    None => {}
                }
            }
            Role::Held { seen, next } => {
                while let Some(answer) = http::answer(&all[done..]) {
                    done += answer.bytes;
                    seen.read(answer.body, &mut delivered);
                    request = next(&answer);
                }
            }
            Role::Requester { sent, answered, refused } => {
                while let Some(answer) = http::answer(&all[done..]) {
                    done += answer.bytes;
                    *answered += 1;
                    *refused += u64::from(!(200..400).contains(&answer.status));
                    self.answered.push(at);
                    if let Some(started) = sent.pop_front()
                        && self.figures.on
                    {
                        self.figures.answers += 1;
                        self.figures
                            .response_times_us
                            .push(u32::try_from(started.elapsed().as_micros()).unwrap_or(u32::MAX));
                    }
                }
            }
        }
        connection.input = all[done..].to_vec();
        if let Some(request) = request {
            connection.send(&request, &self.epoll, at);
        }
    }
}

impl Connection {
    fn send(&mut self, bytes: &[u8], epoll: &Epoll, at: usize) {
        self.output.extend_from_slice(bytes);
        self.flush(epoll, at);
    }

    fn flush(&mut self, epoll: &Epoll, at: usize) {
        while !self.output.is_empty() && self.open {
            match self.stream.write(&self.output) {
                Ok(written) => drop(self.output.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => self.output.clear(),
            }
        }
        if self.blocked == self.output.is_empty() {
            self.blocked = !self.output.is_empty();
            let mut events = EpollFlags::EPOLLIN;
            events.set(EpollFlags::EPOLLOUT, self.blocked);
            let _ = epoll.modify(self.stream.as_fd(), &mut EpollEvent::new(events, at as u64));
        }
    }
}
