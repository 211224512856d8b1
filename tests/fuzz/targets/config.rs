//! Single texts: hostgate.toml, a pattern, a hostname, a name as people write it, an upstream.

use std::collections::BTreeMap;
use std::path::Path;

use hostgate::config::Config;
use hostgate::dns::name::LowerName;
use hostgate::policy::matching::pattern::{Pattern, hostname};
use hostgate::upstream::Server;

use super::places;

/// Reads `data`, as far as it is a text, as each of them.
///
/// # Panics
/// When what is read, or what is said about it, is not what it has to be.
pub fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    check_config(&text);
    // The shorter ones are lines, so that one input can hold many.
    for line in text.lines().take(50) {
        check_pattern(line);
        check_name(line);
        if let Ok(server) = line.parse::<Server>() {
            let shown = server.to_string();
            assert_eq!(shown.parse::<Server>().ok(), Some(server), "{shown}");
        }
    }
}

/// Reads a text as hostgate.toml.
fn check_config(text: &str) {
    let path = Path::new("etc/hostgate.toml");
    match Config::parse(path, text) {
        Ok(config) => assert!(!config.listen.is_empty()),
        Err(diagnostics) => {
            assert!(diagnostics.iter().any(hostgate::document::Diagnostic::is_error));
            places::check(&diagnostics, &[BTreeMap::from([(path.to_owned(), text.to_owned())])]);
        }
    }
}

/// Reads a line as a pattern.
fn check_pattern(line: &str) {
    match Pattern::parse(line) {
        Err(error) => {
            let message = error.to_string();
            assert!(!message.contains(char::is_control) && !error.help.is_empty(), "{message:?}");
            // A mend that can be copied has to be right.
            if let Some(mend) = error.help.strip_prefix("write `").and_then(|rest| rest.split('`').next()) {
                assert!(!mend.contains('.') || Pattern::parse(mend).is_ok(), "{message}: {}", error.help);
            }
        }
        Ok(pattern) => {
            let canonical = pattern.to_string();
            assert_eq!(Pattern::parse(&canonical).as_ref(), Ok(&pattern), "{line:?}: {canonical}");
            let ascii = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.*".contains(&byte);
            assert!(canonical.bytes().all(ascii), "{canonical:?}");
            let is_exact = matches!(pattern, Pattern::Exact(_));
            assert_eq!(pattern.matches(pattern.name()), is_exact);
            let below = [b"\x01x", pattern.name().as_wire()].concat();
            if let Ok((below, _)) = LowerName::from_uncompressed(&below) {
                assert_eq!(pattern.matches(&below), !is_exact);
            }
        }
    }
}

/// Reads a line as a name and as a hostname.
fn check_name(line: &str) {
    if let Ok(name) = LowerName::from_text(line) {
        let shown = name.to_string();
        assert_eq!(LowerName::from_text(&shown).as_ref(), Ok(&name), "{line:?}: {shown}");
        assert_eq!(LowerName::from_uncompressed(name.as_wire()).ok().map(|(name, _)| name), Some(name));
    }
    if let Ok(name) = hostname(line) {
        assert_eq!(hostname(&name.to_string()).as_ref(), Ok(&name), "{line:?}");
    }
}
