//! hostgate: a DNS-level policy resolver, the only nameserver of devboxes, agent sandboxes and build containers.
//!
//! This page describes the architecture. In the drawing, a query passes through the left column from top to bottom; the
//! folders in the right column are not on its path.
//!
//! ```text
//!   listen::udp            listen::tcp          cli        the command line
//!   threads, batches       connections          daemon     makes, starts, watches and stops all parts
//!          \                   /                api        objects of the HTTP API, to files and back
//!            engine::begin                      reload     watches, reads, swaps
//!              1 dns::query     parse           telemetry  metrics, logs, heartbeats
//!              2 policy         decide          listen     admin endpoint, sockets, take-over
//!              3 dns::answer    deny            config     hostgate.toml
//!              4 engine::cache  hit             document   TOML with positions; diagnostics
//!            listen::resolver, upstream::mux    import     lists of other systems
//!              5 dns::response read, keep       bounds     every bound, in one table
//!            engine::complete                   util       what several folders need
//!              6 dns::response filter for this client, answer
//! ```
//!
//! # A cache miss
//!
//! Four files are the path of a query that needs an upstream:
//!
//! 1. `engine/begin.rs` parses and decides the query and finds no answer in the cache. The result is a `Pending` query,
//!    which owns what was parsed and decided.
//! 2. `listen/resolver.rs` lets it wait with all other queries for the same question. Each question has one owner, the
//!    thread that asked it first; a query that came to another thread, or over TCP, is handed to the owner's inbox.
//! 3. `upstream/mux/mod.rs` sends the question through the thread's sockets, repeats it by `upstream/schedule.rs`, and
//!    reads the reply. If it needs TCP or fails at one of several upstreams, a task asks on (`upstream/mux/task.rs`)
//!    and posts the outcome to the owner's inbox.
//! 4. `engine/complete.rs` answers each query that waited: it filters the response for the client, by the decision of
//!    step 1.
//!
//! # Principles
//!
//! - **Pure core, thin edge.** [`dns`] and [`policy`] are functions of their arguments: no socket, clock, file, runtime
//!   or log. [`engine`] turns bytes and a source address into bytes; it does not know the transport.
//! - **One view for a batch.** Everything that an answer depends on (policies, upstreams, TTLs) is one immutable
//!   [`engine`] view behind an atomic pointer. A reload builds the next view and swaps the pointer once. A query keeps
//!   the view it began with, also while it waits for an upstream.
//! - **Policy before cache.** A denied name is answered before anything is looked up, so no upstream learns of it. The
//!   same is true of devboxes' names and localhost, which hostgate answers itself. The cache holds answers of upstreams
//!   by question, not by policy (a policy can have a partition of its own). The policy of a client is applied to a
//!   cached answer each time it is used.
//! - **Files are the only source.** The policy files are the whole state. A change by the API is a change of a file,
//!   and the API answers once the change is in force and on disk.
//! - **Fail closed.** A file that does not load never replaces its version in force; an address without a policy gets
//!   no answer but a denial; a panic in one query is one SERVFAIL.
//! - **Bounded.** Every queue, table and buffer has a limit, and every wait a deadline. `bounds` lists all of them in a
//!   table, with what happens at the limit.
//!
//! # Where to find what
//!
//! | question | place |
//! |---|---|
//! | what is the wire format of a message | [`dns`] |
//! | who may look up what | [`policy`]: `decide`, the single entry; `matching`, the patterns and tables it walks; `snapshot`, what is in force |
//! | which names does hostgate answer itself | [`policy`]: `decide::devbox`, `matching::special_use` |
//! | which unlisted names may a validator look up | [`policy`]: `matching::name_set::ancestors` |
//! | how do files become policies, and what happens to a bad one | [`policy`]: `load`, which reads (`read`), compares (`conflict`), compiles (`compile`) and checks (`lint`); `model`, the types |
//! | how does an error get its position and its help text | [`document`] |
//! | how is a query answered | [`engine`] |
//! | which records of an answer fit, and in which order | [`dns`]: `response::cut`, `response::order` |
//! | which upstream is asked, and what if it does not answer | [`upstream`] |
//! | how are the formats of other systems' lists recognised and read | `list_format`; `import` |
//! | what is in `hostgate.toml` | [`config`] |
//! | how are objects created and changed over HTTP | `api`; `reload::api_change`; from the shell, [`cli`]: `objects` |
//! | when is a change in force | `reload` |
//! | what is on disk and not in force, and since when | `reload`: `out_of_date`, `disk_comparison`, `tick` |
//! | what does a start do if a file or a socket is bad | `policy::load` (objects of the API), `reload::last_good`; `daemon::prepare`; [`cli`]: `next_start`, `try_start`; `listen::missing_sockets` |
//! | what is made, started and stopped, in which order | `daemon` |
//! | which sockets and threads are there | `listen`, `datagram` |
//! | how is a file opened that may turn out to be a FIFO or a device | `util::regular_file` |
//! | what is sent to systemd | `daemon::systemd` |
//! | what if a thread hangs | `telemetry::heartbeat`, `daemon::supervisor` |
//! | what is bounded, and what happens when it is full | `bounds`; how bounds follow the limits of the process: `bounds::capacity` |
//! | how does a process at its limit on open files answer probes | `util::reserve` |
//! | how much memory may this process still use | `bounds::machine`; for loading a file: `reload::weight` |
//! | how much of a resource may one client use | [`fair_share`]; of a thread that cannot keep up, `listen::overload` |
//! | how many new names may a client look up | `policy::model::budget`, `engine::budget` |
//! | what is counted and recorded | `telemetry`, `engine::decision_record`; actions and reasons: [`labels`] |
//! | how are log lines filtered and written | `telemetry::log_filter`; `telemetry::log`, a thread of its own |
//!
//! Each third-party crate with an interface of its own has one home: `toml`, `toml_parser` and
//! `annotate-snippets` in [`document`], `psl` and `idna` in [`policy`], `saphyr-parser` in `import::yaml`, `notify` in `reload::watch`, `axum` in `listen::admin` and `api`, rustls in `api::connection::tls`, `toml_edit` in
//! `api::objects::object_file`, `prometheus-client` in `listen::admin::exposition`, `signal-hook` in
//! `daemon::supervisor`, `sd-notify` in `daemon::systemd`, `clap` in [`cli`]. `unsafe` code is in `datagram` alone.

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
