//! The load of all policies at a start, from what is on disk or from the last good state.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::files::{Files, FollowedPaths, Text, UnfinishedFiles};
use super::last_good::LastGoodState;
use super::object_record::ObjectRecord;
use super::scan::Directory;
use super::served::{InForce, ServedTexts};
use super::trusted::Trusted;
use super::upstreams;
use super::watch::Changes;
use crate::config::Config;
use crate::document::Diagnostic;
use crate::policy::{Bindings, Library, OBJECT_FOLDER, Reloaded, Tree};

/// The policies that a start loaded, before anything is bound or served.
pub(crate) struct Loaded {
    /// The policies directory as it was read.
    pub(super) directory: Directory,
    /// The list files, and other files that the configuration names.
    pub(super) files: Files,
    /// The last good version of each file, and the snapshot in force.
    pub(super) library: Library,
    /// The files and directories to watch.
    pub(super) followed: FollowedPaths,
    /// The warnings about files in force.
    pub(crate) warnings: Vec<Diagnostic>,
    /// The errors of files that are held back.
    pub(crate) errors: Vec<Diagnostic>,
    /// The files whose version on disk is not in force.
    pub(super) held_back: Vec<PathBuf>,
    /// The time at which the last good state was written, if the start took it.
    pub(crate) last_good: Option<String>,
    /// The directory of that state.
    pub(crate) last_good_in: Option<PathBuf>,
    /// The errors on disk for which the start took the last good state.
    pub(crate) refused: Vec<Diagnostic>,
    /// The text of the configuration in force; `None` without a configuration file.
    pub(crate) config_text: Option<Arc<str>>,
    /// The record of the API's objects; `None` without a configuration file.
    pub(crate) object_record: Option<ObjectRecord>,
    /// Whether the configuration in force is that of the last good state.
    pub(crate) is_config_old: bool,
}

/// The treatment of a broken object of the API by a load of everything.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Broken<'r> {
    /// The object is an error.
    Refuse,
    /// The object is left out, and clients that refer to it are denied. Its addresses, which the record of the objects
    /// has, are held.
    LeaveOut(Option<&'r ObjectRecord>),
}

impl Loaded {
    /// Reads and compiles everything the configuration names; at the start, any error is final, but for those of objects of
    /// the API where `broken` says so.
    ///
    /// # Errors
    /// Everything that is wrong.
    pub(crate) fn start(config: &Config, broken: Broken<'_>) -> Result<Self, Vec<Diagnostic>> {
        let circular = upstreams::circular_in(config);
        if !circular.is_empty() {
            return Err(circular);
        }
        let root = &config.policies;
        let (mut directory, mut files, read) = read_all(config);
        read.map_err(|error| vec![unreadable(root, &error)])?;
        if let Some(error) = no_policy_file(config, &directory.tree) {
            return Err(vec![error]);
        }
        let is_empty = directory.tree.files.is_empty();
        if let Broken::LeaveOut(Some(record)) = broken {
            directory.hold(root, record.objects());
        }
        let mut read_list = |path: &Path, held| files.read_list(path, held);
        let (tree, lists, bindings) = (&directory.tree, &mut read_list, bindings(config));
        let reloaded = if matches!(broken, Broken::LeaveOut(_)) {
            Library::serve(tree, lists, &bindings, is_empty)?
        } else {
            let start = if is_empty { Library::start_empty } else { Library::start };
            let (library, warnings) = start(tree, lists, &bindings)?;
            Reloaded { library, swapped: true, diagnostics: warnings.into(), held_back: Vec::new() }
        };
        let Reloaded { library, diagnostics, mut held_back, .. } = reloaded;
        let (mut errors, mut warnings): (Vec<_>, Vec<_>) = diagnostics.iter().cloned().partition(Diagnostic::is_error);
        if let Some((folder, error)) = directory.lost_objects() {
            held_back.push(folder);
            errors.insert(0, error);
        }
        warnings.extend(Trusted::warnings(config));
        let complaints = config.complaints(warnings.iter());
        warnings.extend(complaints);
        Ok(Self::new((directory, files, library), (errors, warnings), held_back))
    }

    /// Puts together what was loaded, and finds what is to be watched.
    fn new(
        (directory, files, library): (Directory, Files, Library),
        (errors, warnings): (Vec<Diagnostic>, Vec<Diagnostic>),
        held_back: Vec<PathBuf>,
    ) -> Self {
        let mut followed = directory.followed.clone();
        library.list_paths().for_each(|path| followed.add_file(path));
        let (last_good, last_good_in, refused) = (None, None, Vec::new());
        Self {
            directory,
            files,
            library,
            followed,
            warnings,
            errors,
            held_back,
            last_good,
            last_good_in,
            refused,
            config_text: None,
            object_record: None,
            is_config_old: false,
        }
    }

    /// Begins with the last good state, and goes from there to what is on disk, as [`Library::resume`] says. `config` is that in force, and `on_disk` what the configuration file at `path` says now.
    ///
    /// # Errors
    /// The last good state does not load: why.
    pub(crate) fn from_last_good(
        kept: &LastGoodState,
        (config, record): (&Config, Option<&ObjectRecord>),
        (path, on_disk): (&Path, Result<&Config, Vec<Diagnostic>>),
    ) -> Result<Self, Vec<Diagnostic>> {
        let root = &config.policies;
        let (mut directory, mut files, read) = read_all(config);
        if let Some(record) = record {
            directory.hold(root, record.objects());
        }
        let base = kept.tree(root, &directory.tree);
        if read.is_ok() {
            directory.note_last_good(root, &base.files);
        }
        let mut read_kept = |path: &Path, _| kept.read_list(root, path);
        let (mut errors, mut warnings, mut held_back) = (Vec::new(), Vec::new(), Vec::new());
        let wanted = match on_disk {
            Ok(config) => config,
            Err(wrong) => {
                errors.extend(wrong);
                held_back.push(path.to_owned());
                config
            }
        };
        let base = (&base, &bindings(config));
        let Reloaded { library, diagnostics, held_back: held, .. } = if let Err(error) = read {
            errors.push(unreadable(root, &error));
            held_back.push(root.clone());
            Library::again(base.0, &mut read_kept, base.1)?
        } else {
            let mut read_list = |path: &Path, held| files.read_list(path, held);
            Library::resume(base, &mut read_kept, (&directory.tree, &bindings(wanted)), &mut read_list)?
        };
        if let Some((folder, error)) = directory.lost_objects() {
            held_back.push(folder);
            errors.push(error);
        }
        held_back.extend(held);
        let (wrong, others): (Vec<_>, Vec<_>) = diagnostics.iter().cloned().partition(Diagnostic::is_error);
        errors.extend(wrong);
        warnings.extend(others);
        warnings.extend(Trusted::warnings(wanted));
        let loaded = Self::new((directory, files, library), (errors, warnings), held_back);
        let (last_good, last_good_in) = (Some(kept.written()), Some(kept.directory().to_owned()));
        Ok(Self { last_good, last_good_in, ..loaded })
    }

    /// Returns what is wrong on disk: with what is held back, and with what was not started from.
    pub(crate) fn wrong(&self) -> Vec<Diagnostic> {
        let known: BTreeSet<String> = self.errors.iter().map(ToString::to_string).collect();
        let refused = self.refused.iter().filter(|error| !known.contains(&error.to_string()));
        self.errors.iter().chain(refused).cloned().collect()
    }

    /// Returns whether a file is held back.
    pub(crate) fn holds_back(&self, path: &Path) -> bool {
        self.held_back.iter().any(|held| held == path)
    }

    /// Returns the files that are held back.
    pub(crate) fn held_back(&self) -> &[PathBuf] {
        &self.held_back
    }

    /// Returns the first file of which this start has an older text than a process that serves `before`: not the one on
    /// disk, but another one than that process has.
    pub(crate) fn older_than(&self, before: &ServedTexts) -> Option<String> {
        let root = self.directory.tree.root.as_path();
        let in_force = InForce { library: self.library.clone(), root: root.into(), config: self.config_text.clone() };
        let is_held = |path: &Path| self.held_back.iter().any(|held| path.starts_with(held));
        let is_on_disk = |name: &Path| !is_held(&root.join(name));
        ServedTexts::of(&in_force).older_than(before, !self.is_config_old, is_on_disk)
    }

    /// Reads a file that the configuration names besides the policies.
    pub(crate) fn read(&mut self, path: &Path) -> Text {
        self.files.read(path)
    }

    /// Returns the policies.
    pub(crate) fn library(&self) -> &Library {
        &self.library
    }
}

/// Reads the whole policies directory for the first time; returns also whether it could be read.
fn read_all(config: &Config) -> (Directory, Files, io::Result<()>) {
    let (mut directory, mut files) = (Directory::default(), Files::default());
    let trusted = Trusted::of(config);
    let read =
        directory.read(&config.policies, &Changes::Anything, (&UnfinishedFiles::default(), &files.budget), &trusted);
    files.trust(trusted);
    (directory, files, read)
}

/// Returns the keys of the configuration that go into force together with the policies.
pub(crate) fn bindings(config: &Config) -> Bindings {
    Bindings {
        default_policy: config.default_policy.clone(),
        listeners: config.listen.iter().map(|listen| listen.policy.clone()).collect(),
        devbox_suffix: config.devbox_suffix.clone(),
        without_policy: config.without_policy,
    }
}

/// Returns the error that the policies directory has no policy file; `None` if it has one, or if it has the folder of the
/// API's objects, which a new installation has before there is one.
pub(super) fn no_policy_file(config: &Config, tree: &Tree) -> Option<Diagnostic> {
    let root = &config.policies;
    if !tree.files.is_empty() {
        return None;
    }
    let (message, help) = if config.control.is_none() {
        let help = "write one, as policies/example.toml of the sources shows; without a policy all would be denied";
        ("there is no policy file (*.toml) in this directory", help.to_owned())
    } else {
        let folder = root.join(OBJECT_FOLDER);
        if fs::symlink_metadata(&folder).is_ok() {
            return None;
        }
        let help = format!(
            "is its file system mounted? if the API is to make all policies: `mkdir {}`; else write a policy file",
            folder.display()
        );
        ("there is no policy file (*.toml) in this directory, and no folder of the API's objects", help)
    };
    Some(Diagnostic::about_file(root, message).help(help))
}

/// Returns the error that the policies directory cannot be read.
pub(super) fn unreadable(root: &Path, error: &io::Error) -> Diagnostic {
    let help = match error.kind() {
        io::ErrorKind::NotFound => "make it and put a policy file in it, or set `policies` in hostgate.toml",
        io::ErrorKind::PermissionDenied => "make it readable for the user hostgate runs as",
        io::ErrorKind::NotADirectory => "`policies` names a directory of *.toml files, not a file",
        _ => "the policies in force, if any, stay so until it can be read",
    };
    Diagnostic::about_file(root, format!("the policies directory cannot be read: {error}")).help(help)
}
