//! The connections between the servers of a cluster, each by a way of its own, so that one can be cut from the others.

use std::net::SocketAddr;

use tokio::runtime::{Builder, Runtime};

use super::way::{State, Way};

/// A way from each server to each other.
pub(super) struct Links {
    /// From which, to which.
    ways: Vec<(usize, usize, Way)>,
    /// Its end may not block: that of a test is inside of a runtime.
    runtime: Option<Runtime>,
}

impl Links {
    /// To these ports, one of each server.
    pub(super) fn to(ports: &[SocketAddr]) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
        let ways = runtime.block_on(async {
            let mut ways = Vec::new();
            for from in 0..ports.len() {
                for (to, port) in ports.iter().enumerate().filter(|(to, _)| *to != from) {
                    ways.push((from, to, Way::to(port.to_string()).await));
                }
            }
            ways
        });
        Self { ways, runtime: Some(runtime) }
    }

    /// Where one server finds the others.
    pub(super) fn of(&self, from: usize) -> Vec<String> {
        self.ways.iter().filter(|(own, ..)| *own == from).map(|(.., way)| way.address().to_owned()).collect()
    }

    /// What becomes of what is sent between one server and the others.
    pub(super) fn set(&self, index: usize, state: State) {
        for (.., way) in self.ways.iter().filter(|(from, to, _)| [*from, *to].contains(&index)) {
            way.set(state);
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}
