//! Numbered events, and the record of those that one subscriber has received: how many, lost, repeated, out of order.

use std::collections::BTreeSet;

use memchr::memmem;

/// Maximum of publishers with sequences of their own.
pub(crate) const PUBLISHERS_MAX: usize = 16;

/// Size of an event's data, in bytes.
pub(crate) const DATA_BYTES: usize = 200;

const NUMBER_MARK: &[u8] = b"{\"n\":\"";
const TIME_MARK: &[u8] = b"\",\"t\":\"";
const PUBLISHER_DIGITS: usize = 2;
const NUMBER_DIGITS: usize = 9;
const TIME_DIGITS: usize = 15;

/// Length from an event's mark to the end of the fields that are read.
const READ_BYTES: usize = NUMBER_MARK.len() + PUBLISHER_DIGITS + NUMBER_DIGITS + TIME_MARK.len() + TIME_DIGITS;

/// An event's data: its publisher, number and time (in nanoseconds of the load's own clock), and padding.
pub(crate) fn data(publisher: usize, number: u64, nanos: u64) -> String {
    let mut text = format!("{{\"n\":\"{publisher:02}{number:09}\",\"t\":\"{nanos:015}\",\"p\":\"");
    let end = "\"}";
    text.extend(std::iter::repeat_n('x', DATA_BYTES - text.len() - end.len()));
    text.push_str(end);
    text
}

/// The events that one subscriber has received.
#[derive(Default)]
pub(crate) struct Seen {
    next: [u64; PUBLISHERS_MAX],
    /// Events that were skipped and have not arrived since.
    missing: BTreeSet<(usize, u64)>,
    pub(crate) count: u64,
    pub(crate) repeated: u64,
    pub(crate) disordered: u64,
}

impl Seen {
    fn note(&mut self, publisher: usize, number: u64) {
        self.count += 1;
        let next = &mut self.next[publisher % PUBLISHERS_MAX];
        if number == *next {
            *next += 1;
        } else if number > *next {
            self.missing.extend((*next..number).map(|number| (publisher, number)));
            *next = number + 1;
        } else if self.missing.remove(&(publisher, number)) {
            self.disordered += 1;
        } else {
            self.repeated += 1;
        }
    }

    /// How many of the published events have not arrived.
    pub(crate) fn lost(&self, published: &[u64; PUBLISHERS_MAX]) -> u64 {
        let unseen = published.iter().zip(&self.next).map(|(published, next)| published.saturating_sub(*next));
        unseen.sum::<u64>() + self.missing.len() as u64
    }

    /// Records the events in `bytes`, and returns how many of the bytes need not be scanned again. Passes the time of
    /// publishing of each event to `at`.
    pub(crate) fn read(&mut self, bytes: &[u8], at: impl FnMut(u64)) -> usize {
        // A mark that begins at the very end is left for the next call.
        self.read_but(bytes, NUMBER_MARK.len() - 1, at)
    }

    /// As [`Self::read`], but leaves so many bytes at the end to be scanned again, without the events in them.
    pub(crate) fn read_but(&mut self, bytes: &[u8], again: usize, mut at: impl FnMut(u64)) -> usize {
        let mut done = 0;
        while let Some(found) = memmem::find(&bytes[done..], NUMBER_MARK) {
            let mark = done + found;
            let Some(event) = bytes.get(mark..mark + READ_BYTES) else { return mark };
            let digits = &event[NUMBER_MARK.len()..];
            let (publisher, digits) = digits.split_at(PUBLISHER_DIGITS);
            let (number, time) = digits.split_at(NUMBER_DIGITS);
            self.note(decimal(publisher) as usize, decimal(number));
            at(decimal(&time[TIME_MARK.len()..]));
            done = mark + READ_BYTES;
        }
        bytes.len().saturating_sub(again).max(done)
    }
}

fn decimal(digits: &[u8]) -> u64 {
    digits.iter().fold(0, |value, digit| value * 10 + u64::from(digit.wrapping_sub(b'0')))
}
