//! The works: each is run on every server, freshly started.

use std::time::Duration;

use rand::seq::SliceRandom as _;

use crate::run::Run;
use crate::side::{self, Side, What};
use crate::support::Fault;
use crate::support::targets::{Target, Transport};

/// Pipelined requests in flight on a connection.
const PIPELINED: usize = 64;

/// Events in a batch.
const BATCH_EVENTS: usize = 100;

/// Warm-up before the measurement: code is loaded, buffers have grown.
const WARM_UP: Duration = Duration::from_millis(700);

/// How long a server's turn is: long compared with the warm-up of the caches, short compared with other activity on the
/// machine, which thus affects all servers.
const TURN: Duration = Duration::from_millis(250);

/// The same for events at a rate. The interval between two events is a twentieth of a second: in a short turn the first event,
/// with cold caches, would be one of five.
const PACED_TURN: Duration = Duration::from_secs(1);

pub(crate) struct Work {
    pub(crate) name: &'static str,
    pub(crate) what: What,
}

pub(crate) const ALL: &[Work] = {
    use Transport::{Iframe, Jsonp, Longpoll, Sse, Ws};
    use What::{Deliver, Idle, Polls, Publish};
    const fn work(name: &'static str, what: What) -> Work {
        Work { name, what }
    }
    &[
        work("ws-20k", Deliver(Ws, Some(20_000))),
        work("ws-100k", Deliver(Ws, Some(100_000))),
        work("ws-saturated", Deliver(Ws, None)),
        work("sse-20k", Deliver(Sse, Some(20_000))),
        work("sse-saturated", Deliver(Sse, None)),
        work("iframe-20k", Deliver(Iframe, Some(20_000))),
        work("iframe-saturated", Deliver(Iframe, None)),
        work("longpoll-20k", Deliver(Longpoll, Some(20_000))),
        work("longpoll-saturated", Deliver(Longpoll, None)),
        work("jsonp-20k", Deliver(Jsonp, Some(20_000))),
        work("jsonp-saturated", Deliver(Jsonp, None)),
        work("idle-ws", Idle(Ws)),
        work("idle-sse", Idle(Sse)),
        work("idle-iframe", Idle(Iframe)),
        work("idle-longpoll", Idle(Longpoll)),
        work("idle-jsonp", Idle(Jsonp)),
        work("publish-1", Publish { connections: 1, depth: 1, batch: 1 }),
        work("publish-16", Publish { connections: 16, depth: 1, batch: 1 }),
        work("publish-pipelined", Publish { connections: 1, depth: PIPELINED, batch: 1 }),
        work("publish-batches", Publish { connections: 1, depth: 1, batch: BATCH_EVENTS }),
        work("publish-64", Publish { connections: 64, depth: 1, batch: 1 }),
        work("polls", Polls { connections: 32 }),
    ]
};

impl Work {
    /// Whether a server supports this work.
    pub(crate) fn concerns(&self, target: Target) -> bool {
        match self.what {
            What::Publish { batch, .. } if batch > 1 => target.is_switchback(),
            _ => true,
        }
    }

    /// Runs the work on all servers, on each for so long.
    pub(crate) fn round(&self, targets: &[Target], connections_max: u64, time: Duration) -> Result<Vec<Run>, Fault> {
        if let What::Idle(transport) = self.what {
            let run = |target: &Target| side::idle(*target, connections_max, transport).map_err(by(*target));
            return targets.iter().map(run).collect();
        }
        let mut sides = Vec::new();
        for target in targets {
            let mut side = Side::begin(*target, connections_max, &self.what).map_err(by(*target))?;
            side.turn(WARM_UP).map_err(by(*target))?;
            side.measure();
            sides.push(side);
        }
        // At full speed, much is in flight at the end of each turn, so there is only one turn.
        let turn = match self.what {
            What::Deliver(_, None) => time,
            What::Deliver(_, Some(_)) => PACED_TURN,
            _ => TURN,
        };
        let mut left = time;
        while !left.is_zero() {
            let turn = turn.min(left);
            sides.shuffle(&mut rand::rng());
            for side in &mut sides {
                side.turn(turn).map_err(by(side.target))?;
            }
            left -= turn;
        }
        let end = |side: Side| {
            let target = side.target;
            side.end().map_err(by(target))
        };
        sides.into_iter().map(end).collect()
    }
}

/// Adds the server's name to an error.
fn by(target: Target) -> impl Fn(Fault) -> Fault {
    move |fault| format!("{}: {fault}", target.name()).into()
}
