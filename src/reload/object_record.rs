//! The record of the API's objects on disk, from which a start knows the addresses of an object whose file is bad or gone.
//!
//! The record is not part of the last good state: it is kept whether or not a start may begin with that state, and written
//! before the API answers, at the cost of one small write. Each object is a symbolic link, named by its id, whose target is the
//! object's addresses: such a link is made and replaced as a whole, and its content lies in another place than that of
//! the object's file.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, symlink};
use std::path::{Path, PathBuf};

use ipnet::IpNet;

use super::atomic_write;
use super::ownership::distrust;
use crate::document::Diagnostic;
use crate::policy::{Library, OBJECT_PREFIXES};

/// The record of one configuration's objects.
#[derive(Debug)]
pub(crate) struct ObjectRecord {
    /// The directory of the links.
    directory: PathBuf,
    /// The addresses of each object, by its id.
    objects: BTreeMap<String, Vec<IpNet>>,
    /// The reason why the record is not used, or cannot be written.
    fault: Option<String>,
}

impl ObjectRecord {
    /// Reads the record in a directory. One that others may write is not used, which is its fault; see
    /// [`super::ownership`] for `owner`.
    pub(super) fn read(directory: PathBuf, owner: Option<u32>) -> Self {
        let mut record = Self { directory, objects: BTreeMap::new(), fault: None };
        let above = record.directory.parent().and_then(|above| distrust(above, None, owner));
        record.fault = above.or_else(|| distrust(&record.directory, None, owner));
        if record.fault.is_some() {
            return record;
        }
        let entries = match fs::read_dir(&record.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return record,
            Err(error) => {
                record.fault = Some(format!("{}: {error}", record.directory.display()));
                return record;
            }
        };
        for entry in entries.flatten() {
            let (Ok(id), Ok(target)) = (entry.file_name().into_string(), fs::read_link(entry.path())) else { continue };
            if OBJECT_PREFIXES.iter().any(|prefix| id.starts_with(prefix)) {
                let addresses = target.to_str().unwrap_or_default().split(',').filter_map(|text| text.parse().ok());
                record.objects.insert(id, addresses.collect());
            }
        }
        record
    }

    /// Returns the objects with their addresses.
    pub(super) fn objects(&self) -> &BTreeMap<String, Vec<IpNet>> {
        &self.objects
    }

    /// Returns the directory, and why the record is not used or cannot be written.
    pub(crate) fn fault(&self) -> Option<(&Path, &str)> {
        self.fault.as_deref().map(|why| (self.directory.as_path(), why))
    }

    /// Returns the error that the record is not used.
    pub(crate) fn error(&self) -> Option<Diagnostic> {
        let message =
            "the record of the API's objects is not used, so addresses of objects whose files are bad are not denied";
        self.fault.as_ref().map(|why| Diagnostic::about_file(&self.directory, format!("{message}: {why}")))
    }

    /// Makes the record equal to the objects in force below `root`. Objects whose addresses are held keep what is
    /// recorded, and so does everything while the folder of the objects is lost (`keeps_all`).
    pub(super) fn update(&mut self, library: &Library, root: &Path, keeps_all: bool) {
        let mut wanted = if keeps_all { self.objects.clone() } else { BTreeMap::new() };
        for (id, addresses, is_held) in library.objects_in_force(root) {
            let recorded = self.objects.get(id).filter(|_| is_held).cloned();
            wanted.insert(id.to_owned(), recorded.unwrap_or(addresses));
        }
        self.write(&wanted);
    }

    /// Records one object; `None` removes it.
    pub(super) fn update_one(&mut self, id: &str, addresses: Option<Vec<IpNet>>) {
        // Compared first, as most changes leave the addresses as they are.
        if self.fault.is_none() && self.objects.get(id) == addresses.as_ref() {
            return;
        }
        let mut wanted = self.objects.clone();
        match addresses {
            Some(addresses) => _ = wanted.insert(id.to_owned(), addresses),
            None => _ = wanted.remove(id),
        }
        self.write(&wanted);
    }

    /// Writes what differs, and syncs the directory once.
    fn write(&mut self, wanted: &BTreeMap<String, Vec<IpNet>>) {
        if self.fault.is_none() && self.objects == *wanted {
            return;
        }
        let written = self.try_write(wanted);
        self.fault = written.err().map(|error| {
            format!("the addresses of the API's objects cannot be kept, which a start needs if a file is bad: {error}")
        });
    }

    /// Writes what differs; the objects that were written are in `self` also after an error.
    fn try_write(&mut self, wanted: &BTreeMap<String, Vec<IpNet>>) -> Result<(), String> {
        if wanted.is_empty() && !self.directory.exists() {
            self.objects.clear();
            return Ok(());
        }
        let failed = |path: &Path, error: io::Error| format!("{}: {error}", path.display());
        let parent = self.directory.parent().map(Path::to_path_buf);
        for directory in parent.iter().chain([&self.directory]) {
            if let Some(why) = distrust(directory, None, None) {
                return Err(why);
            }
            if !directory.is_dir() {
                DirBuilder::new().mode(0o700).create(directory).map_err(|error| failed(directory, error))?;
                // A directory that was removed took its links along.
                self.objects.clear();
            }
        }
        let gone: Vec<String> = self.objects.keys().filter(|id| !wanted.contains_key(*id)).cloned().collect();
        for id in gone {
            match fs::remove_file(self.directory.join(&id)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(&self.directory, error)),
                _ => _ = self.objects.remove(&id),
            }
        }
        for (id, addresses) in wanted {
            if self.objects.get(id) == Some(addresses) {
                continue;
            }
            let target: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            let target = if target.is_empty() { NO_ADDRESS.to_owned() } else { target.join(",") };
            let aside = self.directory.join(ASIDE);
            // What a crash left.
            let _ = fs::remove_file(&aside);
            let made = symlink(target, &aside).and_then(|()| fs::rename(&aside, self.directory.join(id)));
            made.map_err(|error| failed(&self.directory, error))?;
            self.objects.insert(id.clone(), addresses.clone());
        }
        atomic_write::sync(&self.directory).map_err(|error| failed(&self.directory, error))
    }
}

/// The target of an object without addresses.
const NO_ADDRESS: &str = "-";
/// The temporary name of a link.
const ASIDE: &str = ".new";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn record_is_read_back_as_it_was_written() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("kept/objects");
        let read = || ObjectRecord::read(directory.clone(), None);
        let addresses =
            |text: &str| text.split_terminator(',').map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let mut record = read();
        assert!(record.objects.is_empty() && record.fault().is_none());
        record.update_one("dbx_1", None);
        assert!(!directory.exists(), "nothing is written before there is an object");
        record.update_one("dbx_1", Some(addresses("192.0.2.1/32,2001:db8::1/128")));
        record.update_one("npol_1", Some(Vec::new()));
        record.update_one("dbx_2", Some(addresses("192.0.2.2/32")));
        record.update_one("dbx_2", Some(Vec::new()));
        assert_eq!(read().objects, record.objects);
        assert_eq!(record.objects["dbx_1"].len(), 2);
        record.update_one("npol_1", None);
        assert_eq!(read().objects.keys().collect::<Vec<_>>(), ["dbx_1", "dbx_2"]);
        // Lost while it runs, it is written again with the next change.
        fs::remove_dir_all(root.path().join("kept")).unwrap();
        record.update_one("dbx_3", Some(addresses("192.0.2.3/32")));
        assert_eq!(read().objects.len(), 3);
        // In a place that cannot be written.
        fs::remove_dir_all(root.path().join("kept")).unwrap();
        fs::write(root.path().join("kept"), "in the way").unwrap();
        record.update_one("dbx_1", None);
        assert!(record.fault().unwrap().1.contains("is not a directory"), "{record:?}");
        // Without objects there is nothing to keep.
        let mut empty = ObjectRecord::read(directory.clone(), None);
        empty.update_one("dbx_1", None);
        assert!(empty.fault().is_none());
    }
}
