//! A server with a secret, and tokens for it.

use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::client::{Kind, Query};
use crate::support::http::{Request, Response};
use crate::support::jwt::Signer;
use crate::support::told::told;

pub(crate) const SECRET: &str = "a secret that nobody guesses, 32+";

/// A server, and what its tokens are signed with.
pub(crate) struct Keyed {
    pub(crate) server: Server,
    pub(crate) signer: Signer,
    pub(crate) _file: tempfile::NamedTempFile,
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}

/// Claims that end in ten minutes, unless they say otherwise.
pub(crate) fn claims(more: Value) -> Value {
    let mut claims = json!({ "exp": now_s() + 600 });
    for (name, value) in more.as_object().expect("claims") {
        claims[name] = value.clone();
    }
    claims
}

pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

impl Keyed {
    pub(crate) fn start(flags: &[&str]) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, SECRET).expect("a secret");
        let path = file.path().to_str().expect("a path").to_owned();
        let all = ["--workers", "1", "--heartbeat", "1s", "--jwt-secret-file", &path];
        let server = Server::start(&[&all[..], flags].concat());
        Self { server, signer: Signer::secret(SECRET), _file: file }
    }

    pub(crate) fn address(&self) -> &str {
        self.server.address()
    }

    /// A token with these claims.
    pub(crate) fn token(&self, more: Value) -> String {
        self.signer.sign(&claims(more))
    }

    /// Grants everything.
    pub(crate) fn root(&self) -> String {
        self.token(json!({ "subscribe": [">"], "publish": [">"] }))
    }

    pub(crate) fn admin(&self) -> String {
        self.token(json!({ "admin": true, "sub": "the administrator" }))
    }

    /// A subscription that shows a token in its header.
    pub(crate) fn query(&self, topic: &str, more: Value) -> Query {
        Query::topic(topic).header("Authorization", bearer(&self.token(more)))
    }

    /// Publishes one event; returns its cursor.
    pub(crate) async fn publish(&self, topic: &str, data: impl Into<Value>) -> String {
        let body = json!({ "topic": topic, "data": data.into() }).to_string();
        let request = Request::post("/v1/events", "application/json", body);
        let answer = request.header("Authorization", bearer(&self.root())).send(self.address()).await;
        answer.created().await["cursor"].as_str().expect("a cursor").to_owned()
    }

    /// The log's end.
    pub(crate) async fn end(&self) -> String {
        let request = Request::get("/v1/info").header("Authorization", bearer(&self.root()));
        let info = request.send(self.address()).await.json().await;
        info["cursor"].as_str().expect("a cursor").to_owned()
    }

    /// An administrator's request.
    pub(crate) async fn administer(&self, request: Request) -> Response {
        request.header("Authorization", bearer(&self.admin())).send(self.address()).await
    }

    /// The request is refused with this status, and tells the page so in the way of its transport.
    pub(crate) async fn refuses(&self, kind: Kind, query: &Query, status: u16, why: &str) {
        let response = query.request(kind).send(self.address()).await;
        let code = match status {
            401 => "unauthorized",
            403 => "forbidden",
            _ => "",
        };
        if !matches!(kind, Kind::Jsonp | Kind::JsonpPoll | Kind::Iframe | Kind::IframeOnce) && status < 404 {
            let challenge = response.header("www-authenticate").unwrap_or_default();
            assert!(challenge.starts_with("Bearer"), "{kind}, {why}: RFC 6750 §3: {challenge:?}");
        }
        let (found, retry) = told(kind, None, response, status).await;
        assert_eq!((found.as_str(), retry), (code, None), "{kind}: {why}");
    }

    /// The request is served.
    pub(crate) async fn serves(&self, kind: Kind, query: &Query, why: &str) {
        let query = query.clone().set("wait", 0);
        let mut link = crate::support::client::Link::to(self.address(), kind, &query).await;
        if kind.streams() {
            assert_eq!(link.item().await.event, "$hello", "{kind}: {why}");
        } else {
            let batch = link.batch().await;
            assert!(
                batch.cursor.is_some() && batch.events.iter().all(|item| !item.is_control()),
                "{kind}: {why}: {batch:?}"
            );
        }
    }
}
