//! The pace of publishing: in events a second, and in bytes of events a second.
//!
//! A pace in events alone would let one publisher of large events replace everything that `--max-bytes` retains within minutes,
//! and occupy the store's writer meanwhile. So bytes have a pace of their own, and a burst that the writer commits at once. The
//! alternative, to remove first what the heaviest publisher has stored, would leave holes in the middle of the log: every
//! subscriber would be told of them, and the positions at which the log begins would no longer say what is retained.

use std::num::NonZeroU32;

use super::rates::{ClaimedRates, Rate, Rates};
use super::{LimitError, LimitOptions, RateKey};

/// Most bytes a second that can be a limit: [`governor`] counts the nanoseconds of each byte, which is exact to 7 % there.
pub const EVENT_BYTES_RATE_MAX: u32 = 64 << 20;

/// How error messages name what is counted.
const EVENTS: &str = "events";
const BYTES: &str = "bytes of events";

/// The rates at which events are published.
pub(super) struct PublishRates {
    events: Rates,
    bytes: Rates,
    claimed_events: ClaimedRates,
    claimed_bytes: ClaimedRates,
    /// The rates of a subject, from which those of a claim follow.
    events_per_subject: Option<NonZeroU32>,
    bytes_per_subject: Option<NonZeroU32>,
}

impl PublishRates {
    pub(super) fn new(options: &LimitOptions) -> Self {
        let events = |per_second: NonZeroU32, set_by| {
            let (burst, burst_set_by) = (options.event_burst, "--publish-burst");
            Rate { per_second, burst, set_by, burst_set_by }
        };
        let bytes = |per_second: NonZeroU32, set_by| {
            let (burst, burst_set_by) = (options.event_bytes_burst.max(per_second), "twice --max-batch-bytes");
            Rate { per_second, burst, set_by, burst_set_by }
        };
        let events_of = |per_second: Option<NonZeroU32>, set_by| per_second.map(|rate| events(rate, set_by));
        let bytes_of = |per_second: Option<NonZeroU32>, set_by| per_second.map(|rate| bytes(rate, set_by));
        let claim = NonZeroU32::MIN;
        Self {
            events: Rates::new(
                EVENTS,
                events_of(options.events_per_address, "--publish-rate-per-address, or the token's claim `rate`"),
                events_of(options.events_per_subject, "--publish-rate-per-subject, or the token's claim `rate`"),
            ),
            bytes: Rates::new(
                BYTES,
                bytes_of(options.event_bytes_per_address, "--publish-bytes-per-address, or the token's claim `rate`"),
                bytes_of(options.event_bytes_per_subject, "--publish-bytes-per-subject, or the token's claim `rate`"),
            ),
            claimed_events: ClaimedRates::new(EVENTS, events(claim, "the token's claim `rate`")),
            claimed_bytes: ClaimedRates::new(
                BYTES,
                bytes(claim, "--publish-bytes-per-subject, raised by the token's claim `rate`"),
            ),
            events_per_subject: options.events_per_subject,
            bytes_per_subject: options.event_bytes_per_subject,
        }
    }

    pub(super) fn take_events(&self, key: &RateKey, events: usize) -> Result<(), LimitError> {
        let Some(events) = number(events as u64) else { return Ok(()) };
        match key.event_rate {
            Some(rate) => self.claimed_events.take(key, rate, events),
            None => self.events.take(key, events),
        }
    }

    pub(super) fn take_bytes(&self, key: &RateKey, bytes: u64) -> Result<(), LimitError> {
        let Some(bytes) = number(bytes) else { return Ok(()) };
        match key.event_rate {
            Some(rate) => match self.claimed_bytes(rate) {
                Some(per_second) => self.claimed_bytes.take(key, per_second, bytes),
                None => Ok(()),
            },
            None => self.bytes.take(key, bytes),
        }
    }

    /// Whether an event of so many bytes would be taken now; nothing is taken. Bytes beyond the burst are not looked for.
    pub(super) fn look(&self, key: &RateKey, bytes: u64) -> Result<(), LimitError> {
        let bytes = self.bytes_burst(key).map_or(bytes, |burst| bytes.min(burst.get().into()));
        let bytes = number(bytes).unwrap_or(NonZeroU32::MIN);
        match key.event_rate {
            Some(rate) => {
                self.claimed_events.look(key, rate, NonZeroU32::MIN)?;
                match self.claimed_bytes(rate) {
                    Some(per_second) => self.claimed_bytes.look(key, per_second, bytes),
                    None => Ok(()),
                }
            }
            None => {
                self.events.look(key, NonZeroU32::MIN)?;
                self.bytes.look(key, bytes)
            }
        }
    }

    /// Most events of one request; `None` is any number.
    pub(super) fn event_burst(&self, key: &RateKey) -> Option<NonZeroU32> {
        key.event_rate.map_or_else(|| self.events.burst(key), |rate| Some(self.claimed_events.burst(rate)))
    }

    /// Most bytes of events of one request; `None` is any number.
    pub(super) fn bytes_burst(&self, key: &RateKey) -> Option<NonZeroU32> {
        match key.event_rate {
            Some(rate) => self.claimed_bytes(rate).map(|per_second| self.claimed_bytes.burst(per_second)),
            None => self.bytes.burst(key),
        }
    }

    pub(super) fn sweep(&self) {
        self.events.sweep();
        self.bytes.sweep();
        self.claimed_events.sweep();
        self.claimed_bytes.sweep();
    }

    /// The bytes a second of a token that claims a rate of events: in proportion, so that events may be as large as other
    /// subjects' are on average; but never fewer than other subjects', so that a slow publisher of large events loses nothing by
    /// its claim.
    fn claimed_bytes(&self, rate: NonZeroU32) -> Option<NonZeroU32> {
        let bytes = self.bytes_per_subject?;
        let Some(events) = self.events_per_subject else { return Some(bytes) };
        let proportional = u64::from(bytes.get()) * u64::from(rate.get()) / u64::from(events.get());
        let most = u64::from(EVENT_BYTES_RATE_MAX.max(bytes.get()));
        number(proportional.clamp(bytes.get().into(), most))
    }
}

fn number(number: u64) -> Option<NonZeroU32> {
    NonZeroU32::new(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(events: u32, bytes: u32, burst: u32) -> LimitOptions {
        LimitOptions {
            events_per_address: number(events.into()),
            events_per_subject: number(events.into()),
            event_bytes_per_address: number(bytes.into()),
            event_bytes_per_subject: number(bytes.into()),
            event_bytes_burst: number(burst.into()).unwrap(),
            ..LimitOptions::default()
        }
    }

    fn key(last: u8) -> RateKey {
        RateKey::at([10, 0, 0, last].into())
    }

    #[test]
    fn large_events_are_as_limited_as_many() {
        let rates = PublishRates::new(&options(1000, 1000, 5000));
        rates.take_bytes(&key(1), 5000).unwrap();
        let Err(LimitError::Rate { what, whose, wait, .. }) = rates.take_bytes(&key(1), 3000) else {
            panic!("the burst is used up")
        };
        assert_eq!((what, whose), ("bytes of events", "this address"));
        assert!(wait.as_secs_f64() > 2.0, "{wait:?}");
        rates.take_events(&key(1), 1000).unwrap();
        rates.take_bytes(&key(2), 5000).unwrap();
        assert!(matches!(rates.take_bytes(&key(3), 5001), Err(LimitError::Burst { .. })));
        // Looking takes nothing.
        for _ in 0..10 {
            assert_eq!((rates.look(&key(2), 1).is_err(), rates.look(&key(3), u64::MAX)), (true, Ok(())));
        }
        let li = |last| key(last).named(Some("li".into()));
        rates.take_bytes(&li(4), 5000).unwrap();
        assert!(matches!(rates.take_bytes(&li(5), 1000), Err(LimitError::Rate { whose: "this subject", .. })));
    }

    #[test]
    fn a_claim_raises_the_bytes_in_proportion() {
        let rates = PublishRates::new(&options(1000, 10_000, 1));
        let claimed = |rate| rates.claimed_bytes(NonZeroU32::new(rate).unwrap()).map(NonZeroU32::get);
        assert_eq!((claimed(1), claimed(1000), claimed(5000)), (Some(10_000), Some(10_000), Some(50_000)));
        let rates = PublishRates::new(&options(1, 10_000, 1));
        let claimed = |rate| rates.claimed_bytes(NonZeroU32::new(rate).unwrap()).map(NonZeroU32::get);
        assert_eq!(claimed(1_000_000), Some(EVENT_BYTES_RATE_MAX));
        let rates = PublishRates::new(&options(0, 10_000, 1));
        assert_eq!(rates.claimed_bytes(NonZeroU32::MIN), number(10_000));
        let rates = PublishRates::new(&options(1000, 0, 1));
        assert_eq!(rates.claimed_bytes(NonZeroU32::MIN), None);
    }

    /// A claim frees from the address's rate, for bytes as for events.
    #[test]
    fn a_claimed_rate_does_not_count_for_the_address() {
        let rates = PublishRates::new(&options(10, 1000, 1000));
        rates.take_bytes(&key(1), 1000).unwrap();
        let backend = key(1).named(Some("backend".into())).with_event_rate(NonZeroU32::new(100));
        rates.take_bytes(&backend, 10_000).unwrap();
        assert!(rates.take_bytes(&backend, 10_000).is_err());
        assert!(rates.take_bytes(&key(1), 1000).is_err());
    }
}
