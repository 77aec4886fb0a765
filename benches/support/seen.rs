//! Numbered events, and what one subscriber has seen of them: each is counted, so is what is lost, repeated, out of order.

use std::collections::BTreeSet;

use memchr::memmem;

/// Publishers that may number their events side by side.
pub(crate) const PUBLISHERS_MAX: usize = 16;

/// Size of an event's data, in bytes.
pub(crate) const DATA_BYTES: usize = 200;

const NUMBER_MARK: &[u8] = b"{\"n\":\"";
const TIME_MARK: &[u8] = b"\",\"t\":\"";
const PUBLISHER_DIGITS: usize = 2;
const NUMBER_DIGITS: usize = 9;
const TIME_DIGITS: usize = 15;

/// From the mark of an event to the last thing that is read of it.
const READ_BYTES: usize = NUMBER_MARK.len() + PUBLISHER_DIGITS + NUMBER_DIGITS + TIME_MARK.len() + TIME_DIGITS;

/// An event's data: who published it as which, when (in nanoseconds of the load's own clock), and what fills it up.
pub(crate) fn data(publisher: usize, number: u64, nanos: u64) -> String {
    let mut text = format!("{{\"n\":\"{publisher:02}{number:09}\",\"t\":\"{nanos:015}\",\"p\":\"");
    let end = "\"}";
    text.extend(std::iter::repeat_n('x', DATA_BYTES - text.len() - end.len()));
    text.push_str(end);
    text
}

/// Of one subscriber.
#[derive(Default)]
pub(crate) struct Seen {
    next: [u64; PUBLISHERS_MAX],
    /// Skipped, and not seen since.
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

    /// How many of those that were published it has not seen.
    pub(crate) fn lost(&self, published: &[u64; PUBLISHERS_MAX]) -> u64 {
        let unseen = published.iter().zip(&self.next).map(|(published, next)| published.saturating_sub(*next));
        unseen.sum::<u64>() + self.missing.len() as u64
    }

    /// Notes the events in `bytes`, and says how many of the bytes need not be looked at again. Each event's time of
    /// publishing is passed on.
    pub(crate) fn read(&mut self, bytes: &[u8], at: impl FnMut(u64)) -> usize {
        // A mark that has begun at the very end is left for the next time.
        self.read_but(bytes, NUMBER_MARK.len() - 1, at)
    }

    /// As [`Self::read`], and so many bytes at the end are looked at again in any case, but for the events in them.
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
