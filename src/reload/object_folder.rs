//! The folder of the API's objects: whether what is at its path is still the folder that the objects were read from.
//!
//! A person may delete an object's file, and then the object is gone. A whole folder that is gone, or is another one, was
//! deleted by nobody as a rule: a file system is not mounted, or one is mounted over it, or the target of the link is gone.
//! So files count as deleted in the same folder alone (device and inode), and a folder that is not the same one cannot be
//! read, unless it has all the objects too.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::Stamp;
use crate::policy::{OBJECT_FOLDER, Texts, object_of};

/// The folder of the API's objects as it was last read.
#[derive(Default)]
pub(super) struct ObjectFolder {
    /// Device and inode; `None` if there was no folder.
    id: Option<(u64, u64)>,
    /// The policy files that there were when the folder was last read, while it cannot be read.
    before: Option<Texts>,
}

impl ObjectFolder {
    /// Returns the path of the folder in a policies directory.
    pub(super) fn of(root: &Path) -> PathBuf {
        root.join(OBJECT_FOLDER)
    }

    /// Returns why what is at the path of the folder now is not the folder, and what to do; `files` are the policy files as
    /// they were last read.
    pub(super) fn fault(&self, root: &Path, files: &Texts) -> Option<String> {
        let folder = Self::of(root);
        let files = self.before.as_ref().unwrap_or(files);
        let objects = || files.iter().map(|(path, _)| &**path).filter(|path| object_of(root, path).is_some());
        let target = fs::read_link(&folder).ok();
        match (fs::metadata(&folder), target) {
            (Ok(metadata), _) if metadata.is_dir() => {
                let is_same = self.id.is_none_or(|id| id == Stamp::of(&metadata).id());
                let is_gone = |path: &&Path| fs::symlink_metadata(path).is_err();
                let gone = if is_same { 0 } else { objects().filter(is_gone).count() };
                (gone > 0).then(|| {
                    format!(
                        "it is another folder than before, without {gone} of the objects in force (is its file system not \
                         mounted, or another one mounted over it?): bring the folder back; if they are to go, restart hostgate"
                    )
                })
            }
            (Ok(_), Some(target)) => {
                Some(format!("it is a link to {}, which is no folder: bring that folder back", target.display()))
            }
            (Ok(_), None) => Some("what is in its place is no folder: move that away, and bring the folder back".to_owned()),
            (Err(error), Some(target)) if error.kind() == io::ErrorKind::NotFound => Some(format!(
                "it is a link to {}, which is not there (is its file system mounted?): bring that folder back",
                target.display()
            )),
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound && objects().next().is_some() => Some(
                "it is not there any more, and its objects are in force: bring it back; if they are to go, restart hostgate"
                    .to_owned(),
            ),
            // What else is wrong is found when it is read.
            (Err(_), _) => None,
        }
    }

    /// Returns whether the folder at the path is the very one that was last read.
    pub(super) fn is_same(&self, root: &Path) -> bool {
        self.id == id_of(root)
    }

    /// Notes that the folder was read, or made.
    pub(super) fn note_read(&mut self, root: &Path) {
        (self.id, self.before) = (id_of(root), None);
    }

    /// Notes that the folder cannot be read; `files` are the policy files as they were last read.
    pub(super) fn note_unreadable(&mut self, files: &Texts) {
        self.before.get_or_insert_with(|| files.clone());
    }
}

/// Returns device and inode of the folder, if there is one.
fn id_of(root: &Path) -> Option<(u64, u64)> {
    Stamp::at(&ObjectFolder::of(root)).map(Stamp::id)
}
