//! The ancestors of a log: the epochs of the logs that it was restored from.
//!
//! A restored backup gets an epoch of its own, since events published after the backup are lost and their positions are used
//! again. Up to the backup's end the two logs are the same, though: a cursor up to there is the same place in both, and the
//! events after it are delivered rather than reported as a gap.

use rusqlite::Connection;

use super::column::{parsed, position};
use crate::cursor::{Cursor, Epoch, Position};

/// The most ancestors that are kept; each restore adds one. A cursor of an older ancestor counts as a cursor of a foreign log.
const ANCESTORS_MAX: i64 = 64;

pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS ancestors(n INTEGER PRIMARY KEY, epoch TEXT NOT NULL UNIQUE, through INTEGER NOT NULL);";

/// The ancestors of a log.
#[derive(Debug, Default)]
pub(super) struct Ancestors(Vec<Ancestor>);

#[derive(Debug)]
struct Ancestor {
    epoch: Epoch,
    /// The last position that both logs share.
    through: Position,
}

impl Ancestors {
    pub(super) fn load(db: &Connection) -> rusqlite::Result<Self> {
        let mut statement = db.prepare("SELECT epoch, through FROM ancestors")?;
        let ancestors = statement.query_map([], |row| {
            Ok(Ancestor { epoch: parsed(row.get_ref(0)?.as_str()?, 0)?, through: position(row.get(1)?) })
        })?;
        Ok(Self(ancestors.collect::<rusqlite::Result<_>>()?))
    }

    /// Translates a cursor of an ancestor to the log `epoch`, where it is in the shared part; else returns it unchanged.
    pub(super) fn translate(&self, cursor: Cursor, epoch: Epoch) -> Cursor {
        let same = |ancestor: &Ancestor| ancestor.epoch == cursor.epoch && cursor.position <= ancestor.through;
        if self.0.iter().any(same) { Cursor::new(epoch, cursor.position) } else { cursor }
    }
}

/// Adds the epoch that the file has, as the copy becomes a log of its own; older ancestors stay.
pub(super) fn add(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(TABLE)?;
    db.execute("INSERT OR IGNORE INTO ancestors(epoch, through) SELECT epoch, last FROM meta", [])?;
    // The copy may be older than the log whose ancestor it has.
    db.execute("UPDATE ancestors SET through = min(through, (SELECT last FROM meta))", [])?;
    db.execute("DELETE FROM ancestors WHERE n <= (SELECT max(n) FROM ancestors) - ?1", [ANCESTORS_MAX]).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_of_what_was_restored_are_good_as_far_as_it_went() {
        let db = Connection::open_in_memory().unwrap();
        db.execute_batch("CREATE TABLE meta(epoch TEXT, last INTEGER)").unwrap();
        let cursor = |text: &str| text.parse::<Cursor>().unwrap();
        db.execute("INSERT INTO meta VALUES ('a', 10)", []).unwrap();
        add(&db).unwrap();
        for (epoch, last) in [("b", 20), ("c", 15)] {
            db.execute("UPDATE meta SET epoch = ?1, last = ?2", rusqlite::params![epoch, last]).unwrap();
            add(&db).unwrap();
        }
        let ancestors = Ancestors::load(&db).unwrap();
        for (presented, means) in [
            ("a-10", "d-10"),
            ("a-11", "a-11"),
            ("b-15", "d-15"),
            ("b-16", "b-16"),
            ("c-15", "d-15"),
            ("c-16", "c-16"),
            ("d-99", "d-99"),
            ("e-1", "e-1"),
        ] {
            assert_eq!(ancestors.translate(cursor(presented), "d".parse().unwrap()), cursor(means), "{presented}");
        }
        for n in 0..100 {
            db.execute("UPDATE meta SET epoch = 'x' || ?1", [n]).unwrap();
            add(&db).unwrap();
        }
        assert_eq!(Ancestors::load(&db).unwrap().0.len() as i64, ANCESTORS_MAX);
    }
}
