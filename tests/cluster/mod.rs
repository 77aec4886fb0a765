//! Several Switchback nodes over one NATS JetStream log: the promises of one node hold for the cluster, whatever NATS fault there
//! is.
//!
//! A real NATS cluster of three servers, real nodes, clients that send each request to a different node, and an external ledger
//! that checks every delivery. The random seed is printed; `CLUSTER_SEED=n` runs the same again, as far as the timing of the
//! processes allows.

mod across;
mod beneath;
mod clocks;
mod faults;
mod follower;
mod gaps;
mod harness;
mod ledger;
mod load;
mod lost;
mod nodes;
mod partition;
mod publisher;
mod rights;

use crate::support::{DEADLINE, until};

/// Tests with a NATS cluster of three run one at a time: the seven processes of one test are enough for a machine.
static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// The seed of everything random in a test.
fn seed(test: &str) -> u64 {
    let given = std::env::var("CLUSTER_SEED").ok().map(|seed| seed.parse().expect("CLUSTER_SEED is a number"));
    let seed = given.unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    println!("{test}: CLUSTER_SEED={seed}");
    seed
}
