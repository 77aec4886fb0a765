//! Fault injection into a cluster of three nodes over three NATS servers, under load over every transport: no acknowledged event
//! is lost, none is repeated, and the cluster recovers by itself.

use std::time::Duration;

use super::MACHINE;
use super::load::{Load, Report};
use super::nodes::{Nodes, stream_of};
use crate::support::nats::Nats;

/// The number of acknowledged events before each fault, and after it.
const BETWEEN: usize = 150;

/// How long a NATS server is paused: longer than an election takes.
const HELD_STILL: Duration = Duration::from_secs(10);

/// Runs a load, with a fault in the middle.
async fn while_it_runs(what: &str, fault: impl FnOnce(&mut Nats, &mut Nodes, &Load)) -> Report {
    let _alone = MACHINE.lock().await;
    let (mut nats, mut nodes) = tokio::task::block_in_place(|| {
        let nats = Nats::cluster();
        let nodes = Nodes::over(&nats, 3, &[]);
        (nats, nodes)
    });
    let load = Load::start(nodes.addresses(), super::seed(what)).await;
    load.more(BETWEEN).await;
    tokio::task::block_in_place(|| fault(&mut nats, &mut nodes, &load));
    load.more(BETWEEN).await;
    load.judge(what).await
}

/// Waits, from a blocking context, until publishing has continued.
fn goes_on(load: &Load) {
    tokio::runtime::Handle::current().block_on(load.more(BETWEEN));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_fails() {
    while_it_runs("nothing fails", |_, _, load| goes_on(load)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_killed_and_comes_back() {
    while_it_runs("the stream's leader killed", |nats, _, load| {
        let leader = nats.leader_of(&stream_of(nats)).expect("the log has a leader");
        nats.kill(leader);
        goes_on(load);
        nats.restart(leader);
        nats.wait_until_ready();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_leader_is_held_still() {
    while_it_runs("the stream's leader held still for 10 s", |nats, _, load| {
        let leader = nats.leader_of(&stream_of(nats)).expect("the log has a leader");
        nats.pause(leader);
        // The fault is this pause.
        std::thread::sleep(HELD_STILL);
        goes_on(load);
        nats.resume(leader);
        nats.wait_until_ready();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_server_of_nats_is_restarted_in_turn() {
    while_it_runs("every NATS server killed and restarted in turn", |nats, _, load| {
        for index in 0..nats.len() {
            nats.kill(index);
            goes_on(load);
            nats.restart(index);
            nats.wait_until_ready();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_is_killed_and_another_added() {
    let report = while_it_runs("a node killed, another added", |_, nodes, load| {
        nodes.kill(0, || tokio::runtime::Handle::current().block_on(load.failure()));
        goes_on(load);
        nodes.add();
        assert_eq!(nodes.len(), 3);
    })
    .await;
    assert!(report.failures > 0, "no request failed, so nothing was tested");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_nodes_are_restarted_in_turn() {
    let report = while_it_runs("a rolling restart of the nodes", |_, nodes, load| {
        for index in 0..nodes.len() {
            nodes.restart(index);
            goes_on(load);
        }
    })
    .await;
    assert!(report.failures > 0, "no request failed, so nothing was tested");
}
