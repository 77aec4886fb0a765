//! Removal and rotation of keys while the server runs, and the effect on open connections.

use std::fs;

use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::keyed::{SECRET, bearer, claims, now_s};
use crate::support::Server;
use crate::support::client::{Kind, Link, Query};
use crate::support::fixture::over;
use crate::support::http::Request;
use crate::support::jwt::{Signer, jwks};
use crate::support::until;

over!(in connections_of_a_withdrawn_key_end: longpoll Longpoll, jsonp Jsonp, iframe Iframe, iframe_once IframeOnce, sse Sse,
      stream Stream, ws Ws);
over!(in an_empty_set_refuses_and_ends: longpoll Longpoll, jsonp Jsonp, sse Sse, ws Ws);

/// A server with a key file.
struct Publics {
    server: Server,
    file: tempfile::NamedTempFile,
}

impl Publics {
    fn start(keys: &[&Signer]) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        fs::write(&file, jwks(keys)).expect("keys");
        let path = file.path().to_str().expect("a path");
        let server = Server::start(&["--workers", "1", "--public-subscribe", "news", "--jwks", path]);
        Self { server, file }
    }

    /// Replaces the key file atomically.
    fn write(&self, keys: &[&Signer]) {
        let new = self.file.path().with_extension("new");
        fs::write(&new, jwks(keys)).expect("keys");
        fs::rename(new, self.file.path()).expect("the key file is replaced");
    }

    async fn status(&self, token: &str) -> u16 {
        poll(&self.server, token).await
    }

    /// Opens a stream or a held request, and returns its end. The response of a held request begins only at its end.
    fn open(&self, kind: Kind, token: &str) -> tokio::task::JoinHandle<Value> {
        let (address, query) = (self.server.address().to_owned(), by(token).with("wait", 60));
        tokio::spawn(async move {
            let mut link = Link::to(&address, kind, &query).await;
            if !kind.streams() {
                return link.batch().await.events[0].value();
            }
            assert_eq!(link.item().await.event, "$hello");
            let bye = link.telling().await;
            assert_eq!(link.end().await, (kind == Kind::Ws).then(|| (1008, "expired".to_owned())));
            bye.value()
        })
    }
}

fn by(token: &str) -> Query {
    Query::topic("a").header("Authorization", bearer(token))
}

async fn poll(server: &Server, token: &str) -> u16 {
    by(token).request(Kind::Poll).send(server.address()).await.status
}

fn granted() -> Value {
    claims(json!({ "subscribe": ["a"], "publish": ["a"] }))
}

/// Held requests are open once they are listed; the list requires an administrator's token of the key that stays.
async fn connected(publics: &Publics, admin: &str, count: usize) {
    until("the clients are connected", || async {
        let request = Request::get("/v1/clients").header("Authorization", bearer(admin));
        let listed = request.send(publics.server.address()).await.json().await;
        listed["clients"].as_array().is_some_and(|clients| clients.len() == count)
    })
    .await;
}

async fn connections_of_a_withdrawn_key_end(kind: Kind) {
    let (gone, stays) = (Signer::ed_dsa(), Signer::es256());
    let publics = Publics::start(&[&gone, &stays]);
    let (by_gone, by_stays) = (gone.sign(&granted()), stays.sign(&granted()));
    let admin = stays.sign(&claims(json!({ "admin": true })));
    let ticket = Request::post("/v1/tickets", "", r#"{"transport":"poll"}"#).header("Authorization", bearer(&by_gone));
    let ticket =
        ticket.send(publics.server.address()).await.created().await["ticket"].as_str().expect("one").to_owned();
    let ended = publics.open(kind, &by_gone);
    let mut other = Link::to(publics.server.address(), Kind::Ws, &by(&by_stays)).await;
    assert_eq!(other.item().await.event, "$hello");
    connected(&publics, &admin, 2).await;
    publics.write(&[&stays]);
    // The same as for an expired token: with another token the client may reconnect.
    assert_eq!(ended.await.expect("the connection was notified"), json!({ "reason": "expired" }));
    assert_eq!((publics.status(&by_gone).await, publics.status(&by_stays).await), (401, 200));
    let ticket = Query::topic("a").with("ticket", ticket).request(Kind::Poll).send(publics.server.address()).await;
    assert_eq!(ticket.status, 401, "a ticket of a removed key's token is refused");
    // Connections of other keys stay open.
    assert_eq!(other.ask(json!({ "type": "publish", "topic": "a", "data": 1 })).await["ok"], true);
    assert_eq!(other.telling().await.value(), 1);
}

async fn an_empty_set_refuses_and_ends(kind: Kind) {
    let signer = Signer::ed_dsa();
    let publics = Publics::start(&[&signer]);
    let token = signer.sign(&granted());
    let ended = publics.open(kind, &token);
    connected(&publics, &signer.sign(&claims(json!({ "admin": true }))), 1).await;
    publics.write(&[]);
    assert_eq!(ended.await.expect("the connection was notified"), json!({ "reason": "expired" }));
    assert_eq!(publics.status(&token).await, 401);
    // Without keys the server is not anonymous: publishing is refused, and only public topics are readable.
    let address = publics.server.address();
    assert_eq!(Query::topic("a").request(Kind::Poll).send(address).await.status, 401);
    assert_eq!(Query::topic("news").request(Kind::Poll).send(address).await.status, 200);
    assert_eq!(Request::post("/v1/topics/news", "", "1").send(address).await.status, 401);
    publics.write(&[&signer]);
    until("the key is restored", || async { publics.status(&token).await == 200 }).await;
}

/// A restart without keys does not make the server anonymous either.
#[tokio::test]
async fn a_server_that_starts_without_a_key_is_not_open() {
    let publics = Publics::start(&[]);
    assert_eq!(publics.status(&Signer::ed_dsa().sign(&granted())).await, 401);
    assert_eq!(Query::topic("a").request(Kind::Poll).send(publics.server.address()).await.status, 401);
    let signer = Signer::es256();
    publics.write(&[&signer]);
    until("there is a key", || async { publics.status(&signer.sign(&granted())).await == 200 }).await;
}

/// Rotation with two secrets: no token in use is refused during the rotation, and connections of the old secret end with it.
#[tokio::test]
async fn a_secret_is_exchanged_while_the_server_runs() {
    let home = tempfile::tempdir().expect("a directory");
    let (current, previous) = (home.path().join("current"), home.path().join("previous"));
    let put = |path: &std::path::Path, text: &str| {
        let new = path.with_extension("new");
        fs::write(&new, text).expect("written");
        let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        fs::set_permissions(&new, private).expect("the mode is set to 600");
        fs::rename(new, path).expect("the file is replaced");
    };
    put(&current, SECRET);
    put(&previous, "");
    let text = |path: &std::path::Path| path.to_str().expect("a path").to_owned();
    let (current_flag, previous_flag) = (text(&current), text(&previous));
    let flags = ["--jwt-secret-file", &current_flag, "--jwt-previous-secret-file", &previous_flag];
    let server = Server::start(&[&["--workers", "1", "--heartbeat", "1s"], &flags[..]].concat());
    const NEXT: &str = "another secret of enough random bytes";
    let (old, new) = (Signer::secret(SECRET).sign(&granted()), Signer::secret(NEXT).sign(&granted()));
    assert_eq!((poll(&server, &old).await, poll(&server, &new).await), (200, 401));
    let mut link = Link::to(server.address(), Kind::Sse, &by(&old)).await;
    assert_eq!(link.item().await.event, "$hello");
    // First the old secret is added as the second, so that it is known at every moment.
    put(&previous, SECRET);
    put(&current, &format!("{NEXT}\n"));
    until("the new secret is accepted", || async { poll(&server, &new).await == 200 }).await;
    assert_eq!(poll(&server, &old).await, 200);
    // An invalid secret changes nothing.
    put(&current, "too short");
    put(&previous, "too short");
    server.signal(Signal::SIGHUP);
    assert_eq!((poll(&server, &old).await, poll(&server, &new).await), (200, 200));
    put(&current, NEXT);
    put(&previous, "\n");
    until("the old secret is removed", || async { poll(&server, &old).await == 401 }).await;
    assert_eq!(poll(&server, &new).await, 200);
    assert_eq!(link.telling().await.value(), json!({ "reason": "expired" }));
}

/// A token with a very late expiry, as identity providers issue to services.
#[tokio::test]
async fn a_token_is_no_older_than_the_server_allows() {
    let keyed = super::keyed::Keyed::start(&["--max-token-age", "1h"]);
    let query = |iat: Value| keyed.query("a", json!({ "subscribe": ["a"], "exp": 4_102_444_800_u64, "iat": iat }));
    keyed.serves(Kind::Poll, &query(json!(now_s() - 60)), "young enough").await;
    keyed.refuses(Kind::Poll, &query(json!(now_s() - 3601)), 401, "too old").await;
    keyed.refuses(Kind::Poll, &query(json!(now_s() + 60)), 401, "of the future").await;
    keyed.refuses(Kind::Poll, &query(Value::Null), 401, "of unknown age").await;
    // Its connections end by the maximum token age, too.
    let mut link = Link::to(keyed.address(), Kind::Sse, &query(json!(now_s() - 3598))).await;
    assert_eq!(link.item().await.event, "$hello");
    assert_eq!(link.telling().await.value(), json!({ "reason": "expired" }));
}

/// SIGHUP (a closed terminal, `systemctl reload`, logrotate) reloads, and does not end the server.
#[tokio::test]
async fn sighup_reads_again_and_ends_nothing() {
    let signer = Signer::ed_dsa();
    let file = tempfile::NamedTempFile::new().expect("a file");
    fs::write(&file, jwks(&[&signer])).expect("keys");
    let path = file.path().to_str().expect("a path");
    let settings = tempfile::NamedTempFile::new().expect("a file");
    let config = settings.path().to_str().expect("a path");
    let mut server = Server::start(&["--workers", "1", "--log", "info", "--jwks", path, "--config", config]);
    let mut link = Link::to(server.address(), Kind::Ws, &by(&signer.sign(&granted()))).await;
    assert_eq!(link.item().await.event, "$hello");
    for round in 1..=3 {
        server.signal(Signal::SIGHUP);
        until("the reload is logged", || async {
            server.log().matches("certificates were read again").count() == round
        })
        .await;
    }
    // The list of allowed origins is reloaded, too; an invalid file changes nothing.
    let token = bearer(&signer.sign(&granted()));
    let publish = || {
        let request = Request::post("/v1/topics/a", "", "2").header("Origin", "https://app.example.com");
        request.header("Authorization", &token)
    };
    assert_eq!(publish().send(server.address()).await.status, 403);
    fs::write(&settings, "allow-origin = \"https://app.example.com\"").expect("written");
    server.signal(Signal::SIGHUP);
    until("the page may publish", || async { publish().send(server.address()).await.status == 201 }).await;
    assert_eq!(link.telling().await.value(), 2);
    fs::write(&settings, "allow-origin = [").expect("written");
    server.signal(Signal::SIGHUP);
    until("the reload is logged", || async { server.log().contains("the settings stay as they were") }).await;
    assert_eq!(publish().send(server.address()).await.status, 201);
    assert_eq!(link.telling().await.value(), 2);
    assert_eq!(link.ask(json!({ "type": "publish", "topic": "a", "data": 1 })).await["ok"], true);
    assert_eq!(link.telling().await.value(), 1);
    assert_eq!(server.ended(), None);
}
