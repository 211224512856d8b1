//! The contents of policy files as types: parsed tables, budgets, and the policy settings of `hostgate.toml`.

pub(crate) mod bindings;
pub mod budget;
pub(crate) mod spec;
