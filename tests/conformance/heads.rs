//! HEAD: the status and headers of GET, at once (RFC 9110 §9.3.2). No request is held, and no client is acknowledged or
//! remembered.

use crate::support::Server;
use crate::support::fixture::{publish, shared, topic, uuid};
use crate::support::http::{Request, Response};

const PATHS: [&str; 7] = [
    "/v1/poll?topic=T",
    "/v1/longpoll?topic=T&wait=60",
    "/v1/jsonp?topic=T&wait=60&callback=f",
    "/v1/iframe?topic=T",
    "/v1/iframe?topic=T&once=1&wait=60",
    "/v1/sse?topic=T",
    "/v1/stream?topic=T",
];

async fn exchange(server: &Server, method: &str, path: &str) -> Response {
    Request::new(method, path).send(server.address()).await
}

/// The headers that depend neither on the time nor on the framing of the body.
fn lasting(response: &Response) -> Vec<(String, String)> {
    let passing = ["date", "content-length", "transfer-encoding", "connection", "content-security-policy", "etag"];
    let mut headers = response.headers.clone();
    headers.retain(|(name, _)| !passing.contains(&name.as_str()));
    headers.sort();
    headers
}

#[tokio::test]
async fn head_answers_as_get_would() {
    let server = shared();
    let topic = topic("head");
    publish(&server, &topic, 1).await;
    for path in PATHS {
        let path = format!("{}&cursor=earliest", path.replace('T', &topic));
        let (head, get) = (exchange(&server, "HEAD", &path).await, exchange(&server, "GET", &path).await);
        assert_eq!((head.status, lasting(&head)), (get.status, lasting(&get)), "{path}");
    }
    for (path, status) in [
        ("/v1/sse?topic=a..b", 400),
        ("/v1/longpoll", 400),
        ("/v1/iframe?topic=a&origin=https://evil.example", 400),
        ("/v1/stream?topic=a&cursor=x", 400),
        ("/v1/jsonp?topic=a", 400),
        ("/v1/ws?topic=a", 405),
        ("/v1/events", 405),
    ] {
        assert_eq!(exchange(&server, "HEAD", path).await.status, status, "{path}");
    }
}

#[tokio::test]
async fn head_remembers_and_acknowledges_nothing() {
    let server = shared();
    let topic = topic("headack");
    let first = publish(&server, &topic, 1).await;
    for path in PATHS {
        let client = uuid();
        let path = path.replace('T', &topic);
        let named = format!("{path}&client={client}");
        assert_eq!(exchange(&server, "HEAD", &format!("{named}&cursor={first}")).await.status, 200, "{path}");
        assert_eq!(
            exchange(&server, "GET", &format!("/v1/clients/{client}")).await.status,
            404,
            "{path}: no client is remembered"
        );
        let poll = format!("/v1/poll?topic={topic}&client={client}");
        assert_eq!(exchange(&server, "GET", &format!("{poll}&cursor=earliest")).await.status, 200);
        let before = exchange(&server, "GET", &format!("/v1/clients/{client}")).await.json().await;
        assert_eq!(exchange(&server, "HEAD", &format!("{named}&cursor={first}")).await.status, 200, "{path}");
        let after = exchange(&server, "GET", &format!("/v1/clients/{client}")).await.json().await;
        assert_eq!(after["acknowledged"], before["acknowledged"], "{path}");
        assert_eq!(after["transports"], before["transports"], "{path}");
    }
}
