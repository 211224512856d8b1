//! The types of what a policy file contains, each value with its place: parsed, but not yet compared with other files.

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

/// The objects of one file. Most files contain one client and its API data, which are stored inline, without an
/// allocation.
#[derive(Debug)]
pub(crate) struct FileSpec {
    pub(crate) source: Source,
    /// The `[client.ID]` tables.
    pub(crate) clients: SmallList<ClientSpec>,
    /// The `[api.ID]` tables.
    pub(crate) records: SmallList<ApiTableSpec>,
    /// The tables that only a few files have; `None` if this file has none of them.
    pub(crate) others: Option<Box<OtherTables>>,
}

/// The tables that a file of one client does not have. They are boxed, so that the many files of clients stay small.
#[derive(Debug)]
pub(crate) struct OtherTables {
    /// The `[policy.ID]` tables.
    pub(crate) policies: Box<[Arc<PolicySpec>]>,
    /// The `[blueprint.ID]` tables.
    pub(crate) blueprints: Box<[Arc<BlueprintSpec>]>,
    /// The `[[test]]` tables.
    pub(crate) tests: Box<[TestSpec]>,
    /// Whether the whole text could be parsed; if not, an object that the file defines may be missing here.
    pub(crate) is_whole: bool,
    /// The hash of the text. It is stored, as hashing a long text again takes time.
    pub(crate) hash: u64,
}

impl FileSpec {
    /// Returns the `[policy.ID]` tables.
    pub(crate) fn policies(&self) -> &[Arc<PolicySpec>] {
        self.others.as_ref().map_or(&[], |others| &others.policies)
    }

    /// Returns the `[blueprint.ID]` tables.
    pub(crate) fn blueprints(&self) -> &[Arc<BlueprintSpec>] {
        self.others.as_ref().map_or(&[], |others| &others.blueprints)
    }

    /// Returns the `[[test]]` tables.
    pub(crate) fn tests(&self) -> &[TestSpec] {
        self.others.as_ref().map_or(&[], |others| &others.tests)
    }

    /// Returns the hash of the text, which is the same in every process.
    pub(crate) fn hash(&self) -> u64 {
        self.others.as_ref().map_or_else(|| content_hash(self.source.text().as_bytes()), |others| others.hash)
    }

    /// Returns whether the whole text could be parsed.
    pub(crate) fn is_whole(&self) -> bool {
        self.others.as_ref().is_none_or(|others| others.is_whole)
    }

    /// Replaces the ids that clients refer to by shared copies from `share`: thousands of clients name a few policies.
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
    pub(crate) source: Source,
    /// The id; that of a preset begins with `preset:`.
    pub(crate) id: Placed<Arc<str>>,
    /// A label for people.
    pub(crate) name: Option<Arc<str>>,
    /// The purpose of the policy, for people.
    pub(crate) description: Option<Arc<str>>,
    /// Whether names that no pattern matches are allowed.
    pub(crate) allow_all: bool,
    /// The `allowed_hostnames`.
    pub(crate) allowed: Arc<NameSet>,
    /// The `denied_hostnames`.
    pub(crate) denied: Arc<NameSet>,
    /// The `allowed_hostnames_files`.
    pub(crate) allowed_lists: Vec<Placed<ListUse>>,
    /// The `denied_hostnames_files`.
    pub(crate) denied_lists: Vec<Placed<ListUse>>,
    /// The policies and presets whose lists are added to this one's.
    pub(crate) include: Vec<Placed<Arc<str>>>,
    /// The treatment of queries that the policy denies.
    pub(crate) mode: Mode,
    /// The record types that may be asked for.
    pub(crate) query_types: QueryTypes,
    /// The names that may have addresses that are not globally reachable.
    pub(crate) private_answers: PrivateAnswers,
    /// The treatment of the targets of aliases.
    pub(crate) cname: Cname,
    /// The clients that share cached answers.
    pub(crate) cache: CacheSharing,
    /// The limits on new names and answers; `None` means unlimited.
    pub(crate) budget: Option<Budget>,
    /// The policy author's sentence for clients whose query is denied.
    pub(crate) message: Option<Arc<str>>,
    /// Whether the policy's clients may look up devboxes.
    pub(crate) allow_devbox_to_devbox: bool,
    /// The addresses that clients may connect to without a name.
    pub(crate) allowed_cidrs: Vec<AllowedCidr>,
    /// The keys of [`PolicySpec::NOT_INCLUDED`] that are written in the table.
    pub(crate) settings: Vec<Placed<&'static str>>,
}

impl PolicySpec {
    /// The keys that narrow or widen a policy without being a list of hostnames: a policy that includes this one does
    /// not get them, which is warned about.
    pub(crate) const NOT_INCLUDED: [&str; 5] = ["budget", "cache", "cname", "private_answers", "query_types"];

    /// Returns the place of a key of [`PolicySpec::NOT_INCLUDED`]; `None` if it is not written.
    pub(crate) fn setting(&self, key: &str) -> Option<Span> {
        self.settings.iter().find(|setting| setting.value == key).map(|setting| setting.span)
    }

    /// Returns whether the policy is a preset, built in or replaced by a file.
    pub(crate) fn is_preset(&self) -> bool {
        self.id.value.starts_with(PRESET_PREFIX)
    }

    /// Returns the place of the policy's id.
    pub(crate) fn place(&self) -> Place {
        self.source.place(self.id.span.start)
    }
}

/// A use of a list file by a policy. A file that allows in one place and denies in another is compiled for each use.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ListUse {
    pub(crate) path: PathBuf,
    /// The purpose of the file's names.
    pub(crate) purpose: Purpose,
    /// The names that each entry covers.
    pub(crate) covers: Covers,
}

/// The names that an entry of a list file covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Covers {
    /// The names that the entry's pattern matches.
    AsWritten,
    /// The name and everything below it, whether written with a `*` or not: `subdomains = true`.
    Subdomains,
}

/// A `[blueprint.ID]` table.
#[derive(Debug)]
pub(crate) struct BlueprintSpec {
    pub(crate) source: Source,
    pub(crate) id: Placed<Arc<str>>,
    /// The policy of the blueprint's build containers.
    pub(crate) build_policy: Option<Placed<Arc<str>>>,
    /// The policy of the devboxes made from the blueprint.
    pub(crate) runtime_policy: Option<Placed<Arc<str>>>,
}

impl BlueprintSpec {
    /// Returns the policy that the blueprint names for a phase.
    pub(crate) const fn policy(&self, phase: Phase) -> Option<&Placed<Arc<str>>> {
        match phase {
            Phase::Build => self.build_policy.as_ref(),
            Phase::Runtime => self.runtime_policy.as_ref(),
        }
    }
}

/// A `[client.ID]` table. Clients are the most frequent objects, so the table is stored in its file's [`FileSpec`],
/// without a reference count of its own.
#[derive(Debug)]
pub(crate) struct ClientSpec {
    pub(crate) id: Placed<Arc<str>>,
    /// The client's addresses, in the form of [`crate::policy::matching::client_index::canonical`].
    pub(crate) sources: SmallList<Placed<IpNet>>,
    /// The blueprint that the client is made from.
    pub(crate) blueprint: Option<Placed<Arc<str>>>,
    /// The phase, which selects one of the blueprint's policies.
    pub(crate) phase: Phase,
    /// The client's own policy, which overrides the blueprint's.
    pub(crate) policy: Option<Placed<Arc<str>>>,
}

/// The policy of a client whose addresses are held. No policy can have this id, so all its queries are denied.
pub(crate) const HELD: &str = "(held)";

impl ClientSpec {
    /// Returns whether the client has the addresses of an object whose file is bad.
    pub(crate) fn is_held(&self) -> bool {
        self.policy.as_ref().is_some_and(|policy| *policy.value == *HELD)
    }
}

/// An `[api.ID]` table: data of an object that the API stores and returns. Only the API interprets it, except for the
/// places of two strings that the API's listings need of every object.
#[derive(Debug)]
pub(crate) struct ApiTableSpec {
    pub(crate) id: Placed<Arc<str>>,
    /// The place of `name`; an empty span if there is none.
    pub(crate) name: Span,
    /// The place of `status`; an empty span if there is none.
    pub(crate) status: Span,
}

/// A `[[test]]` table: a query and the decision that policies must have on it to come into force.
#[derive(Debug)]
pub(crate) struct TestSpec {
    /// The client that asks.
    pub(crate) client: Placed<Arc<str>>,
    /// The name that is asked for.
    pub(crate) name: LowerName,
    /// The type that is asked for.
    pub(crate) qtype: RecordType,
    /// Whether the query must be allowed; it must be denied otherwise.
    pub(crate) expects_allow: bool,
    /// The place of the expectation.
    pub(crate) span: Span,
}

/// The treatment of queries that a policy denies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// The queries are denied.
    #[default]
    Enforce,
    /// The queries are recorded as denied, and forwarded.
    Audit,
}

/// The treatment of the targets of aliases.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cname {
    /// The chain of an allowed name is followed without a check.
    #[default]
    Trust,
    /// Every target must itself be allowed.
    Inspect,
}

/// The clients that share cached answers. A client can measure whether an answer was cached, so a shared cache lets
/// clients signal to one another.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CacheSharing {
    /// The clients of all policies with this setting share one partition.
    #[default]
    Shared,
    /// The clients of the policy share a partition.
    Policy,
    /// Each client has a partition of its own.
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

    /// Returns the phase as policy files write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Build => "build",
            Self::Runtime => "runtime",
        }
    }
}

/// The record types that a policy's clients may ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryTypes(Box<[RecordType]>);

impl QueryTypes {
    /// Returns the set of these types.
    #[must_use]
    pub fn new(types: impl IntoIterator<Item = RecordType>) -> Self {
        let mut types: Vec<RecordType> = types.into_iter().collect();
        // Sorted for the binary search of `contains`, which every query does.
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

/// The types of everyday look-ups. Other types, above all NULL and unknown ones, are mostly used by tunnels.
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

/// A prefix that clients may connect to without a name. It is stored and shown, but not enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedCidr {
    /// The addresses.
    pub prefix: IpNet,
    /// The ports; an empty list means all ports.
    pub ports: Vec<PortRule>,
}

/// Ports of an [`AllowedCidr`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortRule {
    /// The first port.
    pub first: u16,
    /// The last port, inclusive.
    pub last: u16,
    /// The transport; `None` means both.
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

/// The id of the built-in policy that allows everything. Files can refer to it, but not define it.
pub const UNRESTRICTED: &str = "unrestricted";

/// The prefix of the ids of presets.
pub const PRESET_PREFIX: &str = "preset:";
