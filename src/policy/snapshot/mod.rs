//! What is in force: one immutable whole that queries read and a reload replaces.

pub(crate) mod clients;
pub(crate) mod name_index;
mod policy;

use std::borrow::{Borrow, Cow};
use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::document::{Place, Source};
use crate::fair_share::Holder;

use self::clients::Clients;
pub use self::policy::Policy;
use super::model::bindings::{DevboxSuffix, WithoutPolicy};
use super::model::spec::{BlueprintSpec, ClientSpec, FileSpec, Phase, RecordSpec, UNRESTRICTED};
use crate::util::persistent_map::OrderedMap;

/// The policies, blueprints and clients in force.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The number of this snapshot, one more at each swap, from 1.
    pub generation: u64,
    /// The hash of all files, lists and bindings it is made from, in hexadecimal; equal contents have equal hashes.
    pub hash: String,
    /// The policies by id, without presets.
    pub(super) policies: OrderedMap<Arc<str>, Arc<Policy>>,
    /// The presets by id, with `preset:`.
    pub(super) presets: OrderedMap<Arc<str>, Arc<Policy>>,
    /// The blueprints by id.
    pub(super) blueprints: OrderedMap<Arc<str>, Blueprint>,
    /// What the API keeps, by id.
    pub(super) records: OrderedMap<Record, ()>,
    /// The clients.
    pub(super) clients: Clients,
    /// What applies to addresses in no client, by listener.
    pub(super) listeners: Vec<Option<Bound>>,
    /// What applies where the listener says nothing.
    pub(super) default: Option<Bound>,
    /// What devboxes are asked for below.
    pub(super) devbox_suffix: DevboxSuffix,
    /// What applies to clients without a policy where there is no default one.
    pub(super) without_policy: WithoutPolicy,
}

impl Snapshot {
    /// Returns who asks: the client with the longest prefix that holds `source`, else whoever may use the listener
    /// (an index into [`super::Bindings::listeners`]), else whoever has the default policy.
    #[must_use]
    pub fn asker(&self, source: IpAddr, listener: usize) -> Asker<'_> {
        if let Some(client) = self.clients.lookup(source) {
            return client.asker();
        }
        let bound = self.listeners.get(listener).and_then(Option::as_ref).or(self.default.as_ref());
        Asker { client: None, standing: bound.map_or(Standing::Nobody(Nobody::NoClient), Bound::standing) }
    }

    /// Returns a policy by its id; a preset's begins with `preset:`.
    #[must_use]
    pub fn policy(&self, id: &str) -> Option<&Policy> {
        self.policies.get(id).or_else(|| self.presets.get(id)).map(|policy| &**policy)
    }

    /// Returns what applies where no policy is named: the id of the default policy, `unrestricted`, or `none`.
    #[must_use]
    pub fn without(&self) -> &str {
        match (&self.default, self.without_policy) {
            (Some(Bound::Policy(policy)), _) => policy.id(),
            (Some(Bound::Unrestricted(..)), _) | (None, WithoutPolicy::Unrestricted) => UNRESTRICTED,
            (Some(Bound::Gone | Bound::Unnamed), _) | (None, WithoutPolicy::Deny) => "none",
        }
    }

    /// Returns the ids of the clients for which no policy is named, `most` at most, and how many more there are.
    #[must_use]
    pub fn clients_without_policy(&self, most: usize) -> (Vec<&str>, usize) {
        let mut without = self.clients().filter(|client| self.policy_named_for(client).is_none()).map(Client::id);
        (without.by_ref().take(most).collect(), without.count())
    }

    /// Returns why what applies to a client does, where no policy is named for it.
    #[must_use]
    pub fn why_without<'s>(&'s self, client: &'s Client) -> Option<String> {
        if self.policy_named_for(client).is_some() || matches!(client.bound, Bound::Gone) {
            return None;
        }
        let who = match client.blueprint() {
            Some(id) => format!("blueprint `{id}` has no `{}`", client.phase().policy_key()),
            None => "it has no policy and no blueprint".to_owned(),
        };
        let what = match (&self.default, self.without_policy) {
            (Some(_), _) => "`default_policy` of hostgate.toml applies",
            (None, WithoutPolicy::Unrestricted) => "`without_policy` of hostgate.toml is \"unrestricted\"",
            (None, WithoutPolicy::Deny) => "`without_policy` of hostgate.toml is \"deny\"",
        };
        Some(format!("{who}, and {what}"))
    }

    /// Returns what applies to the clients for which no policy is named, and which keys say something else; `None` where
    /// there are none, or a warning says it of each blueprint.
    #[must_use]
    pub fn told_without(&self) -> Option<String> {
        let applies = match (&self.default, self.without_policy) {
            (Some(Bound::Gone | Bound::Unnamed), _) => return None,
            (Some(_), _) => format!("under default_policy `{}`", self.without()),
            (None, WithoutPolicy::Unrestricted) => "unrestricted".to_owned(),
            (None, WithoutPolicy::Deny) => "denied everything".to_owned(),
        };
        let is_told = |client: &&Client| self.default.is_none() && client.blueprint().is_some();
        let is_without =
            |client: &&Client| self.policy_named_for(client).is_none() && !matches!(client.bound, Bound::Gone);
        let without = || self.clients().filter(is_without).filter(|client| !is_told(client));
        let first = without().find(|client| client.blueprint().is_some()).or_else(|| without().next())?;
        let id = first.id();
        let who = match first.blueprint() {
            Some(blueprint) => format!(
                "blueprint `{blueprint}` has no `{}`, so its {} clients are {applies} (as client `{id}`)",
                first.phase().policy_key(),
                first.phase().as_str()
            ),
            None => format!("client `{id}` has no policy and no blueprint, so it is {applies}"),
        };
        let more = match without().count() - 1 {
            0 => String::new(),
            more => format!(" (and {more} more for which no policy is named)"),
        };
        Some(format!(
            "{who}{more}: a client's own policy comes first, then `build_policy` or `runtime_policy` of its blueprint, \
             then `default_policy` of hostgate.toml, then `without_policy`"
        ))
    }

    /// Returns the id of the policy that a client or its blueprint names; `None` where neither does, so that the default
    /// policy applies or `without_policy`.
    #[must_use]
    pub fn policy_named_for<'s>(&'s self, client: &'s Client) -> Option<&'s str> {
        let of_blueprint = || self.blueprint(client.blueprint()?)?.policy(client.phase());
        client.policy().or_else(of_blueprint)
    }

    /// Returns a client by its id.
    #[must_use]
    pub fn client(&self, id: &str) -> Option<&Client> {
        self.clients.get(id)
    }

    /// Returns a blueprint by its id.
    #[must_use]
    pub fn blueprint(&self, id: &str) -> Option<&Blueprint> {
        self.blueprints.get(id)
    }

    /// Returns what the API keeps of an object, by its id.
    #[must_use]
    pub fn record(&self, id: &str) -> Option<&Record> {
        self.records.get_key_value(id).map(|(record, ())| record)
    }

    /// Returns the first client, in the order of their ids, whose id is `id` or comes after it.
    pub(super) fn client_from(&self, id: &str) -> Option<&Client> {
        self.clients.first_from(id)
    }

    /// Returns the policies in the order of their ids, without presets.
    #[must_use]
    pub fn policies(&self) -> impl ExactSizeIterator<Item = &Policy> {
        self.policies.values().map(|policy| &**policy)
    }

    /// Returns the presets in the order of their ids.
    #[must_use]
    pub fn presets(&self) -> impl ExactSizeIterator<Item = &Policy> {
        self.presets.values().map(|policy| &**policy)
    }

    /// Returns the blueprints in the order of their ids.
    #[must_use]
    pub fn blueprints(&self) -> impl ExactSizeIterator<Item = &Blueprint> {
        self.blueprints.values()
    }

    /// Returns the clients in the order of their ids.
    #[must_use]
    pub fn clients(&self) -> impl ExactSizeIterator<Item = &Client> {
        self.clients.iter()
    }

    /// Returns what the API keeps, in the order of ids.
    #[must_use]
    pub fn records(&self) -> impl ExactSizeIterator<Item = &Record> {
        self.records.iter().map(|(record, ())| record)
    }

    /// Returns what of the configuration names a policy for addresses in no client: `default_policy`, `listen.policy`.
    pub fn bound_to(&self, policy: &str) -> impl Iterator<Item = &'static str> {
        let names = |bound: &Option<Bound>| matches!(bound, Some(Bound::Policy(bound)) if bound.id() == policy);
        let listener = self.listeners.iter().any(names).then_some("listen.policy");
        names(&self.default).then_some("default_policy").into_iter().chain(listener)
    }
}

/// Who asks, and what applies to them.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'s> {
    /// The client that holds the source address, if one does.
    pub client: Option<&'s Client>,
    /// What applies.
    pub standing: Standing<'s>,
}

impl<'s> Asker<'s> {
    /// Returns what the asker's share of scarce things is counted by: the client, or the host that `source` belongs to
    /// where it is in no client.
    #[must_use]
    pub fn holder(&self, source: IpAddr) -> Holder {
        self.client.map_or_else(|| Holder::host(source), |client| client.holder)
    }

    /// Returns the policy that applies; the built-in one that allows everything for those who are unrestricted.
    #[must_use]
    pub const fn policy(&self) -> Option<&'s Policy> {
        match self.standing {
            Standing::Policy(policy) | Standing::Unrestricted(policy, _) => Some(policy),
            Standing::Nobody(_) => None,
        }
    }
}

/// What applies to an asker.
#[derive(Clone, Copy, Debug)]
pub enum Standing<'s> {
    /// A policy of the files.
    Policy(&'s Policy),
    /// The built-in policy that allows everything.
    Unrestricted(&'s Policy, Unrestricted),
    /// Nothing: everything is denied.
    Nobody(Nobody),
}

/// Why someone is unrestricted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrestricted {
    /// The policy `unrestricted` is named.
    Named,
    /// Neither the client nor its blueprint names a policy, and `without_policy` says that this is how it is then.
    WithoutPolicy,
}

/// Why nothing applies to someone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nobody {
    /// The address is in no client, and neither the listener nor the configuration names a policy.
    NoClient,
    /// The file that defined the policy (or the blueprint) is gone.
    PolicyGone,
    /// Neither the client nor its blueprint names a policy, and there is no default one.
    NoPolicy,
}

/// What applies, as it is kept.
#[derive(Clone, Debug)]
pub(super) enum Bound {
    /// A policy of the files.
    Policy(Arc<Policy>),
    /// The built-in policy.
    Unrestricted(Arc<Policy>, Unrestricted),
    /// The policy is gone.
    Gone,
    /// No policy is named.
    Unnamed,
}

impl Bound {
    /// Returns it as an asker has it.
    fn standing(&self) -> Standing<'_> {
        match self {
            Self::Policy(policy) => Standing::Policy(policy),
            Self::Unrestricted(policy, why) => Standing::Unrestricted(policy, *why),
            Self::Gone => Standing::Nobody(Nobody::PolicyGone),
            Self::Unnamed => Standing::Nobody(Nobody::NoPolicy),
        }
    }
}

/// A client in force.
#[derive(Clone, Debug)]
pub struct Client {
    /// Its file.
    pub(super) file: Arc<FileSpec>,
    /// Its number among the clients there.
    pub(super) number: u32,
    /// What its share of scarce things is counted by.
    holder: Holder,
    /// What applies to it.
    pub(super) bound: Bound,
}

impl Client {
    /// Makes the client number `number` of a file.
    pub(super) fn new(file: Arc<FileSpec>, number: u32, bound: Bound) -> Self {
        let mut client = Self { file, number, holder: Holder::named(""), bound };
        client.holder = Holder::named(client.id());
        client
    }

    /// Returns what its file says.
    pub(super) fn spec(&self) -> &ClientSpec {
        &self.file.clients[usize::try_from(self.number).unwrap_or(usize::MAX)]
    }

    /// Returns its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.spec().id.value
    }

    /// Returns where it is defined.
    #[must_use]
    pub fn place(&self) -> Place {
        self.file.source.place(self.spec().id.span.start)
    }

    /// Returns the file it is in, with its text.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.file.source
    }

    /// Returns its addresses and prefixes.
    #[must_use]
    pub fn sources(&self) -> impl ExactSizeIterator<Item = IpNet> {
        self.spec().sources.iter().map(|source| source.value)
    }

    /// Returns the id of its blueprint.
    #[must_use]
    pub fn blueprint(&self) -> Option<&str> {
        self.spec().blueprint.as_ref().map(|id| &*id.value)
    }

    /// Returns the id of its own policy, which overrides the blueprint's.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.spec().policy.as_ref().map(|id| &*id.value)
    }

    /// Returns the phase of its life.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.spec().phase
    }

    /// Returns it as an asker.
    #[must_use]
    pub fn asker(&self) -> Asker<'_> {
        Asker { client: Some(self), standing: self.bound.standing() }
    }
}

/// A blueprint in force.
#[derive(Clone, Debug)]
pub struct Blueprint {
    /// What its file says.
    pub(super) spec: Arc<BlueprintSpec>,
}

impl Blueprint {
    /// Returns its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.spec.id.value
    }

    /// Returns where it is defined.
    #[must_use]
    pub fn place(&self) -> Place {
        self.spec.source.place(self.spec.id.span.start)
    }

    /// Returns the file it is in, with its text.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.spec.source
    }

    /// Returns the id of the policy it names for a phase.
    #[must_use]
    pub fn policy(&self, phase: Phase) -> Option<&str> {
        self.spec.policy(phase).map(|id| &*id.value)
    }
}

/// What the API keeps of an object besides what is enforced: an `[api.ID]` table, whose keys are the API's affair.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its file.
    pub(super) file: Arc<FileSpec>,
    /// Its number among the records there.
    pub(super) number: u32,
}

impl Record {
    /// Returns what its file says.
    fn spec(&self) -> &RecordSpec {
        &self.file.records[usize::try_from(self.number).unwrap_or(usize::MAX)]
    }

    /// Returns its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.spec().id.value
    }

    /// Returns the `name` in it; empty where it has none.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        self.file.source.string(self.spec().name)
    }

    /// Returns the `status` in it; empty where it has none.
    #[must_use]
    pub fn status(&self) -> Cow<'_, str> {
        self.file.source.string(self.spec().status)
    }

    /// Returns where it is defined.
    #[must_use]
    pub fn place(&self) -> Place {
        self.file.source.place(self.spec().id.span.start)
    }

    /// Returns the file it is in, with its text.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.file.source
    }
}

/// Records are ordered by their ids.
impl Borrow<str> for Record {
    fn borrow(&self) -> &str {
        self.id()
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for Record {}

impl PartialOrd for Record {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Record {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id().cmp(other.id())
    }
}

impl fmt::Display for Nobody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoClient => "no policy applies to this address",
            Self::PolicyGone => "the policy that applied to this address is gone",
            Self::NoPolicy => "neither the client nor its blueprint names a policy",
        })
    }
}
