//! The load at a start at which something on disk is bad: a pure function of the texts that were in force last and of
//! those on disk.
//!
//! The load begins with the texts in force and goes on to those on disk as a reload does. So a text on disk is used if it is
//! valid and conflicts with nothing; of files that conflict, the one that had what both claim keeps it; and a file with
//! a failing test holds back itself. A bad file of one author never brings an old text of another one back.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::source::Tree;
use super::{Library, MayBeUnchanged, ReadList, Reloaded, object_of};
use crate::document::Diagnostic;
use crate::policy::model::bindings::Bindings;

/// The most changed files that are tried one by one.
const MOST_TRIED: usize = 100;

impl Library {
    /// Loads the texts that were `in_force` last, with `read_kept` for their lists, and then those `on_disk`; each with
    /// its bindings.
    ///
    /// A chain of conflicts can hold back all changed files at once. They are then tried one by one, so that only those that
    /// conflict with what is in force are held back.
    ///
    /// # Errors
    /// The texts that were in force do not load: see [`Library::again`].
    pub fn resume(
        in_force: (&Tree, &Bindings),
        read_kept: ReadList<'_>,
        (on_disk, bindings): (&Tree, &Bindings),
        read_list: ReadList<'_>,
    ) -> Result<Reloaded, Vec<Diagnostic>> {
        let Reloaded { mut library, .. } = Self::again(in_force.0, read_kept, in_force.1)?;
        // What was read for a load that is given up is not known to the next one.
        let mut read_list = |path: &Path, _| read_list(path, MayBeUnchanged::No);
        let all = library.reload(on_disk, &mut read_list, bindings);
        if all.swapped || all.held_back.len() <= 1 {
            return Ok(all);
        }
        let mut tree = Tree { files: in_force.0.files.clone(), changed: None, ..on_disk.clone() };
        // Alone, a file that is bad by itself is not better.
        let is_bad =
            |path: &Path| all.library.files.get(path.as_os_str()).is_some_and(|file| file.to_state().is_bad_alone());
        for path in changed(in_force.0, on_disk).into_iter().filter(|path| !is_bad(path)).take(MOST_TRIED) {
            let before = tree.files.get(&path).cloned();
            put(&mut tree, &path, on_disk.files.get(&path).cloned());
            let tried = library.reload(&tree, &mut read_list, bindings);
            if tried.swapped && !tried.held_back.contains(&path) {
                library = tried.library;
            } else {
                put(&mut tree, &path, before);
            }
        }
        let all = library.reload(on_disk, &mut read_list, bindings);
        Ok(Reloaded { swapped: true, ..all })
    }
}

/// Sets the text of a file in a tree; `None` removes the file.
fn put(tree: &mut Tree, path: &Path, text: Option<Result<Arc<str>, String>>) {
    match text {
        Some(text) => tree.files.insert(path, text),
        None => tree.files.remove(path),
    }
}

/// Returns the files of people whose texts differ.
fn changed(before: &Tree, now: &Tree) -> BTreeSet<PathBuf> {
    let paths = before.files.iter().chain(now.files.iter()).map(|(path, _)| path);
    let differs =
        |path: &&Arc<Path>| object_of(&now.root, path).is_none() && before.files.get(path) != now.files.get(path);
    paths.filter(differs).map(|path| path.to_path_buf()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::testing::{Directory, name};

    /// The policies and clients of two authors; `b` has become stricter since an older version.
    const A: &str = "[policy.a]\nallowed_hostnames = ['a.test']\n[client.a]\nsources = ['192.0.2.1']\npolicy = 'a'\n";
    const B: &str = "[policy.b]\nallowed_hostnames = ['b.test']\n[client.b]\nsources = ['192.0.2.2']\npolicy = 'b'\n";
    const LAX_B: &str =
        "[policy.b]\nallowed_hostnames = ['*.test']\n[client.b]\nsources = ['192.0.2.2']\npolicy = 'b'\n";

    /// Returns which of a few questions are allowed, and the files that are held back, after a start with these texts in
    /// force before and on disk.
    fn resumed(in_force: &[(&str, &str)], on_disk: &[(&str, &str)]) -> (String, Vec<String>) {
        let (kept, disk) = (Directory::of(in_force), Directory::of(on_disk));
        let Reloaded { library, held_back, .. } = Library::resume(
            (&kept.tree, &kept.bindings),
            &mut |path, held| kept.list(path, held),
            (&disk.tree, &disk.bindings),
            &mut |path, held| disk.list(path, held),
        )
        .unwrap_or_else(|wrong| panic!("{wrong:?}"));
        let snapshot = library.snapshot();
        let questions =
            [("192.0.2.1", "a.test"), ("192.0.2.2", "b.test"), ("192.0.2.2", "bad.test"), ("192.0.2.3", "c.test")];
        let is_allowed = |&(source, qname): &(&str, &str)| {
            let asker = snapshot.asker(source.parse().unwrap(), usize::MAX);
            snapshot.decide(&asker, &name(qname), "A".parse().unwrap()).action.is_allow()
        };
        let allowed: Vec<&str> = questions.iter().filter(|it| is_allowed(it)).map(|(_, qname)| *qname).collect();
        let held_back = held_back.iter().map(|path| path.strip_prefix("p").unwrap().display().to_string());
        (allowed.join(" "), held_back.collect())
    }

    #[test]
    fn bad_file_of_one_author_never_brings_an_old_text_of_another_back() {
        let own_test = format!("{A}[[test]]\nclient = 'b'\nname = 'bad.test'\nexpect = 'allow'\n");
        let bad_lists: &str = "[policy.a]\nallowed_hostnames_files = ['none.txt']\n";
        let cases: [(&str, &str); 6] = [
            ("broken TOML", "[policy.a"),
            ("a policy id of another file", &format!("{A}[policy.b]\nallow_all = true\n")),
            ("a client id of another file", &format!("{A}[client.b]\nsources = ['192.0.2.9']\n")),
            ("a source of another file", &format!("{A}[client.a2]\nsources = ['192.0.2.2']\npolicy = 'a'\n")),
            ("a test that fails", &own_test),
            ("a list that does not exist", bad_lists),
        ];
        for (case, evil) in cases {
            // The stricter text was in force already, or is new on disk: it is in force in any case.
            for before in [B, LAX_B] {
                let (allowed, held_back) =
                    resumed(&[("a.toml", A), ("b.toml", before)], &[("a.toml", evil), ("b.toml", B)]);
                assert_eq!(allowed, "a.test b.test", "{case}");
                assert!(held_back.contains(&"a.toml".to_owned()), "{case}: {held_back:?}");
                assert!(!held_back.contains(&"b.toml".to_owned()), "{case}: {held_back:?}");
            }
            // A file that is new on disk, and whose objects the bad file does not claim, is in force.
            let c = "[policy.c]\nallowed_hostnames = ['c.test']\n[client.c]\nsources = ['192.0.2.3']\npolicy = 'c'\n";
            let (allowed, _) =
                resumed(&[("a.toml", A), ("b.toml", B)], &[("a.toml", evil), ("b.toml", B), ("c.toml", c)]);
            assert_eq!(allowed, "a.test b.test c.test", "{case}");
        }
    }

    #[test]
    fn new_file_does_not_get_what_a_file_had_before() {
        for evil in ["[policy.b]\nallow_all = true\n", "[client.x]\nsources = ['192.0.2.2']\npolicy = 'unrestricted'\n"]
        {
            let (allowed, held_back) =
                resumed(&[("a.toml", A), ("b.toml", LAX_B)], &[("0.toml", evil), ("a.toml", A), ("b.toml", B)]);
            assert_eq!((allowed.as_str(), held_back), ("a.test b.test", vec!["0.toml".to_owned()]), "{evil}");
        }
    }

    #[test]
    fn file_that_is_gone_is_gone_whatever_else_is_bad() {
        let (allowed, held_back) = resumed(&[("a.toml", A), ("b.toml", B)], &[("a.toml", "[policy.a")]);
        assert_eq!((allowed.as_str(), held_back), ("a.test", vec!["a.toml".to_owned()]));
        // Its objects may be missed: what refers to them was denied before, and is denied again.
        let client = "[client.b]\nsources = ['192.0.2.2']\npolicy = 'b'\n[[test]]\nclient = 'gone'\nname = 'x.test'\nexpect = 'deny'\n";
        let (allowed, _) =
            resumed(&[("a.toml", A), ("b.toml", client)], &[("a.toml", "[policy.a"), ("b.toml", client)]);
        assert_eq!(allowed, "a.test");
    }

    #[test]
    fn failing_test_in_force_holds_back_no_file_of_another() {
        let guarded = format!("{A}[[test]]\nclient = 'b'\nname = 'bad.test'\nexpect = 'deny'\n");
        let stricter = A.replace("a.test", "none.test");
        let c = "[policy.c]\nallowed_hostnames = ['c.test']\n[client.c]\nsources = ['192.0.2.3']\npolicy = 'c'\n";
        let lax_c = c.replace("c.test", "*.test");
        let kept = [("a.toml", A), ("b.toml", B), ("c.toml", &lax_c), ("guard.toml", &guarded.replace(A, ""))];
        let (allowed, held_back) =
            resumed(&kept, &[("a.toml", &stricter), ("b.toml", LAX_B), ("c.toml", c), ("guard.toml", kept[3].1)]);
        assert_eq!((allowed.as_str(), held_back), ("b.test bad.test c.test", vec![]));
    }
}
