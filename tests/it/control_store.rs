//! The API beside people and processes that work on the same files.

use serde_json::json;

use crate::support::objects::id;
use crate::support::*;

/// Where policies are.
const POLICIES: &str = "/v1/network-policies";

/// A client whom the policy `hand` is for.
const HAND: &str = "[policy.hand]\nallowed_hostnames = [\"a.test\"]\n\
                    [client.hand]\nsources = [\"127.0.0.9\"]\npolicy = \"hand\"\n";

#[test]
fn a_test_that_fails_in_a_persons_file_keeps_nobody_from_tightening_a_policy() {
    let upstream = FakeUpstream::start();
    let server = Setup::new(&[&upstream]).file("hand.toml", HAND).control("").start();
    let policy = server.new_policy(&["a.test"]);
    let box_of = |address: &str| {
        let body = json!({
            "launch_parameters": { "network_policy_id": policy }, "metadata": { "hostgate.address": address }
        });
        id(&server.api_post("/v1/devboxes", &body).done())
    };
    let devbox = box_of("127.0.0.21");
    assert!(server.allows("127.0.0.21", "a.test"));
    let wrong = format!("{HAND}[[test]]\nclient = \"hand\"\nname = \"b.test\"\nexpect = \"allow\"\n");
    server.write("hand.toml", &wrong);
    let held_back =
        || server.status()["error"].as_str().is_some_and(|error| error.contains("test failed")).then_some(());
    server.until("the failing test is told", held_back);
    server.api_post(&format!("{POLICIES}/{policy}"), &json!({ "allowed_hostnames": [] })).done();
    assert!(!server.allows("127.0.0.21", "a.test"));
    box_of("127.0.0.22");
    server.api_post(&format!("/v1/devboxes/{devbox}/shutdown"), &json!({})).done();
    // What is wrong is told as before, and in force once it is mended.
    server.until("the failing test is told still", held_back);
    server.write("hand.toml", wrong.replace("b.test", "a.test"));
    server.until("it is in force", || server.status()["error"].is_null().then_some(()));
    // A test of a person keeps nobody from denying or shutting down what the API made.
    let guarded = format!("[[test]]\nclient = \"{}\"\nname = \"c.test\"\nexpect = \"deny\"\n", box_of("127.0.0.23"));
    let generation = server.status()["generation"].as_u64().unwrap();
    server.write("guard.toml", guarded);
    server.wait_generation(generation + 1);
    server.api_post(&format!("{POLICIES}/{policy}"), &json!({ "allowed_hostnames": ["c.test"] })).done();
    assert!(server.allows("127.0.0.23", "c.test"));
    let entry = server.wait_out_of_date("failed-test");
    assert!(entry["why"].as_str().unwrap().contains("guard.toml:4:10: test failed"), "{entry}");
    let pinned = box_of("127.0.0.24");
    server.replace("guard.toml", format!("[[test]]\nclient = \"{pinned}\"\nname = \"c.test\"\nexpect = \"allow\"\n"));
    server.wait_not_out_of_date("failed-test");
    server.api_post(&format!("{POLICIES}/{policy}"), &json!({ "allowed_hostnames": [] })).done();
    assert!(!server.allows("127.0.0.24", "c.test"));
    server.wait_out_of_date("failed-test");
    server.api_post(&format!("/v1/devboxes/{pinned}/shutdown"), &json!({})).done();
    server.wait_not_out_of_date("failed-test");
    assert!(server.out_of_date("next-start").is_none() && server.status()["error"].is_null());
}

#[test]
fn of_two_on_one_directory_one_makes_changes() {
    let upstream = FakeUpstream::start();
    let one = Setup::new(&[&upstream]).file("hand.toml", HAND).control("").start();
    let policy = one.new_policy(&["a.test"]);
    // The ports are free ones, so another starts beside it.
    let other = one.restarted();
    let told = other.api_post(POLICIES, &json!({ "name": "second" }));
    told.refused(503, &["another hostgate writes below", "stop it, or give each a policies directory"]);
    // It sees what the first one makes.
    let path = format!("{POLICIES}/{policy}");
    assert_eq!(other.api_get(&path).done()["id"], policy);
    drop(one);
    other.api_post(&path, &json!({ "name": "mine now" })).done();
}
