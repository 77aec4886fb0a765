//! Where a request comes from: which pages may read and publish, and which requests a server without a key serves.

use std::fmt;
use std::str::FromStr;

use http::StatusCode;
use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, HOST, HeaderName,
    HeaderValue, ORIGIN, REFERER,
};

use super::error::ApiError;
use super::options::HttpOptions;
use super::proxied;
use crate::net::{Headers, ResponseFields, Scheme, text};

/// What a browser says of who asks (Fetch Metadata).
static SEC_FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// An origin on the allow-list: `https://app.example.com`, `https://*.example.com` (every name below it),
/// or `null`, which sandboxed and file pages have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedOrigin {
    text: String,
    /// For a wildcard: what stands before and after it.
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

/// The text is not an origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an origin is a scheme, a host and a port where it is not the scheme's own, without a path: https://app.example.com, https://*.example.com, or null"
)]
pub struct OriginError;

/// What the `Origin` of a request is to this server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// None was sent: not a page of a current browser, or one of ours reading.
    Unsaid,
    /// A page that this server gave out.
    Own,
    /// A page on the allow-list.
    Listed(HeaderValue),
    /// Any other page.
    Foreign,
}

impl Source {
    pub(crate) fn of(headers: Headers<'_>, scheme: Option<Scheme>, options: &HttpOptions) -> Self {
        let Some(value) = headers.get(&ORIGIN) else { return Self::Unsaid };
        let Some(origin) = text(value) else { return Self::Foreign };
        if is_own(origin, headers, scheme) {
            Self::Own
        } else {
            // What is text can be said again.
            let listed = is_listed(origin, options).then(|| HeaderValue::from_str(origin).ok()).flatten();
            listed.map_or(Self::Foreign, Self::Listed)
        }
    }

    /// Refuses a page that may not do what a page may not do unasked.
    pub(crate) fn check(&self) -> Result<(), ApiError> {
        match self {
            Self::Foreign => Err(not_allowed()),
            Self::Unsaid | Self::Own | Self::Listed(_) => Ok(()),
        }
    }

    /// The CORS headers of an answer (Fetch §3.2.3). Only a listed origin is ever named.
    pub(crate) fn write(&self, headers: &mut ResponseFields) {
        if let Self::Listed(origin) = self {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin.clone());
            headers.insert(ACCESS_CONTROL_ALLOW_CREDENTIALS, HeaderValue::from_static("true"));
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static("ETag, Retry-After"));
        }
    }
}

/// The origin that an iframe's items may be posted to.
pub(crate) fn check_target(
    origin: &str,
    headers: Headers<'_>,
    scheme: Option<Scheme>,
    options: &HttpOptions,
) -> Result<(), ApiError> {
    // A sandboxed parent cannot be named as a target: "null" is not one to postMessage.
    if origin != "null" && (is_own(origin, headers, scheme) || is_listed(origin, options)) {
        return Ok(());
    }
    let message = "origin is the parent page's: this server's own, or one given with --allow-origin";
    Err(ApiError::bad("bad_origin", message))
}

/// 400 where `Host` names no host (RFC 9112 §3.2). That it is there, and once, actix has seen to.
pub(crate) fn check_host(headers: Headers<'_>) -> Result<(), ApiError> {
    let Some(host) = headers.get(&HOST).filter(|host| !host.is_empty()) else { return Ok(()) };
    if is_plain_host(host) {
        return Ok(());
    }
    match http::uri::Authority::try_from(host) {
        Ok(authority) if !authority.as_str().contains('@') => Ok(()),
        _ => Err(ApiError::bad("bad_host", "Host is a host, and a port where that is not the scheme's own")),
    }
}

/// Whether it is letters, digits, hyphens and dots, and a port perhaps: nearly always, and then no parser has to look.
fn is_plain_host(host: &[u8]) -> bool {
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.');
    let (name, rest) = host.split_at(host.iter().take_while(|byte| in_name(byte)).count());
    let port = match rest {
        [] => true,
        [b':', port @ ..] => !port.is_empty() && port.iter().all(u8::is_ascii_digit),
        _ => false,
    };
    port && !name.is_empty()
}

/// Refuses a script that a page of elsewhere loads: it would be handed what CORS keeps from it. Where the browser says
/// that the page is of another site, or of another origin within the site, the page has to be one that may read, and
/// say so itself, in `Referer`; a browser that says nothing of the site is held to what `Referer` says, if anything.
pub(crate) fn check_script(
    headers: Headers<'_>,
    scheme: Option<Scheme>,
    options: &HttpOptions,
) -> Result<(), ApiError> {
    let site = headers.text(&SEC_FETCH_SITE);
    let allowed = match (page(headers, scheme, options), site) {
        (Some(allowed), _) => allowed,
        // Asked for by nobody but the user: typed, or a bookmark.
        (None, Some("same-origin" | "none") | None) => true,
        (None, Some(_)) => false,
    };
    if allowed { Ok(()) } else { Err(not_allowed()) }
}

/// Whether a request says, in other ways than by `Origin`, that it comes from a page that may use this server.
pub(crate) fn is_site_known(headers: Headers<'_>, scheme: Option<Scheme>, options: &HttpOptions) -> bool {
    page(headers, scheme, options)
        .unwrap_or_else(|| headers.get(&SEC_FETCH_SITE).is_some_and(|site| site == b"same-origin"))
}

/// Whether the page that `Origin` or `Referer` names may use this server; `None` where neither is there.
fn page(headers: Headers<'_>, scheme: Option<Scheme>, options: &HttpOptions) -> Option<bool> {
    let from = headers.get(&ORIGIN).or_else(|| headers.get(&REFERER))?;
    let Some(text) = text(from) else { return Some(false) };
    // The origin of a URL ends where its path begins.
    let authority = text.find("://").map_or(0, |at| at + 3);
    let end = text[authority..].find(['/', '?', '#']).map_or(text.len(), |at| authority + at);
    Some(is_own(&text[..end], headers, scheme) || is_listed(&text[..end], options))
}

fn not_allowed() -> ApiError {
    ApiError::new(
        StatusCode::FORBIDDEN,
        "origin_not_allowed",
        "pages of this origin may not use this server: start it with --allow-origin ORIGIN",
    )
}

/// Without a key the server is open, so it serves only what cannot have come from elsewhere: not what a proxy
/// passed on, and on loopback not what was addressed to another name (a page can point its own name at 127.0.0.1).
pub(crate) fn check_open(headers: Headers<'_>, options: &HttpOptions) -> Result<(), ApiError> {
    let access = &options.access;
    if access.keys.is_some() || access.allow_anonymous {
        return Ok(());
    }
    if headers.any_name(proxied::is_sign) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "proxied",
            "this server has no key, and the request came through a proxy: behind one it would be open to all; \
             give it a key (--jwt-secret-file or --jwks), or start it with --allow-anonymous if that is meant",
        ));
    }
    let host = headers.get(&HOST).map(|value| text(value).unwrap_or_default());
    let known =
        |host: &str| is_loopback_host(host) || access.allowed_hosts.contains(&name_of(host).to_ascii_lowercase());
    if options.loopback_only && !host.is_none_or(known) {
        return Err(ApiError::new(
            StatusCode::FORBIDDEN,
            "bad_host",
            "this server listens on loopback only, so Host is localhost or a loopback address; \
             start it with --allow-host NAME if another name is meant",
        ));
    }
    Ok(())
}

fn is_listed(origin: &str, options: &HttpOptions) -> bool {
    options.allowed_origins.iter().any(|allowed| allowed.matches(origin))
}

/// Whether a page's host and port are those that the request was sent to, and its scheme, where that is known: where TLS
/// ends here, or at a trusted proxy that says so. Elsewhere TLS may end in front of this server.
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

/// The name or address in a `Host`, without a port.
fn name_of(host: &str) -> &str {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => memchr::memrchr(b':', host.as_bytes()).map_or(host, |at| &host[..at]),
    };
    name.trim_end_matches('.')
}

fn is_loopback_host(host: &str) -> bool {
    let name = name_of(host);
    // As it is nearly always written.
    if matches!(name, "localhost" | "127.0.0.1" | "::1") {
        return true;
    }
    let name = name.to_ascii_lowercase();
    let address = name.parse::<std::net::IpAddr>();
    name == "localhost" || name.ends_with(".localhost") || address.is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::net::RequestHead;

    proptest! {
        /// A listed name lets in what it says, and nothing that has more in front of it or behind.
        #[test]
        fn a_wildcard_stands_for_names_below(origin in prop_oneof![
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
        fn hosts_never_panic(host in "\\PC{0,40}", origin in "\\PC{0,40}") {
            let _ = is_loopback_host(&host);
            let head = RequestHead::get("/", &[("host", host.as_bytes())]);
            let _ = (check_host(head.headers()), is_own(&origin, head.headers(), None));
        }

        /// What is taken for a host without a parser is one by the parser.
        #[test]
        fn a_plain_host_is_a_host(host in "[a-zA-Z0-9.:@\\[-]{1,12}(:[0-9]{0,6})?") {
            let authority = http::uri::Authority::try_from(host.as_bytes());
            let is_host = authority.is_ok_and(|authority| !authority.as_str().contains('@'));
            prop_assert!(is_host || !is_plain_host(host.as_bytes()), "{host}");
        }
    }

    fn head(host: &str, origin: &str) -> RequestHead {
        RequestHead::get("/", &[("host", host.as_bytes()), ("origin", origin.as_bytes())])
    }

    #[test]
    fn own_listed_and_foreign_pages_are_told_apart() {
        let allowed = ["https://app.example.com", "https://*.example.org", "http://localhost:3000"];
        let allowed_origins = allowed.iter().map(|text| text.parse().unwrap()).collect();
        let options = HttpOptions { allowed_origins, ..HttpOptions::default() };
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
            let found = match Source::of(head(host, origin).headers(), None, &options) {
                Source::Unsaid => "unsaid",
                Source::Own => "own",
                Source::Listed(_) => "listed",
                Source::Foreign => "foreign",
            };
            assert_eq!(found, expected, "{origin} at {host}");
        }
    }

    /// A page that came by plain HTTP may have been anybody's.
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
            let source = Source::of(headers, scheme, &HttpOptions::default());
            assert_eq!(source, if own { Source::Own } else { Source::Foreign }, "{origin} over {scheme:?}");
            assert_eq!(is_site_known(headers, scheme, &HttpOptions::default()), own);
            assert_eq!(check_script(headers, scheme, &HttpOptions::default()).is_ok(), own);
            assert_eq!(check_target(origin, headers, scheme, &HttpOptions::default()).is_ok(), own);
        }
    }

    #[test]
    fn refuses_what_is_not_an_origin() {
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

    #[test]
    fn plain_hosts() {
        for host in ["localhost", "LOCALHOST:8080", "127.0.0.1:1", "a-b.example.com"] {
            assert!(is_plain_host(host.as_bytes()), "{host}");
        }
        for host in ["", ":80", "a:", "a:b", "a:1:2", "a@b", "a b", "a/b", "[::1]", "ä"] {
            assert!(!is_plain_host(host.as_bytes()), "{host}");
        }
    }

    #[test]
    fn loopback_names() {
        for host in [
            "localhost",
            "localhost:8080",
            "app.localhost",
            "127.0.0.1:1",
            "127.9.9.9",
            "[::1]:8080",
            "[::1]",
            "LOCALHOST.",
        ] {
            assert!(is_loopback_host(host), "{host}");
        }
        for host in
            ["example.com", "localhost.example.com", "10.0.0.1", "127.0.0.1.example.com", "[2001:db8::1]:80", ""]
        {
            assert!(!is_loopback_host(host), "{host}");
        }
    }
}
