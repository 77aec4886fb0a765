//! Tests of a connection over real sockets.

use std::cell::Cell;
use std::future::{pending, poll_fn};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, ready};
use futures_util::stream;
use http::StatusCode;
use tokio::net::TcpListener;
use tokio::task::{LocalSet, spawn_local};

use super::{Http1, TURN_BYTES};
use crate::limits::RateKey;
use crate::net::Timeouts;
use crate::net::backlog::{Backlog, MinReadRate};
use crate::net::io::{Io, Wire};
use crate::net::peer::Peer;
use crate::net::service::FastPath;
use crate::net::{Payer, Request, Response, Service};

const PART: &[u8] = &[b'x'; 16 << 10];

/// Answers with a body without an end, and counts its parts.
struct Endless(Rc<Cell<usize>>);

impl Service for Endless {
    fn fast_path(&self, _: &str) -> Option<FastPath> {
        Some(FastPath { is_websocket: false })
    }

    fn call(&self, _: Request) -> LocalBoxFuture<'static, Response> {
        let parts = self.0.clone();
        let body = stream::repeat_with(move || {
            parts.set(parts.get() + 1);
            Bytes::from_static(PART)
        });
        ready(Response::new(StatusCode::OK).with_stream(body)).boxed_local()
    }
}

/// Completes at the task's next turn. `yield_now` would let the others have many.
async fn next_turn() {
    let mut is_next = false;
    poll_fn(|cx| match std::mem::replace(&mut is_next, true) {
        true => Poll::Ready(()),
        false => {
            cx.waker().wake_by_ref();
            Poll::Pending
        }
    })
    .await;
}

#[tokio::test]
async fn during_a_long_body_other_tasks_get_their_turn() {
    const PARTS: usize = 1000;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address: SocketAddr = listener.local_addr().unwrap();
    // Takes all that comes, on a thread of its own.
    std::thread::spawn(move || {
        let mut peer = std::net::TcpStream::connect(address).unwrap();
        peer.write_all(b"GET /v1/stream HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
        let mut buffer = vec![0; 1 << 20];
        while peer.read(&mut buffer).is_ok_and(|read| read > 0) {}
    });
    let (stream, _) = listener.accept().await.unwrap();
    let payer = Payer::new(&Arc::default(), RateKey::at(Ipv4Addr::LOCALHOST.into()));
    let any_rate = MinReadRate { bytes_per_second: 0, window: Duration::from_secs(60) };
    let wire = Wire::plain(stream, Backlog::new(any_rate, payer.clone()));
    let timeouts = Timeouts { idle: Duration::from_secs(60), head: Duration::from_secs(60) };
    let io = Box::new(Io::new(wire, Peer::unnoted(None), payer, timeouts, None));
    let parts = Rc::new(Cell::new(0));
    let http1 = Http1::new(Rc::new(Endless(parts.clone())), None, pending().boxed_local().shared());
    LocalSet::new()
        .run_until(async {
            let serving = spawn_local(async move {
                http1.serve(io).await;
            });
            let other = spawn_local(async move {
                let (mut before, mut most) = (0, 0);
                while before < PARTS {
                    next_turn().await;
                    most = most.max(parts.get() - before);
                    before = parts.get();
                }
                most
            });
            let most = other.await.unwrap();
            // The scheduler may poll one task twice between two polls of another.
            assert!(most * PART.len() <= 4 * TURN_BYTES, "{most} parts between two turns");
            serving.abort();
        })
        .await;
}
