//! State that nodes share: deduplication ids, cursors, and remembered clients.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::nodes::{Nodes, end_of_log};
use crate::support::client::{Kind, Query, Subscriber};
use crate::support::http::{Request, Response};
use crate::support::nats::Nats;
use crate::support::wire::{moved, position};

/// Three nodes over one NATS server.
fn three() -> (Nats, Nodes) {
    tokio::task::block_in_place(|| {
        let nats = Nats::single();
        let nodes = Nodes::over(&nats, 3, &[]);
        (nats, nodes)
    })
}

async fn post(address: &str, body: &Value) -> Response {
    Request::post("/v1/events", "application/json", body.to_string()).send(address).await
}

async fn published(address: &str, topic: &str, data: impl Into<Value>) -> String {
    let answer = post(address, &json!({ "topic": topic, "data": data.into() })).await.created().await;
    answer["cursor"].as_str().expect("a cursor").to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_is_known_on_every_node() {
    let (_nats, nodes) = three();
    let one = json!({ "topic": "orders.1", "data": 1, "id": "one" });
    let first = post(nodes.address(0), &one).await.created().await;
    assert_eq!(first["duplicate"], false);
    for node in nodes.addresses().all() {
        // With any payload.
        let again = json!({ "topic": "orders.1", "data": 2, "id": "one" });
        let again = post(&node, &again).await.created().await;
        assert_eq!((&again["duplicate"], &again["cursor"]), (&json!(true), &first["cursor"]));
    }
    // The key is topic and id together.
    let other = json!({ "topic": "orders.2", "data": 1, "id": "one" });
    assert_eq!(post(nodes.address(1), &other).await.created().await["duplicate"], false);
    // The id may also be in the header.
    let with_header = |node: usize| {
        let request = Request::post("/v1/topics/orders.3", "application/json", "3").header("Idempotency-Key", "one");
        let address = nodes.address(node).to_owned();
        async move { request.send(&address).await.created().await }
    };
    let (first, again) = (with_header(1).await, with_header(2).await);
    assert_eq!((&again["duplicate"], &again["cursor"]), (&json!(true), &first["cursor"]));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_all_that_ask_at_once_one_is_the_first() {
    let (_nats, nodes) = three();
    for round in 0..20 {
        let event = json!({ "topic": "race", "data": round, "id": round.to_string() });
        let body = &event;
        let all = nodes.addresses().all();
        let requests = all.iter().chain(&all).map(|node| async move { post(node, body).await.created().await });
        let answers = join_all(requests).await;
        let firsts = answers.iter().filter(|answer| answer["duplicate"] == false).count();
        assert_eq!(firsts, 1, "{answers:?}");
        assert!(answers.iter().all(|answer| answer["cursor"] == answers[0]["cursor"]), "{answers:?}");
    }
    let mut subscriber = Subscriber::at(nodes.address(1), Kind::Poll, Query::topic("race"), "earliest");
    assert_eq!(subscriber.values(20).await, (0..20).map(Value::from).collect::<Vec<_>>());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_one_wherever_it_is_repeated() {
    let (_nats, nodes) = three();
    let batch: Vec<Value> = (0..50).map(|n| json!({ "topic": "b", "data": n, "id": n.to_string() })).collect();
    let batch = json!(batch);
    let first = post(nodes.address(0), &batch).await.created().await;
    let cursors = |answer: &Value| -> Vec<u64> {
        let events = answer["events"].as_array().expect("an outcome each");
        events.iter().map(|event| position(event["cursor"].as_str().expect("a cursor"))).collect()
    };
    let places = cursors(&first);
    assert!(places.windows(2).all(|two| two[0] + 1 == two[1]), "consecutive: {places:?}");
    let again = post(nodes.address(1), &batch).await.created().await;
    assert_eq!(cursors(&again), places);
    assert!(again["events"].as_array().expect("events").iter().all(|event| event["duplicate"] == true), "{again}");
    assert_eq!(position(&end_of_log(nodes.address(2)).await), places[49]);
}

/// The cursor of a just published event is valid on a node that may not have received the event yet: no gap, and no lost event.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_is_good_on_a_node_that_lags() {
    let (_nats, nodes) = three();
    let all = nodes.addresses().all();
    let mut cursor = published(&all[0], "log", 0).await;
    for n in 1..60_usize {
        let node = &all[n % 3];
        let next = published(&all[(n + 1) % 3], "log", n).await;
        // From the cursor before: exactly this event.
        let kind = Kind::ALL[n % Kind::ALL.len()];
        let mut subscriber = Subscriber::at(node, kind, Query::topic("log"), &cursor);
        assert_eq!(subscriber.event().await.value(), n, "{kind}");
        // From this cursor: no event, and no gap.
        let poll = Query::topic("log").with("cursor", &next).request(Kind::Poll);
        let batch = poll.send(&all[(n + 2) % 3]).await.json().await;
        assert_eq!((&batch["events"], &batch["cursor"]), (&json!([]), &json!(next)));
        cursor = next;
    }
    // A cursor that was never issued is ahead, on every node.
    for node in &all {
        let ahead = moved(&cursor, 1000);
        let mut subscriber = Subscriber::at(node, Kind::Longpoll, Query::topic("log"), &ahead);
        let gap = subscriber.item().await;
        assert_eq!((gap.event.as_str(), &gap.value()["reason"]), ("$gap", &json!("ahead")));
        assert_eq!(gap.cursor.as_ref(), Some(&cursor));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_resumes_by_name_on_another_node() {
    let (_nats, nodes) = three();
    let all = nodes.addresses().all();
    for (turn, kind) in Kind::ALL.into_iter().enumerate() {
        let (topic, client) = (format!("name.{kind}"), uuid::Uuid::new_v4().to_string());
        let query = Query::topic(&topic).with("client", &client);
        let mut subscriber = Subscriber::start(&all[turn % 3], kind, query).await;
        published(&all[(turn + 1) % 3], &topic, 0).await;
        assert_eq!(subscriber.values(1).await, [0]);
        let cursor = subscriber.cursor.clone().expect("a cursor");
        subscriber.cut();
        // Acknowledged at a node other than the one that delivered the event.
        let body = json!({ "client": client, "cursor": cursor }).to_string();
        let answer = Request::post("/v1/ack", "application/json", body).send(&all[(turn + 1) % 3]).await;
        assert_eq!(answer.status, 200);
        published(&all[turn % 3], &topic, 1).await;
        // At a third node with the name alone, without patterns.
        let mut again = Subscriber::new(&all[(turn + 2) % 3], kind, Query::default().with("client", &client));
        assert_eq!(again.values(1).await, [1], "{kind}");
    }
}

/// Every node knows which events any node has sent to a client; an acknowledgement beyond them is refused on each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_acknowledgement_beyond_the_sent_events_is_refused_on_every_node() {
    let (_nats, mut nodes) = three();
    let client = uuid::Uuid::new_v4().to_string();
    let query = Query::topic("received").with("client", &client);
    let mut subscriber = Subscriber::start(nodes.address(0), Kind::Poll, query).await;
    let ack = async |node: &str, cursor: &str| {
        let body = json!({ "client": client, "cursor": cursor }).to_string();
        Request::post("/v1/ack", "application/json", body).send(node).await
    };
    published(nodes.address(1), "received", 0).await;
    assert_eq!(subscriber.values(1).await, [0]);
    let received = subscriber.cursor.clone().expect("a cursor");
    subscriber.cut();
    let unheard = published(nodes.address(2), "unheard", 1).await;
    for node in nodes.addresses().all() {
        assert_eq!(ack(&node, &unheard).await.error().await, (400, "bad_cursor".to_owned()));
        assert_eq!(ack(&node, &received).await.status, 200);
    }
    // What an ended node has sent is unknown.
    nodes.kill(1, || {});
    assert_eq!(ack(nodes.address(1), &unheard).await.status, 200);
}

/// A node that is added later has the earlier events, and the remembered clients.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_comes_later_knows_it_all() {
    let (_nats, mut nodes) = three();
    let client = uuid::Uuid::new_v4().to_string();
    let mut subscriber =
        Subscriber::start(nodes.address(0), Kind::Ws, Query::topic("a.>").with("client", &client)).await;
    let publishing = async {
        for n in 0..300 {
            published(nodes.address(n % 3), &format!("a.{}", n % 7), n).await;
        }
    };
    // The client reads meanwhile: a client that is silent for two heartbeats gets `$bye`.
    let ((), received) = tokio::join!(publishing, subscriber.values(300));
    assert_eq!(received.len(), 300);
    let cursor = subscriber.cursor.clone().expect("a cursor");
    subscriber.cut();
    let body = json!({ "client": client, "cursor": moved(&cursor, position(&cursor) - 250) }).to_string();
    let answer = Request::post("/v1/ack", "application/json", body).send(nodes.address(1)).await;
    assert_eq!(answer.status, 200);
    tokio::task::block_in_place(|| {
        nodes.kill(0, || {});
        nodes.add();
    });
    let newest = nodes.address(2);
    assert_eq!(end_of_log(newest).await, cursor);
    let mut again = Subscriber::new(newest, Kind::Sse, Query::default().with("client", &client));
    let received = again.values(250).await;
    assert_eq!(received, (50..300).map(Value::from).collect::<Vec<_>>());
    // Far behind the node's tail, and only some of the topics.
    let mut part = Subscriber::at(newest, Kind::Longpoll, Query::topic("a.3"), &moved(&cursor, 0));
    assert_eq!(part.values(43).await, (0..300).filter(|n| n % 7 == 3).map(Value::from).collect::<Vec<_>>());
}
