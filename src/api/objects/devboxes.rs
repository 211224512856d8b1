//! Devboxes: addresses, each bound to a policy from its creation until it is shut down.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::audit::AuditAction;
use crate::api::now_ms;
use crate::api::objects::blueprints::{self, LAUNCH_POLICY};
use crate::api::objects::object_file::{Fields, ObjectFile, api_fields, object};
use crate::api::objects::writer::FileEdit;
use crate::api::objects::{
    ApiKind, ApiObject, COMPLETE, FAILURE, REVISION, RUNNING, SHUTDOWN, address, api_table, by_hand, held,
    is_in_own_file, is_of_api, revision, view,
};
use crate::api::request::call::{Call, Done};
use crate::api::request::error::ApiError;
use crate::api::request::fields::{LaunchParameters, RequestFields, or_null};
use crate::api::request::list::{ListEntry, ListQuery};
use crate::document::Source;
use crate::policy::{ApiTable, Blueprint, Client, Phase, Policy, Snapshot, sealed};

/// The statuses of Runloop's API, which requests may name.
pub(in crate::api) const STATUSES: [&str; 10] = [
    "scheduled",
    "queued",
    "provisioning",
    "initializing",
    RUNNING,
    "suspending",
    "suspended",
    "resuming",
    FAILURE,
    SHUTDOWN,
];

/// The fields that choose the policy, their misspellings, and the place of each.
const POLICY_FIELDS: [(&str, &str); 5] = [
    ("launch_parameters", "launch_parameters"),
    ("network_policy_id", LAUNCH_POLICY),
    ("policy_id", LAUNCH_POLICY),
    ("blueprint_id", "blueprint_id"),
    ("blueprint_name", "blueprint_name"),
];
/// The fields of views that a request does not set.
const VIEW_FIELDS: [&str; 9] = [
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

/// The kind of object that is a devbox.
pub(in crate::api) struct DevboxKind;

/// Creates a devbox, which runs at once.
pub(in crate::api) async fn create(call: Arc<Call>) -> Result<Done, ApiError> {
    let mut fields = call.fields();
    fields.take::<String>(REVISION);
    let mut devbox = NewDevbox::read(fields)?;
    let control = &call.control;
    let mut writing = control.write(&call.principal).await?;
    let snapshot = control.snapshot();
    let blueprint = devbox.blueprint(&snapshot)?.map(|blueprint| blueprint.id().to_owned());
    blueprints::check_policy(&snapshot, LAUNCH_POLICY, devbox.launch.network_policy_id.as_deref())?;
    let reason = ("devbox", "devbox_pool");
    let address = address::choose(&call, &snapshot, &devbox.metadata, writing.devbox_pool.as_mut(), reason)?;
    // Views take the address from the client.
    devbox.metadata.remove(address::KEY);
    let id: Arc<str> = control.ids.next(ApiKind::Devbox).into();
    let file = devbox.file(&id, blueprint.as_deref(), address);
    control.create(&call, (ApiKind::Devbox, &id), &file).await
}

/// Shuts a devbox down: its address is bound to nothing from then on.
pub(in crate::api) async fn shut_down(call: Arc<Call>) -> Result<Done, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let mut writing = control.write(&call.principal).await?;
    if let Some(client) = held(&control.snapshot(), ApiKind::Devbox, id) {
        let text = shut_down_file(id, address::of(client));
        let edit = |snapshot: &Snapshot| FileEdit::of_held(snapshot, ApiKind::Devbox, id, Some(Arc::clone(&text)));
        control.apply(&call.principal, AuditAction::Shutdown, edit).await?;
        writing.add_shut_down(control, &call.principal, id).await;
    // The Python SDK shuts down a devbox at the end of `async with`, also one that was shut down already.
    } else if devbox_table(&control.snapshot(), id)?.status() != SHUTDOWN {
        let edit = |snapshot: &Snapshot| {
            let table = devbox_table(snapshot, id)?;
            let (client, mut api) = (snapshot.client(id), api_fields(table));
            let launch = Views::new(snapshot).launch_parameters(client, &api);
            let metadata = metadata_of(client, api.remove("metadata"));
            let mut file = ObjectFile::parse(table.source().text())?;
            file.remove("client", id);
            for (key, value) in [
                ("status", SHUTDOWN.into()),
                ("end_time_ms", now_ms().into()),
                ("shutdown_reason", "api_shutdown".into()),
                ("blueprint_id", client.and_then(Client::blueprint).into()),
                ("launch_parameters", launch.into()),
                ("metadata", metadata.into()),
            ] {
                file.set("api", id, key, &value);
            }
            Ok(FileEdit::update(id, table.source().text(), &file))
        };
        control.apply(&call.principal, AuditAction::Shutdown, edit).await?;
        writing.add_shut_down(control, &call.principal, id).await;
    }
    view(&control.snapshot(), ApiKind::Devbox, id).map(Done::changed)
}

/// Returns the file of a devbox that was shut down while its addresses were held: what else it had is not known.
fn shut_down_file(id: &str, address: Value) -> Arc<str> {
    let mut file = ObjectFile::default();
    let (now, metadata) = (now_ms(), Fields::from_iter([(address::KEY.to_owned(), address)]));
    for (key, value) in [
        ("status", SHUTDOWN.into()),
        ("create_time_ms", now.into()),
        ("end_time_ms", now.into()),
        ("shutdown_reason", "api_shutdown".into()),
        ("metadata", metadata.into()),
    ] {
        file.set("api", id, key, &value);
    }
    sealed(&file.text(), ApiKind::Devbox.name()).into()
}

/// The fields of a request that changes a devbox.
#[derive(Debug)]
pub(in crate::api) struct DevboxUpdate {
    /// The name; null clears it.
    name: Option<Value>,
    metadata: Option<Fields>,
    /// The fields that only views show.
    others: Fields,
}

impl ApiObject for DevboxKind {
    const KIND: ApiKind = ApiKind::Devbox;
    const STATUSES: &'static [&'static str] = &STATUSES;
    type Update = DevboxUpdate;

    fn read_update(mut fields: RequestFields) -> Result<DevboxUpdate, ApiError> {
        let name = if fields.takes_empty_name() { Some(Value::Null) } else { fields.name().map(Value::from) };
        let metadata = fields.metadata();
        for (key, _) in POLICY_FIELDS {
            fields.refuse(key, "a devbox keeps it: change the policy itself, or make another devbox");
        }
        fields.check_spelling(&POLICY_FIELDS);
        Ok(DevboxUpdate { name, metadata, others: fields.finish()? })
    }

    fn apply(update: &DevboxUpdate, snapshot: &Snapshot, id: &str, file: &mut ObjectFile) -> Result<(), ApiError> {
        let mut api = file.fields("api", id).unwrap_or_default();
        if let Some(name) = &update.name {
            file.set("api", id, "name", name);
        }
        if let Some(mut metadata) = update.metadata.clone() {
            let client = snapshot.client(id);
            let own = metadata_of(client, api.remove("metadata")).remove_entry(address::KEY);
            let sent = metadata.remove(address::KEY);
            if sent.is_some() && sent.as_ref() != own.as_ref().map(|(_, address)| address) {
                let key = address::KEY;
                return Err(ApiError::bad(format!(
                    "metadata[\"{key}\"]: a devbox keeps its address: make another devbox"
                )));
            }
            if client.is_none() {
                metadata.extend(own);
            }
            file.set("api", id, "metadata", &metadata.into());
        }
        if !update.others.is_empty() {
            let mut others = object(api.remove("fields"));
            others.extend(update.others.clone());
            file.set("api", id, "fields", &others.into());
        }
        Ok(())
    }

    fn source<'s>(snapshot: &'s Snapshot, id: &str) -> Result<&'s Source, ApiError> {
        devbox_table(snapshot, id).map(ApiTable::source)
    }

    fn entries<'s>(snapshot: &'s Snapshot, query: &ListQuery) -> Box<dyn Iterator<Item = ListEntry<'s>> + 's> {
        let policies = query.policy.as_deref().map(|policy| including(snapshot, policy));
        let policies = Arc::new(policies);
        let is_under = move |client: Option<&Client>| {
            let policy = client.and_then(|client| client.asker().policy());
            policies.as_ref().as_ref().is_none_or(|ids| policy.is_some_and(|policy| ids.contains(policy.id())))
        };
        let of_api = snapshot.records().filter_map({
            let is_under = is_under.clone();
            move |table| {
                let client = snapshot.client(table.id());
                let is_devbox = ApiKind::of_id(table.id()) == Some(Self::KIND) && is_in_own_file(table);
                let status = match client.filter(|_| is_devbox) {
                    _ if !is_devbox || !is_under(client) => return None,
                    Some(client) if is_of_api(snapshot, table.id(), client.source()) => RUNNING,
                    Some(client) if is_devbox_by_hand(snapshot, client) => return None,
                    _ => SHUTDOWN,
                };
                Some(ListEntry { is_of_api: true, id: table.id(), name: table.name(), status: status.into() })
            }
        });
        let others = snapshot.clients().filter_map(move |client| {
            let status = match held(snapshot, Self::KIND, client.id()) {
                Some(_) => FAILURE,
                None if is_devbox_by_hand(snapshot, client) => RUNNING,
                None => return None,
            };
            is_under(Some(client)).then(|| ListEntry::by_hand(client.id(), status))
        });
        Box::new(of_api.chain(others))
    }

    fn viewer(snapshot: &Snapshot) -> impl Fn(&str) -> Option<Value> {
        let views = Views::new(snapshot);
        move |id| views.view(id)
    }
}

/// Returns the ids of a policy and of those that include it, directly or not.
fn including(snapshot: &Snapshot, policy: &str) -> HashSet<String> {
    let mut including: HashMap<&str, Vec<&str>> = HashMap::new();
    for policy in snapshot.policies() {
        for included in policy.include() {
            including.entry(included).or_default().push(policy.id());
        }
    }
    let (mut all, mut next) = (HashSet::from([policy.to_owned()]), vec![policy]);
    while let Some(id) = next.pop() {
        next.extend(including.get(id).into_iter().flatten().copied().filter(|id| all.insert((*id).to_owned())));
    }
    all
}

/// The views of devboxes. It remembers the launch parameters of blueprints: many devboxes have the same one.
struct Views<'s> {
    snapshot: &'s Snapshot,
    launch: RefCell<HashMap<String, Fields>>,
}

impl<'s> Views<'s> {
    fn new(snapshot: &'s Snapshot) -> Self {
        Self { snapshot, launch: RefCell::default() }
    }

    fn view(&self, id: &str) -> Option<Value> {
        let client = self.snapshot.client(id);
        // The client in force is shown, also if a person moved its table into another file.
        if let Some(client) = client.filter(|client| is_devbox_by_hand(self.snapshot, client)) {
            return Some(self.by_hand(client, RUNNING));
        }
        if let Some(client) = held(self.snapshot, ApiKind::Devbox, id) {
            return Some(self.by_hand(client, FAILURE));
        }
        let table = api_table(self.snapshot, id).filter(|_| ApiKind::of_id(id) == Some(ApiKind::Devbox))?;
        let client = client.filter(|client| is_of_api(self.snapshot, id, client.source()));
        let mut api = api_fields(table);
        let launch = self.launch_parameters(client, &api);
        let mut view = object(api.remove("fields"));
        let blueprint = client.and_then(Client::blueprint).map(Value::from).or_else(|| api.remove("blueprint_id"));
        let created = api.remove("create_time_ms").unwrap_or_else(|| 0.into());
        let ended = api.remove("end_time_ms").filter(|_| client.is_none());
        // Its address is bound when the file is in force: there is no time in which it is provisioned.
        let mut transitions = vec![json!({ "status": RUNNING, "transition_time_ms": created })];
        if let Some(ended) = &ended {
            transitions.push(json!({ "status": SHUTDOWN, "transition_time_ms": ended }));
        }
        view.extend(object(Some(json!({
            "id": id, "name": api.remove("name"), "status": if client.is_some() { RUNNING } else { SHUTDOWN },
            "hostgate_policy": self.policy(client),
            "blueprint_id": blueprint, "capabilities": [], "create_time_ms": created, "end_time_ms": ended,
            "launch_parameters": launch, "metadata": metadata_of(client, api.remove("metadata")),
            "shutdown_reason": api.remove("shutdown_reason").filter(|_| client.is_none()),
            "state_transitions": transitions, REVISION: revision(table.source().text()),
        }))));
        Some(view.into())
    }

    /// Returns the view of a client that a person wrote, or whose file is bad or gone.
    fn by_hand(&self, client: &Client, status: &str) -> Value {
        json!({
            // Clients of the SDK read all of these fields, so that a client of a file has them, too.
            "id": client.id(), "name": client.id(), "status": status, "blueprint_id": client.blueprint(),
            "hostgate_policy": self.policy(Some(client)),
            "capabilities": [], "create_time_ms": 0, "end_time_ms": null, "shutdown_reason": null,
            "launch_parameters": self.launch_parameters(Some(client), &Fields::new()),
            "metadata": metadata_of(Some(client), None), "state_transitions": [],
        })
    }

    /// Returns the policy that applies to a devbox, and the reason if none is named for it; null after the shutdown.
    fn policy(&self, client: Option<&Client>) -> Value {
        let Some(client) = client else { return Value::Null };
        let id = client.asker().policy().map(Policy::id);
        json!({ "id": id, "reason": self.snapshot.why_no_policy_is_named(client) })
    }

    /// Returns the launch parameters in force: the blueprint's, overridden by the devbox's, with the policy that applies.
    fn launch_parameters(&self, client: Option<&Client>, api: &Fields) -> Fields {
        let own = object(api.get("launch_parameters").cloned());
        let Some(client) = client else { return own };
        let blueprint = client.blueprint().and_then(|id| self.snapshot.blueprint(id));
        let mut launch = blueprint.map(|blueprint| self.of_blueprint(blueprint)).unwrap_or_default();
        launch.extend(own);
        let policy = client
            .policy()
            .filter(|_| !client.is_held())
            .or_else(|| blueprint.and_then(|blueprint| blueprint.policy(Phase::Runtime)));
        launch.extend(policy.map(|policy| ("network_policy_id".to_owned(), policy.into())));
        launch
    }

    /// Returns the launch parameters of a blueprint.
    fn of_blueprint(&self, blueprint: &Blueprint) -> Fields {
        let mut launch = self.launch.borrow_mut();
        let read = || blueprints::launch_parameters(self.snapshot, blueprint);
        launch.entry(blueprint.id().to_owned()).or_insert_with(read).clone()
    }
}

/// Returns metadata with the address: the client's while it is bound, the one in the file after the shutdown.
fn metadata_of(client: Option<&Client>, metadata: Option<Value>) -> Fields {
    let mut metadata = object(metadata);
    metadata.extend(client.map(|client| (address::KEY.to_owned(), address::of(client))));
    metadata
}

/// Returns whether a devbox of the API runs: its address is bound.
pub(in crate::api) fn is_running(snapshot: &Snapshot, id: &str) -> bool {
    snapshot.client(id).is_some_and(|client| is_of_api(snapshot, id, client.source()))
}

/// Returns whether a client that a person wrote is shown as a devbox: a build container is not.
fn is_devbox_by_hand(snapshot: &Snapshot, client: &Client) -> bool {
    client.phase() == Phase::Runtime && !client.is_held() && !is_of_api(snapshot, client.id(), client.source())
}

/// Returns the API table of a devbox that the API created.
fn devbox_table<'s>(snapshot: &'s Snapshot, id: &str) -> Result<&'s ApiTable, ApiError> {
    if let Some(client) = snapshot.client(id).filter(|client| is_devbox_by_hand(snapshot, client)) {
        return Err(by_hand(ApiKind::Devbox, id, &client.place()));
    }
    let table = snapshot.record(id).filter(|_| ApiKind::of_id(id) == Some(ApiKind::Devbox));
    let table = table.ok_or_else(|| ApiError::not_found(ApiKind::Devbox, id))?;
    if is_in_own_file(table) { Ok(table) } else { Err(by_hand(ApiKind::Devbox, id, &table.place())) }
}

/// The fields of a request that creates a devbox.
#[derive(Debug)]
struct NewDevbox {
    name: Option<String>,
    blueprint_id: Option<String>,
    blueprint_name: Option<String>,
    launch: LaunchParameters,
    metadata: Fields,
    /// The fields that only views show.
    others: Fields,
}

impl NewDevbox {
    fn read(mut fields: RequestFields) -> Result<Self, ApiError> {
        let name = fields.name();
        let [blueprint_id, blueprint_name] = ["blueprint_id", "blueprint_name"].map(|key| fields.take::<String>(key));
        if blueprint_id.is_some() && blueprint_name.is_some() {
            fields.error("blueprint_name: there is a blueprint_id already: leave one of them out".to_owned());
        }
        // Runloop's API removed the field from devboxes: launch parameters have it.
        fields.refuse("network_policy_id", "it would have no effect here: write it into launch_parameters");
        let metadata = fields.metadata().unwrap_or_default();
        let launch = fields.launch_parameters(&POLICY_FIELDS).unwrap_or_default();
        fields.ignore(&VIEW_FIELDS);
        fields.check_spelling(&POLICY_FIELDS);
        Ok(Self { name, blueprint_id, blueprint_name, launch, metadata, others: fields.finish()? })
    }

    /// Returns the blueprint that the request names: the newest complete one if it does so by name.
    fn blueprint<'s>(&self, snapshot: &'s Snapshot) -> Result<Option<&'s Blueprint>, ApiError> {
        if let Some(id) = &self.blueprint_id {
            let Some(blueprint) = snapshot.blueprint(id) else {
                let id = id.escape_debug();
                return Err(ApiError::bad(format!("blueprint_id: there is no blueprint `{id}`: create it first")));
            };
            let status = blueprints::status(snapshot, blueprint);
            if status != COMPLETE {
                return Err(ApiError::bad(format!(
                    "blueprint_id: blueprint `{id}` is {status}: only one that is build_complete will do"
                )));
            }
            return Ok(Some(blueprint));
        }
        let Some(name) = &self.blueprint_name else { return Ok(None) };
        let named = snapshot.blueprints().filter(|blueprint| match blueprints::own_api_table(snapshot, blueprint) {
            Some(table) => table.name() == *name && table.status() == COMPLETE,
            None => blueprint.id() == name,
        });
        let newest =
            named.max_by_key(|blueprint| (is_of_api(snapshot, blueprint.id(), blueprint.source()), blueprint.id()));
        let name = name.escape_debug();
        let none =
            || ApiError::bad(format!("blueprint_name: no blueprint `{name}` is build_complete: create it first"));
        newest.map(Some).ok_or_else(none)
    }

    /// Makes the file of the devbox. The table of its client says that it runs.
    fn file(&self, id: &str, blueprint: Option<&str>, address: IpAddr) -> ObjectFile {
        let mut file = ObjectFile::default();
        let not_empty = |fields: &Fields| if fields.is_empty() { Value::Null } else { fields.clone().into() };
        for (table, key, value) in [
            ("client", "sources", json!([address.to_string()])),
            ("client", "blueprint", blueprint.into()),
            // Without a policy, `default_policy` and `without_policy` of hostgate.toml decide.
            ("client", "policy", or_null(self.launch.network_policy_id.clone())),
            ("api", "name", or_null(self.name.clone())),
            ("api", "create_time_ms", now_ms().into()),
            ("api", "metadata", not_empty(&self.metadata)),
            ("api", "launch_parameters", not_empty(&self.launch.others)),
            ("api", "fields", not_empty(&self.others)),
        ] {
            file.set(table, id, key, &value);
        }
        file
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::objects::object_file::tests::{any_fields, errors};

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_request_panics_and_every_file_loads(fields in any_fields(&[
            "name", "blueprint_id", "launch_parameters", "metadata", "environment_variables", "x",
        ])) {
            if let Ok(mut devbox) = NewDevbox::read(RequestFields::new(fields)) {
                let launch = &mut devbox.launch;
                launch.network_policy_id = launch.network_policy_id.take().map(|_| crate::policy::UNRESTRICTED.into());
                let text = devbox.file("dbx_1", None, IpAddr::from([192, 0, 2, 1])).text();
                let errors = errors(&text);
                prop_assert!(errors.is_empty(), "{}\n{:?}", text, errors);
            }
        }
    }
}
