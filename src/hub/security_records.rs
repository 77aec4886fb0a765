//! Tickets, bans and revocations.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::Hub;
use crate::auth::{Grant, Ticket};
use crate::denylist::{Denial, Denylist};
use crate::store::{RECORD_VALUE_MAX_BYTES, SecurityRecord, SecurityRecordKind, StoreError, TICKET_SHARE_END};

/// Random bytes of a ticket: 192 bits cannot be guessed.
const TICKET_BYTES: usize = 24;

/// Bytes of a ticket's share, of its digest: 72 bits, so that no subject can be found that has the share of another.
const SHARE_BYTES: usize = 9;

/// Their characters, with which a ticket begins.
const SHARE_CHARS: usize = SHARE_BYTES / 3 * 4;

impl Hub {
    /// The bans and revocations in force.
    pub(crate) fn denylist(&self) -> &Denylist {
        &self.0.denylist
    }

    /// The number of unused tickets of a share on all nodes; `None` where this process makes all of them.
    pub(crate) async fn count_tickets(&self, share: &str) -> Result<Option<u64>, StoreError> {
        self.0.store.count_tickets(share_digest(share)).await
    }

    /// Issues a ticket, which counts for `share`; `None` where its grant is too long to be stored.
    pub(crate) async fn make_ticket(
        &self,
        ticket: &Ticket,
        share: &str,
        ttl: Duration,
    ) -> Result<Option<String>, StoreError> {
        let value = ticket.encode();
        if value.len() > RECORD_VALUE_MAX_BYTES {
            return Ok(None);
        }
        let (share, random) = (share_digest(share), URL_SAFE_NO_PAD.encode(rand::random::<[u8; TICKET_BYTES]>()));
        let until_ms = self.clock().believed_ms() + u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 2);
        let key = ticket_key(&share, &random);
        self.0.store.save_record(SecurityRecord { kind: SecurityRecordKind::Ticket, key, value, until_ms }).await?;
        Ok(Some(share + &random))
    }

    /// Redeems a ticket, which can be done once; `None` where no unused ticket has this name.
    pub(crate) async fn use_ticket(&self, name: &str) -> Result<Option<Ticket>, StoreError> {
        // A name of another length is no ticket: the store is not queried.
        if URL_SAFE_NO_PAD.decode(name).map_or(0, |bytes| bytes.len()) != SHARE_BYTES + TICKET_BYTES {
            return Ok(None);
        }
        let (share, random) = name.split_at(SHARE_CHARS);
        let record = self
            .0
            .store
            .consume_record(SecurityRecordKind::Ticket, ticket_key(share, random), self.clock().believed_ms())
            .await?;
        Ok(record.and_then(|record| Ticket::decode(&record.value)))
    }

    /// Ends a client's streams on every node and deletes its record; returns whether there was one. With `ban`, the client may
    /// not connect again before that time is over.
    pub(crate) async fn kick(&self, client: Uuid, ban: Option<Duration>) -> Result<bool, StoreError> {
        let known = self.clients().get(client).await?.is_some();
        let at_ms = self.clock().believed_ms();
        // Recorded even where the client is unknown: it may be connected to another node, under an id that was never saved.
        let record = match ban {
            Some(ban) => {
                let ban_ms = u64::try_from(ban.as_millis()).unwrap_or(u64::MAX / 2);
                Denial::Client(client).record(at_ms + ban_ms)
            }
            None => Denial::Kick { client, at_ms }.record(at_ms),
        };
        self.0.store.save_record(record).await?;
        if known {
            self.clients().forget(client, self.bounds().epoch).await?;
        }
        Ok(known)
    }

    /// Revokes tokens until a time; every node knows within a second.
    pub(crate) async fn deny(&self, denial: &Denial, until_ms: u64) -> Result<(), StoreError> {
        self.0.store.save_record(denial.record(until_ms)).await
    }

    /// Whether the token behind a grant is revoked.
    pub(crate) fn is_revoked(&self, grant: &Grant) -> bool {
        self.0.denylist.is_revoked(grant, self.clock().earliest_ms())
    }
}

/// A ticket's key in the store.
fn ticket_key(share: &str, random: &str) -> String {
    format!("{share}{TICKET_SHARE_END}{random}")
}

/// A digest, since a share contains a subject or an address, and a ticket is in a URL.
fn share_digest(share: &str) -> String {
    let digest = digest(&SHA256, share.as_bytes());
    URL_SAFE_NO_PAD.encode(digest.as_ref().get(..SHARE_BYTES).unwrap_or_default())
}
