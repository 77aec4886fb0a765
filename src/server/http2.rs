//! HTTP/2 (RFC 9113) in front of the routes.
//!
//! actix has its own, which takes any number of streams, does not see that one was reset until its next bytes, and waits
//! for ever for one that takes nothing: each would cost what a connection may not. So the frames are `h2`'s, as there,
//! but what drives them is here: a task a stream, ended by its answer, by a reset, or by a stall.

use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use actix_http::body::{BodySize, BoxBody, MessageBody};
use actix_http::error::PayloadError;
use actix_http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_http::{HttpMessage as _, Payload, Request, Response};
use actix_server::GracefulShutdownSignal;
use actix_service::Service;
use bytes::Bytes;
use futures_core::Stream;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::Notify;
use tokio::time::{sleep, timeout};

use crate::http::Peer;

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
pub(super) struct Options {
    pub(super) streams_max: u32,
    pub(super) header_bytes_max: u32,
    pub(super) header_timeout: Duration,
    pub(super) keep_alive: Duration,
    pub(super) stall_timeout: Duration,
}

/// Serves a connection until it ends.
pub(super) async fn serve<T, S, B>(io: T, peer: Peer, service: S, options: Options, stopping: GracefulShutdownSignal)
where
    T: AsyncRead + AsyncWrite + Unpin,
    S: Service<Request> + Clone + 'static,
    S::Response: Into<Response<B>>,
    S::Error: Into<Response<BoxBody>>,
    B: MessageBody + 'static,
{
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
    let mut stopping = pin!(stopping.notified());
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
                    let answer = answer(request, respond, peer, service.clone(), options.stall_timeout);
                    tokio::task::spawn_local(async move {
                        answer.await;
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
async fn answer<S, B>(
    request: http::Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    peer: Peer,
    service: S,
    stall_timeout: Duration,
) where
    S: Service<Request>,
    S::Response: Into<Response<B>>,
    S::Error: Into<Response<BoxBody>>,
    B: MessageBody,
{
    let is_head = request.method() == http::Method::HEAD;
    let Some(request) = inward(request, peer) else {
        respond.send_reset(Reason::PROTOCOL_ERROR);
        return;
    };
    let mut answering = pin!(service.call(request));
    let answered = poll_fn(|cx| match respond.poll_reset(cx) {
        Poll::Ready(_) => Poll::Ready(None),
        Poll::Pending => answering.as_mut().poll(cx).map(Some),
    });
    // A held request whose client is gone ends here, and everything that it held with it.
    match answered.await {
        None => {}
        Some(Ok(response)) => send(response.into(), respond, is_head, stall_timeout).await,
        Some(Err(error)) => send(error.into(), respond, is_head, stall_timeout).await,
    }
}

async fn send<B: MessageBody>(
    response: Response<B>,
    mut respond: SendResponse<Bytes>,
    is_head: bool,
    stall_timeout: Duration,
) {
    let Some(head) = outward(&response) else { return };
    let body = response.into_body();
    let empty = is_head || body.size().is_eof();
    let Ok(mut stream) = respond.send_response(head, empty) else { return };
    if empty {
        return;
    }
    let mut body = pin!(body);
    loop {
        let next = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => body.as_mut().poll_next(cx).map(Some),
        });
        match next.await {
            Some(Some(Ok(bytes))) => {
                if !write(&mut stream, bytes, stall_timeout).await {
                    return;
                }
            }
            Some(Some(Err(_))) => return stream.send_reset(Reason::INTERNAL_ERROR),
            Some(None) => {
                // Gone already, perhaps; then there is nobody to tell.
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

/// A request as the routes know it; `None` where it cannot be one of theirs.
fn inward(request: http::Request<RecvStream>, peer: Peer) -> Option<Request> {
    let (parts, body) = request.into_parts();
    let body: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(Body(body));
    let mut request = Request::with_payload(Payload::Stream { payload: body });
    let head = request.head_mut();
    head.method = actix_http::Method::from_bytes(parts.method.as_str().as_bytes()).ok()?;
    head.uri = parts.uri.to_string().parse().ok()?;
    head.version = actix_http::Version::HTTP_2;
    head.headers = headers(&parts)?;
    head.peer_addr = Some((peer.address, 0).into());
    request.extensions_mut().insert(peer);
    Some(request)
}

/// The headers, as HTTP/1 would have them: the authority is `Host` (RFC 9113 §8.3.1), and there is one `Cookie` (§8.2.3).
fn headers(parts: &http::request::Parts) -> Option<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(parts.headers.len() + 1);
    for (name, value) in &parts.headers {
        if name != http::header::COOKIE {
            let value = HeaderValue::from_bytes(value.as_bytes()).ok()?;
            headers.append(HeaderName::from_bytes(name.as_str().as_bytes()).ok()?, value);
        }
    }
    let cookies: Vec<&[u8]> =
        parts.headers.get_all(http::header::COOKIE).iter().map(|value| value.as_bytes()).collect();
    if !cookies.is_empty() {
        headers.insert(actix_http::header::COOKIE, HeaderValue::from_bytes(&cookies.join(&b"; "[..])).ok()?);
    }
    if let Some(authority) = parts.uri.authority() {
        headers.insert(actix_http::header::HOST, HeaderValue::from_str(authority.as_str()).ok()?);
    }
    Some(headers)
}

/// What is about one HTTP/1 connection, and has no place here (RFC 9113 §8.2.2).
const OF_A_CONNECTION: [&str; 5] = ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"];

fn outward<B: MessageBody>(response: &Response<B>) -> Option<http::Response<()>> {
    let mut head = http::Response::new(());
    *head.status_mut() = http::StatusCode::from_u16(response.status().as_u16()).ok()?;
    for (name, value) in response.headers() {
        if OF_A_CONNECTION.contains(&name.as_str()) {
            continue;
        }
        let name = http::HeaderName::from_bytes(name.as_str().as_bytes()).ok()?;
        head.headers_mut().append(name, http::HeaderValue::from_bytes(value.as_bytes()).ok()?);
    }
    let bodiless = matches!(response.status().as_u16(), 204 | 304);
    if let BodySize::Sized(length) = response.body().size()
        && !bodiless
    {
        head.headers_mut().insert(http::header::CONTENT_LENGTH, length.into());
    }
    let date = httpdate::fmt_http_date(SystemTime::now());
    head.headers_mut().insert(http::header::DATE, date.parse().ok()?);
    Some(head)
}

/// A request's body; its window opens as it is read.
struct Body(RecvStream);

impl Stream for Body {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let broken = |error: h2::Error| PayloadError::Io(std::io::Error::other(error));
        match std::task::ready!(self.0.poll_data(cx)) {
            Some(Ok(bytes)) => {
                let released = self.0.flow_control().release_capacity(bytes.len());
                Poll::Ready(Some(released.map(|()| bytes).map_err(broken)))
            }
            Some(Err(error)) => Poll::Ready(Some(Err(broken(error)))),
            None => Poll::Ready(None),
        }
    }
}
