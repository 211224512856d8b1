//! Comparing what is followed with what was read, whatever events tell: a file system may have none, a mount changes what is
//! at a path without one, and the kernel may have no room for a watch.
//!
//! A cycle compares device, inode, size and times of each file and directory, a part of them at a time. Of a directory whose
//! times changed the entries are read, as every change of a file by the API changes them.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::files::{Files, Stamp};
use super::scan::Directory;
use crate::bounds::MAX_COMPARED_AT_ONCE;

/// The shortest time of a cycle.
const CYCLE: Duration = Duration::from_millis(1500);
/// The time between two parts of a cycle, and before a file that differs is looked at again: the event that tells of it may
/// be on its way, or its writer is not done.
const PART: Duration = Duration::from_millis(250);
/// The parts of a cycle, if it has not too many files for that.
const PARTS: usize = 5;
/// The fewest files of a part.
const FEWEST: usize = 512;
/// How often a file that differs may change on before it is read all the same.
const PATIENCE: u32 = 2;

/// A comparison under way.
pub(super) struct Sweep {
    /// What is still to be compared in this cycle, the next one last.
    left: Vec<Item>,
    /// How many of them are compared at a time.
    part: usize,
    /// When the cycle began.
    began: Instant,
    /// When to go on.
    due: Instant,
    /// What was found to differ a moment ago.
    suspect: Option<Suspect>,
}

/// What is compared.
#[derive(Clone)]
enum Item {
    /// A policy file.
    Policies(Arc<Path>),
    /// A directory, or a link that leads nowhere.
    Place(PathBuf),
    /// A list file, or one that the configuration names.
    Named(PathBuf),
}

/// Something that differs.
struct Suspect {
    /// What.
    item: Item,
    /// The state it is in now.
    stamp: Option<Stamp>,
    /// How often it was found in another state since.
    changes: u32,
}

/// What came of a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// Nothing differs, as far as was compared.
    Same,
    /// A cycle ended, and nothing differed.
    Cycle,
    /// Something on disk is not what was read.
    Differs,
}

impl Sweep {
    /// Begins with a cycle that is due after its time.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { left: Vec::new(), part: FEWEST, began: now, due: now + CYCLE, suspect: None }
    }

    /// Returns when to go on.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Compares the next part. Where no event tells (`is_polling`), a file that was read right after it had changed is read
    /// once more, as it may have changed again within the same clock tick.
    pub(super) fn compare(&mut self, directory: &mut Directory, files: &Files, is_polling: bool) -> Compared {
        let now = Instant::now();
        if now < self.due {
            return Compared::Same;
        }
        if let Some(suspect) = self.suspect.take()
            && differs(&suspect.item, directory, files, is_polling)
        {
            let stamp = Stamp::at(suspect.item.path());
            if stamp == suspect.stamp || suspect.changes >= PATIENCE {
                self.due = now + PART;
                return Compared::Differs;
            }
            self.suspect = Some(Suspect { stamp, changes: suspect.changes + 1, ..suspect });
        }
        if self.left.is_empty() {
            self.began = now;
            self.left = directory.compared().map(Item::Policies).collect();
            self.left.extend(files.observed().map(|(path, _)| Item::Named(path.to_owned())));
            self.left.extend(directory.places().map(Item::Place));
            self.part = self.left.len().div_ceil(PARTS).clamp(FEWEST, MAX_COMPARED_AT_ONCE);
        }
        let rest = self.left.len().saturating_sub(self.part);
        for item in self.left.drain(rest..).rev() {
            if self.suspect.is_none() && differs(&item, directory, files, is_polling) {
                let stamp = Stamp::at(item.path());
                self.suspect = Some(Suspect { item, stamp, changes: 0 });
            }
        }
        let is_over = self.left.is_empty() && self.suspect.is_none();
        self.due = if is_over { (self.began + CYCLE).max(now + PART) } else { now + PART };
        if is_over { Compared::Cycle } else { Compared::Same }
    }
}

impl Item {
    /// Returns the path.
    fn path(&self) -> &Path {
        match self {
            Self::Policies(path) => path,
            Self::Place(path) | Self::Named(path) => path,
        }
    }
}

/// Returns whether something is not as it was when it was last read.
fn differs(item: &Item, directory: &mut Directory, files: &Files, is_polling: bool) -> bool {
    let observed = match item {
        Item::Place(path) => return directory.place_differs(path),
        Item::Policies(path) => directory.observed_at(path),
        Item::Named(path) => files.observed_at(path),
    };
    let path = item.path();
    observed.is_some_and(|observed| observed.differs(path) || is_polling && observed.is_unsure(path))
}

impl Directory {
    /// Returns whether a directory of the tree is another one than was read, or has entries that are not known. What is known
    /// and gone is found by its own comparison.
    fn place_differs(&mut self, path: &Path) -> bool {
        let Some(place) = self.place(path) else { return false };
        let stamp = Stamp::at(path);
        if !place.is_changed(stamp) {
            return false;
        }
        let is_same = stamp.is_some_and(|stamp| place.is_of(stamp)) && matches!(self.has_unknown(path), Ok(false));
        if is_same {
            self.note_place(path, stamp);
        }
        !is_same
    }

    /// Returns whether a directory has an entry that would be read and is not known.
    fn has_unknown(&self, path: &Path) -> std::io::Result<bool> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let (path, kind) = (entry.path(), entry.file_type()?);
            let is_known = if path.extension().is_some_and(|extension| extension == "toml") {
                self.tree.files.get(&path).is_some()
            } else {
                !(kind.is_dir() || kind.is_symlink()) || self.place(&path).is_some()
            };
            if !is_known {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
