//! The floor: the cost of the kernel alone. One `send()` a delivery, without a real server.
//!
//! It supports three requests: `GET /sub` opens a stream, `GET /held` is answered with the next event, `POST` publishes an event.
//! Any other request is answered at once.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd as _;

use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::Fault;
use super::http;

/// The only argument that a benchmark's program has when it is started as the floor.
pub(crate) const ARGUMENT: &str = "--serve-the-floor";

const LISTENER: u64 = u64::MAX;
const READ_BYTES: usize = 64 << 10;
const EVENTS_MAX: usize = 1024;

const STREAM: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
const STORED: &[u8] = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}";
const NOTHING_NEW: &[u8] = b"HTTP/1.1 304 Not Modified\r\nETag: \"floor-1\"\r\n\r\n";

struct Peer {
    stream: TcpStream,
    input: Vec<u8>,
}

/// Serves until it is killed.
pub(crate) fn serve(listener: &TcpListener) -> Result<(), Fault> {
    listener.set_nonblocking(true)?;
    println!("the floor listens on http://{}", listener.local_addr()?);
    let epoll = Epoll::new(EpollCreateFlags::empty())?;
    epoll.add(listener.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
    let (mut peers, mut streams, mut held) = (Vec::<Peer>::new(), Vec::<usize>::new(), Vec::<usize>::new());
    let mut events = vec![EpollEvent::empty(); EVENTS_MAX];
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let ready = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..ready] {
            if event.data() == LISTENER {
                while let Ok((stream, _)) = listener.accept() {
                    stream.set_nonblocking(true)?;
                    stream.set_nodelay(true)?;
                    epoll.add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, peers.len() as u64))?;
                    peers.push(Peer { stream, input: Vec::new() });
                }
                continue;
            }
            let at = event.data() as usize;
            let read = match peers[at].stream.read(&mut buffer) {
                Ok(0) => {
                    epoll.delete(peers[at].stream.as_fd())?;
                    continue;
                }
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => continue,
                Err(_) => {
                    epoll.delete(peers[at].stream.as_fd())?;
                    continue;
                }
            };
            let mut input = std::mem::take(&mut peers[at].input);
            input.extend_from_slice(&buffer[..read]);
            let mut done = 0;
            while let Some(request) = http::answer(&input[done..]) {
                done += request.bytes;
                if request.head.starts_with(b"POST") {
                    deliver(&peers, &streams, request.body);
                    let answer = [head(request.body.len()).as_bytes(), request.body].concat();
                    deliver(&peers, &held, &answer);
                    held.clear();
                    send(&peers[at], STORED);
                } else if request.head.starts_with(b"GET /sub") {
                    streams.push(at);
                    send(&peers[at], STREAM);
                } else if request.head.starts_with(b"GET /held") {
                    held.push(at);
                } else {
                    send(&peers[at], NOTHING_NEW);
                }
            }
            input.drain(..done);
            peers[at].input = input;
        }
    }
}

fn head(length: usize) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")
}

fn deliver(peers: &[Peer], to: &[usize], bytes: &[u8]) {
    to.iter().for_each(|at| send(&peers[*at], bytes));
}

/// Writes once: bytes that a full socket does not take are lost, and the count shows it.
fn send(peer: &Peer, bytes: &[u8]) {
    let _ = (&peer.stream).write(bytes);
}
