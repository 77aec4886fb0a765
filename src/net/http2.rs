//! HTTP/2 (RFC 9113), straight from `h2` to requests.
//!
//! actix's own implementation accepts any number of streams, does not notice a reset until the stream's next bytes, and waits for
//! ever for a stream whose peer takes nothing: each of these would exceed what a connection may cost. So the frames are `h2`'s,
//! as in actix, but the driver is here: one task per stream, ended by its response, by a reset, or by a stall.

mod convert;
mod upload;

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, ready};
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::Method;
use http::header::HOST;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{sleep_until, timeout};

use super::accept::Accepted;
use super::access_log::AccessLog;
use super::backlog::{MinReadRate, ReadRate};
use super::head_error::HeadError;
use super::http1::Stopping;
use super::in_flight::InFlight;
use super::payer::Payer;
use super::peer::{Peer, Proxies};
use super::request::{Request, RequestBody};
use super::response::{Response, ResponseBody};
use super::service::Service;
use crate::limits::{Limits, RateKey};
use convert::{request_head, response_head};
use upload::Upload;

/// Bytes of one stream that are queued for the socket.
const SEND_BUFFER_BYTES: usize = 32 << 10;

/// Bytes that one stream may send at a time, so that others get their turn.
const CHUNK_BYTES: usize = 16 << 10;

/// The flow-control window of a request's body, and of all bodies of a connection.
const WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// Streams that a client has reset and that are not yet forgotten; and those that it reset before they were accepted. Past either
/// number the connection is closed: this is the rapid reset of CVE-2023-44487.
const RESETS_MAX: usize = 20;

/// Bytes that are reserved for a response before its request is executed: enough for every response that is not a batch or a
/// file, so that no executed request goes unanswered for want of memory.
const ANSWER_BYTES: usize = 4 << 10;

/// The cost of a stream whose response is sent and whose body still arrives: its state here and in `h2`.
const READ_OUT_BYTES: usize = 2 << 10;

/// How many times the limit of a head `h2` decodes. It answers longer heads itself, with a bare 431; one between the two limits is
/// refused as over HTTP/1, with the error object. (It also counts 32 bytes more a field than the limit does, RFC 9113 §6.5.2.)
const HEAD_LIMITS: u32 = 2;

/// The cost of a stored header field besides its bytes.
const FIELD_COST_BYTES: usize = 16;

/// The limits of an HTTP/2 connection.
#[derive(Clone, Debug)]
pub(crate) struct Http2Options {
    pub(crate) streams_max: u32,
    pub(crate) header_bytes_max: u32,
    pub(crate) header_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) stall_timeout: Duration,
    /// As in [`super::accept::AcceptOptions`], for each stream.
    pub(crate) min_read_rate: MinReadRate,
    /// The limits to which stored heads and queued responses are charged.
    pub(crate) limits: Arc<Limits>,
    pub(crate) proxies: Proxies,
}

/// State shared by the HTTP/2 connections of one worker.
pub(crate) struct Http2<S> {
    service: Rc<S>,
    log: Option<Rc<AccessLog>>,
    stopping: Stopping,
    options: Http2Options,
}

impl<S: Service + 'static> Http2<S> {
    pub(crate) fn new(service: Rc<S>, log: Option<Rc<AccessLog>>, stopping: Stopping, options: Http2Options) -> Self {
        Self { service, log, stopping, options }
    }

    /// Serves a connection until it ends.
    pub(crate) async fn serve(self: &Rc<Self>, accepted: Box<Accepted>) {
        let (wire, peer, _held) = accepted.into_http2();
        serve(self, wire, peer).await;
    }
}

async fn serve<S: Service + 'static>(http2: &Rc<Http2<S>>, io: impl AsyncRead + AsyncWrite + Unpin, peer: Peer) {
    let options = &http2.options;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(options.streams_max)
        .max_header_list_size(HEAD_LIMITS * options.header_bytes_max)
        .initial_window_size(WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buffer_size(SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(RESETS_MAX)
        .max_pending_accept_reset_streams(RESETS_MAX);
    let Ok(Ok(mut connection)) = timeout(options.header_timeout, builder.handshake(io)).await else { return };
    let streams = Rc::new(Streams::default());
    let mut stopping = http2.stopping.clone();
    let mut ending = peer.refused.is_some();
    let mut ended = false;
    loop {
        if ending && !ended {
            ended = true;
            // Requests in flight are finished; no new ones are accepted.
            connection.graceful_shutdown();
        }
        tokio::select! {
            accepted = connection.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let one = streams.one();
                    let http2 = http2.clone();
                    tokio::task::spawn_local(async move {
                        answer(&http2, request, respond, peer).await;
                        drop(one);
                    });
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, "an HTTP/2 connection ended with an error");
                    return;
                }
                None => return,
            },
            () = &mut stopping, if !ending => ending = true,
            () = streams.quiet_for(options.keep_alive), if !ending => ending = true,
            // After GOAWAY, and without requests in flight, the peer has only a short time to close.
            () = streams.quiet_for(options.header_timeout), if ended => return,
        }
    }
}

/// The streams of a connection that are in flight.
#[derive(Default)]
struct Streams {
    count: Cell<usize>,
    changed: Notify,
}

struct One(Rc<Streams>);

impl Streams {
    fn one(self: &Rc<Self>) -> One {
        self.count.set(self.count.get() + 1);
        self.changed.notify_waiters();
        One(self.clone())
    }

    /// Waits until there was no stream for so long.
    async fn quiet_for(&self, time: Duration) {
        loop {
            let changed = self.changed.notified();
            if self.count.get() > 0 {
                changed.await;
            } else if timeout(time, changed).await.is_err() {
                return;
            }
        }
    }
}

impl Drop for One {
    fn drop(&mut self) {
        self.0.count.set(self.0.count.get() - 1);
        self.0.changed.notify_waiters();
    }
}

/// From a request to the end of its response.
async fn answer<S: Service>(
    http2: &Http2<S>,
    request: http::Request<RecvStream>,
    respond: SendResponse<Bytes>,
    peer: Peer,
) {
    let is_head = request.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let mut head = Box::new(request_head(&parts));
    drop(parts);
    let has_host = head.headers().get(&HOST).is_some();
    let options = &http2.options;
    let key = RateKey::at(options.proxies.caller(&peer, head.headers()).address);
    let payer = Payer::new(&options.limits, key);
    let head_bytes = head.bytes() + head.fields().count() * FIELD_COST_BYTES;
    let mut peer = peer;
    let mut has_room = true;
    if let Err(error) = payer.hold_head(head_bytes).and_then(|()| payer.hold_unsent(ANSWER_BYTES)) {
        // The handler refuses the request, in the right format.
        peer.refused = Some(error);
        has_room = false;
        head.drop_fields();
    }
    let in_flight = InFlight::begin(http2.log.as_deref().map(|log| (log, &*head)), &peer, None);
    let upload = Upload::new(body);
    // No handler reads the body of another method.
    let is_read = *head.method() == Method::POST;
    let body = if upload.has_ended() || !is_read {
        RequestBody::Full(Bytes::new())
    } else {
        RequestBody::Stream(Box::pin(upload.clone()))
    };
    let answering = if has_host {
        http2.service.call(Request { head, body, peer, sink: None, hold: None, payer: Some(payer.clone()) })
    } else {
        // RFC 9113 §8.3.1. Without a name the checks of names would say nothing.
        ready(HeadError::Host.response()).boxed_local()
    };
    let responding = respond_with(answering, respond, is_head, options, &payer, in_flight);
    if is_read {
        // A stream that has no room is reset instead.
        if responding.await && has_room {
            upload.read_out().await;
        }
    } else if has_room && !upload.has_ended() {
        // While the response lasts, too: unread, the body would stay in memory as far as the window allows.
        tokio::join!(responding, upload.read_out());
    } else {
        responding.await;
    }
}

/// Responds, once the service has answered; returns whether all of the response was sent.
async fn respond_with(
    mut answering: LocalBoxFuture<'static, Response>,
    mut respond: SendResponse<Bytes>,
    is_head: bool,
    options: &Http2Options,
    payer: &Payer,
    mut in_flight: InFlight,
) -> bool {
    let answered = poll_fn(|cx| match respond.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => answering.as_mut().poll(cx).map(Some),
    });
    // A held request whose client has gone ends here, and releases everything that it held.
    let Some(response) = answered.await else { return false };
    drop(answering);
    payer.release_head();
    in_flight.answered(response.status.as_u16(), None);
    // A whole body waits as it is; of a stream, at most one part is queued.
    let waiting = match &response.body {
        ResponseBody::Full(body) => body.len(),
        body => body.length().unwrap_or(0).min(SEND_BUFFER_BYTES),
    };
    let waiting = waiting.max(ANSWER_BYTES);
    if payer.hold_unsent(waiting).is_err() {
        respond.send_reset(Reason::ENHANCE_YOUR_CALM);
        return false;
    }
    let is_sent = send(response, respond, is_head, options, payer, &mut in_flight).await;
    // Until the stream is over; less is never refused.
    let _ = payer.hold_unsent(READ_OUT_BYTES);
    is_sent
}

/// Sends a response; returns whether all of it was sent.
async fn send(
    response: Response,
    mut respond: SendResponse<Bytes>,
    is_head: bool,
    options: &Http2Options,
    payer: &Payer,
    in_flight: &mut InFlight,
) -> bool {
    let head = response_head(&response);
    let mut body = response.body;
    let length = body.length();
    let empty = is_head || length == Some(0);
    let Ok(mut stream) = respond.send_response(head, empty) else { return false };
    if empty {
        return true;
    }
    let mut rate = ReadRate::new(options.min_read_rate);
    let mut sent_bytes = 0;
    // The end needs no room in the window: a client may give none for a body that it knows to be complete.
    while length.is_none_or(|length| sent_bytes < length) {
        // A part is made when there is room for some of it. One byte of the window is reserved, not more, since the streams of a
        // connection share one.
        if room(&mut stream, 1, options, &mut rate).await.is_none() {
            return false;
        }
        let next = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => body.poll_part(cx).map(Some),
        });
        match next.await {
            Some(Some(part)) => {
                if let Err(error) = payer.hold_unsent(part.len().max(ANSWER_BYTES)) {
                    payer.note_cut(&error);
                    stream.send_reset(Reason::ENHANCE_YOUR_CALM);
                    return false;
                }
                in_flight.sent(part.len());
                sent_bytes += part.len();
                if !write(&mut stream, part, options, &mut rate).await {
                    return false;
                }
            }
            // The body ended early.
            Some(None) if length.is_some() => {
                stream.send_reset(Reason::INTERNAL_ERROR);
                return false;
            }
            Some(None) => break,
            None => return false,
        }
    }
    // The stream may be gone already; then nothing is left to end.
    stream.send_data(Bytes::new(), true).is_ok()
}

/// Writes as the other side takes it; returns whether there is more to do.
async fn write(stream: &mut SendStream<Bytes>, mut bytes: Bytes, options: &Http2Options, rate: &mut ReadRate) -> bool {
    while !bytes.is_empty() {
        let Some(room) = room(stream, bytes.len().min(CHUNK_BYTES), options, rate).await else { return false };
        if stream.send_data(bytes.split_to(room.min(bytes.len())), false).is_err() {
            return false;
        }
        rate.took(Instant::now(), room);
    }
    true
}

/// Waits for room in the flow-control windows, up to so many bytes; `None` where the stream has ended. A stream whose peer takes
/// nothing, or too little, for too long is reset, and no other: the rest of its connection may be well.
async fn room(
    stream: &mut SendStream<Bytes>,
    bytes: usize,
    options: &Http2Options,
    rate: &mut ReadRate,
) -> Option<usize> {
    stream.reserve_capacity(bytes);
    let stalled_at = Instant::now() + options.stall_timeout;
    loop {
        let room = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            // Capacity assigned earlier is not announced again.
            Poll::Pending if stream.capacity() > 0 => Poll::Ready(Some(stream.capacity())),
            Poll::Pending => stream.poll_capacity(cx).map(|room| room?.ok()),
        });
        let now = Instant::now();
        let Ok(slow_at) = rate.blocked(now) else { break };
        let room = tokio::select! {
            biased;
            room = room => room,
            () = sleep_until(stalled_at.min(slow_at).into()) => {
                if Instant::now() >= stalled_at {
                    break;
                }
                continue;
            }
        };
        rate.took(Instant::now(), 0);
        return room;
    }
    stream.send_reset(Reason::CANCEL);
    None
}
