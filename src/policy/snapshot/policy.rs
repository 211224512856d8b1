//! A policy in force: the settings of its table and its effective lists, includes expanded.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, OnceLock};

use crate::dns::name::LowerName;
use crate::document::{Place, Source};
use crate::fair_share::Holder;
use crate::policy::matching::rules::Rules;
use crate::policy::matching::special_use::LOCALHOST;
use crate::policy::model::budget::{Budget, Limit, Scope};
use crate::policy::model::spec::{AllowedCidr, CacheSharing, Cname, Mode, PolicySpec, PrivateAnswers, QueryTypes};

/// A policy in force. It is immutable: if its table or an included one changes, a new `Policy` replaces it.
#[derive(Debug)]
pub struct Policy {
    /// A number that no other policy has or had in this process.
    serial: u64,
    /// The policy's table in its file.
    pub(crate) spec: Arc<PolicySpec>,
    /// The patterns that allow names, includes expanded.
    pub(crate) allowed: Rules,
    /// The patterns that deny names, includes expanded.
    pub(crate) denied: Rules,
    /// Whether an allowed pattern is at or below localhost. hostgate answers such names itself nevertheless, and this
    /// saves decisions about all other listed names the comparison with localhost.
    pub(crate) lists_localhost: bool,
    /// The included id or list file that does not exist any more, so that the policy denies everything; `None`
    /// normally.
    pub(crate) gone: Option<Arc<str>>,
    /// The text that clients get with a denial if no entry matches the name. It is cached, as most denials have it and
    /// formatting it costs more than deciding.
    pub(crate) not_listed: OnceLock<Box<str>>,
}

/// The serial number of the next policy.
static NEXT_SERIAL: AtomicU64 = AtomicU64::new(1);

impl Policy {
    /// Returns a policy with a new serial number.
    pub(crate) fn new(spec: Arc<PolicySpec>, allowed: Rules, denied: Rules, gone: Option<Arc<str>>) -> Self {
        // Relaxed: the number only has to be unique, no other memory depends on it.
        let serial = NEXT_SERIAL.fetch_add(1, Relaxed);
        let lists_localhost = allowed.reach_below(LOCALHOST);
        Self { serial, spec, allowed, denied, lists_localhost, gone, not_listed: OnceLock::new() }
    }

    /// Returns the id of the policy.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.spec.id.value
    }

    /// Returns a number that no other policy has or had in this process. A policy that changes gets a new one, so a
    /// cache with this number in its key never returns results of an earlier version.
    #[must_use]
    pub const fn serial(&self) -> u64 {
        self.serial
    }

    /// Returns the policy's name for people, or its id if it has none.
    #[must_use]
    pub fn name(&self) -> &str {
        self.spec.name.as_deref().unwrap_or(self.id())
    }

    /// Returns the description of the policy's purpose.
    #[must_use]
    pub fn description(&self) -> Option<&str> {
        self.spec.description.as_deref()
    }

    /// Returns the place of the policy's definition.
    #[must_use]
    pub fn place(&self) -> Place {
        self.spec.place()
    }

    /// Returns the policy's file, with its text.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.spec.source
    }

    /// Returns whether the policy allows names that it does not deny.
    #[must_use]
    pub fn allow_all(&self) -> bool {
        self.spec.allow_all
    }

    /// Returns the mode, which decides about queries that the policy denies.
    #[must_use]
    pub fn mode(&self) -> Mode {
        self.spec.mode
    }

    /// Returns the treatment of the targets of aliases.
    #[must_use]
    pub fn cname(&self) -> Cname {
        self.spec.cname
    }

    /// Returns which clients share cached answers.
    #[must_use]
    pub fn cache(&self) -> CacheSharing {
        self.spec.cache
    }

    /// Returns the cache partition of the client `holder` under this policy; 0 is the shared partition.
    #[must_use]
    pub fn partition(&self, holder: Holder) -> u32 {
        match self.spec.cache {
            CacheSharing::Shared => 0,
            // Ids have no spaces, so no client has this name.
            CacheSharing::Policy => Holder::named(&format!("policy {}", self.id())).number().max(1),
            // 0 is the shared partition.
            CacheSharing::Client => holder.number().max(1),
        }
    }

    /// Returns a text for the client: `done` (such as "denied by"), this policy's id, the reason, and the policy's
    /// message.
    #[must_use]
    pub fn text(&self, done: &str, why: &str) -> String {
        let message = self.message().map_or_else(String::new, |message| format!(". {message}"));
        format!("{done} policy {}: {why}{message}", self.id())
    }

    /// Returns the text for a client whose budget has reached a limit, with the policy's message.
    #[must_use]
    pub fn budget_text(&self, budget: &Budget, limit: Limit, scope: Scope<'_>) -> String {
        self.text(&format!("denied by budget.{} of", limit.key()), &budget.describe(limit, scope))
    }

    /// Returns the budget of new names and answers; `None` means unlimited.
    #[must_use]
    pub fn budget(&self) -> Option<&Budget> {
        self.spec.budget.as_ref()
    }

    /// Returns the record types that clients may ask for.
    #[must_use]
    pub fn query_types(&self) -> &QueryTypes {
        &self.spec.query_types
    }

    /// Returns the policy author's sentence for clients whose query is denied.
    #[must_use]
    pub fn message(&self) -> Option<&str> {
        self.spec.message.as_deref()
    }

    /// Returns whether the policy's clients may look up devboxes (`allow_all` implies it).
    #[must_use]
    pub fn allows_devboxes(&self) -> bool {
        self.gone.is_none() && (self.spec.allow_devbox_to_devbox || self.spec.allow_all)
    }

    /// Returns the addresses that clients may connect to without a name.
    #[must_use]
    pub fn allowed_cidrs(&self) -> &[AllowedCidr] {
        &self.spec.allowed_cidrs
    }

    /// Returns the included ids as written.
    #[must_use]
    pub fn include(&self) -> impl ExactSizeIterator<Item = &str> {
        self.spec.include.iter().map(|id| &*id.value)
    }

    /// Returns the included id or list file that does not exist any more, which is why the policy denies everything.
    #[must_use]
    pub fn gone(&self) -> Option<&str> {
        self.gone.as_deref()
    }

    /// Returns the names that may have private addresses.
    #[must_use]
    pub fn private_answers(&self) -> &PrivateAnswers {
        &self.spec.private_answers
    }

    /// Returns the patterns that allow names, includes expanded.
    #[must_use]
    pub fn allowed(&self) -> &Rules {
        &self.allowed
    }

    /// Returns the patterns that deny names, includes expanded.
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

    /// Returns whether each target of an alias must be allowed by the policy.
    #[must_use]
    pub fn inspects_cname(&self) -> bool {
        self.spec.cname == Cname::Inspect
    }
}
