//! The contents of policy files as types: specifications, budgets, and the effective lists made from them.

pub mod budget;
pub(crate) mod spec;
