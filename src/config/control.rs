//! The table `[control]` of `hostgate.toml`: the HTTP API, which is off without this table.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use crate::document::{Placed, Table};

/// The settings of the API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// The address or socket that the API is served on.
    pub listen: Endpoint,
    /// The file of bearer tokens, one a line.
    pub token_file: PathBuf,
    /// Accepts requests from addresses in a client's `sources`.
    pub allow_clients: bool,
    /// The certificate that the API is served with; `None` is plain HTTP.
    pub tls: Option<Tls>,
    /// The prefix that devboxes without an address of their own get one from.
    pub devbox_pool: Option<IpNet>,
    /// The prefix that build containers without an address of their own get one from.
    pub build_pool: Option<IpNet>,
    /// The command that builds blueprints; with `None`, every blueprint is complete at once.
    pub builder: Option<Builder>,
    /// The file that gets a JSON line for each change, in addition to the log.
    pub audit: Option<PathBuf>,
    /// Refuses a change that cannot be recorded in the `audit` file.
    pub audit_required: bool,
    /// The time for which a devbox that was shut down can still be read.
    pub forget_after: Duration,
}

/// An address or a Unix socket to serve the API on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// A TCP address. One that is not loopback needs a certificate.
    Address(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// A certificate and its key, both PEM files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The certificate chain: the server's certificate and the intermediate ones.
    pub certificate: PathBuf,
    /// The file of the certificate's private key.
    pub key: PathBuf,
}

/// The command that builds blueprints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Builder {
    /// The program and its arguments.
    pub command: Vec<String>,
    /// The time limit of one build.
    pub timeout: Duration,
}

/// The longest `forget_after`, in seconds: ten years.
const LONGEST_FORGET: u64 = 10 * 365 * 86_400;
/// The default of `forget_after`, in seconds: a week.
const DEFAULT_FORGET: u64 = 7 * 86_400;
const DEFAULT_LISTEN: &str = "127.0.0.1:8080";
/// The prefix of an endpoint that is a Unix socket.
const UNIX: &str = "unix:";
/// The default of `builder_timeout`, in seconds.
const DEFAULT_BUILD: u64 = 3_600;

/// Reads `[control]`; paths in it are relative to `directory`.
pub(super) fn read(mut table: Table<'_>, directory: &Path) -> Option<Control> {
    // If only one of the two keys is there, that is the error to report, not a missing certificate.
    let has_tls = ["tls_certificate", "tls_key"].iter().any(|key| table.key_span(key).is_some());
    let tls = read_tls(&mut table, directory);
    let listen = match table.string("listen") {
        None => Some(Endpoint::Address(DEFAULT_LISTEN.parse().expect("the default is an address"))),
        Some(text) => endpoint(&table, text, directory, has_tls),
    };
    let token_file = table.string("token_file");
    if table.key_span("token_file").is_none() {
        let help = "name a file of bearer tokens, one a line, that only hostgate can read (mode 600)";
        table.missing("token_file", help);
    }
    let devbox_pool = pool(&mut table, "devbox_pool");
    let build_pool = pool(&mut table, "build_pool");
    if let (Some(devboxes), Some(builds)) = (&devbox_pool, &build_pool)
        && (devboxes.value.contains(&builds.value) || builds.value.contains(&devboxes.value))
    {
        let help = "give devboxes and builds addresses of their own".to_owned();
        table.error(builds.span, "`build_pool` and `devbox_pool` overlap", Some(help));
    }
    let audit = super::record_file(&mut table, "audit", directory);
    // Without a file, the log alone has the changes, so no change could ever be recorded as required.
    let audit_required = table.boolean("audit_required").is_some_and(|flag| flag.value);
    if audit_required && table.key_span("audit").is_none() {
        table.missing("audit", "`audit_required = true` needs the file that gets the records");
    }
    let control = Control {
        listen: listen?,
        token_file: directory.join(token_file?.value),
        allow_clients: table.boolean("allow_clients").is_some_and(|flag| flag.value),
        tls,
        devbox_pool: devbox_pool.map(|pool| pool.value),
        build_pool: build_pool.map(|pool| pool.value),
        builder: read_builder(&mut table),
        audit,
        audit_required,
        forget_after: super::seconds(&mut table, "forget_after", 1..=LONGEST_FORGET, DEFAULT_FORGET),
    };
    table.finish();
    Some(control)
}

/// Reads `tls_certificate` and `tls_key`, which need each other.
fn read_tls(table: &mut Table<'_>, directory: &Path) -> Option<Tls> {
    let (certificate, key) = (table.string("tls_certificate"), table.string("tls_key"));
    match (certificate, key) {
        (Some(certificate), Some(key)) => {
            Some(Tls { certificate: directory.join(certificate.value), key: directory.join(key.value) })
        }
        (None, None) => None,
        (certificate, _) => {
            let missing = if certificate.is_some() { "tls_key" } else { "tls_certificate" };
            table.missing(missing, "a certificate and its key go together, PEM files both");
            None
        }
    }
}

/// Reads `listen`. An address that others can reach needs TLS, as tokens are sent in each request.
fn endpoint(table: &Table<'_>, text: Placed<&str>, directory: &Path, has_tls: bool) -> Option<Endpoint> {
    if let Some(path) = text.value.strip_prefix(UNIX) {
        if path.is_empty() {
            let help = "write `unix:/run/hostgate/control.sock`".to_owned();
            table.error(text.span, "`control.listen`: a Unix socket needs a path", Some(help));
        }
        return Some(Endpoint::Unix(directory.join(path)));
    }
    match text.value.parse::<SocketAddr>() {
        // Whoever reads a bearer token on the network can use it (RFC 6750 §5.3).
        Ok(address) if address.ip().is_loopback() || has_tls => Some(Endpoint::Address(address)),
        Ok(address) => {
            let message = format!("`control.listen`: tokens would go to `{address}` in the clear");
            let help = "name `tls_certificate` and `tls_key`, or listen on a loopback address or a Unix socket";
            table.error(text.span, message, Some(help.to_owned()));
            None
        }
        Err(_) => {
            let message = format!("`control.listen`: `{}` is not an address and port", text.value.escape_debug());
            let help = "write them as `127.0.0.1:8080`, or a Unix socket as `unix:PATH`";
            table.error(text.span, message, Some(help.to_owned()));
            None
        }
    }
}

/// Reads the prefix of a pool of addresses.
fn pool(table: &mut Table<'_>, key: &'static str) -> Option<Placed<IpNet>> {
    /// The fewest host bits of a pool: its first and last address are left out, and the first host is the gateway.
    const FEWEST_BITS: u8 = 2;
    let text = table.string(key)?;
    match text.value.parse::<IpNet>() {
        // Host bits that are set (`10.0.0.1/8`) may mean a single address, so they are refused.
        Ok(net) if net.trunc() == net && net.max_prefix_len() - net.prefix_len() >= FEWEST_BITS => {
            Some(text.map(|_| net))
        }
        _ => {
            let message = format!("`{key}`: `{}` is not a prefix to take addresses from", text.value.escape_debug());
            let help = "write the network and its length, as `10.88.0.0/16`".to_owned();
            table.error(text.span, message, Some(help));
            None
        }
    }
}

/// Reads `builder` and `builder_timeout`.
fn read_builder(table: &mut Table<'_>) -> Option<Builder> {
    let timeout = super::seconds(table, "builder_timeout", 1..=86_400, DEFAULT_BUILD);
    let command = table.strings("builder")?;
    if command.value.first().is_none_or(|program| program.value.is_empty()) {
        let help = "write the program and its arguments, as `[\"/usr/local/bin/build\"]`".to_owned();
        table.error(command.span, "`builder` names no program", Some(help));
        return None;
    }
    Some(Builder { command: command.value.iter().map(|word| word.value.to_owned()).collect(), timeout })
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn every_key_of_the_table_is_read() {
        let text = "[control]\nlisten = '192.0.2.1:443'\ntoken_file = 'token'\ntls_certificate = 'c.pem'\ntls_key = '/k.pem'\n\
                    devbox_pool = '10.88.0.0/16'\nbuild_pool = '2001:db8::/64'\nbuilder = ['build', '-x']\nbuilder_timeout = 5\n\
                    audit = 'audit.jsonl'\naudit_required = true\nallow_clients = true\nforget_after = 60\n";
        let control = Config::parse(Path::new("/etc/h.toml"), text).unwrap().control.unwrap();
        let expected = Control {
            listen: Endpoint::Address("192.0.2.1:443".parse().unwrap()),
            token_file: "/etc/token".into(),
            allow_clients: true,
            tls: Some(Tls { certificate: "/etc/c.pem".into(), key: "/k.pem".into() }),
            devbox_pool: Some("10.88.0.0/16".parse().unwrap()),
            build_pool: Some("2001:db8::/64".parse().unwrap()),
            builder: Some(Builder { command: vec!["build".into(), "-x".into()], timeout: Duration::from_secs(5) }),
            audit: Some("/etc/audit.jsonl".into()),
            audit_required: true,
            forget_after: Duration::from_mins(1),
        };
        assert_eq!(control, expected);
        let short = "[control]\ntoken_file = 't'\nlisten = 'unix:run/c.sock'\n";
        let control = Config::parse(Path::new("/etc/h.toml"), short).unwrap().control.unwrap();
        assert_eq!(control.listen, Endpoint::Unix("/etc/run/c.sock".into()));
        assert!(!control.allow_clients && control.builder.is_none() && !control.audit_required);
    }

    #[test]
    fn insecure_and_senseless_settings_are_errors() {
        const CASES: &[(&str, &str)] = &[
            ("", "h.toml:1:2: `control`: missing key `token_file`"),
            (
                "token_file = 't'\nlisten = '0.0.0.0:80'",
                "h.toml:3:10: `control.listen`: tokens would go to `0.0.0.0:80` in the clear: name `tls_certificate`",
            ),
            ("token_file = 't'\nlisten = 'here'", "h.toml:3:10: `control.listen`: `here` is not an address and port"),
            ("token_file = 't'\nlisten = 'unix:'", "h.toml:3:10: `control.listen`: a Unix socket needs a path"),
            ("token_file = 't'\naudit_required = true", "h.toml:1:2: `control`: missing key `audit`"),
            ("token_file = 't'\naudit = ''", "h.toml:3:9: `audit`: `` names no file"),
            ("token_file = 't'\n[decisions]\npath = ''", "h.toml:4:8: `path`: `` names no file"),
            ("token_file = 't'\ntls_key = 'k'", "h.toml:1:2: `control`: missing key `tls_certificate`"),
            (
                "token_file = 't'\ndevbox_pool = '10.0.0.1/8'",
                "h.toml:3:15: `devbox_pool`: `10.0.0.1/8` is not a prefix",
            ),
            (
                "token_file = 't'\ndevbox_pool = '10.0.0.0/31'",
                "h.toml:3:15: `devbox_pool`: `10.0.0.0/31` is not a prefix",
            ),
            (
                "token_file = 't'\ndevbox_pool = '10.0.0.0/8'\nbuild_pool = '10.1.0.0/16'",
                "h.toml:4:14: `build_pool` and `devbox_pool` overlap",
            ),
            ("token_file = 't'\nbuilder = []", "h.toml:3:11: `builder` names no program"),
            ("token_file = 't'\nbuilder_timeout = 0", "h.toml:3:19: `control`: `builder_timeout` is out of range"),
            ("token_file = 't'\ntoken = 't'", "h.toml:3:1: `control`: unknown key `token`: did you mean `token_file`?"),
        ];
        for (lines, expected) in CASES {
            let text = format!("[control]\n{lines}\n");
            let message = Config::parse(Path::new("h.toml"), text).err().unwrap_or_default();
            let message: Vec<_> = message.iter().map(ToString::to_string).collect();
            assert!(message.iter().any(|line| line.starts_with(expected)), "{lines}: {message:?}");
        }
    }
}
