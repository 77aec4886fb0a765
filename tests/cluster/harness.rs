//! Tests of the harness: on a single node with a log on disk it finds no error; with a proxy that makes events be lost or
//! repeated, it reports the error, on every transport.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use super::ledger::{Part, judge};
use super::load::Load;
use super::nodes::{Addresses, Nodes};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_that_is_killed() {
    let mut nodes = Nodes::on_disk();
    let load = Load::start(nodes.addresses(), super::seed("one node")).await;
    for _ in 0..2 {
        load.more(150).await;
        tokio::task::block_in_place(|| nodes.kill_and_restart(0));
    }
    load.more(150).await;
    let report = load.judge("one node, killed twice").await;
    assert!(report.failures > 0, "no request failed, so nothing was tested");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lossy_path_is_detected() {
    detects_moved_cursors(3).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeating_path_is_detected() {
    detects_moved_cursors(-3).await;
}

/// The number of events in the log before the subscribers start; the proxy corrupts cursors of the first. More than one request
/// delivers, so that every subscriber is affected, and so few that no cursor is moved past the end.
const PUBLISHED: usize = 320;
const LIED_ABOUT: u64 = 250;

/// The number of positions by which the proxy moves cursors.
async fn detects_moved_cursors(by: i64) {
    let nodes = Nodes::on_disk();
    let lying = lying_proxy(nodes.address(0).to_owned(), by).await;
    let mut load = Load::publishing(nodes.addresses(), super::seed("a lying way")).await;
    load.more(PUBLISHED).await;
    load.listen(&Addresses::of(vec![lying]));
    let (promised, accounts, _) = load.finish().await;
    let wrong = judge(&promised, &accounts).expect_err("the ledger detects it");
    println!("moved by {by}: {wrong}");
    // The fault is found for each subscriber behind the proxy by itself; the node's own log is correct.
    let (history, others) = accounts.split_last().expect("accounts");
    assert_eq!(judge(&promised, std::slice::from_ref(history)), Ok(()));
    // A slow subscriber receives more events at a time than are corrupted.
    for account in others.iter().filter(|account| account.part == Part::All && !account.name.contains("slow")) {
        judge(&promised, &[history.clone(), account.clone()]).expect_err(&account.name);
    }
}

/// A proxy that moves the cursor in every request.
async fn lying_proxy(upstream: String, by: i64) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(pass_on(client, upstream.clone(), by));
        }
    });
    address
}

async fn pass_on(mut client: TcpStream, upstream: String, by: i64) -> std::io::Result<()> {
    let mut server = TcpStream::connect(upstream).await?;
    // The head of a request arrives in one read.
    let mut head = vec![0; 8 << 10];
    let read = client.read(&mut head).await?;
    server.write_all(moved(&String::from_utf8_lossy(&head[..read]), by).as_bytes()).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

fn moved(head: &str, by: i64) -> String {
    const DASH: &str = "%2D";
    let start = head.find("cursor=").and_then(|at| Some(at + head[at..].find(DASH)? + DASH.len()));
    let Some(start) = start else { return head.to_owned() };
    let end = head[start..].find(|c: char| !c.is_ascii_digit()).map_or(head.len(), |length| start + length);
    let position: u64 = head[start..end].parse().expect("a position");
    let moved = if position <= LIED_ABOUT { position.saturating_add_signed(by) } else { position };
    format!("{}{moved}{}", &head[..start], &head[end..])
}
