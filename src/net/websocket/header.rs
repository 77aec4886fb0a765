//! Decodes and checks frame headers (RFC 6455 §5.2).

use super::CloseReason;

/// Longest payload of a control frame, in bytes (§5.5).
const CONTROL_MAX_BYTES: u64 = 125;

/// Length of a header without extended length and mask, and of a mask, in bytes.
const SHORT_BYTES: usize = 2;
const MASK_BYTES: usize = 4;

/// Longest header: with a length of eight bytes.
const HEADER_MAX_BYTES: usize = SHORT_BYTES + 8 + MASK_BYTES;

const FIN: u8 = 0x80;
const RESERVED_BITS: u8 = 0x70;
const OPCODE: u8 = 0x0F;
const MASKED: u8 = 0x80;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Opcode {
    Continuation,
    Text,
    Binary,
    Close,
    Ping,
    Pong,
}

impl Opcode {
    fn read(first: u8) -> Option<Self> {
        Some(match first & OPCODE {
            0x0 => Self::Continuation,
            0x1 => Self::Text,
            0x2 => Self::Binary,
            0x8 => Self::Close,
            0x9 => Self::Ping,
            0xA => Self::Pong,
            _ => return None,
        })
    }

    pub(super) fn is_control(self) -> bool {
        matches!(self, Self::Close | Self::Ping | Self::Pong)
    }
}

/// The header of a client's frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) opcode: Opcode,
    /// FIN: whether the frame is its message's last.
    pub(super) fin: bool,
    pub(super) mask: [u8; MASK_BYTES],
    /// Length of the payload, in bytes.
    pub(crate) length: usize,
}

impl FrameHeader {
    /// Unmasks the payload (§5.3).
    pub(crate) fn unmasked(&self, payload: &[u8]) -> Vec<u8> {
        payload.iter().zip(self.mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect()
    }
}

/// Decodes headers from pieces of any size. An invalid frame is refused by its header alone, without waiting for its payload.
pub(crate) struct HeaderReader {
    /// Maximal length of a payload, in bytes.
    bytes_max: usize,
    header: [u8; HEADER_MAX_BYTES],
    length: u8,
}

impl HeaderReader {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self { bytes_max, header: [0; HEADER_MAX_BYTES], length: 0 }
    }

    /// Whether a part of a header has been read.
    pub(crate) fn is_amid(&self) -> bool {
        self.length > 0
    }

    /// Takes a header off the input. `None` if the header is incomplete: its bytes are then buffered.
    ///
    /// # Errors
    /// The reason to refuse the frame, as soon as the first byte shows it.
    pub(crate) fn read(&mut self, input: &mut &[u8]) -> Result<Option<FrameHeader>, CloseReason> {
        if !self.fill(SHORT_BYTES, input) {
            return Ok(None);
        }
        let [first, second, ..] = self.header;
        let opcode = check_first(first, second)?;
        let extended_bytes = match second & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        if !self.fill(SHORT_BYTES + extended_bytes, input) {
            return Ok(None);
        }
        let extended = &self.header[SHORT_BYTES..SHORT_BYTES + extended_bytes];
        // A length that is not in its shortest form violates §5.2, but is harmless, and is accepted.
        let length = match extended_bytes {
            0 => u64::from(second & !MASKED),
            _ => extended.iter().fold(0, |length, byte| length << 8 | u64::from(*byte)),
        };
        let length = usize::try_from(length).ok().filter(|length| *length <= self.bytes_max);
        let Some(length) = length else { return Err(CloseReason::TOO_BIG) };
        let mask_at = SHORT_BYTES + extended_bytes;
        if !self.fill(mask_at + MASK_BYTES, input) {
            return Ok(None);
        }
        let mut mask = [0; MASK_BYTES];
        mask.copy_from_slice(&self.header[mask_at..mask_at + MASK_BYTES]);
        self.length = 0;
        Ok(Some(FrameHeader { opcode, fin: first & FIN != 0, mask, length }))
    }

    /// Reads until the header has so many bytes; returns whether it has.
    fn fill(&mut self, bytes: usize, input: &mut &[u8]) -> bool {
        let have = usize::from(self.length);
        let missing = bytes.saturating_sub(have).min(input.len());
        let (taken, rest) = input.split_at(missing);
        self.header[have..have + missing].copy_from_slice(taken);
        *input = rest;
        self.length += missing as u8;
        have + missing >= bytes
    }
}

/// Checks the first two bytes.
fn check_first(first: u8, second: u8) -> Result<Opcode, CloseReason> {
    if first & RESERVED_BITS != 0 {
        return Err(CloseReason::RESERVED);
    }
    if second & MASKED == 0 {
        return Err(CloseReason::UNMASKED);
    }
    let opcode = Opcode::read(first).ok_or(CloseReason::OPCODE)?;
    let long = u64::from(second & !MASKED) > CONTROL_MAX_BYTES;
    if opcode.is_control() && (long || first & FIN == 0) {
        return Err(CloseReason::LONG_CONTROL);
    }
    Ok(opcode)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_refused_by_its_header_alone() {
        for (mut bytes, reason) in [
            (&[0x82, 0x80 | 127, 0, 0, 0, 1, 0, 0, 0, 0][..], CloseReason::TOO_BIG),
            (&[0x82, 0x80 | 127, 0xFF, 0, 0, 0, 0, 0, 0, 0], CloseReason::TOO_BIG),
            (&[0x82, 5], CloseReason::UNMASKED),
            (&[0xC1, 0x80], CloseReason::RESERVED),
            (&[0x83, 0x80], CloseReason::OPCODE),
            (&[0x8B, 0x80], CloseReason::OPCODE),
            (&[0x89, 0x80 | 126], CloseReason::LONG_CONTROL),
            (&[0x09, 0x80], CloseReason::LONG_CONTROL),
        ] {
            assert_eq!(HeaderReader::new(1 << 20).read(&mut bytes), Err(reason));
        }
    }

    #[test]
    fn lengths_are_read_in_each_form() {
        let mask = [1, 2, 3, 4];
        for (length, header) in [
            (125, vec![0x81, 0x80 | 125]),
            (126, vec![0x81, 0x80 | 126, 0, 126]),
            (0xFFFF, vec![0x81, 0x80 | 126, 0xFF, 0xFF]),
            (0x1_0000, vec![0x81, 0x80 | 127, 0, 0, 0, 0, 0, 1, 0, 0]),
            // Lengths that are not in their shortest form.
            (5, vec![0x81, 0x80 | 126, 0, 5]),
            (5, vec![0x81, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 5]),
        ] {
            let bytes = [&header[..], &mask, b"rest"].concat();
            let mut input = &bytes[..];
            let read = HeaderReader::new(1 << 20).read(&mut input);
            assert_eq!(read, Ok(Some(FrameHeader { opcode: Opcode::Text, fin: true, mask, length })));
            assert_eq!(input, b"rest");
        }
    }
}
