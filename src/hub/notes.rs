//! Tickets, bans and revocations.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use uuid::Uuid;

use super::Hub;
use crate::auth::{Grant, Ticket};
use crate::barred::{Bar, Barred};
use crate::store::{NOTE_VALUE_MAX_BYTES, Note, NoteKind, StoreError};

/// Random bytes of a ticket: nobody guesses 192 bits.
const TICKET_BYTES: usize = 24;

impl Hub {
    /// Who is shut out.
    pub(crate) fn barred(&self) -> &Barred {
        &self.0.barred
    }

    /// Makes a ticket; `None` where what it would grant is too long to be kept.
    pub(crate) async fn make_ticket(&self, ticket: &Ticket, ttl: Duration) -> Result<Option<String>, StoreError> {
        let value = ticket.encode();
        if value.len() > NOTE_VALUE_MAX_BYTES {
            return Ok(None);
        }
        let name = URL_SAFE_NO_PAD.encode(rand::random::<[u8; TICKET_BYTES]>());
        let until_ms = self.clock().believed_ms() + u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX / 2);
        self.0.store.save_note(Note { kind: NoteKind::Ticket, key: name.clone(), value, until_ms }).await?;
        Ok(Some(name))
    }

    /// Uses a ticket up; `None` where there is none of this name any more.
    pub(crate) async fn use_ticket(&self, name: &str) -> Result<Option<Ticket>, StoreError> {
        // What cannot be one is not asked for.
        if URL_SAFE_NO_PAD.decode(name).map_or(0, |bytes| bytes.len()) != TICKET_BYTES {
            return Ok(None);
        }
        let note = self.0.store.take_note(NoteKind::Ticket, name.to_owned(), self.clock().believed_ms()).await?;
        Ok(note.and_then(|note| Ticket::decode(&note.value)))
    }

    /// Ends a client's streams on every node and forgets it; whether anything was known of it. With a time, it may
    /// not come back before.
    pub(crate) async fn kick(&self, client: Uuid, ban: Option<Duration>) -> Result<bool, StoreError> {
        let known = self.clients().get(client).await?.is_some();
        let at_ms = self.clock().believed_ms();
        // Told even where it is unknown here: it may be connected to another node, under an id that was never saved.
        let note = match ban {
            Some(ban) => {
                let ban_ms = u64::try_from(ban.as_millis()).unwrap_or(u64::MAX / 2);
                Bar::Client(client).note(at_ms + ban_ms)
            }
            None => Bar::Kick { client, at_ms }.note(at_ms),
        };
        self.0.store.save_note(note).await?;
        if known {
            self.clients().forget(client, self.bounds().epoch).await?;
        }
        Ok(known)
    }

    /// Makes a token worth nothing, until a time; it is known on every node within a second.
    pub(crate) async fn bar(&self, bar: &Bar, until_ms: u64) -> Result<(), StoreError> {
        self.0.store.save_note(bar.note(until_ms)).await
    }

    /// Whether what a token grants is worth nothing any more.
    pub(crate) fn is_revoked(&self, grant: &Grant) -> bool {
        self.0.barred.is_revoked(grant, self.clock().earliest_ms())
    }
}
