//! Origin checks: CORS and cross-origin publishing, and the protection of a server without keys against DNS rebinding.

use serde_json::json;

use crate::support::Server;
use crate::support::client::{Kind, Query};
use crate::support::fixture::{end_of_log, over, post_events, uuid};
use crate::support::http::{Request, Response};
use crate::support::refusal::refusal;

over!(every: pages_read_with_leave, only_direct_requests_for_loopback_names_are_served);

const LISTED: &str = "https://app.example.com";

fn server() -> Server {
    Server::start(&[
        "--workers",
        "1",
        "--store",
        "memory",
        "--allow-origin",
        "https://app.example.com,https://*.example.org",
    ])
}

/// Cross-origin values that resemble the server's own origin or an allowed one.
fn foreign(server: &Server) -> Vec<String> {
    let port = server.address().rsplit_once(':').expect("a port").1.parse::<u16>().expect("a port");
    let mut all: Vec<String> = [
        "https://evil.example",
        "http://app.example.com",
        "https://app.example.com:8443",
        "https://app.example.com.evil.example",
        "https://evil-app.example.com",
        "https://example.org",
        "https://evilexample.org",
        "https://evil.example/.example.org",
        "https://a.example.org.evil.example",
        "null",
        "file://",
        "*",
        "",
        "http://127.0.0.1",
        "http://localhost",
    ]
    .map(str::to_owned)
    .into();
    all.push(format!("http://127.0.0.1:{}", port ^ 1));
    all.push(format!("http://127.0.0.1.evil.example:{port}"));
    all.push(format!("ftp://127.0.0.1:{port}"));
    all
}

fn check_cors(response: &Response, origin: Option<&str>) {
    assert_eq!(response.header("access-control-allow-origin"), origin);
    assert!(response.header("vary").is_some_and(|vary| vary.contains("Origin")), "caches keep the origins apart");
    let credentials = response.header("access-control-allow-credentials");
    let exposed = response.header("access-control-expose-headers").unwrap_or_default();
    if origin.is_some() {
        assert_eq!(credentials, Some("true"));
        assert!(exposed.contains("ETag") && exposed.contains("Retry-After"), "{exposed}");
    } else {
        assert_eq!((credentials, exposed), (None, ""));
    }
}

async fn pages_read_with_leave(kind: Kind) {
    let server = server();
    let own = format!("http://{}", server.address());
    let open = if kind == Kind::Ws { 101 } else { 200 };
    let exchange = |origin: &str| Query::topic("a").set("wait", 0).request(kind).header("Origin", origin);
    for listed in [LISTED, "https://a.example.org", "https://a.b.example.org"] {
        let response = exchange(listed).send(server.address()).await;
        assert_eq!(response.status, open, "{listed}");
        check_cors(&response, Some(listed));
        // A page of an allowed origin can read errors, too.
        let response = Query::topic("a..b").request(kind).header("Origin", listed).send(server.address()).await;
        check_cors(&response, Some(listed));
    }
    let response = exchange(&own).send(server.address()).await;
    assert_eq!(response.status, open, "a page of the server's own origin");
    for foreign in foreign(&server) {
        let mut response = exchange(&foreign).send(server.address()).await;
        check_cors(&response, None);
        if kind == Kind::Ws {
            assert_eq!(response.error().await, (403, "origin_not_allowed".to_owned()), "{foreign}");
        } else {
            // The browser hides the response from the page; other clients can read it.
            assert_eq!(response.status, 200, "{foreign}");
        }
    }
    // Not a request of a page.
    let response = Query::topic("a").set("wait", 0).request(kind).send(server.address()).await;
    assert_eq!(response.status, open);
    check_cors(&response, None);
}

#[tokio::test]
async fn pages_publish_with_leave() {
    let server = server();
    let start = end_of_log(&server).await;
    let own = format!("http://{}", server.address());
    let event = json!({ "topic": "a", "data": 1 }).to_string();
    let ack = json!({ "client": uuid(), "cursor": start }).to_string();
    let requests = || {
        [
            Request::post("/v1/events", "application/json", event.as_str()),
            Request::post("/v1/events", "text/plain", event.as_str()),
            Request::post("/v1/events", "application/x-ndjson", event.as_str()),
            Request::post("/v1/events", "application/x-www-form-urlencoded", "topic=a&data=1"),
            Request::post("/v1/topics/a", "text/plain", "1"),
            Request::post("/v1/ack", "text/plain", ack.as_str()),
            Request::get("/v1/echo").upgrade(),
        ]
    };
    for foreign in foreign(&server) {
        for request in requests() {
            let mut response = request.header("Origin", &foreign).send(server.address()).await;
            check_cors(&response, None);
            assert_eq!(response.error().await, (403, "origin_not_allowed".to_owned()), "{foreign}");
        }
    }
    assert_eq!(end_of_log(&server).await, start, "nothing was published");
    for (origin, named) in [(LISTED, Some(LISTED)), (own.as_str(), None)] {
        for (request, status) in requests().into_iter().zip([201, 201, 201, 201, 201, 404, 101]) {
            let response = request.header("Origin", origin).send(server.address()).await;
            assert_eq!(response.status, status, "{origin}");
            if named.is_some() {
                check_cors(&response, named);
            }
        }
    }
}

#[tokio::test]
async fn preflights() {
    let server = server();
    for (path, method) in [
        ("/v1/events", "POST"),
        ("/v1/topics/a.b", "POST"),
        ("/v1/ack", "POST"),
        ("/v1/poll", "GET"),
        ("/v1/longpoll", "GET"),
        ("/v1/sse", "GET"),
        ("/v1/stream", "GET"),
        ("/v1/info", "GET"),
        ("/v1/clients", "GET"),
    ] {
        let exchange = |origin: &str| {
            Request::new("OPTIONS", path)
                .header("Origin", origin)
                .header("Access-Control-Request-Method", method)
                .header("Access-Control-Request-Headers", "authorization, content-type, idempotency-key")
        };
        let response = exchange(LISTED).send(server.address()).await;
        assert!(matches!(response.status, 200 | 204), "{path}");
        check_cors(&response, Some(LISTED));
        let allowed = response.header("access-control-allow-methods").unwrap_or_default();
        assert!(allowed.split(", ").any(|one| one == method), "{path}: {allowed}");
        let headers = response.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
        for name in [
            "authorization",
            "content-type",
            "idempotency-key",
            "if-none-match",
            "last-event-id",
            "traceparent",
            "tracestate",
        ] {
            assert!(headers.split(", ").any(|one| one == name), "{path}: {headers}");
        }
        for foreign in foreign(&server) {
            let response = exchange(&foreign).send(server.address()).await;
            check_cors(&response, None);
            assert_eq!(response.header("access-control-allow-methods"), None, "{path} for {foreign}");
        }
    }
}

/// The headers by which proxies mark a forwarded request.
const FORWARDED: [(&str, &str); 12] = [
    ("X-Forwarded-For", "192.0.2.1"),
    ("x-forwarded-for", ""),
    ("Forwarded", "for=192.0.2.1;proto=https"),
    ("X-Forwarded-Host", "example.com"),
    ("X-Forwarded-Proto", "https"),
    ("X-Forwarded-Port", "443"),
    ("X-Forwarded-Server", "front"),
    ("Via", "1.1 front"),
    ("X-Real-IP", "192.0.2.1"),
    ("CF-Connecting-IP", "192.0.2.1"),
    ("True-Client-IP", "192.0.2.1"),
    ("X-Amz-Cf-Id", "x"),
];

/// DNS rebinding: a page may resolve a host name of its own to 127.0.0.1.
const WRONG_HOSTS: [&str; 6] =
    ["example.com", "evil.example:80", "localhost.evil.example", "10.0.0.1", "127.0.0.1.evil.example:9", "0x7f.1.evil"];

async fn only_direct_requests_for_loopback_names_are_served(kind: Kind) {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    let open = if kind == Kind::Ws { 101 } else { 200 };
    let exchange = || Query::topic("a").set("wait", 0).request(kind);
    for (name, value) in FORWARDED {
        let response = exchange().header(name, value).send(server.address()).await;
        assert_eq!(refusal(kind, None, response, 403).await.0, "proxied", "{name}");
    }
    for host in WRONG_HOSTS {
        let response = exchange().host(host).send(server.address()).await;
        assert_eq!(refusal(kind, None, response, 403).await.0, "bad_host", "{host}");
    }
    for host in ["localhost", "localhost:8080", "app.localhost:1", "127.0.0.1", "127.1.2.3:80", "[::1]:8080", "[::1]"] {
        assert_eq!(exchange().host(host).send(server.address()).await.status, open, "{host}");
    }
    // A host that the operator has allowed is served.
    let server = Server::start(&["--workers", "1", "--store", "memory", "--allow-anonymous"]);
    let exchange = || Query::topic("a").set("wait", 0).request(kind);
    assert_eq!(
        exchange().header("X-Forwarded-For", "192.0.2.1").host("example.com").send(server.address()).await.status,
        open
    );
}

#[tokio::test]
async fn publishing_did_not_come_from_elsewhere() {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    let start = end_of_log(&server).await;
    let event = json!({ "topic": "a", "data": 1 }).to_string();
    let requests = || {
        [
            Request::post("/v1/events", "application/json", event.as_str()),
            Request::post("/v1/topics/a", "text/plain", "1"),
            Request::post("/v1/ack", "text/plain", "{}"),
            Request::get("/v1/info"),
            Request::get("/v1/clients"),
            Request::get("/v1/echo").upgrade(),
            Request::get("/v1/nothing"),
        ]
    };
    for request in requests() {
        for (name, value) in FORWARDED {
            let mut response = request.clone().header(name, value).send(server.address()).await;
            assert_eq!(response.error().await, (403, "proxied".to_owned()), "{request:?}");
        }
        for host in WRONG_HOSTS {
            let mut response = request.clone().host(host).send(server.address()).await;
            assert_eq!(response.error().await, (403, "bad_host".to_owned()), "{request:?}");
        }
    }
    assert_eq!(end_of_log(&server).await, start, "nothing was published");
    post_events(&server, &json!({ "topic": "a", "data": 1 })).await;
}

/// The host of a target in absolute form counts, whatever `Host` says (RFC 9112 §3.2.2).
#[tokio::test]
async fn the_target_overrides_the_host_header() {
    let server = Server::start(&["--workers", "1", "--store", "memory"]);
    let exchange = async |target: &str, host: &str| {
        Request::get(format!("http://{target}/v1/info")).host(host).send(server.address()).await
    };
    assert_eq!(exchange("example.com", "localhost").await.error().await, (403, "bad_host".to_owned()));
    assert_eq!(exchange("somebody@localhost", "localhost").await.error().await, (400, "bad_host".to_owned()));
    assert_eq!(exchange("localhost", "example.com").await.status, 200);
    let server = Server::start(&["--workers", "1", "--store", "memory", "--allow-anonymous"]);
    let publish = async |origin: &str| {
        let request = Request::post("http://a.test/v1/topics/a", "text/plain", "1").host("b.test");
        request.header("Origin", origin).send(server.address()).await.status
    };
    assert_eq!(publish("http://a.test").await, 201, "a page of the server's own origin");
    assert_eq!(publish("http://b.test").await, 403, "a page of another origin");
}
