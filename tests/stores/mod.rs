//! The storage engines: one contract suite for all of them, and the tests that are specific to each engine.

mod common;
mod contract;
mod disk;
mod erasing;
mod jetstream;
mod keeping;

use crate::support::wait::until;
