//! The contents of policy files as types: specifications, budgets, and the effective lists made from them.

pub(crate) mod bindings;
pub mod budget;
pub(crate) mod spec;
