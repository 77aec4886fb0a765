//! The trace of the server's file operations: parses the records that `record.c` writes.

use std::path::PathBuf;

/// One file operation, and the length of the trace after it.
#[derive(Debug)]
pub(crate) struct Record {
    /// The trace's length including this record, in bytes, which serves as its time.
    pub(crate) at: u64,
    pub(crate) action: Action,
}

/// Files are identified by inode.
#[derive(Debug)]
pub(crate) enum Action {
    /// A file has a name, new or existing.
    Name {
        file: u64,
        path: PathBuf,
        directory: bool,
    },
    Write {
        file: u64,
        offset: u64,
        bytes: Vec<u8>,
    },
    Truncate {
        file: u64,
        length: u64,
    },
    SyncBegin {
        file: u64,
    },
    SyncEnd {
        file: u64,
    },
    Unlink {
        path: PathBuf,
    },
    Rename {
        from: PathBuf,
        to: PathBuf,
    },
}

/// The records of a trace, in their order.
pub(crate) fn parse(trace: &[u8]) -> Vec<Record> {
    const HEADER_BYTES: usize = 32;
    let mut records = Vec::new();
    let mut at = 0;
    while at < trace.len() {
        let number = |index: usize| {
            let bytes = trace[at + 8 * index..][..8].try_into().expect("eight bytes");
            u64::from_ne_bytes(bytes)
        };
        let (kind, file, offset, length) = (number(0), number(1), number(2), number(3) as usize);
        let payload = &trace[at + HEADER_BYTES..][..length];
        let path = || PathBuf::from(String::from_utf8_lossy(payload).into_owned());
        let action = match kind {
            1 => Action::Name { file, path: path(), directory: offset == 1 },
            2 => Action::Write { file, offset, bytes: payload.to_vec() },
            3 => Action::Truncate { file, length: offset },
            4 => Action::SyncBegin { file },
            5 => Action::SyncEnd { file },
            6 => Action::Unlink { path: path() },
            7 => {
                let both = String::from_utf8_lossy(payload).into_owned();
                let (from, to) = both.split_once('\n').expect("two paths");
                Action::Rename { from: from.into(), to: to.into() }
            }
            other => panic!("no record is of kind {other}"),
        };
        at += HEADER_BYTES + length;
        records.push(Record { at: at as u64, action });
    }
    records
}
