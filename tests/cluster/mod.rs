//! Several servers over one log: what holds on one node holds on all of them together, whatever fails beneath.
//!
//! A real NATS cluster of three, real nodes, clients that send every request to another node, and a ledger outside of all
//! of them that decides. Randomness comes from a seed that is printed; `CLUSTER_SEED=n` runs the same again, as far as
//! other processes' timing allows.

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

/// Each test with a cluster of three beneath it has the machine to itself: seven processes are enough for it.
static MACHINE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// What all that is random in a test comes from.
fn seed(test: &str) -> u64 {
    let given = std::env::var("CLUSTER_SEED").ok().map(|seed| seed.parse().expect("CLUSTER_SEED is a number"));
    let seed = given.unwrap_or_else(|| rand::random_range(0..1_000_000_000));
    println!("{test}: CLUSTER_SEED={seed}");
    seed
}
