//! Parses query strings and forms strictly: invalid UTF-8 and duplicate parameters are refused, not guessed at.

use std::borrow::Cow;
use std::ops::RangeInclusive;
use std::time::Duration;

use http::header::HeaderName;
use percent_encoding::percent_decode_str;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use uuid::Uuid;

use super::error::ApiError;
use crate::cursor::Cursor;
use crate::excerpt::excerpt;
use crate::hub::StartFrom;
use crate::net::{Headers, text as header_text};
use crate::topic::{Pattern, PatternSet, Topic, check_habits};
use crate::wire::Callback;

/// Most fields of a query string or a form: enough for 64 patterns, every other parameter, and cache busters.
const FIELDS_MAX: usize = 256;

/// Highest number of a connection attempt: the largest integer that is exact in every JavaScript engine (2^53 - 1).
const ATTEMPT_MAX: u64 = (1 << 53) - 1;

/// The highest `pace`, in milliseconds.
const PACE_MAX_MS: u64 = 60_000;

/// Longest `switched`, in bytes.
const SWITCHED_MAX_BYTES: usize = 64;

/// A decoded name and its decoded value.
type Pair<'t> = (Cow<'t, str>, Cow<'t, str>);

/// The fields of a query string or a form, decoded, in order (WHATWG URL §5.1, but invalid UTF-8 is refused).
fn pairs(text: &str) -> impl Iterator<Item = Result<Pair<'_>, ApiError>> {
    let mut rest = Some(text);
    let next = move || {
        let text = rest?;
        let (pair, after) = cut(text, b'&').map_or((text, None), |(pair, after)| (pair, Some(after)));
        rest = after;
        Some(pair)
    };
    let pairs = std::iter::from_fn(next).filter(|pair| !pair.is_empty()).enumerate();
    pairs.map(|(before, pair)| {
        if before >= FIELDS_MAX {
            return Err(ApiError::bad("too_many_fields", "a query string or form may have at most 256 fields"));
        }
        let (name, value) = cut(pair, b'=').unwrap_or((pair, ""));
        Ok((decode(name)?, decode(value)?))
    })
}

/// Splits at the first occurrence of an ASCII character.
fn cut(text: &str, at: u8) -> Option<(&str, &str)> {
    let found = memchr::memchr(at, text.as_bytes())?;
    Some((&text[..found], &text[found + 1..]))
}

/// Fields, for lookup by name.
pub(crate) struct Fields<'t>(Vec<Pair<'t>>);

impl<'t> Fields<'t> {
    pub(crate) fn parse(text: &'t str) -> Result<Self, ApiError> {
        pairs(text).collect::<Result<_, _>>().map(Self)
    }

    /// The valid fields, whatever is wrong with the others: enough to choose the framing of an error.
    pub(crate) fn legible(text: &'t str) -> Self {
        Self(pairs(text).take(FIELDS_MAX).filter_map(Result::ok).collect())
    }

    /// The fields' names, in order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| &**name)
    }

    /// The one value of a field.
    pub(crate) fn one<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, ApiError> {
        let mut values = self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| &**value);
        let value = values.next();
        if values.next().is_some() { Err(given_twice(name)) } else { Ok(value) }
    }
}

fn given_twice(name: &str) -> ApiError {
    ApiError::bad("bad_parameter", format!("`{name}` is given more than once"))
}

fn decode(text: &str) -> Result<Cow<'_, str>, ApiError> {
    if memchr::memchr2(b'+', b'%', text.as_bytes()).is_none() {
        return Ok(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let owned = decoded.map(|text| Cow::Owned(text.into_owned()));
    owned.map_err(|_| ApiError::bad("bad_utf8", "a field is not percent-encoded UTF-8"))
}

/// The parameters of a subscription. Each is checked on every transport, whether the transport uses it or not.
#[derive(Debug)]
pub(crate) struct Params {
    /// Absent where no `topic` was given.
    pub(crate) patterns: Option<PatternSet>,
    /// `cursor`: a cursor, `now` or `earliest`.
    pub(crate) cursor: Option<StartFrom>,
    /// `lastEventId`, which some polyfills of EventSource send instead of the header `Last-Event-ID`; empty is absent.
    pub(crate) last_event_id: Option<Cursor>,
    pub(crate) client: Option<Uuid>,
    pub(crate) last: Option<usize>,
    /// `since`, in milliseconds since the Unix epoch.
    pub(crate) since: Option<u64>,
    pub(crate) limit: usize,
    pub(crate) wait: Duration,
    pub(crate) padding: bool,
    /// Whether SSE has the events' names in `event:`.
    pub(crate) named: bool,
    /// The iframe's postMessage target, not yet checked against the allow-list.
    pub(crate) origin: Option<String>,
    /// The topic of a WebSocket's binary frames.
    pub(crate) publish: Option<Topic>,
    /// The number of the client's connection attempt.
    pub(crate) attempt: Option<u64>,
    /// Why the client library has changed its transport, `FROM.TO.REASON`.
    pub(crate) switched: Option<Box<str>>,
    pub(crate) latest: Option<bool>,
    /// `pace`, in milliseconds.
    pub(crate) pace_ms: Option<u16>,
    /// The end of the round that the request continues.
    pub(crate) upto: Option<Cursor>,
}

impl Params {
    /// Parses a query string in one pass: each of thousands of short polls a second has one.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let mut patterns = Vec::new();
        let (mut cursor, mut client, mut last, mut limit, mut wait) = (None, None, None, None, None);
        let (mut padding, mut named, mut origin, mut publish) = (None, None, None, None);
        // Parameters of one transport are parsed by its handler before this; here they are only validated.
        let mut resumed = None;
        let (mut once, mut callback, mut token, mut ticket) = (None, None, None, None);
        let (mut attempt, mut switched, mut since) = (None, None, None);
        let (mut latest, mut pace, mut upto) = (None, None, None);
        for pair in pairs(text) {
            let (name, value) = pair?;
            match &*name {
                "topic" if value.contains(',') => return Err(list_of_topics(&value)),
                "topic" => patterns.push(pattern(&value)?),
                "cursor" => set(&mut cursor, &name, parse_from(&value))?,
                "lastEventId" => set(&mut resumed, &name, parse_last_event_id(&value))?,
                "client" => set(&mut client, &name, parse_client(&value))?,
                "last" => set(&mut last, &name, whole(&name, &value, 1..=1000))?,
                "since" => set(&mut since, &name, parse_time(&name, &value))?,
                "limit" => set(&mut limit, &name, whole(&name, &value, 1..=1000))?,
                "wait" => set(&mut wait, &name, whole(&name, &value, 0..=60))?,
                "padding" => set(&mut padding, &name, switch(&name, &value))?,
                "named" => set(&mut named, &name, switch(&name, &value))?,
                "origin" => set(&mut origin, &name, Ok(value.into_owned()))?,
                "publish" => set(&mut publish, &name, value.parse::<Topic>().map_err(ApiError::from))?,
                "once" => set(&mut once, &name, switch(&name, &value))?,
                "callback" => set(&mut callback, &name, parse_callback(&value))?,
                "attempt" => set(&mut attempt, &name, whole(&name, &value, 1..=ATTEMPT_MAX))?,
                "switched" => set(&mut switched, &name, check_switched(&value).map(|()| value.into()))?,
                "latest" => set(&mut latest, &name, switch(&name, &value))?,
                "pace" => set(&mut pace, &name, whole(&name, &value, 0..=PACE_MAX_MS))?,
                "upto" => set(&mut upto, &name, parse_upto(&value))?,
                "token" => set(&mut token, &name, Ok(()))?,
                "ticket" => set(&mut ticket, &name, Ok(()))?,
                _ => {}
            }
        }
        if last.is_some() && since.is_some() {
            return Err(ApiError::bad("bad_parameter", "`last` and `since` are both start positions: give one"));
        }
        if upto.is_some() && latest != Some(true) {
            let message = "`upto` is the end of a round of `latest=1`: give both, or leave out `upto`";
            return Err(ApiError::bad("bad_parameter", message));
        }
        Ok(Self {
            patterns: if patterns.is_empty() { None } else { Some(PatternSet::new(patterns)?) },
            cursor,
            last_event_id: resumed.flatten(),
            client,
            last: last.map(|last| last as usize),
            since,
            limit: limit.unwrap_or(256) as usize,
            wait: Duration::from_secs(wait.unwrap_or(25)),
            padding: padding.unwrap_or(false),
            named: named.unwrap_or(true),
            origin,
            publish,
            attempt,
            switched,
            latest,
            // Within its range.
            pace_ms: pace.map(|pace| pace as u16),
            upto,
        })
    }
}

/// Sets a field that may be given once.
fn set<T>(field: &mut Option<T>, name: &str, value: Result<T, ApiError>) -> Result<(), ApiError> {
    if field.replace(value?).is_some() { Err(given_twice(name)) } else { Ok(()) }
}

/// A comma is legal in a topic, but in a URL it is nearly always a list, which this parameter does not accept: it would
/// silently be one pattern that matches nothing. Over a WebSocket a topic with a comma can be subscribed to.
fn list_of_topics(text: &str) -> ApiError {
    let first = text.split(',').map(str::trim).find(|part| !part.is_empty()).unwrap_or("a");
    let message = format!(
        "`topic` is one pattern: for several, repeat the parameter, topic={}&topic=…, instead of a list with commas",
        excerpt(first)
    );
    ApiError::bad("bad_topic", message)
}

/// A pattern; the error quotes the text, since a subscription has up to 64.
pub(crate) fn pattern(text: &str) -> Result<Pattern, ApiError> {
    let parsed = check_habits(text).and_then(|()| text.parse());
    parsed.map_err(|error| ApiError::bad("bad_topic", format!("`topic` {:?} is invalid: {error}", excerpt(text))))
}

/// Parses `cursor`, wherever it is given.
pub(crate) fn parse_from(text: &str) -> Result<StartFrom, ApiError> {
    match text {
        "now" => Ok(StartFrom::Now),
        "earliest" => Ok(StartFrom::Earliest),
        text => text.parse::<Cursor>().map(StartFrom::Cursor).map_err(|_| {
            let message =
                "`cursor` must be now, earliest, or <epoch>-<position> as received from this server, such as k3f9x2-1042";
            ApiError::bad("bad_cursor", message)
        }),
    }
}

fn parse_upto(text: &str) -> Result<Cursor, ApiError> {
    let message = "`upto` must be the cursor that came as `upto` from this server, such as k3f9x2-1042";
    text.parse().map_err(|_| ApiError::bad("bad_cursor", message))
}

/// A client's UUID: the hyphenated form, in either case (RFC 9562 §4).
pub(crate) fn parse_client(text: &str) -> Result<Uuid, ApiError> {
    let parsed = if text.len() == 36 { Uuid::try_parse(text).ok() } else { None };
    let message = "a client's id must be a UUID, such as 0190b5a2-7c3e-4f6a-9d1b-2e8f4c6a0b1d";
    parsed.ok_or_else(|| ApiError::bad("bad_client", message))
}

/// `switched`, `FROM.TO.REASON`: why a client library has changed its transport. It becomes part of metric names and of log
/// lines, so it is restricted to letters, digits, `-` and `_`.
fn check_switched(text: &str) -> Result<(), ApiError> {
    let is_word =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if text.len() <= SWITCHED_MAX_BYTES && text.split('.').count() == 3 && text.split('.').all(is_word) {
        return Ok(());
    }
    let message = "`switched` must be FROM.TO.REASON, like ws.sse.silent: letters, digits, - and _, at most 64 bytes";
    Err(ApiError::bad("bad_parameter", message))
}

pub(crate) fn parse_callback(text: &str) -> Result<Callback, ApiError> {
    text.parse().map_err(|error: crate::wire::CallbackError| ApiError::bad("bad_callback", error.to_string()))
}

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// The header that an `EventSource` sends when it reconnects; empty is absent.
pub(crate) fn last_event_id(headers: Headers<'_>) -> Result<Option<Cursor>, ApiError> {
    let Some(value) = headers.get(&LAST_EVENT_ID) else { return Ok(None) };
    parse_last_event_id(header_text(value).unwrap_or("?"))
}

fn parse_last_event_id(text: &str) -> Result<Option<Cursor>, ApiError> {
    if text.is_empty() {
        return Ok(None);
    }
    let message = "`Last-Event-ID` must be a cursor as received in `id:` from this server, such as k3f9x2-1042";
    text.parse().map(Some).map_err(|_| ApiError::bad("bad_cursor", message))
}

/// A numeric field, where it is given.
pub(crate) fn number(
    fields: &Fields<'_>,
    name: &'static str,
    range: RangeInclusive<u64>,
) -> Result<Option<u64>, ApiError> {
    fields.one(name)?.map(|text| whole(name, text, range)).transpose()
}

/// A field that is `1` or `0`; absent is `0`.
pub(crate) fn flag(fields: &Fields<'_>, name: &'static str) -> Result<bool, ApiError> {
    fields.one(name)?.map_or(Ok(false), |text| switch(name, text))
}

/// Decimal digits within a range; never clamped.
fn whole(name: &str, text: &str, range: RangeInclusive<u64>) -> Result<u64, ApiError> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    text.parse().ok().filter(|number| digits && range.contains(number)).ok_or_else(|| {
        let message = format!("`{name}` must be a whole number from {} to {}", range.start(), range.end());
        ApiError::bad("bad_parameter", message)
    })
}

/// Below this, milliseconds are probably seconds: they are times in 1970, before any event.
const SECONDS: RangeInclusive<u64> = 1_000_000_000..=9_999_999_999;

/// A time: milliseconds since the Unix epoch, or RFC 3339. A time before 1970 is 1970.
fn parse_time(name: &str, text: &str) -> Result<u64, ApiError> {
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        // A number that exceeds a u64 is in the future in any case.
        let time_ms = text.parse().unwrap_or(u64::MAX);
        if SECONDS.contains(&time_ms) {
            let message = format!("`{name}` must be in milliseconds since 1970: is {text} in seconds?");
            return Err(ApiError::bad("bad_parameter", message));
        }
        return Ok(time_ms);
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).map_err(|_| {
        let message = format!(
            "`{name}` must be a time: milliseconds since 1970, such as 1763750000123, or RFC 3339, such as 2025-11-21T18:33:20Z, where the + of an offset is %2B in a URL"
        );
        ApiError::bad("bad_parameter", message)
    })?;
    Ok(u64::try_from(time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))
}

fn switch(name: &str, text: &str) -> Result<bool, ApiError> {
    match text {
        "0" => Ok(false),
        "1" => Ok(true),
        _ => Err(ApiError::bad("bad_parameter", format!("`{name}` must be 1 or 0"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params(text: &str) -> Result<Params, ApiError> {
        Params::parse(text)
    }

    /// Fields with one value each, which are parsed.
    const SINGLE: [&str; 20] = [
        "cursor",
        "lastEventId",
        "client",
        "last",
        "limit",
        "wait",
        "padding",
        "named",
        "origin",
        "publish",
        "once",
        "callback",
        "token",
        "ticket",
        "attempt",
        "switched",
        "since",
        "latest",
        "pace",
        "upto",
    ];

    /// The parsed value of a field.
    fn read(params: &Params, name: &str) -> String {
        match name {
            "topic" => format!("{:?}", params.patterns),
            "cursor" => format!("{:?}", params.cursor),
            "lastEventId" => format!("{:?}", params.last_event_id),
            "client" => format!("{:?}", params.client),
            "last" => format!("{:?}", params.last),
            "since" => format!("{:?}", params.since),
            "limit" => format!("{:?}", params.limit),
            "wait" => format!("{:?}", params.wait),
            "padding" => format!("{:?}", params.padding),
            "named" => format!("{:?}", params.named),
            "origin" => format!("{:?}", params.origin),
            "publish" => format!("{:?}", params.publish),
            "attempt" => format!("{:?}", params.attempt),
            "latest" => format!("{:?}", params.latest),
            "pace" => format!("{:?}", params.pace_ms),
            _ => String::new(),
        }
    }

    #[test]
    fn reads_every_documented_parameter() {
        let text =
            "topic=a.%2A&topic=b&cursor=e-5&client=0190B5A2-7c3e-4f6a-9d1b-2e8f4c6a0b1d&limit=7&wait=0&once=1&_=123";
        let params = params(text).unwrap();
        assert_eq!(params.patterns.unwrap().iter().map(Pattern::as_str).collect::<Vec<_>>(), ["a.*", "b"]);
        assert_eq!(params.cursor, Some(StartFrom::Cursor("e-5".parse().unwrap())));
        assert_eq!((params.limit, params.wait), (7, Duration::ZERO));
        let params = self::params("topic=a&attempt=9007199254740991&switched=longpoll.ws.probe").unwrap();
        assert_eq!(params.attempt, Some(ATTEMPT_MAX));
        let params = self::params("topic=a&latest=1&pace=60000&upto=e-5").unwrap();
        assert_eq!((params.latest, params.pace_ms), (Some(true), Some(60_000)));
        assert_eq!(params.upto, Some("e-5".parse().unwrap()));
    }

    #[test]
    fn a_time_is_read_in_both_forms() {
        for (text, expected) in [
            ("0", 0),
            ("1763750000123", 1_763_750_000_123),
            ("99999999999999999999999", u64::MAX),
            ("2025-11-21T18:33:20.123Z", 1_763_750_000_123),
            ("2025-11-21t18:33:20.1239z", 1_763_750_000_123),
            ("2025-11-21T19:33:20.123%2B01:00", 1_763_750_000_123),
            ("1969-12-31T23:59:59Z", 0),
        ] {
            assert_eq!(params(&format!("topic=a&since={text}")).unwrap().since, Some(expected), "{text}");
        }
    }

    #[test]
    fn refuses_instead_of_guessing() {
        for text in [
            "limit=0",
            "limit=1001",
            "limit=+5",
            "limit=1e2",
            "limit=",
            "wait=61",
            "wait=-1",
            "wait=1.5",
            "last=0",
            "last=x",
            "since=",
            "since=yesterday",
            "since=-1",
            "since=1763750000",
            "since=1763750000.5",
            "since=2025-11-21",
            "since=2025-11-21T18:33:20",
            "since=2025-11-21T18:33:20+01:00",
            "since=2025-13-21T18:33:20Z",
            "since=1763750000123&last=1",
            "once=yes",
            "once=",
            "cursor=",
            "cursor=e",
            "cursor=e-x",
            "lastEventId=now",
            "lastEventId=e-1&lastEventId=e-1",
            "client=",
            "client=1",
            "client={0190b5a2-7c3e-4f6a-9d1b-2e8f4c6a0b1d}",
            "callback=",
            "callback=1a",
            "topic=",
            "topic=a..b",
            "topic=a*",
            "publish=*",
            "cursor=e-1&cursor=e-2",
            "topic=%ff",
            "limit=99999999999999999999999",
            "latest=2",
            "latest=",
            "latest=true",
            "latest=1&latest=1",
            "pace=60001",
            "pace=-1",
            "pace=",
            "pace=1s",
            "upto=e-1",
            "upto=e-1&latest=0",
            "upto=now&latest=1",
            "upto=&latest=1",
            "attempt=0",
            "attempt=9007199254740992",
            "attempt=1&attempt=2",
            "switched=",
            "switched=ws.sse",
            "switched=ws.sse.a b",
            "switched=ws.sse.silent.more",
            "switched=ws..silent",
            &format!("switched=ws.sse.{}", "x".repeat(58)),
        ] {
            assert!(params(text).is_err(), "{text}");
        }
        let many: Vec<String> = (0..65).map(|i| format!("topic=t{i}")).collect();
        assert!(params(&many.join("&")).is_err());
        assert!(Fields::parse(&"a&".repeat(257)).is_err());
    }

    proptest! {
        #[test]
        fn never_panics(text in "[a-z=&%+0-9\\PC]{0,120}") {
            let _ = params(&text);
        }

        /// Fields are parsed as if each were given alone, whatever is between them, and no field with one value is given
        /// twice.
        #[test]
        fn each_field_is_read_as_if_it_stood_alone(fields in proptest::collection::vec(
            prop_oneof![
                6 => "(topic|publish)=[a-c*]", 3 => "cursor=(now|earliest|e-[0-9])", 2 => "lastEventId=(e-[0-9])?",
                6 => "(last|limit|wait|attempt)=[0-9]{1,2}",
                6 => "(padding|named|once|latest)=[01]", 2 => "pace=[0-9]{1,6}", 3 => "(origin|callback|token|ticket)=[a-z]{1,2}", 2 => "[a-z]{0,2}=?[0-9]",
                1 => "client=0190b5a2-7c3e-4f6a-9d1b-2e8f4c6a0b1[0-9]", 1 => "(cursor|padding|client|x)=(x|%ff|%31)",
            ],
            0..6,
        )) {
            let text = fields.join("&");
            let once = Fields::parse(&text).is_ok_and(|fields| SINGLE.iter().all(|name| fields.one(name).is_ok()));
            let alone = fields.iter().all(|field| params(field).is_ok());
            let all = params(&text);
            prop_assert_eq!(all.is_ok(), once && alone);
            let Ok(all) = all else { return Ok(()) };
            for name in SINGLE.into_iter().chain(["topic"]) {
                let own = fields.iter().filter(|field| field.split('=').next() == Some(name)).cloned();
                let own = params(&own.collect::<Vec<_>>().join("&")).unwrap();
                prop_assert_eq!(read(&all, name), read(&own, name));
            }
        }
    }
}
