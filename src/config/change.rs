//! The changes of `hostgate.toml`, sorted into those that a reload applies and those that need a restart.

use std::net::SocketAddr;

use super::{Config, Listen};

/// Returns the configuration that a reload puts into force: `new`, with the values of `running` for all keys that need
/// a restart.
///
/// The listeners stay those of `running`. The new policy of each is found by its address, whatever the order of the
/// tables. A listener whose table was removed keeps its policy, as removing it needs a restart.
#[must_use]
pub fn with_restart_keys_of(running: &Config, new: &Config) -> Config {
    let mut tables: Vec<&Listen> = new.listen.iter().collect();
    let listen = running.listen.iter().map(|bound| {
        // Several tables may have the same address with port 0. They are matched in their order.
        let found = tables.iter().position(|table| table.address == bound.address);
        let policy = found.map_or(&bound.policy, |index| &tables.remove(index).policy);
        Listen { address: bound.address, policy: policy.clone() }
    });
    let Config { policies, threads, takeover, cache, decisions, admin, admin_instead, control, .. } = running.clone();
    let listen = listen.collect();
    Config { policies, threads, takeover, listen, cache, decisions, admin, admin_instead, control, ..new.clone() }
}

/// Returns the keys that differ and need a restart.
///
/// A reload applies `list_directories`, `default_policy`, `without_policy`, the listeners' policies, `denied_ttl`,
/// `devbox_suffix`, `start_from_last_good`, `[upstream]` and `log`, so these are never returned.
#[must_use]
pub fn changed_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    // Destructured exhaustively, so that a new key does not compile until it is sorted here. `list_places`,
    // `admin_instead` and `accepts` are no keys.
    let Config {
        policies,
        list_directories: _,
        list_places: _,
        default_policy: _,
        without_policy: _,
        denied_ttl: _,
        devbox_suffix: _,
        threads,
        log: _,
        takeover,
        listen,
        upstream: _,
        cache,
        decisions,
        admin,
        admin_instead: _,
        control,
        accepts: _,
        start_from_last_good: _,
    } = new;
    let addresses = |listen: &[Listen]| {
        let mut addresses: Vec<_> = listen.iter().map(|listen| listen.address).collect();
        addresses.sort_unstable();
        addresses
    };
    let same_addresses = addresses(&old.listen) == addresses(listen);
    [
        ("policies", old.policies == *policies),
        ("threads", old.threads == *threads),
        ("takeover", old.takeover == *takeover),
        ("listen.address", same_addresses),
        ("cache", old.cache == *cache),
        ("decisions.path", old.decisions == *decisions),
        ("admin.listen", old.admin == *admin),
        ("control", old.control == *control),
    ]
    .into_iter()
    .filter_map(|(key, same)| (!same).then_some(key))
    .collect()
}

/// Returns the addresses among `served` that no listener in `new` answers at.
#[must_use]
pub fn unlisted(served: &[SocketAddr], new: &Config) -> Vec<SocketAddr> {
    let is_listed = |address: &SocketAddr| new.listen.iter().any(|listen| covers(listen.address, *address));
    served.iter().filter(|address| !is_listed(address)).copied().collect()
}

/// Returns whether a listener at `listener` answers at `address` too.
#[must_use]
pub fn covers(listener: SocketAddr, address: SocketAddr) -> bool {
    let has_port = listener.port() == address.port() || listener.port() == 0;
    let is_any = listener.ip().is_unspecified() && listener.is_ipv4() == address.is_ipv4();
    has_port && (listener.ip() == address.ip() || is_any)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn listener_keeps_its_policy_whatever_the_order_of_tables() {
        let read = |text: &str| Config::parse(Path::new("h.toml"), text).unwrap();
        let table =
            |port: u16, policy: &str| format!("[[listen]]\naddress = '127.0.0.1:{port}'\npolicy = '{policy}'\n");
        let running = read(&(table(1, "shut") + &table(2, "open")));
        let policies = |new: &Config| {
            let adopted = with_restart_keys_of(&running, new);
            let policy = |listen: &Listen| (listen.address.port(), listen.policy.as_ref().unwrap().policy.to_string());
            adopted.listen.iter().map(policy).collect::<Vec<_>>()
        };
        let kept = [(1, "shut".to_owned()), (2, "open".to_owned())];
        for (case, text) in [
            ("swapped", table(2, "open") + &table(1, "shut")),
            ("one before", table(3, "new") + &table(1, "shut") + &table(2, "open")),
            ("one gone", table(2, "open")),
        ] {
            assert_eq!(policies(&read(&text)), kept, "{case}");
        }
        let changed = read(&(table(2, "open") + &table(1, "other")));
        assert_eq!(policies(&changed), [(1, "other".to_owned()), (2, "open".to_owned())]);
        assert!(changed_keys(&running, &changed).is_empty());
    }

    #[test]
    fn only_keys_that_need_a_restart_are_returned() {
        let read = |text: &str| Config::parse(Path::new("h.toml"), text).unwrap();
        let old = read("[[listen]]\naddress = '127.0.0.1:53'");
        let new = read(
            "default_policy = 'p'\ndenied_ttl = 9\ndevbox_suffix = 'box'\nlog = 'warn'\n[[listen]]\naddress = '127.0.0.1:53'\npolicy = 'p'\n\
             [upstream]\nservers = ['192.0.2.1']\n[admin]\nlisten = 'off'",
        );
        assert_eq!(changed_keys(&old, &new), ["admin.listen"]);
        assert_eq!(changed_keys(&old, &read("[[listen]]\naddress = '127.0.0.1:54'")), ["listen.address"]);
        let lost = |text: &str| unlisted(&["127.0.0.1:53".parse().unwrap()], &read(text)).len();
        for kept in ["127.0.0.1:53", "0.0.0.0:53", "127.0.0.1:0"] {
            assert_eq!(lost(&format!("[[listen]]\naddress = '{kept}'")), 0, "{kept}");
        }
        for other in ["# none", "[[listen]]\naddress = '127.0.0.1:54'", "[[listen]]\naddress = '[::]:53'"] {
            assert_eq!(lost(other), 1, "{other}");
        }
    }
}
