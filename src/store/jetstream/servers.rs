//! The choice of the NATS server to connect to: round robin, with servers that were left for having no quorum last.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use async_nats::{ReconnectToServer, Server};
use rand::seq::SliceRandom as _;

use crate::sync::lock;

/// How long a server that was left is the last choice.
const LEFT_FOR: Duration = Duration::from_secs(60);

/// The servers of a node's cluster, as far as the node has tried them.
#[derive(Debug, Default)]
pub(super) struct Servers {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The server that was tried last; where there is a connection, it is to this server.
    current: Option<String>,
    /// When each server was tried and left; bounded by the servers that the library knows.
    tried: HashMap<String, Tried>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Tried {
    at: Option<Instant>,
    left: Option<Instant>,
}

impl Servers {
    /// The server to try next: of those that were not left recently, the one whose last attempt is the oldest.
    pub(super) fn choose(&self, pool: &[Server]) -> Option<ReconnectToServer> {
        let mut names: Vec<(String, &Server)> =
            pool.iter().map(|server| (server.addr.as_url_str().to_owned(), server)).collect();
        names.shuffle(&mut rand::rng());
        let now = Instant::now();
        let mut state = lock(&self.state);
        state.tried.retain(|known, _| names.iter().any(|(name, _)| name == known));
        let order = |tried: Tried| {
            let left = tried.left.filter(|left| now.duration_since(*left) < LEFT_FOR);
            (left, tried.at)
        };
        let next = names.iter().min_by_key(|(name, _)| order(state.tried.get(name).copied().unwrap_or_default()));
        let (name, server) = next?;
        state.tried.entry(name.clone()).or_default().at = Some(now);
        state.current = Some(name.clone());
        Some(ReconnectToServer { addr: server.addr.clone(), delay: None })
    }

    /// Marks the current server as left; returns its name.
    pub(super) fn leave(&self) -> Option<String> {
        let mut state = lock(&self.state);
        let current = state.current.clone()?;
        state.tried.entry(current.clone()).or_default().left = Some(Instant::now());
        Some(current)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(names: &[&str]) -> Vec<Server> {
        let server = |name: &&str| Server {
            addr: format!("nats://{name}:4222").parse().unwrap(),
            failed_attempts: 0,
            did_connect: false,
            is_discovered: false,
            last_error: None,
        };
        names.iter().map(server).collect()
    }

    #[test]
    fn servers_are_tried_in_turn_and_one_that_was_left_last() {
        let (servers, all) = (Servers::default(), pool(&["a", "b", "c"]));
        let next = || servers.choose(&all).unwrap().addr.as_url_str().to_owned();
        assert_eq!(servers.leave(), None);
        let first = next();
        assert_eq!(servers.leave().as_ref(), Some(&first));
        let (second, third) = (next(), next());
        assert!(second != third && second != first && third != first);
        for _ in 0..3 {
            assert_eq!((next(), next()), (second.clone(), third.clone()), "the first one was left");
        }
        // Where there is no other server, the one that was left is chosen.
        let only = pool(&[first.rsplit('/').next().unwrap().split(':').next().unwrap()]);
        assert_eq!(servers.choose(&only).unwrap().addr.as_url_str(), first);
        assert!(servers.choose(&[]).is_none());
    }
}
