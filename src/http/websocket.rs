//! `GET /v1/ws` and `GET /v1/echo`.
//!
//! A socket is one body that reads and writes: actix-ws makes the handshake and decodes the frames, but its session
//! (a task a connection, a channel, an encoding a subscriber) is not used; what is sent is framed by the delivery, and
//! the few frames besides go out between its writes. So a socket costs no task and no queue of its own.

mod guard;
mod messages;

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Instant;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::{FromRequest as _, HttpResponse};
use actix_ws::{AggregatedMessage, AggregatedMessageStream};
use bytes::{Bytes, BytesMut};
use futures_core::Stream as _;
use futures_util::FutureExt as _;
use futures_util::future::LocalBoxFuture;
use futures_util::stream::FuturesOrdered;
use serde_json::Value;

use super::access::check_may_come;
use super::driver::Driver;
use super::error::ApiError;
use super::subscribe::{open, params, stream_of};
use super::{Answer, Call};
use crate::limits::Counted;
use crate::store::StoreError;
use crate::transport::Transport;
use crate::wire::{Control, Framing, close_frame, pong_frame, text_frame};
use guard::{Incoming, Refusal};
use messages::{Context as Conversation, Pending};

/// The subprotocol, where the client offers it.
const SUBPROTOCOL: &str = "switchback.v1";

/// Publishes of one socket that may be under way; past it nothing more is read from it.
const PENDING_MAX: usize = 32;

/// Bytes that may wait to be written besides the delivery's; past it nothing more is read.
const REPLIES_MAX_BYTES: usize = 64 << 10;

/// `/v1/ws`.
pub(super) async fn subscribe(mut call: Call) -> Answer {
    call.source().check()?;
    let params = params(&call)?;
    let handshake = shake_hands(&mut call, call_limit)?;
    let (driver, rights) =
        open(&call, Transport::Ws, &params, Framing::WebSocket, stream_of(&call, None, true)).await?;
    let client = driver.registration.as_ref().map(|registration| registration.connection.client);
    let who = call.who_as(&rights);
    let conversation = Conversation {
        hub: call.state.hub.clone(),
        options: call.state.options.clone(),
        rights,
        client: client.unwrap_or_default(),
        binary_topic: params.publish,
        limits: call.limits().clone(),
        who,
        too_fast: Cell::new(0),
    };
    let Handshake { response, messages, incoming } = handshake;
    Ok(response.map_body(|_, keep| {
        BoxBody::new(Socket {
            driver,
            conversation,
            incoming,
            messages: Some(messages),
            pending: FuturesOrdered::new(),
            held: None,
            out: BytesMut::new(),
            end: End::Open,
            _keep: keep,
        })
    }))
}

fn call_limit(call: &Call) -> usize {
    call.options().ws_bytes_max
}

fn echo_limit(call: &Call) -> usize {
    call.options().echo_bytes_max
}

/// `/v1/echo`: every message comes back as it was, so that a client, or an engineer, sees what lies between.
pub(super) async fn echo(mut call: Call) -> Answer {
    call.source().check()?;
    let rights = call.rights().await?;
    check_may_come(&rights)?;
    let who = call.who_as(&rights);
    call.limits().connect(&who)?;
    let held = call.limits().hold(&who)?;
    let Handshake { response, messages, incoming } = shake_hands(&mut call, echo_limit)?;
    Ok(response.map_body(|_, keep| BoxBody::new(Echo { messages: Some(messages), incoming, _held: held, _keep: keep })))
}

struct Handshake {
    response: HttpResponse,
    messages: AggregatedMessageStream,
    incoming: Incoming,
}

/// Upgrades, or says why not (RFC 6455 §4.2). The body that actix-ws made is kept: its end would end the messages.
fn shake_hands(call: &mut Call, limit: fn(&Call) -> usize) -> Result<Handshake, ApiError> {
    let bytes_max = limit(call);
    let (mut payload, incoming) = guard::guarded(call.payload.take(), bytes_max, call.arriving());
    let refused = |error: actix_web::Error| ApiError::bad("upgrade_required", format!("this is a WebSocket: {error}"));
    let payload = actix_web::web::Payload::from_request(&call.request, &mut payload).into_inner().map_err(refused)?;
    let upgraded = actix_ws::handle_with_protocols(&call.request, payload, &[SUBPROTOCOL]);
    let (response, session, messages) = upgraded.map_err(refused)?;
    // Nothing is sent through it.
    drop(session);
    let messages = messages.max_frame_size(bytes_max).aggregate_continuations().max_continuation_size(bytes_max);
    Ok(Handshake { response, messages, incoming })
}

/// How far a socket is from its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Open,
    /// What waits is written, then it is over.
    Closing,
}

/// One subscriber's socket.
struct Socket {
    driver: Driver,
    conversation: Conversation,
    incoming: Incoming,
    /// `None` once the peer has sent its last.
    messages: Option<AggregatedMessageStream>,
    pending: FuturesOrdered<Pending>,
    /// A message that waits for a word of the store, and keeps those after it waiting.
    held: Option<(String, LocalBoxFuture<'static, Result<(), StoreError>>)>,
    /// Replies and control frames that wait to be written.
    out: BytesMut,
    end: End,
    _keep: BoxBody,
}

impl MessageBody for Socket {
    type Error = actix_web::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        loop {
            this.take_in(cx);
            if this.incoming.heard() {
                this.driver.delivery.heard(Instant::now());
            }
            if !this.out.is_empty() {
                return Poll::Ready(Some(Ok(std::mem::take(&mut this.out).freeze())));
            }
            if this.end == End::Closing {
                return Poll::Ready(None);
            }
            match std::task::ready!(this.driver.poll(cx)) {
                Some(Ok(bytes)) => return Poll::Ready(Some(Ok(bytes))),
                Some(Err(error)) => tracing::warn!(%error, "a socket cannot read the store"),
                None => this.end = End::Closing,
            }
        }
    }
}

impl Socket {
    /// Reads what the peer says and finishes what it asked for, as far as there is room for the answers.
    fn take_in(&mut self, cx: &mut Context<'_>) {
        loop {
            while let Poll::Ready(Some(reply)) = Pin::new(&mut self.pending).poll_next(cx) {
                self.reply(reply);
            }
            if let Some((_, asked)) = &mut self.held {
                let Poll::Ready(answer) = asked.poll_unpin(cx) else { return };
                self.resume(answer);
            }
            let room = self.pending.len() < PENDING_MAX && self.out.len() < REPLIES_MAX_BYTES;
            let Some(messages) = self.messages.as_mut().filter(|_| room && self.end == End::Open) else { return };
            match Pin::new(messages).poll_next(cx) {
                Poll::Ready(Some(Ok(message))) => self.message(message),
                Poll::Ready(Some(Err(error))) => {
                    let refusal = self.incoming.refusal(&error);
                    self.close(refusal);
                }
                Poll::Ready(None) => {
                    self.messages = None;
                    self.end = End::Closing;
                }
                Poll::Pending => return,
            }
        }
    }

    /// Goes on with the message that was held.
    fn resume(&mut self, answer: Result<(), StoreError>) {
        let Some((text, _)) = self.held.take() else { return };
        match answer {
            Ok(()) => {
                let outcome = self.conversation.text(&text, &mut self.driver, true);
                self.take(outcome, &text);
            }
            Err(error) => self.reply(Some(Conversation::unanswered(&text, error))),
        }
    }

    fn message(&mut self, message: AggregatedMessage) {
        let outcome = match message {
            AggregatedMessage::Text(text) => {
                let outcome = self.conversation.text(&text, &mut self.driver, false);
                return self.take(outcome, &text);
            }
            AggregatedMessage::Binary(bytes) => self.conversation.binary(&bytes, &self.driver),
            AggregatedMessage::Ping(payload) => return self.out.extend_from_slice(&pong_frame(&payload)),
            AggregatedMessage::Pong(_) => return,
            AggregatedMessage::Close(reason) => return self.close(Refusal::echoing(reason)),
        };
        self.take(outcome, "");
    }

    fn take(&mut self, outcome: messages::Outcome, text: &str) {
        match outcome {
            messages::Outcome::Reply(reply) => self.reply(reply),
            messages::Outcome::Close(refusal) => self.close(refusal),
            messages::Outcome::Pending(pending) => self.pending.push_back(pending),
            messages::Outcome::Ask(asked) => self.held = Some((text.to_owned(), asked)),
        }
    }

    fn reply(&mut self, reply: Option<Value>) {
        if let Some(data) = reply {
            Framing::WebSocket.control(&Control::Reply(data), None, &mut self.out);
        }
    }

    fn close(&mut self, refusal: Refusal) {
        self.out.extend_from_slice(&close_frame(refusal.code, refusal.reason));
        self.messages = None;
        self.end = End::Closing;
    }
}

/// One echoing socket.
struct Echo {
    messages: Option<AggregatedMessageStream>,
    incoming: Incoming,
    _held: Counted,
    _keep: BoxBody,
}

impl MessageBody for Echo {
    type Error = actix_web::Error;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        loop {
            let Some(messages) = &mut this.messages else { return Poll::Ready(None) };
            let frame = match std::task::ready!(Pin::new(messages).poll_next(cx)) {
                Some(Ok(AggregatedMessage::Text(text))) => text_frame(text.as_bytes()),
                Some(Ok(AggregatedMessage::Binary(bytes))) => crate::wire::binary_frame(&bytes),
                Some(Ok(AggregatedMessage::Ping(payload))) => pong_frame(&payload),
                Some(Ok(AggregatedMessage::Pong(_))) => continue,
                Some(Ok(AggregatedMessage::Close(reason))) => {
                    this.messages = None;
                    let echo = Refusal::echoing(reason);
                    close_frame(echo.code, echo.reason)
                }
                Some(Err(error)) => {
                    this.messages = None;
                    let refusal = this.incoming.refusal(&error);
                    close_frame(refusal.code, refusal.reason)
                }
                None => return Poll::Ready(None),
            };
            return Poll::Ready(Some(Ok(frame.into())));
        }
    }
}
