//! Retains values until a response is sent: above all a request's body.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use bytes::Bytes;
use futures_core::Stream;

use crate::net::RequestBody;

/// A request's body, and whether the whole body was read.
///
/// A chunked body that is dropped before its end is read to its end by actix, so that the connection can be reused, however
/// long that takes and without a timeout. A body that still exists when the response is sent makes actix close the
/// connection instead.
#[derive(Clone)]
pub(super) struct RetainedPayload(Rc<RefCell<Retained>>);

struct Retained {
    body: RequestBody,
    /// The body ends with the connection.
    endless: bool,
    ended: bool,
    /// The body broke off, or is malformed: where it ends is not known.
    broken: bool,
}

impl RetainedPayload {
    /// Of a body that ends before its connection, or, where it is `endless`, with it.
    pub(super) fn new(body: RequestBody, endless: bool) -> Self {
        Self(Rc::new(RefCell::new(Retained { body, endless, ended: false, broken: false })))
    }

    /// Reads the body to its end, as far as it has arrived; returns whether the end was reached.
    ///
    /// actix calls a handler before it has parsed the bytes that arrived with the head. A response at that moment would
    /// announce `Connection: close`, because of a body that had arrived in full.
    pub(super) async fn finish(&self) -> bool {
        if self.0.borrow().endless {
            return false;
        }
        let mut has_waited = false;
        poll_fn(|cx| {
            loop {
                if self.0.borrow().broken {
                    return Poll::Ready(false);
                }
                if self.0.borrow().ended {
                    return Poll::Ready(true);
                }
                match self.0.borrow_mut().poll_next(cx) {
                    Poll::Ready(_) => {}
                    Poll::Pending if has_waited => return Poll::Ready(false),
                    Poll::Pending => {
                        has_waited = true;
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                }
            }
        })
        .await
    }
}

impl Retained {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<Bytes>>> {
        let part = Pin::new(&mut self.body).poll_next(cx);
        self.ended |= matches!(part, Poll::Ready(None));
        self.broken |= matches!(part, Poll::Ready(Some(Err(_))));
        part
    }
}

impl Stream for RetainedPayload {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().poll_next(cx)
    }
}

/// A response's body that retains a value until it is dropped.
pub(super) fn beside<T: Unpin + 'static>(answer: BoxBody, retained: T) -> BoxBody {
    BoxBody::new(WithRetained { answer, _retained: retained })
}

struct WithRetained<T> {
    answer: BoxBody,
    _retained: T,
}

impl<T: Unpin> MessageBody for WithRetained<T> {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.answer.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.answer).poll_next(cx)
    }
}
