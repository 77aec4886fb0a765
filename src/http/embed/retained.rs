//! What is held on to until an answer is out: above all a request's body.

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

/// A request's body, and whether all of it was read.
///
/// A body in chunks that is dropped before its end actix reads to that end, so that the connection can be used again, however
/// long that takes and without a timeout. One that is still there when the answer is out makes it close the connection instead.
#[derive(Clone)]
pub(super) struct RetainedPayload(Rc<RefCell<Retained>>);

struct Retained {
    body: RequestBody,
    /// It ends with the connection.
    endless: bool,
    ended: bool,
}

impl RetainedPayload {
    /// Of a body that ends before its connection, or, `endless`, with it.
    pub(super) fn new(body: RequestBody, endless: bool) -> Self {
        Self(Rc::new(RefCell::new(Retained { body, endless, ended: false })))
    }

    /// Reads to the body's end, as far as it is here; says whether that was reached.
    ///
    /// actix calls a handler before it has looked at what came with the head. Answered at once, it would announce that it closes
    /// the connection, because of a body that was there all the time.
    pub(super) async fn finish(&self) -> bool {
        if self.0.borrow().endless {
            return false;
        }
        let mut has_waited = false;
        poll_fn(|cx| {
            loop {
                if self.0.borrow().ended {
                    return Poll::Ready(true);
                }
                match self.0.borrow_mut().poll_next(cx) {
                    Poll::Ready(Some(Ok(_)) | None) => {}
                    Poll::Ready(Some(Err(_))) => return Poll::Ready(false),
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
        part
    }
}

impl Stream for RetainedPayload {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.borrow_mut().poll_next(cx)
    }
}

/// An answer's body that holds on to something until it is dropped.
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
