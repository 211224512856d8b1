//! The cache, told the time.

use super::*;
use crate::dns::name::LowerName;
use crate::dns::rtype::RecordType;

/// The holder of everything that has no other one.
const ONE: Holder = Holder::NOBODY;

/// Returns so many seconds.
const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Returns a question for an address of `name`, RD as stubs set it.
fn question(name: &str) -> Question {
    Question {
        qname: LowerName::from_text(name).unwrap(),
        qtype: RecordType::A,
        dnssec_ok: false,
        checking_disabled: false,
        authentic_data: false,
        recursion_desired: true,
        partition: 0,
    }
}

/// Returns the head of a reply to `question` with so many answer and authority records.
fn head(question: &Question, rcode: u8, answers: u8, authorities: u8) -> Vec<u8> {
    let mut message = vec![0, 1, 0x81, 0x80 | rcode, 0, 1, 0, answers, 0, authorities, 0, 0];
    message.extend(question.qname.as_wire());
    message.extend(question.qtype.0.to_be_bytes());
    message.extend([0, 1]);
    message
}

/// Returns an answer of one record with this TTL; its data are an address as well as a text.
fn positive(question: &Question, ttl: u32) -> Arc<Response> {
    let mut message = head(question, 0, 1, 0);
    message.extend([0xc0, 12]);
    message.extend(question.qtype.0.to_be_bytes());
    message.extend([0, 1]);
    message.extend(ttl.to_be_bytes());
    message.extend([0, 4, 3, b'a', b'b', b'c']);
    Arc::new(Response::parse(&message, question).unwrap())
}

/// Returns an answer without records but a SOA at the root with this TTL and MINIMUM.
fn negative(question: &Question, rcode: u8, ttl: u32, minimum: u32) -> Arc<Response> {
    let mut message = head(question, rcode, 0, 1);
    message.extend([0, 0, 6, 0, 1]);
    message.extend(ttl.to_be_bytes());
    message.extend([0, 22, 0, 0]);
    message.extend([0; 16]);
    message.extend(minimum.to_be_bytes());
    Arc::new(Response::parse(&message, question).unwrap())
}

/// Returns a cache of 64 KiB with a day's TTL at most and an hour of stale data.
fn cache() -> Cache {
    Cache::new(Settings { size: 64 << 10, max_ttl: secs(86_400), serve_stale: secs(3_600) })
}

/// Notes that a question failed.
fn fail(cache: &Cache, question: &Question, kind: FailureKind, now: Duration) {
    let failure = Failure { kind, is_passing: kind.is_absence(), response: None, detail: String::new() };
    cache.failed(question, &Arc::new(failure), ONE, now);
}

/// Returns a hit in short: `fresh AGE LEFT`, `renew LEFT`, `stale`, `stale lately`, `failed KIND` or `miss`.
fn short(hit: &Hit) -> String {
    match hit {
        Hit::Fresh { age, left, renewal: Renewal::No, .. } => format!("fresh {} {}", age.as_secs(), left.as_secs()),
        Hit::Fresh { left, renewal: Renewal::Due, .. } => format!("renew {}", left.as_secs()),
        Hit::Stale { refresh: Refresh::Due, .. } => "stale".to_owned(),
        Hit::Stale { refresh: Refresh::FailedLately, .. } => "stale lately".to_owned(),
        Hit::Failed(failure) => format!("failed {}", failure.kind.as_str()),
        Hit::Lapsed { .. } => "lapsed".to_owned(),
        Hit::Miss => "miss".to_owned(),
    }
}

#[test]
fn an_answer_is_fresh_for_its_ttl_then_stale_then_gone() {
    const CASES: &[(u64, &str)] =
        &[(100, "fresh 0 300"), (399, "renew 1"), (400, "stale"), (3_999, "stale"), (4_000, "miss"), (100, "miss")];
    let (cache, question) = (cache(), question("www.example"));
    assert_eq!(short(&cache.get(&question, ONE, secs(100))), "miss");
    cache.insert(&question, positive(&question, 300), ONE, secs(100));
    for &(now, expected) in CASES {
        assert_eq!(short(&cache.get(&question, ONE, secs(now))), expected, "at {now}");
    }
    assert_eq!(cache.stats(), Stats::default(), "what is too old is taken out");
}

#[test]
fn the_ttl_is_at_most_what_is_configured() {
    let (cache, question) = (cache(), question("www.example"));
    cache.insert(&question, positive(&question, 0x7fff_ffff), ONE, secs(0));
    assert_eq!(short(&cache.get(&question, ONE, secs(0))), "fresh 0 86400");
}

#[test]
fn negative_answers_are_kept_by_their_soa() {
    const CASES: &[(u8, u32, u32, &str)] = &[
        (3, 900, 60, "fresh 0 60"),
        (3, 30, 60, "fresh 0 30"),
        (0, 900, 120, "fresh 0 120"),
        (3, 0, 60, "lapsed"),
        (3, 60, 0, "lapsed"),
    ];
    for &(rcode, ttl, minimum, expected) in CASES {
        let (cache, question) = (cache(), question("www.example"));
        cache.insert(&question, negative(&question, rcode, ttl, minimum), ONE, secs(0));
        assert_eq!(short(&cache.get(&question, ONE, secs(0))), expected, "{rcode} {ttl} {minimum}");
    }
}

#[test]
fn an_answer_without_a_ttl_is_not_kept_nor_what_it_replaces() {
    let (cache, question) = (cache(), question("www.example"));
    cache.insert(&question, positive(&question, 300), ONE, secs(0));
    cache.insert(&question, positive(&question, 0), ONE, secs(1));
    assert_eq!(short(&cache.get(&question, ONE, secs(1))), "lapsed");
    assert_eq!(short(&cache.get(&question, ONE, secs(60))), "lapsed");
    assert_eq!(short(&cache.get(&question, ONE, secs(61))), "miss");
    assert_eq!(cache.stats().entries, 0, "and it is forgotten");
}

#[test]
fn an_answer_without_a_ttl_is_asked_for_eight_times_a_second_at_most() {
    let (cache, question) = (cache(), question("www.example"));
    let mut asked = 0;
    for step in 0..1000 {
        let now = Duration::from_millis(step * 10);
        match cache.get(&question, ONE, now) {
            Hit::Miss | Hit::Lapsed { .. } => {
                cache.insert(&question, positive(&question, 0), ONE, now);
                asked += 1;
            }
            hit => assert!(short(&hit).starts_with("fresh 0"), "{hit:?}"),
        }
    }
    assert_eq!(asked, 80);
}

#[test]
fn one_without_a_ttl_is_not_served_when_its_upstream_fails() {
    let (cache, question) = (cache(), question("www.example"));
    cache.insert(&question, positive(&question, 0), ONE, secs(0));
    fail(&cache, &question, FailureKind::ServFail, secs(2));
    assert_eq!(short(&cache.get(&question, ONE, secs(3))), "failed servfail");
}

#[test]
fn failures_are_not_kept_and_leave_what_was() {
    for rcode in [1, 2, 4, 5] {
        let (cache, question) = (cache(), question("www.example"));
        let failure = || Arc::new(Response::parse(&head(&question, rcode, 0, 0), &question).unwrap());
        cache.insert(&question, failure(), ONE, secs(0));
        assert_eq!(short(&cache.get(&question, ONE, secs(0))), "miss", "{rcode}");
        cache.insert(&question, positive(&question, 300), ONE, secs(0));
        cache.insert(&question, failure(), ONE, secs(500));
        assert_eq!(short(&cache.get(&question, ONE, secs(500))), "stale", "{rcode}");
    }
}

#[test]
fn a_refresh_that_failed_is_not_repeated_for_half_a_minute() {
    let (cache, question) = (cache(), question("www.example"));
    cache.insert(&question, positive(&question, 60), ONE, secs(0));
    fail(&cache, &question, FailureKind::ServFail, secs(59));
    assert_eq!(short(&cache.get(&question, ONE, secs(70))), "stale");
    fail(&cache, &question, FailureKind::ServFail, secs(72));
    assert_eq!(short(&cache.get(&question, ONE, secs(73))), "stale lately");
    assert_eq!(short(&cache.get(&question, ONE, secs(102))), "stale");
    fail(&cache, &question, FailureKind::ServFail, secs(102));
    cache.insert(&question, positive(&question, 60), ONE, secs(103));
    assert_eq!(short(&cache.get(&question, ONE, secs(104))), "fresh 1 59");
    assert_eq!(short(&cache.get(&question, ONE, secs(163))), "stale", "a new answer forgets the failure");
}

#[test]
fn an_answer_in_use_is_to_be_renewed_once_at_its_end() {
    // TTL, times of use, what the last one finds.
    const CASES: &[(u32, &[u64], &str)] = &[
        (100, &[5, 95], "renew 5"),
        (100, &[5, 89], "fresh 89 11"),
        (100, &[5, 90], "renew 10"),
        (100, &[95], "fresh 95 5"),
        (100, &[95, 96], "renew 4"),
        (100, &[5, 95, 96], "fresh 96 4"),
        (9, &[1, 8], "fresh 8 1"),
        (10, &[1, 9], "renew 1"),
    ];
    for &(ttl, uses, expected) in CASES {
        let (cache, question) = (cache(), question("www.example"));
        cache.insert(&question, positive(&question, ttl), ONE, secs(0));
        let found = uses.iter().map(|&now| short(&cache.get(&question, ONE, secs(now)))).last();
        assert_eq!(found.as_deref(), Some(expected), "{ttl} {uses:?}");
        cache.insert(&question, positive(&question, 100), ONE, secs(1000));
        assert_eq!(
            short(&cache.get(&question, ONE, secs(1095))),
            "fresh 95 5",
            "{ttl} {uses:?}: nobody used the new one"
        );
    }
}

#[test]
fn a_failure_is_kept_for_seconds_and_longer_each_time_in_a_row() {
    // RFC 9520 §3.2: 1 second to 5 minutes.
    const CASES: &[(FailureKind, [u64; 8])] = &[
        (FailureKind::ServFail, [5, 10, 20, 40, 60, 60, 60, 60]),
        (FailureKind::Refused, [5, 10, 20, 40, 60, 60, 60, 60]),
        (FailureKind::Timeout, [1, 2, 4, 8, 16, 32, 60, 60]),
        (FailureKind::Busy, [0; 8]),
        (FailureKind::NoUpstream, [0; 8]),
    ];
    for &(kind, lengths) in CASES {
        let (cache, question) = (cache(), question("www.example"));
        let kept = format!("failed {}", kind.as_str());
        let mut now = 0;
        for length in lengths {
            fail(&cache, &question, kind, secs(now));
            // One that was under way at the same time does not count.
            fail(&cache, &question, kind, secs(now));
            let until = (now..now + 90).find(|&now| short(&cache.get(&question, ONE, secs(now))) != kept);
            assert_eq!(until, Some(now + length), "{kind:?} at {now}");
            now += length + 30;
        }
        now += 100;
        fail(&cache, &question, kind, secs(now));
        assert_eq!(short(&cache.get(&question, ONE, secs(now + lengths[0]))), "miss", "{kind:?}: forgotten");
        cache.insert(&question, positive(&question, 60), ONE, secs(now));
        assert_eq!(short(&cache.get(&question, ONE, secs(now))), "fresh 0 60", "{kind:?}");
    }
}

#[test]
fn failures_of_silence_are_forgotten_when_an_upstream_returns_and_others_are_not() {
    let cache = cache();
    let (silent, refused) = (question("silent.example"), question("refused.example"));
    let mut now = 1;
    // An outage of a minute: 1, 2, 4, 8, 16 and 32 seconds.
    for _ in 0..6 {
        fail(&cache, &silent, FailureKind::Timeout, secs(now));
        while short(&cache.get(&silent, ONE, secs(now))) != "miss" {
            now += 1;
        }
    }
    fail(&cache, &silent, FailureKind::Timeout, secs(now));
    fail(&cache, &refused, FailureKind::Refused, secs(now));
    assert_eq!(short(&cache.get(&silent, ONE, secs(now + 1))), "failed timeout");
    cache.forget_silences(secs(now + 1));
    assert_eq!(short(&cache.get(&silent, ONE, secs(now + 1))), "miss");
    assert_eq!(short(&cache.get(&refused, ONE, secs(now + 1))), "failed refused");
    // What fails once more starts at the least time.
    fail(&cache, &silent, FailureKind::Timeout, secs(now + 1));
    assert_eq!(short(&cache.get(&silent, ONE, secs(now + 1))), "failed timeout");
    assert_eq!(short(&cache.get(&silent, ONE, secs(now + 2))), "miss");
}

#[test]
fn stale_data_is_refreshed_at_once_when_an_upstream_returns() {
    let cache = cache();
    let question = question("stale.example");
    cache.insert(&question, positive(&question, 1), ONE, secs(0));
    fail(&cache, &question, FailureKind::Timeout, secs(5));
    assert_eq!(short(&cache.get(&question, ONE, secs(9))), "stale lately");
    cache.forget_silences(secs(9));
    assert_eq!(short(&cache.get(&question, ONE, secs(9))), "stale");
}

#[test]
fn a_failure_takes_the_place_of_what_is_too_old_and_of_nothing_else() {
    let (cache, question) = (cache(), question("www.example"));
    cache.insert(&question, positive(&question, 60), ONE, secs(0));
    for (now, expected) in
        [(10, "fresh 10 50"), (100, "stale lately"), (3_659, "stale lately"), (3_660, "failed servfail")]
    {
        fail(&cache, &question, FailureKind::ServFail, secs(now));
        assert_eq!(short(&cache.get(&question, ONE, secs(now))), expected);
    }
}

#[test]
fn failures_are_forgotten_when_others_are_asked_and_keep_to_the_budget() {
    let cache = cache();
    for number in 0..5_000 {
        fail(&cache, &question(&format!("n{number}.example")), FailureKind::Timeout, secs(1));
    }
    let stats = cache.stats();
    assert!(stats.bytes <= 64 << 10 && stats.evictions > 4_000, "{stats:?}");
    let last = question("n4999.example");
    assert_eq!(short(&cache.get(&last, ONE, secs(1))), "failed timeout");
    cache.forget_failures(secs(1));
    assert_eq!(short(&cache.get(&last, ONE, secs(1))), "miss");
}

#[test]
fn without_serve_stale_what_expired_is_gone() {
    let cache = Cache::new(Settings { size: 64 << 10, max_ttl: secs(60), serve_stale: secs(0) });
    let question = question("www.example");
    cache.insert(&question, positive(&question, 60), ONE, secs(0));
    assert_eq!(short(&cache.get(&question, ONE, secs(59))), "fresh 59 1");
    assert_eq!(short(&cache.get(&question, ONE, secs(60))), "miss");
}

#[test]
fn questions_that_differ_in_anything_have_answers_of_their_own() {
    let base = question("www.example");
    let others = [
        Question { qname: LowerName::from_text("ww.example").unwrap(), ..base.clone() },
        Question { qtype: RecordType::TXT, ..base.clone() },
        Question { dnssec_ok: true, ..base.clone() },
        Question { authentic_data: true, ..base.clone() },
        Question { checking_disabled: true, ..base.clone() },
        Question { recursion_desired: false, ..base.clone() },
    ];
    let cache = cache();
    cache.insert(&base, positive(&base, 60), ONE, secs(0));
    for other in &others {
        assert_eq!(short(&cache.get(other, ONE, secs(0))), "miss", "{other:?}");
        cache.insert(other, positive(other, 90), ONE, secs(0));
    }
    assert_eq!(short(&cache.get(&base, ONE, secs(0))), "fresh 0 60");
    assert_eq!(cache.stats().entries, 1 + others.len());
}

#[test]
fn a_query_finds_what_its_question_was_answered() {
    use crate::dns::query::{Parsed, parse};
    let cache = cache();
    for (flags, additionals, opt) in [
        (0x0100_u16, 0, &[][..]),
        (0x0110, 0, &[]),
        (0x0000, 0, &[]),
        (0x0100, 1, &[0, 0, 41, 4, 208, 0, 0, 0x80, 0, 0, 0]),
    ] {
        let mut bytes = vec![0, 1];
        bytes.extend(flags.to_be_bytes());
        bytes.extend([0, 1, 0, 0, 0, 0, 0, additionals]);
        bytes.extend(b"\x03WWW\x07example\0\0\x01\0\x01");
        bytes.extend(opt);
        let Parsed::Query(query) = parse(&bytes) else { panic!("{bytes:02x?}") };
        let question = query.to_question();
        assert_eq!(short(&cache.get(&query, ONE, secs(0))), "miss", "{bytes:02x?}");
        cache.insert(&question, positive(&question, 60), ONE, secs(0));
        assert_eq!(short(&cache.get(&query, ONE, secs(0))), "fresh 0 60", "{bytes:02x?}");
    }
}

#[test]
fn the_budget_holds_and_what_is_in_use_stays() {
    const SIZE: usize = 256 << 10;
    let cache = Cache::new(Settings { size: SIZE, max_ttl: secs(60), serve_stale: secs(0) });
    let hot = question("hot.example");
    cache.insert(&hot, positive(&hot, 60), ONE, secs(0));
    for number in 0..20_000 {
        let question = question(&format!("n{number}.example"));
        cache.insert(&question, positive(&question, 60), ONE, secs(0));
        assert_eq!(short(&cache.get(&hot, ONE, secs(0))), "fresh 0 60", "after {number}");
    }
    let stats = cache.stats();
    assert!(stats.bytes <= SIZE && stats.bytes > SIZE * 9 / 10, "{stats:?}");
    assert_eq!(stats.entries + usize::try_from(stats.evictions).unwrap(), 20_001);
}

#[test]
fn a_large_cache_has_shards_and_a_small_one_has_one() {
    for (size, shards) in [(0, 1), (64 << 10, 1), (3 << 20, 2), (16 << 20, 16), (1 << 30, 16)] {
        let cache = Cache::new(Settings { size, max_ttl: secs(60), serve_stale: secs(0) });
        assert_eq!(cache.shards.len(), shards, "{size}");
    }
}
