//! The accounts, told the time.

use super::*;
use crate::dns::response::{PayloadPart, content_of_addresses};

/// Returns so many seconds.
const fn secs(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// Returns a name.
fn name(text: &str) -> LowerName {
    LowerName::from_text(text).unwrap()
}

/// The wire form of `t.test`.
const BASE: &[u8] = b"\x01t\x04test\0";

/// Returns an account of a client for the wildcard `*.t.test`.
fn account<'a>(client: &str, budget: &'a Budget) -> Account<'a> {
    Account { holder: Holder::named(client), budget, scope: Scope::Wildcard(BASE) }
}

/// Returns what a text answer of so many octets carries.
fn text(octets: u32, content: u64) -> Payload {
    Payload { answer: PayloadPart { octets, content }, ..Payload::default() }
}

/// Gives an answer that holds no address.
fn give(budgets: &Budgets, account: Account<'_>, payload: &Payload, now: Duration) -> Result<(), Limit> {
    let given = Given { qname: &name("x.t.test"), payload, addresses: std::iter::empty(), is_fresh: true };
    budgets.answer(account, &given, now)
}

#[test]
fn new_names_are_counted_and_known_ones_go_on() {
    let (budgets, budget) = (Budgets::new(), Budget { names: 10, octets: 1_000_000, ..Budget::default() });
    let one = account("one", &budget);
    let ask = |number: u32, now| budgets.ask(one, &name(&format!("n{number}.t.test")), RecordType::A, now);
    for number in 0..50 {
        assert_eq!(ask(number, secs(0)), Ok(()), "{number}: five minutes' worth at once");
    }
    assert!((50..150).all(|number| ask(number, secs(0)) == Err(Limit::Names)));
    for number in 0..50 {
        assert_eq!(ask(number, secs(1)), Ok(()), "{number} is known");
    }
    assert_eq!(
        budgets.ask(account("two", &budget), &name("x.t.test"), RecordType::A, secs(1)),
        Ok(()),
        "another client"
    );
    let other = Account { scope: Scope::Wildcard(b"\x05other\0"), ..one };
    assert_eq!(budgets.ask(other, &name("x.other"), RecordType::A, secs(1)), Ok(()), "another wildcard");
    // A minute releases a minute's worth.
    let released = (1000..1100).filter(|number| ask(*number, secs(60)).is_ok()).count();
    assert_eq!(released, 10);
}

#[test]
fn octets_below_the_wildcard_are_counted() {
    let (budgets, budget) = (Budgets::new(), Budget { names: 1_000_000, octets: 100, ..Budget::default() });
    let mut passed = 0;
    for number in 0..1000 {
        // 16 octets and the label's own.
        let qname = name(&format!("{number:016}.t.test"));
        passed += match budgets.ask(account("one", &budget), &qname, RecordType::A, secs(0)) {
            Ok(()) => 17,
            Err(spent) => {
                assert_eq!(spent, Limit::Octets);
                0
            }
        };
    }
    assert_eq!(passed, 29 * 17, "of 500");
    // Long labels count more: 1 + 63 · 63 / 16.
    let long = (0..10).filter(|number| {
        let qname = name(&format!("{number:063}.t.test"));
        budgets.ask(account("two", &budget), &qname, RecordType::A, secs(0)).is_ok()
    });
    assert_eq!(long.count(), 2);
}

#[test]
fn known_names_are_asked_again_so_many_times() {
    let (budgets, budget) = (Budgets::new(), Budget { repeats: 60, ..Budget::default() });
    let mut asked = 0;
    for tenth in 0..6000 {
        let now = Duration::from_millis(tenth * 100);
        asked += u32::from(budgets.ask(account("one", &budget), &name("x.t.test"), RecordType::A, now).is_ok());
    }
    // Ten minutes, and a minute's worth at once; the first one was new.
    assert!((655..=665).contains(&asked), "{asked}");
}

#[test]
fn long_and_deep_names_are_never_asked_for() {
    let (budgets, budget) = (Budgets::new(), Budget::default());
    let ask = |text: &str| budgets.ask(account("one", &budget), &name(text), RecordType::A, secs(0));
    let long = |label: usize| format!("{}.{}.t.test", "a".repeat(63), "b".repeat(label));
    assert_eq!((ask(&long(63)), ask(&long(62))), (Ok(()), Ok(())));
    assert_eq!(ask(&format!("c.{}", long(63))), Err(Limit::Longest));
    assert_eq!(ask(&format!("{}t.test", "d.".repeat(10))), Ok(()));
    assert_eq!(ask(&format!("{}t.test", "d.".repeat(11))), Err(Limit::Deepest));
    let reverse = Account { scope: Scope::Domain(b"\x04arpa\0"), ..account("one", &budget) };
    assert_eq!(budgets.ask(reverse, &name(&format!("{}ip6.arpa", "0.".repeat(32))), RecordType::PTR, secs(0)), Ok(()));
}

#[test]
fn new_answers_are_counted_and_known_ones_are_given() {
    let (budgets, budget) = (Budgets::new(), Budget { answers: 1000, ..Budget::default() });
    let one = account("one", &budget);
    let answer = |payload: &Payload, now| give(&budgets, one, payload, now);
    assert_eq!(answer(&text(60_000, 1), secs(0)), Err(Limit::Answers), "more than there ever is");
    assert_eq!(answer(&text(2_000, 2), secs(0)), Ok(()));
    assert_eq!(answer(&text(2_000, 3), secs(0)), Err(Limit::Answers));
    assert_eq!(answer(&text(2_000, 2), secs(0)), Ok(()), "known");
    assert_eq!(answer(&text(1_000, 5), secs(0)), Ok(()));
    assert_eq!(answer(&text(500, 6), secs(29)), Err(Limit::Answers));
    assert_eq!(answer(&text(500, 6), secs(31)), Ok(()), "released as time goes by");
}

#[test]
fn new_addresses_are_counted_apart_from_data_and_known_ones_go_on() {
    let (budgets, budget) = (Budgets::new(), Budget { addresses: 64, answers: 0, ..Budget::default() });
    let one = account("one", &budget);
    let sets: Vec<[[u8; 4]; 2]> = (0..200).map(|number| [[number, 1, 2, 3], [number, 1, 2, 4]]).collect();
    let payloads: Vec<Payload> = sets
        .iter()
        .map(|set| content_of_addresses(set.iter().map(<[u8; 4]>::as_slice)))
        .map(|addresses| Payload { addresses, ..Payload::default() })
        .collect();
    let qname = name("x.t.test");
    let given = |number: usize| {
        let addresses = sets[number].iter().map(<[u8; 4]>::as_slice);
        Given { qname: &qname, payload: &payloads[number], addresses, is_fresh: false }
    };
    let whole = |number, now| budgets.answer(one, &given(number), now);
    let least = |number, now| budgets.addresses(one, &given(number), now).len();
    // Eight octets each: five for the first address, three for the other one of the same network.
    let passed = (1..200).filter(|number| whole(*number, secs(0)).is_ok()).count();
    assert_eq!(passed, 4 * 64 / 8);
    assert_eq!(whole(1, secs(0)), Ok(()), "known");
    assert_eq!(whole(199, secs(0)), Err(Limit::Addresses));
    // A minute's worth is kept for single addresses, of five octets.
    assert_eq!((101..200).filter(|number| least(*number, secs(0)) == 1).count(), 64 / 5);
    assert_eq!((least(101, secs(0)), least(199, secs(0))), (1, 0), "given before, and not");
    assert_eq!(
        (whole(150, secs(61)), whole(150, secs(70))),
        (Err(Limit::Addresses), Ok(())),
        "released as time goes by"
    );
}

#[test]
fn dnssec_records_count_as_addresses() {
    let (budgets, budget) = (Budgets::new(), Budget { addresses: 1000, answers: 0, ..Budget::default() });
    let one = account("one", &budget);
    let signed = |content| Payload { dnssec: PayloadPart { octets: 1000, content }, ..Payload::default() };
    assert!((0..4).all(|content| give(&budgets, one, &signed(content), secs(0)) == Ok(())));
    assert_eq!(give(&budgets, one, &signed(4), secs(0)), Err(Limit::Addresses));
    assert_eq!(give(&budgets, one, &signed(0), secs(0)), Ok(()), "known");
}

#[test]
fn all_domains_together_have_a_budget_of_their_own() {
    let (budgets, budget) = (Budgets::new(), Budget { names: 2, ..Budget::default() });
    let mut passed = 0;
    for domain in 0..1000 {
        let qname = name(&format!("x.d{domain}.test"));
        let scope = Scope::Domain(&qname.as_wire()[2..]);
        passed += u32::from(
            budgets.ask(Account { scope, ..account("one", &budget) }, &qname, RecordType::A, secs(0)).is_ok(),
        );
    }
    // Five minutes' worth of 2, sixteen times over.
    assert_eq!(passed, 160);
}

#[test]
fn ledgers_and_allowances_are_bounded() {
    let (budgets, budget) = (Budgets::new(), Budget::default());
    for number in 0..2 * MAX_LEDGERS {
        let now = secs(u64::try_from(number).unwrap() / 1000);
        let _ = budgets.ask(account(&number.to_string(), &budget), &name("x.t.test"), RecordType::A, now);
    }
    let ledgers: usize = budgets.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
    assert!(ledgers <= MAX_LEDGERS, "{ledgers}");
    for domain in 0..4 * MAX_ALLOWANCES {
        let qname = name(&format!("x.d{domain}.test"));
        let scope = Scope::Domain(&qname.as_wire()[2..]);
        let _ = budgets.ask(Account { scope, ..account("one", &budget) }, &qname, RecordType::A, secs(100));
    }
    let shard = budgets.shard(Holder::named("one"));
    assert_eq!(shard[&Holder::named("one")].allowances.len(), MAX_ALLOWANCES);
}

#[test]
fn many_scopes_do_not_give_back_what_one_has_used() {
    let (budgets, budget) = (Budgets::new(), Budget { names: 2, ..Budget::default() });
    let mut passed = 0;
    for round in 0..50 {
        for number in 0..100 {
            passed += u32::from(
                budgets
                    .ask(account("one", &budget), &name(&format!("x{number}r{round}.t.test")), RecordType::A, secs(0))
                    .is_ok(),
            );
        }
        for other in 0..2 * MAX_ALLOWANCES {
            let qname = name(&format!("x.w{other}.test"));
            let scope = Scope::Wildcard(&qname.as_wire()[2..]);
            let _ = budgets.ask(Account { scope, ..account("one", &budget) }, &qname, RecordType::A, secs(0));
        }
    }
    assert_eq!(passed, 10);
}

#[test]
fn a_spent_budget_is_logged_once_a_minute_and_the_lines_are_bounded() {
    let (budgets, budget) = (Budgets::new(), Budget::default());
    let logged = |client: &str, spent, at| budgets.is_to_be_logged(account(client, &budget), spent, secs(at));
    assert!(logged("one", Limit::Names, 0) && !logged("one", Limit::Names, 59));
    assert!(logged("one", Limit::Answers, 59), "another limit");
    assert!(logged("one", Limit::Names, 60));
    let lines = (0..1000).filter(|number| logged(&format!("c{number}"), Limit::Names, 130)).count();
    assert_eq!(lines, MAX_BUDGET_LINES);
}
