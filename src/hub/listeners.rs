//! Listeners in the manner of an event emitter: a function that is called with each event.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use tokio::task::JoinHandle;

use super::subscription::SubscribeError;
use super::{Hub, Item, StartFrom, Subscription, lock};
use crate::event::Event;

/// A listener's id, for [`Hub::off`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ListenerId(u64);

/// A listener cannot be added.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// There are as many as [`super::HubOptions::listeners_max`] allows, usually because some are never removed.
    #[error("the hub has {0} listeners already: remove some, or raise `listeners_max`")]
    TooMany(usize),
    /// As for [`Hub::subscribe`].
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
}

#[derive(Default)]
pub(super) struct Listeners {
    next: AtomicU64,
    tasks: Arc<Mutex<HashMap<ListenerId, JoinHandle<()>>>>,
}

impl Hub {
    /// Calls `listener` with each event on `pattern` from now on, in order, on a task of its own: a listener that is slow
    /// or panics affects no other. Gaps are only logged; where they matter, use [`Hub::subscribe`].
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn on(
        &self,
        pattern: &str,
        mut listener: impl FnMut(Arc<Event>) + Send + 'static,
    ) -> Result<ListenerId, ListenError> {
        let subscription = self.subscribe([pattern], StartFrom::Now).await?;
        self.listen(subscription, move |event| {
            listener(event);
            true
        })
    }

    /// Calls `listener` with the next event on `pattern`, then removes it.
    ///
    /// # Errors
    /// [`ListenError`].
    pub async fn once(
        &self,
        pattern: &str,
        listener: impl FnOnce(Arc<Event>) + Send + 'static,
    ) -> Result<ListenerId, ListenError> {
        let subscription = self.subscribe([pattern], StartFrom::Now).await?;
        let mut listener = Some(listener);
        self.listen(subscription, move |event| {
            if let Some(listener) = listener.take() {
                listener(event);
            }
            false
        })
    }

    /// Removes a listener; returns whether it existed.
    pub fn off(&self, listener: ListenerId) -> bool {
        let task = lock(&self.0.listeners.tasks).remove(&listener);
        task.map(|task| task.abort()).is_some()
    }

    /// Removes every listener.
    pub fn off_all(&self) {
        // Taken out of the map first: a task that ends takes the lock to remove itself.
        let tasks = std::mem::take(&mut *lock(&self.0.listeners.tasks));
        tasks.into_values().for_each(|task| task.abort());
    }

    /// How many listeners there are.
    #[must_use]
    pub fn listeners(&self) -> usize {
        lock(&self.0.listeners.tasks).len()
    }

    fn listen(
        &self,
        mut subscription: Subscription,
        mut call: impl FnMut(Arc<Event>) -> bool + Send + 'static,
    ) -> Result<ListenerId, ListenError> {
        let listeners = &self.0.listeners;
        let id = ListenerId(listeners.next.fetch_add(1, Ordering::Relaxed));
        // The lock is held while the task is spawned: a listener that ends at once removes itself only after it was added.
        let mut tasks = lock(&listeners.tasks);
        if tasks.len() >= self.0.options.listeners_max {
            return Err(ListenError::TooMany(tasks.len()));
        }
        let leave = Leave { id, tasks: listeners.tasks.clone() };
        let task = tokio::spawn(async move {
            let _leave = leave;
            while let Some(item) = subscription.next().await {
                match item {
                    Ok(Item::Event(event)) => {
                        if !call(event) {
                            return;
                        }
                    }
                    Ok(Item::Live(_)) => {}
                    Ok(Item::Gap(gap)) => tracing::warn!(?gap, "a listener missed events"),
                    // The subscription waits before its next read, so this loop does not spin.
                    Err(error) => tracing::warn!(%error, "a listener cannot read the store"),
                }
            }
        });
        tasks.insert(id, task);
        Ok(id)
    }
}

/// Removes a listener when its task ends, by a panic too.
struct Leave {
    id: ListenerId,
    tasks: Arc<Mutex<HashMap<ListenerId, JoinHandle<()>>>>,
}

impl Drop for Leave {
    fn drop(&mut self) {
        lock(&self.tasks).remove(&self.id);
    }
}
