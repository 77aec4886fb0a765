//! Values as the columns of all tables keep them.

use crate::cursor::Position;

/// A number as SQLite keeps it: signed. Beyond that there is nothing, so it is the end.
pub(super) fn integer(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// A number as SQLite kept it.
pub(super) fn position(number: i64) -> Position {
    Position(u64::try_from(number).unwrap_or(0))
}

/// What was checked before it was stored; if it does not pass again, the file is damaged.
pub(super) fn parsed<T: std::str::FromStr>(text: &str, column: usize) -> rusqlite::Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    text.parse().map_err(|error: T::Err| {
        rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Text, Box::new(error))
    })
}
