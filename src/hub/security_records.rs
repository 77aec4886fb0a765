//! Tickets, bans and revocations.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::Hub;
use crate::auth::{Grant, Ticket};
use crate::denylist::{Denial, Denylist};
use crate::store::{RECORD_VALUE_MAX_BYTES, SecurityRecord, SecurityRecordKind, StoreError};

/// Random bytes of a ticket: 192 bits cannot be guessed.
const TICKET_BYTES: usize = 24;

impl Hub {
    /// The bans and revocations in force.
    pub(crate) fn denylist(&self) -> &Denylist {
        &self.0.denylist
    }

    /// Issues a ticket; `None` where its grant is too long to be stored.
    pub(crate) async fn make_ticket(&self, ticket: &Ticket, ttl: Duration) -> Result<Option<String>, StoreError> {
        let value = ticket.encode();
        if value.len() > RECORD_VALUE_MAX_BYTES {
            return Ok(None);
        }
        let name = URL_SAFE_NO_PAD.encode(rand::random::<[u8; TICKET_BYTES]>());
        let until_ms = self.clock().believed_ms() + u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 2);
        self.0
            .store
            .save_record(SecurityRecord { kind: SecurityRecordKind::Ticket, key: name.clone(), value, until_ms })
            .await?;
        Ok(Some(name))
    }

    /// Redeems a ticket, which can be done once; `None` where no unused ticket has this name.
    pub(crate) async fn use_ticket(&self, name: &str) -> Result<Option<Ticket>, StoreError> {
        // A name of another length is no ticket: the store is not queried.
        if URL_SAFE_NO_PAD.decode(name).map_or(0, |bytes| bytes.len()) != TICKET_BYTES {
            return Ok(None);
        }
        let record = self
            .0
            .store
            .consume_record(SecurityRecordKind::Ticket, name.to_owned(), self.clock().believed_ms())
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
