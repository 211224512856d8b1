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
    assert!(!health.is_doubted() && !health.claim_measurement(second, ms(29_999)));
    assert!(health.claim_measurement(second, ms(30_000)) && !health.claim_measurement(second, ms(59_999)));
    health.answered(ms(1), ms(60_000));
    assert!(!health.claim_measurement(second, ms(89_999)), "it was heard");
    health.failed(Trouble::Silent, ms(90_000), ms(90_050));
    let claims = (90_050..95_000).filter(|now| health.is_doubted() && health.claim_probe(second, ms(*now)));
    assert_eq!(claims.collect::<Vec<_>>(), [90_050, 91_050, 92_050, 93_050, 94_050]);
    assert!(!health.claim_measurement(second, ms(95_049)) && health.claim_measurement(second, ms(95_050)));
    health.answered_root(ms(1), ms(95_060));
    assert!(!health.is_doubted() && health.is_answering());
}

#[test]
fn servfail_is_an_outage_where_the_root_fails_too() {
    let mut health = Health::new(ms(0));
    for now in 1..100 {
        health.servfail(7, ms(now), ms(now));
    }
    assert!(health.is_doubted() && !health.is_down(), "the zone may be broken");
    health.answered_root(ms(1), ms(110));
    assert!(!health.is_doubted() && !health.is_down(), "it is");
    for (number, now) in [1000, 2000, 3000, 4000, 7000].into_iter().enumerate() {
        (0..3).for_each(|_| health.servfail(7, ms(now), ms(now)));
        health.failed_at_root(false, ms(now + 1), ms(now + 2));
        assert_eq!((health.is_down(), health.is_gone()), (number >= 1, number == 4), "{now}");
    }
    assert_eq!((health.trouble(), health.since(), health.outages()), ("failing", ms(1002), 1));
    assert!(health.is_doubted());
    // That it refuses the root is enough, as that is not what it did while it failed.
    let mut refuses = health;
    refuses.failed_at_root(true, ms(7990), ms(8000));
    health.answered_root(ms(1), ms(8000));
    for mut back in [health, refuses] {
        assert!(!back.is_gone() && !back.is_down() && !back.is_doubted() && back.take_return());
    }
}

#[test]
fn servfail_for_all_of_several_zones_is_an_outage_that_only_the_answer_to_a_name_ends() {
    let mut health = Health::new(ms(0));
    for zone in 1..=4 {
        (0..50).for_each(|now| health.servfail(zone, ms(zone * 50 + now), ms(zone * 50 + now)));
        health.answered_root(ms(1), ms(zone * 50 + 49));
    }
    assert!(!health.is_down());
    for now in [1000, 3000, 5000, 7001] {
        health.servfail(5, ms(now), ms(now));
        // From its cache.
        health.answered_root(ms(1), ms(now + 10));
    }
    assert!(health.is_gone() && !health.is_doubted(), "more of that says no more");
    assert!(health.claim_measurement(ms(1000), ms(8001)), "names do");
    health.answered(ms(1), ms(8011));
    assert!(!health.is_gone() && !health.is_down());
}

#[test]
fn one_that_refuses_the_root_is_there_and_one_that_refuses_names_as_well_fails() {
    for trouble in [Trouble::Silent, Trouble::Unreachable] {
        let mut health = Health::new(ms(0));
        for now in [1000, 4000, 8000] {
            health.failed(trouble, ms(now), ms(now));
            health.unanswered(now, ms(now));
        }
        assert!(health.is_gone() && health.is_dead());
        health.failed_at_root(true, ms(9000), ms(9001));
        assert!(!health.is_gone() && !health.is_down() && health.take_return(), "{trouble:?}");
        for now in [10_000, 11_000, 12_000] {
            health.failed(Trouble::Failed, ms(now), ms(now));
        }
        assert!(health.is_down() && health.is_doubted());
        health.failed_at_root(true, ms(17_000), ms(17_001));
        assert!(health.is_gone(), "{trouble:?}");
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
    assert!(!health.is_down() && health.is_doubted() && health.claim_probe(ms(1000), ms(60)));
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
        health.failed(Trouble::Failed, ms(sent), ms(sent));
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
