//! Reloads with 10,000 policy files: one that changes is in force soon, and nobody else's answers change meanwhile.

use std::fmt::Write as _;
use std::fs;
use std::time::Instant;

use crate::support::*;

/// Policy files, each with a client.
const FILES: usize = 10_000;

/// Returns the file of a policy that allows one name.
fn policy(number: usize, name: &str) -> String {
    let (third, fourth) = (number / 250, number % 250 + 1);
    format!(
        "[policy.p{number}]\ninclude = [\"base\"]\nallowed_hostnames = [\"{name}\"]\n\
         [client.c{number}]\nsources = [\"127.9.{third}.{fourth}\"]\npolicy = \"p{number}\"\n"
    )
}

/// Returns the address of a policy's client.
fn client(number: usize) -> String {
    format!("127.9.{}.{}", number / 250, number % 250 + 1)
}

/// Starts with all files and a list that all of them include.
fn start(upstream: &FakeUpstream) -> Server {
    let setup = Setup::new(&[upstream]);
    for number in 0..FILES {
        fs::write(setup.policies().join(format!("p{number}.toml")), policy(number, "v1.test")).unwrap();
    }
    let list = (0..1000).fold(String::new(), |mut list, number| {
        writeln!(list, "h{number}.list.test").unwrap();
        list
    });
    setup.file("base.toml", "[policy.base]\nallowed_hostnames_files = [\"list.txt\"]\n").file("list.txt", list).start()
}

/// Returns whether a policy's client may look a name up.
fn allows(server: &Server, number: usize, name: &str) -> bool {
    !ask(name, RecordType::A).from(&client(number)).udp(server).addresses().is_empty()
}

/// Changes the file of a policy by `change`, which gets its path and its new text, and waits until that is in force.
#[expect(clippy::print_stderr, reason = "how long it took is worth knowing, and no tight bound holds on every machine")]
fn change(server: &Server, number: usize, change: impl FnOnce(&str, String)) {
    assert!(allows(server, number, "v1.test") && !allows(server, number, "v2.test"));
    change(&format!("p{number}.toml"), policy(number, "v2.test"));
    let start = Instant::now();
    server.until("the change is in force", || allows(server, number, "v2.test").then_some(()));
    eprintln!("p{number}.toml: in force after {:?}", start.elapsed());
    assert!(!allows(server, number, "v1.test"));
    assert!(allows(server, number, "h7.list.test") && allows(server, number + 1000, "v1.test"), "the others");
}

#[test]
fn one_changed_file_of_ten_thousand_is_in_force_soon() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    change(&server, 1, |path, text| server.write(path, text));
    change(&server, 2, |path, text| server.replace(path, text));
    // There is something to tell about it, so all files are looked at.
    change(&server, 3, |path, text| server.write(path, text.replace("[\"v2", "[\"v2.test\", \"v2")));
    server.remove("p9999.toml");
    server.until("the file is gone", || (!allows(&server, 9_999, "v1.test")).then_some(()));
    server.until("base, and all but one", || (server.status()["policies"] == FILES).then_some(()));
    assert!(allows(&server, 9_998, "v1.test"));
}
