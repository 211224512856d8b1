//! How long the parts of the hot path take, one after the other, on one core: `cargo bench --bench micro`.
//!
//! Each part is done in batches of a round; what is printed is the median batch and the fastest one, in nanoseconds
//! per query. Without `--bench` (as `cargo test --all-targets` runs it) each part is done once, to see that it works.

use std::hint::black_box;
use std::time::{Duration, Instant};

use hostgate::dns::answer::{self, Ede, Negative, TtlMode};
use hostgate::dns::query::{self, Transport};
use hostgate::engine::cache::Hit;
use hostgate::fair_share::Holder;
use hostgate::policy;

use fixture::{CLIENT, Fixture, INSPECTED, ROUND, decision_log, parsed, record};

mod fixture;

/// How long each part is done.
const SPENT: Duration = Duration::from_millis(500);
/// Numbers of hostnames in the policy: a walk of labels should not feel them.
const HOSTNAMES: &[usize] = &[1_000, 100_000, 1_000_000];

fn main() {
    let measures = std::env::args().any(|word| word == "--bench");
    for &hostnames in HOSTNAMES {
        for with_opt in [false, true] {
            // The number of hostnames is no business of EDNS.
            if with_opt && hostnames != HOSTNAMES[0] {
                continue;
            }
            let fixture = Fixture::new(hostnames, with_opt);
            parts(
                &fixture,
                measures,
                &format!("{hostnames:>7} hostnames, {} OPT", if with_opt { "with" } else { "no" }),
            );
            if !measures {
                return;
            }
        }
    }
}

/// Does every part.
fn parts(fixture: &Fixture, measures: bool, setting: &str) {
    let Fixture { snapshot, cache, allowed, denied, heavy } = fixture;
    let asker = snapshot.asker(CLIENT, 0);
    let mut out = Vec::with_capacity(1232);
    let mut part = |title: &str, work: &mut dyn FnMut(usize, &mut Vec<u8>)| {
        measure(measures, &format!("{setting}: {title}"), &mut |index| work(index, &mut out));
    };
    let allowed_queries: Vec<_> = allowed.iter().map(|message| parsed(message)).collect();
    let denied_queries: Vec<_> = denied.iter().map(|message| parsed(message)).collect();
    let questions: Vec<_> = allowed_queries.iter().map(query::Query::to_question).collect();

    part("parse", &mut |index, _| {
        black_box(query::parse(black_box(&allowed[index])));
    });
    part("client", &mut |_, _| {
        black_box(snapshot.asker(black_box(CLIENT), 0));
    });
    part("decide, allowed", &mut |index, _| {
        let query = black_box(&allowed_queries[index]);
        black_box(policy::decide(&asker, &query.qname, query.qtype));
    });
    part("decide, denied", &mut |index, _| {
        let query = black_box(&denied_queries[index]);
        black_box(policy::decide(&asker, &query.qname, query.qtype));
    });
    part("write a denial", &mut |index, out| {
        let query = black_box(&denied_queries[index]);
        let ede = Ede { code: Ede::BLOCKED, text: "denied by policy p: the name is not in its allowed_hostnames" };
        answer::negative(query, Negative::NxDomain, 5, Some(ede), query.payload_limit(Transport::Udp), out);
    });
    part("find in the cache", &mut |index, _| {
        black_box(cache.get(black_box(&questions[index]), Holder::NOBODY, Duration::from_secs(1)));
    });
    part("find and write a hit", &mut |index, out| {
        let query = black_box(&allowed_queries[index]);
        if let Hit::Fresh { response, .. } = cache.get(&questions[index], Holder::NOBODY, Duration::from_secs(1)) {
            let limit = query.payload_limit(Transport::Udp);
            answer::from_response(query, &response, TtlMode::Aged(1), None, limit, out);
        }
    });
    // The writer's part runs beside it, on another core where there is one.
    let ((log, _), since) = (decision_log(), Instant::now());
    let decided = |query: &query::Query<'_>| policy::decide(&asker, &query.qname, query.qtype);
    let denials: Vec<_> = denied_queries.iter().map(decided).collect();
    let hits: Vec<_> = allowed_queries.iter().map(decided).collect();
    part("record a denial", &mut |index, _| {
        record(&log, black_box(&denied_queries[index]), asker, denials[index], since);
    });
    part("record a hit", &mut |index, _| {
        record(&log, black_box(&allowed_queries[index]), asker, hits[index], since);
    });
    part("all of a denial", &mut |index, out| {
        assert!(fixture.answer_to(CLIENT, Transport::Udp, black_box(&denied[index]), out));
    });
    part("all of a hit", &mut |index, out| {
        assert!(fixture.answer_to(CLIENT, Transport::Udp, black_box(&allowed[index]), out));
    });
    for (number, message) in heavy.iter().enumerate() {
        for transport in [Transport::Udp, Transport::Tcp] {
            part(&format!("hit on heavy answer {number}, {transport:?}"), &mut |_, out| {
                assert!(fixture.answer_to(INSPECTED, transport, black_box(message), out));
            });
        }
    }
}

/// Does some work in batches and prints how long one of it takes; once, and silently, when nothing is measured.
#[expect(clippy::print_stdout, reason = "this is what it is for")]
fn measure(measures: bool, title: &str, work: &mut dyn FnMut(usize)) {
    let mut batch = || {
        let start = Instant::now();
        (0..ROUND).for_each(&mut *work);
        start.elapsed()
    };
    if !measures {
        batch();
        return;
    }
    let (start, mut batches) = (Instant::now(), Vec::new());
    while start.elapsed() < SPENT {
        batches.push(batch());
    }
    batches.sort_unstable();
    let each = |batch: Duration| batch.as_nanos() / ROUND as u128;
    println!("{title:<50} {:>6} ns (best {})", each(batches[batches.len() / 2]), each(batches[0]));
}
