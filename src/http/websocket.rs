//! `GET /v1/ws`, and the code that it shares with `GET /v1/echo`.
//!
//! A WebSocket is one body that reads and writes: the delivery frames what is sent, and the few other frames are sent
//! between its writes. So a WebSocket costs no task and no queue of its own. That is why actix-ws reads the messages of a
//! WebSocket of an `App` (`http::embed`), but does not write to it: its session is a channel, and encodes once a
//! subscriber.

mod closing;
mod echo;
mod handshake;
mod incoming;
mod messages;

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_core::Stream;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesOrdered;
use http::header::{HeaderValue, SEC_WEBSOCKET_PROTOCOL};

use super::driver::StreamDriver;
use super::error::ApiError;
use super::subscribe::{open, params, stream_of};
use super::{Answer, Call};
use crate::auth::Rights;
use crate::clock::runtime_now;
use crate::limits::InboundBudget;
use crate::net::websocket::{CloseReason, Message};
use crate::net::{Headers, RequestBody, Response};
use crate::store::StoreError;
use crate::transport::Transport;
use crate::wire::{Control, Framing, close_frame, pong_frame};
use closing::Closing;
use handshake::HandshakeError;
use incoming::{Messages, echoed};
use messages::{Context as Conversation, Pending};

pub(super) use echo::echo;

/// The subprotocol, where the client offers it.
const SUBPROTOCOL: &str = "switchback.v1";

/// Publishes of one WebSocket in flight; at this limit no more messages are read (backpressure).
const PENDING_MAX: usize = 32;

/// Bytes of queued replies and control frames; at this limit no more messages are read.
const REPLIES_MAX_BYTES: usize = 64 << 10;

/// `/v1/ws`.
pub(super) async fn subscribe(mut call: Call) -> Answer {
    let params = params(&call)?;
    // The handshake is checked before anything is looked up.
    handshake::check(&call.request).map_err(no_handshake)?;
    let (driver, rights) =
        open(&call, Transport::Ws, &params, Framing::WebSocket, stream_of(&call, None, true)).await?;
    let client = driver.registration.as_ref().map(|registration| registration.connection.client);
    let bytes_max = call.options().ws_bytes_max;
    let (response, messages) = shake_hands(&mut call, bytes_max, &rights)?;
    let key = call.rate_key_of(&rights);
    let conversation = Conversation {
        hub: call.state.hub.clone(),
        options: call.state.options.clone(),
        rights,
        client: client.unwrap_or_default(),
        binary_topic: params.publish,
        limits: call.limits().clone(),
        key,
        refusals: call.refusals(),
        too_fast: Cell::new(0),
    };
    Ok(response.with_stream(Socket {
        live: StreamDriver::new(driver, call.sink()),
        conversation,
        messages: Some(messages),
        pending: FuturesOrdered::new(),
        held: None,
        out: BytesMut::new(),
        end: End::Open,
        closing: None,
    }))
}

/// Upgrades the connection, or refuses with the reason (RFC 6455 §4.2).
fn shake_hands(call: &mut Call, bytes_max: usize, rights: &Rights) -> Result<(Response, Messages), ApiError> {
    let mut response = handshake::accept(&call.request).map_err(no_handshake)?;
    let RequestBody::WebSocket(open) = call.take_body() else {
        return Err(ApiError::bad("upgrade_required", "this is a WebSocket: the connection cannot be upgraded"));
    };
    if offers_subprotocol(call.request.headers()) {
        response.fields.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(SUBPROTOCOL));
    }
    let (time_max, budget) = (call.options().body_timeout, call.inbound(rights));
    Ok((response, Messages::new(open(bytes_max), time_max, budget)))
}

fn no_handshake(error: HandshakeError) -> ApiError {
    ApiError::bad("upgrade_required", format!("this is a WebSocket: {error}"))
}

fn offers_subprotocol(headers: Headers<'_>) -> bool {
    headers.texts(&SEC_WEBSOCKET_PROTOCOL).flat_map(|offers| offers.split(',')).any(|offer| offer.trim() == SUBPROTOCOL)
}

/// The state of a WebSocket's end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// The queued bytes are written, then the stream ends.
    Closing,
}

/// One subscriber's WebSocket.
struct Socket {
    live: Rc<StreamDriver>,
    conversation: Conversation,
    /// `None` after the peer's last message.
    messages: Option<Messages>,
    pending: FuturesOrdered<Pending>,
    /// A message that waits for the store, and delays those after it.
    held: Option<HeldMessage>,
    /// Queued replies and control frames.
    out: BytesMut,
    end: End,
    /// Waits for the peer's close frame, where the server sent its own first.
    closing: Option<Closing>,
}

/// A message to be processed again.
struct HeldMessage {
    text: String,
    /// The memory of the text.
    _budget: InboundBudget,
    refresh: LocalBoxFuture<'static, Result<(), StoreError>>,
}

impl Stream for Socket {
    type Item = Bytes;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let this = self.get_mut();
        loop {
            // Also while the peer does not take what it is sent: its message may be a close frame.
            this.take_in(cx);
            // While the peer's own messages wait for the store, no more are read: then the peer does not count as silent.
            let unread = this.held.is_some() || this.pending.len() >= PENDING_MAX;
            if this.messages.as_mut().is_some_and(Messages::heard) || unread {
                this.live.driver().delivery.heard(runtime_now());
            }
            if !this.out.is_empty() {
                this.live.block();
                return Poll::Ready(Some(std::mem::take(&mut this.out).freeze()));
            }
            if this.end == End::Closing {
                if let Some(closing) = &mut this.closing {
                    ready!(closing.poll(cx));
                }
                return Poll::Ready(None);
            }
            match ready!(this.live.poll(cx)) {
                Some(Ok(bytes)) => return Poll::Ready(Some(bytes)),
                Some(Err(error)) => tracing::warn!(%error, "a WebSocket cannot read from the store"),
                None => {
                    this.closing = this.messages.take().map(Closing::new);
                    this.end = End::Closing;
                }
            }
        }
    }
}

impl Socket {
    /// Reads the peer's messages and collects finished replies, as long as there is room for replies.
    fn take_in(&mut self, cx: &mut Context<'_>) {
        loop {
            while !self.pending.is_empty()
                && let Poll::Ready(Some(reply)) = Pin::new(&mut self.pending).poll_next(cx)
            {
                self.reply(reply);
            }
            if let Some(held) = &mut self.held {
                let Poll::Ready(answer) = held.refresh.poll_unpin(cx) else { return };
                self.resume(answer);
            }
            let room = self.pending.len() < PENDING_MAX && self.out.len() < REPLIES_MAX_BYTES;
            let Some(messages) = self.messages.as_mut().filter(|_| room && self.end == End::Open) else { return };
            match messages.poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => self.message(message),
                Poll::Ready(Some(Err(reason))) => self.close(reason),
                Poll::Ready(None) => {
                    self.messages = None;
                    self.end();
                }
                Poll::Pending => return,
            }
        }
    }

    /// Processes the held message again.
    fn resume(&mut self, answer: Result<(), StoreError>) {
        let Some(HeldMessage { text, .. }) = self.held.take() else { return };
        match answer {
            Ok(()) => {
                let outcome = self.conversation.text(&text, &mut self.live.driver(), true);
                self.take(outcome, &text);
            }
            Err(error) => self.reply(Some(Conversation::unanswered(&text, error.into()))),
        }
    }

    fn message(&mut self, message: Message) {
        let outcome = match message {
            Message::Text(text) => {
                let outcome = self.conversation.text(&text, &mut self.live.driver(), false);
                return self.take(outcome, &text);
            }
            Message::Binary(bytes) => self.conversation.binary(&bytes, &self.live.driver()),
            Message::Ping(payload) => return self.out.extend_from_slice(&pong_frame(&payload)),
            Message::Pong => return,
            Message::Close(code) => {
                self.close(echoed(code));
                self.closing = None;
                return;
            }
        };
        self.take(outcome, "");
    }

    fn take(&mut self, outcome: messages::Outcome, text: &str) {
        match outcome {
            messages::Outcome::Reply(reply) => self.reply(reply),
            messages::Outcome::Close(reason) => self.close(reason),
            messages::Outcome::Pending(pending) => self.pending.push_back(pending),
            messages::Outcome::Refresh(refresh) => {
                let mut budget = self.conversation.limits.inbound(self.conversation.key.clone());
                match budget.grow(text.len()) {
                    Ok(()) => self.held = Some(HeldMessage { text: text.to_owned(), _budget: budget, refresh }),
                    Err(error) => self.reply(Some(Conversation::unanswered(text, error.into()))),
                }
            }
        }
    }

    fn reply(&mut self, reply: Option<Control>) {
        if let Some(reply) = reply {
            Framing::WebSocket.control(&reply, None, &mut self.out);
        }
    }

    fn close(&mut self, reason: CloseReason) {
        self.out.extend_from_slice(&close_frame(reason.code, reason.text));
        self.closing = self.messages.take().map(Closing::new);
        self.end();
    }

    fn end(&mut self) {
        self.end = End::Closing;
        self.live.end();
    }
}
