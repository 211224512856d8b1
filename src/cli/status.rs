//! The command `hostgate status`: asks the running process at its admin endpoint.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;

use super::output::Output;
use super::sources::{self, Search};
use super::{CONFIG, FAILED, OK};
use crate::bounds::MAX_STATUS;

/// The deadline for each step of asking: connecting, writing, reading.
const DEADLINE: Duration = Duration::from_secs(5);

/// Asks for the status, writes it, and returns the exit code.
pub(super) fn run(config: Option<PathBuf>, admin: Option<SocketAddr>, json: bool, output: &mut Output) -> u8 {
    let (admin, instead, origin) = match admin {
        Some(admin) => (admin, None, "--admin".to_owned()),
        None => match sources::read_config(config, Search::HereOrSystem) {
            Ok((path, config)) => {
                let Some(admin) = config.admin else {
                    output.error("status: `admin.listen` is \"off\" in the configuration, so hostgate cannot be asked");
                    return FAILED;
                };
                (admin, config.admin_instead, sources::origin(path.as_deref()))
            }
            Err(diagnostics) => {
                output.diagnostics(&diagnostics);
                return CONFIG;
            }
        },
    };
    if !json {
        output.error(format!("asking http://{admin}/status ({origin})"));
    }
    let status = match fetch_either(admin, instead) {
        Ok(status) => status,
        Err(error) => {
            let help = "is hostgate running, and is this its `admin.listen`? (--admin ADDRESS, --config FILE)";
            output.error(format!("status: http://{admin}/status: {error} ({help})"));
            return FAILED;
        }
    };
    if json {
        output.json(&status);
    } else {
        write_text(&status, output);
    }
    let mut out_of_date = entries(&status).map(|entry| entry["kind"].as_str().unwrap_or_default());
    let is_in_force = out_of_date.all(|kind| ["polling", "reloading"].contains(&kind));
    let errors = ["error", "upstream_error", "reload_stuck", "log_error", "decision_log_error"].map(|key| &status[key]);
    let is_good = errors.into_iter().chain([&status["control"]["error"]]).all(Value::is_null);
    let is_alive = status["stalled"].as_array().is_none_or(Vec::is_empty);
    if is_good && is_in_force && is_alive { OK } else { FAILED }
}

/// Writes the status as text.
fn write_text(status: &Value, output: &mut Output) {
    let text = |key: &str| status[key].as_str().unwrap_or_default().to_owned();
    let number = |key: &str| status[key].as_u64().unwrap_or_default();
    let (generation, hash) = (number("generation"), text("hash"));
    output.line(format!("hostgate {}, up {} s", text("version"), number("uptime_seconds")));
    output.line(format!("generation {generation}, hash {hash}, in force since {}", text("loaded_at")));
    let (policies, blueprints, clients) = (number("policies"), number("blueprints"), number("clients"));
    output.line(format!("policies {policies}, blueprints {blueprints}, clients {clients}"));
    let without = &status["without_policy"];
    if let Some(count) = without["count"].as_u64().filter(|count| *count > 0) {
        let names = without["clients"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names: Vec<&str> = names.collect();
        let more = if usize::try_from(count).is_ok_and(|count| count > names.len()) { " …" } else { "" };
        let what = match without["policy"].as_str().unwrap_or_default() {
            "none" => "denied everything".to_owned(),
            "unrestricted" => "unrestricted".to_owned(),
            policy => format!("under the default policy {policy}"),
        };
        output.line(format!("clients without a policy {count}, {what}: {}{more}", names.join(" ")));
    }
    for upstream in status["upstreams"].as_array().into_iter().flatten() {
        let server = upstream["server"].as_str().unwrap_or_default();
        let state = upstream["state"].as_str().unwrap_or_default();
        let trouble = upstream["trouble"].as_str().map_or_else(String::new, |trouble| {
            format!(", {trouble} since {}", upstream["since"].as_str().unwrap_or_default())
        });
        let names = if upstream["names_fail"] == true { ", answers a probe and no name that is asked" } else { "" };
        output.line(format!("upstream {server}: {state}{trouble}{names}"));
    }
    if let Some(why) = status["reload_stuck"].as_str() {
        output.line(format!("stuck: {why}"));
    }
    for stall in status["stalled"].as_array().into_iter().flatten() {
        let [thread, since] = ["thread", "since"].map(|key| stall[key].as_str().unwrap_or_default());
        output.line(format!("thread {thread} hangs since {since}"));
    }
    for (key, what) in [("log_error", "log"), ("decision_log_error", "decision log")] {
        if let Some(error) = status[key].as_str() {
            output.line(format!("{what}: {error}"));
        }
    }
    if let Some(error) = status["upstream_error"].as_str() {
        output.line(format!("no upstream: {error}"));
    }
    for error in status["control"]["error"].as_str().into_iter().flat_map(str::lines) {
        output.line(format!("API: {error}"));
    }
    if let Some(error) = status["error"].as_str() {
        output.line("held back; the last good version is in force:");
        for line in error.lines() {
            output.line(format!("  {line}"));
        }
    }
    for entry in entries(status) {
        let field = |key: &str| entry[key].as_str().unwrap_or_default();
        let (kind, path) = (field("kind"), field("path"));
        let path = if path.is_empty() { String::new() } else { format!(" {path}") };
        // Errors in files have been written above.
        let is_told = status["error"].is_string() && ["held-back", "unreadable"].contains(&kind);
        let why = if is_told { String::new() } else { format!(": {}", field("why")) };
        output.line(format!("out of date since {} {kind}{path}{why}", field("since")));
    }
    let shown = u64::try_from(entries(status).count()).unwrap_or(u64::MAX);
    if let Some(more) = number("out_of_date_total").checked_sub(shown).filter(|more| *more > 0) {
        output.line(format!("out of date: and {more} more"));
    }
    for warning in status["warnings"].as_array().into_iter().flatten() {
        output.line(format!("warning: {}", warning.as_str().unwrap_or_default()));
    }
}

/// Returns the entries about files that are out of date.
fn entries(status: &Value) -> impl Iterator<Item = &Value> {
    status["out_of_date"].as_array().into_iter().flatten()
}

/// Asks at `admin`, else at `instead`, the address of the admin endpoint on a machine with IPv6 only.
pub(super) fn fetch_either(admin: SocketAddr, instead: Option<SocketAddr>) -> io::Result<Value> {
    fetch(admin).or_else(|error| instead.and_then(|instead| fetch(instead).ok()).ok_or(error))
}

/// Asks for `/status` with one HTTP/1.0 request, whose answer ends with the connection (RFC 1945 §7).
fn fetch(admin: SocketAddr) -> io::Result<Value> {
    let mut stream = TcpStream::connect_timeout(&admin, DEADLINE)?;
    stream.set_read_timeout(Some(DEADLINE))?;
    stream.set_write_timeout(Some(DEADLINE))?;
    stream.write_all(format!("GET /status HTTP/1.0\r\nHost: {admin}\r\n\r\n").as_bytes())?;
    let mut answer = Vec::new();
    stream.take(MAX_STATUS).read_to_end(&mut answer)?;
    let body = answer.windows(4).position(|window| window == b"\r\n\r\n").map(|at| &answer[at + 4..]);
    let is_ok = answer.starts_with(b"HTTP/1.") && answer.get(9..12) == Some(b"200");
    match body {
        Some(body) if is_ok => serde_json::from_slice(body).map_err(io::Error::other),
        _ => Err(io::Error::other("the answer is not a status of hostgate")),
    }
}
