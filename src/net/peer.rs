//! The client's address: the connection's, or the one that a trusted proxy reports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use http::header::{FORWARDED, HeaderName};
use ipnet::IpNet;

use super::head::{Headers, text};

/// The listener's knowledge of a connection. It is kept in the connection's data, or (over HTTP/2) in the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The address of the other end.
    pub(crate) address: IpAddr,
    /// Whether TLS ends here.
    pub(crate) secure: bool,
    /// Set where there are too many connections: requests get this error, and the connection is closed.
    pub(crate) refused: Option<crate::limits::LimitError>,
}

impl Peer {
    /// The defaults for another program's server, which records nothing about its connections.
    pub(crate) fn unnoted(address: Option<SocketAddr>) -> Self {
        let address = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        Self { address, secure: false, refused: None }
    }
}

/// The scheme that a client used, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// The client of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) address: IpAddr,
    /// Known where TLS ends here, or at a trusted proxy that reports it. A plain connection may have had TLS before a
    /// proxy.
    pub(crate) scheme: Option<Scheme>,
}

impl Caller {
    pub(crate) fn of(peer: &Peer, headers: Headers<'_>, trusted: &[IpNet], header: ProxyHeader) -> Self {
        let direct = Self { address: peer.address.to_canonical(), scheme: peer.secure.then_some(Scheme::Https) };
        if !is_trusted(direct.address, trusted) {
            return direct;
        }
        let hops = hops(headers, header);
        // From the end, where the nearest proxy wrote: each entry is as trustworthy as the proxy that wrote it.
        let mut reported = direct;
        for hop in hops.iter().rev() {
            let Some(address) = hop.address else { break };
            reported = Self { address, scheme: hop.scheme.or(reported.scheme) };
            if !is_trusted(address, trusted) {
                break;
            }
        }
        if header == ProxyHeader::XForwardedFor {
            reported.scheme = last_of(headers, &X_FORWARDED_PROTO).and_then(scheme).or(reported.scheme);
        }
        reported
    }
}

/// The trusted proxies in front of the server, and the header in which they report their client.
#[derive(Clone, Debug)]
pub(crate) struct Proxies {
    pub(crate) trusted: Vec<IpNet>,
    pub(crate) header: ProxyHeader,
}

impl Proxies {
    /// The client of a request.
    pub(crate) fn caller(&self, peer: &Peer, headers: Headers<'_>) -> Caller {
        Caller::of(peer, headers, &self.trusted, self.header)
    }
}

pub(crate) fn is_trusted(address: IpAddr, proxies: &[IpNet]) -> bool {
    let address = address.to_canonical();
    proxies.iter().any(|network| network.contains(&address))
}

/// The header in which proxies in front of the server report their client.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, with `X-Forwarded-Proto`.
    #[default]
    XForwardedFor,
    /// `Forwarded` (RFC 7239).
    Forwarded,
}

impl FromStr for ProxyHeader {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "x-forwarded-for" => Ok(Self::XForwardedFor),
            "forwarded" => Ok(Self::Forwarded),
            _ => Err("the header must be x-forwarded-for or forwarded".into()),
        }
    }
}

/// A proxy's report of the client that connected to it.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hop {
    address: Option<IpAddr>,
    scheme: Option<Scheme>,
}

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// The most hops that are read, from the end.
const HOPS_MAX: usize = 32;

fn hops(headers: Headers<'_>, header: ProxyHeader) -> Vec<Hop> {
    let (name, read): (_, fn(&str) -> Hop) = match header {
        ProxyHeader::XForwardedFor => (&X_FORWARDED_FOR, |text| Hop { address: node(text), scheme: None }),
        ProxyHeader::Forwarded => (&FORWARDED, forwarded),
    };
    // A value that is not text hides the hops before it, as any malformed hop does.
    let lines: Vec<&str> = headers.get_all(name).into_iter().map(|value| text(value).unwrap_or("?")).collect();
    let mut hops: Vec<Hop> = lines.iter().flat_map(|line| line.split(',')).rev().take(HOPS_MAX).map(read).collect();
    hops.reverse();
    hops
}

/// One element of `Forwarded` (RFC 7239 §4): `for="[2001:db8::1]:4711";proto=https;by=…`.
fn forwarded(text: &str) -> Hop {
    let mut hop = Hop::default();
    for pair in text.split(';') {
        let Some((name, value)) = pair.split_once('=') else { continue };
        let value = value.trim().trim_matches('"');
        match name.trim().to_ascii_lowercase().as_str() {
            "for" => hop.address = node(value),
            "proto" => hop.scheme = scheme(value),
            _ => {}
        }
    }
    hop
}

/// An address with or without a port; IPv6 in brackets or, without a port, without them.
fn node(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let socket = text.parse::<SocketAddr>().map(|socket| socket.ip());
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    socket.or_else(|_| bare.parse()).ok().map(|address| address.to_canonical())
}

fn scheme(text: &str) -> Option<Scheme> {
    match text.trim().to_ascii_lowercase().as_str() {
        "http" => Some(Scheme::Http),
        "https" => Some(Scheme::Https),
        _ => None,
    }
}

fn last_of<'a>(headers: Headers<'a>, name: &HeaderName) -> Option<&'a str> {
    let last = text(headers.get_all(name).last()?)?;
    last.rsplit(',').next()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::net::head::RequestHead;
    use proptest::prelude::*;

    fn caller(peer: &str, header: ProxyHeader, headers: &[(&'static str, &str)]) -> Caller {
        let trusted: [IpNet; 2] = ["10.0.0.0/8", "fd00::/8"].map(|network| network.parse().unwrap());
        let fields: Vec<(&str, &[u8])> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let peer = Peer { address: peer.parse().unwrap(), secure: false, refused: None };
        Caller::of(&peer, RequestHead::get("/", &fields).headers(), &trusted, header)
    }

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        use ProxyHeader::{Forwarded, XForwardedFor};
        let reported = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=5.6.7.8"), ("x-forwarded-proto", "https")];
        for (peer, header, headers, expected, scheme) in [
            ("192.0.2.1", XForwardedFor, &reported[..], "192.0.2.1", None),
            ("10.0.0.1", XForwardedFor, &reported, "1.2.3.4", Some(Scheme::Https)),
            ("::ffff:10.0.0.1", XForwardedFor, &reported, "1.2.3.4", Some(Scheme::Https)),
            ("10.0.0.1", Forwarded, &reported, "5.6.7.8", None),
            ("10.0.0.1", XForwardedFor, &[], "10.0.0.1", None),
            // Hops forged by the client precede those that the proxies wrote.
            ("10.0.0.1", XForwardedFor, &[("x-forwarded-for", "9.9.9.9, 1.2.3.4, 10.0.0.2")], "1.2.3.4", None),
            (
                "10.0.0.1",
                XForwardedFor,
                &[("x-forwarded-for", "9.9.9.9"), ("x-forwarded-for", "1.2.3.4")],
                "1.2.3.4",
                None,
            ),
            ("10.0.0.1", XForwardedFor, &[("x-forwarded-for", "1.2.3.4, unknown")], "10.0.0.1", None),
            ("10.0.0.1", XForwardedFor, &[("x-forwarded-for", "1.2.3.4, x, 10.0.0.2")], "10.0.0.2", None),
            ("10.0.0.1", XForwardedFor, &[("x-forwarded-for", "10.0.0.3, 10.0.0.2")], "10.0.0.3", None),
            ("10.0.0.1", XForwardedFor, &[("x-forwarded-for", "1.2.3.4:5678")], "1.2.3.4", None),
            ("fd00::1", XForwardedFor, &[("x-forwarded-for", "2001:db8::1")], "2001:db8::1", None),
            (
                "fd00::1",
                Forwarded,
                &[(
                    "forwarded",
                    "for=9.9.9.9;proto=http, For=\"[2001:db8::1]:47\";Proto=https, for=10.0.0.2;proto=http",
                )],
                "2001:db8::1",
                Some(Scheme::Https),
            ),
        ] {
            let found = caller(peer, header, headers);
            assert_eq!((found.address, found.scheme), (expected.parse().unwrap(), scheme), "{peer} {headers:?}");
        }
    }

    proptest! {
        /// However malformed a header is, it yields no address that no trusted proxy reported.
        #[test]
        fn never_panics(text in "[ -~]{0,60}", forwarded in any::<bool>()) {
            let header = if forwarded { ProxyHeader::Forwarded } else { ProxyHeader::XForwardedFor };
            let name = if forwarded { "forwarded" } else { "x-forwarded-for" };
            let ends = if forwarded { "for=1.2.3.4" } else { "1.2.3.4" };
            let text = format!("{text},{ends}");
            prop_assert_eq!(caller("10.0.0.1", header, &[(name, &text)]).address, "1.2.3.4".parse::<IpAddr>().unwrap());
        }
    }
}
