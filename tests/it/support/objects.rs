//! Requests to the API about policies, blueprints and devboxes, as the SDKs send them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;

use serde_json::{Value, json};

use super::api::{TOKEN, Wire};
use super::{DEADLINE, RecordType, Server, ask};

/// What the API answered.
#[derive(Debug)]
pub(crate) struct Told {
    /// The status.
    pub(crate) status: u16,
    /// The body.
    pub(crate) body: Value,
}

impl Told {
    /// Returns the body; panics unless the request was done.
    #[track_caller]
    pub(crate) fn done(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.body
    }

    /// Panics unless it was refused with this status and a message that holds all of `parts`.
    #[track_caller]
    pub(crate) fn refused(self, status: u16, parts: &[&str]) {
        assert_eq!(self.status, status, "{}", self.body);
        let message = self.body["message"].as_str().unwrap();
        assert!(parts.iter().all(|part| message.contains(part)), "{message:?} lacks one of {parts:?}");
    }
}

impl Server {
    /// Gets something from the API.
    #[track_caller]
    pub(crate) fn api_get(&self, path: &str) -> Told {
        self.api("GET", path, "", "")
    }

    /// Posts something to the API; null is no body.
    #[track_caller]
    pub(crate) fn api_post(&self, path: &str, body: &Value) -> Told {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.api("POST", path, "", &body)
    }

    /// Posts something to the API; nothing if it gives no answer, as when it is short of descriptors.
    pub(crate) fn try_api_post(&self, path: &str, body: &Value) -> Option<Told> {
        let body = body.to_string();
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: api.test\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\nconnection: close\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(self.control()).ok()?;
        stream.set_read_timeout(Some(DEADLINE)).ok()?;
        stream.write_all(head.as_bytes()).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let status = head.split(' ').nth(1)?.parse().ok()?;
        Some(Told { status, body: serde_json::from_str(body).unwrap_or(Value::Null) })
    }

    /// Sends a request to the API; `fields` are further lines of its head.
    #[track_caller]
    pub(crate) fn api(&self, method: &str, path: &str, fields: &str, body: &str) -> Told {
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: api.test\r\nauthorization: Bearer {TOKEN}\r\ncontent-type: application/json\r\n\
             content-length: {}\r\n{fields}\r\n",
            body.len()
        );
        let response = Wire::open(self).send(head).send(body).response();
        let body = serde_json::from_str(&response.body).unwrap_or_else(|_| panic!("no JSON: {response:?}"));
        Told { status: response.status, body }
    }

    /// Creates a policy that allows these names; returns its id.
    #[track_caller]
    pub(crate) fn new_policy(&self, names: &[&str]) -> String {
        let body = json!({ "name": "a policy", "allowed_hostnames": names });
        id(&self.api_post("/v1/network-policies", &body).done())
    }

    /// Creates a blueprint with these policies; returns its id.
    #[track_caller]
    pub(crate) fn new_blueprint(&self, build: Option<&str>, runtime: Option<&str>) -> String {
        let launch = json!({ "network_policy_id": runtime });
        let body = json!({ "name": "a blueprint", "network_policy_id": build, "launch_parameters": launch });
        id(&self.api_post("/v1/blueprints", &body).done())
    }

    /// Creates a devbox at an address; returns its id.
    #[track_caller]
    pub(crate) fn new_devbox(&self, blueprint: &str, address: &str) -> String {
        let body = json!({ "blueprint_id": blueprint, "metadata": { "hostgate.address": address } });
        id(&self.api_post("/v1/devboxes", &body).done())
    }

    /// Returns whether this source may look up this name.
    pub(crate) fn allows(&self, source: &str, name: &str) -> bool {
        !ask(name, RecordType::A).from(source).udp(self).addresses().is_empty()
    }
}

/// Returns the id of an object.
#[track_caller]
pub(crate) fn id(view: &Value) -> String {
    view["id"].as_str().unwrap().to_owned()
}
