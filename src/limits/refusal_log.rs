//! The rate-limited log of refused requests, with their address and subject: enough for an operator to act on, and no more than
//! a few lines however often an attacker is refused.

use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::excerpt::LogSafe;
use crate::sync::lock;

/// Most lines of one address and reason within a second; further refusals are counted instead.
const LINES_PER_SECOND: u32 = 10;

/// How long refusals are counted before one line reports their number. Refusals by a rate limit are counted from the second one
/// on: a client that is too fast may be refused a thousand times a second.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// How often ended windows are swept.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

/// Most pairs of address and reason that are counted apart, about 100 bytes each; all others are counted together.
const WINDOWS_MAX: usize = 1000;

/// One refused request, as it is logged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Refusal<'a> {
    /// The client's address.
    pub(crate) address: IpAddr,
    /// The subject of the client's token, if that is known.
    pub(crate) subject: Option<&'a str>,
    /// A short name of what was refused or done: an error's code.
    pub(crate) reason: &'static str,
    /// The message of the response. Control characters and tokens in it are masked.
    pub(crate) message: &'a str,
    /// Whether a rate limit refused it: one line a minute.
    pub(crate) is_pace: bool,
}

/// The recent refusals of one process.
#[derive(Default)]
pub(crate) struct RefusalLog(Mutex<Table>);

#[derive(Default)]
struct Table {
    windows: HashMap<(IpAddr, &'static str), Window>,
    /// Refusals for which there was no window.
    others: u64,
    others_since: Option<Instant>,
    swept: Option<Instant>,
}

struct Window {
    began: Instant,
    lines: u32,
    /// Refusals that were counted and not logged, once there were too many lines.
    counted: u64,
}

/// How many refusals of one kind were counted since the last line.
#[derive(Debug, PartialEq, Eq)]
struct Summary {
    /// `None` for the refusals that were counted together.
    of: Option<(IpAddr, &'static str)>,
    count: u64,
}

impl RefusalLog {
    /// Logs a refusal, or counts it for the next summary.
    pub(crate) fn record(&self, now: Instant, refusal: &Refusal<'_>) {
        // Where the routes are mounted into another application, nothing else calls `sweep`.
        if lock(&self.0).is_to_be_swept(now) {
            self.sweep(now);
        }
        let admitted = lock(&self.0).admits(now, (refusal.address, refusal.reason), refusal.is_pace);
        if admitted {
            let Refusal { address, reason, .. } = refusal;
            let (subject, message) = (LogSafe(refusal.subject.unwrap_or("-")), LogSafe(refusal.message));
            if refusal.is_pace {
                tracing::warn!(target: "switchback::refusals", %address, %subject, reason, "{message}");
            } else {
                tracing::info!(target: "switchback::refusals", %address, %subject, reason, "{message}");
            }
        }
    }

    /// Logs the summaries that are due, and removes ended windows. Called about once a second.
    pub(crate) fn sweep(&self, now: Instant) {
        let due = lock(&self.0).take_due(now);
        for Summary { of, count } in due {
            match of {
                Some((address, reason)) => {
                    tracing::info!(target: "switchback::refusals", %address, reason, count, "more refusals in a minute");
                }
                None => {
                    tracing::info!(target: "switchback::refusals", count, "more refusals in a minute, from other addresses");
                }
            }
        }
    }
}

impl Table {
    fn admits(&mut self, now: Instant, kind: (IpAddr, &'static str), is_pace: bool) -> bool {
        if !self.windows.contains_key(&kind) && self.windows.len() >= WINDOWS_MAX {
            self.others += 1;
            self.others_since.get_or_insert(now);
            return false;
        }
        let window = self.windows.entry(kind).or_insert(Window { began: now, lines: 0, counted: 0 });
        let (lines_max, within) =
            if is_pace { (1, SUMMARY_INTERVAL) } else { (LINES_PER_SECOND, Duration::from_secs(1)) };
        if window.counted == 0 && now.saturating_duration_since(window.began) >= within {
            *window = Window { began: now, lines: 0, counted: 0 };
        }
        let admitted = window.counted == 0 && window.lines < lines_max;
        if admitted {
            window.lines += 1;
        } else {
            window.counted += 1;
        }
        admitted
    }

    fn is_to_be_swept(&self, now: Instant) -> bool {
        self.swept.is_none_or(|swept| now.saturating_duration_since(swept) >= SWEEP_INTERVAL)
    }

    fn take_due(&mut self, now: Instant) -> Vec<Summary> {
        self.swept = Some(now);
        let mut due = Vec::new();
        self.windows.retain(|kind, window| {
            let over = now.saturating_duration_since(window.began) >= SUMMARY_INTERVAL;
            if over && window.counted > 0 {
                due.push(Summary { of: Some(*kind), count: window.counted });
            }
            !over
        });
        if self.others_since.is_some_and(|since| now.saturating_duration_since(since) >= SUMMARY_INTERVAL) {
            due.push(Summary { of: None, count: std::mem::take(&mut self.others) });
            self.others_since = None;
        }
        due
    }
}

impl fmt::Debug for RefusalLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RefusalLog({} windows)", lock(&self.0).windows.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: u32) -> IpAddr {
        std::net::Ipv4Addr::from_bits(number).into()
    }

    #[test]
    fn ten_lines_a_second_and_then_a_summary_a_minute() {
        let (mut table, start) = (Table::default(), Instant::now());
        let written = |table: &mut Table, at: Duration, count: u32| {
            (0..count).filter(|_| table.admits(start + at, (address(1), "forbidden"), false)).count()
        };
        assert_eq!(written(&mut table, Duration::ZERO, 10), 10);
        // A second later ten more are logged, but not once there were too many.
        assert_eq!(written(&mut table, Duration::from_secs(1), 500), 10);
        assert_eq!(written(&mut table, Duration::from_secs(30), 500), 0);
        assert!(table.admits(start, (address(1), "unauthorized"), false), "another reason is counted apart");
        assert!(table.admits(start, (address(2), "forbidden"), false), "another address is counted apart");
        assert_eq!(table.take_due(start + Duration::from_secs(59)), []);
        let due = table.take_due(start + Duration::from_secs(61));
        assert_eq!(due, [Summary { of: Some((address(1), "forbidden")), count: 990 }]);
        assert!(table.windows.is_empty());
        assert_eq!(written(&mut table, Duration::from_secs(62), 1), 1);
    }

    #[test]
    fn pace_is_said_once_a_minute() {
        let (mut table, start) = (Table::default(), Instant::now());
        let written = (0..1000).filter(|_| table.admits(start, (address(1), "too_fast"), true)).count();
        assert_eq!(written, 1);
        let due = table.take_due(start + SUMMARY_INTERVAL);
        assert_eq!(due, [Summary { of: Some((address(1), "too_fast")), count: 999 }]);
    }

    #[test]
    fn a_storm_from_everywhere_is_bounded() {
        let (mut table, start) = (Table::default(), Instant::now());
        let written = (0..50_000).filter(|number| table.admits(start, (address(*number), "too_fast"), true)).count();
        assert_eq!((written, table.windows.len()), (WINDOWS_MAX, WINDOWS_MAX));
        let due = table.take_due(start + SUMMARY_INTERVAL);
        assert_eq!(due, [Summary { of: None, count: 49_000 }]);
        assert!(table.windows.is_empty() && table.others == 0);
    }

    #[test]
    fn sweeps_itself() {
        let (log, start) = (RefusalLog::default(), Instant::now());
        let refusal = |number| Refusal {
            address: address(number),
            subject: None,
            reason: "forbidden",
            message: "",
            is_pace: false,
        };
        (0..10_000).for_each(|number| log.record(start, &refusal(number)));
        assert_eq!(lock(&log.0).windows.len(), WINDOWS_MAX);
        log.record(start + SUMMARY_INTERVAL, &refusal(0));
        assert_eq!(lock(&log.0).windows.len(), 1);
    }
}
