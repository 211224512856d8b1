//! The policies, blueprints and clients in force, as one immutable value.
//!
//! Queries read a [`Snapshot`] without a lock; a reload builds the next one, which shares all that has not changed, and
//! swaps a pointer. A query keeps the snapshot it began with.

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
use super::model::spec::{ApiTableSpec, BlueprintSpec, ClientSpec, FileSpec, Phase, UNRESTRICTED};
use crate::util::persistent_map::OrderedMap;

/// The policies, blueprints, clients and API records in force.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The number of this snapshot, increased by one at each swap, from 1.
    pub generation: u64,
    /// The hash of all files, lists and bindings that the snapshot was made from, in hexadecimal. Equal contents have
    /// equal hashes.
    pub hash: String,
    /// The policies by id, without presets.
    pub(super) policies: OrderedMap<Arc<str>, Arc<Policy>>,
    /// The presets by id, which begins with `preset:`.
    pub(super) presets: OrderedMap<Arc<str>, Arc<Policy>>,
    pub(super) blueprints: OrderedMap<Arc<str>, Blueprint>,
    /// The API's data of each object, by the id in it.
    pub(super) records: OrderedMap<ApiTable, ()>,
    pub(super) clients: Clients,
    /// The policy for addresses in no client, by listener; `None` if the listener has none.
    pub(super) listeners: Vec<Option<BoundPolicy>>,
    /// The `default_policy` of hostgate.toml.
    pub(super) default: Option<BoundPolicy>,
    /// The suffix of the names of devboxes.
    pub(super) devbox_suffix: DevboxSuffix,
    /// The policy of clients for which none is named, if there is no default policy.
    pub(super) without_policy: WithoutPolicy,
}

impl Snapshot {
    /// Returns the client and the policy of a query's source.
    ///
    /// The client is the one with the longest prefix that contains `source`. If there is none, the policy of the
    /// listener applies (`listener` is an index into [`super::Bindings::listeners`]), or else the default policy.
    #[must_use]
    pub fn asker(&self, source: IpAddr, listener: usize) -> Asker<'_> {
        // The listener's policy is for addresses in no client. A client for which no policy is named does not get it.
        if let Some(client) = self.clients.lookup(source) {
            return client.asker();
        }
        let bound = self.listeners.get(listener).and_then(Option::as_ref).or(self.default.as_ref());
        Asker {
            client: None,
            effective: bound.map_or(EffectivePolicy::None(NoPolicyReason::NoClient), BoundPolicy::effective),
        }
    }

    /// Returns the policy with this id; that of a preset begins with `preset:`.
    #[must_use]
    pub fn policy(&self, id: &str) -> Option<&Policy> {
        self.policies.get(id).or_else(|| self.presets.get(id)).map(|policy| &**policy)
    }

    /// Returns a word for the policy of clients for which none is named: the id of the default policy, `unrestricted`,
    /// or `none` if they are denied everything.
    #[must_use]
    pub fn without(&self) -> &str {
        match (&self.default, self.without_policy) {
            (Some(BoundPolicy::Policy(policy)), _) => policy.id(),
            (Some(BoundPolicy::Unrestricted(..)), _) | (None, WithoutPolicy::Unrestricted) => UNRESTRICTED,
            (Some(BoundPolicy::Gone | BoundPolicy::Unnamed), _) | (None, WithoutPolicy::Deny) => "none",
        }
    }

    /// Returns the ids of at most `most` clients for which no policy is named, and how many more there are.
    #[must_use]
    pub fn clients_without_policy(&self, most: usize) -> (Vec<&str>, usize) {
        let mut without = self.clients().filter(|client| self.policy_named_for(client).is_none()).map(Client::id);
        (without.by_ref().take(most).collect(), without.count())
    }

    /// Returns the explanation of the policy that applies to a client for which none is named; `None` if one is named,
    /// or the client's policy or blueprint is gone.
    #[must_use]
    pub fn why_no_policy_is_named<'s>(&'s self, client: &'s Client) -> Option<String> {
        if self.policy_named_for(client).is_some() || matches!(client.bound, BoundPolicy::Gone) {
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

    /// Returns a sentence about the clients for which no policy is named: what applies to them, and which keys would
    /// change it. Returns `None` if there are no such clients, or if warnings about their blueprints say so already.
    #[must_use]
    pub fn note_on_clients_without_policy(&self) -> Option<String> {
        let applies = match (&self.default, self.without_policy) {
            (Some(BoundPolicy::Gone | BoundPolicy::Unnamed), _) => return None,
            (Some(_), _) => format!("under default_policy `{}`", self.without()),
            (None, WithoutPolicy::Unrestricted) => "unrestricted".to_owned(),
            (None, WithoutPolicy::Deny) => "denied everything".to_owned(),
        };
        // If there is no default policy, a blueprint without a policy for a phase has a warning of its own.
        let is_told = |client: &&Client| self.default.is_none() && client.blueprint().is_some();
        let is_without =
            |client: &&Client| self.policy_named_for(client).is_none() && !matches!(client.bound, BoundPolicy::Gone);
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

    /// Returns the id of the policy that a client or its blueprint names. Returns `None` if neither does, so that the
    /// default policy or `without_policy` applies.
    #[must_use]
    pub fn policy_named_for<'s>(&'s self, client: &'s Client) -> Option<&'s str> {
        let of_blueprint = || self.blueprint(client.blueprint()?)?.policy(client.phase());
        client.policy().or_else(of_blueprint)
    }

    /// Returns the client with this id.
    #[must_use]
    pub fn client(&self, id: &str) -> Option<&Client> {
        self.clients.get(id)
    }

    /// Returns the blueprint with this id.
    #[must_use]
    pub fn blueprint(&self, id: &str) -> Option<&Blueprint> {
        self.blueprints.get(id)
    }

    /// Returns the API's data of the object with this id.
    #[must_use]
    pub fn record(&self, id: &str) -> Option<&ApiTable> {
        // The id is part of the table, so the map has no key beside it.
        self.records.get_key_value(id).map(|(record, ())| record)
    }

    /// Returns the client with the lowest id that is `id` or higher.
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

    /// Returns the number of policies, blueprints and clients.
    #[must_use]
    pub fn objects(&self) -> usize {
        self.policies().len() + self.blueprints().len() + self.clients().len()
    }

    /// Returns the API's data of all objects, in the order of their ids.
    #[must_use]
    pub fn records(&self) -> impl ExactSizeIterator<Item = &ApiTable> {
        self.records.iter().map(|(record, ())| record)
    }

    /// Returns the keys of hostgate.toml that name `policy` for addresses in no client: `default_policy`,
    /// `listen.policy`.
    pub fn bound_to(&self, policy: &str) -> impl Iterator<Item = &'static str> {
        let names =
            |bound: &Option<BoundPolicy>| matches!(bound, Some(BoundPolicy::Policy(bound)) if bound.id() == policy);
        let listener = self.listeners.iter().any(names).then_some("listen.policy");
        names(&self.default).then_some("default_policy").into_iter().chain(listener)
    }
}

/// The client that sent a query, and the policy that applies to it.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'s> {
    /// The client whose `sources` contain the source address; `None` if there is none.
    pub client: Option<&'s Client>,
    /// The policy that applies to the client or address.
    pub effective: EffectivePolicy<'s>,
}

impl<'s> Asker<'s> {
    /// Returns the holder whose share of a limit the query counts against: the client, or the host of `source` if the
    /// address is in no client.
    #[must_use]
    pub fn holder(&self, source: IpAddr) -> Holder {
        self.client.map_or_else(|| Holder::host(source), |client| client.holder)
    }

    /// Returns the policy that applies: the built-in one that allows everything if the client is unrestricted, `None`
    /// if no policy applies.
    #[must_use]
    pub const fn policy(&self) -> Option<&'s Policy> {
        match self.effective {
            EffectivePolicy::Policy(policy) | EffectivePolicy::Unrestricted(policy, _) => Some(policy),
            EffectivePolicy::None(_) => None,
        }
    }
}

/// The policy that applies to the source of a query.
#[derive(Clone, Copy, Debug)]
pub enum EffectivePolicy<'s> {
    /// A policy of the policy files.
    Policy(&'s Policy),
    /// The built-in policy that allows everything, and the reason why it applies.
    Unrestricted(&'s Policy, Unrestricted),
    /// No policy, so that everything is denied, and the reason.
    None(NoPolicyReason),
}

/// The reason why a client is unrestricted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unrestricted {
    /// The policy `unrestricted` is named for the client.
    Named,
    /// No policy is named for the client, and `without_policy` is `"unrestricted"`.
    WithoutPolicy,
}

/// The reason why no policy applies to the source of a query.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoPolicyReason {
    /// The address is in no client, and neither the listener nor hostgate.toml names a policy.
    NoClient,
    /// The file that defined the policy or the blueprint was deleted.
    PolicyGone,
    /// Neither the client nor its blueprint names a policy, and there is no default policy.
    NoPolicy,
}

/// The policy of a client or listener, as the snapshot stores it: see [`EffectivePolicy`].
#[derive(Clone, Debug)]
pub(super) enum BoundPolicy {
    /// A policy of the policy files.
    Policy(Arc<Policy>),
    /// The built-in policy that allows everything.
    Unrestricted(Arc<Policy>, Unrestricted),
    /// The file of the policy or the blueprint was deleted.
    Gone,
    /// No policy is named.
    Unnamed,
}

impl BoundPolicy {
    /// Returns the borrowed form that decisions use.
    fn effective(&self) -> EffectivePolicy<'_> {
        match self {
            Self::Policy(policy) => EffectivePolicy::Policy(policy),
            Self::Unrestricted(policy, why) => EffectivePolicy::Unrestricted(policy, *why),
            Self::Gone => EffectivePolicy::None(NoPolicyReason::PolicyGone),
            Self::Unnamed => EffectivePolicy::None(NoPolicyReason::NoPolicy),
        }
    }
}

/// A client in force.
#[derive(Clone, Debug)]
pub struct Client {
    /// The file that defines the client. The client borrows its fields from there, as there may be 100,000 clients.
    pub(super) file: Arc<FileSpec>,
    /// The client's position among the clients of the file.
    pub(super) number: u32,
    /// The holder whose share of a limit the client's queries count against. It is made once, as hashing the id costs
    /// more than a decision.
    holder: Holder,
    /// The policy that applies to the client.
    pub(super) bound: BoundPolicy,
}

impl Client {
    /// Returns the client at position `number` of a file.
    pub(super) fn new(file: Arc<FileSpec>, number: u32, bound: BoundPolicy) -> Self {
        // The id is in the file, so it can be borrowed only once the client holds the file.
        let mut client = Self { file, number, holder: Holder::named(""), bound };
        client.holder = Holder::named(client.id());
        client
    }

    /// Returns the client's table in its file.
    pub(super) fn spec(&self) -> &ClientSpec {
        &self.file.clients[usize::try_from(self.number).unwrap_or(usize::MAX)]
    }

    /// Returns the id of the client.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.spec().id.value
    }

    /// Returns the place of the client's definition.
    #[must_use]
    pub fn place(&self) -> Place {
        self.file.source.place(self.spec().id.span.start)
    }

    /// Returns the client's file, with its text.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.file.source
    }

    /// Returns the client's addresses and prefixes.
    #[must_use]
    pub fn sources(&self) -> impl ExactSizeIterator<Item = IpNet> {
        self.spec().sources.iter().map(|source| source.value)
    }

    /// Returns the id of the client's blueprint.
    #[must_use]
    pub fn blueprint(&self) -> Option<&str> {
        self.spec().blueprint.as_ref().map(|id| &*id.value)
    }

    /// Returns the id of the client's own policy, which overrides the blueprint's.
    #[must_use]
    pub fn policy(&self) -> Option<&str> {
        self.spec().policy.as_ref().map(|id| &*id.value)
    }

    /// Returns whether the client has the addresses of an object of the API whose file is bad or gone, and is denied
    /// everything.
    #[must_use]
    pub fn is_held(&self) -> bool {
        self.spec().is_held()
    }

    /// Returns the client's phase, which selects one of the two policies of its blueprint.
    #[must_use]
    pub fn phase(&self) -> Phase {
        self.spec().phase
    }

    /// Returns the client as the source of a query.
    #[must_use]
    pub fn asker(&self) -> Asker<'_> {
        Asker { client: Some(self), effective: self.bound.effective() }
    }
}

/// A blueprint in force: the template that devboxes are created from, which can name a policy for each [`Phase`].
#[derive(Clone, Debug)]
pub struct Blueprint {
    pub(super) spec: Arc<BlueprintSpec>,
}

impl Blueprint {
    /// Returns the id of the blueprint.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.spec.id.value
    }

    /// Returns the place of the blueprint's definition.
    #[must_use]
    pub fn place(&self) -> Place {
        self.spec.source.place(self.spec.id.span.start)
    }

    /// Returns the blueprint's file, with its text.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.spec.source
    }

    /// Returns the id of the policy that the blueprint names for a phase.
    #[must_use]
    pub fn policy(&self, phase: Phase) -> Option<&str> {
        self.spec.policy(phase).map(|id| &*id.value)
    }
}

/// The API's data of an object, an `[api.ID]` table in the object's file. Only the API reads it; decisions do not
/// depend on it.
#[derive(Clone, Debug)]
pub struct ApiTable {
    /// The file that holds the table.
    pub(super) file: Arc<FileSpec>,
    /// The table's position among the API tables of the file.
    pub(super) number: u32,
}

impl ApiTable {
    /// Returns the table in its file.
    fn spec(&self) -> &ApiTableSpec {
        &self.file.records[usize::try_from(self.number).unwrap_or(usize::MAX)]
    }

    /// Returns the id of the object.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.spec().id.value
    }

    /// Returns the `name` in the table; an empty text if it has none.
    #[must_use]
    pub fn name(&self) -> Cow<'_, str> {
        self.file.source.string(self.spec().name)
    }

    /// Returns the `status` in the table; an empty text if it has none.
    #[must_use]
    pub fn status(&self) -> Cow<'_, str> {
        self.file.source.string(self.spec().status)
    }

    /// Returns the place of the table.
    #[must_use]
    pub fn place(&self) -> Place {
        self.file.source.place(self.spec().id.span.start)
    }

    /// Returns the table's file, with its text.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.file.source
    }
}

/// Records are looked up by id, so equality and order compare nothing else.
impl Borrow<str> for ApiTable {
    fn borrow(&self) -> &str {
        self.id()
    }
}

impl PartialEq for ApiTable {
    fn eq(&self, other: &Self) -> bool {
        self.id() == other.id()
    }
}

impl Eq for ApiTable {}

impl PartialOrd for ApiTable {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for ApiTable {
    fn cmp(&self, other: &Self) -> Ordering {
        self.id().cmp(other.id())
    }
}

impl fmt::Display for NoPolicyReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoClient => "no policy applies to this address",
            Self::PolicyGone => "the policy that applied to this address is gone",
            Self::NoPolicy => "neither the client nor its blueprint names a policy",
        })
    }
}
