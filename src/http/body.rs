//! Reads request bodies within limits of bytes, memory and time.

use std::borrow::Cow;
use std::io;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::StatusCode;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE};
use serde::de::DeserializeOwned;
use tokio::time::Instant;

use super::call::Call;
use super::error::ApiError;
use super::object;
use crate::auth::Rights;
use crate::limits::InboundBudget;
use crate::net::growth::make_room;
use crate::net::{Headers, Payload, RequestBody, text as header_text};

/// The media type of a body, without its parameters.
pub(super) struct MediaType(Cow<'static, str>);

/// The type of nearly every body.
const JSON: &str = "application/json";

impl MediaType {
    /// The type in `Content-Type`; `None` where there is no type.
    ///
    /// # Errors
    /// 415 where the body has another charset, or a content coding.
    pub(super) fn of(headers: Headers<'_>) -> Result<Option<Self>, ApiError> {
        let encoding = headers.get(&CONTENT_ENCODING);
        if encoding.is_some_and(|encoding| !encoding.eq_ignore_ascii_case(b"identity")) {
            return Err(unsupported("a body must not have a `Content-Encoding`"));
        }
        let Some(value) = headers.get(&CONTENT_TYPE) else { return Ok(None) };
        if value == JSON.as_bytes() {
            return Ok(Some(Self(JSON.into())));
        }
        let text = header_text(value).ok_or_else(|| unsupported("`Content-Type` is not ASCII"))?.to_ascii_lowercase();
        let mut parts = text.split(';').map(str::trim);
        let essence = parts.next().unwrap_or_default();
        for parameter in parts {
            let charset = parameter.strip_prefix("charset=").map(|charset| charset.trim_matches('"'));
            if charset.is_some_and(|charset| !matches!(charset, "utf-8" | "utf8" | "us-ascii")) {
                return Err(unsupported("the charset in `Content-Type` must be UTF-8"));
            }
        }
        Ok((!essence.is_empty()).then(|| Self(essence.to_owned().into())))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    pub(super) fn is_json(&self) -> bool {
        self.0 == JSON || self.0.starts_with("application/") && self.0.ends_with("+json")
    }

    pub(super) fn is_text(&self) -> bool {
        self.0.starts_with("text/")
    }
}

pub(super) fn unsupported(message: &'static str) -> ApiError {
    ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", message)
}

/// A whole body, with the memory that is charged for it until it is dropped. That is after its request is answered, not
/// when the body has arrived: it is in memory as long as the store takes.
pub(super) struct ChargedBody {
    bytes: Bytes,
    _budget: InboundBudget,
}

impl std::ops::Deref for ChargedBody {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// The bytes of a body that has arrived, or that are announced for it; `None` where its length is not known.
pub(super) fn announced_bytes(headers: Headers<'_>, body: &RequestBody) -> Option<usize> {
    match body {
        RequestBody::Full(whole) => Some(whole.len()),
        RequestBody::Stream(_) => announced_length(headers),
        RequestBody::WebSocket(_) => None,
    }
}

fn announced_length(headers: Headers<'_>) -> Option<usize> {
    headers.text(&CONTENT_LENGTH)?.parse().ok()
}

/// Reads the whole body of a call, into the memory of its sender's share.
///
/// # Errors
/// 413 over `bytes_max`; 429 where the client's share of memory is used up, 503 where the memory for all bodies is; 408
/// where the body does not arrive in time; 400 where it ends early; 503 where the server begins to shut down meanwhile.
pub(super) async fn read(
    call: &Call,
    body: RequestBody,
    bytes_max: usize,
    rights: &Rights,
) -> Result<ChargedBody, ApiError> {
    let mut budget = call.inbound(rights);
    let payload = match body {
        RequestBody::Stream(payload) => payload,
        // The bytes after an upgrade are not a body.
        RequestBody::WebSocket(_) => return Ok(ChargedBody { bytes: Bytes::new(), _budget: budget }),
        // Nothing is waited for, so there is no need for the future of one that arrives in pieces.
        RequestBody::Full(whole) => {
            call.check_serving()?;
            if whole.len() > bytes_max {
                return Err(ApiError::too_large("a body", bytes_max));
            }
            budget.grow(whole.len())?;
            return Ok(ChargedBody { bytes: whole, _budget: budget });
        }
    };
    let time_max = call.options().body_timeout;
    call.while_serving(collect(call.request.headers(), payload, bytes_max, time_max, budget)).await
}

async fn collect(
    headers: Headers<'_>,
    mut payload: Payload,
    bytes_max: usize,
    time_max: Duration,
    mut budget: InboundBudget,
) -> Result<ChargedBody, ApiError> {
    let announced = announced_length(headers);
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(ApiError::too_large("a body", bytes_max));
    }
    budget.announce(announced.unwrap_or_default())?;
    let budget_of = &mut budget;
    let all = async {
        let (mut first, mut body, mut bytes) = (Bytes::new(), Vec::new(), 0);
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(broken)?;
            bytes += chunk.len();
            if bytes > bytes_max {
                return Err(ApiError::too_large("a body", bytes_max));
            }
            budget_of.grow(chunk.len())?;
            // Most bodies arrive in one piece, which is returned without a copy.
            if bytes == chunk.len() {
                first = chunk;
                continue;
            }
            let left_bytes = announced.unwrap_or(bytes_max).saturating_sub(bytes);
            make_room(&mut body, first.len() + chunk.len(), left_bytes);
            body.extend_from_slice(&std::mem::take(&mut first));
            body.extend_from_slice(&chunk);
        }
        Ok(if body.is_empty() { first } else { body.into() })
    };
    let bytes = in_time(time_max, all).await.unwrap_or_else(|| Err(too_slow()))?;
    Ok(ChargedBody { bytes, _budget: budget })
}

/// The output of `work`, or `None` on a timeout.
///
/// A body that arrived with its head is ready at the second poll: actix calls the handler before it takes the body out of
/// its read buffer. A timer is set only for a body that is not ready by then: a timer costs more than to read most bodies.
async fn in_time<T>(time_max: Duration, work: impl Future<Output = T>) -> Option<T> {
    let mut work = std::pin::pin!(work);
    let mut looked = false;
    let at_once = std::future::poll_fn(|cx| match work.as_mut().poll(cx) {
        Poll::Ready(value) => Poll::Ready(Some(value)),
        Poll::Pending if looked => Poll::Ready(None),
        Poll::Pending => {
            looked = true;
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    });
    match at_once.await {
        Some(value) => Some(value),
        None => tokio::time::timeout(time_max, work).await.ok(),
    }
}

/// A body that holds JSON, and is not read yet. Sent as JSON or as text, since `sendBeacon` and the `XDomainRequest` of Internet
/// Explorer 8 and 9 say no other type.
pub(super) struct JsonBody {
    body: RequestBody,
    bytes_max: usize,
}

impl JsonBody {
    pub(super) fn new(body: RequestBody, bytes_max: usize) -> Self {
        Self { body, bytes_max }
    }

    /// Reads it into the memory of its sender's share.
    ///
    /// # Errors
    /// 415 for another type; as [`read`] and [`text`]; and `bad` of what is no such JSON.
    pub(super) async fn read<T: DeserializeOwned>(
        self,
        call: &Call,
        rights: &Rights,
        bad: impl FnOnce(&serde_json::Error) -> ApiError,
    ) -> Result<T, ApiError> {
        let headers = call.request.headers();
        if MediaType::of(headers)?.is_some_and(|kind| !matches!(kind.as_str(), "application/json" | "text/plain")) {
            return Err(unsupported("Content-Type is application/json or text/plain, both holding JSON"));
        }
        let body = read(call, self.body, self.bytes_max, rights).await?;
        object::parse(text(&body)?).map_err(|error| bad(&error))
    }
}

/// A body as UTF-8.
pub(super) fn text(body: &[u8]) -> Result<&str, ApiError> {
    std::str::from_utf8(body).map_err(|error| {
        ApiError::bad("bad_utf8", format!("the body is not UTF-8: byte {} is invalid", error.valid_up_to()))
    })
}

/// Reads a body line by line, and holds no more than a line and a chunk.
pub(super) struct Lines {
    body: RequestBody,
    budget: InboundBudget,
    buffer: BytesMut,
    /// Bytes of `buffer` that were searched and have no line end.
    searched: usize,
    bytes_max: usize,
    /// Timeout of a line: from its first byte on, and for that byte to arrive. Blank lines and white space do not extend it: a body
    /// of those would never end.
    line_time_max: Duration,
    /// Since when a line that is not blank is waited for.
    waiting_since: Option<Instant>,
    /// When the incomplete line began.
    begun: Option<Instant>,
    /// The rest of a line that is too long is being discarded.
    skipping: bool,
    ended: bool,
}

/// One line.
pub(super) enum Line {
    /// Without its line end.
    Whole(Bytes),
    /// Longer than the limit; discarded.
    TooLong,
}

impl Line {
    /// Whether the line has nothing but white space (RFC 8259 §2).
    pub(super) fn is_blank(&self) -> bool {
        matches!(self, Self::Whole(line) if line.trim_ascii().is_empty())
    }
}

impl Lines {
    pub(super) fn new(body: RequestBody, bytes_max: usize, line_time_max: Duration, budget: InboundBudget) -> Self {
        Self {
            body,
            budget,
            buffer: BytesMut::new(),
            searched: 0,
            bytes_max,
            line_time_max,
            waiting_since: None,
            begun: None,
            skipping: false,
            ended: false,
        }
    }

    /// The next line that has arrived already.
    pub(super) fn ready(&mut self) -> Option<Line> {
        loop {
            let end = self.buffer[self.searched..].iter().position(|byte| *byte == b'\n');
            let Some(end) = end.map(|end| self.searched + end) else {
                self.searched = self.buffer.len();
                // One byte more may be the carriage return of the line end.
                if self.searched <= self.bytes_max + 1 && !self.skipping {
                    return None;
                }
                self.buffer.clear();
                self.searched = 0;
                return (!std::mem::replace(&mut self.skipping, true)).then_some(Line::TooLong);
            };
            let mut line = self.buffer.split_to(end + 1).freeze();
            self.searched = 0;
            if std::mem::take(&mut self.skipping) {
                continue;
            }
            line.truncate(end - usize::from(line[..end].ends_with(b"\r")));
            return Some(if line.len() > self.bytes_max { Line::TooLong } else { Line::Whole(line) });
        }
    }

    /// The next line, `None` at the end.
    ///
    /// # Errors
    /// 408 where the next line does not begin, or does not end, in time; 400 where the body ends early; 429 and 503 as
    /// [`read`].
    pub(super) async fn next(&mut self) -> Result<Option<Line>, ApiError> {
        loop {
            if let Some(line) = self.ready() {
                self.begun = None;
                self.waiting_since = self.waiting_since.filter(|_| line.is_blank());
                return Ok(Some(line));
            }
            if self.ended {
                let last = std::mem::take(&mut self.buffer).freeze();
                self.searched = 0;
                let too_long = last.len() > self.bytes_max;
                return Ok((!last.is_empty()).then(|| if too_long { Line::TooLong } else { Line::Whole(last) }));
            }
            let now = Instant::now();
            let has_begun = self.skipping || !self.buffer.trim_ascii().is_empty();
            self.begun = has_begun.then(|| self.begun.unwrap_or(now));
            let since = self.begun.unwrap_or(*self.waiting_since.get_or_insert(now));
            match tokio::time::timeout_at(since + self.line_time_max, self.body.next()).await {
                Ok(Some(chunk)) => {
                    self.buffer.extend_from_slice(&chunk.map_err(broken)?);
                    self.budget.set(self.buffer.len())?;
                }
                Ok(None) => self.ended = true,
                Err(_) => return Err(too_slow()),
            }
        }
    }
}

fn broken(error: io::Error) -> ApiError {
    match error.kind() {
        io::ErrorKind::InvalidData => ApiError::bad("bad_body", format!("the body is malformed: {error}")),
        _ => ApiError::bad("bad_body", format!("the body ended early: {error}")),
    }
}

fn too_slow() -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not arrive in time")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::limits::{Limits, RateKey};
    use crate::net::RequestHead;

    const BYTES_MAX: usize = 5;

    fn payload(chunks: Vec<Vec<u8>>) -> Payload {
        Box::pin(futures_util::stream::iter(chunks.into_iter().map(|chunk| Ok(Bytes::from(chunk)))))
    }

    fn budget() -> InboundBudget {
        std::sync::Arc::new(Limits::default()).inbound(RateKey::at([127, 0, 0, 1].into()))
    }

    /// A line that is slow but in time, and again, has no total deadline; a line that comes too late ends the body.
    #[tokio::test(start_paused = true)]
    async fn lines_may_be_slow_but_not_stop() {
        const TIME_MAX: Duration = Duration::from_secs(10);
        let slow = futures_util::stream::unfold(0, |number| async move {
            let wait = if number < 12 { TIME_MAX - Duration::from_secs(1) } else { TIME_MAX + Duration::from_secs(1) };
            tokio::time::sleep(wait).await;
            Some((Ok(Bytes::from("a\nb")), number + 1))
        });
        let mut lines = Lines::new(RequestBody::Stream(Box::pin(slow)), BYTES_MAX, TIME_MAX, budget());
        for _ in 0..12 {
            assert!(matches!(lines.next().await, Ok(Some(Line::Whole(_)))));
        }
        assert_eq!(lines.next().await.err().map(|error| error.status), Some(StatusCode::REQUEST_TIMEOUT));
    }

    fn wait_for<T>(work: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap().block_on(work)
    }

    fn lines(chunks: Vec<Vec<u8>>) -> Vec<Option<Bytes>> {
        let mut lines = Lines::new(RequestBody::Stream(payload(chunks)), BYTES_MAX, Duration::from_secs(60), budget());
        let mut all = Vec::new();
        wait_for(async {
            while let Some(line) = lines.next().await.unwrap() {
                all.push(match line {
                    Line::Whole(line) => Some(line),
                    Line::TooLong => None,
                });
            }
        });
        all
    }

    proptest! {
        /// However the body is split into chunks, it has the same lines; the definition splits the whole body.
        #[test]
        fn the_cuts_do_not_matter(
            text in proptest::collection::vec(prop_oneof![4 => Just(b'x'), 2 => Just(b'\n'), 1 => Just(b'\r')], 0..60),
            cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..8),
        ) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let chunks = cuts.windows(2).map(|pair| text[pair[0]..pair[1]].to_vec()).collect();
            let expected: Vec<Option<Bytes>> = text
                .split_inclusive(|byte| *byte == b'\n')
                .map(|line| line.strip_suffix(b"\n").map_or(line, |line| line.strip_suffix(b"\r").unwrap_or(line)))
                .map(|line| (line.len() <= BYTES_MAX).then(|| Bytes::copy_from_slice(line)))
                .collect();
            prop_assert_eq!(lines(chunks), expected);
        }

        /// A body is the concatenation of its chunks, up to the limit.
        #[test]
        fn a_body_is_its_chunks(chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..4), 0..5)) {
            let (head, whole) = (RequestHead::get("/", &[]), chunks.concat());
            let time_max = Duration::from_secs(60);
            let body = wait_for(collect(head.headers(), payload(chunks), BYTES_MAX, time_max, budget()));
            prop_assert_eq!(body.ok().map(|body| body.bytes), (whole.len() <= BYTES_MAX).then(|| Bytes::from(whole)));
        }

        #[test]
        fn types_never_panic(text in "\\PC{0,60}") {
            let head = RequestHead::get("/", &[("content-type", text.as_bytes())]);
            let _ = MediaType::of(head.headers());
        }
    }
}
