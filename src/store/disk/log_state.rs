//! The log's counters: one row, which every transaction writes.

use rusqlite::{Connection, OptionalExtension as _, params};

use super::column::{integer, position};
use super::form;
use crate::cursor::{Epoch, Position};

/// The log's counters.
#[derive(Clone, Copy, Debug)]
pub(super) struct LogState {
    pub(super) epoch: Epoch,
    pub(super) began: Position,
    pub(super) last: Position,
    pub(super) floor: Position,
    /// The size of the retained events, in bytes.
    pub(super) bytes: u64,
    /// The number of retained events.
    pub(super) events: u64,
    /// The number of transactions that removed events from the middle: a reader waits until what its snapshot lacks is known.
    pub(super) removals: u64,
    /// The format of the log's events ([`form`]), which is the file's `user_version`; raised with the first event that needs it.
    pub(super) format: i32,
}

impl LogState {
    /// The log's counters and the floor that marks were folded into; `None` if the row is missing or invalid.
    pub(super) fn read(db: &Connection) -> rusqlite::Result<Option<(Self, Position)>> {
        let read = "SELECT epoch, began, last, floor, bytes, folded FROM meta WHERE one = 1";
        let format = db.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let row = db.query_row(read, [], |row| {
            let at = |column: usize| row.get(column).map(position);
            let epoch: String = row.get(0)?;
            let epoch: Option<Epoch> = epoch.parse().ok();
            let (began, last, floor, bytes, folded) = (at(1)?, at(2)?, at(3)?, at(4)?.0, at(5)?);
            // Without holes, there is an event at each position.
            let (events, removals) = (last.0.saturating_sub(floor.0), 0);
            Ok(epoch.map(|epoch| (Self { epoch, began, last, floor, bytes, events, removals, format }, folded)))
        });
        let mut state = row.optional()?.flatten();
        if let Some((log, _)) = &mut state
            && log.format >= form::HOLES_FORMAT
        {
            (log.events, log.removals) = db.query_row("SELECT events, removals FROM keeping", [], |row| {
                Ok((position(row.get(0)?).0, position(row.get(1)?).0))
            })?;
        }
        Ok(state)
    }

    /// Writes the counters, in the transaction that changed them.
    pub(super) fn write(&self, db: &Connection) -> rusqlite::Result<()> {
        db.prepare_cached("UPDATE meta SET last = ?1, floor = ?2, bytes = ?3")?.execute(params![
            integer(self.last.0),
            integer(self.floor.0),
            integer(self.bytes)
        ])?;
        if self.format >= form::HOLES_FORMAT {
            db.prepare_cached("UPDATE keeping SET events = ?1, removals = ?2")?
                .execute([integer(self.events), integer(self.removals)])?;
        }
        Ok(())
    }
}

/// Raises the format of the log's events, in the transaction of the first event that needs it.
pub(super) fn write_format(db: &Connection, format: i32) -> rusqlite::Result<()> {
    db.pragma_update(None, "user_version", format)
}
