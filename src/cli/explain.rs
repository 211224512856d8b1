//! `hostgate explain`: what would be answered to whom, and by which line of which file.
//!
//! It calls the function that enforcement calls, on policies loaded as `serve` loads them.

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
    /// The name, as typed.
    pub(super) name: String,
    /// Who asks: an address, an id or a name.
    pub(super) client: String,
    /// The type.
    pub(super) record_type: RecordType,
    /// The listener that is asked.
    pub(super) listener: Option<SocketAddr>,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Explanation<'a> {
    /// The name, in canonical form.
    name: String,
    /// The type.
    #[serde(rename = "type")]
    record_type: String,
    /// The address that was given, or the first address or prefix of the client that was.
    source: &'a str,
    /// The client's id; null when the address is in none.
    client: Option<&'a str>,
    /// The policy that applies; null when none does.
    policy: Option<&'a str>,
    /// Why that applies although no policy is named for the client; null when one is.
    without_policy: Option<String>,
    /// `allow`, `deny` or `nodata`.
    action: &'static str,
    /// Why, as decision records say it.
    reason: &'static str,
    /// Whether it would be denied but for `mode = "audit"`.
    audited: bool,
    /// The pattern that decided; null when none did.
    rule: Option<String>,
    /// Where the pattern stands, `path:line:col`.
    place: Option<String>,
    /// The includes by which it came.
    via: Vec<&'a str>,
    /// The entry that does not match, though it may be meant to.
    near: Option<String>,
    /// What a budget of the policy counts this question for; null when none does.
    budget: Option<BudgetOf>,
    /// What hostgate itself answers: a devbox's addresses or name, or the host's own address.
    answer: &'a [String],
    /// The sentence the client gets.
    text: String,
}

/// A budget that the question counts against, as far as is known without what the client asked before.
#[derive(Serialize)]
struct BudgetOf {
    /// The names it is for.
    of: String,
    /// Its limits.
    #[serde(flatten)]
    limits: Budget,
    /// The limit that never lets the question pass, unless the answer is cached.
    exceeded: Option<&'static str>,
    /// What a client is told then.
    #[serde(skip)]
    text: String,
}

impl BudgetOf {
    /// Finds the budget that a question for `name` counts against.
    fn find(decision: &Decision<'_>, name: &LowerName) -> Option<Self> {
        let (budget, scope) = decision.budget(name)?;
        let exceeded = budget.never(name, scope);
        let text = exceeded.zip(decision.policy).map(|(limit, policy)| policy.budget_text(budget, limit, scope));
        let exceeded = exceeded.map(Limit::key);
        Some(Self { of: scope.to_string(), limits: *budget, exceeded, text: text.unwrap_or_default() })
    }
}

/// Explains, and returns the exit code: yes when it is allowed, no when not.
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
    let (config, loaded) = match sources::load_told(config, policies, (!json).then_some(&mut *output)) {
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
        tell(&name, (asked, &source), (snapshot, &asker), &decision, &devbox, (budget.as_ref(), is_over), output);
    }
    if is_allowed { OK } else { FAILED }
}

/// Returns whether this is a question for all types of an allowed name, which is answered as RFC 8482 says.
fn is_any(decision: &Decision<'_>, record_type: RecordType) -> bool {
    decision.action == Action::NoData && record_type == RecordType::ANY
}

/// Puts the decision into fields.
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

/// Writes the decision for people.
fn tell(
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
        // The built-in policy stands nowhere.
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

/// What hostgate itself answers.
struct Devbox<'a> {
    /// The devbox whose records they are, when the asker gets them.
    client: Option<&'a Client>,
    /// The data of the records as text.
    records: Vec<String>,
}

impl<'a> Devbox<'a> {
    /// Looks what a decision answers with.
    fn of(snapshot: &'a Snapshot, name: &LowerName, decision: &Decision<'_>, record_type: RecordType) -> Self {
        if decision.action != Action::Answer {
            return Self { client: None, records: Vec::new() };
        }
        let records = snapshot.own_records(name, record_type).map(data).collect();
        Self { client: snapshot.devbox(name, record_type), records }
    }
}

/// Returns the data of a record of our own as text.
fn data(record: LocalData) -> String {
    match record {
        LocalData::Address(address) => address.to_string(),
        LocalData::Name(name) => name.to_string(),
    }
}

/// Returns the number of the listener with this address; without one, a number that no listener has.
fn listener_number(config: &Config, address: Option<SocketAddr>) -> Option<usize> {
    match address {
        None => Some(usize::MAX),
        Some(address) => config.listen.iter().position(|listen| listen.address == address),
    }
}
