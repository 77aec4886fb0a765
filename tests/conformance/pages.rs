//! The server's pages and its description, and the flag that switches the pages off.

use crate::support::Server;
use crate::support::http::Request;

const PAGES: [&str; 5] = ["/", "/compare", "/compare.html", "/review.html", "/legacy.html"];
const FILES: [&str; 4] = ["/pages.css", "/home.js", "/demo.js", "/token.js"];

/// Both ways to a handler.
fn servers(flags: &[&str]) -> [Server; 2] {
    [&[][..], &["--through-app"]].map(|way| Server::start(&[&["--store", "memory"], way, flags].concat()))
}

#[tokio::test]
async fn pages_are_served_with_a_policy() {
    for server in servers(&[]) {
        for path in PAGES {
            let mut page = Request::get(path).send(server.address()).await;
            assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")), "{path}");
            let policy = page.header("content-security-policy").unwrap_or_default().to_owned();
            assert!(policy.contains("default-src 'none'") && policy.contains("script-src 'self'"), "{path}: {policy}");
            assert!(!policy.contains("unsafe"), "{path}: {policy}");
            let text = page.text().await;
            assert!(!text.contains("<script>") && !text.contains(" style="), "{path}: the policy allows neither");
        }
        for path in FILES {
            assert_eq!(Request::get(path).send(server.address()).await.status, 200, "{path}");
        }
        let titles = ["/", "/compare"].map(async |path| Request::get(path).send(server.address()).await.text().await);
        let [front, comparison] = futures_util::future::join_all(titles).await.try_into().expect("two pages");
        assert!(front.contains("This server") && comparison.contains("side by side"), "each at its address");
    }
}

/// Without the pages there is the client library, and the API.
#[tokio::test]
async fn pages_can_be_switched_off() {
    for server in servers(&["--no-pages"]) {
        for path in PAGES.iter().chain(&FILES) {
            let mut answer = Request::get(*path).send(server.address()).await;
            assert_eq!(answer.error().await, (404, "not_found".to_owned()), "{path}");
        }
        for path in [
            "/client.js",
            "/client.mjs",
            "/client.d.ts",
            "/share.js",
            "/state.js",
            "/state.mjs",
            "/v1/info",
            "/healthz",
            "/openapi.json",
        ] {
            assert_eq!(Request::get(path).send(server.address()).await.status, 200, "{path}");
        }
    }
}

#[tokio::test]
async fn the_api_describes_itself() {
    for server in servers(&[]) {
        let mut answer = Request::get("/openapi.json").send(server.address()).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
        let document = answer.json().await;
        assert_eq!(document["openapi"], "3.1.0");
        // As `/v1/info` has them.
        let info = Request::get("/v1/info").send(server.address()).await.json().await;
        let described = &document["components"]["schemas"]["Info"];
        for key in described["required"].as_array().expect("a list") {
            assert!(!info[key.as_str().expect("a name")].is_null(), "{key}");
        }
        for key in info.as_object().expect("an object").keys() {
            assert!(!described["properties"][key].is_null(), "{key} is described");
        }
    }
}
