//! A start never makes it worse: what ran a moment ago starts again.

use std::fs;
use std::process::Command;

use serde_json::Value;

use crate::support::api::{TOKEN, Wire, head};
use crate::support::*;

/// Policies of the API and a devbox of each: `npol_1` allows `one.test`, `npol_2` allows `two.test`.
fn objects(upstream: &FakeUpstream) -> Setup {
    let policy = |id: &str, name: &str| {
        format!(
            "[policy.{id}]\nallowed_hostnames = [\"{name}\"]\n\n[api.{id}]\nobject = \"network_policy\"\ncreate_time_ms = 1\n"
        )
    };
    let devbox = |id: &str, address: &str, policy: &str| {
        format!(
            "[client.{id}]\nsources = [\"{address}\"]\npolicy = \"{policy}\"\n\n[api.{id}]\nobject = \"devbox\"\nstatus = \"running\"\n"
        )
    };
    Setup::policy(upstream, "")
        .control("allow_clients = true")
        .file("api/npol_1.toml", policy("npol_1", "one.test"))
        .file("api/npol_2.toml", policy("npol_2", "two.test"))
        .file("api/dbx_1.toml", devbox("dbx_1", "127.0.0.11", "npol_1"))
        .file("api/dbx_2.toml", devbox("dbx_2", "127.0.0.12", "npol_2"))
}

/// Returns whether a name is allowed for a source.
fn allows(server: &Server, from: &str, name: &str) -> bool {
    !ask(name, RecordType::A).from(from).udp(server).addresses().is_empty()
}

#[test]
fn a_broken_object_of_the_api_costs_itself_alone_at_a_start() {
    let upstream = FakeUpstream::start();
    let half = "[policy.npol_1]\nallowed_hostnames = [\"one";
    let twice = "[policy.npol_2]\nallow_all = true\n";
    let cases: [(&str, &[u8]); 5] = [
        ("empty", b""),
        ("half", half.as_bytes()),
        ("zeros", &[0; 512]),
        ("binary", b"\xff\xfe\0x"),
        ("twice", twice.as_bytes()),
    ];
    for (case, text) in cases {
        let name = if case == "twice" { "npol_3" } else { "npol_1" };
        let server = objects(&upstream).file(&format!("api/{name}.toml"), text).start();
        assert!(allows(&server, "127.0.0.12", "two.test"), "{case}: others run");
        assert!(!allows(&server, "127.0.0.12", "any.test"), "{case}: what is there twice opens nothing");
        // The devbox is there, and denied everything: not what holds for addresses without a client.
        assert_eq!(allows(&server, "127.0.0.11", "one.test"), case == "twice", "{case}");
        let entry = server.wait_out_of_date("held-back");
        assert!(entry["path"].as_str().unwrap().ends_with(&format!("api/{name}.toml")), "{case}: {entry}");
        server.wait_log(&["ERROR", name]);
        assert_eq!(server.metric("hostgate_out_of_date", &[("kind", "held-back")]), 1, "{case}");
        let list = Wire::open(&server).send(head("GET", "/v1/network-policies", TOKEN, "")).response();
        assert_eq!((list.status, list.body.contains("npol_2")), (200, true), "{case}: {list:?}");
        // Mended, or removed, it is as it was.
        if case == "twice" {
            server.remove("api/npol_3.toml");
        } else {
            server.replace("api/npol_1.toml", "[policy.npol_1]\nallowed_hostnames = [\"one.test\"]\n");
        }
        server.wait_not_out_of_date("held-back");
        assert!(allows(&server, "127.0.0.11", "one.test"), "{case}");
    }
    // A devbox: the policy that others have stays.
    let server = objects(&upstream).file("api/dbx_1.toml", "").start();
    assert!(allows(&server, "127.0.0.12", "two.test"));
    server.wait_out_of_date("held-back");
    // All of them at once, and the default policy is one of them.
    let mut setup = objects(&upstream).top("").listen("127.0.0.2:0", Some("npol_1"));
    for id in ["npol_1", "npol_2", "dbx_1", "dbx_2"] {
        setup = setup.file(&format!("api/{id}.toml"), "");
    }
    let server = setup.start();
    let at = server.address_on("127.0.0.2");
    assert!(ask("one.test", RecordType::A).udp_to(at).unwrap().addresses().is_empty());
    assert_eq!(server.status()["held_back"].as_array().unwrap().len(), 4);
}

#[test]
fn an_object_of_the_api_that_is_gone_denies_what_refers_to_it_at_a_start() {
    let upstream = FakeUpstream::start();
    let setup = objects(&upstream);
    fs::remove_file(setup.policies().join("api/npol_1.toml")).unwrap();
    let server = setup.start();
    assert!(!allows(&server, "127.0.0.11", "one.test") && allows(&server, "127.0.0.12", "two.test"));
    server.write("api/npol_1.toml", "[policy.npol_1]\nallowed_hostnames = [\"one.test\"]\n");
    server.until("back", || allows(&server, "127.0.0.11", "one.test").then_some(()));
}

#[test]
fn a_folder_of_the_api_that_cannot_be_read_costs_its_objects_alone() {
    let upstream = FakeUpstream::start();
    let setup = objects(&upstream).file(
        "hand.toml",
        "[policy.h]\nallowed_hostnames = [\"h.test\"]\n[client.h]\nsources = [\"127.0.0.13\"]\npolicy = \"h\"\n",
    );
    // A link to a folder above is refused whoever runs the tests.
    let (api, kept) = (setup.policies().join("api"), setup.directory().join("kept"));
    fs::rename(&api, &kept).unwrap();
    std::os::unix::fs::symlink("..", &api).unwrap();
    let server = setup.start();
    assert!(allows(&server, "127.0.0.13", "h.test") && !allows(&server, "127.0.0.11", "one.test"));
    server.until("told", || server.out_of_date("held-back").or_else(|| server.out_of_date("unreadable")));
    fs::remove_file(&api).unwrap();
    fs::rename(&kept, &api).unwrap();
    server.until("the objects", || allows(&server, "127.0.0.11", "one.test").then_some(()));
    server.wait_no_error();
}

#[test]
fn a_bad_file_that_a_person_wrote_is_no_start_whatever_the_api_has() {
    let upstream = FakeUpstream::start();
    let refused = objects(&upstream).file("hand.toml", "[policy.h").file("api/npol_1.toml", "").refused();
    refused.expect_code(78).expect_text(&["hand.toml:1:"]);
    let refused =
        objects(&upstream).file("hand.toml", "[client.h]\nsources = [\"127.0.0.13\"]\npolicy = \"none\"\n").refused();
    refused.expect_code(78).expect_text(&["unknown policy `none`"]);
    // A person's file that claims what an object has does not get it.
    let claim = "[policy.npol_1]\nallowed_hostnames = [\"hand.test\"]\n";
    let refused = objects(&upstream).file("hand.toml", claim).refused();
    refused.expect_code(78).expect_text(&["hand.toml:1:9", "policy `npol_1` is defined twice"]);
}

#[test]
fn what_the_next_start_would_refuse_is_told_while_it_runs() {
    let upstream = FakeUpstream::start();
    let client = "[client.c]\nsources = [\"127.0.0.11\"]\npolicy = \"p\"\n";
    let policy = "[policy.p]\nallowed_hostnames = [\"p.test\"]\n";
    let server = Setup::policy(&upstream, "").file("client.toml", client).file("p.toml", policy).start();
    assert!(server.out_of_date("next-start").is_none());
    server.remove("p.toml");
    let entry = server.wait_out_of_date("next-start");
    let why = entry["why"].as_str().unwrap();
    assert!(why.contains("client.toml:3:10: policy `p` is gone with its file"), "{entry}");
    server.wait_log(&["ERROR", "next-start", "client.toml"]);
    run(["status", "--admin", &server.admin().to_string()])
        .expect_code(1)
        .expect_text(&["next-start", "the next start refuses"]);
    // What else changes meanwhile is in force, and it stays told.
    server.write("test.toml", "[policy.test]\nallowed_hostnames = [\"t.test\"]\n");
    server.until("the change", || allows(&server, "127.0.0.1", "t.test").then_some(()));
    assert!(server.out_of_date("next-start").is_some());
    server.write("p.toml", policy);
    server.wait_not_out_of_date("next-start");
    server.remove("p.toml");
    server.wait_out_of_date("next-start");
    server.remove("client.toml");
    server.wait_not_out_of_date("next-start");
    // The configuration refers to it.
    server.remove("test.toml");
    let entry = server.wait_out_of_date("next-start");
    assert!(entry["path"].as_str().unwrap().ends_with("hostgate.toml"), "{entry}");
}

#[test]
fn a_listener_whose_address_comes_later_serves_once_it_is_there() {
    if !has_own_network("starts::a_listener_whose_address_comes_later_serves_once_it_is_there") {
        return;
    }
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]");
    let server = setup.listen("192.0.2.77:0", None).listen("[2001:db8::77]:0", None).start();
    let entry = server.wait_out_of_date("address");
    assert!(entry["why"].as_str().unwrap().contains("192.0.2.77"), "{entry}");
    assert_eq!(server.metric("hostgate_out_of_date", &[("kind", "address")]), 2);
    server.wait_log(&["WARN", "address", "192.0.2.77"]);
    assert!(allows(&server, "127.0.0.1", "one.test"), "others serve");
    let ip = |arguments: &str| {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
    };
    ip("addr add 192.0.2.77/32 dev lo");
    ip("-6 addr add 2001:db8::77/128 dev lo nodad");
    for address in ["192.0.2.77", "2001:db8::77"] {
        let (from, address) = (address, server.address_on(address));
        // An IPv6 address has its route a moment after it is there.
        server.until("the address can be reached", || std::net::TcpStream::connect(address).ok());
        // The client takes an answer from the address that it asked alone.
        ask("one.test", RecordType::A).from(from).udp_to(address).unwrap().expect_addresses(&[GLOBAL.into()]);
        ask("two.test", RecordType::A).from(from).tcp_to(address).unwrap().expect_addresses(&[GLOBAL.into()]);
    }
    server.wait_not_out_of_date("address");
    ip("addr del 192.0.2.77/32 dev lo");
    server.wait_out_of_date("address");
}

#[test]
fn second_address_of_an_interface_is_this_machines_like_the_first() {
    if !has_own_network("starts::second_address_of_an_interface_is_this_machines_like_the_first") {
        return;
    }
    let ip = |arguments: &str| {
        assert!(Command::new("ip").args(arguments.split(' ')).status().unwrap().success(), "ip {arguments}");
    };
    ip("link add vx type veth peer name vy");
    ip("link set vx up");
    for address in ["198.51.100.1/24", "198.51.100.3/24", "2001:db8::1/64", "2001:db8::3/64"] {
        let nodad = if address.contains("::") { " nodad" } else { "" };
        ip(&format!("addr add {address} dev vx{nodad}"));
    }
    let own = ["198.51.100.1", "198.51.100.3", "[2001:db8::1]", "[2001:db8::3]"];
    // With these any address can be bound, so that a socket says nothing about it.
    for is_any_bound in ["0", "1"] {
        for family in ["ipv4", "ipv6"] {
            fs::write(format!("/proc/sys/net/{family}/ip_nonlocal_bind"), is_any_bound).unwrap();
        }
        let upstream = FakeUpstream::start();
        let setup = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]");
        let server = own.iter().fold(setup, |setup, address| setup.listen(&format!("{address}:0"), None)).start();
        server.until("it is compared", || allows(&server, "127.0.0.1", "one.test").then_some(()));
        assert_eq!(server.metric("hostgate_out_of_date", &[("kind", "address")]), 0, "{is_any_bound}");
        next_start(&server, 0);
        drop(server);
        let setup = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]");
        let server = setup.listen("198.51.100.77:0", None).listen("[2001:db8::77]:0", None).start();
        server.wait_out_of_date("address");
        assert_eq!(server.metric("hostgate_out_of_date", &[("kind", "address")]), 2, "{is_any_bound}");
        drop(server);
        for address in own {
            let any = if address.starts_with('[') { "[::]" } else { "0.0.0.0" };
            let setup = Setup::policy(&upstream, "allowed_hostnames = [\"*.test\"]");
            let setup = setup.listen_only(&format!("{any}:5391")).servers(&[&format!("{address}:5391")]);
            setup.refused().expect_code(78).expect_text(&[&format!("{address}:5391"), "in a circle"]);
        }
    }
}

/// Runs `check --start` for the files of a server; returns what it says as JSON.
#[track_caller]
pub(crate) fn next_start(server: &Server, code: i32) -> Value {
    let config = server.directory().join("hostgate.toml");
    let finished = run(["check", "--start", "--json", "--config", config.to_str().unwrap()]).expect_code(code);
    run(["check", "--start", "--config", config.to_str().unwrap()]).expect_code(code);
    serde_json::from_str(&finished.stdout).unwrap()
}

/// Ends a server and waits until it is gone.
#[track_caller]
pub(crate) fn stop(mut server: Server) -> Server {
    server.signal("TERM");
    assert_eq!(server.wait_exit().code(), Some(0));
    server
}

/// Starts a server that keeps its last good state, with a list, a client and a policy of a person each.
fn keeping(upstream: &FakeUpstream) -> Server {
    let server = Setup::policy(upstream, "allowed_hostnames = [\"v1.test\"]\nallowed_hostnames_files = [\"list.txt\"]")
        .top("start_from_last_good = true")
        .file("list.txt", "l1.test\n")
        .file("p.toml", "[policy.p]\nallowed_hostnames = [\"p.test\"]\n")
        .file("client.toml", "[client.c]\nsources = [\"127.0.0.11\"]\npolicy = \"p\"\n")
        .start();
    let state = server.directory().join(".hostgate-last-good/state");
    server.until("kept", || state.exists().then_some(()));
    server
}

#[test]
fn what_the_next_start_would_begin_with_instead_is_told() {
    let upstream = FakeUpstream::start();
    let server = keeping(&upstream);
    server.remove("p.toml");
    // The state is written again, as one in which the policy is gone.
    let written = server.until("told", || {
        let state = fs::read_to_string(server.directory().join(".hostgate-last-good/state")).unwrap();
        let entry = server.out_of_date("next-start").filter(|_| !state.contains("p.test"))?;
        let report = next_start(&server, 1);
        let written = report["last_good"].as_str().unwrap().to_owned();
        let told = format!(
            "policy `p` is gone with its file: define it again, or refer to something else: the next start begins with the last good state, of {written}, instead"
        );
        entry["why"].as_str().unwrap().ends_with(&told).then_some(written)
    });
    let config = server.directory().join("hostgate.toml");
    let place = server.directory().join(".hostgate-last-good");
    run(["check", "--start", "--config", config.to_str().unwrap()]).expect_code(1).expect_text(&[
        &format!("the next start begins with the last good state, of {written} (in {})", place.display()),
        "client.toml:3:10",
    ]);
    // Where that is of no use, it is refused.
    fs::remove_dir_all(&place).unwrap();
    fs::write(&place, "in the way").unwrap();
    server.until("refused", || {
        let entry = server.out_of_date("next-start")?;
        entry["why"]
            .as_str()
            .unwrap()
            .contains("the next start refuses this, as the last good state is of no use")
            .then_some(())
    });
    assert_eq!(next_start(&server, 78)["start"], "refused");
}

/// Returns when the last good state was written last.
fn kept_at(server: &Server) -> std::time::SystemTime {
    fs::metadata(server.directory().join(".hostgate-last-good/state")).unwrap().modified().unwrap()
}

#[test]
fn a_bad_file_at_a_start_means_the_last_good_state_where_that_was_chosen() {
    type Spoil = fn(&Server);
    let spoils: [(&str, Spoil); 7] = [
        ("half", |server| server.write("test.toml", "[policy.test")),
        ("empty", |server| server.write("test.toml", "")),
        ("in use and gone", |server| server.remove("p.toml")),
        ("an unknown policy", |server| {
            server.write("new.toml", "[client.n]\nsources = [\"127.0.0.12\"]\npolicy = \"none\"\n");
        }),
        ("a list that is gone", |server| server.remove("list.txt")),
        ("the configuration", |server| server.reconfigure("[admin]", "[admin")),
        ("a policy of the configuration", |server| {
            server.reconfigure("default_policy = \"test\"", "default_policy = \"none\"");
        }),
    ];
    let upstream = FakeUpstream::start();
    for (case, spoil) in spoils {
        let server = stop(keeping(&upstream));
        assert_eq!(next_start(&server, 0)["start"], "as-on-disk", "{case}");
        spoil(&server);
        server.write(
            "other.toml",
            "[policy.o]\nallowed_hostnames = [\"o.test\"]\n[client.o]\nsources = [\"127.0.0.13\"]\npolicy = \"o\"\n",
        );
        let told = next_start(&server, 1);
        assert_eq!(told["start"], "from-last-good", "{case}: {told}");
        let next = server.restarted();
        assert!(allows(&next, "127.0.0.1", "v1.test") && allows(&next, "127.0.0.1", "l1.test"), "{case}");
        // What is gone is gone, as while it runs; what is good on disk is in force.
        assert_eq!(allows(&next, "127.0.0.11", "p.test"), case != "in use and gone", "{case}");
        if case != "in use and gone" {
            assert!(allows(&next, "127.0.0.13", "o.test"), "{case}");
        }
        next.wait_log(&["ERROR", "started from the last good state"]);
        let entry = next.wait_out_of_date(if case == "in use and gone" { "next-start" } else { "last-good" });
        assert!(entry["since"].is_string(), "{case}: {entry}");
        run(["status", "--admin", &next.admin().to_string()]).expect_code(1);
        // Mended, it is as if nothing had been.
        match case {
            "half" | "empty" => next.write("test.toml", "[policy.test]\nallowed_hostnames = [\"v2.test\"]\n"),
            "in use and gone" => next.write("p.toml", "[policy.p]\nallowed_hostnames = [\"p.test\"]\n"),
            "an unknown policy" => next.remove("new.toml"),
            "a list that is gone" => next.write("list.txt", "l2.test\n"),
            "the configuration" => next.reconfigure("[admin", "[admin]"),
            _ => next.reconfigure("default_policy = \"none\"", "default_policy = \"test\""),
        }
        for kind in ["last-good", "held-back", "unreadable", "next-start"] {
            next.wait_not_out_of_date(kind);
        }
        next.wait_no_error();
        let kept = match case {
            "half" | "empty" => "v2.test",
            "a list that is gone" => "l2.test",
            _ => "p.test",
        };
        let directory = next.directory().join(".hostgate-last-good");
        let is_kept = || {
            let mut texts = fs::read_dir(&directory).unwrap().map(|entry| fs::read_to_string(entry.unwrap().path()));
            texts.any(|text| text.is_ok_and(|text| text.contains(kept)))
        };
        next.until("kept again", || is_kept().then_some(()));
        assert_eq!(next_start(&next, 0)["start"], "as-on-disk", "{case}");
    }
}

#[test]
fn empty_configuration_file_is_no_start_by_the_defaults() {
    let upstream = FakeUpstream::start();
    let server = stop(keeping(&upstream));
    let config = server.directory().join("hostgate.toml");
    fs::write(&config, "").unwrap();
    assert_eq!(next_start(&server, 1)["start"], "from-last-good");
    fs::remove_dir_all(server.directory().join(".hostgate-last-good")).unwrap();
    for blank in ["", " \n\t\n", "\u{feff}"] {
        fs::write(&config, blank).unwrap();
        let told = next_start(&server, 78);
        assert!(told.to_string().contains("the file is empty, as if half written"), "{blank:?}: {told}");
    }
}

#[test]
fn last_good_state_is_written_while_changes_keep_coming() {
    let upstream = FakeUpstream::start();
    let server = keeping(&upstream);
    let before = kept_at(&server);
    let mut version = 0;
    // Each change comes before a pause of half a second is over.
    server.until("written between changes", || {
        version += 1;
        // Never half written: what is bad is not kept.
        server.replace("p.toml", format!("[policy.p]\nallowed_hostnames = [\"p{version}.test\"]\n"));
        (kept_at(&server) > before).then_some(())
    });
}

#[test]
fn without_the_choice_or_with_a_state_that_is_broken_a_bad_file_is_no_start() {
    let upstream = FakeUpstream::start();
    let server = stop(keeping(&upstream));
    server.write("test.toml", "[policy.test");
    let state = server.directory().join(".hostgate-last-good/state");
    let text = fs::read(&state).unwrap();
    for (broken, told) in [
        (&text[..text.len() / 2], "checksum"),
        (b"", "another version"),
        (&text.repeat(2), "checksum"),
        (&[0; 4096], "another version"),
    ] {
        fs::write(&state, broken).unwrap();
        let refused = server.refused_plainly().expect_code(78);
        refused.expect_text(&["test.toml:1:", "the last good state cannot be started from", told]);
        assert_eq!(next_start(&server, 78)["start"], "refused");
    }
    fs::write(&state, &text).unwrap();
    assert_eq!(next_start(&server, 1)["start"], "from-last-good");
    // A list of it that is broken.
    let list = fs::read_dir(state.parent().unwrap()).unwrap().map(|entry| entry.unwrap().path());
    let list = list.into_iter().find(|path| !path.ends_with("state")).unwrap();
    fs::write(list, "else.test\n").unwrap();
    server.refused_plainly().expect_code(78).expect_text(&["checksum"]);
    fs::remove_dir_all(state.parent().unwrap()).unwrap();
    server.refused_plainly().expect_code(78).expect_text(&["there is none yet"]);
    server.reconfigure("start_from_last_good = true", "start_from_last_good = false");
    let refused = server.refused_plainly().expect_code(78);
    assert!(!refused.stderr.contains("last good"), "{refused:#?}");
}

#[test]
fn a_last_good_state_that_cannot_be_written_is_told() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "allowed_hostnames = [\"v1.test\"]").top("start_from_last_good = true");
    let place = setup.directory().join(".hostgate-last-good");
    fs::write(&place, "in the way").unwrap();
    let server = setup.start();
    let entry = server.wait_out_of_date("not-kept");
    assert!(entry["path"].as_str().unwrap().ends_with(".hostgate-last-good"), "{entry}");
    fs::remove_file(place).unwrap();
    server.wait_not_out_of_date("not-kept");
}

#[test]
fn last_good_state_that_is_lost_on_disk_is_written_again_or_told() {
    type Spoil<'s> = &'s dyn Fn(&std::path::Path, &[u8]);
    let upstream = FakeUpstream::start();
    let server = keeping(&upstream);
    let directory = server.directory().join(".hostgate-last-good");
    let state = directory.join("state");
    let list =
        fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()).find(|path| *path != state).unwrap();
    let texts = [&state, &list].map(|path| fs::read(path).unwrap());
    let flipped = |text: &[u8]| {
        let mut text = text.to_vec();
        let half = text.len() / 2;
        text[half] ^= 1;
        text
    };
    let is_back =
        || [&state, &list].iter().zip(&texts).all(|(path, text)| fs::read(path).is_ok_and(|now| now == *text));
    let spoils: [(&str, Spoil<'_>); 5] = [
        ("flipped", &|path, text| fs::write(path, flipped(text)).unwrap()),
        ("half", &|path, text| fs::write(path, &text[..text.len() / 2]).unwrap()),
        ("zeros", &|path, text| fs::write(path, vec![0; text.len()]).unwrap()),
        ("gone", &|path, _| fs::remove_file(path).unwrap()),
        ("all gone", &|_, _| fs::remove_dir_all(&directory).unwrap()),
    ];
    for (case, spoil) in spoils {
        for (path, text) in [&state, &list].into_iter().zip(&texts) {
            spoil(path, text);
            server.until(case, || is_back().then_some(()));
        }
    }
    assert!(server.out_of_date("not-kept").is_none());
    // Where it cannot be written.
    fs::remove_file(&state).unwrap();
    fs::create_dir_all(state.join("in the way")).unwrap();
    server.wait_out_of_date("not-kept");
    fs::remove_dir_all(&state).unwrap();
    server.wait_not_out_of_date("not-kept");
    assert!(is_back());
    // While files are bad on disk, their texts in force are written again, and the list that it has already.
    server.write("p.toml", "[policy.p");
    server.remove("list.txt");
    server.until("both are bad", || {
        (server.metric("hostgate_out_of_date", &[("kind", "unreadable")]) == 1).then_some(())
    });
    server.wait_out_of_date("held-back");
    fs::write(&state, flipped(&texts[0])).unwrap();
    server.until("both are bad", || is_back().then_some(()));
    assert!(server.out_of_date("not-kept").is_none());
    // A list that is bad on disk and lost in the state, too, is in force alone.
    fs::write(&list, "else.test\n").unwrap();
    let entry = server.wait_out_of_date("not-kept");
    assert!(entry["why"].as_str().unwrap().contains("an older content of it is kept"), "{entry}");
    let entry = server.wait_out_of_date("next-start");
    assert!(entry["why"].as_str().unwrap().contains("which is older than what is in force"), "{entry}");
    server.write("p.toml", "[policy.p]\nallowed_hostnames = [\"p.test\"]\n");
    server.write("list.txt", "l1.test\n");
    server.wait_not_out_of_date("not-kept");
    server.wait_not_out_of_date("next-start");
    assert!(is_back());
}

#[test]
fn the_next_start_is_told_with_what_the_api_has() {
    let upstream = FakeUpstream::start();
    let server = stop(objects(&upstream).start());
    assert_eq!(next_start(&server, 0)["start"], "as-on-disk");
    fs::write(server.directory().join("token"), "").unwrap();
    let told = next_start(&server, 1);
    assert_eq!(told["start"], "without-what-is-bad");
    assert!(told["api"][0].as_str().unwrap().contains("it has no token"), "{told}");
    server.write("api/npol_1.toml", "");
    let told = next_start(&server, 1);
    assert!(told["held_back"][0].as_str().unwrap().ends_with("api/npol_1.toml"), "{told}");
    server.write("hand.toml", "");
    assert_eq!(next_start(&server, 78)["start"], "refused");
}

#[test]
fn the_unit_starts_again_for_ever() {
    let unit = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/hostgate.service")).unwrap();
    let (head, service) = unit.split_once("[Service]").unwrap();
    assert!(head.contains("\nStartLimitIntervalSec=0\n"), "of the section [Unit]");
    for line in ["Restart=on-failure", "RestartSec=1s", "RestartSteps=5", "RestartMaxDelaySec=30s"] {
        assert!(service.lines().any(|it| it == line), "{line}");
    }
    let verified = Command::new("systemd-analyze")
        .args(["--man=no", "verify"])
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/systemd/hostgate.service"))
        .output();
    let told = verified.map(|output| String::from_utf8_lossy(&output.stderr).into_owned()).unwrap_or_default();
    let wrong: Vec<&str> = told
        .lines()
        .filter(|line| {
            line.contains("hostgate.service:") && !line.contains("Restart") && !line.contains("not executable")
        })
        .collect();
    assert!(wrong.is_empty(), "{wrong:?}");
}
