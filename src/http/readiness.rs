//! Whether the store responds: checked at most ten times a second, however often it is queried.
//!
//! A health check is never refused for its rate: the monitor would take the server for dead. So a check must cost nothing.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{LocalBoxFuture, Shared};

use super::error::ApiError;

/// Maximum age of a verdict.
const AGE_MAX: Duration = Duration::from_millis(100);

type Verdict = Result<(), ApiError>;

/// One worker's verdict on the store.
#[derive(Default)]
pub(super) struct Readiness(Rc<RefCell<Known>>);

#[derive(Default)]
struct Known {
    last: Option<(Instant, Verdict)>,
    under_way: Option<Shared<LocalBoxFuture<'static, Verdict>>>,
}

impl Readiness {
    /// The last verdict, or a new one where that is too old; concurrent requests share one check (single flight).
    ///
    /// # Errors
    /// Why the store is not ready.
    pub(super) async fn check(&self, probe: impl FnOnce() -> LocalBoxFuture<'static, Verdict>) -> Verdict {
        let verdict = {
            let mut known = self.0.borrow_mut();
            if let Some((at, verdict)) = &known.last
                && at.elapsed() <= AGE_MAX
            {
                return verdict.clone();
            }
            known.under_way.get_or_insert_with(|| self.begin(probe())).clone()
        };
        verdict.await
    }

    /// In a task of its own: the request that began the check may be cancelled, and the next request would wait for the
    /// rest.
    fn begin(&self, probe: LocalBoxFuture<'static, Verdict>) -> Shared<LocalBoxFuture<'static, Verdict>> {
        let known = Rc::downgrade(&self.0);
        let verdict = async move {
            let verdict = probe.await;
            if let Some(known) = known.upgrade() {
                let mut known = known.borrow_mut();
                known.last = Some((Instant::now(), verdict.clone()));
                known.under_way = None;
            }
            verdict
        };
        let shared = verdict.boxed_local().shared();
        tokio::task::spawn_local(shared.clone().map(drop));
        shared
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn concurrent_checks_share_one_probe() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let looks = Rc::new(Cell::new(0));
        let (opened, open) = tokio::sync::oneshot::channel::<()>();
        let readiness = Readiness::default();
        let probe = {
            let looks = looks.clone();
            let open = open.shared();
            move || {
                let (looks, open) = (looks.clone(), open.clone());
                async move {
                    looks.set(looks.get() + 1);
                    open.await.map_err(|_| ApiError::unavailable("store_unavailable", "the store is gone"))
                }
                .boxed_local()
            }
        };
        let all = async {
            let checks = futures_util::future::join_all((0..100).map(|_| readiness.check(probe.clone())));
            let (verdicts, ()) = tokio::join!(checks, async { opened.send(()).unwrap() });
            assert!(verdicts.iter().all(Result::is_ok));
        };
        tokio::task::LocalSet::new().block_on(&runtime, all);
        assert_eq!(looks.get(), 1);
    }
}
