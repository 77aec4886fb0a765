//! The wall clock, with protection against its jumps: a wrong clock must not expire or trim anything that cannot be restored.
//!
//! The wall clock jumps: a machine boots with a wrong clock and NTP corrects it a minute later, an operator types a wrong year,
//! a hypervisor pauses a guest. The boot clock, which continues while the machine sleeps, does not. Where the two diverge by
//! more than a minute the wall clock has jumped, and it is not known yet whether it was right before or is right now. So
//! retention by age waits, and bans, tickets and records expire by the time before the jump, for an hour or until the operator
//! confirms the new time. A clock that jumps back meanwhile has removed nothing. Tokens expire by the wall clock all the same:
//! their issuer set their `exp` by it, and a token that lives too long is worse than one that has to be renewed.
//!
//! Timeouts use monotonic time, `std::time::Instant`, everywhere; this module does not deal with them.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::sync::lock;

/// The divergence of the wall clock from the boot clock that counts as a jump. NTP slews offsets below a fraction of a second,
/// and a step below a minute does no harm that is worth an hour of waiting.
pub const JUMP: Duration = Duration::from_secs(60);

/// How long retention by age waits after a jump: long enough for NTP to correct the clock, or for an operator to react.
pub const HOLD: Duration = Duration::from_secs(3600);

/// The smallest step of the wall clock after which expiry is checked again: the resolution of a token's `exp`.
const STEP: Duration = Duration::from_secs(1);

/// The source of time: the system's clocks, or a test's.
pub trait ClockSource: Send + Sync + 'static {
    /// The time of day, in milliseconds since the Unix epoch.
    fn wall_ms(&self) -> u64;

    /// Milliseconds since some moment before this process began, including the time that the machine sleeps. Never steps.
    fn boot_ms(&self) -> u64;

    /// Identifies the boot that [`Self::boot_ms`] counts from; `None` where that is not known.
    fn boot_id(&self) -> Option<Uuid>;
}

/// The clocks of one process. Cheap to clone; a clone is the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Shared>);

struct Shared {
    source: Box<dyn ClockSource>,
    /// The believed time minus the boot clock, in milliseconds. Read with every request, so outside the lock.
    believed_offset_ms: AtomicI64,
    state: Mutex<State>,
}

struct State {
    /// Since when retention waits, on the boot clock.
    held_since_ms: Option<u64>,
    /// The wall clock's offset at the last tick.
    wall_offset_ms: i64,
}

/// The readings of the clocks at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// The believed time of day: the wall clock, or, after a jump, its time without the jump.
    pub believed_ms: u64,
    /// The boot clock, in milliseconds.
    pub boot_ms: u64,
    /// The boot's id, where it is known.
    pub boot_id: Option<Uuid>,
    /// Whether retention by age may remove events. False for a while after a jump.
    pub removes: bool,
    /// Whether the wall clock was stepped by a second or more since the tick before.
    pub stepped: bool,
}

impl Moment {
    /// A moment at which all clocks agree, in milliseconds since the Unix epoch, for tests.
    #[must_use]
    pub fn at(ms: u64) -> Self {
        Self { wall_ms: ms, believed_ms: ms, boot_ms: ms, boot_id: None, removes: true, stepped: false }
    }

    /// The earlier of the two times of day: by this time nothing expires too early, whichever of the two is right.
    #[must_use]
    pub fn earliest_ms(&self) -> u64 {
        self.wall_ms.min(self.believed_ms)
    }
}

/// When a store was last in use, with which the next start compares the wall clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastRun {
    /// [`Moment::believed_ms`] then.
    pub believed_ms: u64,
    /// [`Moment::boot_ms`] then.
    pub boot_ms: u64,
    /// [`Moment::boot_id`] then.
    pub boot_id: Option<Uuid>,
}

impl From<&Moment> for LastRun {
    fn from(moment: &Moment) -> Self {
        Self { believed_ms: moment.believed_ms, boot_ms: moment.boot_ms, boot_id: moment.boot_id }
    }
}

impl Clock {
    /// The system's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self::with_source(SystemClock { boot_id: boot_id() })
    }

    /// The clocks of another source, which are believed initially.
    pub fn with_source(source: impl ClockSource) -> Self {
        let (wall_ms, boot_ms) = (source.wall_ms(), source.boot_ms());
        let offset_ms = difference(wall_ms, boot_ms);
        let state = State { held_since_ms: None, wall_offset_ms: offset_ms };
        let believed_offset_ms = AtomicI64::new(offset_ms);
        Self(Arc::new(Shared { source: Box::new(source), believed_offset_ms, state: Mutex::new(state) }))
    }

    /// The wall clock, in milliseconds since the Unix epoch: for the time of events and the expiry of tokens.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.0.source.wall_ms()
    }

    /// The believed time of day, in milliseconds since the Unix epoch: for the expiry of bans and tickets, and when a client was
    /// last seen.
    #[must_use]
    pub fn believed_ms(&self) -> u64 {
        shifted(self.0.source.boot_ms(), self.0.believed_offset_ms.load(Ordering::Relaxed))
    }

    /// The earlier of the wall clock and the believed time: for what must not expire too early, such as a revocation.
    #[must_use]
    pub fn earliest_ms(&self) -> u64 {
        self.wall_ms().min(self.believed_ms())
    }

    /// Compares the clocks with a store's records from before this start: when it was last in use, and the time of its newest
    /// event. Logs a disagreement.
    pub fn resume(&self, last_run: Option<LastRun>, newest_event_ms: Option<u64>) {
        let (wall_ms, boot_ms) = (self.0.source.wall_ms(), self.0.source.boot_ms());
        let offset_ms = difference(wall_ms, boot_ms);
        let mut state = lock(&self.0.state);
        let same_boot =
            |run: &LastRun| run.boot_id.is_some() && run.boot_id == self.0.source.boot_id() && run.boot_ms <= boot_ms;
        let (believed_ms, against) = match last_run {
            // The same boot: the boot clock shows how long the server was down, whatever the wall clock says.
            Some(run) if same_boot(&run) => (run.believed_ms.saturating_add(boot_ms - run.boot_ms), "the last run"),
            Some(run) if difference(wall_ms, run.believed_ms) > JUMP_MS => {
                state.held_since_ms = Some(boot_ms);
                tracing::info!(
                    away_seconds = (wall_ms - run.believed_ms) / 1000,
                    "the machine was rebooted since the last run, so only its wall clock shows how long ago that was: \
                     retention by age begins in an hour, or with SIGHUP"
                );
                return;
            }
            Some(run) => (run.believed_ms.max(wall_ms), "the last run"),
            None => (newest_event_ms.unwrap_or(0).max(wall_ms), "the newest event"),
        };
        let believed_offset_ms = difference(believed_ms, boot_ms);
        let jump_ms = offset_ms.saturating_sub(believed_offset_ms);
        if jump_ms.abs() > JUMP_MS {
            state.held_since_ms = Some(boot_ms);
            self.0.believed_offset_ms.store(believed_offset_ms, Ordering::Relaxed);
            warn_of_jump(jump_ms, against);
        }
    }

    /// Detects and logs jumps of the wall clock. Called about once a second.
    pub fn tick(&self) -> Moment {
        let (wall_ms, boot_ms) = (self.0.source.wall_ms(), self.0.source.boot_ms());
        let offset_ms = difference(wall_ms, boot_ms);
        let mut state = lock(&self.0.state);
        let believed_offset_ms = self.0.believed_offset_ms.load(Ordering::Relaxed);
        let step_ms = offset_ms.saturating_sub(state.wall_offset_ms);
        state.wall_offset_ms = offset_ms;
        let away = offset_ms.saturating_sub(believed_offset_ms).abs() > JUMP_MS;
        match state.held_since_ms {
            None if away => {
                state.held_since_ms = Some(boot_ms);
                warn_of_jump(offset_ms.saturating_sub(believed_offset_ms), "the boot clock");
            }
            Some(_) if away && step_ms.abs() > JUMP_MS => {
                state.held_since_ms = Some(boot_ms);
                warn_of_jump(step_ms, "the boot clock");
            }
            Some(_) if !away && step_ms.abs() > JUMP_MS => {
                self.believe(&mut state);
                tracing::warn!("the wall clock is back at its time before the jump: retention by age continues");
            }
            Some(since_ms) if boot_ms.saturating_sub(since_ms) >= HOLD.as_millis() as u64 => {
                self.believe(&mut state);
                tracing::warn!(
                    "the wall clock has not jumped again for an hour: its time is accepted, and retention by age continues"
                );
            }
            // Steps below a jump, and NTP's slewing, are followed at once, so that they do not add up to a jump.
            None => self.believe(&mut state),
            Some(_) => {}
        }
        Moment {
            wall_ms,
            believed_ms: shifted(boot_ms, self.0.believed_offset_ms.load(Ordering::Relaxed)),
            boot_ms,
            boot_id: self.0.source.boot_id(),
            removes: state.held_since_ms.is_none(),
            stepped: step_ms.abs() >= STEP.as_millis() as i64,
        }
    }

    /// The operator confirms the wall clock, by SIGHUP: retention by age continues.
    pub fn confirm(&self) {
        let (wall_ms, boot_ms) = (self.0.source.wall_ms(), self.0.source.boot_ms());
        let mut state = lock(&self.0.state);
        if state.held_since_ms.is_some() {
            state.wall_offset_ms = difference(wall_ms, boot_ms);
            self.believe(&mut state);
            tracing::info!("the wall clock is confirmed: retention by age continues");
        }
    }

    fn believe(&self, state: &mut State) {
        state.held_since_ms = None;
        self.0.believed_offset_ms.store(state.wall_offset_ms, Ordering::Relaxed);
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Clock({} ms)", self.wall_ms())
    }
}

/// The system's wall clock, in milliseconds since the Unix epoch, for callers without a [`Clock`].
#[must_use]
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// The end of the last year that a date of HTTP has, in seconds since the Unix epoch (RFC 9110 §5.6.7: four digits).
const YEAR_10000_S: u64 = 253_402_300_800;

/// The wall clock is before 1970 or after 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the system's clock is before the year 1970 or after 9999, so that no response can have a date: set the clock, and start \
     the server again"
)]
pub struct UnusableClock;

/// Checks a time of the wall clock before a server depends on it: the libraries that write dates panic outside of this range.
///
/// # Errors
/// [`UnusableClock`].
pub fn check_usable(now: SystemTime) -> Result<(), UnusableClock> {
    match now.duration_since(UNIX_EPOCH) {
        Ok(since) if since.as_secs() < YEAR_10000_S => Ok(()),
        _ => Err(UnusableClock),
    }
}

const JUMP_MS: i64 = JUMP.as_millis() as i64;

fn warn_of_jump(jump_ms: i64, against: &str) {
    let (seconds, way) = (jump_ms.unsigned_abs() / 1000, if jump_ms > 0 { "ahead" } else { "back" });
    tracing::warn!(
        seconds,
        "the wall clock has jumped {way} against {against}: retention by age waits for an hour; once the clock is right, SIGHUP \
         ends the wait"
    );
}

fn difference(ms: u64, from_ms: u64) -> i64 {
    let signed = |ms| i64::try_from(ms).unwrap_or(i64::MAX);
    signed(ms).saturating_sub(signed(from_ms))
}

fn shifted(ms: u64, by_ms: i64) -> u64 {
    ms.saturating_add_signed(by_ms)
}

/// The clocks of the operating system.
struct SystemClock {
    boot_id: Option<Uuid>,
}

impl ClockSource for SystemClock {
    fn wall_ms(&self) -> u64 {
        wall_ms()
    }

    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn boot_ms(&self) -> u64 {
        use nix::time::{ClockId, clock_gettime};
        // Every kernel that Rust supports has this clock. If the call failed, a constant would only report false jumps.
        let since = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// On other systems the clock of `Instant`. Where that stops while the machine sleeps, waking up counts as a jump, which does
    /// no harm.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn boot_ms(&self) -> u64 {
        static BEGAN: std::sync::OnceLock<std::time::Instant> = std::sync::OnceLock::new();
        let since = BEGAN.get_or_init(std::time::Instant::now).elapsed();
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    fn boot_id(&self) -> Option<Uuid> {
        self.boot_id
    }
}

/// The monotonic time of deliveries, timeouts and waits: the runtime's, so that a test can simulate it. Outside of such tests it
/// is the operating system's.
pub(crate) fn runtime_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// Linux's id of this boot. On other systems it is not known, and only the wall clock shows how long a server was down.
fn boot_id() -> Option<Uuid> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
