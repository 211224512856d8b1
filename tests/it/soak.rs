//! A soak: mixed load, edits and changes over the API, and one fault after the other. No query is lost but to the fault
//! itself, nothing is out of date for long without the status saying so, and memory and descriptors stay as they are.
//!
//! `tests/run` runs three minutes of it on a machine that does nothing else; `HOSTGATE_SOAK_MINUTES=60` asks for an hour.

use std::collections::HashMap;
use std::fs;
use std::net::UdpSocket;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::*;

/// How long an edit may be out of force with the status saying that all is well.
const UNSAID: Duration = Duration::from_secs(3);
/// The pause between two queries of the load: 200 a second.
const PACE: Duration = Duration::from_millis(5);
/// How long a query waits for its answer: longer than any upstream is waited for.
const ANSWERED_IN: Duration = Duration::from_secs(7);
/// How long a fault lasts.
const FAULT: Duration = Duration::from_secs(2);
/// How long the status may still speak of a fault that is over.
const RECOVERED_IN: Duration = Duration::from_secs(10);
/// How much more memory and descriptors the end may have than the time after warm-up, in parts of a hundred.
const GROWTH: u64 = 5;

/// What a query of the load asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// A name that the policy does not allow.
    Denied,
    /// A name that is in the cache.
    Cached,
    /// A name that nobody asked for before.
    Missed,
}

/// A query that was not answered as it should be.
#[derive(Debug)]
struct Lost {
    /// What it asked for.
    kind: Kind,
    /// When it was sent.
    sent: Instant,
    /// What came; nothing if nothing did.
    heard: Option<ResponseCode>,
}

/// What a fault may take away while it lasts.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    /// Nothing that a client would see.
    Nothing,
    /// Answers to names that are not in the cache.
    Misses,
}

/// One kind of fault.
struct Fault {
    /// What it is called in the report.
    name: &'static str,
    /// What it may take away.
    takes: Takes,
    /// Makes it, and ends it.
    make: fn(&Scene<'_>),
}

/// What the faults act on.
struct Scene<'s> {
    /// The server.
    server: &'s Server,
    /// One of its upstreams; gone while a fault takes it away.
    upstream: &'s Mutex<Option<FakeUpstream>>,
}

/// The faults, in the order they come.
const FAULTS: [Fault; 12] = [
    Fault {
        name: "a policy file that does not parse",
        takes: Takes::Nothing,
        make: |scene| {
            scene.server.replace("other.toml", "[policy.other\n");
            scene.server.wait_error();
            pause(FAULT);
            scene.server.replace("other.toml", OTHER);
        },
    },
    Fault {
        name: "an upstream that is silent",
        takes: Takes::Nothing,
        make: |scene| scene.upstream_says(&Reply::silence()),
    },
    Fault {
        name: "a FIFO in the place of a policy file",
        takes: Takes::Nothing,
        make: |scene| {
            let path = scene.server.policies("other.toml");
            fs::remove_file(&path).unwrap();
            assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
            scene.server.wait_error();
            pause(FAULT);
            fs::remove_file(&path).unwrap();
            scene.server.write("other.toml", OTHER);
        },
    },
    Fault {
        name: "an upstream that is gone",
        takes: Takes::Nothing,
        make: |scene| {
            let mut upstream = scene.upstream.lock().unwrap();
            let address = upstream.take().unwrap().address.to_string();
            pause(FAULT);
            *upstream = Some(FakeUpstream::at(&address));
        },
    },
    Fault {
        name: "no file descriptor is left",
        takes: Takes::Misses,
        make: |scene| {
            scene.server.limit_open_files(8);
            pause(FAULT);
            scene.server.limit_open_files(20_000);
        },
    },
    Fault {
        name: "a torn file of the API",
        takes: Takes::Nothing,
        make: |scene| {
            let path = scene.server.policies("api/npol_torn.toml");
            fs::write(&path, [0; 512]).unwrap();
            scene.server.wait_error();
            pause(FAULT);
            fs::remove_file(path).unwrap();
        },
    },
    Fault {
        name: "the directory of the records is gone",
        takes: Takes::Nothing,
        make: |scene| {
            let (records, aside) = (scene.server.directory().join("records"), scene.server.directory().join("aside"));
            fs::rename(&records, &aside).unwrap();
            pause(FAULT);
            fs::rename(&aside, &records).unwrap();
        },
    },
    Fault {
        name: "a process that is stopped for a second",
        takes: Takes::Nothing,
        make: |scene| {
            scene.server.signal("STOP");
            pause(Duration::from_secs(1));
            scene.server.signal("CONT");
        },
    },
    Fault {
        name: "a hundred reloads at once",
        takes: Takes::Nothing,
        make: |scene| (0..100).for_each(|_| scene.server.signal("HUP")),
    },
    Fault {
        name: "nobody reads standard error",
        takes: Takes::Nothing,
        make: |scene| {
            scene.server.stop_reading_log();
            pause(FAULT);
            scene.server.read_log_again();
        },
    },
    Fault {
        name: "a token file that is bad",
        takes: Takes::Nothing,
        make: |scene| {
            let path = scene.server.directory().join("token");
            let text = fs::read(&path).unwrap();
            fs::write(&path, "short\n").unwrap();
            scene
                .server
                .until("the status says so", || scene.server.status()["control"]["error"].is_string().then_some(()));
            pause(FAULT);
            fs::write(&path, text).unwrap();
        },
    },
    Fault {
        name: "the policies directory is gone",
        takes: Takes::Nothing,
        make: |scene| {
            let (policies, aside) = (scene.server.directory().join("policies"), scene.server.directory().join("aside"));
            fs::rename(&policies, &aside).unwrap();
            scene.server.wait_error();
            pause(FAULT);
            fs::rename(&aside, &policies).unwrap();
        },
    },
];

/// The policy file that faults befall.
const OTHER: &str = "[policy.other]\nallowed_hostnames = [\"other.test\"]\n";

impl Scene<'_> {
    /// Lets the upstream say this to everything for as long as a fault lasts.
    fn upstream_says(&self, reply: &Reply) {
        let upstream = self.upstream.lock().unwrap();
        let upstream = upstream.as_ref().unwrap();
        upstream.otherwise(reply.clone());
        pause(FAULT);
        upstream.as_usual();
    }
}

/// What the process takes, at one moment.
#[derive(Clone, Copy, Debug)]
struct Taken {
    /// Resident memory, in KiB.
    memory: u64,
    /// File descriptors.
    descriptors: u64,
}

/// Ends the load however the test ends: else a failure would wait for it for ever.
struct StopOnDrop<'s>(&'s AtomicBool);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns the middle of samples of one figure.
fn median(samples: &[Taken], figure: impl Fn(&Taken) -> u64) -> u64 {
    let mut figures: Vec<u64> = samples.iter().map(figure).collect();
    figures.sort_unstable();
    figures[figures.len() / 2]
}

/// Asks at a steady pace until told to stop, and returns how many queries and which of them were lost.
fn ask_on(server: &Server, stop: &AtomicBool) -> (usize, Vec<Lost>) {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.connect(server.address()).unwrap();
    let mut waiting: HashMap<u16, (Kind, Instant)> = HashMap::new();
    let (mut sent, mut lost, mut buffer) = (0, Vec::new(), [0; 4096]);
    let mut next = Instant::now();
    loop {
        let is_going = !stop.load(Ordering::Relaxed);
        if !is_going && waiting.is_empty() {
            return (sent, lost);
        }
        let now = Instant::now();
        if is_going && now >= next {
            next += PACE;
            let (kind, name) = match sent % 3 {
                0 => (Kind::Denied, "denied.example".to_owned()),
                1 => (Kind::Cached, "hot.test".to_owned()),
                _ => (Kind::Missed, format!("n{sent}.test")),
            };
            let id = u16::try_from(sent % 65_536).unwrap();
            socket.send(&ask(&name, RecordType::A).id(id).bytes()).unwrap();
            waiting.insert(id, (kind, now));
            sent += 1;
        }
        let left = next.saturating_duration_since(Instant::now()).max(Duration::from_micros(100));
        socket.set_read_timeout(Some(left)).unwrap();
        if let Ok(length) = socket.recv(&mut buffer) {
            let heard = Heard::read(buffer[..length].to_vec());
            // A second answer would be a fault of its own, and is none of ours.
            let (kind, at) = waiting.remove(&heard.message.metadata.id).expect("asked, and not answered yet");
            let is_right = match kind {
                Kind::Denied => heard.rcode() == ResponseCode::NXDomain,
                Kind::Cached | Kind::Missed => heard.addresses() == [std::net::IpAddr::from(GLOBAL)],
            };
            if !is_right {
                lost.push(Lost { kind, sent: at, heard: Some(heard.rcode()) });
            }
        }
        waiting.retain(|_, (kind, at)| {
            let is_late = at.elapsed() > ANSWERED_IN;
            if is_late {
                lost.push(Lost { kind: *kind, sent: *at, heard: None });
            }
            !is_late
        });
    }
}

/// Edits a policy file again and again and returns how often, and the longest time that an edit was neither in force nor
/// told of.
fn edit_on(server: &Server, stop: &AtomicBool) -> (usize, Duration) {
    let (mut edits, mut longest) = (0, Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let name = format!("v{edits}.edited.test");
        let path = server.policies("edited.toml");
        let text = format!("[policy.edited]\nallowed_hostnames = [\"{name}\"]\n{EDITED_CLIENT}");
        // The directory is away: there is nothing to edit.
        if fs::write(&path, text).is_err() {
            pause(Duration::from_millis(50));
            continue;
        }
        let since = Instant::now();
        edits += 1;
        let mut unsaid = Instant::now();
        while !stop.load(Ordering::Relaxed) && since.elapsed() < Duration::from_secs(30) {
            if ask(&name, RecordType::A)
                .from(EDITED)
                .udp_to(server.address())
                .is_ok_and(|heard| !heard.addresses().is_empty())
            {
                break;
            }
            // A process that says nothing does not say that all is well either.
            if server.try_status().is_none_or(|status| status["out_of_date_total"] != 0) {
                unsaid = Instant::now();
            }
            longest = longest.max(unsaid.elapsed());
            pause(Duration::from_millis(20));
        }
        pause(Duration::from_millis(500));
    }
    (edits, longest)
}

/// The client whose policy is edited.
const EDITED: &str = "127.0.0.2";
/// The same, in its file.
const EDITED_CLIENT: &str = "[client.edited]\nsources = [\"127.0.0.2\"]\npolicy = \"edited\"\n";

/// Makes, changes and removes policies over the API; returns how many requests were done and how many were refused for a
/// moment.
fn change_on(server: &Server, stop: &AtomicBool) -> (usize, usize) {
    let list = "/v1/network-policies";
    let (mut done, mut refused) = (0, 0);
    let mut ids: Vec<String> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let (path, body) = match ids.last() {
            None => (list.to_owned(), json!({ "name": "soak", "allowed_hostnames": ["a.test"] })),
            Some(id) if done % 3 == 1 => {
                (format!("{list}/{id}"), json!({ "allowed_hostnames": [format!("b{done}.test")] }))
            }
            Some(id) => (format!("{list}/{id}/delete"), json!({})),
        };
        match server.try_api_post(&path, &body) {
            Some(told) if told.status == 200 => {
                done += 1;
                match (ids.is_empty(), path.ends_with("/delete")) {
                    (true, _) => ids.push(objects::id(&told.body)),
                    (false, true) => ids.clear(),
                    (false, false) => {}
                }
            }
            Some(told) => {
                // 404: the directory of the policies is away, and with it what was made.
                assert!(matches!(told.status, 503 | 404 | 500), "{path}: {} {}", told.status, told.body);
                refused += 1;
                if told.status == 404 {
                    ids.clear();
                }
            }
            None => refused += 1,
        }
        pause(Duration::from_millis(500));
    }
    (done, refused)
}

/// How long the soak takes.
fn duration() -> Duration {
    let minutes = std::env::var("HOSTGATE_SOAK_MINUTES").map_or(3, |minutes| minutes.parse().unwrap());
    Duration::from_secs(minutes * 60)
}

#[test]
#[ignore = "takes minutes and a machine that does nothing else; tests/run runs it"]
fn faults_one_after_the_other_cost_no_more_than_themselves() {
    let (one, two) = (FakeUpstream::start(), FakeUpstream::start());
    let setup = Setup::new(&[&one, &two])
        .file("test.toml", "[policy.test]\nallowed_hostnames = [\"*.test\"]\nbudget = \"off\"\n")
        .file("other.toml", OTHER)
        .top("default_policy = \"test\"")
        .table("[cache]\nsize_mib = 1")
        .table("[decisions]\npath = \"records/decisions.jsonl\"")
        .control("audit = \"records/audit.jsonl\"");
    fs::create_dir(setup.directory().join("records")).unwrap();
    let server = setup.start();
    ask("hot.test", RecordType::A).udp(&server).expect_addresses(&[GLOBAL.into()]);
    two.otherwise(Reply::by(|seen| vec![Answer::new().a(&seen.qname, GLOBAL).to(seen)]));
    let upstream = Mutex::new(Some(one));
    let scene = Scene { server: &server, upstream: &upstream };
    let (stop, whole, begun) = (AtomicBool::new(false), duration(), Instant::now());
    let mut spans: Vec<(&Fault, Instant, Instant)> = Vec::new();
    let mut samples: Vec<Taken> = Vec::new();
    let (load, edits, changes) = thread::scope(|scope| {
        let stopping = StopOnDrop(&stop);
        let load = scope.spawn(|| ask_on(&server, &stop));
        let edits = scope.spawn(|| edit_on(&server, &stop));
        let changes = scope.spawn(|| change_on(&server, &stop));
        // A fault each minute of an hour; ten in three minutes.
        let pause_between = (whole / 18).min(Duration::from_secs(50));
        for fault in FAULTS.iter().cycle().take_while(|_| begun.elapsed() < whole) {
            pause(pause_between);
            samples.push(server.taken());
            let start = Instant::now();
            (fault.make)(&scene);
            let end = Instant::now();
            let is_clean = || {
                let status = server.try_status()?;
                let errors = [&status["error"], &status["control"]["error"], &status["log_error"]];
                (errors.iter().all(|error| error.is_null()) && status["out_of_date_total"] == 0).then_some(())
            };
            let recovered = until_within(RECOVERED_IN, is_clean);
            eprintln!("{}: lasted {:?}, recovered after {:?}", fault.name, end - start, end.elapsed());
            assert!(recovered.is_some(), "{}: {:#?}\n{}", fault.name, server.status(), server.log());
            spans.push((fault, start, Instant::now()));
        }
        pause(pause_between);
        samples.push(server.taken());
        drop(stopping);
        (load.join().unwrap(), edits.join().unwrap(), changes.join().unwrap())
    });

    let (sent, lost) = load;
    // A query was waiting already when the fault came.
    let is_of_fault = |lost: &&Lost| {
        spans.iter().any(|(fault, start, end)| {
            let took = fault.takes == Takes::Misses && lost.kind == Kind::Missed;
            took && lost.sent + ANSWERED_IN >= *start && lost.sent <= *end
        })
    };
    let (expected, unexpected): (Vec<_>, Vec<_>) = lost.iter().partition(is_of_fault);
    // The first half is warm-up: sockets to upstreams are opened as chance has it.
    let (half, last) = (samples.len() / 2, samples.len() * 3 / 4);
    let [before, after] = [&samples[half..last], &samples[last..]]
        .map(|part| (median(part, |taken| taken.memory), median(part, |taken| taken.descriptors)));
    eprintln!(
        "{sent} queries, {} lost to faults; {} edits, unsaid for {:?} at most; {} changes over the API, {} refused for a \
         moment; memory {} -> {} KiB, descriptors {} -> {}",
        expected.len(),
        edits.0,
        edits.1,
        changes.0,
        changes.1,
        before.0,
        after.0,
        before.1,
        after.1
    );
    let told: Vec<_> = unexpected.iter().take(10).map(|lost| (lost.kind, lost.sent - begun, lost.heard)).collect();
    assert!(unexpected.is_empty(), "{} lost: {told:?}", unexpected.len());
    assert!(edits.0 > 10 && changes.0 > 10, "{edits:?} {changes:?}");
    assert!(edits.1 <= UNSAID, "an edit was neither in force nor told of for {:?}", edits.1);
    assert!(after.0 * 100 <= before.0 * (100 + GROWTH), "memory: {samples:?}");
    assert!(after.1 * 100 <= before.1 * (100 + GROWTH), "descriptors: {samples:?}");
}

impl Server {
    /// Returns what the process takes.
    fn taken(&self) -> Taken {
        Taken { memory: self.resident_kib(), descriptors: self.descriptors().try_into().unwrap() }
    }
}
