//! The socket of a direct write: the write half of a TCP connection, or its simulation.

use std::io;
use std::net::Shutdown;
use std::task::{Context, Poll};

use tokio::net::tcp::OwnedWriteHalf;

use crate::net::backlog::Backlog;

/// The writing side of a plain connection.
#[derive(Debug)]
pub(super) enum Socket {
    Tcp(OwnedWriteHalf),
    /// One that takes as many bytes as a simulation says.
    #[cfg(test)]
    Simulated(std::rc::Rc<simulated::SimulatedSocket>),
}

impl Socket {
    /// Writes what the socket takes at once; says how many bytes that was, 0 also where it is broken.
    pub(super) fn write_now(&self, bytes: &[u8]) -> usize {
        match self {
            // Not by tokio, which would look up first whether the socket is known to be full: that lies elsewhere in memory.
            Self::Tcp(half) => socket2::SockRef::from(half.as_ref()).send(bytes).unwrap_or(0),
            #[cfg(test)]
            Self::Simulated(socket) => socket.take(bytes),
        }
    }

    /// Waits until the socket takes some of `bytes`, behind which others wait; ends with an error where that lasts too long.
    pub(super) fn poll_write(
        &self,
        cx: &mut Context<'_>,
        bytes: &[u8],
        behind_bytes: usize,
        backlog: &mut Backlog,
    ) -> Poll<io::Result<usize>> {
        match self {
            Self::Tcp(half) => poll_write(half, cx, bytes, behind_bytes, backlog),
            #[cfg(test)]
            Self::Simulated(socket) => socket.poll_write(cx, bytes),
        }
    }

    /// No more is written.
    pub(super) fn shutdown(&self) -> io::Result<()> {
        match self {
            Self::Tcp(half) => match socket2::SockRef::from(half.as_ref()).shutdown(Shutdown::Write) {
                Err(error) if error.kind() != io::ErrorKind::NotConnected => Err(error),
                _ => Ok(()),
            },
            #[cfg(test)]
            Self::Simulated(_) => Ok(()),
        }
    }
}

fn poll_write(
    half: &OwnedWriteHalf,
    cx: &mut Context<'_>,
    bytes: &[u8],
    behind_bytes: usize,
    backlog: &mut Backlog,
) -> Poll<io::Result<usize>> {
    backlog.queue(bytes.len() + behind_bytes);
    loop {
        match half.as_ref().poll_write_ready(cx) {
            Poll::Ready(ready) => ready?,
            Poll::Pending => return backlog.poll_blocked(cx, half.as_ref()).map(Err),
        }
        match half.try_write(bytes) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Poll::Ready(Err(error)),
            Ok(0) if !bytes.is_empty() => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Ok(written) => {
                backlog.took(written, written == bytes.len() && behind_bytes == 0);
                return Poll::Ready(Ok(written));
            }
        }
    }
}

#[cfg(test)]
pub(crate) mod simulated {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::task::Waker;

    /// A socket that takes bytes up to a limit, which the simulation sets, also in the middle of an item.
    #[derive(Debug, Default)]
    pub(crate) struct SimulatedSocket {
        room: Cell<usize>,
        taken: RefCell<Vec<u8>>,
        waker: RefCell<Option<Waker>>,
    }

    impl SimulatedSocket {
        /// Takes so many bytes from now on.
        pub(crate) fn set_room(&self, bytes: usize) {
            self.room.set(bytes);
            if bytes > 0
                && let Some(waker) = self.waker.take()
            {
                waker.wake();
            }
        }

        /// Whether it takes bytes.
        pub(crate) fn has_room(&self) -> bool {
            self.room.get() > 0
        }

        /// What it took since this was called last, up to the end of a line.
        pub(crate) fn lines(&self) -> Vec<u8> {
            let mut taken = self.taken.borrow_mut();
            let end = taken.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
            taken.drain(..end).collect()
        }

        pub(super) fn take(&self, bytes: &[u8]) -> usize {
            let taken = bytes.len().min(self.room.get());
            self.room.set(self.room.get() - taken);
            self.taken.borrow_mut().extend(&bytes[..taken]);
            taken
        }

        pub(super) fn poll_write(&self, cx: &Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            if self.room.get() == 0 {
                self.waker.replace(Some(cx.waker().clone()));
                return Poll::Pending;
            }
            Poll::Ready(Ok(self.take(bytes)))
        }
    }
}
