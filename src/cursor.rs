//! Positions, epochs and cursors, and their text form, which no other module knows.
//!
//! A cursor is opaque to clients and carries no rights. Its text form is `<epoch>-<position>`,
//! the epoch `[a-z0-9]{1,32}`, the position a decimal `u64` without sign or leading zeros.

use std::fmt;
use std::str::FromStr;

/// An event's position in the log: from 1 on, assigned by the store, never reused.
///
/// Zero is the position before the first event, so "everything after `Position::ZERO`" is the whole log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position(pub u64);

impl Position {
    /// The position before the first event.
    pub const ZERO: Self = Self(0);

    /// The position of the event that follows.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }

    /// The position just before this one; zero stays zero.
    #[must_use]
    pub fn before(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(itoa::Buffer::new().format(self.0))
    }
}

/// Longest epoch, in bytes.
const EPOCH_MAX_BYTES: usize = 32;

/// The log's identity: minted when a log is created or restored from a backup, so that a cursor
/// into a lost log is distinguished from a cursor into this one.
///
/// Stored inline: a cursor is copied with every step of every subscriber, and an allocation or a
/// reference count there would be the most frequent one in the program.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Epoch {
    len: u8,
    bytes: [u8; EPOCH_MAX_BYTES],
}

impl Epoch {
    /// A new epoch: ten characters of base 36, about 51 random bits. Two logs of one installation
    /// must not share an epoch; 51 bits make that as unlikely as it has to be while cursors stay short.
    #[must_use]
    pub fn mint() -> Self {
        const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
        let mut bytes = [0; EPOCH_MAX_BYTES];
        for byte in &mut bytes[..10] {
            *byte = DIGITS[rand::random_range(0..DIGITS.len())];
        }
        Self { len: 10, bytes }
    }

    /// The epoch's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only `[a-z0-9]` gets in, so this never falls back.
        std::str::from_utf8(self.as_bytes()).unwrap_or_default()
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

impl FromStr for Epoch {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let legal = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        if text.is_empty() || text.len() > EPOCH_MAX_BYTES || !text.as_bytes().iter().all(legal) {
            return Err(CursorError);
        }
        let mut bytes = [0; EPOCH_MAX_BYTES];
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        Ok(Self { len: text.len() as u8, bytes })
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Epoch({self})")
    }
}

/// A client's position in a log: "I have received every event up to here that matches my patterns."
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cursor {
    /// The log.
    pub epoch: Epoch,
    /// The position up to which every matching event was received.
    pub position: Position,
}

impl Cursor {
    /// A cursor at `position` of the log `epoch`.
    #[must_use]
    pub fn new(epoch: Epoch, position: Position) -> Self {
        Self { epoch, position }
    }

    /// Length of the text form, in bytes.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        let digits = self.position.0.checked_ilog10().unwrap_or(0) as usize + 1;
        usize::from(self.epoch.len) + 1 + digits
    }

    /// Whether `text` is this cursor's text form, which is unique, so `text` need not be parsed.
    pub(crate) fn is_text(&self, text: &[u8]) -> bool {
        let position = text.strip_prefix(self.epoch.as_bytes()).and_then(|rest| rest.strip_prefix(b"-"));
        position == Some(itoa::Buffer::new().format(self.position.0).as_bytes())
    }

    /// Appends the text form; on the hot path, where `format!` would allocate.
    pub fn write(&self, out: &mut impl bytes::BufMut) {
        out.put_slice(self.epoch.as_bytes());
        out.put_u8(b'-');
        out.put_slice(itoa::Buffer::new().format(self.position.0).as_bytes());
    }
}

impl FromStr for Cursor {
    type Err = CursorError;

    fn from_str(text: &str) -> Result<Self, CursorError> {
        let (epoch, position) = text.split_once('-').ok_or(CursorError)?;
        let digits = position.as_bytes();
        let canonical = digits.iter().all(u8::is_ascii_digit) && (digits.len() == 1 || digits.first() != Some(&b'0'));
        if !canonical {
            return Err(CursorError);
        }
        Ok(Self { epoch: epoch.parse()?, position: Position(position.parse().map_err(|_| CursorError)?) })
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.position)
    }
}

impl serde::Serialize for Cursor {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The text is no cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor: it has the form <epoch>-<position>, as received from this server, for example k3f9x2-1042")]
pub struct CursorError;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn refuses_text_that_is_not_a_cursor() {
        let long_epoch = format!("{}-1", "a".repeat(33));
        for text in [
            "",
            "-",
            "a-",
            "-1",
            "a-01",
            "a-+1",
            "a--1",
            "a-1 ",
            " a-1",
            "A-1",
            "a_b-1",
            "a-1-2",
            "é-1",
            "a-1.0",
            "a-18446744073709551616",
            "a-00",
            "now",
            long_epoch.as_str(),
        ] {
            assert_eq!(text.parse::<Cursor>(), Err(CursorError), "{text:?}");
        }
    }

    #[test]
    fn minted_epochs_are_legal_and_differ() {
        let (a, b) = (Epoch::mint(), Epoch::mint());
        assert_ne!(a, b);
        assert_eq!(a.as_str().parse::<Epoch>(), Ok(a));
    }

    proptest! {
        #[test]
        fn text_form_round_trips(epoch in "[a-z0-9]{1,32}", position: u64) {
            let cursor = Cursor::new(epoch.parse().unwrap(), Position(position));
            prop_assert_eq!(cursor.to_string().parse::<Cursor>(), Ok(cursor));
            let mut written = Vec::new();
            cursor.write(&mut written);
            prop_assert_eq!(written, cursor.to_string().into_bytes());
            prop_assert_eq!(cursor.to_string().len(), cursor.text_bytes());
        }

        #[test]
        fn text_and_cursor_convert_both_ways(position in 0u64..200, text in "e{0,2}-?0?[0-9]{0,3}") {
            let cursor = Cursor::new("e".parse().unwrap(), Position(position));
            prop_assert!(cursor.is_text(cursor.to_string().as_bytes()));
            prop_assert_eq!(cursor.is_text(text.as_bytes()), text.parse() == Ok(cursor), "{}", text);
        }

        #[test]
        fn never_panics(text in "\\PC{0,60}") {
            let _ = text.parse::<Cursor>();
        }
    }
}
