//! The servers under test, and their requests for each transport.

use super::Fault;
use super::http::{self, Answer};
use super::load::Role;
use super::seen::Seen;
use super::servers::{self, Build, Running};

/// A server under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Floor,
    Nchan,
    Memory,
    Disk,
    /// Another build of Switchback; see [`servers::set_previous`].
    PreviousMemory,
    PreviousDisk,
}

/// Creates subscribers of one kind.
pub(crate) type MakeRole = Box<dyn Fn() -> Role>;

/// A way to subscribe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Transport {
    Ws,
    Sse,
    Iframe,
    Longpoll,
    Jsonp,
}

impl Target {
    /// Those whose figures are stored.
    pub(crate) const ALL: [Self; 4] = [Self::Floor, Self::Nchan, Self::Memory, Self::Disk];

    /// A build of Switchback against another build: this one first.
    pub(crate) const BUILDS: [(Self, Self); 2] =
        [(Self::Memory, Self::PreviousMemory), (Self::Disk, Self::PreviousDisk)];

    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::ALL.into_iter().chain(Self::BUILDS.map(|(_, previous)| previous))
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Floor => "floor",
            Self::Nchan => "nchan",
            Self::Memory => "memory",
            Self::Disk => "disk",
            Self::PreviousMemory => "previous-memory",
            Self::PreviousDisk => "previous-disk",
        }
    }

    pub(crate) fn is_switchback(self) -> bool {
        !matches!(self, Self::Floor | Self::Nchan)
    }

    pub(crate) fn start(self, connections_max: u64) -> Result<Running, Fault> {
        match self {
            Self::Floor => servers::floor(),
            Self::Nchan => servers::nchan(connections_max),
            Self::Memory => servers::memory(Build::This, &["--max-events", &servers::KEPT_EVENTS.to_string()]),
            Self::Disk => servers::disk(Build::This, &[]),
            Self::PreviousMemory => {
                servers::memory(Build::Previous, &["--max-events", &servers::KEPT_EVENTS.to_string()])
            }
            Self::PreviousDisk => servers::disk(Build::Previous, &[]),
        }
    }

    /// A request that publishes one event.
    pub(crate) fn publish(self, data: &str) -> Vec<u8> {
        match self {
            Self::Floor | Self::Nchan => http::post("/pub", "application/json", data),
            _ => http::post("/v1/topics/bench", "application/json", data),
        }
    }

    /// A request that publishes many at once, where the server can.
    pub(crate) fn publish_batch(self, data: &[String]) -> Option<Vec<u8>> {
        let events: Vec<String> = data.iter().map(|data| format!("{{\"topic\":\"bench\",\"data\":{data}}}")).collect();
        let body = format!("[{}]", events.join(","));
        self.is_switchback().then(|| http::post("/v1/events", "application/json", &body))
    }

    /// A short poll without new events.
    pub(crate) fn empty_poll(self, server: &Running) -> Result<Vec<u8>, Fault> {
        match self {
            Self::Floor => Ok(http::get("/poll", "")),
            Self::Nchan => {
                // The first response contains the message; later polls present its validators.
                server.request(&self.publish("{}"))?;
                let first = server.request_with_head(&http::get("/intervalpoll", ""))?;
                let answer = http::answer(&first).ok_or("no answer")?;
                nchan_request("/intervalpoll", &answer).ok_or_else(|| "Nchan named no message".into())
            }
            _ => {
                let cursor = cursor(server)?;
                let path = format!("/v1/poll?topic=bench&cursor={cursor}");
                Ok(http::get(&path, &format!("If-None-Match: \"{cursor}\"\r\n")))
            }
        }
    }

    /// A subscriber's request and its role in the load. Nchan has no iframe streaming and no JSONP: its nearest transports,
    /// `EventSource` and long polling, replace them.
    pub(crate) fn subscribe(self, transport: Transport, server: &Running) -> Result<(Vec<u8>, MakeRole), Fault> {
        use Transport::{Iframe, Jsonp, Longpoll, Sse, Ws};
        fn held(next: fn(&Answer<'_>) -> Option<Vec<u8>>) -> MakeRole {
            Box::new(move || Role::Held { seen: Seen::default(), next })
        }
        let stream = |greeting| -> MakeRole {
            Box::new(move || Role::Stream { seen: Seen::default(), greeting, greeted: false })
        };
        let head_end: &[u8] = b"\r\n\r\n";
        Ok(match (self, transport) {
            (Self::Floor, Ws | Sse | Iframe) => (http::get("/sub", ""), stream(head_end)),
            (Self::Floor, Longpoll | Jsonp) => (http::get("/held", ""), held(|_| Some(http::get("/held", "")))),
            (Self::Nchan, Ws) => (http::get("/websocket", http::UPGRADE), stream(head_end)),
            (Self::Nchan, Sse | Iframe) => {
                (http::get("/eventsource", "Accept: text/event-stream\r\n"), stream(head_end))
            }
            (Self::Nchan, Longpoll | Jsonp) => {
                (http::get("/longpoll", ""), held(|answer| nchan_request("/longpoll", answer)))
            }
            (_, Ws) => (http::get("/v1/ws?topic=bench", http::UPGRADE), stream(b"$hello")),
            (_, Sse) => (http::get("/v1/sse?topic=bench", "Accept: text/event-stream\r\n"), stream(b"$hello")),
            (_, Iframe) => (
                http::get("/v1/iframe?topic=bench", ""),
                Box::new(|| Role::Iframe { seen: Seen::default(), greeted: false }),
            ),
            (_, Longpoll) => {
                (switchback_held(LONGPOLL, &cursor(server)?), held(|answer| switchback_next(LONGPOLL, answer)))
            }
            (_, Jsonp) => (switchback_held(JSONP, &cursor(server)?), held(|answer| switchback_next(JSONP, answer))),
        })
    }
}

const LONGPOLL: &str = "/v1/longpoll?topic=bench&wait=60&cursor=";
const JSONP: &str = "/v1/jsonp?topic=bench&wait=60&callback=cb&cursor=";

fn cursor(server: &Running) -> Result<String, Fault> {
    let info = server.request(&http::get("/v1/info", ""))?;
    Ok(http::quoted(&info, "\"cursor\":\"").ok_or("no cursor in /v1/info")?.to_owned())
}

fn switchback_held(path: &str, cursor: &str) -> Vec<u8> {
    http::get(&format!("{path}{cursor}"), "")
}

/// The next poll presents the batch's cursor, which is its first key.
fn switchback_next(path: &str, answer: &Answer<'_>) -> Option<Vec<u8>> {
    Some(switchback_held(path, http::quoted(answer.body, "{\"cursor\":\"")?))
}

/// The next poll presents the validators of the last message.
fn nchan_request(path: &str, answer: &Answer<'_>) -> Option<Vec<u8>> {
    let (time, tag) = (http::header(answer.head, "last-modified")?, http::header(answer.head, "etag")?);
    Some(http::get(path, &format!("If-Modified-Since: {time}\r\nIf-None-Match: {tag}\r\n")))
}
