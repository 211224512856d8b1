//! What requests mean for each kind of object, and how objects become files and files objects.

pub(in crate::control) mod address;
pub(in crate::control) mod blueprints;
pub(in crate::control) mod devboxes;
pub(in crate::control) mod egress;
pub(in crate::control) mod id;
pub(in crate::control) mod kind;
pub(in crate::control) mod policies;
pub(in crate::control) mod record;
pub(in crate::control) mod writer;
