//! Subscribing in-process: a stream of items, read from the hub's own tail.

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;

use super::{From, Hub};
use crate::cursor::Cursor;
use crate::event::Event;
use crate::store::{Page, ReadRequest, StoreError};
use crate::tail::TailRead;
use crate::topic::{Pattern, PatternSet, TopicError};
use crate::waiters::{News, WaiterKey};
use crate::wire::{Gap, GapReason};

/// Events that a subscription reads ahead, at most.
const READ_AHEAD_EVENTS: usize = 64;

/// Bytes of one read from the store.
const READ_BYTES: usize = 256 << 10;

/// Rows that one read from the store may scan.
const READ_ROWS: u64 = 20_000;

/// One thing that a subscription yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// What was published.
    Event(Arc<Event>),
    /// Something that was asked for is gone.
    Gap(Gap),
}

/// A subscription cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// A pattern is not one.
    #[error(transparent)]
    Pattern(#[from] TopicError),
    /// The store could not say where to start.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A stream of what was published on some patterns, in order, once, from some place on. It does not end by
/// itself. It holds a position and at most 64 events, so one that is not polled costs nobody anything.
pub struct Subscription {
    hub: Hub,
    key: WaiterKey,
    patterns: PatternSet,
    cursor: Cursor,
    gap: Option<Gap>,
    ahead: VecDeque<Arc<Event>>,
    fetch: Option<BoxFuture<'static, Result<Page, StoreError>>>,
}

impl Hub {
    /// Subscribes to patterns.
    ///
    /// # Errors
    /// [`SubscribeError`] where a pattern is not one, there are more than 64, or the store does not answer.
    pub async fn subscribe<'a>(
        &self,
        patterns: impl IntoIterator<Item = &'a str>,
        from: From,
    ) -> Result<Subscription, SubscribeError> {
        let patterns: Result<Vec<Pattern>, TopicError> = patterns.into_iter().map(str::parse).collect();
        let patterns = PatternSet::new(patterns?)?;
        let pause = async |_| {
            tokio::task::yield_now().await;
            Ok(())
        };
        let start = self.start(from, &patterns, pause).await?;
        let key = self.0.fan_out.lane().waiters.register(&patterns);
        let cursor = start.gap.as_ref().map_or(start.cursor, |gap| gap.to);
        Ok(Subscription {
            hub: self.clone(),
            key,
            patterns,
            cursor,
            gap: start.gap,
            ahead: VecDeque::new(),
            fetch: None,
        })
    }
}

impl Subscription {
    /// How far it has read: what was yielded, and up to 64 events more, lies at or before it.
    /// To resume, keep the cursor of the last event that was dealt with instead.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.cursor
    }

    /// Reads from the tail; says whether to ask the store instead.
    fn read_tail(&mut self, cx: &Context<'_>) -> bool {
        let mut lane = self.hub.0.fan_out.lane();
        lane.waiters.wait(self.key, cx.waker());
        if self.cursor.epoch != lane.tail.epoch() {
            let to = Cursor::new(lane.tail.epoch(), lane.tail.began());
            let gap = Gap { reason: GapReason::Epoch, from: self.cursor, to, patterns: Vec::new(), missed: None };
            self.gap = Some(gap);
            self.cursor = to;
            return false;
        }
        let clear = match lane.waiters.news(self.key) {
            News::Unknown => self.cursor.position,
            News::None => lane.tail.end(),
            News::First(position) => position.before(),
        };
        self.cursor.position = self.cursor.position.max(clear);
        loop {
            let ahead = &mut self.ahead;
            let read = lane.tail.read(&self.patterns, self.cursor.position, &mut |event| {
                ahead.push_back(event.clone());
                if ahead.len() < READ_AHEAD_EVENTS { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            });
            let TailRead::Through { position, .. } = read else { return true };
            self.cursor.position = position;
            if position >= lane.tail.end() {
                lane.waiters.caught_up(self.key);
                return false;
            }
            if !self.ahead.is_empty() {
                return false;
            }
        }
    }

    fn take(&mut self, page: Page) {
        if let Some(trimmed) = page.trimmed {
            let to = Cursor::new(self.cursor.epoch, trimmed.to);
            self.gap = Some(Gap {
                reason: GapReason::Expired,
                from: self.cursor,
                to,
                patterns: trimmed.patterns,
                missed: None,
            });
        }
        self.cursor.position = self.cursor.position.max(page.through);
        self.ahead.extend(page.events);
    }

    fn next_ready(&mut self) -> Option<Item> {
        let gap = self.gap.take().map(Item::Gap);
        gap.or_else(|| self.ahead.pop_front().map(Item::Event))
    }
}

impl Stream for Subscription {
    type Item = Result<Item, StoreError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        loop {
            if let Some(item) = this.next_ready() {
                return Poll::Ready(Some(Ok(item)));
            }
            if let Some(fetch) = &mut this.fetch {
                let page = std::task::ready!(fetch.poll_unpin(cx));
                this.fetch = None;
                match page {
                    Ok(page) => this.take(page),
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            } else if this.read_tail(cx) {
                let request = ReadRequest {
                    patterns: this.patterns.clone(),
                    after: this.cursor.position,
                    events_max: READ_AHEAD_EVENTS,
                    bytes_max: READ_BYTES,
                    rows_max: READ_ROWS,
                };
                let hub = this.hub.clone();
                this.fetch = Some(async move { hub.read(request).await }.boxed());
            } else if this.ahead.is_empty() && this.gap.is_none() {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.0.fan_out.lane().waiters.remove(self.key);
    }
}
