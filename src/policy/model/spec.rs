//! What one policy file says, with the places: parsed, not yet compared with other files.

use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::dns::name::LowerName;
use crate::dns::rtype::RecordType;
use crate::document::{Place, Placed, Source, Span};

use super::budget::Budget;
use crate::policy::matching::name_set::NameSet;
use crate::policy::matching::pattern::Purpose;
use crate::util::content_hash::content_hash;
use crate::util::small_list::SmallList;

/// The objects of one file. Most files are those of a client each, with a record.
#[derive(Debug)]
pub(crate) struct FileSpec {
    /// The file and its text.
    pub(crate) source: Source,
    /// `[client.ID]`.
    pub(crate) clients: SmallList<ClientSpec>,
    /// `[api.ID]`.
    pub(crate) records: SmallList<RecordSpec>,
    /// What else there is, if anything is.
    pub(crate) others: Option<Box<Others>>,
}

/// What few files hold.
#[derive(Debug)]
pub(crate) struct Others {
    /// `[policy.ID]`.
    pub(crate) policies: Box<[Arc<PolicySpec>]>,
    /// `[blueprint.ID]`.
    pub(crate) blueprints: Box<[Arc<BlueprintSpec>]>,
    /// `[[test]]`.
    pub(crate) tests: Box<[TestSpec]>,
    /// Whether all of the text was understood.
    pub(crate) is_whole: bool,
    /// The hash of the text, which may be long.
    pub(crate) hash: u64,
}

impl FileSpec {
    /// Returns the policies.
    pub(crate) fn policies(&self) -> &[Arc<PolicySpec>] {
        self.others.as_ref().map_or(&[], |others| &others.policies)
    }

    /// Returns the blueprints.
    pub(crate) fn blueprints(&self) -> &[Arc<BlueprintSpec>] {
        self.others.as_ref().map_or(&[], |others| &others.blueprints)
    }

    /// Returns the tests.
    pub(crate) fn tests(&self) -> &[TestSpec] {
        self.others.as_ref().map_or(&[], |others| &others.tests)
    }

    /// Returns the hash of the text, the same in every process.
    pub(crate) fn hash(&self) -> u64 {
        self.others.as_ref().map_or_else(|| content_hash(self.source.text().as_bytes()), |others| others.hash)
    }

    /// Returns whether all of the text was understood.
    pub(crate) fn is_whole(&self) -> bool {
        self.others.as_ref().is_none_or(|others| others.is_whole)
    }

    /// Lets the ids that clients refer to be those that `share` has: thousands of them name a few.
    pub(crate) fn share_references(&mut self, mut share: impl FnMut(&mut Arc<str>)) {
        for client in self.clients.iter_mut() {
            for id in client.blueprint.iter_mut().chain(&mut client.policy) {
                share(&mut id.value);
            }
        }
    }
}

/// A `[policy.ID]` table.
#[derive(Debug)]
pub(crate) struct PolicySpec {
    /// The file.
    pub(crate) source: Source,
    /// The id; that of a preset begins with `preset:`.
    pub(crate) id: Placed<Arc<str>>,
    /// A label for people.
    pub(crate) name: Option<Arc<str>>,
    /// What it is for.
    pub(crate) description: Option<Arc<str>>,
    /// What is allowed that no list names.
    pub(crate) allow_all: bool,
    /// `allowed_hostnames`.
    pub(crate) allowed: Arc<NameSet>,
    /// `denied_hostnames`.
    pub(crate) denied: Arc<NameSet>,
    /// `allowed_hostnames_files`.
    pub(crate) allowed_lists: Vec<Placed<ListUse>>,
    /// `denied_hostnames_files`.
    pub(crate) denied_lists: Vec<Placed<ListUse>>,
    /// The policies and presets whose lists are added.
    pub(crate) include: Vec<Placed<Arc<str>>>,
    /// What happens to what is denied.
    pub(crate) mode: Mode,
    /// The types that may be asked for.
    pub(crate) query_types: QueryTypes,
    /// The names that may have addresses that are not globally reachable.
    pub(crate) private_answers: PrivateAnswers,
    /// What happens to the targets of aliases.
    pub(crate) cname: Cname,
    /// Who shares the cached answers to its clients' questions.
    pub(crate) cache: CacheSharing,
    /// What its clients may look up that is new; `None` is as much as they like.
    pub(crate) budget: Option<Budget>,
    /// A sentence for those whose query is denied.
    pub(crate) message: Option<Arc<str>>,
    /// Whether devboxes may look one another up.
    pub(crate) allow_devbox_to_devbox: bool,
    /// Addresses that may be connected to without a name.
    pub(crate) allowed_cidrs: Vec<AllowedCidr>,
    /// Those of [`PolicySpec::NOT_INCLUDED`] that are written.
    pub(crate) settings: Vec<Placed<&'static str>>,
}

impl PolicySpec {
    /// The keys that narrow or widen what a policy's clients get without being in a list of hostnames: whoever includes the
    /// policy does not get them.
    pub(crate) const NOT_INCLUDED: [&str; 5] = ["budget", "cache", "cname", "private_answers", "query_types"];

    /// Returns where a key of [`PolicySpec::NOT_INCLUDED`] is written.
    pub(crate) fn setting(&self, key: &str) -> Option<Span> {
        self.settings.iter().find(|setting| setting.value == key).map(|setting| setting.span)
    }

    /// Returns whether it is a preset, built in or replaced.
    pub(crate) fn is_preset(&self) -> bool {
        self.id.value.starts_with(PRESET_PREFIX)
    }

    /// Returns where its id is written.
    pub(crate) fn place(&self) -> Place {
        self.source.place(self.id.span.start)
    }
}

/// A list file as a policy names it: the same file may allow here and deny there, and it says something else then.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListUse {
    /// The file.
    pub(crate) path: PathBuf,
    /// What its names are for.
    pub(crate) purpose: Purpose,
    /// What each of them covers.
    pub(crate) covers: Covers,
}

/// The names that an entry of a list file covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Covers {
    /// Those that its pattern matches.
    AsWritten,
    /// The name and everything below it, whether written with a `*` or not: `subdomains = true`.
    Subdomains,
}

/// A `[blueprint.ID]` table.
#[derive(Debug)]
pub(crate) struct BlueprintSpec {
    /// The file.
    pub(crate) source: Source,
    /// The id.
    pub(crate) id: Placed<Arc<str>>,
    /// The policy of its build containers.
    pub(crate) build_policy: Option<Placed<Arc<str>>>,
    /// The policy of the devboxes made from it.
    pub(crate) runtime_policy: Option<Placed<Arc<str>>>,
}

impl BlueprintSpec {
    /// Returns the policy it names for a phase.
    pub(crate) const fn policy(&self, phase: Phase) -> Option<&Placed<Arc<str>>> {
        match phase {
            Phase::Build => self.build_policy.as_ref(),
            Phase::Runtime => self.runtime_policy.as_ref(),
        }
    }
}

/// A `[client.ID]` table. Of all objects there are most of these, so it is a part of its file and not shared by itself.
#[derive(Debug)]
pub(crate) struct ClientSpec {
    /// The id.
    pub(crate) id: Placed<Arc<str>>,
    /// Its addresses, as [`crate::policy::matching::client_index::canonical`] makes them.
    pub(crate) sources: SmallList<Placed<IpNet>>,
    /// What it is made from.
    pub(crate) blueprint: Option<Placed<Arc<str>>>,
    /// The phase of its life that chooses among the blueprint's policies.
    pub(crate) phase: Phase,
    /// Its own policy, which overrides the blueprint's.
    pub(crate) policy: Option<Placed<Arc<str>>>,
}

/// An `[api.ID]` table: what the API gives back of an object besides what is enforced. What it holds is the API's affair,
/// but for where two strings stand that lists of all objects look at.
#[derive(Debug)]
pub(crate) struct RecordSpec {
    /// The id.
    pub(crate) id: Placed<Arc<str>>,
    /// The `name`; empty where there is none.
    pub(crate) name: Span,
    /// The `status`; empty where there is none.
    pub(crate) status: Span,
}

/// A `[[test]]` table.
#[derive(Debug)]
pub(crate) struct TestSpec {
    /// The client that asks.
    pub(crate) client: Placed<Arc<str>>,
    /// The name that is asked for.
    pub(crate) name: LowerName,
    /// The type that is asked for.
    pub(crate) qtype: RecordType,
    /// Whether the answer is to be an allow.
    pub(crate) expects_allow: bool,
    /// Where the expectation is written.
    pub(crate) span: Span,
}

/// What a policy does with queries it denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// It denies them.
    #[default]
    Enforce,
    /// It records them as denied and forwards them.
    Audit,
}

/// What a policy does with the targets of aliases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cname {
    /// The chain of an allowed name is followed.
    #[default]
    Trust,
    /// Every target must itself be allowed.
    Inspect,
}

/// Who shares the cached answers to a client's questions: how long an answer takes tells whether it was cached, so that a shared
/// cache lets clients signal to one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheSharing {
    /// The clients of all policies that say so.
    #[default]
    Shared,
    /// The clients of the policy.
    Policy,
    /// Nobody: each client has a part of the cache for itself.
    Client,
}

/// The phase of a client's life.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    /// A container in which a blueprint is built.
    Build,
    /// A devbox made from a blueprint.
    #[default]
    Runtime,
}

impl Phase {
    /// Returns the key of a blueprint that names the policy of this phase.
    #[must_use]
    pub const fn policy_key(self) -> &'static str {
        match self {
            Self::Build => "build_policy",
            Self::Runtime => "runtime_policy",
        }
    }

    /// Returns the word the files use.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Runtime => "runtime",
        }
    }
}

/// The record types a policy lets its clients ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryTypes(Box<[RecordType]>);

impl QueryTypes {
    /// Makes the set of these types.
    #[must_use]
    pub fn new(types: impl IntoIterator<Item = RecordType>) -> Self {
        let mut types: Vec<RecordType> = types.into_iter().collect();
        types.sort_unstable();
        types.dedup();
        Self(types.into())
    }

    /// Returns whether a type may be asked for.
    #[must_use]
    pub fn contains(&self, qtype: RecordType) -> bool {
        self.0.binary_search(&qtype).is_ok()
    }

    /// Returns the types, in numerical order.
    pub fn iter(&self) -> impl Iterator<Item = RecordType> {
        self.0.iter().copied()
    }
}

/// The types of everyday lookups: the rest (NULL and unknown ones first of all) mostly carries tunnels.
impl Default for QueryTypes {
    fn default() -> Self {
        use RecordType as T;
        Self::new([
            T::A,
            T::AAAA,
            T::CNAME,
            T::HTTPS,
            T::SVCB,
            T::MX,
            T::NS,
            T::SOA,
            T::SRV,
            T::TXT,
            T::PTR,
            T::CAA,
            T::DS,
            T::DNSKEY,
            T::NAPTR,
            T::TLSA,
            T::SSHFP,
            T::LOC,
            T::HINFO,
        ])
    }
}

/// The names that may have addresses that are not globally reachable.
#[derive(Clone, Debug)]
pub enum PrivateAnswers {
    /// `["*"]`: every name.
    All,
    /// The names of a list, empty by default.
    Names(Arc<NameSet>),
}

/// A prefix that may be connected to without a name; kept and shown, enforced where `[enforce]` is on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedCidr {
    /// The addresses.
    pub prefix: IpNet,
    /// The ports; none named means all of them.
    pub ports: Vec<PortRule>,
}

/// Ports of an [`AllowedCidr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// The first port.
    pub first: u16,
    /// The last port.
    pub last: u16,
    /// The transport; none means both.
    pub protocol: Option<Protocol>,
}

/// A transport protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// The id of the built-in policy that allows everything; files may refer to it, not define it.
pub const UNRESTRICTED: &str = "unrestricted";

/// What the ids of presets begin with.
pub const PRESET_PREFIX: &str = "preset:";
