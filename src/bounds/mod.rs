//! Every bound on what clients, upstreams and the disk can make grow, in one table.
//!
//! No full queue or table is waited for without a deadline: a request is answered, or something is dropped and counted.
//! A bound is a constant of this module, or is named here with its module if it belongs to one algorithm; a test
//! compares the table with the sources. Limits of the protocol (a name has at most 255 octets) are in the modules of
//! the protocol. If the limit on open files is too low for all of them, the bounds on sockets and connections shrink
//! together: see [`capacity`].
//!
//! # Clients, over UDP
//!
//! | what | bound | when it is full | seen in |
//! |---|---|---|---|
//! | datagrams that wait in a socket | [`UDP_BUFFER`] a socket, one socket a thread and listener | the kernel drops what comes; the client asks again | `/proc/net/udp` |
//! | listeners with threads of their own, one a CPU | [`MAX_THREADED_LISTENERS`] | with more listeners, there is one thread a CPU for all together | |
//! | addresses of a devbox in an answer | `policy::decide::devbox::MAX_ADDRESSES` | the rest is left out | |
//! | datagrams of a batch | `datagram::BATCH` | the rest is the next batch | |
//! | octets of a query | `datagram::MAX_MESSAGE` | the rest is cut off, so the answer is FORMERR | `hostgate_queries_total{reason}` |
//! | time of a thread that cannot keep up | `listen::overload`: a share of each 10 ms for each client | the client's further queries are dropped | `hostgate_queries_shed_total` |
//! | replies that wait in a socket | [`UDP_BUFFER`] a socket | dropped | `hostgate_replies_unsent_total` |
//! | queries that wait for upstreams | [`MAX_PENDING`]; of a client as many as are free, and [`MAX_PENDING_OF_CLIENT`] | stale data, else SERVFAIL with EDE 22 | `hostgate_queries_turned_away_total` |
//! | different questions among them | [`MAX_QUESTIONS`] | as above | `hostgate_failed_answers_total` |
//! | of those, queries that wait for one | [`MAX_ASKERS`] | as above | the same |
//! | answers renewed ahead of time | [`MAX_RENEWALS`] | they expire, and the next query for them goes to an upstream | `hostgate_cache_renewals_total` |
//! | of the questions, those on sockets of their own | [`MAX_ASKING`]; of a client as many as are free, and [`MAX_ASKING_OF_CLIENT`] | as above | `hostgate_failed_answers_total` |
//! | names, octets and answers that are new, below one wildcard | `budget` of the policy | denied, NODATA or stale data | `hostgate_queries_total{reason="budget"}` |
//! | clients whose budgets are remembered, wildcards of each | [`MAX_LEDGERS`], [`MAX_ALLOWANCES`] | the least recently seen client is forgotten; further wildcards share one budget | |
//! | log lines a minute about spent budgets | [`MAX_BUDGET_LINES`] | left out | `hostgate_queries_total{reason="budget"}` |
//!
//! # Clients, over TCP
//!
//! | what | bound | when it is full | seen in |
//! |---|---|---|---|
//! | connections not accepted yet | [`TCP_BACKLOG`] a listener, as far as the kernel grants it | the kernel lets them try again | |
//! | connections | [`MAX_CONNECTIONS`]; of a client as many as are free without [`RESERVED_CONNECTIONS`], or [`GUARANTEED_CONNECTIONS`] | the client's own longest idle one is closed for its new one; with none idle, the new one; up to the guarantee an idle one of the client with most | `hostgate_tcp_closed_total{reason}` |
//! | file descriptors | the system's limit, which the bounds follow; should others take them all | accepting pauses, and an idle connection of the client with most idle ones is closed | `hostgate_descriptors_lacking_total` |
//! | queries of a connection that wait for upstreams | [`MAX_PIPELINED`] | the next one is not read until one is answered | |
//! | answers of a connection not taken yet | [`MAX_UNREAD`], of 64 KiB each | nothing is read or made for it; closed after five seconds | |
//! | a query, an answer, a connection | five seconds, five seconds, ten minutes; ten seconds of silence | closed | |
//!
//! # Upstreams
//!
//! | what | bound | when it is full | seen in |
//! |---|---|---|---|
//! | sockets of a thread to an upstream | [`MAX_UPSTREAM_PORTS`] | shared by more questions | |
//! | clients of a thread with a socket of their own, after floods of wrong replies | [`MAX_APART`] | the one of them that got it first shares again | |
//! | tries of a question | `upstream::schedule::MAX_TRIES`, and one for each further upstream; over UDP `upstream::mux::retransmission::MAX_REPEATED` more for clients that ask again | no more tries: what has been asked is waited for | `hostgate_upstream_retransmissions_total` |
//! | given-up queries that a port remembers | `upstream::mux::ports::MAX_GIVEN_UP`, and those in flight | it takes no new ones and is closed | |
//! | sockets of questions that tasks ask, of which three quarters are for first tries | [`MAX_UPSTREAM_SOCKETS`] | SERVFAIL, or stale data | `hostgate_upstream_failures_total{kind="busy"}` |
//! | TCP connections to an upstream | [`MAX_UPSTREAM_STREAMS`] | the next one waits, within the time of its question | |
//! | questions on a TCP connection | `upstream::stream::connection::MAX_ACTIVE` | another connection; then as above | the same |
//! | probes a second of upstreams that may be down | `upstream::probe::MAX_PROBES` | each is probed less often than every second | |
//! | interfaces that upstreams are written with by name | `upstream::scope::MAX_NAMED` | an error of the upstream that names one more | |
//! | octets of a reply over UDP | `upstream::udp::MAX_REPLY` | asked for over TCP | `hostgate_upstream_truncated_total` |
//! | datagrams that are no reply | `upstream::udp::MAX_IGNORED` a socket | the socket is left: asked again from another port, then over TCP | `hostgate_upstream_ignored_total` |
//! | records of a response | `dns::response::parse::MAX_RECORDS` | malformed, the next upstream | `hostgate_upstream_failures_total{kind="malformed"}` |
//! | hops of an alias | `dns::response::chain::MAX_HOPS` | the rest is left out | |
//! | names that MX, NAPTR, SRV, SVCB and HTTPS records of an answer lead to | `dns::response::chain::MAX_SERVICE_TARGETS` | the answer counts as malformed | |
//! | owners compared to find where a record set ends, in an answer that is too long | `dns::response::cut::MAX_COMPARED` | an additional record set more is left out | |
//! | Extended DNS Errors passed on | `dns::response::MAX_EDES` of `dns::response::MAX_EDE_TEXT` octets | the rest is left out | |
//! | answers kept | `size_mib` of `[cache]` | the one least recently asked for is evicted (SIEVE) | `hostgate_cache_evictions_total` |
//!
//! # The disk
//!
//! | what | bound | when it is full | seen in |
//! |---|---|---|---|
//! | decision records not written yet | `telemetry::decision_log::pool::BLOCKS` of 128 KiB, and one more for each of `telemetry::decision_log::BUFFERS_PER_CPU` a CPU | dropped | `hostgate_decision_records_dropped_total` |
//! | hops of an alias in a record | `engine::decision_record::MAX_HOPS` | the rest is left out | |
//! | files below the policies directory | [`MAX_ENTRIES`], [`MAX_DEPTH`] deep | an error of the folder right below, or of the link by which it came; what was in force of it stays | `hostgate_reload_ok` |
//! | entries looked at behind links, to tell whether another policies directory has files | `reload::scan::MAX_PROBED` | it counts as without: `unreadable` | `hostgate_out_of_date{kind="unreadable"}` |
//! | a reload | ten seconds; twenty for a client whose change has begun | it goes on, and the status says so; changes are refused: 503 | `hostgate_reload_stuck`, `/readyz` |
//! | a write of an API's file | five seconds; ten if the file is being replaced | given up, and others are refused: 503 | `hostgate_out_of_date{kind="stuck"}` |
//! | octets of a file | [`MAX_FILE`] | an error in this file; its last good version stays | the same |
//! | tables of a policy file | [`MAX_TABLES`] | as above | the same |
//! | policies, blueprints and clients in all | [`MAX_OBJECTS`] | an error of the changed files that add most | the same |
//! | memory that the files of a reload take while they are loaded | `reload::weight`: what is left of the limits of the process, of its control groups and of the machine | as above, for the files that do not fit beside the others; they are tried again | the same |
//! | errors, and warnings of a kind, reported of a file | `document::findings::KEPT` | counted, "and N more" | |
//! | errors of single files, reported in all | `policy::load::report::MAX_ERRORS`; after a quarter one of each file | files are counted | |
//! | errors of files that conflict, reported in all and of one file | `policy::load::conflict::MAX_CONFLICTS`, `policy::load::conflict::MAX_CONFLICTS_OF_FILE` | counted, "and N more" | |
//! | references to objects whose file is gone, reported as what the next start refuses | `policy::load::full::MAX_DANGLING` | the rest is left out | `hostgate_out_of_date{kind="next-start"}` |
//! | ids compared with an unknown one | `policy::load::conflict::MAX_COMPARISONS` | no suggestion | |
//! | rounds in which conflicting files are taken back | `policy::load::full::MAX_ROUNDS` | all that hangs together with a conflict is held back | `hostgate_reload_ok` |
//! | references that the next start would refuse | `policy::load::full::MAX_DANGLING` | the rest is left out | `hostgate_out_of_date{kind}` |
//! | failing tests that are reported | `policy::load::file_tests::MAX_REPORTED` | the rest of a file with one is not run, and is counted | `hostgate_out_of_date{kind}` |
//! | list files that a key of a policy names | [`MAX_LISTS`] | an error | the same |
//! | entries compared with those of list files | `policy::load::lint::contradictions::MAX_COMPARED` | a warning | |
//! | entries of list files and includes compared with what a policy denies | `policy::load::lint::contradictions::MAX_FOREIGN` | of more, only those that its own entries deny exactly are reported | |
//! | octets of errors, of warnings and of held back files in the status and a line of the log | [`MAX_TOLD_ERRORS`], [`MAX_TOLD_WARNINGS`], [`MAX_TOLD_FILES`], each line [`MAX_TOLD_LINE`] | counted, "and N more" | |
//! | clients without a policy that the status names | `reload::report::MOST_NAMED` | counted | |
//! | log lines a minute about upstreams that stop answering or answer again | [`MAX_OUTAGE_LINES`] | counted in the next line | `hostgate_upstream_outages_total{server}` |
//! | upstreams in the status | [`MAX_TOLD_UPSTREAMS`] | the rest is left out | `hostgate_upstream_up{server}` |
//! | listening addresses in the status | [`MAX_TOLD_ADDRESSES`] | the rest is left out, and `more` | |
//! | warnings that a reload writes to the log | [`MAX_LOGGED`] | counted in one more line | |
//! | log lines a minute about the results of SIGHUPs | [`MAX_ASKED_LINES`] | counted in the next one | `hostgate_reload_failures_total` |
//! | entries about out-of-date files in the status, octets of the path and of the reason of each | [`MAX_OUT_OF_DATE`], [`MAX_OUT_OF_DATE_TEXT`] | counted | `hostgate_out_of_date{kind}` |
//! | files compared with what was read at a time, four times a second | [`MAX_COMPARED_AT_ONCE`] | the rest is compared later; events tell of changes in time | |
//! | octets of the policy files, and of the lists, in the last good state on disk | [`MAX_LAST_GOOD`], [`MAX_LAST_GOOD_LISTS`] | the previous state stays, which is reported | `hostgate_out_of_date{kind="not-kept"}` |
//! | changed files that a start from the last good state tries one by one, if a test in force fails | `policy::load::resume::MOST_TRIED` | the others are held back together | `hostgate_out_of_date{kind="held-back"}` |
//! | addresses of an object whose file is gone, in the report of that | `reload::held_objects::MOST_SHOWN` | left out | |
//! | files remembered as being written to | [`MAX_WRITING`] | a reload does not wait for writers | |
//! | changed files remembered between reloads | [`MAX_CHANGED`] | everything is read again | |
//!
//! # The API
//!
//! | what | bound | when it is full | seen in |
//! |---|---|---|---|
//! | connections not accepted yet | [`TCP_BACKLOG`], as far as the kernel grants it | the kernel lets them try again | |
//! | connections | [`CONTROL_CONNECTIONS`], of which [`MAX_CLOSING`] may be closing | one without a request that was let in is closed: the oldest of the address that has most without a token, then one of the token that has most; with none, the new one waits | `hostgate_control_connections`, `hostgate_control_closed_total{reason="room"}` |
//! | of those, with requests under way that were let in; with requests that wait for a status | [`BUSY_CONNECTIONS`], [`WAITING_CONNECTIONS`]; each by token | the request waits ten seconds at most: 503; a connection of the same token that has waited for longest is answered early: 408, and where none has waited for a second, the new one is refused: 503 | `hostgate_control_requests_total{outcome="busy"}` |
//! | requests under way, the octets of their answers not taken yet | [`MAX_REQUESTS`], [`MAX_ANSWERS`]; each by token | refused: 503; the next one waits ten seconds at most: 503 | the same |
//! | reservations of one of these that wait | [`MAX_WAITING_RESERVATIONS`]; by token | refused: 503 | the same |
//! | refusals of a connection not taken yet | [`MAX_REFUSED`] | the connection is closed | `hostgate_control_closed_total{reason="room"}` |
//! | requests at once of an HTTP/2 connection | [`MAX_STREAMS`] | refused, the client waits | |
//! | octets of a head, its fields | [`MAX_HEAD`], [`MAX_HEADERS`] | refused: 431 | |
//! | octets of a body | [`MAX_BODY`], [`MAX_SMALL_BODY`] where nothing is changed | refused: 413 | `hostgate_control_requests_total{outcome="too-large"}` |
//! | octets of all bodies | [`MAX_BODIES`]; by token | the next one waits ten seconds at most: 408 | `hostgate_control_requests_total{outcome="slow"}` |
//! | octets that a parsed body takes, and all of them together | `api::request::json::MAX_TREE`, [`MAX_PARSED`]; by token | refused: 400; the next one waits ten seconds at most: 503 | `hostgate_control_requests_total{outcome="busy"}` |
//! | the first request and a head, a body, an answer not taken, silence; an answer in all | five, ten, ten, sixty seconds; two minutes | closed (a body: 408) | `hostgate_control_closed_total{reason="slow"}` |
//! | requests that change something | [`MAX_CHANGING`]; by token | the next one waits ten seconds at most: 503 | `hostgate_control_requests_total{outcome="busy"}` |
//! | changes being made | [`MAX_WRITERS`] | the next one of each token waits thirty seconds at most: 503 | the same |
//! | requests that read something | [`MAX_READING`]; by token | the next one waits ten seconds at most: 503 | the same |
//! | requests that wait for a status | [`MAX_WAITING`]; by token | as the connections that do | the same |
//! | policy files, when the API makes one more | [`MAX_MADE`] | refused: 400 | |
//! | threads that read files for answers | [`MAX_READERS`]; by token | the next one waits ten seconds at most: 503 | `hostgate_control_requests_total{outcome="busy"}` |
//! | octets of an object's file, as clients make it | [`MAX_OBJECT`] | refused: 400 | |
//! | reads of the token file, the certificate and, for the status, both | [`MAX_LOOKS`] of each kind that wait, for two seconds | refused: 503; the certificate in force is used; the status says so | `control.error` in the status |
//! | audit records not written yet | [`MAX_AUDIT_QUEUE`]; a change waits two seconds for its own | counted, and the log has it; with `audit_required`, refused before anything is changed: 503 | `hostgate_audit_failures_total` |
//! | changes that wait to be made | [`MAX_CHANGE_QUEUE`] | refused: 503 | |
//! | octets of a file of tokens, a certificate, a key | [`MAX_SECRET`] | an error | |
//! | objects of a page, octets of it | `api::request::list::MAX_PAGE`, [`MAX_PAGE_OCTETS`] and one object | refused: 400; the rest is on the next page | |
//! | addresses passed over in a pool as this machine's own | `api::objects::address::MOST_RESERVED` | refused: 400, as if all were in use | |
//! | names of a policy that a person wrote, as shown | `api::objects::egress::MOST_SHOWN` | the rest is left out | |
//! | addresses of a client that a person wrote, as shown | `api::objects::address::MOST_SHOWN` | the rest is left out | |
//! | users of an object, errors of a file, errors of a request, that a message names | `api::objects::MOST_NAMED`, `api::objects::writer::MOST_TOLD`, `api::request::fields::MOST_ERRORS` | counted, or left out | |
//! | builds at once, and those that wait | [`MAX_BUILDS`], [`MAX_BUILD_QUEUE`] | the next ones wait; then refused: 503 | |
//! | octets of a build's output, and of a line of it | [`MAX_BUILD_LOG`], [`MAX_BUILD_LINE`] | the oldest lines go; the rest of the line | |
//! | builds whose output is kept | [`MAX_BUILD_LOGS`] | the oldest one's is deleted | |
//! | devboxes that were shut down | [`MAX_SHUT_DOWN`], and `forget_after` of `[control]` | the oldest one's file is removed | |
//! | requests that may come again, and octets of their answers | [`MAX_RETRIES`], [`MAX_RETRY_OCTETS`]; each by token | the oldest of the token is forgotten, and would be done again | |
//!
//! # Operators
//!
//! | what | bound | when it is full | seen in |
//! |---|---|---|---|
//! | connections to the admin endpoint | [`ADMIN_CONNECTIONS`], and [`MAX_ADMIN_CLOSING`] that are closing; five seconds for a head, a minute each | the longest idle or half-sent one of the address that has most is closed | |
//! | descriptors in reserve to accept connections to the admin endpoint with, and as many for the API | [`MAX_ACCEPT_RESERVE`] | with no other descriptor left, a further connection takes the place of one without a request, or waits | |
//! | sockets of a take-over, octets of what is said about the texts in force | [`MAX_PASSED`], [`MAX_SERVED`] | refused; the old one serves on | |
//! | octets of log lines that standard error has not taken yet | [`MAX_LOG_QUEUE`], and as many being written | further lines are dropped, and their number is written once it is read again | `hostgate_log_lines_dropped_total` |
//! | octets that `hostgate status` reads | [`MAX_STATUS`] | an error | |
//! | octets of a file that `hostgate import` reads; lists and maps within one another there | [`MAX_FILE`]; `import::yaml::MAX_NESTING` | an error | |
//! | octets of an answer that the commands for objects read | [`MAX_API_ANSWER`] | an error | |
//! | attempts of `hostgate policy update` while others change the policy | [`MAX_REPEATED_CHANGES`] | an error | |

pub(crate) mod capacity;
pub(crate) mod machine;

/// The size to ask for as buffer of each direction of a UDP socket, in octets; the kernel may grant less
/// (`net.core.rmem_max`, `wmem_max`).
///
/// Replies to neighbours that do not exist stay in the send buffer for seconds, until ARP or neighbour discovery fails:
/// the buffer has to hold more of them than a client can cause in that time.
pub(crate) const UDP_BUFFER: usize = 4 << 20;

/// Policy files at most when the API adds one. It is below [`MAX_ENTRIES`], the files and folders that a start reads.
pub(crate) const MAX_MADE: usize = 190_000;

/// Changes of policy files by the API that may wait for one another.
pub(crate) const MAX_CHANGE_QUEUE: usize = 1_024;

/// Requests to look at files of one kind that wait for the thread that does so.
pub(crate) const MAX_LOOKS: usize = 1_024;
/// Audit records that may wait for the disk.
pub(crate) const MAX_AUDIT_QUEUE: usize = 1_024;

/// Connections to the API at once.
pub(crate) const CONTROL_CONNECTIONS: usize = 1_024;
/// Of those, connections being closed to make way for others.
pub(crate) const MAX_CLOSING: usize = 128;
/// Of all, connections with admitted requests under way: the others can be closed for a new one.
pub(crate) const BUSY_CONNECTIONS: usize = 256;
/// Requests to the API under way, from their heads until their clients have the answers.
pub(crate) const MAX_REQUESTS: usize = 4_096;
/// Octets of answers of the API that their clients have not taken yet.
pub(crate) const MAX_ANSWERS: usize = 64 << 20;
/// Reservations of one of the API's capacities that wait for it.
pub(crate) const MAX_WAITING_RESERVATIONS: usize = 4_096;
/// Refusals of a connection to the API that its client has not taken yet.
pub(crate) const MAX_REFUSED: usize = 32;
/// Concurrent requests of one HTTP/2 connection to the API: clients wait for many devboxes over one connection.
pub(crate) const MAX_STREAMS: u32 = 128;
/// Octets of a request's head, and what is read ahead of a connection to the API.
pub(crate) const MAX_HEAD: usize = 16 << 10;
/// Fields of a request's head.
pub(crate) const MAX_HEADERS: usize = 64;
/// Octets of a request's body.
pub(crate) const MAX_BODY: usize = 1 << 20;
/// Octets of the body of a request that changes nothing. A token that may only read cannot make the API parse more.
pub(crate) const MAX_SMALL_BODY: usize = 4 << 10;
/// Octets of the bodies of all requests that run.
pub(crate) const MAX_BODIES: usize = 16 << 20;
/// Octets that the parsed bodies of all requests take: a hostile one takes ten times its text.
pub(crate) const MAX_PARSED: usize = 64 << 20;
/// Requests that change something at once; each runs to its end even if its client disconnects.
pub(crate) const MAX_CHANGING: usize = 1_024;
/// Requests that read something at once: a long list takes megabytes.
pub(crate) const MAX_READING: usize = 16;
/// Files read at once for answers. A parsed file takes up to a hundred times its size in memory; one token can read two
/// at a time.
pub(crate) const MAX_READERS: usize = 3;
/// Changes that are made at once: each one builds on the one before.
pub(crate) const MAX_WRITERS: usize = 1;
/// Octets of the file of an object, as clients of the API make it.
pub(crate) const MAX_OBJECT: usize = 2 << 20;
/// Octets of a page of objects, not counting the last one.
pub(crate) const MAX_PAGE_OCTETS: usize = 4 << 20;
/// Connections to the API with requests that wait for a status; the rest is for requests answered at once.
pub(crate) const WAITING_CONNECTIONS: usize = CONTROL_CONNECTIONS / 2;
/// Requests that wait for a status at once; one HTTP/2 connection may have many.
pub(crate) const MAX_WAITING: usize = 1_024;
/// Octets of a file of tokens, of a certificate or of a key.
pub(crate) const MAX_SECRET: u64 = 1 << 20;
/// Builds of blueprints at once.
pub(crate) const MAX_BUILDS: usize = 4;
/// Builds that wait for one of the [`MAX_BUILDS`] to end.
pub(crate) const MAX_BUILD_QUEUE: usize = 64;
/// Octets kept of a build's output.
pub(crate) const MAX_BUILD_LOG: usize = 128 << 10;
/// Octets of one line of a build's output.
pub(crate) const MAX_BUILD_LINE: usize = 4 << 10;
/// Builds whose output is kept.
pub(crate) const MAX_BUILD_LOGS: usize = 64;
/// Devboxes that were shut down and can still be shown.
pub(crate) const MAX_SHUT_DOWN: usize = 10_000;
/// Requests to the API whose answers are kept for a retry with the same idempotency key.
pub(crate) const MAX_RETRIES: usize = 20_000;
/// Octets of the answers kept for retries, all together.
pub(crate) const MAX_RETRY_OCTETS: usize = 32 << 20;

/// Queries that may wait for upstreams at once; further ones are answered SERVFAIL, or with stale data.
pub(crate) const MAX_PENDING: usize = 16_384;
/// Of those, the queries of one client; further ones are answered in the same way.
pub(crate) const MAX_PENDING_OF_CLIENT: usize = MAX_PENDING / 8;
/// Answers renewed ahead of their expiry at once; further ones expire, and are asked for at the next query.
pub(crate) const MAX_RENEWALS: usize = MAX_PENDING / 16;
/// Different questions asked of upstreams at once: as many as there can be waiting queries and renewals, so that only
/// the clients' shares limit them.
pub(crate) const MAX_QUESTIONS: usize = MAX_PENDING + MAX_RENEWALS;
/// Queries that wait for the same question, including the first.
pub(crate) const MAX_ASKERS: usize = 2000;
/// Questions asked at once over TCP, or over UDP after a first try without an answer: each takes sockets of its own.
pub(crate) const MAX_ASKING: usize = 384;
/// Of those, the questions of one client: its share when it is alone, so that queries that a forger drives to TCP do
/// not fail for lack of a socket.
pub(crate) const MAX_ASKING_OF_CLIENT: usize = MAX_ASKING / 2;

/// Clients whose use of a budget is remembered, mostly in less than 2 KiB each and in 32 KiB at most; the least
/// recently seen client is forgotten first.
pub(crate) const MAX_LEDGERS: usize = 4096;
/// Wildcards and domains of one client with a budget each; all further ones share one.
pub(crate) const MAX_ALLOWANCES: usize = 256;
/// Log lines a minute about spent budgets.
pub(crate) const MAX_BUDGET_LINES: usize = 20;

/// UDP sockets, and so source ports, that a thread has to one upstream.
pub(crate) const MAX_UPSTREAM_PORTS: usize = 16;

/// Clients of a thread that have an upstream socket of their own.
pub(crate) const MAX_APART: usize = 64;
/// UDP sockets to upstreams for questions outside of the threads' own sockets: half of the usual 1,024 file
/// descriptors. Three quarters are for first tries, of which there are at most [`MAX_ASKING`].
pub(crate) const MAX_UPSTREAM_SOCKETS: usize = 512;
/// TCP connections to one upstream: one shared by all questions, and others for questions repeated because that one
/// closed or stalled.
pub(crate) const MAX_UPSTREAM_STREAMS: usize = 32;

/// Listeners with a thread on each CPU; if there are more, all of them share one thread a CPU.
pub(crate) const MAX_THREADED_LISTENERS: usize = 8;

/// Connections that the kernel queues before they are accepted.
pub(crate) const TCP_BACKLOG: i32 = 512;
/// TCP connections of clients at once, over all listeners. A client may have as many as are still free; for a further
/// one, its own connection that has been idle longest is closed (RFC 7766 §6.2.3), or the new one if none is idle.
pub(crate) const MAX_CONNECTIONS: usize = 1024;
/// Of those, connections for clients with fewer than [`GUARANTEED_CONNECTIONS`]. Without them, some clients whose
/// connections are all busy could shut out all others.
pub(crate) const RESERVED_CONNECTIONS: usize = MAX_CONNECTIONS / 8;
/// TCP connections that each client can have even if none is free, at the cost of an idle one of the client with most:
/// enough for the questions that a stub resolver asks at once, and for connections closed by the client but not yet by
/// us.
pub(crate) const GUARANTEED_CONNECTIONS: usize = 6;
/// Queries of one connection that wait for an upstream at once; at the limit, the connection is not read.
pub(crate) const MAX_PIPELINED: usize = 64;
/// Answers of one connection that its client has not taken yet, of up to 64 KiB each; at the limit, the connection is
/// not read and no answer is made for it.
pub(crate) const MAX_UNREAD: usize = 4;

/// The largest file read, in octets: a million hostnames take about a third of it.
pub(crate) const MAX_FILE: u64 = 64 << 20;
/// The depth of directories below the policies directory.
pub(crate) const MAX_DEPTH: usize = 32;
/// Files and directories read below the policies directory.
pub(crate) const MAX_ENTRIES: usize = 200_000;
/// Tables of one policy file: headers, inline tables and dotted keys. Loading so many takes a second or two, and some 200
/// MiB.
pub(crate) const MAX_TABLES: u64 = 100_000;
/// Policies, blueprints and clients of all files together: the [`MAX_MADE`] of the API, and more than as many that people
/// wrote.
pub(crate) const MAX_OBJECTS: usize = 400_000;
/// List files that one key of a policy names.
pub(crate) const MAX_LISTS: usize = 1_000;
/// Octets of the errors in `/status` and in a line of the log.
pub(crate) const MAX_TOLD_ERRORS: usize = 14 << 10;
/// Octets of the warnings in `/status`.
pub(crate) const MAX_TOLD_WARNINGS: usize = 8 << 10;
/// Octets of the names of held back files in `/status` and in a line of the log.
pub(crate) const MAX_TOLD_FILES: usize = 4 << 10;
/// Upstreams in `/status`; the metrics have all of them.
pub(crate) const MAX_TOLD_UPSTREAMS: usize = 64;
/// Listening addresses that `/status` names.
pub(crate) const MAX_TOLD_ADDRESSES: usize = 256;
/// Log lines a minute about SIGHUPs that changed nothing or met the same error as before.
pub(crate) const MAX_ASKED_LINES: usize = 20;
/// Log lines a minute about upstreams that stop answering or answer again.
pub(crate) const MAX_OUTAGE_LINES: usize = 20;
/// Octets of a single error or warning in `/status`.
pub(crate) const MAX_TOLD_LINE: usize = 1 << 10;
/// Warnings that one reload writes to the log.
pub(crate) const MAX_LOGGED: usize = 100;
/// Octets of the policy files in the last good state that is kept on disk.
pub(crate) const MAX_LAST_GOOD: u64 = 64 << 20;
/// Octets of the list files in the last good state that is kept on disk.
pub(crate) const MAX_LAST_GOOD_LISTS: u64 = 256 << 20;
/// Entries about files that are out of date in `/status`.
pub(crate) const MAX_OUT_OF_DATE: usize = 16;
/// Octets of the path, and of the reason, of an entry about a file that is out of date.
pub(crate) const MAX_OUT_OF_DATE_TEXT: usize = 256;
/// Files compared with their last read content in one go, which takes some 4 ms.
pub(crate) const MAX_COMPARED_AT_ONCE: usize = 4_000;
/// Files remembered as being written to; with more, a reload does not wait for writers.
pub(crate) const MAX_WRITING: usize = 1024;
/// Changed files remembered between reloads; with more, a reload reads everything.
pub(crate) const MAX_CHANGED: usize = 1024;

/// Connections to the admin endpoint at once; for a further one, one without a request under way is closed.
pub(crate) const ADMIN_CONNECTIONS: usize = 256;
/// Connections to the admin endpoint that are being closed.
pub(crate) const MAX_ADMIN_CLOSING: usize = 128;
/// Descriptors reserved for connections to the admin endpoint, and as many for the API.
pub(crate) const MAX_ACCEPT_RESERVE: usize = 8;
/// Sockets that a successor takes over at most; 128 listeners of 64 threads have fewer.
pub(crate) const MAX_PASSED: usize = 16_384;
/// Octets of the hashes of the texts in force that a successor reads in a take-over.
pub(crate) const MAX_SERVED: u32 = 64 << 20;
/// Octets of log lines that wait for standard error, about 7,000 lines; as many more can be in the process of being
/// written.
pub(crate) const MAX_LOG_QUEUE: usize = 1 << 20;
/// The longest answer of the admin endpoint that `hostgate status` reads, in octets.
pub(crate) const MAX_STATUS: u64 = 16 << 20;
/// The longest answer of the API that the command line reads, in octets: a page of objects is a tenth of it.
pub(crate) const MAX_API_ANSWER: usize = 16 << 20;
/// Attempts of `hostgate policy update` to change a policy that others change at the same time.
pub(crate) const MAX_REPEATED_CHANGES: usize = 64;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// Constants whose names look like bounds of this table but are limits of the protocol, the kernel or a key's
    /// value, or the point at which a fast path ends.
    const NONE: &[(&str, &str)] = &[
        ("config", "MAX_THREADS"),
        ("config", "MAX_TTL"),
        ("dns::name", "MAX_LABEL"),
        ("dns::name", "MAX_LABELS"),
        ("dns::name", "MAX_NAME"),
        ("dns::response::casing", "MAX_LOWERED"),
        ("dns::response::parse", "MAX_TTL"),
        ("dns::response::one_pass", "MAX_RECORDS"),
        ("dns::response::one_pass::names", "MAX_NAMES"),
        ("dns::response::one_pass::names", "MAX_MESSAGE_LENGTH"),
        ("dns::response::tests", "MAX_LENGTH"),
        ("dns::response::inspection_cache", "MAX_UNCACHED"),
        ("dns::wire", "MAX_MESSAGE"),
        ("document::source", "MAX_LEN"),
        ("engine::cache", "MAX_SHARDS"),
        ("telemetry::decision_log::pool", "KEPT"),
        ("policy::load::conflict", "MOST_DEPTH"),
        ("policy::decide", "MOST_LABELS"),
        ("reload::disk_comparison", "MAX_CHANGES"),
        ("reload::files", "MAX_HOPS"),
        ("util::trusted_link", "MAX_HOPS"),
        ("listen::takeover", "BACKLOG"),
    ];

    /// Calls `see` with the path (from `root`) and the text of each Rust file below `directory`.
    fn walk(directory: &Path, root: &Path, see: &mut impl FnMut(&str, &str)) {
        for entry in std::fs::read_dir(directory).unwrap().map(Result::unwrap) {
            let path = entry.path();
            if path.is_dir() {
                walk(&path, root, see);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                see(name, &std::fs::read_to_string(&path).unwrap());
            }
        }
    }

    /// Returns the name of the bound that a line declares, or `None` if it declares none.
    fn bound(line: &str) -> Option<&str> {
        let (before, rest) = line.split_once("const ")?;
        let (name, rest) = rest.split_once(": ")?;
        let is_declaration = before.trim().is_empty() || before.trim().starts_with("pub");
        let is_number = ["usize", "u64", "u32", "u16", "i32"].iter().any(|kind| rest.starts_with(kind));
        let sounds = ["MAX_", "MOST_", "QUEUE", "BATCH", "BACKLOG", "KEPT", "BUFFER", "LIMIT", "CONNECTIONS", "BLOCKS"];
        let is_bound = sounds.iter().any(|sound| name.starts_with(sound) || name.ends_with(sound));
        (is_declaration && is_number && is_bound).then_some(name)
    }

    #[test]
    fn every_bound_is_in_the_table() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let mut declared = BTreeSet::new();
        walk(&root, &root, &mut |file, text| {
            let module = file.trim_end_matches(".rs").trim_end_matches("/mod").replace('/', "::");
            declared.extend(text.lines().filter_map(bound).map(|name| (module.clone(), name.to_owned())));
        });
        let none: BTreeSet<_> = NONE.iter().map(|(module, name)| ((*module).to_owned(), (*name).to_owned())).collect();
        let gone: Vec<_> = none.difference(&declared).collect();
        assert!(gone.is_empty(), "listed as no bound, and not in the sources: {gone:?}");
        let path = |(module, name): &(String, String)| {
            if module == "bounds" { name.clone() } else { format!("{module}::{name}") }
        };
        let declared: BTreeSet<String> = declared.difference(&none).map(path).collect();
        let is_constant = |word: &&str| {
            let name = word.rsplit("::").next().unwrap();
            name.len() > 1 && name.chars().all(|letter| letter.is_ascii_uppercase() || letter == '_')
        };
        let words =
            include_str!("mod.rs").lines().filter(|line| line.starts_with("//! |")).flat_map(|line| line.split('`'));
        let told: BTreeSet<String> = words.filter(is_constant).map(str::to_owned).collect();
        let (left_out, gone): (Vec<_>, Vec<_>) =
            (declared.difference(&told).collect(), told.difference(&declared).collect());
        assert!(
            left_out.is_empty() && gone.is_empty(),
            "left out of the table: {left_out:?}; not in the sources: {gone:?}"
        );
    }

    #[test]
    fn every_metric_named_in_the_table_exists() {
        let known = include_str!("../listen/admin/exposition.rs");
        for name in include_str!("mod.rs").lines().filter(|line| line.starts_with("//! |")).flat_map(|line| {
            line.split('`').filter(|part| part.starts_with("hostgate_")).map(|part| part.split('{').next().unwrap())
        }) {
            let base = name.trim_end_matches("_total");
            assert!(known.contains(&format!("\"{base}\"")), "{name}");
        }
    }

    #[test]
    fn one_client_can_never_use_a_whole_capacity() {
        const { assert!(MAX_UPSTREAM_SOCKETS / 4 * 3 >= MAX_ASKING) };
        const { assert!(MAX_PENDING_OF_CLIENT < MAX_PENDING && MAX_ASKING_OF_CLIENT < MAX_ASKING) };
        const { assert!(WAITING_CONNECTIONS + BUSY_CONNECTIONS < CONTROL_CONNECTIONS - MAX_CLOSING) };
    }
}
