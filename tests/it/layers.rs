//! The layers of the sources: a folder uses those below it and none above, so that it can be read without them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The folders and files below `src`, the lowest first; each may use those before it.
const LAYERS: [&str; 19] = [
    "util",
    "datagram",
    "dns",
    "document",
    "list_format",
    "labels",
    "bounds",
    "fair_share",
    "policy",
    "upstream",
    "telemetry",
    "config",
    "import",
    "engine",
    "reload",
    "api",
    "listen",
    "daemon",
    "cli",
];

/// The folders and files below `src/policy`, the same way.
const POLICY_LAYERS: [&str; 5] = ["matching", "model", "snapshot", "decide", "load"];

/// One path in a `use` statement.
struct Use {
    /// The module that it stands in, as segments from the crate.
    from: Vec<String>,
    /// The path, as segments from the crate.
    to: Vec<String>,
    /// The file and the line of the statement.
    at: String,
}

/// Returns all `*.rs` files below a folder.
fn sources(folder: &Path, all: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, all);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            all.push(path);
        }
    }
}

/// Returns the module of a file, as segments from the crate.
fn module_of(path: &Path) -> Vec<String> {
    let mut module: Vec<String> = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    let file = module.pop().unwrap();
    if !matches!(&*file, "mod.rs" | "lib.rs" | "main.rs") {
        module.push(file.trim_end_matches(".rs").to_owned());
    }
    module
}

/// Spells out a tree of a `use` statement, such as `a::{b, c::{self, d}}`, as single paths.
fn spell_out(tree: &str, before: &[String], all: &mut Vec<Vec<String>>) {
    let (path, group) = tree.split_once('{').map_or((tree, None), |(path, rest)| (path, rest.trim().strip_suffix('}')));
    let mut segments = before.to_vec();
    let named = path.split(" as ").next().unwrap_or_default();
    segments.extend(named.split("::").map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()));
    let Some(group) = group else { return all.push(segments) };
    let (mut depth, mut start) = (0, 0);
    for (at, letter) in group.char_indices().chain([(group.len(), ',')]) {
        match letter {
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                let item = group[start..at].trim();
                if !item.is_empty() {
                    spell_out(item, &segments, all);
                }
                start = at + 1;
            }
            _ => {}
        }
    }
}

/// Returns the paths of all `use` statements in code that is not a test.
fn uses() -> Vec<Use> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    let mut all = Vec::new();
    for path in files {
        let relative = path.strip_prefix(&root).unwrap();
        let module = module_of(relative);
        if module.iter().any(|part| part.ends_with("tests") || part == "testing" || part == "sample") {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        let mut lines = code.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let statement = line.trim_start();
            let statement =
                statement.strip_prefix("pub(crate) ").or(statement.strip_prefix("pub ")).unwrap_or(statement);
            let Some(tree) = statement.strip_prefix("use ") else { continue };
            let mut tree = tree.to_owned();
            while !tree.ends_with(';') {
                tree += lines.next().unwrap().1.trim();
            }
            let mut paths = Vec::new();
            spell_out(tree.trim_end_matches(';'), &[], &mut paths);
            for path in paths {
                let to = match &*path[0] {
                    "crate" => path[1..].to_vec(),
                    "self" => module.iter().chain(&path[1..]).cloned().collect(),
                    "super" => {
                        let up = path.iter().take_while(|part| *part == "super").count();
                        module[..module.len() - up].iter().chain(&path[up..]).cloned().collect()
                    }
                    _ => continue,
                };
                let at = format!("src/{}:{}: use {}", relative.display(), number + 1, path.join("::"));
                all.push(Use { from: module.clone(), to, at });
            }
        }
    }
    all
}

/// Returns the arrows that go up, each with its line: from a part of `below` to a later one.
fn arrows_up(uses: &[Use], below: &[&str], layers: &[&str]) -> Vec<String> {
    let place = |module: &[String]| {
        let rest = module.strip_prefix(&*below.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>())?;
        layers.iter().position(|layer| rest.first().is_some_and(|first| first == layer))
    };
    let is_up = |it: &&Use| matches!((place(&it.from), place(&it.to)), (Some(from), Some(to)) if from < to);
    uses.iter().filter(is_up).map(|it| it.at.clone()).collect()
}

/// Folders with circles of files that are not cut yet.
const CIRCLES_LEFT: [&str; 4] = ["upstream", "upstream::mux", "api", "policy::load"];

/// Returns the uses between the children of each module: of files and folders that stand beside each other.
fn between_siblings(uses: &[Use]) -> BTreeMap<String, BTreeMap<(String, String), String>> {
    let mut folders: BTreeMap<String, BTreeMap<(String, String), String>> = BTreeMap::new();
    for it in uses {
        let common = it.from.iter().zip(&it.to).take_while(|(from, to)| from == to).count();
        let (Some(from), Some(to)) = (it.from.get(common), it.to.get(common)) else { continue };
        let folder = folders.entry(it.from[..common].join("::")).or_default();
        folder.entry((from.clone(), to.clone())).or_insert_with(|| it.at.clone());
    }
    folders
}

/// Returns the arrows that are part of a circle: those whose end leads back to their start.
fn circle(arrows: &BTreeMap<(String, String), String>) -> Vec<String> {
    let leads = |start: &String, end: &String| {
        let (mut reached, mut next) = (BTreeSet::from([start]), vec![start]);
        while let Some(at) = next.pop() {
            next.extend(arrows.keys().filter(|(from, _)| from == at).map(|(_, to)| to).filter(|to| reached.insert(to)));
        }
        reached.contains(end)
    };
    arrows.iter().filter(|((from, to), _)| leads(to, from)).map(|(_, at)| at.clone()).collect()
}

#[test]
fn no_files_use_one_another_in_a_circle() {
    let mut wrong = Vec::new();
    for (folder, arrows) in between_siblings(&uses()) {
        let circle = circle(&arrows);
        if circle.is_empty() == CIRCLES_LEFT.contains(&&*folder) {
            wrong.push(format!("`{folder}`, which CIRCLES_LEFT has if it has a circle:\n{}", circle.join("\n")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let arrow = |from: &str, to: &str| ((from.to_owned(), to.to_owned()), format!("{from} uses {to}"));
    let arrows = BTreeMap::from([arrow("a", "b"), arrow("b", "c"), arrow("c", "b"), arrow("c", "d")]);
    assert_eq!(circle(&arrows), ["b uses c", "c uses b"]);
}

#[test]
fn no_folder_uses_one_above_it() {
    let uses = uses();
    let up = [arrows_up(&uses, &[], &LAYERS), arrows_up(&uses, &["policy"], &POLICY_LAYERS)].concat();
    assert!(up.is_empty(), "upwards (see LAYERS in tests/it/layers.rs):\n{}", up.join("\n"));
}

#[test]
fn every_folder_has_a_layer() {
    let uses = uses();
    let mut tops: BTreeMap<&str, &str> = BTreeMap::new();
    for it in &uses {
        if let Some(first) = it.from.first().filter(|first| !LAYERS.contains(&&***first)) {
            tops.insert(first, &it.at);
        }
    }
    assert!(tops.is_empty(), "without a layer in tests/it/layers.rs: {tops:?}");
    assert!(uses.len() > 1_000, "{} uses were found: is the reader right?", uses.len());
}
