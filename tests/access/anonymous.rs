//! A server with `--allow-anonymous`, without keys: no client has operator rights, and no client can end another one.

use serde_json::json;

use crate::support::Server;
use crate::support::client::{Kind, Link, Query};
use crate::support::fixture::{over, uuid};
use crate::support::http::Request;

over!(in ids_are_secrets: sse Sse, ws Ws);

async fn ids_are_secrets(kind: Kind) {
    let server = Server::start(&["--workers", "1", "--store", "memory", "--allow-anonymous"]);
    let client = uuid();
    let mut link = Link::to(server.address(), kind, &Query::topic("a").with("client", &client)).await;
    assert_eq!(link.item().await.event, "$hello");
    // A client id is a bearer secret here, so the ids of other clients are not listed.
    for path in ["/v1/clients".to_owned(), format!("/v1/clients?after={}", uuid())] {
        let mut response = Request::get(path).send(server.address()).await;
        assert_eq!(response.error().await, (403, "forbidden".into()));
    }
    let end = Request::new("DELETE", format!("/v1/clients/{client}"));
    assert_eq!(end.send(server.address()).await.error().await, (403, "forbidden".into()));
    let own = Request::get(format!("/v1/clients/{client}")).send(server.address()).await.json().await;
    assert_eq!(own["patterns"], json!(["a"]), "a client that knows the id sees its own state");
    let event = Request::post("/v1/topics/a", "application/json", "1").send(server.address()).await;
    assert_eq!(event.status, 201);
    assert_eq!(link.telling().await.value(), 1, "the other client's connection is not ended");
}

#[test]
fn open_access_is_logged_at_start() {
    let log = |listen: &str, flags: &[&str]| {
        let mut server = Server::start_at(listen, &[&["--log", "warn", "--store", "memory"], flags].concat());
        // The log is written by a thread of its own, which has written everything once the server has ended.
        server.signal(nix::sys::signal::Signal::SIGTERM);
        assert!(server.wait().success());
        server.log()
    };
    let open = log("0.0.0.0:0", &["--allow-anonymous"]);
    assert!(open.contains("every client that reaches 0.0.0.0:") && open.contains("--allow-anonymous"), "{open}");
    for quiet in [log("127.0.0.1:0", &["--allow-anonymous"]), log("127.0.0.1:0", &[])] {
        assert!(!quiet.contains("everybody"), "{quiet}");
    }
}
