//! The bounded queue in front of each of the store's threads.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::store::StoreError;

/// The size of the queued work, or its limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    /// Jobs, or the events in them.
    pub(super) items: u64,
    /// Bytes of the jobs.
    pub(super) bytes: u64,
}

/// Jobs in order of arrival, from many threads to one or a few. A job that does not fit is refused; `push` never blocks.
pub(super) struct Queue<J> {
    state: Mutex<State<J>>,
    arrived: Condvar,
    max: Load,
}

struct State<J> {
    jobs: VecDeque<(J, Load)>,
    queued: Load,
    /// The number of jobs that the waiting worker wants; it is not woken for fewer.
    wanted: usize,
    closed: bool,
}

impl<J> Queue<J> {
    pub(super) fn new(max: Load) -> Self {
        let state = State { jobs: VecDeque::new(), queued: Load::default(), wanted: 0, closed: false };
        Self { state: Mutex::new(state), arrived: Condvar::new(), max }
    }

    /// Queues `job`. An empty queue takes any job, so a job that is larger than the limit is not refused for ever.
    ///
    /// # Errors
    /// [`StoreError::Busy`] where the queue is full, [`StoreError::Unavailable`] where it is closed.
    pub(super) fn push(&self, job: J, load: Load) -> Result<(), StoreError> {
        let mut state = self.state();
        let full = state.queued.items + load.items > self.max.items || state.queued.bytes + load.bytes > self.max.bytes;
        if full && !state.jobs.is_empty() && !state.closed {
            return Err(StoreError::Busy("too many requests wait for the disk; try again shortly"));
        }
        state.add(job, load)?;
        let enough = state.jobs.len() >= state.wanted;
        drop(state);
        if enough {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Waits until `jobs` jobs are queued, or as many as `most` allows, or until the deadline. For a queue with one worker, which
    /// is not woken earlier.
    pub(super) fn gather(&self, jobs: usize, most: Load, deadline: Instant) {
        let mut state = self.state();
        state.wanted = jobs;
        let few = |state: &mut State<J>| {
            let fits = state.queued.items < most.items && state.queued.bytes < most.bytes;
            state.jobs.len() < jobs && fits && !state.closed
        };
        let patience = deadline.saturating_duration_since(Instant::now());
        state = self.arrived.wait_timeout_while(state, patience, few).unwrap_or_else(PoisonError::into_inner).0;
        state.wanted = 0;
    }

    /// Calls `visit` with the oldest jobs, until it returns false. Returns the number of queued jobs.
    pub(super) fn visit(&self, mut visit: impl FnMut(&J) -> bool) -> usize {
        let state = self.state();
        let _ = state.jobs.iter().all(|(job, _)| visit(job));
        state.jobs.len()
    }

    /// Queues a job regardless of the limit: for the few jobs of the store itself.
    pub(super) fn push_always(&self, job: J) -> Result<(), StoreError> {
        self.state().add(job, Load::default())?;
        self.arrived.notify_one();
        Ok(())
    }

    /// Takes the oldest jobs, up to `most` but at least one. Where there are none, waits if `wait` is true, else returns none.
    /// `None` once the queue is closed and empty.
    pub(super) fn take(&self, most: Load, wait: bool) -> Option<Vec<J>> {
        let mut state = self.state();
        while wait && state.jobs.is_empty() && !state.closed {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.jobs.is_empty() && state.closed {
            return None;
        }
        let (mut jobs, mut taken) = (Vec::new(), Load::default());
        while let Some((_, load)) = state.jobs.front() {
            taken = Load { items: taken.items + load.items, bytes: taken.bytes + load.bytes };
            if !jobs.is_empty() && (taken.items > most.items || taken.bytes > most.bytes) {
                break;
            }
            let Some((job, load)) = state.jobs.pop_front() else { break };
            state.queued = Load { items: state.queued.items - load.items, bytes: state.queued.bytes - load.bytes };
            jobs.push(job);
        }
        Some(jobs)
    }

    /// Refuses further jobs; queued ones are still done.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.arrived.notify_all();
    }

    /// A guard that a thread holds while it works the queue, so that no caller waits for an answer from a dead thread.
    pub(super) fn worker(&self) -> Worker<'_, J> {
        Worker(self)
    }

    fn state(&self) -> MutexGuard<'_, State<J>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<J> std::fmt::Debug for Queue<J> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Queue({} jobs)", self.state().jobs.len())
    }
}

impl<J> State<J> {
    fn add(&mut self, job: J, load: Load) -> Result<(), StoreError> {
        if self.closed {
            return Err(StoreError::unavailable("the store is shut down"));
        }
        self.queued = Load { items: self.queued.items + load.items, bytes: self.queued.bytes + load.bytes };
        self.jobs.push_back((job, load));
        Ok(())
    }
}

/// Closes the queue and drops its jobs with their answer channels, should the thread panic.
pub(super) struct Worker<'a, J>(&'a Queue<J>);

impl<J> Drop for Worker<'_, J> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
            self.0.state().jobs.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const ONE: Load = Load { items: 1, bytes: 10 };
    const ALL: Load = Load { items: 100, bytes: 100 };

    #[test]
    fn refuses_what_does_not_fit_but_never_a_lone_job() {
        let queue = Queue::new(Load { items: 2, bytes: 15 });
        queue.push('a', Load { items: 9, bytes: 99 }).unwrap();
        assert!(matches!(queue.push('b', ONE), Err(StoreError::Busy(_))));
        queue.push_always('c').unwrap();
        assert_eq!(queue.take(ONE, true), Some(vec!['a', 'c'][..1].to_vec()));
        queue.push('d', ONE).unwrap();
        assert!(matches!(queue.push('e', ONE), Err(StoreError::Busy(_))), "by bytes");
        assert_eq!(queue.take(ALL, true), Some(vec!['c', 'd']));
        assert_eq!(queue.take(ALL, false), Some(vec![]));
    }

    #[test]
    fn gathering_ends_with_the_last_of_those_that_are_waited_for() {
        let queue = std::sync::Arc::new(Queue::new(ALL));
        let feeder = {
            let queue = queue.clone();
            std::thread::spawn(move || (0..5).for_each(|job| queue.push(job, ONE).unwrap()))
        };
        let never = Instant::now() + Duration::from_secs(3600);
        queue.gather(5, ALL, never);
        assert_eq!(queue.take(ALL, false), Some(vec![0, 1, 2, 3, 4]));
        feeder.join().unwrap();
        // A group is full.
        queue.push(5, ONE).unwrap();
        queue.gather(5, ONE, never);
        // Too few jobs come.
        queue.gather(5, ALL, Instant::now() + Duration::from_millis(1));
        assert_eq!(queue.take(ALL, false), Some(vec![5]));
    }

    #[test]
    fn a_closed_queue_gives_what_it_has_and_then_ends() {
        let queue = Queue::new(ALL);
        queue.push(1, ONE).unwrap();
        queue.close();
        assert!(matches!(queue.push(2, ONE), Err(StoreError::Unavailable(_))));
        assert_eq!(queue.take(ALL, true), Some(vec![1]));
        assert_eq!(queue.take(ALL, true), None);
    }
}
