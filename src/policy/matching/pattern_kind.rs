//! The two kinds of patterns.

/// The kind of a pattern, without its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PatternKind {
    /// `x`: the name itself.
    Exact,
    /// `*.x`: every name below `x`.
    Below,
}

impl PatternKind {
    /// Returns the index of the kind in an array of both.
    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Exact => 0,
            Self::Below => 1,
        }
    }

    /// Returns the other kind.
    pub(super) const fn other(self) -> Self {
        match self {
            Self::Exact => Self::Below,
            Self::Below => Self::Exact,
        }
    }
}
