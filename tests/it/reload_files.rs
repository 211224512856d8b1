//! The ways in which files change: each is noticed, and none is taken for another.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::*;

/// Returns a policy that allows one name.
fn policy(name: &str) -> String {
    format!("[policy.test]\nallowed_hostnames = [\"{name}\"]\n")
}

/// Starts with `test.toml` allowing `v1.test`.
fn start(upstream: &FakeUpstream) -> Server {
    Setup::policy(upstream, "").file("test.toml", policy("v1.test")).start()
}

/// Returns whether the name is allowed.
fn allows(server: &Server, name: &str) -> bool {
    !ask(name, RecordType::A).udp(server).addresses().is_empty()
}

/// Waits until `name` is allowed and everything is well.
#[track_caller]
fn wait_allows(server: &Server, name: &str) {
    server.until(&format!("{name} is allowed"), || allows(server, name).then_some(()));
    server.wait_no_error();
}

#[test]
fn write_in_place_rename_over_delete_and_create() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    // Each way twice: a watch that follows the inode is deaf the second time.
    for round in 0..2 {
        let name = |way: &str| format!("{way}{round}.test");
        server.write("test.toml", policy(&name("in-place")));
        wait_allows(&server, &name("in-place"));
        server.replace("test.toml", policy(&name("rename")));
        wait_allows(&server, &name("rename"));
        server.remove("test.toml");
        server.write("test.toml", policy(&name("create")));
        wait_allows(&server, &name("create"));
        server.remove("test.toml");
        server.until("denied", || (!allows(&server, &name("create"))).then_some(()));
        server.write("test.toml", policy(&name("later")));
        wait_allows(&server, &name("later"));
    }
}

#[test]
fn file_that_gets_another_name_denies_nobody() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    fs::rename(server.policies("test.toml"), server.policies("other.toml")).unwrap();
    server.write(
        "more.toml",
        "[policy.more]\nallow_all = true\n[client.more]\nsources = [\"127.0.0.21\"]\npolicy = \"more\"\n",
    );
    server.until("the look that follows", || {
        assert!(allows(&server, "v1.test"));
        (!ask("any.test", RecordType::A).from("127.0.0.21").udp(&server).addresses().is_empty()).then_some(())
    });
    assert!(allows(&server, "v1.test"));
    server.write("other.toml", policy("v2.test"));
    wait_allows(&server, "v2.test");
}

#[test]
fn change_is_in_force_in_under_a_second() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    let start = std::time::Instant::now();
    server.replace("test.toml", policy("v2.test"));
    wait_allows(&server, "v2.test");
    assert!(start.elapsed().as_millis() < 1000, "{:?}", start.elapsed());
}

#[test]
fn editors_temporary_files_do_no_harm() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    // vim: a probe, a backup by rename, the new file, the backup removed.
    server.write("4913", "");
    server.remove("4913");
    server.write(".test.toml.swp", [0_u8, 159, 146, 150]);
    fs::rename(server.policies("test.toml"), server.policies("test.toml~")).unwrap();
    server.write("test.toml", policy("vim.test"));
    server.remove("test.toml~");
    server.remove(".test.toml.swp");
    wait_allows(&server, "vim.test");
    // Emacs: a dangling link as lock, an auto-save file.
    symlink("user@host.1234:1", server.policies(".#test.toml")).unwrap();
    server.write("#test.toml#", "[policy.test\nnonsense");
    server.write("test.toml", policy("emacs.test"));
    wait_allows(&server, "emacs.test");
    // gedit, sed -i, kate: a hidden or oddly named file renamed over.
    for (temporary, name) in
        [(".goutputstream-AB12", "gedit.test"), ("sedXYZ123", "sed.test"), (".test.toml.kate-swp", "kate.test")]
    {
        server.write(temporary, policy(name));
        fs::rename(server.policies(temporary), server.policies("test.toml")).unwrap();
        wait_allows(&server, name);
    }
    // Hidden files and other files are none of ours.
    server.write(".hidden.toml", "nonsense");
    server.write("README.md", "nonsense");
    server.write("test.toml.bak", "nonsense");
    fs::create_dir(server.policies(".git")).unwrap();
    server.write(".git/config.toml", "nonsense");
    server.write("test.toml", policy("last.test"));
    wait_allows(&server, "last.test");
}

#[test]
fn kubernetes_configmap_swap() {
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream]).top("default_policy = \"test\"");
    let volume = setup.policies();
    let publish = |revision: &str, name: &str| {
        fs::create_dir(volume.join(revision)).unwrap();
        fs::write(volume.join(revision).join("test.toml"), policy(name)).unwrap();
        symlink(revision, volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
    };
    publish("..2026_01_01", "v1.test");
    symlink("..data/test.toml", volume.join("test.toml")).unwrap();
    let server = setup.start();
    assert!(allows(&server, "v1.test"));
    let mut last = "..2026_01_01".to_owned();
    for version in 2..=4 {
        let revision = format!("..2026_01_0{version}");
        publish(&revision, &format!("v{version}.test"));
        fs::remove_dir_all(volume.join(&last)).unwrap();
        last = revision;
        wait_allows(&server, &format!("v{version}.test"));
        assert!(!allows(&server, "v1.test"));
    }
    // One swap a revision.
    server.wait_generation(4);
}

#[test]
fn directory_that_is_a_symlink_is_swapped() {
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream]).top("default_policy = \"test\"");
    let root = setup.directory().to_owned();
    for version in 1..=2 {
        fs::create_dir(root.join(format!("release-{version}"))).unwrap();
        fs::write(root.join(format!("release-{version}/test.toml")), policy(&format!("v{version}.test"))).unwrap();
    }
    fs::remove_dir(setup.policies()).unwrap();
    symlink("release-1", setup.policies()).unwrap();
    let server = setup.start();
    assert!(allows(&server, "v1.test"));
    symlink("release-2", root.join("policies.new")).unwrap();
    fs::rename(root.join("policies.new"), root.join("policies")).unwrap();
    wait_allows(&server, "v2.test");
    server.write("test.toml", policy("v3.test"));
    wait_allows(&server, "v3.test");
}

#[test]
fn directories_come_and_go() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    let client = |last: u8, name: &str| {
        format!(
            "[policy.{name}]\nallowed_hostnames = [\"{name}.test\"]\n[client.{name}]\nsources = [\"127.0.0.{last}\"]\npolicy = \"{name}\"\n"
        )
    };
    let may = |last: u8, name: &str| {
        !ask(&format!("{name}.test"), RecordType::A)
            .from(&format!("127.0.0.{last}"))
            .udp(&server)
            .addresses()
            .is_empty()
    };
    // Made and filled at once, several levels.
    fs::create_dir_all(server.policies("team/a/deep")).unwrap();
    server.write("team/a/deep/x.toml", client(21, "x"));
    server.until("the deep file", || may(21, "x").then_some(()));
    // Filled later.
    fs::create_dir(server.policies("later")).unwrap();
    pause(std::time::Duration::from_millis(300));
    server.write("later/y.toml", client(22, "y"));
    server.until("the later file", || may(22, "y").then_some(()));
    server.write("later/y.toml", client(22, "y2"));
    server.until("the later file changes", || may(22, "y2").then_some(()));
    // Moved in whole: there is no event for what it holds.
    let outside = server.directory().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("z.toml"), client(23, "z")).unwrap();
    fs::rename(&outside, server.policies("moved")).unwrap();
    server.until("the moved directory", || may(23, "z").then_some(()));
    server.write("moved/z.toml", client(23, "z2"));
    server.until("a change in the moved directory", || may(23, "z2").then_some(()));
    // Moved out and removed.
    fs::rename(server.policies("moved"), &outside).unwrap();
    server.until("moved out", || (!may(23, "z2")).then_some(()));
    fs::remove_dir_all(server.policies("team")).unwrap();
    server.until("removed", || (!may(21, "x")).then_some(()));
    server.wait_no_error();
}

#[test]
fn policies_directory_that_goes_and_comes_back() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    fs::rename(server.policies(""), server.directory().join("away")).unwrap();
    server.until("denied or held back, and told", || {
        (!allows(&server, "v1.test") || server.status()["error"].is_string()).then_some(())
    });
    fs::create_dir(server.policies("")).unwrap();
    server.write("test.toml", policy("v2.test"));
    wait_allows(&server, "v2.test");
    server.write("test.toml", policy("v3.test"));
    wait_allows(&server, "v3.test");
}

#[test]
fn directory_that_is_away_for_a_moment_is_followed_on() {
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    let (there, away) = (server.policies(""), server.directory().join("away"));
    for round in 0..3 {
        // Too short for anybody to see that it was away; its watch went with it all the same.
        fs::rename(&there, &away).unwrap();
        fs::rename(&away, &there).unwrap();
        let name = format!("moment{round}.test");
        server.write("test.toml", policy(&name));
        wait_allows(&server, &name);
        let later = format!("later{round}.test");
        server.replace("test.toml", policy(&later));
        wait_allows(&server, &later);
    }
}

#[test]
fn thousands_of_files() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, "allowed_hostnames = [\"v1.test\"]");
    let directory = setup.policies();
    for folder in 0..30 {
        let folder_path = directory.join(format!("d{folder}"));
        fs::create_dir(&folder_path).unwrap();
        for file in 0..100 {
            write_member(&folder_path, folder, file, "first");
        }
    }
    let server = setup.start();
    assert_eq!(server.status()["policies"], 3_001, "{}", server.status());
    let may = |folder: u8, file: u8, name: &str| {
        let source = format!("127.{}.{file}.1", 40 + folder);
        !ask(&format!("{name}.test"), RecordType::A).from(&source).udp(&server).addresses().is_empty()
    };
    assert!(may(0, 0, "first") && may(29, 99, "first"));
    write_member(&directory.join("d29"), 29, 99, "second");
    server.until("one of them changes", || may(29, 99, "second").then_some(()));
    assert!(may(29, 98, "first"));
    for file in 0..100 {
        write_member(&directory.join("d7"), 7, file, "third");
    }
    server.until("a hundred change", || (0..100).all(|file| may(7, file, "third")).then_some(()));
    server.wait_no_error();
}

/// Writes a file with one policy and one client, `127.(40 + folder).file.1`.
fn write_member(directory: &Path, folder: u8, file: u8, name: &str) {
    let (id, second) = (format!("m{folder}-{file}"), 40 + folder);
    let text = format!(
        "[policy.{id}]\nallowed_hostnames = [\"{name}.test\"]\n[client.{id}]\nsources = [\"127.{second}.{file}.1\"]\npolicy = \"{id}\"\n"
    );
    fs::write(directory.join(format!("{file}.toml")), text).unwrap();
}

#[test]
fn hangup_reads_what_no_watch_sees() {
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream]).top("default_policy = \"test\"");
    // The file's directory is elsewhere: a change there raises no event below `policies`.
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.toml");
    fs::write(&target, policy("v1.test")).unwrap();
    symlink(&target, setup.policies().join("test.toml")).unwrap();
    let server = setup.start();
    assert!(allows(&server, "v1.test"), "symlinks are followed");
    fs::write(&target, policy("v2.test")).unwrap();
    server.signal("HUP");
    wait_allows(&server, "v2.test");
    // And many of them in a row end nothing.
    for _ in 0..20 {
        server.signal("HUP");
    }
    fs::write(&target, policy("v3.test")).unwrap();
    server.signal("HUP");
    wait_allows(&server, "v3.test");
}

#[test]
fn list_files_are_watched_like_policies() {
    let upstream = FakeUpstream::start();
    let body = "[policy.test]\nallowed_hostnames_files = [\"lists/near.txt\", \"../far/far.txt\"]\n";
    let setup = Setup::policy(&upstream, "").top("list_directories = [\"far\"]").file("test.toml", body);
    let setup = setup.file("lists/near.txt", "near1.test\n");
    let far = setup.directory().join("far");
    fs::create_dir(&far).unwrap();
    fs::write(far.join("far.txt"), "far1.test\n").unwrap();
    let server = setup.start();
    assert!(allows(&server, "near1.test") && allows(&server, "far1.test"));
    server.write("lists/near.txt", "near2.test\n");
    wait_allows(&server, "near2.test");
    assert!(!allows(&server, "near1.test") && allows(&server, "far1.test"));
    fs::write(far.join("far.tmp"), "far2.test\n").unwrap();
    fs::rename(far.join("far.tmp"), far.join("far.txt")).unwrap();
    wait_allows(&server, "far2.test");
    // A bad list keeps its last good content and is told of, with its place.
    server.write("lists/near.txt", "near3.test\nhttps://bad/\n");
    let error = server.wait_error();
    assert!(error.contains("near.txt:2:1"), "{error}");
    assert!(allows(&server, "near2.test") && !allows(&server, "near3.test"));
    server.remove("lists/near.txt");
    server.until("the missing list is told of", || {
        server.status()["error"].as_str().is_some_and(|error| !error.contains(":2:1")).then_some(())
    });
    assert!(allows(&server, "near2.test"));
    server.write("lists/near.txt", "near4.test\n");
    wait_allows(&server, "near4.test");
}

#[test]
fn preset_file_replaces_the_built_in_one() {
    let upstream = FakeUpstream::start();
    let server = Setup::policy(&upstream, "include = [\"preset:npm\"]")
        .file("presets/npm.toml", "[policy.npm]\nallowed_hostnames = [\"npm.corp.test\"]\n")
        .start();
    assert!(allows(&server, "npm.corp.test") && !allows(&server, "www.npmjs.org"));
    server.write("presets/npm.toml", "[policy.npm]\nallowed_hostnames = [\"npm2.corp.test\"]\n");
    wait_allows(&server, "npm2.corp.test");
    server.remove("presets/npm.toml");
    wait_allows(&server, "www.npmjs.org");
}

#[test]
fn file_that_is_a_symlink_is_watched_where_it_leads() {
    let upstream = FakeUpstream::start();
    let setup = Setup::new(&[&upstream]).top("default_policy = \"test\"");
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.toml");
    fs::write(&target, policy("v1.test")).unwrap();
    symlink(&target, setup.policies().join("test.toml")).unwrap();
    let server = setup.start();
    assert!(allows(&server, "v1.test"));
    fs::write(&target, policy("v2.test")).unwrap();
    wait_allows(&server, "v2.test");
    let beside = elsewhere.path().join("new");
    fs::write(&beside, policy("v3.test")).unwrap();
    fs::rename(&beside, &target).unwrap();
    wait_allows(&server, "v3.test");
    // A symlink to a directory, filled elsewhere.
    let team = tempfile::tempdir().unwrap();
    symlink(team.path(), server.policies("team")).unwrap();
    fs::write(
        team.path().join("x.toml"),
        "[policy.x]\nallow_all = true\n[client.x]\nsources = [\"127.0.0.21\"]\npolicy = \"x\"\n",
    )
    .unwrap();
    server.until("the linked directory's file", || {
        (!ask("any.test", RecordType::A).from("127.0.0.21").udp(&server).addresses().is_empty()).then_some(())
    });
}

#[test]
fn half_written_files_are_never_in_force() {
    use std::io::Write;
    let upstream = FakeUpstream::start();
    let server = start(&upstream);
    // A slow writer: each piece alone is no whole file, or would say something else.
    let mut file = fs::File::create(server.policies("test.toml")).unwrap();
    for piece in ["[policy.te", "st]\nallowed_hostnames = [\"a.te", "st\", ", "\"b.test\""] {
        file.write_all(piece.as_bytes()).unwrap();
        file.flush().unwrap();
        server.until("the half is told of", || server.status()["error"].is_string().then_some(()));
        assert!(allows(&server, "v1.test"), "{piece}");
    }
    file.write_all(b"]\n").unwrap();
    drop(file);
    wait_allows(&server, "b.test");
    assert!(!allows(&server, "v1.test"));
}

#[test]
fn edits_are_seen_after_a_list_that_named_a_folder_is_corrected() {
    let upstream = FakeUpstream::start();
    let with = |lists: &str, name: &str| {
        format!("[policy.test]\nallowed_hostnames = [\"{name}\"]\nallowed_hostnames_files = [\"{lists}\"]\n")
    };
    let server = Setup::new(&[&upstream])
        .top("default_policy = \"test\"")
        .file("p.toml", with("lists/a", "one.test"))
        .file("lists/a", "listed.test\n")
        // The policies directory by a relative path, so that it has an absolute one besides.
        .arguments(&["serve", "--config", "hostgate.toml"])
        .start();
    server.replace("p.toml", with("lists", "two.test"));
    server.wait_log(&["list file `policies/lists`"]);
    for name in ["three.test", "four.test"] {
        server.replace("p.toml", with("lists/a", name));
        server.until("the edit is in force", || {
            (ask(name, RecordType::A).udp(&server).rcode() == ResponseCode::NoError).then_some(())
        });
    }
}
