//! Policies: which client may look up which name.
//!
//! [`load`] turns policy files into a [`Snapshot`], and [`decide()`] decides about queries by it. [`matching`] has the
//! patterns and their indexes, [`model`] the types of what the files contain. Everything here is pure, without a
//! socket, clock, file system or log, so that `hostgate explain`, `check` and the fuzz targets run the same code as the
//! daemon.

mod decide;
mod load;
pub mod matching;
pub mod model;
mod object_file;
mod snapshot;
#[cfg(test)]
mod testing;

pub use self::decide::near_miss::NearMiss;
pub(crate) use self::decide::owned::OwnedDecision;
pub use self::load::diagnostics::Diagnostics;
pub(crate) use self::load::held::object_path;
pub(crate) use self::load::list::is_own_name;
pub use self::load::preset::BUILT_IN;
pub(crate) use self::load::source::FilePath;
pub use self::load::source::{Texts, Tree};
pub use self::load::{Library, ListText, MayBeUnchanged, NO_SUCH_FILE, ReadList, Reloaded};
pub(crate) use self::load::{OBJECT_FOLDER, OBJECT_PREFIXES, object_of};
pub use self::matching::rules::{Rule, Rules};
pub use self::model::bindings::{Binding, Bindings, DevboxSuffix, WithoutPolicy};
pub use self::model::budget::{Budget, Limit, Scope};
pub use self::model::spec::{
    AllowedCidr, CacheSharing, Cname, Mode, PRESET_PREFIX, Phase, PortRule, PrivateAnswers, Protocol, QueryTypes,
    UNRESTRICTED,
};
pub(crate) use crate::util::persistent_map::OrderedMap;
pub use decide::{Action, Decision, Explanation, Reason, decide};
pub(crate) use object_file::{sealed, unsealed};
pub use snapshot::{
    ApiTable, Asker, Blueprint, Client, EffectivePolicy, NoPolicyReason, Policy, Snapshot, Unrestricted,
};
