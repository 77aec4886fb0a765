//! Three decoders of the same bytes: `net::websocket`, as handlers use it on this server's connections; actix-ws as they
//! use it through an `App`; and actix-ws by itself, an independent reference for both.

use std::collections::VecDeque;
use std::sync::Arc;

use actix_web::test::TestRequest;
use actix_ws::AggregatedMessage;
use futures_util::{Stream, StreamExt as _};
use proptest::prelude::*;

use super::*;
use crate::limits::{Limits, RateKey};
use crate::net::websocket::FrameReader;

/// Longest message in these tests.
const MAX_BYTES: usize = 300;

/// What a decoder made of the peer's bytes.
#[derive(Debug, PartialEq, Eq)]
struct Outcome<R> {
    messages: Vec<Message>,
    /// The close code for the peer; `None` where the peer closes, or its bytes merely end.
    refused: Option<R>,
}

/// Bytes in pieces, with `Pending` between them.
struct Pieces {
    pieces: VecDeque<Bytes>,
    waited: bool,
}

impl Pieces {
    fn new(bytes: &[u8], cuts: &[usize]) -> Self {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).chain([0, bytes.len()]).collect();
        cuts.sort_unstable();
        cuts.dedup();
        let pieces = cuts.windows(2).map(|cut| Bytes::copy_from_slice(&bytes[cut[0]..cut[1]])).collect();
        Self { pieces, waited: false }
    }
}

impl Stream for Pieces {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.waited = !self.waited;
        if self.waited { Poll::Pending } else { Poll::Ready(self.pieces.pop_front().map(Ok)) }
    }
}

fn handshake() -> HttpRequest {
    let request = TestRequest::default().insert_header(("upgrade", "websocket"));
    let request = request.insert_header(("connection", "upgrade")).insert_header(("sec-websocket-version", "13"));
    request.insert_header(("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")).to_http_request()
}

fn read(mut source: Box<dyn MessageSource>) -> Outcome<CloseReason> {
    let mut budget = Arc::new(Limits::default()).inbound(RateKey::at([127, 0, 0, 1].into()));
    let mut messages = Vec::new();
    let refused = loop {
        match source.poll_message(&mut Context::from_waker(std::task::Waker::noop()), &mut budget) {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(message))) => {
                let closed = matches!(message, Message::Close(_));
                messages.push(message);
                if closed {
                    break None;
                }
            }
            Poll::Ready(Some(Err(reason))) => break Some(reason),
            Poll::Ready(None) => break None,
        }
    };
    Outcome { messages, refused }
}

fn by_our_decoder(bytes: &[u8], cuts: &[usize]) -> Outcome<CloseReason> {
    read(Box::new(FrameReader::new(Pieces::new(bytes, cuts), MAX_BYTES)))
}

fn through_an_app(bytes: &[u8], cuts: &[usize]) -> Outcome<CloseReason> {
    let bytes = RequestBody::Stream(Box::pin(Pieces::new(bytes, cuts)));
    let accepted = accept(&handshake(), bytes).expect("it is a handshake");
    let outcome = read((accepted.messages)(MAX_BYTES));
    drop(accepted.response);
    outcome
}

/// Byte by byte: of bytes that it gets at once actix-ws returns an error before the messages that preceded it.
fn by_actix_ws(bytes: &[u8]) -> Outcome<u16> {
    let all: Vec<usize> = (0..bytes.len()).collect();
    let bytes: BoxedPayloadStream = Box::pin(Pieces::new(bytes, &all).map(|piece| piece.map_err(PayloadError::Io)));
    let request = handshake();
    let payload = web::Payload::from_request(&request, &mut Payload::Stream { payload: bytes });
    let (_response, _session, stream) =
        actix_ws::handle(&request, payload.into_inner().expect("a payload")).expect("it is a handshake");
    let stream = stream.max_frame_size(MAX_BYTES).aggregate_continuations();
    let mut stream = std::pin::pin!(stream.max_continuation_size(MAX_BYTES));
    let mut messages = Vec::new();
    let refused = loop {
        match stream.as_mut().poll_next(&mut Context::from_waker(std::task::Waker::noop())) {
            Poll::Pending => {}
            Poll::Ready(None) => break None,
            Poll::Ready(Some(Err(error))) => break Some(code_of(&error)),
            Poll::Ready(Some(Ok(message))) => messages.push(match message {
                AggregatedMessage::Text(text) => Message::Text(text.to_string()),
                AggregatedMessage::Binary(bytes) => Message::Binary(bytes),
                AggregatedMessage::Ping(payload) => Message::Ping(payload),
                AggregatedMessage::Pong(_) => Message::Pong,
                AggregatedMessage::Close(reason) => {
                    messages.push(Message::Close(reason.map(|reason| reason.code.into())));
                    break None;
                }
            }),
        }
    };
    Outcome { messages, refused }
}

/// The close code for an error, by its text (RFC 6455 §7.4.1).
fn code_of(error: &ProtocolError) -> u16 {
    match error {
        ProtocolError::Overflow => 1009,
        ProtocolError::Io(error) if error.kind() == io::ErrorKind::Other => {
            assert_eq!(error.to_string(), "Exceeded maximum continuation size");
            1009
        }
        ProtocolError::Io(error) if !error.to_string().contains("reserved bits") => 1007,
        _ => 1002,
    }
}

/// A frame as a client sends it, its length in the fewest bytes, or in more.
fn frame(first: u8, payload: &[u8], mask: [u8; 4], long: bool) -> Vec<u8> {
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..=125 if !long => frame.push(0x80 | length as u8),
        length if length <= 0xFFFF && !long => {
            frame.push(0x80 | 126);
            frame.extend((length as u16).to_be_bytes());
        }
        length => {
            frame.push(0x80 | 127);
            frame.extend((length as u64).to_be_bytes());
        }
    }
    frame.extend(mask);
    frame.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

const FIN: u8 = 0x80;

fn payload() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => ".{0,40}".prop_map(String::into_bytes),
        1 => "[aé€😀]{0,100}".prop_map(String::into_bytes),
        1 => prop::collection::vec(any::<u8>(), 0..40),
        1 => prop::collection::vec(any::<u8>(), 120..MAX_BYTES + 20),
    ]
}

fn one_frame(
    first: impl Strategy<Value = u8>,
    payload: impl Strategy<Value = Vec<u8>>,
) -> impl Strategy<Value = Vec<u8>> {
    let long = prop::bool::weighted(0.05);
    (first, payload, any::<[u8; 4]>(), long).prop_map(|(first, payload, mask, long)| frame(first, &payload, mask, long))
}

fn control() -> impl Strategy<Value = Vec<u8>> {
    one_frame(prop::sample::select(vec![0x89, 0x8A]), prop::collection::vec(any::<u8>(), 0..126))
}

/// A message, fragmented anywhere, inside characters too, with control frames between the fragments.
fn fragmented() -> impl Strategy<Value = Vec<u8>> {
    let between = prop::collection::vec(prop::option::weighted(0.3, control()), 4);
    (1..=2_u8, payload(), prop::collection::vec(any::<usize>(), 0..4), between, any::<[u8; 4]>()).prop_map(
        |(opcode, payload, cuts, between, mask)| {
            let pieces = Pieces::new(&payload, &cuts).pieces;
            let mut frames = frame(opcode, b"", mask, false);
            for (piece, control) in pieces.iter().zip(between.iter().cycle()) {
                frames.extend(control.iter().flatten());
                frames.extend(frame(0, piece, mask, false));
            }
            [frames, frame(FIN, b"", mask, false)].concat()
        },
    )
}

fn close() -> impl Strategy<Value = Vec<u8>> {
    let code = prop_oneof![
        prop::sample::select(vec![1000, 1003, 1004, 1005, 1006, 1007, 1011, 1014, 1015, 1016, 2999, 3000, 4999, 5000]),
        any::<u16>(),
    ];
    let reason =
        prop_oneof![Just(Vec::new()), ".{0,20}".prop_map(String::into_bytes), prop::collection::vec(any::<u8>(), 1..9)];
    let payload = (code, reason, any::<usize>()).prop_map(|(code, reason, cut)| {
        let mut payload = [&code.to_be_bytes()[..], &reason].concat();
        if cut % 8 < 2 {
            payload.truncate(cut % 8);
        }
        payload
    });
    one_frame(Just(0x88), payload)
}

/// A client's bytes: mostly valid; possibly damaged; and possibly padded, so that any frame is complete.
fn peer() -> impl Strategy<Value = Vec<u8>> {
    let frames = prop_oneof![
        6 => one_frame(prop::sample::select(vec![0x81, 0x82]), payload()),
        4 => fragmented(),
        2 => control(),
        1 => close(),
        1 => one_frame(any::<u8>(), payload()),
    ];
    let damages = prop::collection::vec((any::<prop::sample::Index>(), 0..3, any::<u8>()), 0..3);
    (prop::collection::vec(frames, 1..6), damages).prop_map(|(frames, damages)| {
        let mut bytes = frames.concat();
        for (place, damage, byte) in damages {
            let at = place.index(bytes.len());
            match damage {
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                _ => bytes.truncate(at + 1),
            }
        }
        bytes
    })
}

/// Padded, so that a frame that was cut off is complete.
fn completed(bytes: &[u8]) -> Vec<u8> {
    [bytes, &[0; MAX_BYTES + 14]].concat()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// However the bytes are cut, handlers get the same messages on both paths.
    #[test]
    fn both_ways_read_the_same(
        bytes in peer(),
        cuts in prop::collection::vec(any::<usize>(), 0..6),
        others in prop::collection::vec(any::<usize>(), 0..40),
    ) {
        let (ours, apps) = (by_our_decoder(&bytes, &cuts), through_an_app(&bytes, &others));
        prop_assert_eq!(&ours.messages, &apps.messages);
        // actix-ws waits for the whole of a frame that `net::websocket` refuses by its header.
        prop_assert!(apps.refused.is_none() || apps.refused.is_some() == ours.refused.is_some());
        let bytes = completed(&bytes);
        let (ours, apps) = (by_our_decoder(&bytes, &others), through_an_app(&bytes, &cuts));
        prop_assert_eq!(&ours.messages, &apps.messages);
        prop_assert_eq!(ours.refused, apps.refused);
    }

    /// `net::websocket` returns the messages that actix-ws returns, and refuses what it refuses, with the standard's code.
    #[test]
    fn our_decoder_is_held_to_actix_ws(bytes in peer(), cuts in prop::collection::vec(any::<usize>(), 0..6)) {
        let bytes = completed(&bytes);
        let (ours, theirs) = (by_our_decoder(&bytes, &cuts), by_actix_ws(&bytes));
        let (same, more) = theirs.messages.split_at(ours.messages.len().min(theirs.messages.len()));
        prop_assert_eq!(&ours.messages, same);
        match ours.refused {
            // actix-ws validates a text when it is complete: until then control frames may arrive, and other faults.
            Some(CloseReason::NOT_UTF8) => {
                prop_assert!(more.iter().all(|message| !message.is_data()), "{:?}", more);
            }
            // actix-ws accepts a control frame of at most 125 bytes whose length is not in the shortest form.
            Some(CloseReason::LONG_CONTROL) if more.first().is_some_and(|message| !message.is_data()) => {}
            Some(reason) => {
                prop_assert!(more.is_empty(), "{:?}", more);
                let as_well = match reason {
                    // actix-ws does not report which fault a close frame has.
                    CloseReason::CLOSE_NOT_UTF8 => theirs.refused == Some(1002),
                    // actix-ws waits for all that a header announces, and checks the limit first.
                    CloseReason::TOO_BIG => theirs.refused.is_none(),
                    CloseReason::LONG_CONTROL => matches!(theirs.refused, None | Some(1009)),
                    _ => false,
                };
                prop_assert!(as_well || theirs.refused == Some(reason.code), "{:?}, {:?}", reason, theirs.refused);
            }
            None => prop_assert_eq!((more, None), (&[][..], theirs.refused)),
        }
    }
}

/// No bytes are read ahead of demand: that is the backpressure for a peer that sends faster than its messages are handled.
#[test]
fn an_app_reads_one_message_at_a_time() {
    let bytes = [frame(0x81, b"a", [1; 4], false), frame(0x81, b"b", [2; 4], false)].concat();
    let whole = bytes.len();
    let body = RequestBody::Stream(Box::pin(Pieces::new(&bytes, &[])));
    let accepted = accept(&handshake(), body).expect("it is a handshake");
    let mut source = (accepted.messages)(MAX_BYTES);
    let mut budget = Arc::new(Limits::default()).inbound(RateKey::at([127, 0, 0, 1].into()));
    let mut poll = |source: &mut Box<dyn MessageSource>| {
        source.poll_message(&mut Context::from_waker(std::task::Waker::noop()), &mut budget)
    };
    assert!(poll(&mut source).is_pending(), "it is kept waiting first");
    assert_eq!(poll(&mut source), Poll::Ready(Some(Ok(Message::Text("a".to_owned())))), "of {whole} bytes at once");
    assert!(!source.is_amid_message());
    assert_eq!(poll(&mut source), Poll::Ready(Some(Ok(Message::Text("b".to_owned())))));
}
