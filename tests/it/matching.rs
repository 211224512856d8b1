//! How patterns match names: the conformance vectors, through the real binary.

use std::fmt::Write as _;

use crate::support::*;

/// A name to be asked for: text, or labels of any bytes.
enum Asked {
    /// As people write it.
    Text(&'static str),
    /// Labels.
    Labels(&'static [&'static [u8]]),
}

/// What is allowed, what is denied, the name asked for, and whether it is allowed.
type Case = (&'static [&'static str], &'static [&'static str], Asked, bool);

/// The vectors that a running server can show.
const CASES: &[Case] = &[
    (&["github.com"], &[], Asked::Text("github.com"), true),
    (&["github.com"], &[], Asked::Text("GITHUB.com."), true),
    (&["github.com"], &[], Asked::Text("gitHub.Com"), true),
    (&["GitHub.COM."], &[], Asked::Text("github.com"), true),
    (&["github.com"], &[], Asked::Text("api.github.com"), false),
    (&["github.com"], &[], Asked::Text("com"), false),
    (&["github.com"], &[], Asked::Text("."), false),
    (&["*.github.com"], &[], Asked::Text("api.github.com"), true),
    (&["*.github.com"], &[], Asked::Text("a.b.c.github.com"), true),
    (&["*.github.com"], &[], Asked::Text("A.B.GITHUB.COM"), true),
    (&["*.github.com"], &[], Asked::Text("github.com"), false),
    (&["*.github.com"], &[], Asked::Text("evilgithub.com"), false),
    (&["*.github.com"], &[], Asked::Text("xgithub.com"), false),
    (&["github.com"], &[], Asked::Text("evilgithub.com"), false),
    (&["*.github.com"], &[], Asked::Text("github.com.evil.test"), false),
    (&["*.google.com"], &[], Asked::Labels(&[b"evil\0", b"google", b"com"]), false),
    (&["*.google.com"], &[], Asked::Labels(&[b"a.b", b"google", b"com"]), false),
    (&["*.google.com"], &[], Asked::Labels(&[b"evil", b"test\0.google", b"com"]), false),
    (&["*.google.com"], &[], Asked::Labels(&[b"evil.google", b"com"]), false),
    (&["*.google.com"], &[], Asked::Labels(&[b"evil.google.com"]), false),
    (&["*.google.com"], &[], Asked::Labels(&[b"a", b"google.com"]), false),
    (&["*.google.com"], &[], Asked::Labels(&[b"a", b"google\0", b"com"]), false),
    (&["*.google.com"], &[], Asked::Labels(&[b"a", b"google", b"com\0"]), false),
    (&["github.com"], &[], Asked::Labels(&[b"github.com"]), false),
    (&["github.com"], &[], Asked::Labels(&[b"github\0", b"com"]), false),
    (&["bar.foo.com"], &[], Asked::Text("bar.foo.com.evil.com"), false),
    (&["*.foo.com"], &[], Asked::Text("bar.foo.com.evil.com"), false),
    (&["github.com"], &[], Asked::Labels(&[b"*", b"github", b"com"]), false),
    (&["*.example.com"], &[], Asked::Labels(&[b"*", b"example", b"com"]), false),
    (&["*.example.com"], &[], Asked::Labels(&[b"a", b"*", b"example", b"com"]), false),
    (&["*.example.com"], &[], Asked::Text("_acme-challenge.example.com"), true),
    (&["_dmarc.example.com"], &[], Asked::Text("_dmarc.example.com"), true),
    (&["bücher.example"], &[], Asked::Text("xn--bcher-kva.example"), true),
    (&["BÜCHER.example"], &[], Asked::Text("XN--BCHER-KVA.example"), true),
    (&["*.bücher.example"], &[], Asked::Text("a.xn--bcher-kva.example"), true),
    (&["bücher.example"], &[], Asked::Text("bcher.example"), false),
    (&["*.foo.com"], &["*.int.foo.com"], Asked::Text("x.int.foo.com"), false),
    (&["*.foo.com"], &["*.int.foo.com"], Asked::Text("int.foo.com"), true),
    (&["*.foo.com"], &["*.int.foo.com"], Asked::Text("y.foo.com"), true),
    (&["x.int.foo.com"], &["*.foo.com"], Asked::Text("x.int.foo.com"), false),
    (&["x.foo.com"], &["x.foo.com"], Asked::Text("x.foo.com"), false),
    (&[], &[], Asked::Text("github.com"), false),
    (&[], &["other.example"], Asked::Text("github.com"), false),
    (&["a.test", "b.test", "*.c.test"], &[], Asked::Text("b.test"), true),
    (&["a.test", "b.test", "*.c.test"], &[], Asked::Text("d.c.test"), true),
    (&["a.test", "b.test", "*.c.test"], &[], Asked::Text("d.test"), false),
];

#[test]
fn conformance_vectors() {
    let upstream = FakeUpstream::start();
    // One policy and one client a case: one server shows them all.
    let mut file = String::new();
    for (index, (allowed, denied, _, _)) in CASES.iter().enumerate() {
        writeln!(file, "[policy.case-{index}]\nallowed_hostnames = {allowed:?}\ndenied_hostnames = {denied:?}")
            .unwrap();
        writeln!(file, "[client.case-{index}]\nsources = [\"127.5.0.{index}\"]\npolicy = \"case-{index}\"").unwrap();
    }
    let server = Setup::new(&[&upstream]).file("cases.toml", file).start();
    for (index, (allowed, denied, asked, expected)) in CASES.iter().enumerate() {
        let (query, shown) = match asked {
            Asked::Text(name) => (ask(name, RecordType::A), (*name).to_owned()),
            Asked::Labels(labels) => {
                let shown: Vec<_> = labels.iter().map(|label| label.escape_ascii().to_string()).collect();
                (ask("", RecordType::A).labels(labels), format!("{shown:?}"))
            }
        };
        let before = upstream.total();
        let heard = query.id(1).from(&format!("127.5.0.{index}")).udp(&server);
        let case = format!("allow {allowed:?} deny {denied:?} asked {shown}");
        let denied_here = heard.ede_codes() == [15] && heard.message.metadata.authoritative;
        assert_eq!(!denied_here, *expected, "{case}: {heard:#?}");
        if !expected {
            assert_eq!(heard.rcode(), ResponseCode::NXDomain, "{case}");
            assert_eq!(upstream.total(), before, "{case}: it left");
        }
    }
}

#[test]
fn allow_all_with_denied_names_allows_the_rest() {
    let upstream = FakeUpstream::start();
    let body = "allow_all = true\ndenied_hostnames = [\"*.evil.example\", \"bad.example\"]";
    let server = Setup::policy(&upstream, body).start();
    for (name, allowed) in [
        ("good.example", true),
        ("evil.example", true),
        ("x.evil.example", false),
        ("a.b.evil.example", false),
        ("bad.example", false),
        ("x.bad.example", true),
    ] {
        let heard = ask(name, RecordType::A).both(&server);
        if allowed { heard.expect_addresses(&[GLOBAL.into()]) } else { heard.expect_denied() }
    }
}

#[test]
fn includes_presets_and_list_files_add_up() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream])
        .top("default_policy = \"top\"")
        .file(
            "p.toml",
            "[policy.top]\nallowed_hostnames = [\"top.test\"]\ninclude = [\"middle\", \"preset:npm\"]\n\
             allowed_hostnames_files = [\"lists/allow.txt\"]\ndenied_hostnames_files = [\"lists/deny.txt\"]\n\
             [policy.middle]\nallowed_hostnames = [\"middle.test\"]\ninclude = [\"low\"]\n\
             [policy.low]\nallowed_hostnames = [\"low.test\", \"*.blocked.test\"]\ndenied_hostnames = [\"no.top.test\"]\n",
        )
        .file("lists/allow.txt", "# a comment\nlisted.test\n\n*.listed.test  # and what is below\nno.top.test\n")
        .file("lists/deny.txt", "0.0.0.0 one.blocked.test two.blocked.test\n127.0.0.1 localhost\n::1 localhost\n")
        .start();
    for (name, allowed) in [
        ("top.test", true),
        ("middle.test", true),
        ("low.test", true),
        ("www.npmjs.org", true),
        ("listed.test", true),
        ("a.listed.test", true),
        ("no.top.test", false),
        ("three.blocked.test", true),
        ("one.blocked.test", false),
        ("two.blocked.test", false),
        ("other.test", false),
    ] {
        let heard = ask(name, RecordType::A).udp(&server);
        assert_eq!(heard.addresses().is_empty(), !allowed, "{name}: {heard:#?}");
    }
}

#[test]
fn rejected_patterns_stop_the_start_with_their_place_and_mend() {
    // The pattern and a word of the mend.
    const REJECTED: &[(&str, &str)] = &[
        ("*", "allow_all"),
        ("**", "allow_all"),
        ("*.com", "public suffix"),
        ("*.co.uk", "public suffix"),
        ("**.x.com", "*.x.com"),
        ("a*.x.com", "label"),
        ("a.*.x.com", "label"),
        (".x.com", "x.com"),
        ("x.*", "*"),
        ("x.com:443", "port"),
        ("https://x.com", "scheme"),
        ("x.com/path", "path"),
        ("user@x.com", "user"),
        ("a b.com", "space"),
        ("10.0.0.0/8", "address"),
        ("192.0.2.1", "address"),
        ("2001:db8::1", "address"),
        ("a..b.com", "empty"),
        ("", "empty"),
        ("xn--a.example", "internationalised"),
    ];
    let long_label = format!("{}.com", "a".repeat(64));
    let long_name = vec!["abcdefg"; 33].join(".");
    let mut patterns: Vec<(&str, &str)> = REJECTED.to_vec();
    patterns.extend([(long_label.as_str(), "63"), (long_name.as_str(), "253")]);
    let mut file = String::from("[policy.p]\nallowed_hostnames = [\n");
    for (pattern, _) in &patterns {
        writeln!(file, "  \"{pattern}\",").unwrap();
    }
    file += "]\n";
    let upstream = FakeUpstream::start();
    let finished = Setup::new(&[&upstream]).file("bad.toml", file).refused().expect_code(78);
    for (line, (pattern, mend)) in (3..).zip(&patterns) {
        let place = format!("bad.toml:{line}:3");
        assert!(finished.stderr.contains(&place), "`{pattern}`: no {place} in\n{}", finished.stderr);
        let message = finished.stderr.split("\n\n").find(|block| block.contains(&place)).unwrap();
        assert!(message.to_lowercase().contains(&mend.to_lowercase()), "`{pattern}`: no `{mend}` in\n{message}");
    }
}

#[test]
fn wildcard_on_shared_hosting_is_a_warning_and_an_error_under_strict() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("p.toml");
    for pattern in ["*.s3.amazonaws.com", "*.blob.core.windows.net", "*.github.io"] {
        let text = format!(
            "[policy.p]\nallowed_hostnames = [\"{pattern}\", \"{}\"]\n[client.c]\nsources = [\"192.0.2.1\"]\npolicy = \"p\"\n",
            &pattern[2..]
        );
        std::fs::write(&file, text).unwrap();
        let check = |strict: &[&str]| {
            run(["check", directory.path().to_str().unwrap()].iter().chain(strict).copied().collect::<Vec<_>>())
        };
        check(&[]).expect_code(0).expect_text(&["p.toml:2:22", "warning", pattern]);
        check(&["--strict"]).expect_code(1).expect_text(&["p.toml:2:22", pattern]);
    }
}
