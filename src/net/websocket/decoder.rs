//! Decodes frames to messages (RFC 6455 §5, §8.1), sans I/O: bytes in, messages out. Only incomplete messages are buffered.

use super::header::{FrameHeader, HeaderReader, Opcode};
use super::message::read_close;
use super::{CloseReason, Fragments, Message};
use crate::net::growth::make_room;

/// Decodes the frames of one client.
pub(super) struct Decoder {
    bytes_max: usize,
    headers: HeaderReader,
    /// The frame whose payload is incomplete.
    frame: Option<Frame>,
    /// The incomplete message.
    message: Option<Fragments>,
    /// The payload of a control frame, which may be between the fragments of a message (§5.4).
    control: Vec<u8>,
    /// Set by the header of each frame: the bytes that will be held with its payload.
    announced_bytes: Option<usize>,
}

/// A frame whose payload is incomplete.
struct Frame {
    opcode: Opcode,
    fin: bool,
    /// The masking key, rotated so that its first byte masks the next byte of the payload.
    mask: [u8; 4],
    left_bytes: usize,
}

impl Decoder {
    /// A decoder of messages of at most so many bytes.
    pub(super) fn new(bytes_max: usize) -> Self {
        let headers = HeaderReader::new(bytes_max);
        Self { bytes_max, headers, frame: None, message: None, control: Vec::new(), announced_bytes: None }
    }

    /// Takes the next message off the input. `None` if it is incomplete: then all of the input was taken.
    ///
    /// # Errors
    /// The reason to close the connection. No more can be decoded then.
    pub(super) fn decode(&mut self, input: &mut &[u8]) -> Result<Option<Message>, CloseReason> {
        loop {
            let Some(frame) = &mut self.frame else {
                let Some(header) = self.headers.read(input)? else { return Ok(None) };
                self.begin(header)?;
                continue;
            };
            let (piece, rest) = input.split_at(frame.left_bytes.min(input.len()));
            *input = rest;
            frame.left_bytes -= piece.len();
            let (whole, fin) = (frame.left_bytes == 0, frame.fin);
            if frame.opcode.is_control() {
                frame.unmask(piece, &mut self.control);
            } else if let Some(message) = &mut self.message {
                frame.unmask(piece, message.bytes_mut());
                // If the frame completes its message, the check is below.
                if !(whole && fin) {
                    message.check()?;
                }
            }
            if !whole {
                return Ok(None);
            }
            if let Some(message) = self.finish_frame()? {
                return Ok(Some(message));
            }
        }
    }

    /// Whether a message or a frame has begun and is incomplete.
    pub(super) fn is_amid_message(&self) -> bool {
        self.headers.is_amid() || self.frame.is_some() || self.message.is_some()
    }

    /// The buffered bytes of incomplete messages and frames.
    pub(super) fn held_bytes(&self) -> usize {
        self.control.len() + self.message.as_ref().map_or(0, Fragments::len)
    }

    /// The bytes that will be held with the rest of a frame whose header was decoded since the last call.
    pub(super) fn take_announced(&mut self) -> Option<usize> {
        self.announced_bytes.take()
    }

    /// Releases the buffers.
    pub(super) fn discard(&mut self) {
        *self = Self::new(self.bytes_max);
    }

    fn begin(&mut self, header: FrameHeader) -> Result<(), CloseReason> {
        let FrameHeader { opcode, fin, mask, length } = header;
        match (opcode, &self.message) {
            (Opcode::Text | Opcode::Binary, None) => self.message = Some(Fragments::new(opcode == Opcode::Text)),
            (Opcode::Continuation, Some(begun)) if length > self.bytes_max - begun.len() => {
                return Err(CloseReason::TOO_BIG);
            }
            (Opcode::Continuation, None) | (Opcode::Text | Opcode::Binary, Some(_)) => {
                return Err(CloseReason::FRAGMENTS);
            }
            _ => {}
        }
        self.announced_bytes = Some(self.held_bytes() + length);
        self.frame = Some(Frame { opcode, fin, mask, left_bytes: length });
        Ok(())
    }

    /// The message that the frame completes.
    fn finish_frame(&mut self) -> Result<Option<Message>, CloseReason> {
        let Some(Frame { opcode, fin, .. }) = self.frame.take() else { return Ok(None) };
        Ok(Some(match opcode {
            Opcode::Ping => Message::Ping(std::mem::take(&mut self.control).into()),
            Opcode::Pong => {
                self.control = Vec::new();
                Message::Pong
            }
            Opcode::Close => read_close(&std::mem::take(&mut self.control))?,
            Opcode::Continuation | Opcode::Text | Opcode::Binary => match self.message.take_if(|_| fin) {
                Some(whole) => whole.finish()?,
                None => return Ok(None),
            },
        }))
    }
}

impl Frame {
    /// Appends the next piece of the payload, unmasked (§5.3).
    fn unmask(&mut self, piece: &[u8], out: &mut Vec<u8>) {
        let from = out.len();
        make_room(out, piece.len(), self.left_bytes);
        out.extend_from_slice(piece);
        let mask = u32::from_ne_bytes(self.mask);
        let mask = u64::from(mask) << 32 | u64::from(mask);
        let mut words = out[from..].chunks_exact_mut(8);
        for word in &mut words {
            let masked = u64::from_ne_bytes([word[0], word[1], word[2], word[3], word[4], word[5], word[6], word[7]]);
            word.copy_from_slice(&(masked ^ mask).to_ne_bytes());
        }
        for (byte, mask) in words.into_remainder().iter_mut().zip(self.mask.iter().cycle()) {
            *byte ^= mask;
        }
        self.mask.rotate_left(piece.len() % 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        const MASK: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
        let header = [first, 0x80 | payload.len() as u8].into_iter().chain(MASK);
        header.chain(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask)).collect()
    }

    /// The messages that are decoded from some pieces, and the reason of the refusal that ends them.
    fn decoded(pieces: &[&[u8]]) -> (Vec<Message>, Option<CloseReason>) {
        let (mut decoder, mut messages) = (Decoder::new(20), Vec::new());
        for mut piece in pieces.iter().copied() {
            loop {
                match decoder.decode(&mut piece) {
                    Ok(Some(message)) => messages.push(message),
                    Ok(None) => break,
                    Err(reason) => return (messages, Some(reason)),
                }
            }
            assert!(piece.is_empty(), "the decoder buffers incomplete frames");
        }
        (messages, None)
    }

    /// RFC 6455 §5.7, with all of them masked.
    #[test]
    fn the_examples_of_the_standard() {
        let hello = || Message::Text("Hello".to_owned());
        assert_eq!(decoded(&[b"\x81\x85\x37\xfa\x21\x3d\x7f\x9f\x4d\x51\x58"]), (vec![hello()], None));
        let (first, last) = (masked(0x01, b"Hel"), masked(0x80, b"lo"));
        assert_eq!(decoded(&[&first, &last]), (vec![hello()], None));
        assert_eq!(decoded(&[&masked(0x89, b"Hello")]), (vec![Message::Ping("Hello".into())], None));
        // Control frames between fragments.
        let all = [first, masked(0x89, b"?"), masked(0x8A, b"!"), last].concat();
        assert_eq!(decoded(&[&all]), (vec![Message::Ping("?".into()), Message::Pong, hello()], None));
    }

    #[test]
    fn a_text_is_refused_at_its_first_wrong_byte() {
        let whole = masked(0x81, b"ab\xFFcdef");
        assert_eq!(decoded(&[&whole[..8]]), (vec![], None));
        assert_eq!(decoded(&[&whole[..9]]), (vec![], Some(CloseReason::NOT_UTF8)));
        // In the first fragment, without waiting for the others.
        assert_eq!(decoded(&[&masked(0x01, b"ab\xFF")]), (vec![], Some(CloseReason::NOT_UTF8)));
        // A character in three fragments, and two thirds of one.
        let (a, b, c) = (masked(0x01, b"\xE2"), masked(0x00, b"\x82"), masked(0x80, b"\xAC"));
        assert_eq!(decoded(&[&a, &b, &c]), (vec![Message::Text("€".to_owned())], None));
        assert_eq!(decoded(&[&a, &masked(0x80, b"\x82")]), (vec![], Some(CloseReason::NOT_UTF8)));
    }

    #[test]
    fn a_message_is_refused_by_the_header_with_which_it_is_too_big() {
        let first = masked(0x02, &[0; 15]);
        assert_eq!(decoded(&[&first, &masked(0x00, &[0; 5])]), (vec![], None));
        assert_eq!(decoded(&[&first, &masked(0x00, &[0; 6])[..6]]), (vec![], Some(CloseReason::TOO_BIG)));
    }

    #[test]
    fn between_messages_nothing_is_held() {
        let mut decoder = Decoder::new(20);
        for frame in [masked(0x81, b"text"), masked(0x82, b"bytes"), masked(0x89, b"?"), masked(0x8A, b"!")] {
            assert!(decoder.decode(&mut &frame[..]).is_ok_and(|message| message.is_some()));
            assert!(!decoder.is_amid_message());
            assert_eq!((decoder.control.capacity(), decoder.message.is_none()), (0, true));
        }
    }
}
