//! The metrics in the Prometheus text format. Only this module uses prometheus-client.
//!
//! Names, labels and help texts are added when `/metrics` is read; the query path knows nothing of them.

use std::borrow::Cow;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric, NoLabelSet};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::registry::{Registry, Unit};
use serde::Serialize;

use crate::api;
use crate::dns::query::Transport;
use crate::labels::{Action, Origin, Reason};
use crate::reload::out_of_date::Kind;
use crate::telemetry::heartbeat;
use crate::telemetry::metrics::{FAILURES, LATENCY_BOUNDS, Metrics};
use crate::upstream;

/// The figures of a scrape that are not in [`Metrics`]: read from the parts that keep them.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gauges {
    /// The policy generation in force.
    pub(crate) generation: u64,
    /// The number of reloads since the start that put a new generation into force.
    pub(crate) reloads: u64,
    /// The number of reloads since the start that held a file back.
    pub(crate) reload_failures: u64,
    /// Whether everything on disk is in force.
    pub(crate) reload_ok: bool,
    /// Seconds since the reload under way began; 0 if there is none.
    pub(crate) reload_running: u64,
    /// Whether the reload under way hangs.
    pub(crate) reload_stuck: bool,
    /// The number of entries that are out of date and the age of the oldest one in seconds, for each of [`Kind::ALL`].
    pub(crate) out_of_date: [(u64, u64); Kind::ALL.len()],
    /// The number of answers in the cache.
    pub(crate) cache_entries: u64,
    /// The octets that the cache takes.
    pub(crate) cache_bytes: u64,
    /// The number of answers removed from the cache for others.
    pub(crate) cache_evictions: u64,
    /// The number of open TCP connections for queries.
    pub(crate) tcp_connections: u64,
    /// The numbers of TCP connections closed at a limit: idle ones in favour of new ones; new ones, because their
    /// client had its share and none was idle.
    pub(crate) tcp_closed: [u64; 2],
    /// The number of connections that the system did not let us accept.
    pub(crate) tcp_accepts_failed: u64,
    /// The number of queries that wait for an upstream.
    pub(crate) in_flight: u64,
    /// The number of decision records written.
    pub(crate) decisions_written: u64,
    /// The number of decision records lost.
    pub(crate) decisions_dropped: u64,
    /// The number of log lines lost.
    pub(crate) log_lines_dropped: u64,
    /// Whether standard error, the decision log and the audit file can be written; true for one that is not configured.
    pub(crate) logs_ok: [bool; 3],
    /// The number of threads that hang, for each of [`heartbeat::ThreadKind::ALL`].
    pub(crate) stalled: [u64; heartbeat::ThreadKind::ALL.len()],
    /// The numbers of policies, blueprints and clients in force.
    pub(crate) objects: [u64; 3],
}

/// The state and the counts of an upstream, for `/status` and `/metrics`.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct UpstreamState {
    /// The server, as configured.
    pub(crate) server: String,
    /// `up`, `down` after several failures in a row, or `new` before its first answer.
    pub(crate) state: &'static str,
    /// The time of the last change of `state` (RFC 3339, UTC).
    pub(crate) since: String,
    /// Whether the upstream is gone: it has not answered for longer than a question may wait.
    pub(crate) gone: bool,
    /// Whether names fail at it while it answers a probe: then the names are to blame, and no outage is reported.
    pub(crate) names_fail: bool,
    /// How the upstream fails: `unreachable`, `silent` or `failing`, with the interface of its address if that does
    /// not exist. Null unless the upstream is down or gone.
    pub(crate) trouble: Option<Cow<'static, str>>,
    /// The number of times that the upstream was gone.
    pub(crate) outages: u64,
    /// The smoothed round-trip time, in milliseconds; null before the first answer.
    pub(crate) rtt_ms: Option<f64>,
    /// The number of tries started.
    pub(crate) asked: u64,
    /// The number of tries with a usable answer, NXDOMAIN included.
    pub(crate) answered: u64,
    /// The number of tries that failed otherwise than by silence.
    pub(crate) failed: u64,
    /// The number of tries that timed out.
    pub(crate) silent: u64,
}

impl From<upstream::Status> for UpstreamState {
    fn from(status: upstream::Status) -> Self {
        let state = match (status.is_down, status.round_trip) {
            (true, _) => "down",
            (false, None) => "new",
            (false, Some(_)) => "up",
        };
        let since = jiff::SignedDuration::try_from(status.since).unwrap_or_default();
        let since = jiff::Timestamp::now().checked_sub(since).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        Self {
            server: status.server.to_string(),
            state,
            since: format!("{since:.0}"),
            gone: status.is_gone,
            names_fail: status.are_names_failing,
            trouble: (status.is_down || status.is_gone).then(|| status.reason()),
            outages: status.outages,
            rtt_ms: status.round_trip.map(|round_trip| round_trip.as_secs_f64() * 1000.0),
            asked: status.asked,
            answered: status.answered,
            failed: status.failed,
            silent: status.silent,
        }
    }
}

/// Writes all metrics in the Prometheus text format.
pub(crate) fn encode(
    metrics: &Metrics,
    gauges: &Gauges,
    upstreams: &[UpstreamState],
    control: &api::RequestCounts,
) -> Result<String, fmt::Error> {
    /// A collector that owns the values, as the registry requires `'static`.
    #[derive(Debug)]
    struct Scrape(Vec<Family>);
    impl Collector for Scrape {
        fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
            self.0.iter().try_for_each(|family| family.encode(&mut encoder))
        }
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Scrape(families(metrics, gauges, upstreams, control))));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry)?;
    Ok(text)
}

/// The labels of a sample, each with its value.
type Labels = Vec<(&'static str, String)>;

/// One metric with all its samples.
#[derive(Debug)]
struct Family {
    /// The name, without a counter's `_total` or a unit.
    name: &'static str,
    /// The HELP text; the encoder adds the full stop.
    help: &'static str,
    /// The samples, all of one type.
    samples: Samples,
}

/// The samples of a metric, by its type.
#[derive(Debug)]
enum Samples {
    /// Numbers that only increase.
    Counter(Vec<(Labels, u64)>),
    /// Numbers that increase and decrease.
    Gauge(Vec<(Labels, u64)>),
    /// Durations: their sum in seconds, and the number of those in each bucket.
    Latency(f64, Vec<u64>),
}

impl Family {
    /// Makes a counter without labels.
    fn counter(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, samples: Samples::Counter(vec![(Vec::new(), value)]) }
    }

    /// Makes a gauge without labels.
    fn gauge(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, samples: Samples::Gauge(vec![(Vec::new(), value)]) }
    }

    /// Writes the family in the text format.
    fn encode(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let (kind, unit) = match &self.samples {
            Samples::Counter(_) => (MetricType::Counter, None),
            Samples::Gauge(_) => (MetricType::Gauge, None),
            Samples::Latency(..) => (MetricType::Histogram, Some(&Unit::Seconds)),
        };
        let mut metric = encoder.encode_descriptor(self.name, self.help, unit, kind)?;
        match &self.samples {
            Samples::Counter(samples) => samples.iter().try_for_each(|(labels, value)| {
                let counter = ConstCounter::new(*value);
                if labels.is_empty() {
                    metric.encode_counter::<NoLabelSet, _, u64>(value, None)
                } else {
                    counter.encode(metric.encode_family(labels)?)
                }
            }),
            Samples::Gauge(samples) => samples.iter().try_for_each(|(labels, value)| {
                let value = i64::try_from(*value).unwrap_or(i64::MAX);
                if labels.is_empty() {
                    metric.encode_gauge(&value)
                } else {
                    metric.encode_family(labels)?.encode_gauge(&value)
                }
            }),
            Samples::Latency(sum, buckets) => {
                let bounds = LATENCY_BOUNDS.iter().copied().chain([f64::INFINITY]);
                let pairs: Vec<_> = bounds.zip(buckets.iter().copied()).collect();
                metric.encode_histogram::<NoLabelSet>(*sum, buckets.iter().sum(), &pairs, None)
            }
        }
    }
}

/// Returns all metrics with their current values. A test requires that the metrics page of the manual names each of
/// them.
fn families(
    metrics: &Metrics,
    gauges: &Gauges,
    upstreams: &[UpstreamState],
    control: &api::RequestCounts,
) -> Vec<Family> {
    let mut families = about_queries(metrics, gauges);
    families.extend(about_upstreams(metrics, upstreams));
    families.extend(about_state(gauges));
    families.extend(about_control(control));
    families
}

/// Returns the metric of TCP connections closed at a limit.
fn tcp_closed(gauges: &Gauges) -> Family {
    let reasons = ["idle", "client"].into_iter().zip(gauges.tcp_closed);
    let samples = reasons.map(|(reason, count)| (vec![("reason", reason.to_owned())], count)).collect();
    family(
        "hostgate_tcp_closed",
        "TCP connections closed at a limit: `idle` ones in favour of new ones, and new ones whose `client` had its share \
         while none was idle",
        Samples::Counter(samples),
    )
}

/// Returns the metrics of queries, the cache and TCP.
fn about_queries(metrics: &Metrics, gauges: &Gauges) -> Vec<Family> {
    let mut queries = Vec::new();
    for (index, counter) in metrics.queries.iter().enumerate() {
        let (rest, transport) = (index / Transport::ALL.len(), Transport::ALL[index % Transport::ALL.len()]);
        let (action, reason) = (Action::ALL[rest / Reason::ALL.len()], Reason::ALL[rest % Reason::ALL.len()]);
        // Combinations that have not occurred are left out: most never do, and would be hundreds of lines.
        if load(counter) > 0 {
            let labels = [("action", action.as_str()), ("reason", reason.as_str()), ("transport", transport.as_str())];
            queries.push((labels.map(|(name, value)| (name, value.to_owned())).to_vec(), load(counter)));
        }
    }
    let dropped = ["response", "short"].into_iter().zip(&metrics.dropped);
    let dropped = dropped.map(|(reason, counter)| (vec![("reason", reason.to_owned())], load(counter))).collect();
    let origin = |origin: Origin| load(&metrics.origins[origin.index()]);
    vec![
        family(
            "hostgate_queries",
            "Queries answered, by what was done, why, and over which transport",
            Samples::Counter(queries),
        ),
        family(
            "hostgate_dropped",
            "Messages dropped without an answer: responses, and fewer octets than a header",
            Samples::Counter(dropped),
        ),
        Family::counter("hostgate_cache_hits", "Answers from the cache", origin(Origin::Hit)),
        Family::counter("hostgate_cache_misses", "Answers fetched from an upstream", origin(Origin::Miss)),
        Family::counter(
            "hostgate_cache_stale",
            "Expired answers that were given because no upstream could answer",
            origin(Origin::Stale),
        ),
        Family::counter(
            "hostgate_cache_renewals",
            "Answers requested again shortly before they expired, because they are in use",
            load(&metrics.renewals),
        ),
        Family::gauge("hostgate_cache_entries", "Answers in the cache", gauges.cache_entries),
        Family::gauge("hostgate_cache_size_bytes", "Octets that the cache takes", gauges.cache_bytes),
        Family::counter(
            "hostgate_cache_evictions",
            "Answers removed from the cache to make room for others",
            gauges.cache_evictions,
        ),
        Family::counter(
            "hostgate_failed_answers",
            "Answers of SERVFAIL because no upstream could answer and the cache had no expired answer",
            load(&metrics.failed),
        ),
        Family::counter(
            "hostgate_cached_failures",
            "Answers of SERVFAIL because the upstreams had failed a moment before and were not asked again",
            load(&metrics.cached_failures),
        ),
        Family::counter(
            "hostgate_queries_turned_away",
            "Queries not forwarded because too many of their client, or of all clients, were waiting",
            load(&metrics.turned_away),
        ),
        Family::gauge("hostgate_queries_in_flight", "Queries waiting for an upstream", gauges.in_flight),
        Family::gauge("hostgate_tcp_connections", "Open TCP connections", gauges.tcp_connections),
        tcp_closed(gauges),
        Family::counter(
            "hostgate_tcp_accepts_failed",
            "TCP connections that the system did not let us accept, for example for lack of file descriptors",
            gauges.tcp_accepts_failed,
        ),
        Family::counter(
            "hostgate_queries_shed",
            "UDP queries dropped because their client used its share of a thread that cannot keep up",
            load(&metrics.shed),
        ),
        Family::counter(
            "hostgate_descriptors_lacking",
            "Sockets and connections for which the system had no file descriptor",
            load(&metrics.descriptors_lacking),
        ),
        Family::counter("hostgate_replies_unsent", "Replies that the kernel did not accept", load(&metrics.unsent)),
        Family::counter(
            "hostgate_panics",
            "Queries that made hostgate panic, which were answered SERVFAIL",
            load(&metrics.panics),
        ),
    ]
}

/// Returns the metrics of upstreams.
fn about_upstreams(metrics: &Metrics, upstreams: &[UpstreamState]) -> Vec<Family> {
    let by_server = |value: fn(&UpstreamState) -> u64| {
        upstreams.iter().map(|upstream| (vec![("server", upstream.server.clone())], value(upstream))).collect()
    };
    let failures = FAILURES.iter().zip(&metrics.upstream_failures);
    let failures = failures.map(|(kind, counter)| (vec![("kind", kind.as_str().to_owned())], load(counter))).collect();
    let latency = &metrics.latency;
    let sum = Duration::from_micros(load(&latency.sum_us)).as_secs_f64();
    vec![
        family(
            "hostgate_upstream_latency",
            "Time from sending an upstream a query to its answer",
            Samples::Latency(sum, latency.buckets.iter().map(load).collect()),
        ),
        family("hostgate_upstream_failures", "Failed tries at upstreams, by kind", Samples::Counter(failures)),
        Family::counter(
            "hostgate_upstream_ignored",
            "Datagrams from upstreams that were not the expected reply",
            load(&metrics.upstream_ignored),
        ),
        Family::counter(
            "hostgate_upstream_truncated",
            "Answers truncated over UDP, and requested again over TCP",
            load(&metrics.upstream_truncated),
        ),
        Family::counter(
            "hostgate_upstream_retransmissions",
            "Queries sent again over UDP because their answer took long",
            load(&metrics.upstream_retransmitted),
        ),
        Family::counter(
            "hostgate_upstream_other_case",
            "Replies with the name in another letter case than was sent: forged, or an upstream that does not keep it",
            load(&metrics.upstream_other_case),
        ),
        family("hostgate_upstream_tries", "Tries at each upstream", Samples::Counter(by_server(|up| up.asked))),
        family(
            "hostgate_upstream_answers",
            "Usable answers of each upstream, NXDOMAIN included",
            Samples::Counter(by_server(|up| up.answered)),
        ),
        family(
            "hostgate_upstream_up",
            "1 for an upstream that answers, 0 after several failures in a row",
            Samples::Gauge(by_server(|up| u64::from(up.state != "down"))),
        ),
        family(
            "hostgate_upstream_gone",
            "1 for an upstream that has not answered for longer than a query may wait, 0 for any other",
            Samples::Gauge(by_server(|up| u64::from(up.gone))),
        ),
        family(
            "hostgate_upstream_names_fail",
            "1 for an upstream that answers a probe and has answered none of the last names asked, so that the names are to blame",
            Samples::Gauge(by_server(|up| u64::from(up.names_fail))),
        ),
        family(
            "hostgate_upstream_outages",
            "Number of times that each upstream was gone",
            Samples::Counter(by_server(|up| up.outages)),
        ),
        Family::gauge(
            "hostgate_upstream_ok",
            "1 when an upstream can be asked, 0 when there is none or all are gone",
            u64::from(!upstreams.iter().all(|up| up.gone)),
        ),
    ]
}

/// Returns the metrics of the policies in force, reloads, threads and logs.
fn about_state(gauges: &Gauges) -> Vec<Family> {
    let objects = ["policies", "blueprints", "clients"].into_iter().zip(gauges.objects);
    let objects = objects.map(|(kind, count)| (vec![("kind", kind.to_owned())], count)).collect();
    let logs_ok = ["lines", "decisions", "audit"].into_iter().zip(gauges.logs_ok);
    let logs_ok = logs_ok.map(|(log, is_ok)| (vec![("log", log.to_owned())], u64::from(is_ok))).collect();
    let stalled = heartbeat::ThreadKind::ALL.into_iter().zip(gauges.stalled);
    let stalled = stalled.map(|(kind, count)| (vec![("thread", kind.as_str().to_owned())], count));
    vec![
        Family::gauge("hostgate_generation", "The policy generation in force", gauges.generation),
        family("hostgate_objects", "Objects of the policy files in force", Samples::Gauge(objects)),
        Family::counter("hostgate_reloads", "Reloads that put a new generation into force", gauges.reloads),
        Family::counter("hostgate_reload_failures", "Reloads that held back at least one file", gauges.reload_failures),
        Family::gauge(
            "hostgate_reload_ok",
            "1 when everything on disk is in force, 0 when a file is held back",
            u64::from(gauges.reload_ok),
        ),
        Family::gauge(
            "hostgate_reload_running_seconds",
            "Seconds since the reload or API change under way began, 0 when there is none",
            gauges.reload_running,
        ),
        Family::gauge(
            "hostgate_reload_stuck",
            "1 when a reload or API change hangs, so that nothing new goes into force",
            u64::from(gauges.reload_stuck),
        ),
        out_of_date(
            "hostgate_out_of_date",
            "Entries of the status that are out of date, or may be for some seconds (`polling`), by kind",
            gauges.out_of_date.map(|(count, _)| count),
        ),
        out_of_date(
            "hostgate_out_of_date_seconds",
            "Seconds since the oldest of these entries went out of date, 0 when there is none",
            gauges.out_of_date.map(|(_, seconds)| seconds),
        ),
        Family::counter("hostgate_decision_records", "Decision records written", gauges.decisions_written),
        Family::counter(
            "hostgate_decision_records_dropped",
            "Decision records lost because the buffers were full or the disk refused them",
            gauges.decisions_dropped,
        ),
        family(
            "hostgate_log_ok",
            "0 for the log lines on standard error, the decision log or the audit file while they cannot be written",
            Samples::Gauge(logs_ok),
        ),
        family("hostgate_thread_stalled", "Threads that hang, by their task", Samples::Gauge(stalled.collect())),
        Family::counter(
            "hostgate_log_lines_dropped",
            "Log lines lost because nobody read standard error, or it could not be written",
            gauges.log_lines_dropped,
        ),
    ]
}

/// Makes a gauge with a sample for each kind of entry that is out of date.
fn out_of_date(name: &'static str, help: &'static str, values: [u64; Kind::ALL.len()]) -> Family {
    let samples = Kind::ALL.iter().zip(values).map(|(kind, value)| (vec![("kind", kind.as_str().to_owned())], value));
    family(name, help, Samples::Gauge(samples.collect()))
}

/// Returns the metrics of the API.
fn about_control(control: &api::RequestCounts) -> Vec<Family> {
    let by = |label: &'static str, counts: &mut dyn Iterator<Item = (&'static str, u64)>| {
        Samples::Counter(counts.map(|(value, count)| (vec![(label, value.to_owned())], count)).collect())
    };
    vec![
        family(
            "hostgate_control_requests",
            "Requests to the API, by outcome",
            by("outcome", &mut control.requests_by_outcome()),
        ),
        Family::gauge("hostgate_control_connections", "Open connections to the API", control.open()),
        family(
            "hostgate_control_closed",
            "Connections to the API closed before their client closed them: to make `room` for a new one, or because the \
             client was too `slow`",
            by("reason", &mut control.closed_by_reason()),
        ),
        Family::counter(
            "hostgate_audit_failures",
            "Changes by the API whose record was not in the audit file when they were answered",
            control.audit_failures(),
        ),
    ]
}

/// Makes a metric of samples with labels.
fn family(name: &'static str, help: &'static str, samples: Samples) -> Family {
    Family { name, help, samples }
}

/// Returns the value of a counter.
fn load(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::{Event, FailureKind, Observer as _};

    #[test]
    fn counters_come_out_under_their_documented_names() {
        let metrics = Metrics::default();
        metrics.query(Action::Deny, Reason::NotListed, Transport::Tcp);
        metrics.dropped_short();
        metrics.origin(Origin::Stale);
        metrics.observe(Event::Answered(upstream::Transport::Udp, Duration::from_millis(3)));
        metrics.observe(Event::Answered(upstream::Transport::Tcp, Duration::from_mins(1)));
        metrics.observe(Event::Failed(FailureKind::Timeout));
        let upstream = UpstreamState {
            server: "192.0.2.1:53".into(),
            state: "down",
            since: String::new(),
            gone: true,
            names_fail: false,
            trouble: Some("silent".into()),
            outages: 2,
            rtt_ms: None,
            asked: 2,
            answered: 1,
            failed: 0,
            silent: 1,
        };
        let text = encode(
            &metrics,
            &Gauges { generation: 7, ..Gauges::default() },
            &[upstream],
            &api::RequestCounts::default(),
        )
        .unwrap();
        for line in [
            r#"hostgate_queries_total{action="deny",reason="not-listed",transport="tcp"} 1"#,
            r#"hostgate_dropped_total{reason="short"} 1"#,
            "hostgate_cache_stale_total 1",
            "hostgate_generation 7",
            r#"hostgate_upstream_latency_seconds_bucket{le="0.005"} 1"#,
            r#"hostgate_upstream_latency_seconds_bucket{le="+Inf"} 2"#,
            "hostgate_upstream_latency_seconds_count 2",
            "hostgate_upstream_latency_seconds_sum 60.003",
            r#"hostgate_upstream_failures_total{kind="timeout"} 1"#,
            r#"hostgate_upstream_up{server="192.0.2.1:53"} 0"#,
            r#"hostgate_upstream_gone{server="192.0.2.1:53"} 1"#,
            r#"hostgate_upstream_outages_total{server="192.0.2.1:53"} 2"#,
            "hostgate_upstream_ok 0",
        ] {
            assert!(text.lines().any(|had| had == line), "{line} not in:\n{text}");
        }
    }
}
