//! A model of a disk with a write cache: synced data is durable, and a power loss leaves any part of the unsynced writes.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Path, PathBuf};

use rand::RngExt as _;
use rand::rngs::StdRng;

use super::trace::Action;

/// The sector size: the disk writes a sector atomically.
const SECTOR_BYTES: usize = 512;

/// The fate of unsynced writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unsynced {
    Dropped,
    Kept,
    /// Some writes survive, in any order.
    Reordered,
    /// Some sectors of each write survive (torn writes).
    Torn,
}

impl Unsynced {
    pub(crate) const ALL: [Self; 4] = [Self::Dropped, Self::Kept, Self::Reordered, Self::Torn];
}

/// The files of one server, durable and cached.
#[derive(Default)]
pub(crate) struct Disk {
    files: HashMap<u64, File>,
    directories: HashSet<u64>,
    names: BTreeMap<PathBuf, Name>,
    /// Syncs are acknowledged and not done: the control of the test.
    ignores_syncs: bool,
}

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    /// The unsynced writes, in order.
    pending: Vec<Pending>,
    /// The number of writes that each pending sync covers.
    syncing: Vec<usize>,
}

struct Name {
    file: u64,
    /// Whether the directory was synced since the creation.
    synced: bool,
}

#[derive(Clone)]
enum Pending {
    Write(usize, Vec<u8>),
    Truncate(usize),
}

impl Disk {
    /// An empty disk, which does syncs or only acknowledges them.
    pub(crate) fn new(ignores_syncs: bool) -> Self {
        Self { ignores_syncs, ..Self::default() }
    }

    /// Applies an operation of the server.
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
            // SQLite removes a write-ahead log only once it is checkpointed and synced. Both states are valid; the current one is
            // simpler.
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

    /// Writes to `directory` the files beneath `root` as after a power loss at this moment.
    pub(crate) fn leave(&self, root: &Path, directory: &Path, unsynced: Unsynced, rng: &mut StdRng) {
        for (path, name) in &self.names {
            let Ok(below) = path.strip_prefix(root) else { continue };
            let is_there = name.synced
                || match unsynced {
                    Unsynced::Dropped => false,
                    Unsynced::Kept => true,
                    Unsynced::Reordered | Unsynced::Torn => rng.random(),
                };
            // Rebuilt from the write-ahead log, and written through shared memory, which the trace cannot see.
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
    /// Completes the oldest pending sync: the writes before its start are durable.
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
