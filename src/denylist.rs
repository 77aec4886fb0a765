//! The denylist: banned clients and revoked tokens. It is kept in the store, so that every node has it, and cached here in
//! memory, so that every request can be checked.

use std::collections::HashMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use uuid::Uuid;

use crate::auth::{Grant, ISSUER_AHEAD_MS};
use crate::clients::Clients;
use crate::store::{RecordWatcher, SecurityRecord, SecurityRecordKind};
use crate::wire::ByeReason;

/// How long the record of a kick is kept, for nodes that receive it late.
const KICK_KEPT_MS: u64 = 60_000;

/// How far nodes' clocks may be apart: a connection that began within this time after a kick is still ended by it.
const CLOCKS_APART_MS: u64 = 1000;

/// The denylist of one process.
pub(crate) struct Denylist {
    /// Weak, since `Clients` owns the store, which owns this.
    clients: Weak<Clients>,
    table: RwLock<Table>,
}

#[derive(Default)]
struct Table {
    /// Banned until a time.
    clients: HashMap<Uuid, u64>,
    /// Revoked until a time, by `jti`.
    tokens: HashMap<String, u64>,
    /// By `sub`.
    subjects: HashMap<String, Revoked>,
}

/// A revocation of the tokens that a subject was issued up to some time.
struct Revoked {
    issued_ms: u64,
    until_ms: u64,
}

/// One entry of the denylist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Denial {
    /// The streams of a client end; the client may reconnect.
    Kick { client: Uuid, at_ms: u64 },
    /// A client may not connect.
    Client(Uuid),
    /// The token with this `jti`.
    Token(String),
    /// The tokens with this `sub` that were issued at this time or before, or have no `iat`.
    Subject { subject: String, issued_ms: u64 },
}

impl Denial {
    /// The record that stores this entry until a time.
    pub(crate) fn record(&self, until_ms: u64) -> SecurityRecord {
        let (kind, key, value) = match self {
            Self::Kick { client, at_ms } => (SecurityRecordKind::Ban, format!("kick:{client}"), at_ms.to_string()),
            Self::Client(client) => (SecurityRecordKind::Ban, format!("ban:{client}"), String::new()),
            Self::Token(id) => (SecurityRecordKind::Revocation, format!("jti:{id}"), String::new()),
            Self::Subject { subject, issued_ms } => {
                (SecurityRecordKind::Revocation, format!("sub:{subject}"), issued_ms.to_string())
            }
        };
        let until_ms = if let Self::Kick { at_ms, .. } = self { at_ms + KICK_KEPT_MS } else { until_ms };
        SecurityRecord { kind, key, value: value.into_bytes(), until_ms }
    }

    /// The entry in a record; `None` where this version does not know its kind.
    fn read(record: &SecurityRecord) -> Option<Self> {
        let number = || std::str::from_utf8(&record.value).ok()?.parse().ok();
        let (what, whom) = record.key.split_once(':')?;
        match (record.kind, what) {
            (SecurityRecordKind::Ban, "kick") => Some(Self::Kick { client: whom.parse().ok()?, at_ms: number()? }),
            (SecurityRecordKind::Ban, "ban") => Some(Self::Client(whom.parse().ok()?)),
            (SecurityRecordKind::Revocation, "jti") => Some(Self::Token(whom.into())),
            (SecurityRecordKind::Revocation, "sub") => {
                Some(Self::Subject { subject: whom.into(), issued_ms: number()? })
            }
            _ => None,
        }
    }

    /// Whether this entry revokes the token of `grant`.
    fn is_of(&self, grant: &Grant) -> bool {
        match self {
            Self::Token(id) => grant.id.as_ref() == Some(id),
            Self::Subject { subject, issued_ms } => {
                grant.subject.as_ref() == Some(subject) && was_issued_by(grant, *issued_ms)
            }
            Self::Kick { .. } | Self::Client(_) => false,
        }
    }
}

/// Whether a token was issued by a time of this server's clock, or has no `iat`. The issuer's clock may be ahead, as for
/// `nbf`: otherwise a token from before a revocation would survive it. The price is that a token issued just after is refused.
fn was_issued_by(grant: &Grant, time_ms: u64) -> bool {
    grant.issued_ms.is_none_or(|issued| issued <= time_ms.saturating_add(ISSUER_AHEAD_MS))
}

impl Denylist {
    pub(crate) fn new(clients: Weak<Clients>) -> Self {
        Self { clients, table: RwLock::default() }
    }

    /// Whether a client is banned.
    pub(crate) fn is_banned(&self, client: Uuid, now_ms: u64) -> bool {
        self.table().clients.get(&client).is_some_and(|until| now_ms < *until)
    }

    /// Whether the token of `grant` is revoked.
    pub(crate) fn is_revoked(&self, grant: &Grant, now_ms: u64) -> bool {
        let table = self.table();
        let token = grant.id.as_ref().and_then(|id| table.tokens.get(id));
        let subject = grant.subject.as_ref().and_then(|subject| table.subjects.get(subject));
        token.is_some_and(|until| now_ms < *until)
            || subject.is_some_and(|revoked| now_ms < revoked.until_ms && was_issued_by(grant, revoked.issued_ms))
    }

    /// Removes expired entries.
    pub(crate) fn expire(&self, now_ms: u64) {
        let mut table = self.table_mut();
        table.clients.retain(|_, until| now_ms < *until);
        table.tokens.retain(|_, until| now_ms < *until);
        table.subjects.retain(|_, revoked| now_ms < revoked.until_ms);
    }

    fn table(&self) -> RwLockReadGuard<'_, Table> {
        self.table.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn table_mut(&self) -> RwLockWriteGuard<'_, Table> {
        self.table.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RecordWatcher for Denylist {
    /// Adds the entry before it ends the open connections: a client that connects in between is refused or ended.
    fn push(&self, record: SecurityRecord) {
        let Some(denial) = Denial::read(&record) else { return };
        let until_ms = record.until_ms;
        match &denial {
            Denial::Kick { .. } => {}
            Denial::Client(client) => {
                self.table_mut().clients.insert(*client, until_ms);
            }
            Denial::Token(id) => {
                self.table_mut().tokens.insert(id.clone(), until_ms);
            }
            Denial::Subject { subject, issued_ms } => {
                let revoked = Revoked { issued_ms: *issued_ms, until_ms };
                self.table_mut().subjects.insert(subject.clone(), revoked);
            }
        }
        let Some(clients) = self.clients.upgrade() else { return };
        match &denial {
            Denial::Kick { client, .. } | Denial::Client(client) => clients.forget_here(*client),
            Denial::Token(_) | Denial::Subject { .. } => {}
        }
        clients.end_where(ByeReason::Kicked, |connection| match &denial {
            Denial::Kick { client, at_ms } => {
                connection.client == *client && connection.since_ms <= at_ms + CLOCKS_APART_MS
            }
            Denial::Client(client) => connection.client == *client,
            Denial::Token(_) | Denial::Subject { .. } => connection.grant().is_some_and(|grant| denial.is_of(&grant)),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn grant(subject: &str, id: &str, issued_ms: Option<u64>) -> Grant {
        Grant {
            subscribe: Vec::new(),
            publish: Vec::new(),
            erase: Vec::new(),
            subject: Some(subject.into()),
            id: Some(id.into()),
            issued_ms,
            expires_ms: 10_000,
            admin: false,
            event_rate: None,
            key: None,
        }
    }

    #[test]
    fn a_record_holds_a_denial_and_its_end() {
        let denylist = Denylist::new(Weak::new());
        let client = Uuid::from_u128(7);
        let denials = [
            Denial::Client(client),
            Denial::Token("t:1".into()),
            Denial::Subject { subject: "li:x".into(), issued_ms: 500 },
            Denial::Kick { client: Uuid::from_u128(8), at_ms: 1 },
        ];
        for denial in denials {
            let record = denial.record(1000);
            assert_eq!(Denial::read(&record), Some(denial));
            denylist.push(record);
        }
        assert!(denylist.is_banned(client, 999) && !denylist.is_banned(client, 1000));
        assert!(!denylist.is_banned(Uuid::from_u128(8), 1), "a kick bans no client");
        assert!(denylist.is_revoked(&grant("wu", "t:1", Some(900)), 999));
        assert!(!denylist.is_revoked(&grant("wu", "t:1", Some(900)), 1000));
        // Tokens issued since are valid; tokens without `iat` are not.
        assert!(denylist.is_revoked(&grant("li:x", "t2", Some(500)), 999));
        assert!(denylist.is_revoked(&grant("li:x", "t2", None), 999));
        assert!(denylist.is_revoked(&grant("li:x", "t2", Some(500 + ISSUER_AHEAD_MS)), 999), "a clock may be ahead");
        assert!(!denylist.is_revoked(&grant("li:x", "t2", Some(501 + ISSUER_AHEAD_MS)), 999));
        assert!(!denylist.is_revoked(&grant("li", "t2", None), 999));
        denylist.expire(1000);
        assert!(denylist.table().clients.is_empty() && denylist.table().tokens.is_empty());
        // A record of a later version is ignored.
        denylist.push(SecurityRecord {
            kind: SecurityRecordKind::Ban,
            key: "address:192.0.2.1".into(),
            value: Vec::new(),
            until_ms: 9,
        });
    }
}
