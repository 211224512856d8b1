//! `hostgate import`, and what policies say of lists in other systems' formats.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::{command, *};

/// Runs `hostgate import` with a file of this content and these further arguments.
fn import(content: &[u8], arguments: &[&str]) -> Finished {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("list.txt");
    fs::write(&file, content).unwrap();
    run([&["import"], arguments, &[file.to_str().unwrap()]].concat())
}

/// Checks a directory that holds `text` as a policy file and `list` as a list.
fn check(text: &str, list: &str) -> Finished {
    let directory = tempfile::tempdir().unwrap();
    fs::write(directory.path().join("p.toml"), text).unwrap();
    fs::write(directory.path().join("list.txt"), list).unwrap();
    run(["check".as_ref(), directory.path().as_os_str(), "--strict".as_ref()])
}

#[test]
fn imported_policy_loads_and_says_what_it_left_out() {
    let list = "! Title: block list\n||ads.example^\n||t.example^$third-party\nshop.example##.ad\n@@||good.example^\n";
    let finished = import(list.as_bytes(), &[]).expect_code(0);
    let expected = "[policy.imported]\nallowed_hostnames = [\n  \"good.example\",\n  \"*.good.example\",\n]\n\
                    denied_hostnames = [\n  \"ads.example\",\n  \"*.ads.example\",\n]\n";
    assert!(finished.stdout.ends_with(expected), "{finished:#?}");
    for part in [
        "read as adblock rules (--as adblock) (4 of 4 entries)",
        "left out 1: rules for some kinds of requests or pages, which DNS does not see: line 3 `||t.example^$third-party`",
        "left out 1: cosmetic rules, which hide parts of pages: line 4 `shop.example##.ad`",
        "different 2: names with everything below",
        "patterns: 2 allowed, 2 denied",
    ] {
        assert!(finished.stderr.contains(part), "no `{part}` in {finished:#?}");
    }
    let client = "[client.c]\nsources = ['192.0.2.1']\npolicy = 'imported'\n";
    check(&(finished.stdout + client), "").expect_code(0);
}

#[test]
fn imported_list_loads_and_the_format_does_not_say_what_it_does() {
    let finished = import(b".github.example\napi.example\n", &[]).expect_code(0);
    assert!(finished.stdout.ends_with("import.\ngithub.example\n*.github.example\napi.example\n"), "{finished:#?}");
    assert!(finished.stderr.contains("name the list in `allowed_hostnames_files`"), "{finished:#?}");
    let policy =
        "[policy.p]\nallowed_hostnames_files = ['list.txt']\n[client.c]\nsources = ['192.0.2.1']\npolicy = 'p'\n";
    check(policy, &finished.stdout).expect_code(0);
    let denied = import(b"0.0.0.0 ads.example\n", &["--deny", "--subdomains", "--id", "ads"]).expect_code(0);
    assert!(
        denied.stdout.ends_with("[policy.ads]\ndenied_hostnames = [\n  \"ads.example\",\n  \"*.ads.example\",\n]\n")
    );
    let unsaid = import(b"a.example\n", &["--to", "toml"]).expect_code(64);
    assert!(unsaid.stdout.is_empty() && unsaid.stderr.contains("add `--allow` or `--deny`"), "{unsaid:#?}");
}

#[test]
fn standard_input_is_read_too() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_hostgate"))
        .args(["import", "--as", "v2fly", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"full:a.example\nb.example\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(text.ends_with("of standard input, by hostgate import.\na.example\nb.example\n*.b.example\n"), "{text}");
}

#[test]
fn what_cannot_be_imported_says_why() {
    let cases: [(&[u8], &[&str], i32, &str); 15] = [
        (b"", &[], 1, "the file holds no entry"),
        (b"# nothing\n", &["--as", "hosts"], 1, "the file holds no entry"),
        (b"a.example\n", &["--as", "hots"], 64, "'hosts'"),
        (b"a.example\n", &["--allow", "--deny"], 64, "cannot be used with"),
        (b"a.example\n", &["--id", "a b"], 64, "use up to 64 letters"),
        (b"a.example\n", &["--to", "json"], 64, "toml, list"),
        (b"What is this?\n", &[], 64, "no format explains what it holds: name it with --as (domains, hosts,"),
        (b"||a.example^\nlocal=/b.example/\n", &[], 64, "`adblock` (1 of 2 entries), `dnsmasq` (1 of 2 entries)"),
        (b"\x1f\x8b\x08\0\0", &[], 1, "compressed with gzip"),
        (b"\xff\xfea\0.\0b\0", &[], 1, "UTF-16"),
        (b"b\xfccher.example\n", &[], 1, "it looks like Latin-1"),
        (b"\x7fELF\x02\x01", &[], 1, "it is a program"),
        (b"a\0\x01\x02", &[], 1, "it is binary"),
        (b"<html><body>Sign in</body></html>", &[], 1, "it is an HTML page"),
        (b"*.com\n", &[], 1, "every entry was left out"),
    ];
    for (content, arguments, code, expected) in cases {
        let finished = import(content, arguments).expect_code(code);
        assert!(finished.stdout.is_empty() && finished.stderr.contains(expected), "{expected}: {finished:#?}");
    }
}

#[test]
fn only_files_are_read() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name).display().to_string();
    assert!(Command::new("mkfifo").arg(at("fifo")).status().unwrap().success());
    fs::File::create(at("huge")).unwrap().set_len(1 << 30).unwrap();
    for (file, expected) in [
        (at("fifo"), "a FIFO: pass it as standard input"),
        (at(""), "it is a directory, not a file"),
        (at("none"), "the file does not exist"),
        (at("*.txt"), "patterns are not expanded"),
        ("https://lists.example/x.txt".to_owned(), "it is a URL: download it first"),
        ("/dev/null".to_owned(), "a device"),
        (at("huge"), "longer than 67108864 octets: split it"),
    ] {
        let finished = run(["import", &file]).expect_code(1);
        assert!(finished.stderr.contains(expected), "{expected}: {finished:#?}");
    }
}

#[test]
fn policy_that_names_a_list_in_another_format_gets_one_error() {
    let policy =
        "[policy.p]\ndenied_hostnames_files = ['list.txt']\n[client.c]\nsources = ['192.0.2.1']\npolicy = 'p'\n";
    let rules: Vec<_> = (0..4_481).map(|at| format!("||h{at}.example^")).collect();
    let rules = rules.join("\n");
    let finished = check(policy, &rules).expect_code(78);
    assert!(finished.stderr.contains("error: 4481 of 4481 entries are adblock rules, which"), "{finished:#?}");
    assert!(finished.stderr.contains("hostgate import --as adblock "), "{finished:#?}");
    assert!(finished.stderr.contains("1 error, ") || finished.stdout.contains("1 error, "), "{finished:#?}");
    // The command that is named does what it says.
    let imported = import(rules.as_bytes(), &["--as", "adblock", "--to", "list"]).expect_code(0);
    check(policy, &imported.stdout).expect_code(0);
}

#[test]
fn entries_pasted_into_a_policy_are_told_once() {
    let pasted = "[policy.p]\nallowed_hostnames = ['ok.example', '||a.example^', '||b.example^', '@@||c.example^', 'full:d.example']\n";
    let finished = check(pasted, "").expect_code(78);
    assert!(finished.stderr.contains("3 entries of `allowed_hostnames` are adblock rules"), "{finished:#?}");
    assert!(
        finished.stderr.contains("`full:d.example`: it is an entry of another system's list (v2fly"),
        "{finished:#?}"
    );
    assert!(!finished.stderr.contains("write `full`"), "{finished:#?}");
}

#[test]
fn list_that_is_no_text_in_utf8_or_no_file_says_what_it_is() {
    let policy = |list: &str| format!("[policy.p]\nallowed_hostnames_files = ['{list}']\n");
    let checked = |list: &str, content: &[u8]| {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("p.toml"), policy(list)).unwrap();
        fs::write(directory.path().join("list.txt"), content).unwrap();
        fs::set_permissions(directory.path().join("list.txt"), fs::Permissions::from_mode(0o644)).unwrap();
        run(["check".as_ref(), directory.path().as_os_str()]).expect_code(78).stderr
    };
    for (list, content, expected) in [
        ("list.txt", &b"b\xfccher.example\n"[..], "it looks like Latin-1"),
        ("list.txt", b"\xff\xfea\0.\0b\0", "it is text in UTF-16"),
        ("list.txt", b"\x1f\x8b\x08\0\0", "it is compressed with gzip"),
        ("https://lists.example/x.txt", b"", "is a URL, but list files are files on this machine"),
        ("*.txt", b"", "patterns of file names are not expanded"),
        ("none.txt", b"", "paths are relative to the policy file"),
        ("{a,b}.txt", b"", "patterns of file names are not expanded"),
        ("~/none.txt", b"", "`~` and variables are not expanded"),
        ("$HOME/none.txt", b"", "`~` and variables are not expanded"),
        ("preset:npm", b"", "`preset:npm` is a preset, not a list file"),
    ] {
        let told = checked(list, content);
        assert!(told.contains(expected), "{expected}: {told}");
    }
}

#[test]
fn list_of_comments_is_empty_and_noise_of_hosts_files_is_none() {
    let client = "[client.c]\nsources = ['192.0.2.1']\npolicy = 'p'\n";
    let allowed = format!("[policy.p]\nallowed_hostnames_files = ['list.txt']\n{client}");
    let denied = format!("[policy.p]\nallow_all = true\ndenied_hostnames_files = ['list.txt']\n{client}");
    for (policy, list, code) in [
        (&allowed, "# write the names that are needed here\n", 0),
        (&allowed, "", 0),
        (&allowed, "127.0.0.1 LOCALHOST localhost4.localdomain4\n::1 localhost6.localdomain6\n", 0),
        (&denied, "# cut off here\n", 78),
        (&denied, "", 78),
        (&allowed, "a.example\n-\n", 78),
        (&denied, "0.0.0.0 -\n", 78),
    ] {
        let finished = check(policy, list);
        assert_eq!(finished.code, Some(code), "{list:?}: {finished:#?}");
    }
}

#[test]
fn every_format_is_in_the_help() {
    let help = run(["import", "--help"]).expect_code(0).stdout;
    for format in
        ["hosts", "squid", "rpz", "sandbox-runtime", "harden-runner", "gh-aw", "cilium", "openshell", "docker"]
    {
        assert!(help.contains(format), "{format}: {help}");
    }
    let closed = format!("'{}' import /etc/hosts --as domains | true", env!("CARGO_BIN_EXE_hostgate"));
    let finished = command::finish(Command::new("bash").args(["-c", &closed]));
    assert!(!finished.stderr.contains("panicked"), "{finished:#?}");
    assert!(Path::new(env!("CARGO_BIN_EXE_hostgate")).exists());
}
