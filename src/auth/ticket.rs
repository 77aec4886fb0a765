//! What a ticket grants, and the form in which it is stored until it is used.

use std::num::NonZeroU32;

use serde::{Deserialize, Serialize};

use super::{Fingerprint, Grant};
use crate::topic::Pattern;
use crate::transport::Transport;

/// A grant for one stream over one transport.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The grant of the token that requested the ticket.
    pub grant: Grant,
    /// The transport that the ticket is valid for.
    pub transport: Transport,
}

/// The stored form. It lives for seconds, but may be written by one version of the server and read by another during an upgrade.
#[derive(Serialize, Deserialize)]
struct Text<'a> {
    transport: &'a str,
    subscribe: Vec<String>,
    publish: Vec<String>,
    subject: Option<String>,
    id: Option<String>,
    issued_ms: Option<u64>,
    expires_ms: u64,
    admin: bool,
    #[serde(default)]
    event_rate: Option<NonZeroU32>,
    /// As text, since JSON parsers lose digits of large numbers. Missing where an older version wrote the ticket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
}

impl Ticket {
    /// Encodes the ticket for the store.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let texts = |patterns: &[Pattern]| patterns.iter().map(Pattern::to_string).collect();
        let grant = &self.grant;
        let text = Text {
            transport: self.transport.name(),
            subscribe: texts(&grant.subscribe),
            publish: texts(&grant.publish),
            subject: grant.subject.clone(),
            id: grant.id.clone(),
            issued_ms: grant.issued_ms,
            expires_ms: grant.expires_ms,
            admin: grant.admin,
            event_rate: grant.event_rate,
            key: grant.key.map(|key| format!("{:x}", key.to_number())),
        };
        // Strings and numbers can always be serialized.
        serde_json::to_vec(&text).unwrap_or_default()
    }

    /// Decodes a stored ticket; `None` where it is invalid.
    #[must_use]
    pub fn decode(kept: &[u8]) -> Option<Self> {
        let text: Text<'_> = serde_json::from_slice(kept).ok()?;
        let patterns =
            |texts: Vec<String>| texts.iter().map(|text| text.parse().ok()).collect::<Option<Vec<Pattern>>>();
        let transport = Transport::ALL.into_iter().find(|transport| transport.name() == text.transport)?;
        let grant = Grant {
            subscribe: patterns(text.subscribe)?,
            publish: patterns(text.publish)?,
            // A ticket is for a stream, which erases nothing.
            erase: Vec::new(),
            subject: text.subject,
            id: text.id,
            issued_ms: text.issued_ms,
            expires_ms: text.expires_ms,
            admin: text.admin,
            event_rate: text.event_rate,
            key: match text.key {
                Some(key) => Some(Fingerprint::from_number(u128::from_str_radix(&key, 16).ok()?)),
                None => None,
            },
        };
        Some(Self { grant, transport })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_ticket() -> impl Strategy<Value = Ticket> {
        let patterns = || {
            let pattern = prop_oneof![Just("a.*"), Just(">"), Just("ü.\"b\\"), Just("a.b.>")];
            proptest::collection::vec(pattern.prop_map(|text| text.parse().unwrap()), 0..4)
        };
        let text = || proptest::option::of("\\PC{0,20}");
        let transport = proptest::sample::select(&Transport::ALL[..]);
        let numbers = (any::<Option<u64>>(), any::<u64>(), any::<bool>(), any::<Option<u32>>(), any::<Option<u128>>());
        (patterns(), patterns(), text(), text(), numbers, transport).prop_map(
            |(subscribe, publish, subject, id, (issued_ms, expires_ms, admin, rate, key), transport)| {
                let (event_rate, key) = (rate.and_then(NonZeroU32::new), key.map(Fingerprint::from_number));
                let erase = Vec::new();
                let grant =
                    Grant { subscribe, publish, erase, subject, id, issued_ms, expires_ms, admin, event_rate, key };
                Ticket { grant, transport }
            },
        )
    }

    proptest! {
        #[test]
        fn is_read_as_it_was_written(ticket in any_ticket()) {
            prop_assert_eq!(Ticket::decode(&ticket.encode()), Some(ticket));
        }

        #[test]
        fn other_text_is_not_a_ticket(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0_usize..50) {
            prop_assert_eq!(Ticket::decode(&bytes), None);
            let whole = br#"{"transport":"sse","subscribe":["a b"],"publish":[],"expires_ms":1,"admin":true}"#;
            prop_assert_eq!(Ticket::decode(&whole[..whole.len() - cut]), None);
        }
    }
}
