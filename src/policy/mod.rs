//! Who may look up what: policy files to a [`Snapshot`], and [`decide`]. Pure: no socket, clock, filesystem or log.

pub mod client_index;
mod decide;
mod hash;
mod list;
pub mod name_set;
pub mod pattern;
mod read;
mod rules;
pub mod shared_suffix;
mod snapshot;
mod spec;

pub use decide::{Action, Decision, Explanation, Reason, decide};
pub use rules::{Rule, Rules};
pub use snapshot::{Asker, Blueprint, Client, Nobody, Policy, Snapshot, Standing, Unrestricted};
pub use spec::{
    AllowedCidr, Cname, Mode, PRESET_PREFIX, Phase, PortRule, PrivateAnswers, Protocol, QueryTypes, UNRESTRICTED,
};
