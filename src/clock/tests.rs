//! The wall clock against the boot clock: jumps, suspends, restarts.

use std::sync::atomic::AtomicU64;

use super::*;

const START_MS: u64 = 1_763_750_000_000;
const MINUTE_MS: u64 = 60_000;
const HOUR_MS: u64 = 60 * MINUTE_MS;
const BOOT: Uuid = Uuid::from_u128(1);

/// Clocks set by a test.
#[derive(Clone)]
struct Simulated {
    wall_ms: Arc<AtomicU64>,
    boot_ms: Arc<AtomicU64>,
}

impl ClockSource for Simulated {
    fn wall_ms(&self) -> u64 {
        self.wall_ms.load(Ordering::Relaxed)
    }

    fn boot_ms(&self) -> u64 {
        self.boot_ms.load(Ordering::Relaxed)
    }

    fn boot_id(&self) -> Option<Uuid> {
        Some(BOOT)
    }
}

impl Simulated {
    fn new(boot_ms: u64) -> (Self, Clock) {
        let new = Self { wall_ms: Arc::new(START_MS.into()), boot_ms: Arc::new(boot_ms.into()) };
        (new.clone(), Clock::with_source(new))
    }

    /// Advances both clocks.
    fn pass(&self, ms: u64) {
        self.wall_ms.fetch_add(ms, Ordering::Relaxed);
        self.boot_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// Sets the wall clock alone.
    fn jump(&self, ms: i64) {
        self.wall_ms.store(self.wall_ms().saturating_add_signed(ms), Ordering::Relaxed);
    }
}

#[test]
fn a_clock_that_runs_is_believed_and_so_are_small_steps() {
    let (machine, clock) = Simulated::new(5000);
    for _ in 0..10 {
        machine.pass(1000);
        machine.jump(59_000);
        let moment = clock.tick();
        assert!(moment.removes && moment.stepped, "{moment:?}");
        assert_eq!((moment.believed_ms, clock.believed_ms()), (moment.wall_ms, moment.wall_ms));
    }
    machine.pass(10 * HOUR_MS);
    let moment = clock.tick();
    assert!(moment.removes && !moment.stepped, "a machine that slept has not jumped");
}

#[test]
fn after_a_jump_removal_waits_an_hour_and_the_time_before_it_goes_on() {
    for jump_ms in [61_000, -61_000, 8 * 24 * HOUR_MS as i64] {
        let (machine, clock) = Simulated::new(5000);
        machine.jump(jump_ms);
        // Before the next tick: the jump expires nothing.
        assert_eq!(clock.believed_ms(), START_MS);
        assert_eq!(clock.earliest_ms(), START_MS.min(START_MS.saturating_add_signed(jump_ms)));
        let moment = clock.tick();
        assert!(!moment.removes && moment.stepped);
        assert_eq!(moment.believed_ms, START_MS);
        machine.pass(HOUR_MS - 1);
        let moment = clock.tick();
        assert!(!moment.removes && !moment.stepped);
        assert_eq!(moment.believed_ms, START_MS + HOUR_MS - 1);
        machine.pass(1);
        let moment = clock.tick();
        assert!(moment.removes);
        assert_eq!(moment.believed_ms, moment.wall_ms);
    }
}

#[test]
fn a_clock_that_comes_back_or_is_confirmed_ends_the_wait() {
    let (machine, clock) = Simulated::new(5000);
    machine.jump(HOUR_MS as i64);
    assert!(!clock.tick().removes);
    machine.pass(1000);
    machine.jump(-(HOUR_MS as i64));
    assert!(clock.tick().removes);
    machine.jump(HOUR_MS as i64);
    assert!(!clock.tick().removes);
    // After another jump the hour starts again.
    machine.pass(HOUR_MS - 1000);
    machine.jump(HOUR_MS as i64);
    assert!(!clock.tick().removes);
    machine.pass(HOUR_MS - 1000);
    assert!(!clock.tick().removes);
    clock.confirm();
    let moment = clock.tick();
    assert!(moment.removes);
    assert_eq!(moment.believed_ms, moment.wall_ms);
}

#[test]
fn a_start_compares_with_the_last_run() {
    let run = |believed_ms, boot_ms, boot| LastRun { believed_ms, boot_ms, boot_id: Some(Uuid::from_u128(boot)) };
    let boot_ms = 10 * HOUR_MS;
    let minute = MINUTE_MS;
    // The store's records, whether retention waits then, and the believed time.
    for (what, last_run, newest_ms, waits, believed_ms) in [
        ("nothing", None, None, false, START_MS),
        ("away for an hour of this boot", Some(run(START_MS - HOUR_MS, 9 * HOUR_MS, 1)), None, false, START_MS),
        (
            "a jump ahead while away",
            Some(run(START_MS - 9 * HOUR_MS, 9 * HOUR_MS, 1)),
            None,
            true,
            START_MS - 8 * HOUR_MS,
        ),
        ("a jump back while away", Some(run(START_MS + HOUR_MS, 9 * HOUR_MS, 1)), None, true, START_MS + 2 * HOUR_MS),
        ("another boot, just now", Some(run(START_MS - minute, 7, 2)), None, false, START_MS),
        ("another boot, long ago", Some(run(START_MS - HOUR_MS, 7, 2)), None, true, START_MS),
        ("another boot, in the future", Some(run(START_MS + HOUR_MS, 7, 2)), None, true, START_MS + HOUR_MS),
        ("an event of the past", None, Some(START_MS - 30 * HOUR_MS), false, START_MS),
        ("an event of the future", None, Some(START_MS + HOUR_MS), true, START_MS + HOUR_MS),
        // The last run had the right time and saw the event: the clock was wrong before, and is right now.
        ("both", Some(run(START_MS - minute, boot_ms - minute, 1)), Some(START_MS + HOUR_MS), false, START_MS),
    ] {
        let (machine, clock) = Simulated::new(boot_ms);
        clock.resume(last_run, newest_ms);
        assert_eq!(clock.believed_ms(), believed_ms, "{what}");
        assert_eq!(clock.tick().removes, !waits, "{what}");
        machine.pass(HOUR_MS);
        let moment = clock.tick();
        assert_eq!((moment.removes, moment.believed_ms), (true, moment.wall_ms), "{what}");
    }
}

#[test]
fn a_restart_during_the_wait_does_not_end_it() {
    let (machine, clock) = Simulated::new(5000);
    machine.jump(8 * 24 * HOUR_MS as i64);
    let stored = LastRun::from(&clock.tick());
    machine.pass(MINUTE_MS);
    let again = Clock::with_source(machine.clone());
    again.resume(Some(stored), None);
    assert!(!again.tick().removes);
    assert_eq!(again.believed_ms(), START_MS + MINUTE_MS);
}

#[test]
fn the_machines_clocks_run() {
    let clock = Clock::system();
    let (wall_ms, believed_ms) = (clock.wall_ms(), clock.believed_ms());
    assert!(wall_ms > START_MS && wall_ms.abs_diff(believed_ms) < JUMP.as_millis() as u64);
    let (first, second) = (clock.tick(), clock.tick());
    assert!(first.boot_ms > 0 && first.boot_ms <= second.boot_ms);
    #[cfg(target_os = "linux")]
    assert!(first.boot_id.is_some());
}

#[test]
fn a_clock_without_a_date_is_refused() {
    let seconds = Duration::from_secs;
    assert_eq!(check_usable(UNIX_EPOCH - seconds(1)), Err(UnusableClock));
    assert_eq!(check_usable(UNIX_EPOCH), Ok(()));
    let last = UNIX_EPOCH + seconds(YEAR_10000_S - 1);
    assert_eq!(check_usable(last), Ok(()));
    assert!(httpdate::fmt_http_date(last).contains("9999"));
    assert_eq!(check_usable(last + seconds(1)), Err(UnusableClock));
}
