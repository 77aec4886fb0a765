//! The real binary at its limits: what one client may take, TLS and HTTP/2, whom it believes, what it writes down.
//!
//! Tests count and wait for conditions; none of them asserts a time.

mod certificates;
mod counts;
mod echo;
mod held;
mod http2;
mod http2_attacks;
mod keyed;
mod log;
mod memory;
mod proxies;
mod rates;
mod readers;
mod requests;
mod scans;
mod sizes;
mod tls;

use crate::support::{until, within};
