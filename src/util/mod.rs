//! What several modules need and no crate has.

pub(crate) mod content_hash;
pub(crate) mod few;
pub(crate) mod persistent_map;
pub(crate) mod regular_file;
pub(crate) mod reserve;
