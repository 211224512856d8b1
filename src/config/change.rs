//! What a reload of `hostgate.toml` can take over and what needs a restart.

use super::Config;

/// Returns the keys that differ and need a restart; what a reload takes anew is not among them.
///
/// A reload takes `default_policy`, the listeners' policies, `denied_ttl`, `[upstream]` and `log`.
#[must_use]
pub fn changed_keys(old: &Config, new: &Config) -> Vec<&'static str> {
    // Exhaustive, so that a new key does not compile until it is decided here.
    let Config {
        policies,
        default_policy: _,
        denied_ttl: _,
        threads,
        log: _,
        listen,
        upstream: _,
        cache,
        decisions,
        admin,
    } = new;
    let addresses = |config: &Config| config.listen.iter().map(|listen| listen.address).collect::<Vec<_>>();
    let same_addresses = addresses(old) == listen.iter().map(|listen| listen.address).collect::<Vec<_>>();
    [
        ("policies", old.policies == *policies),
        ("threads", old.threads == *threads),
        ("listen.address", same_addresses),
        ("cache", old.cache == *cache),
        ("decisions.path", old.decisions == *decisions),
        ("admin.listen", old.admin == *admin),
    ]
    .into_iter()
    .filter_map(|(key, same)| (!same).then_some(key))
    .collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn only_what_needs_a_restart_is_named() {
        let read = |text: &str| Config::parse(Path::new("h.toml"), text).unwrap();
        let old = read("[[listen]]\naddress = '127.0.0.1:53'");
        let new = read(
            "default_policy = 'p'\ndenied_ttl = 9\nlog = 'warn'\n[[listen]]\naddress = '127.0.0.1:53'\npolicy = 'p'\n\
             [upstream]\nservers = ['192.0.2.1']\n[admin]\nlisten = 'off'",
        );
        assert_eq!(changed_keys(&old, &new), ["admin.listen"]);
        assert_eq!(changed_keys(&old, &read("[[listen]]\naddress = '127.0.0.1:54'")), ["listen.address"]);
    }
}
