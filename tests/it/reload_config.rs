//! What a reload takes from hostgate.toml.

use std::fs;
use std::os::unix::fs::symlink;

use crate::support::*;

/// Returns whether this source may ask for this name.
fn allows(server: &Server, source: &str, name: &str) -> bool {
    !ask(name, RecordType::A).from(source).udp(server).addresses().is_empty()
}

#[test]
fn configuration_is_taken_anew() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream])
        .file(
            "p.toml",
            "[policy.one]\nallowed_hostnames = [\"one.test\"]\n[policy.two]\nallowed_hostnames = [\"two.test\"]\n",
        )
        .top("default_policy = \"one\"\ndenied_ttl = 5")
        .listen("127.0.0.2:0", Some("one"))
        .start();
    assert!(allows(&server, "127.0.0.11", "one.test"));
    server.reconfigure("default_policy = \"one\"\ndenied_ttl = 5", "default_policy = \"two\"\ndenied_ttl = 17");
    server.until("the default", || allows(&server, "127.0.0.11", "two.test").then_some(()));
    server.until("denied_ttl", || {
        let ttl = ask("one.test", RecordType::A).udp(&server).soa()?.1;
        (ttl == 17).then_some(())
    });
    server.reconfigure("policy = \"one\"", "policy = \"two\"");
    let other = server.address_on("127.0.0.2");
    server.until("the listener's policy", || {
        let heard = ask("two.test", RecordType::A).udp_to(other).unwrap();
        (!heard.addresses().is_empty()).then_some(())
    });
    // An error keeps what was.
    server.reconfigure("default_policy = \"two\"", "default_policy = \"nope\"");
    let error = server.wait_error();
    assert!(error.contains("hostgate.toml:2:18"), "{error}");
    assert!(allows(&server, "127.0.0.11", "two.test"));
    server.reconfigure("default_policy = \"nope\"", "default_policy = ");
    server.until("the syntax error", || {
        server.status()["error"].as_str().is_some_and(|error| !error.contains("nope")).then_some(())
    });
    assert!(allows(&server, "127.0.0.11", "two.test"));
    server.reconfigure("default_policy = ", "default_policy = \"one\" # ");
    server.until("mended", || allows(&server, "127.0.0.11", "one.test").then_some(()));
    // A key that needs a restart says so.
    server.reconfigure("address = \"127.0.0.2:0\"", "address = \"127.0.0.3:0\"");
    server.wait_log(&["WARN", "restart"]);
}

#[test]
fn log_filter_is_taken_anew_and_a_bad_one_is_held_back() {
    let upstream = FakeUpstream::start();
    let policy = |name: &str| format!("[policy.one]\nallowed_hostnames = [\"{name}\"]\n");
    let server = Setup::new(&[&upstream])
        .file("p.toml", policy("one.test"))
        .top("default_policy = \"one\"\nlog = \"info\"\ndenied_ttl = 5")
        .start();
    let generation = || server.status()["generation"].as_u64().unwrap();
    let swap = |name: &str| {
        let before = generation();
        server.write("p.toml", policy(name));
        server.until(name, || allows(&server, "127.0.0.11", name).then_some(()));
        // The status is told after the answers have changed.
        server.until("its generation", || Some(generation()).filter(|now| *now > before))
    };
    let lines = |generation: u64| server.log_lines(&["policies swapped", &format!("generation={generation} ")]).len();
    let reconfigured = |from: &str, to: &str, ttl: u32| {
        server.reconfigure(from, to);
        let denied_ttl = || ask("denied.test", RecordType::A).udp(&server).soa().map(|soa| soa.1);
        server.until("the configuration", || (denied_ttl() == Some(ttl)).then_some(()));
    };
    let told = swap("two.test");
    server.until("its line", || (lines(told) == 1).then_some(()));
    reconfigured("log = \"info\"\ndenied_ttl = 5", "log = \"warn,hostgate::server=info\"\ndenied_ttl = 6", 6);
    let untold = swap("three.test");
    server.reconfigure("warn,hostgate::server=info", "inof");
    let error = server.wait_error();
    assert!(error.contains("`log`: unknown level `inof`: write a level"), "{error}");
    reconfigured("log = \"inof\"\ndenied_ttl = 6", "log = \"error,hostgate::reload=info\"\ndenied_ttl = 7", 7);
    let told = swap("four.test");
    server.until("its line", || (lines(told) == 1).then_some(()));
    assert_eq!(lines(untold), 0);
}

#[test]
fn an_empty_configuration_holds_itself_back() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream])
        .file("p.toml", "[policy.one]\nallowed_hostnames = [\"one.test\"]\n")
        .top("default_policy = \"one\"")
        .start();
    let path = server.directory().join("hostgate.toml");
    let before = fs::read_to_string(&path).unwrap();
    for text in ["", "\n  \n"] {
        fs::write(&path, text).unwrap();
        let error = server.wait_error();
        assert!(error.contains("hostgate.toml") && error.contains("empty"), "{error}");
        assert!(allows(&server, "127.0.0.11", "one.test"), "{text:?}");
        fs::write(&path, &before).unwrap();
        server.wait_no_error();
    }
    assert!(allows(&server, "127.0.0.11", "one.test"));
}

#[test]
fn a_listener_keeps_its_policy_when_its_table_moves() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream])
        .file("p.toml", "[policy.shut]\n[policy.open]\nallowed_hostnames = [\"*.test\"]\n")
        .listen_only("127.0.0.1:0")
        .listen("127.0.0.2:0", Some("open"))
        .listen("127.0.0.3:0", Some("shut"))
        .start();
    let [open, shut] = ["127.0.0.2", "127.0.0.3"].map(|ip| server.address_on(ip));
    let tables = [
        "[[listen]]\naddress = \"127.0.0.2:0\"\npolicy = \"open\"\n",
        "[[listen]]\naddress = \"127.0.0.3:0\"\npolicy = \"shut\"\n",
    ];
    server.reconfigure(&tables.concat(), &(tables[1].to_owned() + tables[0] + "# moved\n"));
    // Something that shows that the file was read again.
    server.reconfigure("policies = \"policies\"", "denied_ttl = 77\npolicies = \"policies\"");
    let ask_at = |address| ask("name.test", RecordType::A).udp_to(address).unwrap();
    server.until("the new file", || (ask_at(shut).soa()?.1 == 77).then_some(()));
    assert_eq!(ask_at(open).rcode(), ResponseCode::NoError);
    ask_at(shut).expect_denied();
}

#[test]
fn configuration_in_a_configmap_is_watched() {
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream])
        .file(
            "p.toml",
            "[policy.one]\nallowed_hostnames = [\"one.test\"]\n[policy.two]\nallowed_hostnames = [\"two.test\"]\n",
        )
        .top("default_policy = \"one\"");
    let directory = setup.directory().to_owned();
    let text = fs::read_to_string(setup.write_configuration()).unwrap();
    let publish = |revision: &str, text: &str| {
        fs::create_dir(directory.join(revision)).unwrap();
        // Paths are relative to the file they stand in, as it is named.
        fs::write(directory.join(revision).join("hostgate.toml"), text).unwrap();
        symlink(revision, directory.join("..data_tmp")).unwrap();
        fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    };
    publish("..1", &text);
    let server = setup.start_with(|path| {
        fs::remove_file(path).unwrap();
        symlink("..data/hostgate.toml", path).unwrap();
    });
    assert!(allows(&server, "127.0.0.11", "one.test"));
    publish("..2", &text.replace("default_policy = \"one\"", "default_policy = \"two\""));
    fs::remove_dir_all(directory.join("..1")).unwrap();
    server.until("the new default", || allows(&server, "127.0.0.11", "two.test").then_some(()));
}

#[test]
fn relative_paths_are_watched_too() {
    let policy = |name: &str| {
        let client = "[client.a]\nsources = [\"127.0.0.11\"]\npolicy = \"a\"\n";
        format!("[policy.a]\nallowed_hostnames = [\"{name}\"]\n{client}")
    };
    for arguments in [&[][..], &["serve"], &["serve", "--config", "hostgate.toml"], &["--config", "./hostgate.toml"]] {
        let upstream = FakeUpstream::start();
        let server = Setup::new(&[&upstream])
            .file("a.toml", policy("a.test"))
            .file("d.toml", "[policy.d]\nallowed_hostnames = [\"d.test\"]\n")
            .arguments(arguments)
            .top("denied_ttl = 5")
            .start();
        server.write("a.toml", policy("a2.test"));
        server.until("the policy", || allows(&server, "127.0.0.11", "a2.test").then_some(()));
        server.reconfigure("denied_ttl = 5", "default_policy = \"d\"");
        server.until("the configuration", || allows(&server, "127.0.0.12", "d.test").then_some(()));
    }
}

#[test]
fn configuration_and_policy_that_need_each_other_change_in_any_order() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = [\"one.test\"]").start();
    server.reconfigure("default_policy = \"test\"", "default_policy = \"new\"");
    assert!(server.wait_error().contains("hostgate.toml:2:18"));
    assert!(allows(&server, "127.0.0.11", "one.test"));
    server.write("new.toml", "[policy.new]\nallowed_hostnames = [\"new.test\"]\n");
    server.until("the new default", || allows(&server, "127.0.0.11", "new.test").then_some(()));
    server.wait_no_error();
    // And back: the policy goes first, its sources are denied until the configuration follows.
    server.remove("new.toml");
    server.until("denied", || (!allows(&server, "127.0.0.11", "new.test")).then_some(()));
    server.reconfigure("default_policy = \"new\"", "default_policy = \"test\"");
    server.until("the old default", || allows(&server, "127.0.0.11", "one.test").then_some(()));
    server.wait_no_error();
}
