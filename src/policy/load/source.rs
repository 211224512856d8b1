//! The texts of the policy files, as the reader of the policies directory hands them to the loader.

use std::borrow::Borrow;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use crate::util::persistent_map::OrderedMap;

/// The contents of the policies directory.
#[derive(Clone, Debug, Default)]
pub struct Tree {
    /// The path of the directory, for messages and to recognise its `presets/` folder.
    pub root: PathBuf,
    /// The `*.toml` files below the directory, those in `presets/` included, by path, which begins with `root`: the
    /// text of each, or the reason why it cannot be read.
    pub files: Texts,
    /// The files that are reached through symlinks out of the directory. Logs, status and API answers do not quote
    /// their contents, as the author of a symlink could otherwise have any file shown there.
    pub private: Arc<BTreeSet<PathBuf>>,
    /// The folders that cannot be read, and why. Files known below them stay in force, as they may still exist.
    pub unreadable: BTreeMap<PathBuf, String>,
    /// The files that differ from the tree that was loaded before; `None` if that is not known. It is `Some` only if
    /// all folders could be read, both in this tree and in the one before.
    pub changed: Option<BTreeSet<PathBuf>>,
    /// The addresses that objects of the API had when they were in force last, by the paths of their files, for the first
    /// load: those of a bad file are held.
    pub held: Arc<BTreeMap<PathBuf, Vec<IpNet>>>,
}

/// The text of a file, or why it cannot be read.
type Text = Result<Arc<str>, String>;

/// The texts of the policy files by path, in the order of the paths' octets; cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Texts(OrderedMap<FilePath, Text>);

impl Texts {
    /// Returns the text of a file.
    #[must_use]
    pub fn get(&self, path: &Path) -> Option<&Text> {
        self.0.get(path.as_os_str())
    }

    /// Returns the stored path and the text of a file.
    #[must_use]
    pub fn get_key_value(&self, path: &Path) -> Option<(&Arc<Path>, &Text)> {
        self.0.get_key_value(path.as_os_str()).map(|(path, text)| (&path.0, text))
    }

    /// Sets the text of a file. An equal text is left in place, so that a comparison of versions finds the same
    /// allocation.
    pub fn insert(&mut self, path: impl Into<Arc<Path>>, text: Text) {
        let path = FilePath(path.into());
        match self.0.get_key_value(&path) {
            Some((_, known)) if *known == text => {}
            known => {
                let path = known.map_or(path, |(path, _)| path.clone());
                self.0.insert(path, text);
            }
        }
    }

    /// Removes a deleted file.
    pub fn remove(&mut self, path: &Path) {
        self.0.remove(path.as_os_str());
    }

    /// Makes the texts equal to `other`, and returns the paths that differed. Equal texts keep their allocation, as in
    /// [`Texts::insert`].
    pub(crate) fn update_to(&mut self, other: &Self) -> BTreeSet<PathBuf> {
        let gone = self.0.iter().filter(|(path, _)| other.get(path).is_none()).map(|(path, _)| path.clone());
        let gone: Vec<FilePath> = gone.collect();
        let new = other.0.iter().filter(|(path, text)| self.get(path) != Some(text));
        let new: Vec<(&FilePath, &Text)> = new.collect();
        for path in &gone {
            self.remove(path);
        }
        for &(path, text) in &new {
            self.insert(Arc::clone(&path.0), text.clone());
        }
        gone.iter().chain(new.into_iter().map(|(path, _)| path)).map(|path| path.to_path_buf()).collect()
    }

    /// Returns whether there are no files.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    /// Returns the files in the order of their paths.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&Arc<Path>, &Text)> {
        self.0.iter().map(|(path, text)| (&path.0, text))
    }
}

impl<P: Into<Arc<Path>>> FromIterator<(P, Text)> for Texts {
    fn from_iter<I: IntoIterator<Item = (P, Text)>>(files: I) -> Self {
        Self(files.into_iter().map(|(path, text)| (FilePath(path.into()), text)).collect())
    }
}

/// The path of a policy file, ordered by its octets. `Path` compares by components, which took most of the time of a
/// reload of 10,000 files (measured).
#[derive(Clone, Debug)]
pub(crate) struct FilePath(pub(crate) Arc<Path>);

impl PartialEq for FilePath {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.as_os_str() == other.0.as_os_str()
    }
}

impl Eq for FilePath {}

impl PartialOrd for FilePath {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for FilePath {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.as_os_str().cmp(other.0.as_os_str())
    }
}

impl Borrow<OsStr> for FilePath {
    fn borrow(&self) -> &OsStr {
        self.0.as_os_str()
    }
}

impl Deref for FilePath {
    type Target = Path;

    fn deref(&self) -> &Path {
        &self.0
    }
}
