//! The configuration file `hostgate.toml`: its text is parsed into [`Config`].
//!
//! The parser is the one of policy files ([`document`]), so each error has a place and a `help`, and all errors are
//! reported at once. The commented template `systemd/hostgate.toml` documents each key with its unit and default, and a
//! test compares it with the defaults here. A new key belongs there, in [`Config`], and in `change`, which decides
//! whether a reload applies it.

mod change;
pub mod control;

use std::collections::HashSet;
use std::net::{Ipv6Addr, SocketAddr};
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tracing_subscriber::filter::Targets;

pub use self::change::{changed_keys, covers, unlisted, with_restart_keys_of};
pub use self::control::Control;
use crate::dns::rebinding::Reach;
use crate::document::{self, Accepts, Code, Diagnostic, Place, Placed, Severity, Source, Span, Table, quoted};
use crate::policy::matching::pattern;
use crate::policy::{Binding, DevboxSuffix, WithoutPolicy};
use crate::telemetry::log_filter;
use crate::upstream::Server;
use crate::util::regular_file::is_in_kernel_tree;

/// The settings of `hostgate.toml`, with defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory of the policy files.
    pub policies: PathBuf,
    /// Directories, besides `policies`, that may contain list files and the targets of symlinked policy files.
    pub list_directories: Vec<PathBuf>,
    /// The place of each element of `list_directories` in the file, for messages.
    pub list_places: Vec<(Source, Span)>,
    /// The policy for which nothing more specific is named: for clients without a policy, and for addresses in no
    /// client at a listener without a policy.
    pub default_policy: Option<Binding>,
    /// The treatment of clients without a policy if there is no default policy.
    pub without_policy: WithoutPolicy,
    /// The TTL and MINIMUM of the SOA record in a denial, which bound how long clients cache the denial (RFC 2308 §5),
    /// and the TTL of devboxes' records, in seconds.
    pub denied_ttl: u32,
    /// The name below which devboxes look each other up.
    pub devbox_suffix: DevboxSuffix,
    /// The number of threads that answer UDP queries on each listener; `None` is one for each CPU.
    pub threads: Option<usize>,
    /// The filter of log lines.
    pub log: Targets,
    /// The Unix socket by which a successor takes over the listening sockets; `None` is off.
    pub takeover: Option<PathBuf>,
    /// The listeners; at least one.
    pub listen: Vec<Listen>,
    /// The settings of upstreams.
    pub upstream: Upstream,
    /// The settings of the answer cache.
    pub cache: Cache,
    /// The file of the decision log; `None` is off.
    pub decisions: Option<PathBuf>,
    /// The address of metrics and status; `None` is off.
    pub admin: Option<SocketAddr>,
    /// The IPv6 address to use if the machine has no IPv4 loopback address for the default of `admin`; `None` if
    /// `admin` is not the default.
    pub admin_instead: Option<SocketAddr>,
    /// The API; `None` is off.
    pub control: Option<Control>,
    /// The comments in the file that accept warnings.
    pub accepts: Option<Arc<Accepts>>,
    /// Whether the last good state is kept on disk, for a start that finds bad policy files.
    pub start_from_last_good: bool,
}

/// A `[[listen]]` table: an address for UDP and TCP.
#[derive(Clone, Debug)]
pub struct Listen {
    /// The address and port; port 0 takes a free one.
    pub address: SocketAddr,
    /// The policy for source addresses in no client that send queries to this listener.
    pub policy: Option<Binding>,
}

/// The table `[upstream]`: the resolvers to forward to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upstream {
    /// The servers to forward to.
    pub servers: Servers,
    /// The time over which the tries of a question, at one server or several, are spread. Their answers are waited for
    /// up to five seconds, or up to this time if it is longer.
    pub timeout: Duration,
    /// Randomises the case of names in queries over UDP, which a forged reply has to match
    /// (draft-vixie-dnsext-dns0x20).
    pub case_randomisation: bool,
    /// The addresses that count as globally reachable in answers. An address in `nat64_prefixes` counts as the IPv4
    /// address that it contains.
    pub reach: Reach,
}

/// The source of the list of upstreams.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Servers {
    /// The elements of `servers`, each with its place in the file.
    Listed(Vec<(Server, Place)>),
    /// The path of a resolv.conf, which is watched and read again when it changes.
    System(PathBuf),
}

/// The table `[cache]`: the answer cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cache {
    /// The memory that answers may take, in octets.
    pub size: usize,
    /// The longest time for which an answer stays fresh; no record sent to a client has a larger TTL.
    pub max_ttl: Duration,
    /// The time after its expiry for which an answer is used if no upstream answers (RFC 8767). Zero turns that off.
    pub serve_stale: Duration,
}

/// The largest TTL (RFC 2181 §8), in seconds.
const MAX_TTL: u64 = (1 << 31) - 1;
/// The most threads for one listener.
const MAX_THREADS: u64 = 1024;
/// The listener of a configuration without `[[listen]]`.
const DEFAULT_LISTEN: &str = "127.0.0.1:1053";
/// The `listen` address of a configuration without an `[admin]` table.
const DEFAULT_ADMIN: &str = "127.0.0.1:9153";
/// The file that names the upstreams if the configuration names none.
const RESOLV_CONF: &str = "/etc/resolv.conf";

impl Config {
    /// Returns the defaults, which apply if there is no file. Relative paths are below `directory`.
    #[must_use]
    pub fn default_in(directory: &Path) -> Self {
        let source = Source::new(directory.join("hostgate.toml"), "");
        let (config, _) = document::read(&source, |root| read(root, directory));
        config
    }

    /// Parses the text of a configuration file; its relative paths are below the directory of `path`.
    ///
    /// # Errors
    /// All errors in the file, and its warnings.
    pub fn parse(path: &Path, text: impl Into<Arc<str>>) -> Result<Self, Vec<Diagnostic>> {
        let source = Source::new(path, text);
        // An editor truncates the file before it writes to it, and a crash or a full disk can leave it empty. The
        // defaults, which an empty file would mean, have another listener address.
        if source.text().trim_start_matches('\u{feff}').trim().is_empty() {
            let error = Diagnostic::about_file(path, "the file is empty, as if half written");
            return Err(vec![error.help("restore it; for the defaults, write a comment into it")]);
        }
        let (config, diagnostics) = document::read(&source, |root| read(root, path.parent().unwrap_or(Path::new(""))));
        if diagnostics.iter().any(Diagnostic::is_error) { Err(diagnostics) } else { Ok(config) }
    }

    /// Returns the diagnostics about the comments in the file that accept warnings, such as one that accepts nothing.
    /// `others` are all other diagnostics.
    pub(crate) fn complaints<'d>(&self, others: impl Iterator<Item = &'d Diagnostic>) -> Vec<Diagnostic> {
        let Some(accepts) = &self.accepts else { return Vec::new() };
        let accepted = others.filter(|it| it.severity == Severity::Accepted && *it.place.path == *accepts.path());
        let accepted: HashSet<(u32, Code)> = accepted.filter_map(|it| Some((it.place.line, it.code?))).collect();
        accepts.complaints(|line, code| accepted.contains(&(line, code)))
    }
}

/// Reads the root table, reporting every error in it.
fn read(root: &mut Table<'_>, directory: &Path) -> Config {
    let policies = root.string("policies").map_or("policies", |path| path.value);
    let list_directories = root.strings("list_directories").map(|list| list.value).unwrap_or_default();
    let (list_directories, list_places) =
        list_directories.into_iter().filter_map(|path| list_directory(root, directory, path)).unzip();
    let default_policy = root.string("default_policy").map(|id| reference(root, id));
    let choices = [("deny", WithoutPolicy::Deny), ("unrestricted", WithoutPolicy::Unrestricted)];
    let without_policy = root.one_of("without_policy", &choices).map(|choice| choice.value).unwrap_or_default();
    // The default is short, because a client notices that a name was allowed only once the cached denial has expired.
    let denied_ttl = seconds(root, "denied_ttl", 0..=86_400, 5);
    let devbox_suffix = root.string("devbox_suffix").map_or_else(DevboxSuffix::default, |name| suffix(root, name));
    let threads = root.integer("threads", 1..=MAX_THREADS).map(|number| usize::try_from(number.value).unwrap_or(1));
    let log = root.string("log").map_or_else(log_filter::default, |text| log_levels(root, text));
    let start_from_last_good = root.boolean("start_from_last_good").is_some_and(|flag| flag.value);
    let takeover = root.string("takeover").map(|path| directory.join(path.value));
    let listen = read_listen(root);
    let upstream = read_upstream(root, directory);
    let cache = read_cache(root);
    let decisions = root.table("decisions").and_then(|mut table| {
        let path = record_file(&mut table, "path", directory);
        if path.is_none() && table.key_span("path").is_none() {
            table.missing("path", "name the file that gets one JSON line a query");
        }
        table.finish();
        path
    });
    let admin = root.table("admin").map_or_else(
        || Some(default_admin()),
        |mut table| {
            let admin =
                table.string("listen").map_or_else(|| Some(default_admin()), |text| admin_address(&table, text));
            table.finish();
            admin
        },
    );
    // 127.0.0.1 cannot be bound on a machine with IPv6 only. An address that the operator chose is never replaced.
    let admin_instead = admin.filter(|admin| *admin == default_admin());
    let admin_instead = admin_instead.map(|admin| SocketAddr::new(Ipv6Addr::LOCALHOST.into(), admin.port()));
    let control = root.table("control").and_then(|table| control::read(table, directory));
    Config {
        policies: directory.join(policies),
        list_directories,
        list_places,
        default_policy,
        without_policy,
        denied_ttl: u32::try_from(denied_ttl.as_secs()).unwrap_or(u32::MAX),
        devbox_suffix,
        threads,
        log,
        takeover,
        listen,
        upstream,
        cache,
        decisions,
        admin,
        admin_instead,
        control,
        accepts: root.source().accepts().cloned(),
        start_from_last_good,
    }
}

/// Reads an element of `list_directories`. The root of the file system is refused, as it would allow any file as a
/// list.
fn list_directory(root: &Table<'_>, directory: &Path, text: Placed<&str>) -> Option<(PathBuf, (Source, Span))> {
    let path = directory.join(text.value);
    // Both `/` and `/./` are the root.
    let is_root = path.components().all(|part| matches!(part, Component::RootDir | Component::CurDir));
    if text.value.is_empty() || text.value.contains('\0') || (is_root && path.is_absolute()) {
        let message = format!("`list_directories`: {} names no directory for lists", quoted(text.value));
        root.error(text.span, message, Some("name one that holds lists alone, as \"/srv/lists\"".to_owned()));
        return None;
    }
    if is_in_kernel_tree(&path) {
        let message = format!("`list_directories`: {} is in a tree of the kernel", quoted(text.value));
        let help = "nothing below /proc, /sys or /dev is a list: name a directory that holds lists alone";
        root.error(text.span, message, Some(help.to_owned()));
        return None;
    }
    Some((path, (root.source().clone(), text.span)))
}

/// Reads the path of a file of records. The start finds out whether the file can be written.
fn record_file(table: &mut Table<'_>, key: &'static str, directory: &Path) -> Option<PathBuf> {
    let path = table.string(key)?;
    // No path with NUL can be passed to the kernel.
    if path.value.is_empty() || path.value.contains('\0') {
        let message = format!("`{key}`: {} names no file", quoted(path.value));
        table.error(path.span, message, Some("name the file that records are appended to".to_owned()));
        return None;
    }
    Some(directory.join(path.value))
}

/// Reads `[[listen]]`, or returns the default listener if there is none.
fn read_listen(root: &mut Table<'_>) -> Vec<Listen> {
    let mut listeners: Vec<Listen> = Vec::new();
    for mut table in root.array_of_tables("listen") {
        let address = table.string("address");
        if address.is_none() && table.key_span("address").is_none() {
            table.missing("address", "write an address and a port, as `address = \"127.0.0.1:53\"`");
        }
        let policy = table.string("policy").map(|id| reference(&table, id));
        table.finish();
        let Some(text) = address else { continue };
        let Some(address) = listen_address(&table, text) else { continue };
        // Port 0 takes another free port for each table, so it may be given repeatedly.
        if address.port() != 0 && listeners.iter().any(|other| other.address == address) {
            let message = format!("`{address}` is listened on twice");
            table.error(text.span, message, Some("remove one of the two".to_owned()));
            continue;
        }
        listeners.push(Listen { address, policy });
    }
    if listeners.is_empty() {
        let address = DEFAULT_LISTEN.parse().expect("the default is an address");
        listeners.push(Listen { address, policy: None });
    }
    listeners
}

/// Reads the address of a listener. The port is optional and defaults to 53.
fn listen_address(table: &Table<'_>, text: Placed<&str>) -> Option<SocketAddr> {
    let bare = text.value.strip_prefix("udp://").unwrap_or(text.value);
    let address = bare.parse().ok().or_else(|| bare.parse().ok().map(|ip| SocketAddr::new(ip, 53)));
    if address.is_none() {
        let message = format!("`listen`: `{}` is not an address and port", text.value.escape_debug());
        // An operator may expect that encrypted DNS is supported, so a scheme gets a help text of its own.
        let help = match text.value.split_once("://") {
            Some((scheme, _)) => {
                format!("`{scheme}://` listeners are not in this version; UDP and TCP are always both on")
            }
            None => "write them as `127.0.0.1:53` or `[::1]:53`".to_owned(),
        };
        table.error(text.span, message, Some(help));
    }
    address
}

fn read_upstream(root: &mut Table<'_>, directory: &Path) -> Upstream {
    let system = Servers::System(PathBuf::from(RESOLV_CONF));
    let default = Upstream {
        servers: system,
        timeout: Duration::from_secs(2),
        case_randomisation: true,
        reach: Reach::default(),
    };
    let Some(mut table) = root.table("upstream") else { return default };
    let timeout =
        table.integer("timeout_ms", 100..=60_000).map_or(default.timeout, |ms| Duration::from_millis(ms.value));
    let case_randomisation =
        table.boolean("case_randomisation").map_or(default.case_randomisation, |choice| choice.value);
    let reach = nat64_prefixes(&mut table);
    let resolv_conf = table.string("resolv_conf");
    let servers = table.strings("servers");
    if let (Some(path), Some(_)) = (resolv_conf, &servers) {
        let help = "remove one of the two: `servers` is a fixed list, `resolv_conf` is read and watched";
        table.error(path.span, "`resolv_conf` and `servers` exclude each other", Some(help.to_owned()));
    }
    let servers = match servers {
        Some(list) => {
            if list.value.is_empty() {
                let help = "name a server, or remove the key to use the system's";
                table.error(list.span, "`servers` is empty", Some(help.to_owned()));
            }
            let servers = list.value.into_iter().filter_map(|text| match text.value.parse::<Server>() {
                Ok(server) => Some((server, place(&table, text.span))),
                Err(error) => {
                    table.error(text.span, error.to_string(), None);
                    None
                }
            });
            Servers::Listed(servers.collect())
        }
        None => resolv_conf.map_or(default.servers, |path| Servers::System(directory.join(path.value))),
    };
    table.finish();
    Upstream { servers, timeout, case_randomisation, reach }
}

/// Reads `nat64_prefixes` (RFC 6052).
fn nat64_prefixes(table: &mut Table<'_>) -> Reach {
    let mut reach = Reach::default();
    for text in table.strings("nat64_prefixes").map(|list| list.value).unwrap_or_default() {
        let prefix = text.value.parse::<ipnet::Ipv6Net>().ok();
        if let Some(more) = prefix.and_then(|prefix| reach.with_nat64(prefix.addr(), prefix.prefix_len())) {
            reach = more;
        } else {
            let message = format!("`nat64_prefixes`: `{}` is not a NAT64 prefix", text.value.escape_debug());
            let help = format!(
                "write one as \"2001:db8:64::/96\": of 32, 40, 48, 56, 64 or 96 bits (RFC 6052), {} at most",
                Reach::MOST
            );
            table.error(text.span, message, Some(help));
        }
    }
    reach
}

fn read_cache(root: &mut Table<'_>) -> Cache {
    let default = Cache { size: 64 << 20, max_ttl: Duration::from_hours(24), serve_stale: Duration::from_hours(24) };
    let Some(mut table) = root.table("cache") else { return default };
    let size = table
        .integer("size_mib", 1..=1 << 20)
        .map_or(default.size, |mib| usize::try_from(mib.value << 20).unwrap_or(usize::MAX));
    let max_ttl = seconds(&mut table, "max_ttl", 0..=MAX_TTL, default.max_ttl.as_secs());
    let serve_stale = seconds(&mut table, "serve_stale", 0..=MAX_TTL, default.serve_stale.as_secs());
    table.finish();
    Cache { size, max_ttl, serve_stale }
}

/// Reads `admin.listen`. It has to be loopback, as the admin endpoint has no authentication.
fn admin_address(table: &Table<'_>, text: Placed<&str>) -> Option<SocketAddr> {
    if text.value == "off" {
        return None;
    }
    match text.value.parse::<SocketAddr>() {
        Ok(address) if address.ip().is_loopback() => Some(address),
        Ok(address) => {
            let message = format!("`admin.listen`: `{address}` is not a loopback address");
            let help = "it has no authentication: write `127.0.0.1:9153` or `[::1]:9153`, or `off`";
            table.error(text.span, message, Some(help.to_owned()));
            None
        }
        Err(_) => {
            let message = format!("`admin.listen`: `{}` is not an address and port", text.value.escape_debug());
            table.error(text.span, message, Some("write them as `127.0.0.1:9153`, or `off`".to_owned()));
            None
        }
    }
}

fn default_admin() -> SocketAddr {
    DEFAULT_ADMIN.parse().expect("the default is an address")
}

/// Reads `log`, the filter of log lines.
fn log_levels(root: &Table<'_>, text: Placed<&str>) -> Targets {
    log_filter::parse(text.value).unwrap_or_else(|error| {
        let help =
            "write a level (`off`, `error`, `warn`, `info`, `debug`, `trace`), or `TARGET=LEVEL` with commas between";
        root.error(text.span, format!("`log`: {error}"), Some(help.to_owned()));
        log_filter::default()
    })
}

/// Reads a duration in whole seconds.
fn seconds(table: &mut Table<'_>, key: &'static str, range: std::ops::RangeInclusive<u64>, default: u64) -> Duration {
    Duration::from_secs(table.integer(key, range).map_or(default, |seconds| seconds.value))
}

/// Reads `devbox_suffix`.
fn suffix(root: &Table<'_>, text: Placed<&str>) -> DevboxSuffix {
    match pattern::hostname(text.value) {
        Ok(name) => return DevboxSuffix::new(name),
        Err((why, help)) => {
            let message = format!("`devbox_suffix`: `{}`: {why}", text.value.escape_debug());
            root.error(text.span, message, Some(help));
        }
    }
    DevboxSuffix::default()
}

/// Makes a reference to a policy, with the place of the reference in the file.
fn reference(table: &Table<'_>, id: Placed<&str>) -> Binding {
    Binding { policy: id.value.into(), written: Some((table.source().clone(), id.span)) }
}

/// Returns the place at which a span begins.
fn place(table: &Table<'_>, span: Span) -> Place {
    let (line, column) = table.locate(span);
    table.source().at(line, column)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Parses a configuration and returns its errors, each as one line.
    fn complaints(text: &str) -> Vec<String> {
        let parsed = Config::parse(Path::new("h.toml"), text);
        parsed.err().unwrap_or_default().iter().map(ToString::to_string).collect()
    }

    #[test]
    fn template_states_the_defaults() {
        let text = include_str!("../../systemd/hostgate.toml");
        // A key that is commented out with `#: ` has its default as value.
        let keys: String =
            text.lines().map(|line| line.strip_prefix("#: ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
        let parsed = Config::parse(Path::new("/etc/hostgate/hostgate.toml"), keys).unwrap();
        let plain = Config::parse(Path::new("/etc/hostgate/hostgate.toml"), text).unwrap();
        assert_eq!(format!("{parsed:?}"), format!("{plain:?}"));
        let default = Config::default_in(Path::new("/etc/hostgate"));
        let plain = Config { listen: default.listen.clone(), decisions: None, control: None, ..plain };
        assert_eq!(format!("{plain:?}"), format!("{default:?}"));
    }

    #[test]
    fn all_errors_are_reported_at_once_with_their_places() {
        let text = "polices = 'p'\nlist_directories = ['/', '/proc/self', 'l']\ndenied_ttl = -1\nlog = '=,='\ndevbox_suffix = '*.box'\n\
                    [[listen]]\naddress = 'tls://192.0.2.1'\n[[listen]]\n\
                    [upstream]\nservers = ['https://dns.example/q', 'x']\n[admin]\nlisten = '0.0.0.0:9153'\n[cache]\nsize = 1\n";
        let message = complaints(text).join("\n");
        for expected in [
            "h.toml:1:1: unknown key `polices`: did you mean `policies`?",
            "h.toml:2:21: `list_directories`: `/` names no directory for lists",
            "h.toml:2:26: `list_directories`: `/proc/self` is in a tree of the kernel: nothing below /proc",
            "h.toml:3:14: `denied_ttl` is out of range: write a number from 0 to 86400",
            "h.toml:4:7: `log`: `=`: no target before `=`: write a level",
            "h.toml:5:17: `devbox_suffix`: `*.box`: a hostname cannot hold `*`: use letters",
            "h.toml:7:11: `listen`: `tls://192.0.2.1` is not an address and port: `tls://` listeners are not in this version",
            "h.toml:8:1: `listen`: missing key `address`",
            "h.toml:10:12: `https://dns.example/q`: encrypted upstreams are not in this version",
            "h.toml:10:37: `x`: not an address",
            "h.toml:12:10: `admin.listen`: `0.0.0.0:9153` is not a loopback address",
            "h.toml:14:1: `cache`: unknown key `size`",
        ] {
            assert!(message.contains(expected), "{expected}\nnot in\n{message}");
        }
    }

    #[test]
    fn relative_paths_are_below_the_directory_of_the_file() {
        let text = "policies = 'p'\n[decisions]\npath = '/var/log/d'\n[upstream]\nresolv_conf = 'r'\n";
        let config = Config::parse(Path::new("/etc/hostgate/h.toml"), text).unwrap();
        assert_eq!(config.policies, Path::new("/etc/hostgate/p"));
        assert_eq!(config.decisions.as_deref(), Some(Path::new("/var/log/d")));
        assert_eq!(config.upstream.servers, Servers::System("/etc/hostgate/r".into()));
    }
}
