//! Files of the API's objects that a crash of the machine cut off, filled with zeros or emptied.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::objects::id;
use crate::support::*;

/// The address of the devbox that is made from the blueprint.
const DEVBOX: &str = "127.0.1.1";

/// Makes a policy, a blueprint, a devbox of it and one that is shut down.
fn objects(server: &Server) {
    let policy = server.new_policy(&["a.test"]);
    let blueprint = server.new_blueprint(Some(&policy), Some(&policy));
    server.new_devbox(&blueprint, DEVBOX);
    let gone = server.new_devbox(&blueprint, "127.0.1.2");
    server.api_post(&format!("/v1/devboxes/{gone}/shutdown"), &Value::Null).done();
    let blueprint = format!("/v1/blueprints/{blueprint}");
    server.api_post(&blueprint, &json!({ "metadata": { "text": "\n# end\n" } })).done();
}

/// A server under which whoever has no policy may look up everything.
fn open_server(upstream: &FakeUpstream, lines: &str) -> Server {
    Setup::new(&[upstream]).top("without_policy = \"unrestricted\"").control(lines).start()
}

/// Ends a server and waits until it is gone.
fn stop(mut server: Server) -> Server {
    server.signal("TERM");
    assert_eq!(server.wait_exit().code(), Some(0));
    server
}

/// Returns the files of the API's objects.
fn files(server: &Server) -> Vec<PathBuf> {
    let entries = fs::read_dir(server.policies("api")).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.extension().is_some_and(|extension| extension == "toml")).collect()
}

/// Returns what the next start would say of a file that it would hold back, and nothing else: the first error.
#[track_caller]
fn held_back(server: &Server, path: &Path) -> String {
    let config = server.directory().join("hostgate.toml");
    let told = run(["check", "--start", "--json", "--config", config.to_str().unwrap()]).expect_code(1);
    let told: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(told["held_back"], json!([path.to_str().unwrap()]), "{}", fs::read_to_string(path).unwrap_or_default());
    let diagnostics = told["diagnostics"].as_array().unwrap();
    let own = diagnostics.iter().find(|it| it["path"] == path.to_str().unwrap() && it["severity"] == "error").unwrap();
    format!("{}: {}", own["message"].as_str().unwrap(), own["help"].as_str().unwrap_or_default())
}

/// Returns the file as the version before wrote it.
fn as_before(text: &str) -> String {
    let text = text.replacen(" Its last line is \"# end\".", "", 1);
    text.strip_suffix("# end\n").unwrap().to_owned()
}

#[test]
fn file_of_an_object_that_is_cut_off_at_any_line_is_held_back() {
    let upstream = FakeUpstream::start();
    let first = open_server(&upstream, "");
    objects(&first);
    let building = open_server(&upstream, "builder = [\"/bin/sleep\", \"60\"]\nbuild_pool = \"127.89.0.0/16\"");
    building.new_blueprint(None, None);
    building
        .until("it is built", || fs::read_to_string(&files(&building)[0]).unwrap().contains("building").then_some(()));
    let kept = fs::read_to_string(&files(&building)[0]).unwrap();
    let (first, building) = (stop(first), stop(building));
    // A build that was under way has failed since.
    fs::write(&files(&building)[0], kept).unwrap();
    let mut kinds = Vec::new();
    for server in [&first, &building] {
        for path in files(server) {
            kinds.push(path.file_name().unwrap().to_str().unwrap()[..4].to_owned());
            let text = fs::read_to_string(&path).unwrap();
            let lines: Vec<&str> = text.split_inclusive('\n').collect();
            for cut in 0..lines.len() {
                fs::write(&path, lines[..cut].concat()).unwrap();
                let told = held_back(server, &path);
                let parts = ["most likely a crash of the machine", "restore it", "remove it"];
                assert!(parts.iter().all(|part| told.contains(part)), "{cut} lines: {told}\n{text}");
            }
            // As the version before wrote it: whole it is read, and without the table that came last it is not.
            let before = as_before(&text);
            let table = before.find("[api.").unwrap();
            for (end, _) in before.match_indices('\n').filter(|(end, _)| *end < table) {
                fs::write(&path, &before[..=end]).unwrap();
                let told = held_back(server, &path);
                assert!(told.contains("most likely a crash of the machine"), "{end}: {told}\n{before}");
            }
            fs::write(&path, [0; 512]).unwrap();
            let told = held_back(server, &path);
            let parts =
                ["filled with zero octets (NUL), most likely by a crash", "remove it, which deletes the object"];
            assert!(parts.iter().all(|part| told.contains(part)), "{told}");
            fs::write(&path, &before).unwrap();
            let config = server.directory().join("hostgate.toml");
            run(["check", "--start", "--config", config.to_str().unwrap()]).expect_code(0);
            fs::write(&path, &text).unwrap();
        }
    }
    kinds.sort();
    assert_eq!(kinds, ["bpt_", "bpt_", "dbx_", "dbx_", "npol"]);
}

#[test]
fn blueprint_that_is_cut_off_opens_nothing() {
    let upstream = FakeUpstream::start();
    let server = open_server(&upstream, "");
    objects(&server);
    let path = files(&server).into_iter().find(|path| path.file_name().unwrap().to_str().unwrap().starts_with("bpt_"));
    let path = path.unwrap();
    let text = fs::read_to_string(&path).unwrap();
    let half: String = text.split_inclusive('\n').take(2).collect();
    assert!(half.ends_with("]\n"), "{half}");
    // While it runs, the last good version is in force.
    fs::write(&path, &half).unwrap();
    // The write truncates the file first, and may be seen in between.
    server.until("the cut told", || {
        let entry = server.out_of_date("held-back")?;
        entry["why"].as_str()?.contains("the file ends before its last line, `# end`").then_some(())
    });
    assert!(server.allows(DEVBOX, "a.test") && !server.allows(DEVBOX, "other.test"));
    let server = stop(server).restarted();
    server.wait_out_of_date("held-back");
    assert!(!server.allows(DEVBOX, "a.test") && !server.allows(DEVBOX, "other.test"));
    fs::write(&path, &text).unwrap();
    server.until("it is back", || server.allows(DEVBOX, "a.test").then_some(()));
    server.wait_not_out_of_date("held-back");
}

#[test]
fn file_of_the_version_before_is_read_and_written_so_that_a_cut_shows() {
    let upstream = FakeUpstream::start();
    let server = open_server(&upstream, "");
    let policy = server.new_policy(&["a.test"]);
    let (path, object) = (server.policies(&format!("api/{policy}.toml")), format!("/v1/network-policies/{policy}"));
    let whole = |text: &str| {
        text.starts_with("# A network policy of the API. Its last line is \"# end\".\n") && text.ends_with("\n# end\n")
    };
    let text = fs::read_to_string(&path).unwrap();
    assert!(whole(&text), "{text}");
    let by_hand =
        format!("[policy.{policy}]\nallowed_hostnames = [\"a.test\"]\n\n[api.{policy}]\ncreate_time_ms = 1\n");
    for (case, text) in
        [("before", as_before(&text)), ("by hand", by_hand), ("appended to", format!("{text}\n[policy.mine]\n"))]
    {
        let text = text.replace("\"a.test\"", &format!("\"{}.test\"", case.replace(' ', "-")));
        server.replace(&format!("api/{policy}.toml"), &text);
        let name = format!("{}.test", case.replace(' ', "-"));
        server.until(case, || {
            (server.api_get(&object).done()["egress"]["allowed_hostnames"] == json!([name])).then_some(())
        });
        assert_eq!(server.api_post(&object, &json!({ "allowed_hostnames": ["b.test"] })).done()["id"], policy);
        let text = fs::read_to_string(&path).unwrap();
        assert!(whole(&text) && text.matches("# end\n").count() == 1, "{case}: {text}");
    }
    // Where the object goes, nothing of the API's is left beside what a person wrote.
    server.api_post(&format!("{object}/delete"), &Value::Null).done();
    assert_eq!(fs::read_to_string(&path).unwrap(), "[policy.mine]\n");
    assert!(id(&server.api_get("/v1/network-policies/mine").done()) == "mine");
}
