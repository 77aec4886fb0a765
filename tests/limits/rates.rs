//! Rate limits: subscriptions and events a second for one address; excess requests are refused with a retry delay, and no batch
//! is lost or stored in part.

use serde_json::{Value, json};

use super::counts::assert_refused;
use crate::support::Server;
use crate::support::http::Connection;
use crate::support::raw::{self, Items, masked};

/// Events on a topic, from the beginning.
async fn stored(address: &str, topic: &str) -> usize {
    raw::history(address, topic).await.len()
}

#[tokio::test]
async fn publishing_has_a_pace() {
    let server = Server::start(&["--publish-rate-per-address", "1", "--publish-burst", "5"]);
    let address = server.address();
    let batch: Vec<Value> = (0..5).map(|number| json!({ "topic": "a", "data": number })).collect();
    // A batch above the burst size never has room: it is refused without a retry delay.
    let six: Vec<Value> = (0..6).map(|number| json!({ "topic": "a", "data": number })).collect();
    let answer = raw::post(address, &json!(six)).await.expect("an answer");
    assert_eq!((answer.status(), answer.code().as_str()), (413, "too_large"));
    assert_eq!(answer.head.header("retry-after"), None);
    assert_eq!(raw::post(address, &json!(batch)).await.expect("an answer").status(), 201);
    assert_refused(&raw::post(address, &json!(batch)).await.expect("an answer"), 429, "too_fast");
    assert_eq!(stored(address, "a").await, 5, "a batch is stored whole or not at all");
    // After a while there is room again.
    super::until("there is room again", async || {
        raw::post(address, &json!({ "topic": "b", "data": 1 })).await.expect("an answer").status() == 201
    })
    .await;
    // Another address has a rate of its own.
    let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
    socket.bind("127.0.0.77:0".parse().expect("an address")).expect("bound");
    let mut other = Connection::on(socket.connect(address.parse().expect("an address")).await.expect("connected"));
    other.post("/v1/events", "application/json", json!(batch).to_string().as_bytes()).await.expect("sent");
    assert_eq!(other.answer().await.expect("an answer").status(), 201);
}

/// A stream of lines is slowed down by backpressure: unread lines stay in the socket.
#[tokio::test]
async fn lines_are_slowed_down_and_all_stored() {
    let server = Server::start(&["--publish-rate-per-address", "200", "--publish-burst", "10"]);
    let lines: String = (0..300).map(|number| json!({ "topic": "lines", "data": number }).to_string() + "\n").collect();
    let mut connection = Connection::open(server.address()).await.expect("connected");
    connection.post("/v1/events", "application/x-ndjson", lines.as_bytes()).await.expect("sent");
    let answer = super::within("an answer", connection.answer()).await.expect("an answer");
    assert_eq!((answer.status(), answer.json()["accepted"].as_u64()), (201, Some(300)));
    let all = raw::history(server.address(), "lines").await;
    assert!(all.iter().enumerate().all(|(number, item)| item["data"] == number), "in order");
}

#[tokio::test]
async fn subscribing_has_a_pace() {
    let server = Server::start(&["--connect-rate-per-address", "1", "--connect-burst", "4"]);
    let address = server.address();
    for _ in 0..4 {
        assert_eq!(raw::get(address, "/v1/poll?topic=a").await.expect("an answer").status(), 200);
    }
    for path in ["poll", "longpoll", "sse", "stream"] {
        let answer = raw::get(address, &format!("/v1/{path}?topic=a")).await.expect("an answer");
        assert_refused(&answer, 429, "too_fast");
    }
    let mut connection = Connection::open(address).await.expect("connected");
    connection.upgrade("/v1/ws?topic=a").await.expect("sent");
    assert_refused(&connection.answer().await.expect("an answer"), 429, "too_fast");
    // Publishing and `/v1/info` do not count as subscribing.
    assert_eq!(raw::get(address, "/v1/info").await.expect("an answer").status(), 200);
    assert_eq!(raw::post(address, &json!({ "topic": "a", "data": 1 })).await.expect("an answer").status(), 201);
}

/// On a WebSocket the refusal is a reply; a client that ignores it is closed, and accepted events are stored.
#[tokio::test]
async fn a_socket_that_is_too_fast_gets_an_error_and_is_then_closed() {
    let server = Server::start(&["--publish-rate-per-address", "1", "--publish-burst", "3"]);
    let mut items = Items::open(server.address(), "ws", "").await.expect("open");
    items.named("$hello").await;
    let publish = |number: u32| {
        let message = json!({ "type": "publish", "topic": "a", "data": number, "ref": number }).to_string();
        masked(0x81, message.as_bytes())
    };
    for number in 0..10 {
        items.connection.send(publish(number)).await.expect("sent");
    }
    // A refusal does not wait for the store, so it may arrive before the reply to an earlier publish.
    let (mut accepted, mut refused) = (0, 0);
    while accepted + refused < 10 {
        let reply = items.named("$reply").await;
        match reply["data"]["ok"].as_bool() {
            Some(true) => accepted += 1,
            _ => {
                assert_eq!(reply["data"]["error"]["code"], "too_fast");
                refused += 1;
            }
        }
    }
    assert!(accepted >= 3 && refused > 0, "{accepted} {refused}");
    let flood: Vec<u8> = (0..500).flat_map(publish).collect();
    // The server may close the connection while the client still sends.
    let _ = items.connection.send(flood).await;
    let closed = async {
        while let Ok(Some(item)) = items.next().await {
            accepted += usize::from(item["data"]["ok"] == true);
        }
    };
    super::within("a close", closed).await;
    assert_eq!(items.close_code, Some(1013));
    assert_eq!(stored(server.address(), "a").await, accepted);
}

/// A flood from one address does not use up the rates of others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_does_not_stop_the_others() {
    let server = Server::start(&["--publish-rate-per-address", "50", "--publish-burst", "50"]);
    let address = server.address().to_owned();
    let flooding = {
        let address = address.clone();
        tokio::spawn(async move {
            let mut statuses = [0_usize; 2];
            for _ in 0..2000 {
                let answer = raw::post(&address, &json!({ "topic": "flood", "data": 1 })).await.expect("an answer");
                statuses[usize::from(answer.status() == 429)] += 1;
                assert!(matches!(answer.status(), 201 | 429));
            }
            statuses
        })
    };
    for number in 0..50 {
        let socket = tokio::net::TcpSocket::new_v4().expect("a socket");
        socket.bind("127.0.0.88:0".parse().expect("an address")).expect("bound");
        let stream = socket.connect(address.parse().expect("an address")).await.expect("connected");
        let mut connection = Connection::on(stream);
        let body = json!({ "topic": "calm", "data": number }).to_string();
        connection.post("/v1/events", "application/json", body.as_bytes()).await.expect("sent");
        assert_eq!(connection.answer().await.expect("an answer").status(), 201);
    }
    let [accepted, refused] = super::within("the flood's end", flooding).await.expect("the flood ends");
    assert!(refused > accepted, "{accepted} {refused}");
    assert_eq!((stored(&address, "flood").await, stored(&address, "calm").await), (accepted, 50));
}
