//! Network policies: egress rules under a name, for blueprints and devboxes.

use std::collections::BTreeSet;

use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::now_ms;
use crate::api::objects::egress::{self, CidrField, FLAGS};
use crate::api::objects::object_file::{Fields, ObjectFile, object, tables};
use crate::api::objects::{ApiKind, ApiObject, Deletable, REVISION, by_hand, is_of_api, revision};
use crate::api::request::call::{Call, Done};
use crate::api::request::error::ApiError;
use crate::api::request::fields::{RequestFields, or_null};
use crate::api::request::list::{ListEntry, ListQuery};
use crate::document::{Place, Source};
use crate::policy::{Phase, Snapshot};

/// The field of views with a policy's own hostnames, if others come from includes or list files.
const OWN_HOSTNAMES: &str = "hostgate_own_hostnames";

/// The kind of object that is a network policy.
pub(in crate::api) struct PolicyKind;

/// Creates a policy.
pub(in crate::api) async fn create(call: Arc<Call>) -> Result<Done, ApiError> {
    let mut fields = call.fields();
    fields.take::<String>(REVISION);
    fields.require_name();
    let policy = PolicyFields::read(fields)?;
    let control = &call.control;
    let _writing = control.write(&call.principal).await?;
    let id: Arc<str> = control.ids.next(ApiKind::Policy).into();
    let mut file = ObjectFile::default();
    file.add("policy", &id);
    policy.write(&mut file, &id, policy.hostnames.clone());
    control.create(&call, (ApiKind::Policy, &id), &file).await
}

impl ApiObject for PolicyKind {
    const KIND: ApiKind = ApiKind::Policy;
    const STATUSES: &'static [&'static str] = &[];
    type Update = PolicyFields;

    fn read_update(fields: RequestFields) -> Result<PolicyFields, ApiError> {
        PolicyFields::read(fields)
    }

    fn apply(update: &PolicyFields, snapshot: &Snapshot, id: &str, file: &mut ObjectFile) -> Result<(), ApiError> {
        let mut hostnames = update.hostnames.clone();
        // Views show included hostnames, too: a client that adds one and sends all of them back does not make them the
        // policy's own.
        if let (Some(hostnames), Some(policy)) = (&mut hostnames, snapshot.policy(id)) {
            egress::leave_out_included(hostnames, policy, &file.fields("policy", id).unwrap_or_default());
        }
        update.write(file, id, hostnames);
        Ok(())
    }

    fn source<'s>(snapshot: &'s Snapshot, id: &str) -> Result<&'s Source, ApiError> {
        let policy = snapshot.policy(id).ok_or_else(|| ApiError::not_found(Self::KIND, id))?;
        let is_of_api = is_of_api(snapshot, id, policy.source());
        is_of_api.then(|| policy.source()).ok_or_else(|| by_hand(Self::KIND, id, &policy.place()))
    }

    fn entries<'s>(snapshot: &'s Snapshot, _: &ListQuery) -> Box<dyn Iterator<Item = ListEntry<'s>> + 's> {
        Box::new(snapshot.policies().map(|policy| ListEntry {
            is_of_api: is_of_api(snapshot, policy.id(), policy.source()),
            id: policy.id(),
            name: policy.name().into(),
            status: "".into(),
        }))
    }

    fn viewer(snapshot: &Snapshot) -> impl Fn(&str) -> Option<Value> {
        move |id| view(snapshot, id)
    }
}

impl Deletable for PolicyKind {
    const IN_USE_HELP: &'static str = "give them another policy, or delete them or shut them down first";

    fn users(snapshot: &Snapshot, id: &str) -> Vec<String> {
        let named = |kind: &str, user: &str, source, place: &dyn Fn() -> Place| {
            let place = if is_of_api(snapshot, user, source) { String::new() } else { format!(" ({})", place()) };
            format!("{kind} `{user}`{place}")
        };
        let phases = [Phase::Build, Phase::Runtime];
        let blueprints =
            snapshot.blueprints().filter(|used| phases.iter().any(|&phase| used.policy(phase) == Some(id)));
        let blueprints = blueprints.map(|used| named("blueprint", used.id(), used.source(), &|| used.place()));
        let clients = snapshot.clients().filter(|used| used.policy() == Some(id)).map(|used| {
            let kind = if is_of_api(snapshot, used.id(), used.source()) { "devbox" } else { "client" };
            named(kind, used.id(), used.source(), &|| used.place())
        });
        let including = snapshot.policies().filter(|used| used.include().any(|included| included == id));
        let including = including.map(|used| named("network policy", used.id(), used.source(), &|| used.place()));
        let bound: BTreeSet<String> = snapshot.bound_to(id).map(|key| format!("`{key}` of hostgate.toml")).collect();
        blueprints.chain(clients).chain(including).chain(bound).collect()
    }

    /// Returns the policy as it was: Runloop's API does the same.
    fn deleted(snapshot: &Snapshot, id: &str) -> Value {
        view(snapshot, id).unwrap_or_default()
    }
}

/// Returns the view of a policy or a preset.
fn view(snapshot: &Snapshot, id: &str) -> Option<Value> {
    let policy = snapshot.policy(id)?;
    let mut view;
    let (egress, times);
    if is_of_api(snapshot, id, policy.source()) {
        let [fields, api] = tables(policy.source().text(), ["policy", "api"], id);
        let (fields, mut api) = (fields?, api?);
        view = object(api.remove("fields"));
        // A key of files that was sent as an unknown field is not in force.
        view.retain(|key, _| !egress::FILE_KEYS.contains(&&**key));
        if egress::is_extended(&fields) {
            let own = fields.get("allowed_hostnames").cloned();
            view.insert(OWN_HOSTNAMES.to_owned(), own.unwrap_or_else(|| json!([])));
        }
        view.insert(REVISION.to_owned(), revision(policy.source().text()).into());
        egress = egress::view(policy, &fields, &api);
        times = ["create_time_ms", "update_time_ms"].map(|key| api.remove(key).unwrap_or_else(|| 0.into()));
    } else {
        (view, egress, times) = (Fields::new(), egress::view_by_hand(policy), [0, 0].map(Value::from));
    }
    view.extend(egress::beyond_runloop(policy));
    view.extend(object(Some(json!({
        "id": id, "name": policy.name(), "description": policy.description(), "egress": egress,
        "create_time_ms": times[0], "update_time_ms": times[1],
    }))));
    Some(view.into())
}

/// The fields of a request that creates or changes a policy.
#[derive(Debug)]
pub(in crate::api) struct PolicyFields {
    name: Option<String>,
    description: Option<String>,
    /// The values of [`FLAGS`].
    flags: [Option<bool>; FLAGS.len()],
    hostnames: Option<Vec<String>>,
    cidrs: Option<Vec<CidrField>>,
    /// The fields that only views show.
    others: Fields,
}

impl PolicyFields {
    fn read(mut fields: RequestFields) -> Result<Self, ApiError> {
        let (name, description) = (fields.name(), fields.take("description"));
        // All optional fields are nullable, and null or absent keeps the value (Runloop, 2026-07-28).
        let flags = FLAGS.map(|(key, _)| fields.take(key));
        let hostnames = fields.take("allowed_hostnames").map(|names| egress::check_hostnames(names, &mut fields));
        let cidrs: Option<Vec<CidrField>> = fields.take("allowed_cidrs");
        egress::check_cidrs(cidrs.as_deref().unwrap_or_default(), &mut fields);
        fields.refuse("egress", "it is a field of responses: write what is in it beside `name`");
        for key in egress::FILE_KEYS {
            fields.refuse(key, "it cannot be set here: write it into the policy's file, api/ID.toml");
        }
        fields.ignore(&["id", "create_time_ms", "update_time_ms", OWN_HOSTNAMES]);
        let restricting = ["allowed_hostnames", "allowed_cidrs"].into_iter().chain(FLAGS.map(|(key, _)| key));
        let restricting = restricting.chain(egress::FILE_KEYS).map(|key| (key, key));
        fields.check_spelling(&restricting.chain(egress::SYNONYMS).collect::<Vec<_>>());
        Ok(Self { name, description, flags, hostnames, cidrs, others: fields.finish()? })
    }

    /// Writes the fields, with these hostnames, into the policy's file.
    fn write(&self, file: &mut ObjectFile, id: &str, hostnames: Option<Vec<String>>) {
        let [policy, mut api] = ["policy", "api"].map(|table| file.fields(table, id).unwrap_or_default());
        let now = now_ms();
        let mut set = |table, before: &Fields, key: &str, value: Value| {
            // A default is not written, but it replaces another value.
            let is_default = value.is_null() || value == false || value == json!([]);
            if !is_default || (before.contains_key(key) && !value.is_null()) {
                file.set(table, id, key, &value);
            }
        };
        set("policy", &policy, "name", or_null(self.name.clone()));
        set("policy", &policy, "description", or_null(self.description.clone()));
        let flags = || FLAGS.into_iter().zip(self.flags.map(or_null));
        for ((key, _), value) in flags().filter(|((_, is_enforced), _)| *is_enforced) {
            set("policy", &policy, key, value);
        }
        set("policy", &policy, "allowed_hostnames", or_null(hostnames));
        set("policy", &policy, "allowed_cidrs", json!(self.cidrs));
        if !api.contains_key("create_time_ms") {
            set("api", &api, "create_time_ms", now.into());
        }
        set("api", &api, "update_time_ms", now.into());
        for ((key, _), value) in flags().filter(|((_, is_enforced), _)| !is_enforced) {
            set("api", &api, key, value);
        }
        if !self.others.is_empty() {
            let mut others = object(api.remove("fields"));
            others.extend(self.others.clone());
            set("api", &api, "fields", others.into());
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::objects::object_file::tests::{any_fields, errors};

    /// Reads the fields of a request that creates a policy.
    fn read(fields: &Value) -> Result<PolicyFields, String> {
        let mut fields = RequestFields::new(fields.as_object().unwrap().clone());
        fields.require_name();
        PolicyFields::read(fields).map_err(|error| error.message)
    }

    #[test]
    fn all_errors_of_a_request_are_reported_at_once() {
        let told = read(&json!({
            "description": 7, "allow_all": "yes", "egress": {}, "allowed_hostnames": ["a.test", "*.com"],
            "allowed_cidrs": [{ "cidr": "10.0.0.1/8" }, { "cidr": "x" }],
        }))
        .unwrap_err();
        let expected = [
            "name: it is missing",
            "description: it must be a string, not integer `7`",
            "allow_all: it must be a boolean, not string \"yes\"",
            "allowed_hostnames[1]: pattern `*.com`: `com` is a public suffix, under which anyone can register a name: name the",
            "allowed_cidrs[0].cidr: `10.0.0.1/8` has bits behind its prefix length: write `10.0.0.0/8`",
            "allowed_cidrs[1].cidr: `x` is no prefix",
            "egress: it is a field of responses",
        ];
        let mut from = 0;
        for part in expected {
            from += told[from..].find(part).unwrap_or_else(|| panic!("{part}\n{told}"));
        }
    }

    #[test]
    fn an_error_within_a_field_has_its_place() {
        for (fields, expected) in [
            (
                json!({ "allowed_hostnames": ["a.test", 1] }),
                "allowed_hostnames[1]: it must be a string, not integer `1`",
            ),
            (json!({ "allowed_hostnames": "a" }), "allowed_hostnames: it must be an array, not string \"a\""),
            (json!({ "allowed_cidrs": ["10.0.0.0/8"] }), "allowed_cidrs[0]: it must be an object, not string"),
            (json!({ "allowed_cidrs": [{}] }), "allowed_cidrs[0]: missing field `cidr`"),
            (json!({ "allowed_cidrs": [{ "cidr": 1 }] }), "allowed_cidrs[0].cidr: it must be a string, not integer"),
            (json!({ "allowed_cidrs": [{ "cidr": "::/0", "x": 1 }] }), "allowed_cidrs[0].x: unknown field `x`"),
            (
                json!({ "allowed_cidrs": [{ "cidr": "::/0", "ports": [{ "port": 0 }] }] }),
                "allowed_cidrs[0].ports[0].port: it must be a port (1 to 65535), not",
            ),
            (
                json!({ "allowed_cidrs": [{ "cidr": "::/0", "ports": [{ "port": 2, "end_port": 1 }] }] }),
                "allowed_cidrs[0].ports[0].end_port: 1 is below `port` 2: swap them",
            ),
            (
                json!({ "allowed_cidrs": [{ "cidr": "::/0", "ports": [{ "port": 1, "protocol": "tcp" }] }] }),
                "allowed_cidrs[0].ports[0].protocol: unknown variant `tcp`, expected `TCP` or `UDP`",
            ),
            (json!({ "name": "" }), "name: it is empty"),
            (json!({ "name": "a\nb" }), "name: it holds a control character"),
            (json!({ "name": "x".repeat(257) }), "name: it is longer"),
            (json!({ "name": ["a"] }), "name: it must be a string, not sequence"),
        ] {
            let told = PolicyFields::read(RequestFields::new(fields.as_object().unwrap().clone())).unwrap_err();
            assert!(told.message.starts_with(expected), "{fields}: {}", told.message);
        }
        assert!(read(&json!({ "name": "é".repeat(256) })).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_request_panics_and_every_file_loads(fields in any_fields(&[
            "name", "description", "allow_all", "allow_mcp_gateway", "allowed_hostnames", "allowed_cidrs", "x",
        ])) {
            if let Ok(policy) = PolicyFields::read(RequestFields::new(fields)) {
                let mut file = ObjectFile::default();
                file.add("policy", "npol_1");
                policy.write(&mut file, "npol_1", policy.hostnames.clone());
                let text = file.text();
                let errors = errors(&text);
                prop_assert!(errors.is_empty(), "{}\n{:?}", text, errors);
            }
        }
    }
}
