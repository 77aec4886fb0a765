//! What waits because its peer does not take it: bounded in time by a minimum rate.
//!
//! TCP's own timeout ends a peer that takes nothing. One that takes a byte now and then would hold what waits for it for
//! ever. Measured is the time in which something waited, so that a stream without events, or a peer that keeps up, is never
//! slow; the bytes are those that the kernel took, which for a reader that lags is what it acknowledged.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::net::TcpStream;
use tokio::time::Sleep;

/// How long something may wait before the rate counts.
const WINDOW: Duration = Duration::from_secs(60);

/// How fast a peer takes what waits for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReadRate {
    bytes_per_second_min: u32,
    /// How long something has waited, in this window.
    blocked: Duration,
    blocked_since: Option<Instant>,
    /// Bytes taken in this window.
    taken: u64,
}

/// The peer is slower than the minimum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooSlow;

impl ReadRate {
    /// `bytes_per_second_min` of 0 is any rate.
    pub(super) fn new(bytes_per_second_min: u32) -> Self {
        Self { bytes_per_second_min, blocked: Duration::ZERO, blocked_since: None, taken: 0 }
    }

    /// Something waits, and the peer takes nothing of it at the moment. Says when the window ends if that goes on.
    ///
    /// # Errors
    /// [`TooSlow`] where it has waited for a whole window, and too little of it was taken.
    pub(super) fn blocked(&mut self, now: Instant) -> Result<Instant, TooSlow> {
        let since = *self.blocked_since.get_or_insert(now);
        let blocked = self.blocked + now.saturating_duration_since(since);
        if blocked < WINDOW {
            return Ok(now + (WINDOW - blocked));
        }
        let least = u64::from(self.bytes_per_second_min) * WINDOW.as_secs();
        if self.taken < least {
            return Err(TooSlow);
        }
        *self = Self { blocked_since: Some(now), ..Self::new(self.bytes_per_second_min) };
        Ok(now + WINDOW)
    }

    /// The peer took bytes.
    pub(super) fn took(&mut self, now: Instant, bytes: usize) {
        if let Some(since) = self.blocked_since.take() {
            self.blocked += now.saturating_duration_since(since);
        }
        self.taken += bytes as u64;
    }
}

/// The backlog of one connection. It has no state until something waits.
#[derive(Debug)]
pub(crate) struct Backlog {
    bytes_per_second_min: u32,
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    rate: ReadRate,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Backlog {
    pub(super) fn new(bytes_per_second_min: u32) -> Self {
        Self { bytes_per_second_min, waiting: None }
    }

    /// Something waits, and the socket takes nothing of it at the moment: the task is woken when that has lasted too long.
    ///
    /// Then the connection is not closed but reset: what the kernel has taken already would wait on for the same peer.
    pub(super) fn poll_too_slow(&mut self, cx: &mut Context<'_>, socket: &TcpStream) -> Poll<io::Error> {
        if self.bytes_per_second_min == 0 {
            return Poll::Pending;
        }
        let new = || Box::new(Waiting { rate: ReadRate::new(self.bytes_per_second_min), timer: None });
        let Waiting { rate, timer } = &mut **self.waiting.get_or_insert_with(new);
        loop {
            let Ok(until) = rate.blocked(Instant::now()) else {
                if let Err(error) = socket2::SockRef::from(socket).set_linger(Some(Duration::ZERO)) {
                    tracing::debug!(%error, "a slow peer's connection is closed, not reset");
                }
                return Poll::Ready(io::ErrorKind::TimedOut.into());
            };
            let until = tokio::time::Instant::from_std(until);
            let sleep = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(until)));
            // Kept armed for a time at or before the end: to move it with every write costs more than to be woken in vain.
            if sleep.is_elapsed() || sleep.deadline() > until {
                sleep.as_mut().reset(until);
            }
            ready!(sleep.as_mut().poll(cx));
        }
    }

    /// The socket took bytes; `drained` where nothing is left of what was given.
    pub(super) fn took(&mut self, bytes: usize, drained: bool) {
        let Some(waiting) = &mut self.waiting else { return };
        waiting.rate.took(Instant::now(), bytes);
        if drained {
            waiting.timer = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIN: u32 = 1024;

    /// A peer that takes `bytes` every `pause` while something waits all the time: how long it is suffered, up to an hour.
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
            let at = |permille: u64| usize::try_from(u64::from(MIN) * pause_ms * permille / 1_000_000).unwrap();
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
            // A quiet hour.
            now += Duration::from_secs(3600);
        }
        assert!(rate.blocked(now).is_ok());
    }
}
