//! Which logs this one goes on from: those that it was restored from, by their epochs.
//!
//! A restored backup gets an epoch of its own, since what was published after the backup was made is lost and its positions are used
//! again. Up to the backup's end the two logs are the same, though, so a cursor up to there means the same place in both, and what lies
//! after it is delivered rather than called a gap.

use rusqlite::Connection;

use super::column::{parsed, position};
use crate::cursor::{Cursor, Epoch, Position};

/// How many are known at most: one is added with each restore. A cursor of an older one is one of another log.
const ANCESTORS_MAX: i64 = 64;

pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS ancestors(n INTEGER PRIMARY KEY, epoch TEXT NOT NULL UNIQUE, through INTEGER NOT NULL);";

/// The logs that a log goes on from.
#[derive(Debug, Default)]
pub(super) struct Ancestors(Vec<Ancestor>);

#[derive(Debug)]
struct Ancestor {
    epoch: Epoch,
    /// Up to here it is the same log.
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

    /// The same place in the log `epoch`, where there is one; else the cursor as it is.
    pub(super) fn translate(&self, cursor: Cursor, epoch: Epoch) -> Cursor {
        let same = |ancestor: &Ancestor| ancestor.epoch == cursor.epoch && cursor.position <= ancestor.through;
        if self.0.iter().any(same) { Cursor::new(epoch, cursor.position) } else { cursor }
    }
}

/// Makes ancestors of the log that lies there and of those before it, as its copy becomes a log of its own.
pub(super) fn add(db: &Connection) -> rusqlite::Result<()> {
    db.execute_batch(TABLE)?;
    db.execute("INSERT OR IGNORE INTO ancestors(epoch, through) SELECT epoch, last FROM meta", [])?;
    // A copy may be older than the log of which it has an ancestor's name.
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
