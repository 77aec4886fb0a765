//! Query strings and forms, strictly: what is not UTF-8 or stands twice is refused, not guessed at.

use std::borrow::Cow;
use std::str::FromStr;
use std::time::Duration;

use actix_web::http::header::HeaderMap;
use percent_encoding::percent_decode_str;
use uuid::Uuid;

use super::error::ApiError;
use crate::cursor::Cursor;
use crate::hub::From;
use crate::topic::{Pattern, PatternSet, Topic};
use crate::wire::Callback;

/// Most fields of a query string or a form: 64 patterns, everything else, and room for cache busters.
const FIELDS_MAX: usize = 256;

/// Decoded fields, in order (WHATWG URL §5.1, but for what is not UTF-8, which is refused).
pub(crate) struct Fields<'t>(Vec<(Cow<'t, str>, Cow<'t, str>)>);

impl<'t> Fields<'t> {
    pub(crate) fn parse(text: &'t str) -> Result<Self, ApiError> {
        let pairs = text.split('&').filter(|pair| !pair.is_empty());
        let mut fields = Vec::new();
        for pair in pairs {
            if fields.len() == FIELDS_MAX {
                return Err(ApiError::bad("too_many_fields", "a query string or form has at most 256 fields"));
            }
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            fields.push((decode(name)?, decode(value)?));
        }
        Ok(Self(fields))
    }

    /// The fields that can be read, whatever is wrong with the others: enough to know how a refusal is to be told.
    pub(crate) fn legible(text: &'t str) -> Self {
        let pairs = text.split('&').filter(|pair| !pair.is_empty()).take(FIELDS_MAX);
        let fields = pairs.filter_map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((decode(name).ok()?, decode(value).ok()?))
        });
        Self(fields.collect())
    }

    /// The one value of a field.
    pub(crate) fn one<'a>(&'a self, name: &'a str) -> Result<Option<&'a str>, ApiError> {
        let mut values = self.all(name);
        let value = values.next();
        match values.next() {
            Some(_) => Err(ApiError::bad("bad_parameter", format!("{name} stands twice; it can have one value only"))),
            None => Ok(value),
        }
    }

    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(key, _)| key == name).map(|(_, value)| &**value)
    }
}

fn decode(text: &str) -> Result<Cow<'_, str>, ApiError> {
    if !text.bytes().any(|byte| matches!(byte, b'+' | b'%')) {
        return Ok(Cow::Borrowed(text));
    }
    let spaced = text.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8();
    let owned = decoded.map(|text| Cow::Owned(text.into_owned()));
    owned.map_err(|_| ApiError::bad("bad_utf8", "a field is not UTF-8, percent-encoded"))
}

/// The parameters of a subscription. Every one is checked on every transport, whether it matters there or not.
#[derive(Debug)]
pub(crate) struct Params {
    /// Absent where no `topic` was given.
    pub(crate) patterns: Option<PatternSet>,
    /// `cursor`: a cursor, `now` or `earliest`.
    pub(crate) cursor: Option<From>,
    pub(crate) client: Option<Uuid>,
    pub(crate) last: Option<usize>,
    pub(crate) limit: usize,
    pub(crate) wait: Duration,
    pub(crate) padding: bool,
    /// Whether SSE says names in `event:`.
    pub(crate) named: bool,
    /// The iframe's postMessage target, not yet held against the allow-list.
    pub(crate) origin: Option<String>,
    /// Where a WebSocket's binary frames are published.
    pub(crate) publish: Option<Topic>,
}

impl Params {
    pub(crate) fn parse(fields: &Fields<'_>) -> Result<Self, ApiError> {
        let patterns: Vec<Pattern> = fields.all("topic").map(pattern).collect::<Result<_, _>>()?;
        let wait = number(fields, "wait", 0..=60)?.unwrap_or(25);
        // What only some transports use is looked at before anything else there; here it is only checked.
        switch(fields, "once", false)?;
        fields.one("callback")?.map(parse_callback).transpose()?;
        fields.one("token")?;
        fields.one("ticket")?;
        Ok(Self {
            patterns: if patterns.is_empty() { None } else { Some(PatternSet::new(patterns)?) },
            cursor: fields.one("cursor")?.map(parse_from).transpose()?,
            client: fields.one("client")?.map(parse_client).transpose()?,
            last: number(fields, "last", 1..=1000)?.map(|last| last as usize),
            limit: number(fields, "limit", 1..=1000)?.unwrap_or(256) as usize,
            wait: Duration::from_secs(wait),
            padding: switch(fields, "padding", false)?,
            named: switch(fields, "named", true)?,
            origin: fields.one("origin")?.map(str::to_owned),
            publish: fields.one("publish")?.map(Topic::from_str).transpose()?,
        })
    }
}

/// A pattern, with the text in the message that was refused: a subscription has up to 64.
pub(crate) fn pattern(text: &str) -> Result<Pattern, ApiError> {
    text.parse().map_err(|error| {
        let shown: String = text.chars().take(80).collect();
        ApiError::bad("bad_topic", format!("topic {shown:?}: {error}"))
    })
}

/// `cursor`, wherever it is given.
pub(crate) fn parse_from(text: &str) -> Result<From, ApiError> {
    match text {
        "now" => Ok(From::Now),
        "earliest" => Ok(From::Earliest),
        text => text.parse::<Cursor>().map(From::Cursor).map_err(|_| {
            let message =
                "cursor is now, earliest, or <epoch>-<position> as received from this server, such as k3f9x2-1042";
            ApiError::bad("bad_cursor", message)
        }),
    }
}

/// A client's UUID: the hyphenated form, in either case (RFC 9562 §4).
pub(crate) fn parse_client(text: &str) -> Result<Uuid, ApiError> {
    let parsed = if text.len() == 36 { Uuid::try_parse(text).ok() } else { None };
    let message = "a client is named by a UUID, such as 0190b5a2-7c3e-4f6a-9d1b-2e8f4c6a0b1d";
    parsed.ok_or_else(|| ApiError::bad("bad_client", message))
}

pub(crate) fn parse_callback(text: &str) -> Result<Callback, ApiError> {
    text.parse().map_err(|error: crate::wire::CallbackError| ApiError::bad("bad_callback", error.to_string()))
}

/// The header that an `EventSource` sends when it comes back; empty is absent.
pub(crate) fn last_event_id(headers: &HeaderMap) -> Result<Option<Cursor>, ApiError> {
    let Some(value) = headers.get("last-event-id").filter(|value| !value.is_empty()) else { return Ok(None) };
    let cursor = value.to_str().ok().and_then(|text| text.parse().ok());
    let message = "Last-Event-ID is a cursor as received in id: from this server, such as k3f9x2-1042";
    cursor.map(Some).ok_or_else(|| ApiError::bad("bad_cursor", message))
}

/// Decimal digits within a range; never clamped.
pub(crate) fn number(
    fields: &Fields<'_>,
    name: &'static str,
    range: std::ops::RangeInclusive<u64>,
) -> Result<Option<u64>, ApiError> {
    let Some(text) = fields.one(name)? else { return Ok(None) };
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse().ok().filter(|number| digits && range.contains(number)) {
        Some(number) => Ok(Some(number)),
        None => {
            let message = format!("{name} is a whole number from {} to {}", range.start(), range.end());
            Err(ApiError::bad("bad_parameter", message))
        }
    }
}

fn switch(fields: &Fields<'_>, name: &'static str, default: bool) -> Result<bool, ApiError> {
    match fields.one(name)? {
        None => Ok(default),
        Some("0") => Ok(false),
        Some("1") => Ok(true),
        Some(_) => Err(ApiError::bad("bad_parameter", format!("{name} is 1 or 0"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn params(text: &str) -> Result<Params, ApiError> {
        Params::parse(&Fields::parse(text)?)
    }

    #[test]
    fn reads_what_the_contract_lists() {
        let text =
            "topic=a.%2A&topic=b&cursor=e-5&client=0190B5A2-7c3e-4f6a-9d1b-2e8f4c6a0b1d&limit=7&wait=0&once=1&_=123";
        let params = params(text).unwrap();
        assert_eq!(params.patterns.unwrap().iter().map(Pattern::as_str).collect::<Vec<_>>(), ["a.*", "b"]);
        assert_eq!(params.cursor, Some(From::Cursor("e-5".parse().unwrap())));
        assert_eq!((params.limit, params.wait), (7, Duration::ZERO));
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
            "once=yes",
            "once=",
            "cursor=",
            "cursor=e",
            "cursor=e-x",
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
    }
}
