//! A disk with a cache: what was synced is on it, and of what was written since, a power loss leaves what it likes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::trace::Action;

/// What a disk writes as a whole: less than this is never torn.
const SECTOR_BYTES: usize = 512;

/// What becomes of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Dropped,
    Kept,
    /// Some writes are there and some are not, whatever their order was.
    Reordered,
    /// So are the sectors of each.
    Torn,
}

impl Unsynced {
    pub(crate) const ALL: [Self; 4] = [Self::Dropped, Self::Kept, Self::Reordered, Self::Torn];
}

/// The files of one server, as a power loss would find them.
#[derive(Default)]
pub(crate) struct Disk {
    files: HashMap<u64, File>,
    directories: HashSet<u64>,
    names: BTreeMap<PathBuf, Name>,
    /// Syncs are answered and not done: what a harness that sees nothing would be.
    ignores_syncs: bool,
}

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    /// In the order of writing.
    pending: Vec<Pending>,
    /// How much of it each sync that is under way covers.
    syncing: Vec<usize>,
}

struct Name {
    file: u64,
    /// Whether the directory was synced since.
    synced: bool,
}

#[derive(Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl Disk {
    /// An empty disk, one that does what it is asked, or one that only says so.
    pub(crate) fn new(ignores_syncs: bool) -> Self {
        Self { ignores_syncs, ..Self::default() }
    }

    /// Does what the server did.
    pub(crate) fn apply(&mut self, action: &Action) {
        match action {
            Action::Name { file, directory: true, .. } => {
                self.directories.insert(*file);
            }
            Action::Name { file, path, .. } => {
                let known = self.names.get(path).is_some_and(|name| name.file == *file);
                if !known {
                    self.names.insert(path.clone(), Name { file: *file, synced: false });
                }
            }
            Action::Write { file, offset, bytes } => {
                self.file(*file).pending.push(Pending::Write(*offset as usize, bytes.clone()));
            }
            Action::Truncate { file, length } => self.file(*file).pending.push(Pending::Truncate(*length as usize)),
            Action::SyncBegin { .. } | Action::SyncEnd { .. } if self.ignores_syncs => {}
            Action::SyncBegin { file } => {
                let file = self.file(*file);
                file.syncing.push(file.pending.len());
            }
            Action::SyncEnd { file } if self.directories.contains(file) => {
                self.names.values_mut().for_each(|name| name.synced = true);
            }
            Action::SyncEnd { file } => self.file(*file).sync(),
            // SQLite removes a write-ahead log only when it is in the database, synced. Either is right; the present is simpler.
            Action::Unlink { path } => {
                self.names.remove(path);
            }
            Action::Rename { from, to } => {
                if let Some(name) = self.names.remove(from) {
                    self.names.insert(to.clone(), Name { synced: false, ..name });
                }
            }
        }
    }

    fn file(&mut self, file: u64) -> &mut File {
        self.files.entry(file).or_default()
    }

    /// Leaves in `directory` what a power loss at this moment would, of the files beneath `root`.
    pub(crate) fn leave(&self, root: &Path, directory: &Path, unsynced: Unsynced, rng: &mut StdRng) {
        for (path, name) in &self.names {
            let Ok(below) = path.strip_prefix(root) else { continue };
            let is_there = name.synced
                || match unsynced {
                    Unsynced::Dropped => false,
                    Unsynced::Kept => true,
                    Unsynced::Reordered | Unsynced::Torn => rng.random(),
                };
            // Made anew from the write-ahead log, and written through memory, which nothing sees.
            let is_index = below.to_string_lossy().ends_with("-shm");
            if let Some(file) = self.files.get(&name.file)
                && is_there
                && !is_index
            {
                std::fs::write(directory.join(below), file.left(unsynced, rng)).expect("the image is written");
            }
        }
    }
}

impl File {
    /// What was there when the oldest sync under way began is on the disk.
    fn sync(&mut self) {
        if self.syncing.is_empty() {
            return;
        }
        let covered = self.syncing.remove(0);
        for pending in self.pending.drain(..covered) {
            pending.apply(&mut self.synced);
        }
        self.syncing.iter_mut().for_each(|count| *count = count.saturating_sub(covered));
    }

    fn left(&self, unsynced: Unsynced, rng: &mut StdRng) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for pending in &self.pending {
            match (unsynced, pending) {
                (Unsynced::Dropped, _) => {}
                (Unsynced::Torn, Pending::Write(offset, written)) => {
                    let mut at = *offset;
                    for sector in written.chunks(SECTOR_BYTES) {
                        if rng.random() {
                            Pending::Write(at, sector.to_vec()).apply(&mut bytes);
                        }
                        at += sector.len();
                    }
                }
                (Unsynced::Kept, _) => pending.apply(&mut bytes),
                (Unsynced::Reordered | Unsynced::Torn, _) => {
                    if rng.random() {
                        pending.apply(&mut bytes);
                    }
                }
            }
        }
        bytes
    }
}

impl Pending {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, written) => {
                let end = offset + written.len();
                if bytes.len() < end {
                    bytes.resize(end, 0);
                }
                bytes[*offset..end].copy_from_slice(written);
            }
            Self::Truncate(length) => bytes.resize(*length, 0),
        }
    }
}
