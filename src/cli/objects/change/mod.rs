//! The command `hostgate policy update`: plans a change, applies it, and reports the difference and the number of
//! running devboxes it affects.
//!
//! The plan is made from the policy as the API shows it, and is sent with the revision that was read (optimistic
//! concurrency). If another client changed the policy in the meantime, the API refuses the request, and the change is
//! planned again.

mod lists;

use std::collections::HashSet;

use clap::Args;
use hyper::StatusCode;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use self::lists::{Edit, Names, Prefixes};
use super::fields::Fields;
use super::{Failure, ObjectKind, REVISION, query, text};
use crate::bounds::MAX_REPEATED_CHANGES;
use crate::cli::http::{Api, HttpError};
use crate::cli::output::Output;

/// The changes to make to a policy.
#[derive(Args)]
pub(in crate::cli) struct Change {
    /// The name, for people.
    #[arg(long)]
    name: Option<String>,
    /// The purpose, for people.
    #[arg(long)]
    description: Option<String>,
    /// Hostnames to add to the policy's own list: `NAME`, or `*.NAME` for all names below NAME. A name that is there already is no error.
    #[arg(long, value_name = "HOST", num_args = 1..)]
    add: Vec<String>,
    /// Hostnames to remove from the policy's own list. If one is not in it, nothing is changed and the exit code is 1.
    #[arg(long, value_name = "HOST", num_args = 1..)]
    remove: Vec<String>,
    /// Hostnames to replace the policy's own list with.
    #[arg(long, value_name = "HOST", num_args = 1.., conflicts_with_all = ["add", "remove"])]
    set: Vec<String>,
    /// Empty the policy's own list of hostnames.
    #[arg(long, conflicts_with_all = ["add", "remove", "set"])]
    allow_none: bool,
    /// The former option for replacing the list, which is refused.
    #[arg(long, value_name = "HOST", num_args = 1.., hide = true)]
    allow: Vec<String>,
    /// Allow every hostname, or with `=false` stop allowing it.
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_all: Option<bool>,
    /// Let devboxes look each other up, or with `=false` stop letting them.
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    devbox_to_devbox: Option<bool>,
    /// Prefixes to add, which may be connected to without a name: stored and shown, but not enforced by DNS.
    #[arg(long, value_name = "CIDR", num_args = 1..)]
    add_cidr: Vec<IpNet>,
    /// Prefixes to remove, whatever their ports.
    #[arg(long, value_name = "CIDR", num_args = 1..)]
    remove_cidr: Vec<IpNet>,
    /// Prefixes to replace the list of prefixes with.
    #[arg(long, value_name = "CIDR", num_args = 1.., conflicts_with_all = ["add_cidr", "remove_cidr"])]
    set_cidr: Vec<IpNet>,
    /// Remove all prefixes.
    #[arg(long, conflicts_with_all = ["add_cidr", "remove_cidr", "set_cidr"])]
    cidr_none: bool,
    /// The former option for replacing the prefixes, which is refused.
    #[arg(long, value_name = "CIDR", num_args = 1.., hide = true)]
    cidr: Vec<String>,
    /// Show the difference and the number of running devboxes it would affect, without changing anything.
    #[arg(long)]
    dry_run: bool,
}

/// The change planned for a policy that was read.
struct Plan {
    /// The fields of the request; empty if nothing has to change.
    fields: Fields,
    /// Remarks for the user, one a line.
    notes: Vec<String>,
}

impl Change {
    /// Checks the options as far as possible without the API.
    ///
    /// # Errors
    /// The options are wrong.
    pub(super) fn check(&self) -> Result<(), String> {
        if !self.allow.is_empty() {
            return Err("`--allow` replaced the whole list: write --add HOST to allow one more, --set HOST... to replace the list".to_owned());
        }
        if !self.cidr.is_empty() {
            return Err("`--cidr` replaced all prefixes: write --add-cidr CIDR to keep one more, --set-cidr CIDR... to replace them".to_owned());
        }
        let Self { name, description, add, remove, set, allow_none, allow_all, devbox_to_devbox, .. } = self;
        let is_named = name.is_some() || description.is_some() || allow_all.is_some() || devbox_to_devbox.is_some();
        let is_listed = !add.is_empty() || !remove.is_empty() || !set.is_empty() || *allow_none;
        let Self { add_cidr, remove_cidr, set_cidr, cidr_none, .. } = self;
        let is_kept = !add_cidr.is_empty() || !remove_cidr.is_empty() || !set_cidr.is_empty() || *cidr_none;
        if is_named || is_listed || is_kept {
            return Ok(());
        }
        Err("nothing to change: give at least one option (--help lists them)".to_owned())
    }

    pub(super) fn is_dry(&self) -> bool {
        self.dry_run
    }

    /// Makes the change and reports it.
    ///
    /// # Errors
    /// The API refuses, the change is impossible, or others change the policy each time.
    pub(super) fn make(&self, api: &Api, id: &str, json: bool, output: &mut Output) -> Result<(), Failure> {
        let path = super::one(ObjectKind::Policy, id);
        for _ in 0..MAX_REPEATED_CHANGES {
            let before = api.get(&path)?;
            let Plan { fields, mut notes } = self.plan(id, &before)?;
            // Counted before the change, as no failure may follow it.
            let reached = reached(api, id)?;
            let after = if fields.is_empty() {
                before.clone()
            } else if self.dry_run {
                if !before[REVISION].is_string() {
                    return Err(Failure::Refused(format!("`{id}` is written by hand: edit its file")));
                }
                preview(&before, fields)
            } else {
                match api.post(&path, &with_revision(fields, &before)) {
                    Err(HttpError::Refused { status: StatusCode::PRECONDITION_FAILED, .. }) => continue,
                    changed => changed?,
                }
            };
            notes.extend(Names::of(&after).still_allowed(&self.remove));
            for note in notes {
                output.error(format!("policy: {id}: {note}"));
            }
            ChangeReport { before: &before, after: &after, reached, is_dry: self.dry_run }.write(json, output);
            return Ok(());
        }
        Err(Failure::changed_by_others(id))
    }

    /// Plans the change from the policy as the API shows it.
    ///
    /// # Errors
    /// An entry to remove is missing, or an argument is not a hostname.
    fn plan(&self, id: &str, policy: &Value) -> Result<Plan, Failure> {
        let refused = |error: String| Failure::Refused(format!("`{id}` is not changed: {error}"));
        let mut notes = Vec::new();
        let mut fields = Fields::default();
        fields.set("name", self.name.clone());
        fields.set("description", self.description.clone());
        fields.set("allow_all", self.allow_all);
        fields.set("allow_devbox_to_devbox", self.devbox_to_devbox);
        let names = Names::of(policy);
        let edit = Edit::new(&self.add, &self.remove, &self.set, self.allow_none);
        fields.set("allowed_hostnames", names.edited(&edit, &mut notes).map_err(refused)?);
        let edit = Edit::new(&self.add_cidr, &self.remove_cidr, &self.set_cidr, self.cidr_none);
        let prefixes = Prefixes::of(policy).edited(&edit, &mut notes).map_err(refused)?;
        fields.set("allowed_cidrs", prefixes);
        Ok(Plan { fields, notes })
    }
}

/// Adds the revision that was read. A policy without one is written by hand; the API then names the file to edit.
fn with_revision(mut fields: Fields, before: &Value) -> Value {
    fields.set(REVISION, Some(before[REVISION].as_str().unwrap_or_default()));
    fields.into_new().into()
}

/// Returns the number of running devboxes that a policy applies to, directly or as a part of another policy.
fn reached(api: &Api, id: &str) -> Result<Option<u64>, HttpError> {
    let id = query::escape(id);
    let page = api.get(&format!("{}?status=running&network_policy_id={id}&limit=1", ObjectKind::Devbox.path()))?;
    Ok(page["total_count"].as_u64())
}

/// Returns the policy as the API would show it after the change, for `--dry-run`.
fn preview(before: &Value, fields: Fields) -> Value {
    let mut after = before.clone();
    let elsewhere: Vec<Value> = Names::of(before).elsewhere().map(Value::from).collect();
    for (key, value) in fields.into_new() {
        match &*key {
            "name" | "description" => after[&*key] = value,
            "allowed_hostnames" => {
                if after[OWN].is_array() {
                    after[OWN] = value.clone();
                }
                let own = value.as_array().cloned().unwrap_or_default();
                after["egress"][&*key] = own.into_iter().chain(elsewhere.iter().cloned()).collect();
            }
            _ => after["egress"][&*key] = value,
        }
    }
    // `allow_all` allows devboxes as well, and the API shows it so.
    if after["egress"]["allow_all"] == true {
        after["egress"]["allow_devbox_to_devbox"] = true.into();
    }
    after
}

/// The report of a change.
struct ChangeReport<'a> {
    before: &'a Value,
    /// The policy after the change, or as it would be.
    after: &'a Value,
    /// The number of running devboxes affected; `None` if the API does not report it.
    reached: Option<u64>,
    /// Set if nothing was changed (`--dry-run`).
    is_dry: bool,
}

impl ChangeReport<'_> {
    /// Writes the difference.
    fn write(&self, json: bool, output: &mut Output) {
        let (before, after) = (facts(self.before), facts(self.after));
        let (known_before, known_after): (HashSet<&String>, HashSet<&String>) =
            (before.iter().collect(), after.iter().collect());
        let removed: Vec<&String> = before.iter().filter(|fact| !known_after.contains(fact)).collect();
        let added: Vec<&String> = after.iter().filter(|fact| !known_before.contains(fact)).collect();
        if json {
            let mut object: Map<String, Value> = self.after.as_object().cloned().unwrap_or_default();
            let difference = json!({
                "added": added, "removed": removed, "running_devboxes": self.reached, "dry_run": self.is_dry,
            });
            object.insert("hostgate_difference".to_owned(), difference);
            return output.json(&object);
        }
        let reached = self.reached.map_or_else(
            || "reaches an unknown number of running devboxes".to_owned(),
            |reached| format!("reaches {}", devboxes(reached)),
        );
        let dry = if self.is_dry { "  (dry run: nothing is changed)" } else { "" };
        output.line(format!("{}  {reached}{dry}", text::line(ObjectKind::Policy, self.after)));
        for fact in &removed {
            output.line(format!("  - {fact}"));
        }
        for fact in &added {
            output.line(format!("  + {fact}"));
        }
        if removed.is_empty() && added.is_empty() {
            output.line("  no difference");
        }
    }
}

/// Formats a number of devboxes.
fn devboxes(number: u64) -> String {
    format!("{number} running {}", if number == 1 { "devbox" } else { "devboxes" })
}

/// Returns the content of a policy as lines to compare: hostnames as they are, everything else after its key.
fn facts(policy: &Value) -> Vec<String> {
    let egress = &policy["egress"];
    let text = |key: &str| policy[key].as_str().filter(|text| !text.is_empty()).map(|text| format!("{key} {text:?}"));
    let flags = ["allow_all", "allow_devbox_to_devbox"].into_iter().filter(|key| egress[*key] == true);
    let cidrs =
        egress["allowed_cidrs"].as_array().into_iter().flatten().map(|cidr| format!("cidr {}", text::cidr(cidr)));
    let flags = flags.map(str::to_owned);
    let own = Names::of(policy).into_own();
    text("name").into_iter().chain(text("description")).chain(flags).chain(cidrs).chain(own).collect()
}

/// The field with a policy's own hostnames, present if the policy has others as well.
const OWN: &str = "hostgate_own_hostnames";
