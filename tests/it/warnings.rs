//! Warnings: what is told, what a comment accepts, and lists and presets as people have them.

use std::fs;
use std::path::Path;

use crate::support::*;

/// Makes a directory of policy files.
fn directory(files: &[(&str, &str)]) -> tempfile::TempDir {
    let directory = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = directory.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    directory
}

/// Runs `check` on a directory.
fn check(directory: &Path, arguments: &[&str]) -> Finished {
    run([&["check", directory.to_str().unwrap()], arguments].concat())
}

/// A client for the policy `p`.
const CLIENT: &str = "[client.c]\nsources = ['127.0.0.7']\npolicy = 'p'\n";

#[test]
fn accepted_warnings_pass_strict_and_are_listed_with_their_reasons() {
    let text = format!(
        "[policy.p]\nallowed_hostnames = [\n  # hostgate: accept shared-suffix: all of it is ours\n  '*.github.io',\n]\n\
         denied_hostnames_files = ['l.txt'] # hostgate: accept wildcard-alone: the list's authors mean it so\n{CLIENT}"
    );
    let good = directory(&[("p.toml", &text), ("l.txt", "*.evil.example\n")]);
    let quiet = check(good.path(), &["--strict"]).expect_code(0).expect_text(&["2 warnings accepted (-v shows them)"]);
    assert!(!quiet.stderr.contains("github.io"), "{quiet:?}");
    check(good.path(), &["--strict", "-v"]).expect_code(0).expect_text(&[
        "note[shared-suffix]",
        "accepted: all of it is ours",
        "note[wildcard-alone]",
        "accepted: the list's authors mean it so",
    ]);
    let json = check(good.path(), &["--strict", "--json"]).expect_code(0).json();
    assert_eq!(json["diagnostics"], serde_json::json!([]), "{json}");
    let accepted = json["accepted"].as_array().unwrap();
    assert_eq!(accepted.len(), 2, "{json}");
    let of_policy = accepted.iter().find(|it| it["code"] == "shared-suffix").unwrap();
    assert_eq!((&of_policy["severity"], &of_policy["line"]), (&"accepted".into(), &4.into()), "{json}");
    assert_eq!(of_policy["reason"], "all of it is ours", "{json}");
    // What is accepted is nobody's warning in a running server.
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream]).file("p.toml", text).file("l.txt", "*.evil.example\n").start();
    assert!(server.log_lines(&["WARN", "github.io"]).is_empty(), "{}", server.log());
    assert!(!server.get("/status").body.contains("shared-suffix"));
    // Without the comments it is, with the codes that they need.
    server.write("p.toml", format!("[policy.p]\nallowed_hostnames = ['*.github.io']\n{CLIENT}"));
    server.wait_log(&["WARN", "p.toml:2:22", "[shared-suffix]"]);
}

#[test]
fn comments_that_accept_nothing_fail_strict() {
    for (comment, told) in [
        ("# hostgate: accept shared-suffix", "the comment gives no reason"),
        ("# hostgate: accept shared-sufix: x", "did you mean `shared-suffix`?"),
        ("# hostgate: accept covered: x", "the comment accepts no warning `covered`"),
        ("# hostgate: acept shared-suffix: x", "unknown word `acept` after `hostgate:`"),
    ] {
        let text = format!("[policy.p]\nallowed_hostnames = ['a.test'] {comment}\n{CLIENT}");
        let in_policy = directory(&[("p.toml", &text)]);
        check(in_policy.path(), &["--strict"]).expect_code(1).expect_text(&["warning[accept]", "p.toml:2:32", told]);
        let text = format!("[policy.p]\nallowed_hostnames_files = ['l.txt']\n{CLIENT}");
        let in_list = directory(&[("p.toml", &text), ("l.txt", &format!("a.test\nb.test {comment}\n"))]);
        check(in_list.path(), &["--strict"]).expect_code(1).expect_text(&["warning[accept]", "l.txt:2:8", told]);
    }
}

#[test]
fn comments_of_the_configuration_are_told_as_those_of_policies_are() {
    let policy = format!("[policy.p]\nallowed_hostnames = ['a.test']\n{CLIENT}");
    let checked = |config: &str, code| {
        let here = directory(&[("policies/p.toml", &policy), ("hostgate.toml", config), ("there/x", "")]);
        let file = here.path().join("hostgate.toml");
        run(["check".as_ref(), "--strict".as_ref(), "--config".as_ref(), file.as_os_str()]).expect_code(code)
    };
    let right = "# hostgate: accept no-directory: comes later\nlist_directories = ['none']\n";
    checked(right, 0).expect_text(&["1 warning accepted"]);
    for (config, told) in [
        (
            "# hostgate: accept no-directory: x\nlist_directories = ['there']\n",
            "the comment accepts no warning `no-directory`",
        ),
        ("denied_ttl = 5 # hostgate: accept covered: x\n", "hostgate.toml:1:16"),
        ("# hostgate: accept no-dir: x\nlist_directories = ['none']\n", "warning `no-dir` does not exist"),
        ("# hostgate: accept no-directory\nlist_directories = ['none']\n", "the comment gives no reason"),
    ] {
        checked(config, 1).expect_text(&["warning[accept]", told]);
    }
    checked("[decisions]\npath = '# hostgate: accept covered: x'\n", 0);
    // A server says it as well.
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream]).file("p.toml", &policy).top("# hostgate: accept gone: x").start();
    assert_eq!(server.log_lines(&["WARN", "hostgate.toml:", "[accept]"]).len(), 1, "{}", server.log());
}

#[test]
fn our_own_policies_and_the_published_samples_pass_strict() {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("policies");
    check(&policies, &["--strict"]).expect_code(0);
    // The samples of Runloop's guide.
    let samples = "[policy.p]\nallowed_hostnames = ['github.com', '*.npmjs.org', 'api.openai.com', '*.github.com']\n";
    check(directory(&[("p.toml", &format!("{samples}{CLIENT}"))]).path(), &["--strict"]).expect_code(0);
}

#[test]
fn list_with_subdomains_covers_each_name_and_what_is_below_it() {
    let upstream = FakeUpstream::start();
    let policy = |lists: &str| format!("[policy.p]\nallow_all = true\nbudget = 'off'\n{lists}\n{CLIENT}");
    let setup = Setup::new(&[&upstream])
        .file("p.toml", policy("denied_hostnames_files = [{ path = 'block.txt', subdomains = true }]"))
        .file("block.txt", "evil.example\n*.bad.example\nzip\n");
    let server = setup.start();
    let is_allowed = |name: &str| server.allows("127.0.0.7", name);
    let denied = |names: &[&str]| names.iter().filter(|name| !is_allowed(name)).map(ToString::to_string).collect();
    let all = ["evil.example", "x.y.evil.example", "bad.example", "a.bad.example", "a.zip", "notevil.example"];
    let told: Vec<String> = denied(&all);
    assert_eq!(told, all[..5]);
    // The list is watched, for this use as for any other.
    server.write("block.txt", "other.example\n");
    server.wait_generation(2);
    assert!(is_allowed("evil.example") && !is_allowed("x.other.example"));
    // The same file, as it is written, and the other way round.
    server.write("p.toml", policy("denied_hostnames_files = ['block.txt']"));
    server.wait_generation(3);
    assert!(is_allowed("x.other.example") && !is_allowed("other.example"));
    let both = "[policy.p]\nallowed_hostnames_files = [{ path = 'block.txt', subdomains = true }]\n\
                [policy.q]\nallow_all = true\nbudget = 'off'\ndenied_hostnames_files = ['block.txt']\n\
                [client.q]\nsources = ['127.0.0.8']\npolicy = 'q'\n";
    server.write("p.toml", format!("{both}{CLIENT}"));
    server.wait_generation(4);
    for _ in 0..2 {
        assert!(is_allowed("x.other.example") && is_allowed("other.example") && !is_allowed("example.com"));
        assert!(!server.allows("127.0.0.8", "other.example") && server.allows("127.0.0.8", "x.other.example"));
        // Both uses go along with the file.
        server.write("block.txt", "# more\nother.example\nmore.example\n");
        server.until("the list", || is_allowed("a.more.example").then_some(()));
        assert!(!server.allows("127.0.0.8", "more.example"));
    }
    // Allowing is not broader than a public suffix.
    server.write("block.txt", "other.example\ncom\n");
    let error = || Some(server.wait_error()).filter(|error| error.contains("block.txt:2:1"));
    server.until("the error of the list", error);
    assert!(is_allowed("a.more.example") && !is_allowed("example.com"));
}

#[test]
fn denied_wildcards_without_the_name_are_told_once_a_list() {
    let text = format!("[policy.p]\nallow_all = true\ndenied_hostnames_files = ['d.txt']\n{CLIENT}");
    let names: Vec<_> = (0..500).map(|number| format!("*.e{number}.example")).collect();
    let lists = directory(&[("p.toml", &text), ("d.txt", &names.join("\n"))]);
    let told = check(lists.path(), &["--strict"]).expect_code(1);
    assert_eq!(told.stderr.matches("warning").count(), 1, "{told:?}");
    told.expect_text(&[
        "warning[wildcard-alone]",
        "`*.e0.example` does not deny `e0.example` itself",
        "499 more",
        "subdomains",
    ]);
    fs::write(lists.path().join("p.toml"), text.replace("'d.txt'", "{ path = 'd.txt', subdomains = true }")).unwrap();
    check(lists.path(), &["--strict"]).expect_code(0);
    fs::write(lists.path().join("p.toml"), text.replace("'d.txt'", "{ path = 'd.txt', subdomain = true }")).unwrap();
    check(lists.path(), &[]).expect_code(78).expect_text(&["did you mean `subdomains`?"]);
}

#[test]
fn explain_gives_the_help_of_check_and_names_the_entry_next_to_it() {
    let text = format!("[policy.p]\nallowed_hostnames = ['github.com', '*.npmjs.org']\n{CLIENT}");
    let policies = directory(&[("p.toml", &text)]);
    let explain =
        |name: &str| run(["explain", name, "--client", "127.0.0.7", "--policies", policies.path().to_str().unwrap()]);
    for (name, told) in [
        ("https://github.com/x", "it is a URL with a scheme: ask for `github.com`"),
        ("github.com:443", "it holds a port, which DNS does not know: ask for `github.com`"),
        ("1.2.3.4", "it is an address, not a hostname"),
        ("2001:db8::1", "it is an address, not a hostname"),
    ] {
        explain(name).expect_code(64).expect_text(&[told]);
    }
    explain("api.github.com")
        .expect_code(1)
        .expect_text(&["`github.com` is listed and matches itself alone", "p.toml:2:22"]);
    explain("npmjs.org").expect_code(1).expect_text(&["`*.npmjs.org` is listed and matches the names below"]);
    let other = explain("example.com").expect_code(1);
    assert!(!other.stdout.contains("is listed and"), "{other:?}");
}

#[test]
fn presets_are_shown_with_a_line_each_and_their_entries_with_the_reasons() {
    let policies = directory(&[("p.toml", &format!("[policy.p]\ninclude = ['preset:npm']\n{CLIENT}"))]);
    let at = policies.path().to_str().unwrap();
    let all = run(["show", "presets", "--policies", at]).expect_code(0);
    assert!(all.stdout.lines().count() > 30, "{all:?}");
    for id in ["preset:npm ", "preset:pytorch ", "preset:k8s ", "preset:copilot "] {
        let line = all.stdout.lines().find(|line| line.starts_with(id)).unwrap_or_else(|| panic!("{id}: {all:?}"));
        assert!(line.len() > 30, "{line}");
    }
    let json = run(["show", "presets", "--json", "--policies", at]).expect_code(0).json();
    assert!(json.as_array().unwrap().iter().any(|it| it["id"] == "preset:npm" && it["entries"].as_u64() > Some(3)));
    let npm = run(["show", "preset:npm", "--policies", at]).expect_code(0);
    npm.expect_text(&["*.npmjs.org", "Every install, audit and `npx`"]);
    let json = run(["show", "p", "--json", "--policies", at]).expect_code(0).json();
    let entries = json["allowed"].as_array().unwrap();
    assert!(entries.iter().all(|entry| entry["reason"].as_str().is_some_and(|reason| reason.len() > 10)), "{json}");
    // A file that replaces one is the source of its reasons.
    fs::create_dir(policies.path().join("presets")).unwrap();
    let own = "[policy.npm]\ndescription = 'ours'\nallowed_hostnames = [\n  # The mirror.\n  'npm.corp.example',\n]\n";
    fs::write(policies.path().join("presets/npm.toml"), own).unwrap();
    run(["show", "preset:npm", "--policies", at]).expect_code(0).expect_text(&["npm.corp.example", "The mirror."]);
    run(["show", "presets", "--policies", at]).expect_code(0).expect_text(&["ours (", "presets/npm.toml:1:9"]);
}
