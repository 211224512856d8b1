//! Tests of the ways in which a change of files can go into force or be held back.

use super::super::snapshot::ApiTable;
use super::super::testing::{Directory, ask, lines, verdict};
use super::*;
use crate::document::Source;
use crate::policy::model::bindings::Binding;

/// A policy and its client.
const A: &str = "[policy.a]\nallowed_hostnames = [\"a.test\"]\n[client.a]\nsources = [\"192.0.2.1\"]\npolicy = \"a\"\n";

/// Another policy and its client.
const B: &str = "[policy.b]\nallowed_hostnames = [\"b.test\"]\n[client.b]\nsources = [\"192.0.2.2\"]\npolicy = \"b\"\n";

/// Returns a directory with both.
fn both() -> Directory {
    Directory::of(&[("a.toml", A), ("b.toml", B)])
}

/// Returns the paths held back, below `p/`.
fn held_back(reloaded: &Reloaded) -> Vec<String> {
    let below = |path: &PathBuf| path.strip_prefix("p").unwrap_or(path).to_string_lossy().into_owned();
    reloaded.held_back.iter().map(below).collect()
}

/// Returns the errors of a reload as lines.
fn errors(reloaded: &Reloaded) -> Vec<String> {
    lines(reloaded.diagnostics.errors())
}

#[test]
fn the_first_snapshot_is_generation_one_and_its_hash_is_of_the_content() {
    let library = both().library();
    assert_eq!(library.snapshot().generation, 1);
    assert_eq!(library.snapshot().hash, both().library().snapshot().hash);
    let mut elsewhere = Directory::default();
    elsewhere.tree.root = "/somewhere/else".into();
    for (path, text) in both().tree.files.iter() {
        let path = Path::new("/somewhere/else").join(path.strip_prefix("p").unwrap());
        elsewhere.tree.files.insert(path, text.clone());
    }
    assert_eq!(elsewhere.library().snapshot().hash, library.snapshot().hash);
    assert_ne!(both().default_policy("a").library().snapshot().hash, library.snapshot().hash);
}

#[test]
fn the_same_content_swaps_nothing() {
    let library = both().library();
    let reloaded = both().reload(&library);
    assert!(!reloaded.swapped);
    assert!(Arc::ptr_eq(reloaded.library.snapshot(), library.snapshot()));
    assert_eq!(errors(&reloaded), [""; 0]);
}

#[test]
fn a_change_goes_into_force_with_the_next_generation() {
    let mut directory = both();
    let library = directory.library();
    directory.write("a.toml", &A.replace("a.test", "new.test"));
    let reloaded = directory.reload(&library);
    assert!(reloaded.swapped);
    let snapshot = reloaded.library.snapshot();
    assert_eq!(snapshot.generation, 2);
    assert_ne!(snapshot.hash, library.snapshot().hash);
    assert_eq!(verdict(snapshot, "192.0.2.1", "new.test"), "allow rule");
    assert_eq!(verdict(snapshot, "192.0.2.1", "a.test"), "deny not-listed");
    assert_eq!(verdict(library.snapshot(), "192.0.2.1", "a.test"), "allow rule");
    let unchanged = |library: &Library| Arc::as_ptr(library.snapshot().policies.get("b").unwrap());
    assert_eq!(unchanged(&reloaded.library), unchanged(&library));
}

#[test]
fn a_bad_file_holds_back_only_itself() {
    const BAD: &[&str] = &[
        "",
        "# nothing\n",
        "[policy]\n",
        "[policy.a",
        "[policy.a]\nallowed_hostnames = [\"*\"]\n",
        "[policy.a]\nalow_all = true\n",
        "[client.a]\nsources = [\"192.0.2.1\"]\n",
    ];
    for bad in BAD {
        let mut directory = both();
        let library = directory.library();
        directory.write("a.toml", bad).write("b.toml", &B.replace("b.test", "new.test"));
        let reloaded = directory.reload(&library);
        let snapshot = reloaded.library.snapshot();
        assert_eq!(held_back(&reloaded), ["a.toml"], "{bad:?}");
        assert!(errors(&reloaded).iter().all(|line| line.starts_with("p/a.toml")), "{bad:?}: {:?}", errors(&reloaded));
        assert!(!errors(&reloaded).is_empty(), "{bad:?}");
        assert_eq!(verdict(snapshot, "192.0.2.1", "a.test"), "allow rule", "{bad:?}");
        assert_eq!(verdict(snapshot, "192.0.2.2", "new.test"), "allow rule", "{bad:?}");
        // The error is reported again while the file stays bad, and nothing is swapped.
        let again = directory.reload(&reloaded.library);
        assert!(!again.swapped);
        assert_eq!((held_back(&again), errors(&again)), (held_back(&reloaded), errors(&reloaded)));
        // Once its old text is restored, the file is in force as it is.
        let mended = directory.write("a.toml", A).reload(&again.library);
        assert!(!mended.swapped && mended.held_back.is_empty());
        let other = directory.write("a.toml", &A.replace("a.test", "other.test")).reload(&mended.library);
        assert_eq!(verdict(other.library.snapshot(), "192.0.2.1", "other.test"), "allow rule");
        assert_eq!(other.library.snapshot().generation, 3);
    }
}

#[test]
fn a_bad_file_makes_the_first_load_fail_with_all_errors() {
    let errors = Directory::of(&[
        ("a.toml", "[policy.a]\nallowed_hostnames = [\"*\", \"ok.test\", \"*.com\"]\n"),
        ("b.toml", "[client.b]\nsources = [\"192.0.2.1\"]\npolicy = \"nope\"\n"),
        ("c.toml", ""),
    ])
    .errors();
    let starts = ["p/a.toml:2:22: ", "p/a.toml:2:38: ", "p/b.toml:3:10: ", "p/c.toml: "];
    let found: Vec<_> = errors.iter().filter(|line| !line.contains("nothing refers")).collect();
    assert_eq!(found.len(), starts.len(), "{found:#?}");
    for (line, start) in found.iter().zip(starts) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn a_file_that_cannot_be_read_stays_as_it_was() {
    let mut directory = both();
    let library = directory.library();
    directory.tree.files.insert(Path::new("p/a.toml"), Err("permission denied".to_owned()));
    let reloaded = directory.reload(&library);
    assert_eq!(held_back(&reloaded), ["a.toml"]);
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "a.test"), "allow rule");
    assert!(errors(&reloaded)[0].starts_with("p/a.toml: the file cannot be read: permission denied"));
    assert!(directory.start().is_err());
    let again = both().reload(&reloaded.library);
    assert!(!again.swapped && again.held_back.is_empty());
}

#[test]
fn files_below_an_unreadable_folder_stay_in_force() {
    let directory = Directory::of(&[("a.toml", A), ("sub/b.toml", B)]);
    let library = directory.library();
    let mut hidden = directory.clone();
    hidden.remove("sub/b.toml").tree.unreadable.insert("p/sub".into(), "permission denied".to_owned());
    let reloaded = hidden.reload(&library);
    assert!(!reloaded.swapped);
    assert_eq!(held_back(&reloaded), ["sub"]);
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.2", "b.test"), "allow rule");
}

#[test]
fn a_new_bad_file_changes_nothing() {
    let mut directory = both();
    let library = directory.library();
    let reloaded = directory.write("c.toml", "[policy.c]\nmode = \"of\"\n").reload(&library);
    assert!(!reloaded.swapped);
    assert_eq!(held_back(&reloaded), ["c.toml"]);
}

#[test]
fn a_duplicate_id_names_both_places_and_holds_back_the_changed_file() {
    let mut directory = both();
    let library = directory.library();
    let reloaded = directory.write("0.toml", "[policy.a]\nallow_all = true\n").reload(&library);
    assert!(!reloaded.swapped);
    assert_eq!(held_back(&reloaded), ["0.toml"]);
    let error =
        "p/0.toml:1:9: policy `a` is defined twice: rename or remove one of them (p/a.toml:1:9: first defined here)";
    assert_eq!(errors(&reloaded), [error]);
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "x.test"), "deny not-listed");

    // Once the other file no longer defines the id, the file held back goes into force without being touched.
    directory.write("a.toml", "[client.a]\nsources = [\"192.0.2.1\"]\npolicy = \"a\"\n");
    let reloaded = directory.reload(&reloaded.library);
    assert!(reloaded.swapped && reloaded.held_back.is_empty(), "{:?}", errors(&reloaded));
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "x.test"), "allow allow-all");
}

#[test]
fn two_changed_files_with_the_same_new_id_are_both_held_back() {
    let mut directory = both();
    let library = directory.library();
    let c = "\n[policy.c]\nallow_all = true\n";
    directory.write("a.toml", &(A.replace("a.test", "x.test") + c)).write("b.toml", &(B.to_owned() + c));
    let reloaded = directory.reload(&library);
    assert!(!reloaded.swapped);
    assert_eq!(held_back(&reloaded), ["a.toml", "b.toml"]);
}

#[test]
fn file_that_claims_what_another_one_has_in_force_does_not_hold_that_one_back() {
    let owner = format!("{B}[blueprint.b]\n[api.b]\nname = 'x'\n");
    for claim in [
        "[policy.b]\nallow_all = true\n",
        "[blueprint.b]\n",
        "[client.b]\nsources = ['192.0.2.9']\n",
        "[client.x]\nsources = ['192.0.2.2']\npolicy = 'a'\n",
        "[api.b]\n",
    ] {
        // The paths of the claiming file are before and after that of the owner.
        for path in ["a.toml", "z.toml"] {
            let mut directory = Directory::of(&[(path, A), ("b.toml", &owner)]);
            let library = directory.library();
            directory.write(path, &format!("{A}{claim}")).write("b.toml", &owner.replace("b.test", "y.test"));
            let reloaded = directory.reload(&library);
            assert_eq!(held_back(&reloaded), [path], "{claim}");
            let text = reloaded.library.text_in_force(Path::new("p/b.toml")).unwrap();
            assert!(reloaded.swapped && text.contains("y.test"), "{claim}");
            let errors = errors(&reloaded);
            assert!(
                !errors.is_empty() && errors.iter().all(|error| error.starts_with(&format!("p/{path}:"))),
                "{errors:?}"
            );
        }
    }
}

#[test]
fn blueprints_and_clients_cannot_be_defined_twice_either() {
    let client = "[client.c]\nsources = [\"192.0.2.1\"]\npolicy = \"unrestricted\"\n";
    let twin = "[client.c]\nsources = [\"192.0.2.2\"]\npolicy = \"unrestricted\"\n";
    let errors = Directory::of(&[("1.toml", client), ("2.toml", twin)]).errors();
    assert!(errors[0].starts_with("p/2.toml:1:9: client `c` is defined twice"), "{errors:?}");
    let errors = Directory::of(&[("1.toml", "[blueprint.b]\n"), ("2.toml", "[blueprint.b]\n")]).errors();
    assert!(errors[0].starts_with("p/2.toml:1:12: blueprint `b` is defined twice"), "{errors:?}");
}

#[test]
fn equal_prefixes_in_two_clients_are_an_error() {
    let mut directory = both();
    let library = directory.library();
    let other = "[client.c]\nsources = [\"203.0.113.0/24\", \"::ffff:192.0.2.2\"]\npolicy = \"unrestricted\"\n";
    let reloaded = directory.write("0.toml", other).reload(&library);
    assert_eq!(held_back(&reloaded), ["0.toml"]);
    assert!(errors(&reloaded)[0].starts_with("p/0.toml:2:30: source `192.0.2.2/32` is in two clients"));
    assert!(errors(&reloaded)[0].ends_with("(p/b.toml:4:12: also in client `b`)"), "{:?}", errors(&reloaded));
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.2", "x.test"), "deny not-listed");
}

#[test]
fn undefined_references_are_errors_with_a_suggestion() {
    const CASES: &[(&str, &str)] = &[
        (
            "[policy.p]\ninclude = [\"presett:npm\"]\n",
            "p/x.toml:2:12: unknown policy `presett:npm`: define `[policy.ID]` with this id, or write another id",
        ),
        (
            "[policy.p]\ninclude = [\"preset:nmp\"]\n",
            "p/x.toml:2:12: unknown preset `preset:nmp`: did you mean \"preset:npm\"?",
        ),
        ("[policy.p]\ninclude = [\"npm\"]\n", "p/x.toml:2:12: unknown policy `npm`: did you mean \"preset:npm\"?"),
        ("[blueprint.b]\nbuild_policy = \"aa\"\n", "p/x.toml:2:16: unknown policy `aa`: did you mean \"a\"?"),
        (
            "[client.c]\nsources = [\"192.0.2.9\"]\nblueprint = \"zzzzz\"\n",
            "p/x.toml:3:13: unknown blueprint `zzzzz`: define `[blueprint.ID]` with this id, or write another id",
        ),
        (
            "[client.c]\nsources = [\"192.0.2.9\"]\npolicy = \"unrestrictd\"\n",
            "p/x.toml:3:10: unknown policy `unrestrictd`: did you mean \"unrestricted\"?",
        ),
        (
            "[[test]]\nclient = \"bb\"\nname = \"x.test\"\nexpect = \"deny\"\n",
            "p/x.toml:2:10: unknown client `bb`: did you mean \"b\"?",
        ),
    ];
    for (text, expected) in CASES {
        let mut directory = both();
        let library = directory.library();
        let reloaded = directory.write("x.toml", text).reload(&library);
        assert_eq!(errors(&reloaded), [*expected]);
        assert!(!reloaded.swapped, "{text}");
        assert!(directory.start().is_err(), "{text}");
    }
    let unknown = Directory::of(&[("x.toml", "[policy.p]\ninclude = [\"preset:nothing-like-it\"]\n")]).errors();
    assert!(unknown[0].contains("known presets are preset:alpine, preset:anthropic"), "{unknown:?}");
    let unknown = both().default_policy("c").errors();
    assert!(unknown[0].contains("unknown policy `c`"), "{unknown:?}");
}

#[test]
fn an_include_cycle_holds_back_the_file_that_closes_it() {
    let mut directory = Directory::of(&[
        ("1.toml", "[policy.x]\ninclude = [\"y\"]\n"),
        ("2.toml", "[policy.y]\nallowed_hostnames = [\"y.test\"]\n"),
    ]);
    directory.default_policy("x");
    let library = directory.library();
    let reloaded = directory.write("2.toml", "[policy.y]\ninclude = [\"x\"]\n").reload(&library);
    assert_eq!(held_back(&reloaded), ["2.toml"]);
    assert!(
        errors(&reloaded)[0].starts_with("p/2.toml:2:12: policies include one another in a cycle: x > y > x"),
        "{:?}",
        errors(&reloaded)
    );
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "y.test"), "allow rule");
    let own = Directory::of(&[("1.toml", "[policy.x]\ninclude = [\"x\"]\n")]).errors();
    assert!(own.iter().any(|line| line.contains("x > x")), "{own:?}");
}

#[test]
fn include_chains_may_have_sixteen_includes() {
    use std::fmt::Write as _;
    let chain = |length: usize| {
        let mut text = String::from("[policy.p0]\nallowed_hostnames = [\"deep.test\"]\n");
        for index in 1..=length {
            writeln!(text, "[policy.p{index}]\ninclude = [\"p{}\"]", index - 1).unwrap();
        }
        let mut directory = Directory::of(&[("1.toml", &text)]);
        directory.default_policy(&format!("p{length}"));
        directory
    };
    assert_eq!(verdict(chain(16).library().snapshot(), "192.0.2.1", "deep.test"), "allow rule");
    // A long chain gets one error, and is searched in linear time.
    let errors = chain(5_000).errors();
    assert_eq!(errors.len(), 1, "{errors:?}");
    assert!(errors[0].starts_with("p/1.toml:36:12: policy `p17` includes others more than 16 deep: "), "{errors:?}");
}

#[test]
fn chain_that_gets_too_long_below_an_unchanged_file_holds_back_the_changed_one() {
    let chain = |from: usize, to: usize| -> String {
        let policy = |index: usize| format!("[policy.p{index}]\ninclude = [\"p{}\"]\n", index + 1);
        (from..=to).map(policy).collect::<Vec<_>>().concat()
    };
    let end = |index: usize| format!("[policy.p{index}]\nallowed_hostnames = [\"deep.test\"]\n");
    let mut directory = Directory::of(&[("1.toml", &chain(0, 3)), ("2.toml", &(chain(4, 15) + &end(16)))]);
    let library = directory.default_policy("p0").library();
    let reloaded = directory.write("3.toml", A).write("2.toml", &(chain(4, 16) + &end(17))).reload(&library);
    assert_eq!(held_back(&reloaded), ["2.toml"]);
    let told = errors(&reloaded);
    assert!(told.len() == 1 && told[0].contains("policy `p0` includes others more than 16 deep"), "{told:?}");
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "a.test"), "allow rule");
    let mended = directory.write("2.toml", &end(4)).reload(&reloaded.library);
    assert!(mended.swapped && mended.held_back.is_empty(), "{:?}", errors(&mended));
}

#[test]
fn a_file_that_no_longer_defines_a_used_id_is_held_back() {
    let mut directory =
        Directory::of(&[("a.toml", A), ("shared.toml", "[policy.s]\nallowed_hostnames = [\"s.test\"]\n")]);
    directory.write("c.toml", "[client.c]\nsources = [\"192.0.2.3\"]\npolicy = \"s\"\n");
    let library = directory.library();
    let reloaded = directory.write("shared.toml", "[policy.t]\nallow_all = true\n").reload(&library);
    assert!(!reloaded.swapped);
    assert_eq!(held_back(&reloaded), ["shared.toml"]);
    assert!(
        errors(&reloaded)[0].starts_with("p/c.toml:3:10: policy `s` is no longer defined"),
        "{:?}",
        errors(&reloaded)
    );
    assert!(errors(&reloaded)[0].ends_with("(p/shared.toml:1:9: it was defined here)"));
    // If the client changes in the same reload, both go into force.
    directory.write("c.toml", "[client.c]\nsources = [\"192.0.2.3\"]\npolicy = \"t\"\n");
    let reloaded = directory.reload(&reloaded.library);
    assert!(reloaded.swapped && reloaded.held_back.is_empty());
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.3", "x.test"), "allow allow-all");
}

#[test]
fn deleting_a_file_denies_the_clients_of_its_policy() {
    let policies = "[policy.p]\nallow_all = true\n[blueprint.b]\nruntime_policy = \"q\"\n";
    let clients = "[client.own]\nsources = [\"192.0.2.1\"]\npolicy = \"p\"\n[client.made]\nsources = [\"192.0.2.2\"]\nblueprint = \"b\"\n";
    let including = "[policy.q]\ninclude = [\"p\"]\nallow_all = true\nmode = \"audit\"\n[policy.r]\ninclude = [\"q\"]\nallow_all = true\n[client.r]\nsources = [\"192.0.2.3\"]\npolicy = \"r\"\n";
    let mut directory = Directory::of(&[("p.toml", policies), ("c.toml", clients), ("q.toml", including)]);
    let library = directory.default_policy("p").library();
    for source in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"] {
        assert_eq!(verdict(library.snapshot(), source, "x.test"), "allow allow-all", "{source}");
    }
    let gone = directory.remove("p.toml").reload(&library);
    assert!(gone.swapped);
    assert_eq!((held_back(&gone), errors(&gone)), (Vec::new(), Vec::new()));
    let count = lines(gone.diagnostics.iter()).iter().filter(|line| line.contains("is gone with its file")).count();
    assert_eq!(count, 3, "{:#?}", lines(gone.diagnostics.iter()));
    for source in ["192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4"] {
        assert_eq!(verdict(gone.library.snapshot(), source, "x.test"), "deny policy-gone", "{source}");
    }
    // The client stays denied while its file is not touched, whatever else changes.
    let later = directory.write("other.toml", A.replace("192.0.2.1", "192.0.2.9").as_str()).reload(&gone.library);
    assert!(later.swapped && later.held_back.is_empty(), "{:?}", errors(&later));
    assert_eq!(verdict(later.library.snapshot(), "192.0.2.1", "x.test"), "deny policy-gone");
    // When the file is touched, the reference is an error, and the file is held back.
    let mut touched = directory.clone();
    let touched = touched.write("c.toml", &format!("# touched\n{clients}")).reload(&later.library);
    assert!(!touched.swapped);
    assert_eq!(held_back(&touched), ["c.toml"]);
    assert_eq!(verdict(touched.library.snapshot(), "192.0.2.1", "x.test"), "deny policy-gone");
    // When the policy's file is back, everything is as before.
    let back = directory.write("p.toml", policies).reload(&later.library);
    assert!(back.swapped && back.held_back.is_empty());
    assert_eq!(verdict(back.library.snapshot(), "192.0.2.3", "x.test"), "allow allow-all");
}

#[test]
fn deleting_all_files_denies_all_clients() {
    let library = both().library();
    let reloaded = Directory::of(&[]).reload(&library);
    assert!(reloaded.swapped);
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "a.test"), "deny no-client");
    assert!(lines(reloaded.diagnostics.iter())[0].starts_with("p: there is no policy file, so everything is denied"));
    assert!(Directory::of(&[]).errors()[0].starts_with("p: there is no policy file"));
}

#[test]
fn an_empty_directory_denies_all_clients_until_the_first_file() {
    let mut directory = Directory::of(&[]);
    let start = |directory: &Directory| {
        Library::start_empty(&directory.tree, &mut |path, held| directory.list(path, held), &directory.bindings)
    };
    let (library, warnings) = start(&directory).unwrap();
    assert_eq!(library.snapshot().generation, 1);
    assert!(lines(&warnings)[0].starts_with("p: there is no policy file, so everything is denied"));
    assert_eq!(verdict(library.snapshot(), "192.0.2.1", "a.test"), "deny no-client");
    let reloaded = both().reload(&library);
    assert!(reloaded.swapped);
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "a.test"), "allow rule");
    assert!(start(directory.default_policy("nobody-made")).is_err());
}

#[test]
fn renaming_a_file_keeps_its_policies() {
    let mut directory = both();
    let library = directory.library();
    let reloaded = directory.remove("a.toml").write("deep/er/renamed.toml", A).reload(&library);
    assert!(reloaded.swapped && reloaded.held_back.is_empty(), "{:?}", errors(&reloaded));
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "a.test"), "allow rule");
}

#[test]
fn change_that_breaks_a_test_of_another_file_goes_into_force() {
    let test = "[[test]]\nclient = \"a\"\nname = \"a.test\"\nexpect = \"allow\"\n[[test]]\nclient = \"a\"\nname = \"x.test\"\nexpect = \"deny\"\n";
    let mut directory = both();
    let library = directory.write("tests.toml", test).library();
    let changed = A.replace("[\"a.test\"]", "[\"x.test\"]");
    directory.write("a.toml", &changed).write("b.toml", &B.replace("b.test", "new.test"));
    let reloaded = directory.reload(&library);
    assert!(reloaded.swapped && reloaded.held_back.is_empty() && errors(&reloaded).is_empty());
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "a.test"), "deny not-listed");
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.2", "new.test"), "allow rule");
    let failing = |library: &Library| lines(library.failing_tests().iter());
    assert_eq!(failing(&reloaded.library).len(), 1, "one of each file");
    assert!(
        failing(&reloaded.library)[0]
            .starts_with("p/tests.toml:4:10: test failed: `a.test` A for client `a`: denied by policy a: "),
        "{:?}",
        failing(&reloaded.library)
    );
    // A check reports all of them as errors; a start serves.
    let Err(found) = directory.start() else { panic!("a failing test is an error") };
    let found = lines(found.iter().filter(|told| told.is_error()));
    assert!(
        found.len() == 2
            && found[1].starts_with("p/tests.toml:8:10: test failed: `x.test` A for client `a`: allowed by policy a: "),
        "{found:?}"
    );
    let lists = &mut |path: &Path, held| directory.list(path, held);
    let served = Library::serve(&directory.tree, lists, &directory.bindings, false).unwrap();
    assert_eq!((served.held_back.len(), failing(&served.library).len()), (0, 1));
    // Further changes go into force, and the failure is reported until it is fixed.
    directory.write("b.toml", B);
    let next = directory.reload(&reloaded.library);
    assert!(next.swapped && failing(&next.library).len() == 1);
    let mended = directory.write("a.toml", A).reload(&next.library);
    assert!(mended.swapped && mended.held_back.is_empty() && failing(&mended.library).is_empty());
}

#[test]
fn of_files_changed_together_the_one_with_the_failing_test_is_held_back() {
    let test = |name: &str| format!("[[test]]\nclient = \"a\"\nname = \"{name}\"\nexpect = \"allow\"\n");
    let mut directory = both();
    let library = directory.write("tests.toml", &test("a.test")).library();
    let stricter = A.replace("[\"a.test\"]", "[]");
    directory.write("a.toml", &stricter).write("tests.toml", &format!("# changed\n{}", test("a.test")));
    let reloaded = directory.reload(&library);
    assert_eq!(held_back(&reloaded), ["tests.toml"]);
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "a.test"), "deny not-listed");
    assert_eq!(reloaded.library.failing_tests().len(), 1, "the test that stays in force fails too");
    // A test in the same file as the policy guards it.
    let guarded = format!("{A}{}", test("a.test"));
    let mut directory = both();
    let library = directory.write("a.toml", &guarded).library();
    let reloaded = directory.write("a.toml", &guarded.replacen("\"a.test\"", "\"o.test\"", 1)).reload(&library);
    assert!(!reloaded.swapped && held_back(&reloaded) == ["a.toml"]);
}

#[test]
fn test_does_not_prevent_the_removal_of_a_client() {
    let test = "[[test]]\nclient = \"a\"\nname = \"a.test\"\nexpect = \"allow\"\n";
    let mut directory = both();
    let library = directory.write("tests.toml", test).library();
    let without = A.split("[client").next().unwrap().to_owned();
    let reloaded = directory.write("a.toml", &without).reload(&library);
    assert!(reloaded.swapped && reloaded.held_back.is_empty(), "{:?}", errors(&reloaded));
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.1", "a.test"), "deny no-client");
    assert_eq!(reloaded.library.refused_at_start().len(), 0);
    let lists = &mut |path: &Path, held| directory.list(path, held);
    assert!(Library::serve(&directory.tree, lists, &directory.bindings, false).is_ok());
    // A changed file with a test of an unknown client is held back.
    let changed = directory.write("tests.toml", &format!("# changed\n{test}")).reload(&reloaded.library);
    assert_eq!(held_back(&changed), ["tests.toml"]);
}

#[test]
fn a_test_of_another_file_does_not_keep_deleted_files_and_lists() {
    let test = "[[test]]\nclient = \"b\"\nname = \"b.test\"\nexpect = \"allow\"\n";
    let listed = "[policy.l]\nallowed_hostnames_files = [\"l.txt\"]\n";
    let mut directory =
        Directory::of(&[("a.toml", A), ("b.toml", B), ("t.toml", test), ("l.toml", listed), ("l.txt", "l.test\n")]);
    let library = directory.default_policy("l").library();
    directory.remove("a.toml").write("l.txt", "m.test\n").write("b.toml", &B.replace("b.test", "c.test"));
    let reloaded = directory.reload(&library);
    assert!(reloaded.swapped && errors(&reloaded).is_empty());
    assert_eq!(reloaded.library.failing_tests().len(), 1);
    let again = directory.reload(&reloaded.library);
    assert!(!again.swapped && again.library.failing_tests().len() == 1);
    assert_eq!(verdict(again.library.snapshot(), "192.0.2.1", "a.test"), "deny not-listed");
    assert_eq!(verdict(again.library.snapshot(), "192.0.2.9", "m.test"), "allow rule");
}

#[test]
fn a_test_does_not_prevent_a_deletion() {
    let test = "[[test]]\nclient = \"c\"\nname = \"a.test\"\nexpect = \"allow\"\n[client.c]\nsources = [\"192.0.2.3\"]\npolicy = \"a\"\n[[test]]\nclient = \"a\"\nname = \"a.test\"\nexpect = \"allow\"\n";
    let mut directory = both();
    let library = directory.write("t.toml", test).library();
    let gone = directory.remove("a.toml").reload(&library);
    assert!(gone.swapped, "{:?}", errors(&gone));
    assert_eq!(verdict(gone.library.snapshot(), "192.0.2.3", "a.test"), "deny policy-gone");
    let count = lines(gone.diagnostics.iter()).iter().filter(|line| line.contains("test not run")).count();
    assert_eq!(count, 2, "{:?}", lines(gone.diagnostics.iter()));
}

#[test]
fn a_bad_list_keeps_its_last_good_contents_in_force() {
    let text = "[policy.l]\nallowed_hostnames_files = [\"l.txt\"]\nallow_all = false\ndenied_hostnames_files = [\"../p/d.txt\"]\n";
    let mut directory =
        Directory::of(&[("l.toml", text), ("l.txt", "*.l.test\n"), ("../p/d.txt", "0.0.0.0 x.l.test y.l.test\n")]);
    let library = directory.default_policy("l").library();
    let paths: Vec<_> = library.list_paths().collect();
    assert_eq!(paths, [Path::new("p/../p/d.txt"), Path::new("p/l.txt")]);
    assert_eq!(verdict(library.snapshot(), "192.0.2.1", "a.l.test"), "allow rule");
    assert_eq!(verdict(library.snapshot(), "192.0.2.1", "y.l.test"), "deny denied-rule");
    assert_eq!(ask(library.snapshot(), "192.0.2.1", "y.l.test").rule.unwrap().place().to_string(), "p/../p/d.txt:1:18");
    assert!(!directory.reload(&library).swapped);

    let changed = directory.write("../p/d.txt", "z.l.test\n").reload(&library);
    assert!(changed.swapped);
    assert_eq!(verdict(changed.library.snapshot(), "192.0.2.1", "y.l.test"), "allow rule");
    assert_eq!(verdict(changed.library.snapshot(), "192.0.2.1", "z.l.test"), "deny denied-rule");

    // A deny list that is truncated, bad or missing denies what it denied before.
    for bad in ["", "# cut\n", "z.l.test\nnot a name\n"] {
        let held = directory.clone().write("../p/d.txt", bad).reload(&changed.library);
        assert!(!held.swapped, "{bad:?}");
        assert_eq!(held_back(&held), ["../p/d.txt"], "{bad:?}");
        assert!(errors(&held)[0].starts_with("p/../p/d.txt"), "{bad:?}: {:?}", errors(&held));
        assert_eq!(verdict(held.library.snapshot(), "192.0.2.1", "z.l.test"), "deny denied-rule", "{bad:?}");
        // The same holds if its policy changes meanwhile.
        let mut more = directory.clone();
        let more =
            more.write("../p/d.txt", bad).write("l.toml", &format!("{text}message = \"m\"\n")).reload(&held.library);
        assert!(more.swapped, "{:?}", errors(&more));
        assert_eq!(verdict(more.library.snapshot(), "192.0.2.1", "z.l.test"), "deny denied-rule", "{bad:?}");
    }
    let missing = directory.remove("../p/d.txt").reload(&changed.library);
    assert!(!missing.swapped);
    assert_eq!(verdict(missing.library.snapshot(), "192.0.2.1", "z.l.test"), "deny denied-rule");
    assert!(
        errors(&missing)[0].starts_with("p/l.toml:4:27: list file `p/../p/d.txt` cannot be read: not found"),
        "{:?}",
        errors(&missing)
    );
}

#[test]
fn a_new_reference_to_a_list_that_is_not_good_is_held_back() {
    for list in [None, Some(""), Some("bad name\n")] {
        let mut directory = both();
        let library = directory.library();
        if let Some(text) = list {
            directory.write("l.txt", text);
        }
        directory
            .write("a.toml", &A.replace("[client", "denied_hostnames_files = [\"l.txt\"]\nallow_all = true\n[client"));
        let reloaded = directory.reload(&library);
        assert!(!reloaded.swapped, "{list:?}");
        assert_eq!(held_back(&reloaded), ["a.toml", "l.txt"], "{list:?}");
        assert_eq!(errors(&reloaded).len(), 1, "{list:?}: {:?}", errors(&reloaded));
        assert!(directory.start().is_err(), "{list:?}");
    }
}

#[test]
fn files_replace_presets_until_they_are_deleted() {
    let using = "[policy.u]\ninclude = [\"preset:npm\"]\n";
    let mut directory = Directory::of(&[("u.toml", using)]);
    let library = directory.default_policy("u").library();
    assert_eq!(verdict(library.snapshot(), "192.0.2.1", "www.npmjs.org"), "allow rule");
    let own = "[policy.npm]\nallowed_hostnames = [\"npm.test\"]\n";
    let replaced = directory.write("presets/npm.toml", own).reload(&library);
    assert!(replaced.swapped, "{:?}", errors(&replaced));
    assert_eq!(verdict(replaced.library.snapshot(), "192.0.2.1", "www.npmjs.org"), "deny not-listed");
    assert_eq!(verdict(replaced.library.snapshot(), "192.0.2.1", "npm.test"), "allow rule");
    assert!(replaced.library.snapshot().policy("npm").is_none());
    for bad in
        ["", "[policy.other]\nallow_all = true\n", "[policy.npm]\n[client.x]\nsources = []\n", "[policy.npm]\nx = 1\n"]
    {
        let held = directory.clone().write("presets/npm.toml", bad).reload(&replaced.library);
        assert!(!held.swapped, "{bad:?}");
        assert_eq!(held_back(&held), ["presets/npm.toml"], "{bad:?}");
        assert!(errors(&held)[0].starts_with("p/presets/npm.toml"), "{bad:?}");
    }
    let back = directory.remove("presets/npm.toml").reload(&replaced.library);
    assert_eq!(verdict(back.library.snapshot(), "192.0.2.1", "www.npmjs.org"), "allow rule");
}

#[test]
fn custom_presets_can_be_included_and_deleted() {
    let mut directory = Directory::of(&[
        ("u.toml", "[policy.u]\ninclude = [\"preset:tools\"]\nallow_all = true\n"),
        ("presets/tools.toml", "[policy.tools]\ndenied_hostnames = [\"bad.test\"]\n"),
    ]);
    let library = directory.default_policy("u").library();
    assert_eq!(verdict(library.snapshot(), "192.0.2.1", "bad.test"), "deny denied-rule");
    let gone = directory.remove("presets/tools.toml").reload(&library);
    assert_eq!(verdict(gone.library.snapshot(), "192.0.2.1", "x.test"), "deny policy-gone");
}

#[test]
fn bindings_apply_to_addresses_in_no_client_and_undefined_ones_are_held_back() {
    let mut directory = both();
    directory.default_policy("a").bindings.listeners =
        vec![None, Some(Binding::new("b")), Some(Binding::new("unrestricted"))];
    let library = directory.library();
    let asked = |library: &Library, listener: usize, qname: &str| {
        let asker = library.snapshot().asker("203.0.113.9".parse().unwrap(), listener);
        let decision =
            super::super::decide(&asker, &super::super::testing::name(qname), crate::dns::rtype::RecordType::A);
        format!("{} {}", decision.action.as_str(), decision.reason.as_str())
    };
    assert_eq!(asked(&library, 0, "a.test"), "allow rule");
    assert_eq!(asked(&library, 1, "b.test"), "allow rule");
    assert_eq!(asked(&library, 1, "a.test"), "deny not-listed");
    assert_eq!(asked(&library, 2, "x.test"), "allow unrestricted");
    assert_eq!(asked(&library, 2, "mask.icloud.com"), "deny bypass");
    assert_eq!(asked(&library, 7, "a.test"), "allow rule");
    // A client's policy takes precedence over the listener's.
    assert_eq!(verdict(library.snapshot(), "192.0.2.2", "a.test"), "deny not-listed");

    let source = Source::new(Path::new("hostgate.toml"), "default_policy = \"nope\"\n");
    let written = Some((source, crate::document::Span { start: 17, end: 23 }));
    directory.bindings.default_policy = Some(Binding { policy: "nope".into(), written });
    let held = directory.reload(&library);
    assert!(!held.swapped);
    assert_eq!(held.held_back, [Path::new("hostgate.toml")]);
    assert!(errors(&held)[0].starts_with("hostgate.toml:1:18: unknown policy `nope`"), "{:?}", errors(&held));
    assert_eq!(asked(&held.library, 0, "a.test"), "allow rule");
    let swapped = directory.default_policy("b").reload(&held.library);
    assert!(swapped.swapped);
    assert_eq!(asked(&swapped.library, 0, "b.test"), "allow rule");

    // A file cannot drop a policy that hostgate.toml names, but the policy is gone if its file is deleted.
    let dropped = directory.clone().write("b.toml", "[policy.other]\n").reload(&swapped.library);
    assert_eq!(held_back(&dropped), ["b.toml"], "{:?}", errors(&dropped));
    let gone = directory.remove("b.toml").reload(&swapped.library);
    assert!(gone.swapped, "{:?}", errors(&gone));
    assert_eq!(asked(&gone.library, 0, "b.test"), "deny policy-gone");
}

#[test]
fn the_longest_prefix_and_the_clients_own_policy_decide() {
    let text = "
[policy.build]\nallowed_hostnames = [\"build.test\"]
[policy.runtime]\nallowed_hostnames = [\"run.test\"]
[policy.lockdown]
[blueprint.agent]\nbuild_policy = \"build\"\nruntime_policy = \"runtime\"
[blueprint.open]\nbuild_policy = \"build\"
[client.builders]\nsources = [\"198.51.100.0/24\", \"2001:db8::/32\"]\nblueprint = \"agent\"\nphase = \"build\"
[client.seven]\nsources = [\"198.51.100.7\"]\nblueprint = \"agent\"
[client.eight]\nsources = [\"198.51.100.8\"]\nblueprint = \"agent\"\npolicy = \"lockdown\"
[client.nine]\nsources = [\"198.51.100.9\"]\nblueprint = \"open\"
[client.ten]\nsources = [\"198.51.100.10\"]\npolicy = \"unrestricted\"
";
    let library = Directory::of(&[("x.toml", text)]).library();
    let cases = [
        ("198.51.100.1", "build.test", "allow rule"),
        ("198.51.100.1", "run.test", "deny not-listed"),
        ("2001:db8::1", "build.test", "allow rule"),
        ("198.51.100.7", "run.test", "allow rule"),
        ("::ffff:198.51.100.7", "run.test", "allow rule"),
        ("198.51.100.7", "build.test", "deny not-listed"),
        ("198.51.100.8", "run.test", "deny not-listed"),
        ("198.51.100.9", "any.test", "deny no-policy"),
        ("198.51.100.10", "any.test", "allow unrestricted"),
        ("198.51.100.10", "use-application-dns.net", "deny bypass"),
        ("203.0.113.1", "any.test", "deny no-client"),
    ];
    for (source, qname, expected) in &cases {
        assert_eq!(verdict(library.snapshot(), source, qname), *expected, "{source} {qname}");
    }
    let client = library.snapshot().client("builders").unwrap();
    assert_eq!((client.blueprint(), client.phase().as_str(), client.sources().len()), (Some("agent"), "build", 2));
    assert_eq!(client.place().to_string(), "p/x.toml:12:9");
}

#[test]
fn large_lists_are_shared_and_not_read_again() {
    let list = (0..5_000).map(|index| format!("h{index}.l.test")).collect::<Vec<_>>().join("\n");
    let two = "[policy.x]\nallowed_hostnames_files = [\"l.txt\"]\n[policy.y]\ninclude = [\"x\"]\nallowed_hostnames_files = [\"l.txt\"]\n";
    let mut directory = Directory::of(&[("l.toml", two), ("l.txt", &list)]);
    let library = directory.default_policy("y").library();
    let place =
        |library: &Library| ask(library.snapshot(), "192.0.2.1", "h9.l.test").rule.map(|rule| rule.place().to_string());
    assert_eq!(place(&library).as_deref(), Some("p/l.txt:10:1"));
    let set = |library: &Library| {
        Arc::as_ptr(&library.uses_of(Path::new("p/l.txt")).next().unwrap().1.in_force.as_ref().unwrap().set)
    };
    let reloaded = directory.write("l.toml", &format!("# changed\n{two}")).reload(&library);
    assert!(reloaded.swapped);
    assert_eq!(set(&reloaded.library), set(&library));
}

mod incremental;
mod records;

#[test]
fn only_files_connected_with_a_conflict_are_held_back() {
    // Each client takes over the address of the next one, and the last one's policy is unknown.
    let client = |number: usize, address: usize, policy: &str| {
        format!("[client.c{number}]\nsources = [\"10.0.{}.{}\"]\npolicy = \"{policy}\"\n", address / 250, address % 250)
    };
    let mut directory = both();
    for number in 0..100 {
        directory.write(&format!("c{number:03}.toml"), &client(number, number, "a"));
    }
    let library = directory.library();
    for number in 0..100 {
        let policy = if number == 99 { "nobody" } else { "a" };
        directory.write(&format!("c{number:03}.toml"), &client(number, number + 1, policy));
    }
    directory.write("b.toml", &B.replace("b.test", "new.test"));
    let reloaded = directory.reload(&library);
    let held = held_back(&reloaded);
    assert_eq!(held.len(), 100, "{held:?}");
    assert!(held.iter().all(|path| path.starts_with('c')), "{held:?}");
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.2", "new.test"), "allow rule");
    assert_eq!(verdict(reloaded.library.snapshot(), "10.0.0.0", "a.test"), "allow rule");
    directory.write("c099.toml", &client(99, 100, "a"));
    let mended = directory.reload(&reloaded.library);
    assert!(mended.held_back.is_empty(), "{:?}", errors(&mended));
    assert_eq!(verdict(mended.library.snapshot(), "10.0.0.0", "a.test"), "deny no-client");
}

#[test]
fn a_changed_file_whose_tests_fail_holds_back_itself_and_a_test_in_force_nothing() {
    let test = |name: &str| format!("[[test]]\nclient = \"a\"\nname = \"{name}\"\nexpect = \"allow\"\n");
    let mut directory = both();
    directory.write("good.toml", &test("a.test"));
    let library = directory.library();
    directory.write("bad.toml", &test("other.test").repeat(500)).write("b.toml", &B.replace("b.test", "new.test"));
    let reloaded = directory.reload(&library);
    assert_eq!(held_back(&reloaded), ["bad.toml"]);
    let told = errors(&reloaded);
    assert!(told.iter().any(|line| line.contains("and 400 more tests")) && told.len() == 101, "{}", told.len());
    assert_eq!(verdict(reloaded.library.snapshot(), "192.0.2.2", "new.test"), "allow rule");
    directory.write("a.toml", &A.replace("a.test", "other.test")).write("b.toml", B);
    let broken = directory.reload(&reloaded.library);
    assert!(broken.swapped && broken.held_back.is_empty(), "{:?}", broken.held_back);
    assert_eq!(verdict(broken.library.snapshot(), "192.0.2.2", "new.test"), "deny not-listed");
    let failing = lines(broken.library.failing_tests().iter());
    assert!(failing.len() == 1 && failing[0].starts_with("p/good.toml:4:10: test failed"), "{failing:?}");
}

#[test]
fn files_of_the_apis_objects_are_known_by_folder_and_name() {
    const CASES: &[(&str, Option<&str>)] = &[
        ("p/api/npol_1.toml", Some("npol_1")),
        ("p/api/dbx_.toml", Some("dbx_")),
        ("p/api/other.toml", None),
        ("p/api/npol_1", None),
        ("p/api/deep/npol_1.toml", None),
        ("p/npol_1.toml", None),
        ("q/api/npol_1.toml", None),
    ];
    for (path, expected) in CASES {
        assert_eq!(object_of(Path::new("p"), Path::new(path)), *expected, "{path}");
    }
}

#[test]
fn of_conflicting_api_objects_the_newest_is_left_out_at_the_start() {
    let client = |id: &str, policy: &str| format!("[client.{id}]\nsources = [\"192.0.2.9\"]\npolicy = \"{policy}\"\n");
    let files: Vec<(String, String)> = (0..100)
        .map(|number| (format!("api/dbx_{number:03}.toml"), client(&format!("dbx_{number:03}"), "a")))
        .chain([("a.toml".to_owned(), A.to_owned())])
        .collect();
    let files: Vec<(&str, &str)> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let directory = Directory::of(&files);
    let lists = &mut |path: &Path, held| directory.list(path, held);
    let Reloaded { library, held_back, diagnostics, .. } =
        Library::serve(&directory.tree, lists, &directory.bindings, false).unwrap();
    assert_eq!((held_back.len(), diagnostics.errors().count()), (99, 99));
    assert!(library.snapshot().client("dbx_000").is_some() && library.snapshot().client("dbx_001").is_none());
    assert!(directory.start().is_err(), "and an error for whoever checks");
    // The next reload changes nothing.
    let reloaded = directory.reload(&library);
    assert!(!reloaded.swapped && reloaded.held_back == held_back);
}
