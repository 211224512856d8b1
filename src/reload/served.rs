//! The hashes of the texts that a process has in force, by which a successor finds out that it would bring back older
//! ones.
//!
//! A successor that begins with the last good state has some texts from there instead of from disk. The hostgate that it
//! takes over from may serve newer ones that are not on disk any more, as their files are bad by now.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::last_good::key;
use crate::policy::{Library, object_of};
use crate::util::sha256;

/// The policies and configuration that a process has in force, shared with the thread that hands over to a successor.
#[derive(Clone, Debug)]
pub(super) struct InForce {
    /// The policies.
    pub(super) library: Library,
    /// The policies directory.
    pub(super) root: Arc<Path>,
    /// The text of the configuration file; `None` without one.
    pub(super) config: Option<Arc<str>>,
}

/// The hashes of the texts that a process has in force, without those of the API's objects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ServedTexts {
    /// The SHA-256 of the configuration file.
    config: Option<String>,
    /// The SHA-256 of each policy file, by its path below the policies directory.
    files: BTreeMap<String, String>,
    /// The hash of each list file.
    lists: BTreeMap<String, String>,
}

impl ServedTexts {
    /// Returns the hashes of what is in force.
    pub(super) fn of(in_force: &InForce) -> Self {
        let InForce { library, root, config } = in_force;
        let files = library.texts_in_force().filter(|(path, _)| object_of(root, path).is_none());
        let files = files.filter_map(|(path, source)| Some((key(root, path)?, sha256(source.text().as_bytes()))));
        let lists = library.list_paths().filter_map(|path| Some((key(root, path)?, library.list_hash(path)?)));
        Self {
            config: config.as_ref().map(|text| sha256(text.as_bytes())),
            files: files.collect(),
            lists: lists.collect(),
        }
    }

    /// Returns the first file whose text here is another one than `before`, and is not the one on disk.
    pub(super) fn older_than(
        &self,
        before: &Self,
        is_config_on_disk: bool,
        is_on_disk: impl Fn(&Path) -> bool,
    ) -> Option<String> {
        if !is_config_on_disk && self.config != before.config {
            return Some("the configuration".to_owned());
        }
        let differing = |now: &BTreeMap<String, String>, before: &BTreeMap<String, String>| {
            let mut names = now.keys().chain(before.keys());
            names.find(|name| now.get(*name) != before.get(*name) && !is_on_disk(Path::new(name))).cloned()
        };
        differing(&self.files, &before.files).or_else(|| differing(&self.lists, &before.lists))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_that_are_not_those_on_disk_can_be_older() {
        let texts = |config: &str, files: &[(&str, &str)]| ServedTexts {
            config: Some(config.to_owned()),
            files: files.iter().map(|(path, hash)| ((*path).to_owned(), (*hash).to_owned())).collect(),
            lists: BTreeMap::new(),
        };
        let before = texts("c", &[("a.toml", "1"), ("b.toml", "1")]);
        let older = |now: &ServedTexts, is_config_on_disk, held: &str| {
            now.older_than(&before, is_config_on_disk, |path| path != Path::new(held)).unwrap_or_default()
        };
        assert_eq!(older(&before, false, "a.toml"), "");
        let now = texts("d", &[("a.toml", "0"), ("b.toml", "1")]);
        assert_eq!(older(&now, true, "b.toml"), "", "it is on disk");
        assert_eq!(older(&now, true, "a.toml"), "a.toml");
        assert_eq!(older(&now, false, "b.toml"), "the configuration");
        // One that the process before had, and this one does not have at all.
        assert_eq!(older(&texts("c", &[("b.toml", "1")]), true, "a.toml"), "a.toml");
        assert_eq!(older(&texts("c", &[("b.toml", "1")]), true, "b.toml"), "", "it was removed");
    }
}
