//! The figures of one server at one work.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::support::stats;
use crate::support::targets::Target;

/// The figures of one run; NaN if a work does not have the figure.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub(crate) target: String,
    /// Processor time of the server for each delivery or answer, in microseconds.
    pub(crate) cpu_us: Option<f64>,
    /// Deliveries or answers a second; events, where they come in batches.
    pub(crate) rate: Option<f64>,
    pub(crate) p50_ms: Option<f64>,
    pub(crate) p99_ms: Option<f64>,
    pub(crate) p999_ms: Option<f64>,
    pub(crate) max_ms: Option<f64>,
    pub(crate) bytes_a_connection: Option<f64>,
    pub(crate) lost: u64,
    pub(crate) repeated: u64,
    pub(crate) disordered: u64,
    pub(crate) refused: u64,
}

impl Run {
    pub(crate) fn of(target: Target) -> Self {
        Self {
            target: target.name().into(),
            cpu_us: None,
            rate: None,
            p50_ms: None,
            p99_ms: None,
            p999_ms: None,
            max_ms: None,
            bytes_a_connection: None,
            lost: 0,
            repeated: 0,
            disordered: 0,
            refused: 0,
        }
    }

    pub(crate) fn times(&mut self, micros: &mut [u32]) {
        micros.sort_unstable();
        let share = |share| Some(stats::percentile(micros, share) / 1000.0);
        (self.p50_ms, self.p99_ms, self.p999_ms, self.max_ms) = (share(0.5), share(0.99), share(0.999), share(1.0));
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut figure = |name, value: Option<f64>| match value {
            Some(value) => write!(f, "{name} {:>8}  ", stats::short(value)),
            None => Ok(()),
        };
        figure("CPU us", self.cpu_us)?;
        figure("a second", self.rate)?;
        figure("p50 ms", self.p50_ms)?;
        figure("p99", self.p99_ms)?;
        figure("p99.9", self.p999_ms)?;
        figure("max", self.max_ms)?;
        figure("bytes/connection", self.bytes_a_connection)?;
        write!(f, "lost {} repeated {} out of order {}", self.lost, self.repeated, self.disordered)?;
        if self.refused > 0 { write!(f, " REFUSED {}", self.refused) } else { Ok(()) }
    }
}
