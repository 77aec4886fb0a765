//! The stores, each behind the same trait: one contract for all, and what each engine has to do beside it.

mod common;
mod contract;
mod disk;
mod jetstream;

use crate::support::wait::until;
