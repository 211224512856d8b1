//! Links between the pages and to files of the repository, and tables of the book that name everything there is.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use super::{pages, transcript::blocks};
use crate::support::*;

/// Markdown files besides README and book whose links are followed.
const OTHERS: [&str; 7] = [
    ".github/pull_request_template.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "RELEASING.md",
    "SECURITY.md",
    "systemd/README.md",
    "tests/bench/README.md",
];

/// Returns the text without fenced blocks, and without the content of code spans unless these are kept.
fn prose(path: &str, text: &str, keeps_spans: bool) -> String {
    let blocks = blocks(path, text);
    let is_fenced =
        |line: usize| blocks.iter().any(|block| (block.line..=block.line + block.lines.len()).contains(&line));
    let lines = text.lines().enumerate().filter(|(index, line)| !is_fenced(index + 1) && !line.starts_with("```"));
    let text: String = lines.flat_map(|(_, line)| [line, "\n"]).collect();
    if keeps_spans { text } else { text.split('`').step_by(2).collect() }
}

/// Returns the targets of links and pictures.
fn targets(prose: &str) -> Vec<&str> {
    prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()).collect()
}

/// Returns the anchors of a file's headings, as GitHub and mdbook make them.
fn anchors(prose: &str) -> BTreeSet<String> {
    let headings = prose.lines().filter(|line| line.starts_with('#')).filter_map(|line| line.split_once(' '));
    let anchor = |heading: &str| -> String {
        let kept = heading.trim().chars().filter(|sign| sign.is_alphanumeric() || " -_".contains(*sign));
        kept.flat_map(char::to_lowercase).map(|sign| if sign == ' ' { '-' } else { sign }).collect()
    };
    headings.map(|(_, heading)| anchor(heading)).collect()
}

/// Returns what is wrong with a link of a file.
fn fault(root: &Path, path: &str, target: &str) -> Option<String> {
    if target.contains("://") {
        return None;
    }
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let linked = if file.is_empty() { root.join(path) } else { root.join(path).parent().unwrap().join(file) };
    let Ok(linked) = linked.canonicalize() else { return Some("no such file".to_owned()) };
    let is_page = linked.extension().is_some_and(|extension| extension == "md");
    if path.starts_with("docs/") && is_page && !linked.starts_with(root.join("docs/src")) {
        return Some("mdbook turns `.md` into `.html`, and that file is no page of the book".to_owned());
    }
    let anchor = anchor?;
    if anchor.contains("--") {
        return Some("GitHub and mdbook make different anchors of this heading".to_owned());
    }
    let text = fs::read_to_string(&linked).unwrap();
    (!anchors(&prose(path, &text, true)).contains(anchor)).then(|| "no such heading".to_owned())
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().unwrap();
    let others = OTHERS.map(|path| (path.to_owned(), fs::read_to_string(root.join(path)).unwrap()));
    let (mut followed, mut faults) = (0, Vec::new());
    for (path, text) in pages().into_iter().chain(others) {
        for target in targets(&prose(&path, &text, false)) {
            followed += 1;
            faults.extend(fault(&root, &path, target).map(|fault| format!("{path}: `{target}`: {fault}")));
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(followed >= 100, "only {followed} links");
}

#[test]
fn links_to_nowhere_are_found() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().unwrap();
    for (path, target, is_fault) in [
        ("README.md", "https://example.test/#x", false),
        ("README.md", "docs/src/api.md", false),
        ("README.md", "docs/src/api.md#builds", false),
        ("README.md", "docs/src/api.md#build", true),
        ("README.md", "docs/src/apis.md", true),
        ("docs/src/api.md", "#files-of-the-api", false),
        ("docs/src/api.md", "#-files", true),
        ("docs/src/api.md", "../../man", false),
        ("docs/src/api.md", "../../SECURITY.md", true),
        ("docs/src/configuration.md", "#listen", false),
    ] {
        assert_eq!(fault(&root, path, target).is_some(), is_fault, "{path}: {target}");
    }
    assert_eq!(targets("a [b](c) ![d](e#f) [g]\n"), ["c", "e#f"]);
    assert_eq!(prose("x", "a `b` c\n```sh\n[d](e)\n```\nf\n", false), "a  c\nf\n");
}

#[test]
fn summary_lists_every_page() {
    let pages = pages();
    let (_, summary) = pages.iter().find(|(path, _)| path == "docs/src/SUMMARY.md").unwrap();
    for (path, _) in &pages {
        let Some(name) = path.strip_prefix("docs/src/").filter(|name| *name != "SUMMARY.md") else { continue };
        assert_eq!(summary.matches(&format!("]({name})")).count(), 1, "{path}");
    }
}

#[test]
fn warnings_page_has_every_code() {
    let pages = pages();
    let (_, page) = pages.iter().find(|(path, _)| path == "docs/src/warnings.md").unwrap();
    let source = include_str!("../../../src/document/code.rs");
    let codes: Vec<_> = source.lines().filter_map(|line| line.split_once(" = \"")?.1.strip_suffix("\",")).collect();
    assert!(codes.len() >= 15, "{codes:?}");
    for code in codes {
        assert!(page.lines().any(|row| row.starts_with("| ") && row.contains(&format!("`{code}`"))), "{code}");
    }
}

#[test]
fn configuration_page_has_every_key_and_its_default() {
    let pages = pages();
    let (_, page) = pages.iter().find(|(path, _)| path == "docs/src/configuration.md").unwrap();
    let template = include_str!("../../../systemd/hostgate.toml");
    let mut keys = 0;
    for line in template.lines() {
        let default = line.strip_prefix("#: ");
        let Some((key, value)) = default.or(line.strip_prefix("# ")).unwrap_or(line).split_once(" = ") else {
            continue;
        };
        if !key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_' || byte.is_ascii_digit()) {
            continue;
        }
        let row = page
            .lines()
            .find(|row| row.starts_with("| `") && row.split(" | ").next().unwrap().contains(&format!("`{key}`")));
        let row = row.unwrap_or_else(|| panic!("no row for `{key}`"));
        // `listen` is a key of two tables.
        let is_said = default.is_none()
            || page.lines().any(|row| row.contains(&format!("`{key}`")) && row.contains(&format!("`{value}`")));
        assert!(is_said, "the default of `{key}` is `{value}`: {row}");
        keys += 1;
    }
    assert!(keys >= 30, "only {keys} keys");
}

#[test]
fn metrics_page_has_every_metric() {
    let pages = pages();
    let (_, page) = pages.iter().find(|(path, _)| path == "docs/src/logs-and-metrics.md").unwrap();
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"allowed.test\"]").start();
    let metrics = server.get("/metrics").body;
    let names: BTreeSet<&str> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    assert!(names.len() >= 30, "{names:?}");
    for name in names {
        let total = format!("`{name}_total");
        assert!(
            [&format!("`{name}`"), &format!("`{name}{{"), &total].iter().any(|form| page.contains(*form)),
            "{name}"
        );
    }
}
