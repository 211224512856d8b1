//! Lookup of a client by address, id or the name of a devbox, as `--client` of `explain` and `show` takes them.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::document::{closest, quoted};
use crate::policy::{Asker, Client, Snapshot};

/// The number of clients that an error message lists.
const NAMED: usize = 10;

/// Returns the asker for `text` (an address, the id of a client, or else the name of a devbox) at a listener, and the
/// address or prefix that it asks from.
///
/// # Errors
/// No client matches, or several devboxes have this name.
pub(super) fn asker<'s>(snapshot: &'s Snapshot, text: &str, listener: usize) -> Result<(Asker<'s>, String), String> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok((snapshot.asker(address, listener), address.to_string()));
    }
    let client = match snapshot.client(text) {
        Some(client) => client,
        None => named(snapshot, text)?,
    };
    let source = client.sources().next().map_or_else(String::new, |source| written(&source));
    Ok((client.asker(), source))
}

/// Returns the client with this name in the API.
///
/// # Errors
/// No client has the name, or several have it.
fn named<'s>(snapshot: &'s Snapshot, name: &str) -> Result<&'s Client, String> {
    let has_name = |client: &&Client| snapshot.record(client.id()).is_some_and(|record| record.name() == name);
    let found: Vec<&Client> = snapshot.clients().filter(has_name).take(NAMED + 1).collect();
    let ids = |clients: &[&Client]| {
        let more = if clients.len() > NAMED { " and more" } else { "" };
        let ids: Vec<&str> = clients.iter().take(NAMED).map(|client| client.id()).collect();
        ids.join(", ") + more
    };
    match &*found {
        [client] => Ok(client),
        [] => {
            let near = closest(name, snapshot.clients().map(Client::id));
            let first: Vec<&Client> = snapshot.clients().take(NAMED + 1).collect();
            let help = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None if first.is_empty() => "there are no clients".to_owned(),
                None => format!("there are {}", ids(&first)),
            };
            Err(format!("{} is not an address, and not the id or name of a client ({help})", quoted(name)))
        }
        several => Err(format!("{} is the name of more than one client: {}: write the id", quoted(name), ids(several))),
    }
}

/// Formats a prefix; that of a single address without its length.
fn written(source: &IpNet) -> String {
    if source.prefix_len() == source.max_prefix_len() { source.addr().to_string() } else { source.to_string() }
}
