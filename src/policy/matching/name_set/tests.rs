//! Tests of name sets, against the patterns they were made of and against a naive matcher.

use proptest::prelude::*;

use super::*;

/// Builds a set of `patterns`, each on its own line of `list.txt`.
fn set(patterns: &[impl AsRef<str>]) -> NameSet {
    let mut set = NameSet::with_capacity(&RandomState::new(), 0);
    set.add_origin(Origin { path: Path::new("list.txt").into(), via: Arc::new([]), is_list: true });
    for (line, pattern) in (1..).zip(patterns) {
        let _ = set.insert(&Pattern::parse(pattern.as_ref()).unwrap(), line, 1);
    }
    set.shrink();
    set
}

/// Parses a name.
fn name(text: &str) -> LowerName {
    LowerName::from_text(text).unwrap()
}

#[test]
fn the_most_specific_pattern_is_found_with_its_place() {
    let set = set(&["*.example.com", "*.a.example.com", "b.a.example.com", "*.b.a.example.com"]);
    let cases = [
        ("b.a.example.com", Some("b.a.example.com (list.txt:3:1)")),
        ("c.a.example.com", Some("*.a.example.com (list.txt:2:1)")),
        ("c.b.a.example.com", Some("*.b.a.example.com (list.txt:4:1)")),
        ("a.example.com", Some("*.example.com (list.txt:1:1)")),
        ("example.com", None),
        ("com", None),
        (".", None),
        ("notexample.com", None),
    ];
    for (query, expected) in &cases {
        let found = set.lookup(&name(query)).map(|found| format!("{found:?}"));
        assert_eq!(found.as_deref(), *expected, "{query}");
    }
}

#[test]
fn inserting_a_duplicate_returns_the_first_place() {
    let mut set = set(&["example.com", "*.example.com"]);
    let first = set.insert(&Pattern::parse("EXAMPLE.com.").unwrap(), 9, 1).unwrap_err();
    assert_eq!(first.place().line, 1);
    assert_eq!(set.len(), 2);
}

#[test]
fn names_of_127_labels_and_of_255_octets_are_looked_up() {
    let deep = "a.".repeat(126) + "b";
    let set = set(&["*.b", &deep]);
    assert_eq!(set.lookup(&name(&deep)).unwrap().place().line, 2);
    assert_eq!(set.lookup(&name(&("c.".repeat(126) + "b"))).unwrap().place().line, 1);
}

#[test]
fn absorbed_patterns_keep_their_origin_and_the_first_place_wins() {
    let (one, two) = (set(&["a.test", "b.test"]), set(&["b.test", "c.test"]));
    let mut all = NameSet::with_capacity(&RandomState::new(), 0);
    all.absorb(&one, &["one".into()]);
    all.absorb(&two, &["two".into(), "deep".into()]);
    let found: Vec<_> = all.iter().map(|found| format!("{found} {:?}", found.origin().via)).collect();
    assert_eq!(found, [r#"a.test ["one"]"#, r#"b.test ["one"]"#, r#"c.test ["two", "deep"]"#]);
}

#[test]
fn a_hostname_with_or_without_its_wildcard_takes_at_most_64_octets() {
    for (form, most) in [("{}", 40), ("*.{}", 40), ("{}\n*.{}", 42)] {
        let hostnames = (0..20_000).map(|index| form.replace("{}", &format!("h{index:07}-a1b2.some.test")));
        let text = hostnames.collect::<Vec<_>>().join("\n");
        let patterns: Vec<_> = text.split('\n').collect();
        let set = set(&patterns);
        assert_eq!(set.len(), patterns.len());
        let each = set.memory() / 20_000;
        // The names themselves need 24 octets; 64 is the bound that the documentation gives for a usual hostname.
        assert!(each <= most && most <= 64, "{form:?}: {each} bytes");
    }
}

#[test]
fn exact_pattern_and_wildcard_of_one_name_keep_their_own_places() {
    let patterns = ["a.test", "*.a.test", "*.b.test", "b.test", "*.c.test", "d.test", "c.test", "d.test", "*.d.test"];
    let set = set(&patterns);
    let expected = [
        "a.test (list.txt:1:1)",
        "*.a.test (list.txt:2:1)",
        "*.b.test (list.txt:3:1)",
        "b.test (list.txt:4:1)",
        "*.c.test (list.txt:5:1)",
        "d.test (list.txt:6:1)",
        "c.test (list.txt:7:1)",
        "*.d.test (list.txt:9:1)",
    ];
    assert_eq!(set.iter().map(|found| format!("{found:?}")).collect::<Vec<_>>(), expected);
    for expected in expected {
        let pattern = Pattern::parse(expected.split(' ').next().unwrap()).unwrap();
        assert_eq!(format!("{:?}", set.get(&pattern).unwrap()), expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn sets_agree_with_a_naive_matcher(
        patterns in prop::collection::vec("(\\*\\.)?([ab]{1,2}\\.){0,3}(test|lan)", 0..30),
        queries in prop::collection::vec("([ab*_]{1,2}\\.){0,5}(test|lan|est)", 1..30),
    ) {
        let set = set(&patterns);
        let parsed: Vec<_> = patterns.iter().map(|pattern| Pattern::parse(pattern).unwrap()).collect();
        for query in &queries {
            let query = name(query);
            let naive = parsed.iter().filter(|pattern| pattern.matches(&query));
            let best = naive.max_by_key(|pattern| pattern.name().as_wire().len()).map(ToString::to_string);
            let found = set.lookup(&query).map(|found| found.to_string());
            prop_assert_eq!(found, best, "{}", query);
        }
    }

    #[test]
    fn merging_builders_equals_inserting_one_by_one(
        patterns in prop::collection::vec(("(\\*\\.)?([ab]\\.){0,2}(test|lan)", 0_u32..200, 1_u32..300), 0..40),
        cuts in (0_usize..40, 0_usize..40),
    ) {
        let hasher = RandomState::new();
        let origin = Origin { path: Path::new("list.txt").into(), via: Arc::new([]), is_list: true };
        let mut expected = NameSet::with_capacity(&hasher, 0);
        expected.add_origin(origin.clone());
        let mut parts = vec![Builder::new(&hasher, 0, 0)];
        let mut twice = Vec::new();
        let mut line = 0;
        for (index, (text, lines, column)) in patterns.iter().enumerate() {
            line += lines;
            let pattern = Pattern::parse(text).unwrap();
            if index == cuts.0 || index == cuts.1 {
                parts.push(Builder::new(&hasher, 0, 0));
            }
            let (kind, wire) = pattern.kind_and_wire();
            parts.last_mut().unwrap().add(kind, wire, line, *column);
            if let Err(first) = expected.insert(&pattern, line, *column) {
                twice.push((format!("{pattern} (list.txt:{line}:{column})"), format!("{first:?}")));
            }
        }
        let (set, duplicates) = Builder::finish(parts, &hasher, origin);
        let all = |set: &NameSet| set.iter().map(|found| format!("{found:?}")).collect::<Vec<_>>();
        prop_assert_eq!(all(&set), all(&expected));
        prop_assert_eq!(set.len(), expected.len());
        let told: Vec<_> = duplicates.iter().map(|&duplicate| {
            let (entry, first) = set.duplicate(duplicate);
            (format!("{entry:?}"), format!("{first:?}"))
        }).collect();
        prop_assert_eq!(told, twice);
        for (text, ..) in &patterns {
            let pattern = Pattern::parse(text).unwrap();
            let found = |set: &NameSet| set.get(&pattern).map(|found| format!("{found:?}"));
            prop_assert_eq!(found(&set), found(&expected));
        }
    }
}
