//! Tests of every format with a small sample, and of properties that hold for all formats.

use proptest::prelude::*;

use super::write::WriteError;
use super::*;

/// A sample file and the expected import.
struct Sample {
    /// The format of the sample, which must also be detected.
    format: Format,
    text: &'static str,
    /// The expected patterns that allow.
    allowed: &'static [&'static str],
    /// The expected patterns that deny.
    denied: &'static [&'static str],
    /// The expected patterns of unknown effect.
    unknown: &'static [&'static str],
    /// The entries left out, in the order of their reasons: a word of the reason, and the number of entries.
    left_out: &'static [(&'static str, usize)],
    /// Words of the remarks about changed entries.
    changed: &'static [&'static str],
}

/// An empty sample, for struct update syntax.
const NONE: Sample =
    Sample { format: Format::Domains, text: "", allowed: &[], denied: &[], unknown: &[], left_out: &[], changed: &[] };

const SAMPLES: &[Sample] = &[
    Sample {
        text: "# comment\n; comment\n// comment\n! comment\nGitHub.example\n*.npm.example # why\nb\u{fc}cher.example\n192.0.2.1\n*.com\n-\n",
        unknown: &["github.example", "*.npm.example", "xn--bcher-kva.example"],
        left_out: &[("addresses", 1), ("public suffix", 1), ("no hostnames", 1)],
        ..NONE
    },
    Sample {
        text: "  \"*.npm.example\",\n  'npm.example',\n[\"a.example\", \"b.example\"]\nc.example, d.example\n- e.example\n",
        unknown: &["*.npm.example", "npm.example", "a.example", "b.example", "c.example", "d.example", "e.example"],
        ..NONE
    },
    Sample {
        format: Format::Hosts,
        text: "127.0.0.1 localhost LOCALHOST localhost4.localdomain4\n::1 ip6-localhost\n0.0.0.0 ads.example t.example # x\n:: six.example\n192.0.2.7 nas.example\n0.0.0.0\n",
        unknown: &["ads.example", "t.example", "six.example"],
        left_out: &[("machine itself", 4), ("gives an address", 1), ("do not begin", 0), ("without a name", 1)],
        ..NONE
    },
    Sample {
        format: Format::Squid,
        text: ".example.com\nwww.example.net\n.example.com\n*.star.example\nacl a dstdomain .acl.example -n one.example\nacl b src 10.0.0.0/8\nacl c dstdom_regex x\n",
        unknown: &["example.com", "*.example.com", "www.example.net", "acl.example", "*.acl.example", "one.example"],
        left_out: &[("dstdomain does not have", 1), ("something else", 1), ("regular", 1)],
        changed: &["two entries"],
        ..NONE
    },
    Sample {
        format: Format::Adblock,
        text: "[Adblock Plus 2.0]\n! Title: x\n||ads.example^\n||t.example^$important\n||tp.example^$third-party\n@@||good.example^\n@@||ok.ads.example^\nshop.example##.banner\n||paths.example/ads/*\n||begin.example\n/^re\\.example$/\n/ads[0-9]+/\n0.0.0.0 hosts.example\n||rw.example^$dnsrewrite=192.0.2.1\n",
        allowed: &["good.example", "*.good.example"],
        denied: &[
            "ads.example",
            "*.ads.example",
            "t.example",
            "*.t.example",
            "begin.example",
            "*.begin.example",
            "re.example",
            "hosts.example",
        ],
        left_out: &[
            ("kinds of requests", 1),
            ("cosmetic", 1),
            ("paths", 1),
            ("regular", 1),
            ("record types", 1),
            ("exceptions", 1),
        ],
        changed: &["two entries", "without `^`"],
        ..NONE
    },
    Sample {
        format: Format::Dnsmasq,
        text: "# x\naddress=/ads.example/0.0.0.0\naddress=/a.example/b.example/\nlocal=/local.example/\nserver=/null.example/\nserver=/free.example/#\nserver=/corp.example/192.0.2.53\naddress=/map.example/192.0.2.1\nipset=/set.example/allowed\naddress=/#/0.0.0.0\ndomain-needed\n",
        allowed: &["free.example", "*.free.example"],
        denied: &[
            "ads.example",
            "*.ads.example",
            "a.example",
            "*.a.example",
            "b.example",
            "*.b.example",
            "local.example",
            "*.local.example",
            "null.example",
            "*.null.example",
        ],
        unknown: &["set.example", "*.set.example"],
        left_out: &[("server of their own", 1), ("gives an address", 1), ("every name", 1), ("directives", 1)],
        changed: &["two entries"],
    },
    Sample {
        format: Format::Unbound,
        text: "server:\n  local-zone: \"ads.example\" always_nxdomain\n  local-zone: \"ads.example.\" redirect\n  local-data: \"ads.example A 0.0.0.0\"\n  local-zone: \"free.example\" transparent\n  local-zone: \".\" refuse\n  local-data: \"nas.example A 192.0.2.7\"\n  verbosity: 1\n",
        allowed: &["free.example", "*.free.example"],
        denied: &["ads.example", "*.ads.example"],
        left_out: &[("every name", 1), ("gives data", 1), ("settings", 1)],
        changed: &["two entries"],
        ..NONE
    },
    Sample {
        format: Format::Rpz,
        text: "$TTL 300\n$ORIGIN rpz.example.\n@ IN SOA localhost. root.localhost. (\n  1 2 ; serial\n  3 4 5 )\n  NS localhost.\nads.test CNAME .\n*.ads.test 60 IN CNAME .\nfull.test.rpz.example. CNAME *.\nok.test CNAME rpz-passthru.\nsafe.test CNAME forcesafe.test.\n32.1.2.0.192.rpz-ip CNAME .\nnull.test A 0.0.0.0\n* CNAME .\n",
        allowed: &["ok.test"],
        denied: &["ads.test", "*.ads.test", "full.test", "null.test"],
        left_out: &[("another name", 1), ("about addresses", 1), ("every name", 1)],
        ..NONE
    },
    Sample {
        format: Format::Dnscrypt,
        text: "# x\nads.example\n*.t.example\n=exact.example\nads.*\n*tracker*\nads[0-9]*.example\nlate.example @night\n=b.example\n",
        unknown: &["ads.example", "*.ads.example", "t.example", "*.t.example", "exact.example", "b.example"],
        left_out: &[("patterns that are not", 3), ("certain times", 1)],
        changed: &["two entries"],
        ..NONE
    },
    Sample {
        format: Format::HostPort,
        text: "api.github.example:443\n*.blob.example:443 registry.example:*\n192.0.2.1:80\nports.example:80,443\n",
        unknown: &["api.github.example", "*.blob.example", "registry.example", "ports.example"],
        left_out: &[("addresses", 1)],
        changed: &["ports"],
        ..NONE
    },
    Sample {
        format: Format::Url,
        text: "https://a.example/\nhttps://user@b.example:8443/path?q#f\nhttp://192.0.2.1/x\n",
        unknown: &["a.example", "b.example"],
        left_out: &[("addresses", 1)],
        changed: &["schemes", "paths"],
        ..NONE
    },
    Sample {
        format: Format::Regex,
        text: "^ads\\.example$\n(^|\\.)t\\.example$\n^ads[0-9]\\.example$\n",
        unknown: &["ads.example", "t.example", "*.t.example"],
        left_out: &[("regular", 1)],
        changed: &["two entries"],
        ..NONE
    },
    Sample {
        format: Format::V2fly,
        text: "# x\ninclude:other\ndomain:a.example @cn @ads\nb.example\nfull:c.example # why\nfull:e.example:@ads\nkeyword:track\nregexp:^d\\.example$\n",
        unknown: &["a.example", "*.a.example", "b.example", "*.b.example", "c.example", "e.example", "d.example"],
        left_out: &[("included", 1), ("keywords", 1)],
        changed: &["attributes", "two entries"],
        ..NONE
    },
    Sample {
        format: Format::Clash,
        text: "payload:\n  # x\n  - '+.a.example'\n  - .below.example\n  - '*.one.example'\n  - exact.example\n  - '*.*.two.example'\n",
        unknown: &["a.example", "*.a.example", "*.below.example", "*.one.example", "exact.example"],
        left_out: &[("wildcards", 1)],
        changed: &["two entries", "one label"],
        ..NONE
    },
    Sample {
        format: Format::Clash,
        text: "port: 7890\nrules:\n  - DOMAIN-SUFFIX,ads.example,REJECT\n  - DOMAIN,ok.example,DIRECT\n  - GEOIP,CN,DIRECT\n  - MATCH,Proxy\n",
        allowed: &["ok.example"],
        denied: &["ads.example", "*.ads.example"],
        left_out: &[("something else", 1), ("every name", 1)],
        changed: &["two entries"],
        ..NONE
    },
    Sample {
        format: Format::Surge,
        text: "# x\nDOMAIN-SUFFIX,a.example\nDOMAIN,b.example,no-resolve\nDOMAIN-KEYWORD,ads\nIP-CIDR,192.0.2.0/24,no-resolve\nHOST-SUFFIX,c.example,reject\n",
        denied: &["c.example", "*.c.example"],
        unknown: &["a.example", "*.a.example", "b.example"],
        left_out: &[("keywords", 1), ("something else", 1)],
        changed: &["two entries"],
        ..NONE
    },
    Sample {
        format: Format::SandboxRuntime,
        text: "{\n\t\"sandbox\": {\n\t\t\"network\": {\n\t\t\t\"allowedDomains\": [\"github.example\", \"*.npm.example:443\", \"*.com\"],\n\t\t\t\"deniedDomains\": [\"evil.example\", \"*\"]\n\t\t}\n\t},\n\t\"permissions\": { \"allow\": [\"WebFetch(domain:docs.example)\", \"Bash(ls)\"] }\n}\n",
        allowed: &["github.example", "*.npm.example", "docs.example"],
        denied: &["evil.example"],
        left_out: &[("public suffix", 1), ("every name", 1), ("permissions", 1)],
        changed: &["ports"],
        ..NONE
    },
    Sample {
        format: Format::HardenRunner,
        text: "on: push\njobs:\n  a:\n    steps:\n      - uses: step-security/harden-runner@v2\n        with:\n          egress-policy: block\n          allowed-endpoints: >\n            api.github.example:443\n            *.mcr.example:443\n  b:\n    steps:\n      - uses: step-security/harden-runner@v2\n        with:\n          egress-policy: audit\n          allowed-endpoints: |\n            b.example:443\n",
        allowed: &["api.github.example", "*.mcr.example", "b.example"],
        changed: &["ports", "audit", "jobs"],
        ..NONE
    },
    Sample {
        format: Format::GhAw,
        text: "---\non: issues\nnetwork:\n  allowed:\n    - defaults\n    - node\n    - \"api.example.com\"\n    - https://*.secure.example\n  blocked: [\"cdn.api.example.com\", python]\n---\n# Task\n\n- `not.example`\n",
        allowed: &["api.example.com", "*.api.example.com", "*.secure.example"],
        denied: &["cdn.api.example.com", "*.cdn.api.example.com"],
        left_out: &[("groups", 3)],
        changed: &["two entries", "schemes"],
        ..NONE
    },
    Sample {
        format: Format::Copilot,
        text: "### Registries\n\n* `168.63.129.16`\n* `ghcr.example`\n* `*.docker.example`\n* `storage.example/pub-packages/`\n* `https://www.example/pkiops/crl/`\n",
        allowed: &["ghcr.example", "*.ghcr.example", "*.docker.example", "storage.example", "www.example"],
        left_out: &[("addresses", 1)],
        changed: &["two entries", "paths"],
        ..NONE
    },
    Sample {
        format: Format::Copilot,
        text: "COPILOT_AGENT_FIREWALL_ALLOW_LIST_ADDITIONS=\"packages.corp.example,https://x.example/y/\"\n",
        allowed: &["packages.corp.example", "*.packages.corp.example", "x.example"],
        changed: &["two entries", "paths"],
        ..NONE
    },
    Sample {
        format: Format::Cilium,
        text: "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nspec:\n  egress:\n    - toFQDNs:\n        - matchName: api.example\n        - matchPattern: \"*.one.example\"\n        - matchPattern: \"**.deep.example\"\n        - matchPattern: \"api-*.example\"\n    - toPorts:\n        - rules:\n            dns:\n              - matchPattern: \"*\"\n",
        allowed: &["api.example", "*.one.example", "*.deep.example"],
        left_out: &[("wildcards", 1), ("every name", 1)],
        changed: &["one label"],
        ..NONE
    },
    Sample {
        format: Format::OpenShell,
        text: "version: 1\nnetwork_policies:\n  claude:\n    name: claude\n    endpoints:\n      - { host: api.example, port: 443, access: read-only }\n      - host: \"*.one.example\"\n        ports: [443]\n      - host: '**.deep.example'\n      - allowed_ips: [192.0.2.1]\n    binaries:\n      - { path: /usr/bin/claude }\n",
        allowed: &["api.example", "*.one.example", "*.deep.example"],
        left_out: &[("addresses", 1)],
        changed: &["programs", "methods", "one label"],
        ..NONE
    },
    Sample {
        format: Format::Docker,
        text: "sbx policy allow network \"api.example,*.one.example:443,**.deep.example\"\nsbx policy deny network --sandbox box ads.example\nsbx policy allow network \"**\"\nsbx policy deny network x.example --method POST\ndocker sandbox network proxy box \\\n  --policy deny \\\n  --allow-host \"*.npm.example\" \\\n  --block-host=bad.example\n",
        allowed: &["api.example", "*.one.example", "*.deep.example", "*.npm.example"],
        denied: &["ads.example", "bad.example"],
        left_out: &[("every name", 1), ("methods", 1)],
        changed: &["ports", "one label"],
        ..NONE
    },
    Sample {
        format: Format::Docker,
        text: "{\"rules\": [{\"actions\": [\"connect:tcp\"], \"resources\": [\"a.example\", \"**.b.example:443\"], \"decision\": \"allow\"},\n {\"actions\": [\"read\"], \"resources\": [\"/x\"], \"decision\": \"deny\"},\n {\"actions\": [\"connect:tcp\"], \"resources\": [\"c.example\"], \"decision\": \"deny\"}]}\n",
        allowed: &["a.example", "*.b.example"],
        denied: &["c.example"],
        left_out: &[("files", 1)],
        changed: &["ports"],
        ..NONE
    },
    Sample {
        format: Format::Docker,
        text: "schemaVersion: \"3\"\nkind: mixin\ncapabilities:\n  - type: com.docker.sandbox/network-policy@1\n    config:\n      runtime:\n        allow:\n          - api.example:443\n        deny:\n          - bad.example\n",
        allowed: &["api.example"],
        denied: &["bad.example"],
        changed: &["ports"],
        ..NONE
    },
];

fn texts(patterns: &[crate::policy::matching::pattern::Pattern]) -> Vec<String> {
    patterns.iter().map(ToString::to_string).collect()
}

/// Imports a text with default options.
fn import_with_defaults(text: &str) -> Imported {
    import(text, &Options::default()).unwrap_or_else(|error| panic!("{text}: {error}"))
}

#[test]
fn every_format_is_detected_and_read() {
    for sample in SAMPLES {
        let imported = import_with_defaults(sample.text);
        let context = format!("{}: {imported:#?}", sample.text);
        assert_eq!(imported.format, sample.format, "{context}");
        assert_eq!(texts(&imported.collected.allowed), sample.allowed, "{context}");
        assert_eq!(texts(&imported.collected.denied), sample.denied, "{context}");
        assert_eq!(texts(&imported.collected.unknown), sample.unknown, "{context}");
        let left_out = sample.left_out.iter().filter(|(_, count)| *count > 0).collect::<Vec<_>>();
        assert_eq!(imported.left_out().len(), left_out.len(), "{context}");
        for (word, count) in left_out {
            let remark = imported.left_out().iter().find(|remark| remark.what.contains(word));
            assert_eq!(remark.map(|remark| remark.count), Some(*count), "{word}: {context}");
        }
        assert_eq!(imported.changed().len(), sample.changed.len(), "{context}");
        for word in sample.changed {
            assert!(imported.changed().iter().any(|remark| remark.what.contains(word)), "{word}: {context}");
        }
    }
    let formats: std::collections::BTreeSet<_> = SAMPLES.iter().map(|sample| sample.format).collect();
    assert_eq!(formats.len(), Format::ALL.len(), "every format has a sample");
}

#[test]
fn remarks_quote_entries_with_their_lines() {
    let imported = import_with_defaults("||a.example^\n\nshop.example##.ad\n||b.example^\n");
    let cosmetic = &imported.left_out()[0];
    assert_eq!((cosmetic.first[0].line, &*cosmetic.first[0].text), (3, "shop.example##.ad"));
    let workflow = SAMPLES.iter().find(|sample| sample.format == Format::HardenRunner).unwrap();
    let ports = import_with_defaults(workflow.text);
    let ports = ports.changed().iter().find(|remark| remark.what.contains("ports")).unwrap();
    assert_eq!(ports.first.iter().map(|found| found.line).collect::<Vec<_>>(), [9, 10, 17]);
}

#[test]
fn subdomains_option_widens_only_bare_names_and_says_so() {
    let options = Options { subdomains: true, ..Options::default() };
    let imported = import("a.example\n*.b.example\n", &options).unwrap();
    assert_eq!(texts(&imported.collected.unknown), ["a.example", "*.a.example", "*.b.example"]);
    assert!(imported.changed()[0].what.contains("--subdomains"));
    let imported = import("full:a.example\nfull:b.example\n", &options).unwrap();
    assert_eq!(texts(&imported.collected.unknown), ["a.example", "b.example"]);
    assert!(imported.changed()[0].what.contains("this name only"));
}

#[test]
fn caller_sets_the_effect_that_the_format_does_not_define() {
    let imported = import_with_defaults("a.example\n");
    assert_eq!(imported.write(Some(Target::Toml), "x", "p").unwrap_err(), WriteError::UnknownEffect);
    let list = imported.write(None, "x\n[policy.y]", "p").unwrap();
    assert_eq!(list.text, "# Hostnames and wildcards of x\\n[policy.y], by hostgate import.\na.example\n");
    for (effect, key) in [(Effect::Allow, "allowed_hostnames"), (Effect::Deny, "denied_hostnames")] {
        let imported = import("a.example\n", &Options { default_effect: Some(effect), ..Options::default() }).unwrap();
        let written = imported.write(None, "x", "p.q").unwrap();
        let expected = format!(
            "# Hostnames and wildcards of x, by hostgate import.\n[policy.\"p.q\"]\n{key} = [\n  \"a.example\",\n]\n"
        );
        assert_eq!(written.text, expected);
        assert_eq!(written.diagnostics("p.q", "x"), []);
    }
    // An effect that the format defines is not overridden.
    let imported =
        import("||a.example^\n", &Options { default_effect: Some(Effect::Allow), ..Options::default() }).unwrap();
    assert_eq!(imported.counts(), (0, 2, 0));
    let mixed = import_with_defaults("||a.example^\n@@||b.example^\n");
    assert_eq!(mixed.write(Some(Target::List), "x", "p").unwrap_err(), WriteError::Mixed { allowed: 2, denied: 2 });
}

#[test]
fn file_without_entries_is_an_error() {
    for (text, expected) in [
        ("", "no entry"),
        ("# nothing\n", "no entry"),
        ("What is this?\nNothing that is known.\n", "no format explains"),
        ("||a.example^\naddress=/b.example/#\n", "several formats: `adblock`"),
        ("[policy.a]\nallowed_hostnames = []\n", "policy file of hostgate"),
    ] {
        let error = import(text, &Options::default()).unwrap_err().to_string();
        assert!(error.contains(expected), "{text}: {error}");
    }
    let as_json = Options { format: Some(Format::SandboxRuntime), ..Options::default() };
    assert!(
        import("{\"allowedDomains\": [", &as_json).unwrap_err().to_string().starts_with("as sandbox-runtime: line ")
    );
    assert!(matches!(import("x: 1\n", &as_json), Err(ImportError::EmptyAs { .. })));
    let nothing = import_with_defaults("*.com\n*.org\n");
    assert_eq!(nothing.write(None, "x", "p").unwrap_err(), WriteError::Nothing);
}

#[test]
fn likely_format_is_reported_if_another_one_was_named() {
    let adblock = "! Title: block list\n||a.example^\n||b.example^\n@@||c.example^\n";
    for (text, named, expected) in [
        (adblock, Format::Domains, "3 of 3 entries seem to be adblock rules: try --as adblock"),
        (adblock, Format::Hosts, "3 of 3 entries seem to be adblock rules: try --as adblock"),
        (adblock, Format::Cilium, "3 of 3 entries seem to be adblock rules: try --as adblock"),
        (adblock, Format::Url, "3 of 3 entries seem to be adblock rules: try --as adblock"),
        (
            "a.example\n*.b.example\n",
            Format::Unbound,
            "2 of 2 entries seem to be hostnames and wildcards: try --as domains",
        ),
        (".a.example\n.b.example\n", Format::Rpz, "2 of 2 entries seem to be Squid dstdomain entries: try --as squid"),
        ("0.0.0.0 a.example\n", Format::Dnsmasq, "1 of 1 entries seem to be lines of a hosts file: try --as hosts"),
        (
            "{\"allowedDomains\": [\"a.example\"]}",
            Format::HardenRunner,
            "it seems to hold sandbox-runtime settings: try",
        ),
        ("payload:\n  - '+.a.example'\n", Format::Hosts, "it seems to hold Clash rules: try --as clash"),
    ] {
        let told = match import(text, &Options { format: Some(named), ..Options::default() }) {
            Ok(imported) => imported.likely.map(|likely| likely.to_string()),
            Err(error) => Some(error.to_string()),
        };
        assert!(told.as_ref().is_some_and(|told| told.contains(expected)), "{named}: {text}: {told:?}");
    }
    // Texts in several formats at once, and texts that were read completely, get no hint.
    for (text, named) in
        [("a.example\n", Format::V2fly), (".a.example\n", Format::Surge), ("0.0.0.0 a.example\n", Format::Adblock)]
    {
        let imported = import(text, &Options { format: Some(named), ..Options::default() }).unwrap();
        assert_eq!(imported.likely, None, "{named}");
    }
    // Comments are not entries in any format.
    let imported = import(adblock, &Options { format: Some(Format::Docker), ..Options::default() }).unwrap();
    assert_eq!(imported.counts(), (0, 0, 0));
}

#[test]
fn yaml_of_docker_is_never_read_as_patterns() {
    let docker = |text: &str| {
        import(
            text,
            &Options { format: Some(Format::Docker), default_effect: Some(Effect::Allow), ..Options::default() },
        )
    };
    let kit =
        docker("permissions:\n  network:\n    allow: [a.example, '*.b.example:443']\n    deny:\n      - c.example\n")
            .unwrap();
    assert_eq!(
        (texts(&kit.collected.allowed), texts(&kit.collected.denied)),
        (vec!["a.example".to_owned(), "*.b.example".to_owned()], vec!["c.example".to_owned()])
    );
    let denied = docker("policy:\n  deny:\n    - c.example\n").unwrap();
    assert_eq!((denied.counts(), texts(&denied.collected.denied)), ((0, 1, 0), vec!["c.example".to_owned()]));
    let unknown = docker("policy:\n  forbidden:\n    - c.example\n");
    assert!(matches!(unknown, Err(ImportError::EmptyAs { .. })), "{unknown:?}");
    let words = docker("a.example:443, **.b.example\n").unwrap();
    assert_eq!(texts(&words.collected.allowed), ["a.example", "*.b.example"]);
}

#[test]
fn rules_that_badfilter_cancels_are_left_out() {
    let text = "||a.example^\n||a.example^$badfilter\n||b.example^$badfilter,important\n||b.example^$important\n||b.example^\n\
                @@||c.example^$badfilter\n@@||c.example^\n||c.example^\n||d.example^$badfilter\n/^e\\.example$/$badfilter\n\
                /^e\\.example$/\n";
    let imported = import_with_defaults(text);
    assert_eq!(texts(&imported.collected.denied), ["b.example", "*.b.example", "c.example", "*.c.example"]);
    assert_eq!(imported.counts(), (0, 4, 0));
    let left_out: Vec<_> = imported.left_out().iter().map(|it| (it.what, it.count)).collect();
    let expected =
        [("rules that another one cancels ($badfilter)", 4), ("rules that cancel another one ($badfilter)", 5)];
    assert_eq!(left_out, expected);
}

#[test]
fn transparent_zones_allow_only_if_everything_else_is_denied() {
    let zones =
        "local-zone: \"a.example\" transparent\nlocal-zone: \"b.example\" inform\nlocal-zone: c.example nodefault\n";
    for all in ["local-zone: \".\" refuse\n", "server:\n  local-zone: . always_nxdomain # all\n"] {
        let imported = import_with_defaults(&format!("{zones}{all}"));
        assert_eq!(texts(&imported.collected.allowed), ["a.example", "*.a.example", "b.example", "*.b.example"]);
    }
    for other in ["", "local-zone: \".\" transparent\n", "local-zone: \"ads.example\" refuse\n"] {
        let imported =
            import(&format!("{zones}{other}"), &Options { format: Some(Format::Unbound), ..Options::default() });
        let imported = imported.unwrap();
        assert_eq!(imported.counts().0, 0, "{other}");
        assert!(imported.left_out().iter().any(|it| it.what.starts_with("zones that are resolved as usual")));
    }
}

#[test]
fn repeated_and_covered_patterns_are_written_once() {
    let imported = import_with_defaults("||a.example^\n||x.a.example^\nhosts.example\n||a.example^\nA.example\n");
    assert_eq!(texts(&imported.collected.denied), ["a.example", "*.a.example", "hosts.example"]);
    assert_eq!(imported.repeated(), 5);
}

#[test]
fn hundred_thousand_entries_are_read_in_one_pass() {
    let list = |entry: &dyn Fn(u32) -> String| (0..100_000).map(|at| entry(at) + "\n").collect::<String>();
    for text in [
        list(&|at| format!("||h{at}.example^")),
        list(&|at| format!("*.h{at}.a.b.c.d.example")),
        format!("payload:\n{}", list(&|at| format!("  - '+.h{at}.example'"))),
        format!("{{\"allowedDomains\": [\n{} \"x.example\"]}}", list(&|at| format!("\"h{at}.example\","))),
        format!("jobs:\n  a:\n    allowed-endpoints: >\n{}", list(&|at| format!("      h{at}.example:443"))),
        format!(
            "jobs:\n  a:\n    allowed-endpoints: {}\n",
            list(&|at| format!("h{at}.example:443")).replace('\n', " ")
        ),
    ] {
        let start = std::time::Instant::now();
        let imported = import_with_defaults(&text);
        let (allowed, denied, unknown) = imported.counts();
        assert!(allowed + denied + unknown >= 100_000, "{}", &text[..100]);
        println!("{:?}: {}", start.elapsed(), &text[..40]);
        assert!(start.elapsed().as_secs() < 60, "{:?}: {}", start.elapsed(), &text[..100]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn every_import_loads_as_a_policy(
        (at, subdomains, unknown) in (0..Format::ALL.len(), any::<bool>(), 0..3_usize),
        words in proptest::collection::vec(
            prop_oneof![
                "[a-z*.|^@=:+,$/\"'#!\\\\ -]{0,12}",
                "(\\|\\||@@\\|\\||=|\\.|\\+\\.|\\*\\.|\\*\\*\\.|full:|0\\.0\\.0\\.0 |address=/|DOMAIN-SUFFIX,|https://)?([a-c]\\.){0,2}(example|test|com|github\\.io|co\\.uk|s3\\.amazonaws\\.com|-)(\\^|:443|/|/#| CNAME \\.)?",
                "\\PC{0,8}",
            ],
            0..30,
        ),
        sample in 0..SAMPLES.len(),
    ) {
        let format = Format::ALL[at];
        let default_effect = [None, Some(Effect::Allow), Some(Effect::Deny)][unknown];
        let text = format!("{}{}\n", SAMPLES[sample].text, words.join("\n"));
        for text in [text, words.join("\n")] {
            for format in [Some(format), None] {
                let Ok(imported) = import(&text, &Options { format, subdomains, default_effect }) else { continue };
                for target in [Target::Toml, Target::List] {
                    let Ok(written) = imported.write(Some(target), "\"x\n", "imported") else { continue };
                    let errors: Vec<_> = written.diagnostics("imported", "x").into_iter().filter(crate::document::Diagnostic::is_error).collect();
                    prop_assert!(errors.is_empty(), "{:?} {text}\n{}\n{errors:#?}", format, written.text);
                }
            }
        }
    }
}

#[test]
fn denied_names_and_names_of_unknown_effect_never_share_a_list() {
    let text = "address=/a.example/0.0.0.0\nipset=/b.example/set\n";
    let read = |default_effect| {
        import(text, &Options { format: Some(Format::Dnsmasq), subdomains: false, default_effect }).unwrap()
    };
    let refused = WriteError::PartlyUnknownEffect { known: 2, unknown: 2 };
    for target in [None, Some(Target::List), Some(Target::Toml)] {
        assert_eq!(read(None).write(target, "x", "p").unwrap_err(), refused);
    }
    assert_eq!(read(Some(Effect::Allow)).write(None, "x", "p").unwrap().target, Target::Toml);
    assert_eq!(read(Some(Effect::Deny)).write(Some(Target::List), "x", "p").unwrap().effect, Some(Effect::Deny));
}
