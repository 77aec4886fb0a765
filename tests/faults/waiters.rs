//! A client that disconnects during a held request leaves nothing behind in the server.

use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{self, Items, STREAMS};

const HELD: [&str; 3] = ["longpoll?wait=60&", "jsonp?callback=f&wait=60&", "iframe?once=1&wait=60&"];

async fn transports(address: &str, client: &str) -> Option<usize> {
    let answer = raw::get(address, &format!("/v1/clients/{client}")).await.expect("an answer");
    (answer.status() == 200).then(|| answer.json()["transports"].as_array().expect("a list").len())
}

/// Holds a control request that begins before those of a test, for the same wait: while it is held, no request of the test has
/// timed out.
async fn hold(address: &str) -> (Connection, String) {
    let client = uuid::Uuid::new_v4().to_string();
    let mut connection = Connection::open(address).await.expect("connected");
    connection.get(&format!("/v1/{}topic=a&client={client}", HELD[0])).await.expect("sent");
    super::until("the request is held", async || transports(address, &client).await == Some(1)).await;
    (connection, client)
}

#[tokio::test]
async fn an_aborted_request_frees_its_waiter() {
    let server = Server::start(&["--heartbeat", "1h"]);
    let address = server.address();
    let streams = STREAMS.map(|transport| (transport, format!("{transport}?")));
    for (name, path) in HELD.map(|held| ("held", held.to_owned())).into_iter().chain(streams) {
        let (_other, other) = hold(address).await;
        let client = uuid::Uuid::new_v4().to_string();
        let mut connection = Connection::open(address).await.expect("connected");
        let path = format!("/v1/{path}topic=a&client={client}");
        if name == "ws" { connection.upgrade(&path).await } else { connection.get(&path).await }.expect("sent");
        super::until("the request is held", async || transports(address, &client).await == Some(1)).await;
        drop(connection);
        super::until("the request is dropped", async || {
            transports(address, &client).await.is_none_or(|count| count == 0)
        })
        .await;
        assert_eq!(transports(address, &other).await, Some(1), "{path} was held until its timeout");
    }
}

/// The same for unnamed clients, by the open files of the process.
#[tokio::test]
async fn aborted_requests_give_their_files_back() {
    const CONNECTIONS: usize = 60;
    let server = Server::start(&["--heartbeat", "1h"]);
    let address = server.address();
    // Files that stay open are open by now.
    raw::get(address, "/v1/longpoll?topic=a&wait=0").await.expect("an answer");
    let settled = async || raw::get(address, "/v1/info").await.expect("an answer").status() == 200;
    assert!(settled().await);
    let (_other, other) = hold(address).await;
    let before = super::open_files(server.pid());
    let mut held = Vec::new();
    for number in 0..CONNECTIONS {
        let mut connection = Connection::open(address).await.expect("connected");
        connection.get(&format!("/v1/{}topic=a", HELD[number % HELD.len()])).await.expect("sent");
        held.push(connection);
    }
    super::until("the clients are connected", async || super::open_files(server.pid()) >= before + CONNECTIONS - 5)
        .await;
    // A held request has no response before there is an event.
    let published = server.publish(&serde_json::json!({ "topic": "b", "data": 1 })).await;
    assert_eq!(raw::position(&published["cursor"]), 1);
    drop(held);
    super::until("the sockets are closed", async || super::open_files(server.pid()) <= before + 5).await;
    assert_eq!(transports(address, &other).await, Some(1), "the requests were held until their timeout");
    let mut items = Items::open(address, "sse", "topic=a").await.expect("the server still serves");
    items.named("$hello").await;
}
