//! Which files policies may have read, and what of them is shown to whom.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use crate::support::api::TOKEN;
use crate::support::*;

/// A word that must not show where it is not to be read.
const SECRET: &str = "hunter2-is-the-secret";

/// Panics if status, metrics or log have any of `words`.
#[track_caller]
fn expect_silence_about(server: &Server, words: &[&str]) {
    let told = [server.get("/status").body, server.get("/metrics").body, server.log()].join("\n");
    for word in words {
        assert!(!told.contains(word), "`{word}` is told:\n{told}");
    }
}

/// Sets the mode of a file.
fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// Returns a policy for everybody at 127.0.0.7 that has its names from `list`.
fn listing(list: &str) -> String {
    format!("[policy.x]\nallowed_hostnames_files = ['{list}']\n[client.x]\nsources = ['127.0.0.7']\npolicy = 'x'\n")
}

#[test]
fn list_file_outside_of_the_policies_directory_is_neither_read_nor_quoted() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = ['*.test']").control("").start();
    let beside = |name: &str| server.directory().join(name);
    // One that would load: names are shown to whoever may read the policy.
    fs::write(beside("short"), "short-secret.example\n").unwrap();
    fs::write(beside("long"), format!("{SECRET} {SECRET}\n")).unwrap();
    fs::create_dir(beside("policies-2")).unwrap();
    fs::write(beside("policies-2/short"), "short-secret.example\n").unwrap();
    symlink("../token", server.policies("link.txt")).unwrap();
    symlink("../long", server.policies("long.txt")).unwrap();
    symlink("..", server.policies("up")).unwrap();
    server.wait_error();
    fs::remove_file(server.policies("up")).unwrap();
    server.wait_no_error();
    symlink("..", server.policies(".up")).unwrap();
    let absolute = beside("token").display().to_string();
    for list in [
        "../token",
        &absolute,
        "link.txt",
        "long.txt",
        ".up/token",
        "../long",
        "../short",
        "../policies-2/short",
        "./../policies/../short",
        "/proc/self/environ",
        "/proc/self/cmdline",
        "/proc/self/root/etc/passwd",
        "/etc/passwd",
        "/etc/shadow",
        "/dev/zero",
        "../policies",
    ] {
        server.write("x.toml", listing(list));
        let error = server.wait_error();
        assert!(error.contains("x.toml:2:28: list file"), "{list}: {error}");
        expect_silence_about(&server, &[TOKEN, SECRET, "short-secret", "root:", "PATH="]);
        assert!(ask("short-secret.example", RecordType::A).from("127.0.0.7").udp(&server).addresses().is_empty());
        server.remove("x.toml");
        server.wait_no_error();
    }
}

#[test]
fn list_that_only_its_owner_may_read_is_no_list() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = ['*.test']").start();
    server.write("names.txt", "listed.example\n");
    chmod(&server.policies("names.txt"), 0o600);
    server.write("x.toml", listing("names.txt"));
    assert!(server.wait_error().contains("only its owner may read it"), "{}", server.wait_error());
    expect_silence_about(&server, &["listed.example"]);
    chmod(&server.policies("names.txt"), 0o640);
    server.wait_no_error();
    ask("listed.example", RecordType::A).from("127.0.0.7").udp(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn list_directories_are_taken_by_a_reload_and_given_up_by_one() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = ['*.test']").top("# lists").start();
    fs::create_dir(server.directory().join("lists")).unwrap();
    fs::write(server.directory().join("lists/names.txt"), "listed.example\n").unwrap();
    symlink("../lists/names.txt", server.policies("names.txt")).unwrap();
    server.write("x.toml", listing("names.txt"));
    assert!(server.wait_error().contains("outside of the policies directory"));
    server.reconfigure("# lists", "list_directories = ['lists']");
    server.wait_no_error();
    ask("listed.example", RecordType::A).from("127.0.0.7").udp(&server).expect_addresses(&[GLOBAL.into()]);
    server.reconfigure("list_directories = ['lists']", "# lists");
    // The last good content stays in force, as with any file that can no longer be read.
    assert!(server.wait_error().contains("outside of the policies directory"));
    ask("listed.example", RecordType::A).from("127.0.0.7").udp(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn list_directories_that_are_none_are_warned_of_and_those_of_the_kernel_refused() {
    let upstream = FakeUpstream::start();
    let setup =
        Setup::policy(&upstream, "allowed_hostnames = ['a.test']").top("list_directories = ['none', 'token.txt']");
    fs::write(setup.directory().join("token.txt"), "x").unwrap();
    let server = setup.start();
    server.wait_log(&["WARN", "hostgate.toml:3:21", "there is no such directory", "make it, or remove the entry"]);
    server.wait_log(&["WARN", "hostgate.toml:3:29", "it is no directory"]);
    let configuration = server.directory().join("hostgate.toml").display().to_string();
    let check = || run(["check", "--config", &configuration]);
    check().expect_code(0).expect_text(&["hostgate.toml:3:21", "there is no such directory"]);
    server.reconfigure("'none', 'token.txt'", "'gone'");
    server.wait_log(&["WARN", "hostgate.toml:3:21", "gone`: there is no such directory"]);
    // A change that has nothing to do with it says nothing again.
    server.write("x.toml", "[policy.x]\nallow_all = true\n");
    server.wait_log(&["nothing refers to policy `x`"]);
    assert_eq!(server.log_lines(&["there is no such directory"]).len(), 2, "{}", server.log());
    for tree in ["/proc", "/proc/self/fd", "/sys/class", "/dev"] {
        let now = fs::read_to_string(&configuration).unwrap();
        let line = now.lines().find(|line| line.starts_with("list_directories")).unwrap();
        server.reconfigure(line, &format!("list_directories = ['{tree}']"));
        let told = format!("`{tree}` is in a tree of the kernel");
        check().expect_code(78).expect_text(&["hostgate.toml:3:21", &told]);
        server.until(&told, || server.wait_error().contains(&told).then_some(()));
    }
}

#[test]
fn list_that_is_no_regular_file_says_what_it_is_and_what_is_needed() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = ['a.test']").start();
    fs::create_dir(server.policies("folder")).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(server.policies("fifo")).status().unwrap().success());
    for (name, what) in [
        ("folder", "it is a directory, not a file: a regular file is needed"),
        ("fifo", "it is not a regular file but a FIFO: a regular file is needed"),
        ("/dev/null", "it is not a regular file but a device: a regular file is needed"),
        ("/proc/version", "it leads to a tree of the kernel"),
        ("none", "there is no such file: paths are relative to the policy file"),
    ] {
        server.write("x.toml", listing(name));
        let error = server.until(what, || Some(server.wait_error()).filter(|error| error.contains(what)));
        assert!(!error.contains("without `.toml`"), "{error}");
        assert_eq!(error.contains("relative"), name == "none", "{error}");
    }
}

#[test]
fn what_a_list_holds_is_shown_by_check_and_not_by_the_server() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = ['*.test']").start();
    let bad = format!("http://{SECRET}/\n{SECRET}.test x{SECRET}\n*.com\n{SECRET}_ü:1\n*\n");
    server.write("names.txt", &bad);
    server.write("x.toml", listing("names.txt"));
    let error = server.wait_error();
    assert!(error.contains("names.txt:1:1: the entry is not accepted: it is a URL with a scheme"), "{error}");
    expect_silence_about(&server, &[SECRET, "*.com", "`com`"]);
    let checked = run(["check".as_ref(), server.policies("").as_os_str()]).expect_code(78);
    checked.expect_text(&[SECRET, "names.txt:1:1"]);
    // Neither warnings nor tests say what is listed; nor does a start, whose standard error is a log.
    let good = format!("*.{SECRET}.test\na.{SECRET}.test\na.{SECRET}.test\n*.github.io\n");
    server.write("names.txt", good);
    server.wait_no_error();
    server.until("the warnings", || (!server.log_lines(&["names.txt:3:1", "listed twice"]).is_empty()).then_some(()));
    expect_silence_about(&server, &[SECRET, "github"]);
    let tests = "[policy.test]\n[[test]]\nclient = 'x'\nname = 'x.y.z.example'\nexpect = 'deny'\n\
                 [[test]]\nclient = 'x'\nname = 'q.github.io'\nexpect = 'deny'\n";
    server.write("test.toml", tests);
    assert!(server.wait_error().contains("by an entry of a list file"), "{}", server.wait_error());
    expect_silence_about(&server, &[SECRET, "*.github.io"]);
    let setup = Setup::new(&[&upstream]).file("names.txt", bad).file("x.toml", listing("names.txt"));
    let refused = setup.refused().expect_code(78).expect_text(&["names.txt:1:1"]);
    assert!(!refused.stderr.contains(SECRET), "{refused:#?}");
}

#[test]
fn policy_file_that_leads_elsewhere_is_read_and_not_quoted() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "allowed_hostnames = ['*.test']").control("").top("# lists").start();
    let beside = |name: &str| server.directory().join(name);
    // A secret, which only its owner may read; and something that others may.
    symlink("../token", server.policies("t.toml")).unwrap();
    assert!(server.wait_error().contains("t.toml: the file cannot be read: it leads out of the policies directory"));
    expect_silence_about(&server, &[TOKEN]);
    server.remove("t.toml");
    server.wait_no_error();
    fs::write(beside("open"), format!("{SECRET}\nkey-{SECRET} = '{SECRET}'\n[policy.'a {SECRET}']\nx = 1\n")).unwrap();
    symlink("../open", server.policies("t.toml")).unwrap();
    let error = server.wait_error();
    assert!(error.contains("t.toml:1:22: an error that is not quoted"), "{error}");
    expect_silence_about(&server, &[SECRET]);
    run(["check".as_ref(), server.policies("").as_os_str()]).expect_code(78).expect_text(&[SECRET]);
    // Named as trusted, or with nothing wrong, it is as any other.
    fs::write(beside("open"), listing("names.txt")).unwrap();
    server.write("names.txt", "listed.example\n");
    server.wait_no_error();
    ask("listed.example", RecordType::A).from("127.0.0.7").udp(&server).expect_addresses(&[GLOBAL.into()]);
    server.reconfigure("# lists", &format!("list_directories = ['{}']", server.directory().display()));
    fs::write(beside("open"), "[policy.x]\nmode = 'loud'\n").unwrap();
    assert!(
        server
            .until("the quote", || Some(server.wait_error()).filter(|error| error.contains("`loud`")))
            .contains("t.toml:2:8")
    );
}

#[test]
fn lists_of_a_mounted_config_map_are_read() {
    let upstream = FakeUpstream::start();
    let setup =
        Setup::new(&[&upstream]).file("..1/x.toml", listing("names.txt")).file("..1/names.txt", "one.example\n");
    symlink("..1", setup.policies().join("..data")).unwrap();
    for name in ["x.toml", "names.txt"] {
        symlink(format!("..data/{name}"), setup.policies().join(name)).unwrap();
    }
    let server = setup.start();
    ask("one.example", RecordType::A).from("127.0.0.7").udp(&server).expect_addresses(&[GLOBAL.into()]);
    fs::create_dir(server.policies("..2")).unwrap();
    server.write("..2/x.toml", listing("names.txt"));
    server.write("..2/names.txt", "two.example\n");
    symlink("..2", server.policies("..data_tmp")).unwrap();
    fs::rename(server.policies("..data_tmp"), server.policies("..data")).unwrap();
    server.wait_generation(2);
    ask("two.example", RecordType::A).from("127.0.0.7").udp(&server).expect_addresses(&[GLOBAL.into()]);
}

#[test]
fn api_writes_by_a_link_to_its_folder_files_that_are_for_its_user_alone() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "").control("devbox_pool = '127.88.0.0/16'");
    fs::create_dir(setup.directory().join("state")).unwrap();
    symlink("../state", setup.policies().join("api")).unwrap();
    let server = setup.start();
    let policy = server.new_policy(&["one.test"]);
    let file = server.directory().join(format!("state/{policy}.toml"));
    // As the unit's umask has it.
    chmod(&file, 0o600);
    let body = serde_json::json!({ "launch_parameters": { "network_policy_id": policy } });
    let address = server.api_post("/v1/devboxes", &body).done()["metadata"]["hostgate.address"].clone();
    let address = address.as_str().unwrap();
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replace("one.test", "two.test")).unwrap();
    server.until("the edit", || server.allows(address, "two.test").then_some(()));
    chmod(&file, 0o600);
    server.signal("HUP");
    server.wait_log(&["nothing changed"]);
    server.wait_no_error();
    // A person's edit that is wrong is told to whoever uses the API.
    fs::write(&file, text.replace("one.test", "*")).unwrap();
    assert!(server.wait_error().contains("pattern `*`"), "{}", server.wait_error());
}

#[test]
fn list_that_is_held_back_says_why_it_is_out_of_date() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream]).file("list.txt", "one.example\n").file("x.toml", listing("list.txt")).start();
    let list = server.policies("list.txt");
    let spoils: [(&dyn Fn(), &str); 4] = [
        (&|| (), "the list file cannot be read: there is no such file"),
        (&|| fs::create_dir(&list).unwrap(), "the list file cannot be read: "),
        (&|| symlink("/etc/hostname", &list).unwrap(), "it lies outside of the policies directory"),
        (&|| fs::write(&list, b"\xff\n").unwrap(), "not UTF-8"),
    ];
    for (spoil, told) in spoils {
        let _ = fs::remove_file(&list).or_else(|_| fs::remove_dir(&list));
        spoil();
        let entries = server.until(told, || {
            let entries = server.status()["out_of_date"].as_array().unwrap().clone();
            let of_list =
                |entry: &&serde_json::Value| entry["path"].as_str().is_some_and(|path| path.ends_with("list.txt"));
            let entry = entries.iter().find(of_list)?;
            entry["why"].as_str().unwrap().contains(told).then_some(entries)
        });
        assert!(entries.iter().all(|entry| !entry["why"].as_str().unwrap().is_empty()), "{entries:?}");
    }
}

#[test]
fn test_that_a_list_breaks_is_reported_with_the_place() {
    let upstream = FakeUpstream::start();
    let tested =
        format!("{}[[test]]\nclient = \"x\"\nname = \"one.example\"\nexpect = \"allow\"\n", listing("list.txt"));
    let server = Setup::new(&[&upstream]).file("list.txt", "one.example\n").file("x.toml", tested).start();
    // The list is another file, so it goes into force, and so does the change beside it.
    server.write("y.toml", "[policy.y]\nallowed_hostnames = [\"y.example\"]\n");
    server.wait_generation(2);
    server.write("y.toml", "[policy.y]\ndenied_hostnames = [\"y.example\"]\n");
    server.write("list.txt", "two.example\n");
    let entry = server.wait_out_of_date("failed-test");
    let why = entry["why"].as_str().unwrap();
    assert!(why.contains("x.toml:") && why.contains("test failed"), "{entry}");
    server.wait_no_error();
}
