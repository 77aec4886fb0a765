//! The fixture of the access tests: a server with a secret, tokens signed with it, and a simulated wall clock.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::support::Server;
use crate::support::client::{Kind, Query};
use crate::support::http::{Request, Response};
use crate::support::jwt::Signer;
use crate::support::preload::Faults;
use crate::support::refusal::refusal;
use crate::support::until;

pub(crate) const SECRET: &str = "a secret of enough random bytes, 32+";

/// A server, and the key that its tokens are signed with.
pub(crate) struct Keyed {
    pub(crate) server: Server,
    pub(crate) signer: Signer,
    _file: tempfile::NamedTempFile,
    /// Controls the server's wall clock, with the seconds that this clock is ahead.
    clock: Option<(Faults, AtomicU64)>,
}

/// Seconds since 1970.
pub(crate) fn now_s() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("a time after 1970").as_secs()
}

/// Claims that expire in ten minutes, unless `exp` is given.
pub(crate) fn claims(more: Value) -> Value {
    claims_at(now_s(), &more)
}

fn claims_at(now_s: u64, more: &Value) -> Value {
    let mut claims = json!({ "exp": now_s + 600 });
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
        Self::start_by(flags, |flags| (Server::start(flags), None))
    }

    /// As [`Self::start`], with a simulated wall clock, which [`Self::pass`] sets ahead.
    pub(crate) fn start_with_clock(flags: &[&str]) -> Self {
        Self::start_by(flags, |flags| {
            let (faults, server) = Faults::start(flags);
            (server, Some((faults, AtomicU64::new(0))))
        })
    }

    fn start_by(flags: &[&str], start: impl FnOnce(&[&str]) -> (Server, Option<(Faults, AtomicU64)>)) -> Self {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, SECRET).expect("a secret");
        let path = file.path().to_str().expect("a path").to_owned();
        let all = ["--workers", "1", "--heartbeat", "1s", "--jwt-secret-file", &path];
        let (server, clock) = start(&[&all[..], flags].concat());
        Self { server, signer: Signer::secret(SECRET), _file: file, clock }
    }

    /// The same fixture after a restart of its server.
    pub(crate) fn restarted(mut self, restart: impl FnOnce(Server) -> Server) -> Self {
        self.server = restart(self.server);
        self
    }

    /// Seconds since 1970 by the server's wall clock.
    pub(crate) fn now_s(&self) -> u64 {
        now_s() + self.clock.as_ref().map_or(0, |(_, ahead_s)| ahead_s.load(Ordering::Relaxed))
    }

    /// Sets the server's wall clock ahead. Requests use the new time at once; the server checks once a second whether the clock
    /// was set, and then ends expired connections.
    pub(crate) fn pass(&self, seconds: u64) {
        let (faults, ahead_s) = self.clock.as_ref().expect("the server was started with a simulated clock");
        let ahead_s = ahead_s.fetch_add(seconds, Ordering::Relaxed) + seconds;
        faults.set_clock(1000 * i64::try_from(ahead_s).expect("less than an age"));
    }

    pub(crate) fn address(&self) -> &str {
        self.server.address()
    }

    /// A token with these claims.
    pub(crate) fn token(&self, more: Value) -> String {
        self.signer.sign(&claims_at(self.now_s(), &more))
    }

    /// A token that grants everything.
    pub(crate) fn root(&self) -> String {
        self.token(json!({ "subscribe": [">"], "publish": [">"] }))
    }

    pub(crate) fn admin(&self) -> String {
        self.token(json!({ "admin": true, "sub": "the administrator" }))
    }

    /// A subscription with a token in the `Authorization` header.
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

    /// The cursor at the end of the log.
    pub(crate) async fn end(&self) -> String {
        let request = Request::get("/v1/info").header("Authorization", bearer(&self.root()));
        let info = request.send(self.address()).await.json().await;
        info["cursor"].as_str().expect("a cursor").to_owned()
    }

    /// Waits until the server lists a connection of this client.
    pub(crate) async fn connected(&self, client: &str) {
        until("the client is connected", async || {
            let mut answer = self.administer(Request::get(format!("/v1/clients/{client}"))).await;
            answer.status == 200 && answer.json().await["transports"].as_array().is_some_and(|all| all.len() == 1)
        })
        .await;
    }

    /// An administrator's request.
    pub(crate) async fn administer(&self, request: Request) -> Response {
        request.header("Authorization", bearer(&self.admin())).send(self.address()).await
    }

    /// Asserts that the request is refused with this status, in the form of its transport.
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
        let (found, retry) = refusal(kind, None, response, status).await;
        assert_eq!((found.as_str(), retry), (code, None), "{kind}: {why}");
    }

    /// Asserts that the request is served.
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
