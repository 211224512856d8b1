//! What is on disk goes into force whatever the kernel tells of changes, or the status says that it does not.

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::*;

/// The longest time until a change is in force of which no event tells.
const UNTOLD: Duration = Duration::from_secs(3);

/// Returns a policy that allows one name.
fn policy(name: &str) -> String {
    format!("[policy.test]\nallowed_hostnames = [\"{name}\"]\n")
}

/// Prepares a server with `test.toml` allowing `v1.test`.
fn setup(upstream: &FakeUpstream) -> Setup {
    Setup::policy(upstream, "").file("test.toml", policy("v1.test"))
}

/// Waits until `name` is allowed; it must not take longer than [`UNTOLD`].
#[track_caller]
fn wait_allows(server: &Server, name: &str) {
    let start = Instant::now();
    server.until(name, || (!ask(name, RecordType::A).udp(server).addresses().is_empty()).then_some(()));
    assert!(start.elapsed() < UNTOLD, "{name} took {:?}\n{}", start.elapsed(), server.log());
}

#[test]
fn without_an_inotify_instance_changes_are_found_and_it_is_tried_again() {
    let upstream = FakeUpstream::start();
    let Some(setup) = setup(&upstream).apart("echo 0 >/proc/sys/user/max_inotify_instances") else { return };
    let lists = tempfile::tempdir().unwrap();
    let list = lists.path().join("list.txt");
    fs::write(&list, "l1.test\n").unwrap();
    let server = setup
        .file("list.toml", format!("[policy.list]\nallowed_hostnames_files = [{list:?}]\n[client.l]\nsources = [\"127.0.0.9\"]\npolicy = \"list\"\n"))
        .top(&format!("list_directories = [{:?}]", lists.path()))
        .start();
    let entry = server.wait_out_of_date("polling");
    assert!(entry["why"].as_str().unwrap().contains("max_user_instances"), "{entry}");
    assert!(entry["since"].as_str().unwrap().ends_with('Z'), "{entry}");
    assert_eq!(server.metric("hostgate_out_of_date", &[("kind", "polling")]), 1);
    server.wait_log(&["out of date", "polling"]);
    // In place, renamed over, beside it, in a folder that is new, and a list outside of the directory.
    server.write("test.toml", policy("v2.test"));
    wait_allows(&server, "v2.test");
    server.replace("test.toml", policy("v3.test"));
    wait_allows(&server, "v3.test");
    fs::create_dir(server.policies("team")).unwrap();
    server.write(
        "team/more.toml",
        "[policy.more]\nallow_all = true\n[client.m]\nsources = [\"127.0.0.8\"]\npolicy = \"more\"\n",
    );
    let allows = |name: &str, from: &str| !ask(name, RecordType::A).from(from).udp(&server).addresses().is_empty();
    server.until("the new folder", || allows("any.test", "127.0.0.8").then_some(()));
    fs::write(&list, "l2.test\n").unwrap();
    server.until("the list", || allows("l2.test", "127.0.0.9").then_some(()));
    server.remove("team/more.toml");
    server.until("gone", || (!allows("other.test", "127.0.0.8")).then_some(()));
    server.reconfigure("default_policy = \"test\"", "default_policy = \"list\"");
    server.until("the configuration", || allows("l2.test", "127.0.0.1").then_some(()));
    // A bad file is told as ever.
    server.write("test.toml", "[policy.test");
    server.wait_out_of_date("held-back");
    server.write("test.toml", policy("v4.test"));
    server.wait_not_out_of_date("held-back");
    server.inside("echo 100 >/proc/sys/user/max_inotify_instances");
    server.wait_not_out_of_date("polling");
    server.wait_log(&["no longer out of date", "polling"]);
}

#[test]
fn links_that_lead_elsewhere_are_found_without_events() {
    let upstream = FakeUpstream::start();
    let Some(setup) = setup(&upstream).apart("echo 0 >/proc/sys/user/max_inotify_instances") else { return };
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |name: &str| elsewhere.path().join(name);
    let client = |id: &str, address: &str| format!("[client.{id}]\nsources = [\"{address}\"]\npolicy = \"test\"\n");
    for (folder, name) in [("one", "d1.test"), ("two", "d2.test")] {
        fs::create_dir(at(folder)).unwrap();
        fs::write(
            at(folder).join("d.toml"),
            format!(
                "[policy.d]\nallowed_hostnames = [\"{name}\"]\n[client.d]\nsources = [\"127.0.0.8\"]\npolicy = \"d\"\n"
            ),
        )
        .unwrap();
    }
    fs::write(at("c1"), client("c1", "127.0.0.7")).unwrap();
    std::os::unix::fs::symlink(at("one"), setup.policies().join("folder")).unwrap();
    std::os::unix::fs::symlink(at("later"), setup.policies().join("dangling")).unwrap();
    std::os::unix::fs::symlink(at("c1"), setup.policies().join("c.toml")).unwrap();
    let server = setup.start();
    let allows = |name: &str, from: &str| !ask(name, RecordType::A).from(from).udp(&server).addresses().is_empty();
    assert!(allows("d1.test", "127.0.0.8") && allows("v1.test", "127.0.0.7"));
    // A folder by another link, what a link leads to, and what comes in the place of nothing.
    let swap = |name: &str, target: &str| {
        std::os::unix::fs::symlink(at(target), at("link.tmp")).unwrap();
        fs::rename(at("link.tmp"), server.policies(name)).unwrap();
    };
    swap("folder", "two");
    server.until("the other folder", || allows("d2.test", "127.0.0.8").then_some(()));
    fs::write(
        at("two/d.toml"),
        "[policy.d]\nallowed_hostnames = [\"d3.test\"]\n[client.d]\nsources = [\"127.0.0.8\"]\npolicy = \"d\"\n",
    )
    .unwrap();
    server.until("its file", || allows("d3.test", "127.0.0.8").then_some(()));
    fs::write(at("c1"), "[client.c1]\nsources = [\"127.0.0.7\"]\npolicy = \"d\"\n").unwrap();
    server.until("what the link leads to", || allows("d3.test", "127.0.0.7").then_some(()));
    fs::create_dir(at("later")).unwrap();
    fs::write(
        at("later/l.toml"),
        "[policy.l]\nallow_all = true\n[client.l]\nsources = [\"127.0.0.6\"]\npolicy = \"l\"\n",
    )
    .unwrap();
    server.until("what came", || allows("any.test", "127.0.0.6").then_some(()));
    server.wait_no_error();
}

#[test]
fn without_room_for_watches_changes_are_found_and_it_is_tried_again() {
    let upstream = FakeUpstream::start();
    let Some(setup) = setup(&upstream).apart("echo 0 >/proc/sys/user/max_inotify_watches") else { return };
    let server = setup.start();
    let entry = server.wait_out_of_date("polling");
    assert!(entry["why"].as_str().unwrap().contains("max_user_watches"), "{entry}");
    server.write("test.toml", policy("v2.test"));
    wait_allows(&server, "v2.test");
    server.inside("echo 1000 >/proc/sys/user/max_inotify_watches");
    server.wait_not_out_of_date("polling");
    server.write("test.toml", policy("v3.test"));
    wait_allows(&server, "v3.test");
}

#[test]
fn what_is_mounted_over_the_policies_and_unmounted_is_noticed() {
    let upstream = FakeUpstream::start();
    let Some(setup) = setup(&upstream).apart("true") else { return };
    let setup = setup
        .file("team/a.toml", "[policy.a]\nallow_all = true\n[client.a]\nsources = [\"127.0.0.8\"]\npolicy = \"a\"\n");
    let other = tempfile::tempdir().unwrap();
    fs::write(other.path().join("test.toml"), policy("v2.test")).unwrap();
    let single = other.path().join("single.txt");
    fs::write(&single, policy("v3.test")).unwrap();
    let (policies, beside) = (setup.policies(), other.path().to_owned());
    let (policies, beside) = (policies.display(), beside.display());
    let server = setup.start();
    server.inside(&format!("mount --bind {beside} {policies}"));
    wait_allows(&server, "v2.test");
    server.inside(&format!("umount -l {policies}"));
    wait_allows(&server, "v1.test");
    // Over one file, and over a folder.
    server.inside(&format!("mount --bind {} {policies}/test.toml", single.display()));
    wait_allows(&server, "v3.test");
    server.inside(&format!("umount -l {policies}/test.toml"));
    wait_allows(&server, "v1.test");
    let allows = || !ask("any.test", RecordType::A).from("127.0.0.8").udp(&server).addresses().is_empty();
    assert!(allows());
    server.inside(&format!("mount -t tmpfs none {policies}/team"));
    server.wait_out_of_date("unreadable");
    assert!(allows());
    server.inside(&format!("umount -l {policies}/team"));
    server.wait_not_out_of_date("unreadable");
    assert!(allows());
    // What is mounted is followed as well.
    server.inside(&format!("mount --bind {beside} {policies}"));
    wait_allows(&server, "v2.test");
    fs::write(other.path().join("test.toml"), policy("v4.test")).unwrap();
    wait_allows(&server, "v4.test");
}

#[test]
fn what_is_written_through_a_mapping_is_noticed() {
    // No event tells of it (inotify(7)).
    const WRITE: &str = "import mmap, sys\nwith open(sys.argv[1], 'r+b') as f:\n    m = mmap.mmap(f.fileno(), 0)\n\
                         print(flush=True)\nsys.stdin.readline()\nm[:] = m[:].replace(b'v1', b'v2')\nm.flush()\nm.close()";
    use std::io::Read as _;
    let upstream = FakeUpstream::start();
    let server = setup(&upstream).start();
    let mut writer = Command::new("python3")
        .args(["-c", WRITE])
        .arg(server.policies("test.toml"))
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    writer.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    drop(writer.stdin.take());
    assert!(writer.wait().unwrap().success());
    wait_allows(&server, "v2.test");
}

#[test]
fn a_file_that_cannot_be_read_for_want_of_descriptors_is_tried_again() {
    let upstream = FakeUpstream::start();
    let server = setup(&upstream)
        .file("list.txt", "a.test\n")
        .file("list.toml", "[policy.list]\nallowed_hostnames_files = [\"list.txt\"]\n")
        .listen("127.0.0.2:0", None)
        .start();
    for (round, change) in ["rename", "in place", "list", "new file", "configuration"].into_iter().enumerate() {
        let name = format!("r{round}.test");
        server.limit_open_files(4);
        let seen = server.log_lines(&["Too many open files"]).len();
        match change {
            "rename" => server.replace("test.toml", policy(&name)),
            "in place" => server.write("test.toml", policy(&name)),
            "list" => server.write("list.txt", format!("{name}\n")),
            "configuration" => server.reconfigure("default_policy = \"test\"", "default_policy = \"list\""),
            _ => {
                let text = format!(
                    "[policy.new]\nallowed_hostnames = [\"{name}\"]\n[client.n]\nsources = [\"127.0.0.1\"]\npolicy = \"new\"\n"
                );
                server.write("new.toml", text);
            }
        }
        server.until("told", || (server.log_lines(&["Too many open files"]).len() > seen).then_some(()));
        server.limit_open_files(1024);
        match change {
            "list" => server.wait_generation(4),
            "configuration" => server.wait_generation(6),
            _ => wait_allows(&server, &name),
        }
        server.wait_no_error();
        server.wait_not_out_of_date("unreadable");
    }
}

#[test]
fn what_takes_a_restart_is_out_of_date_until_it_is_as_it_was() {
    let upstream = FakeUpstream::start();
    let server = setup(&upstream).top("threads = 1").start();
    server.reconfigure("threads = 1", "threads = 2");
    let entry = server.wait_out_of_date("restart");
    assert!(entry["why"].as_str().unwrap().ends_with("takes a restart: threads"), "{entry}");
    let status = run(["status", "--admin", &server.admin().to_string()]).expect_code(1);
    status.expect_text(&["out of date since 20", " restart ", "hostgate.toml: changed, and takes a restart: threads"]);
    server.reconfigure("threads = 2", "threads = 1");
    server.wait_not_out_of_date("restart");
    run(["status", "--admin", &server.admin().to_string()]).expect_code(0);
}

#[test]
fn nothing_is_read_again_while_nothing_changes() {
    let upstream = FakeUpstream::start();
    let mut setup = setup(&upstream);
    for number in 0..1_000 {
        setup = setup
            .file(&format!("many/{number}.toml"), format!("[policy.p{number}]\nallowed_hostnames = [\"a.test\"]\n"));
    }
    let server = setup.start();
    let (start, used) = (Instant::now(), server.cpu_time());
    let generation = server.status()["generation"].clone();
    // Four cycles of comparing.
    server.until("six seconds", || (start.elapsed() > Duration::from_secs(6)).then_some(()));
    let used = server.cpu_time().saturating_sub(used);
    assert!(used < Duration::from_millis(600), "{used:?} of CPU time in six seconds");
    assert_eq!(server.status()["generation"], generation);
}
