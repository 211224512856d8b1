//! Data structures and system calls that several modules use and no crate offers in the form needed.

pub(crate) mod content_hash;
pub(crate) mod persistent_map;
pub(crate) mod regular_file;
pub(crate) mod reserve;
pub(crate) mod small_list;
