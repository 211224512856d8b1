//! Addresses that are held: those of an object of the API whose file is bad, or gone, at a start.
//!
//! Without the object, its address would fall to a wider client or to the default policy, which may allow more. So a
//! client without a policy that exists has the address instead: its queries are denied, and the address is taken. It is
//! the version in force of the object's file, until the file is good or the object is deleted.

use std::collections::HashSet;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

use super::conflict::Files;
use super::file_state::{FileState, LastContent};
use super::source::{FilePath, Tree};
use super::{Library, object_of};
use crate::document::{Placed, Source, Span};
use crate::policy::matching::client_index::canonical;
use crate::policy::model::spec::{ClientSpec, FileSpec, HELD, Phase};
use crate::util::small_list::SmallList;

/// Returns the addresses of an object whose file is bad: those that it had when it was in force last, and those that can
/// still be read in the file.
pub(super) fn sources(tree: &Tree, path: &Path, file: &FileState<FileSpec>) -> Vec<IpNet> {
    let recorded = tree.held.get(path).into_iter().flatten().copied();
    let readable = match &file.seen {
        LastContent::Text(text) => readable(text),
        _ => Vec::new(),
    };
    let parsed = file.read.iter().flat_map(|file| &file.clients).flat_map(|client| &client.sources);
    recorded.chain(readable).chain(parsed.map(|source| source.value)).collect()
}

/// Returns the addresses in the lines of a text that say `sources = […]`, whatever else is wrong with it.
fn readable(text: &str) -> Vec<IpNet> {
    let lines =
        text.lines().filter_map(|line| line.trim_start().strip_prefix("sources")?.trim_start().strip_prefix('='));
    let quoted = lines.flat_map(|line| line.split(['"', '\'']).skip(1).step_by(2));
    let address = |text: &str| text.parse().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    quoted.filter_map(address).map(canonical).collect()
}

/// Puts a client that is denied everything in the place of the file of each object, and gives it the addresses of the
/// object. Addresses that another client has exactly are left to that one.
pub(super) fn hold<'p>(files: &mut Files, objects: impl Iterator<Item = (&'p FilePath, &'p str, Vec<IpNet>)>) {
    let clients = files.values().flat_map(|file| &file.clients);
    let ids: HashSet<Arc<str>> = clients.clone().map(|client| Arc::clone(&client.id.value)).collect();
    let mut taken: HashSet<IpNet> = clients.flat_map(|client| &client.sources).map(|source| source.value).collect();
    for (path, id, sources) in objects {
        let free: Vec<IpNet> = sources.into_iter().filter(|source| taken.insert(*source)).collect();
        if !free.is_empty() {
            // No file can define an id with a space.
            let name = if ids.contains(id) { format!("{id} (held)") } else { id.to_owned() };
            files.insert(path.clone(), Arc::new(version(path, (id, &name), &free)));
        }
    }
}

/// Returns the file of a client that has addresses of an object and is denied everything.
fn version(path: &FilePath, (id, name): (&str, &str), sources: &[IpNet]) -> FileSpec {
    let placed = |value: &str| Placed { value: value.into(), span: Span::default() };
    let shown: Vec<String> = sources.iter().map(ToString::to_string).collect();
    let text = format!("# The addresses of `{id}` are held: {}\n", shown.join(", "));
    let client = ClientSpec {
        id: placed(name),
        sources: sources.iter().map(|value| Placed { value: *value, span: Span::default() }).collect(),
        blueprint: None,
        phase: Phase::Runtime,
        policy: Some(placed(HELD)),
    };
    let source = Source::new(Arc::clone(&path.0), text);
    let clients = SmallList::from(vec![client]);
    FileSpec { source, clients, records: SmallList::default(), others: None }
}

impl Library {
    /// Returns the objects of the API in force: the id of each, its addresses, and whether these are held.
    pub(crate) fn objects_in_force<'l>(
        &'l self,
        root: &'l Path,
    ) -> impl Iterator<Item = (&'l str, Vec<IpNet>, bool)> + 'l {
        self.files.iter().filter_map(move |(path, file)| Some(object(object_of(root, path)?, file.in_force()?)))
    }

    /// Returns the object of the API in force at a path, as [`Self::objects_in_force`] does.
    pub(crate) fn object_in_force<'p>(&self, root: &Path, path: &'p Path) -> Option<(&'p str, Vec<IpNet>, bool)> {
        Some(object(object_of(root, path)?, self.files.get(path.as_os_str())?.in_force()?))
    }
}

/// Returns an object's id, its addresses, and whether these are held.
fn object<'p>(id: &'p str, file: &FileSpec) -> (&'p str, Vec<IpNet>, bool) {
    let sources = file.clients.iter().flat_map(|client| &client.sources).map(|source| source.value);
    (id, sources.collect(), file.clients.iter().any(ClientSpec::is_held))
}

/// Returns the path of the file of an object of the API.
pub(crate) fn object_path(root: &Path, id: &str) -> PathBuf {
    root.join(super::OBJECT_FOLDER).join(format!("{id}.toml"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_from_what_is_left_of_a_file() {
        for (text, expected) in [
            ("[client.d]\nsources = [\"192.0.2.1\"]\npolicy = \"x", "192.0.2.1/32"),
            ("  sources=['192.0.2.1', \"2001:db8::/64\",", "192.0.2.1/32 2001:db8::/64"),
            ("sources = [\"::ffff:192.0.2.1\"]", "192.0.2.1/32"),
            ("sources = [\"192.0.2.", ""),
            ("sources", ""),
            ("# sources = [\"192.0.2.1\"]", ""),
            ("\0\0\0", ""),
        ] {
            let found: Vec<String> = readable(text).iter().map(ToString::to_string).collect();
            assert_eq!(found.join(" "), expected, "{text}");
        }
    }
}
