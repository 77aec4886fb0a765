//! Refuses malformed trailer sections of chunked request bodies, which actix accepts.
//!
//! actix skips the bytes between the last chunk and the next empty line unread, whether they are a trailer section
//! (RFC 9112 §7.1.2) or not. A proxy that ends a line at a bare line feed, as §2.2 allows, may end such a body earlier: what
//! follows is then another client's request for the proxy, and a part of the skipped section for actix. So these bytes are
//! checked on their way to the `App`.
//!
//! For that the check has to know where a body begins and ends, for which it follows actix's own rules. Where the two differed,
//! a body would go unchecked, or a valid request would be refused; no request would be split differently. Decoding chunks here,
//! instead of in actix, was rejected: it would be a second decoder of everything that only the `App` serves.
//!
//! In another program's `App` the connections are that program's, and this check is not in their way.

/// The most bytes of a head's line that are kept: the names and values that decide a body's framing are shorter.
const LINE_MAX_BYTES: usize = 64;

/// A byte that no request may contain where the check found it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Malformed {
    /// Its index in the bytes that were passed.
    pub(super) at: usize,
}

/// The check of one connection's requests.
#[derive(Debug)]
pub(super) struct TrailerCheck {
    place: Place,
    /// The head's current line, without spaces and tabs, which have no meaning in the lines that matter.
    line: Vec<u8>,
    line_is_cut: bool,
    framing: Framing,
}

/// Where the next byte belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    RequestLine,
    Field,
    /// A body's remaining bytes.
    Body(u64),
    /// A chunk's size; whether more digits may follow.
    ChunkSize(u64, bool),
    /// The remaining bytes of a chunk, with the line end behind it.
    Chunk(u64),
    Trailer(Trailer),
    /// The rest of the connection is not HTTP.
    Unchecked,
}

/// Where the next byte belongs in a trailer section.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailer {
    Begin,
    Name,
    Value,
    /// The line feed of a field line.
    FieldEnd,
    /// The line feed of the empty line.
    End,
}

/// What a head says about its body.
#[derive(Clone, Copy, Debug, Default)]
struct Framing {
    chunked: bool,
    length: u64,
    /// The body ends with the connection.
    endless: bool,
}

impl Default for TrailerCheck {
    fn default() -> Self {
        Self { place: Place::RequestLine, line: Vec::new(), line_is_cut: false, framing: Framing::default() }
    }
}

impl TrailerCheck {
    /// Checks the bytes that actix reads next.
    ///
    /// # Errors
    /// The first byte of them that is malformed; the check is over then.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> Result<(), Malformed> {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            let left = (bytes.len() - at) as u64;
            match &mut self.place {
                Place::Unchecked => return Ok(()),
                Place::Body(rest) | Place::Chunk(rest) if *rest > left => {
                    *rest -= left;
                    return Ok(());
                }
                Place::Body(rest) => {
                    at += *rest as usize;
                    self.place = Place::RequestLine;
                    continue;
                }
                Place::Chunk(rest) => {
                    at += *rest as usize;
                    self.place = Place::ChunkSize(0, true);
                    continue;
                }
                Place::RequestLine | Place::Field => self.head_byte(byte).ok_or(Malformed { at })?,
                Place::ChunkSize(size, digits) => match (char::from(byte).to_digit(16).filter(|_| *digits), byte) {
                    (Some(digit), _) => *size = size.saturating_mul(16).saturating_add(digit.into()),
                    (None, b'\n') if *size == 0 => self.place = Place::Trailer(Trailer::Begin),
                    (None, b'\n') => self.place = Place::Chunk(size.saturating_add(2)),
                    (None, _) => *digits = false,
                },
                Place::Trailer(place) => match place.next(byte).ok_or(Malformed { at })? {
                    Some(next) => *place = next,
                    None => self.place = Place::RequestLine,
                },
            }
            at += 1;
        }
        Ok(())
    }

    /// A byte of a head; `None` where it is malformed. actix refuses by itself whatever else is malformed in a head.
    fn head_byte(&mut self, byte: u8) -> Option<()> {
        match byte {
            b'\n' => self.end_line(),
            b' ' | b'\t' | b'\r' => Some(()),
            _ if self.line.len() < LINE_MAX_BYTES => {
                self.line.push(byte);
                Some(())
            }
            _ => {
                self.line_is_cut = true;
                Some(())
            }
        }
    }

    fn end_line(&mut self) -> Option<()> {
        let is_cut = std::mem::take(&mut self.line_is_cut);
        match (self.place, self.line.is_empty()) {
            // Empty lines before a request are skipped (RFC 9112 §2.2).
            (Place::RequestLine, true) => {}
            (Place::RequestLine, false) => {
                self.framing = Framing { endless: self.line.starts_with(b"CONNECT"), ..Framing::default() };
                self.place = Place::Field;
            }
            (_, true) => {
                // A connection at rest holds no buffer.
                self.line = Vec::new();
                self.place = match self.framing {
                    Framing { chunked: true, .. } => Place::ChunkSize(0, true),
                    Framing { endless: true, .. } => Place::Unchecked,
                    Framing { length: 0, .. } => Place::RequestLine,
                    Framing { length, .. } => Place::Body(length),
                };
            }
            (_, false) => self.framing.note(&self.line, is_cut)?,
        }
        self.line.clear();
        Some(())
    }
}

impl Framing {
    /// Records a field line; `None` where it contains a length that is not read to its end here.
    fn note(&mut self, line: &[u8], is_cut: bool) -> Option<()> {
        let colon = memchr::memchr(b':', line).unwrap_or(line.len());
        let (name, value) = (&line[..colon], line.get(colon + 1..).unwrap_or_default());
        if name.eq_ignore_ascii_case(b"transfer-encoding") {
            self.chunked |= value.eq_ignore_ascii_case(b"chunked");
        } else if name.eq_ignore_ascii_case(b"upgrade") {
            self.endless |= value.eq_ignore_ascii_case(b"websocket") && !is_cut;
        } else if name.eq_ignore_ascii_case(b"content-length") {
            // A length that is no number is refused by actix.
            self.length = std::str::from_utf8(value).ok().and_then(|digits| digits.parse().ok()).unwrap_or(0);
            return (!is_cut).then_some(());
        }
        Some(())
    }
}

impl Trailer {
    /// The place after a byte: `None` where the byte is malformed, `Some(None)` where the section has ended.
    fn next(self, byte: u8) -> Option<Option<Self>> {
        match (self, byte) {
            (Self::Begin, b'\r') => Some(Some(Self::End)),
            (Self::End, b'\n') => Some(None),
            (Self::Begin | Self::Name, byte) if is_token_byte(byte) => Some(Some(Self::Name)),
            (Self::Name, b':') => Some(Some(Self::Value)),
            (Self::Value, b'\r') => Some(Some(Self::FieldEnd)),
            (Self::Value, b'\t' | b' '..=b'~' | 0x80..) => Some(Some(Self::Value)),
            (Self::FieldEnd, b'\n') => Some(Some(Self::Begin)),
            _ => None,
        }
    }
}

/// Whether a byte may be part of a field's name (RFC 9110 §5.6.2).
fn is_token_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HEAD: &str = "POST /v1/events HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:  Chunked \r\n\r\n";
    const NEXT: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

    /// Where the bytes are malformed, passed in pieces of a length.
    fn malformed(text: &[u8], piece_bytes: usize) -> Option<usize> {
        let mut check = TrailerCheck::default();
        let mut before = 0;
        for piece in text.chunks(piece_bytes) {
            if let Err(Malformed { at }) = check.pass(piece) {
                return Some(before + at);
            }
            before += piece.len();
        }
        None
    }

    #[test]
    fn a_trailer_section_of_field_lines_passes() {
        for body in [
            "0\r\n\r\n",
            "1\r\nx\r\n0\r\n\r\n",
            "a;x=\"y\"\r\n0\r\n\r\nPOST \r\n0A \r\n\r\n\n\n\n\n\n\n\n\n\r\n000\r\nDigest: x\r\nX-Empty:\r\nX:\ta \u{e9}\r\n\r\n",
        ] {
            // Behind it comes another body, so that its end was found.
            let text = format!("{HEAD}{body}\r\n{NEXT}{HEAD}0\r\nnone\r\n\r\n");
            for piece in [1, 2, 7, text.len()] {
                assert_eq!(malformed(text.as_bytes(), piece), Some(text.len() - 4), "{body:?} by {piece}");
            }
        }
    }

    #[test]
    fn anything_else_is_refused_at_its_first_byte() {
        for (section, at) in [
            ("xx\r\n\r\n", 2),
            (": x\r\n\r\n", 0),
            ("a : x\r\n\r\n", 1),
            ("GET / HTTP/1.1\r\n", 3),
            ("a: b\n\r\n", 4),
            ("a: b\r\r\n", 5),
            ("a: \0\r\n\r\n", 3),
            ("\n", 0),
            ("\rx", 1),
            (" a: b\r\n\r\n", 0),
            ("a: b\r\n c\r\n\r\n", 6),
        ] {
            let text = format!("{HEAD}1\r\nx\r\n0\r\n{section}{NEXT}");
            let expected = text.len() - NEXT.len() - section.len() + at;
            for piece in [1, 3, text.len()] {
                assert_eq!(malformed(text.as_bytes(), piece), Some(expected), "{section:?} by {piece}");
            }
        }
    }

    #[test]
    fn other_bodies_are_followed_to_their_end() {
        let end = format!("{HEAD}0\r\nnone\r\n\r\n");
        for (head, is_followed) in [
            ("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\n\r\n\r\n", true),
            ("POST / HTTP/1.1\nContent-Length: 0004\n\n0\r\n\r", true),
            ("POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nUpgrade: h2c\r\n\r\n", true),
            ("\r\n\nGET /?transfer-encoding:chunked HTTP/1.1\r\nX: chunked\r\n\r\n", true),
            ("POST / HTTP/1.1\r\nUpgrade: websocket\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", true),
            ("GET / HTTP/1.1\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\n", false),
            ("CONNECT h:1 HTTP/1.1\r\n\r\n", false),
        ] {
            let text = format!("{head}{end}");
            let expected = is_followed.then_some(text.len() - 4);
            assert_eq!(malformed(text.as_bytes(), text.len()), expected, "{head:?}");
        }
        let zeros = format!("POST / HTTP/1.1\r\nContent-Length: {}4\r\n\r\n", "0".repeat(LINE_MAX_BYTES));
        assert!(malformed(zeros.as_bytes(), 10).is_some(), "a length that is not read to its end");
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(
            text in "(POST / HTTP/1.1\r\n(Content-Length: [0-9]{1,2}\r\n)?(Transfer-Encoding: chunked\r\n)?\r\n[0-2x:\r\n]{0,12}){1,3}",
            piece in 1_usize..9,
        ) {
            prop_assert_eq!(malformed(text.as_bytes(), piece), malformed(text.as_bytes(), text.len()));
        }
    }
}
