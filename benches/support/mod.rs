//! Shared code of the benchmarks: the machine, the servers under test, the load, the figures.
//!
//! A benchmark includes the whole module and uses a part.
#![allow(dead_code)]

pub(crate) mod floor;
pub(crate) mod http;
pub(crate) mod load;
pub(crate) mod machine;
pub(crate) mod publish;
pub(crate) mod seen;
pub(crate) mod servers;
pub(crate) mod stats;
pub(crate) mod svg;
pub(crate) mod targets;

/// An error that stops a measurement.
pub(crate) type Fault = Box<dyn std::error::Error + Send + Sync>;
