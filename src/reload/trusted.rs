//! The files that policies may have read: an author of policies need not be allowed to read all that hostgate can.
//!
//! A list must be in a trusted directory, and one that only its owner may read is refused as a secret. A policy file may
//! be a symlink to a file elsewhere, but then it is private and never quoted.
//!
//! The check takes the path of the open file from the kernel, so that no symlink can be changed between check and read.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use crate::config::Config;
use crate::document::{Code, Diagnostic, Findings, quoted};
use crate::policy::{OBJECT_FOLDER, OBJECT_PREFIXES};
use crate::util::regular_file;

/// The directories whose files policies may read: the policies directory, and those of `list_directories`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trusted {
    /// The directories as the configuration names them.
    named: Vec<PathBuf>,
    /// The directories with symlinks resolved, without those that do not exist.
    real: Vec<PathBuf>,
    /// The folder of the API's files, with symlinks resolved; `None` if it does not exist.
    api: Option<PathBuf>,
}

/// The use of a file, which decides where it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Use {
    /// A file that hostgate.toml or the system names, which may be anywhere.
    Named,
    /// A `*.toml` below the policies directory, which may be a symlink to a file outside of it.
    Policies,
    /// A list file, which a policy file names.
    List,
}

impl Trusted {
    /// Resolves the directories of a configuration as they are now.
    pub(crate) fn of(config: &Config) -> Self {
        Self::directories([&config.policies].into_iter().chain(&config.list_directories).cloned().collect())
    }

    /// Returns a warning for each entry of `list_directories` that is no directory; one that is created later is used.
    pub(crate) fn warnings(config: &Config) -> Vec<Diagnostic> {
        let accepts = config.list_places.first().and_then(|(source, _)| source.accepts());
        let mut findings = Findings::of(accepts);
        let mut path = None;
        for (directory, (source, span)) in config.list_directories.iter().zip(&config.list_places) {
            path = Some(source.path());
            let why = match fs::metadata(directory) {
                Ok(metadata) if metadata.is_dir() => continue,
                Ok(_) => "it is no directory".to_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => "there is no such directory".to_owned(),
                Err(error) => error.to_string(),
            };
            findings.warn(Code::NoDirectory, *span, || {
                let named = quoted(&directory.to_string_lossy());
                source
                    .warning(*span, format!("`list_directories`: {named}: {why}"))
                    .help("make it, or remove the entry; paths are relative to this file")
            });
        }
        path.map_or_else(Vec::new, |path| findings.into_diagnostics(path))
    }

    /// Resolves directories as they are now; the first is the policies directory.
    pub(crate) fn directories(named: Vec<PathBuf>) -> Self {
        let real = named.iter().filter_map(|directory| fs::canonicalize(directory).ok()).collect();
        let api = named.first().and_then(|policies| fs::canonicalize(policies.join(OBJECT_FOLDER)).ok());
        Self { named, real, api }
    }

    /// Returns whether the configuration names the same directories.
    pub(crate) fn is_named_as(&self, other: &Self) -> bool {
        self.named == other.named
    }

    /// Checks that an open file may be used; returns whether it is private, so that log, status and API must not quote
    /// it.
    ///
    /// # Errors
    /// The file may not be used: why, and how to fix it.
    pub(crate) fn check(&self, file: &File, metadata: &Metadata, path: &Path, as_what: Use) -> Result<bool, String> {
        if as_what == Use::Named {
            return Ok(false);
        }
        let real = regular_file::real_path(file, path).map_err(|error| error.to_string())?;
        let is_inside = self.real.iter().any(|directory| real.starts_with(directory))
            || as_what == Use::Policies && self.is_of_api(&real);
        if !is_inside && regular_file::is_in_kernel_tree(&real) {
            return Err("it leads to a tree of the kernel (/proc, /sys, /dev): remove it".to_owned());
        }
        let is_for_owner_alone = metadata.mode() & FOR_OTHERS == 0;
        match (as_what, is_inside) {
            (Use::List, false) => {
                Err("it lies outside of the policies directory: move it there, or name its directory in \
                                       `list_directories` of hostgate.toml"
                    .to_owned())
            }
            (Use::List, true) if is_for_owner_alone => {
                Err("only its owner may read it, as a secret: `chmod 644` it if it is a list".to_owned())
            }
            (Use::Policies, false) if is_for_owner_alone => Err(
                "it leads out of the policies directory to a file that only its owner may read, as a secret: `chmod \
                     644` that if it holds policies, or name its directory in `list_directories` of hostgate.toml"
                    .to_owned(),
            ),
            (_, is_inside) => Ok(!is_inside),
        }
    }
}

impl Trusted {
    /// Returns whether hostgate itself wrote a file for an object of the API.
    ///
    /// Such a file may have a mode for its owner alone, by the umask, and its folder is mostly a symlink to a directory
    /// that hostgate may write. Secrets do not have such names.
    fn is_of_api(&self, real: &Path) -> bool {
        let name = real.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_object = OBJECT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            && real.extension().is_some_and(|it| it == "toml");
        is_object && real.parent().is_some_and(|folder| self.api.as_deref() == Some(folder))
    }
}

/// The mode bits that let the group and others read.
const FOR_OTHERS: u32 = 0o044;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    use super::*;

    #[test]
    fn use_of_a_file_depends_on_its_directory_and_its_mode() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        for directory in ["policies/team", "lists", "elsewhere", "policies2"] {
            fs::create_dir_all(at(directory)).unwrap();
        }
        let write = |name: &str, mode: u32| {
            fs::write(at(name), "x").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        for directory in ["policies/team", "lists", "elsewhere", "policies2"] {
            write(&format!("{directory}/open"), 0o644);
            write(&format!("{directory}/group"), 0o640);
            write(&format!("{directory}/secret"), 0o600);
        }
        symlink("../elsewhere/open", at("policies/out")).unwrap();
        symlink("../elsewhere/secret", at("policies/out-secret")).unwrap();
        symlink("../elsewhere", at("policies/folder")).unwrap();
        symlink("../elsewhere", at("policies/api")).unwrap();
        write("elsewhere/dbx_1.toml", 0o600);
        write("elsewhere/token.toml", 0o600);
        fs::create_dir(at("elsewhere/deep")).unwrap();
        write("elsewhere/deep/npol_1.toml", 0o600);
        symlink("../elsewhere/secret", at("policies/npol_2.toml")).unwrap();
        symlink("team/open", at("policies/in")).unwrap();
        symlink(at("lists"), at("named")).unwrap();
        let trusted = Trusted::directories(vec![at("policies"), at("named"), at("missing")]);
        // The path, and the expected outcome as a list and as policies: usable, private or refused.
        let cases = [
            ("policies/team/open", "usable", "usable"),
            ("policies/team/group", "usable", "usable"),
            ("policies/team/secret", "refused", "usable"),
            ("policies/in", "usable", "usable"),
            ("policies/out", "refused", "private"),
            ("policies/out-secret", "refused", "refused"),
            ("policies/folder/group", "refused", "private"),
            ("policies/../elsewhere/open", "refused", "private"),
            ("policies/team/../../policies2/open", "refused", "private"),
            // Files that hostgate itself wrote for the API, whose folder may be a symlink.
            ("policies/api/dbx_1.toml", "refused", "usable"),
            ("policies/api/token.toml", "refused", "refused"),
            ("policies/api/deep/npol_1.toml", "refused", "refused"),
            ("policies/npol_2.toml", "refused", "refused"),
            ("lists/open", "usable", "usable"),
            ("lists/secret", "refused", "usable"),
            ("named/open", "usable", "usable"),
        ];
        for (name, as_list, as_policies) in cases {
            let (file, metadata) = regular_file::open(&at(name)).unwrap();
            for (as_what, expected) in [(Use::List, as_list), (Use::Policies, as_policies), (Use::Named, "usable")] {
                let found = match trusted.check(&file, &metadata, &at(name), as_what) {
                    Ok(false) => "usable",
                    Ok(true) => "private",
                    Err(_) => "refused",
                };
                assert_eq!(found, expected, "{name} as {as_what:?}");
            }
        }
    }
}
