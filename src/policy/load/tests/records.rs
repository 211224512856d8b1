//! Tests of the `[api.ID]` tables, in which the API keeps its data.

use super::*;

/// A policy file as the API writes it.
const NPOL: &str = "[policy.npol_1]\nallowed_hostnames = [\"a.test\"]\n\n[api.npol_1]\nobject = \"network_policy\"\n\
                    create_time_ms = 1\nmetadata = { \"a b\" = 1, list = [1, \"x\"] }\nallow_al = 1979-05-27\n";

#[test]
fn api_tables_are_found_by_id_and_not_interpreted() {
    let files = [("api/npol_1.toml", NPOL), ("api/dbx_1.toml", "[api.dbx_1]\nstatus = \"shutdown\"\n")];
    let mut directory = Directory::of(&files);
    let (library, warnings) = directory.default_policy("npol_1").start().unwrap();
    assert_eq!(lines(&warnings), [""; 0]);
    let snapshot = library.snapshot();
    let ids: Vec<_> = snapshot.records().map(ApiTable::id).collect();
    assert_eq!(ids, ["dbx_1", "npol_1"]);
    let record = snapshot.record("npol_1").unwrap();
    assert_eq!(record.place().to_string(), "p/api/npol_1.toml:4:6");
    assert_eq!((&**record.source().text(), &**record.source().path()), (NPOL, Path::new("p/api/npol_1.toml")));
    assert_eq!(&**snapshot.policy("npol_1").unwrap().source().text(), NPOL);
    assert_eq!((record.name(), record.status()), ("".into(), "".into()));
    assert_eq!(snapshot.record("dbx_1").unwrap().status(), "shutdown");
    assert!(snapshot.record("nope").is_none());
}

#[test]
fn an_unused_policy_of_the_api_gets_no_warning() {
    let (_, warnings) = Directory::of(&[("api/npol_1.toml", NPOL), ("a.toml", "[policy.p]\n")]).start().unwrap();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(lines(&warnings)[0].contains("nothing refers to policy `p`"), "{warnings:?}");
}

#[test]
fn changing_an_api_table_makes_a_new_generation() {
    let mut directory = Directory::of(&[("a.toml", A), ("api/dbx_1.toml", "[api.dbx_1]\nstatus = \"running\"\n")]);
    let library = directory.library();
    let changed = directory.write("api/dbx_1.toml", "[api.dbx_1]\nstatus = \"shutdown\"\n").reload(&library);
    assert!(changed.swapped);
    assert!(changed.library.snapshot().record("dbx_1").unwrap().source().text().contains("shutdown"));
    assert!(library.snapshot().record("dbx_1").unwrap().source().text().contains("running"));
    let gone = directory.remove("api/dbx_1.toml").reload(&changed.library);
    assert_eq!(gone.library.snapshot().records().len(), 0);
}

#[test]
fn api_tables_need_unique_valid_ids() {
    let mut directory = Directory::of(&[("1.toml", A), ("2.toml", "[api.x]\n")]);
    let library = directory.library();
    let reloaded = directory.write("3.toml", "[api.x]\n").reload(&library);
    assert_eq!(held_back(&reloaded), ["3.toml"]);
    let error =
        "p/3.toml:1:6: record `x` is defined twice: rename or remove one of them (p/2.toml:1:6: first defined here)";
    assert_eq!(errors(&reloaded), [error]);
    let bad = Directory::of(&[("1.toml", A), ("2.toml", "[api.\"a b\"]\n[api]\nx = 1\n")]).errors();
    assert!(bad.iter().any(|line| line.starts_with("p/2.toml:1:6: `a b` cannot be an id")), "{bad:?}");
    assert!(bad.iter().any(|line| line.starts_with("p/2.toml:3:1: `api.x` must be a table")), "{bad:?}");
    let preset = Directory::of(&[("1.toml", A), ("presets/npm.toml", "[policy.npm]\n[api.npm]\n")]).errors();
    assert!(preset[0].starts_with("p/presets/npm.toml:2:2: unknown key `api`"), "{preset:?}");
}
