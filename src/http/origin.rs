//! The origin of a request, and the allow-list of origins: which pages may read and publish.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, PoisonError, RwLock};

use http::StatusCode;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, HOST, HeaderName,
    HeaderValue, ORIGIN, REFERER,
};

use super::error::ApiError;
use crate::net::{Headers, ResponseFields, Scheme, text};

/// The browser's statement on the origin of a request (Fetch Metadata).
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// An origin on the allow-list: `https://app.example.com`, `https://*.example.com` (every name below it), or `null`, the
/// origin of sandboxed and file pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin {
    text: String,
    /// For a wildcard: the parts before and after it.
    wildcard: Option<(usize, usize)>,
}

impl AllowedOrigin {
    fn matches(&self, origin: &str) -> bool {
        let Some((before, after)) = self.wildcard else { return self.text == origin };
        let (head, tail) = (&self.text[..before], &self.text[after..]);
        let label = origin.strip_prefix(head).and_then(|rest| rest.strip_suffix(tail));
        label.is_some_and(|label| {
            !label.is_empty() && label.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.'))
        })
    }
}

impl FromStr for AllowedOrigin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        if text == "null" {
            return Ok(Self { text: text.into(), wildcard: None });
        }
        let text = text.to_ascii_lowercase();
        let host = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).ok_or(OriginError)?;
        let legal = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b':' | b'[' | b']');
        let plain = host.strip_prefix("*.").unwrap_or(host);
        if plain.is_empty() || !plain.bytes().all(legal) {
            return Err(OriginError);
        }
        let wildcard = text.find('*').map(|at| (at, at + 1));
        Ok(Self { text, wildcard })
    }
}

impl fmt::Display for AllowedOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The allow-list. Clones share it, so that it can be replaced for all workers while the server runs.
#[derive(Clone, Debug, Default)]
pub struct AllowedOrigins(Arc<RwLock<Arc<[AllowedOrigin]>>>);

impl AllowedOrigins {
    /// Replaces the list. Open connections stay open; the next request is checked against the new list.
    pub fn replace(&self, origins: Vec<AllowedOrigin>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = origins.into();
    }

    /// The present list.
    #[must_use]
    pub fn current(&self) -> Arc<[AllowedOrigin]> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn contain(&self, origin: &str) -> bool {
        self.current().iter().any(|allowed| allowed.matches(origin))
    }
}

impl FromIterator<AllowedOrigin> for AllowedOrigins {
    fn from_iter<I: IntoIterator<Item = AllowedOrigin>>(origins: I) -> Self {
        Self(Arc::new(RwLock::new(origins.into_iter().collect())))
    }
}

/// The text is not a valid origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an origin is a scheme and a host, with a port unless it is the scheme's default, and without a path: https://app.example.com, https://*.example.com, or null"
)]
pub struct OriginError;

/// How the page that sent a request is related to this server.
///
/// Decided by `Origin`; else by `Referer`, which older browsers send where they send no `Origin`, and all browsers with a
/// script or a frame; else by `Sec-Fetch-Site`, which a page cannot suppress.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RequestOrigin {
    /// Unknown: not a browser, an old one, or an address that was typed.
    Absent,
    /// A page of this server.
    SameOrigin,
    /// A page on the allow-list; its `Origin`, where it sent one.
    Allowed(Option<HeaderValue>),
    /// Any other page.
    CrossOrigin,
}

impl RequestOrigin {
    pub(crate) fn of(headers: Headers<'_>, scheme: Option<Scheme>, allowed: &AllowedOrigins) -> Self {
        if let Some(value) = headers.get(&ORIGIN) {
            return text(value).map_or(Self::CrossOrigin, |origin| {
                // Only text can be echoed.
                let named = || HeaderValue::from_str(origin).ok();
                Self::judged(origin, named, headers, scheme, allowed)
            });
        }
        match headers.get(&REFERER) {
            None | Some(b"" | b"about:blank") => Self::of_site(headers),
            Some(value) => text(value).map_or(Self::CrossOrigin, |referer| {
                Self::judged(origin_of(referer), || None, headers, scheme, allowed)
            }),
        }
    }

    fn judged(
        origin: &str,
        named: impl FnOnce() -> Option<HeaderValue>,
        headers: Headers<'_>,
        scheme: Option<Scheme>,
        allowed: &AllowedOrigins,
    ) -> Self {
        if is_own(origin, headers, scheme) {
            Self::SameOrigin
        } else if allowed.contain(origin) {
            Self::Allowed(named())
        } else {
            Self::CrossOrigin
        }
    }

    /// The relation that the browser states in Fetch Metadata, where the request names no page. `same-site` is another
    /// origin.
    fn of_site(headers: Headers<'_>) -> Self {
        match headers.get(&SEC_FETCH_SITE) {
            // Requested by the user: typed, or a bookmark.
            None | Some(b"none") => Self::Absent,
            Some(b"same-origin") => Self::SameOrigin,
            Some(_) => Self::CrossOrigin,
        }
    }

    /// Refuses a page that may neither publish nor read what is not public.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        match self {
            Self::CrossOrigin => Err(not_allowed()),
            Self::Absent | Self::SameOrigin | Self::Allowed(_) => Ok(()),
        }
    }

    /// The CORS headers of a response (Fetch §3.2.3), and which pages may embed it (Fetch §3.7), where the response does
    /// not say so itself. Only an allowed origin is ever named.
    pub(crate) fn write(&self, headers: &mut ResponseFields) {
        let Self::Allowed(origin) = self else { return };
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("ETag, Retry-After"));
        }
        headers.insert(CROSS_ORIGIN_RESOURCE_POLICY, ANY_ORIGIN);
    }
}

/// The name of `Cross-Origin-Resource-Policy`.
pub(crate) const CROSS_ORIGIN_RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// The value where pages of every origin may embed the response. Else it is `same-origin`: a page of another origin could
/// load the response as an image or a script, and learn its timing and its length, or read it in its own process.
pub(crate) const ANY_ORIGIN: HeaderValue = HeaderValue::from_static("cross-origin");

/// The origin of a URL: all that precedes the path.
fn origin_of(url: &str) -> &str {
    let authority = url.find("://").map_or(0, |at| at + 3);
    let end = url[authority..].find(['/', '?', '#']).map_or(url.len(), |at| authority + at);
    &url[..end]
}

/// Checks the origin that an iframe's items are to be posted to.
pub(crate) fn check_target(
    origin: &str,
    headers: Headers<'_>,
    scheme: Option<Scheme>,
    allowed: &AllowedOrigins,
) -> Result<(), ApiError> {
    // A sandboxed parent cannot be a target: postMessage does not accept "null".
    if origin != "null" && (is_own(origin, headers, scheme) || allowed.contain(origin)) {
        return Ok(());
    }
    let message = "`origin` must be the parent page's: this server's own, or one given with `--allow-origin`";
    Err(ApiError::bad("bad_origin", message))
}

fn not_allowed() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "origin_not_allowed",
        "pages of this origin may not use this server: start it with `--allow-origin ORIGIN`",
    )
}

/// Whether a page's host and port are those of the request, and its scheme, where that is known: where the server
/// terminates TLS, or a trusted proxy names the scheme. Otherwise TLS may be terminated in front of this server.
fn is_own(origin: &str, headers: Headers<'_>, scheme: Option<Scheme>) -> bool {
    let Some(host) = headers.text(&HOST) else { return false };
    let (authority, default_port, own) = match (origin.strip_prefix("http://"), origin.strip_prefix("https://")) {
        (Some(authority), _) => (authority, ":80", Scheme::Http),
        (_, Some(authority)) => (authority, ":443", Scheme::Https),
        (None, None) => return false,
    };
    if scheme.is_some_and(|scheme| scheme != own) {
        return false;
    }
    let bare = |text: &str| text.strip_suffix(default_port).unwrap_or(text).to_ascii_lowercase();
    bare(authority) == bare(host)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::RequestHead;

    proptest! {
        /// A wildcard permits the names that it covers, and nothing with more before or after them.
        #[test]
        fn a_wildcard_matches_subdomains(origin in prop_oneof![
            "\\PC{0,40}",
            "https?://[a-z.:/@*-]{0,12}(\\.example\\.com)?[:/@0-9a-z]{0,4}",
        ]) {
            let listed: AllowedOrigin = "https://*.example.com".parse().unwrap();
            let name = origin.strip_prefix("https://").and_then(|rest| rest.strip_suffix(".example.com"));
            let legal = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
            prop_assert_eq!(listed.matches(&origin), name.is_some_and(|name| !name.is_empty() && name.bytes().all(legal)));
            if let Ok(parsed) = origin.parse::<AllowedOrigin>() {
                let again: Result<AllowedOrigin, OriginError> = parsed.to_string().parse();
                prop_assert_eq!(again, Ok(parsed));
            }
        }

        #[test]
        fn pages_never_panic(host in "\\PC{0,40}", origin in "\\PC{0,40}") {
            let head = RequestHead::get("/", &[("host", host.as_bytes())]);
            let _ = is_own(&origin, head.headers(), None);
        }
    }

    fn head(host: &str, origin: &str) -> RequestHead {
        RequestHead::get("/", &[("host", host.as_bytes()), ("origin", origin.as_bytes())])
    }

    #[test]
    fn own_listed_and_foreign_pages_are_distinguished() {
        let allowed = ["https://app.example.com", "https://*.example.org", "http://localhost:3000"];
        let allowed: AllowedOrigins = allowed.iter().map(|text| text.parse().unwrap()).collect();
        for (host, origin, expected) in [
            ("a.test:8080", "http://a.test:8080", "own"),
            ("a.test", "https://a.test", "own"),
            ("a.test:443", "https://a.test", "own"),
            ("A.test", "http://a.test", "own"),
            ("a.test", "http://a.test:8080", "foreign"),
            ("a.test", "https://app.example.com", "listed"),
            ("a.test", "http://app.example.com", "foreign"),
            ("a.test", "https://app.example.com.evil.test", "foreign"),
            ("a.test", "https://x.example.org", "listed"),
            ("a.test", "https://x.y.example.org", "listed"),
            ("a.test", "https://example.org", "foreign"),
            ("a.test", "https://evil.test/.example.org", "foreign"),
            ("a.test", "https://evil-example.org", "foreign"),
            ("a.test", "null", "foreign"),
            ("a.test", "http://localhost:3000", "listed"),
        ] {
            let found = RequestOrigin::of(head(host, origin).headers(), None, &allowed);
            assert_eq!(word(&found), expected, "{origin} at {host}");
        }
    }

    fn word(origin: &RequestOrigin) -> &'static str {
        match origin {
            RequestOrigin::Absent => "absent",
            RequestOrigin::SameOrigin => "own",
            RequestOrigin::Allowed(_) => "listed",
            RequestOrigin::CrossOrigin => "foreign",
        }
    }

    /// `Origin`, else `Referer`, else `Sec-Fetch-Site`: each counts only where the previous ones are absent.
    #[test]
    fn headers_about_the_page_have_a_precedence() {
        let allowed: AllowedOrigins = ["https://app.example.com".parse().unwrap()].into_iter().collect();
        let (app, evil, own) = ("https://app.example.com", "https://evil.test", "http://a.test");
        for (origin, referer, site, expected) in [
            (None, None, None, "absent"),
            (None, None, Some("none"), "absent"),
            (None, None, Some("same-origin"), "own"),
            (None, None, Some("same-site"), "foreign"),
            (None, None, Some("cross-site"), "foreign"),
            (None, None, Some("a site of a future"), "foreign"),
            (None, Some("http://a.test/page?x#y"), Some("cross-site"), "own"),
            (None, Some("https://app.example.com/"), Some("cross-site"), "listed"),
            (None, Some("https://app.example.com?x"), Some("same-site"), "listed"),
            (None, Some("https://app.example.com@evil.test/"), None, "foreign"),
            (None, Some("https://app.example.com.evil.test/"), Some("same-origin"), "foreign"),
            (None, Some("https://evil.test/https://app.example.com/"), None, "foreign"),
            (None, Some("about:client"), None, "foreign"),
            (None, Some(""), Some("cross-site"), "foreign"),
            (None, Some(""), None, "absent"),
            (None, Some("about:blank"), Some("same-origin"), "own"),
            (Some(own), Some("https://evil.test/"), Some("cross-site"), "own"),
            (Some(app), Some("https://evil.test/"), None, "listed"),
            (Some(evil), Some("http://a.test/"), Some("same-origin"), "foreign"),
            (Some("null"), Some("http://a.test/"), Some("same-origin"), "foreign"),
            (Some(""), None, None, "foreign"),
        ] {
            let mut fields = vec![("host", "a.test")];
            fields.extend(
                [("origin", origin), ("referer", referer), ("sec-fetch-site", site)]
                    .into_iter()
                    .filter_map(|(name, value): (_, Option<&str>)| value.map(|value| (name, value))),
            );
            let fields: Vec<(&str, &[u8])> = fields.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
            let found = RequestOrigin::of(RequestHead::get("/", &fields).headers(), None, &allowed);
            assert_eq!(word(&found), expected, "{origin:?} {referer:?} {site:?}");
            let mut answer = ResponseFields::default();
            found.write(&mut answer);
            // An origin that was not sent is not echoed.
            assert_eq!(answer.contains(ACCESS_CONTROL_ALLOW_ORIGIN.as_str()), origin == Some(app));
            assert_eq!(answer.contains(CROSS_ORIGIN_RESOURCE_POLICY.as_str()), expected == "listed");
        }
    }

    /// A page that was loaded over plain HTTP may have been forged.
    #[test]
    fn the_scheme_counts_where_it_is_known() {
        for (scheme, origin, own) in [
            (None, "http://a.test", true),
            (None, "https://a.test", true),
            (Some(Scheme::Https), "https://a.test", true),
            (Some(Scheme::Https), "http://a.test", false),
            (Some(Scheme::Http), "http://a.test", true),
            (Some(Scheme::Http), "https://a.test", false),
        ] {
            let head = head("a.test", origin);
            let headers = head.headers();
            let source = RequestOrigin::of(headers, scheme, &AllowedOrigins::default());
            let expected = if own { RequestOrigin::SameOrigin } else { RequestOrigin::CrossOrigin };
            assert_eq!(source, expected, "{origin} over {scheme:?}");
            assert_eq!(check_target(origin, headers, scheme, &AllowedOrigins::default()).is_ok(), own);
        }
    }

    #[test]
    fn refuses_text_that_is_not_an_origin() {
        for text in [
            "",
            "*",
            "app.example.com",
            "https://",
            "https://*",
            "https://a.*.b",
            "https://a/b",
            "ftp://a",
            "https://*.*.a",
        ] {
            assert!(text.parse::<AllowedOrigin>().is_err(), "{text}");
        }
        assert!("null".parse::<AllowedOrigin>().is_ok());
    }
}
