//! Slow-loris, by `slowhttptest` (Debian's package): heads and bodies that are sent a few bytes at a time.

use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::process::Command;

use crate::common::{Memory, Row, Times, connect, publish};
use crate::support::Server;
use crate::support::raw;

const CONNECTIONS: &str = "1000";

/// Longer than the server's deadline for a head (10 s) and for a body (30 s).
const SECONDS: &str = "40";

/// How often another client publishes.
const EVERY: Duration = Duration::from_millis(20);

pub(crate) async fn run() -> Row {
    let server = Server::start(&[]);
    let memory = Memory::of(&server).await;
    let (mut outcomes, mut stored) = (Vec::new(), 0);
    for (name, mode) in [("heads", "-H"), ("bodies", "-B")] {
        let url = format!("{}/v1/events", server.base);
        let attack = Command::new("slowhttptest")
            .args([mode, "-c", CONNECTIONS, "-r", "500", "-i", "2", "-l", SECONDS, "-x", "10", "-u", &url])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn();
        let Ok(attack) = attack else {
            outcomes.push("not run: slowhttptest is not installed".to_owned());
            break;
        };
        let mut attack = std::pin::pin!(attack.wait_with_output());
        let mut beside = connect(0, server.address()).await;
        let (mut times, mut ticks) = (Times::default(), tokio::time::interval(EVERY));
        let output = loop {
            tokio::select! {
                output = &mut attack => break output.expect("its output"),
                _ = ticks.tick() => {
                    let begun = Instant::now();
                    assert_eq!(publish(&mut beside, &json!({ "topic": "beside", "data": stored })).await.0, 201);
                    times.push(begun.elapsed());
                    stored += 1;
                }
            }
        };
        let text = plain(&String::from_utf8_lossy(&output.stdout));
        let reported =
            |what: &str| text.lines().rev().find_map(|line| line.split_once(what)).map(|(_, rest)| rest.trim());
        let unavailable = text.lines().filter(|line| line.contains("service available") && line.contains("NO")).count();
        assert_eq!((reported("Exit status:"), unavailable), (Some("No open connections left"), 0), "{text}");
        let ended = reported("Test ended on").unwrap_or_default();
        outcomes.push(format!(
            "{name}: all cut by the {ended}, always available, publishing beside them {}",
            times.short()
        ));
    }
    assert_eq!(raw::history(server.address(), "beside").await.len(), stored, "what was acknowledged is there");
    Row {
        what: format!("slow-loris: {CONNECTIONS} connections for {SECONDS} s each (slowhttptest)"),
        how: outcomes.join("; "),
        memory: memory.settled().await,
    }
}

/// Removes escape sequences for colours.
fn plain(text: &str) -> String {
    let mut parts = text.split("\x1b[");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |all, part| all + part.split_once('m').map_or("", |(_, rest)| rest))
}
