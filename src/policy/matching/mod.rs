//! Patterns, and the structures that tell which of them a name or an address matches: what a query walks through.

pub(crate) mod ancestors;
pub mod client_index;
pub mod name_set;
pub mod pattern;
pub(crate) mod rules;
pub mod shared_suffix;
pub(crate) mod special_use;
