//! `GET /v1/echo`: sends every message back unchanged, so that a client, or an engineer, can test the network in between.
//!
//! It is driven as a subscriber's WebSocket is, by a delivery without a subscription: so heartbeats, the token's expiry,
//! the maximum age, kicks and a shutdown end it as any other, and it is listed among the clients. The delivery's items are
//! not written ([`Framing::SocketControl`]): a tester would take them for echoes.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use uuid::Uuid;

use super::super::access::{check_may_come, check_still_good, expiry};
use super::super::driver::{Costs, Driver};
use super::super::subscribe::stream_of;
use super::super::{Answer, Call};
use super::closing::Closing;
use super::incoming::{Messages, echoed};
use super::shake_hands;
use crate::auth::Rights;
use crate::clients::Connecting;
use crate::clock::runtime_now;
use crate::delivery::{Delivery, Plan, StartPoint};
use crate::limits::OutboundBudget;
use crate::log::ReadMode;
use crate::net::websocket::{CloseReason, Message};
use crate::topic::PatternSet;
use crate::transport::Transport;
use crate::wire::{Framing, binary_frame, close_frame, pong_frame, text_frame};

/// Bytes that are passed to the connection at once, which buffers them until the peer takes them. The rest of an echo stays
/// here, where it is charged.
const PIECE_BYTES: usize = 16 << 10;

/// `/v1/echo`.
pub(in super::super) async fn echo(mut call: Call) -> Answer {
    let rights = call.rights().await?;
    check_may_come(&rights)?;
    let key = call.rate_key_of(&rights);
    call.limits().connect(&key)?;
    let costs = Costs {
        held: Some(call.limits().hold(&key)?),
        scanner: call.limits().scanner(&key),
        memory: call.limits().outbound(key.clone()),
    };
    let address = key.address();
    let budget = call.limits().outbound(key);
    let bytes_max = call.options().echo_bytes_max;
    let (response, messages) = shake_hands(&mut call, bytes_max, &rights)?;
    let driver = driver(&call, &rights, address, costs);
    // From here on a revocation ends the WebSocket; checked again for a revocation since the first check.
    check_still_good(&call.state.hub, &call.options().access, &rights)?;
    let out = BytesMut::new();
    Ok(response.with_stream(Echo { driver, messages: Some(messages), out, budget, closing: false, awaited: None }))
}

fn driver(call: &Call, rights: &Rights, address: IpAddr, costs: Costs) -> Box<Driver> {
    let (hub, patterns, client) = (&call.state.hub, PatternSet::default(), Uuid::new_v4());
    let start = StartPoint::at(hub.cursor());
    let registration = hub.clients().connect(Connecting {
        client,
        transport: Transport::Echo,
        patterns: &patterns,
        mode: ReadMode::default(),
        cursor: start.cursor,
        rights,
        address,
        user_agent: call.user_agent(),
        attempt: None,
        now_ms: hub.clock().believed_ms(),
    });
    let plan = Plan {
        framing: Framing::SocketControl,
        completion: stream_of(call, None, true),
        client,
        known: true,
        transport: Transport::Echo,
        heartbeat: call.options().heartbeat,
        events_max: 1,
        jitter: rand::random(),
    };
    let seat = call.state.worker().seat(&patterns, Transport::Echo);
    let mut delivery = Delivery::new(runtime_now(), plan, patterns, start);
    delivery.set_expiry(expiry(hub, rights));
    Box::new(Driver::new(delivery, seat, Some(registration), costs, call.hold()))
}

/// One echoing WebSocket. While an echo is queued, no more messages are read (backpressure).
struct Echo {
    driver: Box<Driver>,
    /// `None` after the peer's last message.
    messages: Option<Messages>,
    /// The queued frame.
    out: BytesMut,
    budget: OutboundBudget,
    /// The queued bytes are written, then the stream ends.
    closing: bool,
    /// Waits for the peer's close frame, where the server sent its own first.
    awaited: Option<Closing>,
}

impl Stream for Echo {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = self.get_mut();
        loop {
            if let Some(piece) = this.piece() {
                return Poll::Ready(Some(piece));
            }
            if this.closing {
                if let Some(awaited) = &mut this.awaited {
                    ready!(awaited.poll(cx));
                }
                return Poll::Ready(None);
            }
            if let Some(messages) = &mut this.messages {
                let next = messages.poll_next(cx);
                if messages.heard() {
                    this.driver.delivery.heard(runtime_now());
                }
                match next {
                    Poll::Ready(Some(Ok(message))) => this.echo(&message),
                    Poll::Ready(Some(Err(reason))) => this.close(reason),
                    Poll::Ready(None) => this.closing = true,
                    Poll::Pending => match ready!(this.driver.poll(cx)) {
                        Some(Ok(bytes)) => return Poll::Ready(Some(bytes)),
                        Some(Err(error)) => tracing::warn!(%error, "an echo WebSocket cannot read from the store"),
                        None => {
                            this.awaited = this.messages.take().map(Closing::new);
                            this.closing = true;
                        }
                    },
                }
            }
        }
    }
}

impl Echo {
    fn piece(&mut self) -> Option<Bytes> {
        let piece = self.out.split_to(self.out.len().min(PIECE_BYTES));
        if self.out.is_empty() {
            // The frame's memory is one allocation, freed as a whole.
            self.out = BytesMut::new();
            let _less_is_never_refused = self.budget.set(0);
        }
        (!piece.is_empty()).then(|| piece.freeze())
    }

    fn echo(&mut self, message: &Message) {
        let frame = match message {
            Message::Text(text) => text_frame(text.as_bytes()),
            Message::Binary(bytes) => binary_frame(bytes),
            Message::Ping(payload) => pong_frame(payload),
            Message::Pong => return,
            Message::Close(code) => {
                self.close(echoed(*code));
                self.awaited = None;
                return;
            }
        };
        match self.budget.set(frame.len()) {
            Ok(()) => self.out = BytesMut::from(Bytes::from(frame)),
            Err(_) => self.close(CloseReason::NO_ROOM),
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.out.extend_from_slice(&close_frame(reason.code, reason.text));
        self.awaited = self.messages.take().map(Closing::new);
        self.closing = true;
    }
}
