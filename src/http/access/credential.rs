//! Finds the credential of a request: where a request may carry a token, and which one it carries.

use std::fmt;

use http::header::{AUTHORIZATION, COOKIE, SEC_WEBSOCKET_PROTOCOL};

use super::super::error::ApiError;
use super::super::query::Fields;
use crate::net::Headers;

/// The cookie that may hold a token.
const COOKIE_NAME: &str = "switchback_token";

/// The prefix of a token in the list of subprotocols, the one header of a WebSocket that a page can set.
const SUBPROTOCOL_PREFIX: &str = "switchback.token.";

/// The credential of a request.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credential {
    Token(String),
    Ticket(String),
}

impl Credential {
    /// The one credential of a request. A cookie counts where `cookies` is set and there is no other credential, since the
    /// browser sends it, not the page.
    ///
    /// # Errors
    /// 400 where there are several (RFC 6750 §2).
    pub(super) fn of(query: &str, headers: Headers<'_>, cookies: bool) -> Result<Option<Self>, ApiError> {
        let fields = Fields::legible(query);
        let url = [
            fields.one("token")?.map(|token| Self::Token(token.to_owned())),
            fields.one("ticket")?.map(|ticket| Self::Ticket(ticket.to_owned())),
        ];
        let mut shown = bearer(headers).chain(subprotocols(headers)).map(Self::Token).chain(url.into_iter().flatten());
        let first = shown.next();
        if shown.next().is_some() {
            let message =
                "give one credential: an `Authorization` header, a `switchback.token` subprotocol, `token` or `ticket`";
            return Err(ApiError::bad("bad_credentials", message));
        }
        Ok(first.or_else(|| cookie(headers).filter(|_| cookies).map(Self::Token)))
    }
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Token(_) => "Token(…)",
            Self::Ticket(_) => "Ticket(…)",
        })
    }
}

/// `Authorization: Bearer TOKEN` (RFC 6750 §2.1). Another scheme is for a proxy in front of this server.
fn bearer(headers: Headers<'_>) -> impl Iterator<Item = String> {
    headers.get_all(&AUTHORIZATION).into_iter().filter_map(|value| {
        let (scheme, rest) = value.split_at_checked(6)?;
        let bearer = scheme.eq_ignore_ascii_case(b"Bearer") && rest.first().is_none_or(u8::is_ascii_whitespace);
        // A value that is not text is refused as an invalid token.
        bearer.then(|| String::from_utf8_lossy(rest).trim().to_owned())
    })
}

fn subprotocols(headers: Headers<'_>) -> impl Iterator<Item = String> {
    let offered = headers.texts(&SEC_WEBSOCKET_PROTOCOL).flat_map(|list| list.split(',')).map(str::trim);
    offered.filter_map(|protocol| protocol.strip_prefix(SUBPROTOCOL_PREFIX)).map(str::to_owned)
}

/// The first cookie of the name: browsers send the one with the longest path first (RFC 6265 §5.4). An empty value remains
/// where the cookie was cleared.
fn cookie(headers: Headers<'_>) -> Option<String> {
    let pairs = headers.texts(&COOKIE).flat_map(|list| list.split(';')).filter_map(|pair| pair.trim().split_once('='));
    let mut values = pairs.filter(|(name, _)| name.trim() == COOKIE_NAME).map(|(_, value)| value.trim());
    values.next().filter(|value| !value.is_empty()).map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::RequestHead;

    fn of(url: &str, headers: &[(&str, &str)], cookies: bool) -> Result<Option<Credential>, ApiError> {
        let fields: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let head = RequestHead::get(url, &fields);
        Credential::of(head.query().unwrap_or_default(), head.headers(), cookies)
    }

    #[test]
    fn is_found_wherever_it_may_stand() {
        let token = |text: &str| Some(Credential::Token(text.into()));
        for (url, header, expected) in [
            ("/", ("authorization", "Bearer abc"), token("abc")),
            ("/", ("authorization", "bEARER  abc "), token("abc")),
            ("/", ("authorization", "Bearer"), token("")),
            ("/", ("authorization", "Bearerabc"), None),
            ("/", ("authorization", "Basic abc"), None),
            ("/", ("authorization", ""), None),
            ("/", ("cookie", "a=b; switchback_token=abc; c=d"), token("abc")),
            ("/", ("cookie", "switchback_token=abc; switchback_token=other"), token("abc")),
            ("/", ("cookie", "switchback_token="), None),
            ("/", ("cookie", "xswitchback_token=abc"), None),
            ("/", ("sec-websocket-protocol", "switchback.v1, switchback.token.a.b.c"), token("a.b.c")),
            ("/", ("sec-websocket-protocol", "switchback.v1"), None),
            ("/?token=abc", ("x", "y"), token("abc")),
            ("/?token=", ("x", "y"), token("")),
            ("/?ticket=abc", ("x", "y"), Some(Credential::Ticket("abc".into()))),
            ("/?token=abc", ("cookie", "switchback_token=other"), token("abc")),
            ("/", ("authorization", "Basic abc"), None),
        ] {
            assert_eq!(of(url, &[header], true).unwrap(), expected, "{url} {header:?}");
        }
        assert_eq!(of("/", &[("cookie", "switchback_token=abc")], false).unwrap(), None);
        assert!(!format!("{:?}", token("abc")).contains("abc"));
    }

    #[test]
    fn there_is_one() {
        let header = ("authorization", "Bearer a");
        for (url, headers) in [
            ("/?token=a", &[header][..]),
            ("/?ticket=a", &[header]),
            ("/?ticket=a&token=a", &[]),
            ("/?token=a&token=a", &[]),
            ("/", &[header, header]),
            ("/", &[header, ("sec-websocket-protocol", "switchback.token.a")]),
            ("/", &[("sec-websocket-protocol", "switchback.token.a, switchback.token.b")]),
        ] {
            assert!(of(url, headers, true).is_err(), "{url} {headers:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(query in "[a-z=&%]{0,40}", header in "[ -~]{0,60}") {
            for name in ["authorization", "cookie", "sec-websocket-protocol"] {
                let _ = of(&format!("/?{query}"), &[(name, &header)], true);
            }
        }

        #[test]
        fn a_cookie_among_others_is_found(before in "[a-z]{1,8}=[!-:<-~]{0,20}", value in "[A-Za-z0-9._-]{1,60}", after in "[a-z=]{0,9}") {
            prop_assume!(!before.starts_with("switchback"));
            let header = format!("{before}; switchback_token={value};{after}");
            prop_assert_eq!(of("/", &[("cookie", &header)], true).unwrap(), Some(Credential::Token(value)));
        }
    }
}
