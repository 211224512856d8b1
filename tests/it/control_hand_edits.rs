//! What people do to the files of the API by hand: what is in force is what is shown, and what is theirs stays.

use std::fs;

use serde_json::{Value, json};

use crate::support::objects::id;
use crate::support::*;

/// Where devboxes are.
const DEVBOXES: &str = "/v1/devboxes";

/// A server with the API; and its upstream.
fn server() -> (Server, FakeUpstream) {
    let upstream = FakeUpstream::start();
    (Setup::new(&[&upstream]).control("").start(), upstream)
}

/// Makes a devbox that is unrestricted; returns its id.
fn devbox(server: &Server, address: &str) -> String {
    id(&server.api_post(DEVBOXES, &json!({ "metadata": { "hostgate.address": address } })).done())
}

#[test]
fn a_devbox_whose_file_was_moved_is_a_client_that_a_person_wrote() {
    let (server, _upstream) = server();
    let (moved, split) = (devbox(&server, "127.0.1.1"), devbox(&server, "127.0.1.2"));
    fs::rename(server.policies(&format!("api/{moved}.toml")), server.policies("mine.toml")).unwrap();
    server.write("noted.toml", "[api.dbx_noted]\nstatus = \"running\"\n");
    // Of this one only what binds it is moved.
    let file = format!("api/{split}.toml");
    let text = fs::read_to_string(server.policies(&file)).unwrap();
    let client = text.find("[client.").unwrap();
    let kept = text.find("[api.").unwrap();
    server.replace(&file, format!("{}{}", &text[..client], &text[kept..]));
    server.write("split.toml", &text[client..kept]);
    server.until("all are by hand", || {
        let names = [&moved, &split].map(|id| server.api_get(&format!("{DEVBOXES}/{id}")).body["name"].clone());
        (names == [json!(moved), json!(split)]).then_some(())
    });
    for (id, address) in [(&moved, "127.0.1.1"), (&split, "127.0.1.2")] {
        let view = server.api_get(&format!("{DEVBOXES}/{id}")).done();
        assert_eq!((&view["status"], server.allows(address, "any.test")), (&json!("running"), true), "{view}");
    }
    let list = server.api_get(DEVBOXES).done();
    assert_eq!(list["total_count"], 2, "{list}");
    server.api_get(&format!("{DEVBOXES}/dbx_noted")).refused(404, &["dbx_noted"]);
    for (id, place) in [(&*moved, "mine.toml:2:9"), (&split, "split.toml:1:9"), ("dbx_noted", "noted.toml:1:6")] {
        let parts = [id, "is written by hand in", place];
        server.api_post(&format!("{DEVBOXES}/{id}"), &json!({ "name": "x" })).refused(400, &parts);
        server.api_post(&format!("{DEVBOXES}/{id}/shutdown"), &Value::Null).refused(400, &parts);
    }
}
