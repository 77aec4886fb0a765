//! Data directories of released versions, which every later version opens. `tests/fixtures/data-VERSION` has the files of one, and in
//! `content.json` what has to be read from them. The directory of the present version is made by
//! `cargo test --test server old_directory::make -- --ignored`.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::end_of;
use crate::support::Server;
use crate::support::fixture::uuid;
use crate::support::http::Request;
use crate::support::jwt::Signer;

const SECRET: &str = "the secret of the fixtures' tokens, 32 bytes or more";
const FILES: [&str; 3] = ["events.db", "clients.db", "notes.db"];

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn token(claims: Value) -> String {
    let mut all =
        json!({ "exp": 4_000_000_000_u64, "iat": 1_763_750_000, "subscribe": [">"], "publish": [">"], "admin": true });
    all.as_object_mut().expect("claims").extend(claims.as_object().expect("claims").clone());
    format!("Bearer {}", Signer::secret(SECRET).sign(&all))
}

fn start(directory: Arc<tempfile::TempDir>) -> Server {
    let secret = format!("SWITCHBACK_JWT_SECRET={SECRET}");
    // However old a fixture is, nothing in it expires.
    Server::start_under(
        &["env", &secret],
        directory,
        &["--store", "disk", "--max-age", "0s", "--client-idle", "36500d"],
    )
}

async fn get(server: &Server, path: impl Into<String>, token: &str) -> (u16, Value) {
    let mut answer = Request::get(path).header("authorization", token).send(server.address()).await;
    (answer.status, answer.json().await)
}

async fn post(server: &Server, path: &str, body: Value, token: &str) -> Value {
    let request = Request::post(path, "application/json", body.to_string()).header("authorization", token);
    let mut answer = request.send(server.address()).await;
    assert!((200..300).contains(&answer.status), "{path}: {}", answer.status);
    answer.json().await
}

/// What has to be the same in every version.
async fn content(server: &Server, client: &str) -> Value {
    let admin = token(json!({}));
    let (_, batch) = get(server, "/v1/poll?topic=%3E&cursor=earliest", &admin).await;
    let (_, known) = get(server, format!("/v1/clients/{client}"), &admin).await;
    let (revoked, _) = get(server, "/v1/poll?topic=a", &token(json!({ "jti": "revoked" }))).await;
    json!({
        "client": client,
        "events": batch["events"],
        "patterns": known["patterns"],
        "acknowledged": known["acknowledged"],
        "status of a revoked token": revoked,
    })
}

#[tokio::test]
async fn directories_of_released_versions_are_opened() {
    let mut count = 0;
    for entry in std::fs::read_dir(fixtures()).expect("fixtures") {
        let fixture = entry.expect("an entry").path();
        count += 1;
        let expected = std::fs::read_to_string(fixture.join("content.json")).expect("the content");
        let expected: Value = serde_json::from_str(&expected).expect("JSON");
        let home = Arc::new(tempfile::tempdir().expect("a directory"));
        let data = home.path().join("data");
        std::fs::create_dir(&data).expect("a directory");
        for file in FILES {
            std::fs::copy(fixture.join(file), data.join(file)).expect("a copy");
        }
        let verified = super::commands::run(&["verify", "--data", data.to_str().expect("a plain path")], &[], b"");
        assert!(verified.status.success(), "{}: {verified:?}", fixture.display());
        let server = start(home);
        let client = expected["client"].as_str().expect("a client");
        assert_eq!(content(&server, client).await, expected, "{}", fixture.display());
        // It goes on as the same log.
        let later = post(&server, "/v1/events", json!({ "topic": "a.1", "data": 1 }), &token(json!({}))).await;
        let epoch = |cursor: &Value| cursor.as_str().expect("a cursor").split('-').next().map(str::to_owned);
        assert_eq!(epoch(&later["cursor"]), epoch(&expected["events"][0]["cursor"]));
    }
    assert!(count > 0);
}

#[tokio::test]
#[ignore = "makes the fixture of this version"]
async fn make() {
    let home = Arc::new(tempfile::tempdir().expect("a directory"));
    let mut server = start(home);
    let admin = token(json!({}));
    let long = "x".repeat(1500);
    let events = json!([
        { "topic": "a.1", "event": "named", "data": { "n": 1.50, "text": "\u{2028}<é" }, "id": "key" },
        { "topic": "a.1", "deleted": true, "headers": { "reason": "gone" } },
        { "topic": "b.long", "data": long },
        { "topic": "b.bytes", "data": "AP8=", "encoding": "base64" },
        { "topic": "a.2", "data": null, "headers": { "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" } },
    ]);
    let stored = post(&server, "/v1/events", events, &admin).await;
    let client = uuid();
    let third = stored["events"][2]["cursor"].as_str().expect("a cursor");
    let path = format!("/v1/poll?topic=a.*&topic=b.%3E&latest=1&client={client}&cursor={third}");
    assert_eq!(get(&server, path, &admin).await.0, 200);
    post(&server, "/v1/revocations", json!({ "jti": "revoked" }), &admin).await;
    let content = content(&server, &client).await;
    server.signal(Signal::SIGTERM);
    assert!(end_of(&mut server).await.success());
    let fixture = fixtures().join(concat!("data-", env!("CARGO_PKG_VERSION")));
    std::fs::create_dir_all(&fixture).expect("a directory");
    for file in FILES {
        std::fs::copy(server.data().join(file), fixture.join(file)).expect("a copy");
    }
    let text = serde_json::to_string_pretty(&content).expect("JSON") + "\n";
    std::fs::write(fixture.join("content.json"), text).expect("written");
}
