//! The options of `hostgate policy`, `blueprint` and `devbox`. Their doc comments are the help texts and the man pages.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::change::Change;
use super::fields::Fields;
use super::query::Filter;
use super::{Action, Command, ObjectKind};

/// The subcommands of `hostgate policy`.
#[derive(Subcommand)]
pub(in crate::cli) enum PolicyVerb {
    /// Create a policy and print its id.
    Create {
        /// The name, for people; several objects may have the same.
        #[arg(long)]
        name: String,
        #[command(flatten)]
        rules: Rules,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// List policies.
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// Show a policy.
    Show {
        #[command(flatten)]
        object: Object,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// Change the given parts of a policy; the others stay. The change is in force when the command ends.
    #[command(
        override_usage = "hostgate policy update <ID|NAME> [OPTIONS]",
        after_help = "\
Example:
  hostgate policy update runtime --add pypi.org '*.pythonhosted.org' --dry-run
  hostgate policy update runtime --add pypi.org --remove registry.npmjs.org
  hostgate policy update runtime --set github.com api.openai.com

The command prints the difference (+ and -) and the number of running devboxes it affects; with --json
both are in hostgate_difference. Concurrent changes by others are kept. There is no --allow here, as it
used to replace the whole list: --add adds, --set replaces.

Exit code: 0 done, or nothing had to change; 1 refused or failed, and nothing is changed."
    )]
    Update {
        #[command(flatten)]
        object: Object,
        #[command(flatten)]
        change: Box<Change>,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// Delete a policy that nothing uses.
    Delete {
        #[command(flatten)]
        object: Object,
        #[command(flatten)]
        place: ApiOptions,
    },
}

/// The subcommands of `hostgate blueprint`.
#[derive(Subcommand)]
pub(in crate::cli) enum BlueprintVerb {
    /// Create a blueprint and print its id.
    Create {
        /// The name, for people; several objects may have the same.
        #[arg(long)]
        name: String,
        #[command(flatten)]
        policies: Policies,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// List blueprints.
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// Show a blueprint.
    Show {
        #[command(flatten)]
        object: Object,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// Change the given parts of a blueprint; the others stay.
    Update {
        #[command(flatten)]
        object: Object,
        /// The name, for people.
        #[arg(long)]
        name: Option<String>,
        #[command(flatten)]
        policies: Policies,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// Delete a blueprint that no devbox is made from.
    Delete {
        #[command(flatten)]
        object: Object,
        #[command(flatten)]
        place: ApiOptions,
    },
}

/// The subcommands of `hostgate devbox`.
#[derive(Subcommand)]
pub(in crate::cli) enum DevboxVerb {
    /// Create a devbox and print its id; `show` prints its address, too.
    Create {
        #[command(flatten)]
        label: NameAndMetadata,
        /// The blueprint it is made from.
        #[arg(long, value_name = "ID|NAME")]
        blueprint: Option<String>,
        /// The devbox's own policy, in place of the blueprint's.
        #[arg(long, value_name = "ID|NAME")]
        policy: Option<String>,
        /// The address [default: a free one of the configuration's `devbox_pool`].
        #[arg(long)]
        address: Option<std::net::IpAddr>,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// List devboxes.
    List {
        #[command(flatten)]
        filter: Filter,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// Show a devbox.
    Show {
        #[command(flatten)]
        object: Object,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// Change a devbox's name and the given keys of its metadata.
    Update {
        #[command(flatten)]
        object: Object,
        #[command(flatten)]
        label: NameAndMetadata,
        #[command(flatten)]
        place: ApiOptions,
    },
    /// Shut a devbox down; queries from its address are denied from then on.
    Delete {
        #[command(flatten)]
        object: Object,
        #[command(flatten)]
        place: ApiOptions,
    },
}

/// The rules of a policy.
#[derive(Args)]
pub(in crate::cli) struct Rules {
    /// The purpose, for people.
    #[arg(long)]
    description: Option<String>,
    /// A hostname to allow, or `*.NAME` for all names below NAME.
    #[arg(long, value_name = "HOST")]
    allow: Vec<String>,
    /// Allow every hostname, or with `=false` stop allowing it.
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_all: Option<bool>,
    /// Let devboxes look each other up, or with `=false` stop letting them.
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    devbox_to_devbox: Option<bool>,
    /// A prefix that may be connected to without a name: stored and shown, but not enforced by DNS.
    #[arg(long)]
    cidr: Vec<IpNet>,
}

/// The policies of a blueprint.
#[derive(Args)]
pub(in crate::cli) struct Policies {
    /// The policy of the blueprint's build only.
    #[arg(long, value_name = "ID|NAME")]
    build_policy: Option<String>,
    /// The policy of devboxes made from the blueprint that have none of their own.
    #[arg(long, value_name = "ID|NAME")]
    runtime_policy: Option<String>,
}

/// The name and metadata of a devbox.
#[derive(Args)]
pub(in crate::cli) struct NameAndMetadata {
    /// The name, for people.
    #[arg(long)]
    name: Option<String>,
    /// Metadata: free text by key.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
}

/// One object.
#[derive(Args)]
pub(in crate::cli) struct Object {
    /// The id, as `create` and `list` print it, or the name if no other object has the same.
    #[arg(value_name = "ID|NAME")]
    id: String,
}

/// The place of the API, and the token to use.
#[derive(Args)]
pub(in crate::cli) struct ApiOptions {
    /// The API's URL: `http://ADDRESS:PORT`, `https://HOST[:PORT]` or `unix:PATH` [default: from the configuration].
    #[arg(long)]
    pub(super) url: Option<String>,
    /// The CA certificates to trust for the API's own, as a PEM file.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// The file whose first token of an admin is sent [default: the environment's `HOSTGATE_TOKEN`, else the configuration's
    /// `token_file`].
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// The configuration file [default: ./hostgate.toml, else /etc/hostgate/hostgate.toml].
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Write the API's JSON.
    #[arg(long)]
    pub(super) json: bool,
}

impl From<PolicyVerb> for Command {
    fn from(verb: PolicyVerb) -> Self {
        let (action, place) = match verb {
            PolicyVerb::Create { name, rules, place } => (Action::Create(rules.fields(Some(name))), place),
            PolicyVerb::List { filter, place } => (Action::List(filter), place),
            PolicyVerb::Show { object, place } => (Action::Show(object.id), place),
            PolicyVerb::Update { object, change, place } => (Action::Change(object.id, change), place),
            PolicyVerb::Delete { object, place } => (Action::Delete(object.id), place),
        };
        Self { kind: ObjectKind::Policy, action, place }
    }
}

impl From<BlueprintVerb> for Command {
    fn from(verb: BlueprintVerb) -> Self {
        let (action, place) = match verb {
            BlueprintVerb::Create { name, policies, place } => (Action::Create(policies.fields(Some(name))), place),
            BlueprintVerb::List { filter, place } => (Action::List(filter), place),
            BlueprintVerb::Show { object, place } => (Action::Show(object.id), place),
            BlueprintVerb::Update { object, name, policies, place } => {
                (Action::Update(object.id, policies.fields(name)), place)
            }
            BlueprintVerb::Delete { object, place } => (Action::Delete(object.id), place),
        };
        Self { kind: ObjectKind::Blueprint, action, place }
    }
}

impl From<DevboxVerb> for Command {
    fn from(verb: DevboxVerb) -> Self {
        let (action, place) = match verb {
            DevboxVerb::Create { label, blueprint, policy, address, place } => {
                let mut fields = label.fields();
                fields.set("blueprint_id", blueprint);
                fields.set_in("launch_parameters", "network_policy_id", policy);
                fields.set_in("metadata", "hostgate.address", address.map(|address| address.to_string()));
                (Action::Create(fields), place)
            }
            DevboxVerb::List { filter, place } => (Action::List(filter), place),
            DevboxVerb::Show { object, place } => (Action::Show(object.id), place),
            DevboxVerb::Update { object, label, place } => (Action::Update(object.id, label.fields()), place),
            DevboxVerb::Delete { object, place } => (Action::Delete(object.id), place),
        };
        Self { kind: ObjectKind::Devbox, action, place }
    }
}

impl Rules {
    /// Returns the fields of a request to the API.
    fn fields(self, name: Option<String>) -> Fields {
        let Self { description, allow, allow_all, devbox_to_devbox, cidr } = self;
        let cidrs: Vec<_> = cidr.iter().map(|prefix| serde_json::json!({ "cidr": prefix.to_string() })).collect();
        let mut fields = Fields::default();
        fields.set("name", name);
        fields.set("description", description);
        fields.set("allowed_hostnames", (!allow.is_empty()).then_some(allow));
        fields.set("allow_all", allow_all);
        fields.set("allow_devbox_to_devbox", devbox_to_devbox);
        fields.set("allowed_cidrs", (!cidrs.is_empty()).then_some(cidrs));
        fields
    }
}

impl Policies {
    /// Returns the fields of a request to the API.
    fn fields(self, name: Option<String>) -> Fields {
        let mut fields = Fields::default();
        fields.set("name", name);
        fields.set("network_policy_id", self.build_policy);
        fields.set_in("launch_parameters", "network_policy_id", self.runtime_policy);
        fields
    }
}

impl NameAndMetadata {
    /// Returns the fields of a request to the API.
    fn fields(self) -> Fields {
        let mut fields = Fields::default();
        fields.set("name", self.name);
        for (key, value) in self.metadata {
            fields.set_in("metadata", &key, Some(value));
        }
        fields
    }
}

/// Parses `KEY=VALUE`.
fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("write KEY=VALUE".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_needs_a_key() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }
}
