//! The backlog: bytes queued for a slow peer, bounded in time by a minimum rate, and in size by the peer's share.
//!
//! TCP's own timeout ends a peer that takes nothing. A peer that takes a byte now and then would hold its queued bytes for ever.
//! Only the time in which bytes were queued is measured, so that a stream without events, or a peer that keeps up, is never slow.
//! The bytes are those that the kernel accepted, which for a slow reader are those that it acknowledged.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::Sleep;

use super::payer::Payer;

/// The minimum rate at which a peer has to take queued bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct MinReadRate {
    /// 0 disables the minimum.
    pub(crate) bytes_per_second: u32,
    /// How long bytes may be queued before the rate is checked.
    pub(crate) window: Duration,
}

/// The measured rate of a peer.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadRate {
    min: MinReadRate,
    /// How long bytes have been queued in this window.
    blocked: Duration,
    blocked_since: Option<Instant>,
    /// Bytes taken in this window.
    taken: u64,
}

/// The peer is slower than the minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooSlow;

impl ReadRate {
    pub(super) fn new(min: MinReadRate) -> Self {
        Self { min, blocked: Duration::ZERO, blocked_since: None, taken: 0 }
    }

    /// Records that bytes are queued and the peer takes none of them at the moment. Returns when the window ends if that goes on.
    ///
    /// # Errors
    /// [`TooSlow`] where bytes were queued for a whole window, and the peer took too few of them.
    pub(super) fn blocked(&mut self, now: Instant) -> Result<Instant, TooSlow> {
        let window = self.min.window;
        let since = *self.blocked_since.get_or_insert(now);
        let blocked = self.blocked + now.saturating_duration_since(since);
        if blocked < window {
            return Ok(now + (window - blocked));
        }
        if (self.taken as f64) < f64::from(self.min.bytes_per_second) * window.as_secs_f64() {
            return Err(TooSlow);
        }
        *self = Self { blocked_since: Some(now), ..Self::new(self.min) };
        Ok(now + window)
    }

    /// Records that the peer took bytes.
    pub(super) fn took(&mut self, now: Instant, bytes: usize) {
        if let Some(since) = self.blocked_since.take() {
            self.blocked += now.saturating_duration_since(since);
        }
        self.taken += bytes as u64;
    }
}

/// The backlog of one connection. It has no state until bytes are queued.
#[derive(Debug)]
pub(crate) struct Backlog {
    min: MinReadRate,
    payer: Payer,
    /// The most bytes that were queued since nothing was. A buffer is one allocation, which is freed with its last byte: that the
    /// peer has taken some of them returns no memory.
    queued_bytes: usize,
    /// Bytes that are charged to the payer.
    held_bytes: usize,
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    rate: ReadRate,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Backlog {
    pub(super) fn new(min: MinReadRate, payer: Payer) -> Self {
        Self { min, payer, queued_bytes: 0, held_bytes: 0, waiting: None }
    }

    /// Records that `bytes` are queued in all, before the socket takes some of them.
    pub(super) fn queue(&mut self, bytes: usize) {
        self.queued_bytes = self.queued_bytes.max(bytes);
    }

    /// Records that the socket takes none of the queued bytes at the moment. The task is woken when that has lasted too long.
    ///
    /// A connection that is too slow, or whose peer's share is full, is reset instead of closed: bytes that the kernel has
    /// accepted would otherwise stay queued for the same peer. A client that reconnects resumes from its cursor.
    pub(super) fn poll_blocked(&mut self, cx: &mut Context<'_>, socket: &TcpStream) -> Poll<io::Error> {
        if self.queued_bytes != self.held_bytes {
            if let Err(error) = self.payer.hold_unsent(self.queued_bytes) {
                self.payer.note_cut(&error);
                reset_on_close(socket);
                return Poll::Ready(io::Error::new(io::ErrorKind::QuotaExceeded, error));
            }
            self.held_bytes = self.queued_bytes;
        }
        if self.min.bytes_per_second == 0 {
            return Poll::Pending;
        }
        let new = || Box::new(Waiting { rate: ReadRate::new(self.min), timer: None });
        let Waiting { rate, timer } = &mut **self.waiting.get_or_insert_with(new);
        loop {
            let Ok(until) = rate.blocked(Instant::now()) else {
                reset_on_close(socket);
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            };
            let until = tokio::time::Instant::from_std(until);
            let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            // The timer stays armed for a time at or before the end: resetting it with every write costs more than a spurious
            // wake-up.
            if sleep.is_elapsed() || sleep.deadline() > until {
                sleep.as_mut().reset(until);
            }
            ready!(sleep.as_mut().poll(cx));
        }
    }

    /// Records that the socket took bytes; `drained` where nothing is left to write.
    pub(super) fn took(&mut self, bytes: usize, drained: bool) {
        if drained {
            self.queued_bytes = 0;
            if self.held_bytes > 0 {
                let _less_is_never_refused = self.payer.hold_unsent(0);
                self.held_bytes = 0;
            }
        }
        let Some(waiting) = &mut self.waiting else { return };
        waiting.rate.took(Instant::now(), bytes);
        if drained {
            waiting.timer = None;
        }
    }
}

impl Drop for Backlog {
    fn drop(&mut self) {
        // actix's pools may keep the payer for longer.
        self.took(0, true);
    }
}

fn reset_on_close(socket: &TcpStream) {
    if let Err(error) = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
        tracing::debug!(%error, "the connection could not be reset and is closed");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WINDOW: Duration = Duration::from_secs(60);
    const MIN: MinReadRate = MinReadRate { bytes_per_second: 1024, window: WINDOW };

    /// A peer that takes `bytes` every `pause` while bytes are always queued: the time until it is cut, up to an hour.
    fn suffered(bytes: usize, pause: Duration) -> Duration {
        let begin = Instant::now();
        let (mut rate, mut now) = (ReadRate::new(MIN), begin);
        while now < begin + Duration::from_secs(3600) {
            let Ok(until) = rate.blocked(now) else { return now - begin };
            if now + pause >= until {
                now = until;
                if rate.blocked(now).is_err() {
                    return now - begin;
                }
            } else {
                now += pause;
                rate.took(now, bytes);
            }
        }
        now - begin
    }

    proptest! {
        /// Below the minimum it ends within two windows; at twice the minimum it never does.
        #[test]
        fn a_peer_is_cut_by_its_rate_alone(pause_ms in 50_u64..20_000, permille in 0_u64..900) {
            let pause = Duration::from_millis(pause_ms);
            let at = |permille: u64| usize::try_from(u64::from(MIN.bytes_per_second) * pause_ms * permille / 1_000_000).unwrap();
            prop_assert!(suffered(at(permille), pause) <= WINDOW * 2);
            prop_assert!(suffered(at(2000) + 1, pause) >= Duration::from_secs(3600));
        }
    }

    #[test]
    fn time_in_which_nothing_waits_does_not_count() {
        let mut now = Instant::now();
        let mut rate = ReadRate::new(MIN);
        for _ in 0..100 {
            assert!(rate.blocked(now).is_ok());
            now += Duration::from_millis(100);
            rate.took(now, 200);
            // An hour without queued bytes.
            now += Duration::from_secs(3600);
        }
        assert!(rate.blocked(now).is_ok());
    }
}
