//! Whether the writer waits for the publishers that it has just answered, before it begins the next commit.
//!
//! A publish that arrives during a commit waits for that commit's sync and for its own: a sync and a half on average. This is
//! unavoidable, since one log has one sync at a time. Publishers that each await an answer before they publish again can avoid
//! it: those that were answered together publish again together. But if other publishes have queued up meanwhile, and their
//! commit begins at once, the two groups alternate for ever, and each waits for two syncs. If the writer waits for the answered
//! publishers, the groups merge, and each publish waits for one sync.
//!
//! The wait is worth it only if they do publish again, and soon. Publishers at random times do not: a wait for them, however
//! short, makes every publish later. So the writer first observes, without waiting, how many of those that it answered publish
//! again within a short time, and waits once this has been most of them several times in a row.
//!
//! Free of I/O and of the clock: moments are arguments.

use std::time::{Duration, Instant};

/// The maximal wait, as a share of the last commit's duration. Publishers that return later than that are not waited for: the
/// gain is a commit at most, and shrinks as they take longer. There is no minimum, since on a disk that syncs faster than
/// publishers return, two groups that alternate are the faster way.
const WAIT_SHARE: u32 = 4;

/// The maximal wait, however slow the disk is.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Answers in a row after which most publishers must have returned. With publishers at random times this happens by chance after
/// one answer in four to ten, so three in a row are rare enough not to show in their latency.
const STREAK: u32 = 3;

/// Observes how soon answered publishers publish again.
#[derive(Debug, Default)]
pub(super) struct Gather {
    last: Option<Answered>,
    /// Answers in a row, up to [`STREAK`], after which most publishers returned in time.
    streak: u32,
}

/// Publishers that were answered together.
#[derive(Debug)]
struct Answered {
    at: Instant,
    publishers: usize,
    /// How long the writer would wait for them.
    wait: Duration,
    /// Publishes that arrived meanwhile.
    returned: usize,
}

impl Gather {
    /// Counts a publish, by the moment of its arrival. Each is counted once, in order, before [`Self::answered`] is called for
    /// the next answer. Returns false where later arrivals do not matter.
    pub(super) fn arrived(&mut self, at: Instant) -> bool {
        let Some(last) = &mut self.last else { return false };
        let in_time = at <= last.at + last.wait;
        last.returned += usize::from(at > last.at && in_time);
        in_time
    }

    /// Publishers are answered now, after a commit. Returns until when to wait for them, at most: `None` if not at all.
    pub(super) fn answered(&mut self, now: Instant, publishers: usize, commit: Duration) -> Option<Instant> {
        if let Some(last) = &self.last {
            // Most of them: one that has ended, or is late, does not keep the others from sharing a sync.
            let most = last.returned * 4 >= last.publishers * 3;
            self.streak = if most { (self.streak + 1).min(STREAK) } else { 0 };
        }
        let wait = (commit / WAIT_SHARE).min(WAIT_MAX);
        self.last = Some(Answered { at: now, publishers, wait, returned: 0 });
        (self.streak == STREAK).then(|| now + wait)
    }
}

#[cfg(test)]
mod tests;
