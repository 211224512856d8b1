//! Blueprints: a build policy, and the policy of the devboxes created from it.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::now_ms;
use crate::api::objects::object_file::{Fields, ObjectFile, api_fields, object};
use crate::api::objects::{
    ApiKind, ApiObject, BUILDING, COMPLETE, Deletable, FAILED, QUEUED, REVISION, address, by_hand, is_of_api, revision,
};
use crate::api::request::call::{Call, Done};
use crate::api::request::error::ApiError;
use crate::api::request::fields::{LaunchParameters, RequestFields};
use crate::api::request::list::{ListEntry, ListQuery};
use crate::bounds::MAX_BUILD_QUEUE;
use crate::document::Source;
use crate::policy::{ApiTable, Blueprint, Phase, Snapshot, UNRESTRICTED};

/// The place of the devboxes' policy in a request.
pub(in crate::api) const LAUNCH_POLICY: &str = "launch_parameters.network_policy_id";
/// The fields that name policies, their misspellings, and the place of each.
const POLICY_FIELDS: [(&str, &str); 5] = [
    ("launch_parameters", "launch_parameters"),
    ("network_policy_id", "network_policy_id"),
    ("policy_id", "network_policy_id"),
    ("build_policy", "network_policy_id"),
    ("runtime_policy", LAUNCH_POLICY),
];
/// As [`POLICY_FIELDS`], within the launch parameters.
const LAUNCH_FIELDS: [(&str, &str); 3] =
    [("network_policy_id", LAUNCH_POLICY), ("policy_id", LAUNCH_POLICY), ("runtime_policy", LAUNCH_POLICY)];

/// The kind of object that is a blueprint.
pub(in crate::api) struct BlueprintKind;

/// Creates a blueprint, and starts its build if a builder is configured.
pub(in crate::api) async fn create(call: Arc<Call>) -> Result<Done, ApiError> {
    let mut fields = call.fields();
    fields.take::<String>(REVISION);
    fields.require_name();
    let blueprint = BlueprintFields::read(fields)?;
    let control = &call.control;
    let mut writing = control.write(&call.principal).await?;
    let snapshot = control.snapshot();
    blueprint.check_policies(&snapshot)?;
    let permit =
        match &control.settings.builder {
            None => None,
            Some(_) => Some(control.builds.permit().ok_or_else(|| {
                ApiError::unavailable(format!("{MAX_BUILD_QUEUE} builds wait already: try again later"))
            })?),
        };
    let id: Arc<str> = control.ids.next(ApiKind::Blueprint).into();
    let mut file = ObjectFile::default();
    file.add("blueprint", &id);
    if permit.is_some() {
        let metadata = blueprint.metadata.clone().unwrap_or_default();
        let reason = ("build container", "build_pool");
        let address = address::choose(&call, &snapshot, &metadata, writing.build_pool.as_mut(), reason)?;
        bind(&mut file, &id, address);
    }
    blueprint.write(&mut file, &id);
    let status = match &permit {
        None => COMPLETE,
        // The SDKs send at least one GET after the POST, whatever the status in its answer.
        Some(permit) if permit.is_running() => BUILDING,
        Some(_) => QUEUED,
    };
    file.set("api", &id, "status", &status.into());
    file.set("api", &id, "create_time_ms", &now_ms().into());
    if permit.is_none() {
        file.set("api", &id, "build_finish_time_ms", &now_ms().into());
    }
    let done = control.create(&call, (ApiKind::Blueprint, &id), &file).await?;
    if let Some(permit) = permit {
        tokio::spawn(Arc::clone(control).build(id, call.principal.clone(), permit));
    }
    Ok(done)
}

/// Returns the last lines of a blueprint's build.
pub(in crate::api) fn logs(call: &Call, snapshot: &Snapshot) -> Result<Value, ApiError> {
    let blueprint = snapshot.blueprint(&call.id).ok_or_else(|| ApiError::not_found(ApiKind::Blueprint, &call.id))?;
    Ok(json!({ "blueprint_id": blueprint.id(), "logs": call.control.builds.lines(blueprint.id()) }))
}

impl ApiObject for BlueprintKind {
    const KIND: ApiKind = ApiKind::Blueprint;
    const STATUSES: &'static [&'static str] = &[QUEUED, "provisioning", BUILDING, "awaiting_upload", FAILED, COMPLETE];
    type Update = BlueprintFields;

    fn read_update(fields: RequestFields) -> Result<BlueprintFields, ApiError> {
        BlueprintFields::read(fields)
    }

    fn apply(update: &BlueprintFields, snapshot: &Snapshot, id: &str, file: &mut ObjectFile) -> Result<(), ApiError> {
        update.check_policies(snapshot)?;
        update.write(file, id);
        Ok(())
    }

    fn source<'s>(snapshot: &'s Snapshot, id: &str) -> Result<&'s Source, ApiError> {
        let blueprint = snapshot.blueprint(id).ok_or_else(|| ApiError::not_found(Self::KIND, id))?;
        let is_of_api = is_of_api(snapshot, id, blueprint.source());
        is_of_api.then(|| blueprint.source()).ok_or_else(|| by_hand(Self::KIND, id, &blueprint.place()))
    }

    fn entries<'s>(snapshot: &'s Snapshot, _: &ListQuery) -> Box<dyn Iterator<Item = ListEntry<'s>> + 's> {
        Box::new(snapshot.blueprints().map(|blueprint| match own_api_table(snapshot, blueprint) {
            Some(table) => ListEntry { is_of_api: true, id: table.id(), name: table.name(), status: table.status() },
            None => ListEntry::by_hand(blueprint.id(), COMPLETE),
        }))
    }

    fn viewer(snapshot: &Snapshot) -> impl Fn(&str) -> Option<Value> {
        move |id| view(snapshot, id)
    }
}

impl Deletable for BlueprintKind {
    const IN_USE_HELP: &'static str = "shut devboxes down first, and let builds end";

    fn users(snapshot: &Snapshot, id: &str) -> Vec<String> {
        let text = snapshot.blueprint(id).map(|blueprint| blueprint.source().text());
        let users = snapshot.clients().filter(|client| client.blueprint() == Some(id));
        let users = users.map(|client| match (is_of_api(snapshot, client.id(), client.source()), client.phase()) {
            (true, _) => format!("devbox `{}`", client.id()),
            // The build container is in the blueprint's own file; a client elsewhere is a person's.
            (false, Phase::Build) if Some(client.source().text()) == text => "its build".to_owned(),
            (false, _) => format!("client `{}` ({})", client.id(), client.place()),
        });
        users.collect()
    }

    fn deleted(_: &Snapshot, _: &str) -> Value {
        json!({})
    }
}

/// Returns the view of a blueprint.
fn view(snapshot: &Snapshot, id: &str) -> Option<Value> {
    let blueprint = snapshot.blueprint(id)?;
    let table = own_api_table(snapshot, blueprint);
    let mut api = table.map(api_fields).unwrap_or_default();
    let mut take = |key: &str| api.remove(key);
    let (name, metadata) = (take("name").unwrap_or_else(|| id.into()), take("metadata"));
    let mut parameters = object(take("request"));
    if let Some(policy) = blueprint.policy(Phase::Build) {
        parameters.insert("network_policy_id".to_owned(), policy.into());
    }
    if let Some(policy) = blueprint.policy(Phase::Runtime)
        && let Value::Object(launch) = parameters.entry("launch_parameters").or_insert_with(|| json!({}))
    {
        launch.insert("network_policy_id".to_owned(), policy.into());
    }
    parameters.insert("name".to_owned(), name.clone());
    parameters.extend(metadata.clone().map(|metadata| ("metadata".to_owned(), metadata)));
    let mut metadata = object(metadata);
    if let Some(client) = table.and_then(|_| snapshot.client(&build_client(id))) {
        metadata.insert(address::KEY.to_owned(), address::of(client));
    }
    // A blueprint that a person wrote is complete, and was so before there were times.
    let finished = if table.is_some() { take("build_finish_time_ms") } else { Some(0.into()) };
    let mut view = json!({
        // A deleted blueprint is not found, so that Runloop's other state, `deleted`, never occurs.
        "id": id, "name": name, "status": take("status").unwrap_or_else(|| COMPLETE.into()), "state": "created",
        "create_time_ms": take("create_time_ms").unwrap_or_else(|| 0.into()),
        "build_finish_time_ms": finished, "failure_reason": take("failure_reason"),
        "metadata": metadata, "parameters": parameters,
    });
    if table.is_some() {
        view[REVISION] = revision(blueprint.source().text()).into();
    }
    Some(view)
}

/// Returns the launch parameters that devboxes of a blueprint inherit, without the policy's id.
pub(in crate::api) fn launch_parameters(snapshot: &Snapshot, blueprint: &Blueprint) -> Fields {
    let mut api = own_api_table(snapshot, blueprint).map(api_fields).unwrap_or_default();
    object(object(api.remove("request")).remove("launch_parameters"))
}

/// Returns the status of a blueprint.
pub(in crate::api) fn status<'s>(snapshot: &'s Snapshot, blueprint: &Blueprint) -> Cow<'s, str> {
    let status = own_api_table(snapshot, blueprint).map(ApiTable::status).filter(|status| !status.is_empty());
    status.unwrap_or(Cow::Borrowed(COMPLETE))
}

/// Returns the API table of a blueprint; `None` if a person wrote the blueprint.
pub(in crate::api) fn own_api_table<'s>(snapshot: &'s Snapshot, blueprint: &Blueprint) -> Option<&'s ApiTable> {
    snapshot.record(blueprint.id()).filter(|_| is_of_api(snapshot, blueprint.id(), blueprint.source()))
}

/// Returns the id of the client that is a blueprint's build container.
pub(in crate::api) fn build_client(id: &str) -> String {
    format!("{id}-build")
}

/// Binds the address of a build container in a blueprint's file.
fn bind(file: &mut ObjectFile, id: &str, address: IpAddr) {
    let client = build_client(id);
    for (key, value) in [("sources", json!([address.to_string()])), ("blueprint", id.into()), ("phase", "build".into())]
    {
        file.set("client", &client, key, &value);
    }
}

/// Checks that a policy exists.
pub(in crate::api) fn check_policy(snapshot: &Snapshot, field: &str, id: Option<&str>) -> Result<(), ApiError> {
    match id {
        Some(id) if id != UNRESTRICTED && snapshot.policy(id).is_none() => {
            let id = id.escape_debug();
            Err(ApiError::bad(format!("{field}: there is no network policy `{id}`: create it first")))
        }
        _ => Ok(()),
    }
}

/// The fields of a request that creates or changes a blueprint.
#[derive(Debug)]
pub(in crate::api) struct BlueprintFields {
    name: Option<String>,
    build_policy: Option<String>,
    metadata: Option<Fields>,
    launch: Option<LaunchParameters>,
    /// The fields that only views show.
    others: Fields,
}

impl BlueprintFields {
    fn read(mut fields: RequestFields) -> Result<Self, ApiError> {
        let (name, build_policy) = (fields.name(), fields.take("network_policy_id"));
        let (metadata, launch) = (fields.metadata(), fields.launch_parameters(&LAUNCH_FIELDS));
        fields.check_spelling(&POLICY_FIELDS);
        Ok(Self { name, build_policy, metadata, launch, others: fields.finish()? })
    }

    fn runtime_policy(&self) -> Option<&str> {
        self.launch.as_ref()?.network_policy_id.as_deref()
    }

    fn check_policies(&self, snapshot: &Snapshot) -> Result<(), ApiError> {
        // In the request's order, so that the first error is the one that a client reads first.
        check_policy(snapshot, "network_policy_id", self.build_policy.as_deref())?;
        check_policy(snapshot, LAUNCH_POLICY, self.runtime_policy())
    }

    /// Writes the fields into the blueprint's file.
    fn write(&self, file: &mut ObjectFile, id: &str) {
        for (key, policy) in [("build_policy", self.build_policy.as_deref()), ("runtime_policy", self.runtime_policy())]
        {
            if let Some(policy) = policy {
                file.set("blueprint", id, key, &policy.into());
            }
        }
        if let Some(name) = &self.name {
            file.set("api", id, "name", &name.as_str().into());
        }
        if let Some(metadata) = &self.metadata {
            file.set("api", id, "metadata", &metadata.clone().into());
        }
        let mut request = object(file.fields("api", id).unwrap_or_default().remove("request"));
        request.extend(self.others.clone());
        if let Some(launch) = &self.launch {
            let mut all = object(request.remove("launch_parameters"));
            all.extend(launch.others.clone());
            request.insert("launch_parameters".to_owned(), all.into());
        }
        if !request.is_empty() {
            file.set("api", id, "request", &request.into());
        }
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
            "name", "network_policy_id", "launch_parameters", "metadata", "dockerfile", "x",
        ])) {
            if let Ok(mut blueprint) = BlueprintFields::read(RequestFields::new(fields)) {
                blueprint.build_policy = blueprint.build_policy.map(|_| UNRESTRICTED.into());
                if let Some(launch) = &mut blueprint.launch {
                    launch.network_policy_id = Some(UNRESTRICTED.into());
                }
                let mut file = ObjectFile::default();
                file.add("blueprint", "bpt_1");
                blueprint.write(&mut file, "bpt_1");
                let text = file.text();
                let errors = errors(&text);
                prop_assert!(errors.is_empty(), "{}\n{:?}", text, errors);
            }
        }
    }
}
