//! Patterns and the indexes that find which pattern matches a name or which prefix holds an address: the data a query
//! reads.

pub mod client_index;
pub mod name_set;
pub mod pattern;
pub(crate) mod pattern_kind;
pub(crate) mod rules;
pub mod shared_suffix;
pub(crate) mod special_use;
