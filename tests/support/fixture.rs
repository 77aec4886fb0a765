//! Test fixtures: a shared server, unique topics, publishing.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use serde_json::{Value, json};

use super::Server;
use super::http::Request;

/// Makes a test of its own for each of the given transports.
macro_rules! over {
    (in $test:ident: $($name:ident $kind:ident),+ $(,)?) => { over! { @in $test: $($name $kind),+ } };
    ($kinds:ident: $($test:ident),+ $(,)?) => { $( over! { @$kinds $test } )+ };
    (@every $test:ident) => {
        over! { @in $test: poll Poll, longpoll Longpoll, jsonp Jsonp, jsonp_poll JsonpPoll, iframe Iframe,
                iframe_once IframeOnce, sse Sse, stream Stream, ws Ws }
    };
    (@streams $test:ident) => { over! { @in $test: iframe Iframe, sse Sse, stream Stream, ws Ws } };
    (@batches $test:ident) => {
        over! { @in $test: poll Poll, longpoll Longpoll, jsonp Jsonp, jsonp_poll JsonpPoll, iframe_once IframeOnce }
    };
    (@held $test:ident) => { over! { @in $test: longpoll Longpoll, jsonp Jsonp, iframe_once IframeOnce } };
    (@in $test:ident: $($name:ident $kind:ident),+) => {
        mod $test {
            $( #[tokio::test] async fn $name() { super::$test(crate::support::client::Kind::$kind).await } )+
        }
    };
}
pub(crate) use over;

static SHARED: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// The server of tests that need no flags; each such test has topics of its own. The server ends with its last handle.
///
/// Its heartbeats are long: many a test leaves a socket unread while it does something else, and the server closes a socket whose
/// pings are not answered for two heartbeats, which on a loaded machine pass quickly.
pub(crate) fn shared() -> Arc<Server> {
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    shared.upgrade().unwrap_or_else(|| {
        let server = Arc::new(Server::start(&["--heartbeat", "1m", "--workers", "2"]));
        *shared = Arc::downgrade(&server);
        server
    })
}

/// A topic that no other test uses.
pub(crate) fn topic(name: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{name}{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A random UUID.
pub(crate) fn uuid() -> String {
    uuid::Uuid::new_v4().to_string()
}

/// Publishes one event; returns its cursor.
pub(crate) async fn publish(server: &Server, topic: &str, data: impl Into<Value>) -> String {
    let answer = post_events(server, &json!({ "topic": topic, "data": data.into() })).await;
    answer["cursor"].as_str().expect("a cursor").to_owned()
}

/// Publishes events on one topic, consecutively; returns their cursors.
pub(crate) async fn publish_all(server: &Server, topic: &str, data: impl IntoIterator<Item = Value>) -> Vec<String> {
    let events: Vec<Value> = data.into_iter().map(|data| json!({ "topic": topic, "data": data })).collect();
    let answer = post_events(server, &json!(events)).await;
    let events = answer["events"].as_array().expect("an outcome each");
    events.iter().map(|event| event["cursor"].as_str().expect("a cursor").to_owned()).collect()
}

/// Publishes a body that has to be accepted.
pub(crate) async fn post_events(server: &Server, body: &Value) -> Value {
    let answer = Request::post("/v1/events", "application/json", body.to_string()).send(server.address()).await;
    answer.created().await
}

/// The cursor at the end of the log.
pub(crate) async fn end_of_log(server: &Server) -> String {
    let info = Request::get("/v1/info").send(server.address()).await.json().await;
    info["cursor"].as_str().expect("a cursor").to_owned()
}

/// Small numbers as JSON.
pub(crate) fn numbers(range: std::ops::Range<u32>) -> Vec<Value> {
    range.map(Value::from).collect()
}
