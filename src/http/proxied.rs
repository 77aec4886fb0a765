//! Signs that a request came through a proxy, a load balancer or a CDN.
//!
//! A server without a key is open to every client that reaches it, so it serves only requests that came straight from its
//! own machine. Every proxy adds headers to the requests that it forwards; which of these are trusted is another question
//! (`net::peer`).

/// Prefixes of headers that only proxies add.
const PREFIXES: [&[u8]; 7] =
    [b"x-forwarded-", b"cf-", b"x-amz-cf-", b"x-envoy-", b"x-azure-", b"x-vercel-", b"x-akamai-"];

/// Headers that only proxies add: of RFC 7239, RFC 9110 §7.6.3, RFC 8586, and those of common products.
const NAMES: [&[u8]; 24] = [
    b"forwarded",
    b"via",
    b"cdn-loop",
    b"x-real-ip",
    b"x-client-ip",
    b"x-cluster-client-ip",
    b"x-original-forwarded-for",
    b"x-original-host",
    b"x-proxyuser-ip",
    b"x-remote-addr",
    b"x-amzn-trace-id",
    b"x-cloud-trace-context",
    b"x-appengine-user-ip",
    b"x-nf-client-connection-ip",
    b"x-sucuri-clientip",
    b"true-client-ip",
    b"fastly-client-ip",
    b"fastly-ff",
    b"fastly-client",
    b"fly-client-ip",
    b"do-connecting-ip",
    b"incap-client-ip",
    b"ali-cdn-real-ip",
    b"akamai-origin-hop",
];

/// Whether a header of this name is a sign of a proxy.
pub(super) fn is_sign(name: &[u8]) -> bool {
    // By the first letter: every header of every request is checked, and most are none of these.
    let Some(first) = name.first().map(u8::to_ascii_lowercase) else { return false };
    if !matches!(first, b'a' | b'c' | b'd' | b'f' | b'i' | b't' | b'v' | b'x') {
        return false;
    }
    let begins = |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    PREFIXES.iter().any(|prefix| begins(prefix)) || NAMES.iter().any(|known| name.eq_ignore_ascii_case(known))
}

#[cfg(test)]
mod tests {
    use super::is_sign;

    #[test]
    fn proxies_are_recognized_by_their_headers() {
        for name in
            ["Via", "FORWARDED", "X-Forwarded-For", "x-forwarded-proto", "CF-Connecting-IP", "Cf-Ray", "X-Real-IP"]
        {
            assert!(is_sign(name.as_bytes()), "{name}");
        }
        for name in ["True-Client-IP", "Fastly-Client-IP", "X-Amz-Cf-Id", "CDN-Loop", "X-Envoy-External-Address"] {
            assert!(is_sign(name.as_bytes()), "{name}");
        }
    }

    /// Headers of browsers and their pages are no signs of a proxy.
    #[test]
    fn others_are_not() {
        let sent = [
            "Accept",
            "Accept-Encoding",
            "Authorization",
            "Cache-Control",
            "Connection",
            "Content-Length",
            "Content-Type",
            "Cookie",
            "DNT",
            "From",
            "If-None-Match",
            "Idempotency-Key",
            "TE",
            "Transfer-Encoding",
            "X-Requested-With",
            "X",
            "Traceparent",
            "X-API-Key",
            "",
            "vi",
        ];
        for name in sent {
            assert!(!is_sign(name.as_bytes()), "{name}");
        }
    }
}
