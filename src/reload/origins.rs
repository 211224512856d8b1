//! The directories that the policy files in force were read from, and whether another one without any is in their place.
//!
//! A person who deletes policy files deletes them in their directory, or deletes the directory, and then they are removed.
//! A directory at the same path that is another one (device and inode) and has no policy file was as a rule not made to
//! delete them: its file system is not mounted, an empty one is mounted over it, or a link leads to an empty directory.
//! Such a directory counts as unreadable, so that its files stay in force. Another directory with at least one policy
//! file replaces the one before as a whole, as deployments do: files that it does not have are removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::FileVersion;
use crate::policy::{Texts, object_of};

/// The directories that the policy files in force were read from.
#[derive(Default)]
pub(super) struct Origins {
    /// The device and inode of each directory, by its path.
    ids: BTreeMap<PathBuf, (u64, u64)>,
    /// The files in force below folders that cannot be read, which the tree does not have.
    hidden: Vec<Arc<Path>>,
}

impl Origins {
    /// Returns whether the directory at `path` is not the one that its files were read from; `false` if nothing is there.
    pub(super) fn is_other(&self, path: &Path) -> bool {
        FileVersion::at(path).is_some_and(|version| self.ids.get(path) != Some(&version.id()))
    }

    /// Returns whether files were read from a directory at `path`.
    pub(super) fn has(&self, path: &Path) -> bool {
        self.ids.contains_key(path)
    }

    /// Returns the paths of all policy files that were read and not deleted since. `files` are those that can be read.
    pub(super) fn known<'a>(&'a self, files: &'a Texts) -> impl Iterator<Item = &'a Path> {
        files.iter().map(|(path, _)| &**path).chain(self.hidden.iter().map(|path| &**path))
    }

    /// Returns why another directory at `path`, without any policy file, cannot be read; `None` if the one before had none
    /// either. Objects of the API do not count, as their folder has a rule of its own.
    pub(super) fn fault(&self, (root, path): (&Path, &Path), files: &Texts) -> Option<String> {
        if !self.has(path) && self.hidden.is_empty() {
            return None;
        }
        let is_lost = |file: &&Path| file.starts_with(path) && object_of(root, file).is_none();
        let lost = self.known(files).filter(is_lost).count();
        (lost > 0).then(|| {
            let files = if lost == 1 { "the policy file".to_owned() } else { format!("the {lost} policy files") };
            let help = if path == root { "" } else { "; if they are to go, remove the directory" };
            format!(
                "it is another directory than before, without {files} in force and without any other (is its file system not \
                 mounted, or another one mounted over it?): bring the directory back, or put policy files into this one{help}"
            )
        })
    }

    /// Records the result of a walk: the device and inode of each directory that was read, by its path, and the folders
    /// that cannot be read. `before` are the files that could be read before.
    pub(super) fn update(
        &mut self,
        before: &Texts,
        read: impl Iterator<Item = (PathBuf, (u64, u64))>,
        unreadable: &BTreeMap<PathBuf, String>,
    ) {
        let is_hidden = |path: &Path| unreadable.keys().any(|folder| path.starts_with(folder));
        let mut hidden: Vec<Arc<Path>> = Vec::new();
        if !unreadable.is_empty() {
            hidden.extend(before.iter().map(|(path, _)| path).filter(|path| is_hidden(path)).cloned());
            hidden.extend(self.hidden.drain(..).filter(|path| is_hidden(path)));
        }
        self.hidden = hidden;
        self.ids.retain(|path, _| is_hidden(path));
        self.ids.extend(read.filter(|(path, _)| !is_hidden(path)));
    }

    /// Records that the files in force are those of the last good state, which were in another directory than the one at
    /// `root`.
    pub(super) fn note_kept(&mut self, root: &Path, kept: &Texts) {
        self.ids.remove(root);
        self.hidden = kept.iter().map(|(path, _)| Arc::clone(path)).collect();
    }
}
