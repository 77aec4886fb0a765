//! CSRF, script inclusion and DNS rebinding: cookies do not authenticate cross-site requests, JSONP is checked by origin, and
//! `Host` has to be a name of the server.

use serde_json::json;

use super::keyed::{Keyed, bearer};
use crate::support::Server;
use crate::support::client::{Kind, Link, Query};
use crate::support::fixture::over;
use crate::support::http::Request;
use crate::support::refusal::refusal;

over!(in scripts_are_for_pages_that_may_read: jsonp Jsonp, jsonp_poll JsonpPoll);
over!(every: behind_a_proxy_with_a_key, names_that_were_configured);

const LISTED: &str = "https://app.example.com";

/// Cross-site request forgery: the browser attaches the cookie to requests that any page causes.
#[tokio::test]
async fn a_cookie_publishes_only_for_pages_that_may() {
    let keyed = Keyed::start(&["--allow-origin", LISTED]);
    let start = keyed.end().await;
    let token = keyed.token(json!({ "publish": ["a"], "subscribe": ["a"] }));
    let own = format!("http://{}", keyed.address());
    let requests = || {
        let event = json!({ "topic": "a", "data": 1 }).to_string();
        let cookie = format!("switchback_token={token}");
        [
            Request::post("/v1/events", "application/x-www-form-urlencoded", "topic=a&data=1"),
            Request::post("/v1/events", "text/plain", event.as_str()),
            Request::post("/v1/events", "application/json", event.as_str()),
            Request::post("/v1/topics/a", "text/plain", "1"),
            Request::post("/v1/tickets", "text/plain", r#"{"transport":"sse"}"#),
        ]
        .map(|request| request.header("Cookie", &cookie))
    };
    for request in requests() {
        for foreign in ["https://evil.example", "null", "https://app.example.com.evil.example"] {
            let mut response = request.clone().header("Origin", foreign).send(keyed.address()).await;
            assert_eq!(response.error().await, (403, "origin_not_allowed".into()), "{foreign}");
        }
        // Old browsers send no Origin with a form. A request without any origin header is not trusted.
        for (name, value, refused) in [
            ("X-Nothing", "", (401, "unauthorized")),
            ("Sec-Fetch-Site", "none", (401, "unauthorized")),
            ("Referer", "https://evil.example/page", (403, "origin_not_allowed")),
            ("Referer", "https://app.example.com.evil.example/", (403, "origin_not_allowed")),
            ("Referer", "https://evil.example/https://app.example.com/", (403, "origin_not_allowed")),
            ("Sec-Fetch-Site", "cross-site", (403, "origin_not_allowed")),
            ("Sec-Fetch-Site", "same-site", (403, "origin_not_allowed")),
        ] {
            let mut response = request.clone().header(name, value).send(keyed.address()).await;
            assert_eq!(response.error().await, (refused.0, refused.1.into()), "{name}: {value}");
        }
        let response = request.clone().header("Authorization", bearer(&token)).send(keyed.address()).await;
        assert_eq!(response.status, 201, "a request with an explicit token is not forged");
    }
    assert_ne!(keyed.end().await, start, "the event is published by the token's right");
    let before = keyed.end().await;
    let referer = format!("{own}/page?x");
    for (name, value) in [
        ("Origin", own.as_str()),
        ("Origin", LISTED),
        ("Referer", referer.as_str()),
        ("Referer", "https://app.example.com/page"),
        ("Sec-Fetch-Site", "same-origin"),
    ] {
        for request in requests() {
            let response = request.header(name, value).send(keyed.address()).await;
            assert_eq!(response.status, 201, "{name}: {value}");
        }
    }
    assert_ne!(keyed.end().await, before);
}

/// A script exposes its data to the page that loads it, so the page's origin has to be allowed. Without a key, too.
async fn scripts_are_for_pages_that_may_read(kind: Kind) {
    let keyed = Keyed::start(&["--allow-origin", LISTED, "--public-subscribe", "news"]);
    let open = Server::start(&["--workers", "1", "--store", "memory", "--allow-origin", LISTED]);
    let token = keyed.token(json!({ "subscribe": ["a"] }));
    let public = Query::topic("news");
    for (server, query) in
        [(&keyed.server, public), (&keyed.server, Query::topic("a").with("token", token)), (&open, Query::topic("a"))]
    {
        let query = query.set("wait", 0);
        let own = format!("http://{}/page", server.address());
        for (site, from, allowed) in [
            (None, None, true),
            (Some("none"), None, true),
            (Some("same-origin"), None, true),
            (Some("same-origin"), Some(own.as_str()), true),
            (Some("cross-site"), None, false),
            (Some("same-site"), None, false),
            (Some("cross-site"), Some("https://evil.example/"), false),
            (Some("cross-site"), Some("https://app.example.com/page?x=1"), true),
            (Some("same-site"), Some("https://app.example.com/"), true),
            (Some("same-site"), Some("https://other.example.com/"), false),
            (Some("cross-site"), Some("https://app.example.com.evil.example/"), false),
            (Some("cross-site"), Some("https://evil.example/https://app.example.com/"), false),
            (Some("cross-site"), Some("about:client"), false),
            // A browser without `Sec-Fetch-Site` may still send a `Referer`.
            (None, Some("https://evil.example/"), false),
            (None, Some("https://app.example.com/"), true),
            (None, Some(own.as_str()), true),
        ] {
            let mut requested = query.clone();
            requested = site.into_iter().fold(requested, |requested, site| requested.header("Sec-Fetch-Site", site));
            requested = from.into_iter().fold(requested, |requested, from| requested.header("Referer", from));
            if allowed {
                let batch = Link::to(server.address(), kind, &requested).await.batch().await;
                assert!(batch.cursor.is_some(), "{site:?} {from:?}: {batch:?}");
            } else {
                let response = requested.request(kind).send(server.address()).await;
                assert_eq!(refusal(kind, None, response, 403).await.0, "origin_not_allowed", "{site:?} {from:?}");
            }
        }
    }
}

/// With a key the server may be behind a proxy, under any host name.
async fn behind_a_proxy_with_a_key(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let query = keyed.query("a", json!({ "subscribe": ["a"] })).with("wait", 0);
    let request = query.request(kind).host("example.com").header("X-Forwarded-For", "192.0.2.1");
    assert_eq!(request.send(keyed.address()).await.status, if kind == Kind::Ws { 101 } else { 200 });
}

/// DNS rebinding: with a key or without, on any address, a page may resolve a host name of its own to the server.
async fn names_that_were_configured(kind: Kind) {
    let names = ["--workers", "1", "--store", "memory", "--allow-host", "App.test,other.test"];
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(&secret, super::keyed::SECRET).expect("written");
    let secret = ["--jwt-secret-file", secret.path().to_str().expect("a path"), "--public-subscribe", "a"];
    for (listen, flags) in [
        ("127.0.0.1:0", &[][..]),
        ("127.0.0.1:0", &["--allow-anonymous"]),
        ("0.0.0.0:0", &["--allow-anonymous"]),
        ("0.0.0.0:0", &secret),
    ] {
        let server = Server::start_at(listen, &[&names, flags].concat());
        let address = server.address().replace("0.0.0.0", "127.0.0.1");
        let query = Query::topic("a").with("wait", 0);
        for (host, good) in [
            ("app.test", true),
            ("APP.test:8080", true),
            ("other.test.", true),
            ("localhost", true),
            ("evil.test", false),
            ("x.app.test", false),
            ("app.test.evil.test", false),
        ] {
            let response = query.request(kind).host(host).send(&address).await;
            if good {
                assert_eq!(response.status, if kind == Kind::Ws { 101 } else { 200 }, "{host}");
            } else {
                assert_eq!(refusal(kind, None, response, 403).await.0, "bad_host", "{host}");
            }
        }
        let publish = Request::post("/v1/topics/a", "", "1").host("evil.test").send(&address).await;
        assert_eq!(publish.status, 403);
        // Health checks use the server's IP address.
        assert_eq!(Request::get("/healthz").host("10.0.0.1").send(&address).await.status, 200);
    }
}
