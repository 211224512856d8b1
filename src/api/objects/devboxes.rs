//! Devboxes: addresses, each bound to a policy from its creation until it is shut down.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::objects::address;
use crate::api::objects::blueprints;
use crate::api::objects::id::now_ms;
use crate::api::objects::kind::Kind;
use crate::api::objects::object_file::{Fields, File, kept_of, object};
use crate::api::objects::revision;
use crate::api::request::call::{Call, Done, Text};
use crate::api::request::error::{ApiError, Wrongs};
use crate::api::request::fields;
use crate::api::request::list::{Listed, Query};
use crate::api::{Edit, by_hand, is_kept, is_made, kept};
use crate::policy::{ApiTable, Blueprint, Client, Phase, Policy, Snapshot};

/// Creates a devbox.
pub(in crate::api) async fn create(call: Arc<Call>) -> Result<Done, ApiError> {
    let mut fields = call.fields.clone();
    revision::take(&mut fields)?;
    let mut wanted = Wanted::read(fields)?;
    let control = &call.control;
    let mut writer = control.write(&call.principal).await?;
    let snapshot = control.snapshot();
    let blueprint = wanted.blueprint(&snapshot)?.map(|blueprint| blueprint.id().to_owned());
    if let Some(policy) = &wanted.policy {
        blueprints::check_policy(&snapshot, "launch_parameters.network_policy_id", policy)?;
    }
    let pool = writer.devboxes.as_mut();
    let address = address::choose(
        (&snapshot, &control.reserved),
        address::not_for(&call),
        &wanted.metadata,
        pool,
        ("devbox", "devbox_pool"),
    )?;
    // Its client has it.
    wanted.metadata.remove(address::KEY);
    let id: Arc<str> = control.ids.next(Kind::Devbox).into();
    let file = wanted.file(&id, blueprint.as_deref(), address, now_ms());
    control.make(&call, "devbox.create", (Kind::Devbox, &id), file).await
}

/// Changes what people call a devbox.
pub(in crate::api) async fn update(call: Arc<Call>) -> Result<Done, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let _writing = control.write(&call.principal).await?;
    made(&control.snapshot(), id)?;
    let mut given = call.fields.clone();
    let revision = revision::take(&mut given)?;
    let mut wrongs = Wrongs::default();
    // An empty name clears it, as the API this follows says.
    let is_cleared = given.get("name").is_some_and(|name| name == "");
    let name = if is_cleared {
        given.remove("name").map(|_| Value::Null)
    } else {
        fields::label(&mut given, "name", &mut wrongs)
    };
    let metadata = fields::metadata(&mut given, &mut wrongs);
    for key in NAMING.map(|(key, _)| key) {
        if given.remove(key).is_some() {
            wrongs.add(format!("{key}: a devbox keeps it: change the policy itself, or make another devbox"));
        }
    }
    fields::near_misses(&given, "", &NAMING, &mut wrongs);
    wrongs.check()?;
    let edit = |snapshot: &Snapshot| {
        let record = made(snapshot, id)?;
        let kept = kept_of(record);
        let mut metadata = metadata.clone();
        if let Some(metadata) = &mut metadata {
            let client = snapshot.client(id);
            let mut before = metadata_of(client, kept.get("metadata").cloned());
            let (wanted, has) = (metadata.remove(address::KEY), before.remove_entry(address::KEY));
            if wanted.is_some() && wanted.as_ref() != has.as_ref().map(|(_, address)| address) {
                let message =
                    format!("metadata[\"{}\"]: a devbox keeps its address: make another devbox", address::KEY);
                return Err(ApiError::bad(message));
            }
            if client.is_none() {
                metadata.extend(has);
            }
        }
        revision::check(revision.as_deref(), Kind::Devbox, id, record.source().text())?;
        Edit::of(id, record.source().text(), |file| {
            if let Some(name) = &name {
                file.set("api", id, "name", name);
            }
            if let Some(metadata) = metadata {
                file.set("api", id, "metadata", &metadata.into());
            }
            if !given.is_empty() {
                let mut others = object(kept.get("fields").cloned());
                others.extend(given.clone());
                file.set("api", id, "fields", &others.into());
            }
        })
    };
    control.change(&call.principal, "devbox.update", edit).await?;
    control.view(Kind::Devbox, id).map(Done::changed)
}

/// Shuts a devbox down: from then on its address is bound to nothing.
pub(in crate::api) async fn shut_down(call: Arc<Call>) -> Result<Done, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let mut writer = control.write(&call.principal).await?;
    let is_down = |record: &ApiTable| record.status() == SHUTDOWN;
    if !is_down(made(&control.snapshot(), id)?) {
        let edit = |snapshot: &Snapshot| {
            let record = made(snapshot, id)?;
            let views = Views::new(snapshot);
            let launch = views.launch_parameters(snapshot.client(id), &kept_of(record));
            let blueprint = snapshot.client(id).and_then(Client::blueprint);
            let metadata = metadata_of(snapshot.client(id), kept_of(record).remove("metadata"));
            Edit::of(id, record.source().text(), |file| {
                file.remove("client", id);
                for (key, value) in [
                    ("status", SHUTDOWN.into()),
                    ("end_time_ms", now_ms().into()),
                    ("shutdown_reason", "api_shutdown".into()),
                    ("blueprint_id", blueprint.into()),
                    ("launch_parameters", launch.into()),
                    ("metadata", metadata.into()),
                ] {
                    file.set("api", id, key, &value);
                }
            })
        };
        control.change(&call.principal, "devbox.shutdown", edit).await?;
        writer.retire(control, &call.principal, id).await;
    }
    control.view(Kind::Devbox, id).map(Done::changed)
}

/// Returns a page of devboxes.
pub(in crate::api) fn list(call: &Call, snapshot: &Snapshot) -> Result<Text, ApiError> {
    let query = Query::parse(&call.query, &STATUSES)?;
    let reached = query.policy.as_deref().map(|policy| changed_with(snapshot, policy));
    let is_reached = |client: Option<&Client>| {
        let policy = client.and_then(|client| client.asker().policy());
        reached.as_ref().is_none_or(|ids| policy.is_some_and(|policy| ids.contains(policy.id())))
    };
    let made = snapshot.records().filter(|record| Kind::of(record.id()) == Some(Kind::Devbox) && is_kept(record));
    let made = made.filter(|record| is_reached(snapshot.client(record.id())));
    let of_made = made.filter_map(|record| {
        let status = match snapshot.client(record.id()) {
            Some(client) if is_made(snapshot, record.id(), client.source()) => RUNNING,
            Some(client) if is_devbox_by_hand(snapshot, client) => return None,
            _ => SHUTDOWN,
        };
        Some(Listed { is_made: true, id: record.id(), name: record.name(), status: status.into() })
    });
    let by_hand = snapshot.clients().filter(|client| is_devbox_by_hand(snapshot, client) && is_reached(Some(client)));
    let by_hand = by_hand.map(|client| Listed::by_hand(client.id(), client.id(), RUNNING));
    let views = Views::new(snapshot);
    Ok(query.page(Kind::Devbox, of_made.chain(by_hand))?.answer("devboxes", |id| views.view(id)))
}

/// Returns the ids of the policies that change with one: itself, and those that include it, directly or not.
fn changed_with<'s>(snapshot: &'s Snapshot, policy: &'s str) -> HashSet<&'s str> {
    let mut including: HashMap<&str, Vec<&str>> = HashMap::new();
    for including_policy in snapshot.policies() {
        for included in including_policy.include() {
            including.entry(included).or_default().push(including_policy.id());
        }
    }
    let (mut changed, mut next) = (HashSet::from([policy]), vec![policy]);
    while let Some(id) = next.pop() {
        next.extend(including.get(id).into_iter().flatten().copied().filter(|id| changed.insert(id)));
    }
    changed
}

/// Returns a devbox as the API shows it.
pub(in crate::api) fn view(snapshot: &Snapshot, id: &str) -> Option<Value> {
    Views::new(snapshot).view(id)
}

/// Makes views of many devboxes, which have few blueprints.
struct Views<'s> {
    /// What is in force.
    snapshot: &'s Snapshot,
    /// The launch parameters of blueprints.
    launch: RefCell<HashMap<String, Fields>>,
}

impl<'s> Views<'s> {
    /// Begins.
    fn new(snapshot: &'s Snapshot) -> Self {
        Self { snapshot, launch: RefCell::default() }
    }

    /// Returns the view of a devbox.
    fn view(&self, id: &str) -> Option<Value> {
        let client = self.snapshot.client(id);
        // What is in force is shown: a person may have moved the table of a client into another file.
        if let Some(client) = client.filter(|client| is_devbox_by_hand(self.snapshot, client)) {
            return Some(self.written(client));
        }
        let record = kept(self.snapshot, id).filter(|_| Kind::of(id) == Some(Kind::Devbox))?;
        let client = client.filter(|client| is_made(self.snapshot, id, client.source()));
        let mut kept = kept_of(record);
        let launch = self.launch_parameters(client, &kept);
        let mut view = object(kept.remove("fields"));
        let blueprint = client.and_then(Client::blueprint).map(Value::from).or_else(|| kept.remove("blueprint_id"));
        let created = kept.remove("create_time_ms").unwrap_or_else(|| 0.into());
        let ended = kept.remove("end_time_ms").filter(|_| client.is_none());
        let mut transitions = vec![json!({ "status": RUNNING, "transition_time_ms": created })];
        if let Some(ended) = &ended {
            transitions.push(json!({ "status": SHUTDOWN, "transition_time_ms": ended }));
        }
        let known = json!({
            "id": id, "name": kept.remove("name"), "status": if client.is_some() { RUNNING } else { SHUTDOWN },
            "hostgate_policy": self.policy(client),
            "blueprint_id": blueprint, "capabilities": [], "create_time_ms": created, "end_time_ms": ended,
            "launch_parameters": launch, "metadata": metadata_of(client, kept.remove("metadata")),
            "shutdown_reason": kept.remove("shutdown_reason").filter(|_| client.is_none()),
            "state_transitions": transitions, revision::KEY: revision::of(record.source().text()),
        });
        view.extend(object(Some(known)));
        Some(view.into())
    }

    /// Returns the view of a client that a person wrote.
    fn written(&self, client: &Client) -> Value {
        json!({
            "id": client.id(), "name": client.id(), "status": RUNNING, "blueprint_id": client.blueprint(),
            "hostgate_policy": self.policy(Some(client)),
            "capabilities": [], "create_time_ms": 0, "end_time_ms": null, "shutdown_reason": null,
            "launch_parameters": self.launch_parameters(Some(client), &Fields::new()),
            "metadata": metadata_of(Some(client), None), "state_transitions": [],
        })
    }

    /// Returns what applies to a devbox, and why where no policy is named for it; null once it is shut down.
    fn policy(&self, client: Option<&Client>) -> Value {
        let Some(client) = client else { return Value::Null };
        let id = client.asker().policy().map(Policy::id);
        json!({ "id": id, "reason": self.snapshot.why_no_policy_is_named(client) })
    }

    /// Returns the launch parameters in force: the blueprint's, the devbox's own over them, and the policy that applies.
    fn launch_parameters(&self, client: Option<&Client>, kept: &Fields) -> Fields {
        let own = object(kept.get("launch_parameters").cloned());
        let Some(client) = client else { return own };
        let blueprint = client.blueprint().and_then(|id| self.snapshot.blueprint(id));
        let mut launch = blueprint.map(|blueprint| self.of_blueprint(blueprint)).unwrap_or_default();
        launch.extend(own);
        let policy = client.policy().or_else(|| blueprint.and_then(|blueprint| blueprint.policy(Phase::Runtime)));
        if let Some(policy) = policy {
            launch.insert("network_policy_id".to_owned(), policy.into());
        }
        launch
    }

    /// Returns the launch parameters of a blueprint.
    fn of_blueprint(&self, blueprint: &Blueprint) -> Fields {
        let mut launch = self.launch.borrow_mut();
        if let Some(known) = launch.get(blueprint.id()) {
            return known.clone();
        }
        let read = blueprints::launch_parameters(self.snapshot, blueprint);
        launch.insert(blueprint.id().to_owned(), read.clone());
        read
    }
}

/// Returns metadata with the address in force, which is the client's: it is among what is kept once there is no client.
fn metadata_of(client: Option<&Client>, kept: Option<Value>) -> Fields {
    let mut metadata = object(kept);
    if let Some(client) = client {
        metadata.insert(address::KEY.to_owned(), address::of(client));
    }
    metadata
}

/// Returns whether a devbox of the API runs: its address is bound.
pub(in crate::api) fn is_running(snapshot: &Snapshot, id: &str) -> bool {
    snapshot.client(id).is_some_and(|client| is_made(snapshot, id, client.source()))
}

/// Returns whether a client that a person wrote is shown as a devbox: one that is built is none.
fn is_devbox_by_hand(snapshot: &Snapshot, client: &Client) -> bool {
    client.phase() == Phase::Runtime && !is_made(snapshot, client.id(), client.source())
}

/// Returns what is kept of a devbox that the API made.
///
/// # Errors
/// There is none, or a person wrote it.
fn made<'s>(snapshot: &'s Snapshot, id: &str) -> Result<&'s ApiTable, ApiError> {
    let client = snapshot.client(id);
    if let Some(client) = client.filter(|client| is_devbox_by_hand(snapshot, client)) {
        return Err(by_hand("devbox", id, &client.place()));
    }
    let record = snapshot.record(id).filter(|_| Kind::of(id) == Some(Kind::Devbox));
    let record = record.ok_or_else(|| ApiError::unknown(Kind::Devbox, id))?;
    if is_kept(record) { Ok(record) } else { Err(by_hand("devbox", id, &record.place())) }
}

/// What a request wants a devbox to be.
#[derive(Debug)]
struct Wanted {
    /// Its name.
    name: Option<Value>,
    /// The id of its blueprint.
    blueprint_id: Option<Value>,
    /// The name of its blueprint.
    blueprint_name: Option<Value>,
    /// Its own policy.
    policy: Option<Value>,
    /// The rest of its own launch parameters.
    launch: Fields,
    /// Free text by key.
    metadata: Fields,
    /// What the API does not know.
    others: Fields,
}

impl Wanted {
    /// Reads the fields of a request.
    fn read(mut given: Fields) -> Result<Self, ApiError> {
        let mut wrongs = Wrongs::default();
        let name = fields::label(&mut given, "name", &mut wrongs);
        let blueprint_id = fields::text(&mut given, "blueprint_id", &mut wrongs);
        let blueprint_name = fields::text(&mut given, "blueprint_name", &mut wrongs);
        if blueprint_id.is_some() && blueprint_name.is_some() {
            wrongs.add("blueprint_name: there is a blueprint_id already: leave one of them out".to_owned());
        }
        if given.remove("network_policy_id").is_some() {
            let mend = "write it into launch_parameters";
            wrongs.add(format!("network_policy_id: it would have no effect here: {mend}"));
        }
        let metadata = fields::metadata(&mut given, &mut wrongs).unwrap_or_default();
        let mut launch = fields::object(&mut given, "launch_parameters", &mut wrongs).unwrap_or_default();
        let policy = fields::launch_policy(&mut launch, &mut wrongs);
        for key in OURS {
            given.remove(key);
        }
        fields::near_misses(&given, "", &NAMING, &mut wrongs);
        fields::near_misses(&launch, "launch_parameters.", &NAMING, &mut wrongs);
        wrongs.check()?;
        Ok(Self { name, blueprint_id, blueprint_name, policy, launch, metadata, others: given })
    }

    /// Finds its blueprint, if it has one.
    fn blueprint<'s>(&self, snapshot: &'s Snapshot) -> Result<Option<&'s Blueprint>, ApiError> {
        if let Some(id) = self.blueprint_id.as_ref().and_then(Value::as_str) {
            let Some(blueprint) = snapshot.blueprint(id) else {
                let id = id.escape_debug();
                return Err(ApiError::bad(format!("blueprint_id: there is no blueprint `{id}`: create it first")));
            };
            let status = blueprints::status(snapshot, blueprint);
            if status != blueprints::COMPLETE {
                let message =
                    format!("blueprint_id: blueprint `{id}` is {status}: only one that is build_complete will do");
                return Err(ApiError::bad(message));
            }
            return Ok(Some(blueprint));
        }
        let Some(name) = self.blueprint_name.as_ref().and_then(Value::as_str) else { return Ok(None) };
        let newest = snapshot.blueprints().filter(|blueprint| match blueprints::record(snapshot, blueprint) {
            Some(record) => record.name() == name && record.status() == blueprints::COMPLETE,
            None => blueprint.id() == name,
        });
        let newest =
            newest.max_by_key(|blueprint| (is_made(snapshot, blueprint.id(), blueprint.source()), blueprint.id()));
        let name = name.escape_debug();
        let none =
            || ApiError::bad(format!("blueprint_name: no blueprint `{name}` is build_complete: create it first"));
        newest.map(Some).ok_or_else(none)
    }

    /// Writes the file of a new devbox.
    fn file(&self, id: &str, blueprint: Option<&str>, address: IpAddr, now: u64) -> File {
        let mut file = File::new(COMMENT);
        let client: [(&str, Value); 3] = [
            ("sources", json!([address.to_string()])),
            ("blueprint", blueprint.into()),
            // Without one, `default_policy` and `without_policy` of hostgate.toml say what applies.
            ("policy", self.policy.clone().unwrap_or_default()),
        ];
        for (key, value) in &client {
            file.set("client", id, key, value);
        }
        let not_empty = |fields: &Fields| if fields.is_empty() { Value::Null } else { fields.clone().into() };
        // That it runs is said by its client being there.
        let kept = [
            ("name", self.name.clone().unwrap_or_default()),
            ("create_time_ms", now.into()),
            ("metadata", not_empty(&self.metadata)),
            ("launch_parameters", not_empty(&self.launch)),
            ("fields", not_empty(&self.others)),
        ];
        for (key, value) in &kept {
            file.set("api", id, key, value);
        }
        file
    }
}

/// The status of a devbox whose address is bound.
pub(in crate::api) const RUNNING: &str = "running";

/// The status of a devbox that was shut down.
pub(in crate::api) const SHUTDOWN: &str = "shutdown";

/// All that a devbox can have.
pub(in crate::api) const STATUSES: [&str; 10] = [
    "scheduled",
    "queued",
    "provisioning",
    "initializing",
    RUNNING,
    "suspending",
    "suspended",
    "resuming",
    "failure",
    SHUTDOWN,
];

/// Fields that say which policy applies, and where each is to be written.
const NAMING: [(&str, &str); 5] = [
    ("launch_parameters", "launch_parameters"),
    ("network_policy_id", "launch_parameters.network_policy_id"),
    ("policy_id", "launch_parameters.network_policy_id"),
    ("blueprint_id", "blueprint_id"),
    ("blueprint_name", "blueprint_name"),
];

/// Fields of responses that a request does not set.
const OURS: [&str; 9] = [
    "hostgate_policy",
    "id",
    "status",
    "capabilities",
    "create_time_ms",
    "end_time_ms",
    "shutdown_reason",
    "state_transitions",
    "object",
];

/// The first line of a devbox's file.
pub(in crate::api) const COMMENT: &str = "A devbox of the API.";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_request_panics_and_what_is_taken_loads(given in crate::api::objects::object_file::tests::any_fields(&[
            "name", "blueprint_id", "launch_parameters", "metadata", "environment_variables", "x",
        ])) {
            if let Ok(mut wanted) = Wanted::read(given) {
                wanted.policy = wanted.policy.map(|_| crate::policy::UNRESTRICTED.into());
                let text = wanted.file("dbx_1", None, IpAddr::from([192, 0, 2, 1]), 1).text();
                let errors = crate::api::objects::object_file::tests::errors(&text);
                prop_assert!(errors.is_empty(), "{}\n{:?}", text, errors);
            }
        }
    }
}
