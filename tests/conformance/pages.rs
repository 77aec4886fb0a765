//! The server's pages and its description, and the flag that switches the pages off.

use crate::support::Server;
use crate::support::http::Request;

const PAGES: [&str; 6] = ["/", "/compare", "/compare.html", "/dashboard.html", "/review.html", "/legacy.html"];
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

/// Each coding has a tag of its own, and the same content.
#[tokio::test]
async fn files_are_compressed_where_the_request_accepts_it() {
    for server in servers(&[]) {
        let get = async |path: &str, accept: &str| {
            Request::get(path).header("accept-encoding", accept).send(server.address()).await
        };
        for path in ["/client.js", "/share.mjs", "/", "/home.js"] {
            let mut plain = Request::get(path).send(server.address()).await;
            assert_eq!((plain.status, plain.header("content-encoding")), (200, None), "{path}");
            let content = plain.text().await;
            let mut tags = vec![plain.header("etag").expect("a tag").to_owned()];
            for coding in ["gzip", "br"] {
                let mut compressed = get(path, coding).await;
                assert_eq!(compressed.header("content-encoding"), Some(coding), "{path}");
                assert_eq!(compressed.header("vary"), Some("Origin, Accept-Encoding"), "{path}");
                let bytes = compressed.bytes().await.expect("a body");
                assert_eq!(decoded(&bytes, coding), content, "{path}");
                assert!(bytes.len() < content.len(), "{path}");
                tags.push(compressed.header("etag").expect("a tag").to_owned());
                // The same bytes again, which are kept; and none for a browser that has them.
                assert!(get(path, coding).await.bytes().await.expect("a body") == bytes);
                let request =
                    Request::get(path).header("accept-encoding", coding).header("if-none-match", &tags[tags.len() - 1]);
                let fresh = request.send(server.address()).await;
                assert_eq!((fresh.status, fresh.header("content-encoding")), (304, None), "{path}");
            }
            assert_eq!(tags.iter().collect::<std::collections::BTreeSet<_>>().len(), 3, "{tags:?}");
            assert_eq!(get(path, "identity, gzip;q=0").await.header("content-encoding"), None);
        }
    }
}

fn decoded(bytes: &[u8], coding: &str) -> String {
    use std::io::Read as _;
    let mut text = String::new();
    let read = match coding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_string(&mut text),
        _ => brotli::Decompressor::new(bytes, 4096).read_to_string(&mut text),
    };
    read.expect("compressed text");
    text
}

/// A page that asks for the version that it knows never asks again; with an older page the present version is served, not kept.
#[tokio::test]
async fn scripts_have_an_address_that_never_changes() {
    for server in servers(&["--no-pages"]) {
        for path in ["/client.js", "/client.mjs", "/share.js", "/share.mjs"] {
            let mut plain = Request::get(path).send(server.address()).await;
            assert_eq!(plain.header("cache-control"), Some("no-cache"), "{path}");
            let address = format!("/{}", plain.header("content-location").expect("an address"));
            let mut kept = Request::get(address.as_str()).send(server.address()).await;
            let control = kept.header("cache-control").unwrap_or_default();
            assert!(
                kept.status == 200 && control.contains("immutable") && control.contains("public"),
                "{address}: {control}"
            );
            assert_eq!(kept.header("cross-origin-resource-policy"), Some("cross-origin"));
            assert_eq!(kept.text().await, plain.text().await);
            let (stem, extension) = path.rsplit_once('.').expect("a name");
            let old = Request::get(format!("{stem}-0123456789abcdef.{extension}")).send(server.address()).await;
            assert_eq!((old.status, old.header("cache-control")), (200, Some("no-cache")), "{path}");
        }
        for path in
            ["/client-.js", "/client-0123456789abcde.js", "/client-0123456789abcdeg.js", "/home-0123456789abcdef.js"]
        {
            assert_eq!(Request::get(path).send(server.address()).await.status, 404, "{path}");
        }
    }
}

#[tokio::test]
async fn the_contact_for_vulnerabilities_is_served_if_it_is_configured() {
    const PATH: &str = "/.well-known/security.txt";
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("security.txt");
    let contact = "Contact: mailto:security@example.com\nExpires: 2027-01-01T00:00:00Z\n";
    std::fs::write(&file, contact).expect("written");
    for server in servers(&["--security-txt", file.to_str().expect("a plain path")]) {
        let mut answer = Request::get(PATH).send(server.address()).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain; charset=utf-8")));
        assert_eq!(answer.text().await, contact);
    }
    for server in servers(&[]) {
        assert_eq!(Request::get(PATH).send(server.address()).await.error().await, (404, "not_found".to_owned()));
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
