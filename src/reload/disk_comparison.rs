//! The periodic comparison of files with what was read, for changes without an event.
//!
//! Some file systems have no events, a mount changes what is at a path without one, and the kernel limits the number of
//! watches. So a cycle compares device, inode, size and times of each file and directory, in parts, so that the thread
//! stays free for reloads and API changes.
//!
//! If the times of a directory changed, its entries are compared by name, and the directory counts as different only if
//! one is unknown: each file that the API writes changes the times of its directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::files::{FileVersion, Files};
use super::scan::Directory;
use crate::bounds::MAX_COMPARED_AT_ONCE;

/// The interval between the beginnings of two cycles.
const CYCLE: Duration = Duration::from_millis(1500);
/// The pause between two parts of a cycle, and before a file that differs is compared again: its event may be on the
/// way, or its writer not done.
const PART: Duration = Duration::from_millis(250);
/// The number of parts of a cycle, unless that makes a part larger than [`MAX_COMPARED_AT_ONCE`].
const PARTS: usize = 5;
/// The smallest number of files in a part.
const FEWEST: usize = 512;
/// The number of further changes of a file that differs before it is read although it keeps changing.
const MAX_CHANGES: u32 = 2;

/// The comparison of files and directories with what was read, in cycles.
pub(super) struct DiskComparison {
    /// The items left in this cycle; the next one is at the end.
    left: Vec<Item>,
    /// The number of items in a part.
    part: usize,
    /// The beginning of the cycle.
    began: Instant,
    /// The time of the next part.
    due: Instant,
    /// The item that was found to differ, until it is compared again.
    suspect: Option<Suspect>,
}

/// A path to compare, with the table that has its state.
#[derive(Clone)]
enum Item {
    Policies(Arc<Path>),
    /// A directory of the tree, or a dangling symlink.
    Directory(PathBuf),
    /// A list file, or a file that the configuration names.
    Named(PathBuf),
}

/// An item that differs and may still be changing.
struct Suspect {
    item: Item,
    /// The version when it was last compared.
    version: Option<FileVersion>,
    /// The number of versions found since.
    changes: u32,
}

/// The outcome of comparing a part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Compared {
    /// No difference so far, in a cycle that is not over.
    Same,
    /// The end of a cycle without a difference.
    Cycle,
    /// A file or directory that is not as it was read.
    Differs,
}

impl DiskComparison {
    /// Plans the first cycle, one interval from now.
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self { left: Vec::new(), part: FEWEST, began: now, due: now + CYCLE, suspect: None }
    }

    /// Returns the time of the next part.
    pub(super) fn due(&self) -> Instant {
        self.due
    }

    /// Compares the next part, if it is due.
    ///
    /// Without events (`is_polling`), a file that was racy when it was read counts as different once, as a change
    /// within the same clock tick leaves the same version.
    pub(super) fn compare(&mut self, directory: &mut Directory, files: &Files, is_polling: bool) -> Compared {
        let now = Instant::now();
        if now < self.due {
            return Compared::Same;
        }
        if let Some(suspect) = self.suspect.take()
            && differs(&suspect.item, directory, files, is_polling)
        {
            let version = FileVersion::at(suspect.item.path());
            if version == suspect.version || suspect.changes >= MAX_CHANGES {
                self.due = now + PART;
                return Compared::Differs;
            }
            self.suspect = Some(Suspect { version, changes: suspect.changes + 1, ..suspect });
        }
        if self.left.is_empty() {
            self.began = now;
            self.left = directory.compared().map(Item::Policies).collect();
            self.left.extend(files.observed().map(|(path, _)| Item::Named(path.to_owned())));
            self.left.extend(directory.folder_states().map(Item::Directory));
            self.part = self.left.len().div_ceil(PARTS).clamp(FEWEST, MAX_COMPARED_AT_ONCE);
        }
        let rest = self.left.len().saturating_sub(self.part);
        // One suspect at a time is enough, as the reload that follows reads everything that differs.
        for item in self.left.drain(rest..).rev() {
            if self.suspect.is_none() && differs(&item, directory, files, is_polling) {
                let version = FileVersion::at(item.path());
                self.suspect = Some(Suspect { item, version, changes: 0 });
            }
        }
        let is_over = self.left.is_empty() && self.suspect.is_none();
        self.due = if is_over { (self.began + CYCLE).max(now + PART) } else { now + PART };
        if is_over { Compared::Cycle } else { Compared::Same }
    }
}

impl Item {
    fn path(&self) -> &Path {
        match self {
            Self::Policies(path) => path,
            Self::Directory(path) | Self::Named(path) => path,
        }
    }
}

/// Returns whether an item is not as it was when it was read.
fn differs(item: &Item, directory: &mut Directory, files: &Files, is_polling: bool) -> bool {
    let observed = match item {
        Item::Directory(path) => return directory.directory_differs(path),
        Item::Policies(path) => directory.observed_at(path),
        Item::Named(path) => files.observed_at(path),
    };
    let path = item.path();
    observed.is_some_and(|observed| observed.differs(path) || is_polling && observed.is_unsure(path))
}

impl Directory {
    /// Returns whether a directory was replaced, or has an entry that was not read; an entry that is gone is found by
    /// its own comparison.
    fn directory_differs(&mut self, path: &Path) -> bool {
        let Some(directory_state) = self.directory_state(path) else { return false };
        let version = FileVersion::at(path);
        if !directory_state.is_changed(version) {
            return false;
        }
        let is_same = version.is_some_and(|version| directory_state.is_of(version))
            && matches!(self.has_unknown(path), Ok(false));
        if is_same {
            self.note_directory(path, version);
        }
        !is_same
    }

    /// Returns whether a directory has an entry that a walk would read and has not read.
    fn has_unknown(&self, path: &Path) -> std::io::Result<bool> {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let (path, kind) = (entry.path(), entry.file_type()?);
            // As in a walk: a `*.toml` is a policy file; directories, and symlinks to some, are read; other files are
            // not.
            let is_known = if path.extension().is_some_and(|extension| extension == "toml") {
                self.tree.files.get(&path).is_some()
            } else {
                !(kind.is_dir() || kind.is_symlink()) || self.directory_state(&path).is_some()
            };
            if !is_known {
                return Ok(true);
            }
        }
        Ok(false)
    }
}
