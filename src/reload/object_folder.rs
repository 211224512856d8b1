//! The folder of the API's objects, and whether its path still leads to the folder that the objects were read from.
//!
//! A person may delete an object's file, and then the object is deleted. A whole folder that is missing, or is another
//! one, was as a rule not deleted: its file system is not mounted, another one is mounted over it, or the target of a
//! symlink is missing. So a missing file counts as deleted only in the same folder (device and inode). Another folder
//! counts as unreadable, unless it has all the objects.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::files::FileVersion;
use crate::policy::{OBJECT_FOLDER, object_of};

/// The folder of the API's objects as it was last read.
#[derive(Default)]
pub(super) struct ObjectFolder {
    /// The device and inode; `None` if the folder did not exist.
    id: Option<(u64, u64)>,
}

impl ObjectFolder {
    /// Returns the path of the folder in a policies directory.
    pub(super) fn of(root: &Path) -> PathBuf {
        root.join(OBJECT_FOLDER)
    }

    /// Returns why the path does not lead to the folder that was read, and how to fix it; `None` if it does. `files`
    /// are the paths of the policy files in force, those of the folder included while it cannot be read.
    pub(super) fn fault<'a>(&self, root: &Path, files: impl Iterator<Item = &'a Path>) -> Option<String> {
        let folder = Self::of(root);
        let mut objects = files.filter(|path| object_of(root, path).is_some());
        let target = fs::read_link(&folder).ok();
        match (fs::metadata(&folder), target) {
            (Ok(metadata), _) if metadata.is_dir() => {
                let is_same = self.id.is_none_or(|id| id == FileVersion::of(&metadata).id());
                let is_gone = |path: &&Path| fs::symlink_metadata(path).is_err();
                let gone = if is_same { 0 } else { objects.filter(is_gone).count() };
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
            (Err(error), None) if error.kind() == io::ErrorKind::NotFound && objects.next().is_some() => Some(
                "it is not there any more, and its objects are in force: bring it back; if they are to go, restart hostgate"
                    .to_owned(),
            ),
            // Other errors are reported when the folder is read.
            (Err(_), _) => None,
        }
    }

    /// Returns whether the folder at the path is the one that was last read (device and inode).
    pub(super) fn is_same(&self, root: &Path) -> bool {
        self.id == id_of(root)
    }

    /// Records that the folder was read or created.
    pub(super) fn note_read(&mut self, root: &Path) {
        self.id = id_of(root);
    }
}

/// Returns the device and inode of the folder; `None` if it does not exist.
fn id_of(root: &Path) -> Option<(u64, u64)> {
    FileVersion::at(&ObjectFolder::of(root)).map(FileVersion::id)
}
