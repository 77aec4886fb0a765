use proptest::prelude::*;

use super::*;

const HEAD: &str = "POST /v1/events HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:  Chunked \r\n\r\n";
const NEXT: &str = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";

/// The requests in a text that arrives in pieces of a length; and where the text is invalid, if it is.
fn requests(text: &[u8], piece_bytes: usize) -> (Vec<String>, Option<(usize, Invalid)>) {
    let mut check = RequestCheck::default();
    let (mut requests, mut heads, mut begun, mut at, mut arrived) = (vec![], 0, 0, 0, 0);
    while arrived < text.len() {
        arrived = text.len().min(arrived + piece_bytes);
        while at < arrived {
            match check.next(&text[at..arrived]) {
                Ok(Checked::Partial) => break,
                Ok(Checked::Passed(passed)) => {
                    assert!(passed.bytes > 0);
                    at += passed.bytes;
                    heads += usize::from(passed.ends_head);
                    if passed.ends_request {
                        requests.push(String::from_utf8_lossy(&text[begun..at]).into_owned());
                        assert_eq!(heads, requests.len(), "each request has one head");
                        begun = at;
                    }
                }
                Err(invalid) => return (requests, Some((at, invalid))),
            }
        }
    }
    (requests, None)
}

/// Where a text's body is invalid.
fn invalid_body(text: &[u8], piece_bytes: usize) -> Option<usize> {
    let (at, invalid) = requests(text, piece_bytes).1?;
    assert_eq!(invalid, Invalid::Body);
    Some(at)
}

fn refusal(head: &[u8]) -> Option<HeadError> {
    match requests(head, head.len()).1 {
        Some((0, Invalid::Head(error))) => Some(error),
        _ => None,
    }
}

#[test]
fn a_trailer_section_of_field_lines_passes() {
    for body in [
        "0\r\n\r\n",
        "1\r\nx\r\n0\r\n\r\n",
        "a;x=\"y\"\r\n0\r\n\r\nPOST \r\n0A \r\n\n\n\n\n\n\n\n\n\n\n\r\n000\r\nDigest: x\r\nX-Empty:\r\nX:\ta \u{e9}\r\n\r\n",
    ] {
        // Behind it comes another body, so that its end was found.
        let text = format!("{HEAD}{body}{NEXT}{HEAD}0\r\nnone\r\n\r\n");
        for piece in [1, 2, 7, text.len()] {
            assert_eq!(invalid_body(text.as_bytes(), piece), Some(text.len() - 4), "{body:?} by {piece}");
        }
    }
}

#[test]
fn anything_else_is_refused_at_its_first_byte() {
    for (section, at) in [
        ("xx\r\n\r\n", 2),
        (": x\r\n\r\n", 0),
        ("a : x\r\n\r\n", 1),
        ("GET / HTTP/1.1\r\n", 3),
        ("a: b\n\r\n", 4),
        ("a: b\r\r\n", 5),
        ("a: \0\r\n\r\n", 3),
        ("\n", 0),
        ("\rx", 1),
        (" a: b\r\n\r\n", 0),
        ("a: b\r\n c\r\n\r\n", 6),
    ] {
        let text = format!("{HEAD}1\r\nx\r\n0\r\n{section}{NEXT}");
        let expected = text.len() - NEXT.len() - section.len() + at;
        for piece in [1, 3, text.len()] {
            assert_eq!(invalid_body(text.as_bytes(), piece), Some(expected), "{section:?} by {piece}");
        }
    }
}

#[test]
fn a_malformed_chunk_is_refused_at_its_first_byte() {
    for (body, at) in [
        ("\r\n", 0),
        ("g\r\n", 0),
        ("-1\r\n", 0),
        ("1_0\r\n", 1),
        ("1\nx", 1),
        ("1 1\r\n", 2),
        ("1;a\nb\r\n", 3),
        ("1;a\rb\r\n", 4),
        ("1\r\nxy\r\n", 4),
        ("10000000000000000\r\n", 16),
    ] {
        let text = format!("{HEAD}{body}");
        for piece in [1, 3, text.len()] {
            assert_eq!(invalid_body(text.as_bytes(), piece), Some(HEAD.len() + at), "{body:?} by {piece}");
        }
    }
}

#[test]
fn other_bodies_are_followed_to_their_end() {
    let end = format!("{HEAD}0\r\nnone\r\n\r\n");
    for (head, is_followed) in [
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\n\r\n\r\n", true),
        ("POST / HTTP/1.1\nHost: h\nContent-Length: 0004\n\n0\r\n\r", true),
        ("POST / HTTP/1.0\r\nContent-Length: 0\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: h2c\r\n\r\n", true),
        ("\r\n\nGET /?transfer-encoding:chunked HTTP/1.1\r\nHost:\r\nX: chunked\r\n\r\n", true),
        ("GET / HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nContent-Length: 4\r\n\r\n", false),
        ("CONNECT h:1 HTTP/1.1\r\nHost: h\r\n\r\n", false),
    ] {
        let text = format!("{head}{end}");
        let expected = is_followed.then_some(text.len() - 4);
        assert_eq!(invalid_body(text.as_bytes(), text.len()), expected, "{head:?}");
    }
}

#[test]
fn an_invalid_head_is_refused_for_its_fault() {
    let with = |lines: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{lines}\r\n");
    let many: String = (0..100).map(|number| format!("x-{number}: y\r\n")).collect();
    for (head, error) in [
        ("GET\r\n\r\n".to_owned(), HeadError::RequestLine),
        ("\u{16}\u{3}\u{1}\u{2}".to_owned(), HeadError::RequestLine),
        ("GET / HTTP/x\r\n".to_owned(), HeadError::RequestLine),
        ("GET  / HTTP/1.1\r\n".to_owned(), HeadError::RequestLine),
        ("GET GET / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), HeadError::RequestLine),
        ("GET / HTTP/2.0\r\n\r\n".to_owned(), HeadError::Version),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_owned(), HeadError::Version),
        ("GET ?:/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), HeadError::Target("?:/".to_owned())),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), HeadError::Host),
        (with("Host: h\r\n"), HeadError::Host),
        (with("a b: c\r\n"), HeadError::Field),
        (with("a: \u{0}\r\n"), HeadError::Field),
        (with("Content-Length: +1\r\n"), HeadError::Length),
        (with("Content-Length: 1\r\nContent-Length: 1\r\n"), HeadError::Length),
        (with("Content-Length: 18446744073709551616\r\n"), HeadError::Length),
        (with("Transfer-Encoding: gzip, chunked\r\n"), HeadError::Coding("gzip".to_owned())),
        (with("Transfer-Encoding: gzip\r\n"), HeadError::Framing),
        (with("Transfer-Encoding: chunked, chunked\r\n"), HeadError::Framing),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"), HeadError::Framing),
        (with("Transfer-Encoding: chunked\r\nContent-Length: 1\r\n"), HeadError::Framing),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), HeadError::Framing),
        ("POST / HTTP/1.0\r\n\r\n".to_owned(), HeadError::NoLength),
        (with(&many), HeadError::TooManyFields { limit: 96 }),
        (with(&format!("x: {}\r\n", "y".repeat(140_000))), HeadError::TooLong { limit_bytes: 128 << 10 }),
        ("GET /".to_owned() + &"x".repeat(140_000), HeadError::TooLong { limit_bytes: 128 << 10 }),
    ] {
        assert_eq!(refusal(head.as_bytes()), Some(error), "{:?}", &head[..head.len().min(80)]);
    }
}

const WHOLE: [&str; 6] = [
    "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "HEAD /v1/poll?topic=a HTTP/1.0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
    "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "POST / HTTP/1.1\r\nHost: a\r\ntransfer-encoding: Chunked\r\n\r\n5;x=y\r\nGET /\r\n2\r\n\r\n\r\n0\r\nA: b\r\n\r\n",
    "\r\nDELETE /x HTTP/1.1\nHost: a\n\n",
];

proptest! {
    #[test]
    fn each_request_ends_at_its_end(
        sent in prop::collection::vec(prop::sample::select(WHOLE.to_vec()), 1..6),
        piece in 1_usize..90,
    ) {
        let (requests, invalid) = requests(sent.concat().as_bytes(), piece);
        prop_assert_eq!(invalid, None);
        prop_assert_eq!(requests, sent);
    }

    #[test]
    fn the_pieces_do_not_matter(
        text in "(POST / HTTP/1.1\r\nHost: h\r\n(Content-Length: [0-9]{1,2}\r\n)?(Transfer-Encoding: chunked\r\n)?\r\n[0-2x:\r\n]{0,12}){1,3}",
        piece in 1_usize..9,
    ) {
        prop_assert_eq!(requests(text.as_bytes(), piece), requests(text.as_bytes(), text.len()));
    }
}
