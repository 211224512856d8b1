//! The filter of log lines: the key `log` of `hostgate.toml`, a list of targets with their levels.
//!
//! `EnvFilter` of `tracing-subscriber` also selects by spans and by the values of fields. hostgate has no spans, and
//! the regular expressions that `EnvFilter` needs took 14 s to build (2026-11-30).

use tracing_subscriber::filter::{LevelFilter, Targets};

/// Returns the filter to use without the key: `info`.
pub(crate) fn default() -> Targets {
    beside_h2().with_default(LevelFilter::INFO)
}

/// Parses a filter: entries `LEVEL` or `TARGET=LEVEL`, separated by commas. A target includes those below it; the
/// longest target that matches a line counts.
///
/// # Errors
///
/// The first entry that is not valid.
pub(crate) fn parse(text: &str) -> Result<Targets, Error> {
    let mut filter = beside_h2();
    let mut entries = text.split(',').map(str::trim).filter(|entry| !entry.is_empty()).peekable();
    if entries.peek().is_none() {
        return Err(Error::Empty);
    }
    for entry in entries {
        filter = match entry.split_once('=') {
            None => filter.with_default(level(entry)?),
            Some((target, written)) => match target.trim() {
                "" => return Err(Error::NoTarget(entry.to_owned())),
                target => filter.with_target(target, level(written.trim())?),
            },
        };
    }
    Ok(filter)
}

/// Returns a filter that turns h2 off unless an entry names that target. It logs a warning for a single bad frame, so
/// clients of the API could fill the log.
fn beside_h2() -> Targets {
    Targets::new().with_target("h2", LevelFilter::OFF)
}

/// Parses the name of a level in upper or lower case.
fn level(name: &str) -> Result<LevelFilter, Error> {
    const LEVELS: [LevelFilter; 6] = [
        LevelFilter::OFF,
        LevelFilter::ERROR,
        LevelFilter::WARN,
        LevelFilter::INFO,
        LevelFilter::DEBUG,
        LevelFilter::TRACE,
    ];
    let found = LEVELS.into_iter().find(|level| level.to_string().eq_ignore_ascii_case(name));
    found.ok_or_else(|| Error::UnknownLevel(name.to_owned()))
}

/// The error of a text that is not a filter.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The text has no entry.
    #[error("no level")]
    Empty,
    /// An entry is `=LEVEL`.
    #[error("`{}`: no target before `=`", .0.escape_debug())]
    NoTarget(String),
    #[error("unknown level `{}`", .0.escape_debug())]
    UnknownLevel(String),
}

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn the_longest_target_decides_and_h2_is_left_out_unless_named() {
        const CASES: [(&str, &str, Level, bool); 14] = [
            ("info", "hostgate::reload", Level::INFO, true),
            ("info", "hostgate::reload", Level::DEBUG, false),
            ("INFO", "rustls", Level::INFO, true),
            ("off", "hostgate", Level::ERROR, false),
            ("warn,hostgate::reload=debug", "hostgate::reload::watch", Level::DEBUG, true),
            ("hostgate::reload=debug, warn", "hostgate::listen", Level::INFO, false),
            (" warn , hostgate = trace ,", "hostgate::listen", Level::TRACE, true),
            ("trace,hostgate=debug,hostgate::listen=error", "hostgate::listen::udp", Level::WARN, false),
            ("hostgate=info", "rustls", Level::ERROR, false),
            ("info,warn", "hostgate", Level::INFO, false),
            ("trace", "h2::proto", Level::ERROR, false),
            ("trace,h2=warn", "h2::proto", Level::WARN, true),
            ("h2=debug", "h2::proto", Level::DEBUG, true),
            ("info,h2::proto=debug", "h2::proto::streams", Level::DEBUG, true),
        ];
        for (text, target, level, expected) in CASES {
            let filter = parse(text).unwrap();
            assert_eq!(filter.would_enable(target, &level), expected, "{text}: {target} {level}");
        }
    }

    #[test]
    fn default_is_info() {
        assert_eq!(default(), parse("info").unwrap());
    }

    #[test]
    fn invalid_filter_is_refused_naming_its_entry() {
        const CASES: [(&str, &str); 8] = [
            ("", "no level"),
            (" , ", "no level"),
            ("inof", "unknown level `inof`"),
            ("info,hostgate::reload", "unknown level `hostgate::reload`"),
            ("hostgate=", "unknown level ``"),
            ("hostgate=3", "unknown level `3`"),
            ("=info", "`=info`: no target before `=`"),
            ("a=b=info", "unknown level `b=info`"),
        ];
        for (text, expected) in CASES {
            assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
        }
    }
}
