//! Behaviour of the real binary: each test starts it on port 0 with scripted upstreams and looks from outside.

#![expect(clippy::unwrap_used, reason = "a test stops at the first thing that is not as it should be")]

mod support;

mod admin;
mod answers;
mod bad_input;
mod budgets;
mod cache;
mod cli;
mod cli_sources;
mod clients;
mod comes_back;
mod control_access;
mod control_audit;
mod control_blueprints;
mod control_bounds;
mod control_devboxes;
mod control_hand_edits;
mod control_policies;
mod control_shares;
mod control_store;
mod control_tls;
mod decisions;
mod devboxes;
mod disk_full;
mod harness;
mod in_flight;
mod isolation;
mod lists;
mod loss;
mod matching;
mod neighbours;
mod objects;
mod objects_served;
mod policy_update;
mod real;
mod refusals;
mod reload;
mod reload_bounds;
mod reload_config;
mod reload_files;
mod reload_scale;
mod replies;
mod resolv_conf;
mod seeds;
mod service;
mod shape;
mod slow;
mod special_names;
mod strays;
mod takeover;
mod tcp;
mod upstream_query;
mod upstreams;
mod without_policy;
