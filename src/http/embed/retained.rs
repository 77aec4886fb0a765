//! Bodies in chunks, held on to until their requests are answered.

use std::cell::RefCell;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::Payload;
use bytes::Bytes;
use futures_core::Stream;

use crate::net::{RequestBody, fallback};

/// A body in chunks.
///
/// A body that is dropped before its end actix reads to that end, so that the connection can be used again, however long that
/// takes and without a timeout. One that is still there when the answer is out makes it close the connection instead.
#[derive(Clone)]
pub(super) struct RetainedPayload(Rc<RefCell<RequestBody>>);

impl RetainedPayload {
    pub(super) fn new(payload: Payload) -> Self {
        Self(Rc::new(RefCell::new(fallback::request_body(payload))))
    }

    /// An answer's body that holds on to the request's.
    pub(super) fn beside(self, answer: BoxBody) -> BoxBody {
        BoxBody::new(WithRetained { answer, _retained: self })
    }
}

impl Stream for RetainedPayload {
    type Item = io::Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Pin::new(&mut *self.0.borrow_mut()).poll_next(cx)
    }
}

struct WithRetained {
    answer: BoxBody,
    _retained: RetainedPayload,
}

impl MessageBody for WithRetained {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.answer.size()
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Pin::new(&mut self.answer).poll_next(cx)
    }
}
