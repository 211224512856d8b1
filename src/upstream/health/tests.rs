//! Healths at given times.

use super::*;

/// Returns so many milliseconds.
const fn ms(count: u64) -> Duration {
    Duration::from_millis(count)
}

#[test]
fn answers_make_healthy_and_are_smoothed() {
    let mut health = Health::new(ms(0));
    health.answered(ms(80), ms(0));
    assert_eq!(health.round_trip(), Some(ms(80)));
    health.answered(ms(160), ms(1));
    assert_eq!(health.round_trip(), Some(ms(90)));
    assert!(!health.is_down());
}

#[test]
fn three_failures_in_a_row_are_down_and_one_answer_is_up_again() {
    let mut health = Health::new(ms(0));
    for (count, down) in [(1, false), (2, false), (3, true)] {
        health.failed(Trouble::Failed, ms(count), ms(count));
        assert_eq!(health.is_down(), down, "failure {count}");
    }
    health.answered(ms(1), ms(9));
    assert!(!health.is_down());
    assert_eq!(health.round_trip(), Some(ms(1)));
    health.failed(Trouble::Unreachable, ms(10), ms(10));
    assert!(health.is_down(), "the network is sure at once");
}

#[test]
fn one_that_left_a_question_unanswered_is_lost_until_something_is_heard() {
    let mut health = Health::new(ms(0));
    health.answered(ms(1), ms(10));
    health.unanswered(7, ms(9));
    assert!(!health.is_lost(), "something was heard since");
    health.unanswered(7, ms(11));
    assert!(health.is_lost() && !health.is_dead());
    health.failed(Trouble::Failed, ms(20), ms(21));
    assert!(!health.is_lost(), "a failure is a reply");
    health.failed(Trouble::Unreachable, ms(30), ms(31));
    assert!(health.is_lost() && !health.is_dead(), "it may be starting");
}

#[test]
fn one_that_is_doubted_is_asked_aside_every_second_and_one_that_works_now_and_then() {
    let mut health = Health::new(ms(0));
    let second = ms(1000);
    assert!(health.wanted_probe().is_none() && !health.claim_measurement(second, ms(29_999)));
    assert!(health.claim_measurement(second, ms(30_000)) && !health.claim_measurement(second, ms(59_999)));
    health.answered(ms(1), ms(60_000));
    assert_eq!(health.wanted_probe(), Some(Probe::Name), "what it says to one in good times");
    health.answered_probe(ms(9), ms(60_000));
    assert_eq!((health.wanted_probe(), health.round_trip()), (None, Some(ms(1))));
    assert!(!health.claim_measurement(second, ms(89_999)), "it was heard");
    health.failed(Trouble::Silent, ms(90_000), ms(90_050));
    let claims = (90_050..95_000)
        .filter(|now| health.wanted_probe() == Some(Probe::Root) && health.claim_probe(second, ms(*now)));
    assert_eq!(claims.collect::<Vec<_>>(), [90_050, 91_050, 92_050, 93_050, 94_050]);
    assert!(!health.claim_measurement(second, ms(95_049)) && health.claim_measurement(second, ms(95_050)));
    health.answered_root(ms(1), ms(95_060));
    assert!(health.wanted_probe().is_none() && health.is_answering());
}

/// Returns an upstream that has answered a name and then a probe, or has failed at that.
fn known(answers_probes: bool) -> Health {
    let mut health = Health::new(ms(0));
    health.answered(ms(1), ms(1));
    if answers_probes {
        health.answered_probe(ms(1), ms(2));
    } else {
        health.failed_at_probe(true, ms(2), ms(2));
    }
    assert!(health.wanted_probe().is_none() && !health.is_down());
    health
}

/// Notes failures at names in so many zones for each of so many clients.
fn fail(health: &mut Health, zones: u64, clients: u64, now: u64) {
    for client in 0..clients {
        let client = Holder::named(&client.to_string());
        (1..=zones).for_each(|zone| health.failed_at_name(zone, client, ms(now), ms(now)));
    }
}

#[test]
fn names_of_one_client_that_fail_are_an_outage_where_a_probe_fails_too() {
    for is_reply in [true, false] {
        let mut health = known(true);
        fail(&mut health, 40, 1, 1000);
        assert_eq!((health.wanted_probe(), health.is_down()), (Some(Probe::Name), false), "the zones may be broken");
        health.answered_probe(ms(9), ms(1100));
        fail(&mut health, 2, 1, 2000);
        assert!(health.wanted_probe().is_none() && health.are_names_failing(), "they are");
        fail(&mut health, 40, 1, 3000);
        assert_eq!(health.wanted_probe(), Some(Probe::Name));
        let claims = (3000..10_000).filter(|now| health.claim_wanted_probe(ms(1000), ms(*now)));
        assert_eq!(claims.collect::<Vec<_>>(), [3000, 6000, 9000], "less often, as the names are to blame");
        // A reply comes at once; silence is known when names have failed since.
        for now in [4000, 5000, 7000] {
            health.failed_at_probe(is_reply, ms(if is_reply { now } else { 2999 }), ms(now));
            fail(&mut health, 1, 1, now);
        }
        assert!(health.is_down() && !health.is_gone(), "that is too short");
        fail(&mut health, 1, 1, 8001);
        assert_eq!((health.is_gone(), health.trouble(), health.since()), (true, "failing", ms(2000)));
        health.answered_root(ms(1), ms(9000));
        assert!(health.is_gone(), "the root may come from a cache");
        health.answered_probe(ms(9), ms(9001));
        assert!(!health.is_gone() && !health.is_down() && health.wanted_probe().is_none() && health.take_return());
    }
}

#[test]
fn probe_that_fails_in_good_times_too_says_nothing_of_failing_names() {
    let mut health = known(false);
    for now in 1..60 {
        fail(&mut health, 9, 1, now * 500);
        health.failed_at_probe(true, ms(now * 500), ms(now * 500));
    }
    assert!(!health.is_down() && !health.is_gone() && health.are_names_failing());
    fail(&mut health, 9, 2, 40_000);
    for now in [42_000, 44_000, 46_001] {
        fail(&mut health, 9, 2, now);
    }
    assert!(health.is_gone(), "two clients meet the same");
}

#[test]
fn names_of_several_clients_that_fail_are_an_outage_until_one_is_answered() {
    let mut health = known(true);
    for now in [1000, 3000, 5000, 7001] {
        fail(&mut health, 3, 2, now);
        // As one that has a copy of the root does.
        health.answered_probe(ms(1), ms(now + 10));
    }
    assert!(health.is_gone() && health.wanted_probe().is_none(), "more of that says no more");
    assert!(health.claim_measurement(ms(1000), ms(8001)), "names do");
    health.answered(ms(1), ms(8011));
    assert!(!health.is_gone() && !health.is_down());
}

#[test]
fn one_that_others_outdo_at_the_names_of_one_client_is_asked_last_and_not_gone() {
    let mut health = known(true);
    for now in [1000, 4000, 8000, 12_000] {
        fail(&mut health, 1, 1, now);
        health.failed(Trouble::Failed, ms(now), ms(now));
    }
    assert!(health.is_down() && !health.is_gone());
    assert!(health.wanted_probe() == Some(Probe::Name) && health.claim_wanted_probe(ms(1000), ms(14_000)));
    health.answered_probe(ms(9), ms(14_100));
    assert!(health.is_down() && !health.is_gone() && health.claim_measurement(ms(1000), ms(15_000)));
    fail(&mut health, 3, 1, 15_000);
    health.failed_at_probe(true, ms(16_000), ms(16_001));
    assert!(health.is_gone());
}

#[test]
fn one_that_refuses_the_root_is_there_and_one_that_fails_at_it_is_there_and_fails() {
    for trouble in [Trouble::Silent, Trouble::Unreachable] {
        let mut lost = Health::new(ms(0));
        for now in [1000, 4000, 8000] {
            lost.failed(trouble, ms(now), ms(now));
            lost.unanswered(now, ms(now));
        }
        assert!(lost.is_gone() && lost.is_dead() && lost.wanted_probe() == Some(Probe::Root));
        let mut health = lost;
        health.failed_at_root(true, ms(9000), ms(9001));
        assert!(!health.is_gone() && !health.is_down() && health.take_return(), "{trouble:?}");
        let mut health = lost;
        health.failed_at_root(false, ms(9000), ms(9001));
        assert_eq!((health.is_gone(), health.trouble(), health.wanted_probe()), (true, "failing", Some(Probe::Name)));
        health.answered_probe(ms(9), ms(10_000));
        assert!(!health.is_gone() && !health.is_down(), "{trouble:?}");
    }
}

#[test]
fn order_is_up_before_down_then_fast_before_slow_then_as_configured() {
    let with = |round_trip: Option<u64>, failures| Health {
        round_trip: round_trip.map(|time| RoundTrip::first(ms(time))),
        failures,
        ..Health::default()
    };
    let silent = Health { is_silent: true, ..with(Some(1), 1) };
    let cases = [
        (with(Some(500), 0), with(Some(1), 3), std::cmp::Ordering::Less),
        (with(Some(20), 0), with(Some(100), 0), std::cmp::Ordering::Less),
        (with(Some(1), 0), with(Some(7), 0), std::cmp::Ordering::Equal),
        (with(None, 0), with(Some(3), 0), std::cmp::Ordering::Equal),
        (with(None, 0), with(Some(30), 0), std::cmp::Ordering::Less),
        (with(Some(500), 0), silent, std::cmp::Ordering::Less),
        (silent, with(Some(1), 3), std::cmp::Ordering::Less),
    ];
    for (one, other, order) in cases {
        assert_eq!(one.rank().cmp(&other.rank()), order, "{one:?} {other:?}");
    }
}

#[test]
fn one_that_was_probed_goes_after_those_that_were_not_until_it_replies() {
    let (mut probed, untried) = (Health::new(ms(0)), Health::new(ms(0)));
    assert!(probed.claim_probe(ms(1000), ms(10)));
    assert!(probed.rank() > untried.rank());
    probed.failed_at_root(true, ms(10), ms(11));
    assert_eq!(probed.rank(), untried.rank(), "a refusal shows that it is there");
}

#[test]
fn patience_follows_the_round_trip_and_leaves_time_for_a_second_try() {
    // One measurement: SRTT + 4 * (SRTT / 2).
    const CASES: &[(u64, u64, u64)] =
        &[(0, 2000, 50), (10, 2000, 50), (200, 2000, 600), (900, 2000, 1000), (10, 60, 30)];
    for &(round_trip, timeout, patience) in CASES {
        let health = Health { round_trip: Some(RoundTrip::first(ms(round_trip))), ..Health::default() };
        assert_eq!(health.patience(ms(timeout)), ms(patience), "{round_trip} of {timeout}");
    }
    assert_eq!(Health::default().patience(ms(2000)), ms(300), "nothing is known");
    assert_eq!(Health::default().patience(ms(200)), ms(100));
}

#[test]
fn patience_grows_with_the_variation_and_shrinks_when_it_is_steady() {
    let mut health = Health::new(ms(0));
    for _ in 0..100 {
        health.answered(ms(100), ms(0));
    }
    let steady = health.patience(ms(2000));
    assert!(steady < ms(105), "{steady:?}");
    health.answered(ms(500), ms(0));
    // SRTT 150, RTTVAR 100.
    let shaken = health.patience(ms(2000));
    assert!(shaken > ms(545) && shaken < ms(555), "{shaken:?}");
}

#[test]
fn one_silent_try_lets_the_others_go_first_and_is_looked_into_at_once() {
    let mut health = Health::new(ms(0));
    health.answered(ms(4), ms(0));
    health.failed(Trouble::Silent, ms(10), ms(60));
    assert!(health.rank() > Health { round_trip: Some(RoundTrip::first(ms(900))), ..Health::default() }.rank());
    assert!(!health.is_down() && health.wanted_probe().is_some() && health.claim_probe(ms(1000), ms(60)));
    health.answered(ms(4), ms(61));
    assert!(!health.rank().is_silent);
}

#[test]
fn three_questions_without_a_reply_are_dead_and_any_reply_is_a_return() {
    let mut health = Health::new(ms(0));
    health.answered(ms(4), ms(100));
    assert!(!health.take_return(), "it was not gone");
    for question in [1, 2, 2, 1, 1] {
        health.unanswered(question, ms(200));
        assert!(!health.is_dead(), "two names may both take long");
    }
    health.unanswered(3, ms(50));
    assert!(!health.is_dead(), "something was heard since that was asked");
    health.unanswered(3, ms(300));
    assert!(health.is_dead());
    health.failed(Trouble::Failed, ms(400), ms(401));
    assert!(!health.is_dead() && health.take_return() && !health.take_return(), "a refusal is a reply");
    health.failed(Trouble::Unreachable, ms(500), ms(501));
    assert!(!health.is_dead() && health.is_down() && !health.take_return(), "perhaps it is being started again");
    health.failed(Trouble::Unreachable, ms(5000), ms(5001));
    assert!(health.is_dead() && !health.take_return());
    health.heard(ms(5600));
    assert!(!health.is_dead() && health.take_return());
}

#[test]
fn outage_is_what_lasts_and_not_a_single_slow_name() {
    let mut health = Health::new(ms(0));
    health.answered(ms(4), ms(100));
    for sent in [200, 500, 1000] {
        health.failed(Trouble::Silent, ms(sent), ms(sent + 300));
    }
    health.failed(Trouble::Silent, ms(1400), ms(5200));
    assert!(health.is_down() && !health.is_gone(), "one question, in all its time");
    health.failed(Trouble::Silent, ms(6200), ms(6500));
    assert!(health.is_gone());
    assert_eq!((health.outages(), health.since(), health.trouble()), (1, ms(500), "silent"));
    health.failed(Trouble::Silent, ms(7000), ms(9000));
    assert_eq!(health.outages(), 1, "it is the same one");
    health.answered(ms(4), ms(9500));
    assert_eq!((health.is_gone(), health.since()), (false, ms(9500)));
    for sent in [10_000, 12_000, 14_000, 16_100] {
        fail(&mut health, 3, 2, sent);
    }
    assert_eq!((health.is_gone(), health.outages(), health.trouble()), (true, 2, "failing"));
}

#[test]
fn a_lost_datagram_among_answers_is_no_silence() {
    let mut health = Health::new(ms(0));
    health.answered(ms(4), ms(30));
    health.failed(Trouble::Silent, ms(10), ms(60));
    assert_eq!((health.failures, health.rank().is_silent), (0, false));
}

#[test]
fn what_was_in_flight_together_fails_once() {
    let mut health = Health::new(ms(0));
    for trouble in [Trouble::Silent, Trouble::Failed] {
        for _ in 0..100 {
            health.failed(trouble, ms(10), ms(60));
        }
        assert_eq!(health.failures, 1, "{trouble:?}");
    }
    health.failed(Trouble::Silent, ms(60), ms(110));
    assert_eq!(health.failures, 2);
}
