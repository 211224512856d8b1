//! Changes of a policy: what is added, removed or replaced, what comes of it, and how many running devboxes it reaches.
//!
//! A change is planned on the policy as the API shows it and sent with the revision that was read, so that what others
//! change meanwhile is planned again on and not overwritten.

mod lists;

use std::collections::HashSet;

use clap::Args;
use hyper::StatusCode;
use ipnet::IpNet;
use serde_json::{Map, Value, json};

use self::lists::{Edit, Names, Prefixes};
use super::fields::Fields;
use super::{Failure, Kind, REVISION, query, tell};
use crate::bounds::MAX_REPEATED_CHANGES;
use crate::cli::http::{Api, HttpError};
use crate::cli::output::Output;

/// What is to be another of a policy.
#[derive(Args)]
pub(in crate::cli) struct Change {
    /// What people call it.
    #[arg(long)]
    name: Option<String>,
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// Hostnames to allow too: `NAME`, or `*.NAME` for all below NAME. What is there already is said, and is no error.
    #[arg(long, value_name = "HOST", num_args = 1..)]
    add: Vec<String>,
    /// Hostnames to take out of the policy's own list. When one is not in it, nothing changes and the exit code is 1.
    #[arg(long, value_name = "HOST", num_args = 1..)]
    remove: Vec<String>,
    /// The hostnames of the policy's own list, in place of those that it has.
    #[arg(long, value_name = "HOST", num_args = 1.., conflicts_with_all = ["add", "remove"])]
    set: Vec<String>,
    /// Empty the policy's own list of hostnames.
    #[arg(long, conflicts_with_all = ["add", "remove", "set"])]
    allow_none: bool,
    /// The former way to replace the list, which is refused.
    #[arg(long, value_name = "HOST", num_args = 1.., hide = true)]
    allow: Vec<String>,
    /// Allow every hostname, or with `=false` no longer.
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_all: Option<bool>,
    /// Let devboxes look one another up, or with `=false` no longer.
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    devbox_to_devbox: Option<bool>,
    /// Prefixes to keep too: shown as those that may be connected to without a name; DNS does not enforce them.
    #[arg(long, value_name = "CIDR", num_args = 1..)]
    add_cidr: Vec<IpNet>,
    /// Prefixes to keep no longer, whatever their ports.
    #[arg(long, value_name = "CIDR", num_args = 1..)]
    remove_cidr: Vec<IpNet>,
    /// The prefixes that are kept, in place of those that there are.
    #[arg(long, value_name = "CIDR", num_args = 1.., conflicts_with_all = ["add_cidr", "remove_cidr"])]
    set_cidr: Vec<IpNet>,
    /// Keep no prefix.
    #[arg(long, conflicts_with_all = ["add_cidr", "remove_cidr", "set_cidr"])]
    cidr_none: bool,
    /// The former way to replace the prefixes, which is refused.
    #[arg(long, value_name = "CIDR", num_args = 1.., hide = true)]
    cidr: Vec<String>,
    /// Say what would be another and how many running devboxes it would reach, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// What a change makes of a policy that was read.
struct Plan {
    /// The fields of the request; empty if everything is as wanted.
    fields: Fields,
    /// What there is to know besides, a line each.
    notes: Vec<String>,
}

impl Change {
    /// Checks what can be said without asking the API.
    ///
    /// # Errors
    /// What is wrong with the command line.
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
        Err("nothing to change: name what is to be another (--help shows what can be)".to_owned())
    }

    /// Returns whether nothing is to be changed in the end.
    pub(super) fn is_dry(&self) -> bool {
        self.dry_run
    }

    /// Makes the change and tells of it.
    ///
    /// # Errors
    /// The API or the change itself is refused, or others change the policy all the time.
    pub(super) fn make(&self, api: &Api, id: &str, json: bool, output: &mut Output) -> Result<(), Failure> {
        let path = super::one(Kind::Policy, id);
        for _ in 0..MAX_REPEATED_CHANGES {
            let before = api.get(&path)?;
            let Plan { fields, mut notes } = self.plan(id, &before)?;
            // Asked first: once the policy is changed, nothing may fail any more.
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
            Told { before: &before, after: &after, reached, is_dry: self.dry_run }.tell(json, output);
            return Ok(());
        }
        Err(Failure::changed_by_others(id))
    }

    /// Plans the change on a policy as the API shows it.
    ///
    /// # Errors
    /// What is to be removed is not there, or something is no hostname.
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

/// Adds the revision that was read. Without one the policy is written by hand, and the API says where.
fn with_revision(mut fields: Fields, before: &Value) -> Value {
    fields.set(REVISION, Some(before[REVISION].as_str().unwrap_or_default()));
    fields.into_new().into()
}

/// Asks how many running devboxes a policy applies to, by itself or as a part of the one that does.
fn reached(api: &Api, id: &str) -> Result<Option<u64>, HttpError> {
    let id = query::escape(id);
    let page = api.get(&format!("{}?status=running&network_policy_id={id}&limit=1", Kind::Devbox.path()))?;
    Ok(page["total_count"].as_u64())
}

/// Returns what the API would show after a change.
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
    if after["egress"]["allow_all"] == true {
        after["egress"]["allow_devbox_to_devbox"] = true.into();
    }
    after
}

/// What is told of a change.
struct Told<'a> {
    /// The policy as it was.
    before: &'a Value,
    /// The policy as it is now, or would be.
    after: &'a Value,
    /// How many running devboxes it reaches, if the API says so.
    reached: Option<u64>,
    /// Whether nothing was changed.
    is_dry: bool,
}

impl Told<'_> {
    /// Writes the difference.
    fn tell(&self, json: bool, output: &mut Output) {
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
        output.line(format!("{}  {reached}{dry}", tell::line(Kind::Policy, self.after)));
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

/// Says how many devboxes there are.
fn devboxes(number: u64) -> String {
    format!("{number} running {}", if number == 1 { "devbox" } else { "devboxes" })
}

/// Returns what a policy says as lines that can be compared; hostnames alone, everything else with its key before it.
fn facts(policy: &Value) -> Vec<String> {
    let egress = &policy["egress"];
    let text = |key: &str| policy[key].as_str().filter(|text| !text.is_empty()).map(|text| format!("{key} {text:?}"));
    let flags = ["allow_all", "allow_devbox_to_devbox"].into_iter().filter(|key| egress[*key] == true);
    let cidrs =
        egress["allowed_cidrs"].as_array().into_iter().flatten().map(|cidr| format!("cidr {}", tell::cidr(cidr)));
    let flags = flags.map(str::to_owned);
    let own = Names::of(policy).into_own();
    text("name").into_iter().chain(text("description")).chain(flags).chain(cidrs).chain(own).collect()
}

/// The field of a view that has a policy's own names, where others are shown with them.
const OWN: &str = "hostgate_own_hostnames";
