//! Security headers of responses: Content-Security-Policy, `Referrer-Policy`, content types; no unchecked reflection of input.

use proptest::prelude::*;
use serde_json::json;

use super::keyed::{Keyed, bearer};
use crate::support::Server;
use crate::support::client::{Kind, Query};
use crate::support::fixture::over;
use crate::support::http::Request;
use crate::support::wire::nonce_of;

over!(every: no_answer_passes_its_url_on);

const LISTED: [&str; 2] = ["https://app.example.com", "https://*.example.org"];

fn server() -> Server {
    Server::start(&["--workers", "1", "--store", "memory", "--allow-origin", &LISTED.join(",")])
}

async fn no_answer_passes_its_url_on(kind: Kind) {
    let keyed = Keyed::start(&[]);
    let token = keyed.token(json!({ "subscribe": ["a"] }));
    for query in [Query::topic("a").with("token", &token), Query::topic("b").with("token", &token), Query::topic("a")] {
        let response = query.set("wait", 0).request(kind).send(keyed.address()).await;
        assert_eq!(response.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    }
    for request in [
        Request::get("/v1/info"),
        Request::get("/"),
        Request::get("/client.js"),
        Request::post("/v1/events", "text/plain", "{}"),
        Request::get("/v1/nothing"),
    ] {
        let response = request.header("Authorization", bearer(&token)).send(keyed.address()).await;
        assert_eq!(response.header("referrer-policy"), Some("no-referrer"));
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"));
    }
}

#[tokio::test]
async fn the_frames_document_runs_its_own_scripts_and_is_framed_by_pages_that_may_read() {
    let server = server();
    let mut nonces = Vec::new();
    for query in
        ["topic=a&once=1&wait=0", "topic=a", "topic=a..b", "topic=a&once=1&wait=0&origin=https://app.example.com"]
    {
        let response = Request::get(format!("/v1/iframe?{query}")).send(server.address()).await;
        let policy = response.header("content-security-policy").expect("a policy").to_owned();
        let nonce = nonce_of(&policy);
        assert_eq!(
            policy,
            format!(
                "default-src 'none'; script-src 'nonce-{nonce}' 'unsafe-inline'; frame-ancestors 'self' {} {}; base-uri 'none'; form-action 'none'",
                LISTED[0], LISTED[1]
            )
        );
        assert!(nonce.len() >= 22, "128 bits and more: {nonce}");
        nonces.push(nonce);
    }
    nonces.sort_unstable();
    nonces.dedup();
    assert_eq!(nonces.len(), 4, "each response has its own nonce");
}

#[tokio::test]
async fn pages_have_a_strict_policy() {
    let server = server();
    for path in ["/", "/legacy.html", "/review.html"] {
        let mut response = Request::get(path).send(server.address()).await;
        let policy = response.header("content-security-policy").expect("a policy").to_owned();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}: {policy}");
        for directive in [
            "frame-ancestors 'self'",
            "base-uri 'none'",
            "form-action 'self'",
            "script-src 'self'",
            "connect-src 'self';",
        ] {
            assert!(policy.contains(directive), "{path}: {policy}");
        }
        let text = response.text().await;
        assert!(
            !text.contains("onclick=") && !text.contains("javascript:"),
            "{path} has no inline script that its policy would block"
        );
    }
}

#[tokio::test]
async fn a_script_is_a_script_and_no_page() {
    let server = server();
    let mut response = Request::get("/v1/jsonp?topic=a&wait=0&callback=cb").send(server.address()).await;
    assert_eq!(response.header("content-type"), Some("application/javascript; charset=utf-8"));
    assert_eq!(response.header("content-disposition"), Some("attachment; filename=f.txt"));
    assert!(response.text().await.starts_with("/**/cb("));
}

/// A callback that is written into a script is a valid name, or refused.
fn no_callback() -> impl Strategy<Value = String> {
    let injected = prop_oneof![
        Just("alert(1)//".to_owned()),
        Just("</script><script>alert(1)</script>".to_owned()),
        Just("a;alert".to_owned()),
        Just("a\u{2028}b".to_owned()),
        Just("a%0d%0aX: y".to_owned()),
        "\\PC{1,80}",
        "[a-z.\\[\\]'\"()<>;&/ ]{1,70}",
    ];
    injected.prop_filter("no legal name", |text| {
        let part = |part: &str| {
            !part.is_empty()
                && !part.starts_with(|c: char| c.is_ascii_digit())
                && part.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '$')
        };
        text.len() > 64 || !text.split('.').all(part)
    })
}

fn no_origin() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        Just("null".to_owned()),
        Just("https://app.example.com\"/><script>alert(1)</script>".to_owned()),
        Just("https://app.example.com/".to_owned()),
        Just("https://app.example.com.evil.example".to_owned()),
        Just("https://x.example.org.evil.example".to_owned()),
        Just("https://evil.example/.example.org".to_owned()),
        Just("https://x\u{2028}.example.org".to_owned()),
        "https://[a-z.\"'<>/@:#?\\\\]{0,30}\\.example\\.org",
        "\\PC{1,60}",
    ]
    .prop_filter("not listed", |text| {
        let name = text.strip_prefix("https://").and_then(|rest| rest.strip_suffix(".example.org"));
        text != LISTED[0]
            && !name.is_some_and(|name| {
                !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
            })
    })
}

/// An invalid callback or origin is a plain 400 that does not reflect the input.
#[test]
fn nothing_that_was_not_checked_is_reflected() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = server();
    let config = ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(callback in no_callback(), origin in no_origin())| {
        for (kind, name, value) in [(Kind::Jsonp, "callback", &callback), (Kind::IframeOnce, "origin", &origin)] {
            let query = Query::topic("a").with("wait", 0).with(name, value);
            let (status, headers, text) = runtime.block_on(async {
                let mut response = query.request(kind).send(server.address()).await;
                let text = response.text().await;
                (response.status, format!("{:?}", response.headers), text)
            });
            prop_assert_eq!(status, 400, "{}", &value);
            prop_assert!(!headers.contains("javascript") && !headers.contains("text/html"), "{}", &headers);
            if value.len() > 8 {
                prop_assert!(!text.contains(value.as_str()) && !headers.contains(value.as_str()), "{}", &text);
            }
        }
    });
}
