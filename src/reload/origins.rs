//! The directories that the policy files in force were read from, and whether another one without any is in their place.
//!
//! A person who deletes policy files deletes them in their directory, or deletes the directory, and then they are removed.
//! A directory at the same path that is another one (device and inode) and has no policy file was as a rule not made to
//! delete them: its file system is not mounted, an empty one is mounted over it, or a link leads to an empty directory.
//! Below the policies directory, only another file system or mount counts, as `git checkout` deletes and makes directories.
//! Such a directory counts as unreadable, so that its files stay in force. Another directory with at least one policy
//! file replaces the one before as a whole, as deployments do: files that it does not have are removed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::FileVersion;
use crate::policy::{Texts, object_of};
use crate::util::mount;

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

    /// Returns whether a directory at `path` may hide the one that its files were read from. Below the policies directory,
    /// `root`, one that was made anew on the same file system hides nothing: the one before was deleted.
    pub(super) fn may_hide(&self, root: &Path, path: &Path) -> bool {
        let is_on_other_device = || {
            let version = FileVersion::at(path);
            version.is_some_and(|version| self.ids.get(path).is_none_or(|(device, _)| *device != version.id().0))
        };
        self.is_other(path) && (path == root || is_on_other_device() || is_mount_point(path))
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

/// Returns whether something is mounted at a path, or where the symlink there leads.
fn is_mount_point(path: &Path) -> bool {
    let mount = |path: &Path| mount::look(path).ok().map(|(mount, _)| mount);
    let Ok(real) = path.canonicalize() else { return false };
    let (own, above) = (mount(&real), real.parent().and_then(mount));
    own.is_some() && above.is_some() && own != above
}

/// Returns whether there may be a policy file in or below a directory. At most `left` entries are looked at.
pub(super) fn may_have_policy_file(directory: &Path, left: &mut usize) -> bool {
    let Ok(entries) = directory.read_dir() else { return false };
    for entry in entries.flatten() {
        if *left == 0 {
            return false;
        }
        *left -= 1;
        let path = entry.path();
        let is_hidden = entry.file_name().as_encoded_bytes().starts_with(b".");
        let is_toml = path.extension().is_some_and(|extension| extension == "toml");
        if !is_hidden && (is_toml || path.is_dir() && may_have_policy_file(&path, left)) {
            return true;
        }
    }
    false
}
