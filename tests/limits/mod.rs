//! Limits of the real binary: per-client quotas and rates, TLS and HTTP/2, trusted proxies, and the access log.
//!
//! Tests count and wait for conditions; no test asserts a duration.

mod bytes;
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
mod unread_bodies;

use crate::support::{until, within};
