//! Complete messages, and the reasons to close a WebSocket.

use bytes::Bytes;

/// Why a WebSocket is closed: the payload of a close frame (RFC 6455 §5.5.1, §7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CloseReason {
    pub(crate) code: u16,
    /// For the developer of the client.
    pub(crate) text: &'static str,
}

impl CloseReason {
    pub(crate) const UNMASKED: Self = Self { code: 1002, text: "a client must mask its frames" };
    pub(crate) const RESERVED: Self = Self { code: 1002, text: "reserved bits must be zero" };
    pub(crate) const LONG_CONTROL: Self =
        Self { code: 1002, text: "a control frame must not be fragmented, nor exceed 125 bytes" };
    pub(crate) const OPCODE: Self = Self { code: 1002, text: "the opcode is unknown" };
    pub(crate) const FRAGMENTS: Self = Self {
        code: 1002,
        text: "a message must begin with a text or binary frame and go on with continuation frames until it ends",
    };
    pub(crate) const CLOSE_PAYLOAD: Self =
        Self { code: 1002, text: "a close frame must be empty, or have a code that may be sent and a reason" };
    pub(crate) const CLOSE_NOT_UTF8: Self = Self { code: 1007, text: "the reason in a close frame must be UTF-8" };
    pub(crate) const NOT_UTF8: Self = Self { code: 1007, text: "a text message must be UTF-8" };
    pub(crate) const TOO_BIG: Self = Self { code: 1009, text: "the message is too big" };
    pub(crate) const NO_ROOM: Self = Self { code: 1013, text: "this server has no room for the message at the moment" };
}

/// A complete message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Text(String),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    /// A close frame, with its code, if any.
    Close(Option<u16>),
}

impl Message {
    /// Whether it is a text or a binary message.
    pub(crate) fn is_data(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Binary(_))
    }
}

/// A message that arrives in pieces: in several frames, or in an incomplete frame.
pub(crate) struct Fragments {
    text: bool,
    bytes: Vec<u8>,
    /// How many of the bytes are complete characters. The bytes of a binary message are not checked.
    checked_bytes: usize,
}

impl Fragments {
    pub(crate) fn new(text: bool) -> Self {
        Self { text, bytes: Vec::new(), checked_bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes, to append to.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Appends a piece that is not the last.
    ///
    /// # Errors
    /// [`CloseReason::TOO_BIG`] past `bytes_max`; as [`Self::check`].
    pub(crate) fn push(&mut self, piece: &[u8], bytes_max: usize) -> Result<(), CloseReason> {
        if piece.len() > bytes_max.saturating_sub(self.bytes.len()) {
            return Err(CloseReason::TOO_BIG);
        }
        self.bytes.extend_from_slice(piece);
        self.check()
    }

    /// Checks the bytes so far: a text that is not UTF-8 is refused at its first invalid byte, and not buffered until its end
    /// (RFC 6455 §8.1 leaves the moment open).
    ///
    /// # Errors
    /// [`CloseReason::NOT_UTF8`].
    pub(super) fn check(&mut self) -> Result<(), CloseReason> {
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.checked_bytes..]) {
            Ok(text) => self.checked_bytes += text.len(),
            // A character that continues in the next piece.
            Err(error) if error.error_len().is_none() => self.checked_bytes += error.valid_up_to(),
            Err(_) => return Err(CloseReason::NOT_UTF8),
        }
        Ok(())
    }

    /// The message, after its last piece was appended.
    ///
    /// # Errors
    /// [`CloseReason::NOT_UTF8`].
    pub(crate) fn finish(self) -> Result<Message, CloseReason> {
        match self.text {
            true => String::from_utf8(self.bytes).map(Message::Text).map_err(|_| CloseReason::NOT_UTF8),
            false => Ok(Message::Binary(self.bytes.into())),
        }
    }
}

/// The code in the payload of a close frame (RFC 6455 §5.5.1).
///
/// # Errors
/// [`CloseReason::CLOSE_PAYLOAD`] for half a code, and for one that must not be sent (§7.4); [`CloseReason::CLOSE_NOT_UTF8`]
/// if the reason is not UTF-8.
pub(crate) fn read_close(payload: &[u8]) -> Result<Message, CloseReason> {
    let (code, reason) = match payload {
        [] => return Ok(Message::Close(None)),
        [_] => return Err(CloseReason::CLOSE_PAYLOAD),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    // Codes that IANA has registered since (1012 to 1014) are valid; 1004 to 1006 and 1015 are never on the wire.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(CloseReason::CLOSE_PAYLOAD);
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Message::Close(Some(code))),
        Err(_) => Err(CloseReason::CLOSE_NOT_UTF8),
    }
}
