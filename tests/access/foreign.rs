//! Cross-origin pages: a cookie does not authenticate their requests, and browsers do not let them load a response.

use serde_json::json;

use super::keyed::Keyed;
use crate::support::client::{Kind, Query};
use crate::support::fixture::over;
use crate::support::http::Request;
use crate::support::refusal::refusal;

over!(every: no_cookie_counts_for_a_foreign_page);

const LISTED: &str = "https://app.example.com";

/// The headers that browsers send for a cross-origin page, and those by which a page may try to disguise itself.
const FOREIGN: [&[(&str, &str)]; 8] = [
    &[("Origin", "https://evil.example")],
    &[("Origin", "null")],
    &[("Referer", "https://evil.example/")],
    &[("Referer", "https://app.example.com@evil.example/"), ("Sec-Fetch-Site", "cross-site")],
    &[("Referer", "https://evil.example/"), ("Sec-Fetch-Site", "cross-site"), ("Sec-Fetch-Mode", "no-cors")],
    &[("Sec-Fetch-Site", "cross-site")],
    &[("Sec-Fetch-Site", "same-site")],
    &[("Origin", "https://evil.example"), ("Referer", LISTED), ("Sec-Fetch-Site", "same-origin")],
];

/// A long poll loaded as an image would leak the time of an event to a cross-origin page, though not its content.
async fn no_cookie_counts_for_a_foreign_page(kind: Kind) {
    let keyed = Keyed::start(&["--allow-origin", LISTED]);
    let token = keyed.token(json!({ "subscribe": ["a"], "publish": ["a"] }));
    let query = Query::topic("a").set("wait", 0).header("Cookie", format!("switchback_token={token}"));
    let of_page = |headers: &[(&str, &str)]| {
        headers.iter().fold(query.clone(), |query, (name, value)| query.header(name, *value))
    };
    let script = matches!(kind, Kind::Jsonp | Kind::JsonpPoll);
    for headers in FOREIGN {
        let response = of_page(headers).request(kind).send(keyed.address()).await;
        // A WebSocket and a script are refused for their origin alone.
        let (status, code) =
            if script || kind == Kind::Ws { (403, "origin_not_allowed") } else { (401, "unauthorized") };
        assert_eq!(refusal(kind, None, response, status).await.0, code, "{headers:?}");
    }
    if script {
        return;
    }
    let own = format!("http://{}/page", keyed.address());
    for headers in [
        &[][..],
        &[("Sec-Fetch-Site", "none")],
        &[("Sec-Fetch-Site", "same-origin")],
        &[("Origin", LISTED)],
        &[("Referer", "https://app.example.com/page"), ("Sec-Fetch-Site", "cross-site")],
        &[("Referer", own.as_str()), ("Sec-Fetch-Site", "same-origin")],
    ] {
        keyed.serves(kind, &of_page(headers), "its own page, a listed one, or no page at all").await;
    }
}

/// A request that is refused for its origin is refused with any token.
#[tokio::test]
async fn foreign_pages_change_nothing_even_with_a_token() {
    let keyed = Keyed::start(&["--allow-origin", LISTED]);
    for headers in FOREIGN {
        for request in [
            Request::post("/v1/topics/a", "text/plain", "1"),
            Request::post("/v1/events", "application/x-www-form-urlencoded", "topic=a&data=1"),
            Request::post("/v1/ack", "text/plain", "{}"),
            Request::post("/v1/tickets", "text/plain", r#"{"transport":"sse"}"#),
            Request::new("DELETE", "/v1/clients/0190b5a2-7c3e-4f6a-9d1b-2e8f4c6a0b1d"),
            Request::get("/v1/echo").upgrade(),
        ] {
            let request = request.header("Authorization", format!("Bearer {}", keyed.root()));
            let request = headers.iter().fold(request, |request, (name, value)| request.header(name, *value));
            let mut response = request.send(keyed.address()).await;
            assert_eq!(response.error().await, (403, "origin_not_allowed".into()), "{headers:?}");
        }
    }
}

/// `Cross-Origin-Resource-Policy` (Fetch §3.7): only resources for other origins are `cross-origin`, errors included.
#[tokio::test]
async fn answers_say_which_pages_may_take_them_in() {
    let keyed = Keyed::start(&["--allow-origin", LISTED, "--public-subscribe", "news"]);
    let jsonp = "/v1/jsonp?topic=news&wait=0&callback=f";
    let (site, page) = (("Sec-Fetch-Site", "cross-site"), ("Referer", "https://app.example.com/page"));
    for (path, headers, expected) in [
        ("/client.js", &[][..], "cross-origin"),
        ("/client.js", &[site], "cross-origin"),
        ("/client.mjs", &[], "cross-origin"),
        ("/client.d.ts", &[], "cross-origin"),
        ("/share.js", &[("If-None-Match", "*")], "cross-origin"),
        ("/", &[], "same-origin"),
        ("/demo.js", &[site], "same-origin"),
        ("/nothing", &[], "same-origin"),
        ("/healthz", &[], "same-origin"),
        ("/v1/poll?topic=news", &[], "same-origin"),
        ("/v1/poll?topic=news", &[site], "same-origin"),
        ("/v1/poll?topic=news", &[("Origin", "https://evil.example")], "same-origin"),
        ("/v1/poll?topic=news", &[("Origin", LISTED)], "cross-origin"),
        ("/v1/poll?topic=news", &[site, page], "cross-origin"),
        ("/v1/poll?topic=a..b", &[("Origin", LISTED)], "cross-origin"),
        ("/v1/iframe?topic=news&once=1&wait=0", &[site, page], "cross-origin"),
        ("/v1/iframe?topic=news&once=1&wait=0", &[site], "same-origin"),
        (jsonp, &[], "cross-origin"),
        (jsonp, &[site, page], "cross-origin"),
        (jsonp, &[site], "same-origin"),
    ] {
        let request = headers.iter().fold(Request::get(path), |request, (name, value)| request.header(name, *value));
        let response = request.send(keyed.address()).await;
        let found = response.header("cross-origin-resource-policy");
        assert_eq!(found, Some(expected), "{path} {headers:?}");
    }
}
