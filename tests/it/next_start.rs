//! What `check --start` says is what the start does; what DNS does without is tried again and refuses no start.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::api::{TOKEN, Wire, head};
use crate::support::*;

/// A policy that allows everything below `test`.
const POLICY: &str = "allowed_hostnames = [\"*.test\"]";

/// A server with an API and a path for take-overs, and its addresses in its configuration.
fn server(upstream: &FakeUpstream) -> Server {
    let setup = Setup::policy(upstream, POLICY).top("takeover = \"run/takeover\"").control("allow_clients = true");
    fs::create_dir(setup.directory().join("run")).unwrap();
    let server = setup.start();
    server.keep_addresses();
    server
}

/// Ends a server and waits until it is gone.
#[track_caller]
fn stop(mut server: Server) -> Server {
    server.signal("TERM");
    assert_eq!(server.wait_exit().code(), Some(0));
    server
}

/// Runs `check --start` for the files of a server; returns its exit code, what it says as JSON, and what it says.
fn asked(directory: &Path) -> (i32, Value, String) {
    let config = directory.join("hostgate.toml");
    let config = config.to_str().unwrap();
    let json = run(["check", "--start", "--json", "--config", config]);
    let told = run(["check", "--start", "--config", config]);
    assert_eq!(json.code, told.code, "{told:#?}");
    (json.code.unwrap(), json.json(), told.stdout + &told.stderr)
}

/// Returns whether a server answers.
fn serves(server: &Server) -> bool {
    !ask("a.test", RecordType::A).udp(server).addresses().is_empty()
}

#[test]
fn each_fault_is_told_by_check_as_the_start_meets_it() {
    /// Causes a fault, which may last as long as what it returns.
    type Fault = fn(&Server) -> Box<dyn std::any::Any>;
    let faults: [(&str, i32, Fault); 18] = [
        ("none", 0, |_| Box::new(())),
        ("the address over UDP", 78, |server| Box::new(UdpSocket::bind(server.address()).unwrap())),
        ("the address over TCP", 78, |server| Box::new(TcpListener::bind(server.address()).unwrap())),
        ("the admin endpoint's address", 1, |server| Box::new(TcpListener::bind(server.admin()).unwrap())),
        ("the API's address", 1, |server| Box::new(TcpListener::bind(server.control()).unwrap())),
        ("the directory of take-overs", 1, |server| Box::new(fs::remove_dir_all(server.directory().join("run")))),
        ("a file in place of take-overs", 1, |server| {
            Box::new(fs::write(server.directory().join("run/takeover"), "in the way"))
        }),
        ("the tokens", 1, |server| Box::new(fs::write(server.directory().join("token"), ""))),
        ("the certificate", 1, |server| {
            server.reconfigure("token_file", "tls_certificate = \"none.pem\"\ntls_key = \"none.key\"\ntoken_file");
            Box::new(())
        }),
        ("a place for the decision log", 0, |server| {
            server.reconfigure("[admin]", "[decisions]\npath = \"none/decisions.jsonl\"\n[admin]");
            Box::new(())
        }),
        ("a place for the audit file", 0, |server| {
            server.reconfigure("token_file", "audit = \"none/audit.jsonl\"\ntoken_file");
            Box::new(())
        }),
        ("a policy file", 78, |server| {
            server.write("test.toml", "[policy.test");
            Box::new(())
        }),
        ("no policies directory", 78, |server| Box::new(fs::remove_dir_all(server.directory().join("policies")))),
        ("the configuration", 78, |server| {
            server.reconfigure("[admin]", "[admin");
            Box::new(())
        }),
        ("no configuration", 78, |server| Box::new(fs::remove_file(server.directory().join("hostgate.toml")))),
        ("an upstream that is itself", 78, |server| {
            let text = fs::read_to_string(server.directory().join("hostgate.toml")).unwrap();
            let servers = text.lines().find(|line| line.starts_with("servers")).unwrap();
            server.reconfigure(servers, &format!("servers = [\"{}\"]", server.address()));
            Box::new(())
        }),
        ("nobody to ask", 1, |server| {
            let text = fs::read_to_string(server.directory().join("hostgate.toml")).unwrap();
            let servers = text.lines().find(|line| line.starts_with("servers")).unwrap();
            server.reconfigure(servers, "resolv_conf = \"resolv.conf\"");
            Box::new(fs::write(server.directory().join("resolv.conf"), "search example\n"))
        }),
        ("an address to come", 1, |server| {
            server.reconfigure("[upstream]", "[[listen]]\naddress = \"192.0.2.77:53\"\n[upstream]");
            Box::new(())
        }),
    ];
    let upstream = FakeUpstream::start();
    for (case, code, fault) in faults {
        let server = stop(server(&upstream));
        let _lasts = fault(&server);
        let (told, report, text) = asked(server.directory());
        assert_eq!(told, code, "{case}: {text}");
        let is_unwritten = case.starts_with("a place for");
        assert_eq!(text.contains("would not be written"), is_unwritten, "{case}: {text}");
        if code == 78 {
            assert_eq!(report["start"], "refused", "{case}: {text}");
            let refused = server.refused_plainly();
            assert!([Some(1), Some(78)].contains(&refused.code), "{case}: {refused:#?}");
            continue;
        }
        let next = server.restarted();
        assert_eq!(serves(&next), case != "nobody to ask", "{case}");
        if case.contains("admin") {
            next.wait_log(&["ERROR", "no admin endpoint for now"]);
        } else {
            let status = run(["status", "--admin", &next.admin().to_string()]);
            assert_eq!(status.code == Some(0), code == 0 && !is_unwritten, "{case}: {status:#?}");
        }
    }
}

#[test]
fn what_is_not_dns_comes_once_it_can_be_had() {
    let upstream = FakeUpstream::start();
    let server = stop(server(&upstream));
    let admin = TcpListener::bind(server.admin()).unwrap();
    let api = TcpListener::bind(server.control()).unwrap();
    fs::remove_dir_all(server.directory().join("run")).unwrap();
    let (_, report, text) = asked(server.directory());
    assert_eq!(report["lacking"].as_array().unwrap().len(), 3, "{text}");
    let next = server.restarted();
    assert!(serves(&next));
    for what in ["admin endpoint", "API", "take-over"] {
        next.wait_log(&["ERROR", &format!("no {what} for now")]);
    }
    drop(admin);
    next.wait_log(&["admin endpoint is there again"]);
    next.until("the endpoint", || next.try_status());
    assert_eq!(next.metric("hostgate_out_of_date", &[("kind", "socket")]), 2);
    let refused = run(["status", "--admin", &next.admin().to_string()]).expect_code(1);
    refused.expect_text(&["socket", "run/takeover", "make its directory"]);
    drop(api);
    next.wait_log(&["API is there again"]);
    next.until("the API", || {
        let list = Wire::open(&next).send(head("GET", "/v1/network-policies", TOKEN, "")).response();
        (list.status == 200).then_some(())
    });
    fs::create_dir(next.directory().join("run")).unwrap();
    next.wait_not_out_of_date("socket");
    // All of them are passed on.
    let mut next = next;
    let successor = next.successor();
    assert_eq!(next.wait_exit().code(), Some(0));
    assert!(serves(&successor));
    assert_eq!(Wire::open(&successor).send(head("GET", "/v1/network-policies", TOKEN, "")).response().status, 200);
    assert!(successor.log_lines(&["for now"]).is_empty());
    // Its socket is taken away while it runs, and made again.
    fs::remove_dir_all(successor.directory().join("run")).unwrap();
    successor.wait_out_of_date("socket");
    let (code, report, text) = asked(successor.directory());
    assert_eq!((code, report["lacking"].as_array().unwrap().len()), (1, 1), "{text}");
    fs::create_dir(successor.directory().join("run")).unwrap();
    successor.wait_not_out_of_date("socket");
    let mut old = successor;
    let last = old.successor();
    assert_eq!(old.wait_exit().code(), Some(0));
    let last = stop(last);
    assert!(fs::read_dir(last.directory().join("run")).unwrap().next().is_none(), "nothing is left behind");
}

#[test]
fn the_running_one_holds_no_start_up_and_is_not_disturbed() {
    let upstream = FakeUpstream::start();
    let server = server(&upstream);
    let (code, report, text) = asked(server.directory());
    assert_eq!((code, &report["start"]), (0, &"as-on-disk".into()), "{text}");
    // Without an admin endpoint: by its socket for take-overs.
    let text = fs::read_to_string(server.directory().join("hostgate.toml")).unwrap();
    let admin = format!("listen = \"{}\"", server.admin());
    server.reconfigure(&admin, "listen = \"off\"");
    assert_eq!(asked(server.directory()).0, 0);
    server.reconfigure("listen = \"off\"", &admin);
    assert_eq!(fs::read_to_string(server.directory().join("hostgate.toml")).unwrap(), text);
    // What somebody else has is told, with who it is.
    let other = UdpSocket::bind("127.0.0.1:0").unwrap();
    let at = other.local_addr().unwrap();
    server.reconfigure("[upstream]", &format!("[[listen]]\naddress = \"{at}\"\n[upstream]"));
    let (code, report, text) = asked(server.directory());
    assert_eq!(code, 78, "{text}");
    assert!(report["refused"].as_str().unwrap().contains(&at.to_string()), "{report}");
    let own = format!("{at} by ");
    assert!(text.contains(&own) && text.contains(&format!("process {}", std::process::id())), "{text}");
    drop(other);
    let (code, _, text) = asked(server.directory());
    assert_eq!(code, 0, "{text}");
    // Another hostgate's is not its own.
    let second = Setup::policy(&upstream, POLICY).listen_only(&server.address().to_string());
    second.write_configuration();
    assert_eq!(asked(second.directory()).0, 78);
    assert!(serves(&server));
    let mut server = server;
    let next = server.successor();
    assert_eq!(server.wait_exit().code(), Some(0));
    assert!(serves(&next));
}

#[test]
fn check_changes_no_file_and_believes_no_stranger() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, POLICY).top("takeover = \"run/takeover\"");
    let setup = setup.control("allow_clients = true\nlisten = \"unix:run/api.sock\"");
    let run_directory = setup.directory().join("run");
    fs::create_dir(&run_directory).unwrap();
    let server = setup.start();
    server.keep_addresses();
    let server = stop(server);
    let state = || -> Vec<String> {
        let entries = fs::read_dir(&run_directory).unwrap().map(Result::unwrap);
        let paths = entries.map(|entry| entry.path()).chain([run_directory.clone()]);
        let version = |path: &Path| {
            let found = fs::symlink_metadata(path).unwrap();
            format!("{path:?} {:?} {} {} {:?}", found.file_type(), found.ino(), found.mode(), found.modified().unwrap())
        };
        let mut all: Vec<_> = paths.map(|path| version(&path)).collect();
        all.sort();
        all
    };
    // What is left behind, or is in the way, or is a link to somewhere.
    let elsewhere = server.directory().join("elsewhere");
    fs::write(&elsewhere, "text").unwrap();
    for (case, code) in [("nothing", 0), ("stale", 0), ("files", 1), ("links", 1), ("dangling links", 1)] {
        for name in ["takeover", "api.sock"] {
            let path = run_directory.join(name);
            let _ = fs::remove_file(&path);
            match case {
                "stale" => drop(UnixListener::bind(&path).unwrap()),
                "files" => fs::write(&path, "text").unwrap(),
                "links" => symlink(&elsewhere, &path).unwrap(),
                "dangling links" => symlink("nowhere", &path).unwrap(),
                _ => {}
            }
        }
        let before = state();
        let (told, _, text) = asked(server.directory());
        assert_eq!((told, state()), (code, before), "{case}: {text}");
        assert_eq!(fs::read_to_string(&elsewhere).unwrap(), "text", "{case}");
    }
    for name in ["takeover", "api.sock"] {
        fs::remove_file(run_directory.join(name)).unwrap();
    }
    // A program that answers as hostgate does and is none.
    let taken = UdpSocket::bind(server.address()).unwrap();
    let admin = TcpListener::bind(server.admin()).unwrap();
    let config = server.directory().join("hostgate.toml");
    let addresses = [server.address(), server.admin()].map(|address| address.to_string());
    let answer = |pid: u32| {
        let listening = json!({ "pid": pid, "configuration": config, "addresses": addresses, "more": true });
        format!("HTTP/1.0 200 OK\r\n\r\n{}", json!({ "listening": listening }))
    };
    let mut sleep = Command::new("sleep").arg("60").spawn().unwrap();
    let answers = [answer(std::process::id()), answer(sleep.id()), answer(1)];
    let lies = answers.len();
    let lying = std::thread::spawn(move || {
        // Two commands ask for each.
        for answer in answers.into_iter().flat_map(|answer| [answer.clone(), answer]) {
            let (mut stream, _) = admin.accept().unwrap();
            let _ = stream.read(&mut [0; 1 << 10]);
            stream.write_all(answer.as_bytes()).unwrap();
        }
        admin
    });
    for lie in 0..lies {
        let (code, report, text) = asked(server.directory());
        assert_eq!((code, &report["start"]), (78, &"refused".into()), "{lie}: {text}");
        assert!(report["refused"].as_str().unwrap().contains(&server.address().to_string()), "{lie}: {text}");
    }
    sleep.kill().unwrap();
    sleep.wait().unwrap();
    drop((taken, lying.join().unwrap()));
    assert_eq!(asked(server.directory()).0, 0);
    // A Unix socket at which another program listens.
    let other = UnixListener::bind(run_directory.join("takeover")).unwrap();
    let (code, report, text) = asked(server.directory());
    assert_eq!((code, report["lacking"].as_array().unwrap().len()), (1, 1), "{text}");
    drop(other);
}

#[test]
fn root_judges_by_the_user_of_the_service() {
    const USER: u32 = 61_725;
    if !rustix::process::geteuid().is_root() {
        return skip("it needs root");
    }
    let upstream = FakeUpstream::start();
    let server = stop(server(&upstream));
    let at = server.directory();
    server.reconfigure("token_file", "audit = \"logs/audit.jsonl\"\ntoken_file");
    let config = at.join("hostgate.toml");
    let config = config.to_str().unwrap();
    fs::set_permissions(at, fs::Permissions::from_mode(0o755)).unwrap();
    for name in ["logs", "state"] {
        fs::create_dir(at.join(name)).unwrap();
    }
    let check = |arguments: &[&str], state: Option<&Path>| {
        let state: Vec<_> = state.iter().map(|state| ("STATE_DIRECTORY", state.to_str().unwrap())).collect();
        command::run_with(["check", "--start", "--config", config].iter().chain(arguments), &state)
    };
    // The files are root's.
    check(&[], None).expect_code(0).expect_text(&["as a start by root", "--user NAME"]);
    let refused = check(&["--user", "61725"], None).expect_code(1);
    refused.expect_text(&["as a start by user 61725", "token", "chown", "the audit file would not be written"]);
    for name in ["token", "logs", "state", "run"] {
        chown(at.join(name), Some(USER), Some(USER)).unwrap();
    }
    // They are the service's, as systemd leaves them.
    check(&["--user", "61725"], None).expect_code(0);
    check(&[], Some(&at.join("state"))).expect_code(0).expect_text(&["as a start by user 61725"]);
    let report = check(&["--json"], Some(&at.join("state"))).expect_code(0).json();
    assert_eq!(report["start"], "as-on-disk");
    // The ports are tried by root.
    let taken = UdpSocket::bind(server.address()).unwrap();
    let told = check(&[], Some(&at.join("state"))).expect_code(78);
    told.expect_text(&[&server.address().to_string(), &format!("process {}", std::process::id())]);
    drop(taken);
    check(&["--user", "no-such-user"], None).expect_code(1).expect_text(&["`no-such-user` does not exist"]);
}

#[test]
fn limits_that_are_too_low_are_told_before_the_start() {
    let upstream = FakeUpstream::start();
    let server = stop(server(&upstream));
    let limited = |arguments: &str| {
        let mut shell = Command::new("sh");
        let script = format!("ulimit -n 24 && exec \"$0\" {arguments} --config \"$1\"");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_hostgate")]).arg(server.directory().join("hostgate.toml"));
        command::finish(&mut shell)
    };
    let told = limited("check --start").expect_code(78);
    let refused = limited("serve").expect_code(78);
    assert!(refused.stderr.contains("file"), "{refused:#?}");
    told.expect_text(&["the next start is refused", "file"]);
}

#[test]
fn address_that_a_start_would_not_serve_any_more_is_told() {
    let upstream = FakeUpstream::start();
    let server = server(&upstream);
    let address = server.address().to_string();
    // As a file that is cut off between two lines.
    let text = fs::read_to_string(server.directory().join("hostgate.toml")).unwrap();
    let listener = format!("[[listen]]\naddress = \"{address}\"\n");
    assert!(text.contains(&listener), "{text}");
    server.reconfigure(&listener, "");
    let entry = server.wait_out_of_date("next-start");
    let why = entry["why"].as_str().unwrap();
    assert!(why.contains(&format!("the next start would not serve {address}, which is served now")), "{entry}");
    let (code, report, text) = asked(server.directory());
    assert_eq!((code, &report["unlisted"]), (1, &json!([address])), "{text}");
    assert!(text.contains(&format!("{address} would not be served, and is now")), "{text}");
    assert!(serves(&server));
    server.reconfigure("[upstream]", &format!("{listener}[upstream]"));
    server.wait_not_out_of_date("next-start");
    assert_eq!(asked(server.directory()).0, 0);
}

#[test]
fn last_good_state_that_could_not_be_kept_is_told() {
    let upstream = FakeUpstream::start();
    let setup = Setup::policy(&upstream, POLICY).top("start_from_last_good = true");
    let config = setup.write_configuration();
    let check = |expected: bool| {
        let told = run(["check", "--start", "--config", config.to_str().unwrap()]).expect_code(0);
        assert_eq!(told.stdout.contains("the last good state would not be kept"), expected, "{told:#?}");
    };
    check(false);
    let state = setup.directory().join(".hostgate-last-good");
    fs::write(&state, "in the way").unwrap();
    check(true);
    let server = setup.start();
    let entry = server.wait_out_of_date("not-kept");
    assert!(entry["path"].as_str().unwrap().ends_with(".hostgate-last-good"), "{entry}");
    fs::remove_file(&state).unwrap();
    server.wait_not_out_of_date("not-kept");
    check(false);
}

#[test]
fn start_reads_a_file_again_that_is_being_saved() {
    let upstream = FakeUpstream::start();
    for name in ["hostgate.toml", "policies/test.toml"] {
        let setup = Setup::policy(&upstream, POLICY);
        let path = setup.directory().join(name);
        let saving = std::cell::Cell::new(None);
        let server = setup.start_with(|_| {
            let text = fs::read_to_string(&path).unwrap();
            fs::write(&path, "").unwrap();
            let path = path.clone();
            saving.set(Some(std::thread::spawn(move || {
                // Long enough for the start to have read it, in the usual case.
                pause(std::time::Duration::from_millis(200));
                fs::write(path, text).unwrap();
            })));
        });
        saving.take().unwrap().join().unwrap();
        assert!(serves(&server), "{name}");
        // One that stays empty is refused.
        let empty = Setup::policy(&upstream, POLICY);
        let path = empty.directory().join(name);
        let mut command = Command::new(env!("CARGO_BIN_EXE_hostgate"));
        let config = empty.write_configuration();
        fs::write(path, "").unwrap();
        command::finish(command.arg("serve").arg("--config").arg(config)).expect_code(78);
    }
}
