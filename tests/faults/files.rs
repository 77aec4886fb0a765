//! The limit of open files is reached: connected clients are served, and the server recovers by itself.

use std::sync::Arc;

use serde_json::json;

use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{self, Items};

const LIMIT: usize = 100;

#[tokio::test]
async fn with_no_files_left_it_serves_on_and_recovers() {
    let limit = format!("ulimit -n {LIMIT}; exec \"$0\" \"$@\"");
    let directory = Arc::new(tempfile::tempdir().expect("a temporary directory"));
    let server = Server::start_under(&["sh", "-c", &limit], directory, &[]);
    let address = server.address().to_owned();
    let mut items = Items::open(&address, "sse", "topic=a&cursor=earliest").await.expect("open");
    items.named("$hello").await;
    let mut publisher = Connection::open(&address).await.expect("connected");
    let mut number = 0;
    let mut publish = async || {
        number += 1;
        let body = json!({ "topic": "a", "data": number }).to_string();
        publisher.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
        let answer = super::within("an answer", publisher.answer()).await.expect("an answer");
        assert_eq!(answer.status(), 201, "{answer:?}");
        assert_eq!(items.news().await["data"], number);
    };
    publish().await;

    // More than the file limit, and fewer than the listen backlog.
    let mut crowd = Vec::new();
    for _ in 0..LIMIT + LIMIT / 2 {
        let mut connection = Connection::open(&address).await.expect("the kernel connects");
        connection.get("/v1/longpoll?topic=b&wait=60").await.expect("sent");
        crowd.push(connection);
        if crowd.len() % 20 == 0 {
            publish().await;
        }
    }
    super::until("the file limit is reached", async || super::open_files(server.pid()) >= LIMIT - 2).await;
    for _ in 0..20 {
        publish().await;
    }
    drop(crowd);
    let served = super::within("a newcomer", raw::get(&address, "/v1/info")).await;
    assert_eq!(served.expect("an answer").status(), 200);
    publish().await;
}
