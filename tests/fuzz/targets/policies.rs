//! A policies directory as it changes: `policy::Library` from its start over one reload after the other.
//!
//! The input is text: a line `@ PATH` begins a file (`.txt` are lists, `hostgate.toml` names the default policy), a line
//! `@@` the directory as it is at the next reload; what is not named again stays, and an empty file is removed.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hostgate::config::Config;
use hostgate::dns::name::LowerName;
use hostgate::dns::rtype::RecordType;
use hostgate::document::Diagnostic;
use hostgate::policy::{Bindings, Library, ListText, MayBeUnchanged, Reloaded, Snapshot, Tree};

use super::places::{self, Texts};

/// Loads the directories that `data` holds one after the other.
///
/// # Panics
/// When what is in force, or what is said about it, is not what it has to be.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let mut directory = Directory::default();
    let mut library = None;
    for step in text.split("\n@@").take(4) {
        directory.write(step);
        library = match library {
            None => directory.check_start(),
            Some(library) => Some(directory.check_reload(&library)),
        };
    }
}

/// A policies directory.
#[derive(Clone, Default)]
struct Directory {
    /// Its files and lists.
    texts: Texts,
    /// All texts that any file had: what is held back is warned about where it stood.
    ever: Vec<Texts>,
}

impl Directory {
    /// Writes the files of `step`.
    fn write(&mut self, step: &str) {
        for file in format!("\n{step}").split("\n@ ").skip(1).take(8) {
            let (path, text) = file.split_once('\n').unwrap_or((file, ""));
            // Paths of the target's own making: those of files are not input.
            let name: String = path.chars().filter(|c| c.is_ascii_alphanumeric() || "./".contains(*c)).collect();
            let path = Path::new("p").join(name.trim_start_matches('/'));
            if text.trim().is_empty() {
                self.texts.remove(&path);
            } else {
                self.texts.insert(path, text.to_owned());
            }
        }
        self.ever.push(self.texts.clone());
    }

    /// Returns it as the loader gets it.
    fn tree(&self) -> Tree {
        let files = self.texts.iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "toml"));
        let files = files.filter(|(path, _)| !path.ends_with(CONFIG));
        let files = files.map(|(path, text)| (path.as_path(), Ok(text.as_str().into()))).collect();
        Tree { root: "p".into(), files, ..Tree::default() }
    }

    /// Returns what hostgate.toml says about policies.
    fn bindings(&self) -> Bindings {
        let path = Path::new("p").join(CONFIG);
        let text = self.texts.get(&path).cloned().unwrap_or_default();
        let Ok(config) = Config::parse(&path, text) else { return Bindings::default() };
        let listeners = config.listen.into_iter().map(|listen| listen.policy).collect();
        Bindings {
            default_policy: config.default_policy,
            listeners,
            devbox_suffix: config.devbox_suffix,
            without_policy: config.without_policy,
        }
    }

    /// Reads a list.
    fn list(&self, path: &Path) -> Result<ListText, String> {
        self.texts.get(path).cloned().map(ListText::Text).ok_or_else(|| "no such file".to_owned())
    }

    /// Loads it for the first time.
    fn start(&self) -> Result<(Library, Vec<Diagnostic>), Vec<Diagnostic>> {
        Library::start(&self.tree(), &mut |path, _| self.list(path), &self.bindings())
    }

    /// Loads it again, over `library`, which was loaded when the texts were those of `before`: as if nothing were known of
    /// what changed, and as if it were; both ways must lead to the same.
    fn reload(&self, library: &Library, before: &Texts) -> Reloaded {
        let whole = library.reload(&self.tree(), &mut |path, _| self.list(path), &self.bindings());
        let mut tree = self.tree();
        let is_changed = |path: &&PathBuf| before.get(*path) != self.texts.get(*path);
        let is_policy = |path: &&PathBuf| path.extension().is_some_and(|it| it == "toml") && !path.ends_with(CONFIG);
        let changed = before.keys().chain(self.texts.keys()).filter(is_policy).filter(is_changed);
        tree.changed = Some(changed.cloned().collect());
        let mut list = |path: &Path, held| match held {
            MayBeUnchanged::Yes if before.get(path) == self.texts.get(path) => Ok(ListText::Unchanged),
            _ => self.list(path),
        };
        let short = library.reload(&tree, &mut list, &self.bindings());
        assert_eq!((short.swapped, &short.held_back), (whole.swapped, &whole.held_back));
        assert_eq!(lines(short.diagnostics.iter()), lines(whole.diagnostics.iter()));
        assert_same(short.library.snapshot(), whole.library.snapshot());
        short
    }

    /// Loads it for the first time and checks what is said; returns what is in force, if it is good.
    fn check_start(&self) -> Option<Library> {
        match self.start() {
            Err(diagnostics) => {
                assert!(diagnostics.iter().any(Diagnostic::is_error));
                places::check(&diagnostics, std::slice::from_ref(&self.texts));
                None
            }
            Ok((library, diagnostics)) => {
                assert!(!diagnostics.iter().any(Diagnostic::is_error));
                places::check(&diagnostics, std::slice::from_ref(&self.texts));
                self.check_same_again(&library, &lines(&diagnostics));
                self.check_damaged(&library);
                self.check_edited(&library);
                Some(library)
            }
        }
    }

    /// Reloads it and checks what changed; returns what is in force from now on.
    fn check_reload(&self, before: &Library) -> Library {
        let last = self.ever.len().checked_sub(2).and_then(|last| self.ever.get(last)).expect("it was loaded before");
        let reloaded = self.reload(before, last);
        // What is in force may be an older text than the one that is there.
        let texts = if reloaded.held_back.is_empty() { std::slice::from_ref(&self.texts) } else { &self.ever };
        places::check(reloaded.diagnostics.iter(), texts);
        let (old, new) = (before.snapshot(), reloaded.library.snapshot());
        assert_eq!(reloaded.swapped, !Arc::ptr_eq(old, new));
        assert_eq!(new.generation, old.generation + u64::from(reloaded.swapped));
        let has_errors = reloaded.diagnostics.has_errors();
        assert!(has_errors || reloaded.held_back.is_empty(), "held back without an error: {:?}", reloaded.held_back);
        assert!(!has_errors || !reloaded.held_back.is_empty(), "an error, and nothing is held back");
        match self.start() {
            // As if it had been started with what is there now.
            Ok((fresh, diagnostics)) if reloaded.held_back.is_empty() => {
                assert_same(fresh.snapshot(), new);
                assert_eq!(lines(&diagnostics), lines(reloaded.diagnostics.iter()));
            }
            Ok(_) => {}
            // What refers to a policy that went is an error at a start, and a warning later.
            Err(errors) => assert!(!reloaded.diagnostics.is_empty(), "{:?}", lines(&errors)),
        }
        self.check_same_again(&reloaded.library, &lines(reloaded.diagnostics.iter()));
        reloaded.library
    }

    /// Checks that a reload of the same changes nothing and says the same.
    fn check_same_again(&self, library: &Library, said: &[String]) {
        let again = self.reload(library, &self.texts);
        assert!(!again.swapped && Arc::ptr_eq(again.library.snapshot(), library.snapshot()), "nothing changed");
        assert_eq!(lines(again.diagnostics.iter()), said);
    }

    /// Checks that an edit that refers to nothing else is in force, as at a start.
    fn check_edited(&self, library: &Library) {
        for (path, text) in self.texts.iter().filter(|(path, _)| !path.ends_with(CONFIG)) {
            let mut edited = self.clone();
            let text = format!("# edited\n{}", text.replace("a.test", "c.test"));
            edited.texts.insert(path.clone(), text);
            let reloaded = edited.reload(library, &self.texts);
            if let Ok((fresh, diagnostics)) = edited.start() {
                assert_same(fresh.snapshot(), reloaded.library.snapshot());
                assert_eq!(lines(&diagnostics), lines(reloaded.diagnostics.iter()));
            }
            let back = self.reload(&reloaded.library, &edited.texts);
            assert_eq!(back.library.snapshot().hash, library.snapshot().hash, "it came back");
        }
    }

    /// Checks that a file that is half written, and then all of them, keep what is in force.
    fn check_damaged(&self, library: &Library) {
        let mut damaged = self.clone();
        let paths: Vec<_> = self.tree().files.iter().map(|(path, _)| path.to_path_buf()).collect();
        for path in paths {
            damaged.texts.entry(path.clone()).or_default().push_str("\n[[\n");
            let reloaded = damaged.reload(library, &self.texts);
            // A file in presets/ that is not right below it is not read.
            let is_read = path.components().count() < 4 || !path.starts_with("p/presets");
            assert!(!reloaded.swapped || !is_read, "{} is half written", path.display());
            assert_eq!(reloaded.held_back.contains(&path), is_read, "{}", path.display());
            places::check(reloaded.diagnostics.iter(), &[damaged.texts.clone(), self.texts.clone()]);
            let mended = self.reload(&reloaded.library, &damaged.texts);
            assert!(!mended.swapped && mended.held_back.is_empty(), "it came back to what is in force");
        }
    }
}

/// Asserts that two snapshots decide alike.
fn assert_same(one: &Snapshot, other: &Snapshot) {
    assert_eq!(one.hash, other.hash);
    for name in [
        "a.test",
        "c.test",
        "x.a.test",
        "b.test",
        "x.y.b.test",
        "registry.npmjs.org",
        "use-application-dns.net",
        "x.internal",
        "a.devbox.internal",
    ] {
        let name = LowerName::from_text(name).expect("a name");
        for source in ["192.0.2.1", "198.51.100.7", "2001:db8::1"] {
            let source = source.parse().expect("an address");
            let decided = |snapshot: &Snapshot| {
                let decision = snapshot.decide(&snapshot.asker(source, 0), &name, RecordType::A);
                let place = decision.rule.as_ref().map(|rule| rule.place().to_string());
                format!("{:?} {:?} {place:?} {}", decision.action, decision.reason, decision.explain())
            };
            assert_eq!(decided(one), decided(other), "{name} {source}");
        }
    }
}

/// Returns diagnostics as people see them.
fn lines<'d>(diagnostics: impl IntoIterator<Item = &'d Diagnostic>) -> Vec<String> {
    diagnostics.into_iter().map(ToString::to_string).collect()
}

/// The file that is no policy file.
const CONFIG: &str = "hostgate.toml";
