//! Blueprints.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::builds;
use crate::api::builds::{BUILDING, FAILED, Place, QUEUED};
use crate::api::objects::address;
use crate::api::objects::id::now_ms;
use crate::api::objects::kind::Kind;
use crate::api::objects::object_file::{Fields, File, kept_of, object, without};
use crate::api::objects::revision;
use crate::api::request::call::{Call, Done, Text};
use crate::api::request::error::{ApiError, Wrongs};
use crate::api::request::fields;
use crate::api::request::list::{Listed, Query};
use crate::api::{Edit, by_hand, is_made, named};
use crate::policy::{ApiTable, Blueprint, Phase, Snapshot, UNRESTRICTED};

/// Creates a blueprint.
pub(in crate::api) async fn create(call: Arc<Call>) -> Result<Done, ApiError> {
    let mut fields = call.fields.clone();
    revision::take(&mut fields)?;
    let wanted = Wanted::read(fields, Some("name"))?;
    let control = &call.control;
    let mut writer = control.write(&call.principal).await?;
    let snapshot = control.snapshot();
    wanted.check(&snapshot)?;
    let place = control.settings.builder.as_ref().map(|_| control.builds.place()).transpose()?;
    let id: Arc<str> = control.ids.next(Kind::Blueprint).into();
    let now = now_ms();
    let mut file = File::new(COMMENT);
    file.add("blueprint", &id);
    if place.is_some() {
        let (metadata, pool) = (wanted.metadata.clone().unwrap_or_default(), writer.builds.as_mut());
        let address = address::choose(
            (&snapshot, &control.reserved),
            address::not_for(&call),
            &metadata,
            pool,
            ("build container", "build_pool"),
        )?;
        builds::bind(&mut file, &id, address);
    }
    wanted.write(&mut file, &id);
    for (key, value) in [
        ("status", place.as_ref().map_or(COMPLETE, Place::status).into()),
        ("create_time_ms", now.into()),
        ("build_finish_time_ms", if place.is_some() { Value::Null } else { now.into() }),
    ] {
        file.set("api", &id, key, &value);
    }
    let done = control.make(&call, "blueprint.create", (Kind::Blueprint, &id), file).await?;
    if let Some(place) = place {
        tokio::spawn(Arc::clone(control).build(Arc::clone(&id), call.principal.clone(), place));
    }
    Ok(done)
}

/// Changes a blueprint: what is absent stays. Its devboxes have another runtime policy at once.
pub(in crate::api) async fn update(call: Arc<Call>) -> Result<Done, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let _writing = control.write(&call.principal).await?;
    made(&control.snapshot(), id)?;
    let mut fields = call.fields.clone();
    let revision = revision::take(&mut fields)?;
    let wanted = Wanted::read(fields, None)?;
    let edit = |snapshot: &Snapshot| {
        let text = made(snapshot, id)?.source().text();
        wanted.check(snapshot)?;
        revision::check(revision.as_deref(), Kind::Blueprint, id, text)?;
        Edit::of(id, text, |file| wanted.write(file, id))
    };
    control.change(&call.principal, "blueprint.update", edit).await?;
    control.view(Kind::Blueprint, id).map(Done::changed)
}

/// Deletes a blueprint of which no devbox runs; what else a person wrote into its file stays there.
pub(in crate::api) async fn delete(call: Arc<Call>) -> Result<Done, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let _writing = control.write(&call.principal).await?;
    let edit = |snapshot: &Snapshot| {
        let text = made(snapshot, id)?.source().text();
        let users = snapshot.clients().filter(|client| client.blueprint() == Some(id));
        let users = users.map(|client| match (is_made(snapshot, client.id(), client.source()), client.phase()) {
            (true, _) => format!("devbox `{}`", client.id()),
            (false, Phase::Build) if client.source().text() == text => "its build".to_owned(),
            (false, _) => format!("client `{}` ({})", client.id(), client.place()),
        });
        let users: Vec<String> = users.collect();
        if users.is_empty() {
            let after = without(text, COMMENT, &[("blueprint", id), ("api", id)])?;
            return Ok(Edit { id: id.into(), before: Some(Arc::clone(text)), after });
        }
        let users = named(&users);
        let message = format!("blueprint `{id}` is in use by {users}: shut devboxes down first, and let builds end");
        Err(ApiError::bad(message))
    };
    control.change(&call.principal, "blueprint.delete", edit).await?;
    Ok(Done::changed(json!({})))
}

/// Returns a page of blueprints.
pub(in crate::api) fn list(call: &Call, snapshot: &Snapshot) -> Result<Text, ApiError> {
    let query = Query::parse(&call.query, &STATUSES)?;
    let listed = snapshot.blueprints().map(|blueprint| match record(snapshot, blueprint) {
        Some(record) => Listed { is_made: true, id: record.id(), name: record.name(), status: record.status() },
        None => Listed::by_hand(blueprint.id(), blueprint.id(), COMPLETE),
    });
    Ok(query.page(Kind::Blueprint, listed)?.answer("blueprints", |id| view(snapshot, id)))
}

/// Returns what a blueprint's build said.
pub(in crate::api) fn logs(call: &Call, snapshot: &Snapshot) -> Result<Value, ApiError> {
    let blueprint = snapshot.blueprint(&call.id).ok_or_else(|| ApiError::unknown(Kind::Blueprint, &call.id))?;
    Ok(json!({ "blueprint_id": blueprint.id(), "logs": call.control.builds.lines(blueprint.id()) }))
}

/// Returns a blueprint as the API shows it.
pub(in crate::api) fn view(snapshot: &Snapshot, id: &str) -> Option<Value> {
    let blueprint = snapshot.blueprint(id)?;
    if !is_made(snapshot, id, blueprint.source()) {
        let mut parameters = with_policies(Fields::new(), blueprint);
        parameters.insert("name".to_owned(), id.into());
        return Some(json!({
            "id": id, "name": id, "status": COMPLETE, "state": "created", "create_time_ms": 0,
            "build_finish_time_ms": 0, "failure_reason": null, "metadata": {}, "parameters": parameters,
        }));
    }
    let mut kept = snapshot.record(id).map(kept_of)?;
    let mut take = |key: &str| kept.remove(key);
    let name = take("name").unwrap_or_else(|| id.into());
    let metadata = take("metadata");
    let mut parameters = with_policies(object(take("request")), blueprint);
    parameters.insert("name".to_owned(), name.clone());
    if let Some(metadata) = &metadata {
        parameters.insert("metadata".to_owned(), metadata.clone());
    }
    let mut metadata = object(metadata);
    if let Some(client) = snapshot.client(&build_client(id)) {
        metadata.insert(address::KEY.to_owned(), address::of(client));
    }
    Some(json!({
        "id": id, "name": name, "status": take("status").unwrap_or_else(|| COMPLETE.into()), "state": "created",
        "create_time_ms": take("create_time_ms").unwrap_or_else(|| 0.into()),
        "build_finish_time_ms": take("build_finish_time_ms"), "failure_reason": take("failure_reason"),
        "metadata": metadata, "parameters": parameters, revision::KEY: revision::of(blueprint.source().text()),
    }))
}

/// Returns the launch parameters that devboxes of a blueprint begin with, without the policy's id.
pub(in crate::api) fn launch_parameters(snapshot: &Snapshot, blueprint: &Blueprint) -> Fields {
    let kept = record(snapshot, blueprint).map(kept_of).unwrap_or_default();
    let mut request = object(kept.get("request").cloned());
    object(request.remove("launch_parameters"))
}

/// Returns the status of a blueprint that the API made.
pub(in crate::api) fn status<'s>(snapshot: &'s Snapshot, blueprint: &Blueprint) -> Cow<'s, str> {
    let status = record(snapshot, blueprint).map(ApiTable::status).filter(|status| !status.is_empty());
    status.unwrap_or(Cow::Borrowed(COMPLETE))
}

/// Returns what is kept of a blueprint, if the API made it.
pub(in crate::api) fn record<'s>(snapshot: &'s Snapshot, blueprint: &Blueprint) -> Option<&'s ApiTable> {
    let is_made = is_made(snapshot, blueprint.id(), blueprint.source());
    snapshot.record(blueprint.id()).filter(|_| is_made)
}

/// Returns the id of the client that is a blueprint's build container.
pub(in crate::api) fn build_client(id: &str) -> String {
    format!("{id}-build")
}

/// Checks the id of a policy.
///
/// # Errors
/// There is no such policy.
pub(in crate::api) fn check_policy(snapshot: &Snapshot, field: &str, id: &Value) -> Result<(), ApiError> {
    let id = id.as_str().unwrap_or_default();
    if id == UNRESTRICTED || snapshot.policy(id).is_some() {
        return Ok(());
    }
    let id = id.escape_debug();
    Err(ApiError::bad(format!("{field}: there is no network policy `{id}`: create it first")))
}

/// Adds the policies in force to what was asked for.
fn with_policies(mut parameters: Fields, blueprint: &Blueprint) -> Fields {
    if let Some(policy) = blueprint.policy(Phase::Build) {
        parameters.insert("network_policy_id".to_owned(), policy.into());
    }
    if let Some(policy) = blueprint.policy(Phase::Runtime) {
        let launch = parameters.entry("launch_parameters").or_insert_with(|| json!({}));
        if let Value::Object(launch) = launch {
            launch.insert("network_policy_id".to_owned(), policy.into());
        }
    }
    parameters
}

/// Returns a blueprint that the API made.
///
/// # Errors
/// There is none, or a person wrote it.
pub(in crate::api) fn made<'s>(snapshot: &'s Snapshot, id: &str) -> Result<&'s Blueprint, ApiError> {
    let blueprint = snapshot.blueprint(id).ok_or_else(|| ApiError::unknown(Kind::Blueprint, id))?;
    if is_made(snapshot, id, blueprint.source()) {
        return Ok(blueprint);
    }
    Err(by_hand("blueprint", id, &blueprint.place()))
}

/// What a request wants a blueprint to be.
#[derive(Debug)]
struct Wanted {
    /// Its name.
    name: Option<Value>,
    /// The policy of its build.
    build_policy: Option<Value>,
    /// The policy of its devboxes.
    runtime_policy: Option<Value>,
    /// Free text by key.
    metadata: Option<Fields>,
    /// The rest of the launch parameters.
    launch: Option<Fields>,
    /// What the API does not know.
    others: Fields,
}

impl Wanted {
    /// Reads the fields of a request, of which one may be required.
    fn read(mut given: Fields, required: Option<&str>) -> Result<Self, ApiError> {
        let mut wrongs = Wrongs::default();
        fields::require(&given, required, &mut wrongs);
        let name = fields::label(&mut given, "name", &mut wrongs);
        let build_policy = fields::text(&mut given, "network_policy_id", &mut wrongs);
        let metadata = fields::metadata(&mut given, &mut wrongs);
        let mut launch = fields::object(&mut given, "launch_parameters", &mut wrongs);
        let runtime_policy = launch.as_mut().and_then(|launch| fields::launch_policy(launch, &mut wrongs));
        fields::near_misses(&given, "", &NAMING, &mut wrongs);
        if let Some(launch) = &launch {
            let of_launch = [("network_policy_id", RUNTIME), ("policy_id", RUNTIME), ("runtime_policy", RUNTIME)];
            fields::near_misses(launch, "launch_parameters.", &of_launch, &mut wrongs);
        }
        wrongs.check()?;
        Ok(Self { name, build_policy, runtime_policy, metadata, launch, others: given })
    }

    /// Checks what it refers to.
    fn check(&self, snapshot: &Snapshot) -> Result<(), ApiError> {
        for (field, policy) in
            [("network_policy_id", &self.build_policy), ("launch_parameters.network_policy_id", &self.runtime_policy)]
        {
            policy.iter().try_for_each(|policy| check_policy(snapshot, field, policy))?;
        }
        Ok(())
    }

    /// Writes what is wanted into the blueprint's file.
    fn write(&self, file: &mut File, id: &str) {
        for (key, policy) in [("build_policy", &self.build_policy), ("runtime_policy", &self.runtime_policy)] {
            if let Some(policy) = policy {
                file.set("blueprint", id, key, policy);
            }
        }
        if let Some(name) = &self.name {
            file.set("api", id, "name", name);
        }
        if let Some(metadata) = &self.metadata {
            file.set("api", id, "metadata", &metadata.clone().into());
        }
        let mut request = object(file.fields("api", id).unwrap_or_default().remove("request"));
        request.extend(self.others.clone());
        if let Some(launch) = &self.launch {
            let mut all = object(request.remove("launch_parameters"));
            all.extend(launch.clone());
            request.insert("launch_parameters".to_owned(), all.into());
        }
        if !request.is_empty() {
            file.set("api", id, "request", &request.into());
        }
    }
}

/// Where the policy of devboxes is written.
const RUNTIME: &str = "launch_parameters.network_policy_id";

/// Fields that say which policies apply, and where each is to be written.
const NAMING: [(&str, &str); 5] = [
    ("launch_parameters", "launch_parameters"),
    ("network_policy_id", "network_policy_id"),
    ("policy_id", "network_policy_id"),
    ("build_policy", "network_policy_id"),
    ("runtime_policy", RUNTIME),
];

/// The status of a blueprint that devboxes can be made from.
pub(in crate::api) const COMPLETE: &str = "build_complete";

/// All that a blueprint can have.
const STATUSES: [&str; 6] = [QUEUED, "provisioning", BUILDING, "awaiting_upload", FAILED, COMPLETE];

/// The first line of a blueprint's file.
const COMMENT: &str = "A blueprint of the API.";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_request_panics_and_what_is_taken_loads(given in crate::api::objects::object_file::tests::any_fields(&[
            "name", "network_policy_id", "launch_parameters", "metadata", "dockerfile", "x",
        ])) {
            if let Ok(mut wanted) = Wanted::read(given, None) {
                wanted.build_policy = wanted.build_policy.map(|_| UNRESTRICTED.into());
                wanted.runtime_policy = wanted.runtime_policy.map(|_| UNRESTRICTED.into());
                let mut file = File::new(COMMENT);
                file.add("blueprint", "bpt_1");
                wanted.write(&mut file, "bpt_1");
                let text = file.text();
                let errors = crate::api::objects::object_file::tests::errors(&text);
                prop_assert!(errors.is_empty(), "{}\n{:?}", text, errors);
            }
        }
    }
}
