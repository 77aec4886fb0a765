//! The bytes of every framing, with payloads that try to break out of it.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::cursor::Position;
use crate::event::{Data, NewEvent};
use crate::transport::Transport;

fn event(data: &str, name: &str) -> Event {
    let new = NewEvent::new("a.b".parse().unwrap(), Data::text(data)).named(name).unwrap();
    new.draft(1).at("e".parse().unwrap(), Position(7))
}

fn framings() -> Vec<Framing> {
    vec![
        Framing::Json,
        Framing::Jsonp("cb.x".parse().unwrap()),
        Framing::Iframe { nonce: "n0".into(), target: Some("https://a.example".into()) },
        Framing::Sse { padding: false, named: true },
        Framing::Lines,
        Framing::WebSocket,
    ]
}

/// The item that a client of each framing parses from its bytes.
fn unframe(framing: &Framing, bytes: &[u8]) -> String {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    match framing {
        Framing::Json | Framing::Jsonp(_) => text(bytes),
        Framing::Iframe { .. } => {
            let text = text(bytes);
            let script = text.strip_prefix("<script nonce=\"n0\">p(").unwrap().strip_suffix(")</script>\n").unwrap();
            assert!(!script.contains('<'), "{script}");
            script.to_owned()
        }
        Framing::Sse { .. } => {
            let text = text(bytes);
            let block = text.strip_suffix("\n\n").unwrap();
            let data: Vec<&str> = block.split(['\r', '\n']).filter_map(|line| line.strip_prefix("data: ")).collect();
            assert_eq!(data.len(), 1, "{block}");
            data[0].to_owned()
        }
        Framing::Lines => {
            let line = text(bytes).strip_suffix('\n').unwrap().to_owned();
            assert!(!line.contains(['\r', '\n']));
            line
        }
        Framing::WebSocket => {
            assert_eq!(bytes[0], 0x81);
            let (length, rest) = match bytes[1] {
                126 => (usize::from(u16::from_be_bytes([bytes[2], bytes[3]])), &bytes[4..]),
                127 => (u64::from_be_bytes(bytes[2..10].try_into().unwrap()) as usize, &bytes[10..]),
                short => (usize::from(short), &bytes[2..]),
            };
            assert_eq!(length, rest.len());
            text(rest)
        }
        Framing::SocketControl => panic!("this framing has no items"),
    }
}

fn check(data: &str, name: &str) {
    let event = event(data, name);
    for framing in framings() {
        let mut out = BytesMut::new();
        framing.event(&event, &mut out);
        let item: serde_json::Value = serde_json::from_str(&unframe(&framing, &out)).unwrap();
        assert_eq!(item["data"], data, "{framing:?}");
        assert_eq!(item["event"], if name.is_empty() { "message" } else { name });
        assert_eq!(item["cursor"], "e-7");
    }
}

#[test]
fn hostile_payloads_stay_payloads() {
    let large = "\u{1f600}<".repeat(14_000);
    for data in [
        "</script><script>alert(1)</script>",
        "<!--<script>",
        "]]>",
        "\u{2028}\u{2029}",
        "\r\n\r\nevent: x\n",
        "\0",
        "\u{feff}\u{1f600}",
        "p(1)",
        &"x".repeat(100),
        &"x".repeat(70_000),
        &large,
    ] {
        check(data, "");
        check("", &data.chars().filter(|c| !c.is_control()).take(30).collect::<String>());
    }
}

proptest! {
    #[test]
    fn any_payload_arrives_as_it_was(
        data: String,
        name in "[^\\$\\p{Cc}]{0,20}".prop_filter("`*` is no event's name", |name| name != "*"),
    ) {
        check(&data, &name);
    }
}

#[test]
fn sse_names_are_those_an_event_source_leaves_to_applications() {
    for (name, expected) in [("approved", true), ("message", false), ("open", false), ("error", false), ("", false)] {
        let mut out = BytesMut::new();
        Framing::Sse { padding: false, named: true }.event(&event("x", name), &mut out);
        assert_eq!(String::from_utf8_lossy(&out).contains("\nevent: "), expected, "{name}");
    }
}

#[test]
fn sse_control_events_always_name_themselves() {
    let mut out = BytesMut::new();
    let cursor = Cursor::new("e".parse().unwrap(), Position(3));
    let framing = Framing::Sse { padding: false, named: true };
    framing.preamble(&mut out);
    let client = uuid::Uuid::nil();
    let (heartbeat, transport) = (Duration::from_secs(20), Transport::Sse);
    let hello = Control::Hello { client, heartbeat, transport, known: true, live: false };
    framing.control(&hello, Some(cursor), &mut out);
    let hello = String::from_utf8(out.split().to_vec()).unwrap();
    assert!(hello.starts_with("id: e-3\nretry: 2000\nevent: $hello\ndata: {"), "{hello}");
    framing.control(&Control::Beat { upto: None }, Some(cursor), &mut out);
    let bye = Bye { reason: ByeReason::Replaced, retry: None };
    framing.control(&Control::Bye { bye, upto: None }, Some(cursor), &mut out);
    assert_eq!(
        String::from_utf8_lossy(&out),
        "id: e-3\nevent: $beat\ndata: {\"cursor\":\"e-3\",\"event\":\"$beat\"}\n\n\
         id: e-3\nretry: 86400000\nevent: $bye\ndata: {\"cursor\":\"e-3\",\"event\":\"$bye\",\"data\":{\"reason\":\"replaced\"}}\n\n"
    );
}

#[test]
fn without_names_sse_is_messages_only() {
    let mut out = BytesMut::new();
    let framing = Framing::Sse { padding: false, named: false };
    framing.event(&event("x", "approved"), &mut out);
    framing.control(&Control::Beat { upto: None }, None, &mut out);
    assert!(!String::from_utf8_lossy(&out).contains("event:"));
}

#[test]
fn batches_are_framed_whole() {
    let cursor = Some(Cursor::new("e".parse().unwrap(), Position(3)));
    let (literal, more, known, live) = (Literal::Same, false, true, false);
    let batch = Batch { cursor, items: b"1,2", literal, more, known, live, upto: None };
    let framed = |framing: &Framing, cursor| {
        let mut out = BytesMut::new();
        framing.batch(&Batch { cursor, ..batch }, &mut out);
        String::from_utf8_lossy(&out).into_owned()
    };
    assert_eq!(framed(&Framing::Json, cursor), r#"{"cursor":"e-3","events":[1,2]}"#);
    let jsonp = Framing::Jsonp("a.b".parse().unwrap());
    assert_eq!(framed(&jsonp, None), r#"/**/a.b({"cursor":null,"events":[1,2]});"#);
    let iframe = Framing::Iframe { nonce: "n".into(), target: None };
    assert_eq!(framed(&iframe, cursor), "<script nonce=\"n\">p({\"cursor\":\"e-3\",\"events\":[1,2]})</script>\n");
    let mut out = BytesMut::new();
    Framing::Json.batch(&Batch { more: true, known: false, live: true, upto: cursor, ..batch }, &mut out);
    let marked = r#"{"cursor":"e-3","events":[1,2],"more":true,"known":false,"live":true,"upto":"e-3"}"#;
    assert_eq!(String::from_utf8_lossy(&out), marked);
}

#[test]
fn data_that_is_no_literal_is_parsed_from_a_string() {
    let new = NewEvent::new("a".parse().unwrap(), Data::json(r#"{"__proto__":"</script>","__proto__":2}"#).unwrap());
    let event = new.draft(1).at("e".parse().unwrap(), Position(7));
    let mut json = BytesMut::new();
    event.write_json(&mut json);
    let json = String::from_utf8(json.to_vec()).unwrap();
    let iframe = Framing::Iframe { nonce: "n".into(), target: None };
    let mut out = BytesMut::new();
    iframe.event(&event, &mut out);
    let text = String::from_utf8(out.to_vec()).unwrap();
    let argument = text.strip_prefix("<script nonce=\"n\">p(").unwrap().strip_suffix(")</script>\n").unwrap();
    assert!(!argument.contains('<'), "{argument}");
    assert_eq!(serde_json::from_str::<String>(argument).unwrap(), json);

    let mut out = BytesMut::new();
    let (items, literal, more, known) = (json.as_bytes(), Literal::LosesKeys, false, true);
    let batch = Batch { cursor: None, items, literal, more, known, live: false, upto: None };
    Framing::Jsonp("cb".parse().unwrap()).batch(&batch, &mut out);
    let text = String::from_utf8(out.to_vec()).unwrap();
    let argument = text.strip_prefix("/**/cb(JSON.parse(").unwrap().strip_suffix("));").unwrap();
    assert_eq!(serde_json::from_str::<String>(argument).unwrap(), format!("{{\"cursor\":null,\"events\":[{json}]}}"));
}

#[test]
fn the_document_is_padded_before_its_first_item_and_encodes_its_target() {
    let mut out = BytesMut::new();
    let framing = Framing::Iframe { nonce: "n".into(), target: Some("https://a\"</script>".into()) };
    framing.preamble(&mut out);
    let text = String::from_utf8_lossy(&out);
    assert!(out.len() >= 1024, "{}", out.len());
    assert!(text.contains(r#"var t="https://a\"\u003c/script>";"#), "{text}");
    assert!(!text.starts_with('\u{feff}'));
}

#[test]
fn a_stream_that_ends_closes_its_socket_with_the_code_of_the_contract() {
    for (reason, code) in [(ByeReason::Shutdown, 1001_u16), (ByeReason::Replaced, 1008), (ByeReason::Slow, 1013)] {
        let mut out = BytesMut::new();
        Framing::WebSocket.ending(&Bye { reason, retry: None }, &mut out);
        assert_eq!(out[0], 0x88);
        assert_eq!(out[2..4], code.to_be_bytes());
        assert_eq!(out[4..], *reason.name().as_bytes());
    }
}

#[test]
fn the_end_of_a_round_and_of_the_past_are_named() {
    let cursor = |position| Some(Cursor::new("e".parse().unwrap(), Position(position)));
    let bye = Bye { reason: ByeReason::Recycle, retry: None };
    for (control, expected) in [
        (Control::Beat { upto: cursor(9) }, r#"{"cursor":"e-3","upto":"e-9","event":"$beat"}"#),
        (
            Control::Bye { bye, upto: cursor(9) },
            r#"{"cursor":"e-3","upto":"e-9","event":"$bye","data":{"reason":"recycle"}}"#,
        ),
        (Control::Live(None), r#"{"cursor":"e-3","event":"$live","data":{}}"#),
        (Control::Live(Some("1e400".into())), r#"{"cursor":"e-3","event":"$live","data":{"ref":1e400}}"#),
    ] {
        let mut out = BytesMut::new();
        Framing::Lines.control(&control, cursor(3), &mut out);
        assert_eq!(String::from_utf8_lossy(&out), format!("{expected}\n"));
    }
}
