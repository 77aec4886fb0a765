//! The time of day, and how far it can be believed.
//!
//! The wall clock jumps: a machine boots with a wrong clock and NTP sets it right a minute later, an operator types a wrong year, a
//! hypervisor pauses a guest. The boot clock, which counts on while the machine sleeps, does not. Where the two part by more than a
//! minute the wall clock has jumped, and nobody can say yet whether it was right before or is right now. So removal by age waits, and
//! what ends (bans, tickets, records) goes on by the time before the jump, for an hour or until the operator confirms the new time;
//! a clock that comes back meanwhile has removed nothing. Tokens end by the wall clock all the same: their issuer has written it into
//! them, and a token that lives too long is worse than one that has to be renewed.
//!
//! Monotonic time for timeouts is `std::time::Instant` everywhere, and no concern of this module.

use std::fmt;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use crate::sync::lock;

/// The wall clock has jumped where it parts from the boot clock by more than this. NTP slews what is less than a fraction of a second, and
/// what is stepped by less does no harm that is worth an hour of waiting.
pub const JUMP: Duration = Duration::from_secs(60);

/// How long removal by age waits after a jump: long enough for NTP to set a wrong clock right, or for an operator to be alarmed.
pub const HOLD: Duration = Duration::from_secs(3600);

/// A step of the wall clock from which what ends by it is looked at again: the resolution of a token's `exp`.
const STEP: Duration = Duration::from_secs(1);

/// Where the time comes from: the machine's clocks, or a test's.
pub trait ClockSource: Send + Sync + 'static {
    /// The time of day, in milliseconds since the Unix epoch.
    fn wall_ms(&self) -> u64;

    /// Milliseconds since some moment before this process began, counted on while the machine sleeps. Never steps.
    fn boot_ms(&self) -> u64;

    /// Which boot of which machine [`Self::boot_ms`] counts from; `None` where that is not known.
    fn boot_id(&self) -> Option<Uuid>;
}

/// The clocks of one process. Cheap to clone; a clone is the same clock.
#[derive(Clone)]
pub struct Clock(Arc<Shared>);

struct Shared {
    source: Box<dyn ClockSource>,
    /// What the believed time is ahead of the boot clock, in milliseconds. Read with every request, so beside the lock.
    believed_offset_ms: AtomicI64,
    state: Mutex<State>,
}

struct State {
    /// Since when removal waits, on the boot clock.
    held_since_ms: Option<u64>,
    /// The wall clock's offset when it was last looked at.
    wall_offset_ms: i64,
}

/// What the clocks say at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// The wall clock, in milliseconds since the Unix epoch.
    pub wall_ms: u64,
    /// The time of day that is believed: the wall clock, or, after a jump, what it would say without.
    pub believed_ms: u64,
    /// The boot clock, in milliseconds.
    pub boot_ms: u64,
    /// Which boot that is, where it is known.
    pub boot_id: Option<Uuid>,
    /// Whether what is too old may be removed. Not for a while after a jump.
    pub removes: bool,
    /// Whether the wall clock has been stepped since the moment before, by a second or more.
    pub stepped: bool,
}

impl Moment {
    /// A moment at which all clocks agree, in milliseconds since the Unix epoch: what tests need.
    #[must_use]
    pub fn at(ms: u64) -> Self {
        Self { wall_ms: ms, believed_ms: ms, boot_ms: ms, boot_id: None, removes: true, stepped: false }
    }

    /// The earlier of the two times of day: by it nothing ends too early, whichever of them is right.
    #[must_use]
    pub fn earliest_ms(&self) -> u64 {
        self.wall_ms.min(self.believed_ms)
    }
}

/// When a store was last in use: what a later start compares the wall clock with.
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
    /// The machine's clocks.
    #[must_use]
    pub fn system() -> Self {
        Self::with_source(SystemClock { boot_id: boot_id() })
    }

    /// Clocks of another source, which are believed to begin with.
    pub fn with_source(source: impl ClockSource) -> Self {
        let (wall_ms, boot_ms) = (source.wall_ms(), source.boot_ms());
        let offset_ms = difference(wall_ms, boot_ms);
        let state = State { held_since_ms: None, wall_offset_ms: offset_ms };
        let believed_offset_ms = AtomicI64::new(offset_ms);
        Self(Arc::new(Shared { source: Box::new(source), believed_offset_ms, state: Mutex::new(state) }))
    }

    /// The wall clock, in milliseconds since the Unix epoch: the time of events and the end of tokens.
    #[must_use]
    pub fn wall_ms(&self) -> u64 {
        self.0.source.wall_ms()
    }

    /// The believed time of day, in milliseconds since the Unix epoch: the end of bans and tickets, and when a client was there.
    #[must_use]
    pub fn believed_ms(&self) -> u64 {
        shifted(self.0.source.boot_ms(), self.0.believed_offset_ms.load(Ordering::Relaxed))
    }

    /// The earlier of the wall clock and the believed time: the end of what must not end too early, such as a revocation.
    #[must_use]
    pub fn earliest_ms(&self) -> u64 {
        self.wall_ms().min(self.believed_ms())
    }

    /// Compares the clocks with what a store knows from before this start: when it was last in use, and the time of its newest event.
    /// Says so in the log where they do not agree.
    pub fn resume(&self, last_run: Option<LastRun>, newest_event_ms: Option<u64>) {
        let (wall_ms, boot_ms) = (self.0.source.wall_ms(), self.0.source.boot_ms());
        let offset_ms = difference(wall_ms, boot_ms);
        let mut state = lock(&self.0.state);
        let same_boot =
            |run: &LastRun| run.boot_id.is_some() && run.boot_id == self.0.source.boot_id() && run.boot_ms <= boot_ms;
        let (believed_ms, against) = match last_run {
            // The same boot: how long the server was away is known, whatever the wall clock says of it.
            Some(run) if same_boot(&run) => (run.believed_ms.saturating_add(boot_ms - run.boot_ms), "the last run"),
            Some(run) if difference(wall_ms, run.believed_ms) > JUMP_MS => {
                state.held_since_ms = Some(boot_ms);
                tracing::info!(
                    away_seconds = (wall_ms - run.believed_ms) / 1000,
                    "the machine was started since the last run, so that nothing but its wall clock says how long that is ago: \
                     removal by age begins in an hour, or with SIGHUP"
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

    /// Looks whether the wall clock has jumped, and says so in the log. Called about once a second.
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
                tracing::warn!("the wall clock is back where it was before it jumped: removal by age goes on");
            }
            Some(since_ms) if boot_ms.saturating_sub(since_ms) >= HOLD.as_millis() as u64 => {
                self.believe(&mut state);
                tracing::warn!(
                    "the wall clock has kept its time for an hour: it is believed now, and removal by age goes on"
                );
            }
            // Steps below a jump, and what NTP slews, are followed as they come, so that they do not add up to one.
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

    /// The operator confirms the wall clock, by SIGHUP: what waited for it goes on.
    pub fn confirm(&self) {
        let (wall_ms, boot_ms) = (self.0.source.wall_ms(), self.0.source.boot_ms());
        let mut state = lock(&self.0.state);
        if state.held_since_ms.is_some() {
            state.wall_offset_ms = difference(wall_ms, boot_ms);
            self.believe(&mut state);
            tracing::info!("the wall clock is confirmed: removal by age goes on");
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

/// The machine's wall clock, in milliseconds since the Unix epoch, for what has no [`Clock`] at hand.
#[must_use]
pub fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

const JUMP_MS: i64 = JUMP.as_millis() as i64;

fn warn_of_jump(jump_ms: i64, against: &str) {
    let (seconds, way) = (jump_ms.unsigned_abs() / 1000, if jump_ms > 0 { "ahead" } else { "back" });
    tracing::warn!(
        seconds,
        "the wall clock has jumped {way} against {against}: removal by age waits for an hour; once the clock is right, SIGHUP ends the wait"
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
        // Every kernel that Rust runs on has this clock; were it refused, a clock that stands still would only show jumps that are none.
        let since = clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Duration::from);
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    }

    /// Elsewhere the clock of `Instant`: where it stops while the machine sleeps, waking up is a jump, which does no harm.
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

/// The monotonic time by which deliveries, timeouts and waits go: the runtime's, so that a test with simulated time holds it still.
/// Elsewhere it is the operating system's own.
pub(crate) fn runtime_now() -> Instant {
    tokio::time::Instant::now().into_std()
}

/// What Linux calls this boot. Elsewhere it is not known, and how long a server was away is the wall clock's word alone.
fn boot_id() -> Option<Uuid> {
    std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests;
