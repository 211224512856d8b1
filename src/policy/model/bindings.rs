//! What `hostgate.toml` says about policies: the policies of addresses in no client, and the suffix of devbox names.

use std::sync::Arc;

use crate::dns::name::LowerName;
use crate::document::{Place, Source, Span};

use super::spec::UNRESTRICTED;

/// What hostgate.toml says that goes into force with the policies: which of them apply to addresses in no client, and
/// where devboxes have their names.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// The `default_policy`.
    pub default_policy: Option<Binding>,
    /// The `policy` of each listener, by the index that [`crate::policy::Snapshot::asker`] gets.
    pub listeners: Vec<Option<Binding>>,
    /// The `devbox_suffix`.
    pub devbox_suffix: DevboxSuffix,
    /// The `without_policy`.
    pub without_policy: WithoutPolicy,
}

/// What applies to clients for which neither they nor their blueprint name a policy, where there is no default policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WithoutPolicy {
    /// Everything is denied.
    #[default]
    Deny,
    /// Everything is allowed.
    Unrestricted,
}

/// A reference to a policy from outside of the policy files.
#[derive(Clone, Debug)]
pub struct Binding {
    /// The id of the policy.
    pub policy: Arc<str>,
    /// Where it is written, if it is in a file.
    pub written: Option<(Source, Span)>,
}

impl Binding {
    /// Makes a reference that is written nowhere, as on a command line.
    #[must_use]
    pub fn new(policy: impl Into<Arc<str>>) -> Self {
        Self { policy: policy.into(), written: None }
    }

    /// Returns where it is written.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.written.as_ref().map(|(source, span)| source.place(span.start))
    }
}

impl Bindings {
    /// Returns all references.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.default_policy.iter().chain(self.listeners.iter().flatten())
    }

    /// Returns whether one of them is to a policy.
    pub(crate) fn refer_to(&self, policy: &str) -> bool {
        self.iter().any(|binding| *binding.policy == *policy)
    }

    /// Returns the ids, the suffix of devboxes and what holds without a policy: what makes two bindings the same, wherever they are written.
    pub(crate) fn ids(&self) -> Vec<Option<&str>> {
        std::iter::once(&self.default_policy)
            .chain(&self.listeners)
            .map(|binding| binding.as_ref().map(|binding| &*binding.policy))
            .chain([Some(self.devbox_suffix.as_str())])
            .chain((self.without_policy == WithoutPolicy::Unrestricted).then_some(Some(UNRESTRICTED)))
            .collect()
    }
}

/// The name that all names of devboxes are below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevboxSuffix {
    /// The name.
    pub(crate) name: LowerName,
    /// The name as text.
    text: Box<str>,
    /// The end of its wire form: a label of one letter, with its length and the root label, is no shorter.
    end: [u8; 3],
}

/// The suffix that is meant without another one.
const DEFAULT_SUFFIX: &str = "devbox.internal";
impl DevboxSuffix {
    /// Makes a suffix of a hostname.
    #[must_use]
    pub fn new(name: LowerName) -> Self {
        let end = name.as_wire().last_chunk().copied().unwrap_or_default();
        Self { text: name.to_string().into(), name, end }
    }

    /// Returns the suffix as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether `qname` may be the suffix or below it: a cheap look at its end.
    #[inline]
    pub(crate) fn may_hold(&self, qname: &LowerName) -> bool {
        qname.as_wire().last_chunk() == Some(&self.end)
    }

    /// Returns the name of the client with this id, if it makes a hostname.
    pub(crate) fn name_of(&self, id: &str) -> Option<LowerName> {
        LowerName::from_text(&format!("{id}.{}", self.text)).ok()
    }
}

impl Default for DevboxSuffix {
    fn default() -> Self {
        Self::new(LowerName::from_text(DEFAULT_SUFFIX).expect("the default is a name"))
    }
}
