//! Parsing of a policy file's text into its [`FileSpec`], collecting all errors and warnings that the file has by
//! itself.
//!
//! A key is read by a function named after its kind of value, and [`Table::finish`] reports the keys that were not
//! read. Errors that need other files are in [`super::conflict`].

use std::collections::{HashMap, HashSet};
use std::hash::RandomState;
use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::bounds::MAX_LISTS;
use crate::dns::rtype::RecordType;
use crate::document::{self, Code, Diagnostic, Element, Note, Placed, Related, Source, Table, quoted};

use super::pasted::PastedEntries;
use crate::policy::matching::client_index::canonical;
use crate::policy::matching::name_set::{NameSet, Origin};
use crate::policy::matching::pattern::{self, Pattern, Purpose};
use crate::policy::model::budget::Budget;
use crate::policy::model::spec::{
    AllowedCidr, ApiTableSpec, BlueprintSpec, CacheSharing, ClientSpec, Cname, Covers, FileSpec, ListUse, Mode,
    OtherTables, PRESET_PREFIX, Phase, PolicySpec, PortRule, PrivateAnswers, Protocol, QueryTypes, TestSpec,
    UNRESTRICTED,
};
use crate::policy::object_file;
use crate::util::content_hash::content_hash;
use crate::util::small_list::SmallList;

/// The role of a file, which decides about the objects it may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role<'a> {
    /// A file of a person, with any objects.
    Policies,
    /// A file of the API, by the id of its object, with any objects.
    Object(&'a str),
    /// A preset, by its name: the file holds one policy of that id.
    Preset(&'a str),
}

impl Role<'_> {
    /// Returns whether the file may hold any objects.
    pub(crate) fn is_of_policies(self) -> bool {
        matches!(self, Self::Policies | Self::Object(_))
    }
}

/// Parses a file. The result is complete only if no diagnostic is an error.
pub(crate) fn read_file(source: &Source, role: Role<'_>, hasher: &RandomState) -> (FileSpec, Vec<Diagnostic>) {
    let error = |(message, help): (&str, &str)| Diagnostic::about_file(source.path(), message).help(help);
    if let Role::Object(_) = role
        && let Some(fault) = object_file::fault(source.text())
    {
        let nothing = FileSpec {
            source: source.clone(),
            clients: SmallList::default(),
            records: SmallList::default(),
            others: None,
        };
        return (nothing, vec![error(fault)]);
    }
    let (spec, mut diagnostics) = document::read(source, |root| {
        let policies = root.tables("policy").into_iter().filter_map(|(id, table)| policy(&id, table, role, hasher));
        let mut others = OtherTables {
            policies: policies.map(Arc::new).collect(),
            blueprints: Box::default(),
            tests: Box::default(),
            is_whole: root.is_whole(),
            hash: content_hash(source.text().as_bytes()),
        };
        let (mut clients, mut records) = (SmallList::default(), SmallList::default());
        if role.is_of_policies() {
            let blueprints = root.tables("blueprint").into_iter();
            others.blueprints = blueprints.filter_map(|(id, table)| blueprint(&id, table)).map(Arc::new).collect();
            let of_clients = root.tables("client").into_iter();
            let of_clients = of_clients.map(|(id, table)| (id, table, root.has_table("api", id.value)));
            clients = of_clients.filter_map(|(id, table, is_recorded)| client(&id, table, is_recorded)).collect();
            let ids = known_ids(&others, &clients);
            let known = |id: &str| ids.get(id).map(|id| Arc::clone(id));
            records = root.tables("api").into_iter().filter_map(|(id, table)| record(&id, &table, known)).collect();
            others.tests = root.array_of_tables("test").into_iter().filter_map(test).collect();
        }
        FileSpec {
            source: root.source().clone(),
            clients,
            records,
            others: (!others.is_empty()).then(|| Box::new(others)),
        }
    });
    if let Role::Object(id) = role
        && !spec.records.iter().any(|record| *record.id.value == *id)
        && let Some(fault) = object_file::old_fault(source.text())
    {
        diagnostics.insert(0, error(fault));
    }
    // An editor or a copy may have truncated the file before writing it. An empty file that went into force would drop
    // its policies.
    if !diagnostics.iter().any(Diagnostic::is_error) && spec.is_empty() {
        let error = match role {
            Role::Policies | Role::Object(_) => {
                Diagnostic::about_file(source.path(), "the file holds no table, as if half written")
                    .help("write a `[policy.ID]`, or remove the file: an empty file is never an empty policy")
            }
            Role::Preset(name) => Diagnostic::about_file(source.path(), "the file holds no table, as if half written")
                .help(format!("write `[policy.{name}]`, or remove the file to have the built-in preset")),
        };
        diagnostics.push(error);
    }
    (spec, diagnostics)
}

impl FileSpec {
    /// Returns whether the file holds no object.
    fn is_empty(&self) -> bool {
        let Self { source: _, clients, records, others } = self;
        clients.is_empty() && records.is_empty() && others.is_none()
    }
}

impl OtherTables {
    /// Returns whether the tables hold no object, and nothing of the text was left out.
    fn is_empty(&self) -> bool {
        let Self { policies, blueprints, tests, is_whole, hash: _ } = self;
        policies.is_empty() && blueprints.is_empty() && tests.is_empty() && *is_whole
    }
}

/// Returns the ids of the file's objects, by text, so that an `[api.ID]` table shares the allocation of its object's
/// id.
fn known_ids<'s>(others: &'s OtherTables, clients: &'s [ClientSpec]) -> HashMap<&'s str, &'s Arc<str>> {
    let ids = clients.iter().map(|spec| &spec.id.value).chain(others.policies.iter().map(|spec| &spec.id.value));
    ids.chain(others.blueprints.iter().map(|spec| &spec.id.value)).map(|id| (&**id, id)).collect()
}

/// Parses a `[policy.ID]` table.
fn policy(id: &Placed<&str>, mut table: Table<'_>, role: Role<'_>, hasher: &RandomState) -> Option<PolicySpec> {
    let id = match role {
        Role::Policies | Role::Object(_) => checked_id(id, &table),
        Role::Preset(name) if id.value == name => Some(id.map(|_| format!("{PRESET_PREFIX}{name}").into())),
        Role::Preset(name) => {
            let message = format!("the preset file `{name}.toml` cannot hold policy {}", quoted(id.value));
            table.error(id.span, message, Some(format!("write `[policy.{name}]` alone")));
            None
        }
    };
    let source = table.source().clone();
    let settings = PolicySpec::NOT_INCLUDED.into_iter();
    let settings = settings.filter_map(|key| Some(Placed { value: key, span: table.key_span(key)? })).collect();
    // Built even if the id is bad, so that all errors of the table are reported.
    let spec = PolicySpec {
        settings,
        id: id.clone().unwrap_or(Placed { value: "".into(), span: table.span() }),
        name: label(&mut table, "name"),
        description: label(&mut table, "description"),
        allow_all: table.boolean("allow_all").is_some_and(|flag| flag.value),
        allowed: names(&mut table, "allowed_hostnames", Purpose::Allow, hasher),
        denied: names(&mut table, "denied_hostnames", Purpose::Deny, hasher),
        allowed_lists: list_files(&mut table, "allowed_hostnames_files", Purpose::Allow, &source),
        denied_lists: list_files(&mut table, "denied_hostnames_files", Purpose::Deny, &source),
        include: includes(&mut table),
        mode: word(&mut table, "mode", &[("enforce", Mode::Enforce), ("audit", Mode::Audit)]),
        query_types: query_types(&mut table),
        private_answers: private_answers(&mut table, hasher),
        cname: word(&mut table, "cname", &[("trust", Cname::Trust), ("inspect", Cname::Inspect)]),
        cache: word(
            &mut table,
            "cache",
            &[("shared", CacheSharing::Shared), ("policy", CacheSharing::Policy), ("client", CacheSharing::Client)],
        ),
        budget: budget(&mut table),
        message: message(&mut table),
        allow_devbox_to_devbox: table.boolean("allow_devbox_to_devbox").is_some_and(|flag| flag.value),
        allowed_cidrs: allowed_cidrs(&mut table),
        source,
    };
    table.finish();
    id.map(|_| spec)
}

/// Parses a `[blueprint.ID]` table.
fn blueprint(id: &Placed<&str>, mut table: Table<'_>) -> Option<BlueprintSpec> {
    let id = checked_id(id, &table);
    let build_policy = reference(&mut table, "build_policy");
    let runtime_policy = reference(&mut table, "runtime_policy");
    table.finish();
    Some(BlueprintSpec { source: table.source().clone(), id: id?, build_policy, runtime_policy })
}

/// Parses a `[client.ID]` table. Only a devbox of the API, which has an `[api.ID]` table, may name neither policy nor
/// blueprint.
fn client(id: &Placed<&str>, mut table: Table<'_>, is_recorded: bool) -> Option<ClientSpec> {
    let id = checked_id(id, &table);
    let listed = table.strings("sources");
    let (mut sources, mut seen): (Vec<Placed<IpNet>>, HashSet<IpNet>) = Default::default();
    for text in listed.iter().flat_map(|list| &list.value) {
        match prefix(text.value) {
            Ok(prefix) if !seen.insert(prefix) => {
                table.warning(
                    Code::Duplicate,
                    text.span,
                    format!("source {} is given twice", quoted(text.value)),
                    None,
                );
            }
            Ok(prefix) => sources.push(text.map(|_| prefix)),
            Err((why, help)) => table.error(text.span, format!("source {}: {why}", quoted(text.value)), Some(help)),
        }
    }
    match listed {
        Some(list) if list.value.is_empty() => {
            table.error(list.span, "a client needs at least one source", Some(SOURCES_HELP.to_owned()));
        }
        None if table.key_span("sources").is_none() => table.missing("sources", SOURCES_HELP),
        _ => {}
    }
    let blueprint = reference(&mut table, "blueprint");
    let phase = word(&mut table, "phase", &[("build", Phase::Build), ("runtime", Phase::Runtime)]);
    let policy = reference(&mut table, "policy");
    if !is_recorded && table.key_span("policy").is_none() && table.key_span("blueprint").is_none() {
        table.missing("policy", "write `policy` or `blueprint`; `policy = \"unrestricted\"` allows everything");
    }
    table.finish();
    Some(ClientSpec { id: id?, sources: sources.into(), blueprint, phase, policy })
}

/// Parses an `[api.ID]` table: its id, and the places of its name and status; the other keys belong to the API. `known`
/// returns the shared copy of an id, which the object usually has in the same file.
fn record(id: &Placed<&str>, table: &Table<'_>, known: impl Fn(&str) -> Option<Arc<str>>) -> Option<ApiTableSpec> {
    let checked = checked_id(id, table)?;
    let value = known(id.value).unwrap_or(checked.value);
    let string = |key| table.string_span(key).unwrap_or_default();
    Some(ApiTableSpec { id: Placed { value, span: checked.span }, name: string("name"), status: string("status") })
}

/// Parses a `[[test]]` table.
fn test(mut table: Table<'_>) -> Option<TestSpec> {
    let client = reference(&mut table, "client");
    let name = table.string("name").and_then(|text| match pattern::question(text.value) {
        Ok(name) => Some(name),
        Err((why, help)) => {
            table.error(text.span, format!("name {}: {why}", quoted(text.value)), Some(help));
            None
        }
    });
    let expect = table.one_of("expect", &[("allow", true), ("deny", false)]);
    let qtype = match table.string("type") {
        None => Some(RecordType::A),
        Some(text) => record_type(&table, &text),
    };
    for (key, help) in [
        ("client", "write the id of a client"),
        ("name", "write the hostname that is asked for"),
        ("expect", "write \"allow\" or \"deny\""),
    ] {
        if table.key_span(key).is_none() {
            table.missing(key, help);
        }
    }
    table.finish();
    let expect = expect?;
    Some(TestSpec { client: client?, name: name?, qtype: qtype?, expects_allow: expect.value, span: expect.span })
}

/// Parses an array of patterns into a set.
fn names(table: &mut Table<'_>, key: &'static str, purpose: Purpose, hasher: &RandomState) -> Arc<NameSet> {
    let patterns = table.strings(key).map(|list| list.value).unwrap_or_default();
    let mut set = NameSet::with_capacity(hasher, patterns.len());
    if patterns.is_empty() {
        return Arc::new(set);
    }
    set.add_origin(Origin { path: Arc::clone(table.source().path()), via: Arc::new([]), is_list: false });
    // A block list of another system, pasted as it is, would give thousands of errors.
    let mut pasted = PastedEntries::default();
    for text in patterns {
        let pattern = match Pattern::parse_for(text.value, purpose) {
            Ok(pattern) => pattern,
            Err(error) => {
                if !pasted.take(text.value, text.span, || (error.to_string(), error.help.clone())) {
                    table.error(text.span, error.to_string(), Some(error.help));
                }
                continue;
            }
        };
        // Denying too much is safe, so a broad wildcard gets no warning there.
        if let Some(shared) = pattern.shared().filter(|_| purpose != Purpose::Deny) {
            table.warning(
                shared.code(),
                text.span,
                shared.message(&pattern, pattern.name()),
                Some(shared.help().to_owned()),
            );
        }
        let (line, column) = table.locate(text.span);
        if let Err(first) = set.insert(&pattern, line, column) {
            table.warn(Code::Duplicate, text.span, || Note {
                message: format!("`{pattern}` is listed twice in `{key}`"),
                help: Some("remove one of them".to_owned()),
                related: vec![Related { place: first.place(), message: "first listed here".to_owned() }],
            });
        }
    }
    pasted.report(table, key);
    Arc::new(set)
}

/// Parses `private_answers`, where `["*"]` stands for every name.
fn private_answers(table: &mut Table<'_>, hasher: &RandomState) -> PrivateAnswers {
    if table.strings_are("private_answers", &["*"]) {
        table.accept("private_answers");
        return PrivateAnswers::All;
    }
    PrivateAnswers::Names(names(table, "private_answers", Purpose::PrivateAnswers, hasher))
}

/// Parses an array of list files: paths relative to the policy file, or tables with a path and `subdomains`.
fn list_files(table: &mut Table<'_>, key: &'static str, purpose: Purpose, source: &Source) -> Vec<Placed<ListUse>> {
    let (mut lists, mut seen): (Vec<Placed<ListUse>>, HashSet<(PathBuf, Covers)>) = Default::default();
    for element in table.strings_or_tables(key) {
        let (text, covers) = match element {
            Element::Text(text) => (text, Covers::AsWritten),
            Element::Table(mut element) => {
                let path = element.string("path");
                let subdomains = element.boolean("subdomains").is_some_and(|flag| flag.value);
                if element.key_span("path").is_none() {
                    element.missing("path", "write the path of a list file");
                }
                element.finish();
                let Some(path) = path else { continue };
                (path, if subdomains { Covers::Subdomains } else { Covers::AsWritten })
            }
        };
        if lists.len() == MAX_LISTS {
            let message = format!("`{key}` names more than {MAX_LISTS} files");
            table.error(text.span, message, Some("put what they hold into fewer files".to_owned()));
            break;
        }
        if text.value.is_empty() || text.value.contains('\0') {
            table.error(
                text.span,
                format!("{} is not a path", quoted(text.value)),
                Some("name a list file".to_owned()),
            );
            continue;
        }
        if text.value.starts_with(PRESET_PREFIX) {
            let help = format!("write `include = [\"{}\"]`", text.value.escape_debug());
            table.error(text.span, format!("{} is a preset, not a list file", quoted(text.value)), Some(help));
            continue;
        }
        if text.value.contains("://") {
            let message = format!("{} is a URL, but list files are files on this machine", quoted(text.value));
            table.error(text.span, message, Some("download it, and name the file here".to_owned()));
            continue;
        }
        let path = source.path().parent().map_or_else(|| PathBuf::from(text.value), |folder| folder.join(text.value));
        // One file may be used both as written and with subdomains, and is two lists then.
        if seen.insert((path.clone(), covers)) {
            lists.push(text.map(|_| ListUse { path, purpose, covers }));
        } else {
            let message = format!("list file {} is given twice", quoted(text.value));
            table.warning(Code::Duplicate, text.span, message, Some("remove one of them".to_owned()));
        }
    }
    lists
}

/// Parses `include`.
fn includes(table: &mut Table<'_>) -> Vec<Placed<Arc<str>>> {
    let (mut included, mut seen): (Vec<Placed<Arc<str>>>, HashSet<&str>) = Default::default();
    for text in table.strings("include").map(|list| list.value).unwrap_or_default() {
        if text.value == UNRESTRICTED {
            let help = "write `allow_all = true` to allow everything".to_owned();
            table.error(text.span, "`unrestricted` has no lists to include", Some(help));
        } else if !seen.insert(text.value) {
            table.warning(Code::Duplicate, text.span, format!("{} is included twice", quoted(text.value)), None);
        } else {
            included.push(text.map(Arc::from));
        }
    }
    included
}

/// Parses `query_types`.
fn query_types(table: &mut Table<'_>) -> QueryTypes {
    let Some(list) = table.strings("query_types") else { return QueryTypes::default() };
    if list.value.is_empty() {
        let help = "write the types that may be asked for, or leave the key out for the usual ones".to_owned();
        table.error(list.span, "without a query type nothing can be asked for", Some(help));
    }
    QueryTypes::new(list.value.iter().filter_map(|text| record_type(table, text)))
}

/// Parses a record type that may be asked for.
fn record_type(table: &Table<'_>, text: &Placed<&str>) -> Option<RecordType> {
    match RecordType::from_str(text.value) {
        Ok(qtype) if !qtype.is_meta() => Some(qtype),
        Ok(_) => {
            let message = format!("query type {} is never forwarded: no record has it", quoted(text.value));
            table.error(text.span, message, Some("remove it".to_owned()));
            None
        }
        Err(_) => {
            let message = format!("query type {} is unknown", quoted(text.value));
            table.error(text.span, message, Some("write a name such as \"AAAA\", or \"TYPE\" and a number".to_owned()));
            None
        }
    }
}

/// Parses `budget`: `"off"`, or a table of the limits that differ from the default.
fn budget(table: &mut Table<'_>) -> Option<Budget> {
    /// The highest value of a limit, which no client reaches.
    const MOST: u64 = 1_000_000_000;
    let mut budget = Budget::default();
    match table.string_or_table("budget") {
        None => {}
        Some(Element::Text(text)) if text.value == "off" => return None,
        Some(Element::Text(text)) => {
            let help = "write \"off\", or a table such as { names = 64, octets = 1024 }".to_owned();
            table.error(text.span, format!("`budget` cannot be {}", quoted(text.value)), Some(help));
        }
        Some(Element::Table(mut table)) => {
            let Budget { names, octets, repeats, answers, addresses, longest, deepest } = &mut budget;
            for (key, most, value) in [
                ("names", MOST, names),
                ("octets", MOST, octets),
                ("repeats", MOST, repeats),
                ("answers", MOST, answers),
                ("addresses", MOST, addresses),
                ("longest", 255, longest),
                ("deepest", 127, deepest),
            ] {
                let given = table.integer(key, 0..=most).and_then(|given| u32::try_from(given.value).ok());
                *value = given.unwrap_or(*value);
            }
            table.finish();
        }
    }
    Some(budget)
}

/// Parses `message`.
fn message(table: &mut Table<'_>) -> Option<Arc<str>> {
    /// The longest message that usually fits an answer of 512 octets beside the other parts (RFC 1035 §4.2.1).
    const FITS: usize = 200;
    let text = table.string("message")?;
    if text.value.len() > FITS {
        let message = format!("`message` is longer than {FITS} bytes: an answer may show only its start");
        table.warning(Code::LongMessage, text.span, message, Some("say it shorter".to_owned()));
    }
    Some(text.value.split_whitespace().collect::<Vec<_>>().join(" ").into())
}

/// Parses `allowed_cidrs`: prefixes, or tables with a prefix and ports.
fn allowed_cidrs(table: &mut Table<'_>) -> Vec<AllowedCidr> {
    let mut allowed = Vec::new();
    for element in table.strings_or_tables("allowed_cidrs") {
        let (text, ports) = match element {
            Element::Text(text) => (text, Vec::new()),
            Element::Table(mut element) => {
                let text = element.string("cidr");
                if element.key_span("cidr").is_none() {
                    element.missing("cidr", "write a prefix, as \"10.12.0.0/16\"");
                }
                let ports = element.array_of_tables("ports").into_iter().filter_map(port_rule).collect();
                element.finish();
                let Some(text) = text else { continue };
                (text, ports)
            }
        };
        match prefix(text.value) {
            Ok(prefix) => allowed.push(AllowedCidr { prefix, ports }),
            Err((why, help)) => table.error(text.span, format!("prefix {}: {why}", quoted(text.value)), Some(help)),
        }
    }
    allowed
}

/// Parses an element of `ports`.
fn port_rule(mut table: Table<'_>) -> Option<PortRule> {
    let port = |placed: Placed<u64>| u16::try_from(placed.value).ok().map(|port| (port, placed.span));
    let first = table.integer("port", 1..=65535).and_then(port);
    let last = table.integer("end_port", 1..=65535).and_then(port);
    let protocols = [("TCP", Protocol::Tcp), ("UDP", Protocol::Udp), ("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let protocol = table.one_of("protocol", &protocols).map(|word| word.value);
    if table.key_span("port").is_none() {
        table.missing("port", "write a port from 1 to 65535");
    }
    table.finish();
    let (first, _) = first?;
    match last {
        Some((last, span)) if last < first => {
            table.error(span, format!("`end_port` {last} is below `port` {first}"), Some("swap them".to_owned()));
            None
        }
        last => Some(PortRule { first, last: last.map_or(first, |(last, _)| last), protocol }),
    }
}

/// Parses an address, or a prefix without host bits; an error has the reason and the help.
fn prefix(text: &str) -> Result<IpNet, (String, String)> {
    let parsed = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    let Some(net) = parsed else {
        let help = "write one as \"10.1.0.7\", \"172.30.0.0/16\" or \"2001:db8::/64\"";
        return Err(("it is neither an address nor a prefix".to_owned(), help.to_owned()));
    };
    if net.trunc() != net {
        let help = format!("write \"{}\" for the network or \"{}\" for the address", net.trunc(), net.addr());
        return Err(("it has bits behind its prefix length".to_owned(), help));
    }
    Ok(canonical(net))
}

/// Returns the id if a file may define it; reports an error otherwise.
fn checked_id(id: &Placed<&str>, table: &Table<'_>) -> Option<Placed<Arc<str>>> {
    /// The longest id in octets: the id is part of every denial and every decision record.
    const LONGEST: usize = 64;
    let is_id_octet = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    if id.value.is_empty() || id.value.len() > LONGEST || !id.value.bytes().all(is_id_octet) {
        let help = format!("use up to {LONGEST} letters, digits, `-`, `_` and `.`; people's names go into `name`");
        table.error(id.span, format!("{} cannot be an id", quoted(id.value)), Some(help));
        return None;
    }
    if id.value == UNRESTRICTED {
        let help = "choose another id; `unrestricted` is built in and allows everything".to_owned();
        table.error(id.span, "`unrestricted` cannot be defined", Some(help));
        return None;
    }
    Some(id.map(Arc::from))
}

/// Parses the id of an object that is defined elsewhere.
fn reference(table: &mut Table<'_>, key: &'static str) -> Option<Placed<Arc<str>>> {
    table.string(key).map(|id| id.map(Arc::from))
}

/// Parses a text for people.
fn label(table: &mut Table<'_>, key: &'static str) -> Option<Arc<str>> {
    table.string(key).map(|text| text.value.into())
}

/// Parses one of a set of words; returns the default if the key is absent.
fn word<T: Copy + Default>(table: &mut Table<'_>, key: &'static str, words: &[(&'static str, T)]) -> T {
    table.one_of(key, words).map(|word| word.value).unwrap_or_default()
}

/// The help about a client without sources.
const SOURCES_HELP: &str = "write `sources = [\"10.1.0.7\"]` with its addresses or prefixes";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::model::spec::PrivateAnswers;
    use crate::policy::testing::Directory;

    #[test]
    fn every_key_of_a_policy_is_read() {
        let text = "
[policy.p]
name = \"people's name\"
description = \"what for\"
allow_all = true
allowed_hostnames = [\"a.test\"]
denied_hostnames = [\"b.test\"]
include = [\"preset:npm\"]
mode = \"audit\"
query_types = [\"aaaa\", \"TYPE65400\"]
private_answers = [\"*\"]
cname = \"inspect\"
cache = \"client\"
message = \"ask\"
allow_devbox_to_devbox = true
allowed_cidrs = [\"10.12.0.0/16\", { cidr = \"10.13.0.1\", ports = [{ port = 443 }, { port = 1, end_port = 9, protocol = \"UDP\" }] }]
";
        let library = Directory::of(&[("p.toml", text)]).library();
        let policy = library.snapshot().policy("p").unwrap();
        assert_eq!((policy.id(), policy.name(), policy.description()), ("p", "people's name", Some("what for")));
        assert_eq!(policy.place().to_string(), "p/p.toml:2:9");
        assert!(policy.allow_all() && policy.allows_devboxes());
        assert_eq!((policy.mode(), policy.cname(), policy.message()), (Mode::Audit, Cname::Inspect, Some("ask")));
        assert_eq!(policy.cache(), CacheSharing::Client);
        assert_eq!(policy.include().collect::<Vec<_>>(), ["preset:npm"]);
        let types: Vec<_> = policy.query_types().iter().map(|qtype| qtype.to_string()).collect();
        assert_eq!(types, ["AAAA", "TYPE65400"]);
        assert!(matches!(policy.private_answers(), PrivateAnswers::All));
        let cidrs = policy.allowed_cidrs();
        assert_eq!(cidrs[0], AllowedCidr { prefix: "10.12.0.0/16".parse().unwrap(), ports: Vec::new() });
        let ports = vec![
            PortRule { first: 443, last: 443, protocol: None },
            PortRule { first: 1, last: 9, protocol: Some(Protocol::Udp) },
        ];
        assert_eq!(cidrs[1], AllowedCidr { prefix: "10.13.0.1/32".parse().unwrap(), ports });
        assert!(policy.allowed().iter().any(|rule| rule.via().eq(["preset:npm"])));
        assert_eq!(policy.denied().iter().map(|rule| rule.to_string()).collect::<Vec<_>>(), ["b.test"]);
    }

    #[test]
    fn every_wrong_value_is_reported_at_its_place_with_help() {
        const CASES: &[(&str, &str)] = &[
            (
                "[policy.p]\nallowed_hostnames = [\"a.test\", \"*\"]\n",
                "2:32: pattern `*`: it stands for every name: to allow everything, write `allow_all = true`",
            ),
            (
                "[policy.p]\ndenied_hostnames = [\"*\"]\n",
                "2:21: pattern `*`: it stands for every name: what is not allowed is denied as it is",
            ),
            (
                "[policy.p]\nprivate_answers = [\"*\", \"a.test\"]\n",
                "2:20: pattern `*`: it stands for every name: write `private_answers = [\"*\"]`, alone",
            ),
            ("[policy.p]\nallow_al = true\n", "2:1: policy `p`: unknown key `allow_al`: did you mean `allow_all`?"),
            (
                "[policy.p]\nallow_all = \"yes\"\n",
                "2:13: policy `p`: `allow_all` must be `true` or `false`, not a string",
            ),
            ("[policy.p]\nmode = \"log\"\n", "2:8: policy `p`: `mode` cannot be `log`: write \"enforce\" or \"audit\""),
            (
                "[policy.p]\ncname = \"inspec\"\n",
                "2:9: policy `p`: `cname` cannot be `inspec`: did you mean \"inspect\"?",
            ),
            ("[policy.p]\nquery_types = []\n", "2:15: without a query type nothing can be asked for: "),
            (
                "[policy.p]\nquery_types = [\"A\", \"ANY\"]\n",
                "2:21: query type `ANY` is never forwarded: no record has it: remove it",
            ),
            ("[policy.p]\nquery_types = [\"AAAAA\"]\n", "2:16: query type `AAAAA` is unknown: write a name such as"),
            (
                "[policy.p]\ninclude = [\"unrestricted\"]\n",
                "2:12: `unrestricted` has no lists to include: write `allow_all = true`",
            ),
            (
                "[policy.p]\nallowed_cidrs = [\"10.0.0.1/8\"]\n",
                "2:18: prefix `10.0.0.1/8`: it has bits behind its prefix length: write \"10.0.0.0/8\" for the network or \"10.0.0.1\" for the address",
            ),
            (
                "[policy.p]\nallowed_cidrs = [{ cidr = \"10.0.0.0/8\", ports = [{ port = 9, end_port = 1 }] }]\n",
                "2:73: `end_port` 1 is below `port` 9",
            ),
            ("[policy.unrestricted]\n", "1:9: `unrestricted` cannot be defined: choose another id"),
            ("[policy.\"a b\"]\n", "1:9: `a b` cannot be an id: use up to 64 letters"),
            ("[policy.\"preset:x\"]\n", "1:9: `preset:x` cannot be an id"),
            ("[blueprint.b]\nbuild = \"p\"\n", "2:1: blueprint `b`: unknown key `build`: did you mean `build_policy`?"),
            ("[client.c]\npolicy = \"unrestricted\"\n", "1:9: client `c`: missing key `sources`: write `sources = "),
            ("[client.c]\nsources = []\npolicy = \"unrestricted\"\n", "2:11: a client needs at least one source"),
            (
                "[client.c]\nsources = [\"192.0.2.1\"]\n",
                "1:9: client `c`: missing key `policy`: write `policy` or `blueprint`; `policy = \"unrestricted\"` allows everything",
            ),
            (
                "[client.c]\nsources = [\"192.0.2.300\"]\npolicy = \"unrestricted\"\n",
                "2:12: source `192.0.2.300`: it is neither an address nor a prefix",
            ),
            (
                "[client.c]\nsources = [\"192.0.2.1/24\"]\npolicy = \"unrestricted\"\n",
                "2:12: source `192.0.2.1/24`: it has bits behind its prefix length",
            ),
            (
                "[client.c]\nsources = [\"192.0.2.1\"]\npolicy = \"unrestricted\"\nphase = \"run\"\n",
                "4:9: client `c`: `phase` cannot be `run`: ",
            ),
            (
                "[[test]]\nclient = \"c\"\nname = \"a.test\"\n",
                "1:1: `test`: missing key `expect`: write \"allow\" or \"deny\"",
            ),
            (
                "[[test]]\nclient = \"c\"\nname = \"*.test\"\nexpect = \"deny\"\n",
                "3:8: name `*.test`: a hostname cannot hold `*`",
            ),
            ("[polcy.p]\n", "1:2: unknown key `polcy`: did you mean `policy`?"),
            ("policy = 1\n", "1:10: `policy` must be a table of tables, not an integer"),
        ];
        for (text, expected) in CASES {
            let errors = Directory::of(&[("x.toml", text)]).errors();
            let expected = format!("p/x.toml:{expected}");
            assert!(errors.iter().any(|line| line.starts_with(&expected)), "{text}\n{expected}\n{errors:#?}");
        }
    }

    #[test]
    fn a_hundred_errors_are_reported_and_the_rest_counted() {
        let text = format!("[policy.p]\nallowed_hostnames = [{}]\n", "\"*\", ".repeat(1_000));
        let errors = Directory::of(&[("x.toml", &text)]).errors();
        assert!(errors.iter().any(|line| line == "p/x.toml: and 900 more errors in this file"), "{}", errors.len());
    }
}
