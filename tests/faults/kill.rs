//! Repeated `kill -9` under load.

use rand::RngExt as _;
use std::time::Duration;

use super::ledger::Load;
use crate::support::Server;

const ROUNDS: usize = 10;

/// The number of acknowledged events before the next kill, so that there is something to lose.
const BETWEEN: usize = 60;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_acknowledged_is_lost_and_nothing_comes_twice() {
    let mut rng = super::seeded("kill");
    let mut server = Server::start(&[]);
    let load = Load::start(&server, &["sse", "ws", "longpoll", "stream"]).await;
    for round in 0..ROUNDS {
        let goal = load.acknowledged() + BETWEEN;
        super::until("publishing continues", async || load.acknowledged() >= goal).await;
        tokio::time::sleep(Duration::from_millis(rng.random_range(0..120))).await;
        // Sometimes twice in a row, so that the log's recovery is interrupted, too.
        server = server.kill_and_restart();
        if round % 4 == 3 {
            server = server.kill_and_restart();
        }
    }
    let goal = load.acknowledged() + BETWEEN;
    super::until("publishing continues", async || load.acknowledged() >= goal).await;
    println!("kill: {} events", load.judge().await);
}
