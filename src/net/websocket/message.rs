//! What frames make: whole messages, and the reasons for which there is none.

use bytes::Bytes;

/// Why a WebSocket is closed: what a close frame says (RFC 6455 §5.5.1, §7.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct CloseReason {
    pub(crate) code: u16,
    /// For the developer of the client.
    pub(crate) text: &'static str,
}

impl CloseReason {
    pub(crate) const UNMASKED: Self = Self { code: 1002, text: "a client masks its frames" };
    pub(crate) const RESERVED: Self = Self { code: 1002, text: "reserved bits are zero" };
    pub(crate) const LONG_CONTROL: Self =
        Self { code: 1002, text: "a control frame is whole and has at most 125 bytes" };
    pub(crate) const OPCODE: Self = Self { code: 1002, text: "there is no such opcode" };
    pub(crate) const FRAGMENTS: Self = Self {
        code: 1002,
        text: "a message begins with a text or binary frame, and goes on with continuation frames until it ends",
    };
    pub(crate) const CLOSE_PAYLOAD: Self =
        Self { code: 1002, text: "a close frame is empty, or has a code that may be sent and a reason" };
    pub(crate) const CLOSE_NOT_UTF8: Self = Self { code: 1007, text: "the reason in a close frame is UTF-8" };
    pub(crate) const NOT_UTF8: Self = Self { code: 1007, text: "a text is UTF-8" };
    pub(crate) const TOO_BIG: Self = Self { code: 1009, text: "the message is too big" };
    pub(crate) const NO_ROOM: Self = Self { code: 1013, text: "this server has no room for the message at the moment" };
}

/// A whole message, or a control frame.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Message {
    Text(String),
    Binary(Bytes),
    Ping(Bytes),
    Pong,
    /// With its code, if it has one.
    Close(Option<u16>),
}

impl Message {
    /// Whether it is a text or a binary message.
    pub(crate) fn is_data(&self) -> bool {
        matches!(self, Self::Text(_) | Self::Binary(_))
    }
}

/// A message that comes in pieces: in several frames, or in a frame that is not here as a whole.
pub(crate) struct Fragments {
    text: bool,
    bytes: Vec<u8>,
    /// How many of the bytes are whole characters. Those of a binary message are not looked at.
    checked_bytes: usize,
}

impl Fragments {
    pub(crate) fn new(text: bool) -> Self {
        Self { text, bytes: Vec::new(), checked_bytes: 0 }
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes, to be added to.
    pub(super) fn bytes_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// Adds a piece that another will follow.
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

    /// Looks at what was added, although more is to come: a text that is none is refused at its first wrong byte (RFC 6455
    /// §8.1 leaves it open when), and not held until its end.
    ///
    /// # Errors
    /// [`CloseReason::NOT_UTF8`].
    pub(super) fn check(&mut self) -> Result<(), CloseReason> {
        if !self.text {
            return Ok(());
        }
        match std::str::from_utf8(&self.bytes[self.checked_bytes..]) {
            Ok(text) => self.checked_bytes += text.len(),
            // A character that goes on in the next piece.
            Err(error) if error.error_len().is_none() => self.checked_bytes += error.valid_up_to(),
            Err(_) => return Err(CloseReason::NOT_UTF8),
        }
        Ok(())
    }

    /// The message, once its last piece was added.
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

/// What the payload of a close frame says (RFC 6455 §5.5.1).
///
/// # Errors
/// [`CloseReason::CLOSE_PAYLOAD`] for half a code, and for one that is not sent (§7.4); [`CloseReason::CLOSE_NOT_UTF8`] where
/// its reason is no text.
pub(crate) fn read_close(payload: &[u8]) -> Result<Message, CloseReason> {
    let (code, reason) = match payload {
        [] => return Ok(Message::Close(None)),
        [_] => return Err(CloseReason::CLOSE_PAYLOAD),
        [high, low, reason @ ..] => (u16::from_be_bytes([*high, *low]), reason),
    };
    // Those that IANA has registered since (1012 to 1014) are among them; 1004 to 1006 and 1015 are never on the wire.
    if !matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999) {
        return Err(CloseReason::CLOSE_PAYLOAD);
    }
    match std::str::from_utf8(reason) {
        Ok(_) => Ok(Message::Close(Some(code))),
        Err(_) => Err(CloseReason::CLOSE_NOT_UTF8),
    }
}
