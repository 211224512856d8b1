//! Who may look up what: policy files to a [`Snapshot`], and [`decide()`]. Pure: no socket, clock, filesystem or log.

mod decide;
mod load;
pub mod matching;
pub mod model;
mod object_file;
mod snapshot;
#[cfg(test)]
mod testing;

pub use self::decide::near::Near;
pub use self::load::diagnostics::Diagnostics;
pub(crate) use self::load::list::is_own_name;
pub use self::load::preset::BUILT_IN;
pub(crate) use self::load::source::FilePath;
pub use self::load::source::{Texts, Tree};
pub use self::load::{Held, Library, ListText, NO_SUCH_FILE, ReadList, Reloaded};
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
pub use snapshot::{Asker, Blueprint, Client, Nobody, Policy, Record, Snapshot, Standing, Unrestricted};
