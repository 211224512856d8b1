//! The check that a file which a start relies on was written by hostgate itself.
//!
//! The last good state and the record of the API's objects say what goes into force. Whoever can write them chooses the
//! policies, so they are used only if nobody but the user of the service, or root, can have written them.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::geteuid;

/// The mode bits by which the group and others may write.
const WRITABLE_BY_OTHERS: u32 = 0o022;

/// Returns why `directory`, or the file `name` in it, is not to be relied on: another user owns it or may write it, or
/// it is of another type. Returns `None` if it may be relied on, or does not exist.
///
/// Besides the user of this process and root, `owner` may own them.
pub(super) fn distrust(directory: &Path, name: Option<&str>, owner: Option<u32>) -> Option<String> {
    let of_directory = fs::metadata(directory).ok()?;
    let wrong = if of_directory.is_dir() { fault(&of_directory, owner) } else { Some("is not a directory".to_owned()) };
    if let Some(wrong) = wrong {
        return Some(format!("{}: it {wrong}", directory.display()));
    }
    let file = directory.join(name?);
    // A link would lead to a file whose directory has not been looked at.
    let of_file = fs::symlink_metadata(&file).ok()?;
    let wrong = if of_file.is_file() { fault(&of_file, owner) } else { Some("is not a regular file".to_owned()) };
    wrong.map(|wrong| format!("{}: it {wrong}", file.display()))
}

/// Returns why the owner or the mode of a file are not as they have to be.
fn fault(metadata: &fs::Metadata, owner: Option<u32>) -> Option<String> {
    let user = geteuid().as_raw();
    if ![user, 0].contains(&metadata.uid()) && owner != Some(metadata.uid()) {
        return Some(format!(
            "belongs to user {}, neither to the user of this process ({user}) nor to root, and is not relied on: run as that \
             user, or remove it",
            metadata.uid()
        ));
    }
    (metadata.mode() & WRITABLE_BY_OTHERS != 0).then(|| {
        format!(
            "may be written by others (mode {:o}), and is not relied on: `chmod go-w` it if its content is yours, else \
             remove it",
            metadata.mode() & 0o7777
        )
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};

    use super::*;

    #[test]
    fn only_files_that_nobody_else_can_write_are_relied_on() {
        let root = tempfile::tempdir().unwrap();
        let directory = root.path().join("kept");
        let file = directory.join("state");
        let told = || distrust(&directory, Some("state"), None).unwrap_or_default();
        assert_eq!(told(), "", "nothing is there");
        fs::create_dir(&directory).unwrap();
        assert_eq!(told(), "", "no file is there");
        fs::write(&file, "text").unwrap();
        for (path, mode, expected) in [
            (&directory, 0o700, ""),
            (&directory, 0o755, ""),
            (&directory, 0o770, "mode 770"),
            (&directory, 0o1777, "mode 1777"),
            (&directory, 0o700, ""),
            (&file, 0o620, "mode 620"),
            (&file, 0o602, "mode 602"),
            (&file, 0o644, ""),
        ] {
            fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            assert!(told().contains(expected) && told().is_empty() == expected.is_empty(), "{mode:o}: {}", told());
        }
        if geteuid().is_root() {
            for path in [&directory, &file] {
                chown(path, Some(65_534), None).unwrap();
                assert!(told().contains("belongs to user 65534"), "{}", told());
                assert_eq!(distrust(&directory, Some("state"), Some(65_534)), None);
                chown(path, Some(0), None).unwrap();
            }
        }
        fs::rename(&file, directory.join("other")).unwrap();
        symlink("other", &file).unwrap();
        assert!(told().contains("not a regular file"), "{}", told());
    }
}
