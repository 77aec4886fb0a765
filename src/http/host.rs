//! Parses the host of a request (RFC 9110 §7.2).

use http::header::HOST;

use super::error::ApiError;
use crate::net::Headers;

/// 400 where `Host` is not a valid host (RFC 9112 §3.2). That there is exactly one, except over HTTP/1.0, is checked by `net`.
pub(super) fn check_host(headers: Headers<'_>) -> Result<(), ApiError> {
    let Some(host) = headers.get(&HOST).filter(|host| !host.is_empty()) else { return Ok(()) };
    if is_plain_host(host) {
        return Ok(());
    }
    match http::uri::Authority::try_from(host) {
        Ok(authority) if !authority.as_str().contains('@') => Ok(()),
        _ => Err(ApiError::bad("bad_host", "`Host` must be a host, with a port unless it is the scheme's default")),
    }
}

/// Whether it is letters, digits, hyphens and dots, and perhaps a port: nearly always, and then no parser is needed.
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

/// The name or address in a `Host`, without its port.
pub(super) fn name_of(host: &str) -> &str {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => memchr::memrchr(b':', host.as_bytes()).map_or(host, |at| &host[..at]),
    };
    name.trim_end_matches('.')
}

/// Whether it is a loopback name or address.
pub(super) fn is_loopback_host(host: &str) -> bool {
    let name = name_of(host);
    // The most common spellings.
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
        #[test]
        fn hosts_never_panic(host in "\\PC{0,40}") {
            let _ = is_loopback_host(&host);
            let head = RequestHead::get("/", &[("host", host.as_bytes())]);
            let _ = check_host(head.headers());
        }

        /// A host that is accepted without the parser is accepted by the parser.
        #[test]
        fn a_plain_host_is_a_host(host in "[a-zA-Z0-9.:@\\[-]{1,12}(:[0-9]{0,6})?") {
            let authority = http::uri::Authority::try_from(host.as_bytes());
            let is_host = authority.is_ok_and(|authority| !authority.as_str().contains('@'));
            prop_assert!(is_host || !is_plain_host(host.as_bytes()), "{host}");
        }
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
