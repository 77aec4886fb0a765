//! Several servers over one log: what holds on one node holds on all of them together, whatever fails beneath.
//!
//! A real NATS cluster of three, real nodes, clients that send every request to another node, and a ledger outside of all
//! of them that decides. Randomness comes from a seed that is printed; `CLUSTER_SEED=n` runs the same again, as far as
//! other processes' timing allows.

mod beneath;
#[allow(dead_code, unreachable_pub)] // Shared with other test crates, each of which uses a part.
#[path = "../support/nats.rs"]
mod nats;
