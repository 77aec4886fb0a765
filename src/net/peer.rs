//! Who is at the other end: the connection's address, or what a trusted proxy says of its client.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::str::FromStr;

use http::header::{FORWARDED, HeaderName};
use ipnet::IpNet;

use super::head::{Headers, text};

/// What the listener knows of a connection. It stands in the connection's data, or (over HTTP/2) in the request's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Peer {
    /// The other end's address.
    pub(crate) address: IpAddr,
    /// Whether TLS ends here.
    pub(crate) secure: bool,
    /// Whether there are too many connections: its requests are told so, and it is closed.
    pub(crate) refused: Option<crate::limits::LimitError>,
}

impl Peer {
    /// What is known where nothing was noted: a server that is not ours.
    pub(crate) fn unnoted(address: Option<SocketAddr>) -> Self {
        let address = address.map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip());
        Self { address, secure: false, refused: None }
    }
}

/// How a client spoke, as far as is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    Http,
    Https,
}

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Caller {
    pub(crate) address: IpAddr,
    /// Known where TLS ends here, or at a trusted proxy that says so. A plain connection may have had TLS before it.
    pub(crate) scheme: Option<Scheme>,
}

impl Caller {
    pub(crate) fn of(peer: &Peer, headers: Headers<'_>, trusted: &[IpNet], header: ProxyHeader) -> Self {
        let direct = Self { address: peer.address.to_canonical(), scheme: peer.secure.then_some(Scheme::Https) };
        if !is_trusted(direct.address, trusted) {
            return direct;
        }
        let hops = hops(headers, header);
        // From the end, where the nearest wrote: each is as good as the one that wrote it.
        let mut told = direct;
        for hop in hops.iter().rev() {
            let Some(address) = hop.address else { break };
            told = Self { address, scheme: hop.scheme.or(told.scheme) };
            if !is_trusted(address, trusted) {
                break;
            }
        }
        if header == ProxyHeader::XForwardedFor {
            told.scheme = last_of(headers, &X_FORWARDED_PROTO).and_then(scheme).or(told.scheme);
        }
        told
    }
}

/// The proxies in front of a server, and how they say who their client is.
#[derive(Clone, Debug)]
pub(crate) struct Proxies {
    pub(crate) trusted: Vec<IpNet>,
    pub(crate) header: ProxyHeader,
}

impl Proxies {
    /// Who sends a request.
    pub(crate) fn caller(&self, peer: &Peer, headers: Headers<'_>) -> Caller {
        Caller::of(peer, headers, &self.trusted, self.header)
    }
}

pub(crate) fn is_trusted(address: IpAddr, proxies: &[IpNet]) -> bool {
    let address = address.to_canonical();
    proxies.iter().any(|network| network.contains(&address))
}

/// The header in which the proxies in front say who their client is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProxyHeader {
    /// `X-Forwarded-For`, and `X-Forwarded-Proto` beside it.
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
            _ => Err("the header is x-forwarded-for or forwarded".into()),
        }
    }
}

/// What one proxy wrote of whom it was asked by.
#[derive(Debug, Default, PartialEq, Eq)]
struct Hop {
    address: Option<IpAddr>,
    scheme: Option<Scheme>,
}

static X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
static X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// Most hops that are looked at, from the end.
const HOPS_MAX: usize = 32;

fn hops(headers: Headers<'_>, header: ProxyHeader) -> Vec<Hop> {
    let (name, read): (_, fn(&str) -> Hop) = match header {
        ProxyHeader::XForwardedFor => (&X_FORWARDED_FOR, |text| Hop { address: node(text), scheme: None }),
        ProxyHeader::Forwarded => (&FORWARDED, forwarded),
    };
    // What is not text hides what stands before it, as any hop that is not understood does.
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

/// An address with or without a port; IPv6 with brackets or, without a port, without.
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
        let told = [("x-forwarded-for", "1.2.3.4"), ("forwarded", "for=5.6.7.8"), ("x-forwarded-proto", "https")];
        for (peer, header, headers, expected, scheme) in [
            ("192.0.2.1", XForwardedFor, &told[..], "192.0.2.1", None),
            ("10.0.0.1", XForwardedFor, &told, "1.2.3.4", Some(Scheme::Https)),
            ("::ffff:10.0.0.1", XForwardedFor, &told, "1.2.3.4", Some(Scheme::Https)),
            ("10.0.0.1", Forwarded, &told, "5.6.7.8", None),
            ("10.0.0.1", XForwardedFor, &[], "10.0.0.1", None),
            // What the client made up stands before what the proxies wrote.
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
        /// However a header is broken, it names nobody whom a trusted proxy did not name.
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
