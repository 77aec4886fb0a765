//! HTTP/2 (RFC 9113) in front of the routes.
//!
//! actix has its own, which takes any number of streams, does not see that one was reset until its next bytes, and waits
//! for ever for one that takes nothing: each would cost what a connection may not. So the frames are `h2`'s, as there,
//! but what drives them is here: a task a stream, ended by its answer, by a reset, or by a stall.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_core::Stream;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::header::{CONTENT_LENGTH, COOKIE, DATE, HOST, HeaderValue};
use http::{Method, StatusCode, Version};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use super::accept::Accepted;
use super::access_log::AccessLog;
use super::http1::Stopping;
use super::in_flight::InFlight;
use super::peer::Peer;
use super::request::{Request, RequestBody, RequestHead};
use super::response::{Response, ResponseBody};
use super::service::Service;

/// Bytes of one stream that wait to be written to the socket.
const SEND_BUFFER_BYTES: usize = 32 << 10;

/// Bytes that are given to one stream at a time, so that others get their turn.
const CHUNK_BYTES: usize = 16 << 10;

/// Bytes of one request's body, and of all of a connection, that may be under way.
const WINDOW_BYTES: u32 = 64 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 256 << 10;

/// Streams that a client has reset and that are not yet forgotten; and those that it reset before they were looked at. Past
/// either the connection is closed: it is the rapid reset of CVE-2023-44487.
const RESETS_MAX: usize = 20;

/// What an HTTP/2 connection may do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Http2Options {
    pub(crate) streams_max: u32,
    pub(crate) header_bytes_max: u32,
    pub(crate) header_timeout: Duration,
    pub(crate) keep_alive: Duration,
    pub(crate) stall_timeout: Duration,
}

/// What the HTTP/2 connections of one worker share.
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
    pub(crate) async fn serve(self: &Rc<Self>, accepted: Accepted) {
        let (wire, peer, _held) = accepted.into_http2();
        serve(self, wire, peer).await;
    }
}

async fn serve<S: Service + 'static>(http2: &Rc<Http2<S>>, io: impl AsyncRead + AsyncWrite + Unpin, peer: Peer) {
    let options = http2.options;
    let mut builder = h2::server::Builder::new();
    builder
        .max_concurrent_streams(options.streams_max)
        .max_header_list_size(options.header_bytes_max)
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
            // What has begun goes on; nothing else begins.
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
                    tracing::debug!(%error, "an HTTP/2 connection ends");
                    return;
                }
                None => return,
            },
            () = &mut stopping, if !ending => ending = true,
            () = streams.quiet_for(options.keep_alive), if !ending => ending = true,
            // Asked to go, and with nothing left to wait for, it is not waited for long.
            () = streams.quiet_for(options.header_timeout), if ended => return,
        }
    }
}

/// The streams of a connection that are under way.
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

    /// Until there was none for so long.
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

/// From a request to the end of its answer.
async fn answer<S: Service>(
    http2: &Http2<S>,
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    peer: Peer,
) {
    let is_head = request.method() == Method::HEAD;
    let (parts, body) = request.into_parts();
    let head = Box::new(request_head(&parts));
    drop(parts);
    let mut in_flight = InFlight::begin(http2.log.as_deref().map(|log| (log, &*head)), &peer, None);
    let body =
        if body.is_end_stream() { RequestBody::Full(Bytes::new()) } else { RequestBody::Stream(Box::pin(Body(body))) };
    let mut answering = http2.service.call(Request { head, body, peer, sink: None });
    let answered = poll_fn(|cx| match respond.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => answering.as_mut().poll(cx).map(Some),
    });
    // A held request whose client is gone ends here, and everything that it held with it.
    let Some(response) = answered.await else { return };
    drop(answering);
    in_flight.answered(response.status.as_u16(), None);
    send(response, respond, is_head, http2.options.stall_timeout, in_flight).await;
}

async fn send(
    response: Response,
    mut respond: SendResponse<Bytes>,
    is_head: bool,
    stall_timeout: Duration,
    mut in_flight: InFlight,
) {
    let head = response_head(&response);
    let mut body = response.body;
    let empty = is_head
        || matches!(body, ResponseBody::Empty)
        || matches!(&body, ResponseBody::Full(bytes) if bytes.is_empty());
    let Ok(mut stream) = respond.send_response(head, empty) else { return };
    if empty {
        return;
    }
    loop {
        let next = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => body.poll_part(cx).map(Some),
        });
        match next.await {
            Some(Some(part)) => {
                in_flight.sent(part.len());
                if !write(&mut stream, part, stall_timeout).await {
                    return;
                }
            }
            Some(None) => {
                // Gone already, perhaps; then nothing is left to end.
                let _ = stream.send_data(Bytes::new(), true);
                return;
            }
            None => return,
        }
    }
}

/// Writes as the other side takes it; says whether there is more to do. What takes nothing for too long is reset, the
/// stream alone: the others of its connection may be well.
async fn write(stream: &mut SendStream<Bytes>, mut bytes: Bytes, stall_timeout: Duration) -> bool {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len().min(CHUNK_BYTES));
        let room = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => stream.poll_capacity(cx),
        });
        let room = tokio::select! {
            room = room => room,
            () = sleep(stall_timeout) => {
                stream.send_reset(Reason::CANCEL);
                return false;
            }
        };
        let Some(Ok(room)) = room else { return false };
        if stream.send_data(bytes.split_to(room.min(bytes.len())), false).is_err() {
            return false;
        }
    }
    true
}

/// A head, as HTTP/1 would have it: the authority is `Host` (RFC 9113 §8.3.1), and there is one `Cookie` (§8.2.3).
fn request_head(parts: &http::request::Parts) -> RequestHead {
    let uri = &parts.uri;
    let mut head = RequestHead::builder(parts.method.clone(), Version::HTTP_2, uri.path(), uri.query());
    if let Some(authority) = uri.authority() {
        head.field(HOST.as_str().as_bytes(), authority.as_str().as_bytes());
    }
    for (name, value) in &parts.headers {
        let replaced = name == COOKIE || name == HOST && uri.authority().is_some();
        if !replaced {
            head.field(name.as_str().as_bytes(), value.as_bytes());
        }
    }
    let cookies: Vec<&[u8]> = parts.headers.get_all(COOKIE).iter().map(|value| value.as_bytes()).collect();
    if !cookies.is_empty() {
        head.field(COOKIE.as_str().as_bytes(), &cookies.join(&b"; "[..]));
    }
    head.finish()
}

/// What is about one HTTP/1 connection, and has no place here (RFC 9113 §8.2.2).
const CONNECTION_HEADERS: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

fn response_head(response: &Response) -> http::Response<()> {
    let mut head = http::Response::new(());
    *head.status_mut() = response.status;
    let fields = head.headers_mut();
    for (name, value) in response.fields.iter().filter(|(name, _)| !CONNECTION_HEADERS.contains(&name.as_str())) {
        fields.append(name, value.clone());
    }
    for (name, value) in response.missing_defaults() {
        fields.insert(name, HeaderValue::from_static(value));
    }
    let length = match &response.body {
        ResponseBody::Empty => Some(0),
        ResponseBody::Full(bytes) => Some(bytes.len()),
        ResponseBody::Stream(_) => None,
    };
    let bodiless = matches!(response.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED);
    if let Some(length) = length.filter(|_| !bodiless) {
        fields.insert(CONTENT_LENGTH, length.into());
    }
    if let Ok(date) = HeaderValue::try_from(httpdate::fmt_http_date(SystemTime::now())) {
        fields.insert(DATE, date);
    }
    head
}

/// A request's body; its window opens as it is read.
struct Body(RecvStream);

impl Stream for Body {
    type Item = io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match std::task::ready!(self.0.poll_data(cx)) {
            Some(Ok(bytes)) => {
                let released = self.0.flow_control().release_capacity(bytes.len());
                Poll::Ready(Some(released.map(|()| bytes).map_err(io::Error::other)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(io::Error::other(error)))),
            None => Poll::Ready(None),
        }
    }
}
