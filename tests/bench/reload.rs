//! How long a reload takes that changes one file among many: `cargo bench --bench reload`.
//!
//! Everything but the reading of the file: from a tree in which one text came, changed or went to the next snapshot.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use hostgate::policy::{Bindings, Library, Tree};

/// Numbers of devboxes that are there.
const SIZES: &[usize] = &[10_000, 20_000];
/// How often each change is made.
const ROUNDS: usize = 101;

fn main() {
    let measures = std::env::args().any(|word| word == "--bench");
    for &size in if measures { SIZES } else { &[10] } {
        let mut directory = Directory::of(size);
        for kind in [Kind::Client, Kind::Policy, Kind::Blueprint] {
            directory.measure(size, kind, measures);
        }
    }
}

/// What a file defines.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// A devbox.
    Client,
    /// A network policy.
    Policy,
    /// A blueprint.
    Blueprint,
}

/// A policies directory as the API keeps it.
struct Directory {
    /// Its files.
    tree: Tree,
    /// What is in force.
    library: Library,
}

impl Directory {
    /// Makes one with so many devboxes.
    #[expect(clippy::print_stdout, reason = "this is what it is for")]
    fn of(size: usize) -> Self {
        let mut tree = Tree { root: "policies".into(), ..Tree::default() };
        let before = resident();
        let files = (0..size).map(|index| (path(Kind::Client, index), text(Kind::Client, index, 0)));
        let ten = (0..10)
            .flat_map(|index| [Kind::Policy, Kind::Blueprint].map(|kind| (path(kind, index), text(kind, index, 0))));
        for (path, text) in files.chain(ten) {
            tree.files.insert(path, Ok(text));
        }
        let started = Instant::now();
        let (library, warnings) = Library::start(&tree, &mut |_, _| unreachable!("no lists"), &Bindings::default())
            .unwrap_or_else(|errors| panic!("{}", errors[0]));
        assert!(warnings.is_empty(), "{}", warnings[0]);
        let size = u128::try_from(size).unwrap_or(1);
        println!(
            "{size:>6} devboxes: start {:.1} ms, {} octets each",
            started.elapsed().as_secs_f64() * 1e3,
            u128::from(resident() - before) / size
        );
        Self { tree, library }
    }

    /// Adds, changes and removes a file of a kind, again and again.
    #[expect(clippy::print_stdout, reason = "this is what it is for")]
    fn measure(&mut self, size: usize, kind: Kind, measures: bool) {
        let rounds = if measures { ROUNDS } else { 1 };
        let mut times = [const { Vec::new() }; 4];
        for round in 0..rounds {
            let index = size + round;
            let path = path(kind, index);
            for (step, text) in [Some(text(kind, index, 0)), Some(text(kind, index, 1)), None].into_iter().enumerate() {
                times[step].push(self.reload(&path, text, true));
            }
            times[3].push(self.reload(&path, None, false));
        }
        for (title, mut times) in ["add", "change", "remove", "nothing"].into_iter().zip(times) {
            times.sort_by(f64::total_cmp);
            println!(
                "{size:>6} devboxes: {title} a {kind:?}: {:.3} ms, at worst {:.3} ms",
                times[rounds / 2],
                times[rounds - 1]
            );
        }
    }

    /// Reloads with another text in a file; returns the milliseconds it took.
    fn reload(&mut self, path: &Path, text: Option<Arc<str>>, swaps: bool) -> f64 {
        match text {
            Some(text) => self.tree.files.insert(path, Ok(text)),
            None => self.tree.files.remove(path),
        }
        self.tree.changed = Some(BTreeSet::from([path.into()]));
        let started = Instant::now();
        let reloaded = self.library.reload(&self.tree, &mut |_, _| unreachable!("no lists"), &Bindings::default());
        let swapped = reloaded.swapped;
        drop(std::mem::replace(&mut self.library, reloaded.library));
        let elapsed = started.elapsed();
        assert_eq!(swapped, swaps, "{}", path.display());
        elapsed.as_secs_f64() * 1e3
    }
}

/// Returns the path of the file of an object.
fn path(kind: Kind, index: usize) -> PathBuf {
    let prefix = match kind {
        Kind::Client => "dbx",
        Kind::Policy => "npol",
        Kind::Blueprint => "bpt",
    };
    format!("policies/api/{prefix}_{index:018}.toml").into()
}

/// Returns what the API writes for an object.
fn text(kind: Kind, index: usize, version: usize) -> Arc<str> {
    let [_, b, c, d] = u32::try_from(index).unwrap_or(0).to_be_bytes();
    let (one, mut text) = (index % 10, String::new());
    let written = match kind {
        Kind::Client => write!(
            text,
            "[client.dbx_{index:018}]\nsources = [\"10.{b}.{c}.{d}\"]\nblueprint = \"bpt_{one:018}\"\n\n[api.dbx_{index:018}]\n\
             object = \"devbox\"\ncreate_time_ms = 1764000000{index:03}\nstatus = \"running\"\nversion = {version}\n\
             metadata = {{ \"hostgate.address\" = \"10.{b}.{c}.{d}\", team = \"example\" }}\n\
             launch_parameters = {{ network_policy_id = \"npol_{one:018}\" }}\n"
        ),
        Kind::Policy => write!(
            text,
            "[policy.npol_{index:018}]\nname = \"policy {index}\"\nallowed_hostnames = [\"github.com\", \"a{version}.test\"]\n\n\
             [api.npol_{index:018}]\nobject = \"network_policy\"\n"
        ),
        Kind::Blueprint => write!(
            text,
            "[blueprint.bpt_{index:018}]\nbuild_policy = \"npol_{one:018}\"\nruntime_policy = \"npol_{:018}\"\n\n\
             [api.bpt_{index:018}]\nobject = \"blueprint\"\n",
            (one + version) % 10
        ),
    };
    written.expect("a string takes what is written to it");
    text.into()
}

/// Returns the octets of memory in use.
fn resident() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").ok();
    let pages = pages.and_then(|text| text.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * 4096
}
