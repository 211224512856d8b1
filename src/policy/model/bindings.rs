//! The settings of `hostgate.toml` that belong to the policies: the policies of addresses in no client, and the suffix
//! of devbox names.

use std::sync::Arc;

use crate::dns::name::LowerName;
use crate::document::{Place, Source, Span};

use super::spec::UNRESTRICTED;

/// The settings of `hostgate.toml` that go into force together with the policies.
#[derive(Clone, Debug, Default)]
pub struct Bindings {
    /// The `default_policy` for addresses in no client.
    pub default_policy: Option<Binding>,
    /// The `policy` of each listener, by the index that [`crate::policy::Snapshot::asker`] takes.
    pub listeners: Vec<Option<Binding>>,
    /// The `devbox_suffix`, below which devboxes have their names.
    pub devbox_suffix: DevboxSuffix,
    /// The `without_policy`, for clients without any policy.
    pub without_policy: WithoutPolicy,
}

/// The treatment of clients for which neither they nor their blueprint name a policy, if there is no default policy.
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
    /// The place of the reference; `None` if it is not in a file.
    pub written: Option<(Source, Span)>,
}

impl Binding {
    /// Returns a reference that is in no file, as on a command line.
    #[must_use]
    pub fn new(policy: impl Into<Arc<str>>) -> Self {
        Self { policy: policy.into(), written: None }
    }

    /// Returns the place of the reference.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        self.written.as_ref().map(|(source, span)| source.place(span.start))
    }
}

impl Bindings {
    /// Returns all references to policies.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Binding> {
        self.default_policy.iter().chain(self.listeners.iter().flatten())
    }

    /// Returns whether one of the references is to `policy`.
    pub(crate) fn refer_to(&self, policy: &str) -> bool {
        self.iter().any(|binding| *binding.policy == *policy)
    }

    /// Returns the referenced ids, the devbox suffix and `without_policy`. Two bindings with equal results are the
    /// same, wherever they are written.
    pub(crate) fn ids(&self) -> Vec<Option<&str>> {
        std::iter::once(&self.default_policy)
            .chain(&self.listeners)
            .map(|binding| binding.as_ref().map(|binding| &*binding.policy))
            .chain([Some(self.devbox_suffix.as_str())])
            // Only the value that is not the default is hashed, so that the hash of a configuration without the key
            // stays the same.
            .chain((self.without_policy == WithoutPolicy::Unrestricted).then_some(Some(UNRESTRICTED)))
            .collect()
    }
}

/// The name that the names of all devboxes are below.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevboxSuffix {
    pub(crate) name: LowerName,
    /// The name as text, kept because each reverse name needs it.
    text: Box<str>,
    /// The last three octets of the wire name. A label of one letter with its length and the root label is as long, so
    /// every suffix has them.
    end: [u8; 3],
}

/// The suffix if hostgate.toml names none.
const DEFAULT_SUFFIX: &str = "devbox.internal";
impl DevboxSuffix {
    /// Returns the suffix with this hostname.
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

    /// Returns whether `qname` may be at or below the suffix, by its last octets: this rejects most names with one
    /// comparison.
    #[inline]
    pub(crate) fn may_hold(&self, qname: &LowerName) -> bool {
        qname.as_wire().last_chunk() == Some(&self.end)
    }

    /// Returns the name of the client with this id; `None` if the id makes no valid name.
    pub(crate) fn name_of(&self, id: &str) -> Option<LowerName> {
        LowerName::from_text(&format!("{id}.{}", self.text)).ok()
    }
}

impl Default for DevboxSuffix {
    fn default() -> Self {
        Self::new(LowerName::from_text(DEFAULT_SUFFIX).expect("the default is a name"))
    }
}
