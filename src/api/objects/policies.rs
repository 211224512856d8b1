//! Network policies.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Value, json};

use crate::api::objects::egress;
use crate::api::objects::id::now_ms;
use crate::api::objects::kind::Kind;
use crate::api::objects::object_file::{Fields, File, object, tables, without};
use crate::api::objects::revision;
use crate::api::request::call::{Call, Done, Text};
use crate::api::request::error::{ApiError, Wrongs};
use crate::api::request::fields;
use crate::api::request::list::{Listed, Query};
use crate::api::{Edit, by_hand, is_made, named};
use crate::policy::{Phase, Policy, Snapshot};

/// Creates a policy.
pub(in crate::api) async fn create(call: Arc<Call>) -> Result<Done, ApiError> {
    let mut fields = call.fields.clone();
    revision::take(&mut fields)?;
    let wanted = Wanted::read(fields, Some("name"))?;
    let control = &call.control;
    let _writing = control.write(&call.principal).await?;
    let id: Arc<str> = control.ids.next(Kind::Policy).into();
    let mut file = File::new(COMMENT);
    file.add("policy", &id);
    wanted.write(&mut file, &id, now_ms());
    control.make(&call, "network_policy.create", (Kind::Policy, &id), file).await
}

/// Changes a policy: what is absent stays. A request that names the revision it has seen changes that one alone, so that
/// nobody overwrites what another one changed meanwhile.
pub(in crate::api) async fn update(call: Arc<Call>) -> Result<Done, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let _writing = control.write(&call.principal).await?;
    // Whether there is such a policy is told first.
    made(&control.snapshot(), id)?;
    let mut fields = call.fields.clone();
    let revision = revision::take(&mut fields)?;
    let wanted = Wanted::read(fields, None)?;
    let edit = |snapshot: &Snapshot| {
        let policy = made(snapshot, id)?;
        let text = policy.source().text();
        revision::check(revision.as_deref(), Kind::Policy, id, text)?;
        Edit::of(id, text, |file| wanted.beside_included(policy, file).write(file, id, now_ms()))
    };
    control.change(&call.principal, "network_policy.update", edit).await?;
    control.view(Kind::Policy, id).map(Done::changed)
}

/// Deletes a policy that nobody uses; what else a person wrote into its file stays there.
pub(in crate::api) async fn delete(call: Arc<Call>) -> Result<Done, ApiError> {
    let (control, id) = (&call.control, call.id.as_str());
    let _writing = control.write(&call.principal).await?;
    let mut last = Value::Null;
    let edit = |snapshot: &Snapshot| {
        let policy = made(snapshot, id)?;
        let users = users(snapshot, id);
        if !users.is_empty() {
            let users = named(&users);
            return Err(ApiError::bad(format!(
                "network policy `{id}` is in use by {users}: give them another policy, or delete them or shut them down first"
            )));
        }
        last = view(snapshot, id).unwrap_or_default();
        let text = policy.source().text();
        let after = without(text, COMMENT, &[("policy", id), ("api", id)])?;
        Ok(Edit { id: id.into(), before: Some(Arc::clone(text)), after })
    };
    control.change(&call.principal, "network_policy.delete", edit).await?;
    Ok(Done::changed(last))
}

/// Returns a page of policies.
pub(in crate::api) fn list(call: &Call, snapshot: &Snapshot) -> Result<Text, ApiError> {
    let query = Query::parse(&call.query, &[])?;
    let listed = snapshot.policies().map(|policy| Listed {
        is_made: is_made(snapshot, policy.id(), policy.source()),
        id: policy.id(),
        name: policy.name().into(),
        status: "".into(),
    });
    Ok(query.page(Kind::Policy, listed)?.answer("network_policies", |id| view(snapshot, id)))
}

/// Returns a policy as the API shows it; presets too.
pub(in crate::api) fn view(snapshot: &Snapshot, id: &str) -> Option<Value> {
    let policy = snapshot.policy(id)?;
    if !is_made(snapshot, id, policy.source()) {
        let mut view = egress::beyond(policy);
        view.extend(object(Some(json!({
            "id": id, "name": policy.name(), "description": policy.description(), "egress": egress::written(policy),
            "create_time_ms": 0, "update_time_ms": 0,
        }))));
        return Some(view.into());
    }
    let [fields, kept] = tables(policy.source().text(), ["policy", "api"], id);
    let (fields, mut kept) = (fields?, kept?);
    let mut view = object(kept.remove("fields"));
    // What is not in force is not shown as if it were.
    view.retain(|key, _| !egress::OF_FILES.contains(&&**key));
    view.extend(egress::beyond(policy));
    view.insert("id".to_owned(), id.into());
    view.insert("name".to_owned(), policy.name().into());
    view.insert("description".to_owned(), policy.description().into());
    view.insert("egress".to_owned(), egress::view(policy, &fields, &kept));
    if egress::is_extended(&fields) {
        let own = fields.get("allowed_hostnames").cloned();
        view.insert(OWN.to_owned(), own.unwrap_or_else(|| json!([])));
    }
    view.insert(revision::KEY.to_owned(), revision::of(policy.source().text()).into());
    for key in ["create_time_ms", "update_time_ms"] {
        view.insert(key.to_owned(), kept.remove(key).unwrap_or_else(|| 0.into()));
    }
    Some(view.into())
}

/// What a request wants a policy to be.
#[derive(Clone, Debug)]
struct Wanted {
    /// What is enforced or shown by the policy engine.
    policy: Vec<(&'static str, Value)>,
    /// What is kept besides.
    kept: Vec<(&'static str, Value)>,
    /// What the API does not know.
    others: Fields,
}

impl Wanted {
    /// Reads the fields of a request, of which one may be required.
    fn read(mut given: Fields, required: Option<&str>) -> Result<Self, ApiError> {
        let mut wrongs = Wrongs::default();
        fields::require(&given, required, &mut wrongs);
        let mut policy = Vec::new();
        policy.extend(fields::label(&mut given, "name", &mut wrongs).map(|name| ("name", name)));
        policy.extend(fields::text(&mut given, "description", &mut wrongs).map(|text| ("description", text)));
        let mut kept = Vec::new();
        for (key, is_enforced) in egress::FLAGS {
            let flag = fields::flag(&mut given, key, &mut wrongs).map(|flag| (key, flag.into()));
            if is_enforced { &mut policy } else { &mut kept }.extend(flag);
        }
        policy.extend(egress::hostnames(&mut given, &mut wrongs).map(|names| ("allowed_hostnames", names)));
        policy.extend(egress::cidrs(&mut given, &mut wrongs).map(|cidrs| ("allowed_cidrs", cidrs)));
        if given.remove("egress").is_some() {
            wrongs.add("egress: it is a field of responses: write what is in it beside `name`".to_owned());
        }
        egress::of_files(&mut given, &mut wrongs);
        for key in ["id", "create_time_ms", "update_time_ms", OWN] {
            given.remove(key);
        }
        let restricting = ["allowed_hostnames", "allowed_cidrs"].into_iter().chain(egress::FLAGS.map(|(key, _)| key));
        let restricting = restricting.chain(egress::OF_FILES).map(|key| (key, key));
        let restricting: Vec<(&str, &str)> = restricting.chain(egress::OTHER_WORDS).collect();
        fields::near_misses(&given, "", &restricting, &mut wrongs);
        wrongs.check()?;
        Ok(Self { policy, kept, others: given })
    }

    /// Leaves out of `allowed_hostnames` what the policy has from elsewhere: views show that too, and whoever adds a name to
    /// what a view shows does not mean to make all of it the policy's own.
    fn beside_included(&self, in_force: &Policy, file: &File) -> Self {
        let mut wanted = self.clone();
        let before = file.fields("policy", in_force.id()).unwrap_or_default();
        for (key, value) in &mut wanted.policy {
            if let ("allowed_hostnames", Value::Array(names)) = (*key, value) {
                egress::leave_out_included(names, in_force, &before);
            }
        }
        wanted
    }

    /// Writes what is wanted into the policy's file.
    fn write(&self, file: &mut File, id: &str, now: u64) {
        let before = file.fields("policy", id).unwrap_or_default();
        let mut kept = file.fields("api", id).unwrap_or_default();
        for (key, value) in &self.policy {
            // What is the default need not be said.
            if before.contains_key(*key) || *value != Value::Bool(false) && *value != json!([]) {
                file.set("policy", id, key, value);
            }
        }
        if !kept.contains_key("create_time_ms") {
            file.set("api", id, "create_time_ms", &now.into());
        }
        file.set("api", id, "update_time_ms", &now.into());
        for (key, value) in &self.kept {
            if kept.contains_key(*key) || *value != Value::Bool(false) {
                file.set("api", id, key, value);
            }
        }
        if !self.others.is_empty() {
            let mut others = object(kept.remove("fields"));
            others.extend(self.others.clone());
            file.set("api", id, "fields", &others.into());
        }
    }
}

/// Returns a policy that the API made.
///
/// # Errors
/// There is none, or a person wrote it.
fn made<'s>(snapshot: &'s Snapshot, id: &str) -> Result<&'s Policy, ApiError> {
    let policy = snapshot.policy(id).ok_or_else(|| ApiError::unknown(Kind::Policy, id))?;
    if is_made(snapshot, id, policy.source()) {
        return Ok(policy);
    }
    Err(by_hand("network policy", id, &policy.place()))
}

/// Returns who uses a policy.
fn users(snapshot: &Snapshot, id: &str) -> Vec<String> {
    let told = |kind: &str, user: &str, source, place: &dyn Fn() -> crate::document::Place| {
        if is_made(snapshot, user, source) {
            format!("{kind} `{user}`")
        } else {
            format!("{kind} `{user}` ({})", place())
        }
    };
    let phases = [Phase::Build, Phase::Runtime];
    let blueprints = snapshot.blueprints().filter(|used| phases.iter().any(|&phase| used.policy(phase) == Some(id)));
    let blueprints = blueprints.map(|used| told("blueprint", used.id(), used.source(), &|| used.place()));
    let clients = snapshot.clients().filter(|used| used.policy() == Some(id));
    let clients = clients.map(|used| {
        let kind = if is_made(snapshot, used.id(), used.source()) { "devbox" } else { "client" };
        told(kind, used.id(), used.source(), &|| used.place())
    });
    let including = snapshot.policies().filter(|used| used.include().any(|included| included == id));
    let including = including.map(|used| told("network policy", used.id(), used.source(), &|| used.place()));
    let bound: BTreeSet<String> = snapshot.bound_to(id).map(|place| format!("`{place}` of hostgate.toml")).collect();
    blueprints.chain(clients).chain(including).chain(bound).collect()
}

/// The field of views for a policy's own names, where others are shown with them.
const OWN: &str = "hostgate_own_hostnames";

/// The first line of a policy's file.
const COMMENT: &str = "A network policy of the API.";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Reads the fields of a request to create a policy.
    fn wanted(fields: Value) -> Result<Wanted, String> {
        let Value::Object(fields) = fields else { panic!("{fields}") };
        Wanted::read(fields, Some("name")).map_err(|error| error.message)
    }

    #[test]
    fn everything_that_is_wrong_is_told_at_once() {
        let told = wanted(json!({
            "description": 7, "allow_all": "yes", "egress": {}, "allowed_hostnames": ["a.test", 1, "*.com"],
            "allowed_cidrs": ["10.0.0.0/8", { "cidr": "10.0.0.1/8" }, { "cidr": "192.0.2.0/24", "ports": [{ "port": 0 }] }],
        }))
        .unwrap_err();
        let expected = [
            "name: it is missing",
            "description: it must be a string, not a number",
            "allow_all: it must be true or false, not a string",
            "allowed_hostnames[1]: it must be a string, not a number",
            "allowed_hostnames[2]: pattern `*.com`: `com` is a public suffix, under which anyone can register a name: name the",
            "allowed_cidrs[0]: it must be an object, not a string",
            "allowed_cidrs[1].cidr: `10.0.0.1/8` has bits behind its prefix length: write `10.0.0.0/8`",
            "allowed_cidrs[2].ports[0].port: `0` is no port: write a number from 1 to 65535",
            "egress: it is a field of responses",
        ];
        let mut from = 0;
        for part in expected {
            from += told[from..].find(part).unwrap_or_else(|| panic!("{part}\n{told}"));
        }
    }

    #[test]
    fn names_are_one_line_of_text() {
        for (name, expected) in [
            (json!(""), "name: it is empty"),
            (json!("a\nb"), "name: it holds a control character"),
            (json!("x".repeat(257)), "name: it is longer"),
            (json!(["a"]), "name: it must be a string, not an array"),
        ] {
            let told = wanted(json!({ "name": name })).unwrap_err();
            assert!(told.starts_with(expected), "{told}");
        }
        assert!(wanted(json!({ "name": "é".repeat(256) })).is_ok());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
        #[test]
        fn no_request_panics_and_what_is_taken_loads(fields in crate::api::objects::object_file::tests::any_fields(&[
            "name", "description", "allow_all", "allow_mcp_gateway", "allowed_hostnames", "allowed_cidrs", "x",
        ])) {
            if let Ok(wanted) = Wanted::read(fields, None) {
                let mut file = File::new(COMMENT);
                file.add("policy", "npol_1");
                wanted.write(&mut file, "npol_1", 1);
                let text = file.text();
                let errors = crate::api::objects::object_file::tests::errors(&text);
                prop_assert!(errors.is_empty(), "{}\n{:?}", text, errors);
            }
        }
    }
}
