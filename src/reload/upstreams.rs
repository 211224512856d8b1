//! The choice of upstreams: the servers of the configuration, or those of the system's resolv.conf as it is now.
//!
//! A listener of hostgate itself is never an upstream, as queries would loop: in the configuration it is an error,
//! in resolv.conf (which other programs write) a line that is skipped.

use std::net::SocketAddr;
use std::path::Path;

use super::files::Text;
use crate::config::{Config, Servers, Upstream};
use crate::document::{Diagnostic, Place, Severity};
use crate::upstream::local_address::is_local;
use crate::upstream::system::nameservers;
use crate::upstream::{Server, Settings};

/// The choice of upstream servers, with the errors of the list that it was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Chosen {
    /// The servers; empty if there is none.
    pub(crate) servers: Vec<Server>,
    /// The timeouts and other settings of queries to them.
    settings: Settings,
    /// The reason for which the list gives no server; `None` if it gives one.
    pub(crate) error: Option<String>,
    /// The lines of resolv.conf that were skipped, each with the reason.
    pub(crate) skipped: Vec<String>,
}

impl Chosen {
    /// Returns the settings of queries to the servers.
    pub(crate) fn settings(&self) -> Settings {
        self.settings
    }

    /// Returns the choice with the servers of `last` if it has none itself.
    ///
    /// A resolv.conf is empty, missing or incomplete for a moment while a network is set up again; queries go on to the
    /// last servers meanwhile. The error stays, and says so.
    pub(crate) fn or_last(mut self, last: &Self) -> Self {
        if let Some(error) = self.error.as_mut().filter(|_| self.servers.is_empty() && !last.servers.is_empty()) {
            self.servers.clone_from(&last.servers);
            *error = format!("{error}; the last ones stay in use until then: {}", last.describe());
        }
        self
    }

    /// Returns whether the servers are those of an earlier choice, as the list gives none any more.
    pub(super) fn are_last(&self) -> bool {
        self.error.is_some() && !self.servers.is_empty()
    }

    /// Returns the servers as text, for log and status.
    pub(crate) fn describe(&self) -> String {
        if self.servers.is_empty() {
            return "none".to_owned();
        }
        self.servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }
}

/// Returns the choice of upstreams; none is one of hostgate's own listeners, as queries would loop.
///
/// # Errors
/// A configured server is one of hostgate's own listeners. Such a line of resolv.conf is skipped instead.
pub(crate) fn choose(
    upstream: &Upstream,
    listeners: &[SocketAddr],
    read: &mut dyn FnMut(&Path) -> Text,
) -> Result<Chosen, Vec<Diagnostic>> {
    let Upstream { servers: _, timeout, case_randomisation, reach } = *upstream;
    let settings = Settings { timeout, case_randomisation, reach, ..Settings::default() };
    match &upstream.servers {
        Servers::Listed(servers) => {
            let errors = circular(servers, listeners);
            if !errors.is_empty() {
                return Err(errors);
            }
            let servers = servers.iter().map(|(server, _)| *server).collect();
            Ok(Chosen { servers, settings, error: None, skipped: Vec::new() })
        }
        Servers::System(path) => Ok(system(path, listeners, settings, read)),
    }
}

/// Returns an error for each configured server that is one of the configured listeners, before anything is bound.
pub(crate) fn circular_in(config: &Config) -> Vec<Diagnostic> {
    let listeners: Vec<_> = config.listen.iter().map(|listen| listen.address).collect();
    match &config.upstream.servers {
        Servers::Listed(servers) => circular(servers, &listeners),
        Servers::System(_) => Vec::new(),
    }
}

/// Returns whether a server is one of hostgate's own listeners.
fn is_own(server: &Server, listeners: &[SocketAddr]) -> bool {
    server.is_own(listeners, |ip| is_local(ip) == Some(true))
}

/// Returns an error for each server that is one of hostgate's own listeners.
fn circular(servers: &[(Server, Place)], listeners: &[SocketAddr]) -> Vec<Diagnostic> {
    let own = servers.iter().filter(|(server, _)| is_own(server, listeners));
    own.map(|(server, place)| Diagnostic {
        code: None,
        reason: None,
        severity: Severity::Error,
        place: place.clone(),
        message: format!("`{server}` is hostgate's own listener: it would ask itself in a circle"),
        help: Some("name the resolver that stands behind hostgate".to_owned()),
        related: Vec::new(),
        excerpt: None,
        unquoted: None,
    })
    .collect()
}

/// Returns the choice of the nameservers of a resolv.conf.
fn system(path: &Path, listeners: &[SocketAddr], settings: Settings, read: &mut dyn FnMut(&Path) -> Text) -> Chosen {
    let shown = path.display();
    let text = match read(path) {
        Ok(text) => text,
        Err(reason) => {
            let error = format!("{shown}: {reason} (set `servers` under [upstream], or fix the file)");
            return Chosen { servers: Vec::new(), settings, error: Some(error), skipped: Vec::new() };
        }
    };
    let found = nameservers(text.as_bytes());
    let mut skipped: Vec<String> =
        found.skipped.iter().map(|skipped| format!("{shown}:{}: {}", skipped.line, skipped.reason)).collect();
    let (own, servers): (Vec<_>, Vec<_>) = found.servers.into_iter().partition(|server| is_own(server, listeners));
    skipped.extend(own.iter().map(|server| format!("{shown}: `{server}` is hostgate's own listener")));
    let error = servers.is_empty().then(|| {
        let why = if skipped.is_empty() { String::new() } else { format!(" ({})", skipped.join("; ")) };
        format!("{shown}: no nameserver to ask{why}; set `servers` under [upstream], or fix the file")
    });
    Chosen { servers, settings, error, skipped }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::PathBuf;
    use std::sync::Arc;
    use std::time::Duration;

    use crate::dns::rebinding::Reach;

    /// Returns the choice from a resolv.conf with this text.
    fn from_text(text: &Text) -> Chosen {
        let servers = Servers::System(PathBuf::from("resolv.conf"));
        let upstream =
            Upstream { servers, timeout: Duration::from_secs(2), case_randomisation: true, reach: Reach::default() };
        let own = ["127.0.0.1:53".parse().unwrap()];
        choose(&upstream, &own, &mut |_| text.clone()).unwrap()
    }

    #[test]
    fn resolv_conf_without_nameserver_gives_an_error_and_keeps_the_last_servers() {
        for (text, expected) in [
            (Ok(""), "resolv.conf: no nameserver to ask; set"),
            (Ok("search example\n"), "resolv.conf: no nameserver to ask; set"),
            (Ok("nameserver 127.0.0.1\n"), "(resolv.conf: `127.0.0.1:53` is hostgate's own listener)"),
            (Err("there is no such file"), "resolv.conf: there is no such file (set"),
        ] {
            let chosen = from_text(&text.map(Arc::from).map_err(str::to_owned));
            assert!(chosen.servers.is_empty(), "{text:?}");
            assert!(chosen.error.as_ref().unwrap().contains(expected), "{text:?}: {chosen:?}");
        }
        let chosen = from_text(&Ok("nameserver 127.0.0.1\nnameserver 192.0.2.1\n".into()));
        assert_eq!((chosen.describe().as_str(), &chosen.error), ("192.0.2.1:53", &None));
        for text in [Ok(""), Ok("nameserver 127.0.0.1\n"), Err("there is no such file")] {
            let last = from_text(&text.map(Arc::from).map_err(str::to_owned)).or_last(&chosen);
            assert_eq!(last.servers, chosen.servers, "{text:?}");
            assert!(last.error.clone().unwrap().ends_with("; the last ones stay in use until then: 192.0.2.1:53"));
            assert_eq!(last.clone().or_last(&chosen), last, "said once");
        }
    }

    #[test]
    fn upstream_that_is_an_own_listener_is_refused_also_on_a_wildcard_address() {
        let source = crate::document::Source::new(Path::new("h.toml"), "");
        let listed = |address: &str| Upstream {
            servers: Servers::Listed(vec![(address.parse().unwrap(), source.at(1, 1))]),
            timeout: Duration::from_secs(2),
            case_randomisation: true,
            reach: Reach::default(),
        };
        let own = ["0.0.0.0:1053".parse().unwrap()];
        assert!(choose(&listed("127.0.0.5:1053"), &own, &mut |_| unreachable!()).is_err());
        assert!(choose(&listed("127.0.0.5:1054"), &own, &mut |_| unreachable!()).is_ok());
        assert!(choose(&listed("203.0.113.77:1053"), &own, &mut |_| unreachable!()).is_ok());
    }
}
