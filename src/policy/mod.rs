//! Who may look up what: policy files to a [`Snapshot`], and [`decide()`]. Pure: no socket, clock, filesystem or log.

mod ancestors;
mod any_case;
mod assemble;
pub mod budget;
pub mod client_index;
mod clients;
mod compile;
mod conflict;
mod connected;
mod decide;
mod devbox;
mod diagnostics;
mod few;
mod hash;
mod library;
mod links;
mod lint;
mod list;
pub mod name_set;
mod near;
mod ordered_map;
mod pasted;
pub mod pattern;
mod plain;
mod preset;
mod read;
mod rules;
pub mod shared_suffix;
mod snapshot;
mod spec;
mod special_use;
mod step;
#[cfg(test)]
mod testing;
mod tree;
mod trial;

pub use budget::{Budget, Limit, Scope};
pub use decide::{Action, Decision, Explanation, Reason, decide};
pub use devbox::DevboxSuffix;
pub use diagnostics::Diagnostics;
pub use library::{Held, Library, ListText, NO_SUCH_FILE, ReadList, Reloaded};
pub(crate) use library::{OBJECT_FOLDER, OBJECT_PREFIXES, object_of};
pub(crate) use list::is_own_name;
pub use near::Near;
pub(crate) use ordered_map::OrderedMap;
pub use preset::BUILT_IN;
pub use rules::{Rule, Rules};
pub use snapshot::{Asker, Blueprint, Client, Nobody, Policy, Record, Snapshot, Standing, Unrestricted};
pub use spec::{
    AllowedCidr, CacheSharing, Cname, Mode, PRESET_PREFIX, Phase, PortRule, PrivateAnswers, Protocol, QueryTypes,
    UNRESTRICTED,
};
pub(crate) use tree::FilePath;
pub use tree::{Binding, Bindings, Texts, Tree, WithoutPolicy};
