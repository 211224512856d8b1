//! The command `hostgate show`: the policies as loaded, with includes expanded and the origin of each entry.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::Serialize;

use super::output::Output;
use super::{CONFIG, FAILED, OK, clients, sources};
use crate::document::{Remarks, closest};
use crate::policy::{
    AllowedCidr, Asker, BUILT_IN, Budget, CacheSharing, Client, Cname, EffectivePolicy, Mode, PRESET_PREFIX, Policy,
    PortRule, PrivateAnswers, Protocol, Rule, Rules, Snapshot,
};

/// The object to show.
pub(super) enum What {
    All,
    /// One policy, by id or name.
    Policy(String),
    /// The policy that applies to a client, given by address, id or name.
    Client(String),
}

/// The argument that lists the presets, unless a policy has this id.
const PRESETS: &str = "presets";

impl What {
    /// Chooses the object by the arguments; clap refuses both at once.
    pub(super) fn new(policy: Option<String>, client: Option<String>) -> Self {
        match (policy, client) {
            (Some(id), _) => Self::Policy(id),
            (None, Some(client)) => Self::Client(client),
            (None, None) => Self::All,
        }
    }

    /// Returns whether presets are asked for, which exist without any policy file.
    fn is_preset(&self) -> bool {
        matches!(self, Self::Policy(id) if id == PRESETS || id.starts_with(PRESET_PREFIX))
    }
}

/// Shows the object and returns the exit code.
pub(super) fn run(
    config: Option<PathBuf>,
    policies: Option<PathBuf>,
    what: &What,
    json: bool,
    output: &mut Output,
) -> u8 {
    let announce = (!json).then_some(&mut *output);
    let loaded = if what.is_preset() {
        sources::load_presets(config, policies, announce)
    } else {
        sources::load_announced(config, policies, announce).map(|(_, loaded)| Arc::clone(loaded.library().snapshot()))
    };
    let snapshot: &Snapshot = match &loaded {
        Ok(snapshot) => snapshot,
        Err(diagnostics) => {
            output.diagnostics(diagnostics);
            return CONFIG;
        }
    };
    match what {
        What::All => {
            show_all(snapshot, json, output);
            OK
        }
        What::Policy(id) => {
            if id == PRESETS && snapshot.policy(id).is_none() {
                show_presets(snapshot, json, output);
                return OK;
            }
            let shown = named(snapshot, id).map(|policy| show_policy(policy, snapshot, json, output));
            shown.map_or_else(|error| failed(&error, output), |()| OK)
        }
        What::Client(client) => match clients::asker(snapshot, client, usize::MAX) {
            Ok((asker, source)) => show_client(&source, (snapshot, &asker), json, output),
            Err(error) => failed(&format!("--client: {error}"), output),
        },
    }
}

/// Writes an error and returns the exit code.
fn failed(error: &str, output: &mut Output) -> u8 {
    output.error(format!("show: {error}"));
    FAILED
}

/// Returns the policy with this id, or else with this name.
///
/// # Errors
/// No policy matches, or several have the name.
fn named<'s>(snapshot: &'s Snapshot, text: &str) -> Result<&'s Policy, String> {
    if let Some(policy) = snapshot.policy(text) {
        return Ok(policy);
    }
    let found: Vec<&Policy> = snapshot.policies().filter(|policy| policy.name() == text).collect();
    let ids = |policies: &[&Policy]| policies.iter().map(|policy| policy.id()).collect::<Vec<_>>().join(", ");
    match &*found {
        [policy] => Ok(policy),
        [] => {
            let all: Vec<&Policy> = snapshot.policies().chain(snapshot.presets()).collect();
            let presets = || snapshot.presets().map(Policy::id);
            let bare = || presets().filter_map(|id| id.strip_prefix(PRESET_PREFIX));
            let near = bare().find(|name| *name == text).map(|name| format!("{PRESET_PREFIX}{name}"));
            let near = near.or_else(|| closest(text, all.iter().map(|policy| policy.id())).map(str::to_owned));
            let near = near.or_else(|| closest(text, bare()).map(|name| format!("{PRESET_PREFIX}{name}")));
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None => format!("there are {}", ids(&all)),
            };
            Err(format!("policy `{}` does not exist ({help})", text.escape_debug()))
        }
        several => Err(format!(
            "`{}` is the name of more than one policy: {}: write the id",
            text.escape_debug(),
            ids(several)
        )),
    }
}

/// An entry of a list, as `--json` writes it.
#[derive(Serialize)]
struct Entry<'a> {
    pattern: String,
    /// The place of the entry, as `path:line:col`.
    place: String,
    /// The ids of the includes by which the entry came into the policy.
    via: Vec<&'a str>,
    /// The comment above the entry; null if there is none, and for entries of list files.
    reason: Option<String>,
}

/// A preset as `--json` writes it.
#[derive(Serialize)]
struct PresetView<'a> {
    id: &'a str,
    description: Option<&'a str>,
    /// The place of the definition: built in, or in a file that replaces the preset.
    place: String,
    /// The number of entries.
    entries: usize,
}

/// A policy as `--json` writes it.
#[derive(Serialize)]
struct PolicyView<'a> {
    id: &'a str,
    name: &'a str,
    description: Option<&'a str>,
    place: String,
    /// Set if names that are not denied are allowed.
    allow_all: bool,
    /// The mode: `enforce` or `audit`.
    mode: &'static str,
    /// The treatment of aliases: `trust` or `inspect`.
    cname: &'static str,
    /// The sharing of cached answers: `shared`, `policy` or `client`.
    cache: &'static str,
    /// The limits on new lookups a minute; null if there are none.
    budget: Option<Budget>,
    /// The id of an include that no longer exists; then everything is denied.
    gone: Option<&'a str>,
    /// The sentence for clients whose query is denied.
    message: Option<&'a str>,
    /// The included ids, as written.
    include: Vec<&'a str>,
    /// The record types that may be asked for.
    query_types: Vec<String>,
    /// The names that may have addresses that are not globally reachable; `*` is all names.
    private_answers: Vec<String>,
    /// Set if clients may look up devboxes.
    allow_devbox_to_devbox: bool,
    /// The prefixes that may be connected to without a name; DNS does not enforce them.
    allowed_cidrs: Vec<String>,
    allowed: Vec<Entry<'a>>,
    denied: Vec<Entry<'a>>,
}

/// The list of all objects, as `--json` writes it.
#[derive(Serialize)]
struct AllView<'a> {
    /// The hash of the snapshot.
    hash: &'a str,
    policies: Vec<&'a str>,
    presets: Vec<&'a str>,
    blueprints: Vec<&'a str>,
    clients: Vec<ClientView<'a>>,
}

/// A client as `--json` writes it.
#[derive(Serialize)]
struct ClientView<'a> {
    /// The id; null for an address in no client.
    id: Option<&'a str>,
    /// The addresses and prefixes.
    sources: Vec<String>,
    blueprint: Option<&'a str>,
    /// The policy that applies; null if everything is denied.
    policy: Option<&'a str>,
}

/// Writes a policy.
fn show_policy(policy: &Policy, snapshot: &Snapshot, json: bool, output: &mut Output) {
    let view = PolicyView {
        id: policy.id(),
        name: policy.name(),
        description: policy.description(),
        place: policy.place().to_string(),
        allow_all: policy.allow_all(),
        mode: match policy.mode() {
            Mode::Enforce => "enforce",
            Mode::Audit => "audit",
        },
        cname: match policy.cname() {
            Cname::Trust => "trust",
            Cname::Inspect => "inspect",
        },
        cache: match policy.cache() {
            CacheSharing::Shared => "shared",
            CacheSharing::Policy => "policy",
            CacheSharing::Client => "client",
        },
        budget: policy.budget().copied(),
        gone: policy.gone(),
        message: policy.message(),
        include: policy.include().collect(),
        query_types: policy.query_types().iter().map(|kind| kind.to_string()).collect(),
        private_answers: match policy.private_answers() {
            PrivateAnswers::All => vec!["*".to_owned()],
            PrivateAnswers::Names(set) => set.iter().map(|name| name.to_string()).collect(),
        },
        allow_devbox_to_devbox: policy.allows_devboxes(),
        allowed_cidrs: policy.allowed_cidrs().iter().map(cidr).collect(),
        allowed: entries(policy, policy.allowed(), snapshot),
        denied: entries(policy, policy.denied(), snapshot),
    };
    if json {
        return output.json(&view);
    }
    output.line(format!("policy {} ({})", view.id, view.place));
    if view.name != view.id {
        output.line(format!("  name         {}", view.name));
    }
    if let Some(description) = view.description {
        output.line(format!("  description  {description}"));
    }
    output.line(format!("  allow_all    {}", view.allow_all));
    output.line(format!("  mode         {}", view.mode));
    output.line(format!("  cname        {}", view.cname));
    output.line(format!("  cache        {}", view.cache));
    output.line(match view.budget {
        None => "  budget       off".to_owned(),
        Some(Budget { names, octets, repeats, answers, addresses, longest, deepest }) => format!(
            "  budget       names {names}, octets {octets}, repeats {repeats}, answers {answers}, addresses {addresses} a minute; \
             longest {longest}, deepest {deepest}"
        ),
    });
    output.line(format!("  query_types  {}", view.query_types.join(" ")));
    let lists = [
        ("include", view.include.join(" ")),
        ("private_answers", view.private_answers.join(" ")),
        ("allowed_cidrs", view.allowed_cidrs.join(" ")),
        ("message", view.message.unwrap_or_default().to_owned()),
    ];
    for (key, value) in lists.iter().filter(|(_, value)| !value.is_empty()) {
        output.line(format!("  {key:12} {value}"));
    }
    if view.allow_devbox_to_devbox {
        output.line("  allow_devbox_to_devbox");
    }
    if let Some(gone) = view.gone {
        output.line(format!("  denies everything: it includes {gone}, which is gone"));
    }
    for (title, entries) in [("allowed", &view.allowed), ("denied", &view.denied)] {
        if entries.is_empty() {
            continue;
        }
        output.line(format!("  {title}:"));
        let width = entries.iter().map(|entry| entry.pattern.len()).max().unwrap_or(0);
        for Entry { pattern, place, via, reason } in entries {
            let via = if via.is_empty() { String::new() } else { format!(" by {}", via.join(" > ")) };
            output.line(format!("    {pattern:width$}  {place}{via}"));
            // Reasons are shown for presets only: the author of a policy knows those in it.
            if let Some(reason) = reason.as_ref().filter(|_| policy.id().starts_with(PRESET_PREFIX)) {
                output.line(format!("      {reason}"));
            }
        }
    }
}

/// Writes the policy that applies to an address.
fn show_client(source: &str, (snapshot, asker): (&Snapshot, &Asker<'_>), json: bool, output: &mut Output) -> u8 {
    let policy = match asker.effective {
        EffectivePolicy::Policy(policy) | EffectivePolicy::Unrestricted(policy, _) => policy,
        EffectivePolicy::None(reason) => {
            output.error(format!("show: {source}: {reason}: everything is denied"));
            return FAILED;
        }
    };
    if !json {
        match asker.client {
            Some(client) => output.line(format!("client {} ({})", client.id(), client.place())),
            None => output.line(format!("{source} is in no client; the default policy applies")),
        }
    }
    show_policy(policy, snapshot, json, output);
    OK
}

/// Writes the presets, one a line.
fn show_presets(snapshot: &Snapshot, json: bool, output: &mut Output) {
    let views = snapshot.presets().map(|policy| PresetView {
        id: policy.id(),
        description: policy.description(),
        place: policy.place().to_string(),
        entries: policy.allowed().iter().count() + policy.denied().iter().count(),
    });
    let views: Vec<_> = views.collect();
    if json {
        return output.json(&views);
    }
    let width = views.iter().map(|view| view.id.len()).max().unwrap_or(0);
    for PresetView { id, description, place, .. } in views {
        let own = if place.starts_with(BUILT_IN) { String::new() } else { format!(" ({place})") };
        output.line(format!("{id:width$}  {}{own}", description.unwrap_or_default()));
    }
}

/// Writes all objects.
fn show_all(snapshot: &Snapshot, json: bool, output: &mut Output) {
    let view = AllView {
        hash: &snapshot.hash,
        policies: snapshot.policies().map(Policy::id).collect(),
        presets: snapshot.presets().map(Policy::id).collect(),
        blueprints: snapshot.blueprints().map(crate::policy::Blueprint::id).collect(),
        clients: snapshot.clients().map(client_view).collect(),
    };
    if json {
        return output.json(&view);
    }
    output.line(format!("hash {}", view.hash));
    for policy in snapshot.policies() {
        let (allowed, denied) = (policy.allowed().iter().count(), policy.denied().iter().count());
        let all = if policy.allow_all() { ", allows all else" } else { "" };
        output.line(format!("policy {}  {allowed} allowed, {denied} denied{all}  {}", policy.id(), policy.place()));
    }
    for blueprint in snapshot.blueprints() {
        let name = |phase| blueprint.policy(phase).map_or_else(|| snapshot.without().to_owned(), str::to_owned);
        let (build, runtime) = (name(crate::policy::Phase::Build), name(crate::policy::Phase::Runtime));
        output.line(format!("blueprint {}  build {build}, runtime {runtime}  {}", blueprint.id(), blueprint.place()));
    }
    for (client, view) in snapshot.clients().zip(&view.clients) {
        let policy = view.policy.unwrap_or("none: everything is denied");
        let why = if snapshot.policy_named_for(client).is_none() { " (none is named)" } else { "" };
        output.line(format!(
            "client {}  {}  policy {policy}{why}  {}",
            client.id(),
            view.sources.join(" "),
            client.place()
        ));
    }
}

/// Converts a client into the fields of `--json`.
fn client_view(client: &Client) -> ClientView<'_> {
    ClientView {
        id: Some(client.id()),
        sources: client.sources().map(|source| source.to_string()).collect(),
        blueprint: client.blueprint(),
        policy: client.asker().policy().map(Policy::id),
    }
}

/// Formats a prefix with its ports: `10.0.0.0/8 tcp/443 8000-8080`.
fn cidr(cidr: &AllowedCidr) -> String {
    let port = |rule: &PortRule| {
        let protocol = match rule.protocol {
            Some(Protocol::Tcp) => "tcp/",
            Some(Protocol::Udp) => "udp/",
            None => "",
        };
        let last = if rule.last == rule.first { String::new() } else { format!("-{}", rule.last) };
        format!(" {protocol}{}{last}", rule.first)
    };
    format!("{}{}", cidr.prefix, cidr.ports.iter().map(port).collect::<String>())
}

/// Converts a list into the fields of `--json`.
fn entries<'s>(policy: &'s Policy, rules: &'s Rules, snapshot: &'s Snapshot) -> Vec<Entry<'s>> {
    let mut remarks: HashMap<&str, Remarks<'s>> = HashMap::new();
    let mut reason = |rule: &Rule<'s>| {
        let written = rule.via().last().map_or(Some(policy), |id| snapshot.policy(id))?;
        let (path, line, _) = rule.position();
        // An entry of a list file has no comment in the policy file.
        let remarks = remarks.entry(written.id()).or_insert_with(|| Remarks::of(written.source()));
        (path == &**written.source().path()).then(|| remarks.above(line)).flatten()
    };
    let entry = |rule: Rule<'s>| Entry {
        pattern: rule.to_string(),
        place: rule.place().to_string(),
        via: rule.via().collect(),
        reason: reason(&rule),
    };
    rules.iter().map(entry).collect()
}
