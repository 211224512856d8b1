//! The command line of objects.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use ipnet::IpNet;

use super::change::Change;
use super::fields::Fields;
use super::{Action, Command, Kind};

/// What can be done with policies.
#[derive(Subcommand)]
pub(in crate::cli) enum PolicyVerb {
    /// Create a policy and print its id.
    Create {
        /// What people call it; names may repeat.
        #[arg(long)]
        name: String,
        /// What it says.
        #[command(flatten)]
        rules: Rules,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// List policies.
    List {
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// Show a policy.
    Show {
        /// Which one.
        #[command(flatten)]
        object: Object,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// Change what is named of a policy; what is not stays. In force when it returns, for whoever has the policy.
    #[command(
        override_usage = "hostgate policy update <ID|NAME> [OPTIONS]",
        after_help = "\
Example:
  hostgate policy update runtime --add pypi.org '*.pythonhosted.org' --dry-run
  hostgate policy update runtime --add pypi.org --remove registry.npmjs.org
  hostgate policy update runtime --set github.com api.openai.com

It prints the difference (+ and -) and how many running devboxes it reaches; with --json both are
in hostgate_difference. What somebody else changes at the same time stays. There is no --allow here:
it replaced the whole list; --add adds, --set replaces.

Exit code: 0 done, or there was nothing to do; 1 refused or failed, and nothing is changed."
    )]
    Update {
        /// Which one.
        #[command(flatten)]
        object: Object,
        /// What is to be another.
        #[command(flatten)]
        change: Box<Change>,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// Delete a policy that nothing uses.
    Delete {
        /// Which one.
        #[command(flatten)]
        object: Object,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
}

/// What can be done with blueprints.
#[derive(Subcommand)]
pub(in crate::cli) enum BlueprintVerb {
    /// Create a blueprint and print its id.
    Create {
        /// What people call it; names may repeat.
        #[arg(long)]
        name: String,
        /// Its policies.
        #[command(flatten)]
        policies: Policies,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// List blueprints.
    List {
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// Show a blueprint.
    Show {
        /// Which one.
        #[command(flatten)]
        object: Object,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// Change what is named of a blueprint; what is not stays.
    Update {
        /// Which one.
        #[command(flatten)]
        object: Object,
        /// What people call it.
        #[arg(long)]
        name: Option<String>,
        /// Its policies.
        #[command(flatten)]
        policies: Policies,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// Delete a blueprint that no devbox is made from.
    Delete {
        /// Which one.
        #[command(flatten)]
        object: Object,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
}

/// What can be done with devboxes.
#[derive(Subcommand)]
pub(in crate::cli) enum DevboxVerb {
    /// Create a devbox and print its id; its address is in its metadata.
    Create {
        /// What it is known by.
        #[command(flatten)]
        label: Label,
        /// The blueprint it is made from.
        #[arg(long, value_name = "ID|NAME")]
        blueprint: Option<String>,
        /// Its own policy, in place of what the blueprint says.
        #[arg(long, value_name = "ID|NAME")]
        policy: Option<String>,
        /// Its address [default: one of the configuration's `devbox_pool`].
        #[arg(long)]
        address: Option<std::net::IpAddr>,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// List devboxes.
    List {
        /// Which ones.
        #[command(flatten)]
        filter: Filter,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// Show a devbox.
    Show {
        /// Which one.
        #[command(flatten)]
        object: Object,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// Change a devbox's name, and what is named of its metadata.
    Update {
        /// Which one.
        #[command(flatten)]
        object: Object,
        /// What it is known by.
        #[command(flatten)]
        label: Label,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
    /// Shut a devbox down: its address is nobody's then, and denied.
    Delete {
        /// Which one.
        #[command(flatten)]
        object: Object,
        /// Where the API is.
        #[command(flatten)]
        place: Where,
    },
}

/// What a policy says.
#[derive(Args)]
pub(in crate::cli) struct Rules {
    /// What it is for.
    #[arg(long)]
    description: Option<String>,
    /// A hostname that is allowed, or `*.NAME` for all below NAME.
    #[arg(long, value_name = "HOST")]
    allow: Vec<String>,
    /// Allow every hostname, or with `=false` no longer.
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    allow_all: Option<bool>,
    /// Let devboxes look one another up, or with `=false` no longer.
    #[arg(long, value_name = "YES", num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    devbox_to_devbox: Option<bool>,
    /// A prefix that may be connected to without a name: kept and shown; DNS does not enforce it.
    #[arg(long)]
    cidr: Vec<IpNet>,
}

/// The policies of a blueprint.
#[derive(Args)]
pub(in crate::cli) struct Policies {
    /// The policy of its build, and of nothing else.
    #[arg(long, value_name = "ID|NAME")]
    build_policy: Option<String>,
    /// The policy of the devboxes made from it, unless they have their own.
    #[arg(long, value_name = "ID|NAME")]
    runtime_policy: Option<String>,
}

/// What people and programs know a devbox by.
#[derive(Args)]
pub(in crate::cli) struct Label {
    /// What people call it.
    #[arg(long)]
    name: Option<String>,
    /// Free text by key.
    #[arg(long, value_name = "KEY=VALUE", value_parser = pair)]
    metadata: Vec<(String, String)>,
}

/// One object.
#[derive(Args)]
pub(in crate::cli) struct Object {
    /// Its id, as `create` and `list` print it, or its name if no other has the same.
    #[arg(value_name = "ID|NAME")]
    id: String,
}

/// Which objects are listed.
#[derive(Args)]
pub(in crate::cli) struct Filter {
    /// Only those whose name holds this.
    #[arg(long)]
    pub(super) name: Option<String>,
    /// Only those whose id or name holds this.
    #[arg(long)]
    pub(super) search: Option<String>,
    /// How many at most.
    #[arg(long, value_name = "NUMBER", default_value = "1000", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(super) limit: u32,
}

/// Where the API is, and who asks.
#[derive(Args)]
pub(in crate::cli) struct Where {
    /// Where the API is: `http://ADDRESS:PORT`, `https://HOST[:PORT]` or `unix:PATH` [default: what the configuration says].
    #[arg(long)]
    pub(super) url: Option<String>,
    /// The certificates, in PEM form, one of which has signed the API's.
    #[arg(long, value_name = "FILE")]
    pub(super) ca: Option<PathBuf>,
    /// The file whose first token of an admin is sent [default: the environment's `HOSTGATE_TOKEN`, else the configuration's
    /// `token_file`].
    #[arg(long, value_name = "FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// The configuration file [default: ./hostgate.toml, else /etc/hostgate/hostgate.toml].
    #[arg(long, value_name = "FILE")]
    pub(super) config: Option<PathBuf>,
    /// Write JSON, as the API says it.
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
        Self { kind: Kind::Policy, action, place }
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
        Self { kind: Kind::Blueprint, action, place }
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
        Self { kind: Kind::Devbox, action, place }
    }
}

impl Rules {
    /// Returns the fields of a request.
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
    /// Returns the fields of a request.
    fn fields(self, name: Option<String>) -> Fields {
        let mut fields = Fields::default();
        fields.set("name", name);
        fields.set("network_policy_id", self.build_policy);
        fields.set_in("launch_parameters", "network_policy_id", self.runtime_policy);
        fields
    }
}

impl Label {
    /// Returns the fields of a request.
    fn fields(self) -> Fields {
        let mut fields = Fields::default();
        fields.set("name", self.name);
        for (key, value) in self.metadata {
            fields.set_in("metadata", &key, Some(value));
        }
        fields
    }
}

/// Reads `KEY=VALUE`.
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
    fn pairs_have_a_key() {
        assert_eq!(pair("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert_eq!(pair("a="), Ok(("a".to_owned(), String::new())));
        assert!(pair("a").is_err() && pair("=b").is_err());
    }
}
