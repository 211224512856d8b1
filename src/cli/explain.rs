//! The command `hostgate explain`: the answer that a client would get for a name, and the rule that decides it.
//!
//! It calls the function that answers queries, on policies loaded as `serve` loads them, so it cannot disagree with the
//! running service except about state: budgets used, and what upstreams say.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Serialize;

use super::output::Output;
use super::{CONFIG, FAILED, OK, USAGE, clients, sources};
use crate::config::Config;
use crate::dns::answer::LocalData;
use crate::dns::name::LowerName;
use crate::dns::rtype::RecordType;
use crate::document::quoted;
use crate::policy::matching::pattern;
use crate::policy::{self, Action, Asker, Budget, Client, Decision, Limit, Mode, NearMiss, Policy, Snapshot};

/// The question to explain.
pub(super) struct Asked {
    pub(super) name: String,
    /// The client that asks: an address, an id or a name.
    pub(super) client: String,
    pub(super) record_type: RecordType,
    /// The listener that receives the question; `None` stands for a listener without a policy of its own.
    pub(super) listener: Option<SocketAddr>,
}

/// The explanation that `--json` writes.
#[derive(Serialize)]
struct Explanation<'a> {
    /// The name in canonical form.
    name: String,
    #[serde(rename = "type")]
    record_type: String,
    /// The address given, or the first address or prefix of the client given.
    source: &'a str,
    /// The id of the client; null for an address in no client.
    client: Option<&'a str>,
    /// The id of the policy that applies; null if there is none.
    policy: Option<&'a str>,
    /// The reason for a policy that the client does not name itself; null if it names one.
    without_policy: Option<String>,
    /// The action: `allow`, `deny` or `nodata`.
    action: &'static str,
    /// The reason, as in decision records.
    reason: &'static str,
    /// Set if the query would be denied without `mode = "audit"`.
    audited: bool,
    /// The pattern that decided; null if no rule did.
    rule: Option<String>,
    /// The place of that pattern, as `path:line:col`.
    place: Option<String>,
    /// The ids of the includes by which the rule came into the policy.
    via: Vec<&'a str>,
    /// An entry that nearly matches, and may be meant to.
    near: Option<String>,
    /// The budget that the question counts against; null if there is none.
    budget: Option<BudgetOf>,
    /// The records of hostgate's own answer: addresses or the name of a devbox, or the host's own address.
    answer: &'a [String],
    /// The sentence sent to the client (Extended DNS Error).
    text: String,
}

/// A budget that the question counts against, without the client's use of it so far.
#[derive(Serialize)]
struct BudgetOf {
    /// The names that the budget is for.
    of: String,
    #[serde(flatten)]
    limits: Budget,
    /// The limit that the question always exceeds, unless the answer is cached.
    exceeded: Option<&'static str>,
    #[serde(skip)]
    text: String,
}

impl BudgetOf {
    /// Returns the budget that a question for `name` counts against; `None` if it counts against none.
    fn find(decision: &Decision<'_>, name: &LowerName) -> Option<Self> {
        let (budget, scope) = decision.budget(name)?;
        let exceeded = budget.never(name, scope);
        let text = exceeded.zip(decision.policy).map(|(limit, policy)| policy.budget_text(budget, limit, scope));
        let exceeded = exceeded.map(Limit::key);
        Some(Self { of: scope.to_string(), limits: *budget, exceeded, text: text.unwrap_or_default() })
    }
}

/// Explains the question and returns the exit code: 0 if it is allowed, 1 if not.
pub(super) fn run(
    config: Option<PathBuf>,
    policies: Option<PathBuf>,
    asked: &Asked,
    json: bool,
    output: &mut Output,
) -> u8 {
    let name = match pattern::any_question(&asked.name) {
        Ok(name) => name,
        Err((why, help)) => {
            output.error(format!("explain: {}: {why}: {help}", quoted(&asked.name)));
            return USAGE;
        }
    };
    let (config, loaded) = match sources::load_announced(config, policies, (!json).then_some(&mut *output)) {
        Ok(loaded) => loaded,
        Err(diagnostics) => {
            output.diagnostics(&diagnostics);
            return CONFIG;
        }
    };
    let Some(listener) = listener_number(&config, asked.listener) else {
        output.error("explain: no [[listen]] of the configuration has the address given with --listener");
        return USAGE;
    };
    let snapshot: &Snapshot = loaded.library().snapshot();
    let (asker, source) = match clients::asker(snapshot, &asked.client, listener) {
        Ok(asker) => asker,
        Err(error) => {
            output.error(format!("explain: --client: {error}"));
            return USAGE;
        }
    };
    let decision = snapshot.decide(&asker, &name, asked.record_type);
    let devbox = Devbox::of(snapshot, &name, &decision, asked.record_type);
    let budget = BudgetOf::find(&decision, &name);
    let is_audited = asker.policy().is_some_and(|policy| policy.mode() == Mode::Audit);
    let is_over = !is_audited && budget.as_ref().is_some_and(|budget| budget.exceeded.is_some());
    let is_allowed = !is_over && (decision.action.is_allow() || is_any(&decision, asked.record_type));
    if json {
        let mut explanation = explanation(&name, (asked, &source), (snapshot, &asker), &decision, &devbox);
        if let Some(budget) = budget.as_ref().filter(|_| is_over) {
            (explanation.action, explanation.reason) = (Action::Deny.as_str(), "budget");
            explanation.text.clone_from(&budget.text);
        }
        output.json(&Explanation { budget, ..explanation });
    } else {
        write_text(&name, (asked, &source), (snapshot, &asker), &decision, &devbox, (budget.as_ref(), is_over), output);
    }
    if is_allowed { OK } else { FAILED }
}

/// Returns whether the question is for all types of an allowed name, which is answered as RFC 8482 specifies.
fn is_any(decision: &Decision<'_>, record_type: RecordType) -> bool {
    decision.action == Action::NoData && record_type == RecordType::ANY
}

/// Converts a decision into the fields of `--json`.
fn explanation<'a>(
    name: &LowerName,
    (asked, source): (&Asked, &'a str),
    (snapshot, asker): (&Snapshot, &Asker<'a>),
    decision: &Decision<'a>,
    devbox: &'a Devbox<'a>,
) -> Explanation<'a> {
    Explanation {
        name: name.to_string(),
        record_type: asked.record_type.to_string(),
        source,
        client: asker.client.map(Client::id),
        policy: asker.policy().map(Policy::id),
        without_policy: asker.client.and_then(|client| snapshot.why_no_policy_is_named(client)),
        action: decision.action.as_str(),
        reason: decision.reason.as_str(),
        audited: decision.audited,
        rule: decision.rule.map(|rule| rule.to_string()),
        place: decision.rule.map(|rule| rule.place().to_string()),
        via: decision.rule.iter().flat_map(policy::Rule::via).collect(),
        near: NearMiss::of(decision, name).map(|near| near.to_string()),
        budget: None,
        answer: &devbox.records,
        text: decision.explain().to_string(),
    }
}

/// Writes the explanation as text.
fn write_text(
    name: &LowerName,
    (asked, source): (&Asked, &str),
    (snapshot, asker): (&Snapshot, &Asker<'_>),
    decision: &Decision<'_>,
    devbox: &Devbox<'_>,
    (budget, is_over): (Option<&BudgetOf>, bool),
    output: &mut Output,
) {
    let verdict = match decision.action {
        _ if is_over => "denied",
        Action::Allow | Action::Answer if decision.audited => "allowed (audit: would be denied)",
        Action::Allow | Action::Answer => "allowed",
        Action::NoData if is_any(decision, asked.record_type) => "allowed (answered as RFC 8482 says)",
        Action::NoData => "no data",
        Action::Deny | Action::Refuse => "denied",
    };
    output.line(format!("{name} {} from {}: {verdict}", asked.record_type, source));
    match asker.client {
        Some(client) => output.line(format!("  client  {} ({})", client.id(), client.place())),
        None => output.line("  client  none holds this address"),
    }
    if let Some(policy) = asker.policy() {
        // The built-in policy has no place in a file.
        let place = policy.place();
        let place = if place.line == 0 { String::new() } else { format!(" ({place})") };
        output.line(format!("  policy  {}{place}", policy.id()));
    }
    if let Some(why) = asker.client.and_then(|client| snapshot.why_no_policy_is_named(client)) {
        output.line(format!("  unnamed {why}"));
    }
    if let Some(rule) = decision.rule {
        let via: Vec<&str> = rule.via().collect();
        let via = if via.is_empty() { String::new() } else { format!(", by include of {}", via.join(" > ")) };
        output.line(format!("  rule    {rule} ({}{via})", rule.place()));
    }
    if let Some(client) = devbox.client {
        output.line(format!("  devbox  {} ({})", client.id(), client.place()));
    }
    if !devbox.records.is_empty() {
        output.line(format!("  answer  {}", devbox.records.join(" ")));
    }
    if let Some(BudgetOf { of, limits, .. }) = budget {
        output.line(format!("  budget  {of}: {limits}"));
    }
    match budget.filter(|_| is_over) {
        Some(budget) => output.line(format!("  because {}", budget.text)),
        None => output.line(format!("  because {}", decision.explain())),
    }
    if let Some(near) = NearMiss::of(decision, name) {
        output.line(format!("  near    {near} ({})", near.rule.place()));
    }
}

/// The records of hostgate's own answer.
struct Devbox<'a> {
    /// The devbox that the records belong to, if the asker may look it up.
    client: Option<&'a Client>,
    /// The data of the records in presentation form.
    records: Vec<String>,
}

impl<'a> Devbox<'a> {
    /// Looks up the records that a decision answers with.
    fn of(snapshot: &'a Snapshot, name: &LowerName, decision: &Decision<'_>, record_type: RecordType) -> Self {
        if decision.action != Action::Answer {
            return Self { client: None, records: Vec::new() };
        }
        let records = snapshot.own_records(name, record_type).map(data).collect();
        Self { client: snapshot.devbox(name, record_type), records }
    }
}

/// Formats the data of one of hostgate's own records.
fn data(record: LocalData) -> String {
    match record {
        LocalData::Address(address) => address.to_string(),
        LocalData::Name(name) => name.to_string(),
    }
}

/// Returns the number of the listener with this address; without an address, a number that no listener has.
fn listener_number(config: &Config, address: Option<SocketAddr>) -> Option<usize> {
    match address {
        // No listener has this number, so no listener's policy applies.
        None => Some(usize::MAX),
        Some(address) => config.listen.iter().position(|listen| listen.address == address),
    }
}
