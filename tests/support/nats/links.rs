//! Proxies for the connections between the servers of a cluster, so that a test can partition one server from the others.

use std::net::SocketAddr;

use tokio::runtime::{Builder, Runtime};

use super::way::{State, Way};

/// A proxy from each server to each other server.
pub(super) struct Links {
    /// The indexes of the source and the target.
    ways: Vec<(usize, usize, Way)>,
    /// Its shutdown may not block: a test ends inside of a runtime.
    runtime: Option<Runtime>,
}

impl Links {
    /// Proxies to these ports, one for each server.
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

    /// The addresses at which one server connects to the others.
    pub(super) fn of(&self, from: usize) -> Vec<String> {
        self.ways.iter().filter(|(own, ..)| *own == from).map(|(.., way)| way.address().to_owned()).collect()
    }

    /// Sets the state of the links between one server and the others.
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
