//! The corpus and streaming behind a real nginx, with its default and with the recommended configuration.

use futures_util::StreamExt as _;
use serde_json::{Value, json};

use super::corpus;
use super::nginx::{Nginx, Upstream};
use crate::support::http::Connection;
use crate::support::raw::{self, Items, STREAMS};
use crate::support::watched::{self, exchange};

const AT_ONCE: usize = 16;

/// nginx refuses these itself: an unknown transfer encoding, an unsupported version.
const OF_NGINX: [u16; 2] = [501, 505];

/// nginx accepts chunks whose lines end in a bare line feed, skips trailers of any form, and forwards a normalised body without
/// them. So the request behind the chunks is a valid one for nginx and for the server alike: they agree, and nothing is smuggled.
const CHUNKS_TO_NGINX: [&str; 11] = [
    "a chunk that ends in a bare lf",
    "an extension with a bare lf",
    "a request in the place of trailers",
    "a trailer without a name",
    "a trailer that ends in a bare lf",
    "a bare lf after the last chunk",
    "a trailer with a space in its name",
    "a folded trailer",
    "a trailer with a nul",
    "a trailer without a colon",
    "trailers that end in bare lfs",
];

async fn nonsense(upstream: Upstream) {
    let (server, errors) = watched::watched(&watched::IMPATIENT);
    let nginx = Nginx::before(server.address(), upstream);
    let corpus = corpus::all();
    let faults: Vec<Option<String>> = futures_util::stream::iter(&corpus)
        .map(async |nonsense| {
            let received = exchange(nginx.address(), nonsense.name, &nonsense.bytes).await;
            let wrong = received.statuses.iter().any(|status| *status >= 500 && !OF_NGINX.contains(status));
            let text: String = received.text.chars().take(300).collect();
            let at_most = if CHUNKS_TO_NGINX.contains(&nonsense.name) { 2 } else { 1 };
            (wrong || received.statuses.len() > at_most)
                .then(|| format!("{}: {:?}: {text}", nonsense.name, received.statuses))
        })
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;
    let faults: Vec<String> = faults.into_iter().flatten().collect();
    assert!(faults.is_empty(), "{} of {}:\n{}", faults.len(), corpus.len(), faults.join("\n"));
    let smuggled = watched::smuggled(&server).await;
    let hidden = smuggled.iter().filter(|topic| !CHUNKS_TO_NGINX.iter().any(|name| **topic == corpus::topic(name)));
    assert_eq!(hidden.collect::<Vec<_>>(), [""; 0], "requests that were hidden in others");
    watched::check_unharmed(&server, &errors).await;
    // The proxy still works: no keep-alive connection of nginx has a partial response in it.
    for number in 0..8 {
        let answer = raw::post(nginx.address(), &json!({ "topic": "after", "data": number })).await.expect("an answer");
        assert_eq!(answer.status(), 201, "{}", answer.text());
    }
    assert_eq!(raw::history(nginx.address(), "after").await.len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_smuggle_none_behind_a_default_proxy() {
    nonsense(Upstream::Plain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_smuggle_none_on_shared_upstream_connections() {
    nonsense(Upstream::Upgrading).await;
}

/// An event reaches a connected subscriber at once: the proxy does not buffer the stream.
async fn check_live(through: &str, transport: &'static str) {
    let topic = format!("live.{transport}");
    let mut items = super::within("the head", Items::open(through, transport, &format!("topic={topic}&cursor=now")))
        .await
        .unwrap_or_else(|error| panic!("{transport}: {error}"));
    assert_eq!(items.item().await["event"], "$hello", "{transport}");
    let large = "x".repeat(200 << 10);
    for data in [json!(1), json!({ "two": "<>&\u{2028}" }), json!(large), json!(null)] {
        let answer = raw::post(through, &json!({ "topic": topic, "data": data })).await.expect("an answer");
        assert_eq!(answer.status(), 201, "{}", answer.text());
        assert_eq!(items.news().await["data"], data, "{transport}");
        if transport == "iframe" && data == large {
            // The document has reached its byte budget, and another is requested.
            assert_eq!(items.item().await["event"], "$bye");
            return;
        }
    }
}

/// A held request completes with the next event.
async fn check_held(through: &str, transport: &str, before: &str, after: &str) {
    let topic = format!("held.{transport}");
    let cursor = raw::get(through, "/v1/info").await.expect("an answer").json()["cursor"].clone();
    let more = match transport {
        "jsonp" => "&callback=cb",
        "iframe" => "&once=1",
        _ => "",
    };
    let path = format!("/v1/{transport}?topic={topic}&cursor={}{more}", cursor.as_str().expect("a cursor"));
    let mut connection = Connection::open(through).await.expect("connected");
    connection.get(&path).await.expect("sent");
    let answer = raw::post(through, &json!({ "topic": topic, "data": "<news>" })).await.expect("an answer");
    assert_eq!(answer.status(), 201, "{}", answer.text());
    let answer = super::within("an answer", connection.answer()).await.expect("an answer");
    assert_eq!(answer.status(), 200, "{transport}: {}", answer.text());
    let text = answer.text();
    let json = text.rsplit_once(before).map_or(text.as_str(), |(_, behind)| behind);
    let json = json.split(after).next().expect("something is in front of the end");
    let batch: Value = serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(batch["events"][0]["data"], "<news>", "{transport}");
}

async fn transports(upstream: Upstream) {
    let (server, errors) = watched::watched(&["--allow-anonymous"]);
    let nginx = Nginx::before(server.address(), upstream);
    let through = nginx.address();
    for transport in STREAMS {
        if transport != "ws" || upstream == Upstream::Upgrading {
            check_live(through, transport).await;
            continue;
        }
        // A proxy without upgrades: the client gets an error at once, and switches to another transport.
        let mut connection = Connection::open(through).await.expect("connected");
        connection.upgrade("/v1/ws?topic=a").await.expect("sent");
        let answer = super::within("an answer", connection.answer()).await.expect("an answer");
        assert!((400..500).contains(&answer.status()), "{}", answer.text());
        assert!(!answer.code().is_empty());
    }
    check_held(through, "longpoll", "\r\n\r\n", "\r\n\r\n").await;
    check_held(through, "jsonp", "/**/cb(", ");").await;
    check_held(through, "iframe", ">p(", ")</script>").await;
    let (_, events) = raw::poll(through, "/v1/poll?topic=held.%3E&cursor=earliest").await.expect("a batch");
    assert_eq!(events.len(), 3);
    watched::check_unharmed(&server, &errors).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transports_work_behind_a_plain_proxy() {
    transports(Upstream::Plain).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transports_work_behind_a_proxy_that_upgrades() {
    transports(Upstream::Upgrading).await;
}

/// Without a key, forwarded requests are refused, unless the operator allows them.
#[tokio::test]
async fn without_a_key_a_proxys_clients_are_refused() {
    let (server, errors) = watched::watched(&[]);
    let nginx = Nginx::before(server.address(), Upstream::Forwarding);
    for path in ["/v1/poll?topic=a", "/v1/info", "/v1/sse?topic=a"] {
        let answer = raw::get(nginx.address(), path).await.expect("an answer");
        assert_eq!(answer.status(), 403, "{}", answer.text());
    }
    let refused = raw::post(nginx.address(), &json!({ "topic": "a", "data": 1 })).await.expect("an answer");
    assert_eq!(refused.status(), 403, "{}", refused.text());
    watched::check_unharmed(&server, &errors).await;
}
