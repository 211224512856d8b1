//! The kinds of objects of the API.

/// A kind of object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(in crate::api) enum Kind {
    /// A network policy.
    Policy,
    /// A blueprint.
    Blueprint,
    /// A devbox.
    Devbox,
}

impl Kind {
    /// All of them.
    const ALL: [Self; 3] = [Self::Policy, Self::Blueprint, Self::Devbox];

    /// Returns what the ids of its objects begin with.
    pub(in crate::api) const fn prefix(self) -> &'static str {
        match self {
            Self::Policy => "npol_",
            Self::Blueprint => "bpt_",
            Self::Devbox => "dbx_",
        }
    }

    /// Returns the kind of an object that the API made, by its id.
    pub(in crate::api) fn of(id: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| id.starts_with(kind.prefix()))
    }

    /// Returns what people call the object of an id.
    pub(in crate::api) fn what(id: &str) -> &'static str {
        Self::of(id).map_or("file", Self::word)
    }

    /// Returns what people call it.
    pub(in crate::api) const fn word(self) -> &'static str {
        match self {
            Self::Policy => "network policy",
            Self::Blueprint => "blueprint",
            Self::Devbox => "devbox",
        }
    }
}
