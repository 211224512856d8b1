//! Tests of format detection on samples of published lists.

use super::*;

#[test]
fn format_names_are_unique_and_in_table_order() {
    let mut names: Vec<&str> = Format::ALL.iter().map(|format| format.name()).collect();
    names.extend(Format::ALL.iter().flat_map(|format| format.aliases()));
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count);
    for (at, format) in Format::ALL.into_iter().enumerate() {
        assert_eq!(format as usize, at, "{format}");
    }
}

#[test]
fn mixed_and_ambiguous_files_are_not_detected() {
    let several = |text: &str| match detect(text) {
        Detected::Several(guesses) => guesses.iter().map(|guess| guess.format).collect::<Vec<_>>(),
        other => panic!("{text}: {other:?}"),
    };
    assert_eq!(several("||a.example^\n||b.example^\naddress=/c.example/#\n"), [Format::Adblock, Format::Dnsmasq]);
    assert_eq!(several("full:a.example\n.b.example\n"), [Format::Squid, Format::V2fly]);
    let both =
        "on: push\nnetwork:\n  allowed: [a.example]\njobs:\n  x:\n    with:\n      allowed-endpoints: b.example:443\n";
    assert_eq!(several(both), [Format::GhAw, Format::HardenRunner]);
    // In the other format, all the bare names would mean something else or be left out.
    let bare = "a.example\n".repeat(50);
    for (odd, format) in [
        ("*track*\n", Format::Dnscrypt),
        ("||b.example^\n", Format::Adblock),
        ("address=/b.example/#\n", Format::Dnsmasq),
        ("0.0.0.0 b.example\n", Format::Hosts),
        ("/^b\\.example$/\n", Format::Regex),
        ("b.example CNAME .\n", Format::Rpz),
    ] {
        assert_eq!(several(&format!("{bare}{odd}")), [Format::Domains, format]);
    }
    let guesses = |text: &str| match detect(text) {
        Detected::Several(guesses) => guesses.iter().map(|guess| (guess.format, guess.entries)).collect::<Vec<_>>(),
        other => panic!("{text}: {other:?}"),
    };
    let told = [(Format::Domains, 3), (Format::Squid, 1), (Format::Adblock, 1)];
    assert_eq!(guesses("a.example\nb.example\nc.example\n||d.example^\n.e.example\n"), told);
    assert_eq!(detect(""), Detected::Empty);
    assert_eq!(detect("# nothing\n\n! nothing\n"), Detected::Empty);
    assert_eq!(detect("The quick brown fox\njumps over the lazy dog\n"), Detected::Unknown);
    assert_eq!(detect("<html>\n<body>\n</body>\n"), Detected::Unknown);
}

#[test]
fn entries_shared_between_formats_do_not_confuse_detection() {
    let one = |text: &str| match detect(text) {
        Detected::One(guess) => guess.format,
        other => panic!("{text}: {other:?}"),
    };
    // AdGuard's lists contain lines of hosts files and regular expressions, Clash's contain Surge's rules.
    assert_eq!(
        one("! title\n||a.example^\n0.0.0.0 b.example\n0.0.0.0 c.example\n/^ads\\./\nd.example\n"),
        Format::Adblock
    );
    assert_eq!(one("[Adblock Plus 2.0]\n||a.example^\n"), Format::Adblock);
    assert_eq!(one("example.com##.ad\n##.banner\n||a.example^\n"), Format::Adblock);
    assert_eq!(one("+.a.example\n.b.example\nc.example\n"), Format::Clash);
    assert_eq!(one("a.example\n*.b.example\n"), Format::Domains);
    // Such a list could be Copilot's, where its names would cover more, but nothing identifies it as that.
    assert_eq!(one("a.example,b.example,*.c.example\n"), Format::Domains);
    assert_eq!(one("[\"a.example\", \"*.b.example\"]\n"), Format::Domains);
    assert_eq!(one("[\n  \"a.example\",\n  \"*.b.example\"\n]\n"), Format::Domains);
    assert_eq!(one("- a.example\n- b.example\n"), Format::Domains);
    assert_eq!(one("[Rule]\nDOMAIN-SUFFIX,a.example,REJECT\nFINAL,DIRECT\n"), Format::Surge);
    assert_eq!(one("\u{feff}0.0.0.0 a.example\n"), Format::Hosts);
    // Configurations contain much besides names.
    let unbound = "server:\n  interface: 192.0.2.1\n  port: 53\n  verbosity: 1\n  access-control: 10.0.0.0/8 allow\n  do-ip6: no\n\
                   local-zone: \".\" refuse\nlocal-zone: \"a.example\" transparent\nforward-zone:\n  name: \".\"\n  forward-addr: 192.0.2.2\n";
    assert_eq!(one(unbound), Format::Unbound);
    let dnsmasq = "domain-needed\nbogus-priv\nno-resolv\ncache-size=1000\nlog-queries\naddress=/a.example/\n";
    assert_eq!(one(dnsmasq), Format::Dnsmasq);
    let squid = "http_port 3128\nhttp_access deny all\ncache deny all\nvisible_hostname x\nforwarded_for off\nacl a dstdomain .a.example\n";
    assert_eq!(one(squid), Format::Squid);
    let surge = "[General]\nloglevel = notify\nskip-proxy = 127.0.0.1\n[Rule]\nDOMAIN,a.example,REJECT\n[URL Rewrite]\n[MITM]\n";
    assert_eq!(one(surge), Format::Surge);
    assert_eq!(one("| Host | Why |\n|------|:---:|\n| `a.example` | x |\n| `b.example` | y |\n"), Format::Copilot);
    assert_eq!(one("kind: mixin\npermissions:\n  network:\n    allow: [a.example]\n"), Format::Docker);
    // Bare names mean the same in these formats, or such files consist mostly of them.
    let bare = "a.example\n".repeat(50);
    for (odd, format) in [
        (".b.example", Format::Squid),
        ("b.example:443", Format::HostPort),
        ("https://b.example", Format::Url),
        ("full:b.example", Format::V2fly),
    ] {
        assert_eq!(one(&format!("{bare}{odd}\n")), format);
    }
}

#[test]
fn single_entries_of_other_systems_are_detected() {
    for (entry, expected) in [
        ("full:a.example", Some(Format::V2fly)),
        ("||a.example^", Some(Format::Adblock)),
        (".a.example", Some(Format::Squid)),
        ("a.example:443", Some(Format::HostPort)),
        ("a.example", None),
        ("*.a.example", None),
        ("192.0.2.1", None),
        ("10.0.0.0/8", None),
        ("b\u{fc}cher.example", None),
        ("", None),
        ("-", None),
        ("exa$mple.example", None),
    ] {
        assert_eq!(of_entry(entry), expected, "{entry}");
    }
}

#[test]
fn large_text_is_detected_in_one_pass() {
    let text = "a,b".repeat(2_000_000);
    let lines = "||a.example^$third-party,script\n".repeat(200_000);
    for text in [text, lines] {
        let start = std::time::Instant::now();
        let _ = detect(&text);
        assert!(start.elapsed().as_secs() < 20, "{:?}", start.elapsed());
    }
}
