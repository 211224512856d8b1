//! A policy in force.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::dns::name::LowerName;
use crate::document::{Place, Source};
use crate::fair_share::Holder;
use crate::policy::matching::rules::Rules;
use crate::policy::matching::special_use::LOCALHOST;
use crate::policy::model::budget::{Budget, Limit, Scope};
use crate::policy::model::spec::{AllowedCidr, CacheSharing, Cname, Mode, PolicySpec, PrivateAnswers, QueryTypes};

/// A policy in force: what its table says and the lists it includes.
#[derive(Debug)]
pub struct Policy {
    /// The number that no other policy has or had in this process.
    serial: u64,
    /// What its file says.
    pub(crate) spec: Arc<PolicySpec>,
    /// The patterns that allow.
    pub(crate) allowed: Rules,
    /// The patterns that deny.
    pub(crate) denied: Rules,
    /// Whether an allowed pattern names localhost or what is below it, which is answered here all the same.
    pub(crate) lists_localhost: bool,
    /// An included id that is gone: then the policy denies everything.
    pub(crate) gone: Option<Arc<str>>,
    /// What someone is told whose name is not listed: most denials say this, and spelling it out costs more than deciding.
    pub(crate) not_listed: OnceLock<Box<str>>,
}

/// The serial number of the next policy.
static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl Policy {
    /// Makes a policy of what its file says and its lists.
    pub(crate) fn new(spec: Arc<PolicySpec>, allowed: Rules, denied: Rules, gone: Option<Arc<str>>) -> Self {
        let serial = NEXT_SERIAL.fetch_add(1, Relaxed);
        let lists_localhost = allowed.reach_below(LOCALHOST);
        Self { serial, spec, allowed, denied, lists_localhost, gone, not_listed: OnceLock::new() }
    }

    /// Returns its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.spec.id.value
    }

    /// Returns the number that no other policy has or had in this process: a policy that changes is another one.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// Returns its name for people: the id when it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.spec.name.as_deref().unwrap_or(self.id())
    }

    /// Returns what it is for.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.spec.description.as_deref()
    }

    /// Returns where it is defined.
    #[must_use]
    pub fn place(&self) -> Place {
        self.spec.place()
    }

    /// Returns the file it is in, with its text.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.spec.source
    }

    /// Returns whether it allows what it does not deny.
    #[must_use]
    pub fn allow_all(&self) -> bool {
        self.spec.allow_all
    }

    /// Returns what happens to what it denies.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.spec.mode
    }

    /// Returns what happens to the targets of aliases.
    #[must_use]
    pub fn cname(&self) -> Cname {
        self.spec.cname
    }

    /// Returns who shares the cached answers to its clients' questions.
    #[must_use]
    pub fn cache(&self) -> CacheSharing {
        self.spec.cache
    }

    /// Returns the partition of the cache for a client of this policy, `holder`; 0 is everybody's.
    #[must_use]
    pub fn partition(&self, holder: Holder) -> u32 {
        match self.spec.cache {
            CacheSharing::Shared => 0,
            // Of a name that no client has: ids hold no space.
            CacheSharing::Policy => Holder::named(&format!("policy {}", self.id())).number().max(1),
            CacheSharing::Client => holder.number().max(1),
        }
    }

    /// Returns a text for whoever asks: what was done, by this policy, and why; and its message.
    #[must_use]
    pub fn text(&self, done: &str, why: &str) -> String {
        let message = self.message().map_or_else(String::new, |message| format!(". {message}"));
        format!("{done} policy {}: {why}{message}", self.id())
    }

    /// Returns the text for a client when a limit of the budget is used up, with the policy's message.
    #[must_use]
    pub fn budget_text(&self, budget: &Budget, limit: Limit, scope: Scope<'_>) -> String {
        self.text(&format!("denied by budget.{} of", limit.key()), &budget.describe(limit, scope))
    }

    /// Returns what its clients may look up that is new; `None` is as much as they like.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.spec.budget.as_ref()
    }

    /// Returns the types that may be asked for.
    #[must_use]
    pub fn query_types(&self) -> &QueryTypes {
        &self.spec.query_types
    }

    /// Returns the sentence for those whose query is denied.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.spec.message.as_deref()
    }

    /// Returns whether its clients may look up devboxes (`allow_all` implies it).
    #[must_use]
    pub fn allows_devboxes(&self) -> bool {
        self.gone.is_none() && (self.spec.allow_devbox_to_devbox || self.spec.allow_all)
    }

    /// Returns the addresses that may be connected to without a name.
    #[must_use]
    pub fn allowed_cidrs(&self) -> &[AllowedCidr] {
        &self.spec.allowed_cidrs
    }

    /// Returns the ids it includes, as written.
    #[must_use]
    pub fn include(&self) -> impl ExactSizeIterator<Item = &str> {
        self.spec.include.iter().map(|id| &*id.value)
    }

    /// Returns the included id that is gone, for which the policy denies everything.
    #[must_use]
    pub fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    /// Returns the names that may have private addresses.
    #[must_use]
    pub fn private_answers(&self) -> &PrivateAnswers {
        &self.spec.private_answers
    }

    /// Returns the patterns that allow, includes expanded.
    #[must_use]
    pub fn allowed(&self) -> &Rules {
        &self.allowed
    }

    /// Returns the patterns that deny, includes expanded.
    #[must_use]
    pub fn denied(&self) -> &Rules {
        &self.denied
    }

    /// Returns whether `name` may have addresses that are not globally reachable.
    #[must_use]
    pub fn allows_private(&self, name: &LowerName) -> bool {
        match &self.spec.private_answers {
            PrivateAnswers::All => true,
            PrivateAnswers::Names(set) => set.lookup(name).is_some(),
        }
    }

    /// Returns whether the targets of aliases must be allowed themselves.
    #[must_use]
    pub fn inspects_cname(&self) -> bool {
        self.spec.cname == Cname::Inspect
    }
}
