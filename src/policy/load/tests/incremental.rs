//! Tests that an incremental reload has the result of a full one.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use super::super::super::snapshot::Client;
use super::*;
use crate::policy::model::bindings::WithoutPolicy;
use crate::policy::model::spec::Phase;

/// The files that the edits in [`EDITS`] change.
const MANY: &[(&str, &str)] = &[
    ("a.toml", A),
    ("base.toml", "[policy.base]\nallowed_hostnames = [\"base.test\"]\n[policy.own]\n"),
    (
        "c.toml",
        "[policy.c]\ninclude = [\"base\"]\nallowed_hostnames_files = [\"l.txt\"]\n[blueprint.b]\nruntime_policy = \"c\"\n\
         [client.c]\nsources = [\"192.0.2.9\"]\nblueprint = \"b\"\n[[test]]\nclient = \"c\"\nname = \"base.test\"\nexpect = \"allow\"\n",
    ),
    ("l.txt", "l.test\n"),
];

/// The edits: a file, a piece of its text, its replacement, and whether an incremental reload handles it.
const EDITS: &[(&str, &str, &str, bool)] = &[
    ("a.toml", "\"a.test\"", "\"other.test\"", true),
    ("c.toml", "include", "denied_hostnames = [\"l.test\"]\ninclude", true),
    ("c.toml", "[client.c]", "# a comment\n\n[client.c]", true),
    ("c.toml", "include", "mode = \"audit\"\ninclude", true),
    // The file, or another one, gets a diagnostic.
    ("a.toml", "\"a.test\"", "\"a.test\", \"*.strange.github.io\", \"*.github.io\"", true),
    ("base.toml", "base.test", "base2.test", false),
    ("base.toml", "[policy.own]\n", "[policy.own]\nmode = \"audit\"\n", false),
    // Ids, references, sources, and tests that fail.
    ("a.toml", "[policy.a]", "[policy.more]\n[policy.a]", true),
    ("c.toml", "runtime_policy", "build_policy", true),
    ("c.toml", "192.0.2.9", "192.0.2.10", true),
    ("c.toml", "include = [\"base\"]", "include = []", false),
    ("c.toml", "include = [\"base\"]", "denied_hostnames = [\"base.test\"]\ninclude = [\"base\"]", false),
    ("c.toml", "blueprint = \"b\"", "policy = \"a\"", false),
    // Bad edits, some only together with other files.
    ("c.toml", "include", "include = 1\ninclude", false),
    ("c.toml", "\"base\"", "\"bse\"", false),
    ("c.toml", "192.0.2.9", "192.0.2.1", false),
    ("l.txt", "l.test", "m.test", false),
    ("l.txt", "l.test", "", false),
];

/// Returns the full result of a reload as lines.
fn outcome(reloaded: &Reloaded) -> Vec<String> {
    let snapshot = reloaded.library.snapshot();
    let mut all = vec![format!("{} {} {}", snapshot.generation, snapshot.hash, reloaded.swapped)];
    all.extend(lines(reloaded.diagnostics.iter()));
    all.push(format!("{:?}", reloaded.held_back));
    all.extend(lines(reloaded.library.refused_at_start()));
    all.extend(lines(reloaded.library.failing_tests()));
    for source in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.9", "192.0.2.10", "192.0.2.20"] {
        for name in ["a.test", "other.test", "base.test", "base2.test", "l.test", "m.test"] {
            let decision = ask(snapshot, source, name);
            all.push(format!("{source} {name} {} {:?}", decision.explain(), decision.rule.map(|rule| rule.place())));
        }
    }
    for client in snapshot.clients() {
        let policy = client.asker().policy().map(|policy| format!("{} {}", policy.id(), policy.place()));
        let found = snapshot.client(client.id()).map(Client::place);
        all.push(format!("{} {} {policy:?} {found:?}", client.id(), client.place()));
    }
    all.extend(snapshot.blueprints().map(|it| format!("{} {} {:?}", it.id(), it.place(), it.policy(Phase::Build))));
    all.extend(snapshot.policies().map(|it| format!("{} {} {}", it.id(), it.place(), it.allowed().iter().count())));
    all.extend(snapshot.records().map(|record| format!("{} {}", record.id(), record.place())));
    all
}

/// Replaces a piece of text in a file, and declares that no other file has changed.
fn edit(directory: &mut Directory, file: &str, from: &str, to: &str) {
    let path = Path::new("p").join(file);
    let is_list = path.extension().is_some_and(|extension| extension == "txt");
    let text = if is_list { directory.lists.get(&path) } else { directory.tree.files.get(&path) };
    let text = text.unwrap().clone().unwrap().replacen(from, to, 1);
    directory.write(file, &text);
    directory.tree.changed = Some(if is_list { [].into() } else { [path].into() });
    directory.lists_are_as_before = !is_list;
}

#[test]
fn changes_without_errors_or_includes_are_incremental() {
    for &(file, from, to, is_local) in EDITS.iter().filter(|edit| edit.0 != "l.txt") {
        let mut directory = Directory::of(MANY);
        directory.bindings.without_policy = WithoutPolicy::Unrestricted;
        let library = directory.library();
        edit(&mut directory, file, from, to);
        let changed = directory.tree.changed.clone().unwrap();
        let reloaded = library.advance_incrementally(&directory.tree, &changed, &directory.bindings);
        assert_eq!(reloaded.is_some(), is_local, "{file}: {from} to {to}");
    }
}

#[test]
fn incremental_reloads_have_the_result_of_full_ones() {
    for &(first, from, to, _) in EDITS {
        for &(second, again, then, _) in EDITS {
            let mut directory = Directory::of(MANY);
            directory.default_policy("a");
            let (mut with, mut without) = (directory.library(), directory.library());
            // Each reload starts from the result of the previous one; the last edit undoes the first one.
            for (file, from, to) in [(first, from, to), (second, again, then), (first, to, from)] {
                edit(&mut directory, file, from, to);
                let one = directory.reload(&with);
                (directory.tree.changed, directory.lists_are_as_before) = (None, false);
                let other = directory.reload(&without);
                assert_eq!(outcome(&one), outcome(&other), "{first}: {from} to {to}, then {second}: {again} to {then}");
                (with, without) = (one.library, other.library);
            }
        }
    }
}

/// Reloads both incrementally and in full, and asserts equal results. Returns both libraries, and whether the
/// incremental reload was possible.
fn reload_both_ways(
    directory: &mut Directory,
    (with, without): &(Library, Library),
    changed: &[&str],
) -> (Library, Library, bool) {
    let changed: BTreeSet<PathBuf> = changed.iter().map(|path| Path::new("p").join(path)).collect();
    directory.lists_are_as_before = true;
    let is_short =
        with.baseline.is_some() && with.advance_incrementally(&directory.tree, &changed, &directory.bindings).is_some();
    directory.tree.changed = Some(changed);
    let short = directory.reload(with);
    (directory.tree.changed, directory.lists_are_as_before) = (None, false);
    let whole = directory.reload(without);
    assert_eq!(outcome(&short), outcome(&whole), "{:#?}", directory.tree.files);
    if let Ok((fresh, told)) = directory.start()
        && short.held_back.is_empty()
    {
        assert_eq!(fresh.snapshot().hash, short.library.snapshot().hash);
        assert_eq!(lines(&told), lines(short.diagnostics.iter()));
    }
    (short.library, whole.library, is_short)
}

#[test]
fn usual_changes_of_the_api_are_incremental() {
    // Without an `[api.ID]` table the policy gets the warning that nothing refers to it.
    let policy = "[policy.npol_1]\nallowed_hostnames = [\"a.test\"]\n";
    let blueprint = "[blueprint.bpt_1]\nruntime_policy = \"npol_1\"\n[api.bpt_1]\nstatus = \"building\"\n";
    let build = "[client.bpt_1-build]\nsources = [\"192.0.2.30\"]\nblueprint = \"bpt_1\"\nphase = \"build\"\n";
    let devbox = "[client.dbx_1]\nsources = [\"192.0.2.20\"]\nblueprint = \"bpt_1\"\n[api.dbx_1]\n";
    let other = "[client.dbx_2]\nsources = [\"192.0.2.2\"]\nblueprint = \"bpt_1\"\nphase = \"build\"\n";
    let open = blueprint.replace("runtime_policy", "build_policy");
    let steps = [
        ("npol_1", policy.to_owned(), 1),
        // A client refers to the policy now.
        ("bpt_1", format!("{blueprint}{build}"), 1),
        ("dbx_0", other.to_owned(), 1),
        ("bpt_1", blueprint.to_owned(), 1),
        ("dbx_1", devbox.to_owned(), 1),
        ("npol_1", policy.replace("a.test", "other.test"), 1),
        ("npol_1", format!("{policy}denied_hostnames = [\"*.b.test\"]\n"), 2),
        ("bpt_1", open, 2),
        ("bpt_1", blueprint.replace("npol_1", "unrestricted"), 3),
        ("bpt_1", blueprint.to_owned(), 2),
        // The first of two clients is removed whose blueprint has no policy for them.
        ("dbx_3", other.replace("_2", "_3").replace("2.2", "2.3"), 2),
        ("dbx_0", String::new(), 2),
        // An address moves from one devbox to another.
        ("dbx_1", "[api.dbx_1]\nstatus = \"shutdown\"\n".to_owned(), 2),
        ("dbx_4", devbox.replace("dbx_1", "dbx_4"), 2),
        ("dbx_4", String::new(), 2),
        ("dbx_3", String::new(), 1),
        ("bpt_1", String::new(), 2),
        ("npol_1", String::new(), 0),
    ];
    let mut directory = Directory::of(MANY);
    directory.bindings.without_policy = WithoutPolicy::Unrestricted;
    let mut libraries = (directory.library(), directory.library());
    let first = libraries.0.baseline.as_ref().unwrap().diagnostics.len();
    for (index, (name, text, told)) in steps.iter().enumerate() {
        let path = format!("api/{name}.toml");
        if text.is_empty() {
            directory.remove(&path)
        } else {
            directory.write(&path, text)
        };
        let (with, without, is_short) = reload_both_ways(&mut directory, &libraries, &[&path]);
        assert!(is_short, "step {index}");
        let now: Vec<_> = lines(with.baseline.as_ref().unwrap().diagnostics.iter());
        assert_eq!(now.len(), first + told, "step {index}: {now:#?}");
        libraries = (with, without);
    }
}

#[test]
fn clients_without_a_policy_get_the_default_one_in_both_reloads() {
    let bare = "[blueprint.bare]\n[client.d]\nsources = [\"192.0.2.20\"]\nblueprint = \"bare\"\n";
    let own = "[client.e]\nsources = [\"192.0.2.10\"]\n[api.e]\n";
    for (default, expected) in [(Some("a"), ["allow rule", "deny not-listed"]), (None, ["deny no-policy"; 2])] {
        let mut directory = Directory::of(MANY);
        if let Some(default) = default {
            directory.default_policy(default);
        }
        let mut libraries = (directory.library(), directory.library());
        let changed = A.replace("a.test", "other.test");
        for (path, text) in [("d.toml", bare), ("api/e.toml", own), ("a.toml", &changed), ("d.toml", bare)] {
            directory.write(path, text);
            let (with, without, is_short) = reload_both_ways(&mut directory, &libraries, &[path]);
            assert!(is_short, "{path}");
            libraries = (with, without);
        }
        for source in ["192.0.2.20", "192.0.2.10"] {
            let snapshot = libraries.0.snapshot();
            assert_eq!(["other.test", "a.test"].map(|name| verdict(snapshot, source, name)), expected, "{source}");
        }
        // The file of the default policy is deleted: no client becomes unrestricted by that.
        directory.bindings.without_policy = WithoutPolicy::Unrestricted;
        directory.remove("a.toml");
        let gone = directory.reload(&libraries.0);
        let expected = if default.is_some() { "deny policy-gone" } else { "allow unrestricted" };
        assert_eq!(verdict(gone.library.snapshot(), "192.0.2.10", "x.test"), expected);
    }
}

#[test]
fn a_bad_file_leaves_reloads_of_others_incremental() {
    let mut directory = Directory::of(MANY);
    directory.default_policy("a");
    let mut libraries = (directory.library(), directory.library());
    let devbox = "[client.dbx_1]\nsources = [\"192.0.2.20\"]\npolicy = \"a\"\n";
    for (file, text, is_short) in [
        ("bad.toml", "[policy.x]\nallowed_hostnames = [\"*\"]\n", false),
        ("api/dbx_1.toml", devbox, true),
        ("bad.toml", "[policy.x]\nallowed_hostnames = [\"*\"]\n", true),
        ("api/dbx_1.toml", "", true),
        // A file that was fixed may affect others.
        ("bad.toml", "[policy.x]\nallowed_hostnames = [\"x.test\"]\n", false),
        ("api/dbx_1.toml", devbox, true),
        // The old version stays in force, also for objects that refer to it.
        ("bad.toml", "[policy.x]\nallowed_hostnames = [\"*\"]\n", false),
        ("api/dbx_1.toml", "[client.dbx_1]\nsources = [\"192.0.2.20\"]\npolicy = \"x\"\n", true),
        ("api/dbx_1.toml", "", true),
        // The file is bad only together with others.
        ("bad.toml", "[policy.a]\n", false),
        ("api/dbx_1.toml", devbox, false),
    ] {
        if text.is_empty() {
            directory.remove(file)
        } else {
            directory.write(file, text)
        };
        let (with, without, was_short) = reload_both_ways(&mut directory, &libraries, &[file]);
        assert_eq!(was_short, is_short, "{file}: {text}");
        libraries = (with, without);
    }
}

#[test]
fn an_unchanged_file_changes_nothing() {
    let mut directory = Directory::of(MANY);
    let library = directory.library();
    directory.tree.changed = Some(["p/a.toml", "p/nothing.toml"].map(PathBuf::from).into());
    let changed = directory.tree.changed.clone().unwrap();
    let reloaded = library.advance_incrementally(&directory.tree, &changed, &directory.bindings).unwrap();
    assert!(!reloaded.swapped && Arc::ptr_eq(library.snapshot(), reloaded.library.snapshot()));
    directory.lists_are_as_before = true;
    assert_eq!(outcome(&directory.reload(&library)), outcome(&reloaded));
}

/// A pseudo-random sequence, the same in each run (xorshift64).
struct Numbers(u64);

impl Numbers {
    /// Returns a number below `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 16) % end
    }

    /// Returns an id of a kind, usually one that exists.
    fn id(&mut self, directory: &Directory, kind: &str, letter: char) -> String {
        loop {
            let id = format!("{letter}{}", self.below(FILES));
            let mut texts = directory.tree.files.iter().filter_map(|(_, text)| text.as_ref().ok());
            if texts.any(|text| text.contains(&format!("[{kind}.{id}]"))) || self.below(30) == 0 {
                return id;
            }
        }
    }

    /// Returns the text of a random file.
    fn file(&mut self, directory: &Directory, own: u64) -> String {
        let mut text = String::new();
        let number = |numbers: &mut Self| if numbers.below(25) == 0 { numbers.below(FILES) } else { own };
        if self.below(3) > 0 {
            let name =
                ["a.test", "*.a.test", "base.test", "b.test\", \"b.test"][usize::try_from(self.below(4)).unwrap()];
            let above = ["", "# hostgate: accept unused: it is new\n"][usize::from(self.below(4) == 0)];
            let beside = ["", " # hostgate: accept duplicate: for show", " # hostgate: accept covered"];
            let beside = beside[usize::try_from(self.below(6).saturating_sub(3)).unwrap()];
            writeln!(text, "{above}[policy.p{}]\nallowed_hostnames = [\"{name}\"]{beside}", number(self)).unwrap();
            match self.below(16) {
                0 => writeln!(text, "include = [\"{}\"]", self.id(directory, "policy", 'p')).unwrap(),
                1 => text.push_str("include = [\"preset:npm\"]\n"),
                2 => text.push_str("denied_hostnames_files = [\"l.txt\"]\n"),
                3 => text.push_str("allow_all = true\n"),
                4 => text.push_str("denied_hostnames = [\"*.d.test\", \"a.test\"]\n"),
                5 => text.push_str("denied_hostnames_files = [\"w.txt\"] # hostgate: accept wildcard-alone: theirs\n"),
                6 => text.push_str("allowed_hostnames_files = [{ path = \"w.txt\", subdomains = true }]\n"),
                _ => {}
            }
        }
        if self.below(2) > 0 {
            let above = ["", "# hostgate: accept without-policy: later\n"][usize::from(self.below(3) == 0)];
            writeln!(text, "{above}[blueprint.b{}]", number(self)).unwrap();
            for key in ["build_policy", "runtime_policy"] {
                if self.below(2) > 0 {
                    writeln!(text, "{key} = \"{}\"", self.id(directory, "policy", 'p')).unwrap();
                }
            }
        }
        if self.below(3) > 0 {
            writeln!(text, "[client.c{}]\nsources = [\"192.0.2.{}\"]", number(self), number(self)).unwrap();
            if self.below(3) > 0 {
                writeln!(text, "blueprint = \"{}\"", self.id(directory, "blueprint", 'b')).unwrap();
            } else {
                writeln!(text, "policy = \"{}\"", self.id(directory, "policy", 'p')).unwrap();
            }
            text.push_str(if self.below(3) == 0 { "phase = \"build\"\n" } else { "" });
        }
        if self.below(2) == 0 {
            writeln!(text, "[api.r{}]\nx = {}", number(self), self.below(9)).unwrap();
        }
        if self.below(12) == 0 {
            let (client, expect) =
                (self.id(directory, "client", 'c'), ["allow", "deny"][usize::from(self.below(3) == 0)]);
            writeln!(text, "[[test]]\nclient = \"{client}\"\nname = \"a.test\"\nexpect = \"{expect}\"").unwrap();
        }
        text.push_str(if self.below(15) == 0 { "[[\n" } else { "" });
        text
    }
}

/// The number of files in a random tree, each with ids of its own.
const FILES: u64 = 7;

#[test]
fn random_trees_have_the_same_result_in_both_reloads() {
    const BASE: &str = "[policy.p0]\nallowed_hostnames = [\"a.test\"]\n[blueprint.b0]\nruntime_policy = \"p0\"\n\
                        [client.c0]\nsources = [\"192.0.2.0\"]\nblueprint = \"b0\"\n";
    let mut taken = [0; 2];
    for seed in 1..=SEEDS {
        let mut numbers = Numbers(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut directory = Directory::of(&[("0.toml", BASE), ("l.txt", "l.test\n"), ("w.txt", "*.w.test\n")]);
        if seed % 3 == 0 {
            directory.default_policy("p0");
        }
        let mut libraries = (directory.library(), directory.library());
        for _ in 0..STEPS {
            let mut changed = Vec::new();
            for _ in 0..=numbers.below(5) / 3 {
                let own = numbers.below(FILES);
                let path = format!("{own}.toml");
                let text = if numbers.below(5) == 0 { String::new() } else { numbers.file(&directory, own) };
                if text.is_empty() {
                    directory.remove(&path)
                } else {
                    directory.write(&path, &text)
                };
                changed.push(path);
            }
            let changed: Vec<&str> = changed.iter().map(String::as_str).collect();
            let (with, without, is_short) = reload_both_ways(&mut directory, &libraries, &changed);
            taken[usize::from(is_short)] += 1;
            libraries = (with, without);
            // Files that are held back are fixed soon, or all later reloads would be full ones.
            let bad: Vec<FilePath> = libraries
                .0
                .files
                .iter()
                .filter(|(_, file)| !matches!(file, StoredFile::InForce(..)))
                .map(|it| it.0.clone())
                .collect();
            if numbers.below(4) > 0 && !bad.is_empty() {
                for path in &bad {
                    let file = libraries.0.files.get(path).and_then(|file| file.in_force());
                    match file {
                        Some(file) => {
                            directory.tree.files.insert(Arc::clone(&path.0), Ok(Arc::clone(file.source.text())));
                        }
                        None => directory.tree.files.remove(&path.0),
                    }
                }
                let bad: Vec<&str> = bad.iter().map(|path| path.strip_prefix("p").unwrap().to_str().unwrap()).collect();
                let (with, without, _) = reload_both_ways(&mut directory, &libraries, &bad);
                libraries = (with, without);
            }
        }
    }
    // Most random files have something that is warned about.
    assert!(taken[1] * 4 > taken[0], "the short way was seldom taken: {taken:?}");
}

/// The number of random trees.
const SEEDS: u64 = 60;
/// The number of reloads of each tree.
const STEPS: usize = 25;
