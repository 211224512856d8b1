//! hostgate: a DNS-level policy resolver, the only nameserver of devboxes, agent sandboxes and build containers.
//!
//! This page is the architecture. A query goes down the left column; the folders at the right are not on its way.
//!
//! ```text
//!   listen::udp            listen::tcp          cli        the command line
//!   threads, batches       connections          daemon     makes, starts, watches and stops all parts
//!          \                   /                api        objects of the HTTP API, to files and back
//!            engine::step                       reload     watches, reads, swaps
//!              1 dns::query     parse           telemetry  metrics, logs, heartbeats
//!              2 policy         decide          listen     admin endpoint, sockets, take-over
//!              3 dns::answer    deny            config     hostgate.toml
//!              4 engine::cache  hit             document   TOML with places; diagnostics
//!            upstream::mux                      import     lists of other systems
//!              5 dns::response read, keep       bounds     every bound, in one table
//!            engine::answer                     util       what several folders need
//!              6 dns::response filter for this client, answer
//!
//!   engine::finish, upstream::pool: questions that need TCP or another upstream
//! ```
//!
//! # What holds everywhere
//!
//! - **Pure core, thin edge.** [`dns`] and [`policy`] are functions of their arguments: no socket, clock, file, runtime
//!   or log. [`engine`] takes bytes and a source address and gives bytes; it does not know what carried them.
//! - **One view a batch.** What an answer depends on (policies, upstreams, TTLs) is one immutable [`engine`] view behind
//!   an atomic pointer. A reload builds the next one aside and swaps the pointer once; a query keeps the view it began
//!   with, also while it waits for an upstream.
//! - **The policy comes first, the cache behind it.** A denied name is answered before anything is looked up, so nothing
//!   of it leaves; nor does anything of a devbox's name or localhost, which hostgate answers itself. The cache holds what upstreams
//!   said, by question and not by policy; what of it a client may see is judged afterwards, each time.
//! - **One truth.** The policy files are all there is to know; what the API changes is a file, and its answer comes when
//!   the change is in force and on disk.
//! - **Closed.** No file that does not load replaces what it said before; no address without a policy gets an answer;
//!   a panic in one query is one SERVFAIL.
//! - **Bounded.** Every queue, table and buffer has a limit, and every wait a deadline; `bounds` has them all in a table,
//!   with what happens at the limit.
//!
//! # Where to find what
//!
//! | question | place |
//! |---|---|
//! | what does a message look like | [`dns`] |
//! | who may look up what | [`policy`]: `decide`, the single entry; `matching`, the patterns and tables it walks; `snapshot`, what is in force |
//! | which names does hostgate answer itself | [`policy`]: `decide::devbox`, `matching::special_use` |
//! | which names may a validator look up that no entry lists | [`policy`]: `matching::name_set::ancestors` |
//! | how do files become policies, and what happens to a bad one | [`policy`]: `load`, which reads (`read`), compares (`conflict`), compiles (`compile`) and checks (`lint`); `model`, the types |
//! | how does an error get its place and its mend | [`document`] |
//! | how is a query answered | [`engine`] |
//! | what of an answer fits, and in which order | [`dns`]: `response::cut`, `response::order` |
//! | whom do we ask, and what if they do not answer | [`upstream`] |
//! | how are lists in other systems' formats told from one another and read | `list_format`; `import` |
//! | what is in `hostgate.toml` | [`config`] |
//! | how are objects created and changed over HTTP | `api`; `reload::api_change`; from the shell, [`cli`]: `objects` |
//! | when is a change in force | `reload` |
//! | what is on disk and not in force, and since when | `reload`: `out_of_date`, `disk_comparison`, `tick` |
//! | what does a start do about what is bad | `policy::load` (objects of the API), `reload::last_good`; `daemon::prepare`; [`cli`]: `next_start`, `try_start`; `listen::missing_sockets` |
//! | what is made, started and stopped, in which order | `daemon` |
//! | sockets and threads | `listen`, `datagram` |
//! | how is a file opened in whose place there may be anything | `util::regular_file` |
//! | what is systemd told | `daemon::systemd` |
//! | what if a thread hangs | `telemetry::heartbeat`, `daemon::supervisor` |
//! | what is bounded, and what happens when it is full | `bounds`; how bounds follow the limits of the process: `bounds::capacity` |
//! | how is a process reached that may open no more files | `util::reserve` |
//! | how much memory may this process still have | `bounds::machine`; what a file weighs before it is read: `reload::weight` |
//! | how much of it one client may have | [`fair_share`]; of a thread that cannot keep up, `listen::overload` |
//! | how much may a client look up that is new | `policy::model::budget`, `engine::budget` |
//! | what is counted and recorded | `telemetry`, `engine::decision_record`; the words for what was done and why: [`labels`] |
//! | who writes log lines, and which | `telemetry::log`: a thread of its own; `telemetry::log_filter` |
//!
//! Each third-party crate with an interface of its own has one home: `toml` and `annotate-snippets` in [`document`],
//! `psl` and `idna` in [`policy`], `saphyr-parser` in `import::yaml`, hickory in [`upstream`], `notify` in `reload::watch`, `axum` in `listen::admin`
//! and `api`, rustls in `api::connection::tls`, `toml_edit` in `api::objects::object_file`,
//! `prometheus-client` in `listen::admin::exposition`, `signal-hook` in `daemon::supervisor`, `sd-notify` in `daemon::systemd`, `clap` in [`cli`]. `unsafe` code is in `datagram` alone.

mod api;
mod bounds;
pub mod cli;
pub mod config;
mod daemon;
mod datagram;
pub mod dns;
pub mod document;
pub mod engine;
pub mod fair_share;
mod import;
pub mod labels;
mod list_format;
mod listen;
pub mod policy;
mod reload;
pub mod telemetry;
pub mod upstream;
mod util;
