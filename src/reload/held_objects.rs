//! The objects of the API that were in force at the last run and whose files are gone at the start.
//!
//! While hostgate runs, a person may delete an object's file, and then the object is deleted. At a start nobody knows
//! why a file is gone, so it counts as one that cannot be read: its addresses are held, until it is back or the API
//! deletes it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::object_folder::ObjectFolder;
use crate::document::Diagnostic;
use crate::policy::{Texts, Tree, object_of, object_path};

/// The objects whose files are gone since the last run.
#[derive(Default)]
pub(super) struct HeldObjects {
    /// The path of each file that is gone and whose addresses are held, with the reason that is reported.
    gone: BTreeMap<PathBuf, String>,
    /// The number of objects at the last run, if the folder has none of them.
    lost: Option<usize>,
}

impl HeldObjects {
    /// Returns whether the file at a path is gone since the last run.
    pub(super) fn is_gone(&self, path: &Path) -> bool {
        self.gone.contains_key(path)
    }

    /// Records that a file is there again, or was deleted over the API.
    pub(super) fn forget(&mut self, path: &Path) {
        self.gone.remove(path);
    }

    /// Compares a tree that was read of `root` with the objects of the last run and their addresses, and holds those
    /// addresses whose files are bad or gone.
    pub(super) fn hold(&mut self, tree: &mut Tree, root: &Path, objects: &BTreeMap<String, Vec<IpNet>>) {
        root.clone_into(&mut tree.root);
        let has_objects = tree.files.iter().any(|(path, _)| object_of(root, path).is_some());
        let is_unreadable = tree.unreadable.contains_key(&ObjectFolder::of(root));
        self.lost = (!objects.is_empty() && !has_objects && !is_unreadable).then_some(objects.len());
        let addressed = objects.iter().filter(|(_, addresses)| !addresses.is_empty());
        let held: BTreeMap<PathBuf, Vec<IpNet>> =
            addressed.map(|(id, addresses)| (object_path(root, id), addresses.clone())).collect();
        for (path, addresses) in held.iter().filter(|(path, _)| tree.files.get(path).is_none()) {
            let shown: Vec<String> = addresses.iter().take(MOST_SHOWN).map(shown_as).collect();
            let why = format!("it is gone since the last run, and queries from {} are denied", shown.join(", "));
            self.gone.insert(path.clone(), why);
        }
        self.add_to(&mut tree.files);
        tree.held = held.into();
    }

    /// Returns the folder of the API's objects and the error that it has none of the objects of the last run, if so.
    pub(super) fn lost_objects(&self, tree: &Tree) -> Option<(PathBuf, Diagnostic)> {
        let root = &tree.root;
        let count = self.lost?;
        let mut objects = tree.files.iter().filter(|(path, _)| object_of(root, path).is_some());
        if objects.any(|(path, _)| !self.is_gone(path)) {
            return None;
        }
        let folder = ObjectFolder::of(root);
        let message = format!("none of the {count} objects of the API that were in force at the last run is there");
        let help = "bring the folder back (is its file system mounted?); queries from their addresses are denied until then, \
                    or until the devboxes are shut down over the API";
        let error = Diagnostic::about_file(&folder, message).help(help);
        Some((folder, error))
    }

    /// Forgets that the folder had no objects, once it has some.
    pub(super) fn note_objects(&mut self, tree: &Tree) {
        if self.lost_objects(tree).is_none() {
            self.lost = None;
        }
    }

    /// Adds the files that are gone to those that were read, as unreadable ones; those that are back are forgotten.
    pub(super) fn add_to(&mut self, files: &mut Texts) {
        self.gone.retain(|path, _| files.get(path).is_none());
        for (path, why) in &self.gone {
            files.insert(path.as_path(), Err(why.clone()));
        }
    }
}

/// Returns an address, or a prefix of several addresses, as text.
fn shown_as(prefix: &IpNet) -> String {
    if prefix.prefix_len() == prefix.max_prefix_len() { prefix.addr().to_string() } else { prefix.to_string() }
}

/// The most addresses of an object in the report that it is gone.
const MOST_SHOWN: usize = 4;
