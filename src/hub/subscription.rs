//! Subscribing in-process: a stream of items, read from the hub's own tail.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use futures_core::Stream;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::Sleep;

use super::{Hub, StartFrom};
use crate::clock::runtime_now;
use crate::cursor::Cursor;
use crate::event::Event;
use crate::log::{Page, ReadMode};
use crate::reader::{Items, Reader};
use crate::store::StoreError;
use crate::subscription_index::SubscriptionKey;
use crate::topic::{Pattern, PatternSet, TopicError};
use crate::wire::Gap;

/// Events that a subscription reads ahead, at most.
const READ_AHEAD_EVENTS: usize = 64;

/// The longest pace.
const PACE_MAX: Duration = Duration::from_secs(60);

/// Bytes of one read from the store.
const READ_BYTES: usize = 256 << 10;

/// One thing that a subscription yields.
#[derive(Clone, Debug, PartialEq)]
pub enum Item {
    /// What was published.
    Event(Arc<Event>),
    /// Events that the subscription was due are not available any more.
    Gap(Gap),
    /// The past is over: every event was yielded that was in the log when the subscription began, or when a gap led to another
    /// log. Only for [`Subscription::with_live`].
    Live(Cursor),
}

/// Why a subscription cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum SubscribeError {
    /// A pattern is invalid.
    #[error(transparent)]
    Pattern(#[from] TopicError),
    /// The store could not determine the start position.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A stream of the events on some patterns, in order, once, from a start position on. It does not end by
/// itself. It holds a position and at most 64 events, so a stream that is not polled costs the hub nothing more.
///
/// An error means that the store could not be read. The stream continues after it, and reads again a second later.
///
/// Any executor may poll it. That second is measured by the Tokio runtime that the hub was opened in: once that runtime has been
/// shut down, so is the hub, and a poll that has to wait for the store panics.
pub struct Subscription {
    hub: Hub,
    key: SubscriptionKey,
    reader: Reader,
    mode: ReadMode,
    ahead: ReadAhead,
    fetch: Option<BoxFuture<'static, Result<Page, StoreError>>>,
    /// Armed while a read of the store has to wait.
    retry: Option<Pin<Box<Sleep>>>,
}

/// Items that were read and not yielded yet.
#[derive(Default)]
struct ReadAhead {
    items: VecDeque<Ahead>,
    /// Whether the subscription is notified when its past is over.
    with_live: bool,
}

enum Ahead {
    Event(Arc<Event>),
    Live(Cursor),
    /// Boxed: a gap is rare, and would make every slot of the queue as large.
    Gap(Box<Gap>),
}

impl Items for ReadAhead {
    fn gap(&mut self, gap: Gap) {
        self.items.push_back(Ahead::Gap(Box::new(gap)));
    }

    fn event(&mut self, event: &Arc<Event>) {
        self.items.push_back(Ahead::Event(event.clone()));
    }

    fn live(&mut self, cursor: Cursor, _reference: Option<Box<str>>) {
        if self.with_live {
            self.items.push_back(Ahead::Live(cursor));
        }
    }

    fn is_full(&self) -> bool {
        self.items.len() >= READ_AHEAD_EVENTS
    }
}

impl Hub {
    /// Subscribes to patterns.
    ///
    /// # Errors
    /// [`SubscribeError`] where a pattern is invalid, there are more than 64, or the store does not answer.
    pub async fn subscribe<'a>(
        &self,
        patterns: impl IntoIterator<Item = &'a str>,
        from: StartFrom,
    ) -> Result<Subscription, SubscribeError> {
        let patterns: Result<Vec<Pattern>, TopicError> = patterns.into_iter().map(str::parse).collect();
        let patterns = PatternSet::new(patterns?)?;
        let pause = async |_| {
            tokio::task::yield_now().await;
            Ok(())
        };
        let start = self.start(from, &patterns, pause).await?;
        let key = self.0.fan_out.local_log().subscription_index.register(&patterns);
        Ok(Subscription {
            hub: self.clone(),
            key,
            reader: Reader::new(patterns, start),
            mode: ReadMode::default(),
            ahead: ReadAhead::default(),
            fetch: None,
            retry: None,
        })
    }
}

impl Subscription {
    /// Yields of each topic only the newest event, whenever the subscription is behind: with [`StartFrom::Earliest`] the
    /// present value of each topic, in log order, then every change.
    ///
    /// It then reads in rounds, each of which ends where the log ended when the round began. So a topic that changes all the
    /// time is yielded in every round, however slowly the stream is polled.
    #[must_use]
    pub fn latest(mut self) -> Self {
        self.mode.latest = true;
        self.reader.read_in_rounds(self.mode, None);
        self
    }

    /// Yields events at most once in this time, which counts in whole milliseconds up to a minute: all that there are then.
    #[must_use]
    pub fn paced(mut self, pace: Duration) -> Self {
        self.mode.pace_ms = u16::try_from(pace.min(PACE_MAX).as_millis()).unwrap_or(u16::MAX);
        self.reader.read_in_rounds(self.mode, None);
        self
    }

    /// Yields [`Item::Live`], too.
    #[must_use]
    pub fn with_live(mut self) -> Self {
        if !std::mem::replace(&mut self.ahead.with_live, true) {
            self.reader.begin_again(&self.hub.0.fan_out.local_log().tail, None);
        }
        self
    }

    /// How far the subscription has read: up to 64 events at or before this cursor are not yielded yet.
    /// To resume, keep the cursor of the last event that was processed instead.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.reader.cursor()
    }

    /// Reads ahead; where that finds nothing, the task of `cx` is woken when there may be more.
    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StoreError>> {
        while self.ahead.items.is_empty() {
            let now = runtime_now();
            if let Some(fetch) = &mut self.fetch {
                let page = ready!(fetch.poll_unpin(cx));
                self.fetch = None;
                match page {
                    Ok(page) => self.reader.fetched(now, page),
                    Err(error) => {
                        self.reader.fetch_failed(now);
                        return Poll::Ready(Err(error));
                    }
                }
            }
            let (behind, caught_up) = self.read(now, cx);
            if !self.ahead.items.is_empty() {
                break;
            }
            if behind && self.reader.may_fetch(now) {
                let request = self.reader.request(READ_AHEAD_EVENTS, READ_BYTES);
                let hub = self.hub.clone();
                self.fetch = Some(async move { hub.read(request).await }.boxed());
            } else if behind {
                ready!(self.poll_retry(cx));
            } else {
                if !caught_up {
                    // A bounded read has found nothing, and there is more of the tail: yield to other tasks first.
                    cx.waker().wake_by_ref();
                }
                return Poll::Pending;
            }
        }
        Poll::Ready(Ok(()))
    }

    /// One read of the hub's own tail. Registers before it reads: an event that arrives between the two wakes the task. Returns
    /// whether the position is behind the tail, and whether all that the tail holds has been read.
    fn read(&mut self, now: Instant, cx: &Context<'_>) -> (bool, bool) {
        let mut local_log = self.hub.0.fan_out.local_log();
        local_log.subscription_index.wait(self.key, cx.waker());
        self.reader.skip(&local_log.tail, local_log.subscription_index.pending(self.key));
        let behind = self.reader.read(now, &local_log.tail, &mut self.ahead);
        let caught_up = self.reader.is_caught_up(&local_log.tail);
        if caught_up {
            local_log.subscription_index.mark_caught_up(self.key);
        }
        (behind, caught_up)
    }

    /// Waits until the store may be read again.
    fn poll_retry(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.reader.next_fetch() else { return Poll::Ready(()) };
        let at = tokio::time::Instant::from_std(at);
        let runtime = &self.hub.0.runtime;
        let retry = self.retry.get_or_insert_with(|| {
            let _entered = runtime.enter();
            Box::pin(tokio::time::sleep_until(at))
        });
        if retry.deadline() != at {
            retry.as_mut().reset(at);
        }
        ready!(retry.as_mut().poll(cx));
        self.retry = None;
        Poll::Ready(())
    }
}

impl Stream for Subscription {
    type Item = Result<Item, StoreError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        ready!(this.poll_read(cx))?;
        Poll::Ready(this.ahead.items.pop_front().map(|next| {
            Ok(match next {
                Ahead::Event(event) => Item::Event(event),
                Ahead::Live(cursor) => Item::Live(cursor),
                Ahead::Gap(gap) => Item::Gap(*gap),
            })
        }))
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.0.fan_out.local_log().subscription_index.remove(self.key);
    }
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;
    use crate::event::NewEvent;
    use crate::hub::HubOptions;
    use crate::store::StoreOptions;
    use crate::store::scripted::{Reading, ScriptedStore};
    use crate::tail::TailLimits;

    /// A hub whose tail has only the last of three events, and its store.
    async fn hub() -> (Hub, Arc<ScriptedStore>) {
        let store = Arc::new(ScriptedStore::new(StoreOptions::default()));
        let tail = TailLimits { events_max: 1, ..TailLimits::default() };
        let hub = Hub::open(store.clone(), HubOptions { tail, ..HubOptions::default() }).await.unwrap();
        for number in 1..=3 {
            hub.publish(NewEvent::json("a", &number).unwrap()).await.unwrap();
        }
        (hub, store)
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_is_not_as_far_as_its_feed_is_read_once_a_second() {
        let (hub, store) = hub().await;
        let mut subscription = hub.subscribe(["a"], StartFrom::Earliest).await.unwrap();
        store.set_reading(Reading::Empty);
        let nothing = tokio::time::timeout(Duration::from_millis(9500), subscription.next()).await;
        assert!(nothing.is_err() && store.reads() == 10, "{} reads", store.reads());
        store.set_reading(Reading::Answered);
        for number in 1..=3 {
            let Some(Ok(Item::Event(event))) = subscription.next().await else { panic!("it was published") };
            assert_eq!(event.data(), number.to_string());
        }
    }

    /// Another executor than Tokio's: it parks the thread until it is woken.
    fn block_on<T>(future: impl Future<Output = T>) -> T {
        struct Unpark(std::thread::Thread);
        impl std::task::Wake for Unpark {
            fn wake(self: Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Arc::new(Unpark(std::thread::current())).into();
        let mut future = std::pin::pin!(future);
        loop {
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(output) => return output,
                Poll::Pending => std::thread::park(),
            }
        }
    }

    #[test]
    fn another_executor_may_poll_it_while_the_hubs_runtime_runs() {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_time().build().unwrap();
        let (hub, store) = runtime.block_on(hub());
        let mut subscription = runtime.block_on(hub.subscribe(["a"], StartFrom::Earliest)).unwrap();
        store.set_reading(Reading::Failing);
        assert!(block_on(subscription.next()).unwrap().is_err());
        store.set_reading(Reading::Answered);
        // After a wait, by the runtime's timer.
        assert!(matches!(block_on(subscription.next()), Some(Ok(Item::Event(_)))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_store_that_fails_is_an_item_and_read_again_a_second_later() {
        let (hub, store) = hub().await;
        let mut subscription = hub.subscribe(["a"], StartFrom::Earliest).await.unwrap();
        store.set_reading(Reading::Failing);
        let start = tokio::time::Instant::now();
        for seconds in 0..5 {
            assert!(subscription.next().await.unwrap().is_err());
            assert!(start.elapsed() >= Duration::from_secs(seconds));
        }
        assert_eq!(store.reads(), 5);
        store.set_reading(Reading::Answered);
        assert!(matches!(subscription.next().await, Some(Ok(Item::Event(_)))));
    }

    #[tokio::test(start_paused = true)]
    async fn the_newest_come_first_then_every_change_at_a_pace() {
        let (hub, _store) = hub().await;
        let subscription = hub.subscribe(["*"], StartFrom::Earliest).await.unwrap();
        let mut subscription = subscription.latest().paced(Duration::from_secs(1)).with_live();
        let mut next = async || subscription.next().await.unwrap().unwrap();
        let Item::Event(event) = next().await else { panic!("the newest of three") };
        assert_eq!((event.position().0, next().await), (3, Item::Live(event.cursor())));
        let start = tokio::time::Instant::now();
        for (topic, number) in [("b", 4), ("a", 5), ("b", 6)] {
            hub.publish(NewEvent::json(topic, &number).unwrap()).await.unwrap();
        }
        for expected in [5, 6] {
            let Item::Event(event) = next().await else { panic!("a change") };
            assert_eq!(event.position().0, expected);
            assert!(start.elapsed() >= Duration::from_secs(1), "the pace counts from the last run");
        }
    }
}
