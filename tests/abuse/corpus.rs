//! The corpus of malformed HTTP, as attackers, broken clients and broken proxies send it.
//!
//! The shapes are those of RFC 9112 §11 and of the published work on request smuggling. Each shape that smuggles a request
//! smuggles a publish, so that the log shows whether the request was ever executed.

/// The expected outcome of a shape.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    /// The first response is a 4xx, or there is none; no other follows.
    Refused,
    /// Unusual but valid: exactly this number of responses, all of them 2xx or 3xx.
    Served(usize),
    /// The standards leave the outcome to the server; at most one response.
    Either,
}

/// The first bytes of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Nonsense {
    pub(crate) name: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) fate: Fate,
}

use Fate::{Either, Refused, Served};

const HOST: &str = "Host: localhost\r\n";

/// The topic of the request that is smuggled by a shape of this name.
pub(crate) fn topic(name: &str) -> String {
    format!("smuggled.{}", name.replace(|letter: char| !letter.is_ascii_alphanumeric(), "-"))
}

/// The smuggled publish; `name` is that of the shape.
fn hidden(name: &str) -> String {
    let topic = topic(name);
    format!("POST /v1/topics/{topic} HTTP/1.1\r\n{HOST}Content-Type: application/json\r\nContent-Length: 1\r\n\r\n1")
}

fn publish(headers: &str, body: &str) -> String {
    format!("POST /v1/topics/first HTTP/1.1\r\n{HOST}Content-Type: text/plain\r\n{headers}\r\n{body}")
}

fn get(target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\n{HOST}\r\n")
}

/// All shapes.
pub(crate) fn all() -> Vec<Nonsense> {
    let mut all = Vec::new();
    for part in [lengths(), encodings(), chunks(), lines(), targets(), versions(), sizes()] {
        all.extend(part);
    }
    all
}

fn entry(name: &'static str, bytes: impl Into<Vec<u8>>, fate: Fate) -> Nonsense {
    Nonsense { name, bytes: bytes.into(), fate }
}

/// Body length (RFC 9112 §6.2, §6.3).
fn lengths() -> Vec<Nonsense> {
    let two = |name: &'static str, first: &str, second: &str, fate| {
        let headers = format!("Content-Length: {first}\r\nContent-Length: {second}\r\n");
        entry(name, publish(&headers, &format!("xxxxx{}", hidden(name))), fate)
    };
    let one = |name: &'static str, value: &str, fate| {
        let headers = format!("Content-Length:{value}\r\n");
        entry(name, publish(&headers, &format!("xxxxx{}", hidden(name))), fate)
    };
    // For a request without a body: are the following bytes a body, or the next request?
    let with_body = |name: &'static str, head: &str, fate| {
        let within = hidden(name);
        entry(name, format!("{head}Content-Length: {}\r\n\r\n{within}", within.len()), fate)
    };
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 12\r\n\
                   Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let within = hidden("cl covers");
    vec![
        two("cl and another cl", "5", "0", Refused),
        two("cl and a later cl", "0", "5", Refused),
        one("cl list of different ones", " 5, 6", Refused),
        one("cl list", " 5, 5", Refused),
        one("cl with a sign", " +5", Refused),
        one("cl below zero", " -5", Refused),
        one("cl in hexadecimal", " 0x5", Refused),
        one("cl of two numbers", " 5 5", Refused),
        one("cl of a fraction", " 5.0", Refused),
        one("cl of nothing", "", Refused),
        one("cl past 64 bits", " 18446744073709551621", Refused),
        one("cl of letters", " five", Refused),
        one("cl of foreign digits", " \u{665}", Refused),
        one("cl then a nul", " 5\0", Refused),
        entry(
            "a request in a body is a body",
            publish(&format!("Content-Length: {}\r\nConnection: close\r\n", within.len()), &within),
            Served(1),
        ),
        with_body("a get with a body", &format!("GET /v1/info HTTP/1.1\r\n{HOST}Connection: close\r\n"), Either),
        with_body("an options with a body", &format!("OPTIONS /v1/events HTTP/1.1\r\n{HOST}"), Either),
        with_body("a body for nothing that is there", &format!("POST /nothing HTTP/1.1\r\n{HOST}"), Refused),
        with_body("a body for a method that is not allowed", &format!("PUT /v1/events HTTP/1.1\r\n{HOST}"), Refused),
        with_body("a websocket with a body", &format!("GET /v1/ws HTTP/1.1\r\n{HOST}{upgrade}"), Refused),
    ]
}

/// Transfer-Encoding (RFC 9112 §6.1).
fn encodings() -> Vec<Nonsense> {
    let ends = |name: &'static str, encoding: &str, fate| {
        // For a parser that ignores chunking, the hidden request is within the length; for others, it is behind the end.
        let body = format!("0\r\n\r\n{}", hidden(name));
        let headers = format!("Content-Length: {}\r\n{encoding}", body.len());
        entry(name, publish(&headers, &body), fate)
    };
    let covers = |name: &'static str, encoding: &str, fate| {
        let within = hidden(name);
        // For a parser that respects chunking, the hidden request is a chunk; for others, the length ends before it.
        let size = format!("{:x}\r\n", within.len());
        let headers = format!("{encoding}Content-Length: {}\r\n", size.len());
        entry(name, publish(&headers, &format!("{size}{within}\r\n0\r\n\r\n")), fate)
    };
    let alone = |name: &'static str, encoding: &str, fate| {
        let within = hidden(name);
        entry(name, publish(encoding, &format!("0\r\n\r\n{within}")), fate)
    };
    vec![
        ends("cl te", "Transfer-Encoding: chunked\r\n", Refused),
        covers("te cl", "Transfer-Encoding: chunked\r\n", Refused),
        ends("te te identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", Refused),
        ends("te identity te", "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n", Refused),
        ends("te te other", "Transfer-Encoding: chunked\r\nTransfer-encoding: cow\r\n", Refused),
        covers("te cl te other", "Transfer-Encoding: cow\r\nTransfer-Encoding: chunked\r\n", Refused),
        ends("te unknown", "Transfer-Encoding: xchunked\r\n", Refused),
        ends("te in quotes", "Transfer-Encoding: \"chunked\"\r\n", Refused),
        ends("te after a vertical tab", "Transfer-Encoding: \x0bchunked\r\n", Refused),
        ends("te before a vertical tab", "Transfer-Encoding: chunked\x0b\r\n", Refused),
        ends("te before a nul", "Transfer-Encoding: chunked\0\r\n", Refused),
        ends("te with a space before its colon", "Transfer-Encoding : chunked\r\n", Refused),
        ends("te with a tab before its colon", "Transfer-Encoding\t: chunked\r\n", Refused),
        ends("te on a folded line", "Transfer-Encoding:\r\n chunked\r\n", Refused),
        ends("te folded beneath another header", "X-Fold: x\r\n Transfer-Encoding: chunked\r\n", Refused),
        ends("te behind a bare lf", "X-Bare: x\nTransfer-Encoding: chunked\r\n", Refused),
        ends("te behind a bare cr", "X-Bare: x\rTransfer-Encoding: chunked\r\n", Refused),
        ends("te split by a bare lf", "Transfer-Encoding\n: chunked\r\n", Refused),
        ends("te of a list", "Transfer-Encoding: chunked, identity\r\n", Refused),
        ends("te of a list the other way", "Transfer-Encoding: identity, chunked\r\n", Refused),
        ends("te twice chunked", "Transfer-Encoding: chunked, chunked\r\n", Refused),
        alone("te list without a length", "Transfer-Encoding: identity, chunked\r\n", Refused),
        alone("te unknown without a length", "Transfer-Encoding: gzip\r\n", Refused),
        alone("te chunked, then something else", "Transfer-Encoding: chunked, gzip\r\n", Refused),
        entry(
            "te in http 1.0",
            {
                let within = hidden("te in http 1.0");
                let head = format!("POST /v1/topics/first HTTP/1.0\r\n{HOST}Transfer-Encoding: chunked\r\n");
                format!("{head}Connection: keep-alive\r\n\r\n0\r\n\r\n{within}")
            },
            Refused,
        ),
        entry(
            "te in capitals",
            publish("Transfer-Encoding: CHUNKED\r\nConnection: close\r\n", "1\r\nx\r\n0\r\n\r\n"),
            Served(1),
        ),
        entry(
            "te after a tab",
            publish("Transfer-Encoding:\tchunked\r\nConnection: close\r\n", "1\r\nx\r\n0\r\n\r\n"),
            Served(1),
        ),
    ]
}

/// Chunk sizes (RFC 9112 §7.1).
fn chunks() -> Vec<Nonsense> {
    let chunked = |name: &'static str, body: &str, fate| {
        let body = format!("{body}{}", hidden(name));
        entry(name, publish("Transfer-Encoding: chunked\r\n", &body), fate)
    };
    let closing = |name: &'static str, body: &str, fate| {
        entry(name, publish("Transfer-Encoding: chunked\r\nConnection: close\r\n", body), fate)
    };
    let extension = format!("1;{}\r\nx\r\n0\r\n\r\n", "x".repeat(256 << 10));
    let trailers = format!("1\r\nx\r\n0\r\n{}\r\n", "X-Trailer: x\r\n".repeat(20_000));
    vec![
        chunked("a chunk past 64 bits", "10000000000000005\r\nxxxxx\r\n0\r\n\r\n", Refused),
        chunked("a chunk of many digits", "FFFFFFFFFFFFFFFFF\r\nxxxxx\r\n0\r\n\r\n", Refused),
        chunked("a chunk below zero", "-1\r\nx\r\n0\r\n\r\n", Refused),
        chunked("a chunk with a prefix", "0x1\r\nx\r\n0\r\n\r\n", Refused),
        chunked("a chunk with an underscore", "1_0\r\nx\r\n0\r\n\r\n", Refused),
        chunked("a chunk without a size", "\r\nx\r\n0\r\n\r\n", Refused),
        chunked("a chunk longer than its size", "1\r\nxyz\r\n0\r\n\r\n", Refused),
        chunked("a chunk that ends in a bare lf", "1\nx\n0\n\n", Refused),
        chunked("an extension with a bare lf", "1;a\nx\r\n0\r\n\r\n", Refused),
        chunked("an extension with a bare cr", "1;a\rb\r\nx\r\n0\r\n\r\n", Refused),
        chunked("a trailer without a colon", "1\r\nx\r\n0\r\nxx\r\n\r\n", Refused),
        chunked("a trailer without a name", "0\r\n: x\r\n\r\n", Refused),
        chunked("a trailer with a space in its name", "0\r\nX Trailer: x\r\n\r\n", Refused),
        chunked("a trailer that ends in a bare lf", "1\r\nx\r\n0\r\nX-Trailer: x\n\r\n", Refused),
        chunked("trailers that end in bare lfs", "1\r\nx\r\n0\r\nX-Trailer: x\n\n", Refused),
        chunked("a bare lf after the last chunk", "1\r\nx\r\n0\r\n\n", Refused),
        chunked("a folded trailer", "1\r\nx\r\n0\r\nX-Trailer: x\r\n y\r\n\r\n", Refused),
        chunked("a trailer with a nul", "1\r\nx\r\n0\r\nX-Trailer: \0\r\n\r\n", Refused),
        chunked("a request in the place of trailers", "1\r\nx\r\n0\r\n", Refused),
        closing("an extension", "1;a=b\r\nx\r\n0\r\n\r\n", Served(1)),
        closing("an extension without end", &extension, Either),
        closing("a trailer", "1\r\nx\r\n0\r\nX-Trailer: x\r\n\r\n", Served(1)),
        closing("trailers without end", &trailers, Either),
        closing(
            "a trailer that is a length",
            "1\r\nx\r\n0\r\nContent-Length: 100\r\nTransfer-Encoding: identity\r\n\r\n",
            Either,
        ),
        closing("leading zeros in a size", "0000000000000001\r\nx\r\n0\r\n\r\n", Either),
    ]
}

/// Header lines (RFC 9112 §2.2, §5).
fn lines() -> Vec<Nonsense> {
    let header = |name: &'static str, line: &str, fate| {
        entry(name, format!("GET /v1/info HTTP/1.1\r\n{HOST}Connection: close\r\n{line}\r\n"), fate)
    };
    let bytes = |name: &'static str, line: &[u8], fate| {
        let head = format!("GET /v1/info HTTP/1.1\r\n{HOST}Connection: close\r\n");
        entry(name, [head.as_bytes(), line, b"\r\n\r\n"].concat(), fate)
    };
    vec![
        header("a folded header", "X-Fold: a\r\n b\r\n", Refused),
        header("a header without a colon", "X-None\r\n", Refused),
        header("a header without a name", ": x\r\n", Refused),
        header("a space before a colon", "X-Space : x\r\n", Refused),
        header("a space in a name", "X Space: x\r\n", Refused),
        header("a nul in a name", "X-\0: x\r\n", Refused),
        header("a nul in a value", "X-Nul: a\0b\r\n", Refused),
        header("a bare cr in a value", "X-Cr: a\rb\r\n", Refused),
        header("a control in a value", "X-Bell: \x07\r\n", Refused),
        header("a delete in a value", "X-Delete: \x7f\r\n", Refused),
        bytes("a name that is not ascii", b"X-\xC3\xA9: x", Refused),
        bytes("a value that is not utf-8", b"X-Bytes: \xFF\xFE", Either),
        header("an empty value", "X-Empty:\r\n", Served(1)),
        header("an unknown expectation", "Expect: miracles\r\n", Either),
        header(
            "an upgrade to nothing we know",
            "Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\n",
            Either,
        ),
        entry(
            "a line that begins with a space",
            format!("GET /v1/info HTTP/1.1\r\n X-Space: x\r\n{HOST}\r\n"),
            Refused,
        ),
        entry("bare line feeds", "GET /v1/info HTTP/1.1\nHost: localhost\nConnection: close\n\n", Either),
        entry("bare carriage returns", "GET /v1/info HTTP/1.1\rHost: localhost\r\r", Refused),
        entry(
            "empty lines first",
            format!("\r\n\r\n{}", "GET /v1/info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"),
            Either,
        ),
        entry(
            "two hosts",
            "GET /v1/info HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\nConnection: close\r\n\r\n",
            Refused,
        ),
        entry("no host", "GET /v1/info HTTP/1.1\r\nConnection: close\r\n\r\n", Refused),
        entry("a host that is none", "GET /v1/info HTTP/1.1\r\nHost: a b\r\nConnection: close\r\n\r\n", Refused),
    ]
}

/// Request lines and targets (RFC 9112 §3).
fn targets() -> Vec<Nonsense> {
    let line = |name: &'static str, first: &str, fate| {
        entry(name, format!("{first}\r\n{HOST}Connection: close\r\n\r\n"), fate)
    };
    vec![
        line("absolute form", "GET http://localhost/v1/info HTTP/1.1", Served(1)),
        line("absolute form of another host", "GET http://evil.example/v1/info HTTP/1.1", Either),
        line("absolute form of another scheme", "GET ftp://localhost/v1/info HTTP/1.1", Either),
        line("connect", "CONNECT localhost:80 HTTP/1.1", Refused),
        line("connect to a path", "CONNECT /v1/info HTTP/1.1", Refused),
        line("asterisk", "OPTIONS * HTTP/1.1", Either),
        line("get of an asterisk", "GET * HTTP/1.1", Refused),
        line("trace", "TRACE /v1/info HTTP/1.1", Refused),
        line("a method in small letters", "get /v1/info HTTP/1.1", Refused),
        line("a method that is none", "G(T /v1/info HTTP/1.1", Refused),
        line("a path without its slash", "GET v1/info HTTP/1.1", Refused),
        line("two slashes", "GET //v1/info HTTP/1.1", Refused),
        line("dots", "GET /v1/../v1/info HTTP/1.1", Refused),
        line("a file of the machine", "GET /../../../../etc/passwd HTTP/1.1", Refused),
        line("a file, encoded", "GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1", Refused),
        line("an encoded nul", "GET /client.js%00.html HTTP/1.1", Refused),
        line("broken percents", "GET /v1/poll?topic=%zz%&wait=%0 HTTP/1.1", Refused),
        // A percent sign that begins no escape is literal (URL Standard, percent-decode).
        line("a percent at the end", "GET /v1/poll?topic=a% HTTP/1.1", Served(1)),
        line("bytes that are not utf-8, encoded", "POST /v1/topics/%ff%fe HTTP/1.1", Refused),
        line("a fragment", "GET /v1/info#x HTTP/1.1", Either),
        line("a space in the target", "GET /v1/info x HTTP/1.1", Refused),
        line("two spaces", "GET  /v1/info HTTP/1.1", Refused),
        line("a nul in the target", "GET /v1/\0info HTTP/1.1", Refused),
        line("no target", "GET HTTP/1.1", Refused),
        entry("bytes in the target", b"GET /v1/poll?topic=\xff HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), Refused),
        entry("a newline in the target", format!("GET /v1/info\n{} HTTP/1.1\r\n{HOST}\r\n", "x"), Refused),
        entry(
            "a line break, encoded, in a topic",
            get(&format!(
                "/v1/poll?topic=a%0d%0a%0d%0a{}",
                hidden("encoded").replace("\r\n", "%0d%0a").replace(' ', "%20")
            )),
            Refused,
        ),
    ]
}

/// Protocol versions (RFC 9112 §2.3).
fn versions() -> Vec<Nonsense> {
    let version = |name: &'static str, version: &str, fate| {
        entry(name, format!("GET /v1/info {version}\r\n{HOST}Connection: close\r\n\r\n"), fate)
    };
    // No request is executed behind the last one of a connection (RFC 9112 §9.6).
    let last = |name: &'static str, line: &str, version: &str| {
        let first = format!("GET /v1/longpoll?topic=a&wait=1 {version}\r\n{HOST}{line}\r\n\r\n");
        entry(name, format!("{first}{}", hidden(name)), Served(1))
    };
    vec![
        version("version 2.0", "HTTP/2.0", Refused),
        version("version 1.2", "HTTP/1.2", Either),
        version("version 3.7", "HTTP/3.7", Refused),
        version("version 0.9", "HTTP/0.9", Refused),
        version("a version in small letters", "http/1.1", Refused),
        version("another protocol", "HTTQ/1.1", Refused),
        version("a version of two digits", "HTTP/1.10", Refused),
        version("a version with more", "HTTP/1.1 x", Refused),
        last("behind a close", "Connection: close", "HTTP/1.1"),
        last("behind a close in capitals", "Connection: CLOSE", "HTTP/1.1"),
        last("behind a close in a list", "Connection: x, close", "HTTP/1.1"),
        last("behind a close that takes back", "Connection: keep-alive\r\nConnection: close", "HTTP/1.1"),
        last("behind http 1.0", "X-Nothing: else", "HTTP/1.0"),
        entry("http 0.9", "GET /v1/info\r\n\r\n", Refused),
        entry("the preface of http 2", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", Refused),
        entry("the greeting of tls", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), Refused),
        entry("the greeting of ssh", "SSH-2.0-OpenSSH_9.2\r\n", Refused),
        entry("the header of a proxy", format!("PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n{}", get("/v1/info")), Refused),
        entry("nothing but zeros", vec![0; 70_000], Refused),
        entry("nothing at all", "", Refused),
    ]
}

/// Oversized requests.
fn sizes() -> Vec<Nonsense> {
    let head = format!("GET /v1/info HTTP/1.1\r\n{HOST}Connection: close\r\n");
    let many = (0..5000).map(|number| format!("X-{number}: x\r\n")).collect::<String>();
    vec![
        entry("too many headers", format!("{head}{many}\r\n"), Refused),
        entry("a header without end", format!("{head}X-Long: {}", "x".repeat(1 << 20)), Refused),
        entry("a name without end", format!("{head}{}", "x".repeat(1 << 20)), Refused),
        entry("a target without end", format!("GET /{}", "x".repeat(1 << 20)), Refused),
        entry("a method without end", "X".repeat(1 << 20), Refused),
        entry("a long target", get(&format!("/v1/poll?topic={}", "x".repeat(300 << 10))), Refused),
        entry("line breaks without end", "\r\n".repeat(1 << 19), Refused),
        entry("a head that stops", format!("{head}X-Sto"), Refused),
        entry("a body that stops", publish("Content-Length: 10\r\n", "xxx"), Refused),
        entry("a chunk that stops", publish("Transfer-Encoding: chunked\r\n", "a\r\nxxx"), Refused),
        entry("a size that stops", publish("Transfer-Encoding: chunked\r\n", "a"), Refused),
    ]
}

/// The control: two pipelined publishes, of which the second is the request that the shapes smuggle.
pub(crate) fn pipelined() -> String {
    format!("{}{}", publish("Content-Length: 1\r\n", "1"), hidden("pipelined"))
}
